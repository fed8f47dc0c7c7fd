//! A ladder during an outage: a smaller model, then the cache, then a fixed answer, each marked.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use seawall::client::Seawall;
use seawall::client::ask::{Ask, Degraded, Fallback};
use seawall::config::{Config, Environment, Overrides};
use seawall::sim::{Fault, FaultKind, Settings, Sim};

const CONFIG: &str = r#"
    [targets.sonnet]
    model = "claude-sonnet-5-5"
    [targets.haiku]
    model = "claude-haiku-5-5"

    [routes.default]
    ladder = ["sonnet", { rung = "haiku", on = ["overloaded", "breaker_open", "attempts_spent"] }, "cache", "static"]
    wait = "1s"
    static = { text = "The assistant is away; it is back in {retry_after}." }
"#;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sim = Sim::new(Settings {
        instant: true,
        ..Settings::default()
    })?;
    let config = Config::parse(
        CONFIG,
        Path::new("fallback.toml"),
        &Overrides::default(),
        &Environment::from_fn(|_| None),
    )?;
    let seawall = Seawall::builder()
        .config(config)
        .transport(Arc::new(Sim::transport(&sim)))
        .start()
        .await?;

    let known = "What holds the sea back?";
    tell("all is well", &seawall, ask(known)).await;
    let overloaded = Fault::new(FaultKind::Overloaded);
    sim.set_faults(vec![overloaded.clone().on_model("claude-sonnet-5-5")])?;
    tell("sonnet is down", &seawall, ask("And how high is it?")).await;
    let stays = Ask {
        fallback: Fallback::Never,
        ..ask("Who may not fall?")
    };
    tell("the same, without a fallback", &seawall, stays).await;
    sim.set_faults(vec![overloaded])?;
    tell("both are down, asked before", &seawall, ask(known)).await;
    tell("both are down, never asked", &seawall, ask("Why?")).await;
    seawall.stop().await;
    Ok(())
}

async fn tell(when: &str, seawall: &Seawall, ask: Ask) {
    match seawall.call(ask).await {
        Ok(answered) => {
            let report = answered.report;
            let mark = report.degraded.map_or("as asked", Degraded::as_str);
            let text: String = answered.message.text().chars().take(40).collect();
            println!("{when}: {} ({mark}): {text} …", report.rung);
        }
        Err(error) => println!("{when}: {error}"),
    }
}

fn ask(question: &str) -> Ask {
    let mut headers = HeaderMap::new();
    headers.insert(
        "x-api-key",
        HeaderValue::from_static("sk-anything-the-simulation-takes"),
    );
    let body = serde_json::json!({
        "model": "claude-sonnet-5-5",
        "max_tokens": 60,
        "messages": [{ "role": "user", "content": question }],
    });
    Ask::messages(headers, Bytes::from(body.to_string()))
}
