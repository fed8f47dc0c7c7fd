//! A spend cap stops its quota until its date; the next rung answers at once, and one alert is raised.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use seawall::client::Seawall;
use seawall::client::ask::{Ask, ReplyBody};
use seawall::config::{Config, Environment, Overrides};
use seawall::transport::{Body, Request, Response, Transport, TransportError};
use tokio::time::{Instant, advance};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

const CONFIG: &str = r#"
[targets.capped]
base_url = "https://capped.example"
model = "claude-sonnet-5-5"
api_key_env = "A"
[targets.other]
base_url = "https://other.example"
model = "claude-haiku-5-5"
api_key_env = "B"
[routes.default]
ladder = ["capped", "other"]
"#;

const CAPPED: &str = r#"{"type":"error","error":{"type":"rate_limit_error","message":"You will regain access soon.","details":{"error_code":"contract_spend_limit_reached"}}}"#;
const ANSWER: &str = r#"{"type":"message","role":"assistant","content":[{"type":"text","text":"hi"}],"stop_reason":"end_turn","usage":{"input_tokens":8,"output_tokens":2}}"#;
const STREAMED: &[u8] = br#""stream":true"#;
const STREAM: &str = r#"event: message_start
data: {"type":"message_start","message":{"type":"message","role":"assistant","content":[],"usage":{"input_tokens":8,"output_tokens":1}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"hi"}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":2}}

event: message_stop
data: {"type":"message_stop"}

"#;

/// One host whose money is spent, and one that answers.
#[derive(Debug, Default)]
struct Provider {
    capped: AtomicU64,
    answered: AtomicU64,
    /// What the first host says after it has begun an answer, each event for itself.
    begun: Option<String>,
}

impl Transport for Provider {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        let capped = request.uri.host() == Some("capped.example");
        let (count, status, body) = match &self.begun {
            Some(begun) if capped => (&self.capped, StatusCode::OK, begun.clone()),
            None if capped => (
                &self.capped,
                StatusCode::TOO_MANY_REQUESTS,
                CAPPED.to_owned(),
            ),
            _ if request
                .body
                .windows(STREAMED.len())
                .any(|part| part == STREAMED) =>
            {
                (&self.answered, StatusCode::OK, STREAM.to_owned())
            }
            _ => (&self.answered, StatusCode::OK, ANSWER.to_owned()),
        };
        count.fetch_add(1, Ordering::Relaxed);
        let mut headers = HeaderMap::new();
        let kind = if body.starts_with("event") {
            "text/event-stream"
        } else {
            "application/json"
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        let pieces: Vec<_> = body
            .split_inclusive("\n\n")
            .map(|piece| Ok(Bytes::copy_from_slice(piece.as_bytes())))
            .collect();
        let response = Response {
            status,
            headers,
            body: Body::from_stream(futures_util::stream::iter(pieces)),
        };
        async move { Ok(response) }.boxed()
    }
}

/// Counts the lines that somebody is woken up for.
#[derive(Clone, Default)]
struct Alerts(Arc<AtomicU64>);

impl<S: Subscriber> Layer<S> for Alerts {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() == Level::ERROR {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn call(seawall: &Seawall) -> Duration {
    let body = r#"{"model":"claude-sonnet-5-5","max_tokens":9,"messages":[{"role":"user","content":"Hello"}]}"#;
    let began = Instant::now();
    let answered = seawall.call(Ask::messages(
        HeaderMap::new(),
        Bytes::from_static(body.as_bytes()),
    ));
    assert_eq!(answered.await.unwrap().report.rung.as_ref(), "other");
    began.elapsed()
}

async fn start(provider: Provider) -> (Seawall, Arc<Provider>) {
    let environment = Environment::from_fn(|name| Some(format!("key-{name}")));
    let config = Config::parse(CONFIG, Path::new(""), &Overrides::default(), &environment).unwrap();
    let provider = Arc::new(provider);
    let seawall = Seawall::builder()
        .config(config)
        .transport(Arc::clone(&provider) as Arc<dyn Transport>)
        .seed(1)
        .start()
        .await
        .unwrap();
    (seawall, provider)
}

/// The same word where the status said that the request was accepted: as a stream's first event, in the
/// middle of one that has been released, and as the body of an answer that is not streamed.
#[tokio::test(start_paused = true)]
async fn a_spend_cap_inside_an_answer_stops_its_quota_and_alerts_once_too() {
    const START: &str = r#"{"type":"message_start","message":{"type":"message","role":"assistant","content":[],"usage":{"input_tokens":8,"output_tokens":1}}}"#;
    const BLOCK: &str =
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#;
    const TEXT: &str =
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"hi"}}"#;
    let error = format!("event: error\ndata: {CAPPED}\n\n");
    let after_content = format!(
        "event: message_start\ndata: {START}\n\nevent: content_block_start\ndata: {BLOCK}\n\n\
         event: content_block_delta\ndata: {TEXT}\n\n{error}"
    );
    for (begun, streamed, first) in [
        (error, true, "other"),
        (after_content, true, "capped"),
        (CAPPED.to_owned(), false, "other"),
    ] {
        let alerts = Alerts::default();
        let subscriber = tracing_subscriber::registry().with(alerts.clone());
        let _guard = tracing::subscriber::set_default(subscriber);
        let provider = Provider {
            begun: Some(begun),
            ..Provider::default()
        };
        let (seawall, provider) = start(provider).await;
        let body = format!(
            r#"{{"model":"claude-sonnet-5-5","max_tokens":9,"stream":{streamed},"messages":[{{"role":"user","content":"Hello"}}]}}"#
        );
        let answered = seawall.forward(Ask::messages(HeaderMap::new(), body.into()));
        let answered = answered.await.unwrap();
        assert_eq!(answered.report.rung.as_ref(), first);
        if let ReplyBody::Stream(mut events) = answered.body {
            while events.next().await.is_some() {}
        }
        for _ in 0..5 {
            call(&seawall).await;
        }
        let met = provider.capped.load(Ordering::Relaxed);
        assert_eq!((met, alerts.0.load(Ordering::Relaxed)), (1, 1), "{first}");
        seawall.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_spend_cap_stops_its_quota_and_alerts_once() {
    let alerts = Alerts::default();
    let subscriber = tracing_subscriber::registry().with(alerts.clone());
    let _guard = tracing::subscriber::set_default(subscriber);
    let (seawall, provider) = start(Provider::default()).await;
    let met = || provider.capped.load(Ordering::Relaxed);

    for _ in 0..20 {
        assert!(
            call(&seawall).await < Duration::from_secs(1),
            "nothing to wait for"
        );
    }
    assert_eq!((met(), alerts.0.load(Ordering::Relaxed)), (1, 1));
    assert_eq!(provider.answered.load(Ordering::Relaxed), 20);

    // A cap of unknown end is looked at again after ten minutes, and is a new stop then.
    advance(Duration::from_secs(601)).await;
    for _ in 0..20 {
        call(&seawall).await;
    }
    assert_eq!((met(), alerts.0.load(Ordering::Relaxed)), (2, 2));
    let stopped = seawall.snapshot().limiters;
    assert!(
        stopped
            .iter()
            .any(|limiter| limiter.quota.stopped_until.is_some())
    );
    seawall.stop().await;
}
