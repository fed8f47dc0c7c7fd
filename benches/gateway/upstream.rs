//! The instant upstream: answers in the provider's form, each in one write.

use std::io::Write;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::Outcome;

/// Events of a short stream, and of a long one.
const SHORT: u32 = 50;
pub(crate) const LONG: u32 = 1_000;

/// What a request asks of this upstream, written into its `metadata.user_id`.
pub(crate) const WHOLE: &str = "whole";
pub(crate) const STREAM: &str = "short-stream";
pub(crate) const CHUNKED: &str = "chunked-stream";
pub(crate) const LONG_STREAM: &str = "long-stream";
pub(crate) const HOLD: &str = "held-stream";

/// Limits far above what any machine sends, so that they are learned and never met.
const HEADERS: &str = "\
    request-id: req_011CSHoEeqs5C35K2UUqR7Fy\r\n\
    anthropic-organization-id: 00000000-0000-0000-0000-000000000000\r\n\
    anthropic-ratelimit-requests-limit: 100000000\r\n\
    anthropic-ratelimit-requests-remaining: 99999999\r\n\
    anthropic-ratelimit-requests-reset: 2099-01-01T00:00:00Z\r\n\
    anthropic-ratelimit-input-tokens-limit: 100000000000\r\n\
    anthropic-ratelimit-input-tokens-remaining: 99999999000\r\n\
    anthropic-ratelimit-input-tokens-reset: 2099-01-01T00:00:00Z\r\n\
    anthropic-ratelimit-output-tokens-limit: 100000000000\r\n\
    anthropic-ratelimit-output-tokens-remaining: 99999999000\r\n\
    anthropic-ratelimit-output-tokens-reset: 2099-01-01T00:00:00Z\r\n\
    date: Tue, 24 Nov 2026 12:00:00 GMT\r\n";

/// The whole answer.
pub(crate) const ANSWER: &str = r#"{"model":"claude-sonnet-5-5","id":"msg_01XFDUDYJgAACzvnptvVoYEL","type":"message","role":"assistant","content":[{"type":"text","text":"What holds the sea back is mostly patience: stone laid on stone, clay packed behind it, and somebody who walks along the crest after every storm to see what has moved. A wall by itself only turns the wave around."}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":412,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"cache_creation":{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0},"output_tokens":61,"service_tier":"standard"}}"#;

/// Every answer, ready to be written.
struct Answers {
    whole: Vec<u8>,
    short: Vec<u8>,
    chunked: Vec<u8>,
    long: Vec<u8>,
    held: Vec<u8>,
}

impl Answers {
    fn new() -> Self {
        let length = ANSWER.len();
        Self {
            whole: format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
                 {HEADERS}\r\n{ANSWER}"
            )
            .into_bytes(),
            short: one_chunk(&events(SHORT, true)),
            chunked: chunks(&events(SHORT, true)),
            long: chunks(&events(LONG, true)),
            held: chunks(&events(10, false)),
        }
    }

    fn to(&self, body: &[u8]) -> &[u8] {
        // The word stands at the front, so that looking for it costs nothing.
        let front = body.get(..64).unwrap_or(body);
        let asked = |word: &str| find(front, word.as_bytes()).is_some();
        if asked(STREAM) {
            &self.short
        } else if asked(CHUNKED) {
            &self.chunked
        } else if asked(LONG_STREAM) {
            &self.long
        } else if asked(HOLD) {
            &self.held
        } else {
            &self.whole
        }
    }
}

const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\
     cache-control: no-cache\r\ntransfer-encoding: chunked\r\n";

/// The head of a stream and these events, ready together: in one chunk.
fn one_chunk(events: &[String]) -> Vec<u8> {
    let body = events.concat();
    let size = body.len();
    format!("{STREAM_HEAD}{HEADERS}\r\n{size:x}\r\n{body}\r\n0\r\n\r\n").into_bytes()
}

/// The same with each event in a chunk of its own, and without an end if the last event is not there.
fn chunks(events: &[String]) -> Vec<u8> {
    let mut out = format!("{STREAM_HEAD}{HEADERS}\r\n");
    for event in events {
        out.push_str(&format!("{:x}\r\n{event}\r\n", event.len()));
    }
    if events
        .last()
        .is_some_and(|last| last.contains("message_stop"))
    {
        out.push_str("0\r\n\r\n");
    }
    out.into_bytes()
}

/// The events of a stream, `count` in all; without the last three if it is to stay open.
fn events(count: u32, ends: bool) -> Vec<String> {
    let mut out = Vec::new();
    let mut event = |name: &str, data: &str| out.push(format!("event: {name}\ndata: {data}\n\n"));
    event(
        "message_start",
        r#"{"type":"message_start","message":{"model":"claude-sonnet-5-5","id":"msg_01XFDUDYJgAACzvnptvVoYEL","type":"message","role":"assistant","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":412,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":1}}}"#,
    );
    event(
        "content_block_start",
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
    );
    for _ in 0..count.saturating_sub(5) {
        event(
            "content_block_delta",
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" stone laid on stone"}}"#,
        );
    }
    if ends {
        event(
            "content_block_stop",
            r#"{"type":"content_block_stop","index":0}"#,
        );
        event(
            "message_delta",
            r#"{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":200}}"#,
        );
        event("message_stop", r#"{"type":"message_stop"}"#);
    }
    out
}

/// Serves until it is killed.
pub(crate) fn run() -> Outcome<bool> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(serve())
}

async fn serve() -> Outcome<bool> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    announce(&listener)?;
    let answers: &'static Answers = Box::leak(Box::new(Answers::new()));
    let mut connections = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await?;
        // A connection ends with an error when its client leaves.
        connections.spawn(async move { connection(socket, answers).await.is_ok() });
        while connections.try_join_next().is_some() {}
    }
}

/// Says where it listens, as `seawall serve` does.
pub(crate) fn announce(listener: &TcpListener) -> Outcome<()> {
    let mut out = std::io::stdout();
    writeln!(out, "listening on http://{}", listener.local_addr()?)?;
    Ok(out.flush()?)
}

async fn connection(mut socket: TcpStream, answers: &Answers) -> Outcome<()> {
    socket.set_nodelay(true)?;
    let mut buffer = BytesMut::with_capacity(16 << 10);
    loop {
        let Some((head, body)) = request(&buffer) else {
            if socket.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            continue;
        };
        let whole = head.saturating_add(body);
        let answer = answers.to(buffer.get(head..whole).unwrap_or_default());
        socket.write_all(answer).await?;
        buffer.advance(whole);
    }
}

/// Lengths of the head and body of the request in front, once both are there.
fn request(buffer: &[u8]) -> Option<(usize, usize)> {
    let head = find(buffer, b"\r\n\r\n")?.saturating_add(4);
    let body = content_length(buffer.get(..head)?).unwrap_or(0);
    (buffer.len() >= head.saturating_add(body)).then_some((head, body))
}

/// The `content-length` of a head.
pub(crate) fn content_length(head: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(head).ok()?;
    text.split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
}

/// Where `needle` first stands.
pub(crate) fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len())
        .position(|window| window == needle)
}
