//! Makes one stream of the Messages API out of an answer that broke off and its continuation.
//!
//! The first part passes as it came. Of the continuation the caller must not see that it is one:
//! its `message_start` is left out, a text block that was open goes on, later blocks get the next
//! indices, and usage, which is cumulative, counts both parts. Only text can be continued: a tool
//! call in two halves is no JSON, and thinking is signed as a whole.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::request::range_in;
use super::stream::kind;
use super::usage::Tokens;
use crate::transport::sse::{SseDecoder, SseFrame};

/// Follows an answer through its parts.
#[derive(Debug)]
pub struct Splice {
    decoder: SseDecoder,
    /// What the answer says so far.
    text: String,
    started: bool,
    only_text: bool,
    summed_up: bool,
    /// The index of the block that is open, and whether it is text.
    open: Option<(u64, bool)>,
    next_index: u64,
    /// What the parts before the current one used.
    before: Vec<Tokens>,
    /// Added to the current part's indices, once its first block has come.
    shift: Option<u64>,
}

impl Default for Splice {
    fn default() -> Self {
        Self {
            decoder: SseDecoder::new(),
            text: String::new(),
            started: false,
            only_text: true,
            summed_up: false,
            open: None,
            next_index: 0,
            before: Vec::new(),
            shift: None,
        }
    }
}

impl Splice {
    /// An answer of which nothing has come yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes whole events of the current part and returns what the caller is to see of them.
    pub fn pass(&mut self, events: Bytes) -> Bytes {
        let mut decoder = std::mem::take(&mut self.decoder);
        let mut out = String::new();
        // Err is out of reach: the same events have passed a decoder before.
        let pushed = decoder.push(&events, |frame| self.frame(frame, &mut out));
        self.decoder = decoder;
        match pushed {
            Ok(_) if self.before.is_empty() => events,
            _ => Bytes::from(out),
        }
    }

    /// The text so far, where another request can continue it.
    #[must_use]
    pub fn continuable(&self) -> Option<&str> {
        let fit = self.started && self.only_text && !self.summed_up && !self.text.is_empty();
        fit.then_some(self.text.as_str())
    }

    /// The current part broke off after it had used this much; the next events are another's.
    pub fn next_part(&mut self, used: Tokens) {
        self.decoder = SseDecoder::new();
        self.before.push(used);
        self.shift = None;
    }

    fn frame(&mut self, frame: SseFrame<'_>, out: &mut String) {
        let shown = match &*kind(frame) {
            "message_start" => self.message_start(),
            "content_block_start" => self.block_start(frame.data, out),
            "content_block_delta" => self.delta(frame.data),
            "content_block_stop" => self.block_stop(frame.data),
            "message_delta" => {
                self.close_earlier(out);
                Some(self.message_delta(frame.data))
            }
            "message_stop" => {
                self.close_earlier(out);
                // The caller takes the message for whole, whatever comes behind it.
                self.summed_up = true;
                Some(Cow::Borrowed(frame.data))
            }
            _ => Some(Cow::Borrowed(frame.data)),
        };
        if let (Some(data), false) = (shown, self.before.is_empty()) {
            write_frame(out, frame.event, &data);
        }
    }

    const fn message_start(&mut self) -> Option<Cow<'static, str>> {
        // The caller has the first part's, and its id.
        self.started = true;
        None
    }

    fn block_start<'a>(&mut self, data: &'a str, out: &mut String) -> Option<Cow<'a, str>> {
        let Ok(start) = serde_json::from_str::<BlockStart<'_>>(data) else {
            self.only_text = false;
            return None;
        };
        let is_text = start.content_block.kind == "text";
        self.only_text &= is_text;
        if is_text && let Some(text) = &start.content_block.text {
            self.text.push_str(text);
        }
        let index: u64 = start.index.get().parse().ok()?;
        if self.shift.is_none() {
            if let (Some((open, true)), true) = (self.open, is_text) {
                self.shift = Some(open.saturating_sub(index));
                if let Some(text) = start.content_block.text.filter(|text| !text.is_empty()) {
                    write_text(out, open, &text);
                }
                return None;
            }
            self.close_earlier(out);
            self.shift = Some(self.next_index.saturating_sub(index));
        }
        let place = index.saturating_add(self.shift.unwrap_or_default());
        self.open = Some((place, is_text));
        self.next_index = place.saturating_add(1);
        self.moved(data, start.index)
    }

    /// Ends the block that an earlier part left open, where this part does not go on with it.
    fn close_earlier(&mut self, out: &mut String) {
        if self.before.is_empty() || self.shift.is_some() {
            return;
        }
        if let Some((open, _)) = self.open.take() {
            let stop = json!({ "type": "content_block_stop", "index": open });
            write_frame(out, "content_block_stop", &stop.to_string());
        }
    }

    fn delta<'a>(&mut self, data: &'a str) -> Option<Cow<'a, str>> {
        let Ok(delta) = serde_json::from_str::<BlockDelta<'_>>(data) else {
            self.only_text = false;
            return None;
        };
        if let Some(text) = &delta.delta.text {
            self.text.push_str(text);
        }
        self.moved(data, delta.index)
    }

    fn block_stop<'a>(&mut self, data: &'a str) -> Option<Cow<'a, str>> {
        let stop: BlockStop<'_> = serde_json::from_str(data).ok()?;
        self.open = None;
        self.moved(data, stop.index)
    }

    /// An event with its index moved to the place that it has in the whole.
    fn moved<'a>(&self, data: &'a str, index: &RawValue) -> Option<Cow<'a, str>> {
        let place = index
            .get()
            .parse::<u64>()
            .ok()?
            .saturating_add(self.shift.unwrap_or_default());
        let Range { start, end } = range_in(data.as_bytes(), index.get())?;
        let (head, tail) = (data.get(..start)?, data.get(end..)?);
        Some(Cow::Owned(format!("{head}{place}{tail}")))
    }

    fn message_delta<'a>(&mut self, data: &'a str) -> Cow<'a, str> {
        self.summed_up = true;
        let Ok(mut event) = serde_json::from_str::<Value>(data) else {
            return Cow::Borrowed(data);
        };
        let all = self
            .before
            .iter()
            .fold(Tokens::default(), |sum, part| sum.plus(*part));
        if let Some(usage) = event.get_mut("usage") {
            let last = usage.clone();
            add(usage, "output_tokens", all.output);
            add(usage, "input_tokens", all.input);
            add(usage, "cache_read_input_tokens", all.cache_read);
            let written = all.cache_write_5m.saturating_add(all.cache_write_1h);
            add(usage, "cache_creation_input_tokens", written);
            self.list_parts(usage, last);
        }
        Cow::Owned(event.to_string())
    }

    /// Lists what each part used, as the provider lists the passes behind an answer.
    fn list_parts(&self, usage: &mut Value, last: Value) {
        let Some(usage) = usage.as_object_mut() else {
            return;
        };
        if usage.contains_key("iterations") {
            return;
        }
        let mut parts: Vec<Value> = self.before.iter().map(part).collect();
        let mut last = last;
        if let Some(last) = last.as_object_mut() {
            last.insert("type".to_owned(), "message".into());
        }
        parts.push(last);
        usage.insert("iterations".to_owned(), parts.into());
    }
}

fn part(used: &Tokens) -> Value {
    json!({
        "type": "message",
        "input_tokens": used.input,
        "output_tokens": used.output,
        "cache_read_input_tokens": used.cache_read,
        "cache_creation_input_tokens": used.cache_write_5m.saturating_add(used.cache_write_1h),
    })
}

fn add(usage: &mut Value, key: &str, more: u64) {
    if let Some(count) = usage.get_mut(key)
        && let Some(stated) = count.as_u64()
    {
        *count = stated.saturating_add(more).into();
    }
}

/// The text that a block began with, for a block that is not announced again.
fn write_text(out: &mut String, index: u64, text: &str) {
    let delta = json!({ "type": "text_delta", "text": text });
    let event = json!({ "type": "content_block_delta", "index": index, "delta": delta });
    write_frame(out, "content_block_delta", &event.to_string());
}

fn write_frame(out: &mut String, event: &str, data: &str) {
    if !event.is_empty() {
        out.push_str("event: ");
        out.push_str(event);
        out.push('\n');
    }
    for line in data.split('\n') {
        out.push_str("data: ");
        out.push_str(line);
        out.push('\n');
    }
    out.push('\n');
}

/// A request body that asks for the rest of `text`: the same request with one more user message,
/// and with as many fewer tokens to write as have been `written`. Every other byte is as it was.
///
/// The user message is the provider's documented form; current models refuse an assistant message
/// to go on from. `None` where the body has no list of messages.
#[must_use]
pub fn continuation(body: &Bytes, text: &str, written: u64) -> Option<Bytes> {
    let request: Request<'_> = serde_json::from_slice(body).ok()?;
    let list = range_in(body, request.messages.get())?;
    let inside = request.messages.get().strip_suffix(']')?;
    let comma = if inside.trim_end().ends_with('[') {
        ""
    } else {
        ","
    };
    let message = json!({
        "role": "user",
        "content": format!(
            "Your previous response was interrupted and ended with:\n\n{text}\n\nContinue exactly \
             from where it ended. Do not repeat any of it and do not comment on the interruption."
        ),
    });
    let end = list.end.checked_sub(1)?;
    let mut edits = vec![(end..end, format!("{comma}{message}"))];
    if let Some(most) = request.max_tokens
        && let Ok(allowed) = most.get().parse::<u64>()
        && let Some(range) = range_in(body, most.get())
    {
        edits.push((range, allowed.saturating_sub(written).max(1).to_string()));
    }
    edits.sort_by_key(|(range, _)| range.start);
    let mut out = Vec::with_capacity(body.len().saturating_add(text.len()).saturating_add(256));
    let mut at = 0;
    for (range, new) in edits {
        out.extend_from_slice(body.get(at..range.start)?);
        out.extend_from_slice(new.as_bytes());
        at = range.end;
    }
    out.extend_from_slice(body.get(at..)?);
    Some(out.into())
}

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    messages: &'a RawValue,
    #[serde(borrow, default)]
    max_tokens: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct BlockStart<'a> {
    #[serde(borrow)]
    index: &'a RawValue,
    #[serde(borrow)]
    content_block: Block<'a>,
}

#[derive(Deserialize)]
struct Block<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct BlockDelta<'a> {
    #[serde(borrow)]
    index: &'a RawValue,
    #[serde(borrow)]
    delta: Piece<'a>,
}

#[derive(Deserialize)]
struct Piece<'a> {
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct BlockStop<'a> {
    #[serde(borrow)]
    index: &'a RawValue,
}

#[cfg(test)]
mod tests;
