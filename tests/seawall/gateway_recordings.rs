//! Recorded exchanges with the real API through the real binary: every byte, verdict and token.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use seawall::sim::http as sim_http;
use seawall::sim::recordings::{Recording, Recordings};
use serde_json::Value;
use tokio::net::TcpListener;

use crate::process::{BOUND, Gateway, ONE_ATTEMPT, request, serve};

fn recordings() -> Arc<Recordings> {
    let root = std::env::var_os("SEAWALL_RECORDINGS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/recordings"),
        PathBuf::from,
    );
    if root.join("anthropic").is_dir() {
        return Recordings::load(&root.join("anthropic")).unwrap();
    }
    println!("no recordings at {}: own fixtures only", root.display());
    Arc::new(Recordings::new(fixtures()))
}

fn fixtures() -> Vec<Recording> {
    let stream = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\
        \"usage\":{\"input_tokens\":9,\"output_tokens\":1}}   }\n\nevent: ping\ndata: {\"type\": \"ping\"}\n\n\
        event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":\
        {\"type\":\"text\",\"text\":\"\"}}\n\nevent: content_block_delta\ndata: {\"type\":\"content_block_delta\",\
        \"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hi\"}}\n\nevent: content_block_stop\n\
        data: {\"type\":\"content_block_stop\",\"index\":0}\n\nevent: message_delta\ndata: {\"type\":\
        \"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":4}}\n\n\
        event: message_stop\ndata: {\"type\":\"message_stop\"    }\n\n";
    let error = "event: error\ndata: {\"type\":\"error\",\"error\":{\"details\":null,\"type\":\
        \"overloaded_error\",\"message\":\"Overloaded\"}            }\n\n";
    let whole = r#"{"type":"message","content":[],"usage":{"input_tokens":3,"output_tokens":5}}"#;
    let plain = "upstream connect error or disconnect/reset before headers";
    [
        ("stream", 200, "text/event-stream", stream),
        ("error-stream", 200, "text/event-stream", error),
        ("whole", 200, "application/json", whole),
        ("plain-503", 503, "text/plain", plain),
    ]
    .into_iter()
    .map(|(id, status, kind, body)| {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static(kind));
        Recording {
            id: id.to_owned(),
            method: Method::POST,
            path: "/v1/messages".to_owned(),
            request_headers: HeaderMap::new(),
            request_body: Bytes::from(request(status == 200 && kind != "application/json")),
            status: StatusCode::from_u16(status).unwrap(),
            headers,
            body: Bytes::from(body),
        }
    })
    .collect()
}

#[tokio::test]
async fn every_recorded_exchange_passes_byte_for_byte_with_its_verdict_and_usage() {
    let recordings = recordings();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = Arc::clone(&recordings);
    serve(sim_http::serve_recordings(
        listener,
        served,
        std::future::pending(),
    ));
    let config = format!("[gateway]\nlog_format = \"json\"\n{ONE_ATTEMPT}");
    let gateway = Gateway::start(address, &config);
    let mut calls = Vec::new();
    for (n, recording) in recordings.all().iter().enumerate() {
        let body = match recording.request_body.is_empty() {
            true if recording.method == Method::POST => Bytes::from_static(b"{}"),
            _ => recording.request_body.clone(),
        };
        let answer = gateway
            .client
            .request(recording.method.clone(), format!("{}{}", gateway.base, recording.path))
            // A key for each, since some of them stop the quota of theirs.
            .header("x-api-key", format!("sk-{n}"))
            .header("x-sim-recording", &recording.id)
            .header("x-sim-chunks", n.to_string())
            .body(body)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), recording.status, "{}", recording.id);
        for name in [
            "request-id",
            "content-type",
            "retry-after",
            "x-should-retry",
        ] {
            if let Some(recorded) = recording.headers.get(name) {
                assert_eq!(
                    answer.headers().get(name),
                    Some(recorded),
                    "{}: {name}",
                    recording.id
                );
            }
        }
        let call = answer.headers()["x-seawall-call"].to_str().unwrap();
        calls.push((call.to_owned(), recording.clone()));
        let passed = answer.bytes().await.unwrap();
        assert!(
            passed == recording.body,
            "{}: the body changed",
            recording.id
        );
    }
    gateway.idle().await;
    let lines = call_lines(&gateway, calls.len()).await;
    let mut used = 0;
    for (call, recording) in &calls {
        let line = &lines[call];
        assert_eq!(line["verdict"], verdict(recording), "{}", recording.id);
        assert_eq!(
            line["status"],
            recording.status.as_u16(),
            "{}",
            recording.id
        );
        let logged = ["input", "output", "cache_read", "cache_write"]
            .map(|kind| line[format!("{kind}_tokens")].as_u64().unwrap());
        assert_eq!(logged, usage(recording), "{}", recording.id);
        used += usize::from(logged[1] > 0);
    }
    assert!(used > 0);
}

/// The log's lines about calls, by call, once there are as many as were made.
async fn call_lines(gateway: &Gateway, made: usize) -> HashMap<String, Value> {
    let all = async {
        loop {
            let log = gateway.log();
            // The last line may still be on its way.
            let lines = log
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok());
            let calls: HashMap<String, Value> = lines
                .filter(|line: &Value| line["target"] == "seawall::call")
                .map(|line| (line["call"].as_str().unwrap().to_owned(), line))
                .collect();
            if calls.len() == made {
                return calls;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(BOUND, all).await.unwrap()
}

/// The data of a recorded stream's events.
fn events(recording: &Recording) -> Vec<Value> {
    let text = std::str::from_utf8(&recording.body).unwrap();
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|data| serde_json::from_str(data).unwrap())
        .collect()
}

fn is_stream(recording: &Recording) -> bool {
    recording.body.starts_with(b"event: ")
}

/// The verdict by the provider's own words, read apart from seawall.
fn verdict(recording: &Recording) -> &'static str {
    let body: Value = serde_json::from_slice(&recording.body).unwrap_or_default();
    let message = body["error"]["message"].as_str().unwrap_or_default();
    let never = recording
        .headers
        .get("x-should-retry")
        .is_some_and(|v| v == "false");
    match recording.status.as_u16() {
        200 if is_stream(recording) && events(recording).last().unwrap()["type"] == "error" => {
            "overloaded"
        }
        200 => "ok",
        400 if message.contains("credit balance") => "billing",
        400 if message.starts_with("prompt is too long") => "prompt_too_long",
        400 => "invalid_request",
        401 => "authentication",
        404 if message.starts_with("model:") => "model_not_found",
        404 => "not_found",
        429 if never => "too_large_for_quota",
        429 if message.contains("concurrent") => "concurrency_limit",
        429 => "rate_limited",
        503 => "unavailable",
        529 => "overloaded",
        other => panic!("{other} was never recorded before"),
    }
}

/// What the answer says it used: input, output, cache reads, cache writes. The last statement of a
/// stream wins field by field; where passes are listed, they are what is billed.
fn usage(recording: &Recording) -> [u64; 4] {
    const FIELDS: [&str; 4] = [
        "input_tokens",
        "output_tokens",
        "cache_read_input_tokens",
        "cache_creation_input_tokens",
    ];
    let mut stated = serde_json::Map::new();
    let mut state = |usage: &Value| {
        for (name, value) in usage.as_object().into_iter().flatten() {
            if !value.is_null() {
                stated.insert(name.clone(), value.clone());
            }
        }
    };
    if is_stream(recording) {
        for event in events(recording) {
            state(&event["message"]["usage"]);
            state(&event["usage"]);
        }
    } else if recording.path.split('?').next() == Some("/v1/messages") && recording.status == 200 {
        let body: Value = serde_json::from_slice(&recording.body).unwrap();
        state(&body["usage"]);
    }
    let stated = Value::from(stated);
    let count = |usage: &Value, name: &str| usage[name].as_u64().unwrap_or(0);
    match stated["iterations"].as_array() {
        Some(passes) if !passes.is_empty() => {
            FIELDS.map(|name| passes.iter().map(|pass| count(pass, name)).sum())
        }
        _ => FIELDS.map(|name| count(&stated, name)),
    }
}
