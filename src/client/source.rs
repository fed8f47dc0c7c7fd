//! What a client sent, kept for as long as one more rung may be sent it.

use bytes::Bytes;
use http::HeaderMap;
use parking_lot::Mutex;

use super::ask::Ask;
use crate::provider::anthropic::headers::{self as wire, Credential};
use crate::provider::anthropic::request::RequestView;

/// A request as it came.
pub(super) struct Source {
    pub(super) query: Option<String>,
    pub(super) body: Bytes,
    /// What the body says; none for an endpoint whose bodies are not read.
    pub(super) view: Option<RequestView>,
    /// The provider's credential that the client sent.
    pub(super) brought: Option<Credential>,
    version: String,
    /// Those that go upstream. Most calls end on their first rung, which takes them.
    headers: Mutex<Option<HeaderMap>>,
}

impl Source {
    pub(super) fn new(
        ask: &mut Ask,
        view: Option<RequestView>,
        brought: Option<Credential>,
    ) -> Self {
        let headers = wire::request_headers(std::mem::take(&mut ask.headers));
        let version = headers.get(wire::VERSION).and_then(|v| v.to_str().ok());
        let version = version.unwrap_or(wire::DEFAULT_VERSION).to_owned();
        Self {
            version,
            query: ask.query.take(),
            body: ask.body.clone(),
            view,
            brought,
            headers: Mutex::new(Some(headers)),
        }
    }

    /// The API version that it names.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    pub(super) fn model(&self) -> Option<&str> {
        self.view.as_ref()?.model.as_deref()
    }

    /// The headers for one more rung; none once the first has taken them.
    pub(super) fn take_headers(&self) -> Option<HeaderMap> {
        self.headers.lock().take()
    }
}

// Headers carry the credential, bodies carry people's prompts: neither is shown.
impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}
