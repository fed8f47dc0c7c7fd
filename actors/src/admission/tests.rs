use futures_util::FutureExt;

use super::*;
use crate::policy::circuit::{Mode, State};
use crate::policy::quota::QuotaSettings;
use crate::system::{QuotaSpec, System, SystemSettings, Target, TargetSpec};
use crate::verdict::{Again, Blame, Verdict};

const OVERLOADED: Verdict = Verdict::new("overloaded", Blame::Target, Again::Here);
const SECOND: Duration = Duration::from_secs(1);

async fn system() -> System {
    let settings = SystemSettings {
        seed: Some(7),
        ..SystemSettings::default()
    };
    System::start(settings).await.unwrap()
}

/// A target that bears 60 requests a minute, one at a time.
async fn narrow(system: &System) -> Target {
    let settings = QuotaSettings {
        requests_per_minute: Some(60),
        burst: SECOND,
        ..QuotaSettings::default()
    };
    let spec = QuotaSpec {
        settings,
        ..QuotaSpec::default()
    };
    let quota = Some(system.quota("quota", spec).await.unwrap());
    let spec = || TargetSpec {
        quota,
        ..TargetSpec::default()
    };
    system.target("narrow", spec).await.unwrap()
}

fn level(system: &System) -> i64 {
    let limiter = &system.snapshot().limiters[0];
    limiter.quota.axes[0].unwrap().level
}

#[tokio::test(start_paused = true)]
async fn a_permit_is_counted_while_it_is_held_and_settled_at_its_end() {
    let system = system().await;
    let target = narrow(&system).await;
    let permit = system.admit(&target, Terms::within(SECOND)).await.unwrap();
    assert_eq!(system.snapshot().pool.in_flight, 1);
    assert_eq!(level(&system), 0);
    permit.finish(&Verdict::OK, Some(Cost::ZERO));
    assert_eq!(system.snapshot().pool.in_flight, 0);
    assert_eq!(level(&system), 1, "what it did not cost came back");
    let timed = system.snapshot().breakers[0].circuit.timed;
    assert_eq!((timed.calls, timed.failed), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn who_can_not_be_served_in_time_is_refused_and_told_when() {
    let system = system().await;
    let target = narrow(&system).await;
    let held = system.admit(&target, Terms::within(SECOND)).await.unwrap();
    let refused = system.admit(&target, Terms::within(SECOND / 10)).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.why, Rejection::QuotaExhausted);
    assert_eq!(refused.by.as_deref(), Some("quota"));
    assert!(refused.retry_after.is_some_and(|wait| wait > SECOND / 10));
    let began = Instant::now();
    let waited = system.admit(&target, Terms::within(SECOND * 5)).await;
    assert!(waited.is_ok() && began.elapsed() > SECOND / 2);
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn who_leaves_the_queue_or_drops_the_permit_gives_everything_back() {
    let system = system().await;
    let target = narrow(&system).await;
    let held = system.admit(&target, Terms::within(SECOND)).await.unwrap();
    let mut waiting = Box::pin(system.admit(&target, Terms::within(SECOND * 30)));
    assert!(waiting.as_mut().now_or_never().is_none());
    tokio::task::yield_now().await;
    drop(waiting);
    drop(held);
    assert_eq!(system.snapshot().pool.in_flight, 0);
    let next = system.admit(&target, Terms::within(SECOND * 2)).await;
    assert!(next.is_ok(), "{next:?}");
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_bars_and_lets_one_probe_through() {
    let system = system().await;
    let target = system.target("t", TargetSpec::default).await.unwrap();
    for _ in 0..5 {
        let permit = system.admit(&target, Terms::within(SECOND)).await.unwrap();
        permit.finish(&OVERLOADED, None);
    }
    let state = || system.snapshot().breakers[0].circuit.state;
    assert_eq!(state(), State::Open);
    let barred = system.admit(&target, Terms::within(Duration::ZERO)).await;
    assert_eq!(barred.unwrap_err().why, Rejection::BreakerOpen);
    for _ in 0..2 {
        let probe = system.admit(&target, Terms::within(SECOND * 30)).await;
        let probe = probe.unwrap();
        assert!(probe.is_probe());
        probe.finish(&Verdict::OK, None);
    }
    let passed = system.admit(&target, Terms::within(SECOND * 30)).await;
    assert!(!passed.unwrap().is_probe());
    assert_eq!(state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_circuit_that_opens_during_the_wait_for_the_quota_bars_all_the_same() {
    let system = system().await;
    let target = narrow(&system).await;
    let held = system.admit(&target, Terms::within(SECOND)).await.unwrap();
    let mut waiting = Box::pin(system.admit(&target, Terms::within(SECOND * 30)));
    assert!(waiting.as_mut().now_or_never().is_none());
    target.breaker().force(Mode::ForcedOpen);
    let refused = waiting.await.unwrap_err();
    assert_eq!(refused.why, Rejection::BreakerOpen);
    drop(held);
    assert_eq!(system.snapshot().pool.in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_retry_is_paid_for_from_the_budget() {
    let system = system().await;
    let target = system.target("t", TargetSpec::default).await.unwrap();
    let before = system.snapshot().breakers[0].retry_budget;
    let terms = Terms {
        again: true,
        ..Terms::within(SECOND)
    };
    let permit = system.admit(&target, terms).await.unwrap();
    assert!(system.snapshot().breakers[0].retry_budget < before);
    permit.finish(&Verdict::OK, None);
}

#[tokio::test(start_paused = true)]
async fn actors_that_die_lose_nobody_who_waits_and_no_permit() {
    let system = system().await;
    let target = narrow(&system).await;
    let held = system.admit(&target, Terms::within(SECOND)).await.unwrap();
    let mut waiting = Box::pin(system.admit(&target, Terms::within(SECOND * 30)));
    assert!(waiting.as_mut().now_or_never().is_none());
    for actor in system.actors() {
        if actor.starts_with("limiters/") || actor.starts_with("breakers/") {
            assert!(system.kill(&actor), "{actor}");
        }
    }
    let permit = waiting.await.unwrap();
    permit.finish(&Verdict::OK, None);
    held.finish(&Verdict::OK, None);
    assert_eq!(system.snapshot().pool.in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_draining_system_admits_nobody_and_waits_for_permits() {
    let system = system().await;
    let target = system.target("t", TargetSpec::default).await.unwrap();
    let held = system.admit(&target, Terms::within(SECOND)).await.unwrap();
    assert!(!system.drain(Instant::now() + SECOND).await, "one is held");
    let refused = system.admit(&target, Terms::within(SECOND)).await;
    assert_eq!(refused.unwrap_err().why, Rejection::Draining);
    drop(held);
    assert!(system.drain(Instant::now() + SECOND).await);
}
