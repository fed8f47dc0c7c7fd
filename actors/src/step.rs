//! One step of an agent as a supervised actor: model calls and the user's own code between them.
//!
//! A run that panics, hangs past its timeout or loses its actor is taken again, within the step's
//! own restart budget and deadline; no other step notices. An `Err` of the user's is the step's
//! answer and ends it. Dropping the handle lets the step go on.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use crate::branch::Branch;

/// What a step may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepSettings {
    /// No run outlasts this, counted from the spawn. 75 s by default.
    pub deadline: Duration,
    /// A run that takes longer than this is taken for hung. As long as the deadline by default.
    pub run_timeout: Duration,
    /// Runs after the first.
    pub restarts: u32,
}

impl Default for StepSettings {
    fn default() -> Self {
        let deadline = Duration::from_secs(75);
        Self {
            deadline,
            run_timeout: deadline,
            restarts: 3,
        }
    }
}

/// What the user's code is told about its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StepRun {
    /// Which run of the step this is, from 1.
    pub number: u32,
    /// When the step ends, whatever it is doing.
    pub deadline: Instant,
}

/// A step that has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepError<E> {
    /// The user's own error.
    #[error("{0}")]
    Failed(E),
    /// Every run of the budget panicked, hung or was killed.
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

/// Where a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StepState {
    /// Its first run has not begun.
    Starting,
    /// This run is under way, from 1.
    Running(u32),
    /// This run ended badly and another will follow.
    Restarting(u32),
    /// It is over.
    Ended,
}

/// A spawned step. Dropping it does not end the step.
#[derive(Debug)]
pub struct StepHandle<T, E> {
    outcome: oneshot::Receiver<Result<T, StepError<E>>>,
    shared: Arc<StepShared<T, E>>,
}

impl<T, E> StepHandle<T, E> {
    /// Waits for the step's answer.
    ///
    /// # Errors
    ///
    /// [`StepError`] when it has none.
    pub async fn join(self) -> Result<T, StepError<E>> {
        self.outcome.await.unwrap_or(Err(StepError::Stopped))
    }

    /// Ends the step; the run under way is dropped at its next await.
    pub fn cancel(&self) {
        self.shared.end(Err(StepError::Cancelled));
        self.shared.cancelled.notify_one();
    }

    /// Follows the step's state.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<StepState> {
        self.shared.state.subscribe()
    }
}

/// Where a step's outcome goes.
type Answer<T, E> = oneshot::Sender<Result<T, StepError<E>>>;

/// What all incarnations of a step share.
struct StepShared<T, E> {
    name: String,
    settings: StepSettings,
    deadline: Instant,
    runs: AtomicU32,
    last: Mutex<String>,
    outcome: Mutex<Option<Answer<T, E>>>,
    cancelled: Notify,
    state: watch::Sender<StepState>,
}

impl<T, E> StepShared<T, E> {
    /// Gives the outcome, once.
    fn end(&self, outcome: Result<T, StepError<E>>) {
        if let Some(sender) = self.outcome.lock().take() {
            self.state.send_replace(StepState::Ended);
            // Err means that nobody waits for it.
            drop(sender.send(outcome));
        }
    }

    fn is_over(&self) -> bool {
        self.outcome.lock().is_none()
    }
}

impl<T, E> fmt::Debug for StepShared<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

type Work<T, E> = dyn Fn(StepRun) -> BoxFuture<'static, Result<T, E>> + Send + Sync;

/// A step before it is supervised: the handle and what makes its actors.
pub(crate) struct Step<T, E> {
    shared: Arc<StepShared<T, E>>,
    work: Arc<Work<T, E>>,
    branch: Branch,
}

impl<T: Send + 'static, E: Send + 'static> Step<T, E> {
    pub(crate) fn new(
        name: String,
        settings: StepSettings,
        branch: Branch,
        work: Arc<Work<T, E>>,
    ) -> (Self, StepHandle<T, E>) {
        let (sender, outcome) = oneshot::channel();
        let shared = Arc::new(StepShared {
            name,
            settings,
            deadline: Instant::now() + settings.deadline,
            runs: AtomicU32::new(0),
            last: Mutex::new("its actor was killed".to_owned()),
            outcome: Mutex::new(Some(sender)),
            cancelled: Notify::new(),
            state: watch::Sender::new(StepState::Starting),
        });
        let handle = StepHandle {
            outcome,
            shared: Arc::clone(&shared),
        };
        (
            Self {
                shared,
                work,
                branch,
            },
            handle,
        )
    }

    pub(crate) fn actor(&self) -> StepActor<T, E> {
        StepActor {
            shared: Arc::clone(&self.shared),
            work: Arc::clone(&self.work),
            branch: self.branch.clone(),
        }
    }
}

/// One incarnation of a step: it makes one run.
pub(crate) struct StepActor<T, E> {
    shared: Arc<StepShared<T, E>>,
    work: Arc<Work<T, E>>,
    branch: Branch,
}

/// Begin the run.
#[derive(Debug)]
pub(crate) struct Run;

impl<T: Send + 'static, E: Send + 'static> Actor for StepActor<T, E> {
    type Msg = Run;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Run>, (): ()) -> Result<(), ActorProcessingErr> {
        crate::address::Direct::new(myself).hand(Run);
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<Run>,
        Run: Run,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        match self.run().await {
            Ok(()) => {
                myself.stop(None);
                Ok(())
            }
            // The supervisor takes it from here: another incarnation after its backoff.
            Err(why) => Err(why.into()),
        }
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<Run>,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        let (branch, name) = (self.branch.clone(), self.shared.name.clone());
        #[expect(clippy::disallowed_methods, reason = "ends with its one request")]
        tokio::spawn(async move { branch.remove(&name).await });
        Ok(())
    }
}

impl<T: Send + 'static, E: Send + 'static> StepActor<T, E> {
    /// Makes one run. `Err` says why another has to follow.
    async fn run(&self) -> Result<(), String> {
        let shared = &self.shared;
        let number = shared.runs.fetch_add(1, Ordering::Relaxed) + 1;
        if number > shared.settings.restarts.saturating_add(1) {
            let last = shared.last.lock().clone();
            shared.end(Err(StepError::GaveUp {
                runs: number - 1,
                last,
            }));
        }
        if shared.is_over() {
            return Ok(());
        }
        shared.state.send_replace(StepState::Running(number));
        let deadline = shared.deadline;
        let hung = (Instant::now() + shared.settings.run_timeout).min(deadline);
        let run = AssertUnwindSafe(async { (self.work)(StepRun { number, deadline }).await });
        let ended = tokio::select! {
            biased;
            () = shared.cancelled.notified() => return Ok(()),
            ended = run.catch_unwind() => ended,
            () = sleep_until(hung) => {
                if Instant::now() >= deadline {
                    shared.end(Err(StepError::TimedOut));
                    return Ok(());
                }
                return Err(self.again(number, "it hung".to_owned()));
            }
        };
        match ended {
            Ok(outcome) => {
                shared.end(outcome.map_err(StepError::Failed));
                Ok(())
            }
            Err(panic) => {
                let message = crate::caller::panic_message(&*panic);
                Err(self.again(number, format!("it panicked: {message}")))
            }
        }
    }

    fn again(&self, number: u32, why: String) -> String {
        self.shared
            .state
            .send_replace(StepState::Restarting(number));
        self.shared.last.lock().clone_from(&why);
        why
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep};

    use super::*;
    use crate::system::{System, SystemSettings};

    async fn system() -> System {
        let settings = SystemSettings {
            seed: Some(3),
            ..SystemSettings::default()
        };
        System::start(settings).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn of_ten_steps_one_panics_twice_and_all_are_answered() {
        let system = system().await;
        let mut steps = Vec::new();
        for n in 0..10_u32 {
            let step = system.spawn_step(StepSettings::default(), move |run| async move {
                sleep(Duration::from_secs(1)).await;
                assert!(n != 4 || run.number > 2, "a bug in the user's code");
                Ok::<_, ()>((n, run.number))
            });
            steps.push(step.await.unwrap());
        }
        for (n, step) in (0..).zip(steps) {
            let runs = if n == 4 { 3 } else { 1 };
            assert_eq!(step.join().await.unwrap(), (n, runs));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_hang_is_taken_again_and_a_budget_is_a_budget() {
        let system = system().await;
        let settings = StepSettings {
            run_timeout: Duration::from_secs(2),
            restarts: 2,
            ..StepSettings::default()
        };
        let step = system.spawn_step(settings, |run| async move {
            if run.number == 1 {
                std::future::pending::<()>().await;
            }
            Ok::<_, ()>(run.number)
        });
        assert_eq!(step.await.unwrap().join().await.unwrap(), 2);
        let step = system.spawn_step(settings, |_| async move {
            std::future::pending::<Result<(), ()>>().await
        });
        let gave_up = step.await.unwrap().join().await.unwrap_err();
        assert!(
            matches!(gave_up, StepError::GaveUp { runs: 3, .. }),
            "{gave_up:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn deadline_cancel_and_the_users_own_error_end_a_step() {
        let system = system().await;
        let forever = |_| std::future::pending::<Result<(), &'static str>>();
        let step = system
            .spawn_step(StepSettings::default(), forever)
            .await
            .unwrap();
        let began = Instant::now();
        assert!(matches!(step.join().await, Err(StepError::TimedOut)));
        assert_eq!(began.elapsed().as_secs(), 75);
        let step = system
            .spawn_step(StepSettings::default(), forever)
            .await
            .unwrap();
        let state = step.watch();
        step.cancel();
        assert_eq!(*state.borrow(), StepState::Ended);
        assert!(matches!(step.join().await, Err(StepError::Cancelled)));
        let failing = |_| async { Err::<(), _>("no such tool") };
        let step = system
            .spawn_step(StepSettings::default(), failing)
            .await
            .unwrap();
        assert!(matches!(
            step.join().await,
            Err(StepError::Failed("no such tool"))
        ));
        advance(Duration::from_secs(1)).await;
        assert!(
            !system
                .actors()
                .iter()
                .any(|name| name.starts_with("steps/"))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_whose_actor_is_killed_runs_again() {
        let system = system().await;
        let step = system.spawn_step(StepSettings::default(), |run| async move {
            sleep(Duration::from_secs(5)).await;
            Ok::<_, ()>(run.number)
        });
        let step = step.await.unwrap();
        sleep(Duration::from_secs(1)).await;
        let actors = system.actors();
        let actor = actors
            .iter()
            .find(|name| name.starts_with("steps/"))
            .unwrap();
        assert!(system.kill(actor));
        assert_eq!(step.join().await.unwrap(), 2);
    }
}
