//! A provider that refuses growth.
//!
//! Some refuse a load that grows too fast, whatever the buckets hold, and publish no numbers. From the
//! first such refusal on, requests are held to a rate of their own: cut to a part of what was really
//! used, raised in steps while it is used (AIMD), and lowered towards what is used while it is not, so
//! that after a pause the load climbs and does not jump. Failure mode: a provider that refuses growth
//! by chance slows this quota for a few minutes.

use std::time::Duration;

use tokio::time::Instant;

use super::LeaseId;
use super::lately::Lately;
use crate::policy::token_bucket::TokenBucket;

/// What is left of the used rate after a refusal.
const CUT: f64 = 0.7;

/// Growth a minute, as a multiple of the used rate at the last refusal: AIMD as in TCP, with a round
/// of half a minute.
const GROWTH: f64 = 2.0;

/// Seconds over which use is averaged.
const WINDOW: u64 = 10;

/// Requests lately.
pub(super) type Used = Lately<{ WINDOW * 1_000 }>;

/// Time constant with which an unused rate falls.
const IDLE: Duration = Duration::from_secs(60);

/// Requests a minute that are always allowed.
const LEAST: f64 = 6.0;

/// Requests a minute lately.
#[expect(clippy::cast_precision_loss, reason = "a small constant")]
fn per_minute(used: &Used, now: Instant) -> f64 {
    used.about(now) * 60.0 / WINDOW as f64
}

/// The rate that growth is held to, once there was a reason.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ramp {
    allowed: f64,
    step: f64,
    bucket: TokenBucket,
    as_of: Instant,
    cut: LeaseId,
}

impl Ramp {
    /// Starts from a refusal, of which there may be several at a time: `last` is the newest lease.
    pub(super) fn refused(
        ramp: Option<Self>,
        lease: LeaseId,
        last: LeaseId,
        used: &Used,
        now: Instant,
    ) -> Option<Self> {
        if ramp.is_some_and(|ramp| lease <= ramp.cut) {
            return ramp;
        }
        let used = per_minute(used, now).max(LEAST);
        let held = ramp.map_or(f64::INFINITY, |ramp| ramp.allowed);
        let allowed = (used.min(held) * CUT).max(LEAST);
        let bucket = TokenBucket::new(whole(allowed), burst(allowed), now).ok()?;
        let mut ramp = Self {
            allowed,
            step: used * GROWTH,
            bucket,
            as_of: now,
            cut: last,
        };
        ramp.bucket.lower_to(0, now);
        Some(ramp)
    }

    /// Moves the rate to where it is at `now`.
    pub(super) fn advance(&mut self, used: &Used, now: Instant) {
        let since = now.saturating_duration_since(self.as_of);
        // Finer steps than a request's worth of time would only cost.
        if since < Duration::from_millis(100) {
            return;
        }
        self.as_of = now;
        let used = per_minute(used, now);
        let minutes = since.as_secs_f64() / 60.0;
        if used >= self.allowed / 2.0 {
            self.allowed += self.step * minutes;
        } else {
            let floor = (used * 2.0).max(self.step).max(LEAST);
            let keep = (-since.as_secs_f64() / IDLE.as_secs_f64()).exp();
            self.allowed = self
                .allowed
                .min(floor + (self.allowed - floor).max(0.0) * keep);
        }
        self.bucket
            .set_rate(whole(self.allowed), burst(self.allowed), now);
    }

    pub(super) fn take(&mut self, requests: u64, now: Instant) {
        self.bucket.take(requests, now);
    }

    pub(super) fn put_back(&mut self, requests: u64, now: Instant) {
        self.bucket.put_back(requests, now);
    }

    pub(super) fn ready_at(&self, requests: u64, now: Instant) -> Instant {
        self.bucket.ready_at(requests, now)
    }

    pub(super) fn refilled_at(&self, requests: u64, now: Instant) -> Instant {
        self.bucket.refilled_at(requests, now)
    }

    /// Requests a minute.
    pub(super) const fn per_minute(&self) -> u64 {
        self.bucket.per_minute()
    }
}

fn burst(per_minute: f64) -> u64 {
    whole(per_minute / 60.0)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a positive rate; `as` saturates"
)]
fn whole(rate: f64) -> u64 {
    (rate as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Ten requests a second for half a minute.
    fn busy(start: Instant) -> (Used, Instant) {
        let mut used = Used::new(start);
        let mut now = start;
        for _ in 0..300 {
            now += Duration::from_millis(100);
            used.add(1, now);
        }
        (used, now)
    }

    #[test]
    fn a_refusal_cuts_below_what_was_used_once_a_round() {
        let (used, now) = busy(Instant::now());
        let ramp = Ramp::refused(None, LeaseId::nth(5), LeaseId::nth(9), &used, now).unwrap();
        assert!((380..=430).contains(&ramp.per_minute()), "{ramp:?}");
        let same = Ramp::refused(Some(ramp), LeaseId::nth(9), LeaseId::nth(9), &used, now).unwrap();
        assert_eq!(same.per_minute(), ramp.per_minute());
        let lower =
            Ramp::refused(Some(ramp), LeaseId::nth(10), LeaseId::nth(12), &used, now).unwrap();
        assert!(lower.per_minute() < ramp.per_minute() * 3 / 4);
    }

    #[test]
    fn it_climbs_while_it_is_used_and_falls_while_it_is_not() {
        let (mut used, mut now) = busy(Instant::now());
        let mut ramp = Ramp::refused(None, LeaseId::nth(5), LeaseId::nth(9), &used, now).unwrap();
        let cut = ramp.per_minute();
        for _ in 0..600 {
            now += Duration::from_millis(100);
            used.add(1, now);
            ramp.advance(&used, now);
        }
        let climbed = ramp.per_minute();
        assert!(
            (cut + 700..=cut + 1_300).contains(&climbed),
            "{cut} {climbed}"
        );
        now += SECOND * 600;
        ramp.advance(&used, now);
        assert!(ramp.per_minute() <= 1_230, "{ramp:?}");
    }
}
