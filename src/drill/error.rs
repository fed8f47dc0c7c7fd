//! Why a drill could not be run, or not be believed.

use std::io;
use std::path::PathBuf;

use super::agreement::Difference;

/// A drill that could not be run, or not be believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DrillError {
    /// No built-in scenario has this name, and no file.
    #[error("no scenario and no file is called {name:?}; built in are {}", known.join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A scenario file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A scenario file is not one.
    #[error("{}: {why}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        why: String,
    },
    /// A scenario asks for what cannot be.
    #[error("scenario {scenario:?}: {field} = {value} is out of range: {allowed}")]
    Invalid {
        /// The scenario.
        scenario: String,
        /// The setting.
        field: &'static str,
        /// Its value.
        value: String,
        /// What would be accepted.
        allowed: &'static str,
    },
    /// The simulated provider refuses the scenario's settings.
    #[error("scenario {scenario:?}: {why}")]
    Provider {
        /// The scenario.
        scenario: String,
        /// What is wrong.
        why: String,
    },
    /// A client could not be built.
    #[error("cannot build the {client} client: {why}")]
    Client {
        /// The client.
        client: &'static str,
        /// Why.
        why: String,
    },
    /// An address that is none.
    #[error("{base:?} is no address of a provider")]
    Endpoint {
        /// What was given.
        base: String,
    },
    /// A runtime or a socket could not be had.
    #[error("cannot start the drill")]
    Start(#[source] io::Error),
    /// The thread of one client ended without a result.
    #[error("the {client} client of scenario {scenario:?} crashed")]
    Crashed {
        /// The scenario.
        scenario: String,
        /// The client.
        client: &'static str,
    },
    /// Two who counted the same things came to different numbers: no figure can be believed.
    #[error("scenario {scenario:?}, {client}: {difference}")]
    Disagreement {
        /// The scenario.
        scenario: String,
        /// The client.
        client: &'static str,
        /// Who counted what.
        difference: Difference,
    },
    /// The report could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A plot could not be drawn.
    #[error("cannot draw a plot: {why}")]
    Plot {
        /// Why.
        why: String,
    },
    /// The figures could not be written as JSON.
    #[error("cannot write the figures as JSON")]
    Json(#[source] serde_json::Error),
}

impl DrillError {
    /// Whether the request was wrong (exit code 2), rather than the drill (exit code 1).
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Unknown { .. }
                | Self::Read { .. }
                | Self::Parse { .. }
                | Self::Invalid { .. }
                | Self::Provider { .. }
        )
    }
}
