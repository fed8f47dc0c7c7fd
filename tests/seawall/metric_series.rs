//! The metrics of a gateway that many callers reach stay bounded, and tell of those who are there.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use seawall::provider::anthropic::headers::{Credential, Form};
use seawall::sim::{Fault, FaultKind};

use crate::process::{Gateway, instant, request, sim};

/// Keys, and as many models.
const CALLERS: usize = 3_000;

/// A system holds so many targets; a few more may be held by calls under way.
const MOST_TARGETS: usize = 1_100;

fn key(n: usize) -> String {
    format!("sk-caller-{n}")
}

/// All but the last name one that nobody else does.
fn model(n: usize) -> String {
    if n == CALLERS {
        "claude-sonnet-5-5".to_owned()
    } else {
        format!("claude-made-up-{n}")
    }
}

/// How the actors' target of a caller is named.
fn target(n: usize) -> String {
    let credential = Credential::new(Form::ApiKey, &key(n)).unwrap();
    format!("anthropic/{}#{}", model(n), credential.fingerprint())
}

async fn call(gateway: &Gateway, n: usize) {
    let post = gateway.client.post(format!("{}/v1/messages", gateway.base));
    let body = request(false).replace("claude-sonnet-5-5", &model(n));
    let post = post.header("x-api-key", key(n)).body(body);
    post.send().await.unwrap().bytes().await.unwrap();
}

async fn call_all(gateway: &Gateway, callers: std::ops::Range<usize>) {
    let calls = futures_util::stream::iter(callers).map(|n| call(gateway, n));
    calls.buffer_unordered(16).collect::<Vec<()>>().await;
}

/// The series on the page, without their values.
fn series(page: &str) -> BTreeSet<&str> {
    let lines = page
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').unwrap().0).collect()
}

fn of_actors(series: &str) -> bool {
    series.contains("target=\"anthropic/") || series.contains("quota=\"")
}

#[tokio::test]
async fn series_follow_the_targets_that_are_there() {
    let (address, provider) = sim(instant(Vec::new())).await;
    let gateway = Gateway::start(
        address,
        "[routes.default]\nladder = [\"anthropic\"]\nretry = { attempts = 1 }\n[targets.anthropic]\n",
    );
    call_all(&gateway, 0..100).await;
    let early = gateway.get("/_seawall/metrics").await;
    let state_of = |n| format!("seawall_breaker_state{{target=\"{}\"}}", target(n));
    assert!(early.contains(&format!("{} 0\n", state_of(0))), "{early}");
    let counted = |page: &str| series(page).iter().filter(|one| !of_actors(one)).count();
    let counted_early = counted(&early);

    call_all(&gateway, 100..CALLERS).await;
    provider
        .set_faults(vec![Fault::new(FaultKind::Internal)])
        .unwrap();
    for _ in 0..6 {
        call(&gateway, CALLERS).await;
    }
    let late = gateway.get("/_seawall/metrics").await;
    let series = series(&late);
    let breakers = series
        .iter()
        .filter(|one| one.starts_with("seawall_breaker_state"));
    let breakers = breakers.count();
    let status = gateway.status().await;
    assert_eq!(breakers, status["breakers"].as_array().unwrap().len());
    assert!((100..MOST_TARGETS).contains(&breakers), "{breakers}");
    // Three of a breaker; of a quota its queue, and level and limit of three axes.
    assert!(series.len() < MOST_TARGETS * 10 + 200, "{}", series.len());
    assert!(!late.contains(&state_of(0)), "dropped with its target");
    assert!(
        late.contains(&format!("{} 2\n", state_of(CALLERS))),
        "its breaker is open"
    );
    assert!(late.contains(&format!("{} 0\n", state_of(CALLERS - 1))));
    // What is counted has no name of a caller's: it grows by the server errors' words alone.
    assert!(
        counted(&late) <= counted_early + 20,
        "{} after {counted_early}",
        counted(&late)
    );
    assert!(!late.contains("claude-made-up-0#"));
}
