//! How to start one child, when to start it again, and how to end it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use ractor::concurrency::JoinHandle;
use ractor::{Actor, ActorCell, ActorRef, ActorRuntime, SpawnErr};

use super::actor::{Arguments, Msg, SupervisorActor};
use super::incarnation::KILL_GRACE;
use super::status::Exit;
use super::{Supervisor, SupervisorSettings};
use crate::policy::InvalidPolicy;
use crate::policy::restart::Restart;

/// Least time that a supervisor gets to end its own children, as they may be added while it runs.
const SUPERVISOR_SHUTDOWN: Duration = Duration::from_secs(30);

/// Default time a child gets to end; the same as OTP's for workers.
const WORKER_SHUTDOWN: Duration = Duration::from_secs(5);

/// After which ends a child is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RestartKind {
    /// After every end that its supervisor did not order.
    #[default]
    Permanent,
    /// After an abnormal end only ([`Exit::is_abnormal`]).
    Transient,
    /// Never; the child is forgotten when it ends.
    Temporary,
}

/// How a supervisor ends a child. A child that outlives the given time is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Shutdown {
    /// The running handler finishes, queued messages are dropped, `post_stop` runs.
    Graceful(Duration),
    /// Queued messages are handled first, new ones refused; then `post_stop` runs.
    Drain(Duration),
    /// The running handler is cut at its await; `post_stop` does not run.
    Kill,
}

impl Shutdown {
    /// Tells the child to end. Returns how long it may take; at zero it was killed.
    pub(super) fn order(self, child: &ActorCell) -> Duration {
        match self {
            _ if self.limit().is_zero() => child.kill(),
            Self::Kill => child.kill(),
            Self::Graceful(_) => child.stop(Some(SHUTDOWN_REASON.to_owned())),
            Self::Drain(_) => {
                if child.drain().is_err() {
                    tracing::trace!(child = %child.get_id(), "drained child had ended before");
                }
            }
        }
        self.limit()
    }

    const fn limit(self) -> Duration {
        match self {
            Self::Graceful(limit) | Self::Drain(limit) => limit,
            Self::Kill => Duration::ZERO,
        }
    }
}

/// The stop reason that a child sees when its supervisor ends it.
pub(super) const SHUTDOWN_REASON: &str = "shutdown";

/// How many failures a child may have before its supervisor gives up, and how it is spaced.
///
/// The first failure inside the window is answered at once, later ones after a doubling backoff
/// with jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intensity {
    /// Restarts allowed inside the window; one failure more and the supervisor gives up.
    pub restarts: u32,
    /// Length of the window.
    pub within: Duration,
    /// Backoff before the second restart in the window.
    pub backoff: Duration,
    /// Longest backoff.
    pub backoff_cap: Duration,
}

impl Default for Intensity {
    fn default() -> Self {
        Self {
            restarts: 5,
            within: Duration::from_secs(30),
            backoff: Duration::from_millis(50),
            backoff_cap: Duration::from_secs(5),
        }
    }
}

impl Intensity {
    pub(super) fn policy(&self) -> Result<Restart, InvalidPolicy> {
        Restart::new(self.restarts, self.within, self.backoff, self.backoff_cap)
    }
}

/// A child on its way up: known at once, so that even a start that hangs can be ended.
pub(super) struct Launching {
    pub(super) cell: ActorCell,
    /// Resolves when `pre_start` ended and the start hook has run, with the child's task.
    pub(super) started: BoxFuture<'static, Result<JoinHandle<()>, String>>,
}

type Launch = dyn Fn(ActorCell) -> Result<Launching, String> + Send + Sync;
type ExitHook = dyn Fn(&Exit) + Send + Sync;

/// Everything a supervisor needs to know of one child. Cheap to clone.
#[derive(Clone)]
pub struct ChildSpec {
    pub(super) name: Arc<str>,
    pub(super) restart: RestartKind,
    pub(super) shutdown: Shutdown,
    pub(super) significant: bool,
    pub(super) intensity: Intensity,
    launch: Arc<Launch>,
    on_exit: Option<Arc<ExitHook>>,
}

impl std::fmt::Debug for ChildSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChildSpec")
            .field("name", &self.name)
            .field("restart", &self.restart)
            .field("shutdown", &self.shutdown)
            .field("significant", &self.significant)
            .field("intensity", &self.intensity)
            .finish_non_exhaustive()
    }
}

impl ChildSpec {
    /// Describes a permanent child with 5 s to end; `make` builds the actor for each incarnation.
    ///
    /// A panic in `make` is a failed start.
    #[must_use]
    pub fn new<A, F>(name: impl Into<String>, make: F) -> Self
    where
        A: Actor,
        F: Fn() -> (A, A::Arguments) + Send + Sync + 'static,
    {
        Self::with_on_start(name, make, |_| {})
    }

    /// As [`ChildSpec::new`], with a hook called at each start, after `pre_start` succeeded.
    ///
    /// The hook runs before the supervisor reports or acts on the start or on any later end of
    /// that incarnation, so addresses that it publishes never go back to an older one. It must
    /// not block. A panic in it kills the child.
    #[must_use]
    pub fn with_on_start<A, F, H>(name: impl Into<String>, make: F, on_start: H) -> Self
    where
        A: Actor,
        F: Fn() -> (A, A::Arguments) + Send + Sync + 'static,
        H: Fn(&ActorRef<A::Msg>) + Send + Sync + 'static,
    {
        let on_start = Arc::new(on_start);
        Self::erased(name.into(), move |supervisor| {
            let (actor, arguments) = make();
            let on_start = Arc::clone(&on_start);
            launch(actor, arguments, supervisor, move |child| on_start(child))
        })
    }

    /// Describes a supervisor below this one: permanent, with time for its children to end.
    ///
    /// Failures multiply: a leaf under `d` supervisors that allow `i` restarts each is started
    /// `(i + 1)^d` times before the root fails, so keep the tree flat.
    #[must_use]
    pub fn supervisor(
        name: impl Into<String>,
        settings: SupervisorSettings,
        children: Vec<Self>,
    ) -> Self {
        Self::supervisor_with_on_start(name, settings, children, |_| {})
    }

    /// As [`ChildSpec::supervisor`], with a hook that gets the handle of each incarnation.
    #[must_use]
    pub fn supervisor_with_on_start<H>(
        name: impl Into<String>,
        settings: SupervisorSettings,
        children: Vec<Self>,
        on_start: H,
    ) -> Self
    where
        H: Fn(&Supervisor) + Send + Sync + 'static,
    {
        let own = children.iter().fold(KILL_GRACE, |sum: Duration, child| {
            sum.saturating_add(child.shutdown.limit())
                .saturating_add(KILL_GRACE)
        });
        let on_start = Arc::new(on_start);
        Self::erased(name.into(), move |supervisor| {
            let arguments = Arguments::new(settings.clone(), children.clone());
            let ended = Arc::clone(&arguments.ended);
            let on_start = Arc::clone(&on_start);
            launch(
                SupervisorActor,
                arguments,
                supervisor,
                move |child: &ActorRef<Msg>| {
                    on_start(&Supervisor::new(child.clone(), ended));
                },
            )
        })
        .shutdown(Shutdown::Graceful(own.max(SUPERVISOR_SHUTDOWN)))
    }

    fn erased<F>(name: String, launch: F) -> Self
    where
        F: Fn(ActorCell) -> Result<Launching, String> + Send + Sync + 'static,
    {
        Self {
            name: name.into(),
            restart: RestartKind::default(),
            shutdown: Shutdown::Graceful(WORKER_SHUTDOWN),
            significant: false,
            intensity: Intensity::default(),
            launch: Arc::new(launch),
            on_exit: None,
        }
    }

    /// Sets after which ends the child is started again.
    #[must_use]
    pub const fn restart(mut self, kind: RestartKind) -> Self {
        self.restart = kind;
        self
    }

    /// Sets how the child is ended.
    #[must_use]
    pub const fn shutdown(mut self, shutdown: Shutdown) -> Self {
        self.shutdown = shutdown;
        self
    }

    /// Lets the child's own end stop the supervisor, as [`super::AutoShutdown`] says.
    ///
    /// Refused for a permanent child, and under a supervisor that never shuts down by itself.
    #[must_use]
    pub const fn significant(mut self) -> Self {
        self.significant = true;
        self
    }

    /// Sets how many failures the supervisor bears from this child.
    #[must_use]
    pub const fn intensity(mut self, intensity: Intensity) -> Self {
        self.intensity = intensity;
        self
    }

    /// Sets a hook called after each end of an incarnation, before any replacement starts.
    #[must_use]
    pub fn on_exit(mut self, hook: impl Fn(&Exit) + Send + Sync + 'static) -> Self {
        self.on_exit = Some(Arc::new(hook));
        self
    }

    /// The child's name, unique within its supervisor.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn launch(&self, supervisor: ActorCell) -> Result<Launching, String> {
        catch_unwind(AssertUnwindSafe(|| (self.launch)(supervisor)))
            .unwrap_or_else(|panic| Err(panic_text(panic.as_ref())))
    }

    pub(super) fn exited(&self, exit: &Exit) {
        if let Some(hook) = &self.on_exit {
            guarded("on_exit", || hook(exit));
        }
    }
}

fn launch<A: Actor>(
    actor: A,
    arguments: A::Arguments,
    supervisor: ActorCell,
    on_start: impl FnOnce(&ActorRef<A::Msg>) + Send + 'static,
) -> Result<Launching, String> {
    let (child, start) = ActorRuntime::spawn_linked_instant(None, actor, arguments, supervisor)
        .map_err(|refused| refused.to_string())?;
    let cell = child.get_cell();
    let started = async move {
        let task = match start.await {
            Ok(Ok(task)) => task,
            Ok(Err(SpawnErr::StartupFailed(reason))) => return Err(reason.to_string()),
            Ok(Err(refused)) => return Err(refused.to_string()),
            Err(aborted) => return Err(aborted.to_string()),
        };
        if !guarded("on_start", || on_start(&child)) {
            child.kill();
        }
        Ok(task)
    };
    Ok(Launching {
        cell,
        started: started.boxed(),
    })
}

/// Runs a user's hook; a panic in it ends nothing but the hook. Returns whether it returned.
pub(super) fn guarded(hook: &'static str, run: impl FnOnce()) -> bool {
    let outcome = catch_unwind(AssertUnwindSafe(run));
    if let Err(panic) = &outcome {
        tracing::error!(
            hook,
            panic = panic_text(panic.as_ref()),
            "supervisor hook panicked"
        );
    }
    outcome.is_ok()
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&'static str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panicked".to_owned())
}
