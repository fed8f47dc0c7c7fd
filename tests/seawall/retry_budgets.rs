//! What a retry budget bounds: the load that retries add while a target fails.
//!
//! One client sends 100 calls a second, each of up to four attempts which fail independently; the
//! first fifth of the run is warm-up. Peers' budgets are modelled beside ours, so that the table
//! says what each would have let through.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use seawall_actors::policy::retry_budget::RetryBudget;
use tokio::time::Instant;

const CALLS: u32 = 40_000;
const WARM_UP: u32 = CALLS / 5;
const RETRIES: u32 = 3;

/// What a client asks before a retry, and tells after an attempt.
trait Budget {
    fn on_call(&mut self, _now: Instant) {}
    fn on_success(&mut self, now: Instant, retried: bool);
    fn on_failure(&mut self, _now: Instant) {}
    fn try_spend(&mut self, now: Instant) -> bool;
}

impl Budget for RetryBudget {
    fn on_success(&mut self, now: Instant, _retried: bool) {
        Self::on_success(self, now);
    }

    fn try_spend(&mut self, now: Instant) -> bool {
        Self::try_spend(self, now)
    }
}

/// Every retry that a call may make (`true`), or none.
struct Fixed(bool);

impl Budget for Fixed {
    fn on_success(&mut self, _now: Instant, _retried: bool) {}

    fn try_spend(&mut self, _now: Instant) -> bool {
        self.0
    }
}

/// gRPC's proposal A6: a failure takes one token, a success adds `ratio`; retries go out only while
/// more than half of the tokens is there.
struct Gate {
    tokens: f64,
    max: f64,
    ratio: f64,
}

impl Budget for Gate {
    fn on_success(&mut self, _now: Instant, _retried: bool) {
        self.tokens = (self.tokens + self.ratio).min(self.max);
    }

    fn on_failure(&mut self, _now: Instant) {
        self.tokens = (self.tokens - 1.0).max(0.0);
    }

    fn try_spend(&mut self, _now: Instant) -> bool {
        self.tokens > self.max / 2.0
    }
}

/// The AWS SDKs' standard mode: 500 tokens, a retry takes `cost`, a retry that succeeds gives it
/// back, a first attempt that succeeds adds one.
struct Sdk {
    tokens: u32,
    cost: u32,
}

impl Budget for Sdk {
    fn on_success(&mut self, _now: Instant, retried: bool) {
        self.tokens = (self.tokens + if retried { self.cost } else { 1 }).min(500);
    }

    fn try_spend(&mut self, _now: Instant) -> bool {
        let rest = self.tokens.checked_sub(self.cost);
        self.tokens = rest.unwrap_or(self.tokens);
        rest.is_some()
    }
}

/// A bucket that earns by the call, by the success and by the second.
struct Bucket {
    tokens: f64,
    cap: f64,
    per_call: f64,
    per_success: f64,
    per_second: f64,
    refilled: Instant,
}

impl Bucket {
    /// Finagle: a fifth of the calls and 10 a second, kept for 10 s.
    fn finagle(now: Instant) -> Self {
        let cap = 10.0 * (0.2 * 100.0 + 10.0);
        Self {
            tokens: 0.0,
            cap,
            per_call: 0.2,
            per_success: 0.0,
            per_second: 10.0,
            refilled: now,
        }
    }

    /// A whole token for every success, as one Rust peer has it.
    fn token_per_success(now: Instant) -> Self {
        let (cap, per_second) = (100.0, 10.0);
        Self {
            tokens: cap,
            cap,
            per_call: 0.0,
            per_success: 1.0,
            per_second,
            refilled: now,
        }
    }

    fn earn(&mut self, tokens: f64) {
        self.tokens = (self.tokens + tokens).min(self.cap);
    }
}

impl Budget for Bucket {
    fn on_call(&mut self, now: Instant) {
        let elapsed = (now - self.refilled).as_secs_f64();
        self.refilled = now;
        self.earn(self.per_second.mul_add(elapsed, self.per_call));
    }

    fn on_success(&mut self, _now: Instant, _retried: bool) {
        self.earn(self.per_success);
    }

    fn try_spend(&mut self, _now: Instant) -> bool {
        let enough = self.tokens >= 1.0;
        self.tokens -= f64::from(u8::from(enough));
        enough
    }
}

#[derive(Debug, Clone, Copy)]
struct Outcome {
    load: f64,
    success_percent: f64,
}

fn run(budget: &mut dyn Budget, failing: f64, seed: u64) -> Outcome {
    let start = Instant::now();
    let mut rng = SmallRng::seed_from_u64(seed);
    let (mut attempts, mut successes) = (0_u32, 0_u32);
    for call in 0..CALLS {
        let now = start + Duration::from_millis(10) * call;
        let counted = u32::from(call >= WARM_UP);
        budget.on_call(now);
        for attempt in 0..=RETRIES {
            if attempt > 0 && !budget.try_spend(now) {
                break;
            }
            attempts += counted;
            if rng.random::<f64>() >= failing {
                budget.on_success(now, attempt > 0);
                successes += counted;
                break;
            }
            budget.on_failure(now);
        }
    }
    let calls = f64::from(CALLS - WARM_UP);
    Outcome {
        load: f64::from(attempts) / calls,
        success_percent: 100.0 * f64::from(successes) / calls,
    }
}

/// Load and success at 5, 10, 20, 30, 50, 70, 90 and 100 % failures.
type Row = [(f64, f64); 8];
const FAILING: [f64; 8] = [0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0];

fn assert_row(name: &str, mut budget: impl FnMut() -> Box<dyn Budget>, row: Row) {
    for (failing, (load, success)) in FAILING.into_iter().zip(row) {
        let seen = run(budget().as_mut(), failing, 3);
        println!(
            "{name} at {failing}: {:.3} / {:.1}",
            seen.load, seen.success_percent
        );
        assert!(
            (seen.load - load).abs() <= 0.02,
            "{name} at {failing}: {seen:?}, not {load}"
        );
        assert!(
            (seen.success_percent - success).abs() <= 1.0,
            "{name} at {failing}: {seen:?}, not {success}"
        );
    }
}

#[test]
fn without_retries_every_failure_reaches_the_caller() {
    let success = [94.7, 89.7, 79.6, 69.8, 50.0, 30.0, 10.2, 0.0];
    assert_row(
        "none",
        || Box::new(Fixed(false)),
        success.map(|percent| (1.0, percent)),
    );
}

#[test]
fn without_a_budget_an_outage_multiplies_the_load_by_four() {
    let row = [
        (1.05, 100.0),
        (1.11, 100.0),
        (1.25, 99.8),
        (1.41, 99.2),
        (1.87, 93.9),
        (2.53, 76.1),
        (3.44, 34.9),
        (4.0, 0.0),
    ];
    assert_row("naive", || Box::new(Fixed(true)), row);
    for (failing, (load, success)) in FAILING.into_iter().zip(row) {
        let all_fail = failing.powi(4);
        assert!(
            (100.0 * (1.0 - all_fail) - success).abs() < 1.0,
            "success is 1 - p^4"
        );
        if failing < 1.0 {
            assert!(((1.0 - all_fail) / (1.0 - failing) - load).abs() < 0.01);
        }
    }
}

#[test]
fn trap_28_a_tenth_of_a_retry_per_success_keeps_the_load_at_one_and_a_tenth() {
    let row = [
        (1.05, 100.0),
        (1.10, 98.7),
        (1.09, 86.7),
        (1.08, 75.3),
        (1.05, 52.7),
        (1.03, 30.9),
        (1.01, 10.3),
        (1.0, 0.0),
    ];
    let budget = || RetryBudget::new(0.1, 100, 0.0, Instant::now()).unwrap();
    assert_row("budget 0.1", || Box::new(budget()), row);
    let seen = run(&mut budget(), 0.2, 11);
    assert!((seen.load - 1.09).abs() <= 0.01, "{seen:?}");
    assert!((seen.success_percent - 86.7).abs() <= 1.0, "{seen:?}");
}

#[test]
fn a_fifth_of_a_retry_per_success_carries_a_fifth_of_failures() {
    let row = [
        (1.05, 100.0),
        (1.11, 100.0),
        (1.19, 95.1),
        (1.16, 81.4),
        (1.11, 55.6),
        (1.06, 31.9),
        (1.02, 10.4),
        (1.0, 0.0),
    ];
    let budget = || RetryBudget::new(0.2, 100, 0.0, Instant::now()).unwrap();
    assert_row("budget 0.2", || Box::new(budget()), row);
}

#[test]
fn the_standard_budget_carries_fifteen_percent_of_failures_and_bounds_an_outage() {
    let start = Instant::now();
    let seen = run(&mut RetryBudget::standard(start), 0.15, 5);
    assert!(seen.success_percent >= 99.8, "nothing is refused: {seen:?}");
    for failing in FAILING {
        let seen = run(&mut RetryBudget::standard(start), failing, 5);
        // The ratio per success, and the floor of 1 a second at 100 calls a second.
        let earned = (0.3 * seen.success_percent).mul_add(0.01, 0.01);
        let savings = 100.0 / f64::from(CALLS - WARM_UP);
        assert!(
            seen.load <= 1.0 + earned + savings,
            "at {failing}: {seen:?}"
        );
        assert!(seen.load <= 1.3 + 0.01 + savings, "at {failing}: {seen:?}");
    }
}

#[test]
fn a_gate_shuts_for_all_retries_at_once_near_a_tenth_of_failures() {
    let row = [
        (1.05, 100.0),
        (1.02, 91.3),
        (1.0, 79.6),
        (1.0, 69.8),
        (1.0, 50.0),
        (1.0, 30.0),
        (1.0, 10.2),
        (1.0, 0.0),
    ];
    assert_row(
        "gate",
        || {
            Box::new(Gate {
                tokens: 10.0,
                max: 10.0,
                ratio: 0.1,
            })
        },
        row,
    );
}

#[test]
fn a_large_bucket_with_refunds_bounds_little_until_its_drift_turns() {
    let row = [
        (1.05, 100.0),
        (1.11, 100.0),
        (1.25, 99.8),
        (1.41, 99.2),
        (1.20, 60.2),
        (1.08, 32.4),
        (1.02, 10.4),
        (1.0, 0.0),
    ];
    assert_row(
        "sdk, cost 5",
        || {
            Box::new(Sdk {
                tokens: 500,
                cost: 5,
            })
        },
        row,
    );
}

#[test]
fn a_share_of_the_calls_spends_as_much_in_an_outage_as_in_calm() {
    let row = [
        (1.05, 100.0),
        (1.11, 100.0),
        (1.25, 99.8),
        (1.30, 90.9),
        (1.30, 65.0),
        (1.30, 39.0),
        (1.30, 13.2),
        (1.30, 0.0),
    ];
    assert_row("finagle", || Box::new(Bucket::finagle(Instant::now())), row);
}

#[test]
fn trap_28_a_whole_token_per_success_bounds_nothing_at_half_failures() {
    let row = [
        (1.05, 100.0),
        (1.11, 100.0),
        (1.25, 99.8),
        (1.41, 99.2),
        (1.87, 93.9),
        (1.58, 47.6),
        (1.22, 12.5),
        (1.10, 0.0),
    ];
    assert_row(
        "token",
        || Box::new(Bucket::token_per_success(Instant::now())),
        row,
    );
}

/// Calls that reach the leaf for one call at the top of `tiers`, each of which retries.
fn descend(
    tiers: &mut [Box<dyn Budget>],
    now: Instant,
    leaf: &mut dyn FnMut() -> bool,
) -> (u32, bool) {
    let Some((tier, below)) = tiers.split_first_mut() else {
        return (1, leaf());
    };
    tier.on_call(now);
    let mut calls = 0;
    for attempt in 0..=RETRIES {
        if attempt > 0 && !tier.try_spend(now) {
            break;
        }
        let (made, succeeded) = descend(below, now, leaf);
        calls += made;
        if succeeded {
            tier.on_success(now, attempt > 0);
            return (calls, true);
        }
        tier.on_failure(now);
    }
    (calls, false)
}

#[test]
fn three_tiers_of_four_attempts_hit_a_dead_leaf_sixty_four_times() {
    let now = Instant::now();
    for (tiers, calls) in [(1, 4), (2, 16), (3, 64), (4, 256)] {
        let mut naive: Vec<Box<dyn Budget>> = (0..tiers)
            .map(|_| Box::new(Fixed(true)) as Box<dyn Budget>)
            .collect();
        assert_eq!(descend(&mut naive, now, &mut || false), (calls, false));
    }
}

#[test]
fn three_tiers_with_budgets_add_a_third_at_most_whatever_fails() {
    let now = Instant::now();
    for failing in [0.1, 0.3, 0.6, 0.9, 1.0] {
        let mut tiers: Vec<Box<dyn Budget>> = (0..3)
            .map(|_| Box::new(RetryBudget::new(0.1, 10, 0.0, now).unwrap()) as Box<dyn Budget>)
            .collect();
        let mut rng = SmallRng::seed_from_u64(64);
        let mut leaf_calls = 0;
        for _ in 0..20_000 {
            leaf_calls += descend(&mut tiers, now, &mut || rng.random::<f64>() >= failing).0;
        }
        let load = f64::from(leaf_calls) / 20_000.0;
        println!("three tiers at {failing}: {load:.3}");
        assert!(load <= 1.34, "at {failing}: {load}");
    }
}

#[test]
fn trap_25_what_never_reaches_the_target_costs_the_budget_nothing() {
    let now = Instant::now();
    let mut budget = RetryBudget::standard(now);
    for _ in 0..10 {
        assert!(budget.try_spend(now));
    }
    for _ in 0..1000 {
        assert!(!budget.try_spend(now), "a refusal leaves no debt behind");
    }
    assert!(budget.try_spend(now + Duration::from_secs(1)));
}
