//! This runtime, as a service would embed it: configured by the scenario, started once.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use seawall_actors::error::Rejected;
use seawall_actors::verdict::{Again, Blame, Verdict};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::{CallPlan, Client, Ended, Endpoint, Wiring};
use crate::client::Seawall as Runtime;
use crate::client::ask::{Ask, ReplyBody, ReplyStream};
use crate::client::step::{StepError, StepFailure, StepSettings};
use crate::config::{Config, Environment, Overrides};
use crate::drill::DrillError;
use crate::drill::scenario::Scenario;
use crate::error::Error;
use crate::profile::Timeouts;
use crate::provider::anthropic::stream::{End, StreamWatch};
use crate::transport::Transport;
use crate::transport::sse::SseDecoder;

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
            started: OnceCell::new(),
            asked: AtomicU64::new(0),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }
}

/// The scenario's client side as a configuration file.
fn config_text(scenario: &Scenario, base: &str) -> String {
    let mut text = String::new();
    let mut names = Vec::new();
    for (rung, model) in scenario.ladder.iter().enumerate() {
        let quota = if rung == 0 && scenario.limits.is_some() {
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
    text
}

impl Shared {
    async fn runtime(&self) -> Option<&Runtime> {
        let start = || {
            Runtime::builder()
                .config(self.config.clone())
                .transport(Arc::clone(&self.transport))
                .seed(self.seed)
                .start()
        };
        self.started.get_or_try_init(start).await.ok()
    }

    async fn call(&self, plan: &CallPlan) -> Ended {
        let Some(runtime) = self.runtime().await else {
            return NOT_STARTED;
        };
        match self.call_on(runtime, plan).await {
            Ok(rung) => Ended::Answered { rung },
            Err(missed) => missed.ended,
        }
    }

    /// Makes a call. Says which rung answered.
    async fn call_on(&self, runtime: &Runtime, plan: &CallPlan) -> Result<usize, Missed> {
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
        let rung = reply.report.rung.trim_start_matches("rung");
        let rung = rung.parse().unwrap_or(0);
        match reply.body {
            ReplyBody::Whole(_) => Ok(rung),
            ReplyBody::Stream(stream) => read(stream).await.map(|()| rung),
        }
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
            Ok(rung) => Ended::Answered { rung },
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

async fn read(mut stream: ReplyStream) -> Result<(), Missed> {
    let missed = |ended, label| Missed {
        ended,
        verdict: Verdict::new(label, Blame::Target, Again::Here),
    };
    let failed = |why| missed(Ended::Failed { why }, why);
    let (mut decoder, mut watch) = (SseDecoder::new(), StreamWatch::new());
    while let Some(chunk) = stream.next().await {
        let seen = decoder.push(&chunk, |frame| {
            watch.see(frame, jiff::Timestamp::UNIX_EPOCH);
        });
        seen.map_err(|_| failed("malformed"))?;
    }
    match watch.end() {
        End::Complete => Ok(()),
        End::Failed => Err(failed("stream_error")),
        End::Truncated => Err(missed(Ended::HalfAnswered, "truncated")),
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
