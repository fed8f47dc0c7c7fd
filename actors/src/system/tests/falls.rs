//! Where a call ends when some of its rungs let nobody pass and others have said no.

use super::ladders::{BUSY, DENIED, Played, REFUSED, by_name, open};
use super::*;
use crate::admission::Terms;
use crate::policy::backoff::Backoff;
use crate::policy::circuit::Mode;
use crate::policy::ladder::{Cause, Causes};

const UNKNOWN: Verdict =
    Verdict::new("not_found", Blame::Caller, Again::Elsewhere).because(Cause::NotFound);
const LIMITED: Verdict = Verdict::new("rate_limited", Blame::Quota, Again::Here);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A fixed answer for when every wait is over.
fn fixed() -> Rung {
    let mut rung = Rung::stand_in("static");
    rung.rules.led_to_by = Causes::LAST;
    rung
}

fn told(finished: &Finished<&'static str, &'static str>) -> &'static str {
    match &finished.result {
        Ok(answer) => answer,
        Err(CallError::Failed { error, .. }) => error,
        Err(other) => panic!("{other:?}"),
    }
}

/// Lets a target's breaker go back to its own judgement after a while.
fn freed_after(target: &Target, wait: Duration) {
    let target = target.clone();
    drop(tokio::spawn(async move {
        sleep(wait).await;
        target.force(Mode::Auto);
    }));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_a_lower_rung_is_the_answer_though_a_higher_one_is_only_barred() {
    let system = system().await;
    let (a, b) = (target(&system, "a").await, target(&system, "b").await);
    a.force(Mode::ForcedOpen);
    let mut call = call_to(&[&a, &b], MINUTE);
    call.rungs.push(fixed());
    let began = Instant::now();
    let played = Played::new(by_name(&[("b", Err(REFUSED))])).or_else("sorry");
    let finished = system.run(call, played).await;
    assert_eq!((told(&finished), finished.report.attempts), ("refused", 1));
    assert!(began.elapsed() < secs(1), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_a_lower_rung_lacks_a_higher_one_that_is_barred_may_have() {
    for verdict in [UNKNOWN, DENIED] {
        let system = system().await;
        let (a, b) = (target(&system, "a").await, target(&system, "b").await);
        a.force(Mode::ForcedOpen);
        freed_after(&a, secs(5));
        let mut call = call_to(&[&a, &b], MINUTE);
        call.rungs[1].rules.credential = 9;
        let played = Played::new(move |attempt| match attempt.rung {
            0 => (Duration::ZERO, Ok("a")),
            _ => (Duration::ZERO, Err(verdict)),
        });
        let finished = system.run(call, played).await;
        assert_eq!((told(&finished), finished.report.attempts), ("a", 2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_fixed_answer_serves_an_outage_although_the_target_below_has_said_no_for_good() {
    for (first, verdict, expected) in [
        (BUSY, UNKNOWN, "sorry"),
        (BUSY, DENIED, "sorry"),
        // What nobody would answer later is told.
        (UNKNOWN, UNKNOWN, "not_found"),
        (BUSY, REFUSED, "refused"),
    ] {
        let system = system().await;
        let (a, b) = (target(&system, "a").await, target(&system, "b").await);
        let mut call = call_to(&[&a, &b], MINUTE);
        call.rungs[1].rules.credential = 9;
        call.rungs.push(fixed());
        let played = Played::new(move |attempt| match attempt.rung {
            0 => (Duration::ZERO, Err(first)),
            _ => (Duration::ZERO, Err(verdict)),
        });
        let finished = system.run(call, played.or_else("sorry")).await;
        assert_eq!(told(&finished), expected, "{first:?} {verdict:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rung_for_refusals_gets_its_attempt_of_a_call_that_makes_only_one() {
    let system = system().await;
    let (a, b) = (target(&system, "a").await, target(&system, "b").await);
    let mut call = call_to(&[&a, &b], MINUTE);
    call.retry = Retry::new(1, Backoff::default(), Duration::ZERO).unwrap();
    call.rungs[1].rules.led_to_by = Causes::of(&[Cause::Refused]);
    let played = Played::new(by_name(&[("a", Err(REFUSED)), ("b", Ok("b"))]));
    let finished = system.run(call, played).await;
    assert_eq!((told(&finished), finished.report.attempts), ("b", 2));
}

#[tokio::test(start_paused = true)]
async fn what_opens_again_gets_the_attempt_that_was_kept_for_a_rung_that_has_had_its_own() {
    let system = system().await;
    let (a, b) = (target(&system, "a").await, target(&system, "b").await);
    a.force(Mode::ForcedOpen);
    freed_after(&a, secs(30));
    let mut call = call_to(&[&a, &b], MINUTE);
    call.rungs[1].rules.attempts = Some(4);
    let played = Played::new(by_name(&[("a", Ok("a")), ("b", Err(BUSY))]));
    let finished = system.run(call, played).await;
    assert_eq!((told(&finished), finished.report.attempts), ("a", 5));
}

#[tokio::test(start_paused = true)]
async fn a_barred_target_that_is_too_slow_to_be_waited_for_keeps_nobody_from_the_others() {
    let system = system().await;
    let (a, b) = (target(&system, "a").await, target(&system, "b").await);
    // With a median of 40 s nothing shorter than 80 s is a useful attempt.
    let terms = || Terms::within(MINUTE);
    for _ in 0..100 {
        let permit = system.admit(&b, terms()).await.unwrap();
        sleep(secs(40)).await;
        permit.finish(&Verdict::OK, None);
    }
    for target in [&a, &b] {
        target.force(Mode::ForcedOpen);
    }
    freed_after(&a, secs(5));
    let played = Played::new(by_name(&[("a", Ok("a"))]));
    let finished = system.run(call_to(&[&a, &b], MINUTE), played).await;
    assert_eq!(told(&finished), "a");
}

/// A target of one request a minute, which is used up.
async fn used_up(system: &System) -> Target {
    let settings = QuotaSettings {
        requests_per_minute: Some(1),
        ..QuotaSettings::default()
    };
    let spec = QuotaSpec {
        settings,
        ..QuotaSpec::default()
    };
    let quota = system.quota("q", spec).await.unwrap();
    let spec = || TargetSpec {
        quota: Some(quota),
        ..TargetSpec::default()
    };
    let target = system.target("t", spec).await.unwrap();
    let permit = system.admit(&target, Terms::within(MINUTE)).await.unwrap();
    permit.finish(&Verdict::OK, None);
    target
}

#[tokio::test(start_paused = true)]
async fn a_limiter_that_dies_on_a_call_sends_it_on_and_not_away() {
    let system = system().await;
    let (a, b) = (used_up(&system).await, target(&system, "b").await);
    let mut call = call_to(&[&a, &b], MINUTE);
    // Over before the limiter is there again.
    call.patience = Duration::ZERO;
    // It is there again at once after its first death, and not so soon after the next.
    for _ in 0..2 {
        assert!(system.kill("limiters/q"));
        sleep(Duration::from_millis(30)).await;
    }
    let played = Played::new(by_name(&[("b", Ok("b"))]));
    let finished = system.run(call, played).await;
    assert_eq!(told(&finished), "b");
    assert_eq!(finished.report.cause, Some(Cause::Quota));
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_its_quota_refuses_costs_the_retry_budget_nothing() {
    let system = system().await;
    let target = used_up(&system).await;
    let budget = || system.snapshot().breakers[0].retry_budget;
    let before = budget();
    for _ in 0..8 {
        let mut call = call_to(&[&target], MINUTE);
        call.continues = true;
        call.patience = Duration::ZERO;
        let finished = system.run(call, Played::new(by_name(&[]))).await;
        assert!(matches!(finished.result, Err(CallError::Refused(_))));
        assert_eq!(finished.report.attempts, 0);
    }
    assert_eq!(budget(), before);
}

#[tokio::test(start_paused = true)]
async fn after_a_probe_that_was_told_to_wait_nobody_comes_before() {
    let system = system().await;
    let a = open(&system, "a").await;
    let at = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&at);
    let played = Played::new(move |_| {
        let mut noted = noted.lock();
        noted.push(Instant::now());
        let told = LIMITED.not_before(Some(secs(20)));
        (
            Duration::ZERO,
            if noted.len() == 1 { Err(told) } else { Ok("a") },
        )
    });
    let finished = system.run(call_to(&[&a], MINUTE), played).await;
    assert_eq!(told(&finished), "a");
    let at = at.lock().clone();
    assert!(at[1] - at[0] >= secs(20), "{:?}", at[1] - at[0]);
}

#[tokio::test(start_paused = true)]
async fn a_hint_beyond_what_the_call_may_wait_is_not_waited_for() {
    for (hint, below, expected, attempts) in [
        (secs(10), true, "b", 2),
        (secs(10), false, "rate_limited", 1),
        (secs(2), false, "a", 2),
    ] {
        let system = system().await;
        let (a, b) = (target(&system, "a").await, target(&system, "b").await);
        let rungs: &[&Target] = if below { &[&a, &b] } else { &[&a] };
        let mut call = call_to(rungs, MINUTE);
        call.patience = secs(5);
        let played = Played::new(move |attempt| match (attempt.rung, attempt.number) {
            (0, 1) => (Duration::ZERO, Err(LIMITED.not_before(Some(hint)))),
            (0, _) => (Duration::ZERO, Ok("a")),
            _ => (Duration::ZERO, Ok("b")),
        });
        let began = Instant::now();
        let finished = system.run(call, played).await;
        assert_eq!(
            (told(&finished), finished.report.attempts),
            (expected, attempts)
        );
        assert!(began.elapsed() < secs(5), "{:?}", began.elapsed());
    }
}
