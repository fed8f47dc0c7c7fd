//! Hooks on a running system. They run on a thread of their own, so a test waits for what they say
//! and not for time to pass.

use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::caller::{Call, Outcome, Rung};
use crate::policy::quota::Cost;
use crate::policy::retry::Retry;
use crate::policy::wait_queue::{Priority, Tenant};
use crate::step::StepSettings;
use crate::system::{System, SystemSettings, Target, TargetSpec};
use crate::verdict::{Again, Blame};

const BUSY: Verdict = Verdict::new("busy", Blame::Target, Again::Here);

/// Longest real time that a hook's word is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

async fn system() -> System {
    let settings = SystemSettings {
        seed: Some(5),
        ..SystemSettings::default()
    };
    System::start(settings).await.unwrap()
}

async fn call(system: &System, targets: &[&Target]) -> bool {
    let cost = Cost::ZERO;
    let rung = |&target: &&Target| Rung::target(target.clone(), cost);
    let call = Call {
        id: "call".into(),
        rungs: targets.iter().map(rung).collect(),
        deadline: Instant::now() + Duration::from_secs(20),
        held_until: Instant::now() + Duration::from_secs(20),
        continues: false,
        patience: Duration::from_secs(20),
        priority: Priority::Normal,
        tenant: Tenant::default(),
        retry: Retry::default(),
        hedge: None,
    };
    let operation = |attempt: crate::caller::Attempt| async move {
        if &**attempt.target.name() == "down" {
            Outcome::failed("busy", BUSY)
        } else {
            Outcome::ok(())
        }
    };
    system.call(call, operation).await.result.is_ok()
}

/// Reads until `last` was said.
fn until(said: &Receiver<String>, last: &str) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let word = said.recv_timeout(PATIENCE).unwrap();
        all.push(word.clone());
        if word == last {
            return all;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_hook_hears_what_it_is_named_after() {
    let system = system().await;
    let down = system.target("down", TargetSpec::default).await.unwrap();
    let up = system.target("up", TargetSpec::default).await.unwrap();
    let (say, said) = channel();
    let tell = || {
        let say = say.clone();
        move |word: String| say.send(word).unwrap()
    };
    let (retry, wait, breaker, fall) = (tell(), tell(), tell(), tell());
    let (restart, step) = (tell(), tell());
    let hooks = Hooks::new()
        .on_retry(move |r| retry(format!("retry {} {} {}", r.call, r.target, r.verdict.label)))
        .on_wait(move |w| wait(format!("wait {:?}", w.at)))
        .on_breaker(move |b| breaker(format!("breaker {} {}", b.target, b.state.as_str())))
        .on_fall(move |f| fall(format!("fall {} {}", f.rung, f.target)))
        .on_restart(move |r| restart(format!("restart {}", r.actor)))
        .on_step(move |s| {
            if let StepChange::Ended { how, runs } = s.change {
                step(format!("step {how} in {runs}"));
            }
        });
    system.hook(hooks).unwrap();
    assert!(call(&system, &[&down, &up]).await);
    assert!(!call(&system, &[&down]).await);
    let panics_once = system.spawn_step(StepSettings::default(), |run| async move {
        assert!(run.number > 1, "a bug");
        Ok::<_, ()>(())
    });
    let step = panics_once.await.unwrap();
    let restarted = format!("restart {}", step.name());
    step.join().await.unwrap();
    let all = until(&said, "step answered in 2");
    for expected in [
        "retry call down busy",
        "breaker down open",
        "breaker down half_open",
        "fall 1 up",
        "wait Breaker(\"down\")",
        &restarted,
    ] {
        assert!(
            all.iter().any(|word| word == expected),
            "{expected}: {all:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_blocks_slows_no_call_and_is_told_what_it_missed() {
    let system = system().await;
    let target = system.target("up", TargetSpec::default).await.unwrap();
    let (entered, has_entered) = channel();
    let (let_go, may_go) = channel::<()>();
    let (lag, lost) = channel();
    let mut first = true;
    let hooks = Hooks::new()
        .on_event(move |_| {
            if std::mem::take(&mut first) {
                entered.send(()).unwrap();
                may_go.recv().unwrap();
            }
        })
        .on_lag(move |n| lag.send(n).unwrap());
    system.hook(hooks).unwrap();
    let events = system.shared_events();
    let emit = || events.emit(|| EventKind::BreakerHalfOpen { target: "t".into() });
    emit();
    has_entered.recv_timeout(PATIENCE).unwrap();
    // The hook blocks its thread from here on.
    let before = Instant::now();
    for _ in 0..100 {
        assert!(call(&system, &[&target]).await);
    }
    assert_eq!(before.elapsed(), Duration::ZERO);
    for _ in 0..3000 {
        emit();
    }
    let_go.send(()).unwrap();
    let missed = lost.recv_timeout(PATIENCE).unwrap();
    assert_eq!(missed, 3000 - 1024);
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_panics_is_counted_and_called_again() {
    let system = system().await;
    let mut stream = system.events();
    let (say, said) = channel();
    let mut calls = 0;
    let hooks = Hooks::new()
        .on_event(|_| panic!("a bug in the hook"))
        .on_breaker(move |_| {
            calls += 1;
            say.send(calls).unwrap();
        });
    system.hook(hooks).unwrap();
    let events = system.shared_events();
    for expected in 1..=3 {
        events.emit(|| EventKind::BreakerHalfOpen { target: "t".into() });
        assert_eq!(said.recv_timeout(PATIENCE).unwrap(), expected);
    }
    // The third panic was counted before the third call of the other hook.
    assert_eq!(system.snapshot().hook_panics, 3);
    let mut told = 0;
    while told < 3 {
        let Some(Heard::Event(event)) = stream.next().await else {
            panic!("the stream has ended")
        };
        if let EventKind::HookPanicked { hook, message } = event.kind {
            assert_eq!((hook, &*message), ("on_event", "a bug in the hook"));
            told += 1;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn hooks_end_with_their_system() {
    let system = system().await;
    let (alive, gone) = channel::<()>();
    let hooks = Hooks::new().on_event(move |_| alive.send(()).unwrap());
    system.hook(hooks).unwrap();
    system.stop().await;
    // Disconnected: the hook, which held the sender, was dropped with its thread's work.
    assert_eq!(
        gone.recv_timeout(PATIENCE),
        Err(std::sync::mpsc::RecvTimeoutError::Disconnected)
    );
    let (alive, gone) = channel::<()>();
    let late = Hooks::new().on_lag(move |_| alive.send(()).unwrap());
    system.hook(late).unwrap();
    assert_eq!(
        gone.recv_timeout(PATIENCE),
        Err(std::sync::mpsc::RecvTimeoutError::Disconnected)
    );
}
