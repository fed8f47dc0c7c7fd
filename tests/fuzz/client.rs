//! The client itself between a provider that sends spoiled streams and a caller: what the caller
//! gets is a whole message, or whole events and then why there are no more.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bolero::check;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use http::{HeaderMap, HeaderValue, StatusCode};
use seawall::client::Seawall;
use seawall::client::ask::{Ask, ReplyBody};
use seawall::config::{Config, Delivery, Environment, Overrides};
use seawall::provider::anthropic::stream::End;
use seawall::transport::{Body, Broken, Request, Response, Transport, TransportError};

use crate::events::{self, spoil, whole, write};
use crate::reference::read;
use crate::source::{FEW, Source, Tally, bytes_of};
use crate::watch::Forwarder;

/// Answers with the first stream once, then always with the second.
#[derive(Debug)]
struct Script {
    first: Vec<Bytes>,
    /// Whether the connection breaks behind the first.
    breaks: bool,
    second: Bytes,
    asked: AtomicBool,
}

impl Transport for Script {
    fn send(&self, _: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        let body = if self.asked.swap(true, Ordering::SeqCst) {
            Body::from_bytes(self.second.clone())
        } else {
            let broken = self
                .breaks
                .then(|| Err(TransportError::new(Broken::InBody)));
            let chunks: Vec<_> = self.first.iter().cloned().map(Ok).chain(broken).collect();
            Body::from_stream(stream::iter(chunks))
        };
        let kind = HeaderValue::from_static("text/event-stream");
        let response = Response {
            status: StatusCode::OK,
            headers: [("content-type".parse().unwrap(), kind)]
                .into_iter()
                .collect(),
            body,
        };
        async { Ok(response) }.boxed()
    }
}

/// What the caller gets; nothing for an error in place of an answer.
async fn ask(script: Script, delivery: Delivery) -> Option<Vec<u8>> {
    // One attempt is enough where nothing is to be continued.
    let attempts = if delivery == Delivery::Resume { 2 } else { 1 };
    let text = format!(
        "[routes.default]\nladder = [\"up\"]\nretry = {{ attempts = {attempts} }}\n[targets.up]\n"
    );
    let nothing = Environment::from_fn(|_| None);
    let config = Config::parse(&text, Path::new(""), &Overrides::default(), &nothing).unwrap();
    let builder = Seawall::builder().config(config);
    let seawall = builder.transport(Arc::new(script)).start().await.unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("x-api-key", HeaderValue::from_static("sk-1"));
    let body = r#"{"model":"claude-sonnet-5-5","max_tokens":64,"stream":true,"messages":[]}"#;
    let mut ask = Ask::messages(headers, Bytes::from_static(body.as_bytes()));
    ask.delivery = Some(delivery);
    let out = match Box::pin(seawall.forward(ask)).await {
        Ok(reply) => {
            let ReplyBody::Stream(stream) = reply.body else {
                panic!("no stream")
            };
            Some(stream.collect::<Vec<Bytes>>().await.concat())
        }
        Err(_) => None,
    };
    seawall.stop().await;
    out
}

fn target(input: &[u8]) -> &'static str {
    let mut source = Source::new(input);
    let delivery = source.pick(&[Delivery::AsItComes, Delivery::Complete, Delivery::Resume]);
    let second = events::stream(&mut source, true);
    let mut first = events::stream(&mut source, false);
    for _ in 0..source.below(3) {
        spoil(&mut source, &mut first.events);
    }
    let mut bytes = write(&first.events, source.pick(&["\n", "\r\n", "\r"]));
    if source.once_in(4) {
        source.damage(&mut bytes);
    }
    let chunks = source.chunks(&bytes);
    let mut expected = Forwarder::new();
    for chunk in &chunks {
        if !expected.broken {
            expected.take(chunk);
        }
    }
    expected.end();
    let script = Script {
        first: chunks
            .iter()
            .map(|chunk| Bytes::copy_from_slice(chunk))
            .collect(),
        breaks: source.once_in(3),
        second: write(&second.events, "\n").into(),
        asked: AtomicBool::new(false),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let Some(out) = runtime.block_on(ask(script, delivery)) else {
        assert_ne!(expected.watch.end(), End::Complete);
        return "error";
    };
    if expected.watch.end() == End::Complete {
        assert_eq!(
            out,
            expected.passed.concat(),
            "a whole answer passes unchanged"
        );
        return "whole";
    }
    let reading = read(&out, usize::MAX);
    assert!(!reading.open, "an event was cut");
    if whole(&reading.frames).is_some() {
        assert_eq!(delivery, Delivery::Resume);
        return "resumed";
    }
    let (last, before) = reading.frames.split_last().unwrap();
    assert_eq!(last.0, "error", "{}", String::from_utf8_lossy(&out));
    let mut reader = Forwarder::new();
    reader.take(&out);
    assert_eq!(reader.watch.end(), End::Failed, "nothing malformed passed");
    if delivery != Delivery::Resume {
        assert_eq!(before, expected.accepted);
    }
    "broken off"
}

#[test]
fn passed_streams() {
    let tally = Tally::new("passed streams");
    check!()
        .with_iterations(FEW / 10)
        .with_generator(bytes_of(32..=256))
        .for_each(|input: &Vec<u8>| {
            tally.count(target(input));
        });
    tally.saw(&["error", "whole", "broken off", "resumed"]);
}
