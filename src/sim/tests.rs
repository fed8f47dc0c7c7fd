use ::http::HeaderValue;
use futures_util::StreamExt;
use proptest::prelude::{any, proptest};
use serde_json::Value;

use super::*;

mod limits;

use crate::transport::{Broken, Transport, TransportError};

fn start(settings: Settings) -> (Arc<Sim>, MemoryTransport) {
    let sim = Sim::new(settings).unwrap();
    let transport = sim.transport();
    (sim, transport)
}

fn with(faults: impl Into<Vec<Fault>>) -> Settings {
    Settings {
        faults: faults.into(),
        ..Settings::default()
    }
}

fn request(path: &'static str, body: &Value) -> Request {
    let mut headers = ::http::HeaderMap::new();
    headers.insert("x-api-key", HeaderValue::from_static("sk-ant-sim"));
    headers.insert("anthropic-version", HeaderValue::from_static("2023-06-01"));
    let uri = ::http::Uri::from_static(path);
    Request {
        method: Method::POST,
        uri,
        headers,
        body: Bytes::from(body.to_string()),
    }
}

fn ask(prompt: &str, stream: bool) -> Request {
    request("/v1/messages", &body(prompt, stream))
}

fn body(prompt: &str, stream: bool) -> Value {
    serde_json::json!({
        "model": "claude-sonnet-5", "max_tokens": 4096, "stream": stream,
        "messages": [{"role": "user", "content": prompt}],
    })
}

struct Got {
    status: u16,
    headers: ::http::HeaderMap,
    body: Vec<u8>,
    broken: Option<TransportError>,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The data of a stream's events; the name of each is checked against it.
    fn events(&self) -> Vec<Value> {
        let text = std::str::from_utf8(&self.body).unwrap();
        assert!(text.ends_with("\n\n"), "{text}");
        let frames = text.split_terminator("\n\n").map(|frame| {
            let (name, data) = frame.split_once('\n').unwrap();
            let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
            assert_eq!(name.strip_prefix("event: ").unwrap(), data["type"]);
            data
        });
        frames.collect()
    }
}

async fn send(transport: &MemoryTransport, request: Request) -> Result<Got, TransportError> {
    let response = transport.send(request).await?;
    let (status, headers) = (response.status.as_u16(), response.headers);
    let mut got = Got {
        status,
        headers,
        body: Vec::new(),
        broken: None,
    };
    let mut chunks = response.body;
    while let Some(chunk) = chunks.next().await {
        match chunk {
            Ok(chunk) => got.body.extend_from_slice(&chunk),
            Err(error) => got.broken = Some(error),
        }
    }
    Ok(got)
}

#[tokio::test(start_paused = true)]
async fn an_answer_has_the_true_shape_and_the_tag_of_its_request() {
    let (sim, transport) = start(Settings::default());
    let asked = ask("What is the tide?", false);
    let tag = request_tag(&asked.body);
    let got = send(&transport, asked).await.unwrap();
    let json = got.json();
    assert_eq!(
        (got.status, got.header("content-type")),
        (200, Some("application/json"))
    );
    assert_eq!(json["type"], "message");
    assert_eq!(json["model"], "claude-sonnet-5");
    assert_eq!(json["stop_reason"], "end_turn");
    let text = json["content"][0]["text"].as_str().unwrap();
    assert!(text.starts_with(&format!("[{tag}] ")), "{text}");
    let output = json["usage"]["output_tokens"].as_u64().unwrap();
    assert_eq!(u64::try_from(text.len()).unwrap(), output * 4);
    let id = got.header("request-id").unwrap();
    assert!(id.starts_with("req_") && id.len() == 28, "{id}");

    let counted = request(
        "/v1/messages/count_tokens",
        &body("What is the tide?", false),
    );
    let counted = send(&transport, counted).await.unwrap().json();
    assert_eq!(counted["input_tokens"], json["usage"]["input_tokens"]);
    let stats = sim.stats();
    assert_eq!(
        (stats.attempts, stats.in_flight, stats.output_tokens),
        (2, 0, output)
    );
    assert_eq!(
        Value::from(stats.input_tokens),
        json["usage"]["input_tokens"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_has_the_true_events_and_says_what_the_whole_answer_says() {
    let (sim, transport) = start(Settings::default());
    let whole = send(&transport, ask("Tell me.", false))
        .await
        .unwrap()
        .json();
    sim.reset();
    let got = send(&transport, ask("Tell me.", true)).await.unwrap();
    assert_eq!(
        got.header("content-type"),
        Some("text/event-stream; charset=utf-8")
    );
    let raw = String::from_utf8(got.body.clone()).unwrap();
    assert!(
        raw.contains("event: ping\ndata: {\"type\": \"ping\"}\n\n"),
        "{raw}"
    );
    assert!(raw.contains(" }\n\n"), "padded like the recorded streams");
    let events = got.events();
    let kinds: Vec<_> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(kinds[..3], ["message_start", "content_block_start", "ping"]);
    assert_eq!(
        kinds[kinds.len() - 3..],
        ["content_block_stop", "message_delta", "message_stop"]
    );
    let text: String = events
        .iter()
        .filter_map(|event| event["delta"]["text"].as_str())
        .collect();
    assert_eq!(text, whole["content"][0]["text"].as_str().unwrap());
    let usage = &events[events.len() - 2]["usage"];
    assert_eq!(usage["output_tokens"], whole["usage"]["output_tokens"]);
    assert_eq!(
        Value::from(sim.stats().output_tokens),
        usage["output_tokens"]
    );
    assert!(
        events[0]["message"]["usage"]["output_tokens"]
            .as_u64()
            .unwrap()
            >= 1
    );
}

#[tokio::test(start_paused = true)]
async fn a_small_max_tokens_cuts_the_answer() {
    let (_, transport) = start(Settings::default());
    let mut asked = body("Tell me.", false);
    asked["max_tokens"] = Value::from(12);
    let got = send(&transport, request("/v1/messages", &asked))
        .await
        .unwrap()
        .json();
    assert_eq!(got["stop_reason"], "max_tokens");
    assert_eq!(got["usage"]["output_tokens"], 12);
    assert_eq!(got["content"][0]["text"].as_str().unwrap().len(), 48);
}

#[tokio::test(start_paused = true)]
async fn a_forced_tool_is_called_with_input_that_fits_its_schema() {
    let (sim, transport) = start(Settings::default());
    for stream in [false, true] {
        let mut asked = body("Weather?", stream);
        asked["tools"] = serde_json::json!([{"name": "weather", "input_schema": {
            "type": "object", "required": ["city", "days"],
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        }}]);
        asked["tool_choice"] = serde_json::json!({"type": "any"});
        let tag = request_tag(asked.to_string().as_bytes());
        let before = sim.stats().output_tokens;
        let got = send(&transport, request("/v1/messages", &asked))
            .await
            .unwrap();
        let (input, stop, output) = if stream {
            let events = got.events();
            let parts = events
                .iter()
                .filter_map(|e| e["delta"]["partial_json"].as_str());
            let input: String = parts.collect();
            let last = events[events.len() - 2].clone();
            assert_eq!(events[1]["content_block"]["input"], serde_json::json!({}));
            (
                serde_json::from_str(&input).unwrap(),
                last["delta"]["stop_reason"].clone(),
                last["usage"]["output_tokens"].clone(),
            )
        } else {
            let json = got.json();
            assert_eq!(json["content"][0]["name"], "weather");
            (
                json["content"][0]["input"].clone(),
                json["stop_reason"].clone(),
                json["usage"]["output_tokens"].clone(),
            )
        };
        assert_eq!(input, serde_json::json!({"city": tag, "days": 1}));
        assert_eq!(stop, "tool_use");
        assert_eq!(Value::from(sim.stats().output_tokens - before), output);
    }
}

#[tokio::test(start_paused = true)]
async fn thinking_comes_before_the_text_and_may_be_hidden() {
    let (_, transport) = start(Settings::default());
    for (display, shown) in [("summarized", true), ("omitted", false)] {
        let mut asked = body("Think.", true);
        asked["thinking"] = serde_json::json!({"type": "adaptive", "display": display});
        let events = send(&transport, request("/v1/messages", &asked))
            .await
            .unwrap()
            .events();
        assert_eq!(events[1]["content_block"]["type"], "thinking");
        let thought = events
            .iter()
            .any(|e| e["delta"]["type"] == "thinking_delta");
        assert_eq!(thought, shown);
        assert!(
            events
                .iter()
                .any(|e| e["delta"]["type"] == "signature_delta")
        );
        assert!(
            events
                .iter()
                .any(|e| e["index"] == 1 && e["delta"]["type"] == "text_delta")
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_models_endpoint_the_greeting_and_unknown_paths_answer_as_they_should() {
    let (_, transport) = start(Settings::default());
    let get = |method: Method, path: &'static str| Request {
        method,
        body: Bytes::new(),
        ..request(path, &Value::Null)
    };
    let list = send(&transport, get(Method::GET, "/v1/models?limit=1000"))
        .await
        .unwrap()
        .json();
    assert!(list["data"].as_array().unwrap().len() > 5);
    let one = send(&transport, get(Method::GET, "/v1/models/claude-opus-5-5"))
        .await
        .unwrap();
    assert_eq!(one.json()["display_name"], "Claude Opus 5.5");
    assert_eq!(
        send(&transport, get(Method::HEAD, "/api/hello"))
            .await
            .unwrap()
            .status,
        200
    );
    for (method, path, status) in [
        (Method::GET, "/v1/models/gpt-4", 404),
        (Method::POST, "/v1/nothing", 404),
        (Method::GET, "/v1/messages", 405),
    ] {
        let got = send(&transport, get(method, path)).await.unwrap();
        assert_eq!(got.status, status, "{path}");
        assert_eq!(got.json()["type"], "error");
    }
    let mut keyless = ask("x", false);
    keyless.headers.remove("x-api-key");
    let got = send(&transport, keyless).await.unwrap();
    assert_eq!(
        (got.status, got.header("x-should-retry")),
        (401, Some("false"))
    );
    let large = Request {
        body: vec![b' '; wire::BODY_LIMIT + 1].into(),
        ..ask("x", false)
    };
    let got = send(&transport, large).await.unwrap();
    assert_eq!((got.status, got.header("request-id")), (413, None));
    assert_eq!(got.json()["error"]["type"], "request_too_large");
}

fn limited() -> Settings {
    Settings {
        quotas: vec![QuotaSettings {
            requests_per_minute: Some(60),
            input_tokens_per_minute: Some(50_000),
            output_tokens_per_minute: Some(10_000),
            burst: Duration::from_secs(1),
            ..QuotaSettings::of("claude-")
        }],
        ..Settings::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_refuses_with_every_header_and_a_true_retry_after() {
    let (sim, transport) = start(limited());
    let first = send(&transport, ask("one", false));
    let second = send(&transport, ask("two", false));
    let (first, second) = tokio::join!(first, second);
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(
        first.header("anthropic-ratelimit-requests-limit"),
        Some("60")
    );
    assert_eq!(
        first.header("anthropic-ratelimit-requests-remaining"),
        Some("59")
    );
    assert_eq!(
        first.header("anthropic-ratelimit-input-tokens-remaining"),
        Some("50000")
    );
    assert_eq!(
        first.header("anthropic-ratelimit-tokens-limit"),
        Some("60000")
    );
    assert_eq!(
        first.header("anthropic-ratelimit-requests-reset"),
        Some("2026-01-01T00:00:01Z")
    );
    assert_eq!(first.header("retry-after"), None);
    assert_eq!(
        (second.status, second.header("retry-after")),
        (429, Some("1"))
    );
    assert_eq!(second.header("x-should-retry"), Some("true"));
    assert_eq!(
        second.header("anthropic-ratelimit-output-tokens-limit"),
        Some("10000")
    );
    let message = second.json()["error"]["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(message.contains("60 requests per minute"), "{message}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        send(&transport, ask("two", false)).await.unwrap().status,
        200
    );
    let stats = sim.stats();
    assert_eq!(
        (
            stats.provider_429,
            stats.quotas[0].requests.unwrap().charged
        ),
        (1, 2)
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_larger_than_the_limit_is_told_not_to_come_back() {
    let (_, transport) = start(limited());
    let got = send(&transport, ask(&"x".repeat(250_000), false))
        .await
        .unwrap();
    assert_eq!(
        (got.status, got.header("x-should-retry")),
        (429, Some("false"))
    );
    assert_eq!(got.header("retry-after"), None);
    assert_eq!(
        got.header("anthropic-ratelimit-input-tokens-remaining"),
        Some("50000")
    );
    assert_eq!(
        got.header("anthropic-ratelimit-input-tokens-reset"),
        Some("1970-01-01T00:00:00Z")
    );
    let message = got.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains("50,000 input tokens per minute"),
        "{message}"
    );
}

#[tokio::test(start_paused = true)]
async fn every_error_fault_answers_in_its_own_shape() {
    use FaultKind as K;
    for (kind, status, error, retry) in [
        (
            K::InvalidRequest,
            400,
            Some("invalid_request_error"),
            Some("false"),
        ),
        (
            K::Authentication,
            401,
            Some("authentication_error"),
            Some("false"),
        ),
        (K::Permission, 403, Some("permission_error"), Some("false")),
        (K::NotFound, 404, Some("not_found_error"), Some("false")),
        (K::TooLarge, 413, Some("request_too_large"), None),
        (K::RateLimited, 429, Some("rate_limit_error"), Some("true")),
        (K::RampLimited, 429, Some("rate_limit_error"), Some("true")),
        (K::SpendCap, 429, Some("rate_limit_error"), Some("false")),
        (
            K::ConcurrentConnections,
            429,
            Some("rate_limit_error"),
            Some("true"),
        ),
        (K::Internal, 500, Some("api_error"), Some("false")),
        (K::BadGateway, 502, None, None),
        (K::Unavailable, 503, None, None),
        (K::Timeout, 504, Some("timeout_error"), Some("true")),
        (K::Overloaded, 529, Some("overloaded_error"), Some("true")),
    ] {
        let (sim, transport) = start(with([Fault::new(kind)]));
        let began = Instant::now();
        let got = send(&transport, ask("x", true)).await.unwrap();
        assert_eq!(began.elapsed(), Duration::from_millis(50));
        assert_eq!(
            (got.status, got.header("x-should-retry")),
            (status, retry),
            "{kind:?}"
        );
        match error {
            Some(error) => assert_eq!(got.json()["error"]["type"], error),
            None => assert!(serde_json::from_slice::<Value>(&got.body).is_err()),
        }
        let limits = got.header("anthropic-ratelimit-requests-limit").is_some();
        let told = matches!(kind, K::RateLimited | K::RampLimited);
        assert_eq!(limits, told, "{kind:?}");
        let stats = sim.stats();
        assert_eq!(
            stats.models["claude-sonnet-5"].answers[&status.to_string()][kind.as_str()],
            1
        );
        assert_eq!(stats.quotas[0].requests.unwrap().charged, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_fault_inside_an_answer_leaves_exactly_what_it_should() {
    use FaultKind as K;
    for (kind, stream, broken, complete_json) in [
        (K::ResetAfterHeaders, true, true, false),
        (K::ResetAfterHeaders, false, true, false),
        (K::TruncatedBody, true, true, false),
        (K::TruncatedBody, false, true, false),
        (K::TruncatedJson, false, false, false),
        (K::CutStream, false, true, false),
    ] {
        let (sim, transport) = start(with([Fault::new(kind)]));
        let got = send(&transport, ask("x", stream)).await.unwrap();
        assert_eq!(got.status, 200);
        let kind_of = got.broken.as_ref().map(|error| error.kind);
        assert_eq!(
            kind_of,
            broken.then_some(Broken::InBody),
            "{kind:?} {stream}"
        );
        assert_eq!(
            serde_json::from_slice::<Value>(&got.body).is_ok(),
            complete_json
        );
        assert_eq!((sim.stats().in_flight, sim.stats().aborted), (0, 0));
    }
    let (_, transport) = start(with([Fault::new(K::ResetBeforeHeaders)]));
    let error = send(&transport, ask("x", true))
        .await
        .map(|got| got.status)
        .unwrap_err();
    assert_eq!(error.kind, Broken::BeforeHeaders);

    let (_, transport) = start(with([Fault::new(K::CutStream)]));
    let events = send(&transport, ask("x", true)).await.unwrap().events();
    assert_eq!(
        (events.len(), &events[3]["type"]),
        (4, &Value::from("content_block_delta"))
    );

    let early = Fault {
        after_events: Some(0),
        ..Fault::new(K::StreamError)
    };
    let (_, transport) = start(with([early]));
    let events = send(&transport, ask("x", true)).await.unwrap().events();
    assert_eq!(
        (events.len(), &events[0]["error"]["type"]),
        (1, &Value::from("overloaded_error"))
    );

    let all = Fault {
        after_events: Some(u32::MAX),
        ..Fault::new(K::CutStream)
    };
    let (_, transport) = start(with([all]));
    let events = send(&transport, ask("x", true)).await.unwrap().events();
    assert_eq!(events.last().unwrap()["type"], "message_delta");
}

#[tokio::test(start_paused = true)]
async fn a_stall_lasts_until_the_client_leaves_and_is_counted() {
    for (kind, stream) in [
        (FaultKind::StallBeforeContent, true),
        (FaultKind::StallBeforeContent, false),
        (FaultKind::StallInStream, true),
    ] {
        let (sim, transport) = start(with([Fault::new(kind)]));
        let hour = Duration::from_hours(1);
        let outcome = tokio::time::timeout(hour, send(&transport, ask("x", stream))).await;
        assert!(outcome.is_err(), "{kind:?}");
        let stats = sim.stats();
        assert_eq!((stats.in_flight, stats.aborted), (0, 1));
        let model = &stats.models["claude-sonnet-5"];
        assert_eq!(
            (model.left_in_body, model.left_before_headers),
            if stream { (1, 0) } else { (0, 1) }
        );
    }
    let short = Fault {
        stall_for: Some(Duration::from_secs(9)),
        ..Fault::new(FaultKind::StallInStream)
    };
    let (_, transport) = start(with([short]));
    let began = Instant::now();
    let events = send(&transport, ask("x", true)).await.unwrap().events();
    assert_eq!(events.last().unwrap()["type"], "message_stop");
    assert!(began.elapsed() >= Duration::from_secs(9));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_early_is_charged_only_for_what_was_produced() {
    let mut settings = Settings::default();
    settings.models[4].output_tokens = TokenRange::fixed(1_000);
    let (sim, transport) = start(settings);
    let response = transport.send(ask("x", true)).await.unwrap();
    let mut chunks = response.body;
    for _ in 0..6 {
        chunks.next().await.unwrap().unwrap();
    }
    assert_eq!(sim.stats().in_flight, 1);
    drop(chunks);
    let stats = sim.stats();
    assert_eq!(
        (stats.in_flight, stats.aborted, stats.output_tokens),
        (0, 1, 12)
    );
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_a_minute_begins_and_ends_on_time() {
    let settings = with([Fault::new(FaultKind::Overloaded)
        .between(Duration::from_secs(60), Duration::from_secs(120))]);
    let (sim, transport) = start(settings);
    let began = Instant::now();
    for second in 0..180 {
        tokio::time::sleep_until(began + Duration::from_secs(second)).await;
        let asked = ask(&format!("call {second}"), true);
        let response = transport.send(asked).await.unwrap();
        let out = (60..120).contains(&second);
        assert_eq!(
            response.status.as_u16(),
            if out { 529 } else { 200 },
            "{second}"
        );
    }
    assert_eq!(
        (sim.stats().answered(529), sim.stats().answered(200)),
        (60, 120)
    );
}

async fn transcript(seed: u64) -> Vec<u8> {
    let settings = Settings {
        seed,
        ..with([
            Fault::new(FaultKind::Overloaded).with_probability(0.3),
            Fault::new(FaultKind::CutStream).with_probability(0.3),
        ])
    };
    let (_, transport) = start(settings);
    let mut all = Vec::new();
    for n in 0..40 {
        let got = send(&transport, ask(&format!("call {}", n % 20), n % 2 == 0))
            .await
            .unwrap();
        all.extend_from_slice(format!("{} {:?}", got.status, got.headers).as_bytes());
        all.extend_from_slice(&got.body);
    }
    all
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_bytes_and_another_gives_others() {
    let first = transcript(5).await;
    assert!(first == transcript(5).await);
    assert!(first != transcript(6).await);
}

#[tokio::test(start_paused = true)]
async fn a_fault_on_the_first_attempt_lets_the_second_through() {
    let (_, transport) = start(with([Fault::new(FaultKind::Overloaded).on_attempts(1, 1)]));
    assert_eq!(send(&transport, ask("x", true)).await.unwrap().status, 529);
    assert_eq!(send(&transport, ask("y", true)).await.unwrap().status, 529);
    assert_eq!(send(&transport, ask("x", true)).await.unwrap().status, 200);
}

#[tokio::test(start_paused = true)]
async fn the_network_and_the_model_take_their_time() {
    let mut settings = Settings {
        network: Delay::fixed(Duration::from_millis(20)),
        ..Settings::default()
    };
    settings.models[4].ttft = Delay::fixed(Duration::from_millis(600));
    settings.models[4].tokens_per_second = 100.0;
    settings.models[4].output_tokens = TokenRange::fixed(50);
    let (_, transport) = start(settings);
    let began = Instant::now();
    let response = transport.send(ask("x", true)).await.unwrap();
    assert_eq!(began.elapsed().as_millis(), 340);
    drop(response.body.collect::<Vec<_>>().await);
    assert_eq!(began.elapsed().as_millis() / 10, 114);
    let began = Instant::now();
    drop(send(&transport, ask("x", false)).await);
    assert_eq!(began.elapsed().as_millis() / 10, 114);
}

#[tokio::test(start_paused = true)]
async fn a_reset_forgets_the_counters_and_keeps_what_is_in_flight() {
    let (sim, transport) = start(Settings::default());
    let response = transport.send(ask("x", true)).await.unwrap();
    sim.reset();
    assert_eq!((sim.stats().attempts, sim.stats().in_flight), (0, 1));
    drop(response);
    assert_eq!(sim.stats().in_flight, 0);
}

proptest! {
    #[test]
    fn no_request_makes_a_panic(path in "/[a-z0-9/_]{0,20}", body in any::<Vec<u8>>(), messages in any::<bool>()) {
        let sim = Sim::new(Settings::default()).unwrap();
        let mut asked = ask("x", false);
        if !messages {
            asked.uri = path.parse().unwrap();
        }
        asked.body = body.into();
        drop(Arc::clone(&sim).answer(&asked, Instant::now()));
        assert_eq!(sim.stats().in_flight, 0);
    }
}
