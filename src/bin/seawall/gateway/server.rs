//! The sockets: accept, bound the headers, and let go in good order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use metrics_exporter_prometheus::PrometheusHandle;
use seawall::client::Seawall;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::limits::Limits;
use super::routes::Gateway;
use super::stop::Stop;

/// What every request needs.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) seawall: Seawall,
    pub(crate) prometheus: PrometheusHandle,
    pub(crate) local: SocketAddr,
    pub(crate) limits: Arc<Limits>,
    pub(crate) draining: AtomicBool,
}

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The calls had their time.
    Drained,
    /// A second signal: nothing is waited for any more.
    AtOnce,
}

/// Largest head of a request; the body streams through the same buffer.
const LARGEST_HEAD: usize = 64 << 10;

/// Pause after an accept that failed, such as for want of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// How often histograms are folded. Samples pile up in between, and nobody need ever scrape.
const UPKEEP: Duration = Duration::from_secs(5);

/// Time that clients have to read what they were sent last.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Serves until `stop`, then drains within the configured time.
pub(crate) async fn run(
    listener: TcpListener,
    seawall: Seawall,
    prometheus: PrometheusHandle,
    stop: &mut Stop,
) -> End {
    let fallback = seawall.config().gateway.listen;
    let local = listener.local_addr().unwrap_or(fallback);
    let drain = seawall.config().gateway.drain;
    let within = seawall.config().gateway.header_timeout;
    let draining = AtomicBool::new(false);
    let door = Arc::new(Door {
        seawall: seawall.clone(),
        prometheus: prometheus.clone(),
        local,
        limits: Limits::new(&seawall.config().gateway),
        draining,
    });
    let gateway = Gateway::new(Arc::clone(&door));
    let graceful = GracefulShutdown::new();
    let mut upkeep = interval(UPKEEP);
    upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.asked() => break,
            _ = upkeep.tick() => prometheus.run_upkeep(),
            accepted = listener.accept() => match accepted {
                Ok((socket, peer)) => {
                    spawn(socket, gateway.of(peer.ip()), (graceful.watcher(), within));
                }
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    sleep(ACCEPT_AGAIN).await;
                }
            },
        }
    }
    door.draining.store(true, Ordering::Relaxed);
    drop(listener);
    tracing::info!(seconds = drain.as_secs(), "draining");
    let deadline = Instant::now() + drain;
    let finish = async {
        let done = seawall.drain(deadline).await;
        if !done {
            // Nobody is cut off without a word: streams end in an `error` event, and calls that have
            // no answer yet in an error.
            seawall.end_streams();
            seawall.stop().await;
        }
        let flushed = timeout(LAST_WORDS, graceful.shutdown()).await.is_ok();
        done && flushed
    };
    tokio::select! {
        biased;
        done = finish => {
            if !done {
                tracing::warn!("some calls were still under way at the end of the drain");
            }
            End::Drained
        }
        () = stop.asked() => {
            tracing::warn!("stopped at once by a second signal");
            End::AtOnce
        }
    }
}

/// An event must not wait for the acknowledgement of the one before it.
fn send_at_once(socket: &TcpStream) {
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
}

fn spawn(socket: TcpStream, gateway: Gateway, (watcher, headers_within): (Watcher, Duration)) {
    send_at_once(&socket);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(headers_within)
        .max_buf_size(LARGEST_HEAD)
        .serve_connection(TokioIo::new(socket), gateway);
    let connection = watcher.watch(connection);
    #[expect(
        clippy::disallowed_methods,
        reason = "the graceful shutdown waits for every connection"
    )]
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_accepted_socket_sends_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        let (client, accepted) = (client.unwrap(), accepted.unwrap().0);
        assert!(!client.nodelay().unwrap(), "off unless asked for");
        send_at_once(&accepted);
        assert!(accepted.nodelay().unwrap());
    }
}
