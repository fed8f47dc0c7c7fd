//! Twelve agent runs that start over half a second instead of all at once.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue};
use seawall::client::Seawall;
use seawall::client::ask::Ask;
use seawall::client::launch::Spread;
use seawall::error::Error;
use seawall::sim::{Settings, Sim};
use tokio::time::Instant;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sim = Sim::new(Settings {
        instant: true,
        ..Settings::default()
    })?;
    let seawall = Seawall::builder()
        .transport(Arc::new(Sim::transport(&sim)))
        .start()
        .await?;
    let began = Instant::now();
    let spread = Spread::over(Duration::from_millis(500))?;
    let mut runs = Box::pin(
        seawall.launch_spread(0..12, spread, |seawall, number| async move {
            let started = began.elapsed();
            run(seawall, number).await.map(|steps| (started, steps))
        }),
    );
    while let Some((number, answered)) = runs.next().await {
        let (started, steps) = answered?;
        println!(
            "run {number}: started after {} ms, {steps} steps",
            started.as_millis()
        );
    }
    drop(runs);
    seawall.stop().await;
    Ok(())
}

/// Three model calls, one after the other.
async fn run(seawall: Seawall, number: u32) -> Result<u32, Error> {
    let mut headers = HeaderMap::new();
    headers.insert(
        "x-api-key",
        HeaderValue::from_static("sk-anything-the-simulation-takes"),
    );
    for step in 1..=3 {
        let body = serde_json::json!({
            "model": "claude-sonnet-5-5",
            "max_tokens": 40,
            "messages": [{ "role": "user", "content": format!("Run {number}, step {step}") }],
        });
        let ask = Ask::messages(headers.clone(), Bytes::from(body.to_string()));
        seawall.forward(ask).await?;
    }
    Ok(3)
}
