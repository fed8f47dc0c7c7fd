//! Which requests came when, and when each was answered: what a client's pace is checked against.

use std::collections::VecDeque;

use tokio::time::Instant;

/// Arrivals that are remembered, so that a long run's memory is bounded.
const REMEMBERED: usize = 4_096;

/// A request that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// When all of it was there.
    pub at: Instant,
    /// The name that its model counts under.
    pub model: String,
    /// The status of its answer; none for a reset in place of one, and as long as there is none.
    pub status: Option<u16>,
    /// When the headers left, or the reset; none as long as the client waits, or for ever if it has
    /// left before.
    pub answered: Option<Instant>,
}

/// The latest arrivals, in their order.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// The number of the first that is remembered.
    first: u64,
    latest: VecDeque<Arrival>,
}

impl Arrivals {
    /// Notes one more, and returns its number.
    pub(super) fn note(&mut self, model: &str, now: Instant) -> u64 {
        if self.latest.len() >= REMEMBERED && self.latest.pop_front().is_some() {
            self.first += 1;
        }
        let number = self.next();
        self.latest.push_back(Arrival {
            at: now,
            model: model.to_owned(),
            status: None,
            answered: None,
        });
        number
    }

    /// Notes how one was answered; nothing if it is forgotten.
    pub(super) fn answered(&mut self, number: u64, status: Option<u16>, now: Instant) {
        let place = number
            .checked_sub(self.first)
            .and_then(|place| usize::try_from(place).ok());
        if let Some(arrival) = place.and_then(|place| self.latest.get_mut(place)) {
            arrival.status = status;
            arrival.answered = Some(now);
        }
    }

    pub(super) fn latest(&self) -> Vec<Arrival> {
        self.latest.iter().cloned().collect()
    }

    /// An empty list that takes over from this one: exchanges in flight keep their numbers, and find
    /// nothing under them.
    pub(super) fn successor(&self) -> Self {
        Self {
            first: self.next(),
            latest: VecDeque::new(),
        }
    }

    fn next(&self) -> u64 {
        let remembered = u64::try_from(self.latest.len()).unwrap_or(u64::MAX);
        self.first.saturating_add(remembered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_latest_are_remembered_and_an_answer_finds_its_own() {
        let now = Instant::now();
        let mut arrivals = Arrivals::default();
        let first = arrivals.note("a", now);
        for _ in 0..REMEMBERED {
            arrivals.note("b", now);
        }
        let last = arrivals.note("c", now);
        arrivals.answered(first, Some(529), now);
        arrivals.answered(last, Some(200), now);
        let latest = arrivals.latest();
        assert_eq!(latest.len(), REMEMBERED);
        let statuses: Vec<_> = latest.iter().filter_map(|arrival| arrival.status).collect();
        assert_eq!(
            (statuses, latest.last().unwrap().model.as_str()),
            (vec![200], "c")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_reset_an_old_answer_is_not_taken_for_a_new_one() {
        let now = Instant::now();
        let mut old = Arrivals::default();
        let in_flight = old.note("a", now);
        let mut new = old.successor();
        new.note("b", now);
        new.answered(in_flight, Some(200), now);
        assert_eq!(new.latest()[0].status, None);
    }
}
