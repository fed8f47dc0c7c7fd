//! How long to wait before an attempt is repeated: exponential backoff with full jitter.
//!
//! Each wait is drawn uniformly between nothing and a window that doubles per retry up to a cap.
//! The cap is applied to the window *before* the draw: jitter that is drawn first and then cut off
//! leaves every late retry waiting exactly the cap, together with everybody else's.
//!
//! Failure mode: in an open loop backoff only moves retries in time, it never makes fewer of them.
//! What bounds their number is [`RetryBudget`](super::retry_budget::RetryBudget).

use std::time::Duration;

use rand::{Rng, RngExt};

use super::InvalidPolicy;

/// Draws waits between attempts: exponential, capped, fully jittered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
}

/// A server's hint is exceeded by at most one part in this many.
const HINT_JITTER_DIVISOR: u32 = 10;

impl Backoff {
    /// Shortest window that may be set; less is a busy loop.
    pub const MIN_BASE: Duration = Duration::from_millis(1);
    /// Longest window that may be set.
    pub const MAX_CAP: Duration = Duration::from_hours(24);

    /// Makes a backoff whose window is `base` before the first retry and never more than `cap`.
    ///
    /// # Errors
    ///
    /// Refuses anything but 1 ms ≤ `base` ≤ `cap` ≤ 24 h.
    pub fn new(base: Duration, cap: Duration) -> Result<Self, InvalidPolicy> {
        if base < Self::MIN_BASE || base > cap {
            let value = format!("{base:?}");
            return Err(InvalidPolicy::new(
                "retry.base",
                value,
                "from 1ms to retry.cap",
            ));
        }
        if cap > Self::MAX_CAP {
            let value = format!("{cap:?}");
            return Err(InvalidPolicy::new(
                "retry.cap",
                value,
                "from retry.base to 24h",
            ));
        }
        Ok(Self { base, cap })
    }

    /// Returns the longest wait before retry number `retry`, where 0 is the first retry.
    #[must_use]
    pub fn window(&self, retry: u32) -> Duration {
        2_u32
            .checked_pow(retry)
            .and_then(|factor| self.base.checked_mul(factor))
            .map_or(self.cap, |window| window.min(self.cap))
    }

    /// Draws the wait before retry number `retry`, uniform in `[0, window(retry)]`.
    ///
    /// "Full jitter" of Marc Brooker's *Exponential Backoff And Jitter* (AWS, 2015), whose
    /// simulation it wins by fewest calls.
    #[must_use]
    pub fn delay(&self, retry: u32, rng: &mut impl Rng) -> Duration {
        rng.random_range(Duration::ZERO..=self.window(retry))
    }

    /// Draws the wait before retry number `retry`, and no less than the server's `hint`.
    ///
    /// The hint is a floor and never a ceiling. Where it decides, up to a tenth of it is added, so
    /// that clients which were all told the same moment do not all return at it.
    #[must_use]
    pub fn delay_after(&self, retry: u32, hint: Option<Duration>, rng: &mut impl Rng) -> Duration {
        let jittered = self.delay(retry, rng);
        match hint {
            Some(hint) if hint > jittered => {
                let extra = rng.random_range(Duration::ZERO..=hint / HINT_JITTER_DIVISOR);
                hint.saturating_add(extra)
            }
            _ => jittered,
        }
    }
}

impl Default for Backoff {
    /// 500 ms, capped at 30 s.
    fn default() -> Self {
        Self {
            base: Duration::from_millis(500),
            cap: Duration::from_secs(30),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn the_window_doubles_from_the_base_up_to_the_cap() {
        let backoff = Backoff::default();
        let windows: Vec<_> = (0..8)
            .map(|retry| backoff.window(retry).as_millis())
            .collect();
        assert_eq!(
            windows,
            [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]
        );
    }

    #[test]
    fn trap_20_at_the_cap_the_jitter_is_still_there() {
        let backoff = Backoff::default();
        let mut rng = StdRng::seed_from_u64(20);
        let mut tenths = [0_u32; 10];
        for _ in 0..10_000 {
            let share = backoff.delay(40, &mut rng).as_secs_f64() / 30.0;
            assert!((0.0..=1.0).contains(&share));
            let tenth = (0..10)
                .rev()
                .find(|n| share >= f64::from(*n) / 10.0)
                .unwrap();
            tenths[usize::try_from(tenth).unwrap()] += 1;
        }
        // 1000 expected in each; the standard deviation is 30.
        assert!(
            tenths.iter().all(|count| (850..=1150).contains(count)),
            "{tenths:?}"
        );
    }

    #[test]
    fn trap_21_two_generators_draw_different_waits() {
        let backoff = Backoff::default();
        let draw = |seed| {
            let mut rng = StdRng::seed_from_u64(seed);
            (0..8)
                .map(|retry| backoff.delay(retry, &mut rng))
                .collect::<Vec<_>>()
        };
        assert_ne!(draw(1), draw(2));
        assert_eq!(draw(1), draw(1), "a seed replays");
    }

    #[test]
    fn trap_22_the_last_countable_retry_waits_no_longer_than_the_cap() {
        let widest = Backoff::new(Backoff::MAX_CAP, Backoff::MAX_CAP).unwrap();
        let mut rng = StdRng::seed_from_u64(22);
        for retry in [31, 32, 63, 64, u32::MAX - 1, u32::MAX] {
            assert_eq!(widest.window(retry), Backoff::MAX_CAP);
            assert!(widest.delay(retry, &mut rng) <= Backoff::MAX_CAP);
        }
        let finest = Backoff::new(Backoff::MIN_BASE, Backoff::MAX_CAP).unwrap();
        assert_eq!(finest.window(u32::MAX), Backoff::MAX_CAP);
    }

    #[test]
    fn the_longest_hint_a_server_can_send_does_not_overflow() {
        let mut rng = StdRng::seed_from_u64(3);
        let wait = Backoff::default().delay_after(0, Some(Duration::MAX), &mut rng);
        assert_eq!(wait, Duration::MAX);
    }

    #[test]
    fn a_base_above_its_cap_is_refused_by_name() {
        let refused = Backoff::new(Duration::from_secs(2), Duration::from_secs(1)).unwrap_err();
        assert_eq!(refused.field, "retry.base");
        assert_eq!(refused.value, "2s");
        assert!(Backoff::new(Duration::ZERO, Duration::from_secs(1)).is_err());
        let too_long = Duration::from_hours(25);
        assert_eq!(
            Backoff::new(too_long, too_long).unwrap_err().field,
            "retry.cap"
        );
    }

    proptest! {
        #[test]
        fn trap_30_a_hint_is_a_floor_and_is_exceeded_by_a_tenth_at_most(
            seed: u64,
            retry: u32,
            hint_ms in 0_u64..200_000,
        ) {
            let backoff = Backoff::default();
            let hint = Duration::from_millis(hint_ms);
            let wait = backoff.delay_after(retry, Some(hint), &mut StdRng::seed_from_u64(seed));
            prop_assert!(wait >= hint);
            prop_assert!(wait <= (hint + hint / 10).max(backoff.window(retry)));
        }

        #[test]
        fn a_hint_below_the_drawn_wait_changes_nothing(seed: u64, retry: u32) {
            let backoff = Backoff::default();
            let plain = backoff.delay(retry, &mut StdRng::seed_from_u64(seed));
            let mut rng = StdRng::seed_from_u64(seed);
            prop_assert_eq!(backoff.delay_after(retry, Some(plain), &mut rng), plain);
            let mut rng = StdRng::seed_from_u64(seed);
            prop_assert_eq!(backoff.delay_after(retry, None, &mut rng), plain);
        }

        #[test]
        fn no_wait_passes_its_window_nor_the_cap(
            seed: u64,
            retry: u32,
            base_ms in 1_u64..10_000,
            more_ms in 0_u64..86_000_000,
        ) {
            let base = Duration::from_millis(base_ms);
            let cap = base + Duration::from_millis(more_ms);
            let backoff = Backoff::new(base, cap).unwrap();
            let wait = backoff.delay(retry, &mut StdRng::seed_from_u64(seed));
            prop_assert!(wait <= backoff.window(retry) && backoff.window(retry) <= cap);
        }
    }
}
