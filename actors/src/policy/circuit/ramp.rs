//! Slow start after closing, so that those who waited don't stampede.
//!
//! Attempts in flight start at 10 and grow by one a success, which doubles them each round trip as
//! a TCP slow start does: about seven round trips from 10 to 1 000. It ends when it is no limit any
//! more: beyond its largest allowance, or when nobody waits and nobody was held back for 2 s, which
//! makes it cost a quiet service nothing. Failure mode: a slot whose outcome is lost stays taken;
//! when no slot has moved for a whole lease, the ramp ends rather than hold traffic for ever.

use tokio::time::Instant;

use super::CircuitSettings;
use super::open_timer::later;

#[derive(Debug, Clone)]
pub(super) struct Ramp {
    allowed: u32,
    in_flight: u32,
    successes: u32,
    quiet_since: Instant,
    moved_at: Instant,
}

impl Ramp {
    pub(super) const fn new(settings: &CircuitSettings, now: Instant) -> Self {
        let allowed = settings.ramp_start;
        Self {
            allowed,
            in_flight: 0,
            successes: 0,
            quiet_since: now,
            moved_at: now,
        }
    }

    pub(super) const fn admit(&mut self, now: Instant) -> bool {
        let free = self.in_flight < self.allowed;
        if free {
            self.in_flight += 1;
            self.moved_at = now;
        } else {
            self.quiet_since = now;
        }
        free
    }

    pub(super) const fn free(&mut self, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.moved_at = now;
    }

    pub(super) const fn on_success(&mut self) {
        self.allowed = self.allowed.saturating_add(1);
        self.successes = self.successes.saturating_add(1);
    }

    /// Calls wait for this target: those that the ramp holds back among them.
    pub(super) const fn on_waiting(&mut self, now: Instant) {
        self.quiet_since = now;
    }

    /// Whether a short run of failures reopens. Only until the first round trip came back: a target
    /// that fails one call in seven by nature would hardly ever get through the whole ramp.
    pub(super) const fn is_unproven(&self, settings: &CircuitSettings) -> bool {
        self.successes < settings.ramp_start
    }

    pub(super) fn is_over(&self, settings: &CircuitSettings, waiting: bool, now: Instant) -> bool {
        self.allowed > settings.ramp_end || self.ends_at(settings, waiting) <= now
    }

    /// When time alone ends it.
    pub(super) fn ends_at(&self, settings: &CircuitSettings, waiting: bool) -> Instant {
        let quiet = (!waiting).then(|| later(self.quiet_since, settings.ramp_quiet));
        let stuck = later(self.moved_at, settings.probe_max_wait);
        quiet.map_or(stuck, |quiet| quiet.min(stuck))
    }

    pub(super) const fn allowed(&self) -> u32 {
        self.allowed
    }

    pub(super) const fn in_flight(&self) -> u32 {
        self.in_flight
    }
}
