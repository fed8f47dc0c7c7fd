//! Scripted outages: the same calls, the same faults, three clients, one table.
//!
//! A drill runs a [`Scenario`] against the simulated provider, once for each client, and scores what
//! was asked, sent and answered. Time is virtual unless [`Options::real`] is set: minutes
//! pass in a second, and the same seed gives the same bytes. Each client has its own provider, its
//! own runtime and its own thread, so nothing that one does can reach another.
//!
//! Its failure mode: a drill shows how a client meets the faults in the script, and no others.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::ser::{SerializeMap, SerializeStruct};
use serde::{Serialize, Serializer};
use tokio::net::TcpListener;

use crate::sim::Sim;
use crate::transport::Transport;

pub mod client;
pub mod load;
pub mod meter;
pub mod progress;
pub mod report;
mod run;
pub mod scenario;
pub mod score;
pub mod table;

pub use client::ClientKind;
pub use scenario::Scenario;
pub use score::Score;

/// Makes the transport of one client of a drill in real time.
pub type TransportFactory = Arc<
    dyn Fn() -> Result<Arc<dyn Transport>, Box<dyn std::error::Error + Send + Sync>> + Send + Sync,
>;

/// Serves a simulated provider over HTTP until the future it is handed resolves.
pub type Serve = Arc<
    dyn Fn(TcpListener, Arc<Sim>, BoxFuture<'static, ()>) -> BoxFuture<'static, ()> + Send + Sync,
>;

/// What a drill in real time needs from its caller: both ends of a loopback connection.
#[derive(Clone)]
pub struct Loopback {
    /// The clients' end, one transport each.
    pub transport: TransportFactory,
    /// The provider's end.
    pub serve: Serve,
}

/// What to drill, and how.
#[derive(Clone)]
#[non_exhaustive]
pub struct Options {
    /// The scenarios, run in this order.
    pub scenarios: Vec<Scenario>,
    /// The clients to compare.
    pub clients: Vec<ClientKind>,
    /// Seed of everything that is left to chance.
    pub seed: u64,
    /// Real time over loopback HTTP; `None` for virtual time.
    pub real: Option<Loopback>,
    /// Whether to draw live progress when standard error is a terminal.
    pub progress: bool,
}

impl Options {
    /// These scenarios with every client, in virtual time, without progress.
    #[must_use]
    pub fn new(scenarios: Vec<Scenario>, seed: u64) -> Self {
        Self {
            scenarios,
            clients: ClientKind::ALL.to_vec(),
            seed,
            real: None,
            progress: false,
        }
    }
}

impl fmt::Debug for Loopback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loopback").finish_non_exhaustive()
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.scenarios.iter().map(|s| &s.name).collect();
        f.debug_struct("Options")
            .field("scenarios", &names)
            .field("clients", &self.clients)
            .field("seed", &self.seed)
            .field("real", &self.real.is_some())
            .finish_non_exhaustive()
    }
}

/// Runs every scenario with every client and scores them.
///
/// Blocks until all is done; it makes runtimes of its own, on threads of its own, so it may also be
/// called where one is running (from `spawn_blocking`, since it takes its time).
///
/// # Errors
///
/// [`DrillError`] when a scenario is not valid, a client cannot be built, or the provider and the
/// meter disagree about what was sent.
pub fn run(options: &Options) -> Result<Report, DrillError> {
    let progress = progress::Progress::new(options.progress);
    let scenarios = options
        .scenarios
        .iter()
        .map(|scenario| run::scenario(scenario, options, &progress))
        .collect::<Result<_, _>>()?;
    Ok(Report {
        seed: options.seed,
        real: options.real.is_some(),
        scenarios,
    })
}

/// The outcome of a drill.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// The seed that repeats it.
    pub seed: u64,
    /// Whether it ran over HTTP in real time.
    pub real: bool,
    /// One entry a scenario, in the order asked for.
    pub scenarios: Vec<ScenarioReport>,
}

impl Report {
    /// The bars that seawall missed.
    pub fn missed(&self) -> impl Iterator<Item = Missed> + '_ {
        self.scenarios.iter().flat_map(ScenarioReport::missed)
    }

    /// The JSON text that the command prints: an array, or with `one` the single object of the first
    /// scenario.
    ///
    /// # Errors
    ///
    /// [`DrillError::Json`] when it cannot be serialised.
    pub fn to_json(&self, one: bool) -> Result<String, DrillError> {
        let printed: Vec<_> = self
            .scenarios
            .iter()
            .map(|s| Printed(s, self.seed))
            .collect();
        match printed.first() {
            Some(first) if one => serde_json::to_string_pretty(first),
            _ => serde_json::to_string_pretty(&printed),
        }
        .map_err(DrillError::Json)
    }
}

/// What one scenario showed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ScenarioReport {
    /// The scenario.
    pub scenario: Scenario,
    /// Time that passed for the slowest client, in the drill's own time.
    pub lasted: Duration,
    /// One entry a client, in the order asked for.
    pub clients: Vec<ClientReport>,
}

impl ScenarioReport {
    /// The bars that seawall missed here.
    pub fn missed(&self) -> impl Iterator<Item = Missed> + '_ {
        self.judged().flat_map(|client| {
            self.scenario.bars.iter().filter_map(|bar| {
                let found = client.score.figure(bar.figure);
                (!bar.met_by(found)).then(|| Missed {
                    scenario: self.scenario.name.clone(),
                    client: client.kind,
                    bar: *bar,
                    found,
                })
            })
        })
    }

    /// How many bars were held against seawall here.
    #[must_use]
    pub fn bars_checked(&self) -> usize {
        self.judged()
            .count()
            .saturating_mul(self.scenario.bars.len())
    }

    fn judged(&self) -> impl Iterator<Item = &ClientReport> {
        self.clients
            .iter()
            .filter(|client| client.kind == ClientKind::Seawall)
    }
}

/// What one client showed in one scenario.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientReport {
    /// The client.
    pub kind: ClientKind,
    /// Its figures.
    pub score: Score,
    /// Its calls, in the order in which they ended.
    pub calls: Vec<score::CallRecord>,
    /// Its attempts, in the order in which they were sent.
    pub attempts: Vec<meter::AttemptRecord>,
    /// Time until its last call had ended.
    pub lasted: Duration,
}

/// A bar that was missed.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Missed {
    /// The scenario.
    pub scenario: String,
    /// The client.
    pub client: ClientKind,
    /// The bar.
    pub bar: scenario::Bar,
    /// The figure; `None` when it was not defined, as when a client never recovered.
    pub found: Option<f64>,
}

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}: {} is ",
            self.scenario,
            self.client.as_str(),
            self.bar.figure.as_str()
        )?;
        match self.found {
            Some(found) => write!(f, "{found}")?,
            None => f.write_str("undefined")?,
        }
        write!(f, ", the bar is {}", self.bar.limit)
    }
}

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
        known: Vec<&'static str>,
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
    /// The provider counted other attempts than the meter: no figure can be believed.
    #[error(
        "scenario {scenario:?}, {client}: the meter counted {metered} {what}, the provider {provider}"
    )]
    Disagreement {
        /// The scenario.
        scenario: String,
        /// The client.
        client: &'static str,
        /// What was counted.
        what: String,
        /// By the meter.
        metered: u64,
        /// By the provider.
        provider: u64,
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

struct Printed<'a>(&'a ScenarioReport, u64);

impl Serialize for Printed<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut object = to.serialize_struct("scenario", 4)?;
        object.serialize_field("scenario", &self.0.scenario.name)?;
        object.serialize_field("seed", &self.1)?;
        let seconds = (self.0.lasted.as_secs_f64() * 1e3).round() / 1e3;
        object.serialize_field("virtual_seconds", &seconds)?;
        object.serialize_field("clients", &PrintedClients(&self.0.clients))?;
        object.end()
    }
}

struct PrintedClients<'a>(&'a [ClientReport]);

impl Serialize for PrintedClients<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(self.0.len()))?;
        for client in self.0 {
            map.serialize_entry(client.kind.as_str(), &client.score)?;
        }
        map.end()
    }
}
