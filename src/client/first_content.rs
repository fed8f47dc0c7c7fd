//! How long answers usually take to their first content.

use std::time::Duration;

/// Waits remembered; the oldest is overwritten first.
const KEPT: usize = 256;

/// Waits that a quantile is believed from: below it, the 99th of 100 is the maximum.
const BELIEVED: usize = 100;

/// A quantile is taken anew after this many waits.
const EVERY: usize = 16;

/// What is usual from one moment of an attempt to the first content of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstContent {
    /// The median.
    pub p50: Duration,
    /// The 95th percentile.
    pub p95: Duration,
    /// The 99th percentile.
    pub p99: Duration,
}

/// The latest waits of one target.
#[derive(Debug, Default)]
pub(super) struct Waits {
    kept: Vec<Duration>,
    oldest: usize,
    fresh: usize,
    quantiles: Option<FirstContent>,
}

impl Waits {
    pub(super) fn learn(&mut self, took: Duration) {
        match self.kept.get_mut(self.oldest) {
            Some(slot) => *slot = took,
            None => self.kept.push(took),
        }
        self.oldest = (self.oldest + 1) % KEPT;
        self.fresh += 1;
        let believed = self.kept.len() >= BELIEVED;
        if believed && (self.quantiles.is_none() || self.fresh >= EVERY) {
            self.fresh = 0;
            self.quantiles = quantiles(&self.kept);
        }
    }

    /// What is usual, once enough is known.
    pub(super) const fn usual(&self) -> Option<FirstContent> {
        self.quantiles
    }
}

fn quantiles(samples: &[Duration]) -> Option<FirstContent> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let at = |percent: usize| sorted.get(sorted.len() * percent / 100).copied();
    Some(FirstContent {
        p50: at(50)?,
        p95: at(95)?,
        p99: at(99)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn nothing_is_usual_before_a_hundred_answers_and_the_oldest_are_forgotten() {
        let mut waits = Waits::default();
        for _ in 0..99 {
            waits.learn(SECOND);
        }
        assert_eq!(waits.usual(), None);
        waits.learn(SECOND);
        assert_eq!(waits.usual().unwrap().p95, SECOND);
        for _ in 0..KEPT + EVERY {
            waits.learn(SECOND / 2);
        }
        assert_eq!(waits.usual().unwrap().p99, SECOND / 2);
    }

    #[test]
    fn one_slow_answer_in_a_hundred_counts_and_a_slower_one_in_a_thousand_does_not() {
        let mut waits = Waits::default();
        for n in 0..KEPT {
            waits.learn(if n % 50 == 0 { SECOND * 10 } else { SECOND });
        }
        let usual = FirstContent {
            p50: SECOND,
            p95: SECOND,
            p99: SECOND * 10,
        };
        assert_eq!(waits.usual(), Some(usual));
    }
}
