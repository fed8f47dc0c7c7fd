//! The actor of a step, and what all its incarnations share.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::{StepError, StepHandle, StepRun, StepSettings, StepState};
use crate::address::Direct;
use crate::branch::Branch;
use crate::caller::{CallContext, panic_message};
use crate::event::EventKind;
use crate::gauge::{Counted, Gauge};
use crate::policy::retry::Decision;
use crate::snapshot::StepsSnapshot;
use crate::verdict::Verdict;

/// Stands in for a deadline that no clock can hold.
const FAR: Duration = Duration::from_hours(24 * 365);

/// How a run ended whose actor is gone without a word.
const LOST: &str = "its actor was lost";

/// The user's code.
pub(super) type Work<T, E> = dyn Fn(StepRun) -> BoxFuture<'static, Result<T, E>> + Send + Sync;

/// Says of an error whether the step may be run again.
type Judge<E> = dyn Fn(&E) -> Verdict + Send + Sync;

/// Where a step's outcome goes, and its place in the count of those that run.
type Open<T, E> = (oneshot::Sender<Result<T, StepError<E>>>, Counted);

/// Counts the steps of a system.
#[derive(Debug, Clone, Default)]
pub(crate) struct StepCounts {
    running: Gauge,
    retries: Arc<AtomicU64>,
    restarts: Arc<AtomicU64>,
}

impl StepCounts {
    pub(crate) fn snapshot(&self) -> StepsSnapshot {
        StepsSnapshot {
            running: self.running.count(),
            retries: self.retries.load(Ordering::Relaxed),
            restarts: self.restarts.load(Ordering::Relaxed),
        }
    }
}

/// What all incarnations of a step share.
pub(crate) struct StepShared<T, E> {
    name: Arc<str>,
    settings: StepSettings,
    deadline: Instant,
    context: Arc<CallContext>,
    counts: StepCounts,
    progress: Mutex<Progress>,
    open: Mutex<Option<Open<T, E>>>,
    cancelled: Notify,
    state: watch::Sender<StepState>,
}

#[derive(Debug, Default)]
struct Progress {
    /// Whether an incarnation has taken it up: the next one is a restart.
    begun: bool,
    runs: u32,
    failures: u32,
    restarts: u32,
    /// How the last run ended, if it could still say so.
    last: Option<Arc<str>>,
    /// No run before this; outlasts the incarnation that drew it.
    not_before: Option<Instant>,
}

impl<T, E> StepShared<T, E> {
    /// Gives the outcome, once.
    fn end(&self, outcome: Result<T, StepError<E>>) {
        let Some((answer, counted)) = self.open.lock().take() else {
            return;
        };
        let how = outcome
            .as_ref()
            .map_or_else(StepError::as_str, |_| "answered");
        let runs = self.progress.lock().runs;
        drop(counted);
        self.state.send_replace(StepState::Ended);
        let step = || Arc::clone(&self.name);
        let ended = || EventKind::StepEnded {
            step: step(),
            how,
            runs,
        };
        self.context.events.emit(ended);
        // Err means that nobody waits for it.
        drop(answer.send(outcome));
    }

    /// Ends the step from outside its actor.
    pub(super) fn end_now(&self, why: StepError<E>) {
        self.end(Err(why));
        self.cancelled.notify_one();
    }

    fn is_over(&self) -> bool {
        self.open.lock().is_none()
    }

    /// An incarnation takes the step up.
    fn begin(&self) {
        let mut progress = self.progress.lock();
        if !std::mem::replace(&mut progress.begun, true) {
            return;
        }
        let told = progress.last.is_some();
        drop(progress);
        if !told && !self.is_over() {
            self.fell_over(LOST.into());
        }
        self.progress.lock().last = None;
    }

    /// A run ended without a result: the next incarnation makes another, or it is the end.
    fn fell_over(&self, why: Arc<str>) {
        let mut progress = self.progress.lock();
        progress.last = Some(Arc::clone(&why));
        let runs = progress.runs;
        if progress.restarts >= self.settings.restarts {
            drop(progress);
            let last = why.as_ref().to_owned();
            return self.end(Err(StepError::GaveUp { runs, last }));
        }
        progress.restarts += 1;
        drop(progress);
        self.counts.restarts.fetch_add(1, Ordering::Relaxed);
        self.state.send_replace(StepState::Restarting(runs));
        self.context.events.emit(|| EventKind::StepRestarting {
            step: Arc::clone(&self.name),
            why,
        });
    }

    /// A run returned an error that was judged: another follows after a pause, or it is the end.
    fn failed(&self, error: E, verdict: Verdict) {
        let now = Instant::now();
        let (failures, runs) = {
            let mut progress = self.progress.lock();
            progress.failures += 1;
            (progress.failures, progress.runs)
        };
        let left = self.deadline.saturating_duration_since(now);
        let retry = &self.settings.retry;
        let decision = retry.decide(&verdict, failures, left, &mut *self.context.rng.lock());
        let Decision::After(pause) = decision else {
            return self.end(Err(StepError::Failed(error)));
        };
        let until = now + pause;
        self.progress.lock().not_before = Some(until);
        self.counts.retries.fetch_add(1, Ordering::Relaxed);
        self.state.send_replace(StepState::Retrying(runs));
        self.context.events.emit(|| EventKind::StepRetrying {
            step: Arc::clone(&self.name),
            failures,
            verdict,
            until,
        });
    }

    /// Counts a run that begins.
    fn next_run(&self) -> StepRun {
        let mut progress = self.progress.lock();
        progress.runs = progress.runs.saturating_add(1);
        progress.not_before = None;
        self.state.send_replace(StepState::Running(progress.runs));
        StepRun {
            number: progress.runs,
            failures: progress.failures,
            restarts: progress.restarts,
            deadline: self.deadline,
        }
    }
}

impl<T, E> Drop for StepShared<T, E> {
    // Nobody is left to run it.
    fn drop(&mut self) {
        self.end(Err(StepError::Stopped));
    }
}

impl<T, E> fmt::Debug for StepShared<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What a step is to do.
pub(crate) struct StepPlan<T, E> {
    pub(crate) settings: StepSettings,
    pub(crate) judge: Arc<Judge<E>>,
    pub(crate) work: Arc<Work<T, E>>,
}

/// A step before it is supervised: what makes its actors.
pub(crate) struct Step<T, E> {
    /// Its name on its branch.
    child: Arc<str>,
    shared: Arc<StepShared<T, E>>,
    plan: StepPlan<T, E>,
    branch: Branch,
}

impl<T: Send + 'static, E: Send + 'static> Step<T, E> {
    pub(crate) fn new(
        child: &str,
        plan: StepPlan<T, E>,
        branch: Branch,
        (context, counts): (Arc<CallContext>, StepCounts),
    ) -> (Self, StepHandle<T, E>) {
        let (sender, outcome) = oneshot::channel();
        let now = Instant::now();
        let deadline = now
            .checked_add(plan.settings.deadline)
            .unwrap_or_else(|| now + FAR);
        let name: Arc<str> = format!("steps/{child}").into();
        context.events.emit(|| EventKind::StepStarted {
            step: Arc::clone(&name),
            deadline,
        });
        let shared = Arc::new(StepShared {
            name: Arc::clone(&name),
            settings: plan.settings,
            deadline,
            context,
            open: Mutex::new(Some((sender, counts.running.enter()))),
            counts,
            progress: Mutex::default(),
            cancelled: Notify::new(),
            state: watch::Sender::new(StepState::Starting),
        });
        let handle = StepHandle {
            name: name.as_ref().to_owned(),
            deadline,
            outcome,
            state: shared.state.subscribe(),
            shared: Arc::downgrade(&shared),
            cancel_on_drop: false,
        };
        let child = child.into();
        let step = Self {
            child,
            shared,
            plan,
            branch,
        };
        (step, handle)
    }

    pub(crate) fn actor(&self) -> StepActor<T, E> {
        StepActor {
            child: Arc::clone(&self.child),
            shared: Arc::clone(&self.shared),
            judge: Arc::clone(&self.plan.judge),
            work: Arc::clone(&self.plan.work),
            branch: self.branch.clone(),
        }
    }
}

/// One incarnation of a step: it makes runs until one gives an answer or falls over.
pub(crate) struct StepActor<T, E> {
    child: Arc<str>,
    shared: Arc<StepShared<T, E>>,
    judge: Arc<Judge<E>>,
    work: Arc<Work<T, E>>,
    branch: Branch,
}

/// Take the step up.
#[derive(Debug)]
pub(crate) struct TakeUp;

impl<T: Send + 'static, E: Send + 'static> Actor for StepActor<T, E> {
    type Msg = TakeUp;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<TakeUp>, (): ()) -> Result<(), ActorProcessingErr> {
        Direct::new(myself).hand(TakeUp);
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<TakeUp>,
        TakeUp: TakeUp,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        self.shared.begin();
        while !self.shared.is_over() {
            if let Err(why) = self.run().await {
                self.shared.fell_over(why.as_str().into());
                if !self.shared.is_over() {
                    // The supervisor takes it from here: another incarnation after its backoff.
                    return Err(why.into());
                }
            }
        }
        myself.stop(None);
        Ok(())
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<TakeUp>,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        let (branch, child) = (self.branch.clone(), Arc::clone(&self.child));
        #[expect(clippy::disallowed_methods, reason = "ends with its one request")]
        tokio::spawn(async move { branch.remove(&child).await });
        Ok(())
    }
}

impl<T: Send + 'static, E: Send + 'static> StepActor<T, E> {
    /// Waits until the next run may begin and makes it. `Err` says why it gave no result.
    async fn run(&self) -> Result<(), String> {
        let shared = &self.shared;
        let not_before = shared.progress.lock().not_before;
        if let Some(at) = not_before {
            tokio::select! {
                biased;
                () = shared.cancelled.notified() => return Ok(()),
                () = sleep_until(at.min(shared.deadline)) => {}
            }
        }
        let now = Instant::now();
        if now >= shared.deadline {
            shared.end(Err(StepError::TimedOut));
            return Ok(());
        }
        let hung = now
            .checked_add(shared.settings.run_timeout)
            .map_or(shared.deadline, |at| at.min(shared.deadline));
        let run = shared.next_run();
        // The code is also called inside, since it can panic before it returns its future.
        let run = AssertUnwindSafe(async { (self.work)(run).await });
        let ended = tokio::select! {
            biased;
            () = shared.cancelled.notified() => return Ok(()),
            ended = run.catch_unwind() => ended,
            () = sleep_until(hung) => {
                if Instant::now() >= shared.deadline {
                    shared.end(Err(StepError::TimedOut));
                    return Ok(());
                }
                return Err("it hung".to_owned());
            }
        };
        let result = ended.map_err(|panic| format!("it panicked: {}", panic_message(&*panic)))?;
        match result {
            Ok(answer) => shared.end(Ok(answer)),
            Err(error) => {
                let verdict = catch_unwind(AssertUnwindSafe(|| (self.judge)(&error)));
                let verdict = verdict
                    .map_err(|panic| format!("its judge panicked: {}", panic_message(&*panic)))?;
                shared.failed(error, verdict);
            }
        }
        Ok(())
    }
}
