//! `seawall sim`: a simulated Claude on loopback.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use seawall::sim::recordings::Recordings;
use seawall::sim::{FaultKind, Settings, Sim, http};
use tokio::net::TcpListener;

use crate::signal::stop_asked;
use crate::{WRONG_USE, complain, print};

/// What `seawall sim` is told.
#[derive(Debug, Args)]
#[command(after_long_help = faults())]
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

/// Serves the simulated provider until SIGINT or SIGTERM.
pub(crate) async fn run(args: SimArgs) -> ExitCode {
    let listener = match TcpListener::bind(args.listen).await {
        Ok(listener) => listener,
        Err(why) => {
            complain(&format!("error: cannot listen on {}: {why}", args.listen));
            return ExitCode::FAILURE;
        }
    };
    let address = listener.local_addr().map_or(args.listen, |address| address);
    let served = match &args.recordings {
        Some(dir) => {
            let recordings = match Recordings::load(dir) {
                Ok(recordings) => recordings,
                Err(error) => return wrong(&error),
            };
            print(&format!("seawall sim listening on http://{address}"));
            http::serve_recordings(listener, recordings, stop_asked()).await
        }
        None => {
            let sim = match settings(&args).and_then(|s| Sim::new(s).map_err(|e| e.to_string())) {
                Ok(sim) => sim,
                Err(error) => return wrong(&error),
            };
            print(&format!("seawall sim listening on http://{address}"));
            http::serve(listener, sim, stop_asked()).await
        }
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            complain(&format!("error: the simulated provider broke off: {why}"));
            ExitCode::FAILURE
        }
    }
}

/// The kinds of fault, for the help text.
fn faults() -> String {
    let mut text = String::from("Kinds of fault ([[faults]] kind = ...):\n");
    for kind in FaultKind::ALL {
        text.push_str(&format!("  {:<24}{}\n", kind.as_str(), kind.meaning()));
    }
    text.push_str(
        "\nchunking = { seed = 1, max = 16 } sends streamed answers in pieces of 1 to 16 bytes.",
    );
    text
}

fn settings(args: &SimArgs) -> Result<Settings, String> {
    let mut settings = match &args.scenario {
        Some(file) => {
            let text = std::fs::read_to_string(file)
                .map_err(|why| format!("cannot read {}: {why}", file.display()))?;
            Settings::from_toml(&text).map_err(|why| format!("{}: {why}", file.display()))?
        }
        None => Settings::default(),
    };
    if let Some(seed) = args.seed {
        settings.seed = seed;
    }
    Ok(settings)
}

fn wrong(error: &dyn std::fmt::Display) -> ExitCode {
    complain(&format!("error: {error}"));
    ExitCode::from(WRONG_USE)
}
