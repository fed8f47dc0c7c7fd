//! One child as its supervisor keeps it: what it should be, and what it is.

use std::time::Duration;

use ractor::ActorId;
use tokio::time::Instant;

use super::actor::Reply;
use super::child::{ChildSpec, RestartKind};
use super::incarnation::Incarnation;
use super::status::{ChildState, ChildStatus, Exit};
use crate::policy::restart::Restart;

/// Stands for a shutdown limit that the clock can't hold; tokio's own far future.
const FAR: Duration = Duration::from_secs(86_400 * 365 * 30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Down,
    Starting,
    Up,
    /// Told to end, and killed at that time; without one it was killed.
    Stopping(Option<Instant>),
}

/// What a child should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    Up,
    /// Down, but known and ready to be restarted by name.
    Down,
    /// Down and forgotten.
    Gone,
}

pub(super) struct Child {
    pub(super) spec: ChildSpec,
    pub(super) policy: Restart,
    pub(super) phase: Phase,
    pub(super) incarnation: Option<Incarnation>,
    pub(super) goal: Goal,
    /// Has to go down before anything that goes with it comes up.
    pub(super) recycle: bool,
    /// Added by request, and never up so far: its first failure is the asker's.
    pub(super) untried: bool,
    pub(super) not_before: Instant,
    /// What the supervision event said, until the task has ended.
    pub(super) noted: Option<Exit>,
    pub(super) starts: u64,
    pub(super) restarts: u64,
    pub(super) last_exit: Option<Exit>,
    /// Askers that wait for it to be up.
    pub(super) up: Vec<Reply>,
    /// Askers that wait for it to be down.
    pub(super) down: Vec<Reply>,
}

impl Child {
    pub(super) fn new(spec: ChildSpec, policy: Restart, now: Instant) -> Self {
        Self {
            spec,
            policy,
            phase: Phase::Down,
            incarnation: None,
            goal: Goal::Up,
            recycle: false,
            untried: false,
            not_before: now,
            noted: None,
            starts: 0,
            restarts: 0,
            last_exit: None,
            up: Vec::new(),
            down: Vec::new(),
        }
    }

    pub(super) fn is(&self, id: ActorId) -> bool {
        self.incarnation
            .as_ref()
            .is_some_and(|incarnation| incarnation.id() == id)
    }

    pub(super) fn has_to_stop(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Up) && (self.recycle || !self.is_wanted())
    }

    pub(super) fn order_stop(&mut self, now: Instant) {
        let Some(incarnation) = &self.incarnation else {
            return;
        };
        let limit = self.spec.shutdown.order(&incarnation.cell);
        let kill_at = || now.checked_add(limit).unwrap_or(now + FAR);
        self.phase = Phase::Stopping((!limit.is_zero()).then(kill_at));
    }

    pub(super) fn kill_if_overdue(&mut self, now: Instant) {
        if let (Phase::Stopping(Some(at)), Some(incarnation)) = (self.phase, &self.incarnation)
            && at <= now
        {
            tracing::warn!(child = %self.spec.name, "child outlived its shutdown limit: killed");
            incarnation.cell.kill();
            self.phase = Phase::Stopping(None);
        }
    }

    pub(super) fn wakes_at(&self, now: Instant) -> Option<Instant> {
        match self.phase {
            Phase::Stopping(kill_at) => kill_at,
            Phase::Down if self.is_wanted() && self.not_before > now => Some(self.not_before),
            Phase::Down | Phase::Starting | Phase::Up => None,
        }
    }

    pub(super) fn restarts_after(&self, exit: &Exit) -> bool {
        match self.spec.restart {
            RestartKind::Permanent => true,
            RestartKind::Transient => exit.is_abnormal(),
            RestartKind::Temporary => false,
        }
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.goal == Goal::Up
    }

    /// What it should be once it need not be up.
    pub(super) fn rest(&self) -> Goal {
        if self.untried || self.spec.restart == RestartKind::Temporary {
            Goal::Gone
        } else {
            Goal::Down
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Down && self.goal == Goal::Gone
    }

    pub(super) fn name(&self) -> String {
        self.spec.name.as_ref().to_owned()
    }

    pub(super) fn status(&self) -> ChildStatus {
        ChildStatus {
            name: self.name(),
            state: match self.phase {
                Phase::Starting => ChildState::Starting,
                Phase::Up => ChildState::Running,
                Phase::Stopping(_) => ChildState::Stopping,
                Phase::Down if self.is_wanted() => ChildState::Waiting,
                Phase::Down => ChildState::Ended,
            },
            starts: self.starts,
            restarts: self.restarts,
            last_exit: self.last_exit.clone(),
        }
    }
}
