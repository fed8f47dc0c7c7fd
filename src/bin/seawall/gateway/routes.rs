//! From HTTP to the client and back.

use std::convert::Infallible;
use std::fmt::Display;
use std::future::ready;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::{any, get, post};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use seawall::client::ask::{Ask, Endpoint, Reply, ReplyBody};
use seawall::config::{ClientKey, Tenants};
use seawall::error::Error;

use super::clients::Client;
use super::limits::{Pass, Place};
use super::server::Door;
use super::upload::{self, Unfit};
use super::{admin, admit, reply};

static ROUTE: HeaderName = HeaderName::from_static("x-seawall-route");
static PROFILE: HeaderName = HeaderName::from_static("x-seawall-profile");
/// Which run of an agent a call belongs to.
static RUN: HeaderName = HeaderName::from_static("x-seawall-run");
static TENANT: HeaderName = HeaderName::from_static("x-seawall-tenant");
static FALLBACK: HeaderName = HeaderName::from_static("x-seawall-fallback");
static DELIVERY: HeaderName = HeaderName::from_static("x-seawall-delivery");
/// Read with the request's own `cache-control`, by the cache.
static CACHE: HeaderName = HeaderName::from_static("x-seawall-cache");
/// What it may say.
const CACHE_WORDS: [&str; 3] = ["no-store", "no-cache", "max-age=0"];
/// Official SDKs count their own retries of a call in it, from 0.
static CLIENT_RETRIES: HeaderName = HeaderName::from_static("x-stainless-retry-count");

/// Everything that is served, to those who may come in.
#[derive(Clone)]
pub(crate) struct Gateway {
    door: Arc<Door>,
    rest: TowerToHyperService<Router>,
    peer: IpAddr,
}

/// The address that a request came from; there when a client has limits.
#[derive(Debug, Clone, Copy)]
struct Peer(IpAddr);

impl Gateway {
    pub(crate) fn new(door: Arc<Door>) -> Self {
        let rest = TowerToHyperService::new(router(Arc::clone(&door)));
        let peer = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Self { door, rest, peer }
    }

    /// The same for the requests of one connection.
    pub(crate) fn of(&self, peer: IpAddr) -> Self {
        Self {
            peer,
            ..self.clone()
        }
    }
}

impl Service<http::Request<Incoming>> for Gateway {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let gateway = &self.door.seawall.config().gateway;
        let mut request = request;
        match admit::admit(gateway, self.door.local, request.headers()) {
            Ok(None) => {}
            Ok(Some(client)) => drop(request.extensions_mut().insert(client.clone())),
            Err(stranger) => {
                upload::discard(request.map(Body::new));
                return ready(Ok(reply::stranger(stranger))).boxed();
            }
        }
        if self.door.limits.is_any() {
            request.extensions_mut().insert(Peer(self.peer));
        }
        // Nearly every request is this one: it spares itself the router's layers.
        if request.method() == Method::POST && request.uri().path() == "/v1/messages" {
            let (door, request) = (Arc::clone(&self.door), request.map(Body::new));
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
        .route("/api/hello", any(hello))
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

/// A greeting asks whether somebody is there. Clients send it before they have a credential;
/// without one the provider can't be asked, but the gateway is there.
async fn hello(State(door): State<Arc<Door>>, request: Request) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let is_head = method == Method::HEAD;
    let endpoint = Endpoint::Other(method, path);
    match ask_of(&door, endpoint, request).await {
        Err(refused) => *refused,
        Ok((ask, place)) => match door.seawall.forward(ask).await {
            Err(Error::NoCredential) if is_head => Response::default(),
            result => concluded(result, is_head, place),
        },
    }
}

async fn forward(door: &Door, endpoint: Endpoint, request: Request) -> Response {
    let is_head = *endpoint.method() == Method::HEAD;
    match ask_of(door, endpoint, request).await {
        Err(refused) => *refused,
        Ok((ask, place)) => concluded(door.seawall.forward(ask).await, is_head, place),
    }
}

/// The request, read whole, as the client takes it, and the place that its client's limits gave it.
async fn ask_of(
    door: &Door,
    endpoint: Endpoint,
    request: Request,
) -> Result<(Ask, Option<Place>), Box<Response>> {
    let (parts, body) = request.into_parts();
    let limit = door.seawall.config().gateway.body_limit;
    let body = match upload::read(&parts.headers, body, limit).await {
        Ok(body) => body,
        Err(Unfit::TooLarge) => return Err(Box::new(reply::too_large(limit))),
        Err(Unfit::Broken(error)) => {
            tracing::debug!(%error, "request body broke off");
            return Err(Box::new(reply::invalid(
                "seawall: the request body broke off",
            )));
        }
    };
    let pass = pass(door, &endpoint, &parts, &body)?;
    let mut ask =
        ask(endpoint, parts, body).map_err(|message| Box::new(reply::invalid(&message)))?;
    ask.meter = pass.as_ref().map(Pass::meter);
    Ok((ask, pass.and_then(|pass| pass.place)))
}

/// Asks the limits of the client that a request comes from, if there are any.
fn pass(
    door: &Door,
    endpoint: &Endpoint,
    parts: &Parts,
    body: &Bytes,
) -> Result<Option<Pass>, Box<Response>> {
    let Some(Peer(peer)) = parts.extensions.get::<Peer>() else {
        return Ok(None);
    };
    let gateway = &door.seawall.config().gateway;
    let who = match parts.extensions.get::<ClientKey>() {
        Some(key) => (Client::Key(key.name.as_str().into()), &key.limits),
        None => (Client::at(*peer), &gateway.limits),
    };
    door.limits.enter(who, endpoint, body)
}

fn concluded(result: Result<Reply, Error>, is_head: bool, place: Option<Place>) -> Response {
    match result {
        Ok(answer) => answered(answer, is_head, place),
        Err(error) => reply::failure(error),
    }
}

fn ask(endpoint: Endpoint, parts: Parts, body: Bytes) -> Result<Ask, String> {
    let said = |name| only(&parts.headers, name);
    let profile = read_word(&PROFILE, said(&PROFILE)?)?;
    let delivery = read_word(&DELIVERY, said(&DELIVERY)?)?;
    let fallback = read_word(&FALLBACK, said(&FALLBACK)?)?.unwrap_or_default();
    check_cache_words(said(&CACHE)?)?;
    // What is no number came from no SDK, so nothing is known of earlier tries.
    let client_retries = parts.headers.get(&CLIENT_RETRIES);
    let client_retries = client_retries
        .and_then(|count| count.to_str().ok()?.parse().ok())
        .unwrap_or(0);
    let owned = |word: Option<&str>| word.map(str::to_owned);
    let tenant = tenant(owned(said(&TENANT)?), parts.extensions.get())?;
    let (route, run) = (owned(said(&ROUTE)?), owned(said(&RUN)?));
    let query = parts.uri.query().map(str::to_owned);
    Ok(Ask {
        endpoint,
        query,
        headers: parts.headers,
        body,
        route,
        profile,
        tenant,
        run,
        fallback,
        delivery,
        timeouts: None,
        client_retries,
        meter: None,
    })
}

/// What one of seawall's own headers says. Said twice, nobody knows which was meant: proxies differ in
/// whether they put a header beside the client's or in its place.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, String> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(format!("seawall: {name} was sent twice: send it once"));
    }
    match value.to_str() {
        Ok(word) => Ok(Some(word)),
        Err(_) => Err(format!(
            "seawall: {name}: write it in plain ASCII characters"
        )),
    }
}

fn check_cache_words(said: Option<&str>) -> Result<(), String> {
    let mut words = said.into_iter().flat_map(|said| said.split(','));
    let unknown = words.find(|word| {
        let mut known = CACHE_WORDS.iter();
        !known.any(|known| word.trim().eq_ignore_ascii_case(known))
    });
    match unknown {
        Some(word) => Err(format!(
            "seawall: {CACHE}: {}: write one of {}",
            word.trim(),
            CACHE_WORDS.join(", ")
        )),
        None => Ok(()),
    }
}

/// For whom a call is: whose key it has, or whom it names where that is left to it.
fn tenant(named: Option<String>, client: Option<&ClientKey>) -> Result<Option<String>, String> {
    let named = match named {
        Some(name) => Some(
            Tenants::check(&name)
                .map_err(|why| format!("seawall: {TENANT}: {why}"))?
                .to_owned(),
        ),
        None => None,
    };
    match (named, client) {
        (Some(name), Some(client)) if !client.any_tenant && client.name != name => Err(format!(
            "seawall: {TENANT}: this client's key is for the tenant `{}` alone; any_tenant = true \
             beside it in client_keys lets it name others",
            client.name
        )),
        (named, client) => Ok(named.or_else(|| client.map(|client| client.name.clone()))),
    }
}

fn read_word<T: FromStr<Err: Display>>(
    header: &HeaderName,
    word: Option<&str>,
) -> Result<Option<T>, String> {
    word.map(|word| {
        word.parse()
            .map_err(|why| format!("seawall: {header}: {word}: {why}"))
    })
    .transpose()
}

fn answered(answer: Reply, is_head: bool, place: Option<Place>) -> Response {
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
        ReplyBody::Stream(stream) => Body::from_stream(stream.map(move |events| {
            // Held until the body is dropped.
            let _: &Option<Place> = &place;
            Ok::<Bytes, Infallible>(events)
        })),
        _ => Body::empty(),
    };
    reply::with(status, headers, body)
}
