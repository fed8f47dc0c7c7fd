//! Bodies of requests, answers and errors.

use bolero::check;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use seawall::estimate;
use seawall::provider::anthropic::request::{RequestView, splice_model};
use seawall::provider::anthropic::splice::continuation;
use seawall::provider::anthropic::usage::Usage;
use seawall::provider::anthropic::{plain_model, quota_group};
use seawall::verdict::{Document, judge, judge_answer, judge_stream_error};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::source::{FEW, Source, Tally, bytes_of};

const KEYS: [&str; 16] = [
    "model",
    "stream",
    "max_tokens",
    "system",
    "messages",
    "tools",
    "tool_choice",
    "type",
    "text",
    "thinking",
    "content",
    "source",
    "input",
    "data",
    "media_type",
    "other",
];

const ERROR_KEYS: [&str; 12] = [
    "type",
    "error",
    "message",
    "details",
    "error_code",
    "request_id",
    "usage",
    "input_tokens",
    "output_tokens",
    "cache_creation",
    "iterations",
    "model",
];

const SCALARS: [&str; 28] = [
    "null",
    "true",
    "false",
    "0",
    "-1",
    "1.5",
    "1e3",
    "18446744073709551616",
    "\"\"",
    "[]",
    "{}",
    "[ ]",
    "\"hello\"",
    "\"漢字\"",
    "\"a\\\"b\\\\\"",
    "\"\\u0000\\n\"",
    "\"lone \\ud800\"",
    "\"claude-sonnet-5-5\"",
    "\"text\"",
    "\"image\"",
    "\"tool_use\"",
    "\"tool_result\"",
    "\"document\"",
    "\"error\"",
    "\"message\"",
    "\"]\"",
    "1024",
    "\"any\"",
];

const MESSAGES: [&str; 8] = [
    "prompt is too long: 210000 tokens > 200000 maximum",
    "prompt is too long: 99999999999999999999 tokens > 1 maximum",
    "exceed context limit: 188059 + 20000 > 200000",
    "You have reached your specified API usage limits. You will regain access on 2026-12-01.",
    "You have reached your specified usage limits until 9999-12-31",
    "model: claude-x",
    "Your credit balance is too low",
    "until 0000-00-00 or 2026-02-30 or -999-01-01",
];

fn now(source: &mut Source<'_>) -> Timestamp {
    let at = Timestamp::from_second(1_795_521_600).unwrap();
    source.pick(&[at, Timestamp::UNIX_EPOCH, Timestamp::MIN, Timestamp::MAX])
}

/// Some JSON, with keys that mean something, in odd writing.
fn value(source: &mut Source<'_>, keys: &[&str], depth: usize, out: &mut String) {
    let kind = if depth == 0 { 0 } else { source.below(5) };
    match kind {
        1 | 2 => object(source, keys, depth, out),
        3 => {
            out.push('[');
            for index in 0..source.below(4) {
                out.push_str(if index == 0 { "" } else { "," });
                value(source, keys, depth - 1, out);
            }
            out.push(']');
        }
        4 => out.push_str(&json!(source.pick(&MESSAGES)).to_string()),
        _ => out.push_str(source.pick(&SCALARS)),
    }
}

fn object(source: &mut Source<'_>, keys: &[&str], depth: usize, out: &mut String) {
    out.push('{');
    for index in 0..source.below(6) {
        out.push_str(if index == 0 { "" } else { "," });
        out.push_str(source.pick(&["", " ", "\n\t"]));
        out.push_str(&format!("\"{}\"", source.pick(keys)));
        out.push_str(source.pick(&[":", " : "]));
        value(source, keys, depth.saturating_sub(1), out);
    }
    out.push_str(source.pick(&["}", " }"]));
}

/// A request that is as the API wants it, apart from what choices make of it.
fn request(source: &mut Source<'_>) -> Vec<u8> {
    let mut out = String::from(source.pick(&["", " ", "\n"]));
    if source.once_in(3) {
        object(source, &KEYS, 5, &mut out);
    } else {
        let mut messages = String::new();
        for index in 0..source.below(3) {
            messages.push_str(if index == 0 { "" } else { ", " });
            messages.push_str("{\"role\":\"user\",\"content\":");
            value(source, &KEYS, 3, &mut messages);
            messages.push('}');
        }
        let mut fields = vec![
            format!(
                "\"model\": {}",
                source.pick(&["\"claude-x\"", "null", "\"\\u0063\"", "7"])
            ),
            format!(
                "\"max_tokens\":{}",
                source.pick(&["1024", "1", "0", "5.0", "null"])
            ),
            format!("\"messages\":[{messages}]"),
            format!("\"stream\":{}", source.pick(&["true", "false", "\"true\""])),
        ];
        fields.rotate_left(source.below(4));
        fields.truncate(1 + source.below(4));
        out.push_str(&format!("{{{}}}", fields.join(source.pick(&[",", " , "]))));
    }
    let mut bytes = out.into_bytes();
    for _ in 0..source.below(3) {
        source.damage(&mut bytes);
    }
    bytes
}

/// How many bytes two bodies have in common at their start and at their end.
fn common(one: &[u8], other: &[u8]) -> (usize, usize) {
    let head = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    let pairs = one.iter().rev().zip(other.iter().rev());
    (head, pairs.take_while(|(a, b)| a == b).count())
}

fn a_request(source: &mut Source<'_>) -> &'static str {
    let name = source.pick(&["claude-haiku-5-5", "", "q\"uote", "漢"]);
    let written = source.pick(&[0, 1, 500, u64::MAX]);
    let text = source.pick(&["Hello", "", "\"\\\n\u{0}", "漢"]);
    let body = Bytes::from(request(source));
    let is_json = serde_json::from_slice::<IgnoredAny>(&body).is_ok();
    let view = match RequestView::parse(&body) {
        Ok(view) => view,
        Err(bad) => {
            let object = body.trim_ascii_start().starts_with(b"{");
            // Text that is no UTF-8 is no JSON, though whoever skips it does not see that.
            let utf8 = std::str::from_utf8(&body).is_ok();
            assert!(!(is_json && object && utf8), "{bad}");
            assert!(!bad.message.is_empty());
            return "refused";
        }
    };
    assert!(is_json);
    let tokens = estimate::input_tokens(view.model.as_deref().unwrap_or_default(), &view.counts);
    assert!(tokens >= 8);

    let spliced = splice_model(&body, &view, name);
    let after = RequestView::parse(&spliced).expect("still an object");
    assert_eq!(after.model.as_deref(), Some(name));
    let (head, tail) = common(&body, &spliced);
    let replaced = view.model_range.clone().map_or(0, |range| range.len());
    assert!(head + tail >= body.len() - replaced);
    if let Some(range) = &view.model_range {
        assert_eq!(spliced[..range.start], body[..range.start]);
        assert!(spliced.ends_with(&body[range.end..]));
    }
    let built = serde_json::from_slice::<Value>(&body);
    if let Ok(mut built) = built {
        built["model"] = name.into();
        assert_eq!(serde_json::from_slice::<Value>(&spliced).unwrap(), built);
    }
    if a_continuation(&body, text, written) {
        "continued"
    } else {
        "read"
    }
}

fn a_continuation(body: &Bytes, text: &str, written: u64) -> bool {
    let Some(longer) = continuation(body, text, written) else {
        return false;
    };
    assert!(serde_json::from_slice::<IgnoredAny>(&longer).is_ok());
    let Ok(before) = serde_json::from_slice::<Value>(body) else {
        return false;
    };
    let mut after: Value = serde_json::from_slice(&longer).unwrap();
    let said = after["messages"].as_array_mut().unwrap().pop().unwrap();
    assert_eq!(said["role"], "user");
    assert!(said["content"].as_str().unwrap().contains(text));
    if let Some(most) = before["max_tokens"].as_u64() {
        assert_eq!(after["max_tokens"], most.saturating_sub(written).max(1));
        after["max_tokens"] = most.into();
    }
    assert_eq!(after, before);
    if before["max_tokens"] != 0 {
        let same = continuation(body, text, 0).unwrap();
        let (head, tail) = common(body, &same);
        assert!(head + tail >= body.len(), "a byte moved");
    }
    true
}

fn an_answer(source: &mut Source<'_>) -> &'static str {
    let mut out = String::new();
    object(source, &ERROR_KEYS, 5, &mut out);
    let mut bytes = out.into_bytes();
    for _ in 0..source.below(3) {
        source.damage(&mut bytes);
    }
    let now = now(source);
    let is_json = serde_json::from_slice::<IgnoredAny>(&bytes).is_ok();
    let document = source.pick(&[Document::Message, Document::TokenCount, Document::Object]);
    let judged = judge_answer(document, &HeaderMap::new(), &bytes, now);
    assert!(is_json || !judged.verdict.is_ok());
    if let Some(usage) = Usage::from_body(&bytes) {
        assert!(is_json);
        let parts = usage.billed_by_model();
        assert!(!parts.is_empty());
        assert!(
            parts
                .iter()
                .all(|(_, part)| part.input <= usage.billed().input)
        );
        assert!(usage.prompt_total() >= usage.stated().input);
    }
    let status = source.pick(&[
        400_u16, 401, 403, 404, 413, 429, 500, 503, 529, 302, 100, 999,
    ]);
    let status = StatusCode::from_u16(status).unwrap();
    for judged in [
        judge(status, &HeaderMap::new(), &bytes, now),
        judge_stream_error(&String::from_utf8_lossy(&bytes), now),
    ] {
        assert!(!judged.verdict.is_ok());
        assert!(!judged.advice("a test").is_empty());
        assert_eq!(
            judged.verdict.not_before.filter(|wait| wait.as_secs() > 60),
            None
        );
    }
    // A whole body that is cut anywhere is no answer.
    if is_json && judged.verdict.is_ok() {
        let end = bytes.trim_ascii_end().len();
        let cut = &bytes[..source.below(end.max(1))];
        assert!(
            !judge_answer(document, &HeaderMap::new(), cut, now)
                .verdict
                .is_ok()
        );
    }
    match (judged.verdict.is_ok(), is_json) {
        (true, _) => "answer",
        (_, true) => "error",
        _ => "broken",
    }
}

fn names_and_images(source: &mut Source<'_>) {
    let name = String::from_utf8_lossy(source.raw(24)).into_owned();
    let name = format!(
        "{}{name}",
        source.pick(&["", "claude-", "us.anthropic.claude-opus-4-"])
    );
    let plain = plain_model(&name).into_owned();
    assert_eq!(plain, plain.to_ascii_lowercase());
    assert!(!quota_group(&name).contains(['@', ':', '[']));
    let side = |source: &mut Source<'_>| u32::try_from(source.word() & 0xFFFF_FFFF).unwrap();
    let (width, height) = (side(source), side(source));
    assert!(estimate::image(&name, width, height) <= 4_784 + 5);
}

#[test]
fn request_bodies() {
    let tally = Tally::new("request bodies");
    check!()
        .with_iterations(FEW)
        .with_generator(bytes_of(32..=192))
        .for_each(|input: &Vec<u8>| {
            tally.count(a_request(&mut Source::new(input)));
        });
    tally.saw(&["refused", "read", "continued"]);
}

#[test]
fn answer_bodies() {
    let tally = Tally::new("answer bodies");
    check!()
        .with_iterations(FEW)
        .with_generator(bytes_of(32..=192))
        .for_each(|input: &Vec<u8>| {
            let source = &mut Source::new(input);
            tally.count(an_answer(source));
            names_and_images(source);
        });
    tally.saw(&["answer", "error", "broken"]);
}
