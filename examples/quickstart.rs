//! One client, one message, against a simulated provider that is overloaded at first.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use seawall::client::Seawall;
use seawall::client::ask::Ask;
use seawall::sim::{Fault, FaultKind, Settings, Sim};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Without `transport`, the client talks to https://api.anthropic.com.
    let faults = vec![Fault::new(FaultKind::Overloaded).on_attempts(1, 2)];
    let sim = Sim::new(Settings {
        faults,
        ..Settings::default()
    })?;
    let seawall = Seawall::builder()
        .transport(Arc::new(Sim::transport(&sim)))
        .start()
        .await?;

    let mut headers = HeaderMap::new();
    headers.insert(
        "x-api-key",
        HeaderValue::from_static("sk-anything-the-simulation-takes"),
    );
    let body = serde_json::json!({
        "model": "claude-sonnet-5-5",
        "max_tokens": 60,
        "messages": [{ "role": "user", "content": "What holds the sea back?" }],
    });
    let answered = seawall
        .call(Ask::messages(headers, Bytes::from(body.to_string())))
        .await?;
    println!(
        "answered by {} after {} attempts",
        answered.report.rung, answered.report.attempts
    );
    println!("{}", answered.message.text());
    seawall.stop().await;
    Ok(())
}
