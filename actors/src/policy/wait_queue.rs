//! A bounded queue of waiters: by priority, then earliest deadline, then arrival.
//!
//! The order is strict: the head is served first or nobody is, so a large request cannot be starved
//! by small ones. Aging lifts an entry one class each time it has waited `age_after`, ahead of those
//! in that class that have not aged, so a low priority cannot be starved either. Every operation is
//! O(log n), the cost ahead of a newcomer O(1). Failure mode: when waits pass `age_after` as a rule,
//! everything ages and the order tends to first come, first served.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::InvalidPolicy;
use super::quota::Cost;

const MOST_WAITERS: usize = 1_000_000;
const LONGEST_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Waiters for a quota, in the order in which they are served.
#[derive(Debug)]
pub struct WaitQueue<T> {
    bound: usize,
    age_after: Duration,
    entries: BTreeMap<Ticket, Slot<T>>,
    order: BTreeSet<Rank>,
    deadlines: BTreeSet<(Instant, Ticket)>,
    lifts: BTreeSet<(Instant, Ticket)>,
    waiting: [Sum; 3],
    next_ticket: u64,
    swept_to: Ticket,
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
            entries: BTreeMap::new(),
            order: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            lifts: BTreeSet::new(),
            waiting: [Sum::default(); 3],
            next_ticket: 0,
            swept_to: Ticket(0),
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
        if self.entries.len() >= self.bound {
            return Err(entry.item);
        }
        let ticket = Ticket(self.next_ticket);
        self.next_ticket = self.next_ticket.wrapping_add(1);
        let Entry {
            priority,
            deadline,
            cost,
            item,
        } = entry;
        let waiting = Waiting {
            ticket,
            priority,
            deadline,
            cost,
            since: now,
            item,
        };
        let rank = Rank {
            class: priority,
            due: deadline,
            ticket,
        };
        let lift = now.checked_add(self.age_after);
        if let Some(at) = lift {
            self.lifts.insert((at, ticket));
        }
        self.deadlines.insert((deadline, ticket));
        self.order.insert(rank);
        self.waiting[priority.index()].add(cost);
        self.entries.insert(
            ticket,
            Slot {
                waiting,
                rank,
                lift,
            },
        );
        Ok(ticket)
    }

    /// The waiter that is served next.
    #[must_use]
    pub fn first(&self) -> Option<&Waiting<T>> {
        let rank = self.order.first()?;
        self.entries.get(&rank.ticket).map(|slot| &slot.waiting)
    }

    /// Takes out the waiter that is served next.
    pub fn pop_first(&mut self) -> Option<Waiting<T>> {
        let ticket = self.order.first()?.ticket;
        self.take(ticket)
    }

    /// Takes out the waiter with this ticket, if it still waits.
    pub fn remove(&mut self, ticket: Ticket) -> Option<T> {
        self.take(ticket).map(|waiting| waiting.item)
    }

    /// Takes out everybody whose deadline has come, earliest first, and ages the rest.
    pub fn expire(&mut self, now: Instant) -> Vec<T> {
        let now = self.advance(now);
        let mut expired = Vec::new();
        while let Some(&(deadline, ticket)) = self.deadlines.first()
            && deadline <= now
        {
            // Drops the index entry even if the waiter were missing, so that the loop ends.
            self.deadlines.remove(&(deadline, ticket));
            expired.extend(self.remove(ticket));
        }
        self.age(now);
        expired
    }

    /// Lifts everybody who has waited long enough. [`push`](Self::push) and
    /// [`expire`](Self::expire) do it too; amortised, an entry is lifted at most three times.
    pub fn age(&mut self, now: Instant) {
        let now = self.advance(now);
        while let Some(&(at, ticket)) = self.lifts.first()
            && at <= now
        {
            self.lifts.remove(&(at, ticket));
            self.lift(ticket, at);
        }
    }

    /// Takes out the waiters of which `left` says that they have gone.
    ///
    /// Looks at `at_most` entries a call and goes on where the last call stopped, so that a bounded
    /// look at every push and pop finds each leaver within one round of the queue.
    pub fn sweep(&mut self, at_most: usize, mut left: impl FnMut(&T) -> bool) -> Vec<T> {
        let from = self.swept_to;
        let looked_at = at_most.min(self.entries.len());
        let after = self.entries.range(from..);
        let before = self.entries.range(..from);
        let mut gone = Vec::new();
        let mut tickets = after.chain(before);
        for (&ticket, slot) in tickets.by_ref().take(looked_at) {
            if left(&slot.waiting.item) {
                gone.push(ticket);
            }
        }
        self.swept_to = tickets.next().map_or(Ticket(0), |(&ticket, _)| ticket);
        gone.into_iter()
            .filter_map(|ticket| self.remove(ticket))
            .collect()
    }

    /// When the next waiter runs out of time.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// Cost of everybody who waits in this class or a higher one, by the class each has now.
    #[must_use]
    pub fn ahead(&self, priority: Priority) -> Cost {
        let mut sum = Sum::default();
        for class in &self.waiting[..=priority.index()] {
            sum.merge(class);
        }
        sum.cost()
    }

    /// Number of waiters.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Most waiters it holds.
    #[must_use]
    pub const fn bound(&self) -> usize {
        self.bound
    }

    /// A clock that goes backwards stands still here.
    fn advance(&mut self, now: Instant) -> Instant {
        let now = self.latest.map_or(now, |latest| latest.max(now));
        self.latest = Some(now);
        now
    }

    fn take(&mut self, ticket: Ticket) -> Option<Waiting<T>> {
        let Slot {
            waiting,
            rank,
            lift,
        } = self.entries.remove(&ticket)?;
        self.order.remove(&rank);
        self.deadlines.remove(&(waiting.deadline, ticket));
        if let Some(at) = lift {
            self.lifts.remove(&(at, ticket));
        }
        self.waiting[rank.class.index()].subtract(waiting.cost);
        Some(waiting)
    }

    /// Moves an entry one class up and ahead of all in it that have not aged: the instant of the
    /// lift has passed, and a deadline has not.
    fn lift(&mut self, ticket: Ticket, at: Instant) {
        let Some(slot) = self.entries.get_mut(&ticket) else {
            return;
        };
        self.order.remove(&slot.rank);
        self.waiting[slot.rank.class.index()].subtract(slot.waiting.cost);
        let front = slot.rank.class == Priority::High;
        slot.rank.class = slot.rank.class.raised();
        slot.rank.due = slot.rank.due.min(at);
        self.waiting[slot.rank.class.index()].add(slot.waiting.cost);
        self.order.insert(slot.rank);
        slot.lift = if front {
            None
        } else {
            at.checked_add(self.age_after)
        };
        if let Some(next) = slot.lift {
            self.lifts.insert((next, ticket));
        }
    }
}

/// A call's place among those that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum Priority {
    /// Somebody looks at the screen.
    High,
    /// The usual.
    #[default]
    Normal,
    /// Nobody waits for it now.
    Low,
}

impl Priority {
    /// Stable lower-case word for logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::High => 0,
            Self::Normal => 1,
            Self::Low => 2,
        }
    }

    const fn raised(self) -> Self {
        match self {
            Self::High | Self::Normal => Self::High,
            Self::Low => Self::Normal,
        }
    }
}

/// What is put into the queue.
#[derive(Debug, Clone, Copy)]
pub struct Entry<T> {
    /// Class it starts in.
    pub priority: Priority,
    /// When it stops waiting.
    pub deadline: Instant,
    /// What it will reserve.
    pub cost: Cost,
    /// The waiter.
    pub item: T,
}

/// A waiter in the queue.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Waiting<T> {
    /// Takes it out of the queue.
    pub ticket: Ticket,
    /// Class it was pushed with.
    pub priority: Priority,
    /// When it stops waiting.
    pub deadline: Instant,
    /// What it will reserve.
    pub cost: Cost,
    /// When it was pushed.
    pub since: Instant,
    /// The waiter.
    pub item: T,
}

/// Names one waiter of one queue; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

#[derive(Debug)]
struct Slot<T> {
    waiting: Waiting<T>,
    rank: Rank,
    /// When it is lifted next, as indexed in `lifts`.
    lift: Option<Instant>,
}

/// The order of service, field by field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    class: Priority,
    due: Instant,
    ticket: Ticket,
}

/// A sum of costs wide enough for a million of the largest, so that taking out is exact.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    requests: u128,
    input: u128,
    output: u128,
}

impl Sum {
    fn add(&mut self, cost: Cost) {
        self.requests += u128::from(cost.requests);
        self.input += u128::from(cost.input);
        self.output += u128::from(cost.output);
    }

    fn subtract(&mut self, cost: Cost) {
        self.requests = self.requests.saturating_sub(cost.requests.into());
        self.input = self.input.saturating_sub(cost.input.into());
        self.output = self.output.saturating_sub(cost.output.into());
    }

    const fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.input += other.input;
        self.output += other.output;
    }

    fn cost(self) -> Cost {
        let narrow = |sum| u64::try_from(sum).unwrap_or(u64::MAX);
        Cost {
            requests: narrow(self.requests),
            input: narrow(self.input),
            output: narrow(self.output),
        }
    }
}

#[cfg(test)]
mod tests;
