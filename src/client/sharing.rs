//! Which calls share an attempt, and what one that was answered by another's leaves behind.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use seawall_actors::error::{Rejected, Rejection};
use seawall_actors::policy::retry::Retry;
use seawall_actors::verdict::{Again, Verdict};
use tokio::time::{Instant, timeout_at};

use super::ask::{Ask, Reply, Report};
use super::conclusion::waiting;
use super::exchange::{Exchange, Progress};
use super::flights::{Boarded, FlightKey};
use super::kept::Print;
use super::preparation::{Asked, Started, patience, timeouts};
use super::{Seawall, WAIT_OUT_LOUD, new_id};
use crate::config::Route;
use crate::error::Error;
use crate::profile::Profile;
use crate::provider::anthropic::request::RequestView;
use crate::telemetry::{self, CallRecord, Spent, Telemetry};
use crate::verdict::label;

/// Most calls that are shared at one time. Each holds its whole answer.
pub(super) const MOST_FLIGHTS: usize = 1_024;

/// What `x-seawall-cache` says of an answer that another call brought.
const SHARED: &str = "shared";

/// A call that may share an attempt, without a hold on the configuration.
struct Shareable {
    key: FlightKey,
    ask: Ask,
    view: Option<RequestView>,
    print: Option<Print>,
    route: String,
    call: Arc<str>,
    time: Time,
    /// What it is making itself, once it does.
    made: Arc<OnceLock<Weak<Exchange>>>,
}

/// The time that a call has.
#[derive(Debug, Clone, Copy)]
struct Time {
    began: Instant,
    total: Duration,
    /// The part of it that it may wait for breakers and quotas.
    patience: Duration,
    /// The longest wait before another attempt, unless the provider asks for a longer one.
    backoff: Duration,
}

impl Seawall {
    /// What a call shares an attempt by, where its route allows it and it asks for nothing of its own
    /// that the other would not have asked for.
    pub(super) fn shareable(asked: &Asked<'_>) -> Option<FlightKey> {
        let (ask, print) = (&asked.ask, asked.print?);
        let is_plain = ask.delivery.is_none() && ask.timeouts.is_none() && ask.run.is_none();
        if !asked.route.single_flight || !is_plain || !print.admission.serves_first() {
            return None;
        }
        Some(FlightKey {
            request: print.key,
            asker: print.asker,
            streams: asked.view.as_ref().is_some_and(|view| view.stream),
            profile: ask.profile,
            fallback: ask.fallback,
            is_resent: ask.client_retries > 0,
        })
    }

    /// Answers a call by another that asks the same at the same time, or else by making it.
    pub(super) async fn share(&self, key: FlightKey, asked: Asked<'_>) -> Result<Reply, Error> {
        let shareable = Shareable::new(key, asked);
        let (call, began) = (Arc::clone(&shareable.call), shareable.time.began);
        let made = Arc::clone(&shareable.made);
        let mut running = self.clone().board(shareable).boxed();
        if !key.streams {
            return running.await;
        }
        match timeout_at(began + WAIT_OUT_LOUD, &mut running).await {
            Ok(answered) => answered,
            Err(_) => {
                let exchange = made.get().and_then(Weak::upgrade);
                let so_far = exchange.map_or_else(|| Report::new(call), |made| made.so_far());
                Ok(waiting(so_far, running))
            }
        }
    }

    /// Follows calls that ask the same, until one has an answer or a verdict, or leads.
    async fn board(self, shareable: Shareable) -> Result<Reply, Error> {
        let (key, time) = (shareable.key, shareable.time);
        let mut record = Follower::new(&self, &shareable);
        let seawall = self.clone();
        let mut lead = move || async move { seawall.lead(shareable).await };
        loop {
            let subscriber = match self.shared.flights.board(key, time.began, lead) {
                Boarded::Alone(lead) => {
                    record.is_over = true;
                    return lead().await;
                }
                Boarded::Leads(subscriber) => {
                    record.is_over = true;
                    return subscriber.reply().await;
                }
                Boarded::Follows(subscriber, unused) => {
                    lead = unused;
                    subscriber
                }
            };
            let led = Time {
                began: subscriber.flight_began(),
                ..time
            };
            match timeout_at(time.began + time.total, subscriber.reply()).await {
                Ok(Ok(reply)) => return Ok(record.answered(reply)),
                Ok(Err(error)) if is_own(&error, (led, time), Instant::now()) => {}
                Ok(Err(error)) => return Err(record.failed(error)),
                Err(_) => {
                    let late = Rejected::new(Rejection::DeadlinePassed);
                    return Err(record.failed(Error::Refused(late)));
                }
            }
        }
    }

    /// Makes the call that others may share.
    async fn lead(self, shareable: Shareable) -> Result<Reply, Error> {
        let Shareable {
            ask,
            view,
            print,
            made,
            ..
        } = shareable;
        let route = self.shared.config.routes.get(&shareable.route);
        let route = route.ok_or(Error::UnknownRoute(shareable.route))?;
        let began = shareable.time.began;
        let started = Started {
            call: shareable.call,
            began,
            attempts: 0,
            progress: Progress::default(),
        };
        let asked = Asked {
            ask,
            view,
            route,
            print,
        };
        let (exchange, mut call) = self.prepare(started, asked).await?;
        made.get_or_init(|| Arc::downgrade(&exchange));
        // It may have followed another for a while.
        call.patience = call.patience.saturating_sub(began.elapsed());
        self.run(exchange, call).await
    }
}

impl Shareable {
    fn new(key: FlightKey, asked: Asked<'_>) -> Self {
        let Asked {
            ask,
            view,
            route,
            print,
        } = asked;
        Self {
            key,
            time: Time::of(&ask, route),
            ask,
            view,
            print,
            route: route.name.clone(),
            call: new_id(),
            made: Arc::default(),
        }
    }
}

impl Time {
    fn of(ask: &Ask, route: &Route) -> Self {
        let total = timeouts(ask, route).total;
        Self {
            began: Instant::now(),
            total,
            patience: patience(ask, route, total),
            backoff: route.retry.cap,
        }
    }

    const fn with(self, total: Duration) -> Self {
        Self { total, ..self }
    }

    fn left(self, now: Instant) -> Duration {
        (self.began + self.total).saturating_duration_since(now)
    }
}

/// Whether a call that `led` failed only since it had less time than the one that followed it: then
/// that one goes on by itself. A verdict of the provider is everybody's.
fn is_own(error: &Error, (led, own): (Time, Time), now: Instant) -> bool {
    let useful = Retry::default().min_useful();
    match error {
        Error::Refused(rejected) => match rejected.why {
            Rejection::DeadlinePassed => own.left(now) >= useful,
            Rejection::QuotaExhausted | Rejection::BreakerOpen => {
                let wait = rejected.retry_after.unwrap_or_default();
                own.with(own.patience).left(now) >= wait.max(useful)
            }
            _ => false,
        },
        Error::Provider { judged, .. } | Error::Unanswered { judged, .. } => {
            let verdict = judged.verdict;
            if verdict.label == label::TOTAL_TIMEOUT {
                return own.left(now) >= useful;
            }
            let hint = verdict.not_before.max(judged.stop_for).unwrap_or_default();
            let wait = hint.max(own.backoff).saturating_add(useful);
            verdict.again == Again::Here && led.left(now) < wait && own.left(now) >= wait
        }
        _ => false,
    }
}

/// The record of a call that another's answer is for: published once, however the call ends.
struct Follower {
    telemetry: Telemetry,
    call: Arc<str>,
    route: Arc<str>,
    profile: Profile,
    model: Option<Arc<str>>,
    streams: bool,
    began: Instant,
    /// There is nothing more to publish here.
    is_over: bool,
}

impl Follower {
    fn new(seawall: &Seawall, shareable: &Shareable) -> Self {
        let view = shareable.view.as_ref();
        let route = seawall.shared.config.routes.get(&shareable.route);
        let own = route.map_or_else(Profile::default, |route| route.profile);
        Self {
            telemetry: seawall.shared.telemetry.clone(),
            call: Arc::clone(&shareable.call),
            route: shareable.route.as_str().into(),
            profile: shareable.key.profile.unwrap_or(own),
            model: view.and_then(|view| view.model.as_deref()).map(Arc::from),
            streams: shareable.key.streams,
            began: shareable.time.began,
            is_over: false,
        }
    }

    fn answered(mut self, mut reply: Reply) -> Reply {
        self.publish((reply.status.as_u16(), SHARED), Some(&reply.report));
        self.mark(&mut reply.report);
        reply
    }

    fn failed(mut self, mut error: Error) -> Error {
        let status = match &error {
            Error::Provider { status, .. } => status.as_u16(),
            _ => 0,
        };
        self.publish((status, error.verdict().label), error.report());
        if let Error::Provider { report, .. }
        | Error::Unanswered { report, .. }
        | Error::Interrupted { report, .. } = &mut error
        {
            self.mark(report);
        }
        error
    }

    /// The attempts were another call's; this one has a name of its own.
    fn mark(&self, report: &mut Report) {
        report.call = Arc::clone(&self.call);
        report.attempts = 0;
        report.cache = Some(match report.cache.take() {
            Some(badge) => format!("{badge}; {SHARED}"),
            None => SHARED.to_owned(),
        });
    }

    fn publish(&mut self, (status, verdict): (u16, &'static str), report: Option<&Report>) {
        self.is_over = true;
        let record = CallRecord {
            call: Arc::clone(&self.call),
            route: Arc::clone(&self.route),
            profile: self.profile,
            target: None,
            model: self.model.clone(),
            rung: 0,
            attempts: 0,
            status,
            verdict,
            stream: self.streams,
            began: self.began,
            first_content: None,
            queued: Duration::ZERO,
            backed_off: Duration::ZERO,
            upstream_us: u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX),
            spent: Spent::default(),
            request_id: None,
            degraded: report.and_then(|report| report.degraded),
            cause: report.and_then(|report| report.cause),
            skipped: String::new(),
        };
        telemetry::finish(&self.telemetry, &record);
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if !self.is_over {
            self.publish((0, Verdict::DEPARTED.label), None);
        }
    }
}

#[cfg(test)]
mod tests;
