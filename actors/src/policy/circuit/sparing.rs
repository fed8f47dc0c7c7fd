//! Which calls are left to another target while this one is to be probed.
//!
//! A probe is somebody's call, and one that fails makes it late. Where calls wait for this target they
//! pay for it gladly. Where another target serves them, some go there for each one that is made a
//! probe: under dense traffic the timers alone decide when, and of few calls no more than a share is
//! gambled with. Failure mode: of calls that are rarer than the longest sparing, every one may be a
//! probe.

use tokio::time::Instant;

use super::{Circuit, CircuitSettings, Phase};

#[derive(Debug, Clone)]
pub(super) struct Sparing {
    calls: u32,
    since: Instant,
}

impl Sparing {
    /// None spared yet.
    pub(super) const fn from(now: Instant) -> Self {
        Self {
            calls: 0,
            since: now,
        }
    }

    /// Whether one more is spared.
    fn spares(&mut self, settings: &CircuitSettings, now: Instant, counts: bool) -> bool {
        let over = now.saturating_duration_since(self.since) >= settings.spare_at_most;
        if over || self.calls >= settings.spared_calls {
            return false;
        }
        self.calls += u32::from(counts);
        true
    }
}

impl Circuit {
    /// Whether a call that another target can serve should go there, although a probe may be due. Ask
    /// before [`Self::admit`], and only for such a call. `counts` is false for one that has been here
    /// before.
    pub fn spares(&mut self, now: Instant, counts: bool) -> bool {
        match self.phase {
            Phase::Closed { .. } => false,
            // The target has answered: the sooner it is proven well, the better for everybody.
            Phase::HalfOpen { successes: 1.., .. } => false,
            Phase::HalfOpen { .. } | Phase::Open { .. } => {
                self.sparing.spares(&self.settings, now, counts)
            }
        }
    }
}
