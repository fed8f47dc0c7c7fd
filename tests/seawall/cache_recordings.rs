//! Every recorded answer goes into the cache and comes back the same, in either form.

use bytes::Bytes;
use http::StatusCode;
use jiff::Timestamp;
use seawall::cache::{Entry, Fingerprint, KeyParts, Recording, Scope, Unfit};
use seawall::message::{Assembler, Message};
use seawall::provider::anthropic::stream::{End, Seen, StreamWatch};
use seawall::transport::sse::SseDecoder;
use serde_json::Value;

use crate::recordings_offline::{Exchange, exchanges};

const LARGEST: usize = 1 << 20;

/// The message that a stream brings, where it is valid and whole.
fn read(events: &[u8], file: &str) -> Message {
    let (mut assembler, mut watch) = (Assembler::new(), StreamWatch::new());
    SseDecoder::new()
        .push(events, |frame| {
            let seen = watch.see(frame, Timestamp::UNIX_EPOCH);
            assert!(!matches!(seen, Seen::Malformed(_)), "{file}: {frame:?}");
            assembler.push(frame.data);
        })
        .expect("small frames");
    assert_eq!(watch.end(), End::Complete, "{file}");
    assembler.into_message()
}

fn record(exchange: &Exchange) -> Result<Entry, Unfit> {
    let mut recording = Recording::new(exchange.status, &exchange.headers, LARGEST);
    for chunk in exchange.body.as_bytes().chunks(1_000) {
        recording.hear(&Bytes::copy_from_slice(chunk));
    }
    recording.finish(exchange.at)
}

fn may_be_kept(message: &Message) -> bool {
    let reason = message.stop_reason.as_deref();
    reason.is_some_and(|reason| !matches!(reason, "refusal" | "pause_turn" | "compaction"))
}

/// What a call of a tool says is not JSON where the bound on tokens cut it.
fn is_cut_call(exchange: &Exchange, message: &Message) -> bool {
    message.stop_reason.as_deref() == Some("max_tokens")
        && exchange.body.contains("input_json_delta")
}

#[test]
fn every_recorded_stream_comes_back_as_it_was_in_either_form() {
    let (mut kept, mut left) = (0, 0);
    for e in exchanges().iter().filter(|e| e.kind == "streams") {
        let original = read(e.body.as_bytes(), &e.file);
        let entry = match record(e) {
            Ok(entry) => entry,
            Err(why) => {
                assert!(
                    !may_be_kept(&original) || is_cut_call(e, &original),
                    "{}: {why}",
                    e.file
                );
                left += 1;
                continue;
            }
        };
        assert!(may_be_kept(&original), "{}", e.file);
        kept += 1;
        let whole = entry.replay(false).unwrap().body;
        assert_eq!(
            Message::from_body(&whole).as_ref(),
            Some(&original),
            "{}",
            e.file
        );
        let events = entry.replay(true).unwrap().body;
        assert_eq!(read(&events, &e.file), original, "{}", e.file);
        // Once more round, nothing changes any more.
        let headers = &e.headers;
        let again = Entry::of_events(StatusCode::OK, headers, [&*events], (e.at, LARGEST));
        assert_eq!(again.as_ref(), Ok(&entry), "{}", e.file);
        assert_eq!(entry.tokens(), original.billed(), "{}", e.file);
    }
    assert!(kept > 0);
    println!("{kept} recorded streams kept, {left} not");
}

#[test]
fn every_recorded_body_comes_back_byte_for_byte_and_as_a_stream() {
    let (mut kept, mut left) = (0, 0);
    for e in exchanges() {
        if e.kind == "streams" {
            continue;
        }
        let body = e.body.as_bytes();
        let entry = Entry::of_body(e.status, &e.headers, body, (e.at, LARGEST));
        let message = Message::from_body(body).filter(|_| e.kind == "messages");
        let Ok(entry) = entry else {
            let fit = message.is_some_and(|m| e.status == StatusCode::OK && may_be_kept(&m));
            assert!(!fit, "{}: {entry:?}", e.file);
            left += 1;
            continue;
        };
        kept += 1;
        assert_eq!(entry.replay(false).unwrap().body, body, "{}", e.file);
        let message = message.expect("a message");
        assert!(may_be_kept(&message), "{}", e.file);
        assert_eq!(
            read(&entry.replay(true).unwrap().body, &e.file),
            message,
            "{}",
            e.file
        );
        // The body too, member for member.
        let events = entry.replay(true).unwrap().body;
        let again = Entry::of_events(e.status, &e.headers, [&*events], (e.at, LARGEST));
        let value = |body: &[u8]| serde_json::from_slice::<Value>(body).expect("JSON");
        let again = again.expect("a whole stream");
        assert_eq!(value(again.body()), value(body), "{}", e.file);
    }
    println!("{kept} recorded bodies kept, {left} not");
}

#[test]
fn every_recorded_request_has_one_key_however_it_is_written() {
    let mut requests = 0;
    for e in exchanges() {
        let Some(body) = e.request.clone() else {
            continue;
        };
        let Ok(value @ Value::Object(_)) = serde_json::from_slice::<Value>(&body) else {
            continue;
        };
        requests += 1;
        let headers = http::HeaderMap::new();
        let key = |body: &[u8]| {
            let parts = KeyParts {
                scope: Scope::Shared,
                route: "default",
                model: None,
                query: None,
                headers: &headers,
                body,
            };
            Fingerprint::of(&parts).map(|found| found.key)
        };
        let own = key(&body);
        assert!(own.is_some(), "{}", e.file);
        // Sorted and with other white space; the recorded numbers are written as serde_json does.
        let pretty = serde_json::to_string_pretty(&value).expect("JSON");
        assert_eq!(key(pretty.as_bytes()), own, "{}", e.file);
        let mut other = value;
        other["max_tokens"] = 123_456.into();
        assert_ne!(key(other.to_string().as_bytes()), own, "{}", e.file);
        other["stream"] = Value::Bool(true);
        let streamed = key(other.to_string().as_bytes());
        other["stream"] = Value::Bool(false);
        assert_eq!(key(other.to_string().as_bytes()), streamed, "{}", e.file);
    }
    assert!(requests > 0);
}
