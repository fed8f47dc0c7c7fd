//! How soon a breaker sees an outage, and that it sees none where there is none.
//!
//! A discrete-event simulation around the real circuit: one client, Poisson arrivals, a total
//! outage of 100 s that either fails fast (0.5 s) or hangs until a timeout of 10 s.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use seawall_actors::policy::circuit::{
    Admission, Circuit, CircuitSettings, Pass, Signal, State, Transition,
};
use tokio::time::Instant;

const OUTAGE: f64 = 100.0;
const TIMEOUT: f64 = 10.0;

#[derive(Debug, Clone, Copy)]
enum Fault {
    Fast,
    Hang,
    None,
}

#[derive(Debug, Clone, Copy)]
enum Latency {
    /// 2 s × U(0.5, 1.5).
    Even,
    /// 2 s × LN(0, 0.5), and 3 % of them eight times that.
    HeavyTailed,
}

#[derive(Debug, Clone, Copy)]
struct World {
    settings: CircuitSettings,
    per_second: f64,
    fault: Fault,
    latency: Latency,
    outage_at: f64,
    end: f64,
    count_in_flight: bool,
    check_generation: bool,
    /// Share of attempts that fail in health.
    base_failure: f64,
}

/// What one run showed; times in seconds from the outage's begin or end.
#[derive(Debug, Default)]
struct Seen {
    detected: Option<f64>,
    sent: u32,
    opens: u32,
    false_opens: u32,
    first_answer: Option<f64>,
    slow_after: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrival,
    Overdue(u64),
    End(u64),
}

#[derive(Debug, Clone, Copy)]
struct Attempt {
    pass: Pass,
    signal: Signal,
    took: f64,
    overdue: bool,
}

struct Run {
    world: World,
    circuit: Circuit,
    origin: Instant,
    now: f64,
    rng: StdRng,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    attempts: HashMap<u64, Attempt>,
    last_probe: Option<u64>,
    sequence: u64,
    seen: Seen,
}

impl Run {
    fn of(world: World, seed: u64) -> Seen {
        let origin = Instant::now();
        let mut run = Self {
            circuit: Circuit::new(world.settings, origin).unwrap(),
            world,
            origin,
            now: 0.0,
            rng: StdRng::seed_from_u64(seed),
            events: BinaryHeap::new(),
            attempts: HashMap::new(),
            last_probe: None,
            sequence: 0,
            seen: Seen::default(),
        };
        run.arrive_later();
        while let Some(Reverse((at, _, event))) = run.events.pop() {
            run.now = at.as_secs_f64();
            if run.now > world.end {
                break;
            }
            let due = run.circuit.poll(run.instant());
            run.note(due);
            match event {
                Event::Arrival => run.on_arrival(),
                Event::Overdue(id) => run.on_overdue(id),
                Event::End(id) => run.on_end(id),
            }
        }
        run.seen
    }

    fn instant(&self) -> Instant {
        self.origin + Duration::from_secs_f64(self.now)
    }

    fn schedule(&mut self, after: f64, event: Event) {
        self.sequence += 1;
        let at = Duration::from_secs_f64(self.now + after);
        self.events.push(Reverse((at, self.sequence, event)));
    }

    fn arrive_later(&mut self) {
        let chance: f64 = self.rng.random();
        self.schedule(-(1.0 - chance).ln() / self.world.per_second, Event::Arrival);
    }

    fn broken(&self) -> bool {
        !matches!(self.world.fault, Fault::None) && self.since_outage().is_some_and(|t| t < OUTAGE)
    }

    fn since_outage(&self) -> Option<f64> {
        (self.now >= self.world.outage_at).then_some(self.now - self.world.outage_at)
    }

    fn note(&mut self, transition: Option<Transition>) {
        if transition.is_none_or(|transition| transition.to != State::Open) {
            return;
        }
        self.seen.opens += 1;
        match self.since_outage() {
            Some(since) if !matches!(self.world.fault, Fault::None) => {
                self.seen.detected.get_or_insert(since);
            }
            _ => self.seen.false_opens += 1,
        }
    }

    fn draw_latency(&mut self) -> f64 {
        match self.world.latency {
            Latency::Even => 2.0 * self.rng.random_range(0.5..1.5),
            Latency::HeavyTailed => {
                // Box and Muller's way from two even draws to a normal one.
                let (u, v): (f64, f64) = (1.0 - self.rng.random::<f64>(), self.rng.random());
                let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
                let tail = if self.rng.random_bool(0.03) { 8.0 } else { 1.0 };
                2.0 * (0.5 * normal).exp() * tail
            }
        }
    }

    fn on_arrival(&mut self) {
        self.arrive_later();
        let pass = match self.circuit.admit(self.instant()) {
            Admission::Pass(pass) => pass,
            Admission::Wait { .. } => {
                self.circuit.demand(self.instant(), 1, false);
                return;
            }
        };
        self.last_probe = pass.probe.or(self.last_probe);
        if self.since_outage().is_some_and(|since| since < OUTAGE) {
            self.seen.sent += 1;
        }
        self.seen.slow_after = self.circuit.slow_after().as_secs_f64();
        let (signal, took) = match self.world.fault {
            Fault::Fast if self.broken() => (Signal::Failure, 0.5),
            Fault::Hang if self.broken() => (Signal::Failure, TIMEOUT),
            Fault::Fast | Fault::Hang | Fault::None => {
                let failed = self.rng.random_bool(self.world.base_failure);
                let signal = if failed {
                    Signal::Failure
                } else {
                    Signal::Success
                };
                (signal, self.draw_latency())
            }
        };
        self.sequence += 1;
        let id = self.sequence;
        self.attempts.insert(
            id,
            Attempt {
                pass,
                signal,
                took,
                overdue: false,
            },
        );
        self.schedule(took, Event::End(id));
        if self.world.count_in_flight && self.seen.slow_after < took {
            self.schedule(self.seen.slow_after, Event::Overdue(id));
        }
    }

    fn on_overdue(&mut self, id: u64) {
        let now = self.instant();
        let Some(attempt) = self.attempts.get_mut(&id) else {
            return;
        };
        attempt.overdue = true;
        let transition = self.circuit.overdue(now, attempt.pass, &mut self.rng);
        self.note(transition);
    }

    fn on_end(&mut self, id: u64) {
        let now = self.instant();
        let Some(Attempt {
            mut pass,
            signal,
            took,
            overdue,
        }) = self.attempts.remove(&id)
        else {
            return;
        };
        let probe_answered = pass.probe.is_some() && signal == Signal::Success && !overdue;
        if probe_answered && self.now > self.world.outage_at + OUTAGE {
            self.seen
                .first_answer
                .get_or_insert(self.now - self.world.outage_at - OUTAGE);
        }
        let took = Duration::from_secs_f64(took);
        if overdue {
            return self.circuit.report_overdue_end(now, pass, signal, took);
        }
        if !self.world.check_generation {
            pass.generation = self.circuit.generation();
            let probing = self.circuit.state() == State::HalfOpen;
            pass.probe = self.last_probe.filter(|_| probing);
        }
        let transition = self.circuit.report(now, pass, signal, took, &mut self.rng);
        self.note(transition);
    }
}

/// The rules alone: fixed 10 s open, one probe closes, no ramp.
fn bare() -> CircuitSettings {
    CircuitSettings {
        consecutive_failures: None,
        count_failed_percent: None,
        time_failed_percent: None,
        slow_percent: None,
        open_first: Duration::from_secs(10),
        open_growth: 1.0,
        open_cap_waiting: Duration::from_secs(10),
        open_jitter: 0.0,
        probe_successes: 1,
        ramp_end: 0,
        ..CircuitSettings::default()
    }
}

fn consecutive() -> CircuitSettings {
    CircuitSettings {
        consecutive_failures: Some(5),
        ..bare()
    }
}

fn count() -> CircuitSettings {
    CircuitSettings {
        count_failed_percent: Some(50),
        ..bare()
    }
}

fn time() -> CircuitSettings {
    CircuitSettings {
        time_failed_percent: Some(50),
        ..bare()
    }
}

fn combined() -> CircuitSettings {
    CircuitSettings {
        consecutive_failures: Some(5),
        count_failed_percent: Some(50),
        time_failed_percent: Some(50),
        ..bare()
    }
}

/// The table's slow is 4 s, which is twice the median of its healthy latency.
fn combined_slow_4_s() -> CircuitSettings {
    CircuitSettings {
        slow_multiple: 2,
        slow_min_samples: 40,
        ..combined()
    }
}

fn world(settings: CircuitSettings, per_second: f64, fault: Fault) -> World {
    World {
        settings,
        per_second,
        fault,
        latency: Latency::Even,
        outage_at: 100.0,
        end: 200.0,
        count_in_flight: false,
        check_generation: true,
        base_failure: 0.02,
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = values.fold((0.0, 0.0), |(sum, n), value| (sum + value, n + 1.0));
    sum / n
}

fn runs(world: World, seeds: u64) -> Vec<Seen> {
    (0..seeds).map(|seed| Run::of(world, seed)).collect()
}

fn mean_detection(seen: &[Seen]) -> f64 {
    mean(
        seen.iter()
            .map(|seen| seen.detected.expect("every run sees the outage")),
    )
}

fn mean_sent(seen: &[Seen]) -> f64 {
    mean(seen.iter().map(|seen| f64::from(seen.sent)))
}

const COLUMNS: [(f64, Fault); 4] = [
    (1.0, Fault::Fast),
    (10.0, Fault::Fast),
    (10.0, Fault::Hang),
    (1.0, Fault::Hang),
];

/// Compares a row with what an independent simulation of the same policy gave.
fn check_row(settings: CircuitSettings, count_in_flight: bool, expected: [(f64, f64); 4]) {
    for ((per_second, fault), (detected, sent)) in COLUMNS.into_iter().zip(expected) {
        let world = World {
            count_in_flight,
            ..world(settings, per_second, fault)
        };
        let seen = runs(world, 20);
        let (got_detected, got_sent) = (mean_detection(&seen), mean_sent(&seen));
        println!("{per_second} rps {fault:?}: {got_detected:.2} s, {got_sent:.1} sent");
        for (got, expected) in [(got_detected, detected), (got_sent, sent)] {
            let off = (got - expected).abs() / expected;
            assert!(
                off <= 0.2,
                "{per_second} rps {fault:?}: {got:.2} instead of {expected}"
            );
        }
    }
}

#[test]
fn five_in_a_row_detect_as_computed() {
    check_row(
        consecutive(),
        false,
        [(5.6, 13.8), (2.4, 30.2), (10.5, 107.0), (14.7, 18.5)],
    );
}

#[test]
fn the_count_window_detects_as_computed() {
    check_row(
        count(),
        false,
        [(10.1, 17.5), (1.6, 24.3), (11.0, 112.0), (19.6, 24.1)],
    );
}

#[test]
fn the_time_window_detects_as_computed() {
    check_row(
        time(),
        false,
        [(15.8, 21.7), (16.1, 166.0), (21.0, 214.0), (20.8, 25.5)],
    );
}

#[test]
fn all_rules_together_detect_as_soon_as_the_quickest_of_them() {
    check_row(
        combined(),
        false,
        [(5.6, 13.8), (1.6, 23.8), (10.5, 107.0), (14.7, 18.5)],
    );
}

#[test]
fn attempts_in_flight_past_slow_show_a_hang_before_its_timeout() {
    let expected = [(5.6, 13.8), (1.6, 23.8), (4.5, 48.6), (8.7, 15.3)];
    check_row(combined_slow_4_s(), true, expected);
}

#[test]
fn with_the_defaults_an_outage_is_seen_within_the_promised_time() {
    for (per_second, fault) in COLUMNS {
        let world = World {
            count_in_flight: true,
            outage_at: 300.0,
            end: 400.0,
            ..world(CircuitSettings::default(), per_second, fault)
        };
        let seen = runs(world, if per_second > 5.0 { 20 } else { 400 });
        let slow = mean(seen.iter().map(|seen| seen.slow_after));
        let promised = match fault {
            Fault::Hang => slow + 5.0 / per_second + 0.5,
            // The fifth failure; answers under way since before the outage break the run for up to
            // one usual latency, 2 s, half of it in the mean.
            Fault::Fast | Fault::None => 0.5 + 5.0 / per_second + 1.0,
        };
        let detected = mean_detection(&seen);
        println!("{per_second} rps {fault:?}: {detected:.2} s of {promised:.2}, slow {slow:.2}");
        assert!(
            detected <= promised,
            "{per_second} rps {fault:?}: {detected:.2} > {promised:.2}"
        );
        assert!(
            (5.0..=7.0).contains(&slow),
            "three medians of 2 s, not {slow}"
        );
        assert_eq!(seen.iter().map(|seen| seen.false_opens).sum::<u32>(), 0);
    }
}

#[test]
fn with_the_defaults_and_calls_waiting_the_recovery_is_seen_within_six_seconds() {
    for seed in 0..20 {
        let world = World {
            count_in_flight: true,
            end: 230.0,
            base_failure: 0.0,
            ..world(CircuitSettings::default(), 10.0, Fault::Fast)
        };
        let answered = Run::of(world, seed)
            .first_answer
            .expect("the target is back");
        assert!(
            answered <= 6.0,
            "first answer {answered:.2} s after the outage, seed {seed}"
        );
    }
}

#[test]
fn a_heavy_tail_and_two_percent_errors_open_nothing() {
    let false_opens = |slow_multiple: u32, per_second: f64| {
        let settings = CircuitSettings {
            slow_multiple,
            ..CircuitSettings::default()
        };
        let world = World {
            latency: Latency::HeavyTailed,
            count_in_flight: true,
            end: if per_second > 5.0 { 130.0 } else { 300.0 },
            ..world(settings, per_second, Fault::None)
        };
        runs(world, 40)
            .iter()
            .map(|seen| seen.false_opens)
            .sum::<u32>()
    };
    assert_eq!((false_opens(3, 1.0), false_opens(3, 10.0)), (0, 0));
    assert!(
        false_opens(1, 1.0) > 0,
        "at the median itself the same run must show some"
    );
}

#[test]
fn in_even_arrivals_the_windows_open_exactly_where_their_formulas_say() {
    // A full window of successes, then failures only: seconds from the last success to the opening.
    let opens_after = |settings: CircuitSettings, per_second: u32| {
        let gap = Duration::from_secs(1) / per_second;
        let mut now = Instant::now();
        let mut circuit = Circuit::new(settings, now).unwrap();
        let mut rng = StdRng::seed_from_u64(1);
        let healthy_until = now + Duration::from_secs(300);
        loop {
            now += gap;
            let Admission::Pass(pass) = circuit.admit(now) else {
                panic!("it is closed")
            };
            let signal = if now <= healthy_until {
                Signal::Success
            } else {
                Signal::Failure
            };
            if circuit
                .report(now, pass, signal, Duration::ZERO, &mut rng)
                .is_some()
            {
                return now.duration_since(healthy_until).as_secs_f64();
            }
        }
    };
    for (window, percent, failures) in [(20, 50, 10), (100, 50, 50), (50, 30, 15), (21, 50, 11)] {
        for per_second in [1, 4, 10] {
            let settings = CircuitSettings {
                count_window: window,
                count_failed_percent: Some(percent),
                ..bare()
            };
            let expected = f64::from(failures) / f64::from(per_second);
            assert!((opens_after(settings, per_second) - expected).abs() < 1e-6);
        }
    }
    for (span, percent) in [(30, 50), (30, 10), (10, 50), (60, 80)] {
        let settings = CircuitSettings {
            time_window: Duration::from_secs(span),
            time_failed_percent: Some(percent),
            ..bare()
        };
        #[expect(clippy::cast_precision_loss, reason = "tens of seconds")]
        let span = span as f64;
        let expected = span * f64::from(percent) / 100.0;
        let seen = opens_after(settings, 10);
        assert!(
            (seen - expected).abs() <= span / 10.0,
            "{seen} instead of {expected}"
        );
    }
}

#[test]
fn outcomes_of_an_older_state_would_open_the_circuit_far_more_often() {
    let opens = |check_generation: bool| {
        let settings = CircuitSettings {
            open_first: Duration::from_secs(1),
            ..combined()
        };
        let world = World {
            check_generation,
            ..world(settings, 10.0, Fault::Hang)
        };
        mean(runs(world, 10).iter().map(|seen| f64::from(seen.opens)))
    };
    let (checked, unchecked) = (opens(true), opens(false));
    println!("opens: {checked:.1} with the check, {unchecked:.1} without");
    assert!(
        unchecked >= 1.5 * checked,
        "{unchecked:.1} against {checked:.1}"
    );
}
