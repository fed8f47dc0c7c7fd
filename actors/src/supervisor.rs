//! A supervisor in the manner of Erlang/OTP for any ractor actor.
//!
//! A child that ends is started again as its [`RestartKind`] says, alone or with its siblings
//! ([`Strategy`]), after a backoff; one that fails more often than its [`Intensity`] allows makes
//! the supervisor end its children and fail, so that its parent decides. Children go down in
//! reverse start order, each within its own limit, and a replacement starts only after the task of
//! the old incarnation has ended and its state is dropped.
//!
//! Every child has a desired state; after each event the supervisor does what is still missing. It
//! never waits in its mailbox for a child to start or end, except for its first start and its own
//! end. Failure mode: a child that blocks its thread can't be killed, so it is never replaced.

use std::sync::Arc;

use parking_lot::Mutex;
use ractor::{Actor, ActorRef, SpawnErr};
use tokio::sync::oneshot;

mod actor;
mod child;
mod children;
mod incarnation;
mod status;
mod supervised;
#[cfg(test)]
mod tests;

use actor::{Arguments, Msg, Reply, SupervisorActor};
use child::guarded;
pub use child::{ChildSpec, Intensity, RestartKind, Shutdown};
pub use status::{ChildError, ChildState, ChildStatus, Ended, Exit, StartError, SupervisorEvent};

/// Who is restarted with a child that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Strategy {
    /// Nobody.
    #[default]
    OneForOne,
    /// Every sibling.
    OneForAll,
    /// The siblings that were started after it.
    RestForOne,
}

/// When the end of significant children stops the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum AutoShutdown {
    /// Never.
    #[default]
    Never,
    /// When one significant child ended for good by itself.
    AnySignificant,
    /// When the last significant child ended for good by itself.
    AllSignificant,
}

type EventHook = dyn Fn(&SupervisorEvent) + Send + Sync;

/// How a supervisor behaves. Cheap to clone.
#[derive(Clone, Default)]
pub struct SupervisorSettings {
    name: Arc<str>,
    strategy: Strategy,
    auto_shutdown: AutoShutdown,
    seed: u64,
    on_event: Option<Arc<EventHook>>,
}

impl std::fmt::Debug for SupervisorSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SupervisorSettings")
            .field("name", &self.name)
            .field("strategy", &self.strategy)
            .field("auto_shutdown", &self.auto_shutdown)
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

impl SupervisorSettings {
    /// One for one, no automatic shutdown, seed 0; the name appears in logs only.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into().into(),
            ..Self::default()
        }
    }

    /// Sets who is restarted with a child that failed.
    #[must_use]
    pub const fn strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// Sets when the end of significant children stops the supervisor.
    #[must_use]
    pub const fn auto_shutdown(mut self, auto_shutdown: AutoShutdown) -> Self {
        self.auto_shutdown = auto_shutdown;
        self
    }

    /// Seeds the jitter of restart backoffs.
    #[must_use]
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets a hook called at each change, from the supervisor's own task; it must not block.
    #[must_use]
    pub fn on_event(mut self, hook: impl Fn(&SupervisorEvent) + Send + Sync + 'static) -> Self {
        self.on_event = Some(Arc::new(hook));
        self
    }

    /// Tells of an end, the child's own hook first.
    fn exited(&self, child: &ChildSpec, exit: Exit) {
        child.exited(&exit);
        self.emit(&SupervisorEvent::ChildExited {
            name: child.name().to_owned(),
            exit,
        });
    }

    fn emit(&self, event: &SupervisorEvent) {
        event.trace(&self.name);
        if let Some(hook) = &self.on_event {
            guarded("on_event", || hook(event));
        }
    }
}

/// Handle of a running supervisor. Dropping it stops nothing.
///
/// A request whose future is dropped before the supervisor read it does nothing; after that it is
/// carried out, unheard.
#[derive(Debug, Clone)]
pub struct Supervisor {
    actor: ActorRef<Msg>,
    ended: Arc<Mutex<Option<Ended>>>,
}

impl Supervisor {
    /// Starts a root supervisor and, in order, its children.
    ///
    /// # Errors
    /// A specification is refused, or a child did not start; then none of them runs.
    pub async fn start(
        settings: SupervisorSettings,
        children: Vec<ChildSpec>,
    ) -> Result<Self, StartError> {
        let arguments = Arguments::new(settings, children);
        let ended = Arc::clone(&arguments.ended);
        match SupervisorActor::spawn(None, SupervisorActor, arguments).await {
            // The actor's own task is awaited through its cell, by every clone of the handle.
            Ok((actor, _task)) => Ok(Self::new(actor, ended)),
            Err(SpawnErr::StartupFailed(reason)) => Err(match reason.downcast::<StartError>() {
                Ok(refused) => *refused,
                Err(other) => StartError::Spawn(other.to_string()),
            }),
            Err(other) => Err(StartError::Spawn(other.to_string())),
        }
    }

    const fn new(actor: ActorRef<Msg>, ended: Arc<Mutex<Option<Ended>>>) -> Self {
        Self { actor, ended }
    }

    /// Adds a child after the others and resolves when it runs.
    ///
    /// # Errors
    /// The name is taken, the specification is refused, or the first start failed: then the
    /// supervisor forgets it.
    pub async fn start_child(&self, spec: ChildSpec) -> Result<(), ChildError> {
        self.request(|reply| Msg::Start(spec, reply)).await
    }

    /// Ends a child and resolves when it is down; a pending restart is cancelled.
    ///
    /// It stays known, and down, until it is restarted or removed; a temporary child is forgotten.
    ///
    /// # Errors
    /// No child has that name.
    pub async fn terminate_child(&self, name: impl Into<String>) -> Result<(), ChildError> {
        self.request(|reply| Msg::Terminate(name.into(), reply))
            .await
    }

    /// Ends a child if it is up, starts it at once, and resolves when it runs.
    ///
    /// The restart counts against no intensity; a failed start does, and is tried again.
    ///
    /// # Errors
    /// No child has that name, or its start failed.
    pub async fn restart_child(&self, name: impl Into<String>) -> Result<(), ChildError> {
        self.request(|reply| Msg::Restart(name.into(), reply)).await
    }

    /// Ends a child, forgets it, and resolves when it is down.
    ///
    /// # Errors
    /// No child has that name.
    pub async fn remove_child(&self, name: impl Into<String>) -> Result<(), ChildError> {
        self.request(|reply| Msg::Remove(name.into(), reply)).await
    }

    /// The children in start order.
    ///
    /// # Errors
    /// The supervisor has ended.
    pub async fn children(&self) -> Result<Vec<ChildStatus>, ChildError> {
        let (reply, answer) = oneshot::channel();
        self.actor
            .cast(Msg::Statuses(reply))
            .map_err(|_| ChildError::Ended)?;
        answer.await.map_err(|_| ChildError::Ended)
    }

    /// Ends the children in reverse start order, then the supervisor; resolves with its end.
    ///
    /// A supervisor that has ended is left as it is.
    pub async fn stop(&self, reason: impl Into<String>) -> Ended {
        self.actor.stop(Some(reason.into()));
        self.wait().await
    }

    /// Kills the supervisor and with it its children, as a bug would: nobody's `post_stop` runs.
    pub fn kill(&self) {
        self.actor.kill();
    }

    /// Resolves when the supervisor has ended, with how. Any number of handles may wait.
    pub async fn wait(&self) -> Ended {
        let cell = self.actor.get_cell();
        if cell.wait(None).await.is_err() {
            tracing::trace!("a wait without a limit ran out");
        }
        let ended = self.ended.lock().clone();
        ended.unwrap_or_else(|| Ended::Failed("killed".to_owned()))
    }

    async fn request(&self, msg: impl FnOnce(Reply) -> Msg) -> Result<(), ChildError> {
        let (reply, answer) = oneshot::channel();
        self.actor.cast(msg(reply)).map_err(|_| ChildError::Ended)?;
        answer.await.unwrap_or(Err(ChildError::Ended))
    }
}
