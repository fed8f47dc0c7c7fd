//! Ten supervised agent steps; one of them panics twice and is run again, and no other notices.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use seawall::client::Seawall;
use seawall::client::ask::Ask;
use seawall::sim::{Settings, Sim};
use seawall_actors::step::{StepRun, StepSettings};

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
        let client = seawall.clone();
        let work = move |run| step(client.clone(), number, run);
        steps.push(
            seawall
                .system()
                .spawn_step(StepSettings::default(), work)
                .await?,
        );
    }
    for (number, step) in steps.into_iter().enumerate() {
        let runs = step.join().await?;
        println!("step {number}: answered in run {runs}");
    }
    println!("actors restarted: {}", seawall.snapshot().restarts);
    seawall.stop().await;
    Ok(())
}

/// A model call, then a tool of the user's own, which has a bug.
async fn step(seawall: Seawall, number: u32, run: StepRun) -> Result<u32, seawall::error::Error> {
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
