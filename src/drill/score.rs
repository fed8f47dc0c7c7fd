//! The figures of one client in one drill, computed from what was asked, sent and answered.
//!
//! Every definition is the same for every client and reads only the two logs. "The faulty target" is
//! the first model of the scenario's ladder; "the fault" is the scenario's `fault` window. A figure
//! that has no meaning in a scenario is `null`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use self::limits::{early_429, late_429, pending_time, quota_used};
use super::load::Mix;
use super::meter::AttemptRecord;
use super::scenario::{Ideal, Window};

pub mod call;
mod degraded;
mod figure;
mod limits;
mod shares;

pub use self::call::{AT_ONCE, CallRecord};
pub use self::degraded::DegradedBy;
pub use self::figure::Figure;
pub use self::shares::ClassScore;

/// A pause in the attempts on the faulty target that counts as having noticed the fault.
///
/// At the 20 calls a second of the built-in outages a client that noticed nothing has mean gaps of
/// 50 ms, so that chance makes such a pause about once in 3 million gaps.
pub const PAUSE: Duration = Duration::from_millis(750);

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
    /// The classes and tenants, if the scenario has any.
    pub mix: Option<&'a Mix>,
    /// What the provider could serve at best, if it has limits.
    pub ideal: Option<Ideal>,
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
    /// Calls whose answer was less than the wanted model's: the sum of `degraded_by`.
    pub degraded: u64,
    /// The same by what it was: another model's, a stale one of the cache, or the fixed one.
    pub degraded_by: DegradedBy,
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
    /// Of the calls made during the fault, the share whose answer was less than the wanted
    /// model's.
    pub degraded_rate_during_fault: Option<f64>,
    /// Attempts that the provider answered with 429.
    pub provider_429: u64,
    /// Those of attempts sent in the first 10 s.
    pub provider_429_first_10s: u64,
    /// For each thousand attempts sent later, those that were answered with 429.
    pub provider_429_per_1000_after_10s: Option<f64>,
    /// Calls neither answered nor, before their deadline, refused by the client with a time to come
    /// back.
    pub lost: u64,
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
    /// From the fault's end to the end of the last answer that was less than the wanted model's; 0 where
    /// there was none after it.
    pub degraded_until_ms: Option<u64>,
    /// Median time to a whole answer that a model wrote for the call. What the cache and the fixed
    /// answer take, which is nothing, is in no time here.
    pub p50_ms: Option<u64>,
    /// Its 95th percentile.
    pub p95_ms: Option<u64>,
    /// Its 99th percentile.
    pub p99_ms: Option<u64>,
    /// 99th percentile of those before the fault.
    pub healthy_p99_ms: Option<u64>,
    /// 99th percentile of those for calls that were made between detection and the fault's end.
    pub p99_after_open_ms: Option<u64>,
    /// Agent runs started.
    pub runs: Option<u64>,
    /// Runs whose every step was answered.
    pub runs_succeeded: Option<u64>,
    /// `runs_succeeded / runs`.
    pub run_success_rate: Option<f64>,
    /// From the start to the last call's end, over the time in which the provider could have served all
    /// the calls at best. Only of runs: an open load ends when it ends.
    pub finish_over_ideal: Option<f64>,
    /// Whole answers over those that the provider could have given at best while any call was pending.
    pub throughput_over_ideal: Option<f64>,
    /// 99th percentile of the waits of interactive calls over that of batch calls.
    pub interactive_p99_wait_over_batch: Option<f64>,
    /// Of the interactive calls, the share that got a whole answer: who refuses them keeps their waits
    /// short too.
    pub interactive_success_rate: Option<f64>,
    /// Jain's index of the whole answers of equal tenants: 1 when each got as many as the others.
    pub fairness: Option<f64>,
    /// What became of the calls of each class.
    pub classes: Option<BTreeMap<&'static str, ClassScore>>,
    /// Calls, permits and attempts still under way after every call had ended.
    pub in_flight_at_end: u64,
}

impl Score {
    /// Computes the figures.
    #[must_use]
    pub fn of(seen: &Observed<'_>) -> Self {
        let calls = count(seen.calls, |_| true);
        let degraded_by = DegradedBy::of(seen.calls);
        let succeeded = count(seen.calls, CallRecord::succeeded);
        let attempts = u64::try_from(seen.attempts.len()).unwrap_or(u64::MAX);
        let detect = seen.fault.and_then(|fault| detected(seen, fault));
        let during = seen.fault.map(|fault| during(seen, fault));
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
            degraded: degraded_by.sum(),
            degraded_by,
            refused: count(seen.calls, CallRecord::refused),
            attempts,
            attempts_per_call: ratio(attempts, calls).unwrap_or(0.0),
            calls_during_fault: during.map(|(calls, ..)| calls),
            attempts_during_fault: during.map(|(_, attempts, _)| attempts),
            attempts_per_call_during_fault: during.and_then(|(c, a, _)| ratio(a, c)),
            degraded_rate_during_fault: during.and_then(|(c, _, d)| ratio(d, c)),
            provider_429: count(seen.attempts, |a| a.status == Some(429)),
            provider_429_first_10s: early_429(seen.attempts),
            provider_429_per_1000_after_10s: late_429(seen.attempts),
            lost: count(seen.calls, CallRecord::lost),
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
            degraded_until_ms: seen.fault.map(|f| millis(degraded_until(seen.calls, f))),
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
            finish_over_ideal: limits::finish(seen),
            throughput_over_ideal: limits::throughput(seen, succeeded),
            interactive_p99_wait_over_batch: shares::interactive_over_batch(seen),
            interactive_success_rate: shares::interactive_success(seen),
            fairness: seen.mix.and_then(|mix| shares::fairness(mix, seen.calls)),
            classes: seen.mix.map(|mix| shares::classes(mix, seen)),
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
            Figure::DegradedByModel => Some(float(self.degraded_by.model)),
            Figure::DegradedByCache => Some(float(self.degraded_by.cache)),
            Figure::DegradedByStatic => Some(float(self.degraded_by.fixed)),
            Figure::DegradedUntilMs => self.degraded_until_ms.map(float),
            Figure::Provider429 => Some(float(self.provider_429)),
            Figure::Provider429Per1000Attempts => (self.attempts > 0)
                .then(|| 1_000.0 * float(self.provider_429) / float(self.attempts)),
            Figure::Provider429First10s => Some(float(self.provider_429_first_10s)),
            Figure::Provider429Per1000After10s => self.provider_429_per_1000_after_10s,
            Figure::QuotaUsed => self.quota_used,
            Figure::Lost => Some(float(self.lost)),
            Figure::LostRate => ratio(self.lost, self.calls),
            Figure::FinishOverIdeal => self.finish_over_ideal,
            Figure::ThroughputOverIdeal => self.throughput_over_ideal,
            Figure::InteractiveP99WaitOverBatch => self.interactive_p99_wait_over_batch,
            Figure::InteractiveSuccessRate => self.interactive_success_rate,
            Figure::Fairness => self.fairness,
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

/// Times to a whole answer that a model wrote for the call, of the calls chosen, sorted.
pub(super) fn latencies(
    calls: &[CallRecord],
    chosen: impl Fn(&CallRecord) -> bool,
) -> Vec<Duration> {
    let mut took: Vec<_> = calls
        .iter()
        .filter(|c| c.by_target() && chosen(c))
        .map(CallRecord::took)
        .collect();
    took.sort_unstable();
    took
}

/// Calls made in a fault, attempts on the faulty target, and calls whose answer was less than the wanted
/// model's.
fn during(seen: &Observed<'_>, fault: Window) -> (u64, u64, u64) {
    let made = |call: &CallRecord| fault.contains(call.issued);
    let sent = |a: &AttemptRecord| a.model == seen.primary && fault.contains(a.started);
    (
        count(seen.calls, made),
        count(seen.attempts, sent),
        count(seen.calls, |call| made(call) && call.degraded().is_some()),
    )
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

fn degraded_until(calls: &[CallRecord], fault: Window) -> Duration {
    let last = calls.iter().filter(|call| call.degraded().is_some());
    let last = last.map(|call| call.ended).max().unwrap_or_default();
    last.saturating_sub(fault.until)
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
mod tests;
