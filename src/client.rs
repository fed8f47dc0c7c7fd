//! The client: a request in, the best answer that can be had in its time out.
//!
//! It resolves the route to a ladder of targets, prepares what each rung is sent, and lets the
//! actors run the call. Library and gateway use the same path; the bytes of a request go upstream
//! as they came, but for the model where a rung names another.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, TryFutureExt};
use seawall_actors::caller::{Call, Finished};
use seawall_actors::error::{Rejected, Rejection};
use seawall_actors::event::EventStream;
use seawall_actors::snapshot::Snapshot;
use seawall_actors::system::System;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::cache::{self, Store};
use crate::config::Config;
use crate::error::Error;
use crate::provider::anthropic::rate_limits::GroupLimits;
use crate::provider::anthropic::request::RequestView;
use crate::telemetry::Telemetry;
use crate::transport::Transport;
use crate::wall_clock::WallClock;

pub mod ask;
mod attempt;
mod builder;
mod conclusion;
mod counting;
mod exchange;
mod expectation;
mod first_content;
mod fixed;
mod flights;
mod kept;
mod keys;
mod ladders;
pub mod launch;
pub mod message_stream;
mod opening;
mod operation;
mod organization;
mod preparation;
mod probe;
mod readiness;
mod reply_stream;
mod resume;
mod rungs;
mod sharing;
mod source;
mod spend_caps;
mod stacking;
pub mod step;
mod stream;
mod stream_ends;
mod targets;
mod turn;
mod watchdog;

use ask::{Ask, Endpoint, Reply};
pub use builder::Builder;
use conclusion::waiting;
use exchange::{Exchange, Progress};
pub use expectation::Accuracy;
pub use first_content::FirstContent;
use flights::Flights;
use keys::Keys;
use ladders::Ladders;
use operation::CallOperation;
use organization::Organization;
use preparation::{Asked, Started};
use spend_caps::SpendCaps;
use stream_ends::StreamEnds;
use targets::Targets;
use turn::Staggers;

/// A running client. Cheap to clone.
#[derive(Clone)]
pub struct Seawall {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    system: System,
    targets: Targets,
    keys: Arc<Keys>,
    ladders: Ladders,
    flights: Flights,
    /// Answers that are kept, where a route has a cache.
    store: Option<Arc<Store>>,
    /// By which they age.
    wall_clock: WallClock,
    organization: Organization,
    /// The transport of the default connect timeout.
    transport: Arc<dyn Transport>,
    /// Those of other connect timeouts in the configuration.
    transports: BTreeMap<Duration, Arc<dyn Transport>>,
    telemetry: Telemetry,
    spend_caps: SpendCaps,
    ends: StreamEnds,
    /// Thrown when no new calls are taken.
    draining: StreamEnds,
    staggers: Staggers,
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
        let on_its_way = {
            let asked = self.asked(ask)?;
            match Self::shareable(&asked) {
                Some(key) => self.share(key, asked).boxed().left_future(),
                None => self.forward_alone(asked).right_future(),
            }
        };
        on_its_way.await
    }

    fn forward_alone<'s>(
        &'s self,
        asked: Asked<'s>,
    ) -> impl Future<Output = Result<Reply, Error>> + Send + 's {
        let started = Started {
            call: new_id(),
            began: Instant::now(),
            attempts: 0,
            progress: Progress::default(),
        };
        self.prepare(started, asked)
            .and_then(|(exchange, call)| self.run_out_loud(exchange, call))
    }

    /// Runs a call; a streamed one that takes long is handed over before it has an answer.
    async fn run_out_loud(&self, exchange: Arc<Exchange>, call: Call) -> Result<Reply, Error> {
        if !exchange.is_stream() {
            return self.run(exchange, call).await;
        }
        let until = exchange.began + WAIT_OUT_LOUD;
        let seawall = self.clone();
        let shared = Arc::clone(&exchange);
        let mut running = async move { seawall.run(shared, call).await }.boxed();
        match timeout_at(until, &mut running).await {
            Ok(answered) => answered,
            Err(_) => Ok(waiting(exchange.so_far(), running)),
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
        // The rest alone is nobody else's answer.
        let asked = Asked {
            print: None,
            ..self.asked(ask)?
        };
        let (exchange, call) = self.prepare(started, asked).await?;
        broken.hand_over();
        drop(broken);
        self.run(exchange, call).await
    }

    /// Reads a request and finds its route.
    fn asked(&self, ask: Ask) -> Result<Asked<'_>, Error> {
        let view = match ask.endpoint {
            Endpoint::Messages | Endpoint::CountTokens => Some(RequestView::parse(&ask.body)?),
            Endpoint::Other(..) => None,
        };
        let model = view.as_ref().and_then(|view| view.model.as_deref());
        let config = &self.shared.config;
        let route = config
            .route_for(ask.route.as_deref(), model)
            .ok_or_else(|| Error::UnknownRoute(ask.route.clone().unwrap_or_default()))?;
        let print = self.print(&ask, route);
        Ok(Asked {
            ask,
            view,
            route,
            print,
        })
    }

    async fn run(&self, exchange: Arc<Exchange>, call: Call) -> Result<Reply, Error> {
        exchange.begin();
        if let Err(rejected) = self.take_turn(&exchange, call.patience).await {
            exchange.publish(Some(rejected.why.as_str()));
            return Err(Error::Refused(rejected));
        }
        let operation = CallOperation {
            seawall: self.clone(),
            exchange: Arc::clone(&exchange),
        };
        let stopped = async {
            self.shared.ends.ended().await;
            tokio::time::sleep(ATTEMPTS_END).await;
        };
        let Finished { result, report } = tokio::select! {
            biased;
            finished = self.shared.system.run(call, operation) => finished,
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

    /// What the organisation may use a minute of a model and of those that share its limits, as the
    /// Rate Limits API says; nothing without an admin key, or for a model that it does not name.
    #[must_use]
    pub fn limits_of(&self, model: &str) -> Option<GroupLimits> {
        self.shared.organization.limits().limits_of(model)
    }

    /// How well the prompts of the latest answers were estimated, for each target and each class of
    /// content that it has answered.
    #[must_use]
    pub fn accuracies(&self) -> Vec<(Arc<str>, Vec<Accuracy>)> {
        self.shared.targets.accuracies()
    }

    /// What the cache holds and has done; nothing where no route has one.
    #[must_use]
    pub fn cache_stats(&self) -> Option<cache::Stats> {
        self.shared.store.as_ref().map(|store| store.stats())
    }

    /// Calls whose attempt others may share at this moment.
    #[must_use]
    pub fn shared_calls(&self) -> usize {
        self.shared.flights.len()
    }

    /// Calls that take their answer from one of these, the calls that made them included.
    #[must_use]
    pub fn sharing_calls(&self) -> usize {
        self.shared.flights.subscribers()
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
        self.shared.draining.throw();
        self.shared.system.drain(deadline).await
    }

    /// Ends the streams that are under way, each with an `error` event, and the calls that have no
    /// answer yet, each refused for draining. [`Seawall::drain`] first.
    pub fn end_streams(&self) {
        self.shared.ends.throw();
    }

    /// Stops the actors; calls still under way are refused. [`Seawall::drain`] first.
    pub async fn stop(&self) {
        self.shared.organization.stop();
        self.shared.system.stop().await;
        if let Some(store) = &self.shared.store {
            store.close().await;
        }
    }
}

/// The id of a new call.
fn new_id() -> Arc<str> {
    let mut id = Uuid::encode_buffer();
    let id: &str = Uuid::now_v7().hyphenated().encode_lower(&mut id);
    id.into()
}

impl fmt::Debug for Seawall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seawall")
            .field("system", &self.shared.system)
            .finish_non_exhaustive()
    }
}
