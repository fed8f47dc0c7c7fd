//! The client: a request in, the best answer that can be had in its time out.
//!
//! It resolves the route to a ladder of targets, prepares what each rung is sent, and lets the
//! actors run the call. Library and gateway use the same path; the bytes of a request go upstream
//! as they came, but for the model where a rung names another.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use parking_lot::Mutex;
use seawall_actors::caller::{Call, CallReport, Finished, Rung};
use seawall_actors::error::{CallError, Rejected, Rejection};
use seawall_actors::event::EventStream;
use seawall_actors::policy::backoff::Backoff;
use seawall_actors::policy::quota::Cost;
use seawall_actors::policy::retry::Retry;
use seawall_actors::snapshot::Snapshot;
use seawall_actors::system::System;
use secrecy::ExposeSecret;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::config::{self, Config, Route};
use crate::delivery::{Delivery, Hold};
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
pub mod message_stream;
mod opening;
mod reply_stream;
mod resume;
mod stacking;
pub mod step;
mod stream;
mod stream_ends;
mod targets;
mod watchdog;

use ask::{Ask, Endpoint, Reply, ReplyBody, ReplyStream, Report};
use attempt::{Answer, AnswerBody, Failure};
pub use builder::Builder;
use exchange::{Exchange, Prepared, Progress};
pub use expectation::FirstContent;
use resume::Resumable;
use stream_ends::StreamEnds;
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
    ends: StreamEnds,
}

/// A streamed call that has waited this long gets its 200 and pings.
const WAIT_OUT_LOUD: Duration = Duration::from_secs(20);

/// When all streams end, an attempt ends itself. A call that is still there after this much more
/// waits for its next one, which would never be made.
const ATTEMPTS_END: Duration = Duration::from_millis(50);

impl Seawall {
    /// A client to be configured.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Answers one request: by the provider, by another rung, or with the reason why not.
    ///
    /// A stream that has nothing to say after 20 s is handed over all the same and pings until the
    /// answer comes, so that no watchdog on the way gives up; a failure is then its last event.
    /// Dropping the future, or later the reply's stream, ends the attempt under way at once and
    /// gives its permit back.
    ///
    /// # Errors
    ///
    /// [`Error`]: the provider's own last word, or what kept it from having one.
    pub async fn forward(&self, ask: Ask) -> Result<Reply, Error> {
        let began = Instant::now();
        let id: Arc<str> = Uuid::now_v7().to_string().into();
        let started = Started {
            call: id,
            began,
            attempts: 0,
            progress: Progress::default(),
        };
        let (exchange, call) = self.start(ask, started).await?;
        if !exchange.is_stream() {
            return self.run(exchange, call).await;
        }
        let seawall = self.clone();
        let shared = Arc::clone(&exchange);
        let mut running = async move { seawall.run(shared, call).await }.boxed();
        match timeout_at(began + WAIT_OUT_LOUD, &mut running).await {
            Ok(answered) => answered,
            Err(_) => Ok(waiting(exchange, running)),
        }
    }

    /// Asks for the rest of an answer that broke off: the same call goes on.
    async fn resume(&self, broken: Arc<Exchange>, ask: Ask) -> Result<Reply, Error> {
        let progress = broken.progress.lock().clone();
        let started = Started {
            call: Arc::clone(&broken.call),
            began: broken.began,
            attempts: progress.last.attempts,
            progress,
        };
        let (exchange, call) = self.start(ask, started).await?;
        broken.hand_over();
        drop(broken);
        self.run(exchange, call).await
    }

    /// Resolves a request to what every rung is sent and how the call may go.
    async fn start(&self, ask: Ask, started: Started) -> Result<(Arc<Exchange>, Call), Error> {
        let view = match ask.endpoint {
            Endpoint::Messages | Endpoint::CountTokens => Some(RequestView::parse(&ask.body)?),
            Endpoint::Other(..) => None,
        };
        let model = view.as_ref().and_then(|view| view.model.as_deref());
        let config = &self.shared.config;
        let route = config
            .route_for(ask.route.as_deref(), model)
            .ok_or_else(|| Error::UnknownRoute(ask.route.clone().unwrap_or_default()))?;
        let (exchange, rungs) = self.prepare(started, &ask, view.as_ref(), route).await?;
        let call = Self::plan(&exchange, &ask, route, rungs)?;
        Ok((Arc::new(exchange), call))
    }

    async fn run(&self, exchange: Arc<Exchange>, call: Call) -> Result<Reply, Error> {
        exchange.begin();
        let operation = {
            let exchange = Arc::clone(&exchange);
            // The walk around it is moved and the attempt is not: a box keeps what is moved small.
            move |wire| attempt::attempt(Arc::clone(&exchange), wire).boxed()
        };
        let stopped = async {
            self.shared.ends.ended().await;
            tokio::time::sleep(ATTEMPTS_END).await;
        };
        let Finished { result, report } = tokio::select! {
            biased;
            finished = self.shared.system.call(call, operation) => finished,
            () = stopped => {
                exchange.publish(Some(Rejection::Draining.as_str()));
                return Err(Error::Refused(Rejected::new(Rejection::Draining)));
            }
        };
        self.conclude(&exchange, result, &report)
    }

    /// What every actor shows at this moment.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.shared.system.snapshot()
    }

    /// What is usual from the headers to the first content, for each target that has answered
    /// enough streams to tell.
    #[must_use]
    pub fn first_contents(&self) -> Vec<(Arc<str>, FirstContent)> {
        self.shared.targets.first_contents()
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

    /// Ends the streams that are under way, each with an `error` event, and the calls that have no
    /// answer yet, each refused for draining. [`Seawall::drain`] first.
    pub fn end_streams(&self) {
        self.shared.ends.throw();
    }

    /// Stops the actors; calls still under way are refused. [`Seawall::drain`] first.
    pub async fn stop(&self) {
        self.shared.system.stop().await;
    }

    /// How the call may go: its deadline, its place in queues and its retries.
    fn plan(
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
            retry,
        })
    }

    /// Prepares what each rung of the route is sent.
    async fn prepare(
        &self,
        started: Started,
        ask: &Ask,
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
            ends: self.shared.ends.clone(),
            ask: (delivery == Delivery::Resume || started.attempts > 0).then(|| ask.clone()),
            attempts_before: started.attempts,
            upstream_us: AtomicU64::new(0),
            progress: Mutex::new(started.progress),
            status: AtomicU16::new(0),
            unrecorded: AtomicBool::new(false),
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
        let estimated = view.map_or(0, |view| {
            estimate::input_tokens(model.unwrap_or(""), &view.counts)
        });
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
        result: Result<Answer, CallError<Failure>>,
        report: &CallReport,
    ) -> Result<Reply, Error> {
        exchange.waited(report);
        let rung = exchange.rungs.get(report.rung);
        let mut told = Report {
            call: Arc::clone(&exchange.call),
            rung: rung
                .filter(|_| report.attempts > 0)
                .map_or_else(|| "".into(), |r| Arc::clone(&r.name)),
            attempts: exchange.attempts_before + report.attempts,
            queued: report.queued,
            degraded: report.rung > 0,
            settled: false,
        };
        let error = match result {
            Ok(answer) => return Ok(self.answered(exchange, answer, told)),
            Err(error) => error,
        };
        told.settled = stacking::is_settled(&error, report);
        let route = self.shared.config.routes.get(&*exchange.route);
        let text = route.and_then(|route| route.static_text.as_deref());
        // Half an answer can't go on in the fixed one.
        let text = text.filter(|_| exchange.attempts_before == 0 && fixed::serves(&error));
        if let Some(text) = text {
            exchange.publish(Some("static"));
            told.rung = "static".into();
            told.degraded = true;
            return Ok(fixed::reply(exchange, text, told));
        }
        exchange.publish(match &error {
            CallError::Refused(rejected) => Some(rejected.why.as_str()),
            _ => None,
        });
        Err(failed(exchange, error, told))
    }

    fn answered(&self, exchange: &Exchange, answer: Answer, told: Report) -> Reply {
        let Answer {
            status,
            headers,
            body,
        } = answer;
        exchange.progress.lock().request_id = headers
            .get("request-id")
            .and_then(|id| id.to_str().ok())
            .map(str::to_owned);
        let headers = wire::response_headers(headers, matches!(body, AnswerBody::Whole(_)));
        let body = match body {
            AnswerBody::Whole(bytes) => {
                exchange.publish(None);
                ReplyBody::Whole(bytes)
            }
            AnswerBody::Held(events) => {
                exchange.publish(None);
                ReplyBody::Stream(ReplyStream::held(events))
            }
            AnswerBody::Stream(watched) if exchange.delivery == Delivery::Resume => {
                let resumable = Resumable::new(self.clone(), watched);
                ReplyBody::Stream(ReplyStream::resumable(Box::new(resumable)))
            }
            AnswerBody::Stream(watched) => ReplyBody::Stream(ReplyStream::live(watched)),
        };
        Reply {
            status,
            headers,
            body,
            report: told,
        }
    }
}

/// The answer to a call that has been waited for long enough: a stream that pings until it comes.
fn waiting(exchange: Arc<Exchange>, running: BoxFuture<'static, Result<Reply, Error>>) -> Reply {
    let mut headers = HeaderMap::new();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream; charset=utf-8"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let report = Report {
        call: Arc::clone(&exchange.call),
        rung: "".into(),
        attempts: exchange.progress.lock().last.attempts,
        queued: exchange.began.elapsed(),
        degraded: false,
        settled: false,
    };
    Reply {
        status: StatusCode::OK,
        headers,
        body: ReplyBody::Stream(ReplyStream::waiting(exchange, running)),
        report,
    }
}

/// A call that is being set up: what it goes on from.
struct Started {
    call: Arc<str>,
    began: Instant,
    /// Attempts made before it, by the calls that it continues.
    attempts: u32,
    progress: Progress,
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
            if judged.verdict.label == crate::verdict::label::DRAINING {
                // Whoever takes over from a process that leaves will serve it.
                return Error::Refused(Rejected::new(Rejection::Draining));
            }
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
        CallError::Invalid(invalid) => Error::Invalid(invalid),
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

impl fmt::Debug for Seawall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seawall")
            .field("system", &self.shared.system)
            .finish_non_exhaustive()
    }
}
