//! Who got what: the classes and the tenants of a mix.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::Serialize;

use super::call::CallRecord;
use super::{Observed, count, float, percentile, ratio, round};
use crate::drill::load::{Mix, Tenant};
use crate::profile::Profile;

/// What became of the calls of one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ClassScore {
    /// Calls made.
    pub calls: u64,
    /// Whole answers.
    pub succeeded: u64,
    /// Calls refused by the client before their deadline, with a time to come back.
    pub told_to_come_back: u64,
    /// The others.
    pub lost: u64,
    /// Median wait: from the call to its first attempt, or without one to its end.
    pub p50_wait_ms: Option<u64>,
    /// Its 99th percentile.
    pub p99_wait_ms: Option<u64>,
}

/// By the names of their profiles; classes of the same profile count as one.
pub(super) fn classes(mix: &Mix, seen: &Observed<'_>) -> BTreeMap<&'static str, ClassScore> {
    let waits = Waits::of(seen);
    let profiles = mix.classes.iter().map(|class| class.profile);
    profiles
        .map(|profile| (profile.as_str(), class(mix, seen, (&waits, profile))))
        .collect()
}

fn class(mix: &Mix, seen: &Observed<'_>, (waits, profile): (&Waits, Profile)) -> ClassScore {
    let here = |call: &CallRecord| profile_of(mix, call) == Some(profile);
    let number = |chosen: fn(&CallRecord) -> bool| count(seen.calls, |c| here(c) && chosen(c));
    let sorted = waits.sorted(seen.calls, here);
    ClassScore {
        calls: number(|_| true),
        succeeded: number(CallRecord::succeeded),
        told_to_come_back: number(CallRecord::told_to_come_back),
        lost: number(CallRecord::lost),
        p50_wait_ms: percentile(&sorted, 50),
        p99_wait_ms: percentile(&sorted, 99),
    }
}

/// Not defined where no batch call waited: then nothing shows that anybody had to.
pub(super) fn interactive_over_batch(seen: &Observed<'_>) -> Option<f64> {
    let mix = seen.mix?;
    let waits = Waits::of(seen);
    let p99 = |profile| {
        let here = |call: &CallRecord| profile_of(mix, call) == Some(profile);
        percentile(&waits.sorted(seen.calls, here), 99)
    };
    ratio(p99(Profile::Interactive)?, p99(Profile::Batch)?)
}

pub(super) fn interactive_success(seen: &Observed<'_>) -> Option<f64> {
    let mix = seen.mix?;
    let here = |call: &CallRecord| profile_of(mix, call) == Some(Profile::Interactive);
    let answered = count(seen.calls, |call| here(call) && call.succeeded());
    ratio(answered, count(seen.calls, here))
}

/// Jain, Chiu and Hawe 1984: `(Σx)² / (n Σx²)` over the equal tenants.
pub(super) fn fairness(mix: &Mix, calls: &[CallRecord]) -> Option<f64> {
    let served = (0..mix.tenants).map(|number| {
        let tenant = Some(Tenant::Equal(number));
        float(count(calls, |call| {
            call.succeeded() && call.tenant == tenant
        }))
    });
    let (sum, squares) = served.fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
    (squares > 0.0).then(|| round(sum * sum / (f64::from(mix.tenants) * squares)))
}

fn profile_of(mix: &Mix, call: &CallRecord) -> Option<Profile> {
    mix.classes.get(call.class?).map(|class| class.profile)
}

/// When each call was first on the wire.
struct Waits(HashMap<u64, Duration>);

impl Waits {
    fn of(seen: &Observed<'_>) -> Self {
        let mut first = HashMap::new();
        for attempt in seen.attempts {
            if let Some(call) = attempt.call {
                let at = first.entry(call).or_insert(attempt.started);
                *at = attempt.started.min(*at);
            }
        }
        Self(first)
    }

    fn sorted(&self, calls: &[CallRecord], here: impl Fn(&CallRecord) -> bool) -> Vec<Duration> {
        let waited = |call: &CallRecord| {
            let until = self.0.get(&call.id).copied().unwrap_or(call.ended);
            until.saturating_sub(call.issued)
        };
        let mut waits: Vec<_> = calls.iter().filter(|c| here(c)).map(waited).collect();
        waits.sort_unstable();
        waits
    }
}
