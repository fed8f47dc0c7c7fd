//! The faults that bytes make, through `seawall serve` as a process, over real sockets.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::join_all;
use seawall::sim::{Arrival, Fault, FaultKind, Settings, Sim};
use tokio::time::Instant;

use super::rig::{SEEDS, both_undisturbed, events_of, settings};
use super::row::{Answer, By, FALLBACK, Form, Row, Seen, head, judge};
use crate::process::{Gateway, sim};

/// Shorter than in virtual time, and long enough for a busy machine to be on time.
const ROUTE: &str = r#"
[gateway]
log_format = "json"
[routes.default]
ladder = ["primary", "fallback"]
profile = "agent_step"
delivery = "complete"
retry = { attempts = 3, base = "50ms", cap = "200ms" }
timeouts = { connect = "2s", headers = "2s", first_content = "3s", stall = "3s", events = "3s", total = "40s" }
"#;

/// Both providers and the gateway in front of them.
pub(crate) struct Served {
    pub(crate) primary: Arc<Sim>,
    pub(crate) fallback: Arc<Sim>,
    pub(crate) gateway: Gateway,
}

impl Served {
    pub(crate) async fn start(faults: Vec<Fault>) -> Self {
        let at_once = |settings| Settings {
            instant: true,
            ..settings
        };
        let [primary, fallback] = SEEDS;
        let (at, primary) = sim(at_once(settings(primary, faults))).await;
        let (below, fallback) = sim(at_once(settings(fallback, Vec::new()))).await;
        let target =
            |name: &str, at: SocketAddr| format!("[targets.{name}]\nbase_url = \"http://{at}\"\n");
        let config = format!(
            "{ROUTE}{}{}model = \"{FALLBACK}\"\n",
            target("primary", at),
            target("fallback", below)
        );
        Self {
            primary,
            fallback,
            gateway: Gateway::start(None, &config),
        }
    }

    /// One call that the fallback answers, and the call's id.
    pub(crate) async fn ask(&self, body: String) -> (Answer, String) {
        let answer = self.gateway.post("/v1/messages").body(body).send().await;
        let answer = answer.unwrap();
        let status = answer.status().as_u16();
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("x-seawall-rung"), "fallback");
        let call = header("x-seawall-call");
        (Answer::read(status, &answer.bytes().await.unwrap()), call)
    }
}

/// A model of its own for each row, and so a breaker of its own.
const MODELS: [&str; 10] = [
    "claude-sonnet-5-10",
    "claude-sonnet-5-11",
    "claude-sonnet-5-12",
    "claude-sonnet-5-13",
    "claude-sonnet-5-14",
    "claude-sonnet-5-15",
    "claude-sonnet-5-16",
    "claude-sonnet-5-17",
    "claude-sonnet-5-18",
    "claude-sonnet-5-19",
];

/// Each row in one form. Silence that is not streamed has only the total's clock, which is too long
/// for a test in real time.
async fn rows() -> Vec<(Row, bool)> {
    use FaultKind as K;
    let cut = Fault {
        after_events: Some(events_of(40).await),
        ..Fault::new(K::CutStream)
    };
    let malformed = Fault {
        after_events: cut.after_events,
        ..Fault::new(K::MalformedEvent)
    };
    let rows = [
        (
            "reset before headers",
            Fault::new(K::ResetBeforeHeaders),
            Form::Both,
        ),
        ("silence", Fault::new(K::NoAnswer), Form::Streamed),
        (
            "silence after the headers",
            Fault::new(K::StallBeforeContent),
            Form::Streamed,
        ),
        ("cut at 40 of 60 tokens", cut, Form::Both),
        ("malformed event", malformed, Form::Both),
        ("no end marker", Fault::new(K::MissingStop), Form::Both),
    ];
    let mut models = MODELS.into_iter();
    let mut played = Vec::new();
    for (name, fault, form) in rows {
        let row = Row::new(name, None, By::Fallback)
            .in_form(form)
            .takes(0.0..=20.0);
        for &stream in row.forms() {
            let model = models.next().unwrap();
            let mut row = row.clone().of_model(model);
            row.prompt = format!("{name}, stream {stream}");
            row.faults = vec![fault.clone().on_model(model)];
            played.push((row, stream));
        }
    }
    assert!(models.next().is_none());
    played
}

#[tokio::test]
async fn what_bytes_can_do_ends_in_the_whole_answer_over_sockets_too() {
    let rows = rows().await;
    let faults = rows.iter().flat_map(|(row, _)| row.faults.clone());
    let served = Served::start(faults.collect()).await;
    let play = async |row: &Row, stream: bool| {
        let began = Instant::now();
        let (answer, _) = served.ask(row.body(stream)).await;
        (answer, began.elapsed())
    };
    let got = join_all(rows.iter().map(|(row, stream)| play(row, *stream))).await;
    served.gateway.idle().await;
    println!("{}", head());
    let fallback = served.fallback.arrivals();
    assert_eq!(fallback.len(), rows.len());
    for ((row, stream), (answer, took)) in rows.iter().zip(got) {
        let own = |arrival: &Arrival| arrival.model == row.model;
        let mut primary = served.primary.arrivals();
        primary.retain(own);
        let seen = Seen {
            answer,
            undisturbed: both_undisturbed(row, *stream).await,
            took,
            primary,
            // All calls meet there under one model; each is answered once.
            fallback: fallback[..1].to_vec(),
            messages: Vec::new(),
        };
        println!("{}", judge(row, *stream, &seen));
    }
}
