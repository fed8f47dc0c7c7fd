//! What a drill in real time needs: both ends of a loopback connection.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::net::TcpListener;

use crate::sim::{self, Sim};
use crate::transport::Transport;
use crate::transport::http::HttpTransport;

/// Makes the transport of one client of a drill in real time.
pub type TransportFactory = Arc<
    dyn Fn() -> Result<Arc<dyn Transport>, Box<dyn std::error::Error + Send + Sync>> + Send + Sync,
>;

/// Serves a simulated provider over HTTP until the future it is handed resolves.
pub type Serve = Arc<
    dyn Fn(TcpListener, Arc<Sim>, BoxFuture<'static, ()>) -> BoxFuture<'static, ()> + Send + Sync,
>;

/// Both ends of a loopback connection.
#[derive(Clone)]
pub struct Loopback {
    /// The clients' end, one transport each.
    pub transport: TransportFactory,
    /// The provider's end.
    pub serve: Serve,
}

/// More than any connection over loopback takes.
const CONNECT: Duration = Duration::from_secs(5);

impl Loopback {
    /// The clients' real transport and the simulated provider's real server.
    #[must_use]
    pub fn http() -> Self {
        Self {
            transport: Arc::new(|| {
                let transport: Arc<dyn Transport> = Arc::new(HttpTransport::new(CONNECT)?);
                Ok(transport)
            }),
            serve: Arc::new(|listener, sim, stop| {
                async move {
                    if let Err(error) = sim::http::serve(listener, sim, stop).await {
                        tracing::error!(%error, "the simulated provider broke off");
                    }
                }
                .boxed()
            }),
        }
    }
}

impl fmt::Debug for Loopback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loopback").finish_non_exhaustive()
    }
}
