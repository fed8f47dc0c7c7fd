//! One branch of the tree: a supervisor whose children come and go while it runs.
//!
//! When the branch itself is restarted it comes up empty, and starts again every child that was
//! added to it and has not been removed. Temporary children are not missed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use ractor::{Actor, ActorCell, ActorRef};

use crate::error::StartError;
use crate::event::{EventKind, Events};
use crate::supervisor::{
    ChildError, ChildSpec, Intensity, RestartKind, Shutdown, Supervisor, SupervisorEvent,
    SupervisorSettings,
};

/// A branch and its children, over all incarnations.
#[derive(Clone)]
pub(crate) struct Branch {
    shared: Arc<Shared>,
}

struct Shared {
    name: &'static str,
    supervisor: Mutex<Option<Supervisor>>,
    /// Children that come back with the branch, by name; `None` once it has ended for good.
    specs: Mutex<Option<BTreeMap<String, ChildSpec>>>,
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
                specs: Mutex::new(Some(BTreeMap::new())),
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

    /// Adds a child. One that is no temporary comes back with the branch.
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
        // A step's one handler runs as long as the step, so it is cut at its await.
        let spec = match kind {
            RestartKind::Transient => spec.shutdown(Shutdown::Kill),
            RestartKind::Permanent | RestartKind::Temporary => spec,
        };
        let returns = kind != RestartKind::Temporary;
        match self.shared.specs.lock().as_mut() {
            None => return Err(StartError::Stopped),
            Some(specs) if returns => drop(specs.insert(name.to_owned(), spec.clone())),
            Some(_) => {}
        }
        let Some(supervisor) = self.shared.supervisor.lock().clone() else {
            return Err(StartError::Stopped);
        };
        match supervisor.start_child(spec).await {
            // A branch that came up in the meantime has started it already, or is about to; and a
            // step can be over, and removed, before its start was answered.
            Err(ChildError::Invalid { .. } | ChildError::Superseded { .. } | ChildError::Ended)
                if returns =>
            {
                Ok(())
            }
            Ok(()) => Ok(()),
            Err(error) => Err(StartError::Actor(error.to_string())),
        }
    }

    /// Ends a child for good.
    pub(crate) async fn remove(&self, name: &str) {
        // Dropped without the lock, as in `close`.
        let spec = self
            .shared
            .specs
            .lock()
            .as_mut()
            .and_then(|specs| specs.remove(name));
        drop(spec);
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

    /// Forgets every child, and takes no more. For a branch that has ended for good.
    pub(crate) fn close(&self) {
        // Dropped without the lock: what a child holds may ask the branch.
        let specs = self.shared.specs.lock().take();
        drop(specs);
    }

    fn came_up(&self, supervisor: &Supervisor) {
        *self.shared.supervisor.lock() = Some(supervisor.clone());
        let missing: Vec<ChildSpec> = match self.shared.specs.lock().as_ref() {
            Some(specs) => specs.values().cloned().collect(),
            None => Vec::new(),
        };
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
