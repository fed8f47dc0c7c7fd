//! `seawall serve`: the gateway.

use std::process::ExitCode;

use clap::Args;
use seawall::client::Seawall;
use seawall::config::Config;
use tokio::net::TcpListener;

use crate::gateway::server::End;
use crate::gateway::stop::Stop;
use crate::gateway::{logging, metrics, server};
use crate::{ConfigArgs, complain, on_runtime, print, refuse};

/// What `seawall serve` is told.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Serve with this many worker threads [default: one a core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) workers: Option<u16>,
}

/// Serves until SIGINT or SIGTERM, then drains. A second signal ends it at once.
pub(crate) fn run(args: &ServeArgs) -> ExitCode {
    let config = match args.config.load() {
        Ok(config) => config,
        Err(error) => return refuse(&error),
    };
    for warning in &config.warnings {
        complain(&format!("warning: {warning}"));
    }
    let log = logging::start(&config.gateway);
    let workers = args.workers.map_or(config.gateway.workers, usize::from);
    let ended = on_runtime(Some(workers), async {
        match serve(config).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(&format!("error: {error}"));
                ExitCode::FAILURE
            }
        }
    });
    log.flush();
    ended
}

async fn serve(config: Config) -> Result<(), String> {
    let listen = config.gateway.listen;
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|why| format!("cannot listen on {listen}: {why}; choose another with --listen"))?;
    let address = listener.local_addr().map_err(|why| why.to_string())?;
    let prometheus = metrics::install()?;
    let seawall = Seawall::builder()
        .config(config)
        .start()
        .await
        .map_err(|error| error.to_string())?;
    let mut stop = Stop::listen().map_err(|why| format!("cannot listen to signals: {why}"))?;
    print(&format!("seawall listening on http://{address}"));
    if server::run(listener, seawall.clone(), prometheus, &mut stop).await == End::Drained {
        tokio::select! {
            () = seawall.stop() => {}
            () = stop.asked() => {}
        }
    }
    Ok(())
}
