//! The twin beside a provider that it has to find out about.
//!
//! The provider here has a bucket of a minute, which its headers report, and a shorter one in front.
//! Requests travel for a random time, answers come back late and out of order.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;

const MS: Duration = Duration::from_millis(1);

struct Provider {
    limit: u64,
    minute: TokenBucket,
    burst: TokenBucket,
    accepted: u64,
    refused: Vec<Instant>,
}

impl Provider {
    fn new(limit: u64, burst: u64, now: Instant) -> Self {
        Self {
            limit,
            minute: TokenBucket::new(limit, limit, now).unwrap(),
            burst: TokenBucket::new(limit, burst, now).unwrap(),
            accepted: 0,
            refused: Vec::new(),
        }
    }

    fn ask(&mut self, now: Instant) -> Learned {
        let ready = self
            .minute
            .ready_at(1, now)
            .max(self.burst.ready_at(1, now));
        let accepted = ready <= now;
        if accepted {
            self.minute.take(1, now);
            self.burst.take(1, now);
            self.accepted += 1;
        } else {
            self.refused.push(now);
        }
        let remaining = u64::try_from(self.minute.available(now)).unwrap_or(0);
        // Whole seconds, at least one, as the real header has it.
        let hint = Duration::from_secs((ready - now).as_secs() + 1);
        Learned {
            axes: [word(Some(self.limit), Some(remaining)), None, None],
            stop_for: (!accepted).then_some(hint),
            hint: None,
            refused_by: (!accepted).then_some(RefusedBy::Bucket(None)),
            accepted,
        }
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Look(usize),
    Arrive(usize, LeaseId),
    Answer(usize, LeaseId, u64),
}

/// Saturated clients, each with a twin of its own, on one provider.
struct World {
    now: Instant,
    rng: SmallRng,
    provider: Provider,
    twins: Vec<Quota>,
    /// Whether each client has something to send.
    sends: Vec<bool>,
    events: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    answers: HashMap<u64, Learned>,
    next: u64,
    /// When each client looks again.
    looks: Vec<Option<Instant>>,
}

impl World {
    fn new(provider: Provider, clients: usize, seed: u64, now: Instant) -> Self {
        let settings = QuotaSettings {
            find_burst: true,
            ..QuotaSettings::default()
        };
        let mut world = Self {
            now,
            rng: SmallRng::seed_from_u64(seed),
            provider,
            twins: (0..clients)
                .map(|_| Quota::new(settings, now).unwrap())
                .collect(),
            sends: vec![true; clients],
            events: BinaryHeap::new(),
            answers: HashMap::new(),
            next: 0,
            looks: vec![None; clients],
        };
        for client in 0..clients {
            // One request alone teaches the limit.
            world.send(client);
        }
        world
    }

    fn push(&mut self, at: Instant, event: Event) {
        self.next += 1;
        self.events.push(Reverse((at, self.next, event)));
    }

    fn look(&mut self, client: usize, at: Instant) {
        if self.looks[client].is_none_or(|before| at < before) {
            self.looks[client] = Some(at);
            self.push(at, Event::Look(client));
        }
    }

    fn send(&mut self, client: usize) -> bool {
        let expires = self.now + MINUTE;
        match self.twins[client].try_reserve(cost(1, 0, 0), expires, self.now) {
            Ok(lease) => {
                let travels = MS * self.rng.random_range(5..30);
                self.push(self.now + travels, Event::Arrive(client, lease));
                true
            }
            Err(refused) => {
                self.look(client, refused.at);
                false
            }
        }
    }

    fn run(&mut self, lasting: Duration) {
        let until = self.now + lasting;
        while let Some(Reverse((at, ..))) = self.events.peek()
            && *at <= until
        {
            let Some(Reverse((at, _, event))) = self.events.pop() else {
                break;
            };
            self.now = at;
            match event {
                Event::Look(client) => {
                    if self.looks[client] == Some(at) {
                        self.looks[client] = None;
                        while self.sends[client] && self.send(client) {}
                    }
                }
                Event::Arrive(client, lease) => {
                    let learned = self.provider.ask(at);
                    let takes = match learned.accepted {
                        true => MS * self.rng.random_range(400..1_800),
                        false => MS * 20,
                    };
                    let answer = self.next;
                    self.answers.insert(answer, learned);
                    self.push(at + takes, Event::Answer(client, lease, answer));
                }
                Event::Answer(client, lease, answer) => {
                    let learned = self.answers.remove(&answer).unwrap();
                    let charged = u64::from(learned.accepted);
                    self.twins[client].heard(lease, &learned, at);
                    self.twins[client].settle(lease, cost(charged, 0, 0), at);
                    self.look(client, at);
                }
            }
        }
        self.now = until;
    }

    /// What was accepted since `before`, as a part of what was refilled in `time`.
    fn used(&self, before: u64, time: Duration) -> f64 {
        let refilled = self.provider.limit as f64 * time.as_secs_f64() / 60.0;
        (self.provider.accepted - before) as f64 / refilled
    }
}

#[test]
fn a_twin_that_knows_nothing_uses_the_whole_quota_and_is_hardly_ever_refused() {
    for (limit, burst) in [(600, 10), (600, 600), (60, 1), (6_000, 100), (50, 50)] {
        for seed in [1, 2, 3, 7, 42] {
            let now = Instant::now();
            let mut world = World::new(Provider::new(limit, burst, now), 1, seed, now);
            world.run(Duration::from_secs(10));
            let early = world.provider.refused.len();
            let before = world.provider.accepted;
            world.run(MINUTE * 5);
            let late = world.provider.refused.len() - early;
            let used = world.used(before, MINUTE * 5);
            let at = format!("{limit}/{burst} seed {seed}: {early} early, {late} late, {used:.3}");
            assert!(early <= 8, "{at}");
            assert!(late as f64 <= (limit as f64 * 5.0 / 1_000.0).ceil(), "{at}");
            // Where one is the most at once, the time that one travels faster than another is lost.
            let least = if burst == 1 { 0.95 } else { 0.97 };
            assert!(used >= least, "{at}");
        }
    }
}

#[test]
fn two_twins_that_know_nothing_of_each_other_share_one_quota() {
    for (limit, burst) in [(600, 10), (600, 600), (6_000, 100)] {
        for seed in [1, 2, 3, 7, 42] {
            let now = Instant::now();
            let mut world = World::new(Provider::new(limit, burst, now), 2, seed, now);
            world.run(MINUTE * 5);
            let (used, refused) = (world.used(0, MINUTE * 5), world.provider.refused.len());
            let share = refused as f64 / (world.provider.accepted + refused as u64) as f64;
            let at = format!("{limit}/{burst} seed {seed}: {refused} refused, {used:.3}");
            assert!(used >= 0.9 && share <= 0.01, "{at}");
        }
    }
}

#[test]
fn late_and_disordered_answers_leave_the_level_where_the_provider_has_it() {
    let now = Instant::now();
    let mut world = World::new(Provider::new(6_000, 100, now), 1, 5, now);
    world.run(MINUTE);
    for _ in 0..200 {
        world.run(MS * 250);
        let (now, twin) = (world.now, &world.twins[0]);
        let axis = twin.view(now).axes[0].unwrap();
        let there = 6_000 - world.provider.minute.available(now);
        let here = i64::try_from(axis.burst).unwrap() - axis.level;
        // Three requests are on their way at any time, and both sides round.
        assert!((here - there).abs() <= 6, "{here} {there}");
        assert_eq!(axis.foreign, 0);
    }
}

#[test]
fn what_others_take_is_left_to_them_and_taken_back_when_they_stop() {
    let now = Instant::now();
    let mut world = World::new(Provider::new(600, 600, now), 2, 9, now);
    world.run(MINUTE * 3);
    let foreign = |twin: &Quota| twin.view(world.now).axes[0].unwrap().foreign;
    // What each leaves to the other is what the other takes, and together they take it all.
    let both = world.twins.iter().map(foreign).sum::<u64>();
    assert!((480..=660).contains(&both), "{both}");
    world.sends[1] = false;
    world.run(MINUTE);
    let before = world.provider.accepted;
    world.run(MINUTE);
    let used = world.used(before, MINUTE);
    assert!(used >= 0.97, "{used}");
}

#[test]
fn a_request_that_was_overtaken_by_those_right_behind_it_surprises_nobody() {
    let now = Instant::now();
    let settings = QuotaSettings {
        find_burst: true,
        ..QuotaSettings::default()
    };
    let mut quota = Quota::new(settings, now).unwrap();
    let said = |remaining| Learned {
        axes: [word(Some(6_000), remaining), None, None],
        accepted: true,
        ..Learned::default()
    };
    quota.learn(&said(None), now);
    let mut reserve = || quota.try_reserve(cost(1, 0, 0), now + MINUTE, now).unwrap();
    let first = reserve();
    for _ in 1..40 {
        reserve();
    }
    let before = quota.view(now).axes[0].unwrap();
    // It arrived last of the forty.
    quota.heard(first, &said(Some(6_000 - 40)), now);
    let after = quota.view(now).axes[0].unwrap();
    assert_eq!((after.level, after.foreign), (before.level, 0));
}
