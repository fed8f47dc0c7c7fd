//! What is learned from finished requests: a usual value with a guard, and how far estimates were off.
//!
//! Everything here is bounded: how far one strange value moves a mean, and how many values a guard
//! comes from; nothing is remembered beyond those.

/// Values remembered, of each kind.
const KEPT: usize = 32;
/// Weight of the newest value once there are enough: about the last twenty count.
const WEIGHT: f64 = 0.1;
/// Values from which a quantile is believed.
const BELIEVED: usize = 8;
/// A quantile is taken anew after this many values.
const EVERY: usize = 4;

/// A usual value: its exponentially weighted mean, and a quantile as guard.
#[derive(Debug, Clone, PartialEq)]
pub struct Usual {
    mean: f64,
    seen: u32,
    recent: Recent,
    quantile: f64,
    reach: f64,
    guard: Option<f64>,
    fresh: usize,
}

impl Usual {
    /// Starts at `first`; the guard is the `quantile` of the latest values, 0 to 1. A value counts at
    /// most as `reach` times the mean before it, and at least as the mean divided by it.
    #[must_use]
    pub const fn new(first: f64, quantile: f64, reach: f64) -> Self {
        Self {
            mean: first,
            seen: 0,
            recent: Recent::new(),
            quantile,
            reach,
            guard: None,
            fresh: 0,
        }
    }

    /// The mean.
    #[must_use]
    pub const fn mean(&self) -> f64 {
        self.mean
    }

    /// The larger of mean and guard: what a reservation takes, so that sums are not reserved short.
    #[must_use]
    pub fn guarded(&self) -> f64 {
        self.guard.map_or(self.mean, |guard| guard.max(self.mean))
    }

    /// The quantile itself, once it is believed.
    #[must_use]
    pub const fn guard(&self) -> Option<f64> {
        self.guard
    }

    /// How many values there were.
    #[must_use]
    pub const fn seen(&self) -> u32 {
        self.seen
    }

    /// Takes in a value. What is negative or not finite says nothing.
    pub fn learn(&mut self, value: f64) {
        if !value.is_finite() || value < 0.0 {
            return;
        }
        self.seen = self.seen.saturating_add(1);
        // The first values count for more, so that a wrong start is left soon.
        let weight = WEIGHT.max(1.0 / (f64::from(self.seen) + 1.0));
        // Without the addition a mean at zero would never leave it.
        let most = self.mean * self.reach + 1e-3;
        self.mean += weight * (value.clamp(self.mean / self.reach, most) - self.mean);
        self.recent.push(value);
        self.fresh += 1;
        let due = self.guard.is_none() || self.fresh >= EVERY;
        if due && self.recent.len() >= BELIEVED {
            self.fresh = 0;
            self.guard = self.recent.quantile(self.quantile);
        }
    }
}

/// What the estimates of one target and class are off by, learned from what requests really took.
///
/// A ratio of actual to estimated tokens. A reservation takes the larger of its mean and its 75th
/// percentile: three of four requests take no more than was reserved, and what is over is given back
/// as soon as the answer states its usage.
#[derive(Debug, Clone, PartialEq)]
pub struct Correction {
    ratio: Usual,
}

impl Correction {
    /// Smallest and largest correction; the fit's own 5th and 95th percentiles lie well inside.
    const BOUNDS: (f64, f64) = (0.1, 10.0);
    /// The part of requests that take no more than is reserved.
    const GUARD: f64 = 0.75;
    /// One strange request moves the mean by at most a tenth.
    const REACH: f64 = 2.0;

    /// Starts without a correction.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            ratio: Usual::new(1.0, Self::GUARD, Self::REACH),
        }
    }

    /// Returns the usual ratio of actual to estimated tokens so far.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.ratio.mean().clamp(Self::BOUNDS.0, Self::BOUNDS.1)
    }

    /// Returns the corrected estimate, in tokens; never zero for an estimate that is not.
    #[must_use]
    pub fn apply(&self, estimated: u64) -> u64 {
        scaled(estimated, self.ratio())
    }

    /// Returns the tokens to reserve.
    #[must_use]
    pub fn guarded(&self, estimated: u64) -> u64 {
        let (least, most) = Self::BOUNDS;
        scaled(estimated, self.ratio.guarded().clamp(least, most))
    }

    /// Learns from a request: what was estimated (before any correction) and what it took. A
    /// request that took nothing says nothing.
    pub fn learn(&mut self, estimated: u64, actual: u64) {
        if estimated == 0 || actual == 0 {
            return;
        }
        let (least, most) = Self::BOUNDS;
        self.ratio
            .learn(ratio(actual, estimated).clamp(least, most));
    }
}

impl Default for Correction {
    fn default() -> Self {
        Self::new()
    }
}

/// How far estimates were off, lately.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Errors {
    recent: Recent,
    seen: u64,
}

/// How far off estimates were: |estimated − actual| ÷ actual.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct ErrorFigures {
    /// The median of the latest.
    pub p50: f64,
    /// The 95th percentile of the latest.
    pub p95: f64,
    /// How many there were in all.
    pub seen: u64,
}

impl Errors {
    /// Takes in what was expected and what it was. A request that took nothing says nothing.
    pub fn learn(&mut self, expected: u64, actual: u64) {
        if actual > 0 {
            self.recent.push(ratio(expected.abs_diff(actual), actual));
            self.seen += 1;
        }
    }

    /// The figures, once there is any.
    #[must_use]
    pub fn figures(&self) -> Option<ErrorFigures> {
        Some(ErrorFigures {
            p50: self.recent.quantile(0.5)?,
            p95: self.recent.quantile(0.95)?,
            seen: self.seen,
        })
    }
}

/// The latest values; the oldest is overwritten first.
#[derive(Debug, Clone, Default, PartialEq)]
struct Recent {
    values: Vec<f32>,
    oldest: usize,
}

impl Recent {
    const fn new() -> Self {
        Self {
            values: Vec::new(),
            oldest: 0,
        }
    }

    const fn len(&self) -> usize {
        self.values.len()
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "seven digits are enough for a ratio or a count of tokens"
    )]
    fn push(&mut self, value: f64) {
        let value = value as f32;
        match self.values.get_mut(self.oldest) {
            Some(slot) => *slot = value,
            None => self.values.push(value),
        }
        self.oldest = (self.oldest + 1) % KEPT;
    }

    /// The smallest value that the part `quantile` of all does not exceed.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank among at most 32"
    )]
    fn quantile(&self, quantile: f64) -> Option<f64> {
        let mut sorted = self.values.clone();
        sorted.sort_unstable_by(f32::total_cmp);
        let rank = (sorted.len() as f64 * quantile).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().map(f64::from)
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate; the product is finite and not negative, and `as` saturates"
)]
fn scaled(estimated: u64, ratio: f64) -> u64 {
    (estimated as f64 * ratio).ceil() as u64
}

#[expect(clippy::cast_precision_loss, reason = "a ratio")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert, proptest};

    use super::{Correction, Errors, KEPT, Usual};

    #[test]
    fn one_strange_value_moves_a_mean_by_at_most_a_tenth_and_the_guard_not_at_all() {
        let mut usual = Usual::new(1.0, 0.75, 2.0);
        for _ in 0..KEPT {
            usual.learn(1.0);
        }
        usual.learn(1_000.0);
        assert!(usual.mean() <= 1.11 && usual.guarded() <= 1.11, "{usual:?}");
        usual.learn(0.0);
        assert!(usual.mean() >= 1.0, "{usual:?}");
    }

    #[test]
    fn a_guard_is_what_three_of_four_do_not_exceed() {
        let mut usual = Usual::new(1.0, 0.75, 2.0);
        for n in 1..8 {
            usual.learn(f64::from(n));
            assert_eq!(usual.guard(), None, "{n} values tell no quantile");
        }
        usual.learn(8.0);
        assert_eq!(usual.guard(), Some(6.0));
        assert!(usual.guarded() >= usual.mean());
    }

    #[test]
    fn a_wrong_start_is_left_within_a_few_values() {
        for target in [0.2, 5.0] {
            let mut correction = Correction::new();
            for _ in 0..30 {
                correction.learn(1_000, (target * 1_000.0) as u64);
            }
            let off = (correction.ratio() - target).abs() / target;
            assert!(off < 0.1, "{target}: {correction:?}");
        }
    }

    #[test]
    fn a_sum_of_reservations_is_not_short() {
        // Prompts that take 0.8 to 1.6 times what the fit says, in no order.
        let ratios = [1.0, 1.6, 0.8, 1.2, 0.9, 1.4, 0.8, 1.1];
        let mut correction = Correction::new();
        let (mut reserved, mut taken) = (0, 0);
        for n in 0..800 {
            let actual = (1_000.0 * ratios[n * 5 % 8]) as u64;
            reserved += correction.guarded(1_000);
            taken += actual;
            correction.learn(1_000, actual);
        }
        assert!(reserved >= taken, "{reserved} for {taken}");
        assert!(reserved < taken * 5 / 4, "{reserved} for {taken}");
    }

    #[test]
    fn errors_are_of_the_latest_and_bounded() {
        let mut errors = Errors::default();
        assert_eq!(errors.figures(), None);
        errors.learn(100, 0);
        assert_eq!(errors.figures(), None, "nothing taken says nothing");
        for _ in 0..1_000 {
            errors.learn(300, 100);
        }
        for _ in 0..KEPT {
            errors.learn(90, 100);
        }
        let figures = errors.figures().expect("figures");
        assert!((figures.p50 - 0.1).abs() < 1e-6 && (figures.p95 - 0.1).abs() < 1e-6);
        assert_eq!(figures.seen, 1_032);
        assert!(errors.recent.values.capacity() <= KEPT);
    }

    proptest! {
        #[test]
        fn no_value_makes_a_mean_that_is_none(
            values in prop::collection::vec(any::<f64>(), 0..200),
            reach in prop::sample::select(vec![1.0, 2.0, 16.0, f64::MAX]),
        ) {
            let mut usual = Usual::new(1.0, 0.75, reach);
            for value in values {
                usual.learn(value);
                prop_assert!(usual.mean() >= 0.0 && !usual.mean().is_nan());
                prop_assert!(usual.guarded() >= usual.mean());
                prop_assert!(usual.recent.values.len() <= KEPT);
            }
        }
    }
}
