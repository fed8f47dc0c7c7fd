//! The log: lines on standard error, as text or JSON.

use seawall::config::{Gateway, LogFormat};
use tracing_subscriber::EnvFilter;

/// Starts the log. A second start in one process changes nothing.
pub(crate) fn start(gateway: &Gateway) {
    // The libraries underneath speak only when something is wrong.
    let level = gateway.log_level.as_str();
    let filter = EnvFilter::new(format!("warn,seawall={level},seawall_actors={level}"));
    let log = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(filter);
    let started = match gateway.log_format {
        LogFormat::Json => log.json().flatten_event(true).try_init(),
        _ => log.try_init(),
    };
    if started.is_err() {
        tracing::debug!("the log had been started before");
    }
}
