//! A call on its ladder: what leads where, answers at hand, time shares, second attempts and probes
//! beside the call.

use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::*;
use crate::caller::{Hedge, HedgeOn, Occasion, Operation, Place};
use crate::policy::backoff::Backoff;
use crate::policy::hedge::HedgeBudget;
use crate::policy::ladder::{Cause, Causes, Rules};

pub(super) const REFUSED: Verdict =
    Verdict::new("refused", Blame::Caller, Again::Never).because(Cause::Refused);
pub(super) const DENIED: Verdict = Verdict::new("denied", Blame::Credential, Again::Elsewhere);
pub(super) const BUSY: Verdict =
    Verdict::new("overloaded", Blame::Target, Again::Here).overloaded();

type Script = dyn Fn(&Attempt) -> (Duration, Result<&'static str, Verdict>) + Send + Sync;

/// A rung that was asked, and why.
type Asked = (usize, Option<Cause>);

/// Attempts by a script; stand-ins that answer or not.
pub(super) struct Played {
    script: Box<Script>,
    stand_in: Option<&'static str>,
    asked: Arc<Mutex<Vec<Asked>>>,
    later: Option<Target>,
    place_takes: Duration,
    content_after: Option<Duration>,
    probes: Option<Arc<AtomicU32>>,
    probe_says: Verdict,
}

impl Played {
    pub(super) fn new(
        script: impl Fn(&Attempt) -> (Duration, Result<&'static str, Verdict>) + Send + Sync + 'static,
    ) -> Self {
        Self {
            script: Box::new(script),
            stand_in: None,
            asked: Arc::default(),
            later: None,
            place_takes: Duration::ZERO,
            content_after: None,
            probes: None,
            probe_says: Verdict::OK,
        }
    }

    /// With something to say where no attempt is made.
    pub(super) fn or_else(self, answer: &'static str) -> Self {
        Self {
            stand_in: Some(answer),
            ..self
        }
    }
}

impl Operation for Played {
    type Answer = &'static str;
    type Error = &'static str;

    async fn attempt(&self, attempt: Attempt) -> Outcome<&'static str, &'static str> {
        attempt.mark_sent();
        let (takes, ends) = (self.script)(&attempt);
        let content_after = self.content_after.unwrap_or(takes).min(takes);
        sleep(content_after).await;
        if self.content_after.is_some() {
            attempt.mark_content();
        }
        sleep(takes.saturating_sub(content_after)).await;
        match ends {
            Ok(answer) => Outcome::ok(answer),
            Err(verdict) => Outcome::failed(verdict.label, verdict),
        }
    }

    async fn place(&self, _: usize) -> Result<(Target, Cost), Cause> {
        sleep(self.place_takes).await;
        let target = self.later.clone().ok_or(Cause::NotFound)?;
        Ok((target, Cost::ZERO))
    }

    async fn stand_in(&self, rung: usize, occasion: Occasion) -> Option<&'static str> {
        self.asked.lock().push((rung, occasion.cause));
        self.stand_in
    }

    fn usually_within(&self, rung: usize) -> Option<Duration> {
        Some(Duration::from_secs(if rung == 0 { 2 } else { 50 }))
    }

    fn probes(&self, _: usize) -> bool {
        self.probes.is_some()
    }

    fn probe(&self, attempt: Attempt) -> Option<BoxFuture<'static, Outcome<(), ()>>> {
        let probes = Arc::clone(self.probes.as_ref()?);
        let says = self.probe_says;
        Some(Box::pin(async move {
            attempt.mark_sent();
            sleep(Duration::from_millis(50)).await;
            probes.fetch_add(1, Ordering::Relaxed);
            match says.is_ok() {
                true => Outcome::ok(()),
                false => Outcome::failed((), says),
            }
        }))
    }
}

pub(super) fn by_name(
    answers: &'static [(&'static str, Result<&'static str, Verdict>)],
) -> impl Fn(&Attempt) -> (Duration, Result<&'static str, Verdict>) + Send + Sync + 'static {
    move |attempt| {
        let name: &str = attempt.target.name();
        let found = answers.iter().find(|(of, _)| *of == name);
        (
            Duration::from_millis(10),
            found.map_or(Ok("?"), |(_, ends)| *ends),
        )
    }
}

fn led_by(mut call: Call, rung: usize, causes: &[Cause]) -> Call {
    call.rungs[rung].rules.led_to_by = Causes::of(causes);
    call
}

#[tokio::test(start_paused = true)]
async fn an_overload_is_waited_out_unless_a_rung_is_led_to_by_it() {
    let system = system().await;
    let (a, b) = (target(&system, "a").await, target(&system, "b").await);
    let script = || Played::new(by_name(&[("a", Err(BUSY)), ("b", Ok("b"))]));
    let patient = system.run(call_to(&[&a, &b], MINUTE), script()).await;
    assert_eq!(patient.report.attempts, 5);
    assert_eq!(patient.report.cause, Some(Cause::AttemptsSpent));
    let hasty = led_by(call_to(&[&a, &b], MINUTE), 1, &[Cause::Overloaded]);
    let hasty = system.run(hasty, script()).await;
    assert_eq!(hasty.result.unwrap(), "b");
    assert_eq!((hasty.report.attempts, hasty.report.rung), (2, 1));
    assert_eq!(hasty.report.cause, Some(Cause::Overloaded));
}

#[tokio::test(start_paused = true)]
async fn an_overload_that_nobody_below_can_take_is_waited_out() {
    let system = system().await;
    let (a, b) = (open(&system, "a").await, target(&system, "b").await);
    let overloaded_until_the_third = || {
        Played::new(|attempt| {
            let busy = attempt.number < 3;
            (Duration::ZERO, if busy { Err(BUSY) } else { Ok("b") })
        })
    };
    // Its probe fails, so that it is open.
    let mut probe = call_to(&[&a], MINUTE);
    probe.retry = Retry::new(1, Backoff::default(), Duration::ZERO).unwrap();
    let failing = Played::new(by_name(&[("a", Err(OVERLOADED))]));
    drop(system.run(probe, failing).await);
    // Nothing at hand; another whose breaker is open; both.
    let mut empty = call_to(&[&b], MINUTE);
    empty.rungs.push(Rung::stand_in("cache"));
    let barred = call_to(&[&b, &a], MINUTE);
    let mut both = call_to(&[&b, &a], MINUTE);
    both.rungs.insert(1, Rung::stand_in("cache"));
    for mut call in [empty, barred, both] {
        for rung in &mut call.rungs[1..] {
            rung.rules.led_to_by = Causes::of(&[Cause::Overloaded]);
        }
        let stand_ins = call.rungs.len() - 1;
        let played = overloaded_until_the_third();
        let asked = Arc::clone(&played.asked);
        let Finished { result, report } = system.run(call, played).await;
        assert_eq!((result.unwrap(), report.attempts), ("b", 3));
        assert!(report.backed_off > Duration::ZERO, "{stand_ins}");
        assert!(asked.lock().len() <= 1, "{stand_ins}");
    }
    // Whoever was asked below had the last word, with whatever it failed.
    let c = target(&system, "c").await;
    let mut call = led_by(call_to(&[&b, &c], MINUTE), 1, &[Cause::Overloaded]);
    call.rungs[1].rules.attempts = Some(1);
    let script = by_name(&[("b", Err(BUSY)), ("c", Err(OVERLOADED))]);
    let report = system.run(call, Played::new(script)).await.report;
    assert_eq!((report.attempts, report.rung), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_and_a_denied_credential_go_only_where_they_may() {
    let system = system().await;
    let (a, b) = (target(&system, "a").await, target(&system, "b").await);
    for (verdict, rules, expected) in [
        (REFUSED, Rules::TARGET, Err("refused")),
        (
            REFUSED,
            Rules {
                led_to_by: Causes::of(&[Cause::Refused]),
                ..Rules::TARGET
            },
            Ok("b"),
        ),
        (DENIED, Rules::TARGET, Err("denied")),
        (
            DENIED,
            Rules {
                credential: 9,
                ..Rules::TARGET
            },
            Ok("b"),
        ),
    ] {
        let mut call = call_to(&[&a, &b], MINUTE);
        call.rungs[1].rules = rules;
        let played = Played::new(move |attempt| {
            let ends = if attempt.rung == 0 {
                Err(verdict)
            } else {
                Ok("b")
            };
            (Duration::ZERO, ends)
        });
        let finished = system.run(call, played).await;
        let attempts = 1 + u32::from(expected.is_ok());
        assert_eq!(finished.report.attempts, attempts, "{verdict:?}");
        match (finished.result, expected) {
            (Ok(answer), Ok(expected)) => assert_eq!(answer, expected),
            (Err(CallError::Failed { error, .. }), Err(expected)) => assert_eq!(error, expected),
            (result, _) => panic!("{verdict:?}: {result:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stand_in_is_asked_first_where_it_stands_first_and_again_where_it_stands_last() {
    let system = system().await;
    let a = target(&system, "a").await;
    let mut call = call_to(&[&a], MINUTE);
    call.rungs.insert(0, Rung::stand_in("cache"));
    call.rungs.push(Rung::stand_in("cache"));
    let played = Played::new(by_name(&[("a", Err(BUSY))]));
    let asked = Arc::clone(&played.asked);
    let finished = system.run(call.clone(), played).await;
    assert!(matches!(finished.result, Err(CallError::Failed { .. })));
    let spent = Some(Cause::AttemptsSpent);
    let last = Some(Cause::LastResort);
    assert_eq!(*asked.lock(), [(0, None), (2, spent), (0, last), (2, last)]);
    let full = Played {
        stand_in: Some("kept"),
        ..Played::new(by_name(&[]))
    };
    let finished = system.run(call, full).await;
    assert_eq!(finished.result.unwrap(), "kept");
    assert_eq!((finished.report.attempts, finished.report.rung), (0, 0));
    assert!(finished.report.stood_in);
}

#[tokio::test(start_paused = true)]
async fn a_last_resort_answers_only_when_the_waiting_is_over() {
    let system = system().await;
    let a = target(&system, "a").await;
    a.force(crate::policy::circuit::Mode::ForcedOpen);
    let mut call = call_to(&[&a], MINUTE);
    call.patience = Duration::from_secs(7);
    let mut last = Rung::stand_in("static");
    last.rules.led_to_by = Causes::LAST;
    call.rungs.push(last);
    let began = Instant::now();
    let played = Played {
        stand_in: Some("sorry"),
        ..Played::new(by_name(&[]))
    };
    let finished = system.run(call, played).await;
    assert_eq!(finished.result.unwrap(), "sorry");
    assert_eq!(began.elapsed().as_secs(), 7);
    assert_eq!(finished.report.cause, Some(Cause::LastResort));
    assert_eq!(finished.report.attempts, 0);
}

#[tokio::test(start_paused = true)]
async fn a_rung_ends_with_its_share_of_the_time() {
    let system = system().await;
    let (a, b) = (target(&system, "a").await, target(&system, "b").await);
    let mut call = call_to(&[&a, &b], MINUTE);
    call.rungs[0].rules.share = Some(0.25);
    let began = Instant::now();
    let played = Played::new(|attempt| match attempt.rung {
        0 => (Duration::from_secs(3600), Ok("never")),
        _ => (Duration::ZERO, Ok("b")),
    });
    let finished = system.run(call, played).await;
    assert_eq!(finished.result.unwrap(), "b");
    assert_eq!(began.elapsed().as_secs(), 15);
    assert_eq!(system.snapshot().pool.in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_rung_that_is_named_later_is_named_once_it_is_come_to_and_an_unfit_one_never() {
    let system = system().await;
    let (a, b) = (target(&system, "a").await, target(&system, "b").await);
    let mut events = system.events();
    let mut call = call_to(&[&a], MINUTE);
    let mut unfit = Rung::target(a.clone(), Cost::ZERO);
    unfit.rules.unfit = Some("cannot_images");
    call.rungs.push(unfit);
    call.rungs.push(Rung {
        place: Place::Later("b".into()),
        rules: Rules::TARGET,
    });
    let played = Played {
        later: Some(b),
        ..Played::new(by_name(&[("a", Err(BUSY)), ("b", Ok("b"))]))
    };
    let finished = system.run(call, played).await;
    assert_eq!(finished.result.unwrap(), "b");
    assert_eq!(finished.report.rung, 2);
    let mut said = Vec::new();
    while let Some(Heard::Event(event)) = events.next().now_or_never().flatten() {
        match event.kind {
            EventKind::SkippedRung { rung, why, .. } => said.push((rung, why)),
            EventKind::FellToRung { rung, why, .. } => said.push((rung, why)),
            _ => {}
        }
    }
    assert_eq!(said, [(1, "cannot_images"), (2, "attempts_spent")]);
}

pub(super) fn hedged(call: Call, on: HedgeOn, savings: u32) -> Call {
    let mut budget = HedgeBudget::new(0.2).unwrap();
    // Each call of the same size saves a fifth of a hedge.
    let cost = Cost {
        requests: 1,
        input: 10,
        output: 10,
    };
    (0..savings * 5).for_each(|_| budget.on_call(cost));
    Call {
        hedge: Some(Hedge {
            after: (on == HedgeOn::Same).then_some(Duration::from_secs(2)),
            on,
            budget: Arc::new(Mutex::new(budget)),
        }),
        ..call
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_attempt_is_outrun_by_a_second_one_and_ended_before_its_answer() {
    let system = system().await;
    let (a, b) = (target(&system, "a").await, target(&system, "b").await);
    for (on, won_by) in [(HedgeOn::Same, 0), (HedgeOn::Next, 1)] {
        let began = Instant::now();
        let fates = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&fates);
        let call = hedged(call_to(&[&a, &b], MINUTE), on, 1);
        let played = Played::new(move |attempt| {
            noted.lock().push(attempt.fate());
            match attempt.number {
                1 => (Duration::from_secs(30), Ok("slow")),
                _ => (Duration::from_secs(1), Ok("quick")),
            }
        });
        let finished = system.run(call, played).await;
        assert_eq!(finished.result.unwrap(), "quick");
        assert_eq!(began.elapsed().as_secs(), 3);
        let report = finished.report;
        assert_eq!(
            (report.attempts, report.rung, report.hedged),
            (2, won_by, true)
        );
        let outrun: Vec<bool> = fates.lock().iter().map(|fate| fate.is_outrun()).collect();
        assert_eq!(outrun, [true, false]);
        assert_eq!(system.snapshot().pool.in_flight, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn no_second_attempt_without_savings_after_content_or_on_a_barred_target() {
    let system = system().await;
    let a = target(&system, "a").await;
    let slow = |attempt: &Attempt| match attempt.number {
        1 => (Duration::from_secs(10), Ok("slow")),
        _ => (Duration::ZERO, Ok("quick")),
    };
    let call = hedged(call_to(&[&a], MINUTE), HedgeOn::Same, 0);
    let finished = system.run(call, Played::new(slow)).await;
    assert_eq!(finished.result.unwrap(), "slow");
    let call = hedged(call_to(&[&a], MINUTE), HedgeOn::Same, 1);
    let begun = Played::new(move |attempt| {
        attempt.mark_content();
        slow(attempt)
    });
    let finished = system.run(call, begun).await;
    assert_eq!(finished.report.attempts, 1);
    let b = target(&system, "b").await;
    b.force(crate::policy::circuit::Mode::ForcedOpen);
    let call = hedged(call_to(&[&a, &b], MINUTE), HedgeOn::Next, 1);
    let finished = system.run(call, Played::new(slow)).await;
    assert_eq!(
        (finished.report.attempts, finished.report.hedged),
        (1, false)
    );
}

#[tokio::test(start_paused = true)]
async fn when_one_of_two_fails_the_other_goes_on_and_when_both_do_the_first_is_told() {
    let system = system().await;
    let (a, b) = (target(&system, "a").await, target(&system, "b").await);
    let ends = |first: (u64, Result<&'static str, Verdict>),
                second: (u64, Result<&'static str, Verdict>)| {
        Played::new(move |attempt| {
            let (after, ends) = if attempt.number == 1 { first } else { second };
            (Duration::from_secs(after), ends)
        })
    };
    for (first, second, expected) in [
        ((5, Err(REFUSED)), (9, Ok("second")), Ok("second")),
        ((9, Ok("first")), (2, Err(REFUSED)), Ok("first")),
        ((9, Err(DENIED)), (2, Err(REFUSED)), Err("denied")),
        ((3, Err(DENIED)), (9, Err(REFUSED)), Err("denied")),
    ] {
        let call = hedged(call_to(&[&a, &b], MINUTE), HedgeOn::Next, 1);
        let finished = system.run(call, ends(first, second)).await;
        match (finished.result, expected) {
            (Ok(answer), Ok(expected)) => assert_eq!(answer, expected),
            (Err(CallError::Failed { error, .. }), Err(expected)) => assert_eq!(error, expected),
            (result, _) => panic!("{first:?} {second:?}: {result:?}"),
        }
        assert_eq!(finished.report.attempts, 2);
        assert_eq!(system.snapshot().pool.in_flight, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_first_said_is_told_where_the_second_says_nothing_in_time() {
    let system = system().await;
    let a = target(&system, "a").await;
    let call = hedged(call_to(&[&a], MINUTE), HedgeOn::Same, 1);
    let played = Played::new(|attempt| match attempt.number {
        1 => (Duration::from_secs(5), Err(OVERLOADED)),
        _ => (2 * MINUTE, Ok("late")),
    });
    let finished = system.run(call, played).await;
    match finished.result {
        Err(CallError::Failed { error, .. }) => assert_eq!(error, OVERLOADED.label),
        result => panic!("{result:?}"),
    }
    assert_eq!(system.snapshot().pool.in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_second_attempt_that_is_not_yet_made_is_given_up_once_the_first_fails_or_has_content() {
    let system = system().await;
    let (a, b) = (target(&system, "a").await, target(&system, "b").await);
    for (content, first) in [(false, Err(BUSY)), (true, Ok("slow"))] {
        let mut call = hedged(call_to(&[&a, &b], MINUTE), HedgeOn::Next, 1);
        call.rungs[1].place = Place::Later("b".into());
        let ends = Played::new(move |attempt| {
            let (first_takes, again) = (
                Duration::from_secs(if content { 9 } else { 3 }),
                Ok("again"),
            );
            match (attempt.rung, attempt.number) {
                (0, 1) => (first_takes, first),
                (0, _) => (Duration::ZERO, again),
                _ => (Duration::ZERO, Ok("beside")),
            }
        });
        let ends = Played {
            later: Some(b.clone()),
            place_takes: Duration::from_secs(5),
            content_after: content.then_some(Duration::from_secs(4)),
            ..ends
        };
        let finished = system.run(call, ends).await;
        let expected = first.unwrap_or("again");
        assert_eq!(finished.result.unwrap(), expected);
        assert!(!finished.report.hedged);
        assert_eq!(system.snapshot().pool.in_flight, 0);
    }
}

/// Opens a breaker by failures, and waits until its first probe is due.
pub(super) async fn open(system: &System, name: &str) -> Target {
    let target = target(system, name).await;
    for _ in 0..5 {
        let call = Call {
            retry: Retry::new(1, Backoff::default(), Duration::ZERO).unwrap(),
            ..call_to(&[&target], MINUTE)
        };
        drop(
            system
                .run(call, Played::new(by_name(&[("a", Err(OVERLOADED))])))
                .await,
        );
    }
    sleep(Duration::from_secs(61)).await;
    target
}

#[tokio::test(start_paused = true)]
async fn a_probe_is_made_beside_the_call_where_another_rung_answers_it() {
    let system = system().await;
    let (a, b) = (open(&system, "a").await, target(&system, "b").await);
    let probes = Arc::new(AtomicU32::new(0));
    let on = Arc::new(Mutex::new(Vec::new()));
    let mut answered_by = Vec::new();
    for _ in 0..20 {
        let noted = Arc::clone(&on);
        let played = Played {
            probes: Some(Arc::clone(&probes)),
            ..Played::new(move |attempt| {
                noted.lock().push(attempt.rung);
                (Duration::from_millis(5), Ok("x"))
            })
        };
        let finished = system.run(call_to(&[&a, &b], MINUTE), played).await;
        assert!(finished.result.is_ok());
        answered_by.push(finished.report.rung);
        sleep(Duration::from_secs(2)).await;
    }
    // Two probes close the circuit; then the calls come back, and none of them was the probe.
    assert_eq!(probes.load(Ordering::Relaxed), 2, "{answered_by:?}");
    assert_eq!(answered_by[0], 1);
    assert_eq!(answered_by.last(), Some(&0), "{answered_by:?}");
    assert_eq!(system.snapshot().pool.in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_probe_beside_that_fails_keeps_the_breaker_open_and_costs_no_call_anything() {
    let system = system().await;
    let (a, b) = (open(&system, "a").await, target(&system, "b").await);
    let probes = Arc::new(AtomicU32::new(0));
    for _ in 0..30 {
        let played = Played {
            probes: Some(Arc::clone(&probes)),
            probe_says: OVERLOADED,
            ..Played::new(by_name(&[("b", Ok("b"))]))
        };
        let finished = system.run(call_to(&[&a, &b], MINUTE), played).await;
        assert_eq!(
            (finished.result.unwrap(), finished.report.attempts),
            ("b", 1)
        );
        sleep(Duration::from_secs(10)).await;
    }
    let made = probes.load(Ordering::Relaxed);
    assert!((3..=12).contains(&made), "{made} probes in 300 s");
}
