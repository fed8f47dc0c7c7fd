//! What each actor shows: plain data, read without asking the actor.

use std::sync::Arc;
use std::time::Duration;

use crate::policy::circuit::CircuitView;
use crate::policy::quota::{Cost, QuotaView};
use crate::policy::wait_queue::Priority;

/// The whole system at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Snapshot {
    /// One a quota, by name.
    pub limiters: Vec<LimiterSnapshot>,
    /// One a target, by name.
    pub breakers: Vec<BreakerSnapshot>,
    /// The callers.
    pub pool: PoolSnapshot,
    /// The steps.
    pub steps: StepsSnapshot,
    /// Actors that a supervisor started again.
    pub restarts: u64,
    /// Hooks' calls that panicked.
    pub hook_panics: u64,
    /// Whether new calls are refused.
    pub draining: bool,
}

/// One quota.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LimiterSnapshot {
    /// The quota's name.
    pub name: Arc<str>,
    /// Its buckets.
    pub quota: QuotaView,
    /// Calls in its queue.
    pub waiting: usize,
    /// Who they are.
    pub queue: QueueSnapshot,
}

/// Those who wait for a quota.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct QueueSnapshot {
    /// How many wait in each class, in the order of [`Priority::ALL`]; a call that has aged is in a
    /// higher class than it began in.
    pub by_class: [usize; 3],
    /// For how many tenants somebody waits.
    pub tenants: usize,
    /// The 50 of them for whom most wait, those first.
    pub by_tenant: Vec<TenantSnapshot>,
    /// The next 50 calls, in the order in which they are served if nobody comes or leaves.
    pub first: Vec<WaitingSnapshot>,
}

/// A tenant for whom calls wait.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TenantSnapshot {
    /// Its name; none stands for all calls of no tenant.
    pub name: Option<Arc<str>>,
    /// How many wait.
    pub waiting: usize,
}

/// A call that waits for a quota.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WaitingSnapshot {
    /// The call.
    pub call: Arc<str>,
    /// The class it came in.
    pub priority: Priority,
    /// For whom it is made.
    pub tenant: Option<Arc<str>>,
    /// Its place, from 1.
    pub position: usize,
    /// How much longer it waits, if nobody comes or leaves.
    pub eta: Duration,
    /// How long it has waited.
    pub waited: Duration,
    /// What it will reserve.
    pub cost: Cost,
}

/// One target.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BreakerSnapshot {
    /// The target's name.
    pub name: Arc<str>,
    /// Its circuit.
    pub circuit: CircuitView,
    /// Calls that wait for it to close.
    pub waiting: usize,
    /// Retries that its budget holds.
    pub retry_budget: f64,
}

/// The pool of callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolSnapshot {
    /// Callers alive.
    pub callers: usize,
    /// Calls that a caller is running.
    pub running: usize,
    /// Calls that wait for a caller.
    pub waiting: usize,
    /// Attempts whose permit has not come back.
    pub in_flight: usize,
}

/// The steps of agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StepsSnapshot {
    /// Steps that are not over.
    pub running: usize,
    /// Runs that followed one that returned an error.
    pub retries: u64,
    /// Runs that followed a panic, a hang or the loss of an actor.
    pub restarts: u64,
}
