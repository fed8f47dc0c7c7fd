//! `seawall drill`: scripted outages, run by several clients over the same seed.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

/// What `seawall drill` is told.
#[derive(Debug, Args)]
pub(crate) struct DrillArgs {
    /// A scenario's name (outage, outage-primary, limits, overload, flaky, brownout, mixed) or a
    /// TOML file; without it: all of them, and one table at the end
    #[arg(value_name = "NAME|FILE")]
    pub(crate) scenario: Option<String>,
    /// Print the result as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
    /// Write one self-contained HTML page with plots into this directory
    #[arg(long, value_name = "DIR")]
    pub(crate) report: Option<PathBuf>,
    /// Go over loopback HTTP in real time instead of virtual time
    #[arg(long)]
    pub(crate) real: bool,
    /// Seed of everything left to chance: the same seed gives the same bytes
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
}

#[expect(clippy::unused_async, reason = "the drill runs here")]
pub(crate) async fn run(_args: DrillArgs) -> ExitCode {
    ExitCode::FAILURE
}
