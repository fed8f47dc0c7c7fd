//! Who is billed for what when an answer took more than one attempt.

use seawall::sim::{Fault, FaultKind, Sim};
use serde_json::{Value, json};

use super::rig::{SEEDS, TOKENS, events_of, undisturbed};
use super::row::{FALLBACK, WANTED, request};
use super::sockets::Served;
use crate::leaving::metric;
use crate::stream_faults::until;

/// The tokens that are counted for a model: input and output.
fn tokens(metrics: &str, model: &str, usage: &str) -> (u64, u64) {
    let (model, usage) = (format!("model=\"{model}\""), format!("usage=\"{usage}\""));
    let count = |kind| metric(metrics, "seawall_tokens_total", &[&model, &usage, kind]);
    (count("kind=\"input\""), count("kind=\"output\""))
}

fn attempts(metrics: &str, target: &str, verdict: &str) -> u64 {
    let (target, verdict) = (
        format!("target=\"{target}\""),
        format!("verdict=\"{verdict}\""),
    );
    metric(metrics, "seawall_attempts_total", &[&target, &verdict])
}

/// What the provider itself charged a model: input and output.
fn charged(provider: &Sim, model: &str) -> (u64, u64) {
    let stats = &provider.stats().models[model];
    (stats.input_tokens, stats.output_tokens)
}

/// The only line that a call leaves in the log.
async fn line(served: &Served, call: &str) -> Value {
    let lines = || {
        let log = served.gateway.log();
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let own = lines.filter(|line| line["target"] == "seawall::call" && line["call"] == *call);
        own.collect::<Vec<_>>()
    };
    until("the call's line", || !lines().is_empty()).await;
    let lines = lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines[0].clone()
}

#[tokio::test]
async fn each_attempt_is_billed_to_its_own_target_and_a_failed_one_never_as_an_answer() {
    let cut = Fault {
        after_events: Some(events_of(40).await),
        ..Fault::new(FaultKind::CutStream)
    };
    let served = Served::start(vec![cut]).await;
    let (answer, call) = served.ask(request(WANTED, "tides", true)).await;
    let below = undisturbed(SEEDS[1], request(FALLBACK, "tides", true)).await;
    assert_eq!(answer, below);
    served.gateway.idle().await;

    let primary = charged(&served.primary, WANTED);
    let fallback = charged(&served.fallback, FALLBACK);
    let times = u64::try_from(served.primary.arrivals().len()).unwrap();
    assert!((1..=3).contains(&times));
    assert_eq!((primary.1, fallback.1), (40 * times, TOKENS));
    let metrics = served.gateway.get("/_seawall/metrics").await;
    assert_eq!(tokens(&metrics, WANTED, "lower_bound"), primary);
    assert_eq!(tokens(&metrics, WANTED, "stated"), (0, 0));
    assert_eq!(tokens(&metrics, FALLBACK, "stated"), fallback);
    assert_eq!(tokens(&metrics, FALLBACK, "lower_bound"), (0, 0));
    assert_eq!(attempts(&metrics, "primary", "truncated"), times);
    assert_eq!(attempts(&metrics, "primary", "ok"), 0);
    assert_eq!(attempts(&metrics, "fallback", "ok"), 1);
    assert_eq!(
        metric(&metrics, "seawall_calls_total", &["verdict=\"ok\""]),
        1
    );
    assert_eq!(metric(&metrics, "seawall_calls_total", &[]), 1);

    let line = line(&served, &call).await;
    let word = |name: &str| &line[name];
    assert_eq!(
        (word("upstream"), word("model")),
        (&json!("fallback"), &json!(FALLBACK))
    );
    assert_eq!(
        (word("rung"), word("attempts")),
        (&json!(1), &json!(times + 1))
    );
    assert_eq!(word("input_tokens"), &json!(primary.0 + fallback.0));
    assert_eq!(word("output_tokens"), &json!(primary.1 + fallback.1));
    assert_eq!(word("usage_estimated"), &json!(true));
}

#[tokio::test]
async fn a_refused_attempt_is_seen_and_costs_nothing() {
    let served = Served::start(vec![Fault::new(FaultKind::Unavailable)]).await;
    for stream in [true, false] {
        let (answer, call) = served.ask(request(WANTED, "tides", stream)).await;
        let below = undisturbed(SEEDS[1], request(FALLBACK, "tides", stream)).await;
        assert_eq!(answer, below);
        served.gateway.idle().await;
        let line = line(&served, &call).await;
        assert_eq!(line["output_tokens"], TOKENS);
        assert_eq!(line["usage_estimated"], false);
    }
    let times = u64::try_from(served.primary.arrivals().len()).unwrap();
    let metrics = served.gateway.get("/_seawall/metrics").await;
    assert_eq!(attempts(&metrics, "primary", "unavailable"), times);
    assert_eq!(attempts(&metrics, "fallback", "ok"), 2);
    for usage in ["stated", "lower_bound"] {
        assert_eq!(tokens(&metrics, WANTED, usage), (0, 0));
    }
    assert_eq!(charged(&served.primary, WANTED), (0, 0));
    let fallback = charged(&served.fallback, FALLBACK);
    assert_eq!(tokens(&metrics, FALLBACK, "stated"), fallback);
    assert_eq!(fallback.1, 2 * TOKENS);
}
