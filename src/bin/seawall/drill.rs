//! `seawall drill`: scripted outages, run by several clients over the same seed.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use seawall::drill::scenario::Scenario;
use seawall::drill::{self, DrillError, Loopback, Options, Report};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::gateway::stop::Stop;
use crate::{complain, print};

const AFTER_HELP: &str = "\
Each scenario is played by three clients over the same seed: seawall, sdk (the official SDKs' policy: \
two retries) and naive (one attempt). Seawall has to meet the scenario's bars. Every drill also checks \
that what was counted agrees: seawall's metrics and log lines, a meter on the wire, and the provider.

Scenarios:
  outage          a minute of 529 in three minutes at 20 calls a second, and no other model
  outage-primary  the same, with a smaller model that stays healthy
  outage-ladder   the whole provider is down; behind it a smaller model, a cache, a fixed text
  limits          300 agents of 3 steps at once against 600 requests a minute
  overload        ten minutes of calls that ask for 120 % of an input-token quota
  flaky           200 agent runs of 10 steps while 15 % of all attempts fail
  brownout        the first content takes up to 30 s instead of half a second
  mixed           five minutes with a little of everything
  limits-120      120 % of a quota of which nobody has told the client; limits-300 300 %
  limits-input    the same where input tokens are the limit; limits-output output tokens
  launch          100 agents of 3 steps at once against limits that nobody has told the client
  settlement      calls that ask for ten times the output tokens that they get
  two-processes   two systems on one quota, with short bursts; two-processes-minute with long ones
  ramp            a provider that refuses sudden growth
  no-headers      a provider that is full at 12 requests and says nothing about limits
  limits-real     limits-120 and then limits-300 over loopback HTTP, in two minutes of real \
time; only by its name

In virtual time each takes about a second; with --real a scenario takes as long as it says, all of \
them more than an hour. Ctrl-C ends a drill early and prints what was seen until then; a second one \
ends it at once.

Examples:
  seawall drill                       every scenario, and one table
  seawall drill outage --json         one scenario's figures as JSON
  seawall drill limits --real         the same over loopback HTTP, in real time
  seawall drill --report target/drill a page with plots

Exit codes: 0 every bar is met; 1 a bar was missed, or the drill failed or was stopped; 2 wrong use.";

/// What `seawall drill` is told.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct DrillArgs {
    /// A scenario's name or a TOML file; without it: all of them, and one table at the end
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
    /// Seed of everything left to chance: the same seed gives the same bytes in virtual time
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
}

/// Runs the drill. Exit 0: every bar met; 1: a bar missed, or the drill failed or was stopped; 2:
/// wrong use.
pub(crate) async fn run(args: DrillArgs) -> ExitCode {
    let scenarios = match &args.scenario {
        Some(name) => Scenario::find(name).map(|scenario| vec![scenario]),
        None => Ok(Scenario::built_in()),
    };
    let scenarios = match scenarios {
        Ok(scenarios) => scenarios,
        Err(error) => return failed(&error),
    };
    let signals = match Stop::listen() {
        Ok(signals) => signals,
        Err(why) => {
            complain(&format!("error: cannot listen to signals: {why}"));
            return ExitCode::FAILURE;
        }
    };
    let (stop, stopped) = watch::channel(false);
    let needs_real = scenarios.iter().any(|scenario| scenario.real);
    let mut options = Options::new(scenarios, args.seed);
    options.progress = true;
    options.real = (args.real || needs_real).then(Loopback::http);
    options.stop = Some(stopped);
    // Each client of a drill drives a runtime of its own, which can't be done from inside another.
    let drill = tokio::task::spawn_blocking(move || drill::run(&options));
    match until_stopped(drill, signals, &stop).await {
        Some(Ok(Ok(report))) => show(&report, &args),
        Some(Ok(Err(error))) => failed(&error),
        Some(Err(panic)) => {
            complain(&format!("error: the drill broke off: {panic}"));
            ExitCode::FAILURE
        }
        // The drill's thread cannot be stopped from outside, and main would wait for it.
        None => std::process::exit(1),
    }
}

type Drilled = Result<Result<Report, DrillError>, tokio::task::JoinError>;

/// Waits for the drill, which a first signal asks to end; `None` at the second.
async fn until_stopped(
    mut drill: JoinHandle<Result<Report, DrillError>>,
    mut signals: Stop,
    stop: &watch::Sender<bool>,
) -> Option<Drilled> {
    tokio::select! {
        drilled = &mut drill => return Some(drilled),
        () = signals.asked() => {}
    }
    stop.send_replace(true);
    complain("stopping; once more ends it at once");
    tokio::select! {
        drilled = &mut drill => Some(drilled),
        () = signals.asked() => None,
    }
}

fn show(report: &Report, args: &DrillArgs) -> ExitCode {
    if args.json {
        match report.to_json(args.scenario.is_some()) {
            Ok(json) => print(&json),
            Err(error) => return failed(&error),
        }
    } else {
        print(&drill::table::render(report, width()));
    }
    if let Some(dir) = &args.report {
        match drill::report::write(report, dir) {
            Ok(page) => complain(&format!("report: {}", page.display())),
            Err(error) => return failed(&error),
        }
    }
    // The table says so itself.
    if args.json {
        for missed in report.missed() {
            complain(&format!("bar missed: {missed}"));
        }
        if report.interrupted {
            complain("stopped before its end: the figures are partial");
        }
    }
    if report.interrupted || report.missed().next().is_some() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// The columns of the terminal that the table goes to, if it goes to one.
fn width() -> Option<usize> {
    let out = std::io::stdout();
    let (terminal_size::Width(columns), _) =
        terminal_size::terminal_size_of(&out).filter(|_| out.is_terminal())?;
    Some(usize::from(columns))
}

fn failed(error: &DrillError) -> ExitCode {
    complain(&format!("error: {error}"));
    if error.is_usage() {
        ExitCode::from(2)
    } else {
        ExitCode::FAILURE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_every_scenario() {
        for scenario in Scenario::built_in() {
            let is_named = AFTER_HELP
                .split(|c: char| c.is_whitespace() || c == ';')
                .any(|word| word == scenario.name);
            assert!(is_named, "{}", scenario.name);
        }
    }
}
