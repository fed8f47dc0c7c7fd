//! Every fault that spoils an answer, in memory and over a socket: what exactly arrives.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Method};
use seawall::sim::{Chunking, Fault, FaultKind, Settings, Sim, http as sim_http};
use seawall::transport::http::HttpTransport;
use seawall::transport::{Broken, Request, Response, Transport};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// Longest wait for a state.
const BOUND: Duration = Duration::from_secs(20);

/// A provider and a way to it.
struct Provider {
    sim: Arc<Sim>,
    transport: Box<dyn Transport>,
    base: String,
}

impl Provider {
    /// In memory, or over a socket.
    async fn start(settings: Settings, socket: bool) -> Self {
        let settings = Settings {
            instant: true,
            ..settings
        };
        let sim = Sim::new(settings).unwrap();
        if !socket {
            return Self {
                transport: Box::new(sim.transport()),
                base: "http://sim".to_owned(),
                sim,
            };
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let served = sim_http::serve(listener, Arc::clone(&sim), std::future::pending());
        #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        drop(tokio::spawn(served));
        Self {
            sim,
            transport: Box::new(HttpTransport::new(BOUND).unwrap()),
            base,
        }
    }

    async fn with(fault: Fault, socket: bool) -> Self {
        let settings = Settings {
            faults: vec![fault],
            ..Settings::default()
        };
        Self::start(settings, socket).await
    }

    async fn open(&self, body: Value) -> Response {
        let mut headers = HeaderMap::new();
        headers.insert("x-api-key", HeaderValue::from_static("sk-ant-sim"));
        headers.insert("anthropic-version", HeaderValue::from_static("2023-06-01"));
        let request = Request {
            method: Method::POST,
            uri: format!("{}/v1/messages", self.base).parse().unwrap(),
            headers,
            body: Bytes::from(body.to_string()),
        };
        self.transport.send(request).await.unwrap()
    }

    /// An answer to its end, and how it ended.
    async fn ask(&self, body: Value) -> (Vec<Bytes>, Option<Broken>) {
        let mut answer = self.open(body).await;
        assert_eq!(answer.status, 200);
        let mut chunks = Vec::new();
        while let Some(chunk) = answer.body.next().await {
            match chunk {
                Ok(chunk) => chunks.push(chunk),
                Err(error) => return (chunks, Some(error.kind)),
            }
        }
        (chunks, None)
    }

    async fn text(&self, body: Value) -> (String, Option<Broken>) {
        let (chunks, broken) = self.ask(body).await;
        (String::from_utf8(chunks.concat()).unwrap(), broken)
    }

    async fn until_left(&self, times: u64) {
        let left = async {
            while self.sim.stats().aborted < times || self.sim.stats().in_flight > 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(BOUND, left).await.unwrap();
    }
}

fn asking(stream: bool) -> Value {
    json!({
        "model": "claude-sonnet-5", "max_tokens": 256, "stream": stream,
        "messages": [{ "role": "user", "content": "hello" }],
    })
}

/// The data of each complete frame; none where it is no JSON.
fn events(text: &str) -> Vec<Option<Value>> {
    let frames = text.split_terminator("\n\n").map(|frame| {
        let (_, data) = frame.split_once("data: ").unwrap();
        serde_json::from_str(data).ok()
    });
    frames.collect()
}

fn last_type(events: &[Option<Value>]) -> &str {
    events.last().unwrap().as_ref().unwrap()["type"]
        .as_str()
        .unwrap()
}

fn after(kind: FaultKind, events: u32) -> Fault {
    Fault {
        after_events: Some(events),
        ..Fault::new(kind)
    }
}

async fn malformed_events(socket: bool) {
    for at in [0, 1, 5, u32::MAX] {
        let provider = Provider::with(after(FaultKind::MalformedEvent, at), socket).await;
        let (text, broken) = provider.text(asking(true)).await;
        let events = events(&text);
        let wrong: Vec<usize> = (0..events.len()).filter(|n| events[*n].is_none()).collect();
        let wanted = usize::try_from(at).unwrap().min(events.len() - 1);
        assert_eq!((wrong, broken), (vec![wanted], None));
        if at != u32::MAX {
            assert_eq!(last_type(&events), "message_stop");
        }
    }
    let provider = Provider::with(Fault::new(FaultKind::MalformedEvent), socket).await;
    let (text, broken) = provider.text(asking(false)).await;
    assert!(text.starts_with('{') && text.ends_with('}') && broken.is_none());
    assert!(serde_json::from_str::<Value>(&text).is_err());
}

async fn html_pages(socket: bool) {
    let provider = Provider::with(Fault::new(FaultKind::HtmlPage), socket).await;
    for stream in [false, true] {
        let answer = provider.open(asking(stream)).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.headers["content-type"], "text/html; charset=UTF-8");
        let (text, broken) = provider.text(asking(stream)).await;
        assert!(text.starts_with("<!DOCTYPE html>"), "{text}");
        assert_eq!(broken, None);
    }
    assert_eq!(provider.sim.stats().quotas[0].requests.unwrap().charged, 0);
}

async fn missing_stops(socket: bool) {
    let provider = Provider::with(Fault::new(FaultKind::MissingStop), socket).await;
    let (text, broken) = provider.text(asking(true)).await;
    assert_eq!((last_type(&events(&text)), broken), ("message_delta", None));
    let (text, broken) = provider.text(asking(false)).await;
    assert_eq!(broken, Some(Broken::InBody));
    assert!(serde_json::from_str::<Value>(&format!("{text}}}")).is_ok());
}

async fn cuts(socket: bool) {
    for at in [0, 2, 7] {
        let provider = Provider::with(after(FaultKind::CutStream, at), socket).await;
        let (text, broken) = provider.text(asking(true)).await;
        assert_eq!(events(&text).len(), usize::try_from(at).unwrap());
        assert_eq!(broken, None);
        let (text, broken) = provider.text(asking(false)).await;
        assert!(serde_json::from_str::<Value>(&text).is_err());
        assert_eq!(broken, Some(Broken::InBody));
    }
}

async fn pings_only(socket: bool) {
    let fault = Fault {
        ping_every: Some(Duration::from_millis(3)),
        ..after(FaultKind::PingOnly, 2)
    };
    let provider = Provider::with(fault, socket).await;
    let mut answer = provider.open(asking(true)).await;
    let mut text = String::new();
    while text.matches("\n\n").count() < 12 {
        let chunk = tokio::time::timeout(BOUND, answer.body.next()).await;
        text.push_str(std::str::from_utf8(&chunk.unwrap().unwrap().unwrap()).unwrap());
    }
    let events = events(&text);
    let kinds = events.iter().map(|e| e.as_ref().unwrap()["type"].clone());
    let kinds: Vec<Value> = kinds.collect();
    assert_eq!(kinds[..2], ["message_start", "content_block_start"]);
    assert!(kinds[2..].iter().all(|kind| kind == "ping"), "{kinds:?}");
    drop(answer);
    provider.until_left(1).await;

    let waiting = provider.open(asking(false));
    let nothing = tokio::time::timeout(Duration::from_millis(50), waiting).await;
    assert!(nothing.is_err());
    provider.until_left(2).await;
}

async fn filtered(socket: bool) {
    let message = "Output blocked by content filtering policy";
    let provider = Provider::with(Fault::new(FaultKind::ContentFiltered), socket).await;
    let inside = Provider::with(after(FaultKind::FilteredInStream, 7), socket).await;
    for (provider, stream) in [(&provider, true), (&provider, false), (&inside, false)] {
        let mut answer = provider.open(asking(stream)).await;
        assert_eq!(
            (
                answer.status.as_u16(),
                answer.headers["x-should-retry"].to_str().unwrap()
            ),
            (400, "false")
        );
        let body: Value =
            serde_json::from_slice(&answer.body.next().await.unwrap().unwrap()).unwrap();
        let error = &body["error"];
        assert_eq!(
            (&error["type"], &error["message"]),
            (&json!("invalid_request_error"), &json!(message))
        );
    }
    let (text, broken) = inside.text(asking(true)).await;
    let events = events(&text);
    assert_eq!(
        (events.len(), last_type(&events), broken),
        (8, "error", None)
    );
    let error = &events[7].as_ref().unwrap()["error"];
    assert_eq!(error["type"], "invalid_request_error");
    assert_eq!(error["message"], message);
}

async fn nothing(socket: bool) {
    let provider = Provider::with(Fault::new(FaultKind::NoAnswer), socket).await;
    for (n, stream) in [(1, true), (2, false)] {
        let waiting = provider.open(asking(stream));
        let nothing = tokio::time::timeout(Duration::from_millis(50), waiting).await;
        assert!(nothing.is_err());
        provider.until_left(n).await;
    }
    let arrivals = provider.sim.arrivals();
    assert_eq!(arrivals.len(), 2);
    assert!(
        arrivals
            .iter()
            .all(|a| a.status.is_none() && a.answered.is_none())
    );
    assert_eq!(
        provider.sim.stats().models["claude-sonnet-5"].left_before_headers,
        2
    );
}

async fn chunks(socket: bool) {
    let whole = Provider::start(Settings::default(), socket).await;
    let (expected, _) = whole.text(asking(true)).await;
    for (seed, max) in [(1, 1), (1, 16), (2, 16), (3, 4096)] {
        let settings = Settings {
            chunking: Some(Chunking { seed, max }),
            ..Settings::default()
        };
        let cut = Provider::start(settings, socket).await;
        let (chunks, broken) = cut.ask(asking(true)).await;
        assert_eq!(broken, None);
        assert!(chunks.concat() == expected.as_bytes(), "{seed} {max}");
        // What a socket hands over together is up to the kernel.
        if !socket {
            assert!(chunks.iter().all(|c| c.len() <= max), "{seed} {max}");
        }
        assert_eq!(
            cut.sim.stats().output_tokens,
            whole.sim.stats().output_tokens
        );
    }
    let settings = Settings {
        chunking: Some(Chunking { seed: 1, max: 3 }),
        faults: vec![after(FaultKind::ResetAfterHeaders, 3)],
        ..Settings::default()
    };
    let cut = Provider::start(settings, socket).await;
    let (text, broken) = cut.text(asking(true)).await;
    assert_eq!((events(&text).len(), broken), (3, Some(Broken::InBody)));
}

macro_rules! in_memory_and_over_a_socket {
    ($($name:ident: $check:ident,)*) => {
        mod in_memory {
            $(#[tokio::test(start_paused = true)]
            async fn $name() {
                super::$check(false).await;
            })*
        }

        mod over_a_socket {
            $(#[tokio::test]
            async fn $name() {
                super::$check(true).await;
            })*
        }
    };
}

in_memory_and_over_a_socket! {
    one_event_is_malformed_and_the_stream_goes_on: malformed_events,
    an_html_page_is_no_answer_and_costs_nothing: html_pages,
    everything_but_the_end_arrives: missing_stops,
    a_stream_is_cut_after_as_many_events_as_asked: cuts,
    pings_go_on_until_the_client_leaves: pings_only,
    the_content_filter_speaks_by_its_status_or_inside_the_stream: filtered,
    a_provider_can_say_nothing_at_all: nothing,
    chunks_are_cut_anywhere_and_change_nothing: chunks,
}

fn tools(messages: Value, choice: Option<Value>) -> Value {
    let mut body = asking(false);
    body["tools"] = json!([
        { "type": "web_search_20250305", "name": "web_search" },
        { "name": "weather", "input_schema": {
            "type": "object", "required": ["city"], "properties": { "city": { "type": "string" } },
        }},
    ]);
    body["messages"] = messages;
    if let Some(choice) = choice {
        body["tool_choice"] = choice;
    }
    body
}

#[tokio::test(start_paused = true)]
async fn an_offered_tool_is_called_until_its_result_is_there() {
    let provider = Provider::start(Settings::default(), false).await;
    let question = json!([{ "role": "user", "content": "Weather?" }]);
    let answered = json!([
        { "role": "user", "content": "Weather?" },
        { "role": "assistant", "content": [{ "type": "tool_use", "id": "t", "name": "weather", "input": {} }] },
        { "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "t", "content": "rain" }] },
    ]);
    let none = Some(json!({ "type": "none" }));
    for (body, called) in [
        (tools(question.clone(), None), true),
        (
            tools(question.clone(), Some(json!({ "type": "auto" }))),
            true,
        ),
        (tools(question.clone(), none), false),
        (tools(answered, None), false),
    ] {
        let (text, _) = provider.text(body).await;
        let answer: Value = serde_json::from_str(&text).unwrap();
        let blocks = answer["content"].as_array().unwrap().iter();
        let kinds: Vec<&str> = blocks.map(|b| b["type"].as_str().unwrap()).collect();
        if called {
            assert_eq!(
                (kinds, &answer["stop_reason"]),
                (vec!["text", "tool_use"], &json!("tool_use"))
            );
            assert_eq!(answer["content"][1]["name"], "weather");
            assert!(answer["content"][1]["input"]["city"].is_string());
        } else {
            assert_eq!(
                (kinds, &answer["stop_reason"]),
                (vec!["text"], &json!("end_turn"))
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_with_thought_text_and_tool_says_what_the_whole_answer_says() {
    let provider = Provider::start(Settings::default(), false).await;
    let mut body = tools(json!([{ "role": "user", "content": "Weather?" }]), None);
    body["thinking"] = json!({ "type": "enabled", "budget_tokens": 1024 });
    let (whole, _) = provider.text(body.clone()).await;
    let whole: Value = serde_json::from_str(&whole).unwrap();
    body["stream"] = json!(true);
    provider.sim.reset();
    let (text, _) = provider.text(body).await;
    let mut blocks: Vec<Value> = Vec::new();
    let mut input = String::new();
    let mut usage = Value::Null;
    for event in events(&text).into_iter().flatten() {
        match event["type"].as_str().unwrap() {
            "content_block_start" => blocks.push(event["content_block"].clone()),
            "content_block_delta" => {
                let place = usize::try_from(event["index"].as_u64().unwrap()).unwrap();
                let delta = &event["delta"];
                for name in ["thinking", "text", "signature"] {
                    if let Some(more) = delta[name].as_str() {
                        let so_far = blocks[place][name].as_str().unwrap().to_owned();
                        blocks[place][name] = json!(so_far + more);
                    }
                }
                input.push_str(delta["partial_json"].as_str().unwrap_or_default());
            }
            "message_delta" => usage = event["usage"].clone(),
            _ => {}
        }
    }
    blocks[2]["input"] = serde_json::from_str(&input).unwrap();
    assert_eq!(Value::from(blocks), whole["content"]);
    assert_eq!(usage["output_tokens"], whole["usage"]["output_tokens"]);
    assert_eq!(usage["output_tokens"], provider.sim.stats().output_tokens);
}

#[test]
fn the_help_lists_every_kind_of_fault() {
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_seawall"))
        .args(["sim", "--help"])
        .output()
        .unwrap();
    // The terminal's width decides where a line breaks.
    let help = String::from_utf8(help.stdout).unwrap();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for kind in FaultKind::ALL {
        let line = format!("{} {}", kind.as_str(), kind.meaning());
        assert!(help.contains(&line), "{line}: {help}");
    }
    assert!(help.contains("chunking"), "{help}");
}
