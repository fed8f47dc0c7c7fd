//! A reader that does not read slows the provider down, and costs the gateway no memory.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::until;
use crate::process::{Gateway, ONE_ATTEMPT, request, serve};
use crate::served;

/// Size of the whole answer.
const SIZE: usize = 200 << 20;

/// What all the buffers on the way may hold together: those of two sockets and of the gateway.
const ON_THE_WAY: usize = 40 << 20;

/// Growth of the gateway's memory that is still bounded.
const MOST_GROWTH: usize = 64 << 20;

const START: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\
    \"usage\":{\"input_tokens\":9,\"output_tokens\":1}}}\n\nevent: content_block_start\n\
    data: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n";

const END: &str = "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n\
    event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\
    \"usage\":{\"output_tokens\":4}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

fn delta() -> String {
    let text = "a".repeat(64 << 10);
    format!(
        "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":0,\
         \"delta\":{{\"type\":\"text_delta\",\"text\":\"{text}\"}}}}\n\n"
    )
}

/// A provider that writes one large answer, as fast as it may, and counts what it could write.
async fn provider() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let written = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&written);
    serve(async move {
        let (mut socket, _) = listener.accept().await?;
        served::read(&mut socket)
            .await
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let head =
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
        socket.write_all(head.as_bytes()).await?;
        socket.write_all(START.as_bytes()).await?;
        let delta = delta();
        for _ in 0..SIZE / delta.len() {
            socket.write_all(delta.as_bytes()).await?;
            counter.fetch_add(delta.len(), Ordering::Relaxed);
        }
        socket.write_all(END.as_bytes()).await?;
        socket.shutdown().await
    });
    (address, written)
}

/// The gateway's resident memory in bytes; none where the system does not tell.
fn memory(gateway: &Gateway) -> Option<usize> {
    let status = format!("/proc/{}/status", gateway.process.id());
    let text = std::fs::read_to_string(status).ok()?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kilobytes: usize = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes << 10)
}

/// Waits until the provider has made no progress for a while, and says how far it came.
async fn blocked(written: &AtomicUsize) -> usize {
    const STILL: Duration = Duration::from_millis(500);
    let mut last = (0, Instant::now());
    until("the provider is held up", || {
        let now = written.load(Ordering::Relaxed);
        if now != last.0 {
            last = (now, Instant::now());
        }
        last.0 > 0 && last.1.elapsed() > STILL
    })
    .await;
    written.load(Ordering::Relaxed)
}

#[tokio::test]
async fn a_reader_that_pauses_holds_the_provider_up_and_then_gets_everything() {
    let (address, written) = provider().await;
    let gateway = Gateway::start(address, ONE_ATTEMPT);
    let before = memory(&gateway);
    let mut client = TcpStream::connect(gateway.address()).await.unwrap();
    let body = request(true);
    let asked = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: localhost\r\nx-api-key: k\r\nconnection: close\r\n\
         anthropic-version: 2023-06-01\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    client.write_all(asked.as_bytes()).await.unwrap();
    let held_at = blocked(&written).await;
    assert!(
        held_at < ON_THE_WAY,
        "{held_at} bytes are somewhere on the way"
    );
    let growth = |now: Option<usize>| {
        before
            .zip(now)
            .map(|(before, now)| now.saturating_sub(before))
    };
    let paused = growth(memory(&gateway));

    let (mut read, mut most) = (0_usize, paused);
    let mut tail = Vec::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = client.read(&mut buffer).await.unwrap();
        if count == 0 {
            break;
        }
        read += count;
        tail.extend_from_slice(&buffer[..count]);
        tail.drain(..tail.len().saturating_sub(1_024));
        most = most.max(growth(memory(&gateway)));
    }
    let size = delta().len() * (SIZE / delta().len());
    assert!(read > size, "{read} of {size}");
    let tail = String::from_utf8_lossy(&tail);
    assert!(
        tail.contains("message_stop") && tail.ends_with("0\r\n\r\n"),
        "{tail}"
    );
    println!("held up after {held_at} bytes; memory grew by {paused:?}, at most {most:?}");
    assert!(most.is_none_or(|most| most < MOST_GROWTH), "{most:?}");
    gateway.idle().await;
}
