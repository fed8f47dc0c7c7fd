//! Calls beside others: shared attempts, second attempts and probes.

use std::time::Duration;

use futures_util::future::join_all;
use seawall::sim::{Fault, FaultKind};

use super::provider::{Provider, State};
use super::{ask, asking, send};
use crate::process::{BOUND, Gateway, instant, sim};

/// Waits, bounded, until a state is there.
async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(BOUND, wait).await;
    waited.unwrap_or_else(|_| panic!("never {what}"));
}

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
    // The one who leaves is the one who leads.
    let leader = tokio::time::timeout(BOUND, ask(&gateway, &body).send());
    {
        let mut leader = std::pin::pin!(leader);
        tokio::select! {
            answered = &mut leader => panic!("{answered:?}"),
            () = sharing(1) => {}
        }
        let others = join_all((1..20).map(|_| send(ask(&gateway, &body))));
        let mut others = std::pin::pin!(others);
        tokio::select! {
            answered = &mut leader => panic!("{answered:?}"),
            answered = &mut others => panic!("{answered:?}"),
            () = sharing(20) => {}
        }
        drop(gateway.client.get(&gateway.base));
        tokio::select! {
            answered = &mut others => panic!("{answered:?}"),
            () = async {} => {}
        }
        stay(&provider, leader, others, &sharing).await;
    }
    assert_eq!(provider.asked().len(), 1);
    gateway.idle().await;
}
