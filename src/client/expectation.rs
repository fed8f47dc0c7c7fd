//! What a target's answers usually cost and how long they take to begin: learned, per target.

use std::time::Duration;

use parking_lot::Mutex;

use crate::estimate::Correction;
use crate::provider::anthropic::usage::Tokens;

/// Output expected of a target that has not answered yet.
const FIRST_OUTPUT: u64 = 512;

/// Weight of the newest answer in the mean output: about the last twenty count.
const WEIGHT: u64 = 20;

/// First contents remembered; the oldest is overwritten first.
const KEPT: usize = 256;

/// First contents that a quantile is believed from: below it, the 99th of 100 is the maximum.
const BELIEVED: usize = 100;

/// A quantile is taken anew after this many first contents.
const EVERY: usize = 16;

/// Multiple of the 99th percentile that is waited for.
const PATIENCE: u32 = 2;

/// No learned timeout is shorter: a second is within what one slow network round trip takes.
const LEAST: Duration = Duration::from_secs(1);

/// The learned cost of one target's calls.
#[derive(Debug)]
pub(super) struct Expectation {
    learned: Mutex<Learned>,
}

#[derive(Debug)]
struct Learned {
    input: Correction,
    /// Mean output tokens × [`WEIGHT`].
    output: u64,
    first_content: Vec<Duration>,
    oldest: usize,
    fresh: usize,
    quantiles: Option<FirstContent>,
}

/// Time from an answer's headers to its first content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstContent {
    /// The median.
    pub p50: Duration,
    /// The 99th percentile.
    pub p99: Duration,
}

impl Expectation {
    pub(super) fn new() -> Self {
        let learned = Learned {
            input: Correction::new(),
            output: FIRST_OUTPUT * WEIGHT,
            first_content: Vec::new(),
            oldest: 0,
            fresh: 0,
            quantiles: None,
        };
        Self {
            learned: Mutex::new(learned),
        }
    }

    /// The estimate as this target's past corrects it. What a cache serves is not charged, and so
    /// not expected.
    pub(super) fn input(&self, estimated: u64) -> u64 {
        self.learned.lock().input.apply(estimated)
    }

    /// Output tokens to expect of a call that allows `most`.
    pub(super) fn output(&self, most: Option<u64>) -> u64 {
        let mean = self.learned.lock().output.div_ceil(WEIGHT);
        most.map_or(mean, |most| mean.min(most))
    }

    pub(super) fn learn(&self, estimated: u64, tokens: Tokens) {
        let mut learned = self.learned.lock();
        learned.input.learn(estimated, tokens.quota_input());
        let mean = learned.output / WEIGHT;
        learned.output = learned
            .output
            .saturating_sub(mean)
            .saturating_add(tokens.output);
    }

    /// Notes how long an answer took from its headers to its first content.
    pub(super) fn learn_first_content(&self, took: Duration) {
        let mut learned = self.learned.lock();
        let oldest = learned.oldest;
        match learned.first_content.get_mut(oldest) {
            Some(slot) => *slot = took,
            None => learned.first_content.push(took),
        }
        learned.oldest = (oldest + 1) % KEPT;
        learned.fresh += 1;
        let believed = learned.first_content.len() >= BELIEVED;
        if believed && (learned.quantiles.is_none() || learned.fresh >= EVERY) {
            learned.fresh = 0;
            learned.quantiles = quantiles(&learned.first_content);
        }
    }

    /// What is usual from the headers to the first content, once enough is known.
    pub(super) fn first_content(&self) -> Option<FirstContent> {
        self.learned.lock().quantiles
    }

    /// How long to wait for the first content where at most `most` may be waited.
    pub(super) fn first_content_timeout(&self, most: Duration) -> Duration {
        self.first_content().map_or(most, |usual| {
            usual.p99.saturating_mul(PATIENCE).max(LEAST).min(most)
        })
    }
}

fn quantiles(samples: &[Duration]) -> Option<FirstContent> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let at = |percent: usize| sorted.get(sorted.len() * percent / 100).copied();
    Some(FirstContent {
        p50: at(50)?,
        p99: at(99)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_timeout_is_learned_from_a_hundred_answers_and_stays_within_bounds() {
        let expectation = Expectation::new();
        let most = SECOND * 60;
        for _ in 0..99 {
            expectation.learn_first_content(SECOND * 3);
        }
        assert_eq!(expectation.first_content_timeout(most), most);
        expectation.learn_first_content(SECOND * 3);
        assert_eq!(expectation.first_content_timeout(most), SECOND * 6);
        assert_eq!(expectation.first_content_timeout(SECOND * 4), SECOND * 4);
        for _ in 0..KEPT + EVERY {
            expectation.learn_first_content(Duration::from_millis(5));
        }
        assert_eq!(expectation.first_content_timeout(most), LEAST);
    }

    #[test]
    fn one_slow_answer_in_a_hundred_counts_and_a_slower_one_in_a_thousand_does_not() {
        let expectation = Expectation::new();
        for n in 0..KEPT {
            let slow = if n % 50 == 0 { 10 } else { 1 };
            expectation.learn_first_content(SECOND * slow);
        }
        let usual = expectation.first_content();
        assert_eq!(
            usual,
            Some(FirstContent {
                p50: SECOND,
                p99: SECOND * 10
            })
        );
    }
}
