//! A token bucket that refills continuously and remembers debt.
//!
//! For single tokens it admits what the generic cell rate algorithm (GCRA) admits, and it can also
//! take back, owe, and change its rate. The level is kept in grains, of which a token has as many as
//! a minute has nanoseconds, so a nanosecond adds exactly `per_minute` grains: no remainder is lost
//! or won, however the time is cut up. Failure mode: a request above the burst is admitted by a full
//! bucket and leaves debt, so one such request overshoots by its excess before the rate holds again.

use std::time::Duration;

use tokio::time::Instant;

use super::InvalidPolicy;

/// One minute in nanoseconds, which is also the number of grains of one token.
const GRAINS: i128 = 60_000_000_000;

/// Longest wait that is ever promised. Beyond it the number means nothing, and adding it to an
/// instant must not overflow.
const LONGEST_WAIT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A continuously refilling bucket of tokens with a rate, a burst and a memory for debt.
#[derive(Debug, Clone, Copy)]
pub struct TokenBucket {
    per_minute: u64,
    burst: u64,
    /// Grains there were at `as_of`; below zero is debt.
    level: i128,
    as_of: Instant,
}

impl TokenBucket {
    /// Makes a full bucket that gains `per_minute` tokens a minute and holds at most `burst`.
    ///
    /// # Errors
    /// When either number is zero.
    pub fn new(per_minute: u64, burst: u64, now: Instant) -> Result<Self, InvalidPolicy> {
        if per_minute == 0 {
            return Err(InvalidPolicy::new(
                "quota.per_minute",
                per_minute,
                "at least 1",
            ));
        }
        if burst == 0 {
            return Err(InvalidPolicy::new("quota.burst", burst, "at least 1 token"));
        }
        Ok(Self {
            per_minute,
            burst,
            level: grains(burst),
            as_of: now,
        })
    }

    /// Whole tokens there are at `now`, rounded down; negative is debt.
    #[must_use]
    pub fn available(&self, now: Instant) -> i64 {
        let tokens = self.level_at(now).div_euclid(GRAINS);
        i64::try_from(tokens).unwrap_or(if tokens < 0 { i64::MIN } else { i64::MAX })
    }

    /// When `n` tokens are there, or a full bucket if `n` is above the burst; `now` or later.
    #[must_use]
    pub fn ready_at(&self, n: u64, now: Instant) -> Instant {
        self.refilled_at(n.min(self.burst), now)
    }

    /// When `total` tokens have come in, each spent as it comes; `now` or later.
    ///
    /// Predicts a queue's wait, so the burst is no ceiling here.
    #[must_use]
    pub fn refilled_at(&self, total: u64, now: Instant) -> Instant {
        let missing = grains(total).saturating_sub(self.level_at(now));
        if missing <= 0 {
            return now;
        }
        let from = self.as_of.max(now);
        let rate = i128::from(self.per_minute);
        let nanos = missing.saturating_add(rate - 1) / rate;
        let wait = u64::try_from(nanos).map_or(LONGEST_WAIT, Duration::from_nanos);
        from.checked_add(wait.min(LONGEST_WAIT)).unwrap_or(from)
    }

    /// Takes `n` tokens whether they are there or not; what is missing becomes debt.
    pub fn take(&mut self, n: u64, now: Instant) {
        self.refill(now);
        self.level = self.level.saturating_sub(grains(n));
    }

    /// Gives `n` tokens back; the level never passes the burst.
    pub fn put_back(&mut self, n: u64, now: Instant) {
        self.refill(now);
        self.level = self.level.saturating_add(grains(n)).min(grains(self.burst));
    }

    /// Changes rate and burst from `now` on; the level stays, cut to the new burst. Zero counts as 1.
    pub fn set_rate(&mut self, per_minute: u64, burst: u64, now: Instant) {
        self.refill(now);
        self.per_minute = per_minute.max(1);
        self.burst = burst.max(1);
        self.level = self.level.min(grains(self.burst));
    }

    /// Sets the level to `level` whole tokens, cut to the burst.
    pub fn set_level(&mut self, level: i64, now: Instant) {
        self.refill(now);
        self.level = (i128::from(level) * GRAINS).min(grains(self.burst));
    }

    /// Lowers the level to `level` whole tokens; a lower level stays.
    pub fn lower_to(&mut self, level: i64, now: Instant) {
        self.refill(now);
        self.level = self.level.min(i128::from(level) * GRAINS);
    }

    /// Moves the level by `by` whole tokens, up to the burst.
    pub fn shift(&mut self, by: i64, now: Instant) {
        self.refill(now);
        let moved = self.level.saturating_add(i128::from(by) * GRAINS);
        self.level = moved.min(grains(self.burst));
    }

    /// The level as it was left by the last change, in grains.
    pub(super) const fn grains(&self) -> i128 {
        self.level
    }

    /// Tokens gained a minute.
    #[must_use]
    pub const fn per_minute(&self) -> u64 {
        self.per_minute
    }

    /// Most tokens held at once.
    #[must_use]
    pub const fn burst(&self) -> u64 {
        self.burst
    }

    /// Brings the level up to date.
    pub(super) fn refill(&mut self, now: Instant) {
        if now > self.as_of {
            self.level = self.level_at(now);
            self.as_of = now;
        }
    }

    /// The level at `now`, never above the burst. A time in the past has already been paid out.
    fn level_at(&self, now: Instant) -> i128 {
        if now <= self.as_of {
            return self.level;
        }
        let elapsed = now.duration_since(self.as_of);
        // A u64 of nanoseconds is 584 years, and two of them multiplied fit.
        let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        let gained = u128::from(nanos) * u128::from(self.per_minute);
        let gained = i128::try_from(gained).unwrap_or(i128::MAX);
        self.level.saturating_add(gained).min(grains(self.burst))
    }
}

/// Whole tokens of a level in [grains](TokenBucket::grains), rounded down.
pub(super) const fn whole_tokens(grains: i128) -> i128 {
    grains.div_euclid(GRAINS)
}

/// Exact: the largest `u64` of tokens is some 2^100 grains.
fn grains(tokens: u64) -> i128 {
    i128::from(tokens) * GRAINS
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use governor::clock::FakeRelativeClock;
    use governor::{Quota, RateLimiter};
    use proptest::prelude::*;

    use super::*;

    fn admits(bucket: &mut TokenBucket, n: u64, now: Instant) -> bool {
        let ready = bucket.ready_at(n, now) <= now;
        if ready {
            bucket.take(n, now);
        }
        ready
    }

    #[test]
    fn zero_rate_or_burst_is_refused_by_name() {
        let now = Instant::now();
        assert_eq!(
            TokenBucket::new(0, 1, now).unwrap_err().field,
            "quota.per_minute"
        );
        assert_eq!(
            TokenBucket::new(1, 0, now).unwrap_err().field,
            "quota.burst"
        );
    }

    #[test]
    fn a_request_above_the_burst_waits_for_a_full_bucket_and_leaves_debt() {
        let now = Instant::now();
        let mut bucket = TokenBucket::new(60, 10, now).unwrap();
        assert!(admits(&mut bucket, 25, now));
        assert_eq!(bucket.available(now), -15);
        assert_eq!(bucket.ready_at(25, now), now + Duration::from_secs(25));
        assert_eq!(bucket.ready_at(1, now), now + Duration::from_secs(16));
    }

    #[test]
    fn put_back_never_passes_the_burst() {
        let now = Instant::now();
        let mut bucket = TokenBucket::new(60, 10, now).unwrap();
        bucket.take(4, now);
        bucket.put_back(u64::MAX, now);
        assert_eq!(bucket.available(now), 10);
    }

    #[test]
    fn a_clock_that_goes_backwards_pays_nothing_twice() {
        let start = Instant::now();
        let later = start + Duration::from_secs(10);
        let mut bucket = TokenBucket::new(60, 100, start).unwrap();
        bucket.take(100, start);
        bucket.take(0, later);
        assert_eq!(bucket.available(start), 10);
        bucket.take(10, start);
        assert_eq!(bucket.available(later), 0);
        assert_eq!(bucket.ready_at(1, start), later + Duration::from_secs(1));
    }

    /// Trap 19: absurd clocks and numbers give finite waits.
    #[test]
    fn trap_19_absurd_numbers_neither_overflow_nor_promise_absurd_instants() {
        let now = Instant::now();
        let mut bucket = TokenBucket::new(1, u64::MAX, now).unwrap();
        for _ in 0..4 {
            bucket.take(u64::MAX, now);
        }
        assert_eq!(bucket.available(now), i64::MIN);
        assert_eq!(bucket.ready_at(u64::MAX, now), now + LONGEST_WAIT);
        bucket.set_level(i64::MIN, now);
        bucket.set_level(i64::MAX, now);
        bucket.set_rate(u64::MAX, u64::MAX, now);
        let later = now + LONGEST_WAIT;
        assert_eq!(bucket.available(later), i64::MAX);
        assert_eq!(bucket.ready_at(u64::MAX, later), later);
    }

    #[test]
    fn a_new_rate_applies_from_now_and_cuts_the_level_to_its_burst() {
        let now = Instant::now();
        let mut bucket = TokenBucket::new(60, 100, now).unwrap();
        bucket.take(50, now);
        let later = now + Duration::from_secs(10);
        bucket.set_rate(600, 20, later);
        assert_eq!(bucket.available(later), 20);
        bucket.take(20, later);
        assert_eq!(bucket.available(later + Duration::from_secs(1)), 10);
    }

    proptest! {
        #[test]
        fn refill_is_the_same_however_the_time_is_cut_up(
            per_minute in 1_u64..=u64::MAX,
            steps in prop::collection::vec(0_u64..5_000_000_000, 1..40),
        ) {
            let start = Instant::now();
            let mut stepped = TokenBucket::new(per_minute, u64::MAX, start).unwrap();
            stepped.set_level(-1_000, start);
            let mut whole = stepped;
            let mut now = start;
            for step in steps {
                now += Duration::from_nanos(step);
                stepped.take(0, now);
            }
            whole.take(0, now);
            prop_assert_eq!(stepped.level, whole.level);
        }

        #[test]
        fn ready_at_is_the_first_nanosecond_that_admits(
            per_minute in 1_u64..10_000_000,
            burst in 1_u64..10_000,
            taken in 0_u64..20_000,
            n in 1_u64..20_000,
        ) {
            let now = Instant::now();
            let mut bucket = TokenBucket::new(per_minute, burst, now).unwrap();
            bucket.take(taken, now);
            let ready = bucket.ready_at(n, now);
            let wanted = i64::try_from(n.min(burst)).unwrap();
            prop_assert!(bucket.available(ready) >= wanted);
            if ready > now {
                prop_assert!(bucket.available(ready - Duration::from_nanos(1)) < wanted);
            }
        }

        /// Governor's GCRA is the oracle; it keeps whole nanoseconds, so only rates that divide a
        /// minute are comparable.
        #[test]
        fn single_tokens_are_admitted_exactly_when_governor_admits_them(
            rate in prop::sample::select(vec![1_u32, 6, 60, 100, 600, 6_000, 60_000]),
            burst in 1_u32..40,
            arrivals in prop::collection::vec(0_u64..3_000, 1..300),
        ) {
            let clock = FakeRelativeClock::default();
            let quota = Quota::per_minute(NonZeroU32::new(rate).unwrap())
                .allow_burst(NonZeroU32::new(burst).unwrap());
            let oracle = RateLimiter::direct_with_clock(quota, clock.clone());
            let mut now = Instant::now();
            let mut bucket = TokenBucket::new(rate.into(), burst.into(), now).unwrap();
            for gap in arrivals {
                // Thousandths of the time of two tokens: arrivals fall on, before and after a refill.
                let gap = Duration::from_nanos(gap * 40_000_000 / u64::from(rate));
                clock.advance(gap);
                now += gap;
                prop_assert_eq!(admits(&mut bucket, 1, now), oracle.check().is_ok());
            }
        }

        /// Trap 39: the burst and one rate's worth of tokens, and nothing more.
        #[test]
        fn trap_39_no_window_admits_more_than_its_refill_and_one_burst(
            per_minute in 1_u64..100_000,
            burst in 1_u64..500,
            arrivals in prop::collection::vec((0_u64..2_000_000_000, 1_u64..600), 1..120),
        ) {
            let mut now = Instant::now();
            let mut bucket = TokenBucket::new(per_minute, burst, now).unwrap();
            let mut admitted: Vec<(Instant, u64)> = Vec::new();
            for (gap, n) in arrivals {
                now += Duration::from_nanos(gap);
                if admits(&mut bucket, n, now) {
                    admitted.push((now, n));
                }
            }
            for (first, &(from, _)) in admitted.iter().enumerate() {
                let mut total = 0_i128;
                for &(to, n) in &admitted[first..] {
                    total += i128::from(n);
                    // A request above the burst overshoots by its excess, once.
                    let excess = i128::from(n.saturating_sub(burst));
                    let refill = i128::try_from((to - from).as_nanos()).unwrap()
                        * i128::from(per_minute);
                    let bound = refill + (i128::from(burst) + excess) * GRAINS;
                    prop_assert!(total * GRAINS <= bound);
                }
            }
        }
    }
}
