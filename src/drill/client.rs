//! The clients that a drill compares, behind one trait.
//!
//! Each speaks through a [`Transport`], so that the same code meets the simulated provider in memory
//! and over HTTP. [`build`] is the one place that knows them all.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use serde::Serialize;

use super::DrillError;
use super::load::Tenant;
use super::scenario::Scenario;
use crate::client::ask::Degraded;
use crate::profile::Profile;
use crate::transport::{Request, Transport};

mod exchange;
pub mod naive;
pub mod processes;
pub mod sdk;
pub mod seawall;

/// One way of calling a provider.
pub trait Client: fmt::Debug + Send + Sync + 'static {
    /// Makes one call and waits for its end. Dropping the future abandons the call.
    fn call(&self, plan: CallPlan) -> BoxFuture<'static, Ended>;

    /// Makes one step of an agent run: a call, under whatever supervision the client gives to steps.
    fn run_step(&self, plan: CallPlan) -> BoxFuture<'static, Ended> {
        self.call(plan)
    }

    /// Calls that the client has made, a restarted step's counted anew; `None` if it publishes nothing
    /// that this could be compared with.
    fn asked(&self) -> Option<u64> {
        None
    }

    /// Calls, permits and attempts that the client itself still counts as under way.
    fn in_flight(&self) -> usize;

    /// Stops the client once nothing is left to do.
    fn drain(&self) -> BoxFuture<'static, ()>;
}

/// What a drill asks a client to do.
#[derive(Debug, Clone)]
pub struct CallPlan {
    /// Number of the call, unique in one drill; it also makes the prompt a different one, where the call
    /// asks no question that others ask too.
    pub id: u64,
    /// The question that other calls ask too, if it asks one.
    pub question: Option<u32>,
    /// Models that may answer, the wanted one first. A client without fallbacks uses only that.
    pub ladder: Arc<[String]>,
    /// Size of the prompt in input tokens, about.
    pub input_tokens: u64,
    /// The request's `max_tokens`.
    pub max_tokens: u64,
    /// Whether the answer is asked for as a stream.
    pub stream: bool,
    /// What the call is for, if it says so itself.
    pub profile: Option<Profile>,
    /// Whose it is, if it is anybody's.
    pub tenant: Option<Tenant>,
    /// Time from now after which nobody waits for the answer.
    pub deadline: Duration,
}

/// What the number of a call stands after, at the beginning of its prompt.
pub(super) const PROMPT_OPENING: &str = "Call ";

#[derive(Serialize)]
struct Prompt<'a> {
    role: &'static str,
    content: &'a str,
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    max_tokens: u64,
    stream: bool,
    messages: [Prompt<'a>; 1],
}

impl CallPlan {
    /// The model that the caller wants.
    #[must_use]
    pub fn model(&self) -> &str {
        self.ladder.first().map_or("", String::as_str)
    }

    /// The text of the prompt: about four characters for each input token.
    #[must_use]
    pub fn prompt(&self) -> String {
        const FILLER: &str = "wave ";
        // The framing of one message, the number below and the provider's own eight tokens.
        const FRAME: u64 = 81;
        let chars = self
            .input_tokens
            .saturating_mul(4)
            .saturating_sub(FRAME)
            .min(16 << 20);
        let chars = usize::try_from(chars).unwrap_or(0);
        let mut text = match self.question {
            Some(question) => format!("Question {question:08}. "),
            None => format!("{PROMPT_OPENING}{:08}. ", self.id),
        };
        text.extend(FILLER.chars().cycle().take(chars));
        text
    }

    /// The call as the request that an SDK would send for `model`.
    #[must_use]
    pub fn request(&self, endpoint: &Endpoint, model: &str) -> Request {
        let text = self.prompt();
        let body = Body {
            model,
            max_tokens: self.max_tokens,
            stream: self.stream,
            messages: [Prompt {
                role: "user",
                content: &text,
            }],
        };
        // Strings and numbers always serialise.
        let body = serde_json::to_vec(&body)
            .map(Bytes::from)
            .unwrap_or_default();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(
            HeaderName::from_static("anthropic-version"),
            HeaderValue::from_static("2023-06-01"),
        );
        headers.insert(
            HeaderName::from_static("x-api-key"),
            HeaderValue::from_static("sk-drill"),
        );
        Request {
            method: Method::POST,
            uri: endpoint.messages.clone(),
            headers,
            body,
        }
    }
}

/// Where a drill's provider listens.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Scheme and authority, without a slash at the end.
    pub base: String,
    messages: Uri,
}

impl Endpoint {
    /// The endpoint under `base`, such as `http://127.0.0.1:4118`.
    ///
    /// # Errors
    ///
    /// [`DrillError::Endpoint`] when `base` is no address.
    pub fn new(base: &str) -> Result<Self, DrillError> {
        let base = base.trim_end_matches('/').to_owned();
        let messages = format!("{base}/v1/messages")
            .parse()
            .map_err(|_| DrillError::Endpoint { base: base.clone() })?;
        Ok(Self { base, messages })
    }
}

/// Who gave an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum By {
    /// The wanted model.
    Wanted,
    /// The cache, and it is as good as new.
    FreshCache,
    /// Something that is less than that, and says so.
    Less(Degraded),
}

impl By {
    /// In which way the answer is less than the wanted model's.
    #[must_use]
    pub const fn degraded(self) -> Option<Degraded> {
        match self {
            Self::Less(kind) => Some(kind),
            Self::Wanted | Self::FreshCache => None,
        }
    }

    /// Whether a model wrote it for this call.
    #[must_use]
    pub const fn is_target(self) -> bool {
        matches!(self, Self::Wanted | Self::Less(Degraded::Model))
    }
}

/// How a call ended, as its caller saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// A whole answer.
    Answered {
        /// Who gave it.
        by: By,
    },
    /// Part of an answer, handed over as if it were whole.
    HalfAnswered,
    /// A refusal by the client itself, without an attempt.
    Refused {
        /// When the client says that the call would have a chance.
        retry_after: Duration,
    },
    /// Anything else.
    Failed {
        /// A fixed word: `status`, `connection`, `timeout`, `malformed`, `stream_error`, `deadline`, or
        /// `unmarked` for an answer that is not what its marks say.
        why: &'static str,
    },
}

/// Which client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ClientKind {
    /// This runtime.
    Seawall,
    /// The retry policy of the official SDKs.
    Sdk,
    /// One attempt, and hope.
    Naive,
}

impl ClientKind {
    /// Every client, in the order of every table.
    pub const ALL: [Self; 3] = [Self::Seawall, Self::Sdk, Self::Naive];

    /// The name in JSON and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Seawall => "seawall",
            Self::Sdk => "sdk",
            Self::Naive => "naive",
        }
    }
}

/// What a client is built from.
#[derive(Debug, Clone)]
pub struct Wiring<'a> {
    /// What every attempt goes through; it meters them.
    pub transport: Arc<dyn Transport>,
    /// Where the provider listens.
    pub endpoint: Endpoint,
    /// The scenario: its ladder, profile, deadline and configured limits.
    pub scenario: &'a Scenario,
    /// Seed of the client's own chance.
    pub seed: u64,
    /// Time since the Unix epoch at the moment when the client is built.
    pub unix_now: Duration,
}

/// Builds a client. Called inside the runtime that will drive it.
///
/// # Errors
///
/// [`DrillError::Client`] when the client refuses the scenario's settings.
pub fn build(kind: ClientKind, wiring: &Wiring<'_>) -> Result<Arc<dyn Client>, DrillError> {
    match kind {
        ClientKind::Seawall => Ok(Arc::new(processes::Processes::new(wiring)?)),
        ClientKind::Sdk => Ok(Arc::new(sdk::Sdk::new(wiring))),
        ClientKind::Naive => Ok(Arc::new(naive::Naive::new(wiring))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(input_tokens: u64) -> CallPlan {
        CallPlan {
            id: 7,
            question: None,
            ladder: Arc::from(["claude-sonnet-5-5".to_owned()]),
            input_tokens,
            max_tokens: 64,
            stream: false,
            profile: None,
            tenant: None,
            deadline: Duration::from_secs(1),
        }
    }

    #[test]
    fn a_prompt_has_about_four_characters_for_each_token() {
        for tokens in [100, 2_000, 50_000] {
            let text = plan(tokens).prompt();
            let found = u64::try_from(text.len()).unwrap() / 4;
            assert!(found.abs_diff(tokens) <= 20, "{tokens}: {found}");
        }
        assert!(!plan(0).prompt().is_empty());
    }

    #[test]
    fn calls_that_ask_the_same_send_the_same() {
        let ask = |id, question| CallPlan {
            id,
            question,
            ..plan(200)
        };
        assert_eq!(ask(1, Some(3)).prompt(), ask(2, Some(3)).prompt());
        assert_ne!(ask(1, Some(3)).prompt(), ask(1, Some(4)).prompt());
        assert_ne!(ask(3, None).prompt(), ask(4, None).prompt());
        assert_ne!(ask(3, None).prompt(), ask(3, Some(3)).prompt());
    }

    #[test]
    fn a_request_is_what_an_sdk_sends() {
        let endpoint = Endpoint::new("http://127.0.0.1:9/").unwrap();
        let request = plan(20).request(&endpoint, "claude-haiku-5");
        assert_eq!(request.uri.to_string(), "http://127.0.0.1:9/v1/messages");
        let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(body["model"], "claude-haiku-5");
        assert_eq!(body["max_tokens"], 64);
        assert_eq!(body["messages"][0]["role"], "user");
        assert!(Endpoint::new("no address").is_err());
    }
}
