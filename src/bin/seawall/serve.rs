//! `seawall serve`: the gateway.

use std::process::ExitCode;

use clap::Args;
use seawall::client::Seawall;
use seawall::config::Config;
use tokio::net::TcpListener;

use crate::gateway::server::End;
use crate::gateway::stop::Stop;
use crate::gateway::{logging, metrics, server};
use crate::{ConfigArgs, complain, print, refuse};

/// What `seawall serve` is told.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
}

/// Serves until SIGINT or SIGTERM, then drains. A second signal ends it at once.
pub(crate) async fn run(args: ServeArgs) -> ExitCode {
    let config = match args.config.load() {
        Ok(config) => config,
        Err(error) => return refuse(&error),
    };
    for warning in &config.warnings {
        complain(&format!("warning: {warning}"));
    }
    let log = logging::start(&config.gateway);
    let served = serve(config).await;
    log.flush();
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
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
