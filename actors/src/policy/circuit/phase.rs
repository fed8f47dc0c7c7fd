//! What a circuit remembers in each of its states.

use tokio::time::Instant;

use super::State;
use super::ramp::Ramp;

#[derive(Debug, Clone)]
pub(super) enum Phase {
    Closed {
        run: u32,
        ramp: Option<Ramp>,
    },
    Open {
        since: Instant,
        until: Option<Instant>,
    },
    HalfOpen {
        probe: Option<Lease>,
        successes: u32,
    },
}

impl Phase {
    pub(super) const CLOSED: Self = Self::Closed { run: 0, ramp: None };
    pub(super) const PROBING: Self = Self::HalfOpen {
        probe: None,
        successes: 0,
    };

    pub(super) const fn state(&self) -> State {
        match self {
            Self::Closed { .. } => State::Closed,
            Self::Open { .. } => State::Open,
            Self::HalfOpen { .. } => State::HalfOpen,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Lease {
    pub(super) id: u64,
    pub(super) expires: Instant,
}
