//! What waits: its class, its tenant and what it will cost.

use std::sync::Arc;

use tokio::time::Instant;

use crate::policy::quota::Cost;

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
    /// Every class, the most urgent first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// Stable lower-case word for logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }

    pub(in crate::policy) const fn index(self) -> usize {
        match self {
            Self::High => 0,
            Self::Normal => 1,
            Self::Low => 2,
        }
    }

    /// How often aging lifts a call that starts here: into each class above, and in the highest once
    /// more, ahead of those that have not aged.
    pub(super) const fn lifts(self) -> u32 {
        match self {
            Self::High => 1,
            Self::Normal => 2,
            Self::Low => 3,
        }
    }

    pub(super) const fn raised(self) -> Self {
        match self {
            Self::High | Self::Normal => Self::High,
            Self::Low => Self::Normal,
        }
    }
}

/// For whom a call is made: those who wait share what there is by tenant, as their weights say.
///
/// Calls of no tenant share one place, of weight 1. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tenant {
    /// None for the one that all calls of no tenant share.
    name: Option<Arc<str>>,
    /// Parts above the first.
    more: u32,
}

impl Tenant {
    /// Largest weight; a larger one would only starve the others for longer at a time.
    pub const MOST_WEIGHT: u32 = 1_000;

    /// A tenant of this name with so many parts, 1 to 1 000; more or less is cut.
    #[must_use]
    pub fn new(name: Arc<str>, weight: u32) -> Self {
        Self {
            name: Some(name),
            more: weight.clamp(1, Self::MOST_WEIGHT) - 1,
        }
    }

    /// Its name; none for calls of no tenant.
    #[must_use]
    pub const fn name(&self) -> Option<&Arc<str>> {
        self.name.as_ref()
    }

    /// How many parts it gets.
    #[must_use]
    pub const fn weight(&self) -> u32 {
        self.more + 1
    }

    pub(super) fn key(&self) -> &str {
        self.name.as_deref().unwrap_or("")
    }
}

/// What is put into the queue.
#[derive(Debug, Clone)]
pub struct Entry<T> {
    /// Class it starts in.
    pub priority: Priority,
    /// For whom it waits.
    pub tenant: Tenant,
    /// When it stops waiting.
    pub deadline: Instant,
    /// What it will reserve.
    pub cost: Cost,
    /// What its tenant is charged when it is served, in any one unit for the whole queue: what
    /// tenants share fairly.
    pub share: u64,
    /// The waiter.
    pub item: T,
}

/// A waiter in the queue.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Waiting<T> {
    /// Takes it out of the queue.
    pub ticket: Ticket,
    /// Class it was pushed with.
    pub priority: Priority,
    /// For whom it waits.
    pub tenant: Tenant,
    /// When it stops waiting.
    pub deadline: Instant,
    /// What it will reserve.
    pub cost: Cost,
    /// What its tenant is charged.
    pub share: u64,
    /// When it was pushed.
    pub since: Instant,
    /// The waiter.
    pub item: T,
}

impl<T> From<Waiting<T>> for Entry<T> {
    /// As it was pushed, to be pushed into another queue.
    fn from(waiting: Waiting<T>) -> Self {
        Self {
            priority: waiting.priority,
            tenant: waiting.tenant,
            deadline: waiting.deadline,
            cost: waiting.cost,
            share: waiting.share,
            item: waiting.item,
        }
    }
}

/// Names one waiter of one queue; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    pub(super) sequence: u64,
    pub(super) slot: u32,
}

/// How many wait, and what they cost; wide enough for a million of the largest, so that taking out
/// is exact.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Backlog {
    pub(super) len: usize,
    pub(super) share: u128,
    axes: [u128; 3],
}

impl Backlog {
    pub(super) fn add(&mut self, cost: Cost, share: u64) {
        self.len += 1;
        self.share += u128::from(share);
        for (sum, more) in self.axes.iter_mut().zip(axes(cost)) {
            *sum += u128::from(more);
        }
    }

    pub(super) fn subtract(&mut self, cost: Cost, share: u64) {
        self.len = self.len.saturating_sub(1);
        self.share = self.share.saturating_sub(share.into());
        for (sum, less) in self.axes.iter_mut().zip(axes(cost)) {
            *sum = sum.saturating_sub(less.into());
        }
    }

    /// Both together.
    pub(super) fn plus(mut self, other: &Self) -> Self {
        self.len += other.len;
        self.share += other.share;
        for (sum, more) in self.axes.iter_mut().zip(other.axes) {
            *sum += more;
        }
        self
    }

    /// All but these, which are among them.
    pub(super) fn without(mut self, part: &Self) -> Self {
        self.len = self.len.saturating_sub(part.len);
        self.share = self.share.saturating_sub(part.share);
        for (sum, less) in self.axes.iter_mut().zip(part.axes) {
            *sum = sum.saturating_sub(less);
        }
        self
    }

    /// This part of it, from 0 to 1, rounded up.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate of a wait; the factors are finite and not negative, and `as` saturates"
    )]
    pub(super) fn part(self, part: f64) -> Self {
        if part >= 1.0 {
            return self;
        }
        let of = |whole: u128| (whole as f64 * part).ceil() as u128;
        Self {
            len: (self.len as f64 * part).ceil() as usize,
            share: of(self.share),
            axes: self.axes.map(of),
        }
    }

    pub(super) fn cost(&self) -> Cost {
        let [requests, input, output] = self.axes.map(|sum| u64::try_from(sum).unwrap_or(u64::MAX));
        Cost {
            requests,
            input,
            output,
        }
    }
}

const fn axes(cost: Cost) -> [u64; 3] {
    [cost.requests, cost.input, cost.output]
}
