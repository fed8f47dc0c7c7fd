//! The leases of one quota, and which of them are overdue.
//!
//! Nearly all are settled long before they expire, so the order in which they expire is kept lazily: a
//! lease that is settled leaves its entry there, to be passed over when its turn comes. Entries left
//! behind are cleared away when they are more than those in force.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use slab::Slab;
use tokio::time::Instant;

use super::twin::Mark;
use super::{Axis, Cost};

/// So many entries left behind are never worth clearing away.
const KEPT: usize = 64;

/// Names one reservation of one quota; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId {
    /// In the order in which they were granted.
    number: u64,
    /// Where it is kept, as another was before and will be after it.
    slot: u32,
}

impl LeaseId {
    #[cfg(test)]
    pub(super) const fn nth(number: u64) -> Self {
        Self { number, slot: 0 }
    }
}

/// What was granted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    pub(super) cost: Cost,
    pub(super) granted: Instant,
    pub(super) marks: Marks,
}

/// Each axis at the moment of a grant.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Marks {
    marks: [Mark; 3],
    /// The axes that had a bucket then.
    has: [bool; 3],
}

impl Marks {
    pub(super) fn set(&mut self, axis: Axis, mark: Mark) {
        self.marks[axis.index()] = mark;
        self.has[axis.index()] = true;
    }

    pub(super) const fn has(&self, axis: Axis) -> bool {
        self.has[axis.index()]
    }

    pub(super) fn on(&self, axis: Axis) -> Option<Mark> {
        self.has(axis).then_some(self.marks[axis.index()])
    }
}

#[derive(Debug)]
struct Held {
    number: u64,
    lease: Lease,
}

/// The leases that are neither settled nor swept.
#[derive(Debug, Default)]
pub(super) struct Leases {
    held: Slab<Held>,
    expiries: BinaryHeap<Reverse<(Instant, LeaseId)>>,
    next: u64,
}

impl Leases {
    pub(super) fn add(&mut self, lease: Lease, expires: Instant) -> LeaseId {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let slot = self.held.insert(Held { number, lease });
        // Memory ends long before so many are held.
        let slot = u32::try_from(slot).unwrap_or(u32::MAX);
        let id = LeaseId { number, slot };
        if self.expiries.len() > KEPT + self.held.len() * 2 {
            let held = &self.held;
            self.expiries.retain(|&Reverse((_, id))| is_held(held, id));
        }
        self.expiries.push(Reverse((expires, id)));
        id
    }

    pub(super) fn get(&self, id: LeaseId) -> Option<&Lease> {
        let held = self.held.get(id.slot as usize)?;
        (held.number == id.number).then_some(&held.lease)
    }

    pub(super) fn get_mut(&mut self, id: LeaseId) -> Option<&mut Lease> {
        let held = self.held.get_mut(id.slot as usize)?;
        (held.number == id.number).then_some(&mut held.lease)
    }

    pub(super) fn remove(&mut self, id: LeaseId) -> Option<Lease> {
        self.get(id)?;
        self.held
            .try_remove(id.slot as usize)
            .map(|held| held.lease)
    }

    /// Takes one out that has expired by `now`, if there is one.
    pub(super) fn remove_overdue(&mut self, now: Instant) -> Option<(LeaseId, Lease)> {
        while let Some(&Reverse((expires, id))) = self.expiries.peek() {
            if is_held(&self.held, id) && expires > now {
                return None;
            }
            self.expiries.pop();
            if let Some(lease) = self.remove(id) {
                return Some((id, lease));
            }
        }
        None
    }

    /// No later than the next lease expires; earlier where it has been settled meanwhile.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.expiries.peek().map(|&Reverse((expires, _))| expires)
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// What those hold on one axis that were granted after this one.
    pub(super) fn after(&self, id: LeaseId, axis: Axis) -> u64 {
        self.held
            .iter()
            .filter(|(_, held)| held.number > id.number)
            .fold(0, |sum: u64, (_, held)| {
                sum.saturating_add(held.lease.cost.on(axis))
            })
    }

    /// The one that was granted last.
    pub(super) const fn last(&self) -> LeaseId {
        LeaseId {
            number: self.next.wrapping_sub(1),
            slot: u32::MAX,
        }
    }
}

fn is_held(held: &Slab<Held>, id: LeaseId) -> bool {
    held.get(id.slot as usize)
        .is_some_and(|held| held.number == id.number)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn lease(input: u64, granted: Instant) -> Lease {
        let cost = Cost {
            input,
            ..Cost::ZERO
        };
        Lease {
            cost,
            granted,
            marks: Marks::default(),
        }
    }

    #[test]
    fn a_lease_in_anothers_place_is_not_taken_for_it() {
        let now = Instant::now();
        let mut leases = Leases::default();
        let first = leases.add(lease(1, now), now);
        assert!(leases.remove(first).is_some());
        let second = leases.add(lease(2, now), now);
        assert_eq!(first.slot, second.slot);
        assert!(leases.get(first).is_none() && leases.get_mut(first).is_none());
        assert!(leases.remove(first).is_none());
        assert_eq!(leases.remove(second).unwrap().cost.input, 2);
        assert!(second <= leases.last() && first < second);
    }

    #[test]
    fn what_is_settled_early_leaves_a_bounded_number_of_entries() {
        let now = Instant::now();
        let mut leases = Leases::default();
        let longest = now + Duration::from_secs(3_600);
        let held: Vec<_> = (0..100)
            .map(|_| leases.add(lease(1, now), longest))
            .collect();
        for n in 0..10_000 {
            let id = leases.add(lease(1, now), now + Duration::from_millis(n));
            assert!(leases.remove(id).is_some());
            assert!(leases.expiries.len() <= KEPT + 2 * leases.held.len() + 3);
        }
        assert!(
            leases
                .remove_overdue(longest - Duration::from_nanos(1))
                .is_none()
        );
        assert_eq!(leases.next_expiry(), Some(longest));
        let mut overdue = Vec::new();
        while let Some((id, _)) = leases.remove_overdue(longest) {
            overdue.push(id);
        }
        assert_eq!(overdue, held);
        assert_eq!((leases.len(), leases.next_expiry()), (0, None));
    }

    proptest! {
        /// A map that is looked through anew is the oracle.
        #[test]
        fn every_interleaving_finds_what_is_overdue_and_nothing_else(
            steps in prop::collection::vec((0_u8..4, any::<usize>(), 0_u64..40), 1..400),
        ) {
            let start = Instant::now();
            let (mut now, mut leases) = (start, Leases::default());
            let mut granted = Vec::new();
            let mut model: BTreeMap<LeaseId, (Instant, u64)> = BTreeMap::new();
            for (step, pick, secs) in steps {
                let after = Duration::from_secs(secs);
                match step {
                    0 | 1 => {
                        let id = leases.add(lease(secs, now), now + after);
                        prop_assert!(model.insert(id, (now + after, secs)).is_none());
                        granted.push(id);
                    }
                    2 if !granted.is_empty() => {
                        let id = granted[pick % granted.len()];
                        let removed = leases.remove(id).map(|lease| lease.cost.input);
                        prop_assert_eq!(removed, model.remove(&id).map(|(_, input)| input));
                    }
                    _ => {
                        now += after / 8;
                        let mut swept = Vec::new();
                        while let Some((id, _)) = leases.remove_overdue(now) {
                            swept.push(id);
                        }
                        swept.sort_unstable();
                        let due = |(_, (expires, _)): &(_, &(Instant, u64))| *expires <= now;
                        let expected: Vec<_> = model.iter().filter(due).map(|(id, _)| *id).collect();
                        model.retain(|_, (expires, _)| *expires > now);
                        prop_assert_eq!(swept, expected);
                        // Once all that is settled at the head is passed over, it is exact.
                        let next = model.values().map(|(expires, _)| *expires).min();
                        prop_assert_eq!(leases.next_expiry(), next);
                    }
                }
                prop_assert_eq!(leases.len(), model.len());
                if let Some(first) = model.values().map(|(expires, _)| *expires).min() {
                    prop_assert!(leases.next_expiry().is_some_and(|at| at <= first));
                }
            }
        }
    }
}
