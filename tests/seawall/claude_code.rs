//! What Claude Code needs of a gateway: a test for each row of `docs/claude-code.md`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use http::StatusCode;
use seawall::profile::Profile;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::served::{BOUND, MESSAGE, Scripted, Served, answer, message, read, request};

const ONE_ATTEMPT: &str =
    "[targets.up]\n[routes.default]\nladder = [\"up\"]\nretry = { attempts = 1 }\n";

const JSON: &str = "content-type: application/json\r\n";

const HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
const START: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\
    \"usage\":{\"input_tokens\":9,\"output_tokens\":1}}}\n\n";
const BLOCK: &str = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\
    \"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n";
const DELTA: &str = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\
    \"delta\":{\"type\":\"text_delta\",\"text\":\"Hi\"}}\n\n";
const PING: &str = "event: ping\ndata: {\"type\": \"ping\"}\n\n";
const COMMENT: &str = ": keep-alive\n\n";
const UNKNOWN: &str = "event: later_event\ndata: {\"type\":\"later_event\",\"x\":[1, 2]}\n\n";
const END: &str = "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n\
    event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\
    \"usage\":{\"output_tokens\":4}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

/// A provider whose one connection the test writes to itself.
async fn by_hand() -> (TcpListener, Served) {
    by_hand_with(ONE_ATTEMPT).await
}

async fn by_hand_with(config: &str) -> (TcpListener, Served) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let served = Served::start(listener.local_addr().unwrap(), config, &[]);
    (listener, served)
}

/// Takes the request in and writes the beginning of a streamed answer.
async fn begin(listener: &TcpListener, parts: &[&str]) -> TcpStream {
    let (mut socket, _) = listener.accept().await.unwrap();
    read(&mut socket).await.unwrap();
    for part in parts {
        socket.write_all(part.as_bytes()).await.unwrap();
    }
    socket
}

/// Reads on until `end` stands at the end of everything that came.
async fn until(
    stream: &mut (impl StreamExt<Item = reqwest::Result<bytes::Bytes>> + Unpin),
    end: &str,
) -> String {
    let mut all = String::new();
    let read = async {
        while !all.ends_with(end) {
            let chunk = stream.next().await.expect("the stream goes on").unwrap();
            all.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    };
    tokio::time::timeout(BOUND, read).await.unwrap();
    all
}

#[tokio::test]
async fn messages_are_matched_by_path_whatever_the_query() {
    let provider = Scripted::answering(message()).await;
    let served = Served::start(provider.address, "", &[]);
    let asked = served.post("/v1/messages?beta=true").body(request(false));
    let answer = asked.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap(), MESSAGE);
    assert_eq!(provider.only().line, "POST /v1/messages?beta=true");
}

#[tokio::test]
async fn tokens_are_counted_by_the_provider() {
    let provider = Scripted::answering(answer("200 OK", JSON, r#"{"input_tokens":12}"#)).await;
    let served = Served::start(provider.address, "", &[]);
    let asked = served.post("/v1/messages/count_tokens?beta=true");
    let answer = asked.body(request(false)).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), r#"{"input_tokens":12}"#);
    let line = provider.only().line;
    assert_eq!(line, "POST /v1/messages/count_tokens?beta=true");
}

#[tokio::test]
async fn models_are_listed_at_once_and_without_a_redirect() {
    let list = r#"{"data":[{"type":"model","id":"claude-opus-5-5","display_name":"Claude Opus 5.5"}],"has_more":false}"#;
    let provider = Scripted::answering(answer("200 OK", JSON, list)).await;
    let served = Served::start(provider.address, "", &[]);
    let url = format!("{}/v1/models?limit=1000", served.base);
    let asked = served.client.get(url).header("authorization", "Bearer t");
    // The client gives up after 3 s.
    let answer = tokio::time::timeout(Duration::from_secs(3), asked.send());
    let answer = answer.await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    let body: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    assert_eq!(body["data"][0]["id"], "claude-opus-5-5");
    assert_eq!(body["data"][0]["display_name"], "Claude Opus 5.5");
    assert_eq!(provider.only().line, "GET /v1/models?limit=1000");
}

#[tokio::test]
async fn a_greeting_is_answered_with_and_without_a_credential() {
    let provider = Scripted::answering(answer("200 OK", JSON, "")).await;
    let served = Served::start(provider.address, "", &[]);
    let hello = || served.client.head(format!("{}/api/hello", served.base));
    let known = hello().header("x-api-key", "k").send().await.unwrap();
    assert_eq!(known.status(), 200);
    assert_eq!(provider.only().line, "HEAD /api/hello");
    let unknown = hello().send().await.unwrap();
    assert_eq!(unknown.status(), 200);
    assert_eq!(unknown.text().await.unwrap(), "");
}

#[tokio::test]
async fn headers_of_the_api_and_its_clients_go_upstream_unchanged() {
    let provider = Scripted::answering(message()).await;
    let served = Served::start(provider.address, "", &[]);
    let betas = "claude-code-20250219,interleaved-thinking-2025-05-14, never-heard-of-2027-01-01";
    let unchanged = [
        ("anthropic-beta", betas),
        ("anthropic-workspace-id", "wrkspc_1"),
        ("anthropic-dangerous-direct-browser-access", "true"),
        ("anthropic-of-next-year", "a; b=\"c\""),
        ("user-agent", "claude-cli/3.1.0 (external, cli)"),
        ("x-app", "cli"),
        ("x-stainless-lang", "js"),
        ("x-stainless-timeout", "600"),
        ("x-stainless-retry-count", "0"),
    ];
    let mut asked = served.post("/v1/messages?beta=true");
    for (name, value) in unchanged {
        asked = asked.header(name, value);
    }
    asked = asked.header("anthropic-beta", "second-line-2026-01-01");
    assert_eq!(
        asked.body(request(false)).send().await.unwrap().status(),
        200
    );
    let arrived = provider.only();
    assert_eq!(arrived.header("anthropic-version"), ["2023-06-01"]);
    assert_eq!(
        arrived.header("anthropic-beta"),
        [betas, "second-line-2026-01-01"]
    );
    for (name, value) in &unchanged[1..] {
        assert_eq!(arrived.header(name), [*value], "{name}");
    }
}

#[tokio::test]
async fn a_body_goes_upstream_byte_for_byte() {
    let provider = Scripted::answering(message()).await;
    let served = Served::start(provider.address, "", &[]);
    let body = "{ \"max_tokens\" : 1e2,\n\t\"system\": [ {\"type\":\"text\",\"text\":\"x-anthropic-billing-header: \
        cc_version=3\"}, {\"type\":\"text\",\"text\":\"You are Cl\\u0061ude Code\",\"cache_control\":{\"ttl\":\"1h\",\
        \"type\":\"ephemeral\"}},{\"type\":\"text\",\"text\":\"last 😀\"}],\"model\":\"claude-sonnet-5-5\",\
        \"field_of_next_year\":{\"b\":1,\"a\":-0.0,\"a\":2},\"messages\":[{\"content\":\"\\ud83d\\ude00\",\
        \"role\":\"user\"}],\"stream\":false }  \r\n";
    let asked = served.post("/v1/messages?beta=true").body(body);
    assert_eq!(asked.send().await.unwrap().status(), 200);
    assert_eq!(String::from_utf8(provider.only().body).unwrap(), body);
}

#[tokio::test]
async fn a_body_of_the_apis_own_size_is_let_through() {
    let provider = Scripted::answering(message()).await;
    let served = Served::start(provider.address, "", &[]);
    let frame = request(false);
    let pad = (32 << 20) - frame.len();
    let body = frame.replace("hello", &format!("hello{}", "x".repeat(pad)));
    assert_eq!(body.len(), 32 << 20);
    let asked = served.post("/v1/messages").body(body);
    assert_eq!(asked.send().await.unwrap().status(), 200);
    assert_eq!(provider.only().body.len(), 32 << 20);
}

#[tokio::test]
async fn a_refusal_is_heard_however_large_the_body() {
    let provider = Scripted::answering(message()).await;
    let config = "[gateway]\nbody_limit = \"1MB\"\nclient_keys = [{ name = \"me\", sha256 = \
        \"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\" }]\n\
        [targets.up]\napi_key_env = \"UPSTREAM_KEY\"\n[routes.default]\nladder = [\"up\"]\n";
    let served = Served::start(provider.address, config, &[("UPSTREAM_KEY", "sk-up")]);
    let body = vec![b' '; 24 << 20];
    let chunked = || {
        let parts = body
            .chunks(1 << 20)
            .map(|part| Ok::<_, std::io::Error>(part.to_vec()));
        reqwest::Body::wrap_stream(futures_util::stream::iter(parts.collect::<Vec<_>>()))
    };
    let url = format!("{}/v1/messages", served.base);
    for (key, status) in [("test", 413), ("other", 401)] {
        let asked = || served.client.post(&url).header("x-api-key", key);
        let whole = asked().body(body.clone()).send().await.unwrap();
        assert_eq!(whole.status(), status);
        let parts = asked().body(chunked()).send().await.unwrap();
        assert_eq!(parts.status(), status);
        let said: Value = serde_json::from_slice(&parts.bytes().await.unwrap()).unwrap();
        assert_eq!(said["type"], "error");
    }
    assert!(provider.arrived().is_empty());
}

#[tokio::test]
async fn session_headers_do_no_harm() {
    let provider = Scripted::answering(message()).await;
    let served = Served::start(provider.address, "", &[]);
    let mut asked = served.post("/v1/messages");
    for name in ["session-id", "agent-id", "parent-agent-id"] {
        asked = asked.header(format!("x-claude-code-{name}"), "0b1f");
    }
    assert_eq!(
        asked.body(request(false)).send().await.unwrap().status(),
        200
    );
    let arrived = provider.only();
    assert_eq!(arrived.header("x-claude-code-session-id"), ["0b1f"]);
    assert_eq!(arrived.header("x-seawall-route"), Vec::<&str>::new());
}

#[tokio::test]
async fn error_bodies_come_back_byte_for_byte() {
    let bodies = [
        (
            400,
            r#"{"type":"error",  "error":{"type":"invalid_request_error","message":"prompt is too long: 210000 tokens > 200000 maximum"},"request_id":"req_1"}"#,
        ),
        (
            400,
            "{\"error\":{\"message\":\"capability_rejected: prompt_too_long\",\"type\":\"invalid_request_error\"},\"type\":\"error\"}\n",
        ),
        (
            401,
            r#"{"type":"error","error":{"type":"authentication_error","message":"invalid \u0078-api-key","details":null}}"#,
        ),
        (
            403,
            r#"{"type":"error","error":{"type":"permission_error","message":"no"}}"#,
        ),
        (
            404,
            r#"{"type":"error","error":{"type":"not_found_error","message":"model: claude-x"}}"#,
        ),
        (
            413,
            "<html>\r\n<center><h1>413 Request Entity Too Large</h1></center>\r\n</html>",
        ),
        (
            429,
            r#"{"type":"error","error":{"type":"rate_limit_error","message":"later"}}"#,
        ),
        (
            500,
            r#"{"type":"error","error":{"type":"api_error","message":"Internal server error"}}"#,
        ),
        (
            529,
            r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
        ),
        (529, ""),
    ];
    for (status, body) in bodies {
        let head = format!("{JSON}request-id: req_1\r\nretry-after: 0.5\r\n");
        let provider = Scripted::answering(answer(&format!("{status} X"), &head, body)).await;
        let served = Served::start(provider.address, ONE_ATTEMPT, &[]);
        let asked = served.post("/v1/messages?beta=true").body(request(false));
        let answer = asked.send().await.unwrap();
        assert_eq!(answer.status(), status, "{body}");
        assert_eq!(answer.headers()["request-id"], "req_1");
        assert_eq!(answer.headers()["retry-after"], "0.5");
        assert_eq!(answer.text().await.unwrap(), body);
    }
}

#[tokio::test]
async fn events_are_forwarded_as_they_come() {
    let (listener, served) = by_hand().await;
    let asked = served.post("/v1/messages").body(request(true)).send();
    let begun = begin(&listener, &[HEAD, START, BLOCK, DELTA]);
    let (answer, mut socket) = tokio::join!(asked, begun);
    let mut stream = answer.unwrap().bytes_stream();
    // Each part is written only after the one before has reached the client: nothing is held.
    let seen = until(&mut stream, DELTA).await;
    assert_eq!(seen, [START, BLOCK, DELTA].concat());
    for part in [DELTA, UNKNOWN, DELTA] {
        socket.write_all(part.as_bytes()).await.unwrap();
        assert_eq!(until(&mut stream, part).await, part);
    }
    socket.write_all(END.as_bytes()).await.unwrap();
    drop(socket);
    assert_eq!(until(&mut stream, END).await, END);
    assert!(stream.next().await.is_none());
    served.idle().await;
}

#[tokio::test]
async fn pings_and_comments_of_the_provider_are_forwarded() {
    let (listener, served) = by_hand().await;
    let asked = served.post("/v1/messages").body(request(true)).send();
    let before = [COMMENT, START, PING, COMMENT, BLOCK, PING, DELTA];
    let parts = [&[HEAD][..], &before].concat();
    let (answer, mut socket) = tokio::join!(asked, begin(&listener, &parts));
    let mut stream = answer.unwrap().bytes_stream();
    assert_eq!(until(&mut stream, DELTA).await, before.concat());
    for part in [PING, COMMENT, PING] {
        socket.write_all(part.as_bytes()).await.unwrap();
        assert_eq!(until(&mut stream, part).await, part);
    }
    socket
        .write_all([END, COMMENT].concat().as_bytes())
        .await
        .unwrap();
    drop(socket);
    assert_eq!(until(&mut stream, COMMENT).await, [END, COMMENT].concat());
    served.idle().await;
}

#[tokio::test]
async fn a_silent_stream_ends_in_an_error_before_any_watchdog() {
    let standard = Profile::Standard.timeouts();
    // Claude Code aborts after 180 s without a byte, 300 s without an event.
    assert!(standard.stall < Duration::from_secs(180), "{standard:?}");
    assert!(standard.first_content < Duration::from_secs(180));
    assert!(standard.events <= Duration::from_secs(300));
    let stall = format!("{ONE_ATTEMPT}timeouts = {{ stall = \"300ms\" }}\n");
    let (listener, served) = by_hand_with(&stall).await;
    let asked = served.post("/v1/messages").body(request(true)).send();
    let begun = begin(&listener, &[HEAD, START, BLOCK, DELTA]);
    let (answer, socket) = tokio::join!(asked, begun);
    let body = tokio::time::timeout(BOUND, answer.unwrap().text());
    let body = body.await.unwrap().unwrap();
    let last = body.trim_end().rsplit("\n\n").next().unwrap();
    assert!(last.starts_with("event: error\ndata: {"), "{body}");
    assert!(!body.contains("message_stop"), "{body}");
    drop(socket);
    served.idle().await;
}

#[tokio::test]
async fn a_cut_stream_ends_in_an_error_and_is_not_sent_again() {
    let (listener, served) = by_hand_with("").await;
    let asked = served.post("/v1/messages").body(request(true)).send();
    let begun = begin(&listener, &[HEAD, START, BLOCK, DELTA]);
    let (answer, socket) = tokio::join!(asked, begun);
    drop(socket);
    let body = answer.unwrap().text().await.unwrap();
    assert!(body.starts_with(&[START, BLOCK, DELTA].concat()), "{body}");
    assert_eq!(body.matches("event: error\n").count(), 1, "{body}");
    assert!(!body.contains("message_stop"), "{body}");
    served.idle().await;
    let again = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
    assert!(again.is_err(), "the call was sent again");
}

#[tokio::test]
async fn a_client_that_gives_up_stops_the_provider() {
    // API_TIMEOUT_MS of Claude Code: seawall is never the more patient of the two.
    assert!(Profile::Standard.timeouts().total <= Duration::from_millis(600_000));
    let (listener, served) = by_hand().await;
    let asked = served.post("/v1/messages").body(request(false)).send();
    let mut socket = tokio::select! {
        early = asked => panic!("nobody has answered: {early:?}"),
        socket = begin(&listener, &[]) => socket,
    };
    let mut rest = [0; 1];
    let closed = tokio::time::timeout(BOUND, socket.read(&mut rest)).await;
    // A reset is as good an end as a close.
    assert!(matches!(closed.unwrap(), Ok(0) | Err(_)));
    served.idle().await;
}

#[tokio::test]
async fn a_spend_limit_is_said_once_and_not_waited_for() {
    let body = r#"{"type":"error","error":{"type":"rate_limit_error","message":"You have reached your spend limit","details":{"error_code":"enforced_spend_limit_reached"}}}"#;
    let provider = Scripted::answering(answer("429 Too Many Requests", JSON, body)).await;
    let served = Served::start(provider.address, "", &[]);
    let asked = served.post("/v1/messages").body(request(false));
    let answer = asked.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer.headers()["x-should-retry"], "false");
    assert_eq!(answer.headers().get("retry-after"), None);
    assert_eq!(answer.text().await.unwrap(), body);
    assert_eq!(provider.arrived().len(), 1);
}

#[tokio::test]
async fn a_connection_that_breaks_is_replaced_unseen() {
    let (listener, served) = by_hand_with("").await;
    let asked = served.post("/v1/messages").body(request(false)).send();
    let provider = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        read(&mut socket).await.unwrap();
        socket.set_zero_linger().unwrap();
        drop(socket);
        let (mut socket, _) = listener.accept().await.unwrap();
        read(&mut socket).await.unwrap();
        socket.write_all(message().as_bytes()).await.unwrap();
    };
    let (answer, ()) = tokio::join!(asked, provider);
    let answer = answer.unwrap();
    assert_eq!(answer.headers()["x-seawall-attempts"], "2");
    assert_eq!(answer.text().await.unwrap(), MESSAGE);
}

#[tokio::test]
async fn a_call_that_was_retried_here_is_not_retried_by_the_client() {
    let body = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
    let head = format!("{JSON}x-should-retry: true\r\n");
    let provider = Scripted::answering(answer("529 X", &head, body)).await;
    let config = "[targets.up]\n[routes.default]\nladder = [\"up\"]\n\
        retry = { attempts = 3, base = \"2ms\", cap = \"10ms\" }\n";
    let served = Served::start(provider.address, config, &[]);
    let asked = served.post("/v1/messages").body(request(false));
    let answer = asked.send().await.unwrap();
    assert_eq!(answer.status(), 529);
    assert_eq!(answer.headers()["x-should-retry"], "false");
    assert_eq!(answer.headers()["x-seawall-attempts"], "3");
    assert_eq!(answer.text().await.unwrap(), body);
    assert_eq!(provider.arrived().len(), 3);
}

#[tokio::test]
async fn either_form_of_the_credential_goes_upstream_as_it_came() {
    let provider = Scripted::answering(message()).await;
    let served = Served::start(provider.address, "", &[]);
    let url = format!("{}/v1/messages", served.base);
    for (name, value) in [("x-api-key", "sk-1"), ("authorization", "Bearer sk-2")] {
        let asked = served.client.post(&url).header(name, value);
        let answer = asked.body(request(false)).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{name}");
    }
    let [key, bearer] = provider.arrived().try_into().unwrap();
    assert_eq!(key.header("x-api-key"), ["sk-1"]);
    assert_eq!(key.header("authorization"), Vec::<&str>::new());
    assert_eq!(bearer.header("authorization"), ["Bearer sk-2"]);
    assert_eq!(bearer.header("x-api-key"), Vec::<&str>::new());
    // Without one of its own, the gateway has nothing to ask the provider with.
    let none = served.client.post(&url).body(request(false)).send();
    assert_eq!(none.await.unwrap().status(), 401);
}

#[tokio::test]
async fn both_forms_at_once_are_one_credential() {
    let provider = Scripted::answering(message()).await;
    let served = Served::start(provider.address, "", &[]);
    let asked = served
        .post("/v1/messages")
        .header("authorization", "Bearer t");
    assert_eq!(
        asked.body(request(false)).send().await.unwrap().status(),
        200
    );
    let arrived = provider.only();
    assert_eq!(arrived.header("x-api-key"), ["sk-test"]);
    assert_eq!(arrived.header("authorization"), Vec::<&str>::new());
}

#[tokio::test]
async fn a_gateways_own_key_is_taken_from_either_header_and_goes_no_further() {
    let provider = Scripted::answering(message()).await;
    // The SHA-256 of "test".
    let config = "[gateway]\nclient_keys = [{ name = \"me\", sha256 = \
        \"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\" }]\n\
        [targets.up]\napi_key_env = \"UPSTREAM_KEY\"\n[routes.default]\nladder = [\"up\"]\n";
    let served = Served::start(provider.address, config, &[("UPSTREAM_KEY", "sk-up")]);
    let url = format!("{}/v1/messages", served.base);
    let sent = [
        (&[("x-api-key", "test")][..], 200),
        (&[("authorization", "Bearer test")], 200),
        (
            &[("x-api-key", "other"), ("authorization", "Bearer test")],
            200,
        ),
        (
            &[("x-api-key", "test"), ("authorization", "Bearer other")],
            200,
        ),
        (&[("x-api-key", "other")], 401),
    ];
    for (headers, status) in sent {
        let mut asked = served.client.post(&url);
        for (name, value) in headers {
            asked = asked.header(*name, *value);
        }
        let answer = asked.body(request(false)).send().await.unwrap();
        assert_eq!(answer.status(), status, "{headers:?}");
    }
    let arrived = provider.arrived();
    assert_eq!(arrived.len(), 4);
    for request in arrived {
        assert_eq!(request.header("x-api-key"), ["sk-up"]);
        assert_eq!(request.header("authorization"), Vec::<&str>::new());
    }
}

/// The names in the last column of the table.
fn named(table: &str) -> Vec<&str> {
    table
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| Claude Code"))
        .filter(|line| !line.starts_with("| ---"))
        .map(|line| {
            let cell = line.trim_end_matches([' ', '|']).rsplit('|').next();
            cell.unwrap_or_default().trim().trim_matches('`')
        })
        .collect()
}

/// The tests that stand in a file.
fn tests_in(source: &str) -> BTreeSet<&str> {
    let after_mark = source.split("#[tokio::test]\nasync fn ").skip(1);
    after_mark
        .filter_map(|rest| rest.split('(').next())
        .collect()
}

#[test]
fn every_row_of_the_table_has_its_test_and_every_test_its_row() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/claude-code.md")).unwrap();
    let source = fs::read_to_string(root.join("tests/seawall/claude_code.rs")).unwrap();
    let rows = named(&page);
    let unique: BTreeSet<&str> = rows.iter().copied().collect();
    assert_eq!(unique, tests_in(&source));
    assert_eq!(rows.len(), unique.len(), "a row of its own for each test");
    assert!(rows.len() >= 15, "the table is not read: {rows:?}");
}
