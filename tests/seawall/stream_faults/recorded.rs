//! Every recorded stream through the library: byte for byte, in whatever chunks it comes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue};
use seawall::client::Seawall;
use seawall::client::ask::{Ask, ReplyBody};
use seawall::config::{Config, Environment, Overrides};
use seawall::delivery::{Delivery, Hold};
use seawall::error::Error;
use seawall::sim::recordings::{Recording, Recordings};

const CONFIG: &str = "[routes.default]\nladder = [\"up\"]\nretry = { attempts = 1 }\n\
    [targets.up]\nbase_url = \"http://recorded\"\n";

/// Whole, and cut in four ways.
const CUTS: [Option<u64>; 5] = [None, Some(1), Some(2), Some(3), Some(4)];

const DELIVERIES: [Delivery; 3] = [
    Delivery::AsItComes,
    Delivery::Complete,
    Delivery::Hold(Hold::new(50, std::time::Duration::from_millis(500))),
];

fn is_stream(recording: &Recording) -> bool {
    let kind = recording.headers.get("content-type");
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
        && recording.status == 200
        && recording.path.starts_with("/v1/messages")
}

/// Everything that the caller gets of one recording.
async fn pass(
    seawall: &Seawall,
    recording: &Recording,
    how: (Delivery, Option<u64>, usize),
) -> Bytes {
    let (delivery, cut, number) = how;
    let mut headers = HeaderMap::new();
    // A key for each, since some of them stop the quota of theirs, or open the breaker.
    let key = format!("sk-{number}-{delivery}-{}", cut.unwrap_or_default());
    let key = HeaderValue::try_from(key).unwrap();
    headers.insert("x-api-key", key);
    headers.insert(
        "x-sim-recording",
        HeaderValue::try_from(&recording.id).unwrap(),
    );
    if let Some(seed) = cut {
        headers.insert("x-sim-chunks", HeaderValue::from(seed));
    }
    let mut ask = Ask::messages(headers, recording.request_body.clone());
    ask.query = recording
        .path
        .split_once('?')
        .map(|(_, query)| query.to_owned());
    ask.delivery = Some(delivery);
    match Box::pin(seawall.forward(ask)).await {
        Ok(reply) => match reply.body {
            ReplyBody::Stream(mut stream) => {
                let mut all = BytesMut::new();
                while let Some(chunk) = stream.next().await {
                    all.extend_from_slice(&chunk);
                }
                all.freeze()
            }
            ReplyBody::Whole(bytes) => bytes,
            other => panic!("{}: {other:?}", recording.id),
        },
        // The provider's own error was all there was.
        Err(Error::Provider { body, .. }) => body,
        Err(error) => panic!("{}: {error:?}", recording.id),
    }
}

#[tokio::test(start_paused = true)]
async fn every_recorded_stream_passes_byte_for_byte_at_any_chunking() {
    let Some(root) = std::env::var_os("SEAWALL_RECORDINGS").map(PathBuf::from) else {
        println!("skipped: SEAWALL_RECORDINGS names no recordings");
        return;
    };
    let recordings = Recordings::load(&root.join("anthropic")).unwrap();
    let environment = Environment::from_fn(|_| None);
    let config = Config::parse(
        CONFIG,
        Path::new("seawall.toml"),
        &Overrides::default(),
        &environment,
    );
    let seawall = Seawall::builder()
        .config(config.unwrap())
        .transport(Arc::new(recordings.transport()))
        .seed(1)
        .start()
        .await
        .unwrap();
    let streams: Vec<&Recording> = recordings.all().iter().filter(|r| is_stream(r)).collect();
    assert!(!streams.is_empty());
    for (number, recording) in streams.iter().enumerate() {
        for delivery in DELIVERIES {
            for cut in CUTS {
                let passed = pass(&seawall, recording, (delivery, cut, number)).await;
                assert!(
                    passed == recording.body,
                    "{}: {delivery}, {cut:?}",
                    recording.id
                );
            }
        }
    }
    println!(
        "{} streams, each {} times",
        streams.len(),
        DELIVERIES.len() * CUTS.len()
    );
    seawall.stop().await;
}
