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

mod cost;
mod settings;
#[cfg(test)]
mod tests;

pub use cost::{Axis, Cost};
pub use settings::QuotaSettings;

/// Longest stop that a provider's word can impose; a day's quota resets within it.
const LONGEST_STOP: Duration = Duration::from_secs(24 * 60 * 60);
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
