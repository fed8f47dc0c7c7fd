//! One attempt of the two plain clients, as an SDK sees it.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use tokio::time::timeout;

use super::{By, Ended};
use crate::transport::{Request, Transport};

/// The official SDKs' timeout for one attempt.
pub(super) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(600);

/// What an SDK gets from one attempt.
#[derive(Debug)]
pub(super) enum Exchange {
    /// A 2xx, read to its end.
    Answer(Ended),
    /// Any other status; its body says nothing that a retry policy reads.
    Status(StatusCode, HeaderMap),
    /// No connection, a broken one, or none in time.
    Connection { why: &'static str },
}

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(rename = "type", borrow)]
    kind: &'a str,
}

/// Sends one request and reads the whole answer.
pub(super) async fn exchange(
    transport: &dyn Transport,
    request: Request,
    stream: bool,
) -> Exchange {
    timeout(ATTEMPT_TIMEOUT, send(transport, request, stream))
        .await
        .unwrap_or(Exchange::Connection { why: "timeout" })
}

async fn send(transport: &dyn Transport, request: Request, stream: bool) -> Exchange {
    let Ok(mut response) = transport.send(request).await else {
        return Exchange::Connection { why: "connection" };
    };
    let mut bytes = BytesMut::new();
    let mut broken = false;
    while let Some(chunk) = response.body.next().await {
        match chunk {
            Ok(chunk) => bytes.extend_from_slice(&chunk),
            Err(_) => {
                broken = true;
                break;
            }
        }
    }
    if !response.status.is_success() {
        return Exchange::Status(response.status, response.headers);
    }
    match (stream, broken) {
        // Whole bodies are read inside the retry loop, streams are handed out before it knows.
        (false, true) => Exchange::Connection { why: "connection" },
        (true, true) => Exchange::Answer(Ended::Failed { why: "connection" }),
        (false, false) => Exchange::Answer(judge_message(&bytes.freeze())),
        (true, false) => Exchange::Answer(judge_stream(&bytes.freeze())),
    }
}

fn judge_message(body: &Bytes) -> Ended {
    match serde_json::from_slice::<Kind<'_>>(body) {
        Ok(Kind { kind: "message" }) => Ended::Answered { by: By::Wanted },
        _ => Ended::Failed { why: "malformed" },
    }
}

// No SDK treats a stream that ends without its last event as an error.
fn judge_stream(body: &Bytes) -> Ended {
    let text = String::from_utf8_lossy(body);
    let mut events = text
        .lines()
        .filter_map(|line| line.strip_prefix("event:"))
        .map(str::trim);
    match events.find(|event| matches!(*event, "error" | "message_stop")) {
        Some("message_stop") => Ended::Answered { by: By::Wanted },
        Some(_) => Ended::Failed {
            why: "stream_error",
        },
        None => Ended::HalfAnswered,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_is_no_message_is_malformed() {
        let whole = Bytes::from_static(br#"{"id":"msg_1","type":"message","content":[]}"#);
        assert_eq!(judge_message(&whole), Ended::Answered { by: By::Wanted });
        let cut = whole.slice(..20);
        assert_eq!(judge_message(&cut), Ended::Failed { why: "malformed" });
        let html = Bytes::from_static(b"<html>");
        assert_eq!(judge_message(&html), Ended::Failed { why: "malformed" });
    }

    #[test]
    fn a_stream_without_its_last_event_passes_for_an_answer() {
        let start = "event: message_start\ndata: {}\n\n";
        let stop = "event: message_stop\ndata: {}\n\n";
        let error = "event: error\ndata: {}\n\n";
        assert_eq!(judge_stream(&Bytes::from(start)), Ended::HalfAnswered);
        let whole = Bytes::from(format!("{start}{stop}"));
        assert_eq!(judge_stream(&whole), Ended::Answered { by: By::Wanted });
        let failed = Bytes::from(format!("{start}{error}"));
        assert_eq!(
            judge_stream(&failed),
            Ended::Failed {
                why: "stream_error"
            }
        );
    }
}
