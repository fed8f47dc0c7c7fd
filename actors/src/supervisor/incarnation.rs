//! One life of a child: its cell, and the task that reports its start and its end.

use std::time::Duration;

use futures_util::future::BoxFuture;
use ractor::concurrency::JoinHandle;
use ractor::{ActorCell, ActorId, ActorRef};
use tokio::time::timeout;

use super::actor::Msg;
use super::child::Launching;

/// How long a supervisor that ends waits for a killed child, which only a blocked thread outlasts.
pub(super) const KILL_GRACE: Duration = Duration::from_secs(1);

pub(super) struct Incarnation {
    pub(super) cell: ActorCell,
    /// Ends when the child's task has ended.
    watcher: JoinHandle<()>,
}

impl Incarnation {
    /// Follows a child that is on its way up.
    pub(super) fn starting(supervisor: ActorRef<Msg>, launching: Launching) -> Self {
        let Launching { cell, started } = launching;
        let watcher = watch_start(supervisor, cell.get_id(), started);
        Self { cell, watcher }
    }

    /// Waits for a child to come up, then follows it.
    pub(super) async fn up(
        supervisor: ActorRef<Msg>,
        launching: Launching,
    ) -> Result<Self, String> {
        let Launching { cell, started } = launching;
        let task = started.await?;
        let watcher = watch(supervisor, cell.get_id(), task);
        Ok(Self { cell, watcher })
    }

    pub(super) fn id(&self) -> ActorId {
        self.cell.get_id()
    }

    /// Waits until the child has ended, and kills it at the limit. Returns whether it was in time.
    pub(super) async fn end_within(mut self, limit: Duration, name: &str) -> bool {
        if timeout(limit, &mut self.watcher).await.is_ok() {
            return true;
        }
        self.cell.kill();
        if timeout(KILL_GRACE, &mut self.watcher).await.is_err() {
            tracing::error!(child = name, "killed child does not end: left behind");
        }
        false
    }
}

/// Tells the supervisor something. One that has ended has no use for it.
fn tell(supervisor: &ActorRef<Msg>, msg: Msg) {
    if supervisor.cast(msg).is_err() {
        tracing::trace!("the supervisor ended before its child");
    }
}

/// Reports a child's start and, once its task has ended and so dropped its state, its end.
///
/// One task reports both, so the end can't overtake the start.
#[expect(
    clippy::disallowed_methods,
    reason = "the supervisor awaits it when it shuts down"
)]
fn watch_start(
    supervisor: ActorRef<Msg>,
    id: ActorId,
    started: BoxFuture<'static, Result<JoinHandle<()>, String>>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        match started.await {
            Ok(task) => {
                tell(&supervisor, Msg::Started(id));
                report_end(&supervisor, id, task).await;
            }
            Err(reason) => tell(&supervisor, Msg::NotStarted(id, reason)),
        }
    })
}

/// Reports the end of a child that was started under the supervisor's eyes.
#[expect(
    clippy::disallowed_methods,
    reason = "the supervisor awaits it when it shuts down"
)]
fn watch(supervisor: ActorRef<Msg>, id: ActorId, task: JoinHandle<()>) -> JoinHandle<()> {
    tokio::spawn(async move { report_end(&supervisor, id, task).await })
}

async fn report_end(supervisor: &ActorRef<Msg>, id: ActorId, task: JoinHandle<()>) {
    if let Err(aborted) = task.await {
        tracing::debug!(child = %id, %aborted, "the task of a child did not run to its end");
    }
    tell(supervisor, Msg::Gone(id));
}
