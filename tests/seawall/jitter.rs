//! Which jitter: many writers of one row, after Marc Brooker's backoff simulator (AWS, 2015).
//!
//! Every client reads the row, then writes it; the write holds only if nobody wrote in between.
//! A loser backs off and starts again from the read. Full jitter needs the fewest calls.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::f64::consts::TAU;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use seawall_actors::policy::backoff::Backoff;

const SEEDS: u32 = 100;
const BASE: Duration = Duration::from_millis(5);
const CAP: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Jitter {
    NoBackoff,
    Exponential,
    Equal,
    Full,
    Decorrelated,
}

impl Jitter {
    /// Wait after failure number `failures`, from 1: the simulator's first window is twice the base.
    fn wait(self, failures: u32, last: &mut Duration, rng: &mut SmallRng) -> Duration {
        let backoff = Backoff::new(BASE, CAP).unwrap();
        let window = backoff.window(failures);
        match self {
            Self::NoBackoff => Duration::ZERO,
            Self::Exponential => window,
            Self::Equal => window / 2 + rng.random_range(Duration::ZERO..=window / 2),
            Self::Full => backoff.delay(failures, rng),
            Self::Decorrelated => {
                *last = rng.random_range(BASE..=*last * 3).min(CAP);
                *last
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Arrival {
    Read,
    Write { version: u32 },
}

#[derive(Debug, Clone, Copy)]
struct Run {
    calls: f64,
    millis: f64,
}

/// One trip over the network: |N(10, 2)| ms, by Box and Muller.
fn trip(rng: &mut SmallRng) -> Duration {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    let millis = 2.0_f64.mul_add(radius * (TAU * rng.random::<f64>()).cos(), 10.0);
    Duration::from_secs_f64(millis.abs() / 1000.0)
}

fn contend(clients: usize, jitter: Jitter, seed: u64) -> Run {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut failures = vec![0_u32; clients];
    let mut last = vec![BASE; clients];
    let (mut row, mut calls, mut finished) = (0_u32, 0_u32, Duration::ZERO);
    let mut arrivals: BinaryHeap<_> = (0..clients)
        .map(|client| Reverse((trip(&mut rng), client, Arrival::Read)))
        .collect();
    while let Some(Reverse((now, client, arrival))) = arrivals.pop() {
        let back = now + trip(&mut rng);
        match arrival {
            Arrival::Read => {
                let write = Arrival::Write { version: row };
                arrivals.push(Reverse((back + trip(&mut rng), client, write)));
            }
            Arrival::Write { version } => {
                calls += 1;
                if version == row {
                    row += 1;
                    finished = finished.max(back);
                } else {
                    failures[client] += 1;
                    let wait = jitter.wait(failures[client], &mut last[client], &mut rng);
                    arrivals.push(Reverse((
                        back + wait + trip(&mut rng),
                        client,
                        Arrival::Read,
                    )));
                }
            }
        }
    }
    Run {
        calls: f64::from(calls),
        millis: finished.as_secs_f64() * 1000.0,
    }
}

fn mean(clients: usize, jitter: Jitter, seeds: u32) -> Run {
    let mut total = Run {
        calls: 0.0,
        millis: 0.0,
    };
    for seed in 0..seeds {
        let run = contend(clients, jitter, u64::from(seed));
        total.calls += run.calls / f64::from(seeds);
        total.millis += run.millis / f64::from(seeds);
    }
    println!(
        "{clients} clients, {jitter:?}: {:.1} calls, {:.0} ms",
        total.calls, total.millis
    );
    total
}

#[test]
fn a_lone_writer_makes_one_call_whatever_its_jitter() {
    for jitter in [
        Jitter::NoBackoff,
        Jitter::Exponential,
        Jitter::Equal,
        Jitter::Full,
    ] {
        let run = mean(1, jitter, SEEDS);
        assert!((run.calls - 1.0).abs() < 1e-9);
        assert!((39.0..42.0).contains(&run.millis), "{run:?}");
    }
}

#[test]
fn a_hundred_writers_with_full_jitter_need_a_third_of_the_calls() {
    let full = mean(100, Jitter::Full, SEEDS);
    assert!((785.0..=807.0).contains(&full.calls), "{full:?}");
    let none = mean(100, Jitter::NoBackoff, SEEDS);
    assert!((2390.0..=2440.0).contains(&none.calls), "{none:?}");
}

#[test]
fn full_jitter_finishes_before_equal_jitter_and_both_long_before_none() {
    let full = mean(100, Jitter::Full, SEEDS);
    let equal = mean(100, Jitter::Equal, SEEDS);
    let exponential = mean(100, Jitter::Exponential, SEEDS);
    assert!((800.0..=822.0).contains(&equal.calls), "{equal:?}");
    assert!(
        (1800.0..=1900.0).contains(&exponential.calls),
        "{exponential:?}"
    );
    assert!(full.millis < equal.millis && equal.millis < exponential.millis);
    assert!(
        exponential.millis > 7.0 * full.millis,
        "without jitter the herd stays together"
    );
}

#[test]
fn decorrelated_jitter_makes_a_quarter_more_calls_than_full() {
    for (clients, least, most) in [(100, 975.0, 1025.0), (150, 1720.0, 1806.0)] {
        let decorrelated = mean(clients, Jitter::Decorrelated, SEEDS);
        assert!(
            (least..=most).contains(&decorrelated.calls),
            "{decorrelated:?}"
        );
        let full = mean(clients, Jitter::Full, SEEDS);
        assert!(
            decorrelated.calls > 1.2 * full.calls,
            "{decorrelated:?} {full:?}"
        );
    }
}

#[test]
fn equal_jitter_works_a_little_more_until_the_crowd_is_very_large() {
    for (clients, full_calls, equal_calls) in
        [(10, 39.3, 42.5), (50, 333.0, 346.6), (190, 1772.0, 1761.6)]
    {
        let full = mean(clients, Jitter::Full, SEEDS);
        let equal = mean(clients, Jitter::Equal, SEEDS);
        assert_eq!(
            full.calls < equal.calls,
            full_calls < equal_calls,
            "{full:?} {equal:?}"
        );
        assert!((full.calls / full_calls - 1.0).abs() < 0.02, "{full:?}");
        assert!((equal.calls / equal_calls - 1.0).abs() < 0.02, "{equal:?}");
    }
}
