//! What a limit that learns from losses makes of a server: ten workers, a tenth of a second each.
//!
//! Calls arrive open-loop at half, one and a half and three times the 100 a second that the server
//! can do; it keeps what it has not begun in order. The limiter refuses what is over its limit, and an
//! answer that took more than 300 ms counts as lost. Five minutes, of which the first is not counted.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use seawall_actors::policy::concurrency::{
    AdaptiveConcurrency, ConcurrencySettings, Leaving, Slot,
};
use tokio::time::Instant;

const WORKERS: usize = 10;
const LOST_AFTER: Duration = Duration::from_millis(300);
const FROM: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(300);
const SEEDS: u32 = 3;

#[derive(Debug, Clone, Copy)]
enum Service {
    Exponential,
    /// With a sigma of 0.5.
    LogNormal,
}

impl Service {
    /// A tenth of a second on average.
    fn draw(self, rng: &mut SmallRng) -> Duration {
        let radius = -(1.0 - rng.random::<f64>()).ln();
        let seconds = match self {
            Self::Exponential => 0.1 * radius,
            Self::LogNormal => {
                let angle = std::f64::consts::TAU * rng.random::<f64>();
                let normal = (2.0 * radius).sqrt() * angle.cos();
                (0.1_f64.ln() - 0.125 + 0.5 * normal).exp()
            }
        };
        Duration::from_secs_f64(seconds)
    }
}

struct Attempt {
    sent: Duration,
    slot: Slot,
}

/// The server with the limiter before it.
struct World {
    concurrency: AdaptiveConcurrency,
    service: Service,
    rng: SmallRng,
    epoch: Instant,
    waiting: VecDeque<Attempt>,
    /// By when they are done.
    serving: BinaryHeap<Reverse<(Duration, usize)>>,
    desks: Vec<Option<Attempt>>,
    latencies: Vec<Duration>,
    /// Limit × nanoseconds and limit² × nanoseconds.
    moments: (f64, f64),
    most_in_flight: u32,
    largest_limit: u32,
}

impl World {
    fn new(settings: ConcurrencySettings, service: Service, seed: u32) -> Self {
        Self {
            concurrency: AdaptiveConcurrency::new(settings).unwrap(),
            service,
            rng: SmallRng::seed_from_u64(seed.into()),
            epoch: Instant::now(),
            waiting: VecDeque::new(),
            serving: BinaryHeap::new(),
            desks: (0..WORKERS).map(|_| None).collect(),
            latencies: Vec::new(),
            moments: (0.0, 0.0),
            most_in_flight: 0,
            largest_limit: 0,
        }
    }

    fn run(mut self, per_second: f64) -> Self {
        let mut before = Duration::ZERO;
        let mut arrival = self.gap(per_second);
        loop {
            let done = self.serving.peek().map(|Reverse((at, _))| *at);
            let now = done.map_or(arrival, |at| at.min(arrival)).min(END);
            self.weigh(now.saturating_sub(before.max(FROM)));
            before = now;
            if now == END {
                return self;
            }
            if done == Some(now) {
                self.finish(now);
            } else {
                self.arrive(now);
                arrival = now + self.gap(per_second);
            }
            self.serve(now);
        }
    }

    fn gap(&mut self, per_second: f64) -> Duration {
        Duration::from_secs_f64(-(1.0 - self.rng.random::<f64>()).ln() / per_second)
    }

    fn weigh(&mut self, span: Duration) {
        let limit = self.concurrency.limit();
        self.largest_limit = self.largest_limit.max(limit);
        let (limit, span) = (f64::from(limit), span.as_secs_f64());
        self.moments.0 += limit * span;
        self.moments.1 += limit * limit * span;
    }

    fn arrive(&mut self, now: Duration) {
        if let Some(slot) = self.concurrency.try_enter() {
            self.waiting.push_back(Attempt { sent: now, slot });
            self.most_in_flight = self.most_in_flight.max(self.concurrency.in_flight());
        }
    }

    fn serve(&mut self, now: Duration) {
        while let Some(desk) = self.desks.iter().position(Option::is_none)
            && let Some(attempt) = self.waiting.pop_front()
        {
            let done = now + self.service.draw(&mut self.rng);
            self.desks[desk] = Some(attempt);
            self.serving.push(Reverse((done, desk)));
        }
    }

    fn finish(&mut self, now: Duration) {
        let Reverse((_, desk)) = self.serving.pop().unwrap();
        let Attempt { sent, slot } = self.desks[desk].take().unwrap();
        let latency = now - sent;
        let leaving = if latency > LOST_AFTER {
            Leaving::Lost
        } else {
            Leaving::Success
        };
        self.concurrency.left(slot, leaving, self.epoch + now);
        if now >= FROM {
            self.latencies.push(latency);
        }
    }
}

/// A cell of the table, over all seeds.
#[derive(Debug)]
struct Cell {
    goodput: f64,
    limit: f64,
    deviation: f64,
    p50: Duration,
    p99: Duration,
    /// Of any seed.
    most_in_flight: u32,
    largest_limit: u32,
}

fn simulate(name: &str, settings: ConcurrencySettings, per_second: f64, service: Service) -> Cell {
    let counted = (END - FROM).as_secs_f64() * f64::from(SEEDS);
    let (mut sum, mut squares) = (0.0, 0.0);
    let mut latencies = Vec::new();
    let (mut most_in_flight, mut largest_limit) = (0, 0);
    for seed in 1..=SEEDS {
        let world = World::new(settings, service, seed).run(per_second);
        sum += world.moments.0;
        squares += world.moments.1;
        latencies.extend(world.latencies);
        most_in_flight = most_in_flight.max(world.most_in_flight);
        largest_limit = largest_limit.max(world.largest_limit);
    }
    latencies.sort_unstable();
    let limit = sum / counted;
    let cell = Cell {
        goodput: latencies.len() as f64 / counted,
        limit,
        deviation: (squares / counted - limit * limit).max(0.0).sqrt(),
        p50: latencies[latencies.len() / 2],
        p99: latencies[latencies.len() * 99 / 100],
        most_in_flight,
        largest_limit,
    };
    println!("{name}: {cell:.1?}");
    cell
}

fn fixed(limit: u32) -> ConcurrencySettings {
    ConcurrencySettings {
        initial: limit,
        least: limit,
        most: limit,
        ..ConcurrencySettings::default()
    }
}

fn learned(name: &str, per_second: f64, service: Service) -> Cell {
    simulate(name, ConcurrencySettings::default(), per_second, service)
}

/// The limits that the learned one is measured by: just enough, a little much, far too high.
#[test]
fn a_fixed_limit_is_only_as_good_as_the_guess() {
    let cell = |limit| simulate("fixed", fixed(limit), 300.0, Service::Exponential);
    let (low, high, open) = (cell(10), cell(20), cell(200));
    assert!((94.0..97.0).contains(&low.goodput));
    assert!(high.goodput > 98.5 && high.p99 > Duration::from_millis(480));
    assert!(open.goodput > 98.5 && open.p50 > Duration::from_millis(1_900));
}

#[test]
fn three_times_the_capacity_is_cut_to_what_the_server_can_do() {
    let cell = learned("exp, 300", 300.0, Service::Exponential);
    assert!(cell.goodput >= 96.0);
    assert!((9.0..=15.0).contains(&cell.limit) && cell.deviation <= 3.0);
    assert!(cell.p99 <= Duration::from_millis(550));
}

#[test]
fn half_again_the_capacity_is_served_as_well() {
    let cell = learned("exp, 150", 150.0, Service::Exponential);
    assert!(cell.goodput >= 91.0);
    assert!((9.0..=15.0).contains(&cell.limit));
    assert!(cell.p99 <= Duration::from_millis(550));
    let even = learned("lognormal, 150", 150.0, Service::LogNormal);
    assert!(even.goodput >= 98.0);
    assert!((12.0..=20.0).contains(&even.limit));
    assert!(even.p99 <= Duration::from_millis(400));
}

/// The price of a loss signal inside the healthy tail: an exponential's p95 is 300 ms.
#[test]
fn half_the_capacity_loses_some_to_a_threshold_inside_the_healthy_tail() {
    let cell = learned("exp, 50", 50.0, Service::Exponential);
    assert!((45.0..=49.0).contains(&cell.goodput));
    assert!(cell.p99 <= Duration::from_millis(550));
}

/// Where nothing is lost, nothing but its use holds the limit.
#[test]
fn a_server_that_is_not_used_up_teaches_no_limit_past_twice_its_use() {
    let cell = learned("lognormal, 20", 20.0, Service::LogNormal);
    assert!(cell.goodput > 19.0);
    assert!(cell.most_in_flight > 4);
    assert!(cell.largest_limit <= 2 * cell.most_in_flight);
}
