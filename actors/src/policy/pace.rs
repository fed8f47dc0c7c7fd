//! A rate that may be asked, exceeded and corrected: GCRA, by the governor crate.
//!
//! governor decides what conforms. It can only be asked, and then by its own clock; here it is handed
//! `now`, and the one time in which it keeps all that it knows (the theoretical arrival time) can be
//! moved: later for what was used without asking, which makes it a debt, and earlier for what was
//! taken and not used.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

/// Units at a steady rate, of which a burst may be saved up.
pub struct Pace {
    limiter: RateLimiter<NotKeyed, Cell, Cell, NoOpMiddleware<Duration>>,
    arrival: Cell,
    now: Cell,
    epoch: Instant,
    unit: Duration,
    burst: NonZeroU32,
}

const MINUTE: Duration = Duration::from_secs(60);

/// The latest time that is kept, in nanoseconds: a century, far from where sums overflow.
const LATEST: u64 = 100 * 365 * 24 * 3_600 * 1_000_000_000;

impl Pace {
    /// One unit each `interval` (taken to be from 1 ns to a day), none saved up; the first is there.
    #[must_use]
    pub fn every(interval: Duration, now: Instant) -> Self {
        Self::new(interval, NonZeroU32::MIN, now)
    }

    /// `units` a minute, of which at most `burst` (and no more than a minute's) are saved up. It
    /// starts with a whole burst.
    #[must_use]
    pub fn per_minute(units: NonZeroU32, burst: NonZeroU32, now: Instant) -> Self {
        Self::new(MINUTE / units.get(), burst.min(units), now)
    }

    fn new(interval: Duration, burst: NonZeroU32, epoch: Instant) -> Self {
        let unit = interval.clamp(Duration::from_nanos(1), Duration::from_hours(24));
        let (arrival, now) = (Cell::default(), Cell::default());
        // The period is never zero, the one thing that governor refuses.
        let quota = Quota::with_period(unit).unwrap_or(Quota::per_second(NonZeroU32::MIN));
        let quota = quota.allow_burst(burst);
        Self {
            limiter: RateLimiter::new(quota, arrival.clone(), now.clone()),
            arrival,
            now,
            epoch,
            unit,
            burst,
        }
    }

    /// Returns how many units may be saved up.
    #[must_use]
    pub const fn burst(&self) -> NonZeroU32 {
        self.burst
    }

    /// Takes `units`, all or none. More than a burst can never be saved up: such a wish is granted at
    /// a full burst, and the rest of it becomes a debt.
    ///
    /// # Errors
    ///
    /// The time at which they would be there, if nobody else takes any.
    pub fn take(&mut self, units: u64, now: Instant) -> Result<(), Instant> {
        self.now
            .set(nanos(now.saturating_duration_since(self.epoch)));
        let burst = self.burst.get();
        let asked = u32::try_from(units).unwrap_or(u32::MAX).min(burst);
        let Some(asked) = NonZeroU32::new(asked) else {
            return Ok(());
        };
        match self.limiter.check_n(asked) {
            Ok(Ok(())) => {
                self.charge(units - u64::from(asked.get()), now);
                Ok(())
            }
            Ok(Err(not_until)) => Err(self.epoch + not_until.earliest_possible()),
            // Unreachable: no more than a burst is asked for.
            Err(_) => Err(now + MINUTE),
        }
    }

    /// Charges `units` that were used without asking.
    pub fn charge(&mut self, units: u64, now: Instant) {
        let from = nanos(now.saturating_duration_since(self.epoch)).max(self.arrival.get());
        let later = from.saturating_add(self.worth(units));
        self.arrival.set(later.min(LATEST));
    }

    /// Gives back `units` that were taken and not used.
    pub fn refund(&mut self, units: u64) {
        let arrival = self.arrival.get();
        self.arrival.set(arrival.saturating_sub(self.worth(units)));
    }

    /// Whole units there are, up to the burst; negative is debt.
    #[must_use]
    pub fn left(&self, now: Instant) -> i64 {
        let now = nanos(now.saturating_duration_since(self.epoch));
        let taken = self
            .arrival
            .get()
            .saturating_sub(now)
            .div_ceil(nanos(self.unit));
        i64::from(self.burst.get()).saturating_sub(i64::try_from(taken).unwrap_or(i64::MAX))
    }

    /// Whether a whole burst is there, so that a new one could stand in for it.
    #[must_use]
    pub fn is_full(&self, now: Instant) -> bool {
        self.arrival.get() <= nanos(now.saturating_duration_since(self.epoch))
    }

    fn worth(&self, units: u64) -> u64 {
        nanos(self.unit).saturating_mul(units)
    }
}

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pace")
            .field("unit", &self.unit)
            .field("burst", &self.burst)
            .field("arrival", &Duration::from_nanos(self.arrival.get()))
            .finish_non_exhaustive()
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).map_or(LATEST, |nanos| nanos.min(LATEST))
}

/// A time in nanoseconds since the epoch, which the limiter reads and its owner sets. Nobody else
/// does either in between: every change goes through `&mut Pace`.
#[derive(Clone, Default)]
struct Cell(Arc<AtomicU64>);

impl Cell {
    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    #[expect(
        clippy::needless_pass_by_ref_mut,
        reason = "so that whatever moves the time needs the pace to itself"
    )]
    fn set(&mut self, nanos: u64) {
        self.0.store(nanos, Ordering::Relaxed);
    }
}

impl Clock for Cell {
    type Instant = Duration;

    fn now(&self) -> Duration {
        Duration::from_nanos(self.get())
    }
}

impl StateStore for Cell {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let (outcome, arrival) = decide(Some(self.get().into()))?;
        self.0.store(arrival.as_u64(), Ordering::Relaxed);
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn units(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_burst_is_there_and_then_one_at_a_time() {
        let start = Instant::now();
        let mut pace = Pace::per_minute(units(600), units(3), start);
        for _ in 0..3 {
            assert_eq!(pace.take(1, start), Ok(()));
        }
        assert_eq!(pace.take(1, start), Err(start + 100 * MS));
        assert_eq!(pace.take(1, start + 99 * MS), Err(start + 100 * MS));
        assert_eq!(pace.take(1, start + 100 * MS), Ok(()));
        assert_eq!(pace.take(2, start + 100 * MS), Err(start + 300 * MS));
    }

    #[test]
    fn more_than_a_burst_waits_for_a_full_one_and_leaves_a_debt() {
        let start = Instant::now();
        let mut pace = Pace::per_minute(units(600), units(10), start);
        assert_eq!(pace.take(25, start), Ok(()));
        assert_eq!(pace.take(1, start), Err(start + 1_600 * MS));
        assert_eq!(pace.take(25, start), Err(start + 2_500 * MS));
    }

    #[test]
    fn a_refund_undoes_what_was_taken_and_no_more() {
        let start = Instant::now();
        let mut pace = Pace::per_minute(units(600), units(10), start);
        assert_eq!(pace.take(10, start), Ok(()));
        pace.refund(4);
        assert_eq!(pace.take(4, start), Ok(()));
        pace.refund(1_000);
        assert!(pace.is_full(start));
        assert_eq!(pace.take(10, start), Ok(()));
        assert!(pace.take(1, start).is_err());
    }

    #[test]
    fn a_debt_is_remembered_from_now_on_and_not_from_an_idle_past() {
        let start = Instant::now();
        let mut pace = Pace::per_minute(units(600), units(10), start);
        let later = start + Duration::from_hours(1);
        pace.charge(30, later);
        assert!(!pace.is_full(later + 2_999 * MS));
        assert_eq!(pace.take(1, later), Err(later + 2_100 * MS));
        assert!(pace.is_full(later + 3_000 * MS));
    }

    #[test]
    fn extremes_neither_overflow_nor_block_what_was_not_asked() {
        let start = Instant::now();
        let mut pace = Pace::per_minute(NonZeroU32::MAX, NonZeroU32::MAX, start);
        assert_eq!(pace.take(0, start), Ok(()));
        pace.charge(u64::MAX, start);
        pace.charge(u64::MAX, start);
        assert!(pace.take(1, start).is_err());
        assert!(pace.left(start) < 0);
        pace.refund(u64::MAX);
        assert_eq!(pace.left(start), u32::MAX.into());
        assert!(pace.is_full(start));
        assert_eq!(pace.take(u64::MAX, start), Ok(()));
        let mut slow = Pace::every(Duration::MAX, start);
        assert_eq!(slow.take(1, start), Ok(()));
        assert_eq!(slow.take(1, start), Err(start + Duration::from_hours(24)));
    }

    proptest! {
        /// Units that stay taken are never more than a burst and what time has brought, whatever was
        /// taken, charged and refunded.
        #[test]
        fn nothing_is_granted_twice(
            steps in proptest::collection::vec((0_u64..400, 0_u64..30, 0_u8..4), 0..300),
            burst in 1_u32..50,
        ) {
            let start = Instant::now();
            let mut pace = Pace::per_minute(units(6_000), units(burst), start);
            let mut now = start;
            // A bucket beside it, in tenths of a millisecond's worth: 10 ms bring a unit.
            let full = i64::from(burst) * 100;
            let mut level = full;
            for (passed, wanted, kind) in steps {
                let wanted_level = i64::try_from(wanted).unwrap() * 100;
                match kind {
                    0 | 1 => {
                        now += Duration::from_micros(passed * 100);
                        level = (level + i64::try_from(passed).unwrap()).min(full);
                        let granted = pace.take(wanted, now);
                        prop_assert_eq!(granted.is_ok(), level >= wanted_level.min(full) || wanted == 0);
                        match granted {
                            Ok(()) => level -= wanted_level,
                            Err(until) => {
                                let missing = wanted_level.min(full) - level;
                                let missing = Duration::from_micros(u64::try_from(missing).unwrap() * 100);
                                prop_assert_eq!(until, now + missing);
                            }
                        }
                    }
                    2 => {
                        pace.charge(wanted, now);
                        level -= wanted_level;
                    }
                    _ => {
                        pace.refund(wanted);
                        level = (level + wanted_level).min(full);
                    }
                }
                prop_assert_eq!(pace.is_full(now), level == full);
                prop_assert_eq!(pace.left(now), level.div_euclid(100));
            }
        }
    }
}
