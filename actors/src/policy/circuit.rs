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

use rand::Rng;
use tokio::time::Instant;

use self::latency::Latency;
use self::open_timer::{OpenTimer, later};
pub use self::pass::{Admission, Pass, Signal};
use self::phase::{Lease, Phase};
use self::ramp::Ramp;
pub use self::settings::CircuitSettings;
use self::sparing::Sparing;
pub use self::state::{CircuitView, Mode, State, Transition};
use self::trip::tripped_by;
use super::InvalidPolicy;
use super::rolling_window::{CountWindow, Sample, TimeWindow};

mod latency;
mod open_timer;
mod pass;
mod phase;
mod ramp;
mod settings;
mod sparing;
mod state;
mod trip;

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
    sparing: Sparing,
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
            sparing: Sparing::from(now),
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
            Phase::Closed { ramp: None, .. } => Admission::Pass(Pass::plain(generation)),
            Phase::Closed {
                ramp: Some(ramp), ..
            } => {
                if ramp.admit(now) {
                    Admission::Pass(Pass {
                        ramp: true,
                        ..Pass::plain(generation)
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
                let probe = Some(self.probes);
                Admission::Pass(Pass {
                    probe,
                    ..Pass::plain(generation)
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

    /// The usual latency of successes, once enough are known.
    #[must_use]
    pub const fn median(&self) -> Option<Duration> {
        self.latency.median()
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
            tripped_by(
                &self.settings,
                in_a_row,
                self.recent.totals(),
                self.timed.totals(now),
            )?
        };
        self.timer.draw(rng, &self.settings);
        Some(self.open(now, why))
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
        self.sparing = Sparing::from(now);
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

#[cfg(test)]
mod tests;
