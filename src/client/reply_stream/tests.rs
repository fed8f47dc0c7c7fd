use futures_util::StreamExt;
use http::HeaderMap;
use jiff::Timestamp;
use seawall_actors::policy::ladder::Cause;
use serde_json::json;

use super::*;
use crate::cache::Entry;
use crate::client::Seawall;
use crate::client::ask::Ask;
use crate::config::{Config, Environment, Overrides};
use crate::message::Message;
use crate::sim::{Fault, FaultKind, Settings, Sim};

const LARGEST: usize = 1 << 20;

async fn seawall(config: &str, faults: Vec<Fault>) -> (Seawall, Arc<Sim>) {
    let sim = Sim::new(Settings {
        faults,
        ..Settings::default()
    })
    .unwrap();
    let transport = Arc::new(Sim::transport(&sim));
    let file = std::path::Path::new("seawall.toml");
    let config = Config::parse(
        config,
        file,
        &Overrides::default(),
        &Environment::from_fn(|_| None),
    )
    .unwrap();
    let built = Seawall::builder()
        .config(config)
        .transport(transport)
        .seed(1)
        .start();
    (built.await.unwrap(), sim)
}

fn ask() -> Ask {
    let mut headers = HeaderMap::new();
    headers.insert("x-api-key", "sk-test".parse().unwrap());
    let body = json!({
        "model": "claude-sonnet-5-5", "max_tokens": 200, "stream": true,
        "messages": [{ "role": "user", "content": "What holds the sea back?" }],
    });
    Ask::messages(headers, Bytes::from(body.to_string()))
}

type Kept = Arc<parking_lot::Mutex<Vec<Entry>>>;

/// The answer's stream, recorded into the list.
async fn recorded(seawall: &Seawall) -> (Reply, Kept) {
    let mut reply = seawall.forward(ask()).await.unwrap();
    let kept = Kept::default();
    let ReplyBody::Stream(stream) = reply.body else {
        panic!("no stream");
    };
    let recording = Recording::new(reply.status, &reply.headers, LARGEST);
    let list = Arc::clone(&kept);
    reply.body = ReplyBody::Stream(stream.recorded(recording, move |recording| {
        list.lock()
            .push(recording.finish(Timestamp::UNIX_EPOCH).unwrap());
    }));
    (reply, kept)
}

fn stream(reply: Reply) -> ReplyStream {
    match reply.body {
        ReplyBody::Stream(stream) => stream,
        ReplyBody::Whole(body) => panic!("{body:?}"),
    }
}

async fn read(mut stream: ReplyStream) -> String {
    let mut all = String::new();
    while let Some(events) = stream.next().await {
        all.push_str(std::str::from_utf8(&events).unwrap());
    }
    all
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_well_is_kept_once_and_says_the_same() {
    let (seawall, _) = seawall("", Vec::new()).await;
    let whole = seawall.call(ask()).await.unwrap().message;
    let (reply, kept) = recorded(&seawall).await;
    let text = read(stream(reply)).await;
    assert!(text.ends_with("\n\n"));
    let kept = std::mem::take(&mut *kept.lock());
    assert_eq!(kept.len(), 1);
    let message = Message::from_body(kept[0].body()).unwrap();
    assert_eq!(message.content, whole.content);

    // A reader who has the last event has it all.
    let (reply, kept) = recorded(&seawall).await;
    let mut stream = stream(reply);
    let mut text = String::new();
    while !text.contains("event: message_stop") {
        let events = stream.next().await.unwrap();
        text.push_str(std::str::from_utf8(&events).unwrap());
    }
    assert!(kept.lock().is_empty());
    drop(stream);
    assert_eq!(kept.lock().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_breaks_off_or_is_left_is_not_kept() {
    let cut = Fault {
        after_events: Some(8),
        ..Fault::new(FaultKind::CutStream)
    };
    let (broken, _) = seawall("", vec![cut]).await;
    let (reply, kept) = recorded(&broken).await;
    assert!(read(stream(reply)).await.contains("event: error"));
    assert!(kept.lock().is_empty());

    let (seawall, sim) = seawall("", Vec::new()).await;
    let (reply, kept) = recorded(&seawall).await;
    let mut stream = stream(reply);
    stream.next().await.unwrap();
    drop(stream);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!((kept.lock().len(), sim.stats().in_flight), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_finished_for_nobody_is_kept() {
    let config = "[routes.default]\nladder = [\"up\"]\non_disconnect = \"finish\"\n[targets.up]\n";
    let (seawall, sim) = seawall(config, Vec::new()).await;
    let (reply, kept) = recorded(&seawall).await;
    let mut stream = stream(reply);
    stream.next().await.unwrap();
    drop(stream);
    assert!(kept.lock().is_empty());
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!((kept.lock().len(), sim.stats().in_flight), (1, 0));
}

#[test]
fn a_late_mark_names_the_cause_as_configurations_do() {
    let report = Report {
        rung: "larger".into(),
        cause: Some(Cause::TooLarge),
        ..Report::new("c".into())
    };
    let marked = mark(&report).expect("a mark");
    assert_eq!(
        marked,
        ": x-seawall-rung: larger\n: x-seawall-cause: context_too_long\n\n"
    );
    let plain = Report {
        cause: None,
        ..report
    };
    assert_eq!(mark(&plain), None);
}
