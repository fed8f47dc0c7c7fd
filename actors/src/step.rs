//! One step of an agent as a supervised actor: model calls and the user's own code between them.
//!
//! A run that panics, hangs past its timeout or loses its actor is taken again within the step's
//! restart budget. A run that returns an error is taken again within its retry budget, if the
//! step's judge says that the error may pass, after a backoff that the server's hint is the floor
//! of. Both end at the step's deadline, and no other step notices either. Dropping the handle lets
//! the step go on.

use std::sync::Weak;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until};

use crate::policy::retry::Retry;
use crate::verdict::{Again, Blame, Verdict};

mod actor;
#[cfg(test)]
mod tests;

use actor::StepShared;
pub(crate) use actor::{Step, StepCounts, StepPlan};

/// What a step may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepSettings {
    /// The step ends then, counted from the spawn, whatever it is doing. 75 s by default.
    pub deadline: Duration,
    /// A run that takes longer than this is taken for hung. As long as the deadline by default.
    pub run_timeout: Duration,
    /// Runs that may follow a panic, a hang or the loss of the step's actor. 3 by default.
    pub restarts: u32,
    /// How often, and after what pause, a run follows one that returned an error. By default 4
    /// times, after 500 ms doubling up to 30 s, with full jitter.
    pub retry: Retry,
}

impl Default for StepSettings {
    fn default() -> Self {
        let deadline = Duration::from_secs(75);
        Self {
            deadline,
            run_timeout: deadline,
            restarts: 3,
            retry: Retry::default(),
        }
    }
}

/// The judgement that ends a step: nobody would answer it differently.
pub const FINAL: Verdict = Verdict::new("failed", Blame::Caller, Again::Never);

/// What the user's code is told about its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StepRun {
    /// Which run of the step this is, from 1.
    pub number: u32,
    /// Runs before it that returned an error.
    pub failures: u32,
    /// Runs before it that panicked, hung or lost their actor.
    pub restarts: u32,
    /// When the step ends, whatever it is doing.
    pub deadline: Instant,
}

/// A step that has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepError<E> {
    /// The user's own error: final, or the last that its retry budget had room for.
    #[error("{0}")]
    Failed(E),
    /// Every run of the restart budget panicked, hung or was killed.
    #[error("gave up after {runs} runs: {last}")]
    GaveUp {
        /// Runs made.
        runs: u32,
        /// How the last one ended.
        last: String,
    },
    /// The deadline passed.
    #[error("the step's deadline passed")]
    TimedOut,
    /// It was cancelled.
    #[error("the step was cancelled")]
    Cancelled,
    /// The system stopped.
    #[error("the system has stopped")]
    Stopped,
}

impl<E> StepError<E> {
    /// Stable lower-case word for logs and metric labels.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Failed(_) => "failed",
            Self::GaveUp { .. } => "gave_up",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::Stopped => "stopped",
        }
    }
}

/// Where a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StepState {
    /// Its first run has not begun.
    Starting,
    /// This run is under way, from 1.
    Running(u32),
    /// This run returned an error and another will follow.
    Retrying(u32),
    /// This run panicked or hung and another will follow.
    Restarting(u32),
    /// It is over.
    Ended,
}

/// A spawned step. Dropping it does not end the step, unless [`StepHandle::cancel_on_drop`] says so.
#[derive(Debug)]
pub struct StepHandle<T, E> {
    name: String,
    deadline: Instant,
    outcome: oneshot::Receiver<Result<T, StepError<E>>>,
    state: watch::Receiver<StepState>,
    /// Weak, so that a step whose system has ended is over, and its handle says so.
    shared: Weak<StepShared<T, E>>,
    cancel_on_drop: bool,
}

impl<T, E> StepHandle<T, E> {
    /// Its name in events and among the system's actors, as in `steps/12`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes the step end when the handle, or the future of its [`StepHandle::join`], is dropped.
    #[must_use]
    pub fn cancel_on_drop(mut self) -> Self {
        self.cancel_on_drop = true;
        self
    }

    /// Waits for the step's answer, no longer than its deadline. Dropping the future is dropping
    /// the handle.
    ///
    /// # Errors
    ///
    /// [`StepError`] when it has none.
    pub async fn join(mut self) -> Result<T, StepError<E>> {
        tokio::select! {
            biased;
            outcome = &mut self.outcome => return outcome.unwrap_or(Err(StepError::Stopped)),
            // Its actor would say so too, but may be between two incarnations.
            () = sleep_until(self.deadline) => self.end(StepError::TimedOut),
        }
        (&mut self.outcome).await.unwrap_or(Err(StepError::Stopped))
    }

    /// Ends the step; the run under way is dropped at its next await.
    pub fn cancel(&self) {
        self.end(StepError::Cancelled);
    }

    /// Follows the step's state. Its last is [`StepState::Ended`].
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<StepState> {
        self.state.clone()
    }

    fn end(&self, why: StepError<E>) {
        if let Some(shared) = self.shared.upgrade() {
            shared.end_now(why);
        }
    }
}

impl<T, E> Drop for StepHandle<T, E> {
    fn drop(&mut self) {
        if self.cancel_on_drop {
            self.cancel();
        }
    }
}
