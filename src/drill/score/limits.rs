//! How well a client used what the provider allows, and how often it was told that it went too far.

use std::time::Duration;

use super::call::CallRecord;
use super::{Observed, count, float, round};
use crate::drill::meter::AttemptRecord;

/// The time in which a client that is told nothing may still find out what it may send.
const LEARNING: Duration = Duration::from_secs(10);

pub(super) fn early_429(attempts: &[AttemptRecord]) -> u64 {
    count(attempts, |a| a.status == Some(429) && a.started < LEARNING)
}

/// For each thousand attempts after [`LEARNING`].
pub(super) fn late_429(attempts: &[AttemptRecord]) -> Option<f64> {
    let late = count(attempts, |a| a.started >= LEARNING);
    let refused = count(attempts, |a| a.status == Some(429) && a.started >= LEARNING);
    (late > 0).then(|| round(1_000.0 * float(refused) / float(late)))
}

/// How long at least one call was pending.
pub(super) fn pending_time(calls: &[CallRecord]) -> Duration {
    let mut spans: Vec<_> = calls.iter().map(|call| (call.issued, call.ended)).collect();
    spans.sort_unstable();
    let (mut total, mut reached) = (Duration::ZERO, Duration::ZERO);
    for (from, until) in spans {
        total = total.saturating_add(until.saturating_sub(from.max(reached)));
        reached = reached.max(until);
    }
    total
}

pub(super) fn quota_used((admitted, per_minute): (u64, u64), demand: Duration) -> Option<f64> {
    let refilled = float(per_minute) * demand.as_secs_f64() / 60.0;
    (refilled > 0.0).then(|| round(float(admitted) / refilled))
}

/// The end of the last call over the ideal one; none where not all calls were made.
pub(super) fn finish(seen: &Observed<'_>) -> Option<f64> {
    let runs = seen.runs?;
    if runs.succeeded < runs.started {
        return None;
    }
    let calls = count(seen.calls, |_| true);
    let ideal = seen.ideal?.time_for(calls).as_secs_f64();
    let last = seen.calls.iter().map(|call| call.ended).max()?;
    (ideal > 0.0).then(|| round(last.as_secs_f64() / ideal))
}

pub(super) fn throughput(seen: &Observed<'_>, answered: u64) -> Option<f64> {
    let best = seen.ideal?.calls_in(pending_time(seen.calls));
    (!seen.calls.is_empty()).then(|| round(float(answered) / best))
}
