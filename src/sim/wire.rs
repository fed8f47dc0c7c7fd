//! Reads a request as the provider does, and refuses it in the provider's words.
//!
//! Input tokens are counted from bytes: 8, and one for every four bytes of the raw JSON of
//! `system`, `messages` and `tools`. The same count answers `count_tokens`, stands in `usage` and is
//! charged to the quota, so that the three agree.

mod body;

use std::borrow::Cow;

use http::HeaderMap;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use self::body::Body;
pub(super) use self::body::{Thinking, Tool};
use super::cache::Beginnings;
use super::scenario::Settings;
use super::seed;

/// The largest body of a messages request, in bytes.
pub const BODY_LIMIT: usize = 32 * 1024 * 1024;

/// The tag that every answer to a request with this body begins with: 16 hex digits made from the
/// raw JSON of `messages`, or of the whole body where there is none.
///
/// A caller can so tell whether the answer it holds is its own.
#[must_use]
pub fn request_tag(body: &[u8]) -> String {
    let messages = serde_json::from_slice::<Body<'_>>(body)
        .ok()
        .and_then(|body| body.messages);
    tag_text(messages.map_or_else(
        || seed::digest(&[body]),
        |m| seed::digest(&[m.get().as_bytes()]),
    ))
}

pub(super) fn tag_text(tag: u64) -> String {
    format!("{tag:016x}")
}

/// A request that the provider would answer.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) model: String,
    pub(super) tag: u64,
    pub(super) max_tokens: u64,
    pub(super) stream: bool,
    /// Whether the fast mode is asked for.
    pub(super) fast: bool,
    pub(super) input_tokens: u64,
    /// What the provider guesses before it has counted.
    pub(super) estimated_tokens: u64,
    pub(super) tool: Option<Tool>,
    pub(super) thinking: Thinking,
    pub(super) beginnings: Beginnings,
    /// The place of its credential among those that are more than a key.
    pub(super) credential: Option<usize>,
}

/// A request that the provider refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) message: String,
    /// The model it names, if any.
    pub(super) model: Option<String>,
}

impl Refusal {
    pub(super) fn new(status: u16, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            model: None,
        }
    }

    fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }
}

/// The credential: either header.
fn key(headers: &HeaderMap) -> Option<&str> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    text("x-api-key").or_else(|| {
        text("authorization").and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        })
    })
}

/// Checks the credential.
pub(super) fn authenticate(headers: &HeaderMap, keys: &[String]) -> Result<(), Refusal> {
    match key(headers) {
        None | Some("") => Err(Refusal::new(401, "x-api-key header is required")),
        Some(key) if keys.is_empty() || keys.iter().any(|known| known == key) => Ok(()),
        Some(_) => Err(Refusal::new(401, "invalid x-api-key")),
    }
}

/// Reads a messages request, or with `counting` one for `count_tokens`.
pub(super) fn read(
    headers: &HeaderMap,
    bytes: &[u8],
    settings: &Settings,
    counting: bool,
) -> Result<Ask, Refusal> {
    let version = version(headers)?;
    let body: Body<'_> = serde_json::from_slice(bytes)
        .map_err(|e| Refusal::invalid(format!("The request body is not valid JSON: {e}")))?;
    // serde reads a list as a struct too.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(Refusal::invalid("Input should be a valid dictionary"));
    }
    let model = body.model()?;
    if settings.model(&model).is_none() {
        let refusal = Refusal::new(404, format!("model: {model}"));
        return Err(Refusal {
            model: Some(model),
            ..refusal
        });
    }
    let own = |key: &str| settings.credentials.iter().position(|own| own.key == key);
    let ask = ask(&body, &model, bytes.len(), Dialect { version, counting });
    match ask {
        Ok(ask) => Ok(Ask {
            credential: key(headers).and_then(own),
            ..ask
        }),
        Err(refusal) => Err(Refusal {
            model: Some(model),
            ..refusal
        }),
    }
}

/// What the rules for a body depend on besides the body.
#[derive(Debug, Clone, Copy)]
struct Dialect {
    version: Version,
    counting: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V2023,
    V2026,
}

fn version(headers: &HeaderMap) -> Result<Version, Refusal> {
    match headers
        .get("anthropic-version")
        .map(|value| value.to_str().unwrap_or_default())
    {
        None => Err(Refusal::invalid("anthropic-version: header is required")),
        Some("2023-01-01" | "2023-06-01") => Ok(Version::V2023),
        Some("2026-10-21") => Ok(Version::V2026),
        Some(other) => Err(Refusal::invalid(format!(
            "anthropic-version: \"{other}\" is not a valid version"
        ))),
    }
}

fn ask(body: &Body<'_>, model: &str, size: usize, dialect: Dialect) -> Result<Ask, Refusal> {
    if dialect.version == Version::V2026 {
        let refused = [
            ("temperature", body.temperature),
            ("top_p", body.top_p),
            ("top_k", body.top_k),
        ];
        if let Some((name, _)) = refused.iter().find(|(_, value)| value.is_some()) {
            return Err(Refusal::invalid(format!(
                "{name}: not supported with anthropic-version 2026-10-21"
            )));
        }
    }
    let max_tokens = if dialect.counting {
        1
    } else {
        body.max_tokens()?
    };
    let (context, most) = room(model);
    if max_tokens > most {
        return Err(Refusal::invalid(format!(
            "max_tokens: {max_tokens} > {most}, which is the maximum allowed number of output tokens for {model}"
        )));
    }
    let messages = body
        .messages
        .ok_or_else(|| Refusal::invalid("messages: Field required"))?;
    check_messages(messages, model)?;
    let input_tokens = body.counted();
    if input_tokens > context {
        return Err(Refusal::invalid(format!(
            "prompt is too long: {input_tokens} tokens > {context} maximum"
        )));
    }
    Ok(Ask {
        model: model.to_owned(),
        tag: seed::digest(&[messages.get().as_bytes()]),
        max_tokens,
        stream: !dialect.counting
            && body
                .stream
                .as_ref()
                .and_then(Value::as_bool)
                .unwrap_or(false),
        fast: body.speed.as_ref().and_then(Value::as_str) == Some("fast"),
        input_tokens,
        estimated_tokens: u64::try_from(size.div_ceil(4))
            .unwrap_or(u64::MAX / 2)
            .max(1),
        tool: body.tool()?,
        thinking: body.thinking(),
        beginnings: Beginnings::of([body.tools, body.system], messages),
        credential: None,
    })
}

fn check_messages(raw: &RawValue, model: &str) -> Result<(), Refusal> {
    #[derive(Deserialize)]
    struct Message<'a> {
        #[serde(borrow, default)]
        role: Option<Cow<'a, str>>,
        #[serde(borrow, default)]
        content: Option<&'a RawValue>,
    }
    let list: Vec<&RawValue> = serde_json::from_str(raw.get())
        .map_err(|_| Refusal::invalid("messages: Input should be a valid list"))?;
    let mut messages: Vec<Message<'_>> = Vec::with_capacity(list.len());
    for (i, raw) in list.iter().enumerate() {
        let message = raw
            .get()
            .starts_with('{')
            .then(|| serde_json::from_str(raw.get()).ok());
        messages.push(message.flatten().ok_or_else(|| {
            Refusal::invalid(format!(
                "messages.{i}: Input does not match the expected shape."
            ))
        })?);
    }
    for (i, message) in messages.iter().enumerate() {
        match message.role.as_deref() {
            None => {
                return Err(Refusal::invalid(format!(
                    "messages.{i}.role: Field required"
                )));
            }
            Some("user" | "assistant" | "system") => {}
            Some(other) => {
                return Err(Refusal::invalid(format!(
                    "messages.{i}.role: Input should be 'user' or 'assistant', not '{other}'"
                )));
            }
        }
        let first = message
            .content
            .and_then(|content| content.get().bytes().next());
        match first {
            None => {
                return Err(Refusal::invalid(format!(
                    "messages.{i}.content: Field required"
                )));
            }
            Some(b'"' | b'[') => {}
            Some(_) => {
                return Err(Refusal::invalid(format!(
                    "messages.{i}.content: Input should be a valid list"
                )));
            }
        }
    }
    let Some(last) = messages.last() else {
        return Err(Refusal::invalid(
            "messages: at least one message is required",
        ));
    };
    if last.role.as_deref() == Some("assistant") && generation(model) >= (4, 6) {
        return Err(Refusal::invalid(
            "This model does not support assistant message prefill. The conversation must end with a user message.",
        ));
    }
    Ok(())
}

/// The generation in a model's name: `claude-opus-4-6` is (4, 6), `claude-sonnet-5` is (5, 0).
fn generation(model: &str) -> (u32, u32) {
    let mut numbers = model
        .split('-')
        .skip_while(|part| part.parse::<u32>().is_err())
        // A date, as in claude-sonnet-4-5-20250929, is no part of it.
        .map_while(|part| (part.len() <= 2).then(|| part.parse::<u32>().ok()).flatten());
    (
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or_default(),
    )
}

/// The context window and the largest `max_tokens` of a model, in tokens.
pub(super) fn room(model: &str) -> (u64, u64) {
    if generation(model) >= (4, 6) {
        (1_000_000, 128_000)
    } else {
        (200_000, 64_000)
    }
}

#[cfg(test)]
mod tests;
