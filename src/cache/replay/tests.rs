use serde_json::{Value, json};

use super::*;
use crate::message::Assembler;
use crate::provider::anthropic::stream::{End, Seen, StreamWatch};
use crate::transport::sse::SseDecoder;

fn message() -> Value {
    json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x",
        "content": [
            { "type": "thinking", "thinking": "Hm\n\"so\"", "signature": "c2ln" },
            { "type": "redacted_thinking", "data": "AAAA" },
            { "type": "text", "text": "Zwölf: 漢字 \u{1F600}\n", "citations": [
                { "type": "char_location", "cited_text": "a", "document_index": 0 },
                { "type": "char_location", "cited_text": "b", "document_index": 1 } ] },
            { "type": "text", "text": "", "citations": null },
            { "type": "tool_use", "id": "toolu_1", "name": "f", "input": { "a": [1, "\n"], "b": {} } },
            { "type": "tool_use", "id": "toolu_2", "name": "g", "input": {} },
            { "type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": { "query": "x" } },
            { "type": "web_search_tool_result", "tool_use_id": "srv_1", "content": [{ "type": "web_search_result", "text": "t" }] },
            { "type": "a_block_of_tomorrow", "text": "whole", "input": 7, "nested": { "thinking": "x" } },
        ],
        "stop_reason": "tool_use", "stop_sequence": null,
        "container": { "id": "c", "expires_at": "2026-01-01T00:00:00Z" },
        "context_management": { "applied_edits": [] },
        "a_member_of_tomorrow": [1, 2],
        "usage": { "input_tokens": 7, "output_tokens": 9, "cache_read_input_tokens": 3,
            "output_tokens_details": { "thinking_tokens": 2 }, "service_tier": "standard" },
    })
}

fn frames(events: &[u8]) -> Vec<(String, Value)> {
    let mut frames = Vec::new();
    let mut watch = StreamWatch::new();
    let mut decoder = SseDecoder::new();
    decoder
        .push(events, |frame| {
            let seen = watch.see(frame, jiff::Timestamp::UNIX_EPOCH);
            assert!(
                !matches!(seen, Seen::Malformed(_) | Seen::Error),
                "{frame:?}"
            );
            let data: Value = serde_json::from_str(frame.data).expect("JSON");
            assert_eq!(data["type"], frame.event);
            frames.push((frame.event.to_owned(), data));
        })
        .expect("small frames");
    assert!(!decoder.mid_frame());
    assert_eq!(watch.end(), End::Complete);
    frames
}

fn body_of(frames: &[(String, Value)]) -> Value {
    let mut assembler = Assembler::new();
    for (_, data) in frames {
        assembler.push(&data.to_string());
    }
    serde_json::from_slice(&assembler.into_body().expect("a whole message")).expect("JSON")
}

#[test]
fn a_stream_that_is_replayed_says_what_the_body_says() {
    let message = message();
    for body in [
        message.to_string(),
        serde_json::to_string_pretty(&message).unwrap(),
        serde_json::to_string_pretty(&message)
            .unwrap()
            .replace('\n', "\r\n"),
    ] {
        let frames = frames(&events(body.as_bytes()).expect("a message"));
        assert_eq!(body_of(&frames), message);
    }
}

#[test]
fn what_comes_in_deltas_starts_empty_and_all_else_is_whole_in_its_start() {
    let frames = frames(&events(message().to_string().as_bytes()).unwrap());
    let start = &frames[0].1["message"];
    assert_eq!(
        (&start["content"], &start["stop_reason"]),
        (&json!([]), &Value::Null)
    );
    assert_eq!(
        start["usage"],
        json!({ "input_tokens": 7, "output_tokens": 0,
        "cache_read_input_tokens": 3, "service_tier": "standard" })
    );
    let starts: Vec<&Value> = frames
        .iter()
        .filter(|(name, _)| name == "content_block_start")
        .map(|(_, data)| &data["content_block"])
        .collect();
    assert_eq!(
        starts[0],
        &json!({ "type": "thinking", "thinking": "", "signature": "" })
    );
    assert_eq!(
        starts[2],
        &json!({ "type": "text", "text": "", "citations": [] })
    );
    assert_eq!(
        starts[3],
        &json!({ "type": "text", "text": "", "citations": null })
    );
    assert_eq!(starts[4]["input"], json!({}));
    assert_eq!(starts[8], &message()["content"][8]);
    let deltas: Vec<&str> = frames
        .iter()
        .filter_map(|(_, data)| data["delta"]["type"].as_str())
        .collect();
    assert_eq!(
        deltas,
        [
            "thinking_delta",
            "signature_delta",
            "text_delta",
            "citations_delta",
            "citations_delta",
            "input_json_delta",
            "input_json_delta",
            "input_json_delta",
        ]
    );
    let (last, end) = (&frames[frames.len() - 2].1, &frames[frames.len() - 1].0);
    assert_eq!(end, "message_stop");
    assert_eq!(last["delta"]["stop_reason"], "tool_use");
    assert_eq!(last["usage"], message()["usage"]);
    assert_eq!(last["context_management"], message()["context_management"]);
}

#[test]
fn what_is_no_message_is_not_replayed() {
    for body in [
        "",
        "[]",
        "{}",
        r#"{"content":7}"#,
        r#"{"content":[7]}"#,
        r#"{"content":[],"usage":7}"#,
        r#"{"content":[{"type":"text","citations":[}]}"#,
    ] {
        assert_eq!(events(body.as_bytes()), None, "{body}");
    }
}
