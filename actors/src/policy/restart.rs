//! Whether a child that failed is started again, and when: restart intensity with backoff.
//!
//! Erlang/OTP's rule, kept per child: more than `max` failures inside `within` and its supervisor
//! gives up, which makes the failure the next level's. The first failure in a quiet window is
//! answered at once, each further one waits twice as long as the last, half of it jittered.
//!
//! Failure mode: levels multiply. A leaf that always dies under `d` levels of intensity `i` is
//! started `(i + 1)^d` times before the root learns of it, so nest two levels and no more.

use std::collections::VecDeque;
use std::time::Duration;

use rand::{Rng, RngExt};
use tokio::time::Instant;

use super::InvalidPolicy;

/// Decides the restarts of one child and remembers those it has had.
#[derive(Debug, Clone)]
pub struct Restart {
    max: usize,
    within: Duration,
    base: Duration,
    cap: Duration,
    history: VecDeque<Instant>,
}

/// What a supervisor does about a child that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RestartDecision {
    /// Start it again once this much time has passed.
    After(Duration),
    /// Leave it dead and fail upwards.
    GiveUp,
}

impl Restart {
    /// Most restarts inside one window that may be set; each is remembered.
    pub const MAX_RESTARTS: u32 = 1000;
    /// Longest window and longest wait that may be set.
    pub const MAX_WITHIN: Duration = Duration::from_hours(24);

    /// Makes a policy of at most `max` restarts inside `within`.
    ///
    /// The second restart in a window waits `base`, each further one twice as long, never longer
    /// than `cap`. A `max` of 0 never restarts; a `base` of 0 never waits.
    ///
    /// # Errors
    ///
    /// Refuses a `max` above 1000, a `within` of nothing or above 24 h, and anything but
    /// `base` ≤ `cap` ≤ 24 h.
    pub fn new(
        max: u32,
        within: Duration,
        base: Duration,
        cap: Duration,
    ) -> Result<Self, InvalidPolicy> {
        let Some(restarts) = usize::try_from(max)
            .ok()
            .filter(|_| max <= Self::MAX_RESTARTS)
        else {
            return Err(InvalidPolicy::new("restart.max", max, "up to 1000"));
        };
        if within.is_zero() || within > Self::MAX_WITHIN {
            let value = format!("{within:?}");
            return Err(InvalidPolicy::new(
                "restart.within",
                value,
                "above 0 and up to 24h",
            ));
        }
        if base > cap {
            let value = format!("{base:?}");
            return Err(InvalidPolicy::new(
                "restart.base",
                value,
                "up to restart.cap",
            ));
        }
        if cap > Self::MAX_WITHIN {
            let value = format!("{cap:?}");
            return Err(InvalidPolicy::new(
                "restart.cap",
                value,
                "from restart.base to 24h",
            ));
        }
        Ok(Self {
            max: restarts,
            within,
            base,
            cap,
            history: VecDeque::new(),
        })
    }

    /// Makes the default policy: 5 restarts in 30 s, waits of 50 ms doubling up to 5 s.
    #[must_use]
    pub const fn standard() -> Self {
        Self {
            max: 5,
            within: Duration::from_secs(30),
            base: Duration::from_millis(50),
            cap: Duration::from_secs(5),
            history: VecDeque::new(),
        }
    }

    /// Notes a failure at `now` and decides what follows.
    ///
    /// A failure that is given up on is not remembered, so the memory is bounded by `max`.
    pub fn record(&mut self, now: Instant, rng: &mut impl Rng) -> RestartDecision {
        let within = self.within;
        self.history
            .retain(|earlier| now.saturating_duration_since(*earlier) <= within);
        if self.history.len() >= self.max {
            return RestartDecision::GiveUp;
        }
        let wait = match self.history.len().checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => self.wait(doublings, rng),
        };
        self.history.push_back(now);
        RestartDecision::After(wait)
    }

    /// Forgets all failures, as after a change that may have cured their cause.
    pub fn forget(&mut self) {
        self.history.clear();
    }

    /// Draws between half of the window and all of it. The cap is a promise ("back within 5 s"), so
    /// it bounds what is returned and not only the window that jitter is added to.
    fn wait(&self, doublings: usize, rng: &mut impl Rng) -> Duration {
        let window = u32::try_from(doublings)
            .ok()
            .and_then(|doublings| 2_u32.checked_pow(doublings))
            .and_then(|factor| self.base.checked_mul(factor))
            .map_or(self.cap, |window| window.min(self.cap));
        rng.random_range(window / 2..=window)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const LONG: Duration = Duration::from_hours(24);

    #[test]
    fn the_first_failure_is_answered_at_once_and_the_sixth_is_given_up() {
        let mut restart = Restart::standard();
        let mut rng = StdRng::seed_from_u64(1);
        let now = Instant::now();
        assert_eq!(
            restart.record(now, &mut rng),
            RestartDecision::After(Duration::ZERO)
        );
        for window_ms in [50, 100, 200, 400] {
            let RestartDecision::After(wait) = restart.record(now, &mut rng) else {
                panic!("five restarts are allowed");
            };
            assert!(wait >= Duration::from_millis(window_ms) / 2);
            assert!(wait <= Duration::from_millis(window_ms));
        }
        assert_eq!(restart.record(now, &mut rng), RestartDecision::GiveUp);
    }

    #[test]
    fn failures_older_than_the_window_do_not_count() {
        let mut restart = Restart::standard();
        let mut rng = StdRng::seed_from_u64(2);
        let start = Instant::now();
        for _ in 0..5 {
            assert_ne!(restart.record(start, &mut rng), RestartDecision::GiveUp);
        }
        let edge = start + Duration::from_secs(30);
        assert_eq!(restart.record(edge, &mut rng), RestartDecision::GiveUp);
        let past = edge + Duration::from_nanos(1);
        assert_eq!(
            restart.record(past, &mut rng),
            RestartDecision::After(Duration::ZERO)
        );
    }

    #[test]
    fn a_child_that_is_forgiven_starts_over() {
        let mut restart =
            Restart::new(1, LONG, Duration::from_secs(1), Duration::from_secs(1)).unwrap();
        let mut rng = StdRng::seed_from_u64(3);
        let now = Instant::now();
        assert_eq!(
            restart.record(now, &mut rng),
            RestartDecision::After(Duration::ZERO)
        );
        assert_eq!(restart.record(now, &mut rng), RestartDecision::GiveUp);
        restart.forget();
        assert_eq!(
            restart.record(now, &mut rng),
            RestartDecision::After(Duration::ZERO)
        );
    }

    #[test]
    fn trap_54_one_child_cannot_spend_the_restarts_of_another() {
        let mut bad = Restart::standard();
        let mut good = bad.clone();
        let mut rng = StdRng::seed_from_u64(4);
        let now = Instant::now();
        while bad.record(now, &mut rng) != RestartDecision::GiveUp {}
        assert_eq!(
            good.record(now, &mut rng),
            RestartDecision::After(Duration::ZERO)
        );
    }

    #[test]
    fn settings_out_of_range_are_refused_by_name() {
        let second = Duration::from_secs(1);
        let field =
            |max, within, base, cap| Restart::new(max, within, base, cap).unwrap_err().field;
        assert_eq!(field(1001, second, second, second), "restart.max");
        assert_eq!(field(1, Duration::ZERO, second, second), "restart.within");
        assert_eq!(field(1, LONG * 2, second, second), "restart.within");
        assert_eq!(field(1, second, second * 2, second), "restart.base");
        assert_eq!(field(1, second, second, LONG * 2), "restart.cap");
    }

    /// Starts of a leaf that always dies, under `levels` supervisors of the same intensity.
    fn starts_before_the_root_dies(intensity: u32, levels: u32) -> u64 {
        let Some(inner) = levels.checked_sub(1) else {
            return 1;
        };
        let mut restart = Restart::new(intensity, LONG, Duration::ZERO, Duration::ZERO).unwrap();
        let mut rng = StdRng::seed_from_u64(55);
        let now = Instant::now();
        let mut starts = starts_before_the_root_dies(intensity, inner);
        while restart.record(now, &mut rng) != RestartDecision::GiveUp {
            starts += starts_before_the_root_dies(intensity, inner);
        }
        starts
    }

    #[test]
    fn trap_55_nested_supervisors_multiply_the_starts() {
        for (intensity, counts) in [
            (1, [2, 4, 8]),
            (3, [4, 16, 64]),
            (5, [6, 36, 216]),
            (10, [11, 121, 1331]),
        ] {
            for (level, count) in (1_u32..).zip(counts) {
                assert_eq!(starts_before_the_root_dies(intensity, level), count);
            }
        }
    }

    proptest! {
        #[test]
        fn trap_60_no_wait_is_longer_than_its_cap(
            seed: u64,
            max in 1_u32..=Restart::MAX_RESTARTS,
            base_ns in 0_u64..10_000_000_000,
            more_ns in 0_u64..10_000_000_000,
        ) {
            let base = Duration::from_nanos(base_ns);
            let cap = base + Duration::from_nanos(more_ns);
            let mut restart = Restart::new(max, LONG, base, cap).unwrap();
            let mut rng = StdRng::seed_from_u64(seed);
            let now = Instant::now();
            let mut restarts = 0;
            while let RestartDecision::After(wait) = restart.record(now, &mut rng) {
                prop_assert!(wait <= cap);
                restarts += 1;
            }
            prop_assert_eq!(restarts, max);
        }

        #[test]
        fn no_window_holds_more_restarts_than_allowed(
            seed: u64,
            max in 0_u32..8,
            gaps_ms in proptest::collection::vec(0_u64..20_000, 0..100),
        ) {
            let within = Duration::from_secs(30);
            let second = Duration::from_secs(1);
            let mut restart = Restart::new(max, within, second, second).unwrap();
            let mut rng = StdRng::seed_from_u64(seed);
            let mut now = Instant::now();
            let mut restarts: Vec<Instant> = Vec::new();
            for gap in gaps_ms {
                now += Duration::from_millis(gap);
                let recent = restarts.iter().filter(|at| now - **at <= within).count();
                let decision = restart.record(now, &mut rng);
                let full = recent >= usize::try_from(max).unwrap();
                prop_assert_eq!(decision == RestartDecision::GiveUp, full);
                if !full {
                    restarts.push(now);
                }
            }
        }
    }
}
