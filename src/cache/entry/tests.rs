use serde_json::{Value, json};

use super::*;

const NOW: (Timestamp, usize) = (Timestamp::UNIX_EPOCH, 4096);

fn body(stop_reason: &Value) -> String {
    json!({ "type": "message", "id": "msg_1", "role": "assistant", "model": "claude-x",
        "content": [{ "type": "text", "text": "Hello" }], "stop_reason": stop_reason,
        "usage": { "input_tokens": 7, "output_tokens": 2 } })
    .to_string()
}

fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("content-type", "application/json"),
        ("request-id", "req_1"),
        ("anthropic-organization-id", "org"),
        ("anthropic-ratelimit-requests-remaining", "3"),
        ("set-cookie", "c=1"),
    ] {
        headers.insert(name, value.parse().unwrap());
    }
    headers
}

fn stream(end: &str) -> String {
    let mut events = String::new();
    for data in [
        json!({ "type": "message_start", "message": { "type": "message", "id": "msg_1",
            "role": "assistant", "model": "claude-x", "content": [], "stop_reason": null,
            "usage": { "input_tokens": 7, "output_tokens": 1 } } }),
        json!({ "type": "ping" }),
        json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } }),
        json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": "Hel" } }),
        json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": "lo" } }),
        json!({ "type": "content_block_stop", "index": 0 }),
        json!({ "type": "message_delta", "delta": { "stop_reason": end },
            "usage": { "input_tokens": null, "output_tokens": 2 } }),
        json!({ "type": "message_stop" }),
    ] {
        let name = data["type"].as_str().unwrap();
        events.push_str(&format!("event: {name}\ndata: {data}\n\n"));
    }
    events
}

#[test]
fn a_whole_answer_comes_back_byte_for_byte_with_few_headers() {
    let body = format!(" {}\n", body(&json!("end_turn")));
    let entry = Entry::of_body(StatusCode::OK, &headers(), body.as_bytes(), NOW).unwrap();
    let replay = entry.replay(false).unwrap();
    assert_eq!(replay.body, body);
    assert_eq!(replay.headers.len(), 2);
    assert_eq!(replay.headers["request-id"], "req_1");
    assert_eq!((entry.tokens().input, entry.tokens().output), (7, 2));
    assert_eq!(entry.model().map(|model| &**model), Some("claude-x"));
    let streamed = entry.replay(true).unwrap();
    assert!(
        streamed.headers["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/event-stream")
    );
    assert!(streamed.body.starts_with(b"event: message_start\n"));
    assert!(
        streamed
            .body
            .ends_with(b"data: {\"type\":\"message_stop\"}\n\n")
    );
}

#[test]
fn a_stream_is_kept_as_the_body_that_it_would_have_been() {
    let events = stream("end_turn");
    let mut recording = Recording::new(StatusCode::OK, &headers(), 4096);
    for chunk in events.as_bytes().chunks(7) {
        recording.hear(&Bytes::copy_from_slice(chunk));
    }
    let entry = recording.finish(Timestamp::UNIX_EPOCH).unwrap();
    let read: Value = serde_json::from_slice(entry.body()).unwrap();
    let expected: Value = serde_json::from_str(&body(&json!("end_turn"))).unwrap();
    assert_eq!(read, expected);
    assert_eq!(
        entry.replay(false).unwrap().headers["content-type"],
        "application/json"
    );
    let again = entry.replay(true).unwrap();
    let twin = Entry::of_events(StatusCode::OK, &headers(), [&*again.body], NOW).unwrap();
    assert_eq!(twin, entry);
}

#[test]
fn what_is_not_whole_or_no_end_is_not_kept() {
    let whole =
        |status, body: &str| Entry::of_body(status, &headers(), body.as_bytes(), NOW).map(drop);
    assert_eq!(whole(StatusCode::OK, &body(&json!("max_tokens"))), Ok(()));
    let big = body(&json!("end_turn")).replace("Hello", &"x".repeat(4096));
    for (status, body, why) in [
        (StatusCode::CREATED, body(&json!("end_turn")), Unfit::Status),
        (StatusCode::OK, body(&Value::Null), Unfit::Incomplete),
        (StatusCode::OK, body(&json!("refusal")), Unfit::StopReason),
        (
            StatusCode::OK,
            body(&json!("pause_turn")),
            Unfit::StopReason,
        ),
        (StatusCode::OK, big, Unfit::TooLarge),
        (StatusCode::OK, "{}".to_owned(), Unfit::Unreadable),
        (StatusCode::OK, "\u{1f}\u{8b}".to_owned(), Unfit::Unreadable),
        (
            StatusCode::OK,
            json!({ "type": "error", "error": { "type": "overloaded_error" } }).to_string(),
            Unfit::Unreadable,
        ),
    ] {
        assert_eq!(whole(status, &body), Err(why), "{body}");
    }
}

#[test]
fn a_stream_that_broke_off_is_not_kept() {
    let whole = stream("end_turn");
    let kept = |events: &str, largest| {
        let mut recording = Recording::new(StatusCode::OK, &headers(), largest);
        recording.hear(&Bytes::from(events.to_owned()));
        recording.finish(Timestamp::UNIX_EPOCH).map(drop)
    };
    assert_eq!(kept(&whole, 4096), Ok(()));
    assert_eq!(kept(&stream("refusal"), 4096), Err(Unfit::StopReason));
    assert_eq!(kept(&whole, 100), Err(Unfit::TooLarge));
    assert_eq!(kept(&whole, 10), Err(Unfit::TooLarge));
    let error = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"\"}}\n\n";
    let ends: Vec<usize> = whole.match_indices("\n\n").map(|(at, _)| at + 2).collect();
    for end in &ends[..ends.len() - 1] {
        assert_eq!(kept(&whole[..*end], 4096), Err(Unfit::Incomplete));
        let failed = format!("{}{error}", &whole[..*end]);
        assert_eq!(kept(&failed, 4096), Err(Unfit::Incomplete));
    }
    let progress = "\"text\":\"lo\",\"estimated_tokens\":50";
    assert_eq!(
        kept(&whole.replace("\"text\":\"lo\"", progress), 4096),
        Ok(())
    );
    let odd = whole.replace(
        "\"text\":\"lo\",\"type\":\"text_delta\"",
        "\"type\":\"shades_delta\",\"shades\":[1]",
    );
    assert_ne!(odd, whole);
    assert_eq!(kept(&odd, 4096), Err(Unfit::Unreadable));
}

#[test]
fn a_call_of_a_tool_that_was_cut_is_not_kept() {
    let events = stream("max_tokens")
        .replace(
            "{\"text\":\"\",\"type\":\"text\"}",
            "{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"f\",\"input\":{}}",
        )
        .replace(
            "\"text\":\"Hel\",\"type\":\"text_delta\"",
            "\"type\":\"input_json_delta\",\"partial_json\":\"{\"",
        )
        .replace(
            "\"text\":\"lo\",\"type\":\"text_delta\"",
            "\"type\":\"input_json_delta\",\"partial_json\":\"\\\"a\"",
        );
    assert_eq!(events.matches("input_json_delta").count(), 2);
    let kept = Entry::of_events(StatusCode::OK, &headers(), [events.as_bytes()], NOW);
    assert_eq!(kept, Err(Unfit::Unreadable));
}
