//! The real transport: reqwest over rustls.
//!
//! Nagle is off on the socket, and idle connections live shorter than the provider keeps them. A
//! request that meets a pooled connection which the other side has closed goes out on a fresh one:
//! the pool does that itself as long as no byte of the request was written. After that the
//! provider may have read the request, so the break is reported and the retry policy decides.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ::http::Uri;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use parking_lot::RwLock;
use reqwest::Url;

use super::{Body, Broken, Request, Response, Transport, TransportError};

/// Idle connections are closed after this; edges in front of model APIs keep theirs for longer.
const POOL_IDLE: Duration = Duration::from_secs(30);

/// Keep-alive probes find a peer that vanished while an answer is thought about.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// Most addresses that are kept parsed: some for each target.
const MOST_ADDRESSES: usize = 256;

/// Sends over HTTP/1.1 or HTTP/2, whichever the provider negotiates.
#[derive(Debug, Clone)]
pub struct HttpTransport {
    client: reqwest::Client,
    addresses: Arc<RwLock<HashMap<Uri, Url>>>,
}

impl HttpTransport {
    /// A transport whose connections, TLS included, take at most `connect_timeout`.
    ///
    /// # Errors
    ///
    /// When the TLS backend can't be set up, such as without any root certificate.
    pub fn new(connect_timeout: Duration) -> Result<Self, TransportError> {
        let client = reqwest::Client::builder()
            .connect_timeout(connect_timeout)
            .tcp_nodelay(true)
            .tcp_keepalive(TCP_KEEPALIVE)
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(usize::MAX)
            // A redirect would carry the credential to another host.
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .build()
            .map_err(|error| TransportError::because(Broken::Protocol, error))?;
        Ok(Self {
            client,
            addresses: Arc::default(),
        })
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

impl Transport for HttpTransport {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        async move {
            let address = self.address(&request.uri)?;
            let mut exchange = reqwest::Request::new(request.method, address);
            *exchange.headers_mut() = request.headers;
            *exchange.body_mut() = Some(request.body.into());
            self.client
                .execute(exchange)
                .await
                .map(into_response)
                .map_err(before_headers)
        }
        .boxed()
    }
}

fn into_response(answer: reqwest::Response) -> Response {
    let (parts, body) = http::Response::from(answer).into_parts();
    let chunks = http_body_util::BodyDataStream::new(body)
        .map(|chunk| chunk.map_err(|error| TransportError::because(Broken::InBody, error)));
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
