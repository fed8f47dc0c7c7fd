//! Which policies end a metastable failure: one server, a ten-second stall, four hundred seconds.
//!
//! The server takes 300 requests a second and works through its queue in order, also through
//! requests whose client has given up (1 s). Calls arrive open-loop, mostly at 280 a second. From
//! second 60 to 70 the server stalls. Whether it then ever serves anybody again depends on what
//! the clients do about their timeouts and on how the server keeps its queue
//! (after Bronson et al., *Metastable Failures in Distributed Systems*, HotOS 2021).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use seawall_actors::policy::backoff::Backoff;
use seawall_actors::policy::retry_budget::RetryBudget;
use tokio::time::Instant;

const SERVICE: Duration = Duration::from_nanos(1_000_000_000 / 300);
const TIMEOUT: Duration = Duration::from_secs(1);
const STALL: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(70));
const END_SECONDS: usize = 400;
const STALL_END_SECOND: usize = 70;
const SEEDS: u32 = 3;

/// How the server keeps requests that it has not begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queue {
    InOrder,
    /// First in, first out; what its client has given up on is thrown away unserved.
    DropExpired,
    NewestFirst,
    /// Facebook's controlled delay: a request waits 1 s at most, and 50 ms at most once the queue
    /// has not been empty for 1 s.
    ControlledDelay,
    Bounded(usize),
}

/// What the clients ask before they send.
enum Gate {
    Open,
    Budget(RetryBudget),
    Breaker(Breaker),
}

impl Gate {
    fn admits(&mut self, now: Duration, is_retry: bool, epoch: Instant) -> Option<u32> {
        let admitted = match self {
            Self::Budget(budget) if is_retry => budget.try_spend(epoch + now),
            Self::Breaker(breaker) => return breaker.admit(now),
            Self::Open | Self::Budget(_) => true,
        };
        admitted.then_some(0)
    }

    fn report(&mut self, now: Duration, generation: u32, success: bool, epoch: Instant) {
        match self {
            Self::Budget(budget) if success => budget.on_success(epoch + now),
            Self::Breaker(breaker) => breaker.report(now, generation, success),
            Self::Open | Self::Budget(_) => {}
        }
    }
}

/// The plainest breaker: half of at least 20 outcomes in 10 s failed opens it for 5 s, then one
/// probe decides. Outcomes of an earlier state do not count.
#[derive(Default)]
struct Breaker {
    generation: u32,
    open_until: Option<Duration>,
    probing: bool,
    outcomes: VecDeque<(Duration, bool)>,
    failures: usize,
}

impl Breaker {
    const OPEN: Duration = Duration::from_secs(5);
    const WINDOW: Duration = Duration::from_secs(10);

    fn admit(&mut self, now: Duration) -> Option<u32> {
        if let Some(until) = self.open_until {
            if now < until || self.probing {
                return None;
            }
            self.probing = true;
        }
        Some(self.generation)
    }

    fn report(&mut self, now: Duration, generation: u32, success: bool) {
        if generation != self.generation {
            return;
        }
        if self.probing {
            self.turn((!success).then_some(now + Self::OPEN));
            return;
        }
        self.outcomes.push_back((now, success));
        self.failures += usize::from(!success);
        while let Some((at, earlier)) = self.outcomes.front().copied()
            && now - at > Self::WINDOW
        {
            self.outcomes.pop_front();
            self.failures -= usize::from(!earlier);
        }
        if self.outcomes.len() >= 20 && self.failures * 2 >= self.outcomes.len() {
            self.turn(Some(now + Self::OPEN));
        }
    }

    fn turn(&mut self, open_until: Option<Duration>) {
        self.open_until = open_until;
        self.generation += 1;
        self.probing = false;
        self.outcomes.clear();
        self.failures = 0;
    }
}

#[derive(Debug, Clone, Copy)]
struct Attempt {
    /// Second in which the call that it belongs to arrived.
    arrived: usize,
    number: u32,
    generation: u32,
    sent: Duration,
    settled: bool,
}

/// What a simulation varies.
struct Setting {
    rate: f64,
    retries: u32,
    backoff: Option<Backoff>,
    queue: Queue,
    gate: fn(Instant) -> Gate,
}

impl Setting {
    fn new(rate: f64, retries: u32) -> Self {
        Self {
            rate,
            retries,
            backoff: None,
            queue: Queue::InOrder,
            gate: |_| Gate::Open,
        }
    }
}

struct World {
    retries: u32,
    backoff: Option<Backoff>,
    queue: Queue,
    gate: Gate,
    epoch: Instant,
    rng: SmallRng,
    attempts: Vec<Attempt>,
    waiting: VecDeque<usize>,
    emptied: Duration,
    serving: Option<(Duration, usize)>,
    timeouts: VecDeque<usize>,
    retries_due: BinaryHeap<Reverse<(Duration, usize, u32)>>,
    /// By second: calls that arrived, those of them that were answered in time, answers, attempts.
    arrived: Vec<u32>,
    arrived_and_answered: Vec<u32>,
    answers: Vec<u32>,
    sent: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    Served,
    TimedOut,
    Retry,
    Call,
    End,
}

fn second(now: Duration) -> usize {
    usize::try_from(now.as_secs()).unwrap()
}

impl World {
    fn new(setting: &Setting, seed: u64) -> Self {
        let epoch = Instant::now();
        Self {
            retries: setting.retries,
            backoff: setting.backoff,
            queue: setting.queue,
            gate: (setting.gate)(epoch),
            epoch,
            rng: SmallRng::seed_from_u64(seed),
            attempts: Vec::new(),
            waiting: VecDeque::new(),
            emptied: Duration::ZERO,
            serving: None,
            timeouts: VecDeque::new(),
            retries_due: BinaryHeap::new(),
            arrived: vec![0; END_SECONDS],
            arrived_and_answered: vec![0; END_SECONDS],
            answers: vec![0; END_SECONDS],
            sent: vec![0; END_SECONDS],
        }
    }

    fn run(mut self, rate: f64) -> Self {
        let mut next_call = self.gap(rate);
        loop {
            while let Some(&id) = self.timeouts.front()
                && self.attempts[id].settled
            {
                self.timeouts.pop_front();
            }
            let candidates = [
                (self.serving.map(|(at, _)| at), Next::Served),
                (
                    self.timeouts
                        .front()
                        .map(|id| self.attempts[*id].sent + TIMEOUT),
                    Next::TimedOut,
                ),
                (
                    self.retries_due.peek().map(|Reverse((at, ..))| *at),
                    Next::Retry,
                ),
                (Some(next_call), Next::Call),
                (Some(Duration::from_secs(400)), Next::End),
            ];
            let due = candidates
                .into_iter()
                .filter_map(|(at, next)| Some((at?, next)))
                .min();
            let Some((now, next)) = due else { return self };
            match next {
                Next::Served => self.served(now),
                Next::TimedOut => {
                    let id = self.timeouts.pop_front().unwrap();
                    self.failed(now, id);
                }
                Next::Retry => {
                    let Reverse((_, arrived, number)) = self.retries_due.pop().unwrap();
                    self.send(now, arrived, number);
                }
                Next::Call => {
                    self.arrived[second(now)] += 1;
                    self.send(now, second(now), 0);
                    next_call = now + self.gap(rate);
                }
                Next::End => return self,
            }
            self.serve_next(now);
        }
    }

    fn gap(&mut self, rate: f64) -> Duration {
        Duration::from_secs_f64(-(1.0 - self.rng.random::<f64>()).ln() / rate)
    }

    fn send(&mut self, now: Duration, arrived: usize, number: u32) {
        let Some(generation) = self.gate.admits(now, number > 0, self.epoch) else {
            return;
        };
        self.sent[second(now)] += 1;
        let id = self.attempts.len();
        self.attempts.push(Attempt {
            arrived,
            number,
            generation,
            sent: now,
            settled: false,
        });
        if let Queue::Bounded(bound) = self.queue
            && self.waiting.len() >= bound
        {
            self.failed(now, id);
            return;
        }
        if self.waiting.is_empty() {
            self.emptied = now;
        }
        self.waiting.push_back(id);
        self.timeouts.push_back(id);
    }

    fn failed(&mut self, now: Duration, id: usize) {
        let Attempt {
            arrived,
            number,
            generation,
            ..
        } = self.attempts[id];
        self.attempts[id].settled = true;
        self.gate.report(now, generation, false, self.epoch);
        if number >= self.retries {
            return;
        }
        if let Some(backoff) = self.backoff {
            let due = now + backoff.delay(number, &mut self.rng);
            self.retries_due.push(Reverse((due, arrived, number + 1)));
        } else {
            self.send(now, arrived, number + 1);
        }
    }

    fn served(&mut self, now: Duration) {
        let Some((_, id)) = self.serving.take() else {
            return;
        };
        let Attempt {
            arrived,
            generation,
            settled,
            ..
        } = self.attempts[id];
        if settled {
            return;
        }
        self.attempts[id].settled = true;
        self.gate.report(now, generation, true, self.epoch);
        self.answers[second(now)] += 1;
        self.arrived_and_answered[arrived] += 1;
    }

    fn serve_next(&mut self, now: Duration) {
        if self.serving.is_some() {
            return;
        }
        let begin = if now >= STALL.0 && now < STALL.1 {
            STALL.1
        } else {
            now
        };
        // What waits at the stall's end is chosen then: until then the server takes nothing.
        if begin > now {
            return;
        }
        let next = match self.queue {
            Queue::NewestFirst => self.waiting.pop_back(),
            Queue::InOrder | Queue::Bounded(_) => self.waiting.pop_front(),
            Queue::DropExpired => self.next_alive(),
            Queue::ControlledDelay => self.next_not_stale(now),
        };
        self.serving = next.map(|id| (begin + SERVICE, id));
    }

    fn next_alive(&mut self) -> Option<usize> {
        loop {
            let id = self.waiting.pop_front()?;
            if !self.attempts[id].settled {
                return Some(id);
            }
        }
    }

    fn next_not_stale(&mut self, now: Duration) -> Option<usize> {
        let standing = now - self.emptied > Duration::from_secs(1);
        let limit = Duration::from_millis(if standing { 50 } else { 1000 });
        loop {
            let id = self.waiting.pop_front()?;
            let Attempt { sent, settled, .. } = self.attempts[id];
            if now - sent <= limit {
                return Some(id);
            }
            if !settled {
                self.failed(now, id);
            }
        }
    }
}

#[derive(Debug, Clone)]
struct Outcome {
    /// Answers in time and attempts, a second, from second 300 to 390.
    goodput: f64,
    attempts: f64,
    /// Seconds from the stall's end until at least 95 % of the calls of five seconds in a row were
    /// answered; by seed.
    recovery: Vec<Option<usize>>,
}

impl Outcome {
    fn worst(&self) -> usize {
        self.recovery
            .iter()
            .map(|seconds| seconds.unwrap_or(usize::MAX))
            .max()
            .unwrap()
    }

    fn median(&self) -> usize {
        let mut seconds: Vec<_> = self
            .recovery
            .iter()
            .map(|seconds| seconds.unwrap_or(usize::MAX))
            .collect();
        seconds.sort_unstable();
        seconds[seconds.len() / 2]
    }

    fn never(&self) -> bool {
        self.recovery.iter().all(Option::is_none)
    }
}

fn simulate(name: &str, setting: &Setting) -> Outcome {
    simulate_seeds(name, setting, SEEDS)
}

fn simulate_seeds(name: &str, setting: &Setting, seeds: u32) -> Outcome {
    let mut outcome = Outcome {
        goodput: 0.0,
        attempts: 0.0,
        recovery: Vec::new(),
    };
    for seed in 1..=seeds {
        let world = World::new(setting, u64::from(seed)).run(setting.rate);
        let rate = |counts: &[u32]| {
            f64::from(counts[300..390].iter().sum::<u32>()) / 90.0 / f64::from(seeds)
        };
        outcome.goodput += rate(&world.answers);
        outcome.attempts += rate(&world.sent);
        let well = |at: usize| world.arrived_and_answered[at] * 100 >= world.arrived[at] * 95;
        outcome.recovery.push(
            (STALL_END_SECOND..END_SECONDS - 10)
                .find(|start| (*start..start + 5).all(well))
                .map(|at| at - STALL_END_SECOND),
        );
    }
    println!("{name}: {outcome:?}");
    outcome
}

fn assert_near(seen: f64, published: f64) {
    assert!(
        (seen - published).abs() <= 0.03 * published,
        "{seen}, not {published}"
    );
}

#[test]
fn without_retries_the_backlog_takes_two_minutes_to_drain() {
    let seen = simulate("no retry", &Setting::new(280.0, 0));
    assert_near(seen.goodput, 280.2);
    assert_near(seen.attempts, 280.2);
    assert!((100..=150).contains(&seen.median()), "{seen:?}");
}

#[test]
fn one_immediate_retry_keeps_the_server_down_for_ever() {
    let seen = simulate("1 retry", &Setting::new(280.0, 1));
    assert!(seen.never() && seen.goodput < 1.0, "{seen:?}");
    assert_near(seen.attempts, 560.6);
}

#[test]
fn one_immediate_retry_is_harmless_below_half_the_capacity() {
    for (rate, goodput, recovery) in [(100.0, 100.3, 20), (140.0, 138.2, 150)] {
        let seen = simulate(&format!("1 retry, {rate}/s"), &Setting::new(rate, 1));
        assert_near(seen.goodput, goodput);
        assert!(seen.worst() <= recovery, "{seen:?}");
    }
}

#[test]
fn one_immediate_retry_is_fatal_from_half_the_capacity() {
    for (rate, attempts) in [
        (149.0, 296.0),
        (160.0, 317.0),
        (200.0, 402.0),
        (250.0, 506.0),
    ] {
        let setting = Setting::new(rate, 1);
        let seen = simulate_seeds(&format!("1 retry, {rate}/s"), &setting, 2);
        assert!(seen.never() && seen.goodput < 1.0, "{seen:?}");
        assert_near(seen.attempts, attempts);
    }
}

#[test]
fn three_immediate_retries_keep_the_server_down_for_ever() {
    let seen = simulate("3 retries", &Setting::new(280.0, 3));
    assert!(seen.never() && seen.goodput < 1.0, "{seen:?}");
    assert_near(seen.attempts, 1121.7);
}

#[test]
fn backoff_with_full_jitter_alone_does_not_end_it() {
    let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10)).unwrap();
    let setting = Setting {
        backoff: Some(backoff),
        ..Setting::new(280.0, 3)
    };
    let seen = simulate("3 retries, full jitter", &setting);
    assert!(seen.never() && seen.goodput < 1.0, "{seen:?}");
    assert_near(seen.attempts, 1121.7);
}

#[test]
fn a_retry_budget_makes_retries_as_harmless_as_none() {
    // The backlog drains as a random walk: 125 s in the mean, some 9 s to either side by the luck
    // of the arrivals. Hence the median, and the comparison with the same arrivals and no retry.
    let plain = simulate_seeds("no retry", &Setting::new(280.0, 0), 5);
    let gate = |now| {
        Gate::Budget(
            RetryBudget::new(0.1, 10, 0.0, now)
                .unwrap()
                .saving_at_most(10),
        )
    };
    let setting = Setting {
        gate,
        ..Setting::new(280.0, 3)
    };
    let seen = simulate_seeds("3 retries, budget 0.1 saving 10", &setting, 5);
    assert_near(seen.goodput, 280.2);
    assert_near(seen.attempts, 280.2);
    assert!(seen.median() <= 130, "{seen:?}");
    for (without, with) in plain.recovery.iter().zip(&seen.recovery) {
        assert!(with.unwrap() <= without.unwrap() + 5, "{plain:?} {seen:?}");
    }
}

#[test]
fn savings_of_a_hundred_retries_delay_the_end_by_what_they_add_to_the_backlog() {
    // (2800 + 100 - 300) / 20 = 130 s in the mean.
    let gate = |now| Gate::Budget(RetryBudget::new(0.1, 10, 0.0, now).unwrap());
    let setting = Setting {
        gate,
        ..Setting::new(280.0, 3)
    };
    let seen = simulate("3 retries, budget 0.1 saving 100", &setting);
    assert_near(seen.goodput, 280.2);
    assert!((110..=150).contains(&seen.median()), "{seen:?}");
}

#[test]
fn the_standard_retry_budget_ends_it_a_little_later() {
    // Savings of 100 retries and one a second more, against a surplus of 20 a second:
    // (2800 + 100 - 300) / 19 = 137 s in the mean.
    let gate = |now| Gate::Budget(RetryBudget::standard(now));
    let seen = simulate(
        "standard budget",
        &Setting {
            gate,
            ..Setting::new(280.0, 3)
        },
    );
    assert_near(seen.goodput, 280.2);
    assert!((110..=170).contains(&seen.median()), "{seen:?}");
}

#[test]
fn a_breaker_ends_it_in_seconds() {
    let gate = |_| Gate::Breaker(Breaker::default());
    let seen = simulate(
        "1 retry, breaker",
        &Setting {
            gate,
            ..Setting::new(280.0, 1)
        },
    );
    assert_near(seen.goodput, 280.2);
    assert_near(seen.attempts, 280.2);
    assert!(seen.worst() <= 20, "{seen:?}");
}

#[test]
fn a_server_that_drops_expired_work_recovers() {
    let setting = Setting {
        queue: Queue::DropExpired,
        ..Setting::new(280.0, 1)
    };
    let seen = simulate("1 retry, drops expired", &setting);
    assert_near(seen.goodput, 280.2);
    assert!(seen.worst() <= 100, "{seen:?}");
}

#[test]
fn newest_first_recovers_at_once() {
    let setting = Setting {
        queue: Queue::NewestFirst,
        ..Setting::new(280.0, 1)
    };
    let seen = simulate("1 retry, LIFO", &setting);
    assert_near(seen.goodput, 280.2);
    assert_near(seen.attempts, 281.3);
    assert!(seen.worst() <= 3, "{seen:?}");
}

#[test]
fn controlled_delay_recovers_at_once() {
    let setting = Setting {
        queue: Queue::ControlledDelay,
        ..Setting::new(280.0, 1)
    };
    let seen = simulate("1 retry, CoDel", &setting);
    assert_near(seen.goodput, 280.2);
    assert_near(seen.attempts, 281.2);
    assert!(seen.worst() <= 3, "{seen:?}");
}

#[test]
fn a_queue_of_a_third_of_the_timeout_recovers_at_once() {
    let setting = Setting {
        queue: Queue::Bounded(100),
        ..Setting::new(280.0, 1)
    };
    let seen = simulate("1 retry, bound 100", &setting);
    assert_near(seen.goodput, 280.2);
    assert_near(seen.attempts, 280.2);
    assert!(seen.worst() <= 5, "{seen:?}");
}

#[test]
fn a_queue_of_twice_the_timeout_never_recovers() {
    let setting = Setting {
        queue: Queue::Bounded(600),
        ..Setting::new(280.0, 1)
    };
    let seen = simulate("1 retry, bound 600", &setting);
    assert!(seen.never() && seen.goodput < 1.0, "{seen:?}");
    assert_near(seen.attempts, 560.3);
}
