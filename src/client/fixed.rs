//! The static rung: the route's fixed answer, as a valid message or stream, marked as such.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::json;

use super::ask::Endpoint;
use super::attempt::{Answer, AnswerBody, StoodIn};
use super::exchange::Exchange;

/// The fixed answer in the form that was asked for.
pub(super) fn answer(exchange: &Exchange, text: &str) -> Answer {
    let id = format!("msg_seawall_{}", exchange.call.replace('-', ""));
    let model = exchange.model.as_deref().unwrap_or("static");
    let usage = json!({ "input_tokens": 0, "output_tokens": 0 });
    let message = |content: serde_json::Value, stop: serde_json::Value| {
        json!({
            "id": id, "type": "message", "role": "assistant", "model": model,
            "content": content, "stop_reason": stop, "stop_sequence": null, "usage": usage,
        })
    };
    let (kind, body) = if exchange.streams && exchange.endpoint == Endpoint::Messages {
        let events = [
            json!({ "type": "message_start", "message": message(json!([]), json!(null)) }),
            json!({
                "type": "content_block_start", "index": 0,
                "content_block": { "type": "text", "text": "" },
            }),
            json!({
                "type": "content_block_delta", "index": 0,
                "delta": { "type": "text_delta", "text": text },
            }),
            json!({ "type": "content_block_stop", "index": 0 }),
            json!({
                "type": "message_delta",
                "delta": { "stop_reason": "end_turn", "stop_sequence": null },
                "usage": { "output_tokens": 0 },
            }),
            json!({ "type": "message_stop" }),
        ];
        let stream = events.iter().fold(String::new(), |stream, event| {
            let name = event
                .get("type")
                .and_then(|name| name.as_str())
                .unwrap_or_default();
            format!("{stream}event: {name}\ndata: {event}\n\n")
        });
        ("text/event-stream; charset=utf-8", stream)
    } else {
        let content = json!([{ "type": "text", "text": text }]);
        (
            "application/json",
            message(content, json!("end_turn")).to_string(),
        )
    };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    let body = AnswerBody::Whole(Bytes::from(body));
    Answer {
        status: StatusCode::OK,
        headers,
        body,
        stood_in: Some(StoodIn::Static),
    }
}
