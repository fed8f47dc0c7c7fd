//! How many retries a target may get in all: a retry budget, kept as a token bucket.
//!
//! A success deposits a fraction of a token, a retry spends a whole one when it is sent, and a small
//! floor trickles in with time, so that a quiet client can still retry. Whatever the sequence of
//! outcomes, retries ≤ initial + floor × elapsed + ratio × successes, exactly: tokens are integers.
//! What never reaches the target (a refusal by breaker, limiter or this budget) costs nothing,
//! because nobody calls [`try_spend`](RetryBudget::try_spend) for it.
//!
//! Failure mode: while most attempts fail the deposits dry up, and calls then get their first
//! attempt and the floor only. That is the purpose: it is what ends a metastable failure.

use std::time::Duration;

use tokio::time::Instant;

use super::InvalidPolicy;

/// Bounds the retries to one target, shared by all calls.
#[derive(Debug, Clone)]
pub struct RetryBudget {
    deposit: u128,
    floor_per_nano: u128,
    cap: u128,
    level: u128,
    refilled: Instant,
}

/// Grains in one token: millionths of a token per second × nanoseconds come out whole.
const TOKEN: u128 = GRAINS_PER_MILLIONTH * 1_000_000;
const GRAINS_PER_MILLIONTH: u128 = 1_000_000_000;

impl RetryBudget {
    /// Retries that a budget may save up, unless it starts with more or is told otherwise.
    pub const SAVINGS: u32 = 100;

    /// Makes a budget with `initial` retries in hand, which earns `ratio` of one a success.
    ///
    /// `floor_per_second` retries are earned with time alone. Both are taken to the nearest
    /// millionth. Savings end at `max(initial, 100)` retries: enough for every call in flight to
    /// outlive one blip after a calm hour.
    ///
    /// # Errors
    ///
    /// Refuses a `ratio` outside 0 to 1 and a `floor_per_second` outside 0 to 1000, or not a number.
    pub fn new(
        ratio: f64,
        initial: u32,
        floor_per_second: f64,
        now: Instant,
    ) -> Result<Self, InvalidPolicy> {
        if !(0.0..=1.0).contains(&ratio) {
            return Err(InvalidPolicy::new("retry.budget", ratio, "from 0 to 1"));
        }
        if !(0.0..=1000.0).contains(&floor_per_second) {
            let field = "retry.budget_floor_per_second";
            return Err(InvalidPolicy::new(
                field,
                floor_per_second,
                "from 0 to 1000",
            ));
        }
        Ok(Self {
            deposit: millionths(ratio) * GRAINS_PER_MILLIONTH,
            floor_per_nano: millionths(floor_per_second),
            cap: u128::from(initial.max(Self::SAVINGS)) * TOKEN,
            level: u128::from(initial) * TOKEN,
            refilled: now,
        })
    }

    /// Makes the default budget: 0.3 of a retry a success, 10 to start with, 1 a second.
    ///
    /// 0.3 lets agents whose steps fail at 15 % finish (they need 0.21) and still bounds a
    /// target's load to 1.3 times its calls.
    #[must_use]
    pub fn standard(now: Instant) -> Self {
        Self {
            deposit: 300_000 * GRAINS_PER_MILLIONTH,
            floor_per_nano: 1_000_000,
            cap: u128::from(Self::SAVINGS) * TOKEN,
            level: 10 * TOKEN,
            refilled: now,
        }
    }

    /// Lets the budget save up no more than `retries`, and drops what it has above that.
    ///
    /// Savings are what is spent at once when an outage begins. A single server with little
    /// capacity to spare wants few of them: each delays the end of its backlog.
    #[must_use]
    pub fn saving_at_most(mut self, retries: u32) -> Self {
        self.cap = u128::from(retries) * TOKEN;
        self.level = self.level.min(self.cap);
        self
    }

    /// Earns the deposit of one attempt that succeeded.
    pub fn on_success(&mut self, now: Instant) {
        self.refill(now);
        self.level = self.level.saturating_add(self.deposit).min(self.cap);
    }

    /// Spends one retry that is about to be sent; false leaves the budget as it is.
    #[must_use = "a retry that was refused must not be sent"]
    pub fn try_spend(&mut self, now: Instant) -> bool {
        self.refill(now);
        let Some(rest) = self.level.checked_sub(TOKEN) else {
            return false;
        };
        self.level = rest;
        true
    }

    /// Takes back what was spent for a retry that was not sent after all.
    pub fn give_back(&mut self, now: Instant) {
        self.refill(now);
        self.level = self.level.saturating_add(TOKEN).min(self.cap);
    }

    /// When a retry can be paid for with what time alone brings: `now` or later; never without a floor.
    #[must_use]
    pub fn ready_at(&self, now: Instant) -> Option<Instant> {
        let missing = TOKEN.saturating_sub(self.level_at(now));
        if missing == 0 {
            return Some(now);
        }
        if self.floor_per_nano == 0 {
            return None;
        }
        let nanos = missing.div_ceil(self.floor_per_nano);
        now.checked_add(Duration::from_nanos(u64::try_from(nanos).ok()?))
    }

    /// Returns the retries in hand at `now`, fractions included.
    #[must_use]
    pub fn level(&self, now: Instant) -> f64 {
        self.level_at(now) as f64 / TOKEN as f64
    }

    /// Whole retries that can be paid for at `now`.
    #[must_use]
    pub fn retries(&self, now: Instant) -> u64 {
        u64::try_from(self.level_at(now) / TOKEN).unwrap_or(u64::MAX)
    }

    fn refill(&mut self, now: Instant) {
        self.level = self.level_at(now);
        self.refilled = self.refilled.max(now);
    }

    fn level_at(&self, now: Instant) -> u128 {
        let elapsed: Duration = now.saturating_duration_since(self.refilled);
        let earned = self.floor_per_nano.saturating_mul(elapsed.as_nanos());
        self.level.saturating_add(earned).min(self.cap)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "callers pass 0 to 1000: rounded, it fits and is not negative"
)]
fn millionths(value: f64) -> u128 {
    (value * 1e6).round() as u128
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn a_failing_target_gets_the_initial_retries_and_then_the_floor() {
        let start = Instant::now();
        let mut budget = RetryBudget::standard(start);
        let at_once = (0..50).filter(|_| budget.try_spend(start)).count();
        assert_eq!(at_once, 10);
        assert!(!budget.try_spend(after(start, 999)));
        assert!(budget.try_spend(after(start, 1000)));
        assert!(!budget.try_spend(after(start, 1000)));
    }

    #[test]
    fn a_retry_that_was_not_sent_is_given_back_and_never_more_than_was_saved() {
        let start = Instant::now();
        let mut budget = RetryBudget::standard(start).saving_at_most(2);
        assert!(budget.try_spend(start) && budget.try_spend(start));
        budget.give_back(start);
        assert!(budget.try_spend(start) && !budget.try_spend(start));
        for _ in 0..5 {
            budget.give_back(start);
        }
        assert_eq!((0..9).filter(|_| budget.try_spend(start)).count(), 2);
    }

    #[test]
    fn trap_28_ten_successes_pay_for_three_retries_and_no_fourth() {
        let start = Instant::now();
        let mut budget = RetryBudget::new(0.3, 0, 0.0, start).unwrap();
        assert!(!budget.try_spend(start));
        for _ in 0..10 {
            budget.on_success(start);
        }
        assert_eq!((0..10).filter(|_| budget.try_spend(start)).count(), 3);
    }

    #[test]
    fn trap_27_an_empty_budget_fills_again_from_successes_alone() {
        let start = Instant::now();
        let mut budget = RetryBudget::new(0.1, 1, 0.0, start).unwrap();
        assert!(budget.try_spend(start) && !budget.try_spend(start));
        for _ in 0..9 {
            budget.on_success(start);
            assert!(!budget.try_spend(start));
        }
        budget.on_success(start);
        assert!(budget.try_spend(start));
    }

    #[test]
    fn trap_26_a_quiet_client_earns_by_the_clock_and_a_busy_one_by_its_traffic() {
        let start = Instant::now();
        let mut quiet = RetryBudget::new(0.1, 0, 1.0, start).unwrap();
        let later = after(start, 10_000);
        assert_eq!((0..100).filter(|_| quiet.try_spend(later)).count(), 10);
        let mut busy = RetryBudget::new(0.1, 0, 1.0, start).unwrap();
        for _ in 0..500 {
            busy.on_success(later);
        }
        assert_eq!((0..100).filter(|_| busy.try_spend(later)).count(), 60);
    }

    #[test]
    fn it_says_when_time_alone_has_paid_for_a_retry() {
        let start = Instant::now();
        let mut budget = RetryBudget::new(0.3, 1, 0.4, start).unwrap();
        assert_eq!(
            (budget.ready_at(start), budget.retries(start)),
            (Some(start), 1)
        );
        assert!(budget.try_spend(start));
        assert_eq!(budget.ready_at(start), Some(after(start, 2_500)));
        budget.on_success(start);
        let ready = after(start, 1_750);
        assert_eq!(budget.ready_at(start), Some(ready));
        assert!(!budget.clone().try_spend(ready - Duration::from_nanos(1)));
        assert!(budget.try_spend(ready));
        let mut unfloored = RetryBudget::new(0.3, 1, 0.0, start).unwrap();
        assert!(unfloored.try_spend(start));
        assert_eq!(unfloored.ready_at(start), None);
    }

    #[test]
    fn savings_end_at_their_cap_however_long_the_calm() {
        let start = Instant::now();
        let budget = RetryBudget::standard(start);
        assert!((budget.level(after(start, 86_400_000)) - 100.0).abs() < 1e-9);
        let rich = RetryBudget::new(0.0, 500, 1000.0, start).unwrap();
        assert!((rich.level(after(start, 86_400_000)) - 500.0).abs() < 1e-9);
    }

    #[test]
    fn a_budget_told_to_save_less_drops_the_rest_and_earns_no_more() {
        let start = Instant::now();
        let mut budget = RetryBudget::standard(start).saving_at_most(3);
        let later = after(start, 60_000);
        for _ in 0..100 {
            budget.on_success(later);
        }
        assert_eq!((0..10).filter(|_| budget.try_spend(later)).count(), 3);
    }

    #[test]
    fn the_standard_budget_is_what_its_numbers_make() {
        let start = Instant::now();
        let named = format!("{:?}", RetryBudget::standard(start));
        assert_eq!(
            named,
            format!("{:?}", RetryBudget::new(0.3, 10, 1.0, start).unwrap())
        );
    }

    #[test]
    fn settings_out_of_range_are_refused_by_name() {
        let now = Instant::now();
        for ratio in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            let refused = RetryBudget::new(ratio, 10, 1.0, now).unwrap_err();
            assert_eq!(refused.field, "retry.budget");
        }
        for floor in [-1.0, 1000.5, f64::NAN] {
            let refused = RetryBudget::new(0.3, 10, floor, now).unwrap_err();
            assert_eq!(refused.field, "retry.budget_floor_per_second");
        }
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Success,
        Spend,
        Pass(u64),
        Back(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Success),
            6 => Just(Step::Spend),
            1 => (0_u64..5_000_000_000).prop_map(Step::Pass),
            1 => (0_u64..5_000_000_000).prop_map(Step::Back),
        ]
    }

    proptest! {
        #[test]
        fn trap_24_no_sequence_of_outcomes_gets_more_retries_than_the_budget_says(
            steps in proptest::collection::vec(step(), 0..400),
            ratio_millionths in 0_u32..=1_000_000,
            initial in 0_u32..200,
            floor_millionths in 0_u32..=10_000_000,
        ) {
            let start = Instant::now() + Duration::from_hours(1);
            let mut now = start;
            let mut latest = start;
            let ratio = f64::from(ratio_millionths) / 1e6;
            let floor = f64::from(floor_millionths) / 1e6;
            let mut budget = RetryBudget::new(ratio, initial, floor, start).unwrap();
            let (mut retries, mut successes) = (0_u128, 0_u128);
            for step in steps {
                match step {
                    Step::Success => {
                        budget.on_success(now);
                        successes += 1;
                    }
                    Step::Spend => {
                        let before = budget.level(now);
                        let spent = budget.try_spend(now);
                        retries += u128::from(spent);
                        prop_assert!(spent || before < 1.0, "a whole token is never refused");
                    }
                    Step::Pass(nanos) => now += Duration::from_nanos(nanos),
                    Step::Back(nanos) => now -= Duration::from_nanos(nanos).min(now - start),
                }
                latest = latest.max(now);
                let nanos = (latest - start).as_nanos();
                let earned = u128::from(initial) * 1_000_000_000_000_000
                    + u128::from(floor_millionths) * nanos
                    + u128::from(ratio_millionths) * 1_000_000_000 * successes;
                prop_assert!(retries * 1_000_000_000_000_000 <= earned);
            }
        }
    }
}
