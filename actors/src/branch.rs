//! One branch of the tree: a supervisor whose children come and go while it runs.
//!
//! When the branch itself is restarted it comes up empty, and starts again every child that was
//! added to it for good. Children that were added for the moment are not missed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use ractor::{Actor, ActorCell, ActorRef};

use crate::error::StartError;
use crate::event::{EventKind, Events};
use crate::supervisor::{
    ChildError, ChildSpec, Intensity, RestartKind, Supervisor, SupervisorEvent, SupervisorSettings,
};

/// A branch and its children, over all incarnations.
#[derive(Clone)]
pub(crate) struct Branch {
    shared: Arc<Shared>,
}

struct Shared {
    name: &'static str,
    supervisor: Mutex<Option<Supervisor>>,
    /// Children for good, by name.
    specs: Mutex<BTreeMap<String, ChildSpec>>,
    /// Every child's present incarnation, for those who rehearse its death.
    alive: Mutex<BTreeMap<String, ActorCell>>,
    events: Events,
}

impl Branch {
    pub(crate) fn new(name: &'static str, events: Events) -> Self {
        Self {
            shared: Arc::new(Shared {
                name,
                supervisor: Mutex::new(None),
                specs: Mutex::new(BTreeMap::new()),
                alive: Mutex::new(BTreeMap::new()),
                events,
            }),
        }
    }

    /// The branch as a child of the root.
    pub(crate) fn spec(&self, seed: u64) -> ChildSpec {
        let branch = self.clone();
        let settings = SupervisorSettings::new(self.shared.name)
            .seed(seed)
            .on_event(restart_events(self.shared.name, self.shared.events.clone()));
        ChildSpec::supervisor_with_on_start(
            self.shared.name,
            settings,
            Vec::new(),
            move |supervisor| branch.came_up(supervisor),
        )
    }

    /// Adds a child. One of a permanent kind comes back with the branch.
    pub(crate) async fn add<A, F>(
        &self,
        name: &str,
        kind: RestartKind,
        actor: F,
        on_start: impl Fn(&ActorRef<A::Msg>) + Send + Sync + 'static,
    ) -> Result<(), StartError>
    where
        A: Actor<Arguments = ()>,
        F: Fn() -> A + Send + Sync + 'static,
    {
        let (births, deaths) = (Arc::clone(&self.shared), Arc::clone(&self.shared));
        let (born, dead) = (name.to_owned(), name.to_owned());
        let spec = ChildSpec::with_on_start(
            name,
            move || (actor(), ()),
            move |child: &ActorRef<A::Msg>| {
                births.alive.lock().insert(born.clone(), child.get_cell());
                on_start(child);
            },
        )
        .on_exit(move |_| drop(deaths.alive.lock().remove(&dead)))
        .restart(kind)
        .intensity(intensity(kind));
        if kind == RestartKind::Permanent {
            self.shared
                .specs
                .lock()
                .insert(name.to_owned(), spec.clone());
        }
        let Some(supervisor) = self.shared.supervisor.lock().clone() else {
            return Err(StartError::Stopped);
        };
        match supervisor.start_child(spec).await {
            // A branch that came up in the meantime has started it already, or is about to.
            Err(ChildError::Invalid { .. } | ChildError::Superseded { .. } | ChildError::Ended)
                if kind == RestartKind::Permanent =>
            {
                Ok(())
            }
            // A step can be over, and removed, before its start was answered.
            Err(ChildError::Superseded { .. }) if kind == RestartKind::Transient => Ok(()),
            Ok(()) => Ok(()),
            Err(error) => Err(StartError::Actor(error.to_string())),
        }
    }

    /// Ends a child for good.
    pub(crate) async fn remove(&self, name: &str) {
        self.shared.specs.lock().remove(name);
        let supervisor = self.shared.supervisor.lock().clone();
        if let Some(supervisor) = supervisor {
            // Err means that it is gone already.
            drop(supervisor.remove_child(name).await);
        }
    }

    /// Names of the children that are up.
    pub(crate) fn alive(&self) -> Vec<String> {
        self.shared.alive.lock().keys().cloned().collect()
    }

    /// Kills a child, as a bug would. `false` if there is none of that name.
    pub(crate) fn kill(&self, name: &str) -> bool {
        self.shared
            .alive
            .lock()
            .get(name)
            .map(ActorCell::kill)
            .is_some()
    }

    /// Kills the branch itself.
    pub(crate) fn kill_branch(&self) {
        if let Some(supervisor) = self.shared.supervisor.lock().as_ref() {
            supervisor.kill();
        }
    }

    fn came_up(&self, supervisor: &Supervisor) {
        *self.shared.supervisor.lock() = Some(supervisor.clone());
        let missing: Vec<ChildSpec> = self.shared.specs.lock().values().cloned().collect();
        if missing.is_empty() {
            return;
        }
        let supervisor = supervisor.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "ends with its last request, or with the supervisor it asks"
        )]
        tokio::spawn(async move {
            for spec in missing {
                if let Err(error) = supervisor.start_child(spec).await {
                    tracing::debug!(%error, "child of a restarted branch");
                }
            }
        });
    }
}

/// How often a child may fail. One that is restarted after failures only is a step, which keeps
/// its own budget: its failures must never count against the branch.
fn intensity(kind: RestartKind) -> Intensity {
    let usual = Intensity::default();
    match kind {
        RestartKind::Transient => Intensity {
            restarts: 1000,
            ..usual
        },
        RestartKind::Permanent | RestartKind::Temporary => usual,
    }
}

/// Turns a supervisor's events into the system's.
pub(crate) fn restart_events(
    branch: &'static str,
    events: Events,
) -> impl Fn(&SupervisorEvent) + Send + Sync {
    move |event| {
        if let SupervisorEvent::Restarting { name, after } = event {
            events.restarted();
            let after = *after;
            events.emit(|| EventKind::Restarted {
                actor: format!("{branch}/{name}").into(),
                after,
            });
        }
    }
}

impl fmt::Debug for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Branch")
            .field("name", &self.shared.name)
            .finish_non_exhaustive()
    }
}
