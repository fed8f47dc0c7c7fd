//! The static rung: the route's fixed answer, as a valid message or stream, marked as such.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use seawall_actors::caller::Occasion;
use serde_json::{Value, json};

use super::attempt::{Answer, AnswerBody, StoodIn};
use super::exchange::Exchange;
use crate::config::{Template, Variables};

/// The answer names what it came from, and no model that never saw the request.
const MODEL: &str = "static";

/// The fixed answer in the form that was asked for.
pub(super) fn answer(exchange: &Exchange, template: &Template, occasion: Occasion) -> Answer {
    let text = template.render(&Variables {
        retry_after: occasion.retry_after,
        route: &exchange.route,
        model: exchange.model.as_deref(),
        call: &exchange.call,
        reason: occasion.cause,
    });
    let id = format!("msg_seawall_{}", exchange.call.replace('-', ""));
    let (kind, body) = if exchange.streams {
        ("text/event-stream; charset=utf-8", stream(&id, &text))
    } else {
        ("application/json", message(&id, &text).to_string())
    };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    Answer {
        status: StatusCode::OK,
        headers,
        body: AnswerBody::Whole(Bytes::from(body)),
        stood_in: Some(StoodIn::Static),
    }
}

fn message(id: &str, text: &str) -> Value {
    let content = json!([{ "type": "text", "text": text }]);
    envelope(id, content, json!("end_turn"))
}

fn envelope(id: &str, content: Value, stop_reason: Value) -> Value {
    json!({
        "id": id, "type": "message", "role": "assistant", "model": MODEL,
        "content": content, "stop_reason": stop_reason, "stop_sequence": null,
        "usage": {
            "input_tokens": 0, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
            "output_tokens": 0,
        },
    })
}

fn stream(id: &str, text: &str) -> String {
    let events = [
        json!({ "type": "message_start", "message": envelope(id, json!([]), json!(null)) }),
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
    events.iter().fold(String::new(), |stream, event| {
        let name = event.get("type").and_then(Value::as_str);
        format!(
            "{stream}event: {}\ndata: {event}\n\n",
            name.unwrap_or_default()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Assembler, Message};
    use crate::provider::anthropic::stream::{End, StreamWatch};
    use crate::transport::sse::SseDecoder;

    const TEXT: &str = "Down \"for\" now\n\u{2028}é, back in 30 seconds";

    #[test]
    fn the_message_is_whole_free_and_no_models() {
        let body = message("msg_seawall_1", TEXT).to_string();
        let read = Message::from_body(body.as_bytes()).expect("a message");
        assert_eq!(read.text(), TEXT);
        assert_eq!(read.model.as_deref(), Some("static"));
        assert_eq!(read.stop_reason.as_deref(), Some("end_turn"));
        assert_eq!(read.billed(), Message::default().billed());
    }

    #[test]
    fn the_stream_is_complete_and_says_the_same_as_the_message() {
        let body = stream("msg_seawall_1", TEXT);
        let (mut watch, mut assembler) = (StreamWatch::new(), Assembler::new());
        let now = jiff::Timestamp::UNIX_EPOCH;
        SseDecoder::new()
            .push(body.as_bytes(), |frame| {
                assembler.push(frame.data);
                let _seen = watch.see(frame, now);
            })
            .expect("small frames");
        assert_eq!(watch.end(), End::Complete);
        assert!(watch.is_final() && assembler.is_whole());
        let whole = Message::from_body(message("msg_seawall_1", TEXT).to_string().as_bytes());
        assert_eq!(Some(assembler.into_message()), whole);
    }
}
