//! The readable part of an error's body.
//!
//! Bodies come with and without the outer type, with a null request id, as a proxy's plain text or as
//! an edge's HTML page. A field of an unexpected type costs only itself.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// What a failed answer's body says about itself.
#[derive(Debug, Default)]
pub(super) struct ErrorBody {
    pub(super) error_type: Option<String>,
    pub(super) code: Option<String>,
    pub(super) message: Option<String>,
    pub(super) request_id: Option<String>,
}

/// Bytes of a plain-text body that a message may show.
const LONGEST_TEXT: usize = 300;

#[derive(Deserialize)]
struct Outer<'a> {
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    request_id: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Inner<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow, default)]
    message: Option<&'a RawValue>,
    #[serde(borrow, default)]
    details: Option<&'a RawValue>,
    /// Where OpenAI and its compatible gateways put it.
    #[serde(borrow, default)]
    code: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Details<'a> {
    #[serde(borrow, default)]
    error_code: Option<&'a RawValue>,
}

impl ErrorBody {
    pub(super) fn read(body: &[u8]) -> Self {
        let Ok(outer) = serde_json::from_slice::<Outer<'_>>(body) else {
            return Self {
                message: plain_text(body),
                ..Self::default()
            };
        };
        let inner = outer
            .error
            .and_then(|raw| serde_json::from_str::<Inner<'_>>(raw.get()).ok());
        let details = inner
            .as_ref()
            .and_then(|inner| inner.details)
            .and_then(|raw| serde_json::from_str::<Details<'_>>(raw.get()).ok());
        Self {
            error_type: inner.as_ref().and_then(|inner| word(inner.kind)),
            // Some proxies answer `{"error": "text"}`.
            message: inner
                .as_ref()
                .map_or_else(|| word(outer.error), |inner| word(inner.message)),
            code: details
                .and_then(|details| word(details.error_code))
                .or_else(|| word(inner.as_ref()?.code)),
            request_id: word(outer.request_id),
        }
    }
}

fn word(raw: Option<&RawValue>) -> Option<String> {
    serde_json::from_str::<Cow<'_, str>>(raw?.get())
        .ok()
        .map(Cow::into_owned)
}

/// A short text that is meant for people; a page of HTML is not.
fn plain_text(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(body.get(..LONGEST_TEXT).unwrap_or(body));
    let text = text.trim().trim_end_matches(char::REPLACEMENT_CHARACTER);
    let readable = !text.is_empty()
        && !text.starts_with(['<', '{', '['])
        && !text.chars().any(|c| c.is_control() && !c.is_whitespace());
    readable.then(|| text.to_owned())
}
