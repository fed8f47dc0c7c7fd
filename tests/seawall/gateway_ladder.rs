//! The ladder and the cache as clients of the real gateway meet them, over real sockets.

mod cache;
mod provider;
mod races;
mod rungs;

use std::time::Duration;

use http::HeaderMap;
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::process::{BOUND, Gateway};
use crate::stream_faults::reading::{self, End};

/// Two models, then what is at hand. A call has two attempts, of which one is kept for the second.
const LADDER: &str = r#"
[targets.sonnet]
model = "claude-sonnet-5-5"
[targets.haiku]
model = "claude-haiku-5-5"
[routes.default]
ladder = ["sonnet", { rung = "haiku", on = ["overloaded", "attempts_spent", "breaker_open"] }, "cache", "static"]
retry = { attempts = 2, base = "1ms" }
wait = "1ms"
static = { text = "The assistant is away; it is back in {retry_after}." }
"#;

/// What a client got.
#[derive(Debug)]
struct Got {
    status: u16,
    headers: HeaderMap,
    bytes: Vec<u8>,
}

impl Got {
    fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    /// The model and the text of a valid answer, in whichever form it came.
    #[track_caller]
    fn message(&self) -> (String, String) {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.bytes));
        if self.header("content-type").starts_with("text/event-stream") {
            let message = reading::read(&self.bytes).unwrap();
            assert_eq!(message.end, End::Whole);
            assert_eq!(message.stop_reason.as_deref(), Some("end_turn"));
            return (message.model.clone(), message.text());
        }
        let message: Value = serde_json::from_slice(&self.bytes).unwrap();
        assert_eq!(message["type"], "message");
        assert_eq!(message["stop_reason"], "end_turn");
        let blocks = message["content"].as_array().unwrap().iter();
        let text = blocks.map(|block| block["text"].as_str().unwrap());
        let model = message["model"].as_str().unwrap_or_default();
        (model.to_owned(), text.collect())
    }
}

async fn send(post: RequestBuilder) -> Got {
    let answer = post.send().await.unwrap();
    Got {
        status: answer.status().as_u16(),
        headers: answer.headers().clone(),
        bytes: answer.bytes().await.unwrap().to_vec(),
    }
}

fn asking(question: &str, stream: bool) -> Value {
    json!({
        "model": "claude-sonnet-5-5", "max_tokens": 200, "stream": stream,
        "messages": [{ "role": "user", "content": question }],
    })
}

fn ask(gateway: &Gateway, body: &Value) -> RequestBuilder {
    gateway.post("/v1/messages").body(body.to_string())
}

/// Waits, bounded, until a state is there.
async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(BOUND, wait).await;
    waited.unwrap_or_else(|_| panic!("never {what}"));
}
