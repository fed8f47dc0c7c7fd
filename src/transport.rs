//! Bytes out, a stream of bytes in.
//!
//! A [`Transport`] sends one request and hands back the answer as soon as its headers are there; the
//! body follows as a stream. It judges nothing, and sends again only what a stale connection kept from
//! being read ([`http`]). There are two: the real one over HTTP, and the simulated provider's, which
//! answers in memory so that time can be virtual.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::{HeaderMap, Method, StatusCode, Uri};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use tokio::time::timeout;

mod connections;
pub mod http;
pub mod sse;

use self::http::Arriving;

/// Sends requests to a provider.
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// Sends one request and waits for the answer's status and headers.
    ///
    /// Dropping the future, or later the body, closes the exchange: the provider sees its client
    /// leave.
    ///
    /// # Errors
    ///
    /// [`TransportError`] when no status line came back.
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>>;

    /// The same, but waits for the headers no longer than `patience` from when the request has its
    /// connection. Without connections of its own, a transport has one from the start.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), and [`Broken::HeadersTimeout`].
    fn send_within(
        &self,
        request: Request,
        patience: Duration,
    ) -> BoxFuture<'_, Result<Response, TransportError>> {
        let answered = timeout(patience, self.send(request));
        let late = |_| Err(TransportError::new(Broken::HeadersTimeout));
        async move { answered.await.unwrap_or_else(late) }.boxed()
    }
}

/// One request on the wire. Cloning is cheap: the body is shared.
#[derive(Clone)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The absolute address, query included.
    pub uri: Uri,
    /// The headers, credential included.
    pub headers: HeaderMap,
    /// The whole body; empty for none.
    pub body: Bytes,
}

impl fmt::Debug for Request {
    // Headers carry the credential, bodies carry people's prompts: neither is shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("uri", &self.uri)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// An answer whose headers have arrived.
#[derive(Debug)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers as received.
    pub headers: HeaderMap,
    /// The rest, as it comes.
    pub body: Body,
}

/// The body of an answer: chunks as they arrive, then the end or an error.
///
/// A clean end means that the framing was complete (content-length met, last chunk seen). Dropping
/// it closes the exchange.
pub struct Body(Source);

enum Source {
    Arriving(Arriving),
    Chunks(BoxStream<'static, Result<Bytes, TransportError>>),
}

impl Body {
    /// Wraps a stream of chunks.
    pub fn from_stream(
        chunks: impl Stream<Item = Result<Bytes, TransportError>> + Send + 'static,
    ) -> Self {
        Self(Source::Chunks(chunks.boxed()))
    }

    /// A body that is there already.
    #[must_use]
    pub fn from_bytes(bytes: Bytes) -> Self {
        Self::from_stream(stream::iter((!bytes.is_empty()).then_some(Ok(bytes))))
    }

    const fn arriving(body: Arriving) -> Self {
        Self(Source::Arriving(body))
    }
}

impl Stream for Body {
    type Item = Result<Bytes, TransportError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &mut self.0 {
            Source::Arriving(body) => body.poll_chunk(cx),
            Source::Chunks(chunks) => chunks.poll_next_unpin(cx),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Body")
    }
}

/// An exchange that broke on the way.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub struct TransportError {
    /// Where it broke.
    pub kind: Broken,
    /// What the layer below said.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl TransportError {
    /// A break without a cause to show.
    #[must_use]
    pub const fn new(kind: Broken) -> Self {
        Self { kind, source: None }
    }

    /// A break with the error that the layer below gave.
    pub fn because(
        kind: Broken,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            kind,
            source: Some(source.into()),
        }
    }
}

/// Where an exchange broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// No connection: refused, unreachable, unknown host, or a failed TLS handshake.
    #[error("could not connect to the provider")]
    Connect,
    /// No connection within the connect timeout.
    #[error("connecting to the provider took longer than the connect timeout")]
    ConnectTimeout,
    /// No status line within the patience that it was sent with.
    #[error("the provider did not begin to answer within the headers timeout")]
    HeadersTimeout,
    /// The connection ended before the status line.
    #[error("the provider closed the connection before answering")]
    BeforeHeaders,
    /// The connection ended inside the body.
    #[error("the provider's answer broke off")]
    InBody,
    /// What came was not HTTP, or the request could not be written as HTTP.
    #[error("the exchange was not valid HTTP")]
    Protocol,
}
