//! The figures of one client in one drill, computed from what was asked, sent and answered.
//!
//! Every definition is the same for every client and reads only the two logs. "The faulty target" is
//! the first model of the scenario's ladder; "the fault" is the scenario's `fault` window. A figure
//! that has no meaning in a scenario is `null`.

use std::time::Duration;

use serde::Serialize;

use super::client::Ended;
use super::meter::AttemptRecord;
use super::scenario::Window;

mod figure;

pub use figure::Figure;

/// A pause in the attempts on the faulty target that counts as having noticed the fault.
///
/// At the 20 calls a second of the built-in outages a client that noticed nothing has mean gaps of
/// 50 ms, so that chance makes such a pause about once in 3 million gaps.
pub const PAUSE: Duration = Duration::from_millis(750);

/// A refusal later than this after the call was made is a failure, not a refusal at once.
pub const AT_ONCE: Duration = Duration::from_millis(100);

/// One call as its caller saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallRecord {
    /// When it was made, since the drill's start.
    pub issued: Duration,
    /// When its caller had an answer, an error, or enough of waiting.
    pub ended: Duration,
    /// How it ended.
    pub end: Ended,
}

impl CallRecord {
    /// Whether a whole answer came.
    #[must_use]
    pub const fn succeeded(&self) -> bool {
        matches!(self.end, Ended::Answered { .. })
    }

    /// Whether a rung below the first gave the answer.
    #[must_use]
    pub const fn degraded(&self) -> bool {
        matches!(self.end, Ended::Answered { rung: 1.. })
    }

    /// Whether the client refused it at once and said when to come back.
    #[must_use]
    pub fn refused(&self) -> bool {
        matches!(self.end, Ended::Refused { retry_after } if !retry_after.is_zero())
            && self.took() <= AT_ONCE
    }

    /// From the call to its end.
    #[must_use]
    pub const fn took(&self) -> Duration {
        self.ended.saturating_sub(self.issued)
    }
}

/// How a scenario's agent runs ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunCount {
    /// Runs started.
    pub started: u64,
    /// Runs whose every step was answered.
    pub succeeded: u64,
}

/// Everything that a score is computed from.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    /// The calls.
    pub calls: &'a [CallRecord],
    /// The attempts.
    pub attempts: &'a [AttemptRecord],
    /// The faulty target.
    pub primary: &'a str,
    /// The fault whose detection and recovery are measured.
    pub fault: Option<Window>,
    /// The binding axis of the provider's quota, if it has one: admitted units, and units a minute.
    pub quota: Option<(u64, u64)>,
    /// The agent runs, if the scenario has any.
    pub runs: Option<RunCount>,
    /// What was still under way after everything had ended.
    pub in_flight_at_end: u64,
}

/// The figures of one client in one drill.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    /// Calls made.
    pub calls: u64,
    /// Calls that got a whole answer within their deadline.
    pub succeeded: u64,
    /// `succeeded / calls`.
    pub success_rate: f64,
    /// Calls answered by a rung below the first.
    pub degraded: u64,
    /// Calls refused by the client itself within [`AT_ONCE`], with a time to come back.
    pub refused: u64,
    /// Requests on the wire.
    pub attempts: u64,
    /// `attempts / calls`.
    pub attempts_per_call: f64,
    /// Calls made during the fault.
    pub calls_during_fault: Option<u64>,
    /// Attempts on the faulty target sent during the fault.
    pub attempts_during_fault: Option<u64>,
    /// `attempts_during_fault / calls_during_fault`.
    pub attempts_per_call_during_fault: Option<f64>,
    /// Of the calls made during the fault, the share answered by a rung below the first.
    pub degraded_rate_during_fault: Option<f64>,
    /// Attempts that the provider answered with 429.
    pub provider_429: u64,
    /// Admitted units of the binding quota axis over what it refills while any call was pending. The
    /// burst that the quota holds at the start can carry it a little over 1.
    pub quota_used: Option<f64>,
    /// From the fault's start to the last attempt on the faulty target before a pause of at least
    /// [`PAUSE`] inside the fault, while calls kept coming or waiting.
    pub detect_ms: Option<u64>,
    /// From the fault's end to the end of the first whole answer by the faulty target whose attempt was
    /// sent after it.
    pub recover_ms: Option<u64>,
    /// From the fault's end to the last answer for a call that was pending at that moment.
    pub waiting_served_ms: Option<u64>,
    /// Median time to a whole answer.
    pub p50_ms: Option<u64>,
    /// Its 95th percentile.
    pub p95_ms: Option<u64>,
    /// Its 99th percentile.
    pub p99_ms: Option<u64>,
    /// 99th percentile of the calls answered before the fault.
    pub healthy_p99_ms: Option<u64>,
    /// 99th percentile of the answered calls that were made between detection and the fault's end.
    pub p99_after_open_ms: Option<u64>,
    /// Agent runs started.
    pub runs: Option<u64>,
    /// Runs whose every step was answered.
    pub runs_succeeded: Option<u64>,
    /// `runs_succeeded / runs`.
    pub run_success_rate: Option<f64>,
    /// Calls, permits and attempts still under way after every call had ended.
    pub in_flight_at_end: u64,
}

impl Score {
    /// Computes the figures.
    #[must_use]
    pub fn of(seen: &Observed<'_>) -> Self {
        let calls = count(seen.calls, |_| true);
        let succeeded = count(seen.calls, CallRecord::succeeded);
        let attempts = u64::try_from(seen.attempts.len()).unwrap_or(u64::MAX);
        let detect = seen.fault.and_then(|fault| detected(seen, fault));
        let during = seen.fault.map(|fault| {
            let made = |call: &CallRecord| fault.contains(call.issued);
            let sent = |a: &&AttemptRecord| a.model == seen.primary && fault.contains(a.started);
            let attempts = seen.attempts.iter().filter(sent).count();
            let degraded = count(seen.calls, |call| made(call) && call.degraded());
            (
                count(seen.calls, made),
                u64::try_from(attempts).unwrap_or(u64::MAX),
                degraded,
            )
        });
        let all = latencies(seen.calls, |_| true);
        let healthy = seen
            .fault
            .map(|f| latencies(seen.calls, |call| call.ended < f.from));
        let open = seen.fault.zip(detect).map(|(fault, after)| {
            let open = Window {
                from: fault.from.saturating_add(after),
                until: fault.until,
            };
            latencies(seen.calls, |call| open.contains(call.issued))
        });
        Self {
            calls,
            succeeded,
            success_rate: ratio(succeeded, calls).unwrap_or(0.0),
            degraded: count(seen.calls, CallRecord::degraded),
            refused: count(seen.calls, CallRecord::refused),
            attempts,
            attempts_per_call: ratio(attempts, calls).unwrap_or(0.0),
            calls_during_fault: during.map(|(calls, ..)| calls),
            attempts_during_fault: during.map(|(_, attempts, _)| attempts),
            attempts_per_call_during_fault: during.and_then(|(c, a, _)| ratio(a, c)),
            degraded_rate_during_fault: during.and_then(|(c, _, d)| ratio(d, c)),
            provider_429: count(seen.attempts, |a| a.status == Some(429)),
            quota_used: seen
                .quota
                .and_then(|quota| quota_used(quota, pending_time(seen.calls))),
            detect_ms: detect.map(millis),
            recover_ms: seen
                .fault
                .and_then(|fault| recovered(seen, fault))
                .map(millis),
            waiting_served_ms: seen
                .fault
                .and_then(|f| waiting_served(seen.calls, f))
                .map(millis),
            p50_ms: percentile(&all, 50),
            p95_ms: percentile(&all, 95),
            p99_ms: percentile(&all, 99),
            healthy_p99_ms: healthy.and_then(|sorted| percentile(&sorted, 99)),
            p99_after_open_ms: open.and_then(|sorted| percentile(&sorted, 99)),
            runs: seen.runs.map(|runs| runs.started),
            runs_succeeded: seen.runs.map(|runs| runs.succeeded),
            run_success_rate: seen
                .runs
                .and_then(|runs| ratio(runs.succeeded, runs.started)),
            in_flight_at_end: seen.in_flight_at_end,
        }
    }

    /// The value of one figure, if it is defined here.
    #[must_use]
    pub fn figure(&self, figure: Figure) -> Option<f64> {
        match figure {
            Figure::SuccessRate => Some(self.success_rate),
            Figure::RunSuccessRate => self.run_success_rate,
            Figure::AttemptsPerCall => Some(self.attempts_per_call),
            Figure::AttemptsPerCallDuringFault => self.attempts_per_call_during_fault,
            Figure::DegradedRateDuringFault => self.degraded_rate_during_fault,
            Figure::Provider429 => Some(float(self.provider_429)),
            Figure::Provider429Per1000Attempts => (self.attempts > 0)
                .then(|| 1_000.0 * float(self.provider_429) / float(self.attempts)),
            Figure::QuotaUsed => self.quota_used,
            Figure::DetectMs => self.detect_ms.map(float),
            Figure::RecoverMs => self.recover_ms.map(float),
            Figure::WaitingServedMs => self.waiting_served_ms.map(float),
            Figure::P99AfterOpenOverHealthy => self
                .p99_after_open_ms
                .zip(self.healthy_p99_ms)
                .and_then(|(o, h)| ratio(o, h)),
            Figure::FailedOtherwise => Some(float(
                self.calls
                    .saturating_sub(self.succeeded)
                    .saturating_sub(self.refused),
            )),
            Figure::InFlightAtEnd => Some(float(self.in_flight_at_end)),
        }
    }
}

/// The value at `percent` of sorted latencies, by nearest rank, in whole milliseconds.
pub(super) fn percentile(sorted: &[Duration], percent: usize) -> Option<u64> {
    let rank = sorted.len().checked_mul(percent)?.div_ceil(100).max(1);
    sorted.get(rank - 1).copied().map(millis)
}

/// Times to a whole answer of the calls chosen, sorted.
pub(super) fn latencies(
    calls: &[CallRecord],
    chosen: impl Fn(&CallRecord) -> bool,
) -> Vec<Duration> {
    let mut took: Vec<_> = calls
        .iter()
        .filter(|c| c.succeeded() && chosen(c))
        .map(CallRecord::took)
        .collect();
    took.sort_unstable();
    took
}

fn detected(seen: &Observed<'_>, fault: Window) -> Option<Duration> {
    let mut sent: Vec<_> = seen
        .attempts
        .iter()
        .filter(|a| a.model == seen.primary && fault.contains(a.started))
        .map(|a| a.started)
        .collect();
    sent.sort_unstable();
    let ends = sent.iter().skip(1).copied().chain([fault.until]);
    sent.iter().zip(ends).find_map(|(&last, next)| {
        let wanted = |call: &CallRecord| call.issued < next && call.ended > last;
        let paused = next.saturating_sub(last) >= PAUSE;
        (paused && seen.calls.iter().any(wanted)).then(|| last.saturating_sub(fault.from))
    })
}

fn recovered(seen: &Observed<'_>, fault: Window) -> Option<Duration> {
    seen.attempts
        .iter()
        .filter(|a| a.model == seen.primary && a.started >= fault.until && a.succeeded())
        .filter_map(|a| a.ended)
        .min()
        .map(|ended| ended.saturating_sub(fault.until))
}

fn waiting_served(calls: &[CallRecord], fault: Window) -> Option<Duration> {
    calls
        .iter()
        .filter(|c| c.succeeded() && fault.contains(c.issued) && c.ended > fault.until)
        .map(|c| c.ended.saturating_sub(fault.until))
        .max()
}

/// How long at least one call was pending.
fn pending_time(calls: &[CallRecord]) -> Duration {
    let mut spans: Vec<_> = calls.iter().map(|call| (call.issued, call.ended)).collect();
    spans.sort_unstable();
    let (mut total, mut reached) = (Duration::ZERO, Duration::ZERO);
    for (from, until) in spans {
        total = total.saturating_add(until.saturating_sub(from.max(reached)));
        reached = reached.max(until);
    }
    total
}

fn quota_used((admitted, per_minute): (u64, u64), demand: Duration) -> Option<f64> {
    let refilled = float(per_minute) * demand.as_secs_f64() / 60.0;
    (refilled > 0.0).then(|| round(float(admitted) / refilled))
}

fn count<T>(all: &[T], chosen: impl Fn(&T) -> bool) -> u64 {
    u64::try_from(all.iter().filter(|one| chosen(one)).count()).unwrap_or(u64::MAX)
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| round(float(part) / float(whole)))
}

// Six decimals are more than any figure here means.
fn round(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

const fn float(count: u64) -> f64 {
    count as f64
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::meter::AttemptEnd;
    use super::*;

    const FAULT: Window = Window {
        from: Duration::from_secs(10),
        until: Duration::from_secs(20),
    };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn call(issued: u64, ended: u64, end: Ended) -> CallRecord {
        CallRecord {
            issued: ms(issued),
            ended: ms(ended),
            end,
        }
    }

    fn answered(issued: u64, ended: u64) -> CallRecord {
        call(issued, ended, Ended::Answered { rung: 0 })
    }

    fn attempt(started: u64, ended: u64, model: &str, status: u16) -> AttemptRecord {
        AttemptRecord {
            started: ms(started),
            ended: Some(ms(ended)),
            model: model.to_owned(),
            status: Some(status),
            end: AttemptEnd::Whole,
        }
    }

    fn score(calls: &[CallRecord], attempts: &[AttemptRecord]) -> Score {
        Score::of(&Observed {
            calls,
            attempts,
            primary: "big",
            fault: Some(FAULT),
            quota: None,
            runs: None,
            in_flight_at_end: 0,
        })
    }

    #[test]
    fn an_outage_is_scored_from_the_two_logs() {
        let failed = Ended::Failed { why: "status" };
        let calls = [
            answered(1_000, 2_000),
            answered(2_000, 4_000),
            call(10_100, 10_200, failed),
            call(11_000, 11_900, Ended::Answered { rung: 1 }),
            answered(12_000, 21_500),
            answered(19_000, 23_000),
            answered(21_000, 22_000),
        ];
        let attempts = [
            attempt(1_000, 2_000, "big", 200),
            attempt(2_000, 4_000, "big", 200),
            attempt(10_100, 10_200, "big", 529),
            attempt(10_600, 10_700, "big", 529),
            attempt(11_000, 11_900, "small", 200),
            attempt(14_000, 14_100, "big", 529),
            attempt(20_400, 21_400, "big", 200),
            attempt(21_000, 21_300, "big", 200),
        ];
        let score = score(&calls, &attempts);
        assert_eq!((score.calls, score.succeeded, score.degraded), (7, 6, 1));
        assert_eq!(score.success_rate, 0.857_143);
        assert_eq!(score.attempts_per_call, 1.142_857);
        assert_eq!(score.calls_during_fault, Some(4));
        assert_eq!(score.attempts_during_fault, Some(3));
        assert_eq!(score.attempts_per_call_during_fault, Some(0.75));
        assert_eq!(score.degraded_rate_during_fault, Some(0.25));
        assert_eq!(score.detect_ms, Some(600));
        assert_eq!(score.recover_ms, Some(1_300));
        assert_eq!(score.waiting_served_ms, Some(3_000));
        assert_eq!(score.healthy_p99_ms, Some(2_000));
        assert_eq!(score.p99_after_open_ms, Some(9_500));
        assert_eq!((score.p50_ms, score.p99_ms), (Some(1_000), Some(9_500)));
        assert_eq!(score.figure(Figure::P99AfterOpenOverHealthy), Some(4.75));
        assert_eq!(score.figure(Figure::FailedOtherwise), Some(1.0));
    }

    #[test]
    fn a_client_that_never_pauses_has_detected_nothing() {
        let attempts: Vec<_> = (0..200)
            .map(|n| attempt(10_000 + n * 50, 10_010 + n * 50, "big", 529))
            .collect();
        let calls: Vec<_> = (0..200)
            .map(|n| {
                call(
                    10_000 + n * 50,
                    10_010 + n * 50,
                    Ended::Failed { why: "status" },
                )
            })
            .collect();
        let found = score(&calls, &attempts);
        assert_eq!(found.detect_ms, None);
        assert_eq!(found.recover_ms, None);
        assert_eq!((found.p50_ms, found.p99_after_open_ms), (None, None));
    }

    #[test]
    fn a_pause_in_which_nobody_wanted_anything_is_no_detection() {
        let attempts = [
            attempt(10_000, 10_100, "big", 529),
            attempt(15_000, 15_100, "big", 529),
        ];
        let calls = [
            call(10_000, 10_000, Ended::Failed { why: "status" }),
            call(15_000, 19_900, Ended::Failed { why: "status" }),
        ];
        assert_eq!(score(&calls, &attempts).detect_ms, Some(5_000));
    }

    #[test]
    fn only_an_immediate_refusal_with_a_hint_is_a_refusal() {
        let refused = |retry_after| Ended::Refused {
            retry_after: ms(retry_after),
        };
        let calls = [
            call(0, 1, refused(3_000)),
            call(0, 101, refused(3_000)),
            call(0, 1, refused(0)),
            answered(0, 900),
        ];
        let found = score(&calls, &[]);
        assert_eq!((found.refused, found.succeeded), (1, 1));
        assert_eq!(found.figure(Figure::FailedOtherwise), Some(2.0));
    }

    #[test]
    fn quota_use_counts_only_time_in_which_somebody_waited() {
        // Pending in 0..3 s and 10..13 s: 6 s at 60 a minute refill 6 units.
        let calls = [
            answered(0, 2_000),
            answered(1_000, 3_000),
            answered(10_000, 13_000),
        ];
        assert_eq!(pending_time(&calls), ms(6_000));
        let seen = Observed {
            calls: &calls,
            attempts: &[],
            primary: "big",
            fault: None,
            quota: Some((3, 60)),
            runs: Some(RunCount {
                started: 4,
                succeeded: 1,
            }),
            in_flight_at_end: 2,
        };
        let found = Score::of(&seen);
        assert_eq!(found.quota_used, Some(0.5));
        assert_eq!(found.run_success_rate, Some(0.25));
        assert_eq!(found.attempts_during_fault, None);
        assert_eq!(found.figure(Figure::InFlightAtEnd), Some(2.0));
        assert_eq!(Score::of(&Observed { calls: &[], ..seen }).quota_used, None);
    }

    #[test]
    fn percentiles_are_nearest_rank() {
        let sorted: Vec<_> = (1..=100).map(ms).collect();
        assert_eq!(percentile(&sorted, 50), Some(50));
        assert_eq!(percentile(&sorted, 99), Some(99));
        assert_eq!(percentile(&sorted[..1], 50), Some(1));
        assert_eq!(percentile(&[], 50), None);
    }
}
