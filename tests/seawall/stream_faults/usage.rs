//! What a call is billed, however it ends: from the gateway's log line of the call and its metrics.

use seawall::sim::{Fault, FaultKind, Settings};
use serde_json::{Value, json};

use super::case::{Shape, clean_events, settings};
use super::reading::{End, Message, read};
use super::until;
use crate::leaving::metric;
use crate::process::{Gateway, sim};
use crate::served::Scripted;

const CONFIG: &str = "[gateway]\nlog_format = \"json\"\n[routes.default]\nladder = [\"up\"]\n\
    retry = { base = \"5ms\", cap = \"20ms\" }\n[targets.up]\n";

/// Events that arrive before something goes wrong.
const BEFORE: u32 = 15;

struct Billed {
    message: Message,
    line: Value,
}

impl Billed {
    fn tokens(&self) -> (u64, u64) {
        let count = |name: &str| self.line[name].as_u64().unwrap();
        (count("input_tokens"), count("output_tokens"))
    }

    /// What the answer itself states at its end.
    fn stated(&self) -> (u64, u64) {
        let count = |name: &str| self.message.usage[name].as_u64().unwrap();
        (count("input_tokens"), count("output_tokens"))
    }

    fn word(&self, name: &str) -> &Value {
        &self.line[name]
    }
}

/// One call, and its only line in the log.
async fn ask(gateway: &Gateway, model: &str, how: &str) -> Billed {
    let answer = gateway
        .post("/v1/messages")
        .header("x-seawall-delivery", how)
        .body(Shape::Text.body(model).to_string())
        .send()
        .await
        .unwrap();
    let call = answer.headers()["x-seawall-call"]
        .to_str()
        .unwrap()
        .to_owned();
    let message = read(&answer.bytes().await.unwrap()).unwrap();
    gateway.idle().await;
    let lines = || {
        let log = gateway.log();
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let of_call =
            lines.filter(|line| line["target"] == "seawall::call" && line["call"] == *call);
        of_call.collect::<Vec<_>>()
    };
    until("the call's line", || !lines().is_empty()).await;
    let lines = lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    Billed {
        message,
        line: lines[0].clone(),
    }
}

/// Tokens of the text that arrives before something goes wrong, at four bytes each.
async fn floor() -> u64 {
    let events = clean_events(Shape::Text).await;
    let before = usize::try_from(BEFORE).unwrap();
    let part = read((events[..before].join("\n\n") + "\n\n").as_bytes()).unwrap();
    u64::try_from(part.text().len()).unwrap() / 4
}

#[tokio::test]
async fn every_ending_is_billed_for_what_it_used() {
    let cut = |model: &str| Fault {
        after_events: Some(BEFORE),
        ..Fault::new(FaultKind::CutStream).on_model(model)
    };
    let faults = vec![
        cut("claude-haiku-4-cut"),
        cut("claude-haiku-4-retried").on_attempts(1, 1),
        cut("claude-haiku-4-resumed"),
        Fault::new(FaultKind::MissingStop).on_model("claude-haiku-4-unended"),
        Fault::new(FaultKind::Overloaded)
            .on_model("claude-haiku-4-refused")
            .on_attempts(1, 2),
    ];
    let (address, provider) = sim(Settings {
        instant: true,
        ..settings(1, faults)
    })
    .await;
    let gateway = Gateway::start(address, CONFIG);
    let floor = floor().await;

    let whole = ask(&gateway, "claude-haiku-4-whole", "as_it_comes").await;
    assert_eq!(whole.message.end, End::Whole);
    assert_eq!(
        (whole.tokens(), whole.word("usage_estimated")),
        (whole.stated(), &json!(false))
    );
    assert_eq!(whole.word("verdict"), "ok");
    let (input, _) = whole.stated();

    let dead = ask(&gateway, "claude-haiku-4-cut", "as_it_comes").await;
    assert_eq!(dead.message.reason(), Some("truncated"));
    assert_eq!(
        (dead.tokens(), dead.word("usage_estimated")),
        ((input, floor), &json!(true))
    );
    assert_eq!(dead.word("verdict"), "truncated");

    let retried = ask(&gateway, "claude-haiku-4-retried", "complete").await;
    let (_, output) = retried.stated();
    assert_eq!(retried.tokens(), (2 * input, floor + output));
    assert_eq!(
        (retried.word("attempts"), retried.word("usage_estimated")),
        (&json!(2), &json!(true))
    );

    let refused = ask(&gateway, "claude-haiku-4-refused", "complete").await;
    assert_eq!(
        (refused.tokens(), refused.word("attempts")),
        (refused.stated(), &json!(3))
    );
    assert_eq!(refused.word("usage_estimated"), &json!(false));

    // Every sum was there, only the end was not.
    let unended = ask(&gateway, "claude-haiku-4-unended", "as_it_comes").await;
    assert_eq!(unended.message.reason(), Some("truncated"));
    assert_eq!(
        (unended.tokens(), unended.word("usage_estimated")),
        (unended.stated(), &json!(false))
    );

    // Five parts, each cut, and each but the first asked for with what came before it.
    let resumed = ask(&gateway, "claude-haiku-4-resumed", "resume").await;
    assert_eq!(resumed.message.reason(), Some("truncated"));
    let (read, written) = resumed.tokens();
    assert_eq!((resumed.word("attempts"), written), (&json!(5), 5 * floor));
    assert_eq!(
        read,
        provider.stats().models["claude-haiku-4-resumed"].input_tokens
    );
}

/// A stream of another make: nulls in its sum, and passes of two models behind it.
const PASSES: &str = r#"event: message_start
data: {"type":"message_start","message":{"id":"msg_1","model":"claude-opus-4-6","usage":{"input_tokens":9,"cache_read_input_tokens":7,"output_tokens":1}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":USAGE}

event: message_stop
data: {"type":"message_stop"}

"#;

async fn billed(usage: &str) -> String {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    let provider = Scripted::answering(format!("{head}{}", PASSES.replace("USAGE", usage))).await;
    let gateway = Gateway::start(provider.address, CONFIG);
    let whole = ask(&gateway, "claude-opus-4-6", "as_it_comes").await;
    assert_eq!(whole.message.end, End::Whole);
    gateway.get("/_seawall/metrics").await
}

fn tokens(metrics: &str, model: &str, kind: &str) -> u64 {
    let (model, kind) = (format!("model=\"{model}\""), format!("kind=\"{kind}\""));
    let name = "seawall_tokens_total";
    metric(metrics, name, &[&model, &kind, "usage=\"stated\""])
}

#[tokio::test]
async fn a_sum_that_leaves_a_count_out_does_not_erase_it() {
    let nulls = r#"{"input_tokens":null,"cache_read_input_tokens":null,"output_tokens":5}"#;
    let metrics = billed(nulls).await;
    let of = |kind| tokens(&metrics, "claude-opus-4-6", kind);
    assert_eq!((of("input"), of("cache_read"), of("output")), (9, 7, 5));
}

#[tokio::test]
async fn passes_behind_an_answer_are_billed_to_the_models_that_made_them() {
    let passes = r#"{"output_tokens":5,"iterations":[
        {"type":"message","model":"claude-haiku-4-5","input_tokens":100,"output_tokens":20},
        {"type":"message","input_tokens":9,"output_tokens":5}]}"#;
    let metrics = billed(&passes.replace('\n', "")).await;
    let of = |model| {
        (
            tokens(&metrics, model, "input"),
            tokens(&metrics, model, "output"),
        )
    };
    assert_eq!(of("claude-haiku-4-5"), (100, 20));
    assert_eq!(of("claude-opus-4-6"), (9, 5));
}
