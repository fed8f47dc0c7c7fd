//! The whole tree under paused time.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, AtomicUsize};
use std::time::Duration;

use rand::RngExt;
use rand::seq::IndexedRandom;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::*;
use crate::caller::Rung;
use crate::event::{EventKind, Heard};
use crate::policy::circuit::State;
use crate::policy::quota::{Cost, QuotaSettings};
use crate::policy::retry::Retry;
use crate::policy::wait_queue::{Priority, Tenant};
use crate::step::StepError;
use crate::verdict::{Again, Blame, Verdict};

mod falls;
mod ladders;
mod races;
mod traps;

const OVERLOADED: Verdict = Verdict::new("overloaded", Blame::Target, Again::Here);
const INVALID: Verdict = Verdict::new("invalid", Blame::Caller, Again::Never);

async fn system() -> System {
    let settings = SystemSettings {
        seed: Some(7),
        ..SystemSettings::default()
    };
    System::start(settings).await.unwrap()
}

async fn target(system: &System, name: &str) -> Target {
    system.target(name, TargetSpec::default).await.unwrap()
}

fn call_to(targets: &[&Target], deadline: Duration) -> Call {
    let cost = Cost {
        requests: 1,
        input: 10,
        output: 10,
    };
    Call {
        id: "call".into(),
        rungs: targets
            .iter()
            .map(|&t| Rung::target(t.clone(), cost))
            .collect(),
        deadline: Instant::now() + deadline,
        held_until: Instant::now() + deadline,
        continues: false,
        patience: deadline,
        priority: Priority::Normal,
        tenant: Tenant::default(),
        retry: Retry::default(),
        hedge: None,
    }
}

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a_call_is_answered_by_its_first_attempt() {
    let system = system().await;
    let target = target(&system, "t").await;
    let finished = system
        .call(call_to(&[&target], MINUTE), |_| async {
            Outcome::<_, &str>::ok(42)
        })
        .await;
    assert_eq!(finished.result.unwrap(), 42);
    assert_eq!(finished.report.attempts, 1);
    assert_eq!(system.snapshot().pool.in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_transient_failure_is_retried_and_an_invalid_request_is_not() {
    let system = system().await;
    let target = target(&system, "t").await;
    let finished = system
        .call(call_to(&[&target], MINUTE), |attempt| async move {
            if attempt.number < 3 {
                Outcome::failed("busy", OVERLOADED)
            } else {
                Outcome::ok(attempt.number)
            }
        })
        .await;
    assert_eq!(finished.result.unwrap(), 3);
    let finished = system
        .call(call_to(&[&target], MINUTE), |_| async {
            Outcome::<(), _>::failed("bad", INVALID)
        })
        .await;
    assert!(matches!(
        finished.result,
        Err(CallError::Failed { error: "bad", .. })
    ));
    assert_eq!(finished.report.attempts, 1);
}

#[tokio::test(start_paused = true)]
async fn during_an_outage_calls_wait_for_the_breaker_and_do_not_knock() {
    let system = system().await;
    let target = target(&system, "t").await;
    let start = Instant::now();
    let attempts = Arc::new(AtomicU32::new(0));
    let down = MINUTE;
    let mut calls = JoinSet::new();
    for n in 0..600_u64 {
        let (system, target, attempts) = (system.clone(), target.clone(), Arc::clone(&attempts));
        calls.spawn(async move {
            sleep(Duration::from_millis(n * 100)).await;
            let finished = system
                .call(call_to(&[&target], Duration::from_secs(75)), move |_| {
                    let attempts = Arc::clone(&attempts);
                    async move {
                        attempts.fetch_add(1, Ordering::Relaxed);
                        sleep(Duration::from_millis(50)).await;
                        if start.elapsed() < down {
                            Outcome::failed("overloaded", OVERLOADED)
                        } else {
                            sleep(Duration::from_millis(700)).await;
                            Outcome::ok(())
                        }
                    }
                })
                .await;
            (finished.result.is_ok(), start.elapsed())
        });
    }
    let ended = calls.join_all().await;
    assert!(ended.iter().all(|(ok, _)| *ok));
    let last = ended.iter().map(|(_, at)| *at).max().unwrap();
    assert!(
        last < down + Duration::from_secs(15),
        "last answer after {last:?}"
    );
    let extra = attempts.load(Ordering::Relaxed) - 600;
    assert!(extra < 60, "{extra} attempts more than calls");
    let snapshot = system.snapshot();
    assert_eq!(snapshot.pool.in_flight, 0);
    assert_eq!(snapshot.breakers[0].circuit.state, State::Closed);
    assert_eq!(snapshot.breakers[0].waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn with_the_first_rung_down_the_second_answers_at_once() {
    let system = system().await;
    let (first, second) = (
        target(&system, "first").await,
        target(&system, "second").await,
    );
    let mut events = system.events();
    let operation = |attempt: Attempt| async move {
        if &**attempt.target.name() == "first" {
            Outcome::failed("down", OVERLOADED)
        } else {
            Outcome::ok(attempt.rung)
        }
    };
    for _ in 0..10 {
        let finished = system
            .call(call_to(&[&first, &second], MINUTE), operation)
            .await;
        assert_eq!(finished.result.unwrap(), 1);
    }
    let began = Instant::now();
    let finished = system
        .call(call_to(&[&first, &second], MINUTE), operation)
        .await;
    assert_eq!(finished.report.attempts, 1);
    assert_eq!(began.elapsed(), Duration::ZERO);
    let mut opened = false;
    let mut fell = false;
    let mut seq = 0;
    while let Some(Some(Heard::Event(event))) = events.next().now_or_never() {
        assert_eq!(event.seq, seq + 1);
        seq = event.seq;
        opened |= matches!(event.kind, EventKind::BreakerOpened { .. });
        fell |= matches!(event.kind, EventKind::FellToRung { rung: 1, .. });
    }
    assert!(opened && fell);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_stops_the_attempt_and_frees_everything() {
    let system = system().await;
    let settings = QuotaSettings {
        requests_per_minute: Some(600),
        ..QuotaSettings::default()
    };
    let quota = system
        .quota(
            "q",
            QuotaSpec {
                settings,
                ..QuotaSpec::default()
            },
        )
        .await
        .unwrap();
    let spec = TargetSpec {
        quota: Some(quota),
        ..TargetSpec::default()
    };
    let target = system.target("t", || spec).await.unwrap();
    let dropped = Arc::new(AtomicUsize::new(0));
    struct Work(Arc<AtomicUsize>);
    impl Drop for Work {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let mut calls = JoinSet::new();
    for _ in 0..1000 {
        let (system, target, dropped) = (system.clone(), target.clone(), Arc::clone(&dropped));
        calls.spawn(async move {
            let call = system.call(call_to(&[&target], MINUTE), move |_| {
                let work = Work(Arc::clone(&dropped));
                async move {
                    sleep(MINUTE * 10).await;
                    drop(work);
                    Outcome::<(), ()>::ok(())
                }
            });
            drop(tokio::time::timeout(Duration::from_millis(20), call).await);
        });
    }
    calls.join_all().await;
    sleep(Duration::from_millis(10)).await;
    let snapshot = system.snapshot();
    assert_eq!(snapshot.pool.in_flight, 0);
    assert_eq!(snapshot.pool.running, 0);
    assert_eq!(snapshot.limiters[0].quota.in_flight, 0);
    assert!(dropped.load(Ordering::Relaxed) >= 10);
    assert_eq!(snapshot.breakers[0].circuit.state, State::Closed);
}

/// Three targets on one quota.
async fn three_targets(system: &System) -> Vec<Target> {
    let settings = QuotaSettings {
        requests_per_minute: Some(60_000),
        input_per_minute: Some(100_000_000),
        ..QuotaSettings::default()
    };
    let spec = QuotaSpec {
        settings,
        ..QuotaSpec::default()
    };
    let quota = system.quota("q", spec).await.unwrap();
    let mut targets = Vec::new();
    for name in ["a", "b", "c"] {
        let spec = TargetSpec {
            quota: Some(quota.clone()),
            ..TargetSpec::default()
        };
        targets.push(system.target(name, || spec).await.unwrap());
    }
    targets
}

/// One call a tenth of a second. Each attempt that was made leaves its number.
fn load(system: &System, targets: &[Target], made: &Arc<Mutex<Vec<u64>>>) -> JoinSet<()> {
    let mut calls = JoinSet::new();
    for n in 0..10_000_u64 {
        let (system, made) = (system.clone(), Arc::clone(made));
        let target = targets[usize::try_from(n % 3).unwrap()].clone();
        calls.spawn(async move {
            sleep(Duration::from_millis(n * 100)).await;
            let finished = system
                .call(call_to(&[&target], MINUTE), move |_| {
                    let made = Arc::clone(&made);
                    async move {
                        sleep(Duration::from_millis(800)).await;
                        made.lock().push(n);
                        Outcome::<u64, ()>::ok(n)
                    }
                })
                .await;
            assert_eq!(finished.result.unwrap(), n);
        });
    }
    calls
}

/// One step a second, with a call of its own. Each that was answered leaves its number.
fn steps(system: &System, targets: &[Target], stepped: &Arc<Mutex<Vec<u64>>>) -> JoinSet<()> {
    let mut steps = JoinSet::new();
    for n in 0..1000_u64 {
        let (system, stepped) = (system.clone(), Arc::clone(stepped));
        let target = targets[usize::try_from(n % 3).unwrap()].clone();
        steps.spawn(async move {
            sleep(Duration::from_secs(n)).await;
            let settings = StepSettings {
                deadline: MINUTE * 10,
                run_timeout: MINUTE * 10,
                restarts: 100,
                ..StepSettings::default()
            };
            let own = system.clone();
            let work = move |_| {
                let (system, target) = (own.clone(), target.clone());
                async move {
                    let operation = move |_| async move {
                        sleep(Duration::from_millis(800)).await;
                        Outcome::<u64, ()>::ok(n)
                    };
                    let finished = system.call(call_to(&[&target], MINUTE), operation).await;
                    sleep(Duration::from_secs(10)).await;
                    finished.result
                }
            };
            let step = system.spawn_step(settings, work).await.unwrap();
            assert_eq!(step.join().await.unwrap(), n);
            stepped.lock().push(n);
        });
    }
    steps
}

/// Kills any actor a thousand times. Says how often it was a step, or all of them.
async fn kill_at_random(system: &System) -> u32 {
    let mut rng = StdRng::seed_from_u64(11);
    let (mut killed, mut steps) = (0, 0);
    while killed < 1000 {
        sleep(Duration::from_millis(rng.random_range(500..1500))).await;
        let actors = system.actors();
        let actor = actors.choose(&mut rng).unwrap();
        if system.kill(actor) {
            killed += 1;
            steps += u32::from(actor.starts_with("steps"));
        }
    }
    steps
}

#[tokio::test(start_paused = true)]
async fn killing_actors_at_random_loses_leaks_and_doubles_nothing() {
    let system = system().await;
    let targets = three_targets(&system).await;
    let (made, stepped) = (Arc::default(), Arc::default());
    let calls = load(&system, &targets, &made);
    let steps = steps(&system, &targets, &stepped);
    let killed_steps = kill_at_random(&system).await;
    assert!(killed_steps > 100, "{killed_steps} kills met steps");
    calls.join_all().await;
    steps.join_all().await;
    let made = std::mem::take(&mut *made.lock());
    assert_eq!(made.len(), 10_000, "every call was attempted exactly once");
    assert_eq!(made.iter().collect::<HashSet<_>>().len(), 10_000);
    let mut stepped = std::mem::take(&mut *stepped.lock());
    stepped.sort_unstable();
    assert_eq!(stepped, (0..1000).collect::<Vec<_>>(), "one answer a step");
    sleep(MINUTE).await;
    let snapshot = system.snapshot();
    assert_eq!(snapshot.pool.in_flight, 0);
    assert_eq!(snapshot.limiters[0].quota.in_flight, 0);
    assert!(snapshot.restarts > 0);
    assert_eq!(snapshot.steps.running, 0);
    assert!(snapshot.steps.restarts > 0);
    let left = system.actors();
    assert!(
        !left.iter().any(|name| name.starts_with("steps/")),
        "{left:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_panicking_operation_fails_its_call_and_nobody_elses() {
    let system = system().await;
    let target = target(&system, "t").await;
    let other = system.call(call_to(&[&target], MINUTE), |_| async {
        sleep(Duration::from_secs(1)).await;
        Outcome::<_, ()>::ok("well")
    });
    let broken = system.call(call_to(&[&target], MINUTE), |_| async {
        if Instant::now().elapsed() == Duration::ZERO {
            panic!("user code");
        }
        Outcome::<(), ()>::ok(())
    });
    let (other, broken) = tokio::join!(other, broken);
    assert_eq!(other.result.unwrap(), "well");
    assert!(matches!(broken.result, Err(CallError::Panicked(m)) if m == "user code"));
    assert_eq!(system.snapshot().pool.in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_draining_system_finishes_what_it_has_and_takes_nothing_new() {
    let system = system().await;
    let target = target(&system, "t").await;
    let (slow, at) = (system.clone(), target.clone());
    let under_way = tokio::spawn(async move {
        slow.call(call_to(&[&at], MINUTE), |_| async {
            sleep(Duration::from_secs(5)).await;
            Outcome::<_, ()>::ok(1)
        })
        .await
    });
    sleep(Duration::from_secs(1)).await;
    let draining = {
        let system = system.clone();
        tokio::spawn(async move { system.drain(Instant::now() + MINUTE).await })
    };
    sleep(Duration::from_millis(1)).await;
    let refused = system
        .call(call_to(&[&target], MINUTE), |_| async {
            Outcome::<(), ()>::ok(())
        })
        .await;
    let Err(CallError::Refused(rejected)) = refused.result else {
        panic!("was taken")
    };
    assert_eq!(rejected.why, Rejection::Draining);
    assert!(draining.await.unwrap());
    assert_eq!(under_way.await.unwrap().result.unwrap(), 1);
    system.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_past_its_deadline_ends_there_and_counts_against_its_target() {
    let system = system().await;
    let target = target(&system, "t").await;
    let began = Instant::now();
    for _ in 0..5 {
        let finished = system
            .call(call_to(&[&target], Duration::from_secs(2)), |_| async {
                sleep(MINUTE).await;
                Outcome::<(), ()>::ok(())
            })
            .await;
        let Err(CallError::Refused(rejected)) = finished.result else {
            panic!("answered")
        };
        assert_eq!(rejected.why, Rejection::DeadlinePassed);
    }
    assert_eq!(began.elapsed(), Duration::from_secs(10));
    sleep(Duration::from_millis(1)).await;
    assert_ne!(system.snapshot().breakers[0].circuit.state, State::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_setting_out_of_range_is_named_in_the_error() {
    let system = system().await;
    let finished = system
        .call(call_to(&[], MINUTE), |_| async {
            Outcome::<(), ()>::ok(())
        })
        .await;
    let Err(CallError::Invalid(invalid)) = finished.result else {
        panic!("{:?}", finished.result)
    };
    assert_eq!((invalid.field, invalid.value.as_str()), ("ladder", "0"));
    assert!(!invalid.allowed.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stopped_system_ends_its_event_streams_and_takes_nothing() {
    let system = system().await;
    let mut events = system.events();
    system.stop().await;
    assert!(events.next().await.is_none());
    assert!(system.events().next().await.is_none());
    let late = system
        .spawn_step(StepSettings::default(), |_| async { Ok::<_, ()>(()) })
        .await;
    assert!(matches!(late, Err(StartError::Stopped)));
    assert!(system.quota("q", QuotaSpec::default()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_tree_that_fails_by_itself_ends_steps_calls_and_events() {
    let system = system().await;
    let mut events = system.events();
    let step = system
        .spawn_step(StepSettings::default(), |_| {
            std::future::pending::<Result<(), ()>>()
        })
        .await
        .unwrap();
    // One failure more than the root bears within its window.
    for _ in 0..6 {
        while !system.kill("breakers") {
            sleep(Duration::from_millis(1)).await;
        }
        sleep(Duration::from_secs(4)).await;
    }
    system.ended().await;
    assert!(matches!(step.join().await, Err(StepError::Stopped)));
    while events.next().await.is_some() {}
    let target = system.target("t", TargetSpec::default).await;
    assert!(target.is_err());
}
