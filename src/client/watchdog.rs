//! The clocks of one streamed answer, from its headers on.
//!
//! Plain data: fed what arrived and when, it says which clock runs out first. Before the first
//! content only `first_content` runs, since a provider that thinks may be silent or ping. After it
//! there are two: silence in bytes, and a longer one in events, since pings can hide a stall.

use std::time::Duration;

use tokio::time::Instant;

use crate::profile::Timeouts;
use crate::verdict::Timeout;

/// When one answer has been silent for too long.
#[derive(Debug, Clone)]
pub(super) struct Watchdog {
    timeouts: Timeouts,
    headers: Instant,
    bytes: Instant,
    event: Instant,
    content: Option<Instant>,
    /// When the answer has to be over, whatever it is doing.
    end: Instant,
}

impl Watchdog {
    /// The clocks of an answer whose headers are there `now` and which has to be over by `end`.
    pub(super) const fn new(timeouts: Timeouts, now: Instant, end: Instant) -> Self {
        Self {
            timeouts,
            headers: now,
            bytes: now,
            event: now,
            content: None,
            end,
        }
    }

    /// Bytes arrived, of whatever kind.
    pub(super) const fn bytes(&mut self, now: Instant) {
        self.bytes = now;
    }

    /// An event arrived that is no ping.
    pub(super) const fn event(&mut self, now: Instant) {
        self.event = now;
    }

    /// Content arrived.
    pub(super) fn content(&mut self, now: Instant) {
        self.content.get_or_insert(now);
    }

    /// When the first content arrived.
    pub(super) const fn first_content(&self) -> Option<Instant> {
        self.content
    }

    /// Time from the headers to `now`.
    pub(super) fn since_headers(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.headers)
    }

    /// Moves the end.
    pub(super) const fn end_by(&mut self, end: Instant) {
        self.end = end;
    }

    /// The clock that runs out first, and when.
    pub(super) fn next(&self) -> (Instant, Timeout) {
        let t = &self.timeouts;
        let first = if self.content.is_none() {
            (self.headers + t.first_content, Timeout::FirstContent)
        } else {
            let (bytes, event) = (self.bytes + t.stall, self.event + t.events);
            if bytes <= event {
                (bytes, Timeout::Stall)
            } else {
                (event, Timeout::Events)
            }
        };
        if first.0 <= self.end {
            first
        } else {
            (self.end, Timeout::Total)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;

    const SECOND: Duration = Duration::from_secs(1);

    fn watchdog(now: Instant) -> Watchdog {
        // First content 8 s, stall 8 s, events 40 s.
        Watchdog::new(Profile::AgentStep.timeouts(), now, now + SECOND * 75)
    }

    #[tokio::test(start_paused = true)]
    async fn pings_do_not_put_off_the_first_content() {
        let began = Instant::now();
        let mut dog = watchdog(began);
        dog.bytes(began + SECOND * 7);
        assert_eq!(dog.next(), (began + SECOND * 8, Timeout::FirstContent));
    }

    #[tokio::test(start_paused = true)]
    async fn pings_put_off_the_silence_in_bytes_but_not_the_one_in_events() {
        let began = Instant::now();
        let mut dog = watchdog(began);
        dog.event(began + SECOND);
        dog.content(began + SECOND);
        dog.bytes(began + SECOND);
        assert_eq!(dog.next(), (began + SECOND * 9, Timeout::Stall));
        dog.bytes(began + SECOND * 8);
        assert_eq!(dog.next(), (began + SECOND * 16, Timeout::Stall));
        dog.bytes(began + SECOND * 40);
        assert_eq!(dog.next(), (began + SECOND * 41, Timeout::Events));
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_comes_before_every_other_clock() {
        let began = Instant::now();
        let mut dog = watchdog(began);
        dog.end_by(began + SECOND * 3);
        assert_eq!(dog.next(), (began + SECOND * 3, Timeout::Total));
    }
}
