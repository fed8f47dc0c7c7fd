//! A provider whose success is none: no client gets it, and the rung below answers.

use serde_json::Value;

use crate::process::{Gateway, instant, request, sim};
use crate::served::{self, Scripted, answer};

const MESSAGES: &str = "/v1/messages";
const COUNT: &str = "/v1/messages/count_tokens";

fn json(body: &str) -> String {
    answer("200 OK", "content-type: application/json\r\n", body)
}

fn events(events: &[(&str, &str)]) -> String {
    let events = events
        .iter()
        .map(|(name, data)| format!("event: {name}\ndata: {data}\n\n"));
    let kind = "content-type: text/event-stream\r\n";
    answer("200 OK", kind, &events.collect::<String>())
}

const DELTA: &str = "content_block_delta";

const TYPED: &str =
    r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"hi"}}"#;

/// A stream of one word, which comes under this name.
fn stream(name: &str, word: &str) -> String {
    events(&[
        (
            "message_start",
            r#"{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","content":[],"usage":{"input_tokens":3,"output_tokens":1}}}"#,
        ),
        (
            "content_block_start",
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
        ),
        (name, word),
        (
            "content_block_stop",
            r#"{"type":"content_block_stop","index":0}"#,
        ),
        (
            "message_delta",
            r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":5}}"#,
        ),
        ("message_stop", r#"{"type":"message_stop"}"#),
    ])
}

/// What is asked for, and what comes.
fn lies() -> Vec<(&'static str, bool, String)> {
    let switch =
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n".to_owned();
    let mut lies = vec![
        (MESSAGES, true, served::message()),
        (MESSAGES, false, stream(DELTA, TYPED)),
        (MESSAGES, true, stream("ping", TYPED)),
        (COUNT, false, json(r#"{"input_tokens":"many"}"#)),
        (COUNT, false, served::message()),
        (COUNT, false, switch.clone()),
    ];
    for stream in [false, true] {
        lies.push((MESSAGES, stream, switch.clone()));
        for body in [
            r#"{"hello":"world"}"#,
            "[]",
            r#"{"type":"message"}"#,
            r#"{"input_tokens":5}"#,
        ] {
            lies.push((MESSAGES, stream, json(body)));
        }
    }
    lies
}

#[tokio::test]
async fn no_false_answer_is_handed_on_as_a_success() {
    let (honest, _) = sim(instant(Vec::new())).await;
    for (path, stream, lie) in lies() {
        let liar = Scripted::answering(lie.clone()).await;
        let config = format!(
            "[targets.liar]\nbase_url = \"http://{}\"\n[targets.honest]\nbase_url = \"http://{honest}\"\n\
             model = \"claude-haiku-5-5\"\n[routes.default]\nladder = [\"liar\", \"honest\"]\n\
             retry = {{ attempts = 3, base = \"1ms\" }}\n",
            liar.address
        );
        let gateway = Gateway::start(None, &config);
        let post = || gateway.post(path).body(request(stream));

        let fallen = post().send().await.unwrap();
        assert_eq!(fallen.status(), 200, "{lie}");
        assert_eq!(fallen.headers()["x-seawall-rung"], "honest", "{lie}");
        assert_eq!(
            fallen.headers()["x-seawall-cause"],
            "attempts_spent",
            "{lie}"
        );
        assert_eq!(fallen.headers()["x-seawall-attempts"], "3", "{lie}");
        let body = fallen.text().await.unwrap();
        let whole = match (path, stream) {
            (COUNT, _) => "\"input_tokens\"",
            (_, true) => "event: message_stop",
            (_, false) => "\"stop_reason\"",
        };
        assert!(body.contains(whole), "{body}");

        let failed = post().header("x-seawall-fallback", "never").send().await;
        let failed = failed.unwrap();
        assert_eq!(failed.status(), 502, "{lie}");
        let body: Value = serde_json::from_str(&failed.text().await.unwrap()).unwrap();
        assert_eq!(body["error"]["type"], "api_error", "{body}");
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains("malformed"), "{message}");
        assert_eq!(
            liar.arrived().len(),
            5,
            "two of the first call, three of the second: {lie}"
        );
    }
}

/// What is not known is not judged.
#[tokio::test]
async fn answers_of_other_paths_and_other_peoples_messages_pass() {
    let lean = r#"{"type":"message","content":[{"type":"new","x":1}],"more":null}"#;
    for (path, stream, says) in [
        (MESSAGES, false, json(lean)),
        (
            MESSAGES,
            true,
            stream(
                DELTA,
                &TYPED.replace(r#""type":"content_block_delta","#, ""),
            ),
        ),
        (COUNT, false, json(r#"{"input_tokens":0,"new":[]}"#)),
        ("/v1/complete", false, json(r#"{"hello":"world"}"#)),
        ("/v1/complete", false, json("[]")),
        (
            "/v1/complete",
            true,
            events(&[("completion", r#"{"type":"other","completion":"hi"}"#)]),
        ),
    ] {
        let provider = Scripted::answering(says.clone()).await;
        let gateway = Gateway::start(provider.address, "");
        let got = gateway
            .post(path)
            .body(request(stream))
            .send()
            .await
            .unwrap();
        assert_eq!(got.status(), 200, "{says}");
        let (_, body) = says.split_once("\r\n\r\n").unwrap();
        assert_eq!(got.text().await.unwrap(), body);
    }
}
