//! What each actor shows: plain data, read without asking the actor.

use std::sync::Arc;

use crate::policy::circuit::CircuitView;
use crate::policy::quota::QuotaView;

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
