//! How much may be spent on second attempts that run beside slow first ones.
//!
//! Every call saves a share of what it is expected to cost, a hedge spends what it is expected to
//! cost itself. Large calls are slow and are hedged more often than others: counted by the call
//! instead, two hedges in a hundred could cost a tenth of all tokens. What is spent never exceeds
//! the share of what the calls were expected to cost, exactly: amounts are integers.
//!
//! Hedging without a bound collapses a busy server: at 70 % of its capacity, hedges at the 95th
//! percentile that nobody cancels add three quarters to its load.

use super::InvalidPolicy;
use super::quota::Cost;

/// Bounds what hedges cost, shared by all calls of one route.
#[derive(Debug, Clone)]
pub struct HedgeBudget {
    /// Millionths of a unit saved for each unit.
    per_unit: u64,
    /// In millionths of a unit.
    level: u64,
}

const MILLION: u64 = 1_000_000;

/// A call saves nothing while so many hedges of its own size are in hand: what was saved in a calm
/// hour is not to be spent in one minute.
const SAVINGS: u64 = 10;

impl HedgeBudget {
    /// Makes a budget of `share` of what all calls cost; nothing is in hand at first.
    ///
    /// # Errors
    ///
    /// Refuses a `share` outside 0 to 0.2: above, hedges are load and not insurance.
    pub fn new(share: f64) -> Result<Self, InvalidPolicy> {
        if !(0.0..=0.2).contains(&share) {
            return Err(InvalidPolicy::new("hedge.budget", share, "from 0 to 0.2"));
        }
        Ok(Self {
            per_unit: millionths(share),
            level: 0,
        })
    }

    /// Saves the share of a call that is expected to cost this.
    pub fn on_call(&mut self, cost: Cost) {
        let units = units(cost);
        if self.level < units.saturating_mul(SAVINGS * MILLION) {
            let saved = units.saturating_mul(self.per_unit);
            self.level = self.level.saturating_add(saved);
        }
    }

    /// Whether a hedge of this cost could be paid for.
    #[must_use]
    pub fn affords(&self, cost: Cost) -> bool {
        self.level >= units(cost).saturating_mul(MILLION)
    }

    /// Pays for a hedge that is about to be sent; false leaves the budget as it is.
    #[must_use = "a hedge that was refused must not be sent"]
    pub fn try_spend(&mut self, cost: Cost) -> bool {
        let rest = self.level.checked_sub(units(cost).saturating_mul(MILLION));
        self.level = rest.unwrap_or(self.level);
        rest.is_some()
    }
}

/// Tokens both ways; one for a call that has none, so that calls of no known size are counted.
fn units(cost: Cost) -> u64 {
    cost.input.saturating_add(cost.output).max(1)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "from 0 to 0.2: rounded, it fits and is not negative"
)]
fn millionths(share: f64) -> u64 {
    (share * 1e6).round() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cost(tokens: u64) -> Cost {
        Cost {
            requests: 1,
            input: tokens,
            output: 0,
        }
    }

    #[test]
    fn two_in_a_hundred_equal_calls_are_hedged() {
        let mut budget = HedgeBudget::new(0.02).unwrap();
        let mut hedged = 0;
        for _ in 0..1_000 {
            budget.on_call(cost(700));
            hedged += u32::from(budget.try_spend(cost(700)));
        }
        assert_eq!(hedged, 20);
    }

    #[test]
    fn savings_end_at_ten_hedges_of_the_callers_size() {
        let mut budget = HedgeBudget::new(0.02).unwrap();
        for _ in 0..10_000 {
            budget.on_call(cost(100));
        }
        let spent = (0..100).filter(|_| budget.try_spend(cost(100))).count();
        assert_eq!(spent, 10);
    }

    #[test]
    fn a_share_that_is_load_is_refused() {
        for share in [-0.1, 0.21, f64::NAN] {
            assert_eq!(HedgeBudget::new(share).unwrap_err().field, "hedge.budget");
        }
        let mut none = HedgeBudget::new(0.0).unwrap();
        none.on_call(cost(1_000_000));
        assert!(!none.affords(cost(0)) && !none.try_spend(cost(0)));
    }

    proptest! {
        #[test]
        fn hedges_never_cost_more_than_their_share(
            calls in prop::collection::vec((0_u64..100_000, prop::bool::ANY), 1..400),
        ) {
            let mut budget = HedgeBudget::new(0.05).unwrap();
            let (mut all, mut spent) = (0, 0);
            for (tokens, slow) in calls {
                budget.on_call(cost(tokens));
                all += tokens.max(1);
                if slow && budget.try_spend(cost(tokens)) {
                    spent += tokens.max(1);
                }
                prop_assert!(spent * 20 <= all);
            }
        }
    }
}
