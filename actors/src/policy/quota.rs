//! One quota: buckets for requests, input and output tokens, reserved all or nothing.
//!
//! A reservation is a lease: settled with what the call really cost, both ways, or reclaimed by a
//! sweep when its holder is long dead. Each lease is settled once; an unknown one changes nothing. An
//! axis without a limit admits everything until a provider's word teaches one; from then on it is a
//! twin of the provider's own bucket, corrected by each answer. Failure mode: a provider that changes
//! how it enforces its limits refuses what this admits, and says so, and the quota stops for as long as
//! it was told.

use std::time::Duration;

use tokio::time::Instant;

use self::burst::Burst;
use self::gate::Gate;
use self::leases::{Lease, Leases, Marks};
use self::lone::LoneRefusals;
use self::ramp::{Ramp, Used};
use self::twin::Twin;
use super::InvalidPolicy;
use super::concurrency::Leaving;

mod burst;
mod cost;
mod foreign;
mod gate;
mod hearing;
mod lately;
mod learned;
mod leases;
mod lone;
mod ramp;
mod settings;
#[cfg(test)]
mod tests;
mod twin;
mod view;

pub use cost::{Axis, Cost};
pub use learned::{AxisWord, Learned, RefusedBy};
pub use leases::LeaseId;
pub use settings::QuotaSettings;
pub use view::{AxisView, QuotaView};

/// Longest stop that a provider's word can impose: a spend cap lasts for up to a month.
const LONGEST_STOP: Duration = Duration::from_secs(31 * 24 * 60 * 60);

/// The buckets of one quota and the leases on them.
#[derive(Debug)]
pub struct Quota {
    settings: QuotaSettings,
    axes: [Option<Twin>; 3],
    leases: Leases,
    outstanding: [u128; 3],
    stopped: Option<Stop>,
    lone: LoneRefusals,
    /// Requests lately.
    used: Used,
    ramp: Option<Ramp>,
    /// Holds attempts back while nothing is known of any limit.
    gate: Option<Gate>,
}

impl Quota {
    /// Makes a quota with full buckets.
    ///
    /// # Errors
    /// When a limit is 0, the burst is longer than a minute or the grace longer than an hour.
    pub fn new(settings: QuotaSettings, now: Instant) -> Result<Self, InvalidPolicy> {
        settings.validate()?;
        let mut axes = [const { None }; 3];
        for (axis, twin) in Axis::ALL.into_iter().zip(&mut axes) {
            if let Some(limit) = settings.limit(axis) {
                *twin = Twin::new(limit, burst_of(&settings, axis, limit), now);
            }
        }
        Ok(Self {
            settings,
            axes,
            leases: Leases::default(),
            outstanding: [0; 3],
            stopped: None,
            lone: LoneRefusals::default(),
            used: Used::new(now),
            ramp: None,
            gate: settings.find_burst.then(Gate::new).transpose()?,
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
        if let Some(ramp) = &mut self.ramp {
            ramp.advance(&self.used, now);
        }
        for twin in self.axes.iter_mut().flatten() {
            twin.refill(now);
        }
        let ready = self.ready(cost, now);
        if ready.at > now {
            return Err(ready);
        }
        let mut marks = Marks::default();
        for axis in Axis::ALL {
            let taken = cost.on(axis);
            let outstanding = self.outstanding_on(axis);
            if let Some(twin) = &mut self.axes[axis.index()] {
                marks.set(axis, twin.take(taken, outstanding, now));
            }
            self.outstanding[axis.index()] += u128::from(taken);
        }
        self.used.add(cost.requests, now);
        if let Some(ramp) = &mut self.ramp {
            ramp.take(cost.requests, now);
        }
        let lease = Lease {
            cost,
            granted: now,
            marks,
        };
        let id = self
            .leases
            .add(lease, later(expires, self.settings.lease_grace));
        let is_blind = self.is_blind();
        if let Some(gate) = self.gate.as_mut().filter(|_| is_blind) {
            gate.enter(id, now);
        }
        Ok(id)
    }

    /// Replaces a lease's reserved cost by the actual one: less is given back, more becomes debt.
    ///
    /// Returns false, and changes nothing, for a lease that is unknown, settled or swept.
    pub fn settle(&mut self, id: LeaseId, actual: Cost, now: Instant) -> bool {
        self.settle_as(id, actual, Leaving::Neutral, now)
    }

    /// Settles, and says how the attempt left, which counts while no limit is known.
    pub fn settle_as(&mut self, id: LeaseId, actual: Cost, leaving: Leaving, now: Instant) -> bool {
        let Some(lease) = self.leases.remove(id) else {
            return false;
        };
        self.forget(&lease);
        if let Some(gate) = &mut self.gate {
            gate.left(id, leaving, now);
        }
        self.replace(&lease, actual, now);
        true
    }

    /// Gives a whole lease back, as if nothing had been sent; false as in [`settle`](Self::settle).
    pub fn refund(&mut self, id: LeaseId, now: Instant) -> bool {
        self.settle(id, Cost::ZERO, now)
    }

    /// Replaces a lease's reserved cost by a better estimate while it goes on: what its input really
    /// was, or more output than was expected. False as in [`settle`](Self::settle).
    pub fn revise(&mut self, id: LeaseId, estimate: Cost, now: Instant) -> bool {
        let Some(lease) = self.leases.get_mut(id) else {
            return false;
        };
        let old = *lease;
        lease.cost = estimate;
        for axis in Axis::ALL {
            let outstanding = &mut self.outstanding[axis.index()];
            *outstanding = outstanding.saturating_sub(old.cost.on(axis).into())
                + u128::from(estimate.on(axis));
        }
        self.replace(&old, estimate, now);
        true
    }

    /// Forgets the leases that nobody settled in time; they stay charged at their reserved cost.
    ///
    /// Returns how many there were.
    pub fn sweep(&mut self, now: Instant) -> usize {
        let mut swept = 0;
        while let Some((id, lease)) = self.leases.remove_overdue(now) {
            self.forget(&lease);
            swept += 1;
            if let Some(gate) = &mut self.gate {
                gate.left(id, Leaving::Neutral, now);
            }
        }
        swept
    }

    /// When to sweep next: no later than the first lease can be swept, and sooner where one was
    /// settled since.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Instant> {
        self.leases.next_expiry()
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
        let start = self.stopped.map_or(now, |stop| stop.until.max(now));
        let mut end = start;
        for axis in Axis::ALL {
            let Some(twin) = &self.axes[axis.index()] else {
                continue;
            };
            let mut bucket = *twin.bucket();
            bucket.refill(start);
            let total = ahead
                .on(axis)
                .saturating_add(own.on(axis).min(bucket.burst()));
            if total > 0 {
                end = end.max(bucket.refilled_at(total, start));
            }
        }
        if let Some(gate) = self.gate.as_ref().filter(|_| self.is_blind()) {
            end = end.max(start + gate.wait_behind(ahead.requests));
        }
        if let Some(ramp) = &self.ramp {
            let total = ahead.requests.saturating_add(own.requests.min(1));
            end = end.max(ramp.refilled_at(total, start));
        }
        end.saturating_duration_since(now)
    }

    /// Empties the buckets, for a replacement that does not trust the state; debt stays.
    pub fn make_conservative(&mut self, now: Instant) {
        for twin in self.axes.iter_mut().flatten() {
            twin.empty(now);
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
        let stop = self.stop_at(now);
        let view = |twin: &Twin| AxisView {
            limit: twin.limit(),
            burst: twin.burst().tokens(),
            burst_found: twin.burst().is_found(),
            level: twin.bucket().available(now),
            foreign: twin.foreign(),
        };
        QuotaView {
            axes: self.axes.each_ref().map(|twin| twin.as_ref().map(view)),
            stopped_until: stop.map(|stop| stop.until),
            stopped_by: stop.and_then(|stop| stop.by),
            concurrency: self
                .gate
                .as_ref()
                .filter(|_| self.is_blind())
                .map(Gate::limit),
            ramp_per_minute: self.ramp.map(|ramp| ramp.per_minute()),
            in_flight: self.in_flight(),
            outstanding: self.outstanding(),
        }
    }

    fn ready(&self, cost: Cost, now: Instant) -> NotUntil {
        let mut ready = NotUntil::lacking(now, None);
        for axis in Axis::ALL {
            let needed = cost.on(axis);
            let Some(twin) = &self.axes[axis.index()] else {
                continue;
            };
            // What asks nothing of an axis need not wait for its debt.
            if needed == 0 {
                continue;
            }
            let at = twin.bucket().ready_at(needed, now);
            if at > ready.at {
                ready = NotUntil::lacking(at, Some(axis));
            }
        }
        if let Some(ramp) = &self.ramp
            && cost.requests > 0
        {
            let at = ramp.ready_at(cost.requests, now);
            if at > ready.at {
                ready = NotUntil::lacking(at, None);
            }
        }
        if let Some(gate) = self.gate.as_ref().filter(|_| self.is_blind())
            && cost.requests > 0
            && let Some(closed) = gate.closed(now)
            && closed.until > ready.at
        {
            ready = NotUntil {
                is_guess: closed.is_guess,
                ..NotUntil::lacking(closed.until, None)
            };
        }
        match self.stop_at(now) {
            Some(stop) if stop.until >= ready.at => NotUntil {
                stopped_by: stop.by,
                ..NotUntil::lacking(stop.until, None)
            },
            _ => ready,
        }
    }

    /// What stops the quota at `now`.
    fn stop_at(&self, now: Instant) -> Option<Stop> {
        self.stopped.filter(|stop| stop.until > now)
    }

    /// Which limit stops the quota at `now`, if one does and was named.
    #[must_use]
    pub fn stopped_by(&self, now: Instant) -> Option<RefusedBy> {
        self.stop_at(now)?.by
    }

    /// Whether no limit is known at all.
    fn is_blind(&self) -> bool {
        self.axes.iter().all(Option::is_none)
    }

    fn replace(&mut self, lease: &Lease, by: Cost, now: Instant) {
        for axis in Axis::ALL {
            // A bucket learned after the lease was granted never paid for it.
            if lease.marks.has(axis)
                && let Some(twin) = &mut self.axes[axis.index()]
            {
                twin.replace(lease.cost.on(axis), by.on(axis), now);
            }
        }
        if let Some(ramp) = &mut self.ramp {
            let unused = lease.cost.requests.saturating_sub(by.requests);
            if unused > 0 {
                ramp.put_back(unused, now);
            }
        }
    }

    /// Counts a lease no longer that was taken out.
    fn forget(&mut self, lease: &Lease) {
        for axis in Axis::ALL {
            let outstanding = &mut self.outstanding[axis.index()];
            *outstanding = outstanding.saturating_sub(lease.cost.on(axis).into());
        }
    }

    fn outstanding_on(&self, axis: Axis) -> u64 {
        u64::try_from(self.outstanding[axis.index()]).unwrap_or(u64::MAX)
    }
}

/// Why a reservation was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct NotUntil {
    /// When it could be, if nothing else were admitted before.
    pub at: Instant,
    /// The axis that is missing longest; none if the whole quota is stopped.
    pub axis: Option<Axis>,
    /// It is only when to look again: too many attempts are in flight, and none has shown yet how long
    /// one takes.
    pub is_guess: bool,
    /// Which limit has stopped it, where that was said.
    pub stopped_by: Option<RefusedBy>,
}

impl NotUntil {
    const fn lacking(at: Instant, axis: Option<Axis>) -> Self {
        Self {
            at,
            axis,
            is_guess: false,
            stopped_by: None,
        }
    }
}

/// Nothing is admitted for a while, whatever the buckets hold.
#[derive(Debug, Clone, Copy)]
struct Stop {
    until: Instant,
    by: Option<RefusedBy>,
}

fn burst_of(settings: &QuotaSettings, axis: Axis, limit: u64) -> Burst {
    if settings.find_burst {
        Burst::search(limit, axis)
    } else {
        Burst::fixed(settings.burst_of(limit))
    }
}

/// An instant that cannot be represented is as good as the farthest that is asked for here.
fn later(from: Instant, by: Duration) -> Instant {
    from.checked_add(by).unwrap_or(from)
}
