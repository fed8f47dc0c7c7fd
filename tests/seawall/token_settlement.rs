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
use seawall_actors::policy::quota::{Axis, Cost, Learned, LeaseId, Quota, QuotaSettings};
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

    /// Serves a prompt, or says how long until it could.
    fn arrive(&mut self, now: Instant) -> Result<(), Duration> {
        self.refill(now);
        let missing = tokens(PROMPT) - self.level;
        if missing > ROUNDING {
            self.refused += 1;
            // As on the wire: whole seconds, rounded up.
            return Err(Duration::from_secs_f64(
                (missing * 60.0 / PER_MINUTE).ceil(),
            ));
        }
        self.served += 1;
        self.charge(PROMPT);
        Ok(())
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

struct Outcome {
    calls_per_minute: f64,
    utilisation: f64,
    refused: f64,
}

/// Runs half an hour of calls that each reserve `max_tokens`; `refund` settles them with their usage.
#[expect(
    clippy::too_many_lines,
    reason = "one event loop; its parts share every variable"
)]
fn run(max_tokens: u64, refund: bool, seed: u64) -> Outcome {
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
            assert!(quota.settle(lease, if refund { actual } else { reserved }, now));
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
            if let Err(stop) = provider.arrive(now) {
                assert!(quota.refund(lease, now));
                quota.learn(
                    &Learned {
                        stop_for: Some(stop),
                        ..Learned::default()
                    },
                    now,
                );
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
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive, saturating"
    )]
    let length = length as u64;
    length.clamp(1, max_tokens)
}

fn tokens(n: u64) -> f64 {
    f64::from(u32::try_from(n).expect("half an hour of tokens is a small number"))
}

fn close(seen: f64, published: f64, share: f64) -> bool {
    (seen - published).abs() <= published * share
}

/// Trap 34: a reservation that is never settled.
#[test]
fn without_refund_most_of_the_quota_is_wasted() {
    for (max_tokens, rate, used) in [
        (1_000, 49.9, 0.686),
        (4_000, 20.0, 0.278),
        (8_000, 11.1, 0.157),
    ] {
        let seen = run(max_tokens, false, 1);
        assert!(
            close(seen.calls_per_minute, rate, 0.05),
            "{max_tokens}: {}",
            seen.calls_per_minute
        );
        assert!(
            close(seen.utilisation, used, 0.05),
            "{max_tokens}: {}",
            seen.utilisation
        );
    }
}

#[test]
fn with_refund_nearly_all_of_the_quota_is_used_and_little_refused() {
    for (max_tokens, rate, used, refused) in [
        (1_000, 72.9, 0.985, 0.001),
        (4_000, 70.7, 0.97, 0.02),
        (8_000, 69.5, 0.95, 0.02),
    ] {
        let mut all_refused = 0.0;
        for seed in 1..=5 {
            let seen = run(max_tokens, true, seed);
            all_refused += seen.refused / 5.0;
            let case = format!("{max_tokens}, seed {seed}");
            assert!(
                close(seen.calls_per_minute, rate, 0.05),
                "{case}: {}",
                seen.calls_per_minute
            );
            assert!(
                (used..1.01).contains(&seen.utilisation),
                "{case}: {}",
                seen.utilisation
            );
        }
        // A few answers in a row that are all long drive one seed well above the mean.
        assert!(all_refused <= refused, "{max_tokens}: {all_refused}");
    }
}
