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
