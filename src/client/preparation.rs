//! From a request to what every rung is sent, and to how the call may go.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64};
use std::time::Duration;

use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Uri};
use parking_lot::Mutex;
use seawall_actors::caller::{Call, Rung};
use seawall_actors::error::{Rejected, Rejection};
use seawall_actors::policy::backoff::Backoff;
use seawall_actors::policy::retry::Retry;
use seawall_actors::policy::wait_queue::Tenant;
use secrecy::ExposeSecret;
use tokio::time::Instant;

use super::ask::{Ask, Endpoint};
use super::counting::Count;
use super::exchange::{Exchange, Prepared, Progress};
use super::expectation::Shape;
use super::{Seawall, stacking};
use crate::config::{self, Route};
use crate::delivery::{Delivery, Hold};
use crate::error::Error;
use crate::provider::anthropic::headers::{self as wire, Credential, Form};
use crate::provider::anthropic::request::{RequestView, splice_model};
use crate::transport::Transport;

/// A call that is being set up: what it goes on from.
pub(super) struct Started {
    pub(super) call: Arc<str>,
    pub(super) began: Instant,
    /// Attempts made before it, by the calls that it continues.
    pub(super) attempts: u32,
    pub(super) progress: Progress,
}

impl Seawall {
    /// How the call may go: its deadline, its place in queues and its retries.
    pub(super) fn plan(
        tenants: &config::Tenants,
        exchange: &Exchange,
        ask: &Ask,
        route: &Route,
        rungs: Vec<Rung>,
    ) -> Result<Call, Error> {
        let profile = exchange.profile;
        let priority = if ask.profile.is_some() {
            profile.priority()
        } else {
            route.priority
        };
        let patience = match ask.profile {
            Some(profile) => profile.wait_limit(exchange.timeouts.total),
            None => route.wait,
        };
        let repeatable = match &ask.endpoint {
            Endpoint::Messages | Endpoint::CountTokens => true,
            Endpoint::Other(method, _) => method.is_idempotent(),
        };
        let attempts = if repeatable {
            let own = stacking::attempts(route.retry.attempts, ask.client_retries);
            let left = own.saturating_sub(exchange.attempts_before);
            if left == 0 {
                return Err(Error::Refused(Rejected::new(Rejection::RetryBudget)));
            }
            left
        } else {
            1
        };
        let retry = Backoff::new(route.retry.base, route.retry.cap)
            .and_then(|backoff| Retry::new(attempts, backoff, Retry::default().min_useful()))?;
        let deadline = exchange.began + exchange.timeouts.total;
        let released = exchange.began + exchange.timeouts.generation;
        Ok(Call {
            id: Arc::clone(&exchange.call),
            rungs,
            deadline,
            held_until: deadline.max(released),
            continues: exchange.attempts_before > 0,
            patience,
            priority,
            tenant: ask
                .tenant
                .as_deref()
                .map_or_else(Tenant::default, |name| tenants.named(name)),
            retry,
            hedge: None,
        })
    }

    /// Prepares what each rung of the route is sent.
    pub(super) async fn prepare(
        &self,
        started: Started,
        ask: &mut Ask,
        view: Option<&RequestView>,
        route: &Route,
    ) -> Result<(Exchange, Vec<Rung>), Error> {
        let profile = ask.profile.unwrap_or(route.profile);
        let timeouts = ask.timeouts.unwrap_or_else(|| {
            ask.profile
                .map_or(route.timeouts, crate::profile::Profile::timeouts)
        });
        let delivery = match (ask.delivery, route.delivery) {
            // A header says no more than "hold"; how long is the route's to say.
            (Some(Delivery::Hold(asked)), Some(own @ Delivery::Hold(_)))
                if asked == Hold::default() =>
            {
                own
            }
            (asked, own) => asked.or(own).unwrap_or_else(|| profile.delivery()),
        };
        let model = view.and_then(|view| view.model.as_deref());
        let mut exchange = Exchange {
            call: started.call,
            endpoint: ask.endpoint.clone(),
            route: route.name.as_str().into(),
            profile,
            delivery,
            on_disconnect: route.on_disconnect,
            model: model.map(Arc::from),
            streams: view.is_some_and(|view| view.stream),
            timeouts,
            began: started.began,
            rungs: Vec::new(),
            telemetry: self.shared.telemetry.clone(),
            run: run(ask, route),
            meter: ask.meter.clone(),
            ends: self.shared.ends.clone(),
            ask: (delivery == Delivery::Resume || started.attempts > 0).then(|| ask.clone()),
            attempts_before: started.attempts,
            upstream_us: AtomicU64::new(0),
            progress: Mutex::new(started.progress),
            status: AtomicU16::new(0),
            unrecorded: AtomicBool::new(false),
        };
        let most = match ask.endpoint {
            Endpoint::Messages | Endpoint::CountTokens => usize::MAX,
            Endpoint::Other(..) => 1,
        };
        let mut named = self.targets(route, most).into_iter().peekable();
        let brought = self.brought(&ask.headers);
        let mut common = wire::request_headers(std::mem::take(&mut ask.headers));
        let mut rungs = Vec::new();
        while let Some((name, settings)) = named.next() {
            let headers = match named.peek() {
                Some(_) => common.clone(),
                None => std::mem::take(&mut common),
            };
            let (prepared, rung) = self
                .rung(
                    (name, settings),
                    (ask, view),
                    (headers, brought.as_ref()),
                    &exchange,
                )
                .await?;
            exchange.rungs.push(Arc::new(prepared));
            rungs.push(rung);
        }
        Ok((exchange, rungs))
    }

    /// The rungs of a route that are targets.
    fn targets<'a>(&'a self, route: &Route, most: usize) -> Vec<(&'a str, &'a config::Target)> {
        let targets = &self.shared.config.targets;
        let target = |rung: &config::Rung| {
            let (name, settings) = targets.get_key_value(rung.place.target()?)?;
            Some((name.as_str(), settings))
        };
        route.ladder.iter().filter_map(target).take(most).collect()
    }

    async fn rung(
        &self,
        (name, settings): (&str, &config::Target),
        (ask, view): (&Ask, Option<&RequestView>),
        (mut headers, brought): (HeaderMap, Option<&Credential>),
        exchange: &Exchange,
    ) -> Result<(Prepared, Rung), Error> {
        let (credential, source) = credential(settings, brought)?;
        let asked = view.and_then(|view| view.model.as_deref());
        let model = settings.model.as_deref().or(asked);
        let body = match (view, model) {
            (Some(view), Some(model)) => splice_model(&ask.body, view, model),
            _ => ask.body.clone(),
        };
        credential.apply(&mut headers);
        name_version(&mut headers);
        let (target, expectation) = self
            .shared
            .targets
            .resolve(
                &self.shared,
                (name, settings),
                &ask.endpoint,
                (model, &credential),
            )
            .await?;
        let transport = self.transport(exchange.timeouts.connect);
        let shape = Shape::of(model.unwrap_or(""), view);
        let mut expected = match ask.endpoint {
            Endpoint::Messages => expectation.expect(shape),
            _ => expectation.request_only(shape),
        };
        let known = match (&ask.endpoint, &ask.query) {
            (Endpoint::Messages, None) => self.shared.targets.messages_at(name),
            _ => None,
        };
        // Rungs below the first are rarely reached, and then the call has waited enough.
        if ask.endpoint == Endpoint::Messages
            && exchange.rungs.is_empty()
            && settings
                .count_tokens_above
                .is_some_and(|above| expected.prompt() > above)
        {
            let count = Count {
                settings: (name, settings),
                model,
                credential: &credential,
                headers: &headers,
                body: &body,
                transport: &*transport,
            };
            let deadline = exchange.began + exchange.timeouts.total;
            let counted = self.count(count, deadline).boxed().await;
            expected = expectation.expect(Shape { counted, ..shape });
        }
        let prepared = Prepared {
            name: name.into(),
            model: match &settings.model {
                Some(own) => Some(own.as_str().into()),
                None => exchange.model.clone(),
            },
            uri: match known {
                Some(known) => known,
                None => address(&settings.base_url, &ask.endpoint, ask.query.as_deref())?,
            },
            headers,
            body,
            credential_source: source,
            transport,
            expectation,
            expected,
        };
        let cost = expected.cost;
        Ok((prepared, Rung::target(target, cost)))
    }

    fn transport(&self, connect: Duration) -> Arc<dyn Transport> {
        let shared = &self.shared;
        Arc::clone(shared.transports.get(&connect).unwrap_or(&shared.transport))
    }

    /// The provider's credential that a client sent. Where client keys are asked for, it is none.
    fn brought(&self, from_client: &HeaderMap) -> Option<Credential> {
        let guarded = !self.shared.config.gateway.client_keys.is_empty();
        (!guarded).then(|| Credential::from_headers(from_client))?
    }
}

fn name_version(headers: &mut HeaderMap) {
    if !headers.contains_key(wire::VERSION) {
        let version = HeaderValue::from_static(wire::DEFAULT_VERSION);
        headers.insert(wire::VERSION, version);
    }
}

/// The credential of an attempt, and where it came from in words.
fn credential<'a>(
    settings: &config::Target,
    brought: Option<&'a Credential>,
) -> Result<(Cow<'a, Credential>, Cow<'static, str>), Error> {
    let own = |key: &config::ApiKey| {
        Credential::new(Form::ApiKey, key.secret.expose_secret())
            .map(|credential| (Cow::Owned(credential), key.origin.to_string().into()))
            .map_err(|_| Error::NoCredential)
    };
    let theirs = |credential| (Cow::Borrowed(credential), "the caller's own header".into());
    match &settings.credential {
        config::Credential::Caller => brought.map(theirs).ok_or(Error::NoCredential),
        config::Credential::CallerOr(key) => match brought {
            Some(credential) => Ok(theirs(credential)),
            None => own(key),
        },
        config::Credential::Own(key) => own(key),
    }
}

/// Where an endpoint of a target is.
pub(super) fn address(base: &str, endpoint: &Endpoint, query: Option<&str>) -> Result<Uri, Error> {
    let path = endpoint.path();
    let text = match query {
        Some(query) => format!("{base}{path}?{query}"),
        None => format!("{base}{path}"),
    };
    text.parse().map_err(|_| Error::BadAddress(text))
}

/// The run that a call belongs to, told apart from those of other tenants.
fn run(ask: &Ask, route: &Route) -> Option<Arc<str>> {
    route.stagger?;
    let run = ask.run.as_deref()?;
    let tenant = ask.tenant.as_deref().unwrap_or("");
    Some(format!("{tenant}\n{run}").into())
}
