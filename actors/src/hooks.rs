//! Named hooks on the event stream.
//!
//! [`Hooks`] run on a thread of their own, so however long one takes, even if it blocks, no call
//! waits for it. Hooks that fall behind by 1024 events lose the oldest and are told how many
//! ([`Hooks::on_lag`]). One that panics is called again for the next event; the panic is logged,
//! counted in the snapshot and told to event streams. The thread ends with the system.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::caller::panic_message;
use crate::error::StartError;
use crate::event::{Event, EventKind, Events, Heard};
use crate::policy::circuit::State;
use crate::verdict::Verdict;

/// What to call when something happens. Several hooks may have the same name; all are called, in
/// the order they were added.
#[derive(Default)]
pub struct Hooks {
    hooks: Vec<Hook>,
}

struct Hook {
    name: &'static str,
    call: Box<dyn FnMut(&Heard) + Send>,
}

/// A call will be sent again.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Retry<'a> {
    /// The call.
    pub call: &'a str,
    /// The target that will be tried.
    pub target: &'a str,
    /// Attempts made so far.
    pub attempts: u32,
    /// What the last attempt said.
    pub verdict: Verdict,
    /// When the next attempt starts, at the earliest.
    pub until: Instant,
}

/// A call waits.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Wait<'a> {
    /// The call.
    pub call: &'a str,
    /// What it waits for.
    pub at: WaitAt<'a>,
    /// When its turn, or the next probe, is expected; `None` if that is not known.
    pub until: Option<Instant>,
}

/// Where a call waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitAt<'a> {
    /// For tokens of this quota.
    Quota(&'a str),
    /// For the breaker of this target.
    Breaker(&'a str),
}

/// A breaker changed its state.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct BreakerChange<'a> {
    /// The target.
    pub target: &'a str,
    /// The new state.
    pub state: State,
    /// What tripped it, when it opened.
    pub why: Option<&'static str>,
    /// When the next probe is due, when it opened.
    pub until: Option<Instant>,
}

/// A call left a rung for the next.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Fall<'a> {
    /// The call.
    pub call: &'a str,
    /// The new rung's place in the ladder, from 0.
    pub rung: usize,
    /// The new rung's target.
    pub target: &'a str,
    /// Why the one before was left.
    pub why: &'static str,
}

/// A supervisor started an actor again.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Restart<'a> {
    /// The actor, as in `limiters/org-sonnet`.
    pub actor: &'a str,
    /// How long the supervisor waited first.
    pub after: Duration,
}

/// Something happened to a step.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct StepNews<'a> {
    /// The step, as in `steps/12`.
    pub step: &'a str,
    /// What.
    pub change: StepChange<'a>,
}

/// What can happen to a step.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum StepChange<'a> {
    /// It was spawned and ends then, whatever it is doing.
    Started(Instant),
    /// It returned an error and is run again.
    Retrying {
        /// What its judge said of the error.
        verdict: Verdict,
        /// When the next run starts, at the earliest.
        until: Instant,
    },
    /// It panicked or hung, or its actor was lost, and is run again: why.
    Restarting(&'a str),
    /// It is over.
    Ended {
        /// `answered`, `failed`, `gave_up`, `timed_out`, `cancelled` or `stopped`.
        how: &'static str,
        /// Runs made.
        runs: u32,
    },
}

impl Hooks {
    /// No hooks yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Called when a call will be sent again.
    #[must_use]
    pub fn on_retry(self, mut hook: impl FnMut(Retry<'_>) + Send + 'static) -> Self {
        self.on("on_retry", move |kind| {
            if let EventKind::Retrying {
                call,
                target,
                attempts,
                verdict,
                until,
            } = kind
            {
                hook(Retry {
                    call,
                    target,
                    attempts: *attempts,
                    verdict: *verdict,
                    until: *until,
                });
            }
        })
    }

    /// Called when a call begins to wait for a quota or a breaker.
    #[must_use]
    pub fn on_wait(self, mut hook: impl FnMut(Wait<'_>) + Send + 'static) -> Self {
        self.on("on_wait", move |kind| {
            let (call, at, until) = match kind {
                EventKind::WaitingForQuota {
                    call, quota, until, ..
                } => (call, WaitAt::Quota(quota), Some(*until)),
                EventKind::WaitingForBreaker {
                    call,
                    target,
                    until,
                } => (call, WaitAt::Breaker(target), *until),
                _ => return,
            };
            hook(Wait { call, at, until });
        })
    }

    /// Called when a breaker opens, lets a probe pass, or closes.
    #[must_use]
    pub fn on_breaker(self, mut hook: impl FnMut(BreakerChange<'_>) + Send + 'static) -> Self {
        self.on("on_breaker", move |kind| {
            let (target, state, why, until) = match kind {
                EventKind::BreakerOpened { target, why, until } => {
                    (target, State::Open, Some(*why), *until)
                }
                EventKind::BreakerHalfOpen { target } => (target, State::HalfOpen, None, None),
                EventKind::BreakerClosed { target } => (target, State::Closed, None, None),
                _ => return,
            };
            hook(BreakerChange {
                target,
                state,
                why,
                until,
            });
        })
    }

    /// Called when a call falls to the next rung.
    #[must_use]
    pub fn on_fall(self, mut hook: impl FnMut(Fall<'_>) + Send + 'static) -> Self {
        self.on("on_fall", move |kind| {
            if let EventKind::FellToRung {
                call,
                rung,
                target,
                why,
            } = kind
            {
                hook(Fall {
                    call,
                    rung: *rung,
                    target,
                    why,
                });
            }
        })
    }

    /// Called when a supervisor starts an actor again.
    #[must_use]
    pub fn on_restart(self, mut hook: impl FnMut(Restart<'_>) + Send + 'static) -> Self {
        self.on("on_restart", move |kind| {
            if let EventKind::Restarted { actor, after } = kind {
                hook(Restart {
                    actor,
                    after: *after,
                });
            }
        })
    }

    /// Called when a step starts, is run again, or ends.
    #[must_use]
    pub fn on_step(self, mut hook: impl FnMut(StepNews<'_>) + Send + 'static) -> Self {
        self.on("on_step", move |kind| {
            let (step, change) = match kind {
                EventKind::StepStarted { step, deadline } => (step, StepChange::Started(*deadline)),
                EventKind::StepRetrying {
                    step,
                    verdict,
                    until,
                    ..
                } => {
                    let (verdict, until) = (*verdict, *until);
                    (step, StepChange::Retrying { verdict, until })
                }
                EventKind::StepRestarting { step, why } => (step, StepChange::Restarting(why)),
                EventKind::StepEnded { step, how, runs } => {
                    (step, StepChange::Ended { how, runs: *runs })
                }
                _ => return,
            };
            hook(StepNews { step, change });
        })
    }

    /// Called with the number of events that these hooks have missed by being too slow.
    #[must_use]
    pub fn on_lag(self, mut hook: impl FnMut(u64) + Send + 'static) -> Self {
        self.add("on_lag", move |heard| {
            if let Heard::Lagged(lost) = heard {
                hook(*lost);
            }
        })
    }

    /// Called with everything, its place in the stream and its time.
    #[must_use]
    pub fn on_event(self, hook: impl FnMut(&Heard) + Send + 'static) -> Self {
        self.add("on_event", hook)
    }

    fn on(self, name: &'static str, mut hook: impl FnMut(&EventKind) + Send + 'static) -> Self {
        self.add(name, move |heard| {
            if let Heard::Event(Event { kind, .. }) = heard {
                hook(kind);
            }
        })
    }

    fn add(mut self, name: &'static str, call: impl FnMut(&Heard) + Send + 'static) -> Self {
        let call = Box::new(call);
        self.hooks.push(Hook { name, call });
        self
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.hooks.is_empty()
    }

    /// Starts the thread that calls them.
    pub(crate) fn start(mut self, events: &Events) -> Result<(), StartError> {
        let mut stream = events.subscribe();
        // A hook may spawn tasks.
        let runtime = Handle::try_current().ok();
        // Weak: the thread is not what keeps the stream open.
        let events = events.weak();
        let run = move || {
            let _entered = runtime.as_ref().map(Handle::enter);
            while let Some(heard) = stream.next_blocking() {
                self.call(&heard, |hook, message| {
                    tracing::error!(hook, message, "a hook panicked");
                    if let Some(events) = events.upgrade() {
                        events.hook_panicked(hook, message);
                    }
                });
            }
        };
        let named = thread::Builder::new().name("seawall-hooks".to_owned());
        // Nobody joins it: it ends when the stream does.
        named
            .spawn(run)
            .map(drop)
            .map_err(|no| StartError::Thread(Arc::new(no)))
    }

    fn call(&mut self, heard: &Heard, mut panicked: impl FnMut(&'static str, &str)) {
        if matches!(heard, Heard::Event(e) if matches!(e.kind, EventKind::HookPanicked { .. })) {
            // One that panics at everything would keep itself busy for ever.
            return;
        }
        for hook in &mut self.hooks {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (hook.call)(heard))) {
                panicked(hook.name, &panic_message(&*panic));
            }
        }
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.hooks.iter().map(|hook| hook.name);
        f.debug_list().entries(names).finish()
    }
}

#[cfg(test)]
mod tests;
