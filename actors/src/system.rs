//! Start and stop the whole tree; the handle that users hold.
//!
//! ```text
//! System (root supervisor; its failure ends the runtime and the handle says so)
//! ├── limiters   one limiter per quota
//! ├── breakers   one breaker per target
//! ├── callers    the bounded pool
//! └── steps      agent steps
//! ```
//!
//! Nobody restarts because a sibling did: addresses follow, and state lives in cells that outlast
//! their actors.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::FutureExt;
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::{Instant, timeout_at};

use crate::admission::{self, Terms};
use crate::branch::{Branch, restart_events};
use crate::caller::{
    self, Attempt, Attempts, Call, CallContext, CallReport, Finished, Operation, Outcome,
};
use crate::error::{CallError, Rejected, Rejection, StartError};
use crate::event::{EventStream, Events, Heard};
use crate::gauge::Gauge;
use crate::hooks::Hooks;
use crate::permit::Permit;
use crate::pool::Pool;
use crate::snapshot::Snapshot;
use crate::step::{FINAL, Step, StepCounts, StepHandle, StepPlan, StepRun, StepSettings};
use crate::supervisor::{Ended, RestartKind, Supervisor, SupervisorSettings};
use crate::verdict::Verdict;

mod hire;
mod registry;
mod settings;
#[cfg(test)]
mod tests;

use hire::hire;
use registry::Registry;
pub use registry::{Quota, Target};
pub use settings::{QuotaSpec, SystemSettings, TargetSpec};

/// Numbers targets, callers and steps over all systems of a process, so that names stay unique.
static NUMBERED: AtomicU64 = AtomicU64::new(0);

fn next_number() -> u64 {
    NUMBERED.fetch_add(1, Ordering::Relaxed)
}

/// A running system. Cheap to clone; the tree lives until [`System::stop`] or the runtime's end.
#[derive(Clone)]
pub struct System {
    shared: Arc<Shared>,
}

struct Shared {
    settings: SystemSettings,
    context: Arc<CallContext>,
    root: Supervisor,
    registry: Arc<Registry>,
    callers: Branch,
    steps: Branch,
    step_counts: StepCounts,
    pool: Pool,
    calls: Gauge,
    draining: AtomicBool,
}

impl System {
    /// Starts the tree on the current tokio runtime.
    ///
    /// # Errors
    ///
    /// [`StartError`] when a setting is out of range or an actor does not start.
    pub async fn start(settings: SystemSettings) -> Result<Self, StartError> {
        settings.check()?;
        let events = Events::new();
        let seed = settings.seed.unwrap_or_else(rand::random);
        let context = Arc::new(CallContext {
            events: events.clone(),
            in_flight: Gauge::default(),
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
        });
        let registry = Arc::new(Registry::new(events.clone(), settings.targets, seed));
        let callers = Branch::new("callers", events.clone());
        let steps = Branch::new("steps", events.clone());
        let pool = Pool::new(
            settings.callers,
            settings.waiting,
            context.in_flight.clone(),
            hire(callers.clone()),
        );
        let root = SupervisorSettings::new("seawall")
            .seed(seed)
            .on_event(restart_events("root", events));
        let branches = [registry.limiters(), registry.breakers(), &callers, &steps];
        let branches = branches.map(|branch| branch.spec(seed));
        let root = Supervisor::start(root, branches.into())
            .await
            .map_err(|error| StartError::Actor(error.to_string()))?;
        let settings = SystemSettings {
            seed: Some(seed),
            ..settings
        };
        let shared = Arc::new(Shared {
            settings,
            context,
            root,
            registry,
            callers,
            steps,
            step_counts: StepCounts::default(),
            pool,
            calls: Gauge::default(),
            draining: AtomicBool::new(false),
        });
        shared.watch_root();
        Ok(Self { shared })
    }

    /// The quota of this name, made as `spec` says if it is new.
    ///
    /// # Errors
    ///
    /// [`StartError`] when a setting is out of range, or the system is full or has stopped.
    pub async fn quota(&self, name: &str, spec: QuotaSpec) -> Result<Quota, StartError> {
        self.shared.registry.quota(name, spec).await
    }

    /// The quota of this name, if there is one.
    #[must_use]
    pub fn known_quota(&self, name: &str) -> Option<Quota> {
        self.shared.registry.known_quota(name)
    }

    /// The target of this name, if there is one.
    #[must_use]
    pub fn known_target(&self, name: &str) -> Option<Target> {
        self.shared.registry.known_target(name)
    }

    /// The target of this name, made as `spec` says if it is new.
    ///
    /// # Errors
    ///
    /// As [`System::quota`].
    pub async fn target(
        &self,
        name: &str,
        spec: impl FnOnce() -> TargetSpec,
    ) -> Result<Target, StartError> {
        self.shared.registry.target(name, spec).await
    }

    /// Runs a call: asks breaker and limiter, makes attempts, retries and falls from rung to rung
    /// until one answers or the call's deadline, patience or attempts are spent.
    ///
    /// `attempt` makes one attempt; it may be called again after it returned, and at the same time
    /// where the call is hedged. Dropping the future ends the attempt at once and gives everything
    /// back. An actor that dies on the way does not end the call.
    pub async fn call<T, E, F, Fut>(&self, call: Call, attempt: F) -> Finished<T, E>
    where
        F: Fn(Attempt) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Outcome<T, E>> + Send + 'static,
        T: Send + 'static,
        E: Send + 'static,
    {
        self.run(call, Attempts(attempt)).await
    }

    /// Runs a call that also knows other answers than those of attempts; as [`System::call`].
    pub async fn run<O>(&self, call: Call, operation: O) -> Finished<O::Answer, O::Error>
    where
        O: Operation<Answer: 'static, Error: 'static> + 'static,
    {
        let _counted = self.shared.calls.enter();
        if self.shared.draining.load(Ordering::Acquire) {
            return refused(Rejected::new(Rejection::Draining));
        }
        let deadline = call.deadline;
        let walk = caller::run(Arc::clone(&self.shared.context), call, operation);
        match self.shared.pool.run(walk, deadline).await {
            Ok(Some(finished)) => finished,
            Ok(None) => {
                let error = CallError::Panicked("the call itself panicked".to_owned());
                Finished {
                    result: Err(error),
                    report: CallReport::default(),
                }
            }
            Err(rejected) => refused(rejected),
        }
    }

    /// Gives the right to make one attempt on `target`, for those who drive it themselves: asks the
    /// breaker, waits for the quota, and asks the breaker again.
    ///
    /// The permit is finished with how the attempt went, or dropped. Dropping the future gives
    /// everything back.
    ///
    /// # Errors
    ///
    /// [`Rejected`] when the breaker or the quota does not let it pass by [`Terms::until`], or the
    /// system takes no more calls.
    pub async fn admit(&self, target: &Target, terms: Terms) -> Result<Permit, Rejected> {
        let _counted = self.shared.calls.enter();
        if self.shared.draining.load(Ordering::Acquire) {
            return Err(Rejected::new(Rejection::Draining));
        }
        admission::admit(&self.shared.context, target, terms).await
    }

    /// Starts one step of an agent: `work` is run, and run again after a panic, a hang or the loss
    /// of its actor, within the step's own budget and deadline. An error of its is the step's end.
    ///
    /// Dropping this future may leave a step that has begun without a handle.
    ///
    /// # Errors
    ///
    /// [`StartError`] when the system has stopped.
    pub async fn spawn_step<T, E, F, Fut>(
        &self,
        settings: StepSettings,
        work: F,
    ) -> Result<StepHandle<T, E>, StartError>
    where
        F: Fn(StepRun) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: Send + 'static,
    {
        self.spawn_judged_step(settings, |_| FINAL, work).await
    }

    /// Starts one step of an agent whose errors are judged: `work` is also run again after an
    /// error of which `judge` says that it may pass *here*, as [`StepSettings::retry`] allows, and
    /// not before the verdict's hint.
    ///
    /// A judge that panics counts as a run that did.
    ///
    /// # Errors
    ///
    /// As [`System::spawn_step`].
    pub async fn spawn_judged_step<T, E, J, F, Fut>(
        &self,
        settings: StepSettings,
        judge: J,
        work: F,
    ) -> Result<StepHandle<T, E>, StartError>
    where
        J: Fn(&E) -> Verdict + Send + Sync + 'static,
        F: Fn(StepRun) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: Send + 'static,
    {
        let shared = &self.shared;
        let child = next_number().to_string();
        let plan = StepPlan {
            settings,
            judge: Arc::new(judge),
            work: Arc::new(move |run| work(run).boxed()),
        };
        let of = (Arc::clone(&shared.context), shared.step_counts.clone());
        let (step, handle) = Step::new(&child, plan, shared.steps.clone(), of);
        let actor = move || step.actor();
        let kind = RestartKind::Transient;
        shared.steps.add(&child, kind, actor, |_| {}).await?;
        Ok(handle)
    }

    /// What happens from here on.
    #[must_use]
    pub fn events(&self) -> EventStream {
        self.shared.context.events.subscribe()
    }

    /// Calls these hooks with what happens from here on, from a thread of their own that ends with
    /// the system. However long they take, no call waits for them.
    ///
    /// # Errors
    ///
    /// [`StartError::Thread`] when the operating system has no thread to give.
    pub fn hook(&self, hooks: Hooks) -> Result<(), StartError> {
        hooks.start(&self.shared.context.events)
    }

    /// Calls one hook with everything; as [`System::hook`].
    ///
    /// # Errors
    ///
    /// As [`System::hook`].
    pub fn on_event(&self, hook: impl FnMut(&Heard) + Send + 'static) -> Result<(), StartError> {
        self.hook(Hooks::new().on_event(hook))
    }

    /// What every actor shows at this moment.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let shared = &self.shared;
        Snapshot {
            limiters: shared.registry.limiter_snapshots(),
            breakers: shared.registry.breaker_snapshots(),
            pool: shared.pool.snapshot(),
            steps: shared.step_counts.snapshot(),
            restarts: shared.context.events.restarts(),
            hook_panics: shared.context.events.hook_panics(),
            draining: shared.draining.load(Ordering::Acquire),
        }
    }

    /// Names of all actors that are up, as `branch/name`, and the branches themselves.
    #[must_use]
    pub fn actors(&self) -> Vec<String> {
        let mut names = Vec::new();
        for (branch, of) in self.branches() {
            names.push(branch.to_owned());
            names.extend(
                of.alive()
                    .into_iter()
                    .map(|name| format!("{branch}/{name}")),
            );
        }
        names
    }

    /// Kills an actor named as in [`System::actors`], to rehearse what its supervisor does.
    ///
    /// `false` if there is none of that name.
    #[must_use]
    pub fn kill(&self, actor: &str) -> bool {
        let (branch, child) = actor
            .split_once('/')
            .map_or((actor, None), |(b, c)| (b, Some(c)));
        let Some((_, branch)) = self
            .branches()
            .into_iter()
            .find(|(name, _)| *name == branch)
        else {
            return false;
        };
        match child {
            Some(child) => branch.kill(child),
            None => {
                branch.kill_branch();
                true
            }
        }
    }

    fn branches(&self) -> [(&'static str, &Branch); 4] {
        let shared = &self.shared;
        [
            ("limiters", shared.registry.limiters()),
            ("breakers", shared.registry.breakers()),
            ("callers", &shared.callers),
            ("steps", &shared.steps),
        ]
    }

    /// Takes no new calls, those of steps included, and waits until those under way have ended, streams
    /// included.
    ///
    /// `false` when some were still under way at `deadline`. Cancel safe; the refusal stays.
    pub async fn drain(&self, deadline: Instant) -> bool {
        self.shared.draining.store(true, Ordering::Release);
        let idle = async {
            self.shared.calls.idle().await;
            self.shared.context.in_flight.idle().await;
        };
        timeout_at(deadline, idle).await.is_ok()
    }

    /// Stops the tree in reverse order: steps, callers, breakers, limiters. Calls and steps still
    /// under way end as stopped; [`System::drain`] first to let the calls finish.
    pub async fn stop(&self) {
        self.shared.refuse();
        self.shared.root.stop("stopped").await;
        self.shared.end();
    }

    /// Resolves when the tree has ended, with the reason if it failed.
    pub async fn ended(&self) -> Ended {
        self.shared.root.wait().await
    }
}

#[cfg(test)]
impl System {
    /// The source of events, for tests that make them.
    pub(crate) fn shared_events(&self) -> &Events {
        &self.shared.context.events
    }
}

impl Shared {
    /// Ends what waits for the tree when the tree ends, also when it failed by itself.
    fn watch_root(self: &Arc<Self>) {
        let (root, shared) = (self.root.clone(), Arc::downgrade(self));
        #[expect(clippy::disallowed_methods, reason = "ends with the tree")]
        tokio::spawn(async move {
            root.wait().await;
            if let Some(shared) = shared.upgrade() {
                shared.refuse();
                shared.end();
            }
        });
    }

    /// Refuses calls: new ones, and those that wait.
    fn refuse(&self) {
        self.draining.store(true, Ordering::Release);
        self.pool.close();
        self.registry.close();
    }

    /// Ends the steps, and the events behind them.
    fn end(&self) {
        let registry = &self.registry;
        for branch in [
            &self.steps,
            &self.callers,
            registry.breakers(),
            registry.limiters(),
        ] {
            branch.close();
        }
        self.context.events.close();
    }
}

impl fmt::Debug for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("System")
            .field("settings", &self.shared.settings)
            .finish_non_exhaustive()
    }
}

fn refused<T, E>(rejected: Rejected) -> Finished<T, E> {
    let report = CallReport {
        rejected: Some(rejected.clone()),
        ..CallReport::default()
    };
    Finished {
        result: Err(CallError::Refused(rejected)),
        report,
    }
}
