//! Pooled connections that the other side has closed: no call fails for them, none is sent twice
//! that may have been read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{HeaderMap, Method};
use metrics_exporter_prometheus::PrometheusBuilder;
use seawall::transport::http::HttpTransport;
use seawall::transport::{Broken, Request, Response, Transport};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What a connection does with its n-th request, from 1.
#[derive(Debug, Clone, Copy)]
enum Then {
    Answer,
    /// Answers and closes, without a word in the headers.
    AnswerAndClose,
    /// Closes as soon as the request has arrived, unread.
    CloseUnread,
    /// Reads the request and closes.
    CloseRead,
    /// Reads the request, thinks for a second, closes.
    CloseLate,
    /// Answers half and closes.
    AnswerHalf,
}

#[derive(Debug, Default)]
struct Counted {
    connections: AtomicUsize,
    read: AtomicUsize,
}

impl Counted {
    fn both(&self) -> (usize, usize) {
        let get = |number: &AtomicUsize| number.load(Ordering::SeqCst);
        (get(&self.connections), get(&self.read))
    }
}

/// A server that does as told, by connection (from 1) and request (from 1).
async fn server(then: fn(usize, usize) -> Then) -> (String, Arc<Counted>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    let counted = Arc::new(Counted::default());
    let counts = Arc::clone(&counted);
    let accepting = async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let connection = counts.connections.fetch_add(1, Ordering::SeqCst) + 1;
            connections.spawn(converse(socket, connection, then, Arc::clone(&counts)));
        }
    };
    #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
    drop(tokio::spawn(accepting));
    (address, counted)
}

async fn converse(
    socket: TcpStream,
    connection: usize,
    then: fn(usize, usize) -> Then,
    counts: Arc<Counted>,
) {
    let mut socket = BufReader::new(socket);
    for request in 1.. {
        let then = then(connection, request);
        if matches!(then, Then::CloseUnread) {
            socket.get_ref().readable().await.unwrap();
            return;
        }
        if !read_request(&mut socket).await {
            return;
        }
        counts.read.fetch_add(1, Ordering::SeqCst);
        let answer: &[u8] = match then {
            Then::CloseRead | Then::CloseUnread => return,
            Then::CloseLate => {
                tokio::time::pause();
                tokio::time::advance(Duration::from_secs(1)).await;
                tokio::time::resume();
                return;
            }
            Then::AnswerHalf => b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
            Then::Answer | Then::AnswerAndClose => {
                b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
            }
        };
        socket.write_all(answer).await.unwrap();
        if !matches!(then, Then::Answer) {
            return;
        }
    }
}

/// One whole request, or the end of the connection.
async fn read_request(socket: &mut BufReader<TcpStream>) -> bool {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if socket.read_line(&mut line).await.unwrap_or(0) == 0 {
            return false;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await.is_ok()
}

struct Caller {
    transport: HttpTransport,
    address: String,
}

impl Caller {
    fn new(address: String) -> Self {
        Self {
            transport: HttpTransport::new(Duration::from_secs(10))
                .unwrap()
                .stale_after(Duration::ZERO),
            address,
        }
    }

    async fn send(&self) -> Result<Response, Broken> {
        let request = Request {
            method: Method::POST,
            uri: self.address.parse().unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::from_static(b"{\"model\":\"claude\"}"),
        };
        self.transport.send(request).await.map_err(|e| e.kind)
    }

    /// The whole body of an answer.
    async fn call(&self) -> Result<Vec<u8>, Broken> {
        let response = self.send().await?;
        let chunks: Vec<Bytes> = response.body.try_collect().await.map_err(|e| e.kind)?;
        Ok(chunks.concat())
    }
}

#[tokio::test]
async fn a_server_that_closes_after_every_answer_fails_no_call() {
    let (address, counted) = server(|_, _| Then::AnswerAndClose).await;
    let caller = Caller::new(address);
    for _ in 0..200 {
        assert_eq!(caller.call().await.unwrap(), b"ok");
    }
    assert_eq!(counted.both(), (200, 200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_closes_after_three_answers_fails_no_call_under_load() {
    let (address, counted) = server(|_, request| match request {
        3 => Then::AnswerAndClose,
        _ => Then::Answer,
    })
    .await;
    let caller = &Caller::new(address);
    let calls = stream::iter(0..400).map(|_| caller.call());
    let answers: Vec<_> = calls.buffer_unordered(8).collect().await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(counted.both().1, 400);
}

#[tokio::test]
async fn a_close_that_races_the_next_request_is_counted_and_fails_no_call() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let (address, counted) = server(|_, request| match request {
        1 => Then::Answer,
        _ => Then::CloseUnread,
    })
    .await;
    let caller = Caller::new(address);
    for _ in 0..40 {
        assert_eq!(caller.call().await.unwrap(), b"ok");
    }
    assert_eq!(counted.both().1, 40, "each request was read once");
    let rendered = metrics.render();
    assert!(
        rendered.contains("seawall_stale_connections_total 20"),
        "{rendered}"
    );
}

#[tokio::test]
async fn a_fresh_connection_that_closes_is_reported_and_the_request_sent_once() {
    for then in [|_, _| Then::CloseRead, |_, _| Then::CloseUnread] {
        let (address, counted) = server(then).await;
        let failed = Caller::new(address).call().await;
        assert_eq!(failed, Err(Broken::BeforeHeaders));
        assert_eq!(counted.connections.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn a_stale_connection_is_replaced_once_and_no_more() {
    let (address, counted) = server(|connection, request| match (connection, request) {
        (1, 1) => Then::Answer,
        (1, _) => Then::CloseUnread,
        _ => Then::CloseRead,
    })
    .await;
    let caller = Caller::new(address);
    assert!(caller.call().await.is_ok());
    assert_eq!(caller.call().await, Err(Broken::BeforeHeaders));
    assert_eq!(counted.both(), (2, 2));
}

#[tokio::test]
async fn a_request_that_was_read_and_thought_about_is_not_sent_again() {
    let (address, counted) = server(|_, request| match request {
        1 => Then::Answer,
        _ => Then::CloseLate,
    })
    .await;
    let caller = Caller::new(address);
    assert!(caller.call().await.is_ok());
    assert_eq!(caller.call().await, Err(Broken::BeforeHeaders));
    assert_eq!(counted.both(), (1, 2));
}

#[tokio::test]
async fn an_answer_that_has_begun_is_never_asked_for_again() {
    let (address, counted) = server(|_, request| match request {
        1 => Then::Answer,
        _ => Then::AnswerHalf,
    })
    .await;
    let caller = Caller::new(address);
    assert!(caller.call().await.is_ok());
    assert_eq!(caller.call().await, Err(Broken::InBody));
    assert_eq!(counted.both(), (1, 2));
}

#[tokio::test]
async fn a_break_on_a_connection_that_was_just_used_is_the_targets() {
    let (address, counted) = server(|_, request| match request {
        1 => Then::Answer,
        _ => Then::CloseUnread,
    })
    .await;
    let caller = Caller {
        transport: HttpTransport::new(Duration::from_secs(10)).unwrap(),
        address,
    };
    assert!(caller.call().await.is_ok());
    assert_eq!(caller.call().await, Err(Broken::BeforeHeaders));
    assert_eq!(counted.connections.load(Ordering::SeqCst), 1);
}
