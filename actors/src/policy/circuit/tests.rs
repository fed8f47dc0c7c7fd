use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::policy::rolling_window::Totals;
use crate::verdict::Blame;

const QUICK: Duration = Duration::from_millis(10);

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A circuit with its clock and its chance.
struct Bench {
    circuit: Circuit,
    now: Instant,
    rng: StdRng,
}

impl Bench {
    fn new(settings: CircuitSettings) -> Self {
        let now = Instant::now();
        let circuit = Circuit::new(settings, now).unwrap();
        Self {
            circuit,
            now,
            rng: StdRng::seed_from_u64(7),
        }
    }

    fn standard() -> Self {
        Self::new(CircuitSettings::default())
    }

    fn open() -> Self {
        let mut bench = Self::standard();
        bench.fail(5);
        assert_eq!(bench.circuit.state(), State::Open);
        bench
    }

    fn half_open() -> Self {
        let mut bench = Self::open();
        bench.wait_for_event();
        assert_eq!(bench.circuit.state(), State::HalfOpen);
        bench
    }

    fn ramping() -> Self {
        let mut bench = Self::half_open();
        bench.succeed(2);
        assert!(bench.circuit.view(bench.now).ramp_allowed.is_some());
        bench
    }

    fn try_pass(&mut self) -> Option<Pass> {
        match self.circuit.admit(self.now) {
            Admission::Pass(pass) => Some(pass),
            Admission::Wait { .. } => None,
        }
    }

    fn pass(&mut self) -> Pass {
        self.try_pass().expect("the circuit lets this attempt pass")
    }

    fn report(&mut self, pass: Pass, signal: Signal) -> Option<Transition> {
        self.circuit
            .report(self.now, pass, signal, QUICK, &mut self.rng)
    }

    fn overdue(&mut self, pass: Pass) -> Option<Transition> {
        self.circuit.overdue(self.now, pass, &mut self.rng)
    }

    fn attempt(&mut self, signal: Signal) -> Option<Transition> {
        let pass = self.pass();
        self.report(pass, signal)
    }

    fn fail(&mut self, times: usize) {
        for _ in 0..times {
            self.attempt(Signal::Failure);
        }
    }

    fn succeed(&mut self, times: usize) {
        for _ in 0..times {
            self.attempt(Signal::Success);
        }
    }

    fn wait(&mut self, time: Duration) -> Option<Transition> {
        self.now += time;
        self.circuit.poll(self.now)
    }

    fn wait_for_event(&mut self) -> Option<Transition> {
        let at = self
            .circuit
            .next_event()
            .expect("time will bring something");
        self.now = self.now.max(at);
        self.circuit.poll(self.now)
    }

    fn state(&self) -> State {
        self.circuit.state()
    }

    fn view(&self) -> CircuitView {
        self.circuit.view(self.now)
    }

    fn open_for(&self) -> Duration {
        self.view()
            .open_until
            .expect("it is open")
            .duration_since(self.now)
    }
}

fn steady(open_growth: f64) -> CircuitSettings {
    CircuitSettings {
        open_jitter: 0.0,
        open_growth,
        ..CircuitSettings::default()
    }
}

#[test]
fn trap_1_a_probe_that_ends_in_nothing_gives_its_slot_back() {
    let mut bench = Bench::half_open();
    let dropped = bench.pass();
    bench.circuit.release(bench.now, dropped);
    let cancelled = bench.pass();
    assert_eq!(bench.report(cancelled, Signal::Neutral), None);
    assert_eq!(
        (bench.state(), bench.view().probing),
        (State::HalfOpen, false)
    );
    let limited = bench.pass();
    assert_eq!(
        bench.report(limited, Signal::Limited).map(|t| t.to),
        Some(State::Open)
    );
    bench.wait_for_event();
    let overdue = bench.pass();
    assert_eq!(bench.overdue(overdue).map(|t| t.to), Some(State::Open));
    bench.wait_for_event();
    bench.pass();
}

#[test]
fn trap_2_a_probe_that_never_returns_loses_its_slot_with_its_lease() {
    let mut bench = Bench::half_open();
    let lost = bench.pass();
    assert_eq!(bench.wait(seconds(60) - QUICK), None);
    let reopened = bench.wait(QUICK).unwrap();
    assert_eq!(
        (reopened.to, reopened.why),
        (State::Open, "probe lease expired")
    );
    bench.wait_for_event();
    bench.pass();
    assert_eq!(bench.report(lost, Signal::Success), None);
}

#[test]
fn trap_3_a_thousand_at_once_get_one_probe() {
    let mut bench = Bench::half_open();
    let passed = (0..1_000).filter_map(|_| bench.try_pass()).count();
    assert_eq!(passed, 1);
}

#[test]
fn trap_4_stale_releases_hand_out_no_extra_probe() {
    let mut bench = Bench::standard();
    let stale: Vec<_> = (0..100).map(|_| bench.pass()).collect();
    bench.fail(5);
    bench.wait_for_event();
    let probe = bench.pass();
    for pass in stale {
        bench.circuit.release(bench.now, pass);
        assert_eq!(bench.try_pass(), None);
    }
    assert_eq!(bench.report(probe, Signal::Neutral), None);
    bench.pass();
    bench.circuit.release(bench.now, probe);
    assert_eq!(bench.try_pass(), None);
}

#[test]
fn trap_5_outcomes_of_an_older_state_change_nothing() {
    let mut bench = Bench::standard();
    let overhanging: Vec<_> = (0..40).map(|_| bench.pass()).collect();
    bench.fail(5);
    bench.wait_for_event();
    for pass in &overhanging[..20] {
        assert_eq!(bench.report(*pass, Signal::Success), None);
    }
    assert_eq!(bench.state(), State::HalfOpen);
    bench.succeed(2);
    assert_eq!(bench.state(), State::Closed);
    for pass in &overhanging[20..] {
        assert_eq!(bench.report(*pass, Signal::Failure), None);
        assert_eq!(bench.overdue(*pass), None);
    }
    assert_eq!(
        (bench.state(), bench.view().recent),
        (State::Closed, Totals::default())
    );
}

#[test]
fn trap_6_a_cancelled_probe_does_not_close() {
    let mut bench = Bench::half_open();
    for _ in 0..10 {
        assert_eq!(bench.attempt(Signal::Neutral), None);
    }
    assert_eq!(bench.state(), State::HalfOpen);
}

#[test]
fn trap_7_a_thousand_cancels_leave_the_circuit_closed() {
    let mut bench = Bench::standard();
    for _ in 0..1_000 {
        assert_eq!(bench.attempt(Signal::Neutral), None);
        let left = bench.pass();
        bench.circuit.release(bench.now, left);
        assert_eq!(bench.attempt(Signal::Limited), None);
    }
    assert_eq!(
        (bench.state(), bench.view().recent),
        (State::Closed, Totals::default())
    );
}

#[test]
fn trap_8_a_hang_is_counted_while_it_lasts() {
    let mut bench = Bench::standard();
    let hanging: Vec<_> = (0..5).map(|_| bench.pass()).collect();
    bench.wait(bench.circuit.slow_after());
    let transitions: Vec<_> = hanging
        .iter()
        .filter_map(|pass| bench.overdue(*pass))
        .collect();
    assert_eq!(transitions.len(), 1);
    assert_eq!(
        (bench.state(), transitions[0].why),
        (State::Open, "consecutive failures")
    );
}

#[test]
fn trap_9_a_probe_is_held_exactly_as_long_as_the_timeout_handed_in() {
    let settings = CircuitSettings {
        probe_max_wait: seconds(8),
        ..CircuitSettings::default()
    };
    let mut bench = Bench::new(settings);
    bench.fail(5);
    bench.wait_for_event();
    bench.pass();
    assert_eq!(bench.circuit.next_event(), Some(bench.now + seconds(8)));
}

#[test]
fn trap_11_failures_across_a_bucket_edge_are_seen_together() {
    let only_time = CircuitSettings {
        consecutive_failures: None,
        count_failed_percent: None,
        slow_percent: None,
        ..CircuitSettings::default()
    };
    for edge in [3, 6, 27, 30, 33] {
        let mut bench = Bench::new(only_time);
        bench.wait(seconds(edge) - Duration::from_secs(1));
        for _ in 0..20 {
            if bench.state() == State::Closed {
                bench.fail(1);
                bench.wait(Duration::from_millis(200));
            }
        }
        assert_eq!(bench.state(), State::Open, "failures around second {edge}");
    }
}

#[test]
fn trap_12_a_rare_caller_sees_the_outage_too() {
    let mut bench = Bench::standard();
    for _ in 0..5 {
        bench.fail(1);
        bench.wait(seconds(3_600));
    }
    assert_eq!(bench.view().opened, 1);
}

#[test]
fn trap_14_forced_modes_beat_every_timer_and_outcome() {
    let mut bench = Bench::open();
    bench.circuit.force(Mode::ForcedOpen, bench.now);
    assert_eq!(bench.circuit.next_event(), None);
    assert_eq!(bench.wait(seconds(86_400)), None);
    bench.circuit.demand(bench.now, 100, false);
    bench.circuit.hint(bench.now, QUICK);
    assert_eq!((bench.try_pass(), bench.state()), (None, State::Open));
    for mode in [Mode::ForcedClosed, Mode::MetricsOnly] {
        bench.circuit.force(mode, bench.now);
        bench.fail(1_000);
        let pass = bench.pass();
        assert_eq!((bench.overdue(pass), bench.state()), (None, State::Closed));
        let counted = if mode == Mode::MetricsOnly { 20 } else { 0 };
        assert_eq!(bench.view().recent.failed, counted);
    }
    bench.circuit.force(Mode::Auto, bench.now);
    assert_eq!(
        (bench.view().recent, bench.view().consecutive_failures),
        (Totals::default(), 0)
    );
}

#[test]
fn trap_15_a_pass_that_comes_back_twice_counts_once() {
    let mut bench = Bench::half_open();
    let probe = bench.pass();
    assert_eq!(bench.report(probe, Signal::Success), None);
    assert_eq!(bench.report(probe, Signal::Success), None);
    assert_eq!(bench.report(probe, Signal::Failure), None);
    assert_eq!(bench.state(), State::HalfOpen);
    let second = bench.pass();
    assert_eq!(bench.report(probe, Signal::Success), None);
    assert_eq!(
        bench.report(second, Signal::Success).map(|t| t.to),
        Some(State::Closed)
    );
}

#[test]
fn trap_17_refusals_are_recorded_nowhere() {
    let mut bench = Bench::open();
    let before = bench.view();
    for _ in 0..1_000 {
        assert_eq!(bench.try_pass(), None);
    }
    assert_eq!(bench.view(), before);
}

#[test]
fn trap_18_a_clock_that_jumps_back_neither_panics_nor_sticks() {
    let mut bench = Bench::half_open();
    bench.wait(seconds(3_600));
    let probe = bench.pass();
    let late = bench.now;
    bench.now -= seconds(3_000);
    assert_eq!(
        bench.report(probe, Signal::Failure).map(|t| t.to),
        Some(State::Open)
    );
    bench.now = late;
    bench.wait_for_event();
    bench.pass();
}

#[test]
fn half_the_last_attempts_failing_opens_from_the_tenth_on() {
    let mut bench = Bench::standard();
    for _ in 0..4 {
        bench.attempt(Signal::Failure);
        bench.attempt(Signal::Success);
    }
    assert_eq!(bench.attempt(Signal::Success), None);
    assert_eq!(
        bench.attempt(Signal::Failure).map(|t| t.why),
        Some("failure rate of the last attempts")
    );
}

#[test]
fn slow_successes_open_at_four_in_five() {
    let mut bench = Bench::standard();
    let mut opened = None;
    for n in 0..10 {
        let pass = bench.pass();
        let took = if n < 2 { seconds(1) } else { seconds(31) };
        opened = bench
            .circuit
            .report(bench.now, pass, Signal::Success, took, &mut bench.rng);
    }
    assert_eq!(opened.map(|t| t.why), Some("slow attempts"));
}

#[test]
fn the_interval_grows_with_failed_probes_up_to_the_cap_by_demand() {
    for (waiting, elsewhere, cap) in [(5, false, 3), (5, true, 60), (0, false, 60)] {
        let mut bench = Bench::new(steady(1.5));
        bench.circuit.demand(bench.now, waiting, elsewhere);
        bench.fail(5);
        let mut expected = 1.0_f64;
        for _ in 0..20 {
            let seen = bench.open_for().as_secs_f64();
            assert!(
                (seen - expected.min(f64::from(cap))).abs() < 1e-6,
                "{seen} of {expected}"
            );
            bench.wait_for_event();
            bench.fail(1);
            expected *= 1.5;
        }
    }
}

#[test]
fn calls_that_start_to_wait_cut_the_interval_short_and_leaving_does_not_stretch_it() {
    let mut bench = Bench::new(steady(10.0));
    bench.fail(5);
    for _ in 0..3 {
        bench.wait_for_event();
        bench.fail(1);
    }
    assert_eq!(bench.open_for(), seconds(60));
    bench.now += seconds(1);
    bench.circuit.demand(bench.now, 1, true);
    assert_eq!(bench.open_for(), seconds(59));
    bench.circuit.demand(bench.now, 1, false);
    assert_eq!(bench.open_for(), seconds(2));
    bench.circuit.demand(bench.now, 0, false);
    assert_eq!(bench.open_for(), seconds(2));
    bench.wait_for_event();
    bench.fail(1);
    assert_eq!(bench.open_for(), seconds(60));
}

#[test]
fn probes_of_those_who_waited_do_not_count_as_long_ones_once_others_serve() {
    let mut bench = Bench::new(steady(1.5));
    bench.circuit.demand(bench.now, 5, false);
    bench.fail(5);
    for _ in 0..20 {
        bench.wait_for_event();
        bench.fail(1);
    }
    assert_eq!(bench.open_for(), seconds(3));
    bench.circuit.demand(bench.now, 0, true);
    for expected in [6.75, 10.125, 15.1875] {
        bench.wait_for_event();
        bench.fail(1);
        let seen = bench.open_for().as_secs_f64();
        assert!((seen - expected).abs() < 1e-6, "{seen} of {expected}");
    }
}

#[test]
fn three_calls_are_left_to_another_target_for_each_that_probes() {
    let mut bench = Bench::new(steady(1.5));
    assert!(!bench.circuit.spares(bench.now, true));
    bench.fail(5);
    for _ in 0..4 {
        for _ in 0..3 {
            // Who was here before is spared all the same.
            assert!(bench.circuit.spares(bench.now, false));
            assert!(bench.circuit.spares(bench.now, true));
            bench.wait(seconds(4));
        }
        assert!(!bench.circuit.spares(bench.now, true));
        assert_eq!(bench.state(), State::HalfOpen);
        bench.fail(1);
    }
}

#[test]
fn no_call_is_spared_for_longer_than_half_a_minute_or_once_a_probe_succeeded() {
    let mut bench = Bench::open();
    bench.wait(seconds(29));
    assert!(bench.circuit.spares(bench.now, true));
    bench.wait(seconds(1));
    assert!(!bench.circuit.spares(bench.now, true));
    bench.fail(1);
    bench.wait_for_event();
    bench.succeed(1);
    assert_eq!(bench.state(), State::HalfOpen);
    assert!(!bench.circuit.spares(bench.now, true));
}

#[test]
fn jitter_only_shortens_and_by_a_fifth_at_most() {
    let (mut least, mut most) = (f64::MAX, 0.0_f64);
    for seed in 0..400 {
        let mut bench = Bench::standard();
        bench.rng = StdRng::seed_from_u64(seed);
        bench.fail(5);
        let seen = bench.open_for().as_secs_f64();
        (least, most) = (least.min(seen), most.max(seen));
    }
    assert!(
        (0.8..0.81).contains(&least) && (0.99..=1.0).contains(&most),
        "{least} to {most}"
    );
}

#[test]
fn a_hint_raises_never_shortens_and_ends_at_its_cap() {
    let mut bench = Bench::open();
    bench.circuit.hint(bench.now, QUICK);
    assert!(bench.open_for() >= Duration::from_millis(800));
    bench.circuit.hint(bench.now, seconds(40));
    bench.circuit.hint(bench.now, seconds(20));
    bench.circuit.demand(bench.now, 9, false);
    assert_eq!(bench.open_for(), seconds(40));
    bench.circuit.hint(bench.now, Duration::MAX);
    assert_eq!(bench.open_for(), seconds(300));
    let mut early = Bench::standard();
    early.circuit.hint(early.now, seconds(30));
    early.fail(5);
    assert_eq!(early.open_for(), seconds(30));
}

#[test]
fn after_closing_traffic_doubles_each_round_trip() {
    let mut bench = Bench::ramping();
    bench.circuit.demand(bench.now, 2_000, false);
    let mut rounds = Vec::new();
    while bench.view().ramp_allowed.is_some() {
        let batch: Vec<_> = std::iter::from_fn(|| bench.try_pass())
            .take(4_000)
            .collect();
        rounds.push(batch.len());
        bench.wait(seconds(4));
        for pass in batch {
            bench.report(pass, Signal::Success);
        }
        bench.wait(Duration::ZERO);
    }
    assert_eq!(rounds, [10, 20, 40, 80, 160, 320, 640]);
    assert!(bench.circuit.is_plain());
}

#[test]
fn a_ramp_that_holds_nobody_back_ends_by_itself() {
    let mut bench = Bench::ramping();
    bench.succeed(1);
    assert!(!bench.circuit.is_plain());
    bench.wait_for_event();
    assert!(bench.circuit.is_plain());
    assert_eq!(bench.view().opened, 1);
}

#[test]
fn a_ramp_with_waiting_calls_outlasts_slow_answers_and_lost_slots() {
    let mut bench = Bench::ramping();
    bench.circuit.demand(bench.now, 500, false);
    while bench.try_pass().is_some() {}
    bench.wait(seconds(59));
    assert_eq!(bench.try_pass(), None);
    bench.wait_for_event();
    bench.pass();
    assert!(bench.circuit.is_plain());
}

#[test]
fn two_failures_at_the_start_of_the_ramp_reopen_for_longer() {
    let mut bench = Bench::new(steady(1.5));
    bench.fail(5);
    bench.wait_for_event();
    bench.succeed(2);
    bench.fail(1);
    let reopened = bench.attempt(Signal::Failure).unwrap();
    assert_eq!(
        (reopened.to, reopened.why),
        (State::Open, "failures in the ramp")
    );
    assert_eq!(bench.open_for(), Duration::from_millis(1_500));
}

#[test]
fn two_failures_later_in_the_ramp_are_the_targets_usual_noise() {
    let mut bench = Bench::ramping();
    bench.succeed(10);
    bench.fail(2);
    assert_eq!(bench.state(), State::Closed);
    bench.fail(3);
    assert_eq!(bench.state(), State::Open);
}

#[test]
fn every_way_out_of_the_ramp_frees_its_slot() {
    let mut bench = Bench::ramping();
    let passes: Vec<_> = std::iter::from_fn(|| bench.try_pass()).collect();
    assert_eq!((passes.len(), bench.view().ramp_in_flight), (10, 10));
    bench.report(passes[0], Signal::Success);
    bench.report(passes[1], Signal::Failure);
    bench.report(passes[2], Signal::Limited);
    bench.report(passes[3], Signal::Neutral);
    bench.circuit.release(bench.now, passes[4]);
    bench.report(passes[5], Signal::Success);
    bench.overdue(passes[6]);
    assert_eq!(bench.view().ramp_in_flight, 4);
    bench
        .circuit
        .report_overdue_end(bench.now, passes[6], Signal::Failure, seconds(31));
    assert_eq!(bench.view().ramp_in_flight, 3);
}

#[test]
fn a_target_that_turned_slower_for_good_is_let_back_in() {
    let mut bench = Bench::standard();
    for _ in 0..100 {
        let pass = bench.pass();
        bench
            .circuit
            .report(bench.now, pass, Signal::Success, seconds(2), &mut bench.rng);
    }
    assert_eq!(bench.circuit.slow_after(), seconds(6));
    let late: Vec<_> = (0..5).map(|_| bench.pass()).collect();
    bench.wait(seconds(6));
    for pass in late {
        bench.overdue(pass);
    }
    bench.wait_for_event();
    let probe = bench.pass();
    bench.wait(seconds(6));
    bench.overdue(probe);
    bench.now += Duration::from_millis(100);
    bench
        .circuit
        .report_overdue_end(bench.now, probe, Signal::Success, seconds(8));
    assert_eq!(bench.circuit.next_event(), Some(bench.now));
    assert!(bench.circuit.slow_after() >= seconds(24));
    bench.wait_for_event();
    bench.succeed(2);
    assert_eq!(bench.state(), State::Closed);
}

#[test]
fn a_circuit_released_from_forced_open_has_to_prove_itself() {
    let mut bench = Bench::standard();
    let forced = bench.circuit.force(Mode::ForcedOpen, bench.now).unwrap();
    assert_eq!((forced.to, forced.until), (State::Open, None));
    assert_eq!(bench.circuit.force(Mode::ForcedOpen, bench.now), None);
    let back = bench.circuit.force(Mode::Auto, bench.now).unwrap();
    assert_eq!((back.from, back.to), (State::Open, State::HalfOpen));
    assert_eq!(bench.view().opened, 0);
}

#[test]
fn state_that_is_not_trusted_goes_half_open_unless_forced() {
    let mut bench = Bench::standard();
    bench.fail(4);
    let stale = bench.pass();
    let doubted = bench.circuit.make_conservative().unwrap();
    assert_eq!(
        (doubted.to, bench.view().recent),
        (State::HalfOpen, Totals::default())
    );
    assert_eq!(bench.report(stale, Signal::Failure), None);
    bench.circuit.force(Mode::ForcedClosed, bench.now);
    assert_eq!(bench.circuit.make_conservative(), None);
    bench.pass();
}

#[test]
fn only_the_target_and_the_way_to_it_can_open() {
    let told = |blame: Blame| Signal::from(blame);
    assert_eq!(told(Blame::Nobody), Signal::Success);
    assert_eq!(told(Blame::Quota), Signal::Limited);
    for blame in [Blame::Target, Blame::Network] {
        assert_eq!(told(blame), Signal::Failure);
    }
    for blame in [Blame::Caller, Blame::Credential, Blame::Departed] {
        assert_eq!(told(blame), Signal::Neutral);
    }
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    let refused = |change: fn(&mut CircuitSettings)| {
        let mut settings = CircuitSettings::default();
        change(&mut settings);
        let refused = Circuit::new(settings, Instant::now()).unwrap_err();
        refused.field.strip_prefix("breaker.").unwrap()
    };
    assert_eq!(
        refused(|s| s.consecutive_failures = Some(0)),
        "consecutive_failures"
    );
    assert_eq!(refused(|s| s.min_calls = 0), "min_calls");
    assert_eq!(refused(|s| s.min_calls = 21), "min_calls");
    assert_eq!(refused(|s| s.slow_percent = Some(101)), "slow_percent");
    assert_eq!(refused(|s| s.open_growth = f64::NAN), "open_growth");
    assert_eq!(refused(|s| s.open_jitter = 1.0), "open_jitter");
    assert_eq!(refused(|s| s.spared_calls = 10_001), "spared_calls");
    assert_eq!(
        refused(|s| s.spare_at_most = Duration::MAX),
        "spare_at_most"
    );
    assert_eq!(refused(|s| s.open_first = Duration::ZERO), "open_first");
    assert_eq!(
        refused(|s| s.probe_max_wait = Duration::MAX),
        "probe_max_wait"
    );
    assert_eq!(refused(|s| s.slow_min_samples = 257), "slow_min_samples");
    assert_eq!(refused(|s| s.ramp_start = 0), "ramp_start");
    assert_eq!(refused(|s| s.time_buckets = 0), "time_buckets");
}

#[derive(Debug, Clone)]
enum Op {
    Admit,
    End(usize, Signal),
    Release(usize),
    Overdue(usize),
    Wait(u64),
    Demand(usize, bool),
    Hint(u64),
    Force(Mode),
}

fn any_op() -> impl Strategy<Value = Op> {
    let signal = prop_oneof![
        4 => Just(Signal::Failure),
        4 => Just(Signal::Success),
        1 => Just(Signal::Limited),
        1 => Just(Signal::Neutral),
    ];
    let mode = prop_oneof![
        3 => Just(Mode::Auto),
        1 => Just(Mode::ForcedOpen),
        1 => Just(Mode::ForcedClosed),
        1 => Just(Mode::MetricsOnly),
    ];
    prop_oneof![
        12 => Just(Op::Admit),
        12 => (any::<usize>(), signal).prop_map(|(which, signal)| Op::End(which, signal)),
        2 => any::<usize>().prop_map(Op::Release),
        2 => any::<usize>().prop_map(Op::Overdue),
        6 => (0_u64..4_000).prop_map(Op::Wait),
        1 => (60_000_u64..400_000).prop_map(Op::Wait),
        1 => (0_usize..3, any::<bool>()).prop_map(|(n, elsewhere)| Op::Demand(n, elsewhere)),
        1 => (0_u64..10_000).prop_map(Op::Hint),
        1 => mode.prop_map(Op::Force),
    ]
}

/// The circuit as one would draw it on a board: three states and a run of three.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Drawn {
    Closed(u32),
    Open,
    HalfOpen {
        probe: Option<(u64, Instant)>,
        successes: u32,
    },
}

#[derive(Debug)]
struct Model {
    mode: Mode,
    drawn: Drawn,
    generation: u64,
}

impl Model {
    const RUN: u32 = 3;

    /// Only the run counts, and the ramp ends as it begins.
    fn settings() -> CircuitSettings {
        CircuitSettings {
            consecutive_failures: Some(Self::RUN),
            count_failed_percent: None,
            time_failed_percent: None,
            slow_percent: None,
            ramp_end: 0,
            ..CircuitSettings::default()
        }
    }

    fn go(&mut self, drawn: Drawn) {
        self.drawn = drawn;
        self.generation += 1;
    }

    fn admits(&mut self, next_probe: Option<u64>, now: Instant) -> bool {
        match &mut self.drawn {
            Drawn::Closed(_) => true,
            Drawn::Open | Drawn::HalfOpen { probe: Some(_), .. } => false,
            Drawn::HalfOpen { probe, .. } => {
                *probe = next_probe.map(|id| (id, now + seconds(60)));
                true
            }
        }
    }

    fn end(&mut self, pass: Pass, signal: Signal) {
        if pass.generation != self.generation {
            return;
        }
        match (&mut self.drawn, signal) {
            (Drawn::Closed(run), Signal::Success) => *run = 0,
            (Drawn::Closed(run), Signal::Failure) => {
                *run += 1;
                if *run >= Self::RUN && self.mode == Mode::Auto {
                    self.go(Drawn::Open);
                }
            }
            (Drawn::HalfOpen { probe, successes }, _)
                if probe.map(|(id, _)| id) == pass.probe && probe.is_some() =>
            {
                *probe = None;
                match signal {
                    Signal::Success if *successes == 1 => self.go(Drawn::Closed(0)),
                    Signal::Success => *successes += 1,
                    Signal::Failure | Signal::Limited => self.go(Drawn::Open),
                    Signal::Neutral => {}
                }
            }
            _ => {}
        }
    }

    fn force(&mut self, mode: Mode) {
        if mode == self.mode {
            return;
        }
        let left = std::mem::replace(&mut self.mode, mode);
        self.go(match (mode, left) {
            (Mode::ForcedOpen, _) => Drawn::Open,
            (Mode::Auto, Mode::ForcedOpen) => Drawn::HalfOpen {
                probe: None,
                successes: 0,
            },
            _ => Drawn::Closed(0),
        });
    }

    fn time_passes(&mut self, now: Instant, due: bool) {
        match self.drawn {
            Drawn::Open if due => self.go(Drawn::HalfOpen {
                probe: None,
                successes: 0,
            }),
            Drawn::HalfOpen {
                probe: Some((_, expires)),
                ..
            } if expires <= now => {
                self.go(Drawn::Open);
            }
            _ => {}
        }
    }

    fn state(&self) -> State {
        match self.drawn {
            Drawn::Closed(_) => State::Closed,
            Drawn::Open => State::Open,
            Drawn::HalfOpen { .. } => State::HalfOpen,
        }
    }
}

/// Applies one step to the circuit; passes in flight are kept with whether they were overdue.
fn apply(bench: &mut Bench, in_flight: &mut Vec<(Pass, bool)>, op: &Op) {
    let pick = |which: usize, of: &Vec<(Pass, bool)>| which.checked_rem(of.len());
    match *op {
        Op::Admit => in_flight.extend(bench.try_pass().map(|pass| (pass, false))),
        Op::End(which, signal) => {
            if let Some(index) = pick(which, in_flight) {
                let (pass, overdue) = in_flight.swap_remove(index);
                if overdue {
                    bench
                        .circuit
                        .report_overdue_end(bench.now, pass, signal, seconds(31));
                } else {
                    bench.report(pass, signal);
                }
            }
        }
        Op::Release(which) => {
            if let Some(index) = pick(which, in_flight) {
                bench
                    .circuit
                    .release(bench.now, in_flight.swap_remove(index).0);
            }
        }
        Op::Overdue(which) => {
            if let Some(index) = pick(which, in_flight)
                && !std::mem::replace(&mut in_flight[index].1, true)
            {
                bench.overdue(in_flight[index].0);
            }
        }
        Op::Wait(millis) => {
            bench.wait(Duration::from_millis(millis));
        }
        Op::Demand(waiting, elsewhere) => bench.circuit.demand(bench.now, waiting, elsewhere),
        Op::Hint(millis) => bench.circuit.hint(bench.now, Duration::from_millis(millis)),
        Op::Force(mode) => {
            bench.circuit.force(mode, bench.now);
        }
    }
}

proptest! {
    #[test]
    fn trap_16_any_history_ends_where_the_model_ends(
        ops in prop::collection::vec(any_op(), 0..300),
    ) {
        let mut bench = Bench::new(Model::settings());
        let mut model = Model { mode: Mode::Auto, drawn: Drawn::Closed(0), generation: 0 };
        let mut in_flight: Vec<(Pass, bool)> = Vec::new();
        for op in &ops {
            let before = in_flight.clone();
            let due_at = bench.circuit.next_event();
            apply(&mut bench, &mut in_flight, op);
            let picked = |which: usize| before[which % before.len()];
            match *op {
                Op::Admit => {
                    let given = in_flight.len() > before.len();
                    let probe = in_flight.last().and_then(|(pass, _)| pass.probe);
                    prop_assert_eq!(model.admits(probe.filter(|_| given), bench.now), given);
                }
                Op::End(which, signal) if !before.is_empty() => {
                    let (pass, overdue) = picked(which);
                    model.end(pass, if overdue { Signal::Neutral } else { signal });
                }
                Op::Release(which) if !before.is_empty() => {
                    model.end(picked(which).0, Signal::Neutral);
                }
                Op::Overdue(which) if !before.is_empty() && !picked(which).1 => {
                    model.end(picked(which).0, Signal::Failure);
                }
                Op::Wait(_) => {
                    model.time_passes(bench.now, due_at.is_some_and(|at| at <= bench.now));
                }
                Op::Force(mode) => model.force(mode),
                _ => {}
            }
            prop_assert_eq!(model.state(), bench.state(), "after {:?}", op);
            prop_assert_eq!(model.generation, bench.circuit.generation(), "after {:?}", op);
            let longest = bench.now + seconds(300);
            prop_assert!(bench.circuit.next_event().is_none_or(|at| at <= longest));
        }
    }

    #[test]
    fn time_alone_brings_a_pass_whatever_was_lost(
        ops in prop::collection::vec(any_op(), 0..300),
    ) {
        let mut bench = Bench::standard();
        let mut in_flight = Vec::new();
        ops.iter().for_each(|op| apply(&mut bench, &mut in_flight, op));
        bench.circuit.force(Mode::Auto, bench.now);
        let mut passed = false;
        for _ in 0..4 {
            passed = bench.try_pass().is_some();
            if passed {
                break;
            }
            prop_assert!(bench.circuit.next_event().is_some());
            bench.wait_for_event();
        }
        prop_assert!(passed);
    }

    #[test]
    fn nothing_stays_taken_once_every_pass_is_back(
        ops in prop::collection::vec(any_op(), 0..300),
    ) {
        let mut bench = Bench::new(CircuitSettings { probe_successes: 1, ..Model::settings() });
        let mut in_flight = Vec::new();
        ops.iter().for_each(|op| apply(&mut bench, &mut in_flight, op));
        for (pass, overdue) in in_flight {
            if overdue {
                bench.circuit.report_overdue_end(bench.now, pass, Signal::Neutral, QUICK);
            } else {
                bench.circuit.release(bench.now, pass);
            }
        }
        prop_assert_eq!((bench.view().probing, bench.view().ramp_in_flight), (false, 0));
    }

    #[test]
    fn trap_10_any_healthy_past_then_twenty_failures_opens(
        healthy in prop_oneof![0_usize..20, 0_usize..3_000],
        run in any::<bool>(),
    ) {
        let rule = CircuitSettings { time_failed_percent: None, ..CircuitSettings::default() };
        let window_alone = CircuitSettings { consecutive_failures: None, ..rule };
        let mut bench = Bench::new(if run { rule } else { window_alone });
        bench.succeed(healthy);
        let mut failures = 0;
        while bench.state() == State::Closed {
            bench.fail(1);
            failures += 1;
            prop_assert!(failures <= 20);
        }
        // Ten attempts at least, and as many failures as successes left in the window.
        let by_window = if healthy < 10 { healthy.max(10 - healthy) } else { 10 };
        prop_assert_eq!(failures, if run { by_window.min(5) } else { by_window });
    }
}
