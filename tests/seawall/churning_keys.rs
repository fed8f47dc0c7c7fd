//! Callers that bring another credential with each call: what stands for a credential is bounded and
//! makes room, and nobody else pays for it.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use http::HeaderMap;
use seawall::client::Seawall;
use seawall::client::ask::{Ask, ReplyBody};
use seawall::sim::{Settings, Sim};
use seawall_actors::system::SystemSettings;
use tokio::task::JoinSet;

/// Most targets and quotas.
const MOST: usize = 16;

/// Calls that are under way at once.
const AT_ONCE: usize = 8;

async fn seawall() -> Seawall {
    let settings = Settings {
        instant: true,
        ..Settings::default()
    };
    let sim = Sim::new(settings).unwrap();
    let system = SystemSettings {
        targets: MOST,
        ..SystemSettings::default()
    };
    let transport = Arc::new(Sim::transport(&sim));
    let builder = Seawall::builder().transport(transport).system(system);
    builder.seed(1).start().await.unwrap()
}

fn ask(key: usize, streams: bool) -> Ask {
    let mut headers = HeaderMap::new();
    headers.insert("x-api-key", format!("sk-{key}").parse().unwrap());
    let body = serde_json::json!({
        "model": "claude-sonnet-5-5", "max_tokens": 20, "stream": streams,
        "messages": [{ "role": "user", "content": "Who am I?" }],
    });
    Ask::messages(headers, Bytes::from(body.to_string()))
}

async fn churn(seawall: &Seawall, keys: std::ops::Range<usize>, key: fn(usize) -> usize) {
    let mut callers = JoinSet::new();
    for first in 0..AT_ONCE {
        let (seawall, keys) = (seawall.clone(), keys.clone());
        callers.spawn(async move {
            for n in keys.skip(first).step_by(AT_ONCE) {
                seawall.forward(ask(key(n), false)).await.unwrap();
            }
        });
    }
    callers.join_all().await;
}

#[tokio::test]
async fn a_key_a_call_takes_bounded_room_and_leaves_who_is_at_work_alone() {
    let seawall = seawall().await;
    let reply = seawall.forward(ask(0, true)).await.unwrap();
    let ReplyBody::Stream(mut held) = reply.body else {
        panic!("no stream");
    };
    let at_work: Vec<_> = seawall
        .snapshot()
        .breakers
        .iter()
        .map(|b| b.name.clone())
        .collect();
    churn(&seawall, 1..1_000, |n| n).await;
    let snapshot = seawall.snapshot();
    let most = MOST + AT_ONCE;
    assert!(
        snapshot.limiters.len() <= most,
        "{}",
        snapshot.limiters.len()
    );
    assert!(
        snapshot.breakers.len() <= most,
        "{}",
        snapshot.breakers.len()
    );
    let breakers: HashSet<_> = snapshot.breakers.iter().map(|b| b.name.clone()).collect();
    assert!(
        at_work.iter().all(|name| breakers.contains(name)),
        "{breakers:?}"
    );
    let actors = seawall.system().actors();
    let of = |branch: &str| {
        actors
            .iter()
            .filter(|name| name.starts_with(branch))
            .count()
    };
    assert_eq!(of("limiters/"), snapshot.limiters.len());
    assert_eq!(of("breakers/"), snapshot.breakers.len());
    let mut last = Bytes::new();
    while let Some(events) = held.next().await {
        last = events;
    }
    assert!(last.windows(12).any(|part| part == b"message_stop"));
}

/// One whose target is let go of may call again at that very moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_come_back_have_their_actors() {
    let seawall = seawall().await;
    churn(&seawall, 0..2_000, |n| n * 7 % 20).await;
    assert_whole(&seawall);
}

/// Whoever asks first for a target may leave before it is set up.
#[tokio::test]
async fn a_target_whose_first_caller_leaves_has_its_actors() {
    let seawall = seawall().await;
    for key in 0..64 {
        for turns in 0..8 {
            let mut call = Box::pin(seawall.forward(ask(key * 8 + turns, false)));
            let mut is_over = futures_util::poll!(&mut call).is_ready();
            for _ in 0..turns {
                tokio::task::yield_now().await;
                is_over = is_over || futures_util::poll!(&mut call).is_ready();
            }
        }
    }
    // The last one's setting up comes to its end too.
    seawall.forward(ask(1_000, false)).await.unwrap();
    assert_whole(&seawall);
}

/// Each target and quota has an actor, and no actor is left of one that has gone.
fn assert_whole(seawall: &Seawall) {
    let actors: HashSet<String> = seawall.system().actors().into_iter().collect();
    let snapshot = seawall.snapshot();
    let breakers = snapshot
        .breakers
        .iter()
        .map(|b| format!("breakers/{}", b.name));
    let limiters = snapshot
        .limiters
        .iter()
        .map(|l| format!("limiters/{}", l.name));
    let expected: HashSet<String> = breakers.chain(limiters).collect();
    let of_calls = |name: &&String| name.starts_with("breakers/") || name.starts_with("limiters/");
    let found: HashSet<String> = actors.iter().filter(of_calls).cloned().collect();
    assert_eq!(found, expected);
}
