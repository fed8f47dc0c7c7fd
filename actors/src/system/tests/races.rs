//! Attempts that are cut short, and two attempts of one moment: what is counted, where, and who is told.

use super::ladders::{BUSY, DENIED, Played, REFUSED, hedged};
use super::*;
use crate::caller::HedgeOn;
use crate::policy::backoff::Backoff;
use crate::policy::ladder::{Cause, Causes, Rules};

const HOUR: Duration = Duration::from_secs(3_600);

/// How long an attempt takes, and how it ends.
type Ends = (Duration, Result<&'static str, Verdict>);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn attempts(call: Call, attempts: u32) -> Call {
    Call {
        retry: Retry::new(attempts, Backoff::default(), Duration::ZERO).unwrap(),
        ..call
    }
}

/// Runs a call whose attempts go as `script` says. Gives the rung of each attempt too.
async fn played(
    system: &System,
    call: Call,
    script: impl Fn(&Attempt) -> Ends + Send + Sync + 'static,
) -> (Finished<&'static str, &'static str>, Vec<usize>) {
    let rungs = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&rungs);
    let operation = Played::new(move |attempt| {
        noted.lock().push(attempt.rung);
        script(attempt)
    });
    let finished = system.run(call, operation).await;
    assert_eq!(system.snapshot().pool.in_flight, 0);
    let rungs = rungs.lock().clone();
    assert_eq!(finished.report.attempts as usize, rungs.len());
    (finished, rungs)
}

/// Two targets that nothing is known of.
async fn two() -> (System, Target, Target) {
    let system = system().await;
    let (a, b) = (target(&system, "a").await, target(&system, "b").await);
    (system, a, b)
}

fn told(finished: &Finished<&'static str, &'static str>) -> &'static str {
    match &finished.result {
        Ok(answer) => answer,
        Err(CallError::Failed { error, .. }) => error,
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_is_cut_short_is_one_of_the_calls_and_the_targets_below_keep_theirs() {
    for share in [Some(0.25), None] {
        let (system, a, b) = two().await;
        let silent_on = |rung: usize| {
            move |attempt: &Attempt| match attempt.rung == rung {
                true => (HOUR, Ok("never")),
                false => (Duration::ZERO, Err(BUSY)),
            }
        };
        let call = |share| {
            let mut call = call_to(&[&a, &b], 10 * MINUTE);
            call.rungs[0].rules.share = share;
            call
        };
        let (_, rungs) = played(&system, attempts(call(share), 3), silent_on(0)).await;
        assert_eq!(rungs, [0, 1, 1], "{share:?}");
        let (_, rungs) = played(&system, attempts(call(share), 1), silent_on(0)).await;
        assert_eq!(rungs, [0, 1], "{share:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn silence_leads_to_a_target_that_is_there_for_overload_alone() {
    let (system, a, b) = two().await;
    for share in [None, Some(0.5)] {
        let mut call = call_to(&[&a, &b], MINUTE);
        call.rungs[0].rules.share = share;
        call.rungs[1].rules.led_to_by = Causes::of(&[Cause::Overloaded]);
        let (finished, _) = played(&system, call, |attempt| match attempt.rung {
            0 => (HOUR, Ok("never")),
            _ => (Duration::ZERO, Ok("b")),
        })
        .await;
        assert_eq!(told(&finished), "b");
        assert_eq!(finished.report.cause, Some(Cause::Overloaded));
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_attempt_that_hangs_is_seen_by_its_targets_breaker_while_it_does() {
    for (on, first, name) in [
        (HedgeOn::Next, (secs(60), Ok("slow")), "b"),
        (HedgeOn::Same, (secs(20), Err(INVALID)), "a"),
    ] {
        let (system, a, b) = two().await;
        let mut calls = JoinSet::new();
        for _ in 0..5 {
            let call = hedged(call_to(&[&a, &b], 10 * MINUTE), on, 1);
            let system = system.clone();
            let played = Played::new(move |attempt| match attempt.number {
                1 => first,
                _ => (HOUR, Ok("never")),
            });
            calls.spawn(async move { system.run(call, played).await });
        }
        // Nothing is slow for 30 s, and the second attempt came after two.
        for (after, expected) in [(31_500, State::Closed), (900, State::Open)] {
            sleep(Duration::from_millis(after)).await;
            let snapshot = system.snapshot();
            let mut breakers = snapshot.breakers.iter();
            let breaker = breakers.find(|breaker| *breaker.name == *name).unwrap();
            assert_eq!(
                breaker.circuit.state, expected,
                "{name} after {after} ms more"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_attempt_counts_on_its_own_rung() {
    let (system, a, b) = two().await;
    let mut call = hedged(call_to(&[&a, &b], 10 * MINUTE), HedgeOn::Next, 1);
    call.rungs[1].rules.attempts = Some(2);
    let (_, rungs) = played(&system, call, |attempt| match attempt.number {
        1 => (secs(10), Err(BUSY)),
        _ => (secs(1), Err(BUSY)),
    })
    .await;
    assert_eq!(rungs, [0, 1, 0, 0, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_second_attempt_is_one_of_the_calls_own() {
    let slow = |attempt: &Attempt| match attempt.rung {
        0 => (secs(10), Err(BUSY)),
        _ => (secs(1), Ok("b")),
    };
    for (on, all, own, expected) in [
        (HedgeOn::Same, 1, None, &[0, 1][..]),
        (HedgeOn::Same, 2, None, &[0, 1]),
        (HedgeOn::Same, 3, None, &[0, 0, 1]),
        (HedgeOn::Same, 5, Some(1), &[0, 1]),
        (HedgeOn::Next, 1, None, &[0, 1]),
    ] {
        let (system, a, b) = two().await;
        let mut call = attempts(hedged(call_to(&[&a, &b], 10 * MINUTE), on, 1), all);
        call.rungs[0].rules.attempts = own;
        let (finished, rungs) = played(&system, call, slow).await;
        assert_eq!(rungs, expected, "{on:?} {all} {own:?}");
        assert_eq!(told(&finished), "b");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_second_attempt_was_refused_is_not_sent_to_its_target_again() {
    // On the same target its word is the target's, whatever the first one runs into.
    for first in [(secs(9), Err(BUSY)), (HOUR, Ok("never"))] {
        let (system, a, b) = two().await;
        let call = hedged(call_to(&[&a, &b], MINUTE), HedgeOn::Same, 1);
        let (finished, rungs) = played(&system, call, move |attempt| match attempt.number {
            1 => first,
            _ => (secs(1), Err(REFUSED)),
        })
        .await;
        assert_eq!((told(&finished), rungs), ("refused", vec![0, 0]));
        assert_eq!(finished.report.rung, 0);
    }
    // On the next one it is that one's alone.
    for verdict in [REFUSED, DENIED, INVALID] {
        let (system, a, b) = two().await;
        let mut call = hedged(call_to(&[&a, &b], 10 * MINUTE), HedgeOn::Next, 1);
        call.rungs[1].rules = Rules {
            credential: 9,
            ..Rules::TARGET
        };
        let (finished, rungs) = played(&system, call, move |attempt| match attempt.rung {
            0 => (secs(9), Err(BUSY)),
            _ => (secs(1), Err(verdict)),
        })
        .await;
        assert_eq!(told(&finished), BUSY.label, "{verdict:?}");
        assert_eq!(rungs, [0, 1, 0, 0], "{verdict:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_first_was_refused_stands_when_the_second_says_nothing() {
    let (system, a, b) = two().await;
    let call = hedged(call_to(&[&a, &b], MINUTE), HedgeOn::Next, 1);
    let began = Instant::now();
    let (finished, rungs) = played(&system, call, |attempt| match attempt.rung {
        0 => (secs(5), Err(REFUSED)),
        _ => (HOUR, Ok("never")),
    })
    .await;
    assert_eq!((told(&finished), rungs), ("refused", vec![0, 1]));
    assert_eq!(began.elapsed().as_secs(), 40);
    assert_eq!(finished.report.rung, 0, "the one that said so");
}

#[tokio::test(start_paused = true)]
async fn times_without_an_end_are_no_panic() {
    let system = system().await;
    let a = target(&system, "a").await;
    let mut call = hedged(call_to(&[&a], MINUTE), HedgeOn::Same, 1);
    call.patience = Duration::MAX;
    if let Some(hedge) = &mut call.hedge {
        hedge.after = Some(Duration::MAX);
    }
    let (finished, _) = played(&system, call, |_| (secs(1), Ok("a"))).await;
    assert_eq!(told(&finished), "a");
}
