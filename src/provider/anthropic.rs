//! Claude's Messages API as it is on the wire.
//!
//! Everything here reads or writes bytes that somebody else moves: what a request asks for
//! ([`request`]), which headers travel ([`headers`]), what an answer or a stream used and whether it
//! is whole ([`usage`], [`stream`]), what the rate-limit headers say ([`limits`]). The API grows
//! without notice, so unknown fields, events and blocks pass.

use std::borrow::Cow;

use serde_json::json;

pub mod headers;
pub mod limits;
pub mod rate_limits;
pub mod request;
pub mod splice;
pub mod stream;
pub mod usage;

/// The model's plain name: lower case, without a cloud's prefix, a date, a version suffix or an alias.
///
/// `us.anthropic.claude-sonnet-4-5-20250929-v1:0` and `claude-sonnet-4-5@20250929` are both
/// `claude-sonnet-4-5`.
#[must_use]
pub fn plain_model(model: &str) -> Cow<'_, str> {
    if is_plain(model) {
        Cow::Borrowed(model)
    } else if model.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(plain(&model.to_ascii_lowercase()).to_owned())
    } else {
        Cow::Borrowed(plain(model))
    }
}

/// The group of models that share one quota inside an organisation.
///
/// Generations that the provider's rate-limit page combines share a name; every other model stands
/// for itself.
#[must_use]
pub fn quota_group(model: &str) -> Cow<'_, str> {
    const COMBINED: [&str; 3] = ["claude-opus-4", "claude-sonnet-4", "claude-fable-5"];
    let name = plain_model(model);
    let belongs = |group: &str| {
        name.strip_prefix(group)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    COMBINED
        .into_iter()
        .find(|group| belongs(group))
        .map_or_else(|| name.clone(), Cow::Borrowed)
}

/// An error body in the provider's own shape, for what seawall itself answers.
#[must_use]
pub fn error_body(error_type: &str, message: &str, request_id: Option<&str>) -> String {
    error_value(error_type, message, request_id).to_string()
}

/// The same with the provider's stable code for what happened.
#[must_use]
pub fn coded_error_body(error_type: &str, code: &str, message: &str) -> String {
    let mut value = error_value(error_type, message, None);
    if let Some(error) = value.get_mut("error").and_then(|e| e.as_object_mut()) {
        error.insert("details".to_owned(), json!({ "error_code": code }));
    }
    value.to_string()
}

/// Why a stream that has begun will never be whole.
#[derive(Debug, Clone, Copy)]
#[expect(
    clippy::exhaustive_structs,
    reason = "made by whoever ends a stream, with everything that a reader needs"
)]
pub struct StreamFailure<'a> {
    /// The provider's word for the kind of error.
    pub error_type: &'a str,
    /// What happened, in words.
    pub message: &'a str,
    /// What happened, for machines: a verdict's label.
    pub reason: &'a str,
    /// The id of the call.
    pub call: &'a str,
    /// The provider's id of the request, where there was one.
    pub request_id: Option<&'a str>,
}

impl StreamFailure<'_> {
    /// The failure as the last event of its stream, blank line included.
    #[must_use]
    pub fn event(&self) -> String {
        let mut value = error_value(self.error_type, self.message, self.request_id);
        if let Some(error) = value.get_mut("error").and_then(|e| e.as_object_mut()) {
            let details = json!({ "reason": self.reason, "seawall_call": self.call });
            error.insert("details".to_owned(), details);
        }
        format!("event: error\ndata: {value}\n\n")
    }
}

/// The event that keeps a silent stream alive.
pub const PING_EVENT: &str = "event: ping\ndata: {\"type\": \"ping\"}\n\n";

fn error_value(error_type: &str, message: &str, request_id: Option<&str>) -> serde_json::Value {
    let error = json!({ "type": error_type, "message": message });
    match request_id {
        Some(id) => json!({ "type": "error", "error": error, "request_id": id }),
        None => json!({ "type": "error", "error": error }),
    }
}

fn plain(model: &str) -> &str {
    let name = model.trim();
    let name = name.rsplit('/').next().unwrap_or(name);
    // Clouds write `region.anthropic.claude-…`.
    let name = if name.starts_with("claude") {
        name
    } else {
        name.find("claude")
            .and_then(|at| name.get(at..))
            .unwrap_or(name)
    };
    let ends = |b| matches!(b, b'@' | b':' | b'[');
    let name = match name.bytes().position(ends) {
        Some(at) => name.get(..at).unwrap_or(name),
        None => name,
    };
    // A version's digits hold no hyphen, so it stands behind the last one.
    let name = match name.rsplit_once('-') {
        Some((head, version)) if version.strip_prefix('v').is_some_and(is_digits) => head,
        _ => name,
    };
    let name = name.strip_suffix("-latest").unwrap_or(name);
    match name.rsplit_once('-') {
        Some((head, date)) if date.len() == 8 && is_digits(date) => head,
        _ => name,
    }
}

/// Whether a name is plain for sure, as most are: every call reads a few.
fn is_plain(model: &str) -> bool {
    let name = model.as_bytes();
    let is_usual = |b: &u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
    let last = name.rsplit(|b| *b == b'-').next().unwrap_or(name);
    // Shorter than a date and `latest`, and no version suffix.
    let stays = last.len() < 6 && !last.starts_with(b"v");
    stays && name.starts_with(b"claude-") && name.iter().all(is_usual)
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::{StreamFailure, error_body, plain_model, quota_group};

    #[test]
    fn every_spelling_of_a_model_is_one_model() {
        for (spelling, plain) in [
            ("claude-sonnet-4-5", "claude-sonnet-4-5"),
            ("claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
            ("claude-sonnet-4-5@20250929", "claude-sonnet-4-5"),
            (
                "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
                "claude-sonnet-4-5",
            ),
            ("anthropic.claude-opus-4-6-v1", "claude-opus-4-6"),
            ("anthropic/claude-haiku-5-5", "claude-haiku-5-5"),
            ("claude-opus-4-6[1m]", "claude-opus-4-6"),
            ("Claude-3-5-Haiku-Latest", "claude-3-5-haiku"),
            ("claude-3-5-sonnet-latest", "claude-3-5-sonnet"),
            ("claude-sonnet-4-20250514", "claude-sonnet-4"),
            (
                "eu.anthropic.claude-haiku-4-5-20251001-v1:0",
                "claude-haiku-4-5",
            ),
            ("global.anthropic.claude-opus-4-6-v1", "claude-opus-4-6"),
            ("gpt-6-20260101", "gpt-6"),
            ("llama-3", "llama-3"),
            ("claude-opus-5-5-v2", "claude-opus-5-5"),
            ("claude-opus-latest", "claude-opus"),
            ("claude-5-", "claude-5-"),
            ("", ""),
            ("-v", "-v"),
            ("ü@", "ü"),
        ] {
            assert_eq!(plain_model(spelling), plain, "{spelling}");
        }
    }

    #[test]
    fn combined_generations_share_a_quota_and_others_do_not() {
        for (model, group) in [
            ("claude-opus-4-8", "claude-opus-4"),
            ("claude-opus-4-5-20251101", "claude-opus-4"),
            ("claude-opus-5", "claude-opus-5"),
            ("claude-opus-5-5", "claude-opus-5-5"),
            ("claude-sonnet-4-6", "claude-sonnet-4"),
            ("claude-sonnet-5-5", "claude-sonnet-5-5"),
            ("claude-fable-5", "claude-fable-5"),
            ("claude-fable-5-2", "claude-fable-5"),
            ("claude-mythos-5-2", "claude-mythos-5-2"),
            ("claude-opus-45", "claude-opus-45"),
            ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        ] {
            assert_eq!(quota_group(model), group, "{model}");
        }
    }

    #[test]
    fn own_errors_have_the_providers_shape() {
        let body: serde_json::Value =
            serde_json::from_str(&error_body("api_error", "say \"why\"", Some("req_1")))
                .expect("JSON");
        assert_eq!(body["type"], "error");
        assert_eq!(body["error"]["message"], "say \"why\"");
        assert_eq!(body["request_id"], "req_1");
        let failure = StreamFailure {
            error_type: "overloaded_error",
            message: "two\nlines",
            reason: "stalled",
            call: "0199",
            request_id: None,
        };
        let event = failure.event();
        let data = event
            .strip_prefix("event: error\ndata: ")
            .and_then(|rest| rest.strip_suffix("\n\n"))
            .expect("one event");
        let data: serde_json::Value = serde_json::from_str(data).expect("JSON in one line");
        assert_eq!(data["error"]["details"]["reason"], "stalled");
        assert_eq!(event.lines().count(), 3);
    }
}
