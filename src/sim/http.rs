//! The provider over HTTP/1.1 on a socket.
//!
//! A reset is a real one (`SO_LINGER` 0), a truncated body really ends early, and a client that
//! hangs up is seen while it is being answered. Beside the API there are `GET /_sim/stats`,
//! `POST /_sim/faults` (a JSON list that replaces the faults) and `POST /_sim/reset`.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::answer::{Answer, Answers, Ended, Head};
use super::recordings::Recordings;
use super::{Fault, Sim, wire};
use crate::transport::Request;

/// How long exchanges in flight may go on after the shutdown began.
const GRACE: Duration = Duration::from_secs(2);
/// The pause after a failed accept: out of file descriptors, trying again at once is a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

type Outgoing = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Ended>>>;

/// Serves a simulated provider until `shutdown` is ready; exchanges in flight get two more seconds.
///
/// Ties the provider's calendar to the real one. Dropping the future closes every connection.
///
/// # Errors
///
/// When the listener's address is gone.
pub async fn serve(
    listener: TcpListener,
    sim: Arc<Sim>,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    sim.follow_wall_clock();
    let provider: Arc<dyn Answers> = Arc::<Sim>::clone(&sim);
    run(
        listener,
        Served {
            provider,
            control: Some(sim),
        },
        shutdown,
    )
    .await
}

/// Serves recorded exchanges until `shutdown` is ready.
///
/// # Errors
///
/// As [`serve`].
pub async fn serve_recordings(
    listener: TcpListener,
    recordings: Arc<Recordings>,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    run(
        listener,
        Served {
            provider: recordings,
            control: None,
        },
        shutdown,
    )
    .await
}

/// What answers on the socket.
#[derive(Debug, Clone)]
struct Served {
    provider: Arc<dyn Answers>,
    control: Option<Arc<Sim>>,
}

async fn run(
    listener: TcpListener,
    served: Served,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    listener.local_addr()?;
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, served.clone(), graceful.watcher()));
                }
                Err(error) => {
                    tracing::warn!(%error, "the simulated provider could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    tokio::select! {
        () = graceful.shutdown() => {}
        () = tokio::time::sleep(GRACE) => {}
    }
    connections.shutdown().await;
    Ok(())
}

/// An event must not wait for the acknowledgement of the one before it.
fn send_at_once(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
}

/// One connection, to its end.
async fn converse(stream: TcpStream, served: Served, watcher: Watcher) {
    send_at_once(&stream);
    let reset = Arc::new(AtomicBool::new(false));
    let wire = Wire {
        stream,
        reset: Arc::clone(&reset),
    };
    let service = service_fn(move |request| {
        let (served, reset) = (served.clone(), Arc::clone(&reset));
        async move { respond(&served, reset, request).await }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(wire), service);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "a connection to the simulated provider broke");
    }
}

async fn respond(
    served: &Served,
    reset: Arc<AtomicBool>,
    request: hyper::Request<Incoming>,
) -> Result<hyper::Response<Outgoing>, Broke> {
    let (parts, body) = request.into_parts();
    let body = collect(body).await.map_err(Broke::Request)?;
    if let Some(sim) = &served.control
        && let Some(what) = parts.uri.path().strip_prefix("/_sim/")
    {
        let (head, body) = control(sim, &parts.method, what, &body);
        return play(Answer::whole(head, body), reset).await;
    }
    let request = Request {
        method: parts.method,
        uri: parts.uri,
        headers: parts.headers,
        body,
    };
    let answer = Arc::clone(&served.provider).answer(&request, Instant::now());
    play(answer, reset).await
}

/// Carries a plan out.
async fn play(answer: Answer, reset: Arc<AtomicBool>) -> Result<hyper::Response<Outgoing>, Broke> {
    let (head, body) = answer.open().await.map_err(|ended| {
        reset.store(true, Ordering::Relaxed);
        Broke::Answer(ended)
    })?;
    let frames = body.map(move |chunk| {
        if chunk == Err(Ended::Reset) {
            reset.store(true, Ordering::Relaxed);
        }
        chunk.map(Frame::data)
    });
    let mut response = hyper::Response::new(StreamBody::new(frames.boxed()));
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    Ok(response)
}

/// The whole body, but no more of it than shows that it is too large; the rest is read and dropped,
/// so that the client can hear the answer.
async fn collect(mut body: Incoming) -> Result<Bytes, hyper::Error> {
    let mut whole = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        let size = joined.len().max(whole.len());
        if size == 0 {
            whole = data;
        } else if size <= wire::BODY_LIMIT {
            // One frame, the usual case, is never copied.
            if joined.is_empty() {
                joined.extend_from_slice(&std::mem::take(&mut whole));
            }
            joined.extend_from_slice(&data);
        }
    }
    Ok(if joined.is_empty() {
        whole
    } else {
        joined.freeze()
    })
}

/// The provider's own controls.
fn control(sim: &Sim, method: &Method, what: &str, body: &[u8]) -> (Head, Bytes) {
    match (method, what) {
        (&Method::GET, "stats") => match serde_json::to_vec(&sim.stats()) {
            Ok(stats) => said(StatusCode::OK, stats),
            Err(error) => complaint(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        },
        (&Method::POST, "faults") => {
            let faults: Result<Vec<Fault>, _> = serde_json::from_slice(body);
            match faults
                .map_err(|e| e.to_string())
                .and_then(|faults| sim.set_faults(faults).map_err(|e| e.to_string()))
            {
                Ok(()) => said(StatusCode::OK, b"{}".to_vec()),
                Err(why) => complaint(StatusCode::BAD_REQUEST, &why),
            }
        }
        (&Method::POST, "reset") => {
            sim.reset();
            said(StatusCode::OK, b"{}".to_vec())
        }
        _ => complaint(
            StatusCode::NOT_FOUND,
            "there are GET /_sim/stats, POST /_sim/faults and POST /_sim/reset",
        ),
    }
}

fn complaint(status: StatusCode, why: &str) -> (Head, Bytes) {
    said(status, json!({ "error": why }).to_string().into_bytes())
}

fn said(status: StatusCode, body: Vec<u8>) -> (Head, Bytes) {
    let mut headers = HeaderMap::new();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    (Head { status, headers }, Bytes::from(body))
}

/// Why a connection is given up.
#[derive(Debug, thiserror::Error)]
enum Broke {
    #[error("the request broke off")]
    Request(#[source] hyper::Error),
    #[error("the answer is a broken connection")]
    Answer(#[source] Ended),
}

/// A socket that is reset when it is dropped, if an answer wanted that.
#[derive(Debug)]
struct Wire {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Relaxed)
            && let Err(error) = self.stream.set_zero_linger()
        {
            tracing::debug!(%error, "a reset becomes a plain close");
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// A reset must not begin with the FIN of an orderly end.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.reset.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
