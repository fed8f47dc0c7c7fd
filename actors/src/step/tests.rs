//! Steps under paused time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::FutureExt;
use tokio::time::{advance, sleep};

use super::*;
use crate::event::{EventKind, EventStream, Heard};
use crate::policy::backoff::Backoff;
use crate::system::{System, SystemSettings};

async fn system() -> System {
    let settings = SystemSettings {
        seed: Some(3),
        ..SystemSettings::default()
    };
    System::start(settings).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn of_ten_steps_one_panics_twice_and_all_are_answered() {
    let system = system().await;
    let mut steps = Vec::new();
    for n in 0..10_u32 {
        let step = system.spawn_step(StepSettings::default(), move |run| async move {
            sleep(Duration::from_secs(1)).await;
            assert!(n != 4 || run.number > 2, "a bug in the user's code");
            Ok::<_, ()>((n, run.number))
        });
        steps.push(step.await.unwrap());
    }
    for (n, step) in (0..).zip(steps) {
        let runs = if n == 4 { 3 } else { 1 };
        assert_eq!(step.join().await.unwrap(), (n, runs));
    }
    nothing_is_left(&system).await;
}

#[tokio::test(start_paused = true)]
async fn a_hang_is_taken_again_and_a_budget_is_a_budget() {
    let system = system().await;
    let settings = StepSettings {
        run_timeout: Duration::from_secs(2),
        restarts: 2,
        ..StepSettings::default()
    };
    let step = system.spawn_step(settings, |run| async move {
        if run.number == 1 {
            std::future::pending::<()>().await;
        }
        Ok::<_, ()>(run.number)
    });
    assert_eq!(step.await.unwrap().join().await.unwrap(), 2);
    let step = system.spawn_step(settings, |_| async move {
        std::future::pending::<Result<(), ()>>().await
    });
    let gave_up = step.await.unwrap().join().await.unwrap_err();
    assert!(
        matches!(gave_up, StepError::GaveUp { runs: 3, .. }),
        "{gave_up:?}"
    );
    nothing_is_left(&system).await;
}

#[tokio::test(start_paused = true)]
async fn deadline_cancel_and_the_users_own_error_end_a_step() {
    let system = system().await;
    let forever = |_| std::future::pending::<Result<(), &'static str>>();
    let step = system
        .spawn_step(StepSettings::default(), forever)
        .await
        .unwrap();
    let began = Instant::now();
    assert!(matches!(step.join().await, Err(StepError::TimedOut)));
    assert_eq!(began.elapsed().as_secs(), 75);
    let step = system
        .spawn_step(StepSettings::default(), forever)
        .await
        .unwrap();
    let state = step.watch();
    step.cancel();
    assert_eq!(*state.borrow(), StepState::Ended);
    assert!(matches!(step.join().await, Err(StepError::Cancelled)));
    let failing = |_| async { Err::<(), _>("no such tool") };
    let step = system
        .spawn_step(StepSettings::default(), failing)
        .await
        .unwrap();
    assert!(matches!(
        step.join().await,
        Err(StepError::Failed("no such tool"))
    ));
    advance(Duration::from_secs(1)).await;
    assert!(
        !system
            .actors()
            .iter()
            .any(|name| name.starts_with("steps/"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_step_whose_actor_is_killed_runs_again() {
    let system = system().await;
    let step = system.spawn_step(StepSettings::default(), |run| async move {
        sleep(Duration::from_secs(5)).await;
        Ok::<_, ()>(run.number)
    });
    let step = step.await.unwrap();
    sleep(Duration::from_secs(1)).await;
    let actors = system.actors();
    let actor = actors
        .iter()
        .find(|name| name.starts_with("steps/"))
        .unwrap();
    assert!(system.kill(actor));
    assert_eq!(step.join().await.unwrap(), 2);
}

const BUSY: Verdict = Verdict::new("busy", Blame::Target, Again::Here);

fn second(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Waits, for a bounded time, until no step is up or known any more.
async fn nothing_is_left(system: &System) {
    let left = || {
        let mut actors = system.actors();
        actors.retain(|name| name.starts_with("steps/"));
        (actors.len(), system.snapshot().steps.running)
    };
    for _ in 0..100 {
        if left() == (0, 0) {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("still there: {:?}", left());
}

/// What has been said of steps so far, as a word each.
fn told(events: &mut EventStream) -> Vec<String> {
    let mut words = Vec::new();
    let mut seq = 0;
    while let Some(Some(Heard::Event(event))) = events.next().now_or_never() {
        assert!(event.seq > seq, "numbers rise");
        seq = event.seq;
        words.extend(match event.kind {
            EventKind::StepStarted { .. } => Some("started".to_owned()),
            EventKind::StepRetrying { verdict, .. } => Some(format!("retrying: {}", verdict.label)),
            EventKind::StepRestarting { why, .. } => Some(format!("restarting: {why}")),
            EventKind::StepEnded { how, runs, .. } => Some(format!("{how} in run {runs}")),
            _ => None,
        });
    }
    words
}

#[tokio::test(start_paused = true)]
async fn an_error_that_may_pass_is_retried_and_one_that_may_not_is_final() {
    let system = system().await;
    let mut events = system.events();
    let judge = |error: &&str| if *error == "busy" { BUSY } else { FINAL };
    let step = system
        .spawn_judged_step(StepSettings::default(), judge, |run| async move {
            if run.failures < 2 {
                return Err("busy");
            }
            assert!(run.restarts > 0, "a bug");
            Ok((run.number, run.failures, run.restarts))
        })
        .await
        .unwrap();
    assert_eq!(step.join().await.unwrap(), (4, 2, 1));
    let step = system
        .spawn_judged_step(StepSettings::default(), judge, |run| async move {
            Err::<(), _>(if run.number == 1 {
                "busy"
            } else {
                "no such tool"
            })
        })
        .await
        .unwrap();
    assert!(matches!(
        step.join().await,
        Err(StepError::Failed("no such tool"))
    ));
    assert_eq!(
        told(&mut events),
        [
            "started",
            "retrying: busy",
            "retrying: busy",
            "restarting: it panicked: a bug",
            "answered in run 4",
            "started",
            "retrying: busy",
            "failed in run 2",
        ]
    );
    let steps = system.snapshot().steps;
    assert_eq!((steps.running, steps.retries, steps.restarts), (0, 3, 1));
    nothing_is_left(&system).await;
}

#[tokio::test(start_paused = true)]
async fn the_retry_budget_is_its_own_and_its_last_error_is_the_answer() {
    let system = system().await;
    let settings = StepSettings {
        restarts: 0,
        retry: Retry::new(3, Backoff::default(), Duration::ZERO).unwrap(),
        ..StepSettings::default()
    };
    let step = system
        .spawn_judged_step(
            settings,
            |_| BUSY,
            |run| async move { Err::<(), _>(run.number) },
        )
        .await
        .unwrap();
    assert!(matches!(step.join().await, Err(StepError::Failed(3))));
    nothing_is_left(&system).await;
}

#[tokio::test(start_paused = true)]
async fn the_servers_hint_is_the_floor_of_the_pause_even_when_the_actor_is_killed_in_it() {
    let system = system().await;
    let told = BUSY.not_before(Some(second(20)));
    let began = Instant::now();
    let step = system
        .spawn_judged_step(
            StepSettings::default(),
            move |()| told,
            |run| async move { if run.number == 1 { Err(()) } else { Ok(()) } },
        )
        .await
        .unwrap();
    let mut state = step.watch();
    state
        .wait_for(|state| *state == StepState::Retrying(1))
        .await
        .unwrap();
    sleep(second(5)).await;
    assert!(system.kill(step.name()));
    step.join().await.unwrap();
    let waited = began.elapsed();
    assert!(waited >= second(20) && waited <= second(22), "{waited:?}");
    assert_eq!(system.snapshot().steps.restarts, 1);
    nothing_is_left(&system).await;
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_passes_the_deadline_is_not_begun() {
    let system = system().await;
    let told = BUSY.not_before(Some(second(80)));
    let began = Instant::now();
    let step = system
        .spawn_judged_step(
            StepSettings::default(),
            move |_| told,
            |_| async move { Err::<(), _>("busy") },
        )
        .await
        .unwrap();
    assert!(matches!(step.join().await, Err(StepError::Failed("busy"))));
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn cancelled_in_a_pause_a_step_ends_at_once_and_leaves_no_actor() {
    let system = system().await;
    let told = BUSY.not_before(Some(second(60)));
    let step = system
        .spawn_judged_step(
            StepSettings::default(),
            move |()| told,
            |_| async move { Err::<(), _>(()) },
        )
        .await
        .unwrap();
    let mut state = step.watch();
    state
        .wait_for(|state| *state == StepState::Retrying(1))
        .await
        .unwrap();
    let began = Instant::now();
    step.cancel();
    assert!(matches!(step.join().await, Err(StepError::Cancelled)));
    nothing_is_left(&system).await;
    assert!(began.elapsed() < second(1));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_inside_a_hang_or_between_two_incarnations_is_kept_to_the_millisecond() {
    let system = system().await;
    let settings = StepSettings {
        deadline: second(10),
        restarts: 1000,
        ..StepSettings::default()
    };
    let began = Instant::now();
    // Panics at once each time, so that most of its time is the supervisor's backoff.
    let step = system
        .spawn_step(settings, |run| async move {
            assert!(run.number == 0, "a bug");
            Ok::<_, ()>(())
        })
        .await
        .unwrap();
    assert!(matches!(step.join().await, Err(StepError::TimedOut)));
    assert_eq!(began.elapsed().as_secs(), 10);
    assert!(began.elapsed().subsec_millis() <= 1);
    nothing_is_left(&system).await;
}

#[tokio::test(start_paused = true)]
async fn a_judge_that_panics_costs_a_restart_and_leaves_no_actor() {
    let system = system().await;
    let mut events = system.events();
    let settings = StepSettings {
        restarts: 1,
        ..StepSettings::default()
    };
    let judge = |_: &&str| -> Verdict { panic!("the judge's own bug") };
    let step = system
        .spawn_judged_step(settings, judge, |_| async { Err::<(), _>("busy") })
        .await
        .unwrap();
    let Err(StepError::GaveUp { runs: 2, last }) = step.join().await else {
        panic!("it had two runs")
    };
    assert_eq!(last, "its judge panicked: the judge's own bug");
    assert_eq!(
        told(&mut events)[1..],
        [
            "restarting: its judge panicked: the judge's own bug",
            "gave_up in run 2",
        ]
    );
    nothing_is_left(&system).await;
}

#[tokio::test(start_paused = true)]
async fn killed_for_ever_a_step_gives_up_and_leaves_no_actor() {
    let system = system().await;
    let step = system
        .spawn_step(StepSettings::default(), |_| {
            std::future::pending::<Result<(), ()>>()
        })
        .await
        .unwrap();
    let mut state = step.watch();
    for run in 1..=4 {
        state
            .wait_for(|state| *state == StepState::Running(run))
            .await
            .unwrap();
        assert!(system.kill(step.name()));
    }
    let gave_up = step.join().await;
    assert!(
        matches!(gave_up, Err(StepError::GaveUp { runs: 4, .. })),
        "{gave_up:?}"
    );
    nothing_is_left(&system).await;
}

#[tokio::test(start_paused = true)]
async fn steps_outlive_their_branch() {
    let system = system().await;
    let step = system
        .spawn_step(StepSettings::default(), |run| async move {
            sleep(second(5)).await;
            Ok::<_, ()>(run.number)
        })
        .await
        .unwrap();
    sleep(second(1)).await;
    assert!(system.kill("steps"));
    assert_eq!(step.join().await.unwrap(), 2);
    nothing_is_left(&system).await;
}

#[tokio::test(start_paused = true)]
async fn a_dropped_handle_lets_the_step_go_on() {
    let system = system().await;
    let done = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&done);
    let step = system
        .spawn_step(StepSettings::default(), move |_| {
            let count = Arc::clone(&count);
            async move {
                sleep(second(5)).await;
                count.fetch_add(1, Ordering::Relaxed);
                Ok::<_, ()>(())
            }
        })
        .await
        .unwrap();
    drop(step);
    assert_eq!(system.snapshot().steps.running, 1);
    sleep(second(6)).await;
    assert_eq!(done.load(Ordering::Relaxed), 1);
    nothing_is_left(&system).await;
    let step = system
        .spawn_step(StepSettings::default(), |_| {
            std::future::pending::<Result<(), ()>>()
        })
        .await
        .unwrap();
    let mut state = step.watch();
    let left = tokio::time::timeout(second(1), step.cancel_on_drop().join()).await;
    assert!(left.is_err());
    state
        .wait_for(|state| *state == StepState::Ended)
        .await
        .unwrap();
    nothing_is_left(&system).await;
}

#[tokio::test(start_paused = true)]
async fn stopping_the_system_ends_its_steps_at_once_and_drops_what_they_hold() {
    let system = system().await;
    let held = Arc::new(());
    let mut events = system.events();
    let (inside, own) = (Arc::clone(&held), system.clone());
    let step = system
        .spawn_step(StepSettings::default(), move |_| {
            // As a step that makes calls does, it holds the system that holds it.
            let inside = (Arc::clone(&inside), own.clone());
            async move {
                sleep(second(60)).await;
                drop(inside);
                Ok::<_, ()>(())
            }
        })
        .await
        .unwrap();
    let state = step.watch();
    sleep(second(1)).await;
    let began = Instant::now();
    system.stop().await;
    assert!(began.elapsed() < second(1));
    assert!(matches!(step.join().await, Err(StepError::Stopped)));
    assert_eq!(*state.borrow(), StepState::Ended);
    assert_eq!(told(&mut events), ["started", "stopped in run 1"]);
    assert_eq!(Arc::strong_count(&held), 1);
}

#[tokio::test(start_paused = true)]
async fn settings_that_no_clock_can_hold_are_taken() {
    let system = system().await;
    let settings = StepSettings {
        deadline: Duration::MAX,
        run_timeout: Duration::MAX,
        ..StepSettings::default()
    };
    let step = system
        .spawn_step(settings, |run| async move { Ok::<_, ()>(run.number) })
        .await
        .unwrap();
    assert_eq!(step.join().await.unwrap(), 1);
}
