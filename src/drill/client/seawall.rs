//! This runtime, as a service would embed it: configured by the scenario, started once.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use seawall_actors::error::Rejected;
use seawall_actors::verdict::{Again, Blame, Verdict};
use serde::Deserialize;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::{By, CallPlan, Client, Ended, Endpoint, Wiring};
use crate::client::Seawall as Runtime;
use crate::client::ask::{Ask, Degraded, ReplyBody, Report};
use crate::client::step::{StepError, StepFailure, StepSettings};
use crate::config::{Config, Environment, Overrides};
use crate::drill::DrillError;
use crate::drill::scenario::Scenario;
use crate::drill::scenario::rungs::{CACHE, STATIC, is_model};
use crate::error::Error;
use crate::profile::Timeouts;
use crate::provider::anthropic::plain_model;
use crate::provider::anthropic::stream::{End, StreamWatch};
use crate::transport::Transport;
use crate::transport::sse::SseDecoder;
use crate::wall_clock::WallClock;

/// The runtime on the drill's transport.
#[derive(Debug)]
pub struct Seawall {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    transport: Arc<dyn Transport>,
    endpoint: Endpoint,
    seed: u64,
    wall_clock: WallClock,
    started: OnceCell<Runtime>,
    asked: AtomicU64,
}

impl Seawall {
    /// A client on the drill's transport, with the scenario's ladder, limits and deadline.
    ///
    /// # Errors
    ///
    /// [`DrillError::Client`] when the scenario makes no valid configuration.
    pub fn new(wiring: &Wiring<'_>) -> Result<Self, DrillError> {
        let text = config_text(wiring.scenario, &wiring.endpoint.base);
        let environment = Environment::from_fn(|_| None);
        let config = Config::parse(&text, Path::new(""), &Overrides::default(), &environment)
            .map_err(|error| DrillError::Client {
                client: "seawall",
                why: error.to_string(),
            })?;
        let shared = Shared {
            config,
            transport: Arc::clone(&wiring.transport),
            endpoint: wiring.endpoint.clone(),
            seed: wiring.seed,
            wall_clock: wall_clock(wiring.unix_now),
            started: OnceCell::new(),
            asked: AtomicU64::new(0),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }
}

/// It goes with the drill's own time, so that virtual answers age.
fn wall_clock(unix_now: Duration) -> WallClock {
    let now = jiff::Timestamp::UNIX_EPOCH.saturating_add(unix_now);
    WallClock::following(now.unwrap_or(jiff::Timestamp::UNIX_EPOCH))
}

/// The scenario's client side as a configuration file.
fn config_text(scenario: &Scenario, base: &str) -> String {
    let mut text = String::new();
    let mut names = Vec::new();
    for (rung, model) in scenario.ladder.iter().enumerate() {
        if !is_model(model) {
            names.push(format!("\"{model}\""));
            continue;
        }
        let quota = if model == scenario.primary() && scenario.limits.is_some() {
            "quota = \"limited\"\n"
        } else {
            ""
        };
        names.push(format!("\"rung{rung}\""));
        // Writing to a String cannot fail.
        let _infallible = write!(
            text,
            "[targets.rung{rung}]\nbase_url = \"{base}\"\nmodel = \"{model}\"\n{quota}\n"
        );
    }
    if let Some(limits) = scenario.limits {
        let line = |key: &str, value: Option<u64>| {
            value.map_or_else(String::new, |value| format!("{key} = {value}\n"))
        };
        let _infallible = write!(
            text,
            "[quotas.limited]\n{}{}{}burst = \"{}ms\"\n\n",
            line("requests_per_minute", limits.requests_per_minute),
            line("input_tokens_per_minute", limits.input_tokens_per_minute),
            line("output_tokens_per_minute", limits.output_tokens_per_minute),
            limits.burst.as_millis(),
        );
    }
    let _infallible = write!(
        text,
        "[routes.default]\nladder = [{}]\nprofile = \"{}\"\ntimeouts = {{ total = \"{}ms\" }}\n",
        names.join(", "),
        scenario.profile,
        scenario.deadline.as_millis(),
    );
    if let Some(wait) = scenario.wait {
        let _infallible = writeln!(text, "wait = \"{}ms\"", wait.as_millis());
    }
    if let Some(cache) = scenario.cache {
        let (ttl, stale) = (cache.ttl.as_millis(), cache.stale_if_error.as_millis());
        let _infallible = writeln!(
            text,
            "cache = {{ ttl = \"{ttl}ms\", stale_if_error = \"{stale}ms\" }}"
        );
    }
    if let Some(fixed) = &scenario.fixed {
        let quoted = toml::Value::from(fixed.text.as_str());
        let _infallible = writeln!(text, "static = {{ text = {quoted} }}");
    }
    text
}

impl Shared {
    async fn runtime(&self) -> Option<&Runtime> {
        let start = || {
            Runtime::builder()
                .config(self.config.clone())
                .transport(Arc::clone(&self.transport))
                .seed(self.seed)
                .wall_clock(self.wall_clock)
                .start()
        };
        self.started.get_or_try_init(start).await.ok()
    }

    async fn call(&self, plan: &CallPlan) -> Ended {
        let Some(runtime) = self.runtime().await else {
            return NOT_STARTED;
        };
        match self.call_on(runtime, plan).await {
            Ok(by) => Ended::Answered { by },
            Err(missed) => missed.ended,
        }
    }

    /// Makes a call. Says who answered.
    async fn call_on(&self, runtime: &Runtime, plan: &CallPlan) -> Result<By, Missed> {
        let request = plan.request(&self.endpoint, plan.model());
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut ask = Ask::messages(request.headers, request.body);
        if let Some(profile) = plan.profile {
            ask.profile = Some(profile);
            ask.timeouts = Some(Timeouts {
                total: plan.deadline,
                ..profile.timeouts()
            });
        }
        ask.tenant = plan.tenant.map(|tenant| tenant.name());
        let reply = runtime.forward(ask).await.map_err(|error| Missed {
            ended: ended(&error),
            verdict: error.verdict(),
        })?;
        let model = match reply.body {
            ReplyBody::Whole(body) if plan.stream => read(stream::iter([body])).await?,
            ReplyBody::Whole(body) => read_message(&body)?,
            ReplyBody::Stream(stream) => read(stream).await?,
        };
        given_by(&reply.report, &model, plan.model())
            .ok_or_else(|| Missed::failed("unmarked", Again::Never))
    }

    /// Makes a call as a supervised step.
    async fn run_step(self: Arc<Self>, plan: CallPlan) -> Ended {
        let Some(runtime) = self.runtime().await else {
            return NOT_STARTED;
        };
        let settings = StepSettings {
            deadline: plan.deadline,
            run_timeout: plan.deadline,
            ..StepSettings::default()
        };
        let own = Arc::clone(&self);
        let work = move |runtime: Runtime, _| {
            let (own, plan) = (Arc::clone(&own), plan.clone());
            async move { own.call_on(&runtime, &plan).await }
        };
        let Ok(step) = runtime.spawn_step(settings, work).await else {
            return NOT_STARTED;
        };
        match step.cancel_on_drop().join().await {
            Ok(by) => Ended::Answered { by },
            Err(StepError::Failed(missed)) => missed.ended,
            Err(_) => Ended::Failed { why: "deadline" },
        }
    }
}

pub(super) const NOT_STARTED: Ended = Ended::Failed { why: "start" };

/// A call that was not answered: how its caller sees it, and whether a step may make it again.
struct Missed {
    ended: Ended,
    verdict: Verdict,
}

impl StepFailure for Missed {
    fn verdict(&self) -> Verdict {
        self.verdict
    }
}

fn ended(error: &Error) -> Ended {
    match error {
        Error::Refused(Rejected {
            retry_after: Some(retry_after),
            ..
        }) => Ended::Refused {
            retry_after: *retry_after,
        },
        // The provider's own refusal is handed on with its own word on when to come back.
        Error::Provider { .. } => match error.verdict().not_before {
            Some(retry_after) => Ended::Refused { retry_after },
            None => Ended::Failed { why: "status" },
        },
        Error::Unanswered { .. } => Ended::Failed { why: "connection" },
        _ => Ended::Failed { why: "deadline" },
    }
}

impl Missed {
    fn failed(why: &'static str, again: Again) -> Self {
        Self {
            ended: Ended::Failed { why },
            verdict: Verdict::new(why, Blame::Target, again),
        }
    }
}

/// Who gave an answer in which `model` is named; none where the marks say otherwise.
///
/// The answer itself tells who wrote it, and the marks must agree with it. Only that it comes from
/// the cache is nothing that it could tell.
fn given_by(report: &Report, model: &str, wanted: &str) -> Option<By> {
    let wanted = plain_model(model) == plain_model(wanted);
    let badge = report.cache.as_deref();
    let stale = badge.is_some_and(|badge| badge.ends_with("; stale"));
    let (by, rung) = match (report.degraded, badge) {
        (None, None) if wanted => (By::Wanted, None),
        (None, Some(_)) if wanted && !stale => (By::FreshCache, Some(CACHE)),
        (Some(Degraded::Cache), Some(_)) if wanted && stale => {
            (By::Less(Degraded::Cache), Some(CACHE))
        }
        (Some(Degraded::Static), None) if model == STATIC => {
            (By::Less(Degraded::Static), Some(STATIC))
        }
        (Some(Degraded::Model), None)
            if !wanted && report.model.as_deref() == Some(model) && report.attempts > 0 =>
        {
            (By::Less(Degraded::Model), None)
        }
        _ => return None,
    };
    let on_rung = rung.map_or_else(|| is_model(&report.rung), |rung| *report.rung == *rung);
    on_rung.then_some(by)
}

fn read_message(body: &[u8]) -> Result<String, Missed> {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(rename = "type", borrow)]
        kind: Cow<'a, str>,
        #[serde(borrow)]
        model: Cow<'a, str>,
    }
    match serde_json::from_slice::<Named<'_>>(body) {
        Ok(named) if named.kind == "message" => Ok(named.model.into_owned()),
        _ => Err(Missed::failed("malformed", Again::Here)),
    }
}

/// Reads a stream to its end. Says which model it names.
async fn read(mut stream: impl Stream<Item = Bytes> + Unpin) -> Result<String, Missed> {
    let failed = |why| Missed::failed(why, Again::Here);
    let (mut decoder, mut watch) = (SseDecoder::new(), StreamWatch::new());
    while let Some(chunk) = stream.next().await {
        let seen = decoder.push(&chunk, |frame| {
            watch.see(frame, jiff::Timestamp::UNIX_EPOCH);
        });
        seen.map_err(|_| failed("malformed"))?;
    }
    match watch.end() {
        End::Complete => Ok(watch.model().unwrap_or_default().to_owned()),
        End::Failed => Err(failed("stream_error")),
        End::Truncated => Err(Missed {
            ended: Ended::HalfAnswered,
            ..failed("truncated")
        }),
        End::Malformed(_) => Err(failed("malformed")),
    }
}

impl Client for Seawall {
    fn call(&self, plan: CallPlan) -> BoxFuture<'static, Ended> {
        let shared = Arc::clone(&self.shared);
        async move { shared.call(&plan).await }.boxed()
    }

    fn run_step(&self, plan: CallPlan) -> BoxFuture<'static, Ended> {
        Arc::clone(&self.shared).run_step(plan).boxed()
    }

    fn asked(&self) -> Option<u64> {
        Some(self.shared.asked.load(Ordering::Relaxed))
    }

    fn in_flight(&self) -> usize {
        self.shared.started.get().map_or(0, |runtime| {
            let pool = runtime.snapshot().pool;
            pool.in_flight + pool.running
        })
    }

    fn drain(&self) -> BoxFuture<'static, ()> {
        let shared = Arc::clone(&self.shared);
        async move {
            if let Some(runtime) = shared.started.get() {
                runtime
                    .drain(Instant::now() + Duration::from_secs(60))
                    .await;
                runtime.stop().await;
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: &str = "claude-sonnet-5-5";
    const SMALLER: &str = "claude-haiku-5";
    type Marks<'m> = (&'m str, Option<Degraded>, Option<&'m str>, Option<&'m str>);

    fn marked((rung, degraded, model, badge): Marks<'_>, attempts: u32) -> Report {
        let mut report = Report::new("call".into());
        report.rung = rung.into();
        report.degraded = degraded;
        report.model = model.map(Into::into);
        report.cache = badge.map(str::to_owned);
        report.attempts = attempts;
        report
    }

    fn given(marks: Marks<'_>, model: &str) -> Option<By> {
        given_by(&marked(marks, 1), model, WANTED)
    }

    const PLAIN: Marks<'_> = ("rung0", None, Some(WANTED), None);
    const MODEL: Marks<'_> = ("rung1", Some(Degraded::Model), Some(SMALLER), None);
    const FRESH: Marks<'_> = ("cache", None, Some(WANTED), Some("hit; age=3"));
    const STALE: Marks<'_> = (
        "cache",
        Some(Degraded::Cache),
        Some(WANTED),
        Some("hit; age=30; stale"),
    );
    const FIXED: Marks<'_> = ("static", Some(Degraded::Static), None, None);

    #[test]
    fn an_answer_and_its_marks_say_together_who_gave_it() {
        assert_eq!(given(PLAIN, WANTED), Some(By::Wanted));
        assert_eq!(given(MODEL, SMALLER), Some(By::Less(Degraded::Model)));
        assert_eq!(given(FRESH, WANTED), Some(By::FreshCache));
        assert_eq!(given(STALE, WANTED), Some(By::Less(Degraded::Cache)));
        assert_eq!(given(FIXED, STATIC), Some(By::Less(Degraded::Static)));
        // A call that was told to wait for its stream knows no rung and no marks yet.
        let waiting = ("", None, None, None);
        assert_eq!(given(waiting, WANTED), Some(By::Wanted));
    }

    #[test]
    fn an_answer_that_is_not_what_its_marks_say_is_unmarked() {
        for (marks, model) in [
            (PLAIN, SMALLER),
            (PLAIN, STATIC),
            (MODEL, WANTED),
            (MODEL, STATIC),
            (FRESH, SMALLER),
            (STALE, SMALLER),
            (FIXED, WANTED),
            (FIXED, SMALLER),
            (("", None, None, None), SMALLER),
            (("", None, None, None), STATIC),
            (("rung1", Some(Degraded::Model), None, None), SMALLER),
            (("rung0", Some(Degraded::Static), None, None), STATIC),
            (("cache", Some(Degraded::Cache), None, None), WANTED),
            (("cache", None, None, Some("hit; age=30; stale")), WANTED),
            (("rung0", None, None, Some("hit; age=3")), WANTED),
        ] {
            assert_eq!(given(marks, model), None, "{marks:?} {model}");
        }
        assert_eq!(given_by(&marked(MODEL, 0), SMALLER, WANTED), None);
    }

    #[test]
    fn a_ladder_is_written_as_a_configuration() {
        let scenario = Scenario::find("outage-ladder").unwrap();
        let text = config_text(&scenario, "http://sim.invalid");
        let parsed = Config::parse(
            &text,
            Path::new(""),
            &Overrides::default(),
            &Environment::from_fn(|_| None),
        );
        let config = parsed.unwrap();
        assert_eq!(config.targets.len(), 2);
        let route = &config.routes["default"];
        let rungs: Vec<_> = route.ladder.iter().map(|r| r.place.to_string()).collect();
        assert_eq!(rungs, ["rung0", "rung1", "cache", "static"]);
        assert_eq!(route.wait, Duration::from_secs(1));
        assert_eq!(route.cache.unwrap().ttl, Duration::from_secs(10));
    }
}
