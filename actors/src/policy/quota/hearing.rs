//! What a quota makes of a provider's words.

use tokio::time::Instant;

use super::leases::Lease;
use super::ramp::Ramp;
use super::twin::{Of, Twin};
use super::{
    Axis, AxisWord, LONGEST_STOP, Learned, LeaseId, Quota, RefusedBy, Stop, burst_of, later,
};

impl Quota {
    /// Takes in what a provider said about its limits, apart from any attempt.
    ///
    /// A limit creates a missing bucket and never passes a configured one; what remains only lowers
    /// a level; a stop is never shortened. A limit of 0 is no limit that anything could be paced by
    /// and is passed over: the provider's refusals then speak for themselves.
    pub fn learn(&mut self, learned: &Learned, now: Instant) {
        for (axis, word) in Axis::ALL.into_iter().zip(&learned.axes) {
            let Some(word) = word else { continue };
            self.learn_limit(axis, word, now);
            if let (Some(remaining), Some(twin)) = (word.remaining, &mut self.axes[axis.index()]) {
                twin.lower_to(remaining, now);
            }
        }
        self.stop(learned, now);
    }

    /// Takes in what the answer to a lease's attempt said: as [`learn`](Self::learn), and what remains
    /// corrects the level both ways, as of the moment of the grant. Call it before the lease is settled;
    /// for a lease that is settled or swept it is no more than [`learn`](Self::learn).
    pub fn heard(&mut self, id: LeaseId, learned: &Learned, now: Instant) {
        let Some(lease) = self.leases.get(id).copied() else {
            return self.learn(learned, now);
        };
        let last = self.leases.last();
        if let Some(gate) = self.gate.as_mut().filter(|_| learned.accepted) {
            gate.opened(id, now);
        }
        for axis in Axis::ALL {
            let Some(word) = &learned.axes[axis.index()] else {
                continue;
            };
            if self.axes[axis.index()].is_none() {
                self.begin(axis, word, (id, &lease), now);
                continue;
            }
            self.learn_limit(axis, word, now);
            let Some(twin) = &mut self.axes[axis.index()] else {
                continue;
            };
            if let Some(mark) = lease.marks.on(axis) {
                let cost = lease.cost.on(axis);
                let of = Of {
                    lease: id,
                    mark,
                    granted: lease.granted,
                    cost,
                    accepted: learned.accepted,
                };
                twin.heard(axis, word, &of, now);
            }
        }
        match learned.refused_by {
            Some(RefusedBy::Bucket(axis)) => self.refused(axis, (id, &lease), learned, now),
            Some(RefusedBy::Ramp) => {
                self.ramp = Ramp::refused(self.ramp, id, last, &self.used, now);
            }
            Some(RefusedBy::Connections | RefusedBy::SpendCap | RefusedBy::Window) | None => {}
        }
        if learned.accepted {
            self.lone.accepted();
        }
        let binds_all = learned
            .hint
            .is_some_and(|hint| self.could_hold(&lease) && self.lone.refused(hint, now));
        let bound = learned.hint.filter(|_| binds_all);
        let stop_for = learned.stop_for.or(bound);
        let learned = Learned {
            stop_for,
            ..*learned
        };
        self.stop(&learned, now);
    }

    fn stop(&mut self, learned: &Learned, now: Instant) {
        let Some(stop_for) = learned.stop_for else {
            return;
        };
        let until = later(now, stop_for.min(LONGEST_STOP));
        if self.stopped.is_none_or(|old| old.until < until) {
            let by = learned.refused_by;
            self.stopped = Some(Stop { until, by });
        }
    }

    /// Whether a lease's request fits into buckets that are full.
    fn could_hold(&self, lease: &Lease) -> bool {
        let twins = Axis::ALL.into_iter().zip(&self.axes);
        let mut limited = twins.filter_map(|(axis, twin)| Some((axis, twin.as_ref()?)));
        limited.all(|(axis, twin)| lease.cost.on(axis) <= twin.limit())
    }

    fn learn_limit(&mut self, axis: Axis, word: &AxisWord, now: Instant) {
        let Some(limit) = self.limit_in_force(axis, word) else {
            return;
        };
        let burst = burst_of(&self.settings, axis, limit);
        match &mut self.axes[axis.index()] {
            Some(twin) if twin.limit() != limit => twin.set_limit(limit, burst, now),
            Some(_) => {}
            None => self.axes[axis.index()] = Twin::new(limit, burst, now),
        }
    }

    /// Makes the bucket that the first answer teaches.
    fn begin(&mut self, axis: Axis, word: &AxisWord, (id, lease): (LeaseId, &Lease), now: Instant) {
        let Some(limit) = self.limit_in_force(axis, word) else {
            return;
        };
        let later = self.leases.after(id, axis);
        let burst = burst_of(&self.settings, axis, limit);
        let mut twin = Twin::new(limit, burst, lease.granted);
        if let Some(twin) = &mut twin {
            twin.begin(word, lease.granted, later, now);
        }
        self.axes[axis.index()] = twin;
    }

    fn limit_in_force(&self, axis: Axis, word: &AxisWord) -> Option<u64> {
        let limit = word.limit.filter(|&limit| limit > 0)?;
        Some(
            self.settings
                .limit(axis)
                .map_or(limit, |ceiling| ceiling.min(limit)),
        )
    }

    /// A bucket refused a request: it is empty, whatever was thought of it.
    fn refused(
        &mut self,
        named: Option<Axis>,
        (id, lease): (LeaseId, &Lease),
        learned: &Learned,
        now: Instant,
    ) {
        let last = self.leases.last();
        let remaining = |axis: Axis| learned.axes[axis.index()].and_then(|word| word.remaining);
        let lacks = |axis: Axis| {
            let cost = lease.cost.on(axis).max(1);
            remaining(axis).is_some_and(|remaining| remaining < cost)
        };
        let guilty = named
            .or_else(|| Axis::ALL.into_iter().find(|&axis| lacks(axis)))
            .or_else(|| self.fullest_used(lease));
        let Some(axis) = guilty else { return };
        let (Some(twin), Some(mark)) = (&mut self.axes[axis.index()], lease.marks.on(axis)) else {
            return;
        };
        if lacks(axis) {
            return twin.empty(now);
        }
        // The minute has room: it came too soon after those before it.
        let of = Of {
            lease: id,
            mark,
            granted: lease.granted,
            cost: lease.cost.on(axis),
            accepted: false,
        };
        let word = learned.axes[axis.index()].as_ref();
        twin.refused((axis, word), &of, last, now);
    }

    /// The axis that had least of its burst left when a lease was granted.
    fn fullest_used(&self, lease: &Lease) -> Option<Axis> {
        let left = |axis: Axis| {
            let (twin, mark) = (self.axes[axis.index()].as_ref()?, lease.marks.on(axis)?);
            Some(mark.part_left(twin.burst().tokens()))
        };
        Axis::ALL
            .into_iter()
            .filter(|&axis| lease.cost.on(axis) > 0)
            .filter_map(|axis| Some((left(axis)?, axis)))
            .min_by_key(|&(left, _)| left)
            .map(|(_, axis)| axis)
    }
}
