//! A circuit breaker for one target: closed, open, half-open, then a ramp.
//!
//! It opens on a run of failures, on a failure rate over the last attempts or over time, and on a
//! rate of slow attempts; an attempt still in flight past [`Circuit::slow_after`] counts at once,
//! so that a hang is seen before its timeout. One probe at a time decides when to close.
//!
//! Every pass carries the generation of the state that gave it, and an outcome of another
//! generation changes nothing. Failure mode: a circuit whose [`Circuit::poll`] nobody calls stays
//! open; call it at [`Circuit::next_event`] and before each admission.

use std::time::Duration;

use rand::{Rng, RngExt};
use tokio::time::Instant;

use self::latency::Latency;
use self::ramp::{Ramp, later};
pub use self::settings::CircuitSettings;
use super::InvalidPolicy;
use super::rolling_window::{CountWindow, Sample, TimeWindow, Totals};
use crate::verdict::Blame;

mod latency;
mod ramp;
mod settings;

/// The breaker of one target.
#[derive(Debug, Clone)]
pub struct Circuit {
    settings: CircuitSettings,
    mode: Mode,
    phase: Phase,
    generation: u64,
    recent: CountWindow,
    timed: TimeWindow,
    latency: Latency,
    timer: OpenTimer,
    /// Some call waits for this target.
    waiting: bool,
    probes: u64,
    /// The probe that was overdue and reopened; a late success of it is news.
    overdue_probe: Option<u64>,
    opened: u64,
}

impl Circuit {
    /// Creates a closed circuit.
    ///
    /// # Errors
    /// A setting is out of its range.
    pub fn new(settings: CircuitSettings, now: Instant) -> Result<Self, InvalidPolicy> {
        settings.validate()?;
        Ok(Self {
            mode: Mode::Auto,
            phase: Phase::CLOSED,
            generation: 0,
            recent: CountWindow::new(settings.count_window)?,
            timed: TimeWindow::new(settings.time_window, settings.time_buckets, now)?,
            latency: Latency::new(&settings),
            timer: OpenTimer::new(&settings),
            waiting: false,
            probes: 0,
            overdue_probe: None,
            opened: 0,
            settings,
        })
    }

    /// Asks for the right to make one attempt. Each pass given must come back exactly once, through
    /// [`Self::report`], [`Self::release`] or [`Self::report_overdue_end`].
    pub fn admit(&mut self, now: Instant) -> Admission {
        self.end_ramp_when_over(now);
        let generation = self.generation;
        match &mut self.phase {
            Phase::Closed { ramp: None, .. } => Admission::Pass(Pass {
                generation,
                probe: None,
                ramp: false,
            }),
            Phase::Closed {
                ramp: Some(ramp), ..
            } => {
                if ramp.admit(now) {
                    Admission::Pass(Pass {
                        generation,
                        probe: None,
                        ramp: true,
                    })
                } else {
                    Admission::Wait { until: None }
                }
            }
            Phase::HalfOpen { probe: Some(_), .. } => Admission::Wait { until: None },
            Phase::HalfOpen { probe, .. } => {
                self.probes = self.probes.wrapping_add(1);
                let expires = later(now, self.settings.probe_max_wait);
                *probe = Some(Lease {
                    id: self.probes,
                    expires,
                });
                Admission::Pass(Pass {
                    generation,
                    probe: Some(self.probes),
                    ramp: false,
                })
            }
            Phase::Open { until, .. } => Admission::Wait { until: *until },
        }
    }

    /// Takes the outcome of an attempt that was not overdue. `took` is the time to what makes an
    /// answer useful, such as its first content.
    #[expect(
        clippy::too_many_arguments,
        reason = "an outcome, its time, and the policies' pair"
    )]
    pub fn report(
        &mut self,
        now: Instant,
        pass: Pass,
        signal: Signal,
        took: Duration,
        rng: &mut impl Rng,
    ) -> Option<Transition> {
        if !self.is_current(pass) || self.mode == Mode::ForcedClosed {
            return None;
        }
        let slow = took > self.slow_after();
        if signal == Signal::Success {
            self.latency.record(took, &self.settings);
        }
        match (&mut self.phase, signal) {
            (Phase::Closed { .. }, Signal::Success) => {
                self.free_ramp_slot(now, pass);
                self.count(
                    now,
                    Sample {
                        failed: false,
                        slow,
                    },
                    rng,
                )
            }
            (Phase::Closed { .. }, Signal::Failure) => {
                self.free_ramp_slot(now, pass);
                self.count(now, Sample { failed: true, slow }, rng)
            }
            (Phase::HalfOpen { .. }, Signal::Success) => {
                if slow {
                    self.latency.relearn(took, &self.settings);
                }
                self.on_probe_success(now)
            }
            (Phase::HalfOpen { .. }, Signal::Failure) => {
                self.timer.draw(rng, &self.settings);
                Some(self.open(now, "probe failed"))
            }
            (Phase::HalfOpen { .. }, Signal::Limited) => {
                self.timer.draw(rng, &self.settings);
                Some(self.open(now, "probe limited"))
            }
            (_, Signal::Limited | Signal::Neutral) | (Phase::Open { .. }, _) => {
                self.release(now, pass);
                None
            }
        }
    }

    /// Takes a server's word that no attempt may come before `not_before` has passed: the circuit,
    /// if or when it is open, stays so until then, `hint_cap` at most. A later hint never shortens.
    pub fn hint(&mut self, now: Instant, not_before: Duration) {
        let hinted = later(now, not_before.min(self.settings.hint_cap));
        self.timer.hinted = self.timer.hinted.max(Some(hinted));
        if let Phase::Open {
            until: Some(until), ..
        } = &mut self.phase
        {
            *until = hinted.max(*until);
        }
    }

    /// Counts an attempt in flight for longer than [`Self::slow_after`] as a slow failure, now; for
    /// a probe, as a failed one. Call once a pass; its end then goes to
    /// [`Self::report_overdue_end`] instead of [`Self::report`].
    pub fn overdue(&mut self, now: Instant, pass: Pass, rng: &mut impl Rng) -> Option<Transition> {
        if !self.is_current(pass) || self.mode == Mode::ForcedClosed {
            return None;
        }
        if self.phase.state() == State::HalfOpen {
            self.overdue_probe = pass.probe;
            self.timer.draw(rng, &self.settings);
            return Some(self.open(now, "probe overdue"));
        }
        self.count(
            now,
            Sample {
                failed: true,
                slow: true,
            },
            rng,
        )
    }

    /// Ends a pass that was counted by [`Self::overdue`]: frees its ramp slot and counts nothing.
    ///
    /// A success still teaches the usual latency. That of the probe whose lateness reopened the
    /// circuit shows a target that is well but slower than before: the latency is learnt anew and
    /// the next probe is due at once. Without it such a target would stay shut out for ever.
    pub fn report_overdue_end(&mut self, now: Instant, pass: Pass, signal: Signal, took: Duration) {
        self.release(now, pass);
        if signal != Signal::Success {
            return;
        }
        if pass.generation == self.generation {
            self.latency.record(took, &self.settings);
        }
        if pass.probe.is_some() && pass.probe == self.overdue_probe {
            self.overdue_probe = None;
            self.latency.relearn(took, &self.settings);
            if let Phase::Open {
                until: Some(until), ..
            } = &mut self.phase
            {
                *until = self.timer.hinted.map_or(now, |hinted| hinted.max(now));
            }
        }
    }

    /// Takes back a pass whose attempt says nothing: dropped, cancelled, or never sent.
    pub fn release(&mut self, now: Instant, pass: Pass) {
        if !self.is_current(pass) {
            return;
        }
        match &mut self.phase {
            Phase::HalfOpen { probe, .. } => *probe = None,
            Phase::Closed { .. } => self.free_ramp_slot(now, pass),
            Phase::Open { .. } => {}
        }
    }

    /// Learns how many calls wait for this target, and whether another serves them meanwhile. The
    /// pending interval is cut short when calls start to wait; it never grows in mid-course.
    pub fn demand(&mut self, now: Instant, waiting: usize, elsewhere: bool) {
        let waits = waiting > 0;
        if let Phase::Closed {
            ramp: Some(ramp), ..
        } = &mut self.phase
            && (waits || self.waiting)
        {
            ramp.on_waiting(now);
        }
        self.waiting = waits;
        self.timer.pressed = waits && !elsewhere;
        if let Phase::Open {
            since,
            until: Some(until),
        } = &mut self.phase
            && self.timer.pressed
        {
            *until = self.timer.until(*since, &self.settings).min(*until);
        }
    }

    /// Does what time alone does: open to half-open when the probe is due, back to open when a
    /// probe outlives its lease (with the jitter drawn last), and the end of a ramp.
    pub fn poll(&mut self, now: Instant) -> Option<Transition> {
        self.end_ramp_when_over(now);
        match &self.phase {
            Phase::Open {
                until: Some(until), ..
            } if *until <= now => Some(self.enter(Phase::PROBING, "probe due")),
            Phase::HalfOpen {
                probe: Some(lease), ..
            } if lease.expires <= now => Some(self.open(now, "probe lease expired")),
            Phase::Closed { .. } | Phase::Open { .. } | Phase::HalfOpen { .. } => None,
        }
    }

    /// When [`Self::poll`] will next have something to do, if time alone brings it.
    #[must_use]
    pub fn next_event(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Open { until, .. } => *until,
            Phase::HalfOpen { probe, .. } => probe.as_ref().map(|lease| lease.expires),
            Phase::Closed { ramp, .. } => ramp
                .as_ref()
                .map(|ramp| ramp.ends_at(&self.settings, self.waiting)),
        }
    }

    /// Sets the mode; it holds against every timer and outcome until the next one. Back to `Auto`,
    /// a circuit that was forced open has to prove itself with probes.
    pub fn force(&mut self, mode: Mode, now: Instant) -> Option<Transition> {
        if mode == self.mode {
            return None;
        }
        let left = std::mem::replace(&mut self.mode, mode);
        self.forget_outcomes();
        let from = self.phase.state();
        let phase = match mode {
            Mode::ForcedOpen => Phase::Open {
                since: now,
                until: None,
            },
            Mode::Auto if left == Mode::ForcedOpen => Phase::PROBING,
            Mode::Auto | Mode::ForcedClosed | Mode::MetricsOnly => Phase::CLOSED,
        };
        let transition = self.enter(phase, mode.as_str());
        (from != transition.to).then_some(transition)
    }

    /// Distrusts what it holds: forgets windows and latencies, and goes half-open unless forced.
    pub fn make_conservative(&mut self) -> Option<Transition> {
        self.forget_outcomes();
        self.latency = Latency::new(&self.settings);
        (self.mode == Mode::Auto).then(|| self.enter(Phase::PROBING, "state not trusted"))
    }

    /// The state that callers see; a forced mode shows as the state that it forces.
    #[must_use]
    pub const fn state(&self) -> State {
        self.phase.state()
    }

    /// Whether [`Self::admit`] would give a plain pass of this generation without any bookkeeping,
    /// so that an atomic beside the circuit can answer for it. Changes only in `&mut` methods.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.mode == Mode::Auto && matches!(self.phase, Phase::Closed { ramp: None, .. })
    }

    /// Counts state changes; an outcome of another generation is stale.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// The time in flight past which an attempt is slow.
    #[must_use]
    pub const fn slow_after(&self) -> Duration {
        self.latency.slow_after()
    }

    /// Shows everything that a status page needs.
    #[must_use]
    pub fn view(&self, now: Instant) -> CircuitView {
        let (run, ramp) = match &self.phase {
            Phase::Closed { run, ramp } => (*run, ramp.as_ref()),
            Phase::Open { .. } | Phase::HalfOpen { .. } => (0, None),
        };
        CircuitView {
            state: self.state(),
            mode: self.mode,
            generation: self.generation,
            recent: self.recent.totals(),
            timed: self.timed.totals(now),
            consecutive_failures: run,
            median: self.latency.median(),
            slow_after: self.slow_after(),
            opened: self.opened,
            open_until: match self.phase {
                Phase::Open { until, .. } => until,
                Phase::Closed { .. } | Phase::HalfOpen { .. } => None,
            },
            probing: matches!(self.phase, Phase::HalfOpen { probe: Some(_), .. }),
            ramp_allowed: ramp.map(Ramp::allowed),
            ramp_in_flight: ramp.map_or(0, Ramp::in_flight),
        }
    }

    /// Whether the pass belongs to this generation and, being a probe, still holds its slot.
    fn is_current(&self, pass: Pass) -> bool {
        let held = match &self.phase {
            Phase::HalfOpen { probe, .. } => probe.as_ref().map(|lease| lease.id),
            Phase::Closed { .. } => None,
            Phase::Open { .. } => return false,
        };
        pass.generation == self.generation
            && pass.probe == held
            && (held.is_some() || self.phase.state() == State::Closed)
    }

    fn count(&mut self, now: Instant, sample: Sample, rng: &mut impl Rng) -> Option<Transition> {
        self.recent.record(sample);
        self.timed.record(now, sample);
        let mut unproven = false;
        let mut in_a_row = 0;
        if let Phase::Closed { run, ramp } = &mut self.phase {
            *run = if sample.failed {
                run.saturating_add(1)
            } else {
                0
            };
            in_a_row = *run;
            if let Some(ramp) = ramp {
                unproven = ramp.is_unproven(&self.settings);
                if !sample.failed {
                    ramp.on_success();
                }
            }
        }
        if self.mode != Mode::Auto {
            return None;
        }
        let why = if unproven && in_a_row >= self.settings.ramp_failures {
            "failures in the ramp"
        } else {
            self.tripped_by(now, in_a_row)?
        };
        self.timer.draw(rng, &self.settings);
        Some(self.open(now, why))
    }

    fn tripped_by(&self, now: Instant, in_a_row: u32) -> Option<&'static str> {
        let settings = &self.settings;
        let (recent, timed) = (self.recent.totals(), self.timed.totals(now));
        let enough = |totals: Totals| totals.calls >= settings.min_calls;
        if settings
            .consecutive_failures
            .is_some_and(|run| in_a_row >= run)
        {
            return Some("consecutive failures");
        }
        if enough(recent)
            && settings
                .count_failed_percent
                .is_some_and(|p| recent.failed_at_least(p))
        {
            return Some("failure rate of the last attempts");
        }
        if enough(timed)
            && settings
                .time_failed_percent
                .is_some_and(|p| timed.failed_at_least(p))
        {
            return Some("failure rate over time");
        }
        let slow = enough(timed)
            && settings
                .slow_percent
                .is_some_and(|p| timed.slow_at_least(p));
        slow.then_some("slow attempts")
    }

    fn on_probe_success(&mut self, now: Instant) -> Option<Transition> {
        let Phase::HalfOpen { successes, probe } = &mut self.phase else {
            return None;
        };
        *successes = successes.saturating_add(1);
        *probe = None;
        if *successes < self.settings.probe_successes {
            return None;
        }
        self.forget_outcomes();
        let ramp = Some(Ramp::new(&self.settings, now));
        Some(self.enter(Phase::Closed { run: 0, ramp }, "probes succeeded"))
    }

    fn open(&mut self, now: Instant, why: &'static str) -> Transition {
        // A target that falls over in its ramp has not recovered: the back-off goes on.
        match self.phase {
            Phase::Closed { ramp: None, .. } => self.timer.restart(&self.settings),
            Phase::Closed { .. } | Phase::Open { .. } | Phase::HalfOpen { .. } => {
                self.timer.grow(&self.settings);
            }
        }
        self.opened = self.opened.saturating_add(1);
        let until = Some(self.timer.until(now, &self.settings));
        self.enter(Phase::Open { since: now, until }, why)
    }

    const fn enter(&mut self, phase: Phase, why: &'static str) -> Transition {
        let from = self.phase.state();
        self.generation = self.generation.wrapping_add(1);
        self.phase = phase;
        let until = match self.phase {
            Phase::Open { until, .. } => until,
            Phase::Closed { .. } | Phase::HalfOpen { .. } => None,
        };
        Transition {
            from,
            to: self.phase.state(),
            why,
            until,
        }
    }

    fn forget_outcomes(&mut self) {
        self.recent.clear();
        self.timed.clear();
        self.timer.hinted = None;
        self.overdue_probe = None;
    }

    fn free_ramp_slot(&mut self, now: Instant, pass: Pass) {
        if let Phase::Closed {
            ramp: Some(ramp), ..
        } = &mut self.phase
            && pass.ramp
        {
            ramp.free(now);
        }
    }

    fn end_ramp_when_over(&mut self, now: Instant) {
        if let Phase::Closed { ramp, .. } = &mut self.phase {
            let over = |ramp: &mut Ramp| ramp.is_over(&self.settings, self.waiting, now);
            ramp.take_if(over);
        }
    }
}

/// Right to make one attempt, given by [`Circuit::admit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    /// Generation of the circuit that gave it.
    pub generation: u64,
    /// The probe's id, when the attempt decides over a half-open circuit.
    pub probe: Option<u64>,
    /// It holds one of the ramp's slots.
    pub ramp: bool,
}

/// Answer to a request for a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "who asks must handle both answers")]
pub enum Admission {
    /// Go.
    Pass(Pass),
    /// Not now.
    Wait {
        /// When the probe is due; `None` when an outcome or an operator has to come first.
        until: Option<Instant>,
    },
}

/// What an attempt's outcome tells a circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(
    clippy::exhaustive_enums,
    reason = "a new signal must be decided wherever one is read"
)]
pub enum Signal {
    /// The target answered.
    Success,
    /// The target, or the way to it, failed.
    Failure,
    /// The quota refused: counted nowhere while closed, but no proof of health in a probe.
    Limited,
    /// It says nothing about the target.
    Neutral,
}

impl From<Blame> for Signal {
    fn from(blame: Blame) -> Self {
        match blame {
            Blame::Nobody => Self::Success,
            Blame::Target | Blame::Network => Self::Failure,
            Blame::Quota => Self::Limited,
            Blame::Caller | Blame::Credential | Blame::Departed => Self::Neutral,
        }
    }
}

/// Who decides: the circuit, or an operator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mode {
    /// The circuit.
    #[default]
    Auto,
    /// Nothing passes.
    ForcedOpen,
    /// Everything passes, nothing is counted.
    ForcedClosed,
    /// Everything passes and is counted; nothing opens.
    MetricsOnly,
}

impl Mode {
    /// Stable word for logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::ForcedOpen => "forced_open",
            Self::ForcedClosed => "forced_closed",
            Self::MetricsOnly => "metrics_only",
        }
    }
}

/// State of a circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(
    clippy::exhaustive_enums,
    reason = "a breaker has these three states by definition"
)]
pub enum State {
    /// Attempts pass.
    Closed,
    /// None passes.
    Open,
    /// One probe at a time passes.
    HalfOpen,
}

impl State {
    /// Stable word for logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// One change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// The state left.
    pub from: State,
    /// The state entered.
    pub to: State,
    /// The rule that did it. Values are few and fixed.
    pub why: &'static str,
    /// When the probe is due, for an open circuit that a timer ends.
    pub until: Option<Instant>,
}

/// A circuit as a status page shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CircuitView {
    /// The state.
    pub state: State,
    /// Who decides.
    pub mode: Mode,
    /// State changes so far.
    pub generation: u64,
    /// The last attempts.
    pub recent: Totals,
    /// The attempts of the last stretch of time.
    pub timed: Totals,
    /// Failures since the last success.
    pub consecutive_failures: u32,
    /// Usual latency of successes, once enough are known.
    pub median: Option<Duration>,
    /// Time in flight past which an attempt is slow.
    pub slow_after: Duration,
    /// Times it opened by itself, failed probes included.
    pub opened: u64,
    /// When the probe is due, while open.
    pub open_until: Option<Instant>,
    /// A probe is in flight.
    pub probing: bool,
    /// Attempts in flight that the ramp allows, while there is one.
    pub ramp_allowed: Option<u32>,
    /// Attempts in flight that the ramp counts.
    pub ramp_in_flight: u32,
}

#[derive(Debug, Clone)]
enum Phase {
    Closed {
        run: u32,
        ramp: Option<Ramp>,
    },
    Open {
        since: Instant,
        until: Option<Instant>,
    },
    HalfOpen {
        probe: Option<Lease>,
        successes: u32,
    },
}

impl Phase {
    const CLOSED: Self = Self::Closed { run: 0, ramp: None };
    const PROBING: Self = Self::HalfOpen {
        probe: None,
        successes: 0,
    };

    const fn state(&self) -> State {
        match self {
            Self::Closed { .. } => State::Closed,
            Self::Open { .. } => State::Open,
            Self::HalfOpen { .. } => State::HalfOpen,
        }
    }
}

#[derive(Debug, Clone)]
struct Lease {
    id: u64,
    expires: Instant,
}

/// How long the circuit stays open.
#[derive(Debug, Clone)]
struct OpenTimer {
    /// Interval by failed probes, before the cap by demand.
    interval: Duration,
    /// Share of the interval that the jitter leaves.
    kept: f64,
    hinted: Option<Instant>,
    /// Calls wait for this target and nothing else serves them.
    pressed: bool,
}

impl OpenTimer {
    const fn new(settings: &CircuitSettings) -> Self {
        Self {
            interval: settings.open_first,
            kept: 1.0,
            hinted: None,
            pressed: false,
        }
    }

    fn draw(&mut self, rng: &mut impl Rng, settings: &CircuitSettings) {
        self.kept = 1.0 - settings.open_jitter * rng.random::<f64>();
    }

    const fn restart(&mut self, settings: &CircuitSettings) {
        self.interval = settings.open_first;
    }

    fn grow(&mut self, settings: &CircuitSettings) {
        let longest = settings.open_cap_idle.max(settings.open_cap_waiting);
        self.interval = self
            .interval
            .min(longest)
            .mul_f64(settings.open_growth)
            .min(longest);
    }

    fn until(&self, since: Instant, settings: &CircuitSettings) -> Instant {
        let pressed = self.pressed;
        let cap = if pressed {
            settings.open_cap_waiting
        } else {
            settings.open_cap_idle
        };
        let due = later(since, self.interval.min(cap).mul_f64(self.kept));
        self.hinted.map_or(due, |hinted| hinted.max(due))
    }
}

#[cfg(test)]
mod tests;
