//! From HTTP to the client and back.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{any, get, post};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::Method;
use http::header::EXPECT;
use http::request::Parts;
use http_body_util::{BodyExt, Limited};
use seawall::client::ask::{Ask, Endpoint, Reply, ReplyBody};
use seawall::error::Error;
use tokio::time::timeout;

use super::server::Door;
use super::{admin, admit, reply};

const ROUTE: &str = "x-seawall-route";
const PROFILE: &str = "x-seawall-profile";
/// Official SDKs count their own retries of a call in it, from 0.
const CLIENT_RETRIES: &str = "x-stainless-retry-count";

/// Read, at most, of a request that is refused before its end: twice what the API itself takes.
const MOST_DISCARDED: usize = 64 << 20;

/// And for no longer than this.
const LONGEST_DISCARD: Duration = Duration::from_secs(10);

/// Everything that is served.
pub(crate) fn router(door: Arc<Door>) -> Router {
    Router::new()
        .route("/v1/messages", post(messages).fallback(other))
        .route(
            "/v1/messages/count_tokens",
            post(count_tokens).fallback(other),
        )
        .route("/v1/{*rest}", any(other))
        .route("/api/hello", any(hello))
        .route("/_seawall/health", get(admin::health))
        .route("/_seawall/ready", get(admin::ready))
        .route("/_seawall/status", get(admin::status))
        .route("/_seawall/metrics", get(admin::metrics))
        .route("/_seawall/", get(admin::page))
        .fallback(async || reply::not_found())
        .method_not_allowed_fallback(async || reply::wrong_method())
        .layer(middleware::from_fn_with_state(Arc::clone(&door), let_in))
        .with_state(door)
}

async fn let_in(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    let gateway = &door.seawall.config().gateway;
    match admit::admit(gateway, door.local, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(stranger) => heard(reply::stranger(stranger), request),
    }
}

async fn messages(State(door): State<Arc<Door>>, request: Request) -> Response {
    forward(&door, Endpoint::Messages, request).await
}

async fn count_tokens(State(door): State<Arc<Door>>, request: Request) -> Response {
    forward(&door, Endpoint::CountTokens, request).await
}

async fn other(State(door): State<Arc<Door>>, request: Request) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    forward(&door, Endpoint::Other(method, path), request).await
}

/// A greeting asks whether somebody is there. Clients send it before they have a credential;
/// without one the provider can't be asked, but the gateway is there.
async fn hello(State(door): State<Arc<Door>>, request: Request) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let is_head = method == Method::HEAD;
    let endpoint = Endpoint::Other(method, path);
    match ask_of(&door, endpoint, request).await {
        Err(refused) => *refused,
        Ok(ask) => match door.seawall.forward(ask).await {
            Err(Error::NoCredential) if is_head => Response::default(),
            result => concluded(result, is_head),
        },
    }
}

async fn forward(door: &Door, endpoint: Endpoint, request: Request) -> Response {
    let is_head = *endpoint.method() == Method::HEAD;
    match ask_of(door, endpoint, request).await {
        Err(refused) => *refused,
        Ok(ask) => concluded(door.seawall.forward(ask).await, is_head),
    }
}

/// The request, read whole, as the client takes it.
async fn ask_of(door: &Door, endpoint: Endpoint, request: Request) -> Result<Ask, Box<Response>> {
    let (parts, body) = request.into_parts();
    let body = read(door, &parts, body).await?;
    ask(endpoint, parts, body).map_err(|message| Box::new(reply::invalid(&message)))
}

fn concluded(result: Result<Reply, Error>, is_head: bool) -> Response {
    match result {
        Ok(answer) => answered(answer, is_head),
        Err(error) => reply::failure(error),
    }
}

/// Reads a request's body up to the limit.
async fn read(door: &Door, parts: &Parts, mut body: Body) -> Result<Bytes, Box<Response>> {
    let limit = door.seawall.config().gateway.body_limit;
    let too_large = |body| {
        let request = Request::from_parts(parts.clone(), body);
        Box::new(heard(reply::too_large(limit), request))
    };
    let stated = body.size_hint().lower();
    if usize::try_from(stated).map_or(true, |stated| stated > limit) {
        return Err(too_large(body));
    }
    match Limited::new(&mut body, limit).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(too_large(body)),
        Err(error) => {
            tracing::debug!(%error, "request body broke off");
            Err(Box::new(reply::invalid(
                "seawall: the request body broke off",
            )))
        }
    }
}

/// An answer that does not wait for the request's body, and is heard all the same: a connection
/// that is closed on unread bytes is reset, and the reset overtakes the answer.
fn heard(answer: Response, request: Request) -> Response {
    let asks_first = request.headers().contains_key(EXPECT);
    let rest = request.into_body();
    // Whoever asked first has not sent the body, and won't now.
    if asks_first || rest.is_end_stream() {
        return answer;
    }
    let (head, said) = answer.into_parts();
    let drained = stream::once(discard(rest)).filter_map(async |()| None);
    Response::from_parts(
        head,
        Body::from_stream(said.into_data_stream().chain(drained)),
    )
}

/// Reads a body to its end, or for as long as a client in good faith needs.
async fn discard(mut rest: Body) {
    let mut left = MOST_DISCARDED;
    let read = async {
        while let Some(Ok(frame)) = rest.frame().await {
            let size = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(size) {
                Some(less) => left = less,
                None => return,
            }
        }
    };
    if timeout(LONGEST_DISCARD, read).await.is_err() {
        tracing::debug!("a refused request is still being sent");
    }
}

fn ask(endpoint: Endpoint, parts: Parts, body: Bytes) -> Result<Ask, String> {
    let named = |name: &str| {
        parts
            .headers
            .get(name)
            .map(|value| value.to_str().unwrap_or("?").to_owned())
    };
    let profile = match named(PROFILE) {
        Some(name) => Some(
            name.parse()
                .map_err(|why| format!("seawall: {PROFILE}: {name}: {why}"))?,
        ),
        None => None,
    };
    // What is no number came from no SDK, so nothing is known of earlier tries.
    let client_retries = named(CLIENT_RETRIES)
        .and_then(|count| count.parse().ok())
        .unwrap_or(0);
    let (route, query) = (named(ROUTE), parts.uri.query().map(str::to_owned));
    Ok(Ask {
        endpoint,
        query,
        headers: parts.headers,
        body,
        route,
        profile,
        client_retries,
    })
}

fn answered(answer: Reply, is_head: bool) -> Response {
    let Reply {
        status,
        mut headers,
        body,
        report,
        ..
    } = answer;
    reply::stamp(&mut headers, &report);
    let body = match body {
        ReplyBody::Whole(_) if is_head => Body::empty(),
        ReplyBody::Whole(bytes) => Body::from(bytes),
        ReplyBody::Stream(stream) => {
            Body::from_stream(stream.map(Ok::<Bytes, std::convert::Infallible>))
        }
        _ => Body::empty(),
    };
    reply::with(status, headers, body)
}
