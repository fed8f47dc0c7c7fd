//! What a target's answers usually cost and how long they take to begin: learned, per target.

use std::time::Duration;

use parking_lot::Mutex;
use seawall_actors::policy::quota::Cost;

use super::attempt::true_cost;
use super::first_content::{FirstContent, Waits};
use crate::estimate::{Class, Correction, ErrorFigures, Errors, Estimate, Usual, estimate};
use crate::provider::anthropic::request::RequestView;
use crate::provider::anthropic::usage::Tokens;

/// Output expected of a target that has not answered yet.
const FIRST_OUTPUT: f64 = 512.0;

/// With fewer answers than this, the output that is expected is more of a guess.
const FEW: u32 = 8;

/// The part of answers that take no more output than is reserved. Just above the middle: sums are right
/// by the mean, and the guard only helps where most answers are longer than it.
const OUTPUT_GUARD: f64 = 0.6;

/// An answer counts in the mean output at most as so many times it; `max_tokens` bounds it besides.
const OUTPUT_REACH: f64 = 16.0;

/// What allows about as much output is expected to use about as much: upper ends of `max_tokens`.
const ALLOWANCES: [u64; 5] = [256, 1_024, 4_096, 16_384, 65_536];

/// The part of requests that find less in the cache than is counted on: what the cache has is reserved
/// by nobody, so a cold one must not come as a surprise.
const CACHE_GUARD: f64 = 0.25;

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
    classes: [Learning; Class::ALL.len()],
    /// By allowance; the last is for all calls together, and for those without `max_tokens`.
    outputs: [Usual; ALLOWANCES.len() + 2],
    /// The part of a prompt that the cache has: of prompts without and with a mark for it.
    cached: [Usual; 2],
    /// From an answer's headers to its first content.
    from_headers: Waits,
    /// From the sending of the request.
    from_sending: Waits,
}

/// What is learned about the prompts of one class.
#[derive(Debug, Clone)]
struct Learning {
    correction: Correction,
    errors: Errors,
}

/// What a request looks like before it is sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// The estimate before any correction.
    pub(super) estimate: Estimate,
    /// The size as the provider counted it, where it was asked.
    pub(super) counted: Option<u64>,
    /// Something is marked for the prompt cache.
    pub(super) cache_marked: bool,
    pub(super) max_tokens: Option<u64>,
}

impl Shape {
    /// The shape of a request to `model`; a request without a view is empty.
    pub(super) fn of(model: &str, view: Option<&RequestView>) -> Self {
        let counts = view.map(|view| view.counts).unwrap_or_default();
        Self {
            estimate: estimate(model, &counts),
            counted: None,
            cache_marked: counts.cache_marked,
            max_tokens: view.and_then(|view| view.max_tokens),
        }
    }
}

/// What a request was expected to take, to be held against what it took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    shape: Shape,
    /// The whole prompt as the target's past corrects the estimate.
    prompt: u64,
    /// What is reserved for it.
    pub(super) cost: Cost,
    /// Nothing was known of the output.
    output_is_guessed: bool,
}

/// How well one target's prompts of one class are estimated.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Accuracy {
    /// What most of the prompts was.
    pub class: Class,
    /// Actual tokens for each that the fit alone estimates.
    pub ratio: f64,
    /// How far the corrected estimates were off.
    pub errors: ErrorFigures,
}

impl Expected {
    /// The whole prompt, in tokens.
    pub(super) const fn prompt(&self) -> u64 {
        self.prompt
    }

    /// What an answer that took so much is settled with.
    ///
    /// What a guess has kept back from others for the length of an answer is not given back: the
    /// provider's bucket was full meanwhile, and holds no more for it. Given back all at once by the
    /// first answers, it would be a burst that is not there.
    pub(super) fn settled(&self, tokens: Tokens) -> Cost {
        let cost = true_cost(tokens);
        if self.output_is_guessed {
            Cost {
                output: cost.output.max(self.cost.output),
                ..cost
            }
        } else {
            cost
        }
    }
}

impl Expectation {
    pub(super) fn new() -> Self {
        let learning = Learning {
            correction: Correction::new(),
            errors: Errors::default(),
        };
        let learned = Learned {
            classes: std::array::from_fn(|_| learning.clone()),
            outputs: std::array::from_fn(|_| Usual::new(FIRST_OUTPUT, OUTPUT_GUARD, OUTPUT_REACH)),
            cached: std::array::from_fn(|_| Usual::new(0.0, CACHE_GUARD, f64::MAX)),
            from_headers: Waits::default(),
            from_sending: Waits::default(),
        };
        Self {
            learned: Mutex::new(learned),
        }
    }

    /// What a request is expected to take, as this target's past corrects the estimate.
    ///
    /// What the cache serves is not charged, and expected as far as three of four requests find it
    /// there.
    pub(super) fn expect(&self, shape: Shape) -> Expected {
        let learned = self.learned.lock();
        let correction = &learned.classes[shape.estimate.class.index()].correction;
        let (prompt, guarded) = shape.counted.map_or_else(
            || {
                let tokens = shape.estimate.tokens;
                (correction.apply(tokens), correction.guarded(tokens))
            },
            |counted| (counted, counted),
        );
        let cached = &learned.cached[usize::from(shape.cache_marked)];
        let fresh = 1.0 - cached.guard().unwrap_or(0.0).clamp(0.0, 1.0);
        Expected {
            shape,
            prompt,
            cost: Cost {
                requests: 1,
                input: part(guarded, fresh),
                output: learned.output(shape.max_tokens),
            },
            output_is_guessed: learned.outputs[ALL_CALLS].seen() < FEW,
        }
    }

    /// What a request without tokens takes, such as one that only counts.
    pub(super) fn request_only(&self, shape: Shape) -> Expected {
        let cost = Cost {
            requests: 1,
            input: 0,
            output: 0,
        };
        Expected {
            cost,
            ..self.expect(shape)
        }
    }

    pub(super) fn learn(&self, expected: &Expected, tokens: Tokens) {
        let shape = &expected.shape;
        let prompt = tokens.prompt();
        let mut learned = self.learned.lock();
        let class = &mut learned.classes[shape.estimate.class.index()];
        // What the provider counted says nothing of the estimate.
        if shape.counted.is_none() {
            class.errors.learn(expected.prompt, prompt);
        }
        class.correction.learn(shape.estimate.tokens, prompt);
        if prompt > 0 {
            let share = share(tokens.cache_read, prompt);
            learned.cached[usize::from(shape.cache_marked)].learn(share);
        }
        for index in [allowance(shape.max_tokens), ALL_CALLS] {
            learned.outputs[index].learn(to_f64(tokens.output));
        }
    }

    /// How well prompts were estimated lately, for each class that there was.
    pub(super) fn accuracy(&self) -> Vec<Accuracy> {
        let learned = self.learned.lock();
        let of = |class: Class| {
            let learning = &learned.classes[class.index()];
            Some(Accuracy {
                class,
                ratio: learning.correction.ratio(),
                errors: learning.errors.figures()?,
            })
        };
        Class::ALL.into_iter().filter_map(of).collect()
    }

    /// Notes how long an answer took to its first content, from its headers and from the sending of
    /// its request.
    pub(super) fn learn_first_content(&self, from_headers: Duration, from_sending: Duration) {
        let mut learned = self.learned.lock();
        learned.from_headers.learn(from_headers);
        learned.from_sending.learn(from_sending);
    }

    /// What is usual from the headers to the first content, once enough is known.
    pub(super) fn first_content(&self) -> Option<FirstContent> {
        self.learned.lock().from_headers.usual()
    }

    /// What is usual from the sending of a request to the first content.
    pub(super) fn to_first_content(&self) -> Option<FirstContent> {
        self.learned.lock().from_sending.usual()
    }

    /// How long to wait for the first content where at most `most` may be waited.
    pub(super) fn first_content_timeout(&self, most: Duration) -> Duration {
        self.first_content().map_or(most, |usual| {
            usual.p99.saturating_mul(PATIENCE).max(LEAST).min(most)
        })
    }
}

/// Where all calls of a target are learned together.
const ALL_CALLS: usize = ALLOWANCES.len() + 1;

impl Learned {
    /// Output tokens to expect of a call that allows `most`.
    fn output(&self, most: Option<u64>) -> u64 {
        let own = &self.outputs[allowance(most)];
        let usual = if own.seen() > 0 {
            own
        } else {
            &self.outputs[ALL_CALLS]
        };
        let expected = part(1, usual.guarded());
        most.map_or(expected, |most| expected.min(most))
    }
}

/// Which allowance a call belongs to; without one, to all calls.
fn allowance(most: Option<u64>) -> usize {
    let Some(most) = most else { return ALL_CALLS };
    let end = ALLOWANCES.iter().position(|&end| most <= end);
    end.unwrap_or(ALLOWANCES.len())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a part of a count: finite and not negative, and `as` saturates"
)]
fn part(whole: u64, part: f64) -> u64 {
    (to_f64(whole) * part).ceil() as u64
}

fn share(part: u64, whole: u64) -> f64 {
    to_f64(part) / to_f64(whole)
}

#[expect(clippy::cast_precision_loss, reason = "a count of tokens")]
const fn to_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::anthropic::request::Counts;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_timeout_is_learned_from_a_hundred_answers_and_stays_within_bounds() {
        let expectation = Expectation::new();
        let most = SECOND * 60;
        for _ in 0..99 {
            expectation.learn_first_content(SECOND * 3, SECOND * 4);
        }
        assert_eq!(expectation.first_content_timeout(most), most);
        expectation.learn_first_content(SECOND * 3, SECOND * 4);
        assert_eq!(expectation.first_content_timeout(most), SECOND * 6);
        assert_eq!(expectation.first_content_timeout(SECOND * 4), SECOND * 4);
        for _ in 0..300 {
            expectation.learn_first_content(Duration::from_millis(5), SECOND);
        }
        assert_eq!(expectation.first_content_timeout(most), LEAST);
    }

    fn shape(class: Class, cache_marked: bool, max_tokens: Option<u64>) -> Shape {
        let counts = match class {
            Class::Code => Counts {
                text: 1_000,
                symbols: 400,
                ..Counts::default()
            },
            _ => Counts {
                text: 4_000,
                ..Counts::default()
            },
        };
        let estimate = estimate("claude-sonnet-4-6", &counts);
        assert_eq!(estimate.class, class);
        Shape {
            estimate,
            counted: None,
            cache_marked,
            max_tokens,
        }
    }

    fn answer(expectation: &Expectation, shape: Shape, tokens: Tokens) -> Expected {
        let expected = expectation.expect(shape);
        expectation.learn(&expected, tokens);
        expected
    }

    #[test]
    fn what_a_cache_serves_is_not_reserved_and_a_cold_one_spoils_no_estimate() {
        let expectation = Expectation::new();
        let shape = shape(Class::Text, true, None);
        let size = shape.estimate.tokens;
        let warm = Tokens {
            input: size / 10,
            cache_read: size - size / 10,
            ..Tokens::default()
        };
        assert_eq!(expectation.expect(shape).cost.input, size);
        for _ in 0..20 {
            answer(&expectation, shape, warm);
        }
        let expected = expectation.expect(shape);
        assert!(expected.cost.input <= size / 9, "{expected:?}");
        // The size of the prompt itself was estimated rightly all the while.
        let accuracy = expectation.accuracy();
        assert_eq!(accuracy.len(), 1);
        assert!((accuracy[0].ratio - 1.0).abs() < 0.01, "{accuracy:?}");
        assert!(accuracy[0].errors.p95 < 0.01, "{accuracy:?}");
        // A prompt without a mark is charged in full.
        let unmarked = Shape {
            cache_marked: false,
            ..shape
        };
        assert_eq!(expectation.expect(unmarked).cost.input, size);
        // The cache goes cold: soon nothing is counted on, and no more than the prompt is reserved.
        let cold = Tokens {
            cache_write_5m: size,
            ..Tokens::default()
        };
        for _ in 0..20 {
            answer(&expectation, shape, cold);
        }
        assert_eq!(expectation.expect(shape).cost.input, size);
    }

    #[test]
    fn one_class_learns_nothing_from_another() {
        let expectation = Expectation::new();
        let (text, code) = (
            shape(Class::Text, false, None),
            shape(Class::Code, false, None),
        );
        let double = Tokens {
            input: code.estimate.tokens * 2,
            ..Tokens::default()
        };
        for _ in 0..40 {
            answer(&expectation, code, double);
        }
        assert_eq!(expectation.expect(text).cost.input, text.estimate.tokens);
        let reserved = expectation.expect(code).cost.input;
        assert!(
            reserved.abs_diff(double.input) <= double.input / 20,
            "{reserved}"
        );
    }

    #[test]
    fn output_is_expected_from_history_and_never_above_what_is_allowed() {
        let expectation = Expectation::new();
        let wrote = |output| Tokens {
            input: 1_000,
            output,
            ..Tokens::default()
        };
        let output = |most| {
            expectation
                .expect(shape(Class::Text, false, most))
                .cost
                .output
        };
        assert_eq!((output(None), output(Some(100))), (512, 100));
        for _ in 0..60 {
            answer(
                &expectation,
                shape(Class::Text, false, Some(4_000)),
                wrote(400),
            );
            answer(
                &expectation,
                shape(Class::Text, false, Some(200)),
                wrote(20),
            );
        }
        assert!(
            (395..=410).contains(&output(Some(4_000))),
            "{}",
            output(Some(4_000))
        );
        assert!(
            (20..=25).contains(&output(Some(200))),
            "{}",
            output(Some(200))
        );
        assert_eq!(output(Some(7)), 7);
        // An allowance that nobody has used yet takes after all of them.
        assert!((20..=420).contains(&output(Some(60_000))));
    }

    #[test]
    fn a_counted_prompt_is_reserved_as_counted() {
        let expectation = Expectation::new();
        let shape = Shape {
            counted: Some(777),
            ..shape(Class::Text, false, None)
        };
        let took = Tokens {
            input: 780,
            ..Tokens::default()
        };
        for _ in 0..10 {
            assert_eq!(answer(&expectation, shape, took).cost.input, 777);
        }
        assert_eq!(expectation.accuracy(), Vec::new(), "it was no estimate");
    }
}
