//! Reads a request's body up to a limit, so that the client can hear when it is too large.
//!
//! A socket that is closed with unread bytes in it is reset, and a client that is still sending then
//! loses the answer that came before. What is too large is therefore answered at once, and read on
//! for a while into nothing.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::EXPECT;
use http_body_util::BodyExt;
use tokio::time::timeout;

/// Longest time that an upload is read on for after it was refused.
const LINGER: Duration = Duration::from_secs(10);

/// Most bytes of it: who sends more than twice the largest request of the provider is not waited for.
const LINGER_BYTES: usize = 64 << 20;

/// A body that cannot be passed on.
#[derive(Debug)]
pub(crate) enum Unfit {
    TooLarge,
    Broken(axum::Error),
}

/// Reads the whole body into memory, or nothing much of it.
pub(crate) async fn read(
    headers: &HeaderMap,
    mut body: Body,
    limit: usize,
) -> Result<Bytes, Unfit> {
    let stated = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if stated > limit {
        linger(headers, body);
        return Err(Unfit::TooLarge);
    }
    let mut whole = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(Unfit::Broken)?.into_data() else {
            continue;
        };
        let so_far = whole.len().max(joined.len());
        if so_far.saturating_add(data.len()) > limit {
            linger(headers, body);
            return Err(Unfit::TooLarge);
        }
        if so_far == 0 {
            whole = data;
            continue;
        }
        if joined.is_empty() {
            // The length is known or it is not; a wrong one would have been an error of the framing.
            joined.reserve(stated.max(so_far + data.len()));
            joined.extend_from_slice(&std::mem::take(&mut whole));
        }
        joined.extend_from_slice(&data);
    }
    Ok(if joined.is_empty() {
        whole
    } else {
        joined.freeze()
    })
}

/// Lets the client of a request that is refused unread hear why.
pub(crate) fn discard(request: Request) {
    let (parts, body) = request.into_parts();
    linger(&parts.headers, body);
}

/// Reads on without keeping anything; the connection ends, or serves on, after it.
fn linger(headers: &HeaderMap, mut body: Body) {
    // A client that asks before it sends has nothing on its way.
    if headers.contains_key(EXPECT) || body.is_end_stream() {
        return;
    }
    let drain = async move {
        let mut left = LINGER_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "bounded, and ends with its connection"
    )]
    tokio::spawn(async move {
        if timeout(LINGER, drain).await.is_err() {
            tracing::debug!("a refused upload went on for too long");
        }
    });
}
