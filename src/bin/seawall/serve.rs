//! `seawall serve`: the gateway.

use std::process::ExitCode;

use clap::Args;

use crate::ConfigArgs;

/// What `seawall serve` is told.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
}

#[expect(clippy::unused_async, reason = "the gateway's loop goes here")]
pub(crate) async fn run(args: ServeArgs) -> ExitCode {
    match args.config.load() {
        Ok(_config) => ExitCode::FAILURE,
        Err(error) => crate::refuse(&error),
    }
}
