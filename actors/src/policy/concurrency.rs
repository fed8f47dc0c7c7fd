//! How many attempts may be in flight at a target that doesn't say: AIMD, as in TCP.
//!
//! Every success lets the limit grow a little, so that a round trip in which the limit was used adds
//! one; a loss takes 30 % off it, at most once a round trip. Until the first loss, and again after a
//! time without any, each success adds one and the limit doubles with every round trip (slow start,
//! RFC 5681 §3.1). Two guards keep what says nothing out of it: the limit grows only while at least
//! half of it is in use, and a loss while less than half of it is in use cuts nothing.
//!
//! A loss is a refusal for want of capacity or a timeout, never a latency inside the healthy tail: a
//! threshold at the 95th percentile already gives up 7 % of a half-loaded server. Latency grows with
//! the length of an answer, so it can't be the signal at all where answers are generated.
//!
//! An overloaded answer says less than a refusal, since it speaks of everybody's load: two of them, and
//! more than a tenth of what ends within one round trip, are a loss. A cut for each of a few percent
//! would hold a healthy load of 30 at a time down to 6.
//!
//! Failure mode: a capacity that falls while less than half of the limit is in use is not noticed by
//! the limit until the load comes back. What is lost until then is for retries and the breaker.

use std::time::Duration;

use tokio::time::Instant;

use super::InvalidPolicy;

/// Bounds of an adaptive limit, and when it may grow fast again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConcurrencySettings {
    /// The limit to start with, from `least` to `most`.
    pub initial: u32,
    /// The limit never falls below it, at least 1.
    pub least: u32,
    /// The limit never grows past it, up to 1,000,000.
    pub most: u32,
    /// Time without any loss after which the limit grows fast again, 1 ms to 24 h.
    pub calm: Duration,
}

impl Default for ConcurrencySettings {
    /// Starts at 8, from 1 to 16,384, and calls 10 s without a loss calm.
    ///
    /// Libraries stop at 200 to 1,000, which suits calls of milliseconds. A generation takes half a
    /// minute, so 256 of them are 9 calls a second, and the guard itself would be the outage. This many
    /// no healthy target is asked for through one process; it bounds what a fault can pile up.
    fn default() -> Self {
        Self {
            initial: 8,
            least: 1,
            most: 16_384,
            calm: Duration::from_secs(10),
        }
    }
}

/// How an attempt left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Leaving {
    /// The target took it on and answered.
    Success,
    /// The target had no room for it, or left it without an answer in time.
    Lost,
    /// The target had too much to do, with everybody's load and not only this one's: a loss where it
    /// is more than [a tenth](AdaptiveConcurrency) of a round trip's.
    Overloaded,
    /// It says nothing about room: the caller left, the request was wrong, the network failed.
    Neutral,
}

/// The place of one attempt in flight; it must come back through
/// [`left`](AdaptiveConcurrency::left).
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a slot that is not given back holds its place for ever"]
pub struct Slot {
    /// The cuts that had been made when the attempt was let in.
    cuts: u64,
    has_grown: bool,
}

/// Learns how many attempts a target takes at once, from what it loses.
#[derive(Debug, Clone)]
pub struct AdaptiveConcurrency {
    settings: ConcurrencySettings,
    /// In millionths of an attempt.
    limit: u64,
    in_flight: u32,
    cuts: u64,
    lost_at: Option<Instant>,
    /// What has ended in this round of as many as the limit, and how many of them were overloaded.
    ended: u32,
    overloaded: u32,
}

/// Parts of one attempt: growth by `1 / limit` must not be lost to rounding, even at the largest limit.
const ONE: u64 = 1_000_000;
const LARGEST: u32 = 1_000_000;
/// What a loss leaves of the limit. TCP's half would give up too much for a loss that is often no
/// congestion (RFC 9438 §4.6 takes 0.7 too).
const KEPT_TENTHS: u64 = 7;

/// One overloaded answer may be chance.
const LEAST_OVERLOADED: u32 = 2;

impl AdaptiveConcurrency {
    /// Makes a limit that has seen nothing yet.
    ///
    /// # Errors
    ///
    /// Refuses bounds that are out of range or out of order.
    pub fn new(settings: ConcurrencySettings) -> Result<Self, InvalidPolicy> {
        let ConcurrencySettings {
            initial,
            least,
            most,
            calm,
        } = settings;
        if !(1..=LARGEST).contains(&most) {
            let allowed = "from 1 to 1000000";
            return Err(InvalidPolicy::new("concurrency.most", most, allowed));
        }
        if !(1..=most).contains(&least) {
            let allowed = "from 1 to concurrency.most";
            return Err(InvalidPolicy::new("concurrency.least", least, allowed));
        }
        if !(least..=most).contains(&initial) {
            let allowed = "from concurrency.least to concurrency.most";
            return Err(InvalidPolicy::new("concurrency.initial", initial, allowed));
        }
        if !(Duration::from_millis(1)..=Duration::from_hours(24)).contains(&calm) {
            let calm = format!("{calm:?}");
            return Err(InvalidPolicy::new("concurrency.calm", calm, "1 ms to 24 h"));
        }
        Ok(Self {
            settings,
            limit: u64::from(initial) * ONE,
            in_flight: 0,
            cuts: 0,
            lost_at: None,
            ended: 0,
            overloaded: 0,
        })
    }

    /// Lets one attempt in, if there is room.
    pub fn try_enter(&mut self) -> Option<Slot> {
        if self.room() == 0 {
            return None;
        }
        self.in_flight += 1;
        Some(Slot {
            cuts: self.cuts,
            has_grown: false,
        })
    }

    /// Notes that the target took an attempt on: the head of its answer came, and it is no failure.
    ///
    /// An answer may be generated for minutes after that, and the limit must not wait for its end.
    /// What a slot has said here counts once, however it leaves.
    pub fn opened(&mut self, slot: &mut Slot, now: Instant) {
        if std::mem::replace(&mut slot.has_grown, true) || !self.is_used() {
            return;
        }
        let growth = if self.is_calm(now) {
            ONE
        } else {
            ONE * ONE / self.limit
        };
        let most = u64::from(self.settings.most) * ONE;
        // Never past twice what is in flight, the most that its use can speak for.
        let spoken_for = u64::from(self.in_flight) * 2 * ONE;
        let grown = (self.limit + growth).min(most).min(spoken_for);
        self.limit = self.limit.max(grown);
    }

    /// Takes a slot back.
    ///
    /// A loss counts only if its attempt was let in after the last cut: those before it met the limit
    /// that has been cut already.
    pub fn left(&mut self, mut slot: Slot, leaving: Leaving, now: Instant) {
        match leaving {
            Leaving::Success => self.opened(&mut slot, now),
            Leaving::Lost => self.lose(&slot, now),
            Leaving::Overloaded => {
                self.overloaded += 1;
                if self.overloaded >= LEAST_OVERLOADED && self.overloaded * 10 > self.limit() {
                    self.lose(&slot, now);
                }
            }
            Leaving::Neutral => {}
        }
        self.ended += 1;
        if self.ended >= self.limit() {
            (self.ended, self.overloaded) = (0, 0);
        }
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    fn lose(&mut self, slot: &Slot, now: Instant) {
        if !self.is_used() {
            return;
        }
        self.lost_at = self.lost_at.max(Some(now));
        if slot.cuts == self.cuts {
            self.cuts += 1;
            let least = u64::from(self.settings.least) * ONE;
            self.limit = (self.limit * KEPT_TENTHS / 10).max(least);
        }
    }

    /// Returns how many attempts may be in flight.
    #[must_use]
    pub fn limit(&self) -> u32 {
        u32::try_from(self.limit / ONE).unwrap_or(u32::MAX)
    }

    /// Returns how many attempts are in flight.
    #[must_use]
    pub const fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Returns how many more attempts may enter now; none after a cut below what is in flight.
    #[must_use]
    pub fn room(&self) -> u32 {
        self.limit().saturating_sub(self.in_flight)
    }

    /// Whether at least half of the limit is in use, so that outcomes speak of it.
    fn is_used(&self) -> bool {
        u64::from(self.in_flight) * 2 * ONE >= self.limit
    }

    fn is_calm(&self, now: Instant) -> bool {
        self.lost_at
            .is_none_or(|lost| now.saturating_duration_since(lost) >= self.settings.calm)
    }
}

#[cfg(test)]
mod tests;
