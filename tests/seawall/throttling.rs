//! Why seawall has no uncapped adaptive throttle: the SRE book's client-side rule, simulated.
//!
//! A client refuses its own request with probability (requests − K × accepts) / (requests + 1) over
//! a window. It holds an overloaded backend at K times its capacity, but after a long outage it
//! sends next to nothing, learns next to nothing, and takes minutes to come back. A cap on the
//! probability bounds that.

use std::collections::VecDeque;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// The rule over `window` one-second buckets; a request counts before its decision.
struct Throttle {
    k: f64,
    cap: f64,
    window: usize,
    buckets: VecDeque<(u32, u32)>,
    requests: u32,
    accepts: u32,
}

impl Throttle {
    fn new(k: f64, cap: f64, window: usize) -> Self {
        let buckets = VecDeque::from([(0, 0)]);
        Self {
            k,
            cap,
            window,
            buckets,
            requests: 0,
            accepts: 0,
        }
    }

    fn next_second(&mut self) {
        self.buckets.push_back((0, 0));
        if self.buckets.len() > self.window
            && let Some((requests, accepts)) = self.buckets.pop_front()
        {
            self.requests -= requests;
            self.accepts -= accepts;
        }
    }

    fn admit(&mut self, rng: &mut SmallRng) -> bool {
        self.requests += 1;
        self.buckets.back_mut().unwrap().0 += 1;
        let surplus = self
            .k
            .mul_add(-f64::from(self.accepts), f64::from(self.requests));
        let refuse = (surplus / (f64::from(self.requests) + 1.0)).clamp(0.0, self.cap);
        refuse == 0.0 || rng.random::<f64>() >= refuse
    }

    fn accepted(&mut self) {
        self.accepts += 1;
        self.buckets.back_mut().unwrap().1 += 1;
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Second {
    sent: u32,
    accepted: u32,
}

/// Evenly spaced requests for one second against a backend that takes `capacity` / 10 per 100 ms.
fn second(throttle: &mut Throttle, rate: u32, capacity: u32, rng: &mut SmallRng) -> Second {
    throttle.next_second();
    let mut seen = Second::default();
    for slot in 0..10 {
        let mut room = capacity / 10;
        for _ in rate * slot / 10..rate * (slot + 1) / 10 {
            if !throttle.admit(rng) {
                continue;
            }
            seen.sent += 1;
            if let Some(left) = room.checked_sub(1) {
                room = left;
                seen.accepted += 1;
                throttle.accepted();
            }
        }
    }
    seen
}

/// Mean sent and accepted a second under standing overload, after two windows of warm-up.
fn steady(k: f64, rate: u32) -> (f64, f64) {
    const SECONDS: u32 = 120;
    let mut throttle = Throttle::new(k, 1.0, 120);
    let mut rng = SmallRng::seed_from_u64(1);
    for _ in 0..240 {
        second(&mut throttle, rate, 100, &mut rng);
    }
    let mut total = Second::default();
    for _ in 0..SECONDS {
        let seen = second(&mut throttle, rate, 100, &mut rng);
        total.sent += seen.sent;
        total.accepted += seen.accepted;
    }
    let per_second = |count| f64::from(count) / f64::from(SECONDS);
    println!("K={k}, {rate}/s: {:.1} sent", per_second(total.sent));
    (per_second(total.sent), per_second(total.accepted))
}

/// Seconds from the end of a 300 s outage to the first second that is 95 % served, and the rate of
/// requests sent during the outage.
fn recover(k: f64, cap: f64, window: usize, seed: u64) -> (u32, f64) {
    const RATE: u32 = 100;
    const CAPACITY: u32 = 200;
    let mut throttle = Throttle::new(k, cap, window);
    let mut rng = SmallRng::seed_from_u64(seed);
    for _ in 0..2 * window {
        second(&mut throttle, RATE, CAPACITY, &mut rng);
    }
    let sent: u32 = (0..300)
        .map(|_| second(&mut throttle, RATE, 0, &mut rng).sent)
        .sum();
    let back = (1..=1000)
        .find(|_| second(&mut throttle, RATE, CAPACITY, &mut rng).accepted * 100 >= 95 * RATE);
    (back.unwrap_or(u32::MAX), f64::from(sent) / 300.0)
}

fn median_recovery(k: f64, cap: f64, window: usize) -> u32 {
    let mut seconds: Vec<_> = (0..20)
        .map(|seed| recover(k, cap, window, seed).0)
        .collect();
    seconds.sort_unstable();
    println!(
        "K={k}, cap {cap}, {window} s: median {} of {seconds:?}",
        seconds[10]
    );
    seconds[10]
}

#[test]
fn under_overload_k_times_the_capacity_is_sent() {
    for rate in [100, 150, 200, 400, 1000] {
        let (sent, accepted) = steady(2.0, rate);
        let expected = f64::from(rate.min(200));
        assert!((sent / expected - 1.0).abs() <= 0.02, "{rate}/s: {sent}");
        assert!((accepted - 100.0).abs() <= 1.0, "{rate}/s: {accepted}");
    }
}

#[test]
fn a_small_k_leaves_capacity_unused() {
    let (sent, accepted) = steady(1.1, 1000);
    assert!((sent / 92.3 - 1.0).abs() <= 0.02, "{sent}");
    assert!((accepted / 83.8 - 1.0).abs() <= 0.02, "{accepted}");
}

#[test]
fn a_long_window_without_a_cap_needs_minutes_to_come_back() {
    assert!(median_recovery(2.0, 1.0, 120) > 300);
}

#[test]
fn a_short_window_with_a_cap_comes_back_in_seconds() {
    let median = median_recovery(2.0, 0.9, 10);
    assert!(median <= 25, "{median}");
    assert!(
        median < median_recovery(2.0, 1.0, 10),
        "without the cap it takes longer"
    );
    let (_, sent) = recover(2.0, 0.9, 10, 0);
    assert!(
        (9.0..12.0).contains(&sent),
        "the price is a tenth of the load: {sent}"
    );
}

#[test]
fn recovery_grows_with_the_window_and_with_the_cap() {
    // A quarter either way of 13, 40, 16, 54, 20, 69, 33 and 103 s.
    for (cap, short, long) in [
        (0.8, 13, 40),
        (0.9, 16, 54),
        (0.95, 20, 69),
        (0.99, 33, 103),
    ] {
        for (window, published) in [(10, short), (30, long)] {
            let median = median_recovery(2.0, cap, window);
            assert!(
                median.abs_diff(published) * 4 <= published,
                "{cap}, {window} s: {median}"
            );
        }
    }
}
