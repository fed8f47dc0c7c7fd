//! `seawall check`: validates a config, says in words what each route does, and foretells what
//! happens to a call that meets a fault.

use std::process::ExitCode;

use clap::Args;
use seawall::config::Config;

use crate::{ConfigArgs, WRONG_USE};

mod carriage;
mod faults;
mod json;
mod outlook;
mod rehearsal;
mod requests;
mod words;

/// What `seawall check` is told.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print the result as JSON on stdout
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &CheckArgs) -> ExitCode {
    match args.config.load() {
        Ok(config) => {
            tell(&config, args.json);
            ExitCode::SUCCESS
        }
        Err(error) if args.json => {
            crate::print(&json::refused_as_json(&error).to_string());
            ExitCode::from(WRONG_USE)
        }
        Err(error) => crate::refuse(&error),
    }
}

fn tell(config: &Config, as_json: bool) {
    if as_json {
        crate::print(&json::as_json(config).to_string());
        return;
    }
    for warning in &config.warnings {
        crate::complain(&format!("warning: {warning}"));
    }
    crate::print(words::in_words(config).trim_end());
}

#[cfg(test)]
mod tests;
