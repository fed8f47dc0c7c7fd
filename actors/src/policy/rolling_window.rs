//! Rolling windows over finished attempts: the last N of them, or the last T of time.
//!
//! Both are rings with running totals, so that a record costs the same whatever the window holds.
//! The time window forgets one bucket at a time: it covers between T less one bucket and T, and
//! never drops its whole history at an edge as a single tumbling bucket does.
//!
//! Failure mode: a `now` that runs backwards counts as no time; the sample lands in the newest
//! bucket.

use std::time::Duration;

use tokio::time::Instant;

use super::InvalidPolicy;

/// What one finished attempt adds to a window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// The attempt failed.
    pub failed: bool,
    /// The attempt took longer than is usual for its target.
    pub slow: bool,
}

/// What a window holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Attempts of any outcome.
    pub calls: u64,
    /// Those that failed.
    pub failed: u64,
    /// Those that were slow, failed or not.
    pub slow: u64,
}

impl Totals {
    /// Whether failures make up at least `percent` of the attempts; never true of an empty window.
    #[must_use]
    pub const fn failed_at_least(&self, percent: u32) -> bool {
        at_least(self.failed, percent, self.calls)
    }

    /// Whether slow attempts make up at least `percent` of all; never true of an empty window.
    #[must_use]
    pub const fn slow_at_least(&self, percent: u32) -> bool {
        at_least(self.slow, percent, self.calls)
    }

    fn add(&mut self, sample: Sample) {
        self.calls = self.calls.saturating_add(1);
        self.failed = self.failed.saturating_add(u64::from(sample.failed));
        self.slow = self.slow.saturating_add(u64::from(sample.slow));
    }

    const fn less(self, gone: Self) -> Self {
        Self {
            calls: self.calls.saturating_sub(gone.calls),
            failed: self.failed.saturating_sub(gone.failed),
            slow: self.slow.saturating_sub(gone.slow),
        }
    }
}

/// The last N attempts.
#[derive(Debug, Clone)]
pub struct CountWindow {
    ring: Box<[Sample]>,
    /// Where the next sample goes; once the ring is full, also the oldest.
    next: usize,
    totals: Totals,
}

impl CountWindow {
    /// Creates an empty window over the last `size` attempts.
    ///
    /// # Errors
    /// `size` is not within 1 to 100 000.
    pub fn new(size: usize) -> Result<Self, InvalidPolicy> {
        if !(1..=100_000).contains(&size) {
            return Err(InvalidPolicy::new(
                "breaker.count_window",
                size,
                "1 to 100000 attempts",
            ));
        }
        let ring = vec![Sample::default(); size].into_boxed_slice();
        Ok(Self {
            ring,
            next: 0,
            totals: Totals::default(),
        })
    }

    /// Adds one attempt; the oldest leaves when the window is full.
    pub fn record(&mut self, sample: Sample) {
        let full = self.totals.calls >= self.ring.len() as u64;
        if let Some(slot) = self.ring.get_mut(self.next) {
            if full {
                let mut gone = Totals::default();
                gone.add(*slot);
                self.totals = self.totals.less(gone);
            }
            *slot = sample;
            self.totals.add(sample);
        }
        self.next = (self.next + 1) % self.ring.len();
    }

    /// Counts what the window holds.
    #[must_use]
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    /// Forgets every attempt.
    pub fn clear(&mut self) {
        self.next = 0;
        self.totals = Totals::default();
    }
}

/// The attempts of the last stretch of time.
#[derive(Debug, Clone)]
pub struct TimeWindow {
    ring: Box<[Totals]>,
    bucket: Duration,
    origin: Instant,
    /// Number of the newest bucket, counted from `origin`; it lives at `newest % ring.len()`.
    newest: u64,
    totals: Totals,
}

impl TimeWindow {
    /// Creates an empty window of `span`, forgotten in `buckets` steps.
    ///
    /// # Errors
    /// `span` is not within 1 ms to 24 h, or `buckets` not within 2 to 1 000 of at least 1 ms each.
    pub fn new(span: Duration, buckets: u32, now: Instant) -> Result<Self, InvalidPolicy> {
        const MILLISECOND: Duration = Duration::from_millis(1);
        if !(MILLISECOND..=Duration::from_hours(24)).contains(&span) {
            let given = format!("{span:?}");
            return Err(InvalidPolicy::new(
                "breaker.time_window",
                given,
                "1 ms to 24 h",
            ));
        }
        let bucket = span.checked_div(buckets).unwrap_or_default();
        if !(2..=1_000).contains(&buckets) || bucket < MILLISECOND {
            let allowed = "2 to 1000, each at least 1 ms long";
            return Err(InvalidPolicy::new("breaker.time_buckets", buckets, allowed));
        }
        let ring = (0..buckets).map(|_| Totals::default()).collect();
        Ok(Self {
            ring,
            bucket,
            origin: now,
            newest: 0,
            totals: Totals::default(),
        })
    }

    /// Adds one attempt that ended at `now`.
    pub fn record(&mut self, now: Instant, sample: Sample) {
        let current = self.number(now);
        self.totals = self.totals(now);
        for number in self.newest.saturating_add(1)..=current.min(self.last_reached()) {
            if let Some(bucket) = Self::at(&mut self.ring, number) {
                *bucket = Totals::default();
            }
        }
        self.newest = current;
        if let Some(bucket) = Self::at(&mut self.ring, current) {
            bucket.add(sample);
        }
        self.totals.add(sample);
    }

    /// Counts what the window still holds at `now`.
    #[must_use]
    pub fn totals(&self, now: Instant) -> Totals {
        let current = self.number(now);
        // Moving to bucket n pushes out what the same slot held one turn of the ring before.
        let pushed_out = self.newest.saturating_add(1)..=current.min(self.last_reached());
        let len = self.ring.len() as u64;
        pushed_out.fold(self.totals, |left, number| {
            let slot = usize::try_from(number % len).unwrap_or_default();
            left.less(self.ring.get(slot).copied().unwrap_or_default())
        })
    }

    /// Forgets every attempt.
    pub fn clear(&mut self) {
        self.ring.fill(Totals::default());
        self.totals = Totals::default();
    }

    /// Number of the bucket that `now` falls in, never before the newest.
    fn number(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.origin).as_nanos();
        let number = elapsed
            .checked_div(self.bucket.as_nanos())
            .unwrap_or_default();
        u64::try_from(number).unwrap_or(u64::MAX).max(self.newest)
    }

    /// The last bucket whose slot is reached before the ring has turned once.
    fn last_reached(&self) -> u64 {
        self.newest.saturating_add(self.ring.len() as u64)
    }

    fn at(ring: &mut [Totals], number: u64) -> Option<&mut Totals> {
        let slot = number.checked_rem(ring.len() as u64)?;
        ring.get_mut(usize::try_from(slot).ok()?)
    }
}

const fn at_least(part: u64, percent: u32, whole: u64) -> bool {
    whole > 0 && part.saturating_mul(100) >= whole.saturating_mul(percent as u64)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const FAILED: Sample = Sample {
        failed: true,
        slow: false,
    };
    const OK: Sample = Sample {
        failed: false,
        slow: false,
    };

    fn start() -> Instant {
        Instant::now()
    }

    fn sum<'a>(samples: impl Iterator<Item = &'a Sample>) -> Totals {
        let mut totals = Totals::default();
        samples.for_each(|sample| totals.add(*sample));
        totals
    }

    fn any_sample() -> impl Strategy<Value = Sample> {
        (any::<bool>(), any::<bool>()).prop_map(|(failed, slow)| Sample { failed, slow })
    }

    #[test]
    fn an_empty_window_reaches_no_share() {
        assert!(!Totals::default().failed_at_least(1));
        assert!(!Totals::default().slow_at_least(1));
    }

    #[test]
    fn sizes_out_of_range_are_refused_by_name() {
        let now = start();
        assert_eq!(
            CountWindow::new(0).unwrap_err().field,
            "breaker.count_window"
        );
        let empty = TimeWindow::new(Duration::ZERO, 10, now).unwrap_err();
        assert_eq!(empty.field, "breaker.time_window");
        for buckets in [0, 1, 1_001] {
            let refused = TimeWindow::new(Duration::from_secs(30), buckets, now).unwrap_err();
            assert_eq!(
                (refused.field, refused.value),
                ("breaker.time_buckets", buckets.to_string())
            );
        }
        assert!(TimeWindow::new(Duration::from_millis(5), 10, now).is_err());
    }

    #[test]
    fn a_time_window_forgets_one_bucket_at_a_time() {
        let now = start();
        let mut window = TimeWindow::new(Duration::from_secs(30), 10, now).unwrap();
        for second in 0..30 {
            window.record(now + Duration::from_secs(second), FAILED);
        }
        let held = |at: u64| window.totals(now + Duration::from_secs(at)).calls;
        assert_eq!(
            [held(29), held(30), held(33), held(56), held(57)],
            [30, 27, 24, 3, 0]
        );
        assert_eq!(held(100_000_000), 0);
    }

    #[test]
    fn trap_13_a_busy_window_keeps_buckets_and_no_calls() {
        let now = start();
        let mut window = TimeWindow::new(Duration::from_secs(30), 10, now).unwrap();
        for micros in 0..100_000 {
            window.record(now + Duration::from_micros(micros), OK);
        }
        let held = window.totals(now + Duration::from_secs(1)).calls;
        assert_eq!((held, window.ring.len()), (100_000, 10));
    }

    #[test]
    fn a_clock_that_runs_backwards_counts_as_no_time() {
        let now = start() + Duration::from_secs(3_600);
        let mut window = TimeWindow::new(Duration::from_secs(30), 10, now).unwrap();
        window.record(now + Duration::from_secs(20), FAILED);
        window.record(now - Duration::from_secs(900), OK);
        assert_eq!(window.totals(now).calls, 2);
        assert_eq!(window.totals(now + Duration::from_secs(47)).calls, 2);
        assert_eq!(window.totals(now + Duration::from_secs(48)).calls, 0);
    }

    proptest! {
        #[test]
        fn a_count_window_holds_exactly_the_last_n(
            size in 1_usize..40,
            samples in prop::collection::vec(any_sample(), 0..200),
        ) {
            let mut window = CountWindow::new(size).unwrap();
            let mut last = VecDeque::new();
            for sample in samples {
                window.record(sample);
                last.push_back(sample);
                if last.len() > size {
                    last.pop_front();
                }
                prop_assert_eq!(window.totals(), sum(last.iter()));
            }
            window.clear();
            prop_assert_eq!(window.totals(), Totals::default());
        }

        #[test]
        fn a_time_window_holds_exactly_the_buckets_in_reach(
            buckets in 2_u32..12,
            steps in prop::collection::vec((0_u64..4_000, any_sample()), 0..120),
        ) {
            let origin = start();
            let span = Duration::from_millis(u64::from(buckets) * 100);
            let mut window = TimeWindow::new(span, buckets, origin).unwrap();
            let mut all = Vec::new();
            let mut at = 0;
            for (wait, sample) in steps {
                at += wait / 4;
                let now = origin + Duration::from_millis(at);
                window.record(now, sample);
                all.push((at / 100, sample));
                for later in [at, at + 130, at + 5_000] {
                    let reach = (later / 100 + 1).saturating_sub(u64::from(buckets));
                    let held = all.iter().filter(|(bucket, _)| *bucket >= reach);
                    let held = sum(held.map(|(_, sample)| sample));
                    prop_assert_eq!(window.totals(origin + Duration::from_millis(later)), held);
                }
            }
        }
    }
}
