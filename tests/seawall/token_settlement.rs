//! What becomes of a token quota when calls reserve the most that they may use.
//!
//! The setting is that of the published comparison: 100 000 tokens a minute in a bucket of ten
//! seconds, prompts of 1000, answers of about 400 (log-normal, sigma 0.8, cut at `max_tokens`), 2 s
//! and 20 ms a token, at most 200 in flight, half an hour.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use seawall_actors::policy::quota::{Axis, AxisWord, Cost, Learned, LeaseId, Quota, QuotaSettings};
use tokio::time::Instant;

const PER_MINUTE: f64 = 100_000.0;
const BURST: Duration = Duration::from_secs(10);
const PROMPT: u64 = 1_000;
const MOST_IN_FLIGHT: usize = 200;
const MINUTES: f64 = 30.0;
/// What half an hour of floating-point refills can be off by, in tokens; the bucket under test is
/// exact.
const ROUNDING: f64 = 0.01;

/// The provider's own bucket, in floating point and independent of the one under test: the prompt is
/// charged on arrival or the call refused, the answer when it is done, if need be into debt.
struct Provider {
    level: f64,
    as_of: Instant,
    charged: u64,
    served: u32,
    refused: u32,
}

impl Provider {
    fn new(now: Instant) -> Self {
        let level = PER_MINUTE / 60.0 * BURST.as_secs_f64();
        Self {
            level,
            as_of: now,
            charged: 0,
            served: 0,
            refused: 0,
        }
    }

    fn refill(&mut self, now: Instant) {
        let gained = (now - self.as_of).as_secs_f64() * PER_MINUTE / 60.0;
        self.level = (self.level + gained).min(PER_MINUTE / 60.0 * BURST.as_secs_f64());
        self.as_of = now;
    }

    /// Serves a prompt, or says how long until it could: in whole seconds, as `retry-after` does.
    fn arrive(&mut self, now: Instant) -> Result<(), Duration> {
        self.refill(now);
        let missing = tokens(PROMPT) - self.level;
        if missing > ROUNDING {
            self.refused += 1;
            let wait = (missing * 60.0 / PER_MINUTE).ceil();
            return Err(Duration::from_secs_f64(wait));
        }
        self.served += 1;
        self.charge(PROMPT);
        Ok(())
    }

    fn remaining(&self) -> AxisWord {
        AxisWord {
            remaining: Some(whole(self.level)),
            ..AxisWord::default()
        }
    }

    fn finish(&mut self, output: u64, now: Instant) {
        self.refill(now);
        self.charge(output);
    }

    fn charge(&mut self, amount: u64) {
        self.level -= tokens(amount);
        self.charged += amount;
    }
}

#[derive(Debug)]
struct Outcome {
    calls_per_minute: f64,
    utilisation: f64,
    refused: f64,
}

/// What becomes of a reservation, and what the quota hears.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Settlement {
    /// Each call stays charged with what it reserved.
    Never,
    /// Each call is settled with its usage; refusals say how long to wait.
    Usage,
    /// The same, and every answer says what remains of the provider's bucket.
    UsageAndWords,
}

/// Runs half an hour of calls that each reserve `max_tokens`.
#[expect(
    clippy::too_many_lines,
    reason = "one event loop; its parts share every variable"
)]
fn run(max_tokens: u64, settlement: Settlement, seed: u64) -> Outcome {
    let start = Instant::now();
    let settings = QuotaSettings {
        output_per_minute: Some(100_000),
        burst: BURST,
        ..QuotaSettings::default()
    };
    let mut quota = Quota::new(settings, start).expect("a valid quota");
    let mut provider = Provider::new(start);
    let mut rng = StdRng::seed_from_u64(seed);
    let end = start + Duration::from_secs_f64(MINUTES * 60.0);
    let reserved = Cost {
        output: PROMPT + max_tokens,
        ..Cost::ZERO
    };
    let mut running: BinaryHeap<Reverse<(Instant, LeaseId, u64)>> = BinaryHeap::new();
    let (mut now, mut settled) = (start, 0);
    let (mut charged, mut completed) = (0, 0_u32);
    loop {
        while let Some(Reverse((at, lease, output))) = running.peek().copied()
            && at <= now
        {
            running.pop();
            provider.finish(output, now);
            let actual = Cost {
                output: PROMPT + output,
                ..Cost::ZERO
            };
            let cost = if settlement == Settlement::Never {
                reserved
            } else {
                actual
            };
            assert!(quota.settle(lease, cost, now));
            settled += actual.output;
        }
        let mut next = running.peek().map(|Reverse((at, ..))| *at);
        while now < end && running.len() < MOST_IN_FLIGHT {
            let expires = now + Duration::from_secs(600);
            let lease = match quota.try_reserve(reserved, expires, now) {
                Ok(lease) => lease,
                Err(not_until) => {
                    next = Some(next.map_or(not_until.at, |next| next.min(not_until.at)));
                    break;
                }
            };
            let refusal = provider.arrive(now).err();
            let words = settlement == Settlement::UsageAndWords;
            let remaining = words.then(|| provider.remaining());
            let learned = Learned {
                axes: [None, None, remaining],
                stop_for: refusal,
                ..Learned::default()
            };
            quota.learn(&learned, now);
            if refusal.is_some() {
                assert!(quota.refund(lease, now));
                continue;
            }
            let output = answer(max_tokens, &mut rng);
            let done = now + Duration::from_secs(2) + Duration::from_millis(20 * output);
            next = Some(next.map_or(done, |next| next.min(done)));
            running.push(Reverse((done, lease, output)));
        }
        if now < end {
            (charged, completed) = (provider.charged, provider.served);
        }
        match next {
            Some(at) => now = at,
            None => break,
        }
    }
    assert_eq!(quota.in_flight(), 0, "every permit comes back");
    assert_eq!(quota.outstanding().on(Axis::Output), 0);
    assert_eq!(
        settled, provider.charged,
        "settled is what the provider charged"
    );
    let sent = provider.served + provider.refused;
    Outcome {
        calls_per_minute: f64::from(completed) / MINUTES,
        utilisation: tokens(charged) / (PER_MINUTE * MINUTES),
        refused: f64::from(provider.refused) / f64::from(sent),
    }
}

/// Log-normal of mean 400 and sigma 0.8 by Box and Muller's transform, 1 to `max_tokens`.
fn answer(max_tokens: u64, rng: &mut StdRng) -> u64 {
    let (radius, angle): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    let normal = (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos();
    let length = (400.0_f64.ln() - 0.32 + 0.8 * normal).exp();
    whole(length).clamp(1, max_tokens)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates, and below zero there is nothing"
)]
fn whole(n: f64) -> u64 {
    n as u64
}

fn tokens(n: u64) -> f64 {
    f64::from(u32::try_from(n).expect("half an hour of tokens is a small number"))
}

fn close(seen: f64, published: f64, share: f64) -> bool {
    (seen - published).abs() <= published * share
}

/// The mean of eight half hours: one alone has too few refusals to be judged by their share.
fn mean(max_tokens: u64, settlement: Settlement) -> Outcome {
    let runs: Vec<_> = (1..=8)
        .map(|seed| run(max_tokens, settlement, seed))
        .collect();
    let mean = |of: fn(&Outcome) -> f64| runs.iter().map(of).sum::<f64>() / 8.0;
    Outcome {
        calls_per_minute: mean(|run| run.calls_per_minute),
        utilisation: mean(|run| run.utilisation),
        refused: mean(|run| run.refused),
    }
}

/// Trap 34: a reservation that is never settled.
#[test]
fn trap_34_without_refund_most_of_the_quota_is_wasted() {
    for (max_tokens, rate, used) in [
        (1_000, 49.9, 0.686),
        (4_000, 20.0, 0.278),
        (8_000, 11.1, 0.157),
    ] {
        let seen = mean(max_tokens, Settlement::Never);
        assert!(
            close(seen.calls_per_minute, rate, 0.05),
            "{max_tokens}: {seen:?}"
        );
        assert!(
            close(seen.utilisation, used, 0.05),
            "{max_tokens}: {seen:?}"
        );
        assert!(seen.refused <= 0.0, "{max_tokens}: {seen:?}");
    }
}

#[test]
fn with_refund_nearly_all_of_the_quota_is_used_and_little_refused() {
    for (max_tokens, rate, used) in [
        (1_000, 72.9, 0.99),
        (4_000, 70.7, 0.97),
        (8_000, 69.5, 0.95),
    ] {
        let seen = mean(max_tokens, Settlement::Usage);
        assert!(
            close(seen.calls_per_minute, rate, 0.03),
            "{max_tokens}: {seen:?}"
        );
        assert!(
            (used..1.01).contains(&seen.utilisation),
            "{max_tokens}: {seen:?}"
        );
        assert!(seen.refused <= 0.02, "{max_tokens}: {seen:?}");
    }
}

/// What remains is heard with every answer, so it must not hold back what refunds set free.
#[test]
fn hearing_what_remains_spares_refusals_and_costs_no_throughput() {
    for (max_tokens, rate, used) in [
        (1_000, 72.9, 0.99),
        (4_000, 70.7, 0.97),
        (8_000, 69.5, 0.95),
    ] {
        let seen = mean(max_tokens, Settlement::UsageAndWords);
        assert!(
            close(seen.calls_per_minute, rate, 0.03),
            "{max_tokens}: {seen:?}"
        );
        assert!(
            (used..1.01).contains(&seen.utilisation),
            "{max_tokens}: {seen:?}"
        );
        assert!(seen.refused <= 0.002, "{max_tokens}: {seen:?}");
    }
}
