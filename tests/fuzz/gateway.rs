//! Raw requests to a gateway process: each is answered in HTTP or cut off, and the process lives on.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use bolero::check;
use seawall::sim::Fault;

use crate::process::{BOUND, Gateway, ONE_ATTEMPT, instant, request, sim};
use crate::source::{Source, Tally, bytes_of};

const CONFIG: &str = "[gateway]\nheader_timeout = \"1s\"\nbody_limit = \"64kB\"\n";

/// How long an answer may take before the request is given up; some are never whole.
const PATIENCE: Duration = Duration::from_millis(50);

const LINES: [&str; 20] = [
    "content-length: 5",
    "content-length: 18446744073709551616",
    "content-length: -1",
    "transfer-encoding: chunked",
    "transfer-encoding: gzip, chunked",
    "connection: close",
    "connection: upgrade, x-api-key",
    "upgrade: h2c",
    "expect: 100-continue",
    "expect: nothing",
    "host: evil.example",
    "host: localhost",
    "origin: https://evil.example",
    "x-seawall-route: none",
    "x-seawall-profile: batch",
    "x-api-key: ",
    "authorization: Bearer",
    "content-encoding: gzip",
    "x-\u{e9}: 1",
    " folded",
];

const TARGETS: [&str; 18] = [
    "/v1/messages",
    "/v1/messages",
    "/v1/messages",
    "/v1/messages",
    "/v1/messages",
    "/v1/messages?beta=true",
    "/v1/messages/count_tokens",
    "/v1/models",
    "/_seawall/status",
    "/_seawall/metrics",
    "/healthz",
    "/",
    "*",
    "http://x/v1/messages",
    "//v1/../messages",
    "/%00%FF",
    "/v1/messages#x",
    "localhost:80",
];

const METHODS: [&str; 10] = [
    "POST", "POST", "POST", "POST", "GET", "HEAD", "OPTIONS", "CONNECT", "PUT", "PRI",
];

/// A request that is nearly right, as bytes.
fn bytes(source: &mut Source<'_>) -> Vec<u8> {
    let mut body = request(source.once_in(2)).into_bytes();
    for _ in 0..source.below(5).saturating_sub(2) {
        source.damage(&mut body);
    }
    let method = source.pick(&METHODS);
    let version = source.pick(&[
        "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "",
    ]);
    let mut head = format!(
        "{method} {} {version}\r\nhost: localhost\r\nconnection: close\r\n\
         x-api-key: sk-1\r\n",
        source.pick(&TARGETS)
    );
    for _ in 0..source.below(6).saturating_sub(2) {
        head.push_str(source.pick(&LINES));
        head.push_str(source.pick(&["\r\n", "\r\n", "\n", "\r"]));
    }
    if !source.once_in(4) {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    let mut all = head.into_bytes();
    if source.once_in(3) {
        source.damage(&mut all);
    }
    all.extend_from_slice(b"\r\n");
    all.extend_from_slice(&body);
    if source.once_in(4) {
        source.damage(&mut all);
    }
    all
}

/// Whether the client's end of the connection broke, which is a way of being cut off.
fn is_cut_off(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::NotConnected
    )
}

/// Sends an input and reads to the end of the connection.
fn exchange(address: &str, input: &[u8]) -> &'static str {
    let mut source = Source::new(input);
    let bytes = bytes(&mut source);
    let request = String::from_utf8_lossy(&bytes);
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    for chunk in source.chunks(&bytes) {
        match socket.write_all(chunk) {
            Ok(()) => {}
            Err(broken) if is_cut_off(broken.kind()) => return "cut off",
            Err(other) => panic!("{other} after {request:?}"),
        }
    }
    let mut answer = Vec::new();
    // A gateway that waits for more is told that there is none. Sooner, it would take its client
    // for gone.
    if let Err(waits) = socket.read_to_end(&mut answer)
        && matches!(waits.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
    {
        socket.set_read_timeout(Some(BOUND)).unwrap();
        if let Err(broken) = socket.shutdown(Shutdown::Write) {
            assert!(is_cut_off(broken.kind()), "{broken} after {request:?}");
        }
        if let Err(broken) = socket.read_to_end(&mut answer) {
            assert!(is_cut_off(broken.kind()), "{broken} after {request:?}");
        }
    }
    let shown = String::from_utf8_lossy(&answer);
    assert!(
        answer.is_empty() || shown.starts_with("HTTP/1."),
        "{shown} after {request:?}"
    );
    match answer.get(9) {
        None => "cut off",
        Some(b'2') => "2xx",
        Some(b'4') => "4xx",
        Some(_) => "other",
    }
}

#[test]
fn raw_requests() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (upstream, gateway) = runtime.block_on(async {
        let (upstream, _) = sim(instant(Vec::<Fault>::new())).await;
        (
            upstream,
            Gateway::start(upstream, &format!("{CONFIG}{ONE_ATTEMPT}")),
        )
    });
    assert!(upstream.port() > 0);
    let tally = Tally::new("raw requests");
    let address = gateway.address();
    check!()
        .with_iterations(100)
        .with_generator(bytes_of(32..=128))
        .for_each(|input: &Vec<u8>| {
            tally.count(exchange(address, input));
        });
    tally.saw(&["2xx", "4xx"]);
    runtime.block_on(async {
        gateway.idle().await;
        let answer = gateway
            .post("/v1/messages")
            .body(request(false))
            .send()
            .await;
        assert_eq!(answer.unwrap().status(), 200);
    });
    let log = gateway.log();
    assert!(!log.contains("panicked"), "{log}");
}
