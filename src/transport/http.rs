//! The real transport: reqwest over rustls.
//!
//! Nagle is off on the socket, and idle connections live shorter than the provider keeps them. A
//! request that meets a pooled connection which the other side has closed meanwhile is sent once
//! more, on a fresh connection, and that is no attempt of its own: the connection was at fault, not
//! the target. The pool does it itself while no byte was written. Afterwards it is done only where
//! the connection was a reused one, had been idle for long enough to be closed for that, and broke
//! without an answer so soon that the other side can hardly have read the request, since a request
//! that was read may be billed. Every other break is reported and the retry policy decides.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{io, iter};

use ::http::Uri;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use parking_lot::{Mutex, RwLock};
use reqwest::Url;
use tokio::time::Instant;
use tower::util::MapResponseLayer;

use super::{Body, Broken, Request, Response, Transport, TransportError};

/// Idle connections are closed after this; edges in front of model APIs keep theirs for longer.
const POOL_IDLE: Duration = Duration::from_secs(30);

/// Keep-alive probes find a peer that vanished while an answer is thought about.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// A pooled connection that breaks this soon after a request was sent on it was closed by the other
/// side while it was idle: a round trip across the world takes 300 ms, and a provider that has read
/// the request needs longer to fail at it. Later the break is the target's.
const STALE_WITHIN: Duration = Duration::from_millis(500);

/// No server closes a connection for idleness sooner. A busy provider's resets are never taken for it.
const STALE_AFTER: Duration = Duration::from_secs(1);

tokio::task_local! {
    /// Whether the exchange of this task has a connection of its own making.
    static FRESH: Arc<AtomicBool>;
}

/// Most addresses that are kept parsed: some for each target.
const MOST_ADDRESSES: usize = 256;

/// Sends over HTTP/1.1 or HTTP/2, whichever the provider negotiates.
#[derive(Debug, Clone)]
pub struct HttpTransport {
    pooled: reqwest::Client,
    /// For what met a stale connection: a pool may hold more of them.
    unpooled: reqwest::Client,
    addresses: Arc<RwLock<HashMap<Uri, Url>>>,
    quiet: Arc<Quiet>,
    stale_after: Duration,
}

/// When an exchange last ended: since then at least, every pooled connection has been idle.
#[derive(Debug)]
struct Quiet(Mutex<Instant>);

impl Quiet {
    fn since(&self) -> Instant {
        *self.0.lock()
    }
}

/// Notes the end of an exchange, whichever way it ends.
#[derive(Debug)]
struct Ending(Arc<Quiet>);

impl Drop for Ending {
    fn drop(&mut self) {
        *self.0.0.lock() = Instant::now();
    }
}

impl HttpTransport {
    /// A transport whose connections, TLS included, take at most `connect_timeout`.
    ///
    /// # Errors
    ///
    /// When the TLS backend can't be set up, such as without any root certificate.
    pub fn new(connect_timeout: Duration) -> Result<Self, TransportError> {
        let client = |idle| {
            reqwest::Client::builder()
                .connect_timeout(connect_timeout)
                .connector_layer(MapResponseLayer::new(mark_fresh))
                .tcp_nodelay(true)
                .tcp_keepalive(TCP_KEEPALIVE)
                .pool_idle_timeout(POOL_IDLE)
                .pool_max_idle_per_host(idle)
                // A redirect would carry the credential to another host.
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .build()
                .map_err(|error| TransportError::because(Broken::Protocol, error))
        };
        Ok(Self {
            pooled: client(usize::MAX)?,
            unpooled: client(0)?,
            addresses: Arc::default(),
            quiet: Arc::new(Quiet(Mutex::new(Instant::now()))),
            stale_after: STALE_AFTER,
        })
    }

    /// Sets how long a connection has to be idle before a break on it can mean that the provider
    /// closed it for that. One second unless set: no known server closes sooner.
    #[must_use]
    pub const fn stale_after(mut self, idle: Duration) -> Self {
        self.stale_after = idle;
        self
    }

    /// The address in the form that reqwest takes. Those without a query are few and come again.
    fn address(&self, uri: &Uri) -> Result<Url, TransportError> {
        if let Some(known) = self.addresses.read().get(uri) {
            return Ok(known.clone());
        }
        let parsed = Url::parse(&uri.to_string())
            .map_err(|error| TransportError::because(Broken::Protocol, error))?;
        if uri.query().is_none() {
            let mut addresses = self.addresses.write();
            if addresses.len() < MOST_ADDRESSES {
                addresses.insert(uri.clone(), parsed.clone());
            }
        }
        Ok(parsed)
    }
}

impl HttpTransport {
    /// Sends on connections that may have been closed while nothing was sent.
    async fn after_a_rest(
        &self,
        began: Instant,
        address: Url,
        request: Request,
    ) -> Result<reqwest::Response, reqwest::Error> {
        let fresh = Arc::new(AtomicBool::new(false));
        let first = exchange(&self.pooled, address.clone(), request.clone());
        match FRESH.scope(Arc::clone(&fresh), first).await {
            Err(error)
                if !fresh.load(Ordering::Relaxed)
                    && began.elapsed() < STALE_WITHIN
                    && closed_unanswered(&error) =>
            {
                tracing::debug!(
                    error = &error as &dyn Error,
                    "a pooled connection was stale; sending once more on a fresh one"
                );
                metrics::counter!("seawall_stale_connections_total").increment(1);
                exchange(&self.unpooled, address, request).await
            }
            outcome => outcome,
        }
    }
}

impl Transport for HttpTransport {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        async move {
            let address = self.address(&request.uri)?;
            let began = Instant::now();
            let idle = began.saturating_duration_since(self.quiet.since());
            let ending = Ending(Arc::clone(&self.quiet));
            let outcome = if idle < self.stale_after {
                exchange(&self.pooled, address, request).await
            } else {
                self.after_a_rest(began, address, request).boxed().await
            };
            outcome
                .map(|answer| into_response(answer, ending))
                .map_err(before_headers)
        }
        .boxed()
    }
}

async fn exchange(
    client: &reqwest::Client,
    address: Url,
    request: Request,
) -> Result<reqwest::Response, reqwest::Error> {
    let mut exchange = reqwest::Request::new(request.method, address);
    *exchange.headers_mut() = request.headers;
    *exchange.body_mut() = Some(request.body.into());
    client.execute(exchange).await
}

/// Marks the exchange that a new connection was made for.
///
/// The pool polls a connect inside the exchange that waits for it. Where another connection comes
/// back first, it moves the connect to a task of its own, in which there is nobody to mark.
fn mark_fresh<C>(connection: C) -> C {
    if FRESH
        .try_with(|fresh| fresh.store(true, Ordering::Relaxed))
        .is_err()
    {
        tracing::trace!("a connection that no exchange waited for");
    }
    connection
}

/// Whether the connection ended, or was reset, while the status line was awaited.
fn closed_unanswered(error: &reqwest::Error) -> bool {
    if error.is_connect() || error.is_builder() || error.is_timeout() {
        return false;
    }
    iter::successors(Some(error as &(dyn Error + 'static)), |&error| {
        error.source()
    })
    .any(|cause| {
        cause
            .downcast_ref::<hyper::Error>()
            .is_some_and(hyper::Error::is_incomplete_message)
            || cause.downcast_ref::<io::Error>().is_some_and(|cause| {
                matches!(
                    cause.kind(),
                    io::ErrorKind::ConnectionReset
                        | io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::BrokenPipe
                        | io::ErrorKind::NotConnected
                )
            })
    })
}

fn into_response(answer: reqwest::Response, ending: Ending) -> Response {
    let (parts, body) = http::Response::from(answer).into_parts();
    let chunks = http_body_util::BodyDataStream::new(body).map(move |chunk| {
        // The closure lives as long as the body, and the ending with it.
        let _whole = &ending;
        chunk.map_err(|error| TransportError::because(Broken::InBody, error))
    });
    Response {
        status: parts.status,
        headers: parts.headers,
        body: Body::from_stream(chunks),
    }
}

fn before_headers(error: reqwest::Error) -> TransportError {
    let kind = if error.is_connect() && error.is_timeout() {
        Broken::ConnectTimeout
    } else if error.is_connect() {
        Broken::Connect
    } else if error.is_builder() {
        Broken::Protocol
    } else {
        Broken::BeforeHeaders
    };
    TransportError::because(kind, error)
}
