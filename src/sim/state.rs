//! What changes while the provider runs, and the guard that each exchange holds on it.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Instant;

use super::Sim;
use super::arrivals::Arrivals;
use super::buckets::Axis;
use super::cache::Cache;
use super::faults::{Fault, FaultKind};
use super::head::Moment;
use super::pool::{Place, Pool};
use super::scenario::Settings;
use super::stats::{AxisStats, QuotaStats, Stats};
use super::windows::Windows;

/// Where the provider's calendar starts when nothing ties it to the real one: 2026-01-01T00:00:00Z.
const EPOCH: i64 = 1_767_225_600;
/// Requests remembered to number their attempts; at most twice as many.
const REMEMBERED: usize = 65_536;

/// What an admitted request was charged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bill {
    pub(super) quota: Option<usize>,
    pub(super) fast: bool,
    pub(super) estimated: u64,
    /// What the input limit is charged in the end.
    pub(super) counted: u64,
    /// What `usage` calls input: the rest a cache had or keeps.
    pub(super) input: u64,
}

/// A request that is being answered. Dropped before its end, its client has left.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) sim: Arc<Sim>,
    pub(super) label: String,
    /// Its number among the arrivals.
    pub(super) arrival: u64,
    pub(super) fault: Option<FaultKind>,
    pub(super) bill: Option<Bill>,
    pub(super) place: Place,
    pub(super) opened: bool,
    pub(super) done: bool,
    pub(super) output: u64,
}

impl Exchange {
    /// The headers leave: the input has been counted by then.
    pub(super) fn opened(&mut self, status: u16) {
        self.opened = true;
        let mut guard = self.sim.state.lock();
        let state = &mut *guard;
        state.stats.answer(&self.label, Some(status), self.fault);
        state
            .arrivals
            .answered(self.arrival, Some(status), Instant::now());
        if let Some(bill) = self.bill {
            if let Some(pool) = bill.quota.and_then(|place| state.pools.get_mut(place)) {
                let buckets = pool.buckets(bill.fast);
                buckets.correct(bill.estimated, bill.counted, Instant::now());
            }
            state.stats.charged(&self.label, bill.input, 0);
        }
    }

    pub(super) fn produced(&mut self, tokens: u64) {
        if tokens == 0 {
            return;
        }
        self.output += tokens;
        let mut guard = self.sim.state.lock();
        let state = &mut *guard;
        if let Some(bill) = self.bill
            && let Some(pool) = bill.quota.and_then(|place| state.pools.get_mut(place))
        {
            pool.buckets(bill.fast).produced(tokens, Instant::now());
        }
        state.stats.charged(&self.label, 0, tokens);
    }

    pub(super) fn reset(mut self) {
        {
            let mut state = self.sim.state.lock();
            state.stats.answer(&self.label, None, self.fault);
            state.arrivals.answered(self.arrival, None, Instant::now());
        }
        self.done = true;
    }

    pub(super) fn finished(mut self) {
        if let Some(bill) = self.bill
            && !self.fault.is_some_and(FaultKind::cuts_short)
        {
            let mut state = self.sim.state.lock();
            state.stats.whole(&self.label, bill.input, self.output);
        }
        self.done = true;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let mut state = self.sim.state.lock();
        state.stats.ended();
        if !self.done {
            state.stats.left(&self.label, self.opened);
        }
    }
}

/// All that changes.
#[derive(Debug)]
pub(super) struct State {
    pub(super) faults: Vec<Fault>,
    pub(super) faults_since: Instant,
    /// The calendar at the moment `wall_at`.
    pub(super) wall: Timestamp,
    pub(super) wall_at: Instant,
    pub(super) pools: Vec<Pool>,
    /// One for each credential that is more than a key.
    pub(super) windows: Vec<Windows>,
    pub(super) cache: Cache,
    pub(super) seen: Seen,
    pub(super) stats: Stats,
    pub(super) arrivals: Arrivals,
}

impl State {
    pub(super) fn new(settings: &Settings, now: Instant) -> Self {
        Self {
            faults: settings.faults.clone(),
            faults_since: now,
            wall: Timestamp::from_second(EPOCH).unwrap_or(Timestamp::UNIX_EPOCH),
            wall_at: now,
            pools: settings
                .quotas
                .iter()
                .map(|quota| Pool::new(quota, now))
                .collect(),
            windows: settings
                .credentials
                .iter()
                .map(|credential| Windows::new(credential.unified))
                .collect(),
            cache: Cache::default(),
            seen: Seen::default(),
            stats: Stats::default(),
            arrivals: Arrivals::default(),
        }
    }

    /// Takes the place of what was, except for the exchanges in flight and the calendar.
    pub(super) fn restart(&mut self, fresh: Self) {
        let in_flight = self.stats.in_flight;
        let (wall, wall_at) = (self.wall, self.wall_at);
        let arrivals = self.arrivals.successor();
        *self = Self {
            wall,
            wall_at,
            arrivals,
            ..fresh
        };
        self.stats.in_flight = in_flight;
        self.stats.max_in_flight = in_flight;
    }

    /// Counts a request that has arrived, and returns its number.
    pub(super) fn arrived(&mut self, label: &str, now: Instant) -> u64 {
        self.stats.arrived(label);
        self.arrivals.note(label, now)
    }

    pub(super) fn follow_wall_clock(&mut self) {
        self.wall = Timestamp::now();
        self.wall_at = Instant::now();
    }

    pub(super) fn moment(&self, now: Instant, seed: u64) -> Moment {
        let passed = now.saturating_duration_since(self.wall_at);
        let wall = self.wall.saturating_add(passed).unwrap_or(Timestamp::MAX);
        Moment { now, wall, seed }
    }

    pub(super) fn stats(&self, settings: &Settings) -> Stats {
        let axis = |axis: &Option<Axis>| {
            axis.as_ref().map(|axis| AxisStats {
                limit: axis.limit,
                charged: axis.charged,
                used: axis.used(),
            })
        };
        let quotas = settings
            .quotas
            .iter()
            .zip(&self.pools)
            .map(|(quota, pool)| QuotaStats {
                models: quota.models.clone(),
                requests: axis(&pool.usual.requests),
                input_tokens: axis(&pool.usual.input),
                output_tokens: axis(&pool.usual.output),
            });
        Stats {
            quotas: quotas.collect(),
            ..self.stats.clone()
        }
    }
}

/// Numbers the attempts of equal requests, with two generations so that memory is bounded.
#[derive(Debug, Default)]
pub(super) struct Seen {
    young: HashMap<u64, u32>,
    old: HashMap<u64, u32>,
}

impl Seen {
    pub(super) fn next(&mut self, key: u64) -> u32 {
        if self.young.len() >= REMEMBERED {
            self.old = std::mem::take(&mut self.young);
        }
        let before = self
            .young
            .get(&key)
            .or_else(|| self.old.get(&key))
            .copied()
            .unwrap_or(0);
        let attempt = before.saturating_add(1);
        self.young.insert(key, attempt);
        attempt
    }
}
