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

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::{Mutex, RwLock};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::address::Direct;
use crate::branch::{Branch, restart_events};
use crate::breaker::{Breaker, BreakerSettings};
use crate::caller::{self, Attempt, Call, CallContext, CallReport, Finished, Outcome};
use crate::error::{CallError, Rejected, Rejection, StartError};
use crate::event::{EventStream, Events, Heard};
use crate::gauge::Gauge;
use crate::limiter::Limiter;
use crate::policy::InvalidPolicy;
use crate::policy::circuit::{CircuitSettings, Mode};
use crate::policy::quota::QuotaSettings;
use crate::policy::retry_budget::RetryBudget;
use crate::pool::{Hire, Pool};
use crate::snapshot::Snapshot;
use crate::step::{Step, StepHandle, StepRun, StepSettings};
use crate::supervisor::{RestartKind, Supervisor, SupervisorSettings};

/// A running system. Cheap to clone; the tree lives until [`System::stop`] or the runtime's end.
#[derive(Clone)]
pub struct System {
    shared: Arc<Shared>,
}

struct Shared {
    settings: SystemSettings,
    context: Arc<CallContext>,
    root: Supervisor,
    limiters: Branch,
    breakers: Branch,
    callers: Branch,
    steps: Branch,
    pool: Pool,
    calls: Gauge,
    draining: AtomicBool,
    quotas: RwLock<BTreeMap<Arc<str>, Quota>>,
    targets: RwLock<BTreeMap<Arc<str>, Target>>,
}

/// How large a system may grow, and its chance.
#[derive(Debug, Clone, Copy)]
pub struct SystemSettings {
    /// Most calls that run at once, each on a caller of its own.
    pub callers: usize,
    /// Most calls that wait for a caller. More are refused at once.
    pub waiting: usize,
    /// Most targets and quotas. The least recently added ones that nobody holds make room.
    pub targets: usize,
    /// Seeds all jitter; none draws it from the operating system.
    pub seed: Option<u64>,
}

impl Default for SystemSettings {
    fn default() -> Self {
        Self {
            callers: 4096,
            waiting: 4096,
            targets: 1024,
            seed: None,
        }
    }
}

/// A quota that targets may share.
#[derive(Debug, Clone)]
pub struct Quota {
    limiter: Limiter,
}

impl Quota {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        self.limiter.name()
    }
}

/// How a quota is limited and how many calls may wait for it.
#[derive(Debug, Clone, Copy)]
pub struct QuotaSpec {
    /// The buckets.
    pub settings: QuotaSettings,
    /// Most calls in its queue. Safe: 0.3 × timeout × the rate that it serves.
    pub queue_bound: usize,
}

impl Default for QuotaSpec {
    fn default() -> Self {
        Self {
            settings: QuotaSettings::default(),
            queue_bound: 10_000,
        }
    }
}

/// How a target is guarded.
#[derive(Debug, Clone)]
pub struct TargetSpec {
    /// The quota that its attempts are charged to; none for unlimited.
    pub quota: Option<Quota>,
    /// When its breaker opens and how it probes.
    pub circuit: CircuitSettings,
    /// Retries that it bears, as a share of its successes, 0 to 1.
    pub retry_ratio: f64,
    /// Most calls that wait for its breaker.
    pub queue_bound: usize,
}

impl Default for TargetSpec {
    fn default() -> Self {
        Self {
            quota: None,
            circuit: CircuitSettings::default(),
            retry_ratio: 0.3,
            queue_bound: 10_000,
        }
    }
}

/// A target: where attempts go, with its breaker and its quota. Cheap to clone.
#[derive(Clone)]
pub struct Target {
    inner: Arc<TargetInner>,
}

struct TargetInner {
    breaker: Breaker,
    limiter: Option<Limiter>,
    added: u64,
}

impl Target {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        self.inner.breaker.name()
    }

    /// Sets who decides over its breaker: the circuit, or a person against every timer.
    pub fn force(&self, mode: Mode) {
        self.inner.breaker.force(mode);
    }

    pub(crate) fn breaker(&self) -> &Breaker {
        &self.inner.breaker
    }

    pub(crate) fn limiter(&self) -> Option<&Limiter> {
        self.inner.limiter.as_ref()
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Target").field(self.name()).finish()
    }
}

/// Names the n-th target or caller over all systems of a process, so that names stay unique.
static ADDED: AtomicU64 = AtomicU64::new(0);

/// First retries that a new target has, before any success.
const FIRST_RETRIES: u32 = 10;

/// Retries a second that a target always bears, so that a quiet one can be retried at all.
const RETRY_FLOOR: f64 = 1.0;

impl System {
    /// Starts the tree on the current tokio runtime.
    ///
    /// # Errors
    ///
    /// [`StartError`] when a setting is out of range or an actor does not start.
    pub async fn start(settings: SystemSettings) -> Result<Self, StartError> {
        check("system.callers", settings.callers, "1 to 1000000")?;
        check("system.targets", settings.targets, "1 to 1000000")?;
        let events = Events::new();
        let seed = settings.seed.unwrap_or_else(rand::random);
        let context = Arc::new(CallContext {
            events: events.clone(),
            in_flight: Gauge::default(),
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
        });
        let limiters = Branch::new("limiters", events.clone());
        let breakers = Branch::new("breakers", events.clone());
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
        let branches = [&limiters, &breakers, &callers, &steps].map(|branch| branch.spec(seed));
        let root = Supervisor::start(root, branches.into())
            .await
            .map_err(|error| StartError::Actor(error.to_string()))?;
        let settings = SystemSettings {
            seed: Some(seed),
            ..settings
        };
        let shared = Shared {
            settings,
            context,
            root,
            limiters,
            breakers,
            callers,
            steps,
            pool,
            calls: Gauge::default(),
            draining: AtomicBool::new(false),
            quotas: RwLock::default(),
            targets: RwLock::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// The quota of this name, made as `spec` says if it is new.
    ///
    /// # Errors
    ///
    /// [`StartError`] when a setting is out of range, or the system is full or has stopped.
    pub async fn quota(&self, name: &str, spec: QuotaSpec) -> Result<Quota, StartError> {
        if let Some(quota) = self.shared.quotas.read().get(name) {
            return Ok(quota.clone());
        }
        let quota = {
            let mut quotas = self.shared.quotas.write();
            if let Some(quota) = quotas.get(name) {
                return Ok(quota.clone());
            }
            if quotas.len() >= self.shared.settings.targets {
                return Err(StartError::TooMany(self.shared.settings.targets));
            }
            let events = self.shared.context.events.clone();
            let limiter = Limiter::new(name.into(), spec.settings, spec.queue_bound, events)?;
            quotas.insert(
                name.into(),
                Quota {
                    limiter: limiter.clone(),
                },
            );
            Quota { limiter }
        };
        let (actor, address) = (quota.limiter.clone(), quota.limiter.clone());
        self.shared
            .limiters
            .add(
                name,
                RestartKind::Permanent,
                move || actor.actor(),
                move |r| address.publish(r),
            )
            .await?;
        Ok(quota)
    }

    /// The target of this name, if there is one.
    #[must_use]
    pub fn known_target(&self, name: &str) -> Option<Target> {
        self.shared.targets.read().get(name).cloned()
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
        if let Some(target) = self.shared.targets.read().get(name) {
            return Ok(target.clone());
        }
        self.make_room().await?;
        let target = {
            let mut targets = self.shared.targets.write();
            if let Some(target) = targets.get(name) {
                return Ok(target.clone());
            }
            let target = self.new_target(name, spec())?;
            targets.insert(name.into(), target.clone());
            target
        };
        let (actor, address) = (target.breaker().clone(), target.breaker().clone());
        self.shared
            .breakers
            .add(
                name,
                RestartKind::Permanent,
                move || actor.actor(),
                move |r| address.publish(r),
            )
            .await?;
        Ok(target)
    }

    fn new_target(&self, name: &str, spec: TargetSpec) -> Result<Target, InvalidPolicy> {
        let now = Instant::now();
        let budget = RetryBudget::new(spec.retry_ratio, FIRST_RETRIES, RETRY_FLOOR, now)?;
        let mut hasher = DefaultHasher::new();
        (self.shared.settings.seed, name).hash(&mut hasher);
        let settings = BreakerSettings {
            circuit: spec.circuit,
            budget,
            queue_bound: spec.queue_bound,
            seed: hasher.finish(),
        };
        let breaker = Breaker::new(name.into(), settings, self.shared.context.events.clone())?;
        let inner = TargetInner {
            breaker,
            limiter: spec.quota.map(|quota| quota.limiter),
            added: ADDED.fetch_add(1, Ordering::Relaxed),
        };
        Ok(Target {
            inner: Arc::new(inner),
        })
    }

    /// Removes the oldest target that nobody holds if the system is full.
    async fn make_room(&self) -> Result<(), StartError> {
        let bound = self.shared.settings.targets;
        let oldest = {
            let mut targets = self.shared.targets.write();
            if targets.len() < bound {
                return Ok(());
            }
            let unused = targets
                .iter()
                .filter(|(_, t)| Arc::strong_count(&t.inner) == 1);
            let oldest = unused
                .min_by_key(|(_, t)| t.inner.added)
                .map(|(name, _)| name.clone());
            let Some(oldest) = oldest else {
                return Err(StartError::TooMany(bound));
            };
            targets.remove(&oldest);
            oldest
        };
        self.shared.breakers.remove(&oldest).await;
        Ok(())
    }

    /// Runs a call: asks breaker and limiter, makes attempts, retries and falls from rung to rung
    /// until one answers or the call's deadline, patience or attempts are spent.
    ///
    /// `operation` makes one attempt; it may be called again after it returned, never at the same
    /// time. Dropping the future ends the attempt at once and gives everything back. An actor that
    /// dies on the way does not end the call.
    pub async fn call<T, E, F, Fut>(&self, call: Call, operation: F) -> Finished<T, E>
    where
        F: Fn(Attempt) -> Fut + Send + 'static,
        Fut: Future<Output = Outcome<T, E>> + Send + 'static,
        T: Send + 'static,
        E: Send + 'static,
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

    /// Starts one step of an agent: `work` is run, and run again after a panic, a hang or the loss
    /// of its actor, within the step's own budget and deadline.
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
        let name = ADDED.fetch_add(1, Ordering::Relaxed).to_string();
        let branch = self.shared.steps.clone();
        let work = Arc::new(move |run| work(run).boxed());
        let (step, handle) = Step::new(name.clone(), settings, branch, work);
        self.shared
            .steps
            .add(&name, RestartKind::Transient, move || step.actor(), |_| {})
            .await?;
        Ok(handle)
    }

    /// What happens from here on.
    #[must_use]
    pub fn events(&self) -> EventStream {
        self.shared.context.events.subscribe()
    }

    /// Calls `hook` with everything that happens from here on, from a task of its own that ends
    /// with the system. A slow hook misses events, and is told how many; it slows no call.
    pub fn on_event(&self, hook: impl Fn(Heard) + Send + 'static) {
        let mut events = self.events();
        #[expect(
            clippy::disallowed_methods,
            reason = "ends when the last event sender is gone"
        )]
        tokio::spawn(async move {
            while let Some(heard) = events.next().await {
                hook(heard);
            }
        });
    }

    /// What every actor shows at this moment.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let shared = &self.shared;
        Snapshot {
            limiters: shared
                .quotas
                .read()
                .values()
                .map(|q| q.limiter.snapshot())
                .collect(),
            breakers: shared
                .targets
                .read()
                .values()
                .map(|t| t.breaker().snapshot())
                .collect(),
            pool: shared.pool.snapshot(),
            restarts: shared.context.events.restarts(),
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
            ("limiters", &shared.limiters),
            ("breakers", &shared.breakers),
            ("callers", &shared.callers),
            ("steps", &shared.steps),
        ]
    }

    /// Takes no new calls and waits until those under way have ended, streams included.
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

    /// Stops the tree in reverse order: callers, breakers, limiters. Calls still under way end
    /// with [`Rejection::Stopped`]; [`System::drain`] first to let them finish.
    pub async fn stop(&self) {
        self.shared.draining.store(true, Ordering::Release);
        self.shared.pool.close();
        let targets: Vec<_> = self.shared.targets.read().values().cloned().collect();
        let quotas: Vec<_> = self.shared.quotas.read().values().cloned().collect();
        for target in targets {
            target.breaker().close();
        }
        for quota in quotas {
            quota.limiter.close();
        }
        self.shared.root.stop("stopped").await;
    }

    /// Resolves when the tree has ended, with the reason if it failed.
    pub async fn ended(&self) -> crate::supervisor::Ended {
        self.shared.root.wait().await
    }
}

impl fmt::Debug for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("System")
            .field("settings", &self.shared.settings)
            .finish_non_exhaustive()
    }
}

fn check(field: &'static str, value: usize, allowed: &'static str) -> Result<(), InvalidPolicy> {
    if (1..=1_000_000).contains(&value) {
        Ok(())
    } else {
        Err(InvalidPolicy::new(field, value, allowed))
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

/// How long a branch that is being restarted may take to have room for one more caller.
const HIRE_PATIENCE: Duration = Duration::from_secs(10);

/// Pause before a branch that is down is asked again.
const HIRE_AGAIN: Duration = Duration::from_millis(5);

/// Starts callers on the branch, also while it is being restarted.
fn hire(callers: Branch) -> Hire {
    Box::new(move |pool: Pool| {
        let callers = callers.clone();
        async move {
            let patience = Instant::now() + HIRE_PATIENCE;
            loop {
                let name = ADDED.fetch_add(1, Ordering::Relaxed).to_string();
                let (found, arrival) = oneshot::channel();
                let (found, actor) = (Mutex::new(Some(found)), pool.clone());
                let added = callers
                    .add(
                        &name,
                        RestartKind::Temporary,
                        move || actor.caller(),
                        move |caller| {
                            if let Some(found) = found.lock().take() {
                                // Err means that the call has left.
                                drop(found.send(Direct::new(caller.clone())));
                            }
                        },
                    )
                    .await;
                if added.is_ok()
                    && let Ok(caller) = arrival.await
                {
                    return Ok(caller);
                }
                if Instant::now() >= patience {
                    return Err(Rejected::new(Rejection::Stopped));
                }
                tokio::time::sleep(HIRE_AGAIN).await;
            }
        }
        .boxed()
    })
}

#[cfg(test)]
mod tests;
