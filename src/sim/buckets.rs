//! The provider's own limits: continuous refill, requests and tokens, with short bursts enforced.
//!
//! Written apart from the limiter on purpose, since an opponent that shares its code would share
//! its mistakes. Each axis has a bucket of a whole minute, which the headers report, and, where the
//! burst is shorter, a smaller one of the same rate in front of it. Input is charged by an estimate
//! at the start and corrected later; output is charged as it is produced and may go into debt. A
//! refused request costs nothing.

use std::time::Duration;

use tokio::time::Instant;

use super::scenario::QuotaSettings;

/// Nanoseconds in a minute: a token is kept as this many units, so that refill is exact.
const UNIT: i128 = 60_000_000_000;
const MINUTE: Duration = Duration::from_mins(1);

/// The limits of one model group, and how much of them is left.
#[derive(Debug, Clone)]
pub(super) struct Buckets {
    pub(super) requests: Option<Axis>,
    pub(super) input: Option<Axis>,
    pub(super) output: Option<Axis>,
}

impl Buckets {
    /// Full buckets.
    pub(super) fn new(settings: &QuotaSettings, now: Instant) -> Self {
        let axis = |limit: Option<u64>| limit.map(|limit| Axis::new(limit, settings.burst, now));
        Self {
            requests: axis(settings.requests_per_minute),
            input: axis(settings.input_tokens_per_minute),
            output: axis(settings.output_tokens_per_minute),
        }
    }

    /// Charges one request of an estimated size, all or nothing.
    pub(super) fn admit(&mut self, input: u64, now: Instant) -> Result<(), Refused> {
        if let Some(axis) = &self.input
            && input > axis.limit
        {
            return Err(Refused {
                axis: "input tokens",
                limit: axis.limit,
                wait: None,
            });
        }
        let asked = [
            ("requests", self.requests.as_mut(), 1),
            ("input tokens", self.input.as_mut(), input),
            ("output tokens", self.output.as_mut(), 1),
        ];
        let mut worst: Option<Refused> = None;
        for (name, axis, tokens) in asked {
            let Some(axis) = axis else { continue };
            let wait = axis.wait_for(tokens, now);
            if !wait.is_zero() && worst.as_ref().and_then(|w| w.wait).is_none_or(|w| w < wait) {
                worst = Some(Refused {
                    axis: name,
                    limit: axis.limit,
                    wait: Some(wait),
                });
            }
        }
        if let Some(refused) = worst {
            return Err(refused);
        }
        take(&mut self.requests, 1, now);
        take(&mut self.input, input, now);
        Ok(())
    }

    /// Replaces the estimate of an admitted request by the true count.
    pub(super) fn correct(&mut self, estimated: u64, counted: u64, now: Instant) {
        if let Some(axis) = &mut self.input {
            axis.take(counted.saturating_sub(estimated), now);
            axis.put_back(estimated.saturating_sub(counted), now);
        }
    }

    /// Charges output tokens.
    pub(super) fn produced(&mut self, tokens: u64, now: Instant) {
        take(&mut self.output, tokens, now);
    }
}

fn take(axis: &mut Option<Axis>, tokens: u64, now: Instant) {
    if let Some(axis) = axis {
        axis.take(tokens, now);
    }
}

/// A request over a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) axis: &'static str,
    pub(super) limit: u64,
    /// Until it fits; none if it never will.
    pub(super) wait: Option<Duration>,
}

/// One limit.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    pub(super) limit: u64,
    minute: Bucket,
    burst: Option<Bucket>,
    pub(super) charged: u64,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Axis {
    fn new(limit: u64, burst: Duration, now: Instant) -> Self {
        Self {
            limit,
            minute: Bucket::new(limit, MINUTE, now),
            burst: (burst < MINUTE).then(|| Bucket::new(limit, burst, now)),
            charged: 0,
            first: None,
            last: None,
        }
    }

    /// Whole tokens left of the minute, never below zero.
    pub(super) fn remaining(&mut self, now: Instant) -> u64 {
        self.minute.refill(now);
        u64::try_from(self.minute.level / UNIT)
            .unwrap_or_default()
            .min(self.limit)
    }

    /// Until the minute's bucket is full again.
    pub(super) fn full_in(&mut self, now: Instant) -> Duration {
        self.minute.refill(now);
        self.minute.until(self.minute.capacity)
    }

    /// What was charged as a share of what the limit allowed from the first charge to the last.
    pub(super) fn used(&self) -> f64 {
        let (Some(first), Some(last)) = (self.first, self.last) else {
            return 0.0;
        };
        let seconds = last.saturating_duration_since(first).as_secs_f64();
        let burst = self.burst.as_ref().unwrap_or(&self.minute);
        let offered =
            as_f64(burst.capacity) / as_f64(UNIT) + as_f64(i128::from(self.limit)) / 60.0 * seconds;
        as_f64(i128::from(self.charged)) / offered.max(1.0)
    }

    fn wait_for(&mut self, tokens: u64, now: Instant) -> Duration {
        let units = i128::from(tokens).saturating_mul(UNIT);
        self.minute.refill(now);
        let minute = self.minute.until(units);
        self.burst.as_mut().map_or(minute, |burst| {
            burst.refill(now);
            minute.max(burst.until(units))
        })
    }

    fn take(&mut self, tokens: u64, now: Instant) {
        if tokens == 0 {
            return;
        }
        self.charged = self.charged.saturating_add(tokens);
        self.first = self.first.or(Some(now));
        self.last = self.last.max(Some(now));
        self.minute.take(tokens, now);
        if let Some(burst) = &mut self.burst {
            burst.take(tokens, now);
        }
    }

    fn put_back(&mut self, tokens: u64, now: Instant) {
        self.charged = self.charged.saturating_sub(tokens);
        self.minute.put_back(tokens, now);
        if let Some(burst) = &mut self.burst {
            burst.put_back(tokens, now);
        }
    }
}

/// A token bucket in exact integers.
#[derive(Debug, Clone)]
struct Bucket {
    per_minute: i128,
    capacity: i128,
    level: i128,
    at: Instant,
}

impl Bucket {
    fn new(per_minute: u64, over: Duration, now: Instant) -> Self {
        let per_minute = i128::from(per_minute);
        let nanos = i128::try_from(over.as_nanos()).unwrap_or(UNIT);
        let capacity = per_minute.saturating_mul(nanos).max(UNIT);
        Self {
            per_minute,
            capacity,
            level: capacity,
            at: now,
        }
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).as_nanos();
        let grown = self
            .per_minute
            .saturating_mul(i128::try_from(elapsed).unwrap_or(i128::MAX));
        self.level = self.level.saturating_add(grown).min(self.capacity);
        self.at = self.at.max(now);
    }

    /// Until the level is there; a request larger than the bucket waits for a full one.
    fn until(&self, units: i128) -> Duration {
        let lacking = units.min(self.capacity).saturating_sub(self.level);
        if lacking <= 0 {
            return Duration::ZERO;
        }
        let nanos = lacking.saturating_add(self.per_minute - 1) / self.per_minute;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn take(&mut self, tokens: u64, now: Instant) {
        self.refill(now);
        self.level = self
            .level
            .saturating_sub(i128::from(tokens).saturating_mul(UNIT));
    }

    fn put_back(&mut self, tokens: u64, now: Instant) {
        self.refill(now);
        let units = i128::from(tokens).saturating_mul(UNIT);
        self.level = self.level.saturating_add(units).min(self.capacity);
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a share for people to read, not a balance"
)]
const fn as_f64(units: i128) -> f64 {
    units as f64
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{prop_assert, proptest};

    use super::*;

    fn quota(requests: u64, burst: Duration) -> QuotaSettings {
        QuotaSettings {
            requests_per_minute: Some(requests),
            input_tokens_per_minute: Some(60_000),
            output_tokens_per_minute: Some(6_000),
            burst,
            ..QuotaSettings::of("claude-")
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_burst_is_enforced_while_the_minute_is_nearly_full() {
        let now = Instant::now();
        let mut buckets = Buckets::new(&quota(600, Duration::from_secs(1)), now);
        let admitted = (0..100).filter(|_| buckets.admit(1, now).is_ok()).count();
        assert_eq!(admitted, 10);
        let refused = buckets.admit(1, now).unwrap_err();
        assert_eq!(
            (refused.axis, refused.wait),
            ("requests", Some(Duration::from_millis(100)))
        );
        assert_eq!(buckets.requests.as_mut().unwrap().remaining(now), 590);
        assert!(buckets.admit(1, now + Duration::from_millis(100)).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_larger_than_the_limit_can_never_be_admitted() {
        let now = Instant::now();
        let mut buckets = Buckets::new(&quota(600, Duration::from_secs(1)), now);
        assert_eq!(buckets.admit(60_001, now).unwrap_err().wait, None);
        assert!(
            buckets.admit(60_000, now).is_ok(),
            "one as large as the minute leaves a debt"
        );
        let wait = buckets.admit(1, now).unwrap_err().wait.unwrap();
        assert_eq!(wait, Duration::from_millis(59_001));
    }

    #[tokio::test(start_paused = true)]
    async fn output_is_charged_as_produced_and_refuses_the_next_request() {
        let now = Instant::now();
        let mut buckets = Buckets::new(&quota(600, MINUTE), now);
        buckets.admit(10, now).unwrap();
        buckets.produced(7_000, now);
        let refused = buckets.admit(10, now).unwrap_err();
        assert_eq!(refused.axis, "output tokens");
        assert_eq!(refused.wait, Some(Duration::from_millis(10_010)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_estimate_is_corrected_both_ways() {
        let now = Instant::now();
        let mut buckets = Buckets::new(&quota(600, MINUTE), now);
        buckets.admit(1_000, now).unwrap();
        buckets.correct(1_000, 400, now);
        assert_eq!(buckets.input.as_mut().unwrap().remaining(now), 59_600);
        buckets.correct(400, 500, now);
        assert_eq!(buckets.input.as_mut().unwrap().remaining(now), 59_500);
        assert_eq!(buckets.input.as_ref().unwrap().charged, 500);
    }

    proptest! {
        #[test]
        fn no_more_is_admitted_than_burst_and_refill_allow(
            limit in 1_u64..5_000,
            burst_ms in 1_u64..60_000,
            gaps in vec(0_u64..2_000, 1..200),
        ) {
            let start = Instant::now();
            let mut now = start;
            let mut buckets = Buckets::new(&quota(limit, Duration::from_millis(burst_ms)), start);
            buckets.input = None;
            let mut admitted: u128 = 0;
            for gap in gaps {
                now += Duration::from_millis(gap);
                match buckets.admit(1, now) {
                    Ok(()) => admitted += 1,
                    // A refused request is not charged, and the wait it is told is the true one.
                    Err(refused) => {
                        let wait = refused.wait.unwrap();
                        prop_assert!(buckets.clone().admit(1, now + wait).is_ok());
                        let early = wait.saturating_sub(Duration::from_nanos(1));
                        prop_assert!(buckets.clone().admit(1, now + early).is_err());
                    }
                }
                let elapsed = (now - start).as_millis();
                let room = (u128::from(limit) * u128::from(burst_ms)).max(60_000)
                    + u128::from(limit) * elapsed;
                prop_assert!(admitted * 60_000 <= room);
            }
        }
    }
}
