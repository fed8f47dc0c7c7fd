//! The client: a request in, the best answer that can be had in its time out.
//!
//! It resolves the route to a ladder of targets, prepares what each rung is sent, and lets the
//! actors run the call. Library and gateway use the same path; the bytes of a request go upstream
//! as they came, but for the model where a rung names another.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Uri};
use parking_lot::Mutex;
use seawall_actors::caller::{Call, CallReport, Finished, Rung};
use seawall_actors::error::CallError;
use seawall_actors::event::EventStream;
use seawall_actors::policy::backoff::Backoff;
use seawall_actors::policy::quota::Cost;
use seawall_actors::policy::retry::Retry;
use seawall_actors::snapshot::Snapshot;
use seawall_actors::system::System;
use secrecy::ExposeSecret;
use tokio::time::Instant;
use uuid::Uuid;

use crate::config::{self, Config, Route};
use crate::error::Error;
use crate::estimate;
use crate::provider::anthropic::headers::{self as wire, Credential, Form};
use crate::provider::anthropic::request::{RequestView, splice_model};
use crate::telemetry::Telemetry;
use crate::transport::Transport;

pub mod ask;
mod attempt;
mod builder;
mod exchange;
mod expectation;
mod fixed;
mod stream;
mod targets;

use ask::{Ask, Endpoint, Reply, ReplyBody, ReplyStream, Report};
use attempt::{Answer, AnswerBody, Failure};
pub use builder::Builder;
use exchange::{Exchange, LastAttempt, Prepared};
use targets::Targets;

/// A running client. Cheap to clone.
#[derive(Clone)]
pub struct Seawall {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    system: System,
    targets: Targets,
    /// The transport of the default connect timeout.
    transport: Arc<dyn Transport>,
    /// Those of other connect timeouts in the configuration.
    transports: BTreeMap<Duration, Arc<dyn Transport>>,
    telemetry: Telemetry,
}

impl Seawall {
    /// A client to be configured.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Answers one request: by the provider, by another rung, or with the reason why not.
    ///
    /// Dropping the future, or later the reply's stream, ends the attempt under way at once and
    /// gives its permit back.
    ///
    /// # Errors
    ///
    /// [`Error`]: the provider's own last word, or what kept it from having one.
    pub async fn forward(&self, ask: Ask) -> Result<Reply, Error> {
        let call: Arc<str> = Uuid::now_v7().to_string().into();
        let view = match ask.endpoint {
            Endpoint::Messages | Endpoint::CountTokens => Some(RequestView::parse(&ask.body)?),
            Endpoint::Other(..) => None,
        };
        let model = view.as_ref().and_then(|view| view.model.as_deref());
        let config = &self.shared.config;
        let route = config
            .route_for(ask.route.as_deref(), model)
            .ok_or_else(|| Error::UnknownRoute(ask.route.clone().unwrap_or_default()))?;
        let (exchange, rungs) = self.prepare(&call, &ask, view.as_ref(), route).await?;
        let exchange = Arc::new(exchange);
        let call = self.call(&exchange, &ask, route, rungs)?;
        let operation = {
            let exchange = Arc::clone(&exchange);
            move |wire| attempt::attempt(Arc::clone(&exchange), wire)
        };
        let Finished { result, report } = self.shared.system.call(call, operation).await;
        self.conclude(&exchange, route, result, &report)
    }

    /// What every actor shows at this moment.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.shared.system.snapshot()
    }

    /// What happens from here on.
    #[must_use]
    pub fn events(&self) -> EventStream {
        self.shared.system.events()
    }

    /// The configuration it runs on.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// The actors underneath.
    #[must_use]
    pub fn system(&self) -> &System {
        &self.shared.system
    }

    /// Takes no new calls and waits until those under way have ended, streams included. `false`
    /// when some were still under way at `deadline`.
    pub async fn drain(&self, deadline: Instant) -> bool {
        self.shared.system.drain(deadline).await
    }

    /// Stops the actors; calls still under way are refused. [`Seawall::drain`] first.
    pub async fn stop(&self) {
        self.shared.system.stop().await;
    }

    fn call(
        &self,
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
        let attempts = if repeatable { route.retry.attempts } else { 1 };
        let retry = Backoff::new(route.retry.base, route.retry.cap)
            .and_then(|backoff| Retry::new(attempts, backoff, Retry::default().min_useful()))
            .map_err(|invalid| Error::Panicked(invalid.to_string()))?;
        Ok(Call {
            id: Arc::clone(&exchange.call),
            rungs,
            deadline: exchange.began + exchange.timeouts.total,
            patience,
            priority,
            retry,
        })
    }

    /// Prepares what each rung of the route is sent.
    async fn prepare(
        &self,
        call: &Arc<str>,
        ask: &Ask,
        view: Option<&RequestView>,
        route: &Route,
    ) -> Result<(Exchange, Vec<Rung>), Error> {
        let profile = ask.profile.unwrap_or(route.profile);
        let timeouts = ask
            .profile
            .map_or(route.timeouts, crate::profile::Profile::timeouts);
        let model = view.and_then(|view| view.model.as_deref());
        let mut exchange = Exchange {
            call: Arc::clone(call),
            endpoint: ask.endpoint.clone(),
            route: route.name.as_str().into(),
            profile,
            model: model.map(Arc::from),
            streams: view.is_some_and(|view| view.stream),
            timeouts,
            began: Instant::now(),
            rungs: Vec::new(),
            telemetry: self.shared.telemetry.clone(),
            upstream_us: AtomicU64::new(0),
            last: Mutex::new(LastAttempt::default()),
        };
        let mut rungs = Vec::new();
        for rung in &route.ladder {
            let config::Rung::Target(name) = rung else {
                continue;
            };
            let Some(settings) = self.shared.config.targets.get(name) else {
                continue;
            };
            let (prepared, rung) = self.rung((name, settings), ask, view, &exchange).await?;
            exchange.rungs.push(Arc::new(prepared));
            rungs.push(rung);
            if matches!(ask.endpoint, Endpoint::Other(..)) {
                break;
            }
        }
        Ok((exchange, rungs))
    }

    async fn rung(
        &self,
        (name, settings): (&str, &config::Target),
        ask: &Ask,
        view: Option<&RequestView>,
        exchange: &Exchange,
    ) -> Result<(Prepared, Rung), Error> {
        let (credential, source) = self.credential(settings, &ask.headers)?;
        let asked = view.and_then(|view| view.model.as_deref());
        let model = settings.model.as_deref().or(asked);
        let body = match (view, model) {
            (Some(view), Some(model)) => splice_model(&ask.body, view, model),
            _ => ask.body.clone(),
        };
        let mut headers = wire::request_headers(&ask.headers);
        credential.apply(&mut headers);
        if !headers.contains_key(wire::VERSION) {
            headers.insert(
                wire::VERSION,
                HeaderValue::from_static(wire::DEFAULT_VERSION),
            );
        }
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
        let estimated = view.map_or(0, |view| estimate_input(model.unwrap_or(""), view));
        let cost = match ask.endpoint {
            Endpoint::Messages => Cost {
                requests: 1,
                input: expectation.input(estimated),
                output: expectation.output(view.and_then(|view| view.max_tokens)),
            },
            _ => Cost {
                requests: 1,
                input: 0,
                output: 0,
            },
        };
        let prepared = Prepared {
            name: name.into(),
            model: model.map(Arc::from),
            uri: uri(&settings.base_url, &ask.endpoint, ask.query.as_deref())?,
            headers,
            body,
            credential_source: source.into(),
            transport: self.transport(exchange.timeouts.connect),
            expectation,
            estimated_input: estimated,
        };
        Ok((prepared, Rung { target, cost }))
    }

    fn transport(&self, connect: Duration) -> Arc<dyn Transport> {
        let shared = &self.shared;
        Arc::clone(shared.transports.get(&connect).unwrap_or(&shared.transport))
    }

    /// The credential of an attempt, and where it came from in words.
    fn credential(
        &self,
        settings: &config::Target,
        from_client: &HeaderMap,
    ) -> Result<(Credential, String), Error> {
        let own = |key: &config::ApiKey| {
            Credential::new(Form::ApiKey, key.secret.expose_secret())
                .map(|credential| (credential, key.origin.to_string()))
                .map_err(|_| Error::NoCredential)
        };
        let guarded = !self.shared.config.gateway.client_keys.is_empty();
        let brought = if guarded {
            None
        } else {
            Credential::from_headers(from_client)
        };
        let theirs = |credential| (credential, "the caller's own header".to_owned());
        match &settings.credential {
            config::Credential::Caller => brought.map(theirs).ok_or(Error::NoCredential),
            config::Credential::CallerOr(key) => match brought {
                Some(credential) => Ok(theirs(credential)),
                None => own(key),
            },
            config::Credential::Own(key) => own(key),
        }
    }

    /// Turns the end of a call into what its asker gets.
    fn conclude(
        &self,
        exchange: &Arc<Exchange>,
        route: &Route,
        result: Result<Answer, CallError<Failure>>,
        report: &CallReport,
    ) -> Result<Reply, Error> {
        let rung = exchange.rungs.get(report.rung);
        let mut told = Report {
            call: Arc::clone(&exchange.call),
            rung: rung
                .filter(|_| report.attempts > 0)
                .map_or_else(|| "".into(), |r| Arc::clone(&r.name)),
            attempts: report.attempts,
            queued: report.queued,
            degraded: report.rung > 0,
        };
        match result {
            Ok(answer) => Ok(answered(exchange, rung, answer, told, report)),
            Err(error) => {
                let mut record = exchange.record();
                record.queued = report.queued;
                record.backed_off = report.backed_off;
                if let CallError::Refused(rejected) = &error {
                    record.verdict = rejected.why.as_str();
                }
                if let Some(text) = route
                    .static_text
                    .as_deref()
                    .filter(|_| fixed::serves(&error))
                {
                    record.verdict = "static";
                    exchange.finish(&record);
                    told.rung = "static".into();
                    told.degraded = true;
                    return Ok(fixed::reply(exchange, text, told));
                }
                exchange.finish(&record);
                Err(failed(exchange, error, told))
            }
        }
    }
}

fn answered(
    exchange: &Arc<Exchange>,
    rung: Option<&Arc<Prepared>>,
    answer: Answer,
    told: Report,
    report: &CallReport,
) -> Reply {
    let Answer {
        status,
        headers,
        body,
    } = answer;
    let request_id = headers
        .get("request-id")
        .and_then(|id| id.to_str().ok())
        .map(str::to_owned);
    let headers = wire::response_headers(headers, matches!(body, AnswerBody::Whole { .. }));
    let body = match body {
        AnswerBody::Whole { bytes, usage } => {
            let mut record = exchange.record();
            record.queued = report.queued;
            record.backed_off = report.backed_off;
            record.request_id = request_id;
            if let (Some(usage), Some(rung)) = (usage, rung) {
                record.tokens = usage.billed();
                exchange.learn_usage(rung, record.tokens);
            }
            exchange.finish(&record);
            ReplyBody::Whole(bytes)
        }
        AnswerBody::Stream(mut watched) => {
            watched.waited(report.queued, report.backed_off, request_id);
            ReplyBody::Stream(ReplyStream(watched))
        }
    };
    Reply {
        status,
        headers,
        body,
        report: told,
    }
}

fn failed(exchange: &Exchange, error: CallError<Failure>, report: Report) -> Error {
    match error {
        CallError::Failed {
            error:
                Failure {
                    judged,
                    answer,
                    rung,
                },
            ..
        } => {
            let (judged, report) = (Box::new(judged), Box::new(report));
            let Some((status, headers, body)) = answer else {
                return Error::Unanswered { judged, report };
            };
            let source = exchange
                .rungs
                .get(rung)
                .map(|rung| rung.credential_source.to_string());
            Error::Provider {
                status,
                headers: wire::response_headers(headers, true),
                body,
                judged,
                credential_source: source.unwrap_or_default(),
                report,
            }
        }
        CallError::Refused(rejected) => Error::Refused(rejected),
        CallError::Panicked(message) => Error::Panicked(message),
        _ => Error::Panicked("the call ended in a way that this version does not know".to_owned()),
    }
}

fn uri(base: &str, endpoint: &Endpoint, query: Option<&str>) -> Result<Uri, Error> {
    let path = endpoint.path();
    let text = match query {
        Some(query) => format!("{base}{path}?{query}"),
        None => format!("{base}{path}"),
    };
    text.parse().map_err(|_| Error::BadAddress(text))
}

/// Input tokens that a request is expected to take, whatever is cached.
fn estimate_input(model: &str, view: &RequestView) -> u64 {
    use crate::provider::anthropic::request::ToolChoice;
    let counts = &view.counts;
    let counts = estimate::Counts {
        messages: counts.messages,
        text: counts.text_chars.saturating_sub(counts.wide_chars),
        cjk: counts.wide_chars,
        tools: counts.tools,
        tool_definitions: counts.tool_chars,
        tool_choice: match counts.tool_choice {
            ToolChoice::Forced => estimate::ToolChoice::Forced,
            ToolChoice::Auto | ToolChoice::Forbidden => estimate::ToolChoice::Auto,
        },
        round_trips: counts.tool_results.min(counts.tool_uses),
        tool_calls: counts.tool_input_chars,
        tool_results: 0,
        image_tokens: 0,
        unknown_images: counts.images,
        pages: counts.documents,
    };
    estimate::input_tokens(model, &counts)
}

impl fmt::Debug for Seawall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seawall")
            .field("system", &self.shared.system)
            .finish_non_exhaustive()
    }
}
