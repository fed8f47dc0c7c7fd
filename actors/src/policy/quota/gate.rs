//! How many attempts may be in flight while no limit is known.
//!
//! Before the first answer, and with providers that never say, the number in flight is the only thing
//! to hold on to. Once any limit is known the gate stands open.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::LeaseId;
use crate::policy::InvalidPolicy;
use crate::policy::concurrency::{AdaptiveConcurrency, ConcurrencySettings, Leaving, Slot};

/// When to look again for room before any attempt has ended; who leaves makes it sooner.
const FIRST_LOOK: Duration = Duration::from_secs(1);

/// Weight of the newest attempt in the mean time that one takes: about the last ten count.
const WEIGHT: u32 = 10;

/// A limit on what is in flight, and what is.
#[derive(Debug)]
pub(super) struct Gate {
    concurrency: AdaptiveConcurrency,
    inside: HashMap<LeaseId, (Slot, Instant)>,
    /// How long an attempt takes, once one has shown it.
    round: Option<Duration>,
}

/// When there is room again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Closed {
    pub(super) until: Instant,
    /// No attempt has shown yet how long one takes.
    pub(super) is_guess: bool,
}

impl Gate {
    pub(super) fn new() -> Result<Self, InvalidPolicy> {
        Ok(Self {
            concurrency: AdaptiveConcurrency::new(ConcurrencySettings::default())?,
            inside: HashMap::new(),
            round: None,
        })
    }

    pub(super) fn enter(&mut self, lease: LeaseId, now: Instant) {
        if let Some(slot) = self.concurrency.try_enter() {
            self.inside.insert(lease, (slot, now));
        }
    }

    pub(super) fn opened(&mut self, lease: LeaseId, now: Instant) {
        if let Some((slot, _)) = self.inside.get_mut(&lease) {
            self.concurrency.opened(slot, now);
        }
    }

    pub(super) fn left(&mut self, lease: LeaseId, leaving: Leaving, now: Instant) {
        let Some((slot, entered)) = self.inside.remove(&lease) else {
            return;
        };
        if leaving == Leaving::Success {
            let took = now.saturating_duration_since(entered);
            let before = self.round.unwrap_or(took);
            self.round = Some((before * (WEIGHT - 1) + took) / WEIGHT);
        }
        self.concurrency.left(slot, leaving, now);
    }

    pub(super) fn limit(&self) -> u32 {
        self.concurrency.limit()
    }

    /// About when there is room again, if there is none: somebody leaving may make it sooner.
    pub(super) fn closed(&self, now: Instant) -> Option<Closed> {
        let round = self.round.unwrap_or(FIRST_LOOK);
        (self.concurrency.room() == 0).then(|| Closed {
            until: now + round.max(Duration::from_millis(1)),
            is_guess: self.round.is_none(),
        })
    }

    /// About how long as many as `ahead` keep one waiting; nothing while that can only be guessed.
    pub(super) fn wait_behind(&self, ahead: u64) -> Duration {
        let Some(round) = self.round else {
            return Duration::ZERO;
        };
        let room = u64::from(self.concurrency.room());
        if ahead < room {
            return Duration::ZERO;
        }
        let rounds = (ahead - room) / u64::from(self.limit().max(1)) + 1;
        round
            .saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX))
            .min(LONGEST)
    }
}

/// A longer wait than a day is no prediction.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
