//! From HTTP to the client and back.

use std::convert::Infallible;
use std::error::Error;
use std::future::ready;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::{any, get, post};
use bytes::{Buf, Bytes};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use http::Method;
use http::request::Parts;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use seawall::client::ask::{Ask, Endpoint, Reply, ReplyBody};

use super::server::Door;
use super::{admin, admit, reply};

const ROUTE: &str = "x-seawall-route";
const PROFILE: &str = "x-seawall-profile";

/// Everything that is served, to those who may come in.
#[derive(Clone)]
pub(crate) struct Gateway {
    door: Arc<Door>,
    rest: TowerToHyperService<Router>,
}

impl Gateway {
    pub(crate) fn new(door: Arc<Door>) -> Self {
        let rest = TowerToHyperService::new(router(Arc::clone(&door)));
        Self { door, rest }
    }
}

impl Service<http::Request<Incoming>> for Gateway {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let gateway = &self.door.seawall.config().gateway;
        if let Err(stranger) = admit::admit(gateway, self.door.local, request.headers()) {
            return ready(Ok(reply::stranger(stranger))).boxed();
        }
        // Nearly every request is this one: it spares itself the router's layers.
        if request.method() == Method::POST && request.uri().path() == "/v1/messages" {
            let door = Arc::clone(&self.door);
            return async move { Ok(forward(&door, Endpoint::Messages, request).await) }.boxed();
        }
        self.rest.call(request).boxed()
    }
}

fn router(door: Arc<Door>) -> Router {
    Router::new()
        .route(
            "/v1/messages/count_tokens",
            post(count_tokens).fallback(other),
        )
        .route("/v1/{*rest}", any(other))
        .route("/api/hello", any(other))
        .route("/_seawall/health", get(admin::health))
        .route("/_seawall/ready", get(admin::ready))
        .route("/_seawall/status", get(admin::status))
        .route("/_seawall/metrics", get(admin::metrics))
        .route("/_seawall/", get(admin::page))
        .fallback(async || reply::not_found())
        .method_not_allowed_fallback(async || reply::wrong_method())
        .with_state(door)
}

async fn count_tokens(State(door): State<Arc<Door>>, request: Request) -> Response {
    forward(&door, Endpoint::CountTokens, request).await
}

async fn other(State(door): State<Arc<Door>>, request: Request) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    forward(&door, Endpoint::Other(method, path), request).await
}

async fn forward<B>(door: &Door, endpoint: Endpoint, request: http::Request<B>) -> Response
where
    B: HttpBody<Data: Buf, Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let is_head = *endpoint.method() == Method::HEAD;
    let (parts, body) = request.into_parts();
    let body = match read(door, body).await {
        Ok(body) => body,
        Err(answer) => return *answer,
    };
    let ask = match ask(endpoint, parts, body) {
        Ok(ask) => ask,
        Err(message) => return reply::invalid(&message),
    };
    match door.seawall.forward(ask).await {
        Ok(answer) => answered(answer, is_head),
        Err(error) => reply::failure(error),
    }
}

/// Reads a request's body up to the limit.
async fn read<B>(door: &Door, body: B) -> Result<Bytes, Box<Response>>
where
    B: HttpBody<Data: Buf, Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let limit = door.seawall.config().gateway.body_limit;
    let stated = body.size_hint().lower();
    if usize::try_from(stated).map_or(true, |stated| stated > limit) {
        return Err(Box::new(reply::too_large(limit)));
    }
    match Limited::new(body, limit).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Box::new(reply::too_large(limit)))
        }
        Err(error) => {
            tracing::debug!(%error, "request body broke off");
            Err(Box::new(reply::invalid(
                "seawall: the request body broke off",
            )))
        }
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
    let (route, query) = (named(ROUTE), parts.uri.query().map(str::to_owned));
    Ok(Ask {
        endpoint,
        query,
        headers: parts.headers,
        body,
        route,
        profile,
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
        ReplyBody::Stream(stream) => Body::from_stream(stream.map(Ok::<Bytes, Infallible>)),
        _ => Body::empty(),
    };
    reply::with(status, headers, body)
}
