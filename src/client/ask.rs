//! What goes into the client and what comes out of it: HTTP without a socket.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use seawall_actors::policy::ladder::Cause;

pub use super::reply_stream::ReplyStream;
use crate::capability::{Features, Misfit};
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
    /// The run of an agent that the call belongs to. Where the route staggers runs, its first call
    /// waits for its turn.
    pub run: Option<String>,
    /// Whether another rung than the first may answer.
    pub fallback: Fallback,
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
            run: None,
            fallback: Fallback::Allowed,
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

/// Whether a call may be answered by another rung than its route's first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fallback {
    /// As the route says.
    #[default]
    Allowed,
    /// The first target answers, or nobody: for whom would rather wait than get less.
    Never,
}

impl FromStr for Fallback {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "allowed" => Ok(Self::Allowed),
            "never" => Ok(Self::Never),
            _ => Err("write never, or leave it out"),
        }
    }
}

/// In which way an answer is not what the route's first target would have given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Degraded {
    /// Another model wrote it.
    Model,
    /// It was given to the same request before, and is older than what counts as new.
    Cache,
    /// It is the route's fixed answer.
    Static,
}

impl Degraded {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Model, Self::Cache, Self::Static];

    /// Stable lower-case word for headers, logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Cache => "cache",
            Self::Static => "static",
        }
    }
}

/// A rung that was not for a call.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Skipped {
    /// The rung.
    pub rung: Arc<str>,
    /// What it can't do.
    pub why: Misfit,
}

/// As headers and logs have it, such as `haiku=cannot_images`.
impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.rung, self.why.as_str())
    }
}

/// What a call took.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// The call's id.
    pub call: Arc<str>,
    /// The rung that answered, or that had the last word: a target's name, `cache` or `static`. Empty if
    /// none was asked.
    pub rung: Arc<str>,
    /// Attempts on the wire.
    pub attempts: u32,
    /// Time spent waiting for quotas and breakers. A stream that waits out loud says how long that was
    /// before the first attempt.
    pub queued: Duration,
    /// In which way the answer is not what the first target would have given; none of an error.
    pub degraded: Option<Degraded>,
    /// Why the rung above the one that answered did not; none where the first did, and of an error.
    pub cause: Option<Cause>,
    /// The model that was asked on the rung that answered.
    pub model: Option<Arc<str>>,
    /// Rungs that could not carry the request.
    pub skipped: Vec<Skipped>,
    /// What the request lost on its way to the rung that answered.
    pub losses: Features,
    /// What there is to say of a cached answer, such as `hit; age=12; stale`.
    pub cache: Option<String>,
    /// Whether a second attempt ran beside a slow one.
    pub hedged: bool,
    /// For a failed call: whether the client must not send it again by itself, since it can't
    /// succeed or has been tried again already.
    pub settled: bool,
}

impl Report {
    /// Of a call that has not been answered yet.
    pub(crate) fn new(call: Arc<str>) -> Self {
        Self {
            call,
            rung: "".into(),
            attempts: 0,
            queued: Duration::ZERO,
            degraded: None,
            cause: None,
            model: None,
            skipped: Vec::new(),
            losses: Features::NONE,
            cache: None,
            hedged: false,
            settled: false,
        }
    }
}
