//! The yardstick: the least that a hyper proxy can do.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{Request, Response, StatusCode, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::{Outcome, parse_address, upstream};

type Upstream = Client<HttpConnector, Incoming>;

/// Serves until it is killed. Arguments: the upstream's address, then `each` to write every frame
/// of a body on its own.
pub(crate) fn run(arguments: &[String]) -> Outcome<bool> {
    let upstream = parse_address(arguments.get(1))?;
    let each = arguments.get(2).is_some_and(|argument| argument == "each");
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(serve(upstream, each))
}

async fn serve(upstream: SocketAddr, each: bool) -> Outcome<bool> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    upstream::announce(&listener)?;
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Upstream = Client::builder(TokioExecutor::new()).build(connector);
    let authority: Authority = upstream.to_string().parse()?;
    let mut connections = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        let (client, authority) = (client.clone(), authority.clone());
        let service = service_fn(move |request| {
            let (client, authority) = (client.clone(), authority.clone());
            async move { Ok::<_, Infallible>(pass(client, authority, request, each).await) }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(socket), service);
        connections.spawn(async move { connection.await.is_ok() });
        while connections.try_join_next().is_some() {}
    }
}

async fn pass(
    client: Upstream,
    authority: Authority,
    mut request: Request<Incoming>,
    each: bool,
) -> Response<BoxBody<Bytes, hyper::Error>> {
    let mut uri = request.uri().clone().into_parts();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(authority);
    *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
    match client.request(request).await {
        Ok(answer) if each => answer.map(|body| Each::new(body).boxed()),
        Ok(answer) => answer.map(BodyExt::boxed),
        Err(_) => {
            let mut broken = Response::new(Empty::new().map_err(|never| match never {}).boxed());
            *broken.status_mut() = StatusCode::BAD_GATEWAY;
            broken
        }
    }
}

/// A body of events that is flushed after each: hyper flushes when a body has to be waited for.
struct Each {
    body: Incoming,
    rest: Bytes,
    written: bool,
}

impl Each {
    fn new(body: Incoming) -> Self {
        Self {
            body,
            rest: Bytes::new(),
            written: false,
        }
    }
}

impl Body for Each {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if std::mem::take(&mut self.written) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.rest.is_empty() {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                other => return other,
            }
        }
        let end = upstream::find(&self.rest, b"\n\n").map_or(self.rest.len(), |at| at + 2);
        self.written = true;
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(end)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
