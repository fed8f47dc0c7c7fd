//! Streams of the Messages API built from choices, and a simple judge of whether one is whole.

use std::collections::HashMap;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::source::Source;

/// One event of a stream.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) data: String,
}

impl Event {
    fn new(value: &Value) -> Self {
        Self {
            name: value["type"].as_str().unwrap().to_owned(),
            data: value.to_string(),
        }
    }
}

/// A stream that is whole, and what it says.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) events: Vec<Event>,
    pub(crate) text: String,
    pub(crate) output: u64,
}

const TEXTS: [&str; 8] = [
    "Hello",
    "",
    " wor",
    "ld\n\n",
    "漢字 é",
    "\"quoted\\\"",
    "\u{2028}\r\n: data: x",
    "0",
];

/// A whole stream; of text alone if `only_text`.
pub(crate) fn stream(source: &mut Source<'_>, only_text: bool) -> Stream {
    let model = "claude-sonnet-5-5";
    let usage = json!({ "input_tokens": source.below(5000), "output_tokens": 1 });
    let message = json!({ "id": "msg_1", "type": "message", "model": model, "usage": usage });
    let mut events = vec![Event::new(
        &json!({ "type": "message_start", "message": message }),
    )];
    let mut text = String::new();
    for index in 0..source.below(4) {
        let kind = if only_text { 0 } else { source.below(4) };
        block(source, (index, kind), &mut events, &mut text);
        filler(source, &mut events);
    }
    let output = u64::try_from(source.below(5000)).unwrap();
    events.push(Event::new(&json!({
        "type": "message_delta", "delta": { "stop_reason": "end_turn" },
        "usage": { "output_tokens": output },
    })));
    events.push(Event::new(&json!({ "type": "message_stop" })));
    Stream {
        events,
        text,
        output,
    }
}

fn block(
    source: &mut Source<'_>,
    (index, kind): (usize, usize),
    events: &mut Vec<Event>,
    text: &mut String,
) {
    let first = if source.once_in(4) {
        source.pick(&TEXTS)
    } else {
        ""
    };
    let block = match kind {
        0 => {
            text.push_str(first);
            json!({ "type": "text", "text": first })
        }
        1 => json!({ "type": "thinking", "thinking": "", "signature": "" }),
        2 => json!({ "type": "tool_use", "id": "t", "name": "f", "input": {} }),
        _ => json!({ "type": "redacted_thinking", "data": "xyz" }),
    };
    events.push(Event::new(
        &json!({ "type": "content_block_start", "index": index, "content_block": block }),
    ));
    for _ in 0..source.below(5) {
        let piece = source.pick(&TEXTS);
        let delta = match kind {
            0 => {
                text.push_str(piece);
                json!({ "type": "text_delta", "text": piece })
            }
            1 => json!({ "type": "thinking_delta", "thinking": piece }),
            2 => json!({ "type": "input_json_delta", "partial_json": piece }),
            _ => json!({ "type": "new_delta", "more": [piece] }),
        };
        events.push(Event::new(
            &json!({ "type": "content_block_delta", "index": index, "delta": delta }),
        ));
        filler(source, events);
    }
    events.push(Event::new(
        &json!({ "type": "content_block_stop", "index": index }),
    ));
}

/// What may stand between any two events.
fn filler(source: &mut Source<'_>, events: &mut Vec<Event>) {
    match source.below(12) {
        10 => events.push(Event::new(&json!({ "type": "ping" }))),
        11 => events.push(Event::new(&json!({ "type": "brand_new", "x": [1] }))),
        _ => {}
    }
}

/// Spoils a stream in one place.
pub(crate) fn spoil(source: &mut Source<'_>, events: &mut Vec<Event>) {
    let at = source.below(events.len().max(1));
    let other = source.below(events.len().max(1));
    let Some(event) = events.get_mut(at) else {
        return;
    };
    match source.below(13) {
        0 => drop(events.remove(at)),
        1 => {
            let again = event.clone();
            events.insert(other, again);
        }
        2 => events.swap(at, other),
        3 => events.truncate(at),
        4 => event.name.clear(),
        5 => other_name(source, event),
        6 => {
            let error = json!({ "type": "error", "error": { "type": "overloaded_error",
                "message": "Overloaded" } });
            events.insert(at, Event::new(&error));
        }
        7 => huge_usage(source, event),
        8 => {
            let index = source.pick(&["1", "2", "-1", "18446744073709551615", "1e0", "null"]);
            event.data = event
                .data
                .replace("\"index\":0", &format!("\"index\":{index}"));
        }
        9 => {
            let late = source.pick(&["message_start", "content_block_stop", "message_stop"]);
            let late = json!({ "type": late, "index": 0, "message": {} });
            events.push(Event::new(&late));
        }
        10 => without_a_block(source, events),
        _ => {
            let mut data = std::mem::take(&mut event.data).into_bytes();
            source.damage(&mut data);
            event.data = String::from_utf8_lossy(&data).into_owned();
        }
    }
}

/// Leaves out a block, or gives it another number.
fn without_a_block(source: &mut Source<'_>, events: &mut Vec<Event>) {
    let index = format!("\"index\":{}", source.below(3));
    if source.once_in(2) {
        events.retain(|event| !event.data.contains(&index));
    } else {
        let other = format!("\"index\":{}", source.below(4));
        for event in events {
            event.data = event.data.replace(&index, &other);
        }
    }
}

fn other_name(source: &mut Source<'_>, event: &mut Event) {
    let names = [
        "message_stop",
        "ping",
        "content_block_delta",
        "error",
        "message_delta",
        "new",
    ];
    source.pick(&names).clone_into(&mut event.name);
}

fn huge_usage(source: &mut Source<'_>, event: &mut Event) {
    let most = source.pick(&[
        "18446744073709551615",
        "18446744073709551616",
        "1e300",
        "-1",
    ]);
    let pass = format!(
        "{{\"input_tokens\":{most},\"output_tokens\":{most},\"cache_creation_input_tokens\":{most}}}"
    );
    let usage = format!(
        "\"usage\":{{\"input_tokens\":{most},\"cache_read_input_tokens\":{most},\
         \"cache_creation\":{{\"ephemeral_1h_input_tokens\":{most},\"ephemeral_5m_input_tokens\":{most}}},\
         \"iterations\":[{pass},{pass}],"
    );
    event.data = event.data.replace("\"usage\":{", &usage);
}

/// The events as bytes, with one of the three line ends.
pub(crate) fn write(events: &[Event], end: &str) -> Vec<u8> {
    let mut out = String::new();
    for event in events {
        if !event.name.is_empty() {
            out.push_str(&format!("event: {}{end}", event.name));
        }
        for line in event.data.split(['\n', '\r']) {
            out.push_str(&format!("data: {line}{end}"));
        }
        out.push_str(end);
    }
    out.into_bytes()
}

/// What a stream says, if it is a whole message and nothing else. Slow, and by other means than the
/// code under test: every event is a map of raw values.
pub(crate) fn whole(frames: &[(String, String)]) -> Option<String> {
    let (mut text, mut blocks, mut open) = (String::new(), 0_u64, None);
    let (mut started, mut stopped) = (false, false);
    for (name, data) in frames {
        let map: Option<HashMap<String, Box<RawValue>>> = serde_json::from_str(data).ok();
        let named = map.as_ref().and_then(|map| map.get("type"));
        let kind = match named {
            Some(kind) if name.is_empty() => serde_json::from_str(kind.get()).unwrap_or_default(),
            _ => name.clone(),
        };
        let number = |key| map.as_ref()?.get(key)?.get().parse::<u64>().ok();
        match kind.as_str() {
            "message_start" if !started && map.as_ref()?.contains_key("message") => started = true,
            "content_block_start" if started && !stopped && open.is_none() => {
                open = Some(number("index").filter(|&index| index == blocks)?);
                blocks += 1;
                text.push_str(&text_in(map.as_ref()?.get("content_block")?));
            }
            "content_block_delta" if started && !stopped && open == Some(number("index")?) => {
                text.push_str(&text_in(map.as_ref()?.get("delta")?));
            }
            "content_block_stop" if started && !stopped && open == Some(number("index")?) => {
                open = None;
            }
            "message_delta" if started && !stopped && map.is_some() => {}
            "message_stop" if started && open.is_none() => {
                let _: Box<RawValue> = serde_json::from_str(data).ok()?;
                stopped = true;
            }
            "message_start"
            | "content_block_start"
            | "content_block_delta"
            | "content_block_stop"
            | "message_delta"
            | "message_stop"
            | "error" => return None,
            _ => {}
        }
    }
    stopped.then_some(text)
}

fn text_in(raw: &RawValue) -> String {
    let value: Value = serde_json::from_str(raw.get()).unwrap_or_default();
    value["text"].as_str().unwrap_or_default().to_owned()
}
