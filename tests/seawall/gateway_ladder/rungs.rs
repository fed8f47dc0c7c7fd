//! What each rung answers and says of itself.

use seawall::sim::{Fault, FaultKind};
use serde_json::json;

use super::provider::{Provider, State};
use super::{LADDER, ask, asking, send, until};
use crate::process::{Gateway, instant, sim};

#[tokio::test]
async fn every_kind_of_rung_answers_with_its_marks_in_either_form() {
    for stream in [false, true] {
        let (address, sim) = sim(instant(Vec::new())).await;
        let gateway = Gateway::start(address, LADDER);
        let known = asking("What holds the sea back?", stream);

        let first = send(ask(&gateway, &known)).await;
        let (model, said) = first.message();
        assert_eq!(model, "claude-sonnet-5-5");
        assert_eq!(first.header("x-seawall-rung"), "sonnet");
        for mark in ["degraded", "cause", "model", "skipped", "lost", "cache"] {
            assert_eq!(first.header(&format!("x-seawall-{mark}")), "", "{mark}");
        }

        let overloaded = Fault::new(FaultKind::Overloaded);
        sim.set_faults(vec![overloaded.clone().on_model("claude-sonnet")])
            .unwrap();
        let smaller = send(ask(&gateway, &asking("How high is it?", stream))).await;
        assert_eq!(smaller.message().0, "claude-haiku-5-5");
        assert_eq!(smaller.header("x-seawall-rung"), "haiku");
        assert_eq!(smaller.header("x-seawall-degraded"), "model");
        assert_eq!(smaller.header("x-seawall-model"), "claude-haiku-5-5");
        assert_eq!(smaller.header("x-seawall-cause"), "overloaded");

        sim.set_faults(vec![overloaded]).unwrap();
        let cached = send(ask(&gateway, &known)).await;
        assert_eq!(cached.message(), ("claude-sonnet-5-5".to_owned(), said));
        assert_eq!(cached.header("x-seawall-rung"), "cache");
        assert!(cached.header("x-seawall-cache").starts_with("hit; age="));
        assert_eq!(cached.header("x-seawall-degraded"), "");

        let fixed = send(ask(&gateway, &asking("Why?", stream))).await;
        let (model, said) = fixed.message();
        assert_eq!(model, "static");
        assert!(said.starts_with("The assistant is away; it is back in "));
        assert_eq!(fixed.header("x-seawall-rung"), "static");
        assert_eq!(fixed.header("x-seawall-degraded"), "static");

        let metrics = gateway.get("/_seawall/metrics").await;
        for kind in ["model", "static"] {
            let counted = metrics.lines().any(|line| {
                line.starts_with("seawall_degraded_total{")
                    && line.contains(&format!("\"{kind}\""))
                    && line.ends_with(" 1")
            });
            assert!(counted, "{kind}: {metrics}");
        }
        gateway.idle().await;
    }
}

#[tokio::test]
async fn who_forbids_falling_gets_the_first_rungs_own_error() {
    let fault = Fault::new(FaultKind::Overloaded).on_model("claude-sonnet");
    let (address, sim) = sim(instant(vec![fault])).await;
    let gateway = Gateway::start(address, LADDER);
    for stream in [false, true] {
        let body = asking("Who may not fall?", stream);
        let post = ask(&gateway, &body).header("x-seawall-fallback", "never");
        let got = send(post).await;
        assert_eq!(got.status, 529, "{got:?}");
        assert_eq!(got.header("x-seawall-rung"), "sonnet");
        assert_eq!(got.header("x-seawall-degraded"), "");
    }
    let models = sim.stats().models;
    assert!(!models.contains_key("claude-haiku-5-5"), "{models:?}");
}

#[tokio::test]
async fn a_rung_that_cannot_carry_a_request_is_skipped_with_its_reason() {
    let fault = Fault::new(FaultKind::Overloaded).on_model("claude-sonnet");
    let (address, sim) = sim(instant(vec![fault])).await;
    let config = LADDER.replace(
        "model = \"claude-haiku-5-5\"",
        "model = \"claude-haiku-5-5\"\ncannot = [\"tools\"]",
    );
    let gateway = Gateway::start(address, &config);
    let mut body = asking("Which tide is it?", false);
    body["tools"] = json!([{ "name": "tide", "input_schema": { "type": "object" } }]);
    let got = send(ask(&gateway, &body)).await;
    assert_eq!(got.message().0, "static");
    let skipped = got.header("x-seawall-skipped");
    assert!(
        skipped.contains("haiku") && skipped.contains("tools"),
        "{skipped}"
    );
    until("logged", async || gateway.log().contains(skipped)).await;
    let models = sim.stats().models;
    assert!(!models.contains_key("claude-haiku-5-5"), "{models:?}");
}

#[tokio::test]
async fn what_a_request_may_lose_is_taken_from_it_and_named() {
    let provider = Provider::start(State::Healthy).await;
    let config = "[targets.up]\ncannot = [\"thinking\"]\n\
                  [routes.default]\nladder = [\"up\"]\nlossy = [\"thinking\"]\n";
    let gateway = Gateway::start(provider.address, config);
    let mut body = asking("What are you thinking of?", false);
    body["max_tokens"] = 4_096.into();
    body["thinking"] = json!({ "type": "enabled", "budget_tokens": 1_024 });
    let got = send(ask(&gateway, &body)).await;
    assert_eq!(got.status, 200, "{got:?}");
    assert_eq!(got.header("x-seawall-lost"), "thinking");
    let asked = provider.asked();
    assert_eq!(asked.len(), 1);
    body.as_object_mut().unwrap().remove("thinking");
    assert_eq!(asked[0], body);
}

/// Two models and nothing else.
const MODELS: &str = r#"
[targets.sonnet]
model = "claude-sonnet-5-5"
[targets.haiku]
model = "claude-haiku-5-5"
[routes.default]
ladder = ["sonnet", "haiku"]
retry = { attempts = 2, base = "1ms" }
hedge = { on = "next", after = "100ms", budget = 0.2 }
"#;

#[tokio::test]
async fn an_error_after_every_rung_is_no_degraded_answer() {
    // One is the provider's own, the other seawall's.
    for (kind, status) in [
        (FaultKind::Overloaded, 529),
        (FaultKind::ResetBeforeHeaders, 502),
    ] {
        let (address, _) = sim(instant(vec![Fault::new(kind)])).await;
        let gateway = Gateway::start(address, MODELS);
        for stream in [false, true] {
            let got = send(ask(&gateway, &asking("Is anybody there?", stream))).await;
            assert_eq!(got.status, status, "{got:?}");
            assert_eq!(got.header("x-seawall-rung"), "haiku");
            assert_eq!(got.header("x-seawall-attempts"), "2");
            for mark in ["degraded", "cause", "model"] {
                assert_eq!(got.header(&format!("x-seawall-{mark}")), "", "{mark}");
            }
        }
        let metrics = gateway.get("/_seawall/metrics").await;
        assert!(!metrics.contains("seawall_degraded_total{"), "{metrics}");
    }
}

#[tokio::test]
async fn a_hedge_that_won_on_the_next_rung_is_the_cause() {
    let (address, sim) = sim(instant(Vec::new())).await;
    let gateway = Gateway::start(address, MODELS);
    // Hedges are saved up for.
    for n in 0..20 {
        let got = send(ask(&gateway, &asking(&format!("What is {n}?"), true))).await;
        assert_eq!(got.header("x-seawall-rung"), "sonnet");
    }
    let silent = Fault::new(FaultKind::StallBeforeContent).on_model("claude-sonnet");
    sim.set_faults(vec![silent]).unwrap();
    let got = send(ask(&gateway, &asking("Who is faster?", true))).await;
    assert_eq!(got.message().0, "claude-haiku-5-5");
    assert_eq!(got.header("x-seawall-degraded"), "model");
    assert_eq!(got.header("x-seawall-cause"), "hedge");
    until("logged", async || gateway.log().contains("cause=\"hedge\"")).await;
    let metrics = gateway.get("/_seawall/metrics").await;
    let counted = |line: &str| {
        line.starts_with("seawall_degraded_total{") && line.contains("cause=\"hedge\"")
    };
    assert!(metrics.lines().any(counted), "{metrics}");
}
