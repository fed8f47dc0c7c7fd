//! The children of one supervisor: what each should be, what it is, and the step between.
//!
//! Requests and exits only change what is wanted; [`Children::settle`] then stops and starts what
//! it may. So a restart that is no longer wanted simply does not happen, and several failures at
//! once need no order among them.

use std::collections::HashSet;
use std::mem;
use std::time::Duration;

use ractor::{ActorId, ActorRef};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::actor::{Msg, Reply};
use super::child::{ChildSpec, RestartKind, SHUTDOWN_REASON};
use super::incarnation::Incarnation;
use super::status::{ChildError, ChildStatus, Exit, StartError, SupervisorEvent};
use super::supervised::{Child, Goal, Phase};
use super::{AutoShutdown, Strategy, SupervisorSettings};
use crate::policy::restart::RestartDecision;

/// Why a supervisor fails.
#[derive(Debug, thiserror::Error)]
#[error("gave up on child {name}: {exit}")]
pub(super) struct GaveUp {
    name: String,
    exit: Exit,
}

pub(super) struct Children {
    myself: ActorRef<Msg>,
    settings: SupervisorSettings,
    rng: StdRng,
    /// In start order.
    list: Vec<Child>,
    /// When the next [`Msg::Wake`] comes, and its timer.
    wake: Option<(Instant, AbortHandle)>,
    closing: bool,
}

impl Children {
    pub(super) fn new(myself: ActorRef<Msg>, settings: SupervisorSettings) -> Self {
        let rng = StdRng::seed_from_u64(settings.seed);
        Self {
            myself,
            settings,
            rng,
            list: Vec::new(),
            wake: None,
            closing: false,
        }
    }

    /// Starts the first children one after another.
    pub(super) async fn start_all(&mut self, specs: Vec<ChildSpec>) -> Result<(), StartError> {
        let mut names = HashSet::new();
        for spec in specs {
            let name = spec.name().to_owned();
            let taken = !names.insert(name.clone());
            let child = self
                .checked(spec, taken)
                .map_err(|why| StartError::Invalid { name, why })?;
            self.list.push(child);
        }
        for child in &mut self.list {
            let name = child.name();
            let refused = |reason| StartError::NotStarted {
                name: name.clone(),
                reason,
            };
            let launching = child
                .spec
                .launch(self.myself.get_cell())
                .map_err(&refused)?;
            let incarnation = Incarnation::up(self.myself.clone(), launching);
            child.incarnation = Some(incarnation.await.map_err(&refused)?);
            child.phase = Phase::Up;
            child.starts = 1;
            self.settings
                .emit(&SupervisorEvent::ChildStarted { name, start: 1 });
        }
        Ok(())
    }

    /// Keeps how an incarnation ended until its task has.
    pub(super) fn note(&mut self, id: ActorId, exit: Exit) {
        if let Some(child) = self.list.iter_mut().find(|child| child.is(id)) {
            child.noted = Some(exit);
        }
    }

    pub(super) fn started(&mut self, id: ActorId) -> Result<(), GaveUp> {
        if let Some(child) = self.list.iter_mut().find(|child| child.is(id)) {
            if child.phase == Phase::Starting {
                child.phase = Phase::Up;
            }
            child.starts = child.starts.saturating_add(1);
            child.untried = false;
            if child.is_wanted() && !child.recycle {
                for reply in child.up.drain(..) {
                    answer(reply, Ok(()));
                }
            }
            let event = SupervisorEvent::ChildStarted {
                name: child.name(),
                start: child.starts,
            };
            self.settings.emit(&event);
        }
        self.settle()
    }

    /// An incarnation is gone: as said, else as noted, else unheard, which only a kill is.
    pub(super) fn ended(&mut self, id: ActorId, said: Option<Exit>) -> Result<(), GaveUp> {
        let Some(index) = self.list.iter().position(|child| child.is(id)) else {
            return Ok(());
        };
        let noted = self
            .list
            .get_mut(index)
            .and_then(|child| child.noted.take());
        self.went_down(index, said.or(noted).unwrap_or(Exit::Killed))?;
        self.settle()
    }

    pub(super) fn start(&mut self, spec: ChildSpec, reply: Reply) -> Result<(), GaveUp> {
        let name = spec.name().to_owned();
        let taken = self.list.iter().any(|child| child.spec.name() == name);
        match self.checked(spec, taken) {
            Ok(mut child) => {
                child.untried = true;
                child.up.push(reply);
                self.list.push(child);
            }
            Err(why) => answer(reply, Err(ChildError::Invalid { name, why })),
        }
        self.settle()
    }

    pub(super) fn terminate(&mut self, name: &str, reply: Reply) -> Result<(), GaveUp> {
        self.end(name, reply, false)
    }

    pub(super) fn remove(&mut self, name: &str, reply: Reply) -> Result<(), GaveUp> {
        self.end(name, reply, true)
    }

    pub(super) fn restart(&mut self, name: &str, reply: Reply) -> Result<(), GaveUp> {
        let known = |child: &&mut Child| child.spec.name() == name && child.goal != Goal::Gone;
        let Some(child) = self.list.iter_mut().find(known) else {
            answer(
                reply,
                Err(ChildError::Unknown {
                    name: name.to_owned(),
                }),
            );
            return Ok(());
        };
        child.goal = Goal::Up;
        child.recycle = child.phase != Phase::Down;
        child.not_before = Instant::now();
        child.up.push(reply);
        self.settle()
    }

    pub(super) fn statuses(&self) -> Vec<ChildStatus> {
        self.list.iter().map(Child::status).collect()
    }

    /// Ends the children in reverse start order, each within its own limit.
    pub(super) async fn shut_down(&mut self) {
        self.closing = true;
        if let Some((_, timer)) = self.wake.take() {
            timer.abort();
        }
        let settings = &self.settings;
        for child in self.list.iter_mut().rev() {
            child.goal = Goal::Down;
            if matches!(child.phase, Phase::Starting | Phase::Up) {
                child.order_stop(Instant::now());
            }
            let limit = match mem::replace(&mut child.phase, Phase::Down) {
                Phase::Stopping(Some(at)) => at.saturating_duration_since(Instant::now()),
                Phase::Stopping(None) | Phase::Down | Phase::Starting | Phase::Up => Duration::ZERO,
            };
            let Some(incarnation) = child.incarnation.take() else {
                continue;
            };
            let in_time = incarnation.end_within(limit, child.spec.name()).await;
            // Supervision events are not read any more, so the order stands for the reason.
            let ordered = || Exit::Stopped(Some(SHUTDOWN_REASON.to_owned()));
            let unheard = if in_time { ordered() } else { Exit::Killed };
            let exit = child.noted.take().unwrap_or(unheard);
            child.last_exit = Some(exit.clone());
            settings.exited(&child.spec, exit);
        }
    }

    /// Stops what has to go, starts what may come, and sets the alarm for the rest.
    pub(super) fn settle(&mut self) -> Result<(), GaveUp> {
        if self.closing {
            return Ok(());
        }
        let now = Instant::now();
        self.stop_due(now);
        while let Some(index) = self.next_start(now) {
            self.launch(index)?;
            if self.closing {
                return Ok(());
            }
        }
        self.arm(now);
        Ok(())
    }

    fn grouped(&self) -> bool {
        self.settings.strategy != Strategy::OneForOne
    }

    /// Siblings that are restarted together go down one at a time, the last first.
    fn stop_due(&mut self, now: Instant) {
        let mut busy = self.grouped()
            && self
                .list
                .iter()
                .any(|c| c.recycle && matches!(c.phase, Phase::Stopping(_)));
        let grouped = self.grouped();
        for child in self.list.iter_mut().rev() {
            child.kill_if_overdue(now);
            if !child.has_to_stop() || (busy && child.recycle) {
                continue;
            }
            busy |= grouped && child.recycle;
            child.order_stop(now);
        }
    }

    /// The child to start now. Siblings that are restarted together come up in order, each after
    /// the one before, and none before the last of them is down.
    fn next_start(&self, now: Instant) -> Option<usize> {
        let grouped = self.grouped();
        if grouped && self.list.iter().any(|child| child.recycle) {
            return None;
        }
        for (index, child) in self.list.iter().enumerate() {
            match child.phase {
                Phase::Down if child.is_wanted() && child.not_before <= now => return Some(index),
                Phase::Up => {}
                Phase::Down | Phase::Starting | Phase::Stopping(_) if !child.is_wanted() => {}
                Phase::Down | Phase::Starting | Phase::Stopping(_) if grouped => return None,
                Phase::Down | Phase::Starting | Phase::Stopping(_) => {}
            }
        }
        None
    }

    fn launch(&mut self, index: usize) -> Result<(), GaveUp> {
        let Some(child) = self.list.get_mut(index) else {
            return Ok(());
        };
        child.phase = Phase::Starting;
        match child.spec.launch(self.myself.get_cell()) {
            Ok(launching) => {
                let incarnation = Incarnation::starting(self.myself.clone(), launching);
                child.incarnation = Some(incarnation);
                Ok(())
            }
            Err(reason) => self.went_down(index, Exit::NotStarted(reason)),
        }
    }

    fn went_down(&mut self, index: usize, exit: Exit) -> Result<(), GaveUp> {
        let Some(child) = self.list.get_mut(index) else {
            return Ok(());
        };
        // An end by itself while siblings wait for it to go is no second failure.
        let ordered = child.recycle || matches!(child.phase, Phase::Stopping(_));
        child.phase = Phase::Down;
        child.incarnation = None;
        child.recycle = false;
        child.last_exit = Some(exit.clone());
        self.settings.exited(&child.spec, exit.clone());
        for reply in child.down.drain(..) {
            answer(reply, Ok(()));
        }
        let failed_start = match &exit {
            Exit::NotStarted(reason) if !ordered => Some(reason),
            _ => None,
        };
        let refused = child.untried && failed_start.is_some();
        if let Some(reason) = failed_start {
            for reply in child.up.drain(..) {
                let name = child.spec.name.as_ref().to_owned();
                answer(
                    reply,
                    Err(ChildError::NotStarted {
                        name,
                        reason: reason.clone(),
                    }),
                );
            }
        }
        if !ordered && !refused && child.restarts_after(&exit) {
            return self.fail(index, exit);
        }
        if !ordered {
            child.goal = child.rest();
        }
        let significant = !ordered && !refused && child.spec.significant;
        self.forget_if_over(index);
        if significant {
            self.significant_ended();
        }
        Ok(())
    }

    /// Answers a failure: marks who is restarted with the child and when, or gives up.
    fn fail(&mut self, index: usize, exit: Exit) -> Result<(), GaveUp> {
        let now = Instant::now();
        let Some(child) = self.list.get_mut(index) else {
            return Ok(());
        };
        let name = child.name();
        let RestartDecision::After(after) = child.policy.record(now, &mut self.rng) else {
            self.settings.emit(&SupervisorEvent::GaveUp {
                name: name.clone(),
                exit: exit.clone(),
            });
            return Err(GaveUp { name, exit });
        };
        child.restarts = child.restarts.saturating_add(1);
        self.settings
            .emit(&SupervisorEvent::Restarting { name, after });
        let not_before = now.checked_add(after).unwrap_or(now);
        let (first, behind) = match self.settings.strategy {
            Strategy::OneForOne => (index, 1),
            Strategy::OneForAll => (0, usize::MAX),
            Strategy::RestForOne => (index, usize::MAX),
        };
        for child in self.list.iter_mut().skip(first).take(behind) {
            child.not_before = child.not_before.max(not_before);
            if child.phase != Phase::Down {
                child.recycle = true;
                if child.spec.restart == RestartKind::Temporary {
                    child.goal = Goal::Gone;
                }
            }
        }
        Ok(())
    }

    fn forget_if_over(&mut self, index: usize) {
        if self.list.get(index).is_some_and(Child::is_over) {
            let child = self.list.remove(index);
            for reply in child.up {
                answer(
                    reply,
                    Err(ChildError::Superseded {
                        name: child.spec.name.to_string(),
                    }),
                );
            }
        }
    }

    fn significant_ended(&mut self) {
        let last = !self
            .list
            .iter()
            .any(|child| child.spec.significant && child.is_wanted());
        let stops = match self.settings.auto_shutdown {
            AutoShutdown::Never => false,
            AutoShutdown::AnySignificant => true,
            AutoShutdown::AllSignificant => last,
        };
        if stops {
            self.closing = true;
            self.myself
                .stop(Some("a significant child ended".to_owned()));
        }
    }

    fn end(&mut self, name: &str, reply: Reply, forget: bool) -> Result<(), GaveUp> {
        let Some(index) = self.list.iter().position(|child| child.spec.name() == name) else {
            answer(
                reply,
                Err(ChildError::Unknown {
                    name: name.to_owned(),
                }),
            );
            return Ok(());
        };
        let Some(child) = self.list.get_mut(index) else {
            return Ok(());
        };
        if child.goal != Goal::Gone {
            child.goal = if forget { Goal::Gone } else { child.rest() };
        }
        for reply in child.up.drain(..) {
            answer(
                reply,
                Err(ChildError::Superseded {
                    name: name.to_owned(),
                }),
            );
        }
        if child.phase == Phase::Down {
            answer(reply, Ok(()));
            self.forget_if_over(index);
        } else {
            child.down.push(reply);
        }
        self.settle()
    }

    fn checked(&self, spec: ChildSpec, taken: bool) -> Result<Child, String> {
        if taken {
            return Err("the name is taken".to_owned());
        }
        if spec.significant && spec.restart == RestartKind::Permanent {
            return Err("a permanent child never ends for good, so it can't be significant".into());
        }
        if spec.significant && self.settings.auto_shutdown == AutoShutdown::Never {
            return Err("significant, under a supervisor that never shuts down by itself".into());
        }
        let policy = spec
            .intensity
            .policy()
            .map_err(|refused| refused.to_string())?;
        Ok(Child::new(spec, policy, Instant::now()))
    }

    fn arm(&mut self, now: Instant) {
        let next = self
            .list
            .iter()
            .filter_map(|child| child.wakes_at(now))
            .min();
        if next == self.wake.as_ref().map(|(at, _)| *at) {
            return;
        }
        if let Some((_, timer)) = self.wake.take() {
            timer.abort();
        }
        self.wake = next.map(|at| {
            let timer = self
                .myself
                .send_after(at.saturating_duration_since(now), || Msg::Wake);
            (at, timer.abort_handle())
        });
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        if let Some((_, timer)) = &self.wake {
            timer.abort();
        }
    }
}

/// Answers an asker, who may have left: then nobody has to know.
fn answer(reply: Reply, outcome: Result<(), ChildError>) {
    if reply.send(outcome).is_err() {
        tracing::trace!("the asker left before the answer");
    }
}
