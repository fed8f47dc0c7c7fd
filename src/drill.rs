//! Scripted outages: the same calls, the same faults, three clients, one table.
//!
//! A drill runs a [`Scenario`] against the simulated provider, once for each client, and scores what
//! was asked, sent and answered. Time is virtual unless [`Options::real`] is set: minutes
//! pass in a second, and the same seed gives the same bytes. Each client has its own provider, its
//! own runtime and its own thread, so nothing that one does can reach another.
//!
//! Its failure mode: a drill shows how a client meets the faults in the script, and no others.

use std::fmt;
use std::time::Duration;

use serde::ser::{SerializeMap, SerializeStruct};
use serde::{Serialize, Serializer};
use tokio::sync::watch;

pub mod agreement;
pub mod client;
pub mod error;
pub mod load;
pub mod loopback;
pub mod meter;
pub mod progress;
pub mod published;
pub mod report;
mod run;
pub mod scenario;
pub mod score;
pub mod table;

pub use client::ClientKind;
pub use error::DrillError;
pub use loopback::Loopback;
pub use scenario::Scenario;
pub use score::Score;

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
    /// Turns `true` when the drill is to break off; what was seen until then is its result.
    pub stop: Option<watch::Receiver<bool>>,
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
            stop: None,
        }
    }
}

impl Options {
    fn is_stopped(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| *stop.borrow())
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
/// meter, or what seawall publishes of itself, disagree about what was sent.
pub fn run(options: &Options) -> Result<Report, DrillError> {
    let progress = progress::Progress::new(options.progress);
    let mut scenarios = Vec::new();
    for scenario in &options.scenarios {
        if options.is_stopped() {
            break;
        }
        scenarios.push(run::scenario(scenario, options, &progress)?);
    }
    Ok(Report {
        interrupted: options.is_stopped(),
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
    /// Whether it was stopped before its end: the last scenario is partial, further ones are missing.
    pub interrupted: bool,
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
            .map(|scenario| Printed {
                scenario,
                report: self,
            })
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
    /// Whether it was stopped before its end. No bar is held against such figures.
    pub interrupted: bool,
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
            .filter(|client| client.kind == ClientKind::Seawall && !self.interrupted)
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
    /// Numbers that two sides counted and that were found equal: the provider and the meter, and for
    /// seawall also its metrics and its log lines.
    pub agreed: u64,
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

struct Printed<'a> {
    scenario: &'a ScenarioReport,
    report: &'a Report,
}

impl Serialize for Printed<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Self { scenario, report } = *self;
        let mut object = to.serialize_struct("scenario", 5)?;
        object.serialize_field("scenario", &scenario.scenario.name)?;
        object.serialize_field("seed", &report.seed)?;
        let seconds = (scenario.lasted.as_secs_f64() * 1e3).round() / 1e3;
        let time = if report.real {
            "real_seconds"
        } else {
            "virtual_seconds"
        };
        object.serialize_field(time, &seconds)?;
        if scenario.interrupted {
            object.serialize_field("interrupted", &true)?;
        }
        object.serialize_field("clients", &PrintedClients(&scenario.clients))?;
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
