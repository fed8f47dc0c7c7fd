//! From a request to what every rung is sent, and to how the call may go.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::ready;
use http::{HeaderMap, HeaderValue, Uri};
use parking_lot::Mutex;
use seawall_actors::caller::{Call, Hedge, HedgeOn, Rung as ActorsRung};
use seawall_actors::error::{Rejected, Rejection};
use seawall_actors::policy::backoff::Backoff;
use seawall_actors::policy::quota::{Cost, Learned, RefusedBy};
use seawall_actors::policy::retry::Retry;
use seawall_actors::policy::wait_queue::Tenant;
use seawall_actors::system::Target as ActorsTarget;
use tokio::time::Instant;

use super::ask::{Ask, Endpoint};
use super::counting::Count;
use super::exchange::{Exchange, Prepared, Progress};
use super::expectation::Shape;
use super::kept::Print;
use super::keys::{Secret, TargetKey};
use super::ladders::{self, Ladder};
use super::rungs::{Fitting, Rungs, Sent};
use super::source::Source;
use super::{Seawall, stacking};
use crate::capability::Features;
use crate::config::{self, Route};
use crate::delivery::{Delivery, Hold};
use crate::error::Error;
use crate::profile::{Profile, Timeouts};
use crate::provider::anthropic::headers::{self as wire, Credential};
use crate::provider::anthropic::request::adapt::adapt;
use crate::provider::anthropic::request::{RequestView, splice_model};
use crate::transport::Transport;

/// What is asked, and what is known of it at once.
pub(super) struct Asked<'s> {
    pub(super) ask: Ask,
    pub(super) view: Option<RequestView>,
    pub(super) route: &'s Route,
    pub(super) print: Option<Print>,
}

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
    fn plan(
        &self,
        exchange: &Exchange,
        ask: &Ask,
        route: &Route,
        mut rungs: Vec<ActorsRung>,
    ) -> Result<Call, Error> {
        let tenants = &self.shared.config.tenants;
        let profile = exchange.profile;
        let priority = if ask.profile.is_some() {
            profile.priority()
        } else {
            route.priority
        };
        let patience = patience(ask, route, exchange.timeouts.total);
        let repeatable = match &ask.endpoint {
            Endpoint::Messages | Endpoint::CountTokens => true,
            Endpoint::Other(method, _) => method.is_idempotent(),
        };
        let attempts = if repeatable {
            let own = match ask.client_retries {
                0 => route.retry.attempts,
                _ if exchange.attempts_before > 0 => 1,
                _ => stacking::one_a_rung(&mut rungs),
            };
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
            hedge: hedge(exchange, route),
        })
    }

    /// Sets a call up: its rungs, and what its first target is sent.
    // No async fn, as nothing is that holds a request by value: it would hold it twice.
    pub(super) fn prepare<'s>(
        &'s self,
        started: Started,
        asked: Asked<'s>,
    ) -> impl Future<Output = Result<(Arc<Exchange>, Call), Error>> + Send + 's {
        let planned = move |(exchange, ask, route): (Arc<Exchange>, Ask, &'s Route)| async move {
            let rungs = self.rungs(&exchange, ask.fallback).await?;
            let call = self.plan(&exchange, &ask, route, rungs)?;
            Ok((exchange, call))
        };
        match self.set_out(started, asked) {
            Ok(set_out) => planned(set_out).left_future(),
            Err(error) => ready(Err(error)).right_future(),
        }
    }

    fn set_out<'s>(
        &'s self,
        started: Started,
        asked: Asked<'s>,
    ) -> Result<(Arc<Exchange>, Ask, &'s Route), Error> {
        let Asked {
            mut ask,
            view,
            route,
            print,
        } = asked;
        let ladder = self
            .shared
            .ladders
            .of(&route.name)
            .ok_or_else(|| Error::UnknownRoute(route.name.clone()))?;
        let delivery = delivery(&ask, route);
        let again = (delivery == Delivery::Resume || started.attempts > 0).then(|| ask.clone());
        let kept = print.and_then(|print| self.kept(print, route));
        let brought = self.brought(&ask.headers);
        let source = Source::new(&mut ask, view, brought);
        let mut exchange = self.exchange(started, &ask, route, (Arc::clone(ladder), source));
        exchange.delivery = delivery;
        exchange.ask = again;
        exchange.kept = kept;
        Ok((Arc::new(exchange), ask, route))
    }

    fn exchange(
        &self,
        started: Started,
        ask: &Ask,
        route: &Route,
        (ladder, source): (Arc<Ladder>, Source),
    ) -> Exchange {
        let profile = ask.profile.unwrap_or(route.profile);
        let timeouts = timeouts(ask, route);
        Exchange {
            call: started.call,
            endpoint: ask.endpoint.clone(),
            route: route.name.as_str().into(),
            profile,
            delivery: Delivery::AsItComes,
            on_disconnect: route.on_disconnect,
            model: source.model().map(Arc::from),
            streams: source.view.as_ref().is_some_and(|view| view.stream),
            timeouts,
            began: started.began,
            rungs: Rungs::new(ladder),
            source,
            kept: None,
            telemetry: self.shared.telemetry.clone(),
            spend_caps: self.shared.spend_caps.clone(),
            run: run(ask, route),
            meter: ask.meter.clone(),
            ends: self.shared.ends.clone(),
            ask: None,
            attempts_before: started.attempts,
            upstream_us: AtomicU64::new(0),
            progress: Mutex::new(started.progress),
            statuses: Default::default(),
            unrecorded: AtomicBool::new(false),
            sent_anew: AtomicBool::new(false),
        }
    }

    /// Prepares what a rung's target is sent.
    pub(super) async fn send_to(
        &self,
        exchange: &Exchange,
        rung: usize,
    ) -> Result<(ActorsTarget, Cost), Error> {
        let (name, settings, of) = self.target_of(exchange, rung)?;
        let source = &exchange.source;
        let sends = self.sends((name, settings), source.brought.as_ref())?;
        let credential = sends.credential();
        let model = settings.model.as_deref().or_else(|| source.model());
        let fitting = exchange.rungs.fitting(rung);
        let (body, losses) = self.written_for(exchange, fitting, (of, settings))?;
        let who = (model, credential);
        let endpoint = &exchange.endpoint;
        let (target, expectation) = self
            .shared
            .targets
            .resolve(&self.shared, (name, settings), endpoint, who)
            .await?;
        let known = match (endpoint, &source.query) {
            (Endpoint::Messages, None) => self.shared.targets.messages_at(name),
            _ => None,
        };
        stop_if_capped(exchange, credential, &target);
        let uri = match known {
            Some(known) => known,
            None => address(&settings.base_url, endpoint, source.query.as_deref())?,
        };
        // From here on nothing fails: who takes the headers keeps them for the rungs below.
        let mut headers = headers_for(exchange);
        credential.apply(&mut headers);
        name_version(&mut headers);
        let shape = || Shape::of(model.unwrap_or(""), source.view.as_ref());
        let shape = fitting.map_or_else(shape, |fitting| fitting.shape);
        let expected = match endpoint {
            Endpoint::Messages => expectation.expect(shape),
            _ => expectation.request_only(shape),
        };
        let mut prepared = Prepared {
            name: name.into(),
            model: match &settings.model {
                Some(own) => Some(own.as_str().into()),
                None => exchange.model.clone(),
            },
            uri,
            headers,
            body,
            credential_source: sends.origin(),
            key: sends.key(),
            transport: self.transport(exchange.timeouts.connect),
            expectation,
            expected,
        };
        // Rungs below the first are rarely reached, and then the call has waited enough.
        if *endpoint == Endpoint::Messages
            && exchange.rungs.any_prepared().is_none()
            && settings
                .count_tokens_above
                .is_some_and(|above| prepared.expected.prompt() > above)
        {
            let counted = self
                .counted_by((name, settings), (model, credential), &prepared, exchange)
                .boxed()
                .await;
            prepared.expected = prepared.expectation.expect(Shape { counted, ..shape });
        }
        let cost = prepared.expected.cost;
        let sent = Sent {
            prepared: Arc::new(prepared),
            target: target.clone(),
            cost,
            losses,
        };
        exchange.rungs.keep(rung, sent);
        Ok((target, cost))
    }

    fn sends<'a>(
        &'a self,
        (name, settings): (&str, &config::Target),
        brought: Option<&'a Credential>,
    ) -> Result<Sends<'a>, Error> {
        Sends::of(settings, brought, self.shared.keys.of(name))
    }

    async fn counted_by(
        &self,
        settings: (&str, &config::Target),
        (model, credential): (Option<&str>, &Credential),
        prepared: &Prepared,
        exchange: &Exchange,
    ) -> Option<u64> {
        let count = Count {
            settings,
            model,
            credential,
            headers: &prepared.headers,
            body: &prepared.body,
            transport: &*prepared.transport,
        };
        let deadline = exchange.began + exchange.timeouts.total;
        self.count(count, deadline).await
    }

    /// The request as a rung's target takes it, and what it lost.
    fn written_for(
        &self,
        exchange: &Exchange,
        fitting: Option<&Fitting>,
        (rung, settings): (&ladders::Rung, &config::Target),
    ) -> Result<(Bytes, Features), Error> {
        let source = &exchange.source;
        let Some(view) = &source.view else {
            return Ok((source.body.clone(), Features::NONE));
        };
        let model = settings.model.as_deref();
        let Some(Fitting { fit, .. }) = fitting else {
            let body = match model {
                Some(model) => splice_model(&source.body, view, model),
                None => source.body.clone(),
            };
            return Ok((body, Features::NONE));
        };
        let adapted = fit.clone().and_then(|fit| {
            let from = self.conversed_with(exchange);
            adapt(&source.body, view, from, model, &fit)
        });
        let adapted = adapted.map_err(|misfit| {
            let name = Arc::clone(&rung.name);
            Error::Unfit(vec![(name, misfit)])
        })?;
        Ok((adapted.body, adapted.losses))
    }

    fn target_of<'a>(
        &'a self,
        exchange: &'a Exchange,
        rung: usize,
    ) -> Result<(&'a str, &'a config::Target, &'a ladders::Rung), Error> {
        let of = exchange.rungs.ladder().rungs.get(rung);
        let found = of.and_then(|of| {
            let targets = &self.shared.config.targets;
            let (name, settings) = targets.get_key_value(of.place.target()?)?;
            Some((name.as_str(), settings, of))
        });
        found.ok_or_else(|| Error::UnknownRoute(exchange.route.to_string()))
    }

    fn transport(&self, connect: Duration) -> Arc<dyn Transport> {
        let shared = &self.shared;
        Arc::clone(shared.transports.get(&connect).unwrap_or(&shared.transport))
    }

    /// The provider's credential that a client sent. Where client keys are asked for, it is none.
    pub(super) fn brought(&self, from_client: &HeaderMap) -> Option<Credential> {
        let guarded = !self.shared.config.gateway.client_keys.is_empty();
        (!guarded).then(|| Credential::from_headers(from_client))?
    }
}

/// Stops a quota of a credential whose cap another one of its quotas has met. Counting tokens costs
/// nothing.
fn stop_if_capped(exchange: &Exchange, credential: &Credential, target: &ActorsTarget) {
    let now = Instant::now();
    let capped = exchange.spend_caps.on(credential.fingerprint(), now);
    if let (Endpoint::Messages, Some(cap), Some(quota)) =
        (&exchange.endpoint, capped, target.quota())
    {
        quota.learn(Learned {
            stop_for: Some(cap.until.duration_since(now)),
            refused_by: Some(RefusedBy::SpendCap),
            ..Learned::default()
        });
    }
}

fn name_version(headers: &mut HeaderMap) {
    if !headers.contains_key(wire::VERSION) {
        let version = HeaderValue::from_static(wire::DEFAULT_VERSION);
        headers.insert(wire::VERSION, version);
    }
}

/// With whose credential an attempt goes out.
enum Sends<'a> {
    Callers(&'a Credential),
    Own(&'a Arc<TargetKey>, Arc<Secret>),
}

impl<'a> Sends<'a> {
    fn of(
        settings: &config::Target,
        brought: Option<&'a Credential>,
        own: Option<&'a Arc<TargetKey>>,
    ) -> Result<Self, Error> {
        let own = || {
            let key = own.ok_or(Error::NoCredential)?;
            Ok(Self::Own(key, key.current()))
        };
        match (&settings.credential, brought) {
            (config::Credential::Own(_), _) | (config::Credential::CallerOr(_), None) => own(),
            (_, Some(brought)) => Ok(Self::Callers(brought)),
            (config::Credential::Caller, None) => Err(Error::NoCredential),
        }
    }

    fn credential(&self) -> &Credential {
        match self {
            Self::Callers(brought) => brought,
            Self::Own(_, secret) => &secret.credential,
        }
    }

    /// Where it came from, in words.
    fn origin(&self) -> Cow<'static, str> {
        match self {
            Self::Callers(_) => "the caller's own header".into(),
            Self::Own(key, _) => key.origin().into(),
        }
    }

    fn key(&self) -> Option<Arc<TargetKey>> {
        match self {
            Self::Callers(_) => None,
            Self::Own(key, _) => Some(Arc::clone(key)),
        }
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

/// Whether a slow attempt gets a second one beside it. An answer that is not streamed shows nothing of
/// how it goes.
fn hedge(exchange: &Exchange, route: &Route) -> Option<Hedge> {
    let settings = route.hedge.as_ref().filter(|_| exchange.is_stream())?;
    Some(Hedge {
        after: settings.after,
        on: match settings.on {
            config::HedgeOn::Next => HedgeOn::Next,
            config::HedgeOn::Same => HedgeOn::Same,
        },
        budget: Arc::clone(exchange.rungs.ladder().hedges.as_ref()?),
    })
}

/// How a streamed answer reaches the caller.
fn delivery(ask: &Ask, route: &Route) -> Delivery {
    let profile = ask.profile.unwrap_or(route.profile);
    match (ask.delivery, route.delivery) {
        // A header says no more than "hold"; how long is the route's to say.
        (Some(Delivery::Hold(asked)), Some(own @ Delivery::Hold(_)))
            if asked == Hold::default() =>
        {
            own
        }
        (asked, own) => asked.or(own).unwrap_or_else(|| profile.delivery()),
    }
}

/// How long the parts of a call may take.
pub(super) fn timeouts(ask: &Ask, route: &Route) -> Timeouts {
    let of_profile = || ask.profile.map_or(route.timeouts, Profile::timeouts);
    ask.timeouts.unwrap_or_else(of_profile)
}

/// How long a call of this `total` may wait for breakers and quotas.
pub(super) fn patience(ask: &Ask, route: &Route, total: Duration) -> Duration {
    ask.profile
        .map_or(route.wait, |profile| profile.wait_limit(total))
}

/// The run that a call belongs to, told apart from those of other tenants.
fn run(ask: &Ask, route: &Route) -> Option<Arc<str>> {
    route.stagger?;
    let run = ask.run.as_deref()?;
    let tenant = ask.tenant.as_deref().unwrap_or("");
    Some(format!("{tenant}\n{run}").into())
}

/// The call's headers: the first rung that is prepared takes them, others copy its own.
fn headers_for(exchange: &Exchange) -> HeaderMap {
    exchange.source.take_headers().unwrap_or_else(|| {
        let sent = exchange.rungs.any_prepared();
        sent.map(|sent| sent.headers.clone()).unwrap_or_default()
    })
}
