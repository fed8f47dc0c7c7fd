//! Ten supervised agent steps; one of them panics twice and is run again, and no other notices.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use seawall::client::Seawall;
use seawall::client::ask::Ask;
use seawall::client::step::{StepRun, StepSettings};
use seawall::error::Error;
use seawall::sim::{Settings, Sim};

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
    let mut steps = Vec::new();
    for number in 0..10 {
        let work = move |seawall, run| step(seawall, number, run);
        steps.push(seawall.spawn_step(StepSettings::default(), work).await?);
    }
    for (number, step) in steps.into_iter().enumerate() {
        let runs = step.join().await?;
        println!("step {number}: answered in run {runs}");
    }
    let steps = seawall.snapshot().steps;
    println!(
        "steps restarted: {}, running: {}",
        steps.restarts, steps.running
    );
    seawall.stop().await;
    Ok(())
}

/// A model call, then a tool of the user's own, which has a bug.
async fn step(seawall: Seawall, number: u32, run: StepRun) -> Result<u32, Error> {
    let mut headers = HeaderMap::new();
    headers.insert(
        "x-api-key",
        HeaderValue::from_static("sk-anything-the-simulation-takes"),
    );
    let body = serde_json::json!({
        "model": "claude-sonnet-5-5",
        "max_tokens": 40,
        "messages": [{ "role": "user", "content": format!("Step {number}, run {}", run.number) }],
    });
    seawall
        .forward(Ask::messages(headers, Bytes::from(body.to_string())))
        .await?;
    assert!(
        number != 4 || run.number > 2,
        "the tool of step 4 has a bug"
    );
    Ok(run.number)
}
