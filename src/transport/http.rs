//! The real transport: hyper over rustls, and reqwest where the environment names a proxy.
//!
//! Nagle is off on the socket, and idle connections live shorter than the provider keeps them. A
//! request that meets a pooled connection which the other side has closed meanwhile is sent once
//! more, on a fresh connection, and that is no attempt of its own: the connection was at fault, not
//! the target. The pool does it itself while no byte was written. Afterwards it is done only where
//! the connection was a reused one, had been idle for long enough to be closed for that, and broke
//! without an answer so soon that the other side can hardly have read the request, since a request
//! that was read may be billed. Every other break is reported and the retry policy decides.

use std::error::Error;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{io, iter};

use ::http::{Uri, uri::Scheme};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use http_body::Body as _;
use http_body_util::BodyDataStream;
use hyper::body::Incoming;
use hyper_util::client::proxy::matcher::Matcher;
use parking_lot::Mutex;
use reqwest::Url;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout};
use tower::util::MapResponseLayer;

use super::connections::{
    Connections, POOL_IDLE, TCP_KEEPALIVE, Unanswered, Use, mark_fresh, watched,
};
use super::{Body, Broken, Request, Response, Transport, TransportError};

/// A pooled connection that breaks this soon after a request was sent on it was closed by the other
/// side while it was idle: a round trip across the world takes 300 ms, and a provider that has read
/// the request needs longer to fail at it. Later the break is the target's.
const STALE_WITHIN: Duration = Duration::from_millis(500);

/// No server closes a connection for idleness sooner. A busy provider's resets are never taken for it.
const STALE_AFTER: Duration = Duration::from_secs(1);

/// Sends over HTTP/1.1 or HTTP/2, whichever the provider negotiates.
#[derive(Debug, Clone)]
pub struct HttpTransport {
    direct: Connections,
    /// Which addresses the environment wants to be reached through a proxy.
    proxies: Arc<Matcher>,
    /// Set up when the first such address is asked for.
    proxied: Arc<OnceLock<Proxied>>,
    connect_timeout: Duration,
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
        Ok(Self {
            direct: Connections::new(connect_timeout)?,
            proxies: Arc::new(Matcher::from_system()),
            proxied: Arc::default(),
            connect_timeout,
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

    fn proxied(&self) -> Result<&Proxied, TransportError> {
        match self.proxied.get() {
            Some(proxied) => Ok(proxied),
            None => {
                let proxied = Proxied::new(self.connect_timeout)?;
                Ok(self.proxied.get_or_init(|| proxied))
            }
        }
    }

    /// Sends once.
    async fn exchange(
        &self,
        request: Request,
        by: Use,
        patience: Option<Duration>,
    ) -> Result<Answer, Failed> {
        if self.proxies.intercept(&request.uri).is_some() {
            let proxied = self.proxied().map_err(Failed::here)?;
            // Nobody tells when a proxy's connection is there, so its making is waited for in full.
            let patience = patience.map(|patience| patience.saturating_add(self.connect_timeout));
            let answered = proxied.exchange(request, by);
            return match patience {
                Some(patience) => match timeout(patience, answered).boxed().await {
                    Ok(answered) => answered,
                    Err(_) => Err(Failed::late()),
                },
                None => answered.boxed().await,
            };
        }
        let answer = self.direct.exchange(request, by, patience).await;
        answer.map(Answer::Direct).map_err(Failed::direct)
    }

    /// Sends once, and says whether that was on a connection that had been made before.
    async fn on_a_pooled(
        &self,
        began: Instant,
        request: Request,
        patience: Option<Duration>,
    ) -> (Result<Answer, Failed>, bool) {
        if self.proxies.intercept(&request.uri).is_some() {
            let (outcome, fresh) = watched(self.exchange(request, Use::Pooled, patience)).await;
            return (outcome, !fresh);
        }
        let (outcome, made) = self.direct.exchange_dated(request, patience).await;
        let answer = outcome.map(Answer::Direct).map_err(Failed::direct);
        (answer, made.is_some_and(|made| made < began))
    }

    /// Sends on connections that may have been closed while nothing was sent.
    async fn after_a_rest(
        &self,
        began: Instant,
        request: Request,
        patience: Option<Duration>,
    ) -> Result<Answer, Failed> {
        match self.on_a_pooled(began, request.clone(), patience).await {
            (Err(failed), true) if failed.was_unanswered && began.elapsed() < STALE_WITHIN => {
                tracing::debug!(
                    error = &*failed.error as &dyn Error,
                    "a pooled connection was stale; sending once more on a fresh one"
                );
                metrics::counter!("seawall_stale_connections_total").increment(1);
                self.exchange(request, Use::Fresh, patience).await
            }
            (outcome, _) => outcome,
        }
    }

    async fn answered(
        &self,
        request: Request,
        patience: Option<Duration>,
    ) -> Result<Response, TransportError> {
        check(&request.uri)?;
        let began = Instant::now();
        let idle = began.saturating_duration_since(self.quiet.since());
        let ending = Ending(Arc::clone(&self.quiet));
        let outcome = if idle < self.stale_after {
            self.exchange(request, Use::Pooled, patience).await
        } else {
            self.after_a_rest(began, request, patience).boxed().await
        };
        match outcome {
            Ok(answer) => Ok(answer.into_response(ending)),
            Err(failed) => Err(TransportError {
                kind: failed.kind,
                source: Some(failed.error),
            }),
        }
    }
}

impl Transport for HttpTransport {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        self.answered(request, None).boxed()
    }

    fn send_within(
        &self,
        request: Request,
        patience: Duration,
    ) -> BoxFuture<'_, Result<Response, TransportError>> {
        self.answered(request, Some(patience)).boxed()
    }
}

/// Refuses what is no address on the web before anything is tried.
fn check(uri: &Uri) -> Result<(), TransportError> {
    let scheme = uri.scheme();
    let spoken = scheme == Some(&Scheme::HTTPS) || scheme == Some(&Scheme::HTTP);
    if spoken && uri.authority().is_some() {
        return Ok(());
    }
    Err(TransportError::new(Broken::Protocol))
}

/// An exchange without an answer.
struct Failed {
    kind: Broken,
    /// The connection ended while the status line was awaited.
    was_unanswered: bool,
    error: Box<dyn Error + Send + Sync>,
}

impl Failed {
    fn direct(unanswered: Unanswered) -> Self {
        let Unanswered::Broken(error) = unanswered else {
            return Self::late();
        };
        Self {
            kind: broken(error.is_connect(), !timed_out(&error)),
            was_unanswered: !error.is_connect() && closed_unanswered(&error),
            error: error.into(),
        }
    }

    fn late() -> Self {
        Self {
            kind: Broken::HeadersTimeout,
            was_unanswered: false,
            error: "no status line came".into(),
        }
    }

    /// Nothing was sent.
    fn here(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            kind: Broken::Protocol,
            was_unanswered: false,
            error: error.into(),
        }
    }
}

enum Answer {
    Direct(::http::Response<Incoming>),
    Proxied(::http::Response<reqwest::Body>),
}

impl Answer {
    fn into_response(self, ending: Ending) -> Response {
        let (parts, body) = match self {
            Self::Direct(answer) => {
                let (parts, body) = answer.into_parts();
                (parts, Body::arriving(Arriving { body, ending }))
            }
            Self::Proxied(answer) => {
                let (parts, body) = answer.into_parts();
                let chunks = BodyDataStream::new(body).map(move |chunk| {
                    // The closure lives as long as the body, and the ending with it.
                    let _whole = &ending;
                    chunk.map_err(|error| TransportError::because(Broken::InBody, error))
                });
                (parts, Body::from_stream(chunks))
            }
        };
        Response {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }
}

/// The body of an answer on its way.
pub(super) struct Arriving {
    body: Incoming,
    /// Its exchange ends with it.
    #[expect(dead_code, reason = "acts when it is dropped")]
    ending: Ending,
}

impl Arriving {
    pub(super) fn poll_chunk(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, TransportError>>> {
        loop {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    // Trailers carry nothing that is passed on.
                    if let Ok(chunk) = frame.into_data() {
                        return Poll::Ready(Some(Ok(chunk)));
                    }
                }
                Some(Err(error)) => {
                    let broken = TransportError::because(Broken::InBody, error);
                    return Poll::Ready(Some(Err(broken)));
                }
                None => return Poll::Ready(None),
            }
        }
    }
}

/// Clients for what goes through a proxy, its tunnels and credentials included.
#[derive(Debug)]
struct Proxied {
    pooled: reqwest::Client,
    fresh: reqwest::Client,
}

impl Proxied {
    fn new(connect_timeout: Duration) -> Result<Self, TransportError> {
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
            fresh: client(0)?,
        })
    }

    async fn exchange(&self, request: Request, by: Use) -> Result<Answer, Failed> {
        let address = Url::parse(&request.uri.to_string()).map_err(Failed::here)?;
        let mut exchange = reqwest::Request::new(request.method, address);
        *exchange.headers_mut() = request.headers;
        *exchange.body_mut() = Some(request.body.into());
        let client = match by {
            Use::Pooled => &self.pooled,
            Use::Fresh => &self.fresh,
        };
        let answer = client.execute(exchange).await.map_err(|error| {
            let unsent = error.is_connect() || error.is_builder() || error.is_timeout();
            Failed {
                kind: match error.is_builder() {
                    true => Broken::Protocol,
                    false => broken(error.is_connect(), !error.is_timeout()),
                },
                was_unanswered: !unsent && closed_unanswered(&error),
                error: error.into(),
            }
        })?;
        Ok(Answer::Proxied(answer.into()))
    }
}

const fn broken(in_connect: bool, in_time: bool) -> Broken {
    match (in_connect, in_time) {
        (true, true) => Broken::Connect,
        (true, false) => Broken::ConnectTimeout,
        (false, _) => Broken::BeforeHeaders,
    }
}

fn timed_out(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| {
        cause.is::<Elapsed>()
            || cause
                .downcast_ref::<io::Error>()
                .is_some_and(|cause| cause.kind() == io::ErrorKind::TimedOut)
    })
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |&error| error.source())
}

/// Whether the connection ended, or was reset, while the status line was awaited.
fn closed_unanswered(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| {
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
