//! Waiting out loud: a streamed call that waits for more than 20 s pings until its answer or its
//! error comes.

use std::sync::Arc;
use std::time::Duration;

use seawall::client::Seawall;
use seawall::client::ask::{Degraded, ReplyBody};
use seawall::delivery::{Delivery, Hold};
use seawall::profile::Profile;
use seawall::provider::anthropic::PING_EVENT;
use seawall::sim::{Fault, FaultKind, Settings, Sim, TokenRange};

use super::case::{Seen, Shape, UP, asking, call, client, idle, settings};
use super::reading::End;
use super::tap::Tap;

const SECOND: Duration = Duration::from_secs(1);

/// When a waiting call begins to ping.
const OUT_LOUD: Duration = Duration::from_secs(20);

/// Most that a timer may be late: it ticks in milliseconds.
const TICK: Duration = Duration::from_millis(2);

const DELIVERIES: [Delivery; 4] = [
    Delivery::AsItComes,
    Delivery::Complete,
    Delivery::Hold(Hold::new(50, Duration::from_millis(500))),
    Delivery::Resume,
];

async fn in_front_of(settings: Settings, config: &str) -> (Seawall, Arc<Sim>) {
    let sim = Sim::new(settings).unwrap();
    let way = sim.transport();
    (client(&Tap::new(way.clone(), way, 0), config).await, sim)
}

/// Pings from 20 s on, and never silent for longer than that.
fn out_loud(seen: &Seen) {
    let (first, ping) = &seen.chunks[0];
    assert_eq!(ping, PING_EVENT);
    let late = *first - (seen.began + OUT_LOUD);
    assert!(late <= TICK, "{late:?}");
    let times = seen.chunks.iter().map(|(at, _)| *at).chain([seen.ended]);
    let mut before = *first;
    for at in times {
        assert!(at - before <= OUT_LOUD, "silent for {:?}", at - before);
        before = at;
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_its_quota_pings_until_its_answer() {
    let config = format!("{UP}quota = \"small\"\n[quotas.small]\nrequests_per_minute = 2\n");
    for delivery in DELIVERIES {
        let (seawall, sim) = in_front_of(settings(1, Vec::new()), &config).await;
        let ask = || {
            let mut ask = asking(Shape::Text);
            ask.delivery = Some(delivery);
            ask
        };
        let first = call(&seawall, ask()).await;
        assert_eq!(first.message().end, End::Whole);
        let second = call(&seawall, ask()).await;
        out_loud(&second);
        assert_eq!(second.message().end, End::Whole, "{delivery}");
        idle(&seawall, &[&sim], TICK).await;
        seawall.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn only_waiting_for_a_breaker_or_a_quota_is_called_queueing() {
    let quota = "quota = \"small\"\n[quotas.small]\nrequests_per_minute = 2\n";
    let (seawall, _) = in_front_of(settings(1, Vec::new()), &format!("{UP}{quota}")).await;
    call(&seawall, asking(Shape::Text)).await;
    let waits = seawall.forward(asking(Shape::Text)).await.unwrap();
    assert_eq!(waits.report.attempts, 0);
    let late = waits.report.queued - OUT_LOUD;
    assert!(late <= TICK, "{late:?}");
    drop(waits);
    seawall.stop().await;

    // An attempt under way, and backoffs between attempts that fail.
    for (kind, shares) in [
        (FaultKind::NoAnswer, false),
        (FaultKind::ResetBeforeHeaders, false),
        (FaultKind::NoAnswer, true),
    ] {
        let config = format!(
            "{UP}[routes.default]\nladder = [\"up\"]\nsingle_flight = {shares}\nretry = {{ base = \"30s\" }}\n"
        );
        let fault = settings(1, vec![Fault::new(kind)]);
        let (seawall, _) = in_front_of(fault, &config).await;
        let tries = seawall.forward(asking(Shape::Text)).await.unwrap();
        assert!(matches!(tries.body, ReplyBody::Stream(_)), "{kind:?}");
        assert_eq!(tries.report.queued, Duration::ZERO, "{kind:?}");
        assert!(tries.report.attempts > 0, "{kind:?}");
        drop(tries);
        seawall.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_a_breaker_pings_until_its_answer_or_its_error() {
    for (delivery, outage) in DELIVERIES.into_iter().flat_map(|d| [(d, 50), (d, 3_600)]) {
        let outage = Fault::new(FaultKind::Overloaded).between(Duration::ZERO, SECOND * outage);
        let recovers = outage.until < Some(SECOND * 60);
        let (seawall, sim) = in_front_of(settings(1, vec![outage]), UP).await;
        let ask = || {
            let mut ask = asking(Shape::Text);
            (ask.profile, ask.delivery) = (Some(Profile::AgentStep), Some(delivery));
            ask
        };
        // The first finds out that the provider is down.
        let first = call(&seawall, ask()).await;
        assert!(first.error.is_some() && first.ended - first.began < OUT_LOUD);
        let second = call(&seawall, ask()).await;
        out_loud(&second);
        let message = second.message();
        if recovers {
            assert_eq!(message.end, End::Whole, "{delivery}");
        } else {
            let waited = second.ended - second.began;
            assert!(waited <= SECOND * 75 + TICK, "{delivery}: {waited:?}");
            assert!(
                message.reason().is_some() && !message.has_content(),
                "{delivery}"
            );
        }
        idle(&seawall, &[&sim], TICK).await;
        seawall.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_answer_that_is_held_back_pings_until_it_is_whole() {
    let mut long = settings(1, Vec::new());
    long.models[0].output_tokens = TokenRange {
        from: 3_000,
        to: 3_000,
    };
    let (seawall, sim) = in_front_of(long, UP).await;
    let mut ask = asking(Shape::Text);
    let body = String::from_utf8(ask.body.to_vec()).unwrap();
    ask.body = body.replace("512", "4096").into();
    ask.delivery = Some(Delivery::Complete);
    let seen = call(&seawall, ask).await;
    out_loud(&seen);
    let message = seen.message();
    assert_eq!(
        (message.end, message.usage["output_tokens"].as_u64()),
        (End::Whole, Some(3_000))
    );
    assert!(seen.ended - seen.began > SECOND * 54);
    idle(&seawall, &[&sim], TICK).await;
    seawall.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_after_the_headers_is_marked_in_the_stream() {
    let config = format!(
        "{UP}[routes.default]\nladder = [\"up\", \"static\"]\nwait = \"30s\"\nstatic = {{ text = \"Down.\" }}\n"
    );
    let outage = Fault::new(FaultKind::Overloaded);
    let (seawall, sim) = in_front_of(settings(1, vec![outage]), &config).await;
    let ask = || {
        let mut ask = asking(Shape::Text);
        ask.profile = Some(Profile::AgentStep);
        ask
    };
    // The first finds out that the provider is down, and is marked in its headers.
    let first = seawall.forward(ask()).await.unwrap();
    assert_eq!(first.report.degraded, Some(Degraded::Static));
    let ReplyBody::Whole(told) = first.body else {
        panic!("it is whole at once");
    };
    let told = std::str::from_utf8(&told).unwrap();
    assert!(told.contains("Down.") && !told.contains(": x-seawall-"));
    let second = call(&seawall, ask()).await;
    out_loud(&second);
    let text = String::from_utf8(second.bytes(false)).unwrap();
    for mark in ["rung: static", "degraded: static", "cause: last_resort"] {
        assert!(text.contains(&format!(": x-seawall-{mark}\n")), "{text}");
    }
    assert_eq!(second.message().end, End::Whole);
    idle(&seawall, &[&sim], TICK).await;
    seawall.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_late_answer_lost_and_passed_by_is_marked_in_the_stream() {
    let config = format!(
        "{UP}[targets.tiny]\nbase_url = \"http://sim\"\noutput_tokens = 50\n\
         [targets.other]\nbase_url = \"http://sim\"\nmodel = \"claude-opus-4-6\"\noutput_tokens = 2000\n\
         [routes.default]\nladder = [\"up\", \"tiny\", {{ rung = \"other\", lossy = [\"max_tokens\"] }}]\n\
         delivery = \"complete\"\n"
    );
    let down = Fault::new(FaultKind::Unavailable).on_model("claude-sonnet");
    let slow = Fault {
        ttft: Some(SECOND * 25),
        ..Fault::new(FaultKind::Slow)
    };
    let slow = slow.on_model("claude-opus");
    let (seawall, sim) = in_front_of(settings(1, vec![down, slow]), &config).await;
    let mut ask = asking(Shape::Text);
    let body = String::from_utf8(ask.body.to_vec()).unwrap();
    ask.body = body.replace("512", "4096").into();
    let seen = call(&seawall, ask).await;
    out_loud(&seen);
    assert_eq!(seen.message().end, End::Whole);
    let text = String::from_utf8(seen.bytes(false)).unwrap();
    for mark in [
        "rung: other",
        "degraded: model",
        "cause: attempts_spent",
        "model: claude-opus-4-6",
        "skipped: tiny=output_too_long",
        "lost: max_tokens",
    ] {
        assert!(text.contains(&format!(": x-seawall-{mark}\n")), "{text}");
    }
    idle(&seawall, &[&sim], TICK).await;
    seawall.stop().await;
}
