//! Recorded exchanges with the real API, read without a network: every answer's verdict and usage are
//! right, every stream reads the same at every chunking, every request is understood.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use seawall::provider::anthropic::request::{RequestView, splice_model};
use seawall::provider::anthropic::stream::{End, StreamWatch};
use seawall::provider::anthropic::usage::Usage;
use seawall::transport::sse::SseDecoder;
use seawall::verdict::{Axes, Document, LimitKind, judge, judge_answer, label};
use seawall_actors::verdict::{Again, Blame};
use serde_json::{Value, json};

/// One recorded exchange.
pub(crate) struct Exchange {
    pub(crate) file: String,
    pub(crate) kind: String,
    pub(crate) request: Option<Bytes>,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
    pub(crate) usage: Value,
    /// When the answer came.
    pub(crate) at: Timestamp,
}

/// The recordings, or the few of our own where there are none.
pub(crate) fn exchanges() -> Vec<Exchange> {
    let root = std::env::var_os("SEAWALL_RECORDINGS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/recordings"),
        PathBuf::from,
    );
    let mut found = Vec::new();
    for kind in ["count_tokens", "errors", "messages", "other", "streams"] {
        let Ok(folder) = fs::read_dir(root.join("anthropic").join(kind)) else {
            continue;
        };
        for entry in folder {
            let path = entry.expect("a folder entry").path();
            let text = fs::read_to_string(&path).expect("a readable recording");
            let value = serde_json::from_str(&text).expect("a recording is JSON");
            found.push(exchange(&path.display().to_string(), kind, &value));
        }
    }
    if found.is_empty() {
        println!("no recordings at {}: own fixtures only", root.display());
        return fixtures();
    }
    found.sort_by(|a, b| a.file.cmp(&b.file));
    found
}

fn exchange(file: &str, kind: &str, value: &Value) -> Exchange {
    let response = &value["response"];
    let mut headers = HeaderMap::new();
    for (name, value) in response["headers"].as_object().into_iter().flatten() {
        // Recorded bodies are decoded and whole; these headers speak of the wire's form.
        if [
            "content-encoding",
            "transfer-encoding",
            "content-length",
            "connection",
        ]
        .contains(&name.as_str())
        {
            continue;
        }
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a header name");
        let values = value
            .as_array()
            .map_or_else(|| vec![value], |all| all.iter().collect());
        for value in values.into_iter().filter_map(Value::as_str) {
            headers.append(
                name.clone(),
                HeaderValue::from_str(value).expect("a header value"),
            );
        }
    }
    let date = headers
        .get("date")
        .and_then(|d| httpdate::parse_http_date(d.to_str().ok()?).ok());
    let status = response["status"]
        .as_u64()
        .and_then(|s| u16::try_from(s).ok())
        .unwrap_or(0);
    Exchange {
        file: file.to_owned(),
        kind: kind.to_owned(),
        request: value["request"]["body"]
            .as_str()
            .map(|b| Bytes::from(b.to_owned())),
        status: StatusCode::from_u16(status).expect("a status"),
        headers,
        body: response["body"].as_str().unwrap_or_default().to_owned(),
        usage: value["meta"]["usage"].clone(),
        at: date
            .and_then(|d| Timestamp::try_from(d).ok())
            .unwrap_or(Timestamp::UNIX_EPOCH),
    }
}

fn fixtures() -> Vec<Exchange> {
    let stream = concat!(
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":9,\"output_tokens\":1}}   }\n\n",
        "event: ping\ndata: {\"type\": \"ping\"}\n\n",
        "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n",
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Grüße\"}}\n\n",
        "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n",
        "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":3}}\n\n",
        "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
    );
    let request = json!({"body": "{\"model\":\"claude-x\",\"max_tokens\":5,\"messages\":[]}"});
    [
        ("messages", 200, json!({"type":"message","usage":{"input_tokens":3,"output_tokens":4}}).to_string(),
            json!({"input_tokens":3,"output_tokens":4})),
        ("streams", 200, stream.to_owned(), json!({"input_tokens":9,"output_tokens":3})),
        ("errors", 529, "{\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}".to_owned(), Value::Null),
        ("errors", 401, "{\"error\":{\"type\":\"authentication_error\",\"message\":\"no\"}}".to_owned(), Value::Null),
    ]
    .into_iter()
    .map(|(kind, status, body, usage)| {
        let value = json!({"request": request, "response": {"status": status, "headers": {}, "body": body},
            "meta": {"usage": usage}});
        exchange("own fixture", kind, &value)
    })
    .collect()
}

/// The recorded usage, field by field, as far as `usage` should know it.
fn assert_usage(usage: &Usage, recorded: &Value, file: &str) {
    let at = |pointer: &str| recorded.pointer(pointer).and_then(Value::as_u64);
    for (name, seen, expected) in [
        ("input", usage.input, at("/input_tokens")),
        ("output", usage.output, at("/output_tokens")),
        (
            "cache_read",
            usage.cache_read,
            at("/cache_read_input_tokens"),
        ),
        (
            "cache_write",
            usage.cache_write,
            at("/cache_creation_input_tokens"),
        ),
        (
            "5m",
            usage.cache_write_5m,
            at("/cache_creation/ephemeral_5m_input_tokens"),
        ),
        (
            "1h",
            usage.cache_write_1h,
            at("/cache_creation/ephemeral_1h_input_tokens"),
        ),
        (
            "thinking",
            usage.thinking,
            at("/output_tokens_details/thinking_tokens"),
        ),
        (
            "searches",
            usage.web_searches,
            at("/server_tool_use/web_search_requests"),
        ),
        (
            "fetches",
            usage.web_fetches,
            at("/server_tool_use/web_fetch_requests"),
        ),
    ] {
        assert_eq!(seen, expected, "{name} of {file}");
    }
    let tier = recorded.get("service_tier").and_then(Value::as_str);
    assert_eq!(usage.service_tier.as_deref(), tier, "tier of {file}");
    let whole = at("/input_tokens").unwrap_or(0)
        + at("/cache_read_input_tokens").unwrap_or(0)
        + at("/cache_creation_input_tokens").unwrap_or(0);
    assert_eq!(usage.prompt_total(), whole, "prompt of {file}");
    let passes = recorded["iterations"].as_array();
    let billed = passes.map_or_else(
        || at("/input_tokens").unwrap_or(0),
        |all| {
            all.iter()
                .filter_map(|pass| pass["input_tokens"].as_u64())
                .sum()
        },
    );
    assert_eq!(usage.billed().input, billed, "billed input of {file}");
}

/// Decodes `body` cut by `cut` and returns the frames and how the watch saw the stream.
fn follow(body: &[u8], mut cut: impl FnMut() -> usize) -> (Vec<(String, String)>, StreamWatch) {
    let (mut decoder, mut watch, mut frames) = (SseDecoder::new(), StreamWatch::new(), Vec::new());
    let mut rest = body;
    while !rest.is_empty() {
        let (chunk, tail) = rest.split_at(cut().clamp(1, rest.len()));
        decoder
            .push(chunk, |frame| {
                watch.see(frame, Timestamp::UNIX_EPOCH);
                frames.push((frame.event.to_owned(), frame.data.to_owned()));
            })
            .expect("recorded frames are small");
        rest = tail;
    }
    assert!(!decoder.mid_frame());
    (frames, watch)
}

#[test]
fn every_recorded_failure_has_its_verdict() {
    use Again::{Elsewhere, Here, Never};
    let mut failures = 0;
    for e in exchanges().iter().filter(|e| !e.status.is_success()) {
        failures += 1;
        let seen = judge(e.status, &e.headers, e.body.as_bytes(), e.at);
        let error: Value = serde_json::from_str(&e.body).expect("recorded errors are JSON");
        let message = error["error"]["message"].as_str().unwrap_or_default();
        assert_eq!(seen.message, message, "{}", e.file);
        assert_eq!(
            seen.error_type.as_deref(),
            error["error"]["type"].as_str(),
            "{}",
            e.file
        );
        let never_here = e
            .headers
            .get("x-should-retry")
            .is_some_and(|v| v == "false");
        let expected = match e.status.as_u16() {
            400 if message.starts_with("Your credit") => {
                (label::BILLING, Blame::Credential, Elsewhere)
            }
            400 if message.starts_with("prompt is too long") => {
                (label::PROMPT_TOO_LONG, Blame::Caller, Elsewhere)
            }
            400 => (label::INVALID_REQUEST, Blame::Caller, Never),
            401 => (label::AUTHENTICATION, Blame::Credential, Elsewhere),
            404 if message.starts_with("model:") => {
                (label::MODEL_NOT_FOUND, Blame::Caller, Elsewhere)
            }
            404 => (label::NOT_FOUND, Blame::Caller, Elsewhere),
            429 if never_here => (label::TOO_LARGE_FOR_QUOTA, Blame::Caller, Elsewhere),
            429 if message.contains("concurrent") => (label::CONCURRENCY_LIMIT, Blame::Quota, Here),
            429 => (label::RATE_LIMITED, Blame::Quota, Here),
            529 => (label::OVERLOADED, Blame::Target, Here),
            other => panic!("{other} was never recorded before: {}", e.file),
        };
        let verdict = seen.verdict;
        assert_eq!(
            (verdict.label, verdict.blame, verdict.again),
            expected,
            "{}",
            e.file
        );
        let told = e
            .headers
            .get("retry-after")
            .and_then(|v| v.to_str().ok()?.parse().ok());
        assert_eq!(verdict.not_before.map(|d| d.as_secs()), told, "{}", e.file);
    }
    assert!(failures > 0);
}

#[test]
fn every_recorded_answer_is_whole_and_its_usage_is_read() {
    let mut read = 0;
    for e in exchanges() {
        if !e.status.is_success() || e.body.starts_with("event:") {
            continue;
        }
        let verdict = judge(e.status, &e.headers, e.body.as_bytes(), e.at).verdict;
        assert!(
            verdict.is_ok() && verdict.not_before.is_none(),
            "{}",
            e.file
        );
        let document = match &*e.kind {
            "messages" => Document::Message,
            "count_tokens" => Document::TokenCount,
            _ => Document::Object,
        };
        let answer = judge_answer(document, &e.headers, e.body.as_bytes(), e.at).verdict;
        assert!(answer.is_ok(), "{}: {answer:?}", e.file);
        let cut = e.body.len() / 2;
        let half = e.body.as_bytes().get(..cut).expect("a half");
        assert_eq!(
            judge_answer(document, &e.headers, half, e.at).verdict.label,
            label::TRUNCATED,
            "{}",
            e.file
        );
        if e.kind == "messages" {
            read += 1;
            assert_usage(
                &Usage::from_body(e.body.as_bytes()).expect("usage"),
                &e.usage,
                &e.file,
            );
        }
    }
    assert!(read > 0);
}

#[test]
fn every_recorded_stream_reads_the_same_at_every_chunking() {
    let mut rng = StdRng::seed_from_u64(7);
    let mut streams = 0;
    for e in exchanges()
        .iter()
        .filter(|e| e.status.is_success() && e.body.starts_with("event:"))
    {
        streams += 1;
        let body = e.body.as_bytes();
        let (frames, watch) = follow(body, || usize::MAX);
        if e.kind == "streams" {
            assert_eq!(watch.end(), End::Complete, "{}", e.file);
            assert!(
                watch.has_content() && watch.judge().verdict.is_ok(),
                "{}",
                e.file
            );
            assert_usage(watch.usage(), &e.usage, &e.file);
            assert_eq!(watch.billed(), watch.usage().billed(), "{}", e.file);
        } else {
            assert_eq!(watch.end(), End::Failed, "{}", e.file);
            assert_eq!(watch.judge().verdict.label, label::OVERLOADED, "{}", e.file);
            assert!(!watch.has_content(), "{}", e.file);
        }
        for largest in [1, 2, 7, 64, 1024, 16 * 1024] {
            let (again, twin) = follow(body, || rng.random_range(1..=largest));
            assert_eq!(again, frames, "{} in chunks of up to {largest}", e.file);
            assert_eq!(
                (twin.end(), twin.usage()),
                (watch.end(), watch.usage()),
                "{}",
                e.file
            );
        }
        // Without its last event, no stream passes for whole.
        let trimmed = e.body.trim_end();
        let cut = trimmed.rfind("\n\n").map_or(0, |at| at + 2);
        let (_, short) = follow(body.get(..cut).expect("a prefix"), || usize::MAX);
        assert_eq!(short.end(), End::Truncated, "{}", e.file);
    }
    assert!(streams > 0);
}

#[test]
fn every_recorded_request_is_understood_and_takes_another_model() {
    let mut requests = 0;
    for e in exchanges() {
        let Some(body) = e.request.clone() else {
            continue;
        };
        let Ok(Value::Object(mut value)) = serde_json::from_slice::<Value>(&body) else {
            continue;
        };
        requests += 1;
        let view = RequestView::parse(&body).expect("a JSON object");
        assert_eq!(
            view.model.as_deref(),
            value.get("model").and_then(Value::as_str),
            "{}",
            e.file
        );
        assert_eq!(
            view.max_tokens,
            value.get("max_tokens").and_then(Value::as_u64),
            "{}",
            e.file
        );
        assert_eq!(
            view.stream,
            value.get("stream") == Some(&Value::Bool(true)),
            "{}",
            e.file
        );
        let messages = value
            .get("messages")
            .and_then(Value::as_array)
            .map_or(0, Vec::len);
        assert_eq!(
            usize::try_from(view.counts.messages).ok(),
            Some(messages),
            "{}",
            e.file
        );
        let spliced = splice_model(&body, &view, "claude-other");
        value.insert("model".to_owned(), Value::from("claude-other"));
        let back: Value = serde_json::from_slice(&spliced).expect("spliced JSON");
        assert_eq!(back, Value::Object(value), "{}", e.file);
    }
    assert!(requests > 0);
}

#[test]
fn every_recorded_429_is_of_a_known_kind() {
    let tokens = |burst| {
        let axes = Axes {
            input: true,
            ..Axes::default()
        };
        LimitKind::Bucket { axes, burst }
    };
    let requests = LimitKind::Bucket {
        axes: Axes {
            requests: true,
            ..Axes::default()
        },
        burst: false,
    };
    let mut seen = 0;
    for exchange in exchanges() {
        let limit = judge(
            exchange.status,
            &exchange.headers,
            exchange.body.as_bytes(),
            exchange.at,
        )
        .limit;
        if exchange.status != StatusCode::TOO_MANY_REQUESTS {
            continue;
        }
        seen += 1;
        let says = |text: &str| exchange.body.contains(text);
        let header = |name: &str| exchange.headers.get(name).map(HeaderValue::as_bytes);
        let full = header("anthropic-ratelimit-input-tokens-remaining") == Some(b"450000");
        let expected = match header("x-should-retry") {
            Some(b"false") => LimitKind::LargerThanBucket,
            _ if says("input tokens per minute") => tokens(full),
            _ if says("Number of requests") => requests,
            _ => LimitKind::Connections,
        };
        assert_eq!(limit, Some(expected), "{}", exchange.file);
    }
    println!("{seen} recorded answers with status 429");
}
