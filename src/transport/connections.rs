//! Connections to providers: over TLS or not, HTTP/1.1 or HTTP/2 as negotiated, without a proxy.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::Uri;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower::{Service, ServiceExt};

use super::{Broken, Request, TransportError};

/// Idle connections are closed after this; edges in front of model APIs keep theirs for longer.
pub(super) const POOL_IDLE: Duration = Duration::from_secs(30);

/// Keep-alive probes find a peer that vanished while an answer is thought about: the first after
/// this, further ones in half the time.
pub(super) const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// Probes without an answer after which a peer has vanished.
const TCP_PROBES: u32 = 3;

/// What was sent and is not acknowledged for so long was sent to a peer that has vanished.
#[cfg(target_os = "linux")]
const TCP_UNACKNOWLEDGED: Duration = Duration::from_secs(30);

tokio::task_local! {
    /// Whether the exchange of this task has a connection of its own making.
    static FRESH: Arc<AtomicBool>;
}

/// Runs an exchange, and says whether a connection was made for it.
pub(super) async fn watched<T>(exchange: impl Future<Output = T>) -> (T, bool) {
    let fresh = Arc::new(AtomicBool::new(false));
    let outcome = FRESH.scope(Arc::clone(&fresh), exchange).await;
    (outcome, fresh.load(Ordering::Relaxed))
}

/// Marks the exchange that a new connection was made for.
///
/// The pool polls a connect inside the exchange that waits for it. Where another connection comes
/// back first, it moves the connect to a task of its own, in which there is nobody to mark.
pub(super) fn mark_fresh<C>(connection: C) -> C {
    if FRESH
        .try_with(|fresh| fresh.store(true, Ordering::Relaxed))
        .is_err()
    {
        tracing::trace!("a connection that no exchange waited for");
    }
    connection
}

/// Which connection a request may go out on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// One that is idle, else a new one.
    Pooled,
    /// A new one, which is not kept: a pool that had one stale connection may hold more of them.
    Fresh,
}

/// The pool, and a client without one.
#[derive(Clone)]
pub(super) struct Connections {
    pooled: Client<Connector, Full<Bytes>>,
    fresh: Client<Connector, Full<Bytes>>,
}

impl Connections {
    pub(super) fn new(connect_timeout: Duration) -> Result<Self, TransportError> {
        let connector = Connector::new(connect_timeout)?;
        let client = |idle| {
            Client::builder(TokioExecutor::new())
                .timer(TokioTimer::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(POOL_IDLE)
                .pool_max_idle_per_host(idle)
                .build(connector.clone())
        };
        Ok(Self {
            pooled: client(usize::MAX),
            fresh: client(0),
        })
    }

    pub(super) async fn exchange(
        &self,
        request: Request,
        by: Use,
    ) -> Result<::http::Response<Incoming>, hyper_util::client::legacy::Error> {
        let mut exchange = ::http::Request::new(Full::new(request.body));
        *exchange.method_mut() = request.method;
        *exchange.uri_mut() = request.uri;
        *exchange.headers_mut() = request.headers;
        let client = match by {
            Use::Pooled => &self.pooled,
            Use::Fresh => &self.fresh,
        };
        client.request(exchange).await
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connections")
    }
}

/// Makes connections. The pool clones it for every request, so all of it is shared.
#[derive(Clone)]
struct Connector(Arc<Shared>);

struct Shared {
    https: HttpsConnector<HttpConnector>,
    timeout: Duration,
}

impl Connector {
    fn new(connect_timeout: Duration) -> Result<Self, TransportError> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(connect_timeout));
        http.set_keepalive(Some(TCP_KEEPALIVE));
        http.set_keepalive_interval(Some(TCP_KEEPALIVE / 2));
        http.set_keepalive_retries(Some(TCP_PROBES));
        #[cfg(target_os = "linux")]
        http.set_tcp_user_timeout(Some(TCP_UNACKNOWLEDGED));
        let provider = CryptoProvider::get_default()
            .map_or_else(|| Arc::new(aws_lc_rs::default_provider()), Arc::clone);
        let https = HttpsConnectorBuilder::new()
            .with_provider_and_platform_verifier(provider)
            .map_err(|error| TransportError::because(Broken::Protocol, error))?
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(http);
        Ok(Self(Arc::new(Shared {
            https,
            timeout: connect_timeout,
        })))
    }
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, address: Uri) -> Self::Future {
        let connecting = self.0.https.clone().oneshot(address);
        // TLS included, which the inner connector's own timeout does not cover.
        let connecting = timeout(self.0.timeout, connecting);
        async move { connecting.await?.map(mark_fresh) }.boxed()
    }
}
