//! A bounded queue of waiters: by class, fairly between tenants, then earliest deadline, then arrival.
//!
//! The order is strict: the head is served first or nobody is, so a large request cannot be starved
//! by small ones. Aging lifts an entry one class each time it has waited `age_after`, ahead of those
//! of its tenant in that class that have not aged, so a low priority cannot be starved either.
//! How tenants share a class is told in `class`.
//!
//! Every operation is O(log n), the cost ahead of a newcomer O(1), and none looks at more than a fixed
//! number of others: what is due by the thousand is done in parts, and who asks is told that there is
//! more. Failure mode: when waits pass `age_after` as a rule, everything ages, and what is left of the
//! order is fairness between tenants and first come, first served inside each.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

use super::InvalidPolicy;
use super::quota::Cost;

mod ages;
mod class;
mod entry;
mod heap;

use ages::Ages;
use class::{Class, Due, Load};
use entry::Backlog;
pub use entry::{Entry, Priority, Tenant, Ticket, Waiting};
use heap::{Heap, Places};

const MOST_WAITERS: usize = 1_000_000;
const LONGEST_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Most that are lifted, and most that expire, in one go: some tens of microseconds.
const AT_ONCE: usize = 256;

/// An empty queue that was once longer than this gives its memory back.
const KEPT_SLOTS: usize = 4_096;

/// Waiters for a quota, in the order in which they are served.
#[derive(Debug)]
pub struct WaitQueue<T> {
    bound: usize,
    age_after: Duration,
    slots: Slab<Slot<T>>,
    classes: [Class; 3],
    /// Where each slot stands in its tenant's order.
    places: Places,
    deadlines: Heap<(Instant, u64)>,
    deadline_places: Places,
    ages: Ages,
    next_sequence: u64,
    swept_to: usize,
    latest: Option<Instant>,
}

impl<T> WaitQueue<T> {
    /// Makes an empty queue for at most `bound` waiters (1 to 1 000 000) that ages each of them
    /// every `age_after` (1 ms to 24 h).
    ///
    /// # Errors
    /// When either is out of range.
    pub fn new(bound: usize, age_after: Duration) -> Result<Self, InvalidPolicy> {
        if !(1..=MOST_WAITERS).contains(&bound) {
            return Err(InvalidPolicy::new("queue.bound", bound, "1 to 1000000"));
        }
        if !(Duration::from_millis(1)..=LONGEST_AGE).contains(&age_after) {
            let value = format!("{age_after:?}");
            return Err(InvalidPolicy::new("queue.age_after", value, "1 ms to 24 h"));
        }
        Ok(Self {
            bound,
            age_after,
            slots: Slab::new(),
            classes: Default::default(),
            places: Places::default(),
            deadlines: Heap::default(),
            deadline_places: Places::default(),
            ages: Ages::default(),
            next_sequence: 0,
            swept_to: 0,
            latest: None,
        })
    }

    /// Adds a waiter.
    ///
    /// # Errors
    /// Hands the item back when the queue is full.
    pub fn push(&mut self, entry: Entry<T>, now: Instant) -> Result<Ticket, T> {
        let now = self.advance(now);
        self.age(now);
        // The bound is far below what a slot's number can hold.
        let Ok(slot) = u32::try_from(self.slots.vacant_key()) else {
            return Err(entry.item);
        };
        if self.slots.len() >= self.bound {
            return Err(entry.item);
        }
        let sequence = self.next_sequence;
        self.next_sequence = self.next_sequence.wrapping_add(1);
        let ticket = Ticket { sequence, slot };
        let due = Due {
            at: entry.deadline,
            sequence,
        };
        let load = Load {
            cost: entry.cost,
            share: entry.share,
        };
        let class = entry.priority;
        let account =
            self.classes[class.index()].insert(&mut self.places, &entry.tenant, (slot, due), load);
        let key = (entry.deadline, sequence);
        self.deadlines.insert(&mut self.deadline_places, key, slot);
        self.ages.insert(slot, now);
        let waiting = Waiting {
            ticket,
            priority: entry.priority,
            tenant: entry.tenant,
            deadline: entry.deadline,
            cost: entry.cost,
            share: entry.share,
            since: now,
            item: entry.item,
        };
        self.slots.insert(Slot {
            waiting,
            class,
            account,
            due: due.at,
        });
        Ok(ticket)
    }

    /// The waiter that is served next.
    #[must_use]
    pub fn first(&self) -> Option<&Waiting<T>> {
        let slot = self.first_slot()?;
        self.slots.get(slot as usize).map(|slot| &slot.waiting)
    }

    /// Takes out the waiter that is served next, and charges its tenant.
    pub fn pop_first(&mut self) -> Option<Waiting<T>> {
        let slot = self.first_slot()?;
        self.take(slot, true)
    }

    /// Takes out the waiter with this ticket, if it still waits. Its tenant is charged nothing.
    pub fn remove(&mut self, ticket: Ticket) -> Option<T> {
        let slot = self.slots.get(ticket.slot as usize)?;
        if slot.waiting.ticket != ticket {
            return None;
        }
        self.take(ticket.slot, false).map(|waiting| waiting.item)
    }

    /// Takes out those whose deadline has come, earliest first, and ages the rest. Does a bounded
    /// part of it: [`next_deadline`](Self::next_deadline) has passed if there is more.
    pub fn expire(&mut self, now: Instant) -> Vec<T> {
        let now = self.advance(now);
        let mut expired = Vec::new();
        while expired.len() < AT_ONCE
            && let Some(((deadline, _), slot)) = self.deadlines.first()
            && deadline <= now
        {
            // Drops the index entry even if the waiter were missing, so that the loop ends.
            self.deadlines.remove(&mut self.deadline_places, slot);
            expired.extend(self.take(slot, false).map(|waiting| waiting.item));
        }
        self.age(now);
        expired
    }

    /// Lifts those who have waited long enough, a bounded number of them. [`push`](Self::push) and
    /// [`expire`](Self::expire) do it too; an entry is lifted at most three times.
    pub fn age(&mut self, now: Instant) {
        let now = self.advance(now);
        for _ in 0..AT_ONCE {
            let slots = &self.slots;
            let lifts = |slot: u32| {
                let slot = slots.get(slot as usize);
                slot.map_or(0, |slot| slot.waiting.priority.lifts())
            };
            let Some((slot, at)) = self.ages.next(self.age_after, now, lifts) else {
                break;
            };
            self.lift(slot, at);
        }
    }

    /// Takes out the waiters of which `left` says that they have gone.
    ///
    /// Looks at `at_most` places a call and goes on where the last call stopped, so that a bounded
    /// look at every push and pop finds each leaver within one round of [`places`](Self::places).
    pub fn sweep(&mut self, at_most: usize, mut left: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut gone = Vec::new();
        for _ in 0..at_most.min(self.places()) {
            let Ok(slot) = u32::try_from(self.swept_to) else {
                break;
            };
            let look = self.slots.get(self.swept_to);
            if look.is_some_and(|slot| left(&slot.waiting.item)) {
                gone.extend(self.take(slot, false).map(|waiting| waiting.item));
            }
            self.swept_to += 1;
            if self.swept_to >= self.places() {
                self.swept_to = 0;
            }
        }
        gone
    }

    /// How many places a round of [`sweep`](Self::sweep) has: as many as have waited at once.
    #[must_use]
    pub fn places(&self) -> usize {
        self.places.len()
    }

    /// When the next waiter runs out of time.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|((deadline, _), _)| deadline)
    }

    /// Who is served before the next call of this class and tenant, if nobody else comes.
    ///
    /// Everybody in a higher class, by the class each has now, the tenant's own, and of the other
    /// tenants in its class what their weights let go first: an estimate, within about one call of each of
    /// those that wait.
    #[must_use]
    pub fn ahead(&self, priority: Priority, tenant: &Tenant) -> Ahead {
        let mut ahead = Backlog::default();
        for class in &self.classes[..priority.index()] {
            ahead = ahead.plus(class.waiting());
        }
        let ahead = ahead.plus(&self.classes[priority.index()].ahead(tenant));
        Ahead {
            calls: ahead.len,
            cost: ahead.cost(),
        }
    }

    /// The first `at_most` waiters, in the order in which they are served if nobody comes or leaves.
    #[must_use]
    pub fn in_order(&self, at_most: usize) -> Vec<&Waiting<T>> {
        let share = |slot: u32| self.slots.get(slot as usize).map_or(0, |s| s.waiting.share);
        let slots = self.classes.iter().flat_map(|class| class.in_order(share));
        let waiting = slots.filter_map(|slot| self.slots.get(slot as usize));
        waiting.map(|slot| &slot.waiting).take(at_most).collect()
    }

    /// How many wait in each class, in the order of [`Priority::ALL`], by the class each has now.
    #[must_use]
    pub fn by_class(&self) -> [usize; 3] {
        self.classes.each_ref().map(|class| class.waiting().len)
    }

    /// How many wait for each tenant, in no order. Calls of no tenant, and of tenants beyond the 1 024
    /// that are kept apart in a class, go by the empty name.
    #[must_use]
    pub fn by_tenant(&self) -> HashMap<Arc<str>, usize> {
        let mut tenants = HashMap::new();
        for (name, calls) in self.classes.iter().flat_map(Class::tenants) {
            *tenants.entry(Arc::clone(name)).or_default() += calls;
        }
        tenants
    }

    /// Number of waiters.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Most waiters it holds.
    #[must_use]
    pub const fn bound(&self) -> usize {
        self.bound
    }

    fn first_slot(&self) -> Option<u32> {
        self.classes.iter().find_map(Class::first)
    }

    /// A clock that goes backwards stands still here.
    fn advance(&mut self, now: Instant) -> Instant {
        let now = self.latest.map_or(now, |latest| latest.max(now));
        self.latest = Some(now);
        now
    }

    fn take(&mut self, slot: u32, served: bool) -> Option<Waiting<T>> {
        let Slot {
            waiting,
            class,
            account,
            ..
        } = self.slots.try_remove(slot as usize)?;
        let load = Load {
            cost: waiting.cost,
            share: waiting.share,
        };
        let class = &mut self.classes[class.index()];
        class.remove(&mut self.places, (account, slot), load, served);
        self.deadlines.remove(&mut self.deadline_places, slot);
        self.ages.remove(slot);
        if self.slots.is_empty() && self.places.len() > KEPT_SLOTS {
            self.slots = Slab::new();
            self.places = Places::default();
            self.deadlines = Heap::default();
            self.deadline_places = Places::default();
            self.ages = Ages::default();
            self.swept_to = 0;
        }
        Some(waiting)
    }

    /// Moves an entry one class up and ahead of its tenant's in it that have not aged: the instant
    /// of the lift has passed, and a deadline has not.
    fn lift(&mut self, number: u32, at: Instant) {
        let Some(slot) = self.slots.get_mut(number as usize) else {
            return;
        };
        let load = Load {
            cost: slot.waiting.cost,
            share: slot.waiting.share,
        };
        let from = &mut self.classes[slot.class.index()];
        from.remove(&mut self.places, (slot.account, number), load, false);
        slot.class = slot.class.raised();
        slot.due = slot.due.min(at);
        let due = Due {
            at: slot.due,
            sequence: slot.waiting.ticket.sequence,
        };
        let tenant = &slot.waiting.tenant;
        let to = &mut self.classes[slot.class.index()];
        slot.account = to.insert(&mut self.places, tenant, (number, due), load);
    }
}

/// Who is served before a newcomer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ahead {
    /// How many.
    pub calls: usize,
    /// What they cost together.
    pub cost: Cost,
}

#[derive(Debug)]
struct Slot<T> {
    waiting: Waiting<T>,
    /// Class it has now.
    class: Priority,
    /// Its tenant's account in that class.
    account: u32,
    /// What its tenant's order goes by.
    due: Instant,
}

#[cfg(test)]
mod tests;
