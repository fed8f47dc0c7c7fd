//! What a supervisor tells: how a child ended, how it stands, what happened, and what it refused.

use std::time::Duration;

/// How one incarnation of a child ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// It stopped or drained, and its `post_stop` ran; with the reason given to the stop.
    Stopped(Option<String>),
    /// A handler panicked or returned an error.
    Failed(String),
    /// It was killed, or its task was aborted: `post_stop` did not run.
    Killed,
    /// `pre_start` failed or panicked, or the child's constructor did; it never ran.
    NotStarted(String),
}

impl Exit {
    /// Whether a transient child is started again after such an end.
    #[must_use]
    pub const fn is_abnormal(&self) -> bool {
        !matches!(self, Self::Stopped(_))
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stopped(None) => f.write_str("stopped"),
            Self::Stopped(Some(reason)) => write!(f, "stopped: {reason}"),
            Self::Failed(reason) => write!(f, "failed: {reason}"),
            Self::Killed => f.write_str("killed"),
            Self::NotStarted(reason) => write!(f, "did not start: {reason}"),
        }
    }
}

/// How a supervisor itself ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// It was stopped, or a significant child's end stopped it; its children went down in order.
    Stopped,
    /// It gave up on a child, was killed, or was aborted.
    Failed(String),
}

/// Where a child stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ChildState {
    /// Its `pre_start` is running.
    Starting,
    /// It handles messages.
    Running,
    /// It was told to end and has not yet.
    Stopping,
    /// It is down and will be started, after its backoff or when its siblings are down.
    Waiting,
    /// It is down and stays down until it is restarted by name.
    Ended,
}

impl ChildState {
    /// Stable word for logs and status pages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Waiting => "waiting",
            Self::Ended => "ended",
        }
    }
}

/// One child as its supervisor sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChildStatus {
    /// Unique within the supervisor.
    pub name: String,
    /// Where it stands.
    pub state: ChildState,
    /// Incarnations whose `pre_start` succeeded.
    pub starts: u64,
    /// Failures of this child that were answered with a restart.
    pub restarts: u64,
    /// How the last incarnation ended.
    pub last_exit: Option<Exit>,
}

/// A change that a supervisor made or saw.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SupervisorEvent {
    /// A child runs.
    ChildStarted {
        /// The child.
        name: String,
        /// 1 for the first incarnation.
        start: u64,
    },
    /// An incarnation ended, ordered or not.
    ChildExited {
        /// The child.
        name: String,
        /// How it ended.
        exit: Exit,
    },
    /// A failure will be answered with a restart.
    Restarting {
        /// The child that failed.
        name: String,
        /// Earliest time of the restart, from this event.
        after: Duration,
    },
    /// A child spent its restart intensity: the supervisor ends its children, then fails.
    GaveUp {
        /// The child that failed.
        name: String,
        /// How its last incarnation ended.
        exit: Exit,
    },
}

impl SupervisorEvent {
    pub(super) fn trace(&self, supervisor: &str) {
        match self {
            Self::ChildStarted { name, start } => {
                tracing::debug!(supervisor, child = name, start, "child started");
            }
            Self::ChildExited { name, exit } if exit.is_abnormal() => {
                tracing::warn!(supervisor, child = name, %exit, "child ended");
            }
            Self::ChildExited { name, exit } => {
                tracing::debug!(supervisor, child = name, %exit, "child ended");
            }
            Self::Restarting { name, after } => {
                tracing::info!(supervisor, child = name, ?after, "child will be restarted");
            }
            Self::GaveUp { name, exit } => {
                tracing::error!(supervisor, child = name, %exit, "gave up on child");
            }
        }
    }
}

/// A supervisor that could not be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The children contradict each other, or a child contradicts itself.
    #[error("child {name}: {why}")]
    Invalid {
        /// The child.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// A child did not start. Those started before it were shut down again, in reverse order.
    #[error("child {name} did not start: {reason}")]
    NotStarted {
        /// The child.
        name: String,
        /// Its own word.
        reason: String,
    },
    /// The supervisor's own actor could not be spawned.
    #[error("supervisor did not start: {0}")]
    Spawn(String),
}

/// A request about a child that was not fulfilled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChildError {
    /// The supervisor has no child of that name.
    #[error("no child is named {name}")]
    Unknown {
        /// The name asked for.
        name: String,
    },
    /// The specification is refused.
    #[error("child {name}: {why}")]
    Invalid {
        /// The child.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// The child did not start.
    #[error("child {name} did not start: {reason}")]
    NotStarted {
        /// The child.
        name: String,
        /// Its own word.
        reason: String,
    },
    /// A later request ended the child before this one was fulfilled.
    #[error("a later request ended child {name}")]
    Superseded {
        /// The child.
        name: String,
    },
    /// The supervisor ended before it answered.
    #[error("the supervisor has ended")]
    Ended,
}
