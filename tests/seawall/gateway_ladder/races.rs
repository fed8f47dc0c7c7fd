//! Calls beside others: shared attempts, second attempts and probes.

use futures_util::future::join_all;
use seawall::sim::{Fault, FaultKind};

use super::provider::{Provider, SMALLER, State};
use super::{ask, asking, send, until};
use crate::process::{Gateway, instant, sim};

#[tokio::test]
async fn twenty_who_ask_the_same_share_an_attempt_and_one_may_leave() {
    let provider = Provider::start(State::Holding).await;
    let config = "[targets.up]\n[routes.default]\nladder = [\"up\"]\nsingle_flight = true\n";
    let gateway = Gateway::start(provider.address, config);
    let body = asking("What do all want to know?", false);
    let sharing = async |calls: u64| {
        until(&format!("{calls} calls"), async || {
            let status = gateway.status().await;
            status["flights"]["calls"] == calls
        })
        .await;
    };
    let mut leader = Box::pin(send(ask(&gateway, &body)));
    tokio::select! {
        answered = &mut leader => panic!("{answered:?}"),
        () = sharing(1) => {}
    }
    let mut others = Box::pin(join_all((1..20).map(|_| send(ask(&gateway, &body)))));
    tokio::select! {
        answered = &mut leader => panic!("{answered:?}"),
        answered = &mut others => panic!("{answered:?}"),
        () = sharing(20) => {}
    }
    // Who leaves is who has made the call.
    drop(leader);
    tokio::select! {
        answered = &mut others => panic!("{answered:?}"),
        () = sharing(19) => {}
    }
    let status = gateway.status().await;
    assert_eq!(status["flights"]["under_way"], 1, "{status}");
    provider.state.send_replace(State::Healthy);
    for got in others.await {
        assert_eq!(got.message().1, "hi");
        assert_eq!(got.header("x-seawall-cache"), "shared");
    }
    assert_eq!(provider.asked().len(), 1);
    gateway.idle().await;
}

#[tokio::test]
async fn a_slow_first_attempt_is_outrun_by_the_second() {
    let (address, sim) = sim(instant(Vec::new())).await;
    let config = "[targets.up]\n[routes.default]\nladder = [\"up\"]\n\
                  hedge = { after = \"100ms\", budget = 0.2 }\n";
    let gateway = Gateway::start(address, config);
    // A fifth of what each call costs is saved: ten pay for one second attempt.
    for number in 0..10 {
        let got = send(ask(&gateway, &asking(&format!("Number {number}?"), true))).await;
        got.message();
    }
    let slow = Fault::new(FaultKind::StallBeforeContent).on_attempts(1, 1);
    sim.set_faults(vec![slow]).unwrap();
    let got = send(ask(&gateway, &asking("Which is first?", true))).await;
    assert_eq!(got.message().0, "claude-sonnet-5-5");
    assert_eq!(got.header("x-seawall-attempts"), "2");
    gateway.idle().await;
    until("left alone", async || sim.stats().in_flight == 0).await;
    let metrics = gateway.get("/_seawall/metrics").await;
    let outrun = metrics.lines().find(|line| {
        line.starts_with("seawall_attempts_total{") && line.contains("verdict=\"outrun\"")
    });
    assert!(outrun.is_some_and(|line| line.ends_with(" 1")), "{metrics}");
}

#[tokio::test]
async fn after_an_outage_a_request_of_its_own_finds_the_way_back() {
    let provider = Provider::start(State::Overloaded).await;
    let config = format!(
        "[targets.up]\n[targets.smaller]\nmodel = \"{SMALLER}\"\n\
         [routes.default]\nladder = [\"up\", \"smaller\"]\nprobe = true\n\
         retry = {{ attempts = 2, base = \"1ms\" }}\nbreaker = {{ open = \"50ms\" }}\n"
    );
    let gateway = Gateway::start(provider.address, &config);
    let body = asking("Is it back?", false);
    let rung = async || {
        let got = send(ask(&gateway, &body)).await;
        got.header("x-seawall-rung").to_owned()
    };
    until("open", async || {
        assert_eq!(rung().await, "smaller");
        let status = gateway.status().await;
        let breakers = status["breakers"].as_array().unwrap();
        breakers.iter().any(|breaker| breaker["state"] == "open")
    })
    .await;
    provider.state.send_replace(State::Healthy);
    until("back", async || rung().await == "up").await;
    let asked = provider.asked();
    let is_probe = |body: &&serde_json::Value| body["max_tokens"] == 1;
    assert!(asked.iter().any(|body| is_probe(&body)), "{asked:?}");
    let last = asked.iter().rev().find(|body| !is_probe(body));
    assert_eq!(last, Some(&body));
    gateway.idle().await;
}
