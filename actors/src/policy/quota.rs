//! One quota: buckets for requests, input and output tokens, reserved all or nothing.
//!
//! A reservation is a lease: settled with what the call really cost, both ways, or reclaimed by a
//! sweep when its holder is long dead. Each lease is settled once; an unknown one changes nothing. An
//! axis without a limit admits everything until a provider's word teaches one. Failure mode: a
//! provider that enforces a shorter burst than the one set here refuses what this admits, and says
//! so, and the quota stops for as long as it was told.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::InvalidPolicy;
use super::token_bucket::TokenBucket;

/// Longest stop that a provider's word can impose; a day's quota resets within it.
const LONGEST_STOP: Duration = Duration::from_secs(24 * 60 * 60);
const LONGEST_BURST: Duration = Duration::from_secs(60);
const LONGEST_GRACE: Duration = Duration::from_secs(60 * 60);
/// Below this part of a limit (one over it) remaining, the burst shrinks in proportion.
const PACE_BELOW: u128 = 10;

/// The buckets of one quota and the leases on them.
#[derive(Debug)]
pub struct Quota {
    settings: QuotaSettings,
    buckets: [Option<TokenBucket>; 3],
    leases: HashMap<LeaseId, Lease>,
    expiries: BTreeSet<(Instant, LeaseId)>,
    outstanding: [u128; 3],
    stopped_until: Option<Instant>,
    next_lease: u64,
}

impl Quota {
    /// Makes a quota with full buckets.
    ///
    /// # Errors
    /// When a limit is 0, the burst is longer than a minute or the grace longer than an hour.
    pub fn new(settings: QuotaSettings, now: Instant) -> Result<Self, InvalidPolicy> {
        settings.validate()?;
        let mut buckets = [None; 3];
        for (axis, bucket) in Axis::ALL.into_iter().zip(&mut buckets) {
            if let Some(limit) = settings.limit(axis) {
                *bucket = Some(TokenBucket::new(limit, settings.burst_of(limit), now)?);
            }
        }
        Ok(Self {
            settings,
            buckets,
            leases: HashMap::new(),
            expiries: BTreeSet::new(),
            outstanding: [0; 3],
            stopped_until: None,
            next_lease: 0,
        })
    }

    /// Reserves `cost` on every axis or on none, until it is settled or `expires` and the grace pass.
    ///
    /// # Errors
    /// When it cannot be admitted at `now`: says when it could be and what is missing longest.
    pub fn try_reserve(
        &mut self,
        cost: Cost,
        expires: Instant,
        now: Instant,
    ) -> Result<LeaseId, NotUntil> {
        let ready = self.ready(cost, now);
        if ready.at > now {
            return Err(ready);
        }
        let mut charged = [false; 3];
        for axis in Axis::ALL {
            if let Some(bucket) = &mut self.buckets[axis.index()] {
                bucket.take(cost.on(axis), now);
                charged[axis.index()] = true;
            }
            self.outstanding[axis.index()] += u128::from(cost.on(axis));
        }
        let id = LeaseId(self.next_lease);
        self.next_lease = self.next_lease.wrapping_add(1);
        let expires = later(expires, self.settings.lease_grace);
        self.expiries.insert((expires, id));
        self.leases.insert(
            id,
            Lease {
                cost,
                expires,
                charged,
            },
        );
        Ok(id)
    }

    /// Replaces a lease's reserved cost by the actual one: less is given back, more becomes debt.
    ///
    /// Returns false, and changes nothing, for a lease that is unknown, settled or swept.
    pub fn settle(&mut self, id: LeaseId, actual: Cost, now: Instant) -> bool {
        let Some(lease) = self.forget(id) else {
            return false;
        };
        for axis in Axis::ALL {
            // A bucket learned after the lease was granted never paid for it.
            if !lease.charged[axis.index()] {
                continue;
            }
            if let Some(bucket) = &mut self.buckets[axis.index()] {
                let (reserved, actual) = (lease.cost.on(axis), actual.on(axis));
                if actual > reserved {
                    bucket.take(actual - reserved, now);
                } else {
                    bucket.put_back(reserved - actual, now);
                }
            }
        }
        true
    }

    /// Gives a whole lease back, as if nothing had been sent; false as in [`settle`](Self::settle).
    pub fn refund(&mut self, id: LeaseId, now: Instant) -> bool {
        self.settle(id, Cost::ZERO, now)
    }

    /// Forgets the leases that nobody settled in time; they stay charged at their reserved cost.
    ///
    /// Returns how many there were.
    pub fn sweep(&mut self, now: Instant) -> usize {
        let mut swept = 0;
        while let Some((expires, id)) = self.expiries.first().copied()
            && expires <= now
        {
            self.expiries.remove(&(expires, id));
            if self.forget(id).is_some() {
                swept += 1;
            }
        }
        swept
    }

    /// When the next lease can be swept, if nobody settles it.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Instant> {
        self.expiries.first().map(|&(expires, _)| expires)
    }

    /// When `cost` can be admitted if nothing else is admitted before; `now` or later.
    #[must_use]
    pub fn ready_at(&self, cost: Cost, now: Instant) -> Instant {
        self.ready(cost, now).at
    }

    /// Time until `total` has been refilled on every axis, each token spent as it comes.
    #[must_use]
    pub fn wait_for(&self, total: Cost, now: Instant) -> Duration {
        self.wait_behind(total, Cost::ZERO, now)
    }

    /// Time until a request of cost `own` is admitted that has a cost of `ahead` before it.
    ///
    /// A lower bound, exact while one axis is the narrow one throughout. A request above the burst
    /// needs a full bucket and no more, so this is what to hold against a deadline.
    #[must_use]
    pub fn wait_behind(&self, ahead: Cost, own: Cost, now: Instant) -> Duration {
        // During a stop a bucket fills up to its burst and what comes after is lost.
        let start = self.stopped_until.map_or(now, |until| until.max(now));
        let mut end = start;
        for axis in Axis::ALL {
            let Some(mut bucket) = self.buckets[axis.index()] else {
                continue;
            };
            bucket.refill(start);
            let total = ahead
                .on(axis)
                .saturating_add(own.on(axis).min(bucket.burst()));
            if total > 0 {
                end = end.max(bucket.refilled_at(total, start));
            }
        }
        end.saturating_duration_since(now)
    }

    /// Takes in what a provider said about its limits.
    ///
    /// A limit creates a missing bucket and never passes a configured one; what remains only lowers
    /// a level; a stop is never shortened. A limit of 0 is no limit that anything could be paced by
    /// and is passed over: the provider's refusals then speak for themselves.
    pub fn learn(&mut self, learned: &Learned, now: Instant) {
        for (axis, word) in Axis::ALL.into_iter().zip(&learned.axes) {
            if let Some(word) = word {
                self.learn_axis(axis, word, now);
            }
        }
        if let Some(stop) = learned.stop_for {
            let until = later(now, stop.min(LONGEST_STOP));
            self.stopped_until = Some(self.stopped_until.map_or(until, |old| old.max(until)));
        }
    }

    /// Empties the buckets, for a replacement that does not trust the state; debt stays.
    pub fn make_conservative(&mut self, now: Instant) {
        for bucket in self.buckets.iter_mut().flatten() {
            bucket.lower_to(0, now);
        }
    }

    /// Number of leases that are neither settled nor swept.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.leases.len()
    }

    /// Reserved cost of the leases in flight.
    #[must_use]
    pub fn outstanding(&self) -> Cost {
        let narrow = |axis: Axis| self.outstanding_on(axis);
        Cost {
            requests: narrow(Axis::Requests),
            input: narrow(Axis::Input),
            output: narrow(Axis::Output),
        }
    }

    /// What there is to see at `now`.
    #[must_use]
    pub fn view(&self, now: Instant) -> QuotaView {
        QuotaView {
            axes: self.buckets.map(|bucket| {
                bucket.map(|bucket| AxisView {
                    limit: bucket.per_minute(),
                    burst: bucket.burst(),
                    level: bucket.available(now),
                })
            }),
            stopped_until: self.stopped_until.filter(|&until| until > now),
            in_flight: self.in_flight(),
            outstanding: self.outstanding(),
        }
    }

    fn ready(&self, cost: Cost, now: Instant) -> NotUntil {
        let mut ready = NotUntil {
            at: now,
            axis: None,
        };
        for axis in Axis::ALL {
            let needed = cost.on(axis);
            let Some(bucket) = &self.buckets[axis.index()] else {
                continue;
            };
            // What asks nothing of an axis need not wait for its debt.
            if needed == 0 {
                continue;
            }
            let at = bucket.ready_at(needed, now);
            if at > ready.at {
                ready = NotUntil {
                    at,
                    axis: Some(axis),
                };
            }
        }
        match self.stopped_until {
            Some(until) if until > now && until >= ready.at => NotUntil {
                at: until,
                axis: None,
            },
            _ => ready,
        }
    }

    fn learn_axis(&mut self, axis: Axis, word: &AxisWord, now: Instant) {
        if let Some(limit) = word.limit.filter(|&limit| limit > 0) {
            let limit = self
                .settings
                .limit(axis)
                .map_or(limit, |ceiling| ceiling.min(limit));
            let burst = self.settings.burst_of(limit);
            match &mut self.buckets[axis.index()] {
                Some(bucket) if bucket.per_minute() != limit => bucket.set_rate(limit, burst, now),
                Some(_) => {}
                // Both numbers are at least 1, so this is always made.
                None => self.buckets[axis.index()] = TokenBucket::new(limit, burst, now).ok(),
            }
        }
        let outstanding = self.outstanding_on(axis);
        if let (Some(remaining), Some(bucket)) = (word.remaining, &mut self.buckets[axis.index()]) {
            // Requests and input are charged on arrival: of what is in flight, only what is on its
            // way there, a second's rate at the most, can be missing from the provider's count.
            // Output is reserved high and charged late, while the bucket refills. Taking it off what
            // remains holds the calls in flight to what fits into one bucket: measured, 29 % of the
            // quota used instead of 98 %.
            let uncharged = match axis {
                Axis::Requests | Axis::Input => outstanding.min(bucket.per_minute().div_ceil(60)),
                Axis::Output => 0,
            };
            let limit = u128::from(word.limit.unwrap_or_else(|| bucket.per_minute()).max(1));
            let paced = u128::from(remaining)
                .saturating_mul(PACE_BELOW)
                .saturating_mul(u128::from(bucket.burst()))
                .div_ceil(limit);
            let level = i128::from(remaining) - i128::from(uncharged);
            let level = level.min(i128::try_from(paced).unwrap_or(i128::MAX));
            bucket.lower_to(saturate(level), now);
        }
    }

    fn forget(&mut self, id: LeaseId) -> Option<Lease> {
        let lease = self.leases.remove(&id)?;
        self.expiries.remove(&(lease.expires, id));
        for axis in Axis::ALL {
            let outstanding = &mut self.outstanding[axis.index()];
            *outstanding = outstanding.saturating_sub(lease.cost.on(axis).into());
        }
        Some(lease)
    }

    fn outstanding_on(&self, axis: Axis) -> u64 {
        u64::try_from(self.outstanding[axis.index()]).unwrap_or(u64::MAX)
    }
}

/// What one attempt takes from a quota.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Cost {
    /// Requests, usually 1.
    pub requests: u64,
    /// Input tokens that count against the limit.
    pub input: u64,
    /// Output tokens, expected or actual.
    pub output: u64,
}

impl Cost {
    /// Nothing.
    pub const ZERO: Self = Self {
        requests: 0,
        input: 0,
        output: 0,
    };

    /// The sum, axis by axis, up to the largest number.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            input: self.input.saturating_add(other.input),
            output: self.output.saturating_add(other.output),
        }
    }

    /// The difference, axis by axis, down to zero.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(other.requests),
            input: self.input.saturating_sub(other.input),
            output: self.output.saturating_sub(other.output),
        }
    }

    /// The part on one axis.
    #[must_use]
    pub const fn on(self, axis: Axis) -> u64 {
        match axis {
            Axis::Requests => self.requests,
            Axis::Input => self.input,
            Axis::Output => self.output,
        }
    }
}

/// What a provider counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Axis {
    /// Requests.
    Requests,
    /// Input tokens.
    Input,
    /// Output tokens.
    Output,
}

impl Axis {
    /// Every axis, in the order of [`Learned::axes`] and [`QuotaView::axes`].
    pub const ALL: [Self; 3] = [Self::Requests, Self::Input, Self::Output];

    /// Stable lower-case word for logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Input => "input",
            Self::Output => "output",
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Requests => 0,
            Self::Input => 1,
            Self::Output => 2,
        }
    }
}

/// Limits of a quota; an absent one is learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaSettings {
    /// Requests a minute.
    pub requests_per_minute: Option<u64>,
    /// Input tokens a minute.
    pub input_per_minute: Option<u64>,
    /// Output tokens a minute.
    pub output_per_minute: Option<u64>,
    /// A bucket holds what its rate brings in this time, and at least 1; at most a minute.
    ///
    /// One second by default: Anthropic warns that 60 requests a minute may be enforced as 1 a second.
    pub burst: Duration,
    /// How long after its expiry a lease is swept; at most an hour.
    pub lease_grace: Duration,
}

impl Default for QuotaSettings {
    fn default() -> Self {
        Self {
            requests_per_minute: None,
            input_per_minute: None,
            output_per_minute: None,
            burst: Duration::from_secs(1),
            lease_grace: Duration::from_secs(5),
        }
    }
}

impl QuotaSettings {
    fn validate(&self) -> Result<(), InvalidPolicy> {
        let fields = [
            ("quota.requests_per_minute", self.requests_per_minute),
            ("quota.input_tokens_per_minute", self.input_per_minute),
            ("quota.output_tokens_per_minute", self.output_per_minute),
        ];
        for (field, limit) in fields {
            if limit == Some(0) {
                return Err(InvalidPolicy::new(
                    field,
                    0,
                    "at least 1, or absent to learn it",
                ));
            }
        }
        if self.burst > LONGEST_BURST {
            let value = format!("{:?}", self.burst);
            return Err(InvalidPolicy::new("quota.burst", value, "at most 60 s"));
        }
        if self.lease_grace > LONGEST_GRACE {
            let value = format!("{:?}", self.lease_grace);
            return Err(InvalidPolicy::new(
                "quota.lease_grace",
                value,
                "at most 1 h",
            ));
        }
        Ok(())
    }

    const fn limit(&self, axis: Axis) -> Option<u64> {
        match axis {
            Axis::Requests => self.requests_per_minute,
            Axis::Input => self.input_per_minute,
            Axis::Output => self.output_per_minute,
        }
    }

    fn burst_of(&self, per_minute: u64) -> u64 {
        let minute = Duration::from_secs(60).as_nanos();
        let tokens = u128::from(per_minute).saturating_mul(self.burst.as_nanos()) / minute;
        u64::try_from(tokens).unwrap_or(u64::MAX).max(1)
    }
}

/// Names one reservation of one quota; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(u64);

/// Why a reservation was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct NotUntil {
    /// When it could be, if nothing else were admitted before.
    pub at: Instant,
    /// The axis that is missing longest; none if the whole quota is stopped.
    pub axis: Option<Axis>,
}

/// What a provider's answer said about its limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Learned {
    /// What it said about each axis, in the order of [`Axis::ALL`].
    pub axes: [Option<AxisWord>; 3],
    /// Nothing is admitted before this has passed; cut to a day.
    pub stop_for: Option<Duration>,
}

/// What a provider's answer said about one axis.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AxisWord {
    /// The limit a minute.
    pub limit: Option<u64>,
    /// How much of it is left.
    pub remaining: Option<u64>,
    /// How long until all of it is back.
    ///
    /// Decides nothing: it reads the same from a bucket that refills all the time and from a window
    /// that resets at once. Who knows which one a provider has says `stop_for`.
    pub full_in: Option<Duration>,
}

/// A quota as status shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuotaView {
    /// Each axis in the order of [`Axis::ALL`]; absent without a limit.
    pub axes: [Option<AxisView>; 3],
    /// Until when nothing is admitted.
    pub stopped_until: Option<Instant>,
    /// Leases neither settled nor swept.
    pub in_flight: usize,
    /// Their reserved cost.
    pub outstanding: Cost,
}

/// One axis of a quota as status shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct AxisView {
    /// Tokens a minute in force.
    pub limit: u64,
    /// Most tokens held at once.
    pub burst: u64,
    /// Whole tokens there are; negative is debt.
    pub level: i64,
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    cost: Cost,
    /// When it may be swept, grace included.
    expires: Instant,
    /// The axes that had a bucket when it was granted.
    charged: [bool; 3],
}

/// An instant that cannot be represented is as good as the farthest that is asked for here.
fn later(from: Instant, by: Duration) -> Instant {
    from.checked_add(by).unwrap_or(from)
}

fn saturate(level: i128) -> i64 {
    i64::try_from(level).unwrap_or(if level < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn cost(requests: u64, input: u64, output: u64) -> Cost {
        Cost {
            requests,
            input,
            output,
        }
    }

    /// One request and 1000 tokens of each kind a second, with a burst of ten seconds.
    fn quota(now: Instant) -> Quota {
        let settings = QuotaSettings {
            requests_per_minute: Some(60),
            input_per_minute: Some(60_000),
            output_per_minute: Some(60_000),
            burst: Duration::from_secs(10),
            lease_grace: Duration::from_secs(5),
        };
        Quota::new(settings, now).unwrap()
    }

    fn levels(quota: &Quota, now: Instant) -> [i64; 3] {
        quota.view(now).axes.map(|axis| axis.unwrap().level)
    }

    fn word(limit: Option<u64>, remaining: Option<u64>) -> Option<AxisWord> {
        Some(AxisWord {
            limit,
            remaining,
            full_in: None,
        })
    }

    #[test]
    fn settings_out_of_range_are_refused_by_name() {
        let now = Instant::now();
        let refused = |settings| Quota::new(settings, now).unwrap_err().field;
        let base = QuotaSettings::default();
        assert_eq!(
            refused(QuotaSettings {
                input_per_minute: Some(0),
                ..base
            }),
            "quota.input_tokens_per_minute"
        );
        assert_eq!(
            refused(QuotaSettings {
                burst: MINUTE * 2,
                ..base
            }),
            "quota.burst"
        );
        assert_eq!(
            refused(QuotaSettings {
                lease_grace: MINUTE * 61,
                ..base
            }),
            "quota.lease_grace"
        );
    }

    #[test]
    fn by_default_a_bucket_holds_one_second_of_its_rate_and_at_least_one() {
        let now = Instant::now();
        let settings = QuotaSettings {
            requests_per_minute: Some(5),
            input_per_minute: Some(100_000),
            ..QuotaSettings::default()
        };
        let view = Quota::new(settings, now).unwrap().view(now);
        assert_eq!(view.axes[0].unwrap().burst, 1);
        assert_eq!(view.axes[1].unwrap().burst, 1_666);
        assert_eq!(view.axes[2], None);
    }

    /// Trap 33: the check and the taking are one step, on all axes.
    #[test]
    fn a_request_that_one_axis_refuses_takes_nothing_from_the_others() {
        let now = Instant::now();
        let mut quota = quota(now);
        quota
            .try_reserve(cost(1, 0, 9_500), now + MINUTE, now)
            .unwrap();
        let refused = quota
            .try_reserve(cost(1, 100, 1_000), now + MINUTE, now)
            .unwrap_err();
        assert_eq!(refused.axis, Some(Axis::Output));
        assert_eq!(refused.at, now + Duration::from_millis(500));
        assert_eq!(levels(&quota, now), [9, 10_000, 500]);
        assert!(
            quota
                .try_reserve(cost(1, 100, 1_000), now + MINUTE, refused.at)
                .is_ok()
        );
    }

    #[test]
    fn what_asks_nothing_of_an_axis_does_not_wait_for_its_debt() {
        let now = Instant::now();
        let mut quota = quota(now);
        quota
            .try_reserve(cost(1, 0, 50_000), now + MINUTE, now)
            .unwrap();
        assert_eq!(levels(&quota, now)[2], -40_000);
        assert!(
            quota
                .try_reserve(cost(1, 100, 0), now + MINUTE, now)
                .is_ok()
        );
    }

    /// Trap 34: an estimate is settled both ways.
    #[test]
    fn settling_below_gives_back_and_settling_above_becomes_debt() {
        let now = Instant::now();
        let mut quota = quota(now);
        let low = quota
            .try_reserve(cost(1, 4_000, 4_000), now + MINUTE, now)
            .unwrap();
        let high = quota
            .try_reserve(cost(1, 4_000, 4_000), now + MINUTE, now)
            .unwrap();
        assert!(quota.settle(low, cost(1, 4_000, 300), now));
        assert_eq!(levels(&quota, now), [8, 2_000, 5_700]);
        assert!(quota.settle(high, cost(1, 4_000, 12_000), now));
        assert_eq!(levels(&quota, now), [8, 2_000, -2_300]);
        assert_eq!((quota.in_flight(), quota.outstanding()), (0, Cost::ZERO));
    }

    /// Trap 35: a late or double release must not mint tokens.
    #[test]
    fn a_lease_settled_or_swept_before_changes_nothing() {
        let now = Instant::now();
        let mut quota = quota(now);
        let id = quota
            .try_reserve(cost(1, 5_000, 5_000), now + MINUTE, now)
            .unwrap();
        let hung = quota
            .try_reserve(cost(1, 1_000, 1_000), now + MINUTE, now)
            .unwrap();
        assert!(quota.refund(id, now));
        assert!(!quota.refund(id, now));
        assert!(!quota.settle(LeaseId(77), cost(9, 9, 9), now));
        assert_eq!(levels(&quota, now), [9, 9_000, 9_000]);

        let due = now + MINUTE + Duration::from_secs(5);
        assert_eq!(quota.next_expiry(), Some(due));
        assert_eq!(quota.sweep(due - Duration::from_nanos(1)), 0);
        assert_eq!(quota.sweep(due), 1);
        assert_eq!((quota.in_flight(), quota.next_expiry()), (0, None));
        assert!(!quota.settle(hung, Cost::ZERO, due));
    }

    #[test]
    fn a_lease_with_an_absurd_expiry_is_granted_and_settled() {
        let now = Instant::now();
        let mut quota = quota(now);
        let far = now + Duration::from_secs(u64::from(u32::MAX));
        let all = cost(u64::MAX, u64::MAX, u64::MAX);
        let id = quota.try_reserve(all, far, now).unwrap();
        assert!(quota.settle(id, all, now));
        assert_eq!(quota.outstanding(), Cost::ZERO);
        // Trap 19: a debt beyond reason is a long wait, and no overflow.
        assert!(quota.ready_at(cost(1, 1, 1), now) > now + MINUTE);
    }

    #[test]
    fn a_learned_limit_creates_a_bucket_and_never_passes_a_configured_one() {
        let now = Instant::now();
        let settings = QuotaSettings {
            requests_per_minute: Some(600),
            ..QuotaSettings::default()
        };
        let mut quota = Quota::new(settings, now).unwrap();
        let mut say = |requests, input| {
            let axes = [word(Some(requests), None), word(Some(input), None), None];
            quota.learn(
                &Learned {
                    axes,
                    stop_for: None,
                },
                now,
            );
            quota
                .view(now)
                .axes
                .map(|axis| axis.map(|axis| (axis.limit, axis.burst)))
        };
        assert_eq!(
            say(6_000, 120_000),
            [Some((600, 10)), Some((120_000, 2_000)), None]
        );
        assert_eq!(
            say(60, 240_000),
            [Some((60, 1)), Some((240_000, 4_000)), None]
        );
        assert_eq!(say(0, 0), [Some((60, 1)), Some((240_000, 4_000)), None]);
        assert_eq!(say(6_000, u64::MAX)[0], Some((600, 10)));
    }

    #[test]
    fn a_lease_older_than_its_bucket_is_not_given_back_to_it() {
        let now = Instant::now();
        let mut quota = Quota::new(QuotaSettings::default(), now).unwrap();
        let id = quota
            .try_reserve(cost(1, 5_000, 4_000), now + MINUTE, now)
            .unwrap();
        let axes = [
            None,
            word(Some(60_000), Some(20_000)),
            word(Some(60_000), None),
        ];
        quota.learn(
            &Learned {
                axes,
                stop_for: None,
            },
            now,
        );
        quota
            .try_reserve(cost(1, 800, 800), now + MINUTE, now)
            .unwrap();
        assert!(quota.settle(id, cost(1, 5_000, 100), now));
        let level = |axis: Axis| quota.view(now).axes[axis.index()].unwrap().level;
        assert_eq!((level(Axis::Input), level(Axis::Output)), (200, 200));
    }

    #[test]
    fn what_remains_only_lowers_and_counts_what_is_on_its_way() {
        let now = Instant::now();
        let mut quota = quota(now);
        let say = |quota: &mut Quota, remaining: u64| {
            let word = word(Some(60_000), Some(remaining));
            let axes = [None, word, word];
            quota.learn(
                &Learned {
                    axes,
                    stop_for: None,
                },
                now,
            );
            [1, 2].map(|axis| levels(quota, now)[axis])
        };
        quota
            .try_reserve(cost(1, 400, 400), now + MINUTE, now)
            .unwrap();
        assert_eq!(say(&mut quota, 50_000), [9_600, 9_600]);
        assert_eq!(say(&mut quota, 7_000), [6_600, 7_000]);
        quota
            .try_reserve(cost(1, 4_600, 5_000), now + MINUTE, now)
            .unwrap();
        assert_eq!(say(&mut quota, 60_000), [2_000, 2_000]);
        // A second's rate is 1000 tokens, though 5000 are in flight.
        assert_eq!(say(&mut quota, 0), [-1_000, 0]);
    }

    #[test]
    fn below_a_tenth_remaining_the_burst_shrinks_in_proportion() {
        let now = Instant::now();
        let settings = QuotaSettings {
            input_per_minute: Some(60_000),
            ..Default::default()
        };
        let mut quota = Quota::new(settings, now).unwrap();
        let mut say = |remaining| {
            let axes = [None, word(Some(60_000), Some(remaining)), None];
            quota.learn(
                &Learned {
                    axes,
                    stop_for: None,
                },
                now,
            );
            quota.view(now).axes[1].unwrap().level
        };
        assert_eq!(say(6_000), 1_000);
        assert_eq!(say(3_000), 500);
        assert_eq!(say(1), 1);
    }

    #[test]
    fn a_stop_holds_everything_and_is_never_shortened() {
        let now = Instant::now();
        let mut quota = quota(now);
        let mut stop = |secs| {
            let stop_for = Some(Duration::from_secs(secs));
            quota.learn(
                &Learned {
                    stop_for,
                    ..Learned::default()
                },
                now,
            );
            quota
                .try_reserve(cost(1, 1, 1), now + MINUTE, now)
                .unwrap_err()
        };
        let until = now + Duration::from_secs(30);
        assert_eq!(
            stop(30),
            NotUntil {
                at: until,
                axis: None
            }
        );
        assert_eq!(
            stop(2),
            NotUntil {
                at: until,
                axis: None
            }
        );
        assert_eq!(
            stop(u64::MAX),
            NotUntil {
                at: now + LONGEST_STOP,
                axis: None
            }
        );
    }

    #[test]
    fn a_queue_behind_a_stop_finds_full_buckets_and_no_more() {
        let now = Instant::now();
        let mut quota = quota(now);
        let stop_for = Some(Duration::from_secs(100));
        quota.learn(
            &Learned {
                stop_for,
                ..Learned::default()
            },
            now,
        );
        assert_eq!(
            quota.wait_for(cost(10, 0, 0), now),
            Duration::from_secs(100)
        );
        assert_eq!(
            quota.wait_for(cost(30, 0, 0), now),
            Duration::from_secs(120)
        );
    }

    #[test]
    fn a_request_above_the_burst_does_not_predict_a_wait_that_it_will_not_have() {
        let now = Instant::now();
        let quota = quota(now);
        let large = cost(1, 200_000, 0);
        assert_eq!(quota.ready_at(large, now), now);
        assert_eq!(quota.wait_behind(Cost::ZERO, large, now), Duration::ZERO);
        assert_eq!(
            quota.wait_behind(cost(1, 5_000, 0), large, now),
            Duration::from_secs(5)
        );
        assert_eq!(quota.wait_for(large, now), Duration::from_secs(190));
    }

    #[test]
    fn a_conservative_replacement_starts_empty_and_keeps_debt_and_leases() {
        let now = Instant::now();
        let mut quota = quota(now);
        quota
            .try_reserve(cost(1, 1_000, 30_000), now + MINUTE, now)
            .unwrap();
        quota.make_conservative(now);
        assert_eq!(levels(&quota, now), [0, 0, -20_000]);
        assert_eq!(quota.in_flight(), 1);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Reserve(Cost),
        Settle(usize, Cost),
        Refund(usize),
        Sweep,
        Forward(u64),
        Backward(u64),
    }

    fn any_cost(most: u64) -> impl Strategy<Value = Cost> {
        (0..=most, 0..=most, 0..=most).prop_map(|(a, b, c)| cost(a, b, c))
    }

    fn steps(most: u64) -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => any_cost(most).prop_map(Step::Reserve),
            3 => (any::<usize>(), any_cost(2 * most)).prop_map(|(i, c)| Step::Settle(i, c)),
            1 => any::<usize>().prop_map(Step::Refund),
            1 => Just(Step::Sweep),
            3 => (0_u64..900_000_000).prop_map(Step::Forward),
            1 => (0_u64..900_000_000).prop_map(Step::Backward),
        ];
        prop::collection::vec(step, 1..60)
    }

    /// Replays steps beside a ledger of what was charged.
    struct Replay {
        quota: Quota,
        start: Instant,
        now: Instant,
        latest: Instant,
        granted: Vec<(LeaseId, Cost, Instant, bool)>,
        charged: Cost,
    }

    impl Replay {
        fn step(&mut self, step: &Step) {
            match *step {
                Step::Reserve(cost) => {
                    let expires = self.now + Duration::from_secs(2);
                    if let Ok(id) = self.quota.try_reserve(cost, expires, self.now) {
                        self.granted.push((id, cost, expires, true));
                        self.charged = self.charged.saturating_add(cost);
                    }
                }
                Step::Settle(pick, actual) => self.settle(pick, actual),
                Step::Refund(pick) => self.settle(pick, Cost::ZERO),
                Step::Sweep => {
                    let (now, mut swept) = (self.now, 0);
                    for (_, _, expires, open) in &mut self.granted {
                        if *open && *expires + Duration::from_secs(1) <= now {
                            *open = false;
                            swept += 1;
                        }
                    }
                    assert_eq!(self.quota.sweep(now), swept);
                }
                Step::Forward(nanos) => self.now += Duration::from_nanos(nanos),
                Step::Backward(nanos) => {
                    self.now = (self.now - Duration::from_nanos(nanos)).max(self.start);
                }
            }
            self.latest = self.latest.max(self.now);
        }

        fn settle(&mut self, pick: usize, actual: Cost) {
            if self.granted.is_empty() {
                return;
            }
            let pick = pick % self.granted.len();
            let (id, reserved, _, open) = &mut self.granted[pick];
            assert_eq!(self.quota.settle(*id, actual, self.now), *open);
            if *open {
                *open = false;
                self.charged = self
                    .charged
                    .saturating_sub(*reserved)
                    .saturating_add(actual);
            }
        }

        fn refilled(&self, per_minute: u64) -> i64 {
            let nanos = (self.latest - self.start).as_nanos();
            i64::try_from(nanos * u128::from(per_minute) / MINUTE.as_nanos()).unwrap()
        }
    }

    fn replay(per_minute: u64, burst: Duration, start: Instant) -> Replay {
        let settings = QuotaSettings {
            requests_per_minute: Some(per_minute),
            input_per_minute: Some(per_minute),
            output_per_minute: Some(per_minute),
            burst,
            lease_grace: Duration::from_secs(1),
        };
        Replay {
            quota: Quota::new(settings, start).unwrap(),
            start,
            now: start,
            latest: start,
            granted: Vec::new(),
            charged: Cost::ZERO,
        }
    }

    proptest! {
        /// With a burst that is never reached, not one token appears or vanishes.
        #[test]
        fn granted_less_refunded_plus_debt_is_what_was_charged(steps in steps(2_000)) {
            let mut replay = replay(60_000, MINUTE, Instant::now());
            replay.quota.make_conservative(replay.now);
            for step in &steps {
                replay.step(step);
                let refilled = replay.refilled(60_000);
                let seen = levels(&replay.quota, replay.latest);
                for (axis, level) in Axis::ALL.into_iter().zip(seen) {
                    let charged = i64::try_from(replay.charged.on(axis)).unwrap();
                    prop_assert_eq!(level, refilled - charged);
                }
                let open: Vec<_> = replay.granted.iter().filter(|lease| lease.3).collect();
                let held = open.iter().fold(Cost::ZERO, |sum, lease| sum.saturating_add(lease.1));
                prop_assert_eq!(replay.quota.outstanding(), held);
                prop_assert_eq!(replay.quota.in_flight(), open.len());
            }
        }

        /// A burst that is reached loses what runs over, and never gives more than there was.
        #[test]
        fn no_interleaving_spends_more_than_the_burst_and_the_refill(steps in steps(60)) {
            let mut replay = replay(3_000, Duration::from_secs(1), Instant::now());
            for step in &steps {
                replay.step(step);
                let most = 50 + replay.refilled(3_000);
                let seen = levels(&replay.quota, replay.latest);
                for (axis, level) in Axis::ALL.into_iter().zip(seen) {
                    let charged = i64::try_from(replay.charged.on(axis)).unwrap();
                    prop_assert!(level <= 50);
                    prop_assert!(level <= most - charged);
                }
            }
        }

        #[test]
        fn the_predicted_wait_is_when_a_strict_queue_really_serves(
            per_minute in 60_u64..100_000,
            spent in 0_u64..5_000,
            ahead in prop::collection::vec(1_u64..5_000, 0..12),
            own in 1_u64..20_000,
            stop in prop::option::of(0_u64..20_000),
        ) {
            let start = Instant::now();
            let settings = QuotaSettings { input_per_minute: Some(per_minute), ..Default::default() };
            let mut quota = Quota::new(settings, start).unwrap();
            let tokens = |input| cost(0, input, 0);
            quota.try_reserve(tokens(spent), start + MINUTE, start).unwrap();
            let stop_for = stop.map(Duration::from_millis);
            quota.learn(&Learned { stop_for, ..Learned::default() }, start);
            let predicted = quota.wait_behind(tokens(ahead.iter().sum()), tokens(own), start);
            let mut now = start;
            let burst = quota.view(start).axes[1].unwrap().burst;
            let above_burst = ahead.iter().filter(|&&input| input > burst).count();
            for input in ahead.into_iter().chain([own]) {
                now = quota.ready_at(tokens(input), now);
                quota.try_reserve(tokens(input), now + MINUTE, now).unwrap();
            }
            // A wait for a full bucket ends on a whole nanosecond, and what runs over by then is lost.
            let late = (now - start).checked_sub(predicted).unwrap();
            prop_assert!(late.as_nanos() <= u128::try_from(above_burst).unwrap());
        }
    }
}
