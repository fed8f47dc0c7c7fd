//! One stream in ten goes wrong, twenty streams a second, all delivered whole.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use seawall::client::Seawall;
use seawall::client::ask::{Ask, ReplyBody};
use seawall::delivery::Delivery;
use seawall::profile::Profile;
use seawall::sim::{Fault, FaultKind, ModelSettings, Settings, Sim, TokenRange, request_tag};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::process::{Gateway, sim};
use crate::stream_faults::case::{UP, client, headers, idle};
use crate::stream_faults::reading::{End, Message, read};
use crate::stream_faults::tap::Tap;

/// Streams a second.
const RATE: u32 = 20;

/// A tenth of the streams, over the ways to break off. A later entry is drawn for those streams that
/// the ones before it spare.
fn one_in_ten() -> Vec<Fault> {
    let kinds = [
        FaultKind::StallInStream,
        FaultKind::StallBeforeContent,
        FaultKind::CutStream,
        FaultKind::ResetAfterHeaders,
        FaultKind::StreamError,
        FaultKind::MissingStop,
        FaultKind::TruncatedJson,
        FaultKind::MalformedEvent,
    ];
    let fault = |(n, kind): (u32, FaultKind)| {
        let counts = !matches!(kind, FaultKind::StallBeforeContent | FaultKind::MissingStop);
        Fault {
            after_events: counts.then_some(3 + 2 * n),
            ..Fault::new(kind).with_probability(0.1 / 8.0 * 1.05)
        }
    };
    (0..).zip(kinds).map(fault).collect()
}

fn provider(seed: u64, pace: f64, output: TokenRange) -> Settings {
    let model = ModelSettings {
        output_tokens: output,
        tokens_per_second: pace,
        tokens_per_delta: 8,
        ..ModelSettings::of("claude-")
    };
    Settings {
        seed,
        models: vec![model],
        faults: one_in_ten(),
        ..Settings::default()
    }
}

fn body(n: u32) -> Bytes {
    let body = json!({
        "model": "claude-sonnet-5-5", "max_tokens": 512, "stream": true,
        "messages": [{ "role": "user", "content": format!("How high is wave {n}?") }],
    });
    body.to_string().into()
}

/// What became of all calls.
#[derive(Debug, Default)]
struct Tally {
    whole: u32,
    failed: Vec<String>,
    late: u32,
    tags: HashSet<String>,
}

impl Tally {
    /// Notes an answer: it has to be the one to this request, and no other had it.
    fn take(
        &mut self,
        body: &[u8],
        answer: Result<Message, String>,
        took: Duration,
        limit: Duration,
    ) {
        if took > limit {
            self.late += 1;
        }
        let message = match answer {
            Ok(message) if message.end == End::Whole => message,
            Ok(message) => return self.failed.push(format!("{:?}", message.end)),
            Err(error) => return self.failed.push(error),
        };
        let tag = request_tag(body);
        let text = message.text();
        assert!(text.starts_with(&format!("[{tag}] ")), "another's answer");
        assert_eq!(text.matches('[').count(), 1, "two answers in one");
        let written = u64::try_from(text.len()).unwrap().div_ceil(4);
        assert_eq!(
            message.usage["output_tokens"].as_u64(),
            Some(written),
            "a part of it"
        );
        assert!(self.tags.insert(tag), "delivered twice");
        self.whole += 1;
    }

    fn judge(&self, calls: u32, sim: &Sim) {
        let stats = sim.stats();
        let attempts = u32::try_from(stats.attempts).unwrap();
        println!(
            "{calls} calls, {} whole, {} late, {attempts} attempts",
            self.whole, self.late
        );
        let failed = u32::try_from(self.failed.len()).unwrap();
        assert_eq!((self.late, self.whole + failed), (0, calls));
        // 99.9 %.
        assert!(failed * 1_000 <= calls, "{:?}", self.failed);
        let struck = f64::from(attempts - calls) / f64::from(calls);
        assert!((0.07..0.15).contains(&struck), "{struck}");
        assert_eq!(stats.in_flight, 0);
    }
}

async fn through_the_library(seawall: &Seawall, body: Bytes) -> Result<Message, String> {
    let mut ask = Ask::messages(headers(), body);
    (ask.profile, ask.delivery) = (Some(Profile::AgentStep), Some(Delivery::Complete));
    let reply = Box::pin(seawall.forward(ask)).await;
    let reply = reply.map_err(|error| error.to_string())?;
    let ReplyBody::Stream(stream) = reply.body else {
        return Err("no stream".to_owned());
    };
    let chunks: Vec<Bytes> = stream.collect().await;
    read(&chunks.concat())
}

#[tokio::test(start_paused = true)]
async fn ten_minutes_through_the_library() {
    let calls = RATE * 600;
    let range = TokenRange { from: 40, to: 120 };
    let sim = Sim::new(provider(1, 55.0, range)).unwrap();
    let way = sim.transport();
    let seawall = client(&Tap::new(way.clone(), way, 0), UP).await;
    let began = Instant::now();
    let limit = Profile::AgentStep.timeouts().total;
    let mut tally = Tally::default();
    let mut under_way = FuturesUnordered::new();
    for n in 0..calls {
        let at = began + Duration::from_secs(1) * n / RATE;
        let seawall = &seawall;
        under_way.push(async move {
            let (body, began) = (body(n), Instant::now());
            let answer = through_the_library(seawall, body.clone()).await;
            (body, answer, began.elapsed())
        });
        let mut next = Box::pin(sleep_until(at));
        loop {
            tokio::select! {
                () = &mut next => break,
                Some((body, answer, took)) = under_way.next() => tally.take(&body, answer, took, limit),
            }
        }
    }
    while let Some((body, answer, took)) = under_way.next().await {
        tally.take(&body, answer, took, limit);
    }
    drop(under_way);
    idle(&seawall, &[&sim], Duration::from_millis(2)).await;
    tally.judge(calls, &sim);
    seawall.stop().await;
}

/// Stalls are short here: a quarter of a minute has to see many of them.
const CONFIG: &str = r#"
[routes.default]
ladder = ["up"]
profile = "agent_step"
delivery = "complete"
timeouts = { headers = "2s", first_content = "2s", stall = "2s", events = "4s", total = "20s" }
retry = { base = "50ms", cap = "500ms" }
[targets.up]
"#;

#[tokio::test]
async fn a_quarter_of_a_minute_through_the_gateway() {
    const SECONDS: u32 = 15;
    let range = TokenRange { from: 40, to: 80 };
    let mut settings = provider(5, 150.0, range);
    settings.models[0].ttft = "50ms..200ms".parse().unwrap();
    let (address, sim) = sim(settings).await;
    let gateway = Gateway::start(address, CONFIG);
    let began = Instant::now();
    let calls = RATE * SECONDS;
    let limit = Duration::from_secs(20);
    let asked = (0..calls).map(|n| {
        let gateway = &gateway;
        async move {
            sleep_until(began + Duration::from_secs(1) * n / RATE).await;
            let (body, began) = (body(n), Instant::now());
            let answer = gateway
                .post("/v1/messages")
                .body(body.clone())
                .send()
                .await
                .unwrap();
            let bytes = answer.bytes().await.unwrap();
            (body, read(&bytes), began.elapsed())
        }
    });
    let mut tally = Tally::default();
    let mut asked: FuturesUnordered<_> = asked.collect();
    while let Some((body, answer, took)) = asked.next().await {
        tally.take(&body, answer, took, limit);
    }
    gateway.idle().await;
    crate::stream_faults::until("the provider is left", || sim.stats().in_flight == 0).await;
    tally.judge(calls, &sim);
}
