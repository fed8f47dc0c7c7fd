//! A stream that breaks off in the middle, in each of the four deliveries.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue};
use seawall::client::Seawall;
use seawall::client::ask::Ask;
use seawall::delivery::Delivery;
use seawall::error::Error;
use seawall::sim::{Fault, FaultKind, Settings, Sim};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    for name in Delivery::NAMES {
        // The first attempt at any prompt ends after twelve events, as if it were whole.
        let cut = Fault {
            after_events: Some(12),
            ..Fault::new(FaultKind::CutStream).on_attempts(1, 1)
        };
        let sim = Sim::new(Settings {
            faults: vec![cut],
            instant: true,
            ..Settings::default()
        })?;
        let seawall = Seawall::builder()
            .transport(Arc::new(Sim::transport(&sim)))
            .start()
            .await?;
        let ask = Ask {
            delivery: Some(name.parse()?),
            ..ask()
        };
        println!("{name}: {}", told(&seawall, ask).await);
        println!("    {} attempts at the provider", sim.stats().attempts);
        seawall.stop().await;
    }
    Ok(())
}

/// What a reader of the stream gets to see.
async fn told(seawall: &Seawall, ask: Ask) -> String {
    let mut stream = match seawall.stream(ask).await {
        Ok(stream) => stream,
        Err(error) => return format!("no answer: {error}"),
    };
    let mut events = 0;
    while let Some(event) = stream.next().await {
        match event {
            Ok(_) => events += 1,
            Err(Error::Interrupted {
                judged, partial, ..
            }) => {
                let letters = partial.text().len();
                let why = judged.verdict.label;
                return format!("broke off after {events} events and {letters} letters ({why})");
            }
            Err(error) => return format!("broke off: {error}"),
        }
    }
    let letters = stream.message().text().len();
    format!("whole, {events} events, {letters} letters")
}

fn ask() -> Ask {
    let mut headers = HeaderMap::new();
    headers.insert(
        "x-api-key",
        HeaderValue::from_static("sk-anything-the-simulation-takes"),
    );
    let body = serde_json::json!({
        "model": "claude-sonnet-5-5",
        "max_tokens": 120,
        "stream": true,
        "messages": [{ "role": "user", "content": "What holds the sea back?" }],
    });
    Ask::messages(headers, Bytes::from(body.to_string()))
}
