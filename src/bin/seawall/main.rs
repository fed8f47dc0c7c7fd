//! The `seawall` command: a gateway, a simulated provider, outage drills and a config check.

mod check;
mod drill;
mod gateway;
mod serve;
mod signal;
mod sim;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use seawall::config::{Config, ConfigError, LogFormat, Overrides};

/// A call makes some hundred short-lived allocations, many of which are freed by another thread than
/// made them: the system's allocator takes a fifth of the gateway's time for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Keeps a service alive when the model provider behind it is slow, limited, flaky or down.
#[derive(Debug, Parser)]
#[command(
    name = "seawall",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done; 1 the work failed or a bar was missed; 2 wrong use or bad config."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway: point an SDK's base URL at it
    Serve(serve::ServeArgs),
    /// Run a simulated Claude on loopback, with real limits and faults to order
    Sim(sim::SimArgs),
    /// Run scripted outages against the simulated provider and compare clients
    Drill(drill::DrillArgs),
    /// Check a config and say in words what each route does
    Check(check::CheckArgs),
}

fn main() -> ExitCode {
    // clap answers wrong use itself, with exit code 2.
    match Cli::parse().command {
        Command::Serve(args) => serve::run(&args),
        Command::Sim(args) => on_runtime(None, sim::run(args)),
        Command::Drill(args) => on_runtime(None, drill::run(args)),
        Command::Check(args) => check::run(&args),
    }
}

/// Runs a command on this many worker threads; as many as there are cores unless told.
pub(crate) fn on_runtime(
    workers: Option<usize>,
    command: impl Future<Output = ExitCode>,
) -> ExitCode {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(workers) = workers {
        runtime.worker_threads(workers);
    }
    match runtime.enable_all().build() {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => {
            complain(&format!("error: cannot start: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Where settings come from, for the commands that take any.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Read settings from this TOML file; without it every default holds
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Listen on this address; port 0 picks a free one [default: 127.0.0.1:4117]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Send calls to this address instead of the provider's, without /v1
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// Serve everybody who reaches a public address, without client keys
    #[arg(long)]
    open: bool,
    /// Fall back to this model when the asked one cannot answer; may be given several times
    #[arg(long, value_name = "MODEL")]
    fallback: Vec<String>,
    /// Form of the log lines on stderr [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogChoice>,
}

impl ConfigArgs {
    /// Reads the config under these flags.
    pub(crate) fn load(&self) -> Result<Config, ConfigError> {
        let flags = Overrides {
            listen: self.listen,
            upstream: self.upstream.clone(),
            open: self.open,
            fallback: self.fallback.clone(),
            log_format: self.log_format.map(LogFormat::from),
        };
        match &self.config {
            Some(file) => Config::from_file(file, &flags),
            None => Config::without_file(&flags),
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogChoice {
    /// Lines for people
    Text,
    /// One JSON object a line
    Json,
}

impl From<LogChoice> for LogFormat {
    fn from(choice: LogChoice) -> Self {
        match choice {
            LogChoice::Text => Self::Text,
            LogChoice::Json => Self::Json,
        }
    }
}

/// Exit code of wrong use and bad config.
const WRONG_USE: u8 = 2;

/// Prints everything that is wrong with a config, one problem a line, and ends with exit code 2.
pub(crate) fn refuse(error: &ConfigError) -> ExitCode {
    for problem in error.problems() {
        complain(&format!("error: {problem}"));
    }
    ExitCode::from(WRONG_USE)
}

/// Says something on stderr.
#[expect(
    clippy::print_stderr,
    reason = "a command talks to its user, and no log is set up yet"
)]
pub(crate) fn complain(line: &str) {
    eprintln!("{line}");
}

/// Prints a result on stdout; a reader who left early (`| head`) is no error.
pub(crate) fn print(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    if let Err(why) = written.as_ref().map_err(std::io::Error::kind)
        && why != std::io::ErrorKind::BrokenPipe
    {
        complain(&format!("cannot write to stdout: {why}"));
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_reach_the_config() {
        let line = [
            "seawall",
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--upstream",
            "http://127.0.0.1:9",
            "--fallback",
            "claude-haiku-5-5",
            "--log-format",
            "json",
        ];
        let Command::Serve(args) = Cli::parse_from(line).command else {
            panic!("serve expected")
        };
        let config = args.config.load().unwrap();
        assert_eq!(config.gateway.listen.port(), 0);
        assert_eq!(config.gateway.log_format, LogFormat::Json);
        assert_eq!(config.targets.len(), 2);
    }

    #[test]
    fn wrong_use_is_refused_by_the_command_line_itself() {
        for line in [
            &["seawall", "serv"][..],
            &["seawall", "serve", "--listen", "here"],
            &["seawall", "drill", "--seed", "x"],
        ] {
            assert_eq!(
                Cli::try_parse_from(line).unwrap_err().exit_code(),
                i32::from(WRONG_USE)
            );
        }
    }
}
