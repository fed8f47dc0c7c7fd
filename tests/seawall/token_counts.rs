//! Large prompts are counted by the provider before anything is reserved for them; where that fails, or
//! takes long, the estimate stands.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use http::{HeaderMap, HeaderValue, StatusCode};
use parking_lot::Mutex;
use seawall::client::Seawall;
use seawall::client::ask::Ask;
use seawall::config::{Config, Environment, Overrides};
use seawall::estimate::input_tokens;
use seawall::provider::anthropic::request::{RequestView, counted, counting_body};
use seawall::sim::{Settings, Sim};
use seawall::transport::{Body, Request, Response, Transport, TransportError};
use tokio::time::Instant;

/// What becomes of a count on its way.
#[derive(Debug, Clone, Copy)]
enum Counting {
    Works,
    Fails,
    Hangs,
}

/// Between the client and the simulated provider: notes what was reserved when each request left.
#[derive(Debug)]
struct Between {
    provider: Arc<dyn Transport>,
    counting: Counting,
    seawall: OnceLock<Seawall>,
    sent: Mutex<Vec<(String, u64)>>,
}

impl Transport for Between {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        let limiters = self.seawall.get().unwrap().snapshot().limiters;
        let reserved = limiters.iter().map(|l| l.quota.outstanding.input).sum();
        let path = request.uri.path().to_owned();
        let counts = path.ends_with("/count_tokens");
        self.sent.lock().push((path, reserved));
        match self.counting {
            Counting::Fails if counts => async {
                Ok(Response {
                    status: StatusCode::INTERNAL_SERVER_ERROR,
                    headers: HeaderMap::new(),
                    body: Body::from_bytes(Bytes::new()),
                })
            }
            .boxed(),
            Counting::Hangs if counts => std::future::pending().boxed(),
            _ => self.provider.send(request),
        }
    }
}

async fn between(counting: Counting) -> (Arc<Between>, Seawall) {
    let text = "[targets.a]\nbase_url = \"http://provider.example\"\ncount_tokens_above = 2_000\n";
    let environment = Environment::from_fn(|_| None);
    let config = Config::parse(text, Path::new(""), &Overrides::default(), &environment).unwrap();
    let sim = Sim::new(Settings::default()).unwrap();
    let between = Arc::new(Between {
        provider: Arc::new(sim.transport()),
        counting,
        seawall: OnceLock::new(),
        sent: Mutex::default(),
    });
    let builder = Seawall::builder().config(config).seed(1);
    let transport = Arc::clone(&between) as Arc<dyn Transport>;
    let seawall = builder.transport(transport).start().await.unwrap();
    between.seawall.set(seawall.clone()).unwrap();
    (between, seawall)
}

fn body(characters: usize) -> Bytes {
    let text = "word ".repeat(characters / 5);
    let body = format!(
        r#"{{"model":"claude-sonnet-5-5","max_tokens":16,"messages":[{{"role":"user","content":"{text}"}}]}}"#
    );
    Bytes::from(body)
}

async fn call(seawall: &Seawall, body: &Bytes) -> Duration {
    let began = Instant::now();
    seawall
        .call(Ask::messages(headers(), body.clone()))
        .await
        .unwrap();
    began.elapsed()
}

fn headers() -> HeaderMap {
    [
        ("x-api-key", "sk-1"),
        ("anthropic-version", "2023-06-01"),
        ("content-type", "application/json"),
    ]
    .into_iter()
    .map(|(name, value)| {
        let value = HeaderValue::from_static(value);
        (http::HeaderName::from_static(name), value)
    })
    .collect()
}

fn estimated(body: &Bytes) -> u64 {
    let view = RequestView::parse(body).unwrap();
    input_tokens("claude-sonnet-5-5", &view.counts)
}

const COUNT: &str = "/v1/messages/count_tokens";
const MESSAGES: &str = "/v1/messages";

fn sent(between: &Between) -> Vec<(String, u64)> {
    std::mem::take(&mut *between.sent.lock())
}

#[tokio::test(start_paused = true)]
async fn a_large_prompt_is_reserved_as_the_provider_counts_it() {
    let (between, seawall) = between(Counting::Works).await;
    let large = body(40_000);
    // What the provider itself says of the same prompt.
    let request = Request {
        method: http::Method::POST,
        uri: format!("http://provider.example{COUNT}").parse().unwrap(),
        headers: headers(),
        body: counting_body(&large).unwrap(),
    };
    let mut answer = between.provider.send(request).await.unwrap();
    let mut told = Vec::new();
    while let Some(chunk) = answer.body.next().await {
        told.extend_from_slice(&chunk.unwrap());
    }
    let told = counted(&told).expect("a count");
    assert_ne!(told, estimated(&large), "else this shows nothing");

    call(&seawall, &large).await;
    let expected = [(COUNT.to_owned(), 0), (MESSAGES.to_owned(), told)];
    assert_eq!(sent(&between), expected);

    call(&seawall, &body(100)).await;
    let small: Vec<String> = sent(&between).into_iter().map(|(path, _)| path).collect();
    assert_eq!(small, [MESSAGES], "a small prompt is not counted");
    assert!(
        seawall
            .snapshot()
            .limiters
            .iter()
            .all(|l| l.quota.in_flight == 0)
    );
    seawall.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_count_that_fails_or_hangs_leaves_the_estimate() {
    for (counting, longest) in [
        (Counting::Fails, Duration::from_secs(60)),
        (Counting::Hangs, Duration::from_secs(62)),
    ] {
        let (between, seawall) = between(counting).await;
        let large = body(40_000);
        let took = call(&seawall, &large).await;
        assert!(took < longest, "{counting:?}: {took:?}");
        let expected = [
            (COUNT.to_owned(), 0),
            (MESSAGES.to_owned(), estimated(&large)),
        ];
        assert_eq!(sent(&between), expected, "{counting:?}");
        assert!(
            seawall
                .snapshot()
                .limiters
                .iter()
                .all(|l| l.quota.in_flight == 0)
        );
        seawall.stop().await;
    }
}
