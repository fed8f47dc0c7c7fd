//! An axum service that embeds the client and shows its state.
//!
//! It serves two requests of its own on loopback, prints what came back, and ends.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, body::Body};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use seawall::client::Seawall;
use seawall::client::ask::{Ask, ReplyBody};
use seawall::sim::{Settings, Sim};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sim = Sim::new(Settings::default())?;
    let seawall = Seawall::builder()
        .transport(Arc::new(Sim::transport(&sim)))
        .start()
        .await?;
    let app = Router::new()
        .route("/haiku", get(haiku))
        .route("/status", get(status))
        .with_state(seawall.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}", listener.local_addr()?);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = axum::serve(listener, app).with_graceful_shutdown(async {
        // Err means that the sender is gone, which stops the server as well.
        drop(stopped.await);
    });
    let visit = async {
        for path in ["/haiku", "/status"] {
            let answer = reqwest::get(format!("{base}{path}")).await?;
            println!("{path}: {} {}", answer.status(), answer.text().await?);
        }
        drop(stop);
        Ok::<(), reqwest::Error>(())
    };
    let (served, visited) = tokio::join!(server.into_future(), visit);
    served?;
    visited?;
    seawall.stop().await;
    Ok(())
}

async fn haiku(State(seawall): State<Seawall>) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(
        "x-api-key",
        HeaderValue::from_static("sk-anything-the-simulation-takes"),
    );
    let body = serde_json::json!({
        "model": "claude-haiku-5-5",
        "max_tokens": 40,
        "messages": [{ "role": "user", "content": "A haiku about sea walls, please." }],
    });
    match seawall
        .forward(Ask::messages(headers, Bytes::from(body.to_string())))
        .await
    {
        Ok(reply) => match reply.body {
            ReplyBody::Whole(bytes) => Body::from(bytes).into_response(),
            _ => StatusCode::BAD_GATEWAY.into_response(),
        },
        Err(error) => (error.status(), error.to_string()).into_response(),
    }
}

async fn status(State(seawall): State<Seawall>) -> String {
    let snapshot = seawall.snapshot();
    let breakers: Vec<_> = snapshot
        .breakers
        .iter()
        .map(|b| format!("{} {}", b.name, b.circuit.state.as_str()))
        .collect();
    format!(
        "{} in flight; breakers: {}",
        snapshot.pool.in_flight,
        breakers.join(", ")
    )
}
