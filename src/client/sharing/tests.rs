use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;
use http::{HeaderMap, StatusCode};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde_json::json;
use tokio::time::{sleep, sleep_until, timeout};

use super::*;
use crate::client::ask::{Fallback, ReplyBody};
use crate::config::{Config, Environment, Overrides};
use crate::sim::{Fault, FaultKind, Settings, Sim};
use crate::verdict::{Judged, Timeout, judge, judge_timeout};

/// One attempt, which may use all of the time.
const ROUTE: &str = "[targets.up]\n[routes.default]\nladder = [\"up\"]\nsingle_flight = true\n\
    retry = { attempts = 1 }\ntimeouts = { headers = \"40s\", first_content = \"40s\", \
    stall = \"40s\", events = \"40s\", total = \"40s\" }\n";

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

async fn seawall(config: &str, faults: Vec<Fault>) -> (Seawall, Arc<Sim>) {
    let sim = Sim::new(Settings {
        faults,
        ..Settings::default()
    })
    .unwrap();
    let config = Config::parse(
        config,
        std::path::Path::new("seawall.toml"),
        &Overrides::default(),
        &Environment::from_fn(|_| None),
    )
    .unwrap();
    let transport = Arc::new(Sim::transport(&sim));
    let builder = Seawall::builder().config(config).transport(transport);
    (builder.seed(1).start().await.unwrap(), sim)
}

fn ask(streams: bool) -> Ask {
    let mut headers = HeaderMap::new();
    headers.insert("x-api-key", "sk-test".parse().unwrap());
    let body = json!({
        "model": "claude-sonnet-5-5", "max_tokens": 200, "stream": streams,
        "messages": [{ "role": "user", "content": "What holds the sea back?" }],
    });
    Ask::messages(headers, Bytes::from(body.to_string()))
}

/// How a call that begins after `at` ends: what it says of itself, its text, and when that is.
async fn call(seawall: &Seawall, ask: Ask, at: Duration) -> (Report, String, Duration) {
    let began = Instant::now();
    sleep_until(began + at).await;
    let reply = seawall.forward(ask).await.unwrap();
    let mut text = String::new();
    match reply.body {
        ReplyBody::Whole(body) => text.push_str(std::str::from_utf8(&body).unwrap()),
        ReplyBody::Stream(mut events) => {
            while let Some(events) = events.next().await {
                text.push_str(std::str::from_utf8(&events).unwrap());
            }
        }
    }
    (reply.report, text, began.elapsed())
}

/// Calls that were counted under this verdict.
fn counted(metrics: &PrometheusHandle, verdict: &str) -> usize {
    let rendered = metrics.render();
    let verdict = format!("verdict=\"{verdict}\"");
    let lines = rendered
        .lines()
        .filter(|line| line.starts_with("seawall_calls_total{") && line.contains(&verdict));
    let counts = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<usize>().ok());
    counts.sum()
}

/// The provider is silent until the first call's time is over.
fn silence() -> Vec<Fault> {
    vec![Fault::new(FaultKind::StallBeforeContent).between(s(0), s(39))]
}

#[tokio::test(start_paused = true)]
async fn who_came_later_goes_on_where_the_firsts_time_is_over() {
    for streams in [false, true] {
        let (seawall, sim) = seawall(ROUTE, silence()).await;
        let first = async {
            let answered = timeout(s(60), seawall.forward(ask(streams))).await.unwrap();
            match answered {
                Err(error) => error.to_string(),
                Ok(reply) => {
                    let ReplyBody::Stream(events) = reply.body else {
                        panic!("an answer");
                    };
                    let events: Vec<Bytes> = events.collect().await;
                    String::from_utf8(events.concat()).unwrap()
                }
            }
        };
        let others = [5, 10, 30].map(|at| call(&seawall, ask(streams), s(at)));
        let (first, others) = tokio::join!(first, join_all(others));
        assert!(!first.contains("message_stop"), "{first}");
        for (report, text, ended) in &others {
            assert!(text.contains("end_turn"), "{text}");
            assert!(*ended > s(40) && *ended < s(45), "{ended:?} {report:?}");
        }
        // They went on as one, and each who waited out loud was kept awake.
        assert_eq!(sim.stats().attempts, 2);
        let shared = others.iter().filter(|other| other.0.cache.is_some());
        if !streams {
            assert_eq!(shared.count(), 2);
        }
        let pinged = others
            .iter()
            .filter(|other| other.1.contains("event: ping\n"));
        assert_eq!(pinged.count() >= 2, streams, "{others:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_call_ends_by_its_own_deadline() {
    let silence = vec![Fault::new(FaultKind::StallBeforeContent)];
    let (seawall, sim) = seawall(ROUTE, silence).await;
    let began = Instant::now();
    let ended = |at| {
        let seawall = &seawall;
        async move {
            sleep(s(at)).await;
            let error = seawall.forward(ask(false)).await.unwrap_err();
            assert_eq!(error.status(), StatusCode::GATEWAY_TIMEOUT, "{error:?}");
            began.elapsed().as_secs_f64().round()
        }
    };
    let ends = join_all([0, 5, 10, 15].map(ended)).await;
    assert_eq!(ends, [40.0, 45.0, 50.0, 55.0]);
    let stats = sim.stats();
    assert_eq!((stats.attempts, stats.max_in_flight), (4, 1));
}

#[tokio::test(start_paused = true)]
async fn a_verdict_of_the_provider_is_everybodys_and_each_has_its_own_record() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    let _recording = metrics::set_default_local_recorder(&recorder);
    for kind in [FaultKind::InvalidRequest, FaultKind::Overloaded] {
        let (seawall, sim) = seawall(ROUTE, vec![Fault::new(kind)]).await;
        let calls = join_all((0..5).map(|_| seawall.forward(ask(false)))).await;
        let mut names = std::collections::HashSet::new();
        let mut attempts = 0;
        for answered in calls {
            let error = answered.unwrap_err();
            let report = error.report().unwrap();
            attempts += report.attempts;
            assert!(names.insert(Arc::clone(&report.call)), "{error:?}");
        }
        assert_eq!((sim.stats().attempts, attempts), (1, 1));
    }
    for verdict in ["invalid_request", "overloaded"] {
        assert_eq!(counted(&metrics, verdict), 5, "{}", metrics.render());
    }
}

#[tokio::test(start_paused = true)]
async fn one_who_leaves_another_s_call_is_recorded_as_having_left() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let (seawall, sim) = seawall(ROUTE, silence()).await;
    let stays = |time| timeout(s(time), seawall.forward(ask(false)));
    let (first, second) = tokio::join!(stays(2), stays(1));
    assert!(first.is_err() && second.is_err());
    tokio::task::yield_now().await;
    assert_eq!((sim.stats().attempts, sim.stats().in_flight), (1, 0));
    let departed = counted(&metrics, Verdict::DEPARTED.label);
    assert_eq!(departed, 2, "{}", metrics.render());
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_all_who_share_at_once() {
    let (seawall, sim) = seawall(ROUTE, silence()).await;
    let began = Instant::now();
    let calls = join_all((0..3).map(|_| seawall.forward(ask(false))));
    let stop = async {
        sleep(s(1)).await;
        assert!(!seawall.drain(Instant::now()).await);
        seawall.end_streams();
    };
    let (calls, ()) = tokio::join!(calls, stop);
    for answered in calls {
        let error = answered.unwrap_err();
        let why = |why: &Rejected| why.why == Rejection::Draining;
        assert!(
            matches!(&error, Error::Refused(rejected) if why(rejected)),
            "{error:?}"
        );
    }
    assert!(began.elapsed() < s(2));
    assert_eq!((sim.stats().attempts, seawall.shared_calls()), (1, 0));
}

/// The real path: one attempt, everybody's answer, one entry, nothing left.
#[tokio::test(start_paused = true)]
async fn calls_that_share_an_attempt_have_the_same_answer_and_keep_it_once() {
    let config = ROUTE.replace("[\"up\"]", "[\"up\", \"cache\"]");
    let (seawall, sim) = seawall(&config, Vec::new()).await;
    let leaves = timeout(Duration::from_millis(1), seawall.forward(ask(true)));
    let stays = || call(&seawall, ask(true), Duration::ZERO);
    let (first, (_, second, _), (_, third, _)) = tokio::join!(leaves, stays(), stays());
    assert!(first.is_err());
    assert!(second.contains("event: message_stop"));
    assert_eq!(second, third);
    assert_eq!(seawall.cache_stats().unwrap().puts, 1);
    let stats = sim.stats();
    assert_eq!(
        (stats.attempts, stats.in_flight, seawall.shared_calls()),
        (1, 0, 0)
    );
}

/// Whoever asks under another credential, as another tenant or under other conditions has another
/// quota, another wait or another number of attempts.
#[tokio::test(start_paused = true)]
async fn who_asks_under_other_conditions_asks_alone() {
    type Change = fn(&mut Ask);
    let changes: [Change; 6] = [
        |_| {},
        |ask| drop(ask.headers.insert("x-api-key", "sk-other".parse().unwrap())),
        |ask| ask.tenant = Some("other".to_owned()),
        |ask| ask.fallback = Fallback::Never,
        |ask| ask.profile = Some(Profile::Standard),
        |ask| ask.client_retries = 1,
    ];
    let cached = ROUTE.replace("[\"up\"]", "[\"up\", \"cache\"]") + "cache = { shared = true }\n";
    for config in [ROUTE, &cached] {
        let (seawall, sim) = seawall(config, Vec::new()).await;
        let calls = changes.map(|change| {
            let mut ask = ask(false);
            change(&mut ask);
            let pair = [ask.clone(), ask].map(|ask| call(&seawall, ask, Duration::ZERO));
            join_all(pair)
        });
        let pairs = join_all(calls).await;
        for pair in pairs {
            assert_eq!(pair[1].0.cache.as_deref(), Some(SHARED));
        }
        assert_eq!(sim.stats().attempts, 6);
    }
}

fn rejected(why: Rejection, wait: Option<u64>) -> Error {
    let mut rejected = Rejected::new(why);
    rejected.retry_after = wait.map(s);
    Error::Refused(rejected)
}

fn unanswered(judged: Judged) -> Error {
    Error::Unanswered {
        judged: Box::new(judged),
        report: Box::new(Report::new("0199".into())),
    }
}

fn provider(status: u16, hint: Option<&str>) -> Error {
    let mut headers = HeaderMap::new();
    if let Some(hint) = hint {
        headers.insert("retry-after", hint.parse().unwrap());
    }
    let status = StatusCode::from_u16(status).unwrap();
    let now = jiff::Timestamp::UNIX_EPOCH;
    unanswered(judge(status, &headers, b"", now))
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_its_calls_own_only_where_more_time_would_have_helped() {
    let now = Instant::now();
    let time = |began: u64| Time {
        began: now + s(began),
        total: s(100),
        patience: s(50),
        backoff: s(8),
    };
    let later = now + s(99);
    let timed_out = unanswered(judge_timeout(Timeout::Total));
    let late = rejected(Rejection::DeadlinePassed, None);
    // The leader began at 0 and failed at 99 s; the follower began as said.
    for (name, error, began, own) in [
        ("deadline", &late, 60, true),
        ("the same deadline", &late, 0, true),
        ("total timeout", &timed_out, 60, true),
        (
            "quota",
            &rejected(Rejection::QuotaExhausted, Some(10)),
            60,
            true,
        ),
        (
            "a longer wait",
            &rejected(Rejection::QuotaExhausted, Some(12)),
            60,
            false,
        ),
        ("breaker", &rejected(Rejection::BreakerOpen, None), 60, true),
        (
            "out of patience too",
            &rejected(Rejection::BreakerOpen, None),
            40,
            false,
        ),
        ("budget", &rejected(Rejection::RetryBudget, None), 60, false),
        (
            "full queue",
            &rejected(Rejection::QueueFull, None),
            60,
            false,
        ),
        ("draining", &rejected(Rejection::Draining, None), 60, false),
        ("stopped", &rejected(Rejection::Stopped, None), 60, false),
        ("no time for a retry", &provider(529, None), 60, true),
        ("none here either", &provider(529, None), 5, false),
        ("no time for the hint", &provider(429, Some("30")), 60, true),
        ("a hint for nobody", &provider(429, Some("70")), 60, false),
        ("invalid", &provider(400, None), 60, false),
        ("credential", &provider(401, None), 60, false),
        ("panic", &Error::Panicked("a bug".to_owned()), 60, false),
    ] {
        assert_eq!(is_own(error, (time(0), time(began)), later), own, "{name}");
    }
    // Long before its deadline a leader that gives up has made all of its attempts.
    let early = now + s(20);
    assert!(!is_own(&provider(529, None), (time(0), time(15)), early));
    // Who has nothing left either has the same word.
    assert!(!is_own(&late, (time(0), time(0)), now + s(100)));
}
