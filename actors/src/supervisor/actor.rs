//! The supervisor's own actor: its mailbox before [`Children`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::Mutex;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;

use super::SupervisorSettings;
use super::child::ChildSpec;
use super::children::{Children, GaveUp};
use super::status::{ChildError, ChildStatus, Ended, Exit};

/// Where an answer goes. Its asker may have left, which is never an error here.
pub(super) type Reply = oneshot::Sender<Result<(), ChildError>>;

/// What a supervisor reads.
pub(super) enum Msg {
    /// An incarnation's `pre_start` succeeded and its start hook ran.
    Started(ActorId),
    /// An incarnation failed to start.
    NotStarted(ActorId, String),
    /// An incarnation's task has ended and its state is dropped.
    Gone(ActorId),
    /// A backoff or a shutdown limit is over.
    Wake,
    Start(ChildSpec, Reply),
    Terminate(String, Reply),
    Restart(String, Reply),
    Remove(String, Reply),
    Statuses(oneshot::Sender<Vec<ChildStatus>>),
}

/// What a supervisor starts from.
pub(super) struct Arguments {
    pub(super) settings: SupervisorSettings,
    pub(super) children: Vec<ChildSpec>,
    pub(super) ended: Arc<Mutex<Option<Ended>>>,
}

impl Arguments {
    pub(super) fn new(settings: SupervisorSettings, children: Vec<ChildSpec>) -> Self {
        Self {
            settings,
            children,
            ended: Arc::default(),
        }
    }
}

pub(super) struct SupervisorActor;

pub(super) struct State {
    children: Children,
    ended: Arc<Mutex<Option<Ended>>>,
}

impl State {
    /// Fails the supervisor when it gave up, but only after its children went down in order, so
    /// that nothing of this incarnation runs when its parent starts the next.
    async fn escalate(&mut self, outcome: Result<(), GaveUp>) -> Result<(), ActorProcessingErr> {
        let Err(gave_up) = outcome else { return Ok(()) };
        *self.ended.lock() = Some(Ended::Failed(gave_up.to_string()));
        self.children.shut_down().await;
        Err(Box::new(gave_up))
    }
}

impl Actor for SupervisorActor {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    /// Starts the children in order; the first that fails ends those before it, and the start.
    async fn pre_start(
        &self,
        myself: ActorRef<Msg>,
        arguments: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let mut children = Children::new(myself, arguments.settings);
        if let Err(refused) = children.start_all(arguments.children).await {
            children.shut_down().await;
            return Err(Box::new(refused));
        }
        Ok(State {
            children,
            ended: arguments.ended,
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<Msg>,
        msg: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let children = &mut state.children;
        let outcome = match msg {
            Msg::Started(id) => children.started(id),
            Msg::NotStarted(id, reason) => children.ended(id, Some(Exit::NotStarted(reason))),
            Msg::Gone(id) => children.ended(id, None),
            Msg::Wake => children.settle(),
            Msg::Start(_, reply)
            | Msg::Terminate(_, reply)
            | Msg::Restart(_, reply)
            | Msg::Remove(_, reply)
                if reply.is_closed() =>
            {
                Ok(())
            }
            Msg::Start(spec, reply) => children.start(spec, reply),
            Msg::Terminate(name, reply) => children.terminate(&name, reply),
            Msg::Restart(name, reply) => children.restart(&name, reply),
            Msg::Remove(name, reply) => children.remove(&name, reply),
            Msg::Statuses(reply) => {
                // An asker that left takes its answer with it.
                drop(reply.send(children.statuses()));
                Ok(())
            }
        };
        state.escalate(outcome).await
    }

    /// Only notes how the incarnation ended; it counts as ended when its task has ([`Msg::Gone`]).
    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<Msg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let noted = match &event {
            SupervisionEvent::ActorFailed(child, reason) => {
                Some((child.get_id(), Exit::Failed(reason.to_string())))
            }
            SupervisionEvent::ActorTerminated(child, _, reason) => {
                let exit = match reason.as_deref() {
                    // ractor reports a kill and an aborted task as a termination.
                    Some("killed" | "actor_task_cancelled") => Exit::Killed,
                    _ => Exit::Stopped(reason.clone()),
                };
                Some((child.get_id(), exit))
            }
            _ => None,
        };
        if let Some((id, exit)) = noted {
            state.children.note(id, exit);
        }
        // The event carries the child's state, whose destructor may panic.
        if catch_unwind(AssertUnwindSafe(|| drop(event))).is_err() {
            tracing::error!("the destructor of a child's state panicked");
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<Msg>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.children.shut_down().await;
        *state.ended.lock() = Some(Ended::Stopped);
        Ok(())
    }
}
