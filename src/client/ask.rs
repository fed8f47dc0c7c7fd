//! What goes into the client and what comes out of it: HTTP without a socket.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

pub use super::reply_stream::ReplyStream;
use crate::delivery::Delivery;
use crate::profile::{Profile, Timeouts};
use crate::provider::anthropic::usage::Tokens;

/// One request for the provider, as a client wrote it.
#[derive(Clone)]
pub struct Ask {
    /// What is asked for.
    pub endpoint: Endpoint,
    /// The query string, without its question mark.
    pub query: Option<String>,
    /// The client's headers, credential included.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The route by name; none lets the model decide.
    pub route: Option<String>,
    /// Another profile than the route's.
    pub profile: Option<Profile>,
    /// For whom it is: calls that wait for a quota share it by tenant, as `[tenants]` of the
    /// configuration weighs them. None: the one tenant of all calls that name none.
    pub tenant: Option<String>,
    /// Another delivery than the route's or the profile's.
    pub delivery: Option<Delivery>,
    /// Other time limits than the route's or the profile's. Connections are shared between calls, so
    /// `connect` itself counts only where a route of the configuration has the same one.
    pub timeouts: Option<Timeouts>,
    /// How often the client says it has sent this call before. From the first such retry on, a
    /// rung makes one attempt: the client's own loop is running, and loops multiply.
    pub client_retries: u32,
    /// Hears what the call used.
    pub meter: Option<Arc<dyn Meter>>,
}

/// Hears what a call used, once, when it is over: answered to its end, failed, or left by its caller.
/// One that was refused before it began is not heard of; its meter is dropped.
pub trait Meter: fmt::Debug + Send + Sync {
    /// All attempts together. A lower bound where an answer did not come whole.
    fn used(&self, tokens: &Tokens);
}

impl fmt::Debug for Ask {
    // Headers carry the credential, bodies carry people's prompts: neither is shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ask")
            .field("endpoint", &self.endpoint)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

impl Ask {
    /// A request to create a message.
    #[must_use]
    pub fn messages(headers: HeaderMap, body: Bytes) -> Self {
        let endpoint = Endpoint::Messages;
        Self {
            endpoint,
            query: None,
            headers,
            body,
            route: None,
            profile: None,
            tenant: None,
            delivery: None,
            timeouts: None,
            client_retries: 0,
            meter: None,
        }
    }
}

/// The part of the provider that a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Endpoint {
    /// `POST /v1/messages`
    Messages,
    /// `POST /v1/messages/count_tokens`
    CountTokens,
    /// Anything else: passed on to the first rung's provider, sent again only if the method allows.
    Other(Method, String),
}

impl Endpoint {
    /// The path at the provider.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::Messages => "/v1/messages",
            Self::CountTokens => "/v1/messages/count_tokens",
            Self::Other(_, path) => path,
        }
    }

    /// The method.
    #[must_use]
    pub const fn method(&self) -> &Method {
        match self {
            Self::Messages | Self::CountTokens => &Method::POST,
            Self::Other(method, _) => method,
        }
    }
}

/// The provider's answer, or the route's fixed one.
#[derive(Debug)]
#[non_exhaustive]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers that go back to the client.
    pub headers: HeaderMap,
    /// The body, unchanged.
    pub body: ReplyBody,
    /// What it took.
    pub report: Report,
}

/// The body of an answer.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReplyBody {
    /// All of it.
    Whole(Bytes),
    /// As it comes, or as it was held. It never fails: a stream that breaks off ends in the
    /// provider's own `error` event.
    Stream(ReplyStream),
}

/// What a call took.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// The call's id.
    pub call: Arc<str>,
    /// The rung that answered: a target's name, or `static`. Empty if none did.
    pub rung: Arc<str>,
    /// Attempts on the wire.
    pub attempts: u32,
    /// Time spent waiting for quotas and breakers.
    pub queued: Duration,
    /// Whether another rung than the first answered.
    pub degraded: bool,
    /// For a failed call: whether the client must not send it again by itself, since it can't
    /// succeed or has been tried again already.
    pub settled: bool,
}
