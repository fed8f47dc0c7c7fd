//! `seawall sim`: a simulated Claude on loopback.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

/// What `seawall sim` is told.
#[derive(Debug, Args)]
pub(crate) struct SimArgs {
    /// Listen on this address; port 0 picks a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4118")]
    pub(crate) listen: SocketAddr,
    /// Models, limits and faults over time, as a TOML file; without it: healthy, ample limits
    #[arg(long, value_name = "FILE", conflicts_with = "recordings")]
    pub(crate) scenario: Option<PathBuf>,
    /// Answer with recorded exchanges from this directory, byte for byte
    #[arg(long, value_name = "DIR")]
    pub(crate) recordings: Option<PathBuf>,
    /// Seed of everything left to chance; wins over the scenario's [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
}

#[expect(
    clippy::unused_async,
    reason = "the simulated provider's loop goes here"
)]
pub(crate) async fn run(_args: SimArgs) -> ExitCode {
    ExitCode::FAILURE
}
