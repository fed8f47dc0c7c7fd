//! What a target's answers usually cost: learned, per target.

use parking_lot::Mutex;

use crate::estimate::Correction;
use crate::provider::anthropic::usage::Tokens;

/// Output expected of a target that has not answered yet.
const FIRST_OUTPUT: u64 = 512;

/// Weight of the newest answer in the mean output: about the last twenty count.
const WEIGHT: u64 = 20;

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
}

impl Expectation {
    pub(super) fn new() -> Self {
        let learned = Learned {
            input: Correction::new(),
            output: FIRST_OUTPUT * WEIGHT,
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
}
