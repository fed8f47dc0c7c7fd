//! `seawall drill`: scripted outages, run by several clients over the same seed.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use seawall::drill::scenario::Scenario;
use seawall::drill::{self, DrillError, Options, Report};

use crate::{complain, print};

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

/// Runs the drill. Exit 0: every bar met; 1: a bar missed or the drill failed; 2: wrong use.
pub(crate) async fn run(args: DrillArgs) -> ExitCode {
    if args.real {
        complain("error: --real is not in this version; leave it out to drill in virtual time");
        return ExitCode::from(2);
    }
    let scenarios = match &args.scenario {
        Some(name) => Scenario::find(name).map(|scenario| vec![scenario]),
        None => Ok(Scenario::built_in()),
    };
    let scenarios = match scenarios {
        Ok(scenarios) => scenarios,
        Err(error) => return failed(&error),
    };
    let mut options = Options::new(scenarios, args.seed);
    options.progress = true;
    // Each client of a drill drives a runtime of its own, which can't be done from inside another.
    let drilled = tokio::task::spawn_blocking(move || drill::run(&options)).await;
    match drilled {
        Ok(Ok(report)) => show(&report, &args),
        Ok(Err(error)) => failed(&error),
        Err(panic) => {
            complain(&format!("error: the drill broke off: {panic}"));
            ExitCode::FAILURE
        }
    }
}

fn show(report: &Report, args: &DrillArgs) -> ExitCode {
    if args.json {
        match report.to_json(args.scenario.is_some()) {
            Ok(json) => print(&json),
            Err(error) => return failed(&error),
        }
    } else {
        print(&drill::table::render(report));
    }
    if let Some(dir) = &args.report {
        match drill::report::write(report, dir) {
            Ok(page) => complain(&format!("report: {}", page.display())),
            Err(error) => return failed(&error),
        }
    }
    let mut code = ExitCode::SUCCESS;
    for missed in report.missed() {
        complain(&format!("bar missed: {missed}"));
        code = ExitCode::FAILURE;
    }
    code
}

fn failed(error: &DrillError) -> ExitCode {
    complain(&format!("error: {error}"));
    if error.is_usage() {
        ExitCode::from(2)
    } else {
        ExitCode::FAILURE
    }
}
