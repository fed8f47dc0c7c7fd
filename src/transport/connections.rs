//! Connections to providers: over TLS or not, HTTP/1.1 or HTTP/2 as negotiated, without a proxy.

use std::error::Error;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use std::{fmt, io};

use ::http::{Extensions, Uri};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::{
    CaptureConnection, Connected, Connection, HttpConnector, capture_connection,
};
use hyper_util::client::legacy::{Client, ResponseFuture};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
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
        patience: Option<Duration>,
    ) -> Result<::http::Response<Incoming>, Unanswered> {
        let client = match by {
            Use::Pooled => &self.pooled,
            Use::Fresh => &self.fresh,
        };
        let mut exchange = written(request);
        let Some(patience) = patience else {
            return Ok(client.request(exchange).await?);
        };
        let mut used = capture_connection(&mut exchange);
        answered(client.request(exchange), &mut used, patience).await
    }

    /// The same on a pooled connection, and when the one that was used was made. The exchange itself
    /// can't tell: it may begin to make one and then take another that has come back.
    pub(super) async fn exchange_dated(
        &self,
        request: Request,
        patience: Option<Duration>,
    ) -> (
        Result<::http::Response<Incoming>, Unanswered>,
        Option<Instant>,
    ) {
        let mut exchange = written(request);
        let mut used = capture_connection(&mut exchange);
        let exchange = self.pooled.request(exchange);
        let outcome = match patience {
            Some(patience) => answered(exchange, &mut used, patience).await,
            None => exchange.await.map_err(Unanswered::Broken),
        };
        let mut extras = Extensions::new();
        if let Some(used) = &*used.connection_metadata() {
            used.get_extras(&mut extras);
        }
        (outcome, extras.get().map(|Made(at)| *at))
    }
}

/// Why an exchange has no answer.
pub(super) enum Unanswered {
    Broken(hyper_util::client::legacy::Error),
    /// It had a connection, and no status line in time.
    Late,
}

impl From<hyper_util::client::legacy::Error> for Unanswered {
    fn from(error: hyper_util::client::legacy::Error) -> Self {
        Self::Broken(error)
    }
}

/// Waits for an answer, no longer than `patience` from when its request has a connection. Making one
/// has a timeout of its own.
async fn answered(
    exchange: ResponseFuture,
    used: &mut CaptureConnection,
    patience: Duration,
) -> Result<::http::Response<Incoming>, Unanswered> {
    let mut exchange = pin!(exchange);
    tokio::select! {
        // A pooled connection is there only once the exchange has been looked after.
        biased;
        answered = &mut exchange => return Ok(answered?),
        _ = used.wait_for_connection_metadata() => {}
    }
    match timeout(patience, exchange).await {
        Ok(answered) => Ok(answered?),
        Err(_) => Err(Unanswered::Late),
    }
}

fn written(request: Request) -> ::http::Request<Full<Bytes>> {
    let mut exchange = ::http::Request::new(Full::new(request.body));
    *exchange.method_mut() = request.method;
    *exchange.uri_mut() = request.uri;
    *exchange.headers_mut() = request.headers;
    exchange
}

/// When a connection was made.
#[derive(Debug, Clone, Copy)]
struct Made(Instant);

/// A connection that says when it was made.
struct Dated {
    stream: MaybeHttpsStream<TokioIo<TcpStream>>,
    made: Made,
}

impl Connection for Dated {
    fn connected(&self) -> Connected {
        self.stream.connected().extra(self.made)
    }
}

impl Read for Dated {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl Write for Dated {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
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
    type Response = Dated;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, address: Uri) -> Self::Future {
        let connecting = self.0.https.clone().oneshot(address);
        // TLS included, which the inner connector's own timeout does not cover.
        let connecting = timeout(self.0.timeout, connecting);
        async move {
            let stream = connecting.await??;
            let made = Made(Instant::now());
            Ok(Dated { stream, made })
        }
        .boxed()
    }
}
