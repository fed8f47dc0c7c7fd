//! Clients: each sends its next request as soon as it has the whole answer to the last.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::{Outcome, upstream};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Whole,
    Stream,
    ChunkedStream,
    LongStream,
    Held,
}

impl Kind {
    const fn word(self) -> &'static str {
        match self {
            Self::Whole => upstream::WHOLE,
            Self::Stream => upstream::STREAM,
            Self::ChunkedStream => upstream::CHUNKED,
            Self::LongStream => upstream::LONG_STREAM,
            Self::Held => upstream::HOLD,
        }
    }
}

/// What a run saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) took: Duration,
    /// Time of each answer, to its last byte.
    pub(crate) totals: Vec<Duration>,
    /// Time of each stream to its first content.
    pub(crate) firsts: Vec<Duration>,
}

/// What all prompts end in, where they are not to differ; and the next number, where they are.
const SAME: &[u8] = b"999999999999";
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Clients of one server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    address: SocketAddr,
    kind: Kind,
    connections: usize,
    varied: bool,
    no_store: bool,
}

impl Load {
    pub(crate) const fn new(address: SocketAddr, kind: Kind, connections: usize) -> Self {
        Self {
            address,
            kind,
            connections,
            varied: false,
            no_store: false,
        }
    }

    /// Asks something else in every request.
    pub(crate) const fn varied(mut self) -> Self {
        self.varied = true;
        self
    }

    /// Keeps caches out of every request.
    pub(crate) const fn no_store(mut self) -> Self {
        self.no_store = true;
        self
    }

    /// Runs for `time`, then lets every request end.
    pub(crate) async fn run(self, time: Duration) -> Outcome<Seen> {
        let began = Instant::now();
        let until = began + time;
        let mut clients = JoinSet::new();
        for _ in 0..self.connections {
            clients.spawn(self.client(until));
        }
        let mut all = Seen::default();
        while let Some(client) = clients.join_next().await {
            let seen = client??;
            all.totals.extend(seen.totals);
            all.firsts.extend(seen.firsts);
        }
        all.took = began.elapsed();
        Ok(all)
    }

    async fn client(self, until: Instant) -> Outcome<Seen> {
        let mut request = request(self.kind, self.no_store);
        let number = upstream::find(&request, SAME).ok_or("no number")?;
        let mut connection = Connection::open(self.address).await?;
        let mut seen = Seen::default();
        while Instant::now() < until {
            if self.varied {
                let next = format!(
                    "{:0width$}",
                    NEXT.fetch_add(1, Ordering::Relaxed),
                    width = SAME.len()
                );
                let place = number..number.saturating_add(SAME.len());
                let place = request.get_mut(place).ok_or("no number")?;
                place.copy_from_slice(next.as_bytes());
            }
            let began = Instant::now();
            connection.socket.write_all(&request).await?;
            if self.kind == Kind::Whole {
                connection.whole().await?;
            } else {
                connection.first_content().await?;
                seen.firsts.push(began.elapsed());
                connection.rest_of_stream().await?;
            }
            seen.totals.push(began.elapsed());
        }
        Ok(seen)
    }
}

/// Opens streams that do not end, and holds them at their first content.
pub(crate) async fn hold(address: SocketAddr, streams: usize) -> Outcome<Vec<impl Sized>> {
    let request = request(Kind::Held, false);
    let mut open = Vec::new();
    for _ in 0..streams {
        let mut connection = Connection::open(address).await?;
        connection.socket.write_all(&request).await?;
        connection.first_content().await?;
        open.push(connection);
    }
    Ok(open)
}

struct Connection {
    socket: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Outcome<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let buffer = Vec::with_capacity(256 << 10);
        Ok(Self { socket, buffer })
    }

    async fn more(&mut self) -> Outcome<()> {
        if self.socket.read_buf(&mut self.buffer).await? == 0 {
            let text = String::from_utf8_lossy(&self.buffer).into_owned();
            return Err(format!("the connection closed after {text:?}").into());
        }
        Ok(())
    }

    /// Reads one answer of a stated length.
    async fn whole(&mut self) -> Outcome<()> {
        self.buffer.clear();
        loop {
            self.more().await?;
            let Some(head) = upstream::find(&self.buffer, b"\r\n\r\n") else {
                continue;
            };
            let head = head.saturating_add(4);
            let front = self.buffer.get(..head).unwrap_or_default();
            let length = upstream::content_length(front).ok_or("no content-length")?;
            if !front.starts_with(b"HTTP/1.1 200 ") {
                return Err(format!("refused: {}", String::from_utf8_lossy(front)).into());
            }
            while self.buffer.len() < head.saturating_add(length) {
                self.more().await?;
            }
            return Ok(());
        }
    }

    /// Reads a stream up to its first content.
    async fn first_content(&mut self) -> Outcome<()> {
        self.buffer.clear();
        loop {
            self.more().await?;
            if upstream::find(&self.buffer, b"content_block_delta").is_some() {
                return Ok(());
            }
        }
    }

    /// Reads the rest of a stream, which must have ended well.
    async fn rest_of_stream(&mut self) -> Outcome<()> {
        let head = upstream::find(&self.buffer, b"\r\n\r\n").ok_or("no head")? + 4;
        match upstream::content_length(self.buffer.get(..head).unwrap_or_default()) {
            // One that was kept is there as a whole.
            Some(length) => {
                while self.buffer.len() < head.saturating_add(length) {
                    self.more().await?;
                }
            }
            None => {
                while !self.buffer.ends_with(b"\r\n0\r\n\r\n") {
                    self.more().await?;
                }
            }
        }
        let end = self.buffer.len().saturating_sub(120);
        match upstream::find(self.buffer.get(end..).unwrap_or_default(), b"message_stop") {
            Some(_) => Ok(()),
            None => Err("a stream ended without message_stop".into()),
        }
    }
}

/// A request as an SDK writes it, with a prompt of about 2 KB.
fn request(kind: Kind, no_store: bool) -> Vec<u8> {
    let word = kind.word();
    let stream = kind != Kind::Whole;
    let paragraph = "The dike was raised after the flood of that winter, and ever since somebody \
                     walks its crest each evening, looks for wet spots and molehills, and writes \
                     down what was seen. ";
    let prompt = paragraph.repeat(11) + &String::from_utf8_lossy(SAME);
    let body = format!(
        "{{\"metadata\":{{\"user_id\":\"{word}\"}},\"model\":\"claude-sonnet-5-5\",\
         \"max_tokens\":1024,\"stream\":{stream},\"system\":\"You answer briefly.\",\
         \"messages\":[{{\"role\":\"user\",\"content\":\"{prompt}\"}}]}}"
    );
    let length = body.len();
    let cache_control = if no_store {
        "cache-control: no-store\r\n"
    } else {
        ""
    };
    format!(
        "POST /v1/messages HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n\
         accept: application/json\r\nuser-agent: Anthropic/Python 0.84.0\r\n\
         accept-encoding: gzip, deflate\r\nconnection: keep-alive\r\n\
         x-api-key: sk-ant-bench-000000000000000000000000000000000000\r\n\
         anthropic-version: 2023-06-01\r\nx-stainless-lang: python\r\n\
         x-stainless-package-version: 0.84.0\r\nx-stainless-os: Linux\r\n\
         x-stainless-arch: x64\r\nx-stainless-runtime: CPython\r\n\
         x-stainless-runtime-version: 3.13.5\r\nx-stainless-async: false\r\n\
         x-stainless-retry-count: 0\r\nx-stainless-read-timeout: 600\r\n\
         {cache_control}content-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}
