//! How a client is put together.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt;
use seawall_actors::hooks::Hooks;
use seawall_actors::system::{System, SystemSettings};

use super::flights::{Flights, MOST_HELD};
use super::keys::Keys;
use super::ladders::Ladders;
use super::organization::{self, Organization};
use super::sharing::MOST_FLIGHTS;
use super::spend_caps::SpendCaps;
use super::stream_ends::StreamEnds;
use super::targets::Targets;
use super::turn::staggers;
use super::{Seawall, Shared};
use crate::cache::{OpenError, Settings, Store};
use crate::config::{Config, Overrides};
use crate::error::StartError;
use crate::profile::Profile;
use crate::telemetry::Telemetry;
use crate::transport::Transport;
use crate::transport::http::HttpTransport;
use crate::wall_clock::WallClock;

/// A client to be started.
#[derive(Default)]
pub struct Builder {
    config: Option<Config>,
    transport: Option<Arc<dyn Transport>>,
    system: SystemSettings,
    hooks: Hooks,
    wall_clock: WallClock,
}

impl Builder {
    /// Sets the configuration; without one, the defaults apply.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = Some(config);
        self
    }

    /// Sends through another transport than HTTP, such as the simulated provider's.
    #[must_use]
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.transport = Some(transport);
        self
    }

    /// Sets how many calls and targets there may be.
    #[must_use]
    pub const fn system(mut self, system: SystemSettings) -> Self {
        self.system = system;
        self
    }

    /// Sets what is called when a call is retried, waits or falls, a breaker or a step changes, or
    /// an actor is restarted.
    #[must_use]
    pub fn hooks(mut self, hooks: Hooks) -> Self {
        self.hooks = hooks;
        self
    }

    /// Seeds all jitter, so that a run can be repeated.
    #[must_use]
    pub const fn seed(mut self, seed: u64) -> Self {
        self.system.seed = Some(seed);
        self
    }

    /// Sets the clock by which kept answers age; without one, the machine's.
    #[must_use]
    pub const fn wall_clock(mut self, clock: WallClock) -> Self {
        self.wall_clock = clock;
        self
    }

    /// Starts the actors on the current tokio runtime.
    ///
    /// # Errors
    ///
    /// [`StartError`] when the environment can't be used, a setting is out of range, TLS can't be
    /// set up, or there is no thread for the hooks.
    pub async fn start(self) -> Result<Seawall, StartError> {
        let config = match self.config {
            Some(config) => config,
            None => Config::without_file(&Overrides::default())?,
        };
        let (transport, transports) = match self.transport {
            Some(transport) => (transport, BTreeMap::new()),
            None => http(&config)?,
        };
        let system = System::start(self.system).await?;
        if !self.hooks.is_empty() {
            system.hook(self.hooks)?;
        }
        let keys = Arc::new(Keys::new(&config));
        let shared = Shared {
            targets: Targets::new(&config),
            ladders: Ladders::new(&config)?,
            store: store(&config, self.wall_clock)?,
            wall_clock: self.wall_clock,
            flights: Flights::new(MOST_FLIGHTS, MOST_HELD),
            staggers: staggers(&config),
            organization: Organization::new(&config, &keys),
            keys,
            config,
            system,
            transport,
            transports,
            telemetry: Telemetry::default(),
            spend_caps: SpendCaps::default(),
            ends: StreamEnds::default(),
            draining: StreamEnds::default(),
        };
        let shared = Arc::new(shared);
        // Boxed: most have no admin key, and their start should not carry it.
        organization::start(&shared).boxed().await;
        Ok(Seawall { shared })
    }
}

/// Opens the store of the routes' caches. It reads its file through, which blocks for a moment.
fn store(config: &Config, clock: WallClock) -> Result<Option<Arc<Store>>, OpenError> {
    let caches = config.routes.values().filter_map(|route| route.cache);
    let Some(keep) = caches
        .map(|cache| cache.stale_if_error.max(cache.ttl))
        .max()
    else {
        return Ok(None);
    };
    let settings = Settings {
        memory: config.cache.memory,
        keep,
        largest: usize::try_from(config.cache.largest).unwrap_or(usize::MAX),
        disk: config
            .cache
            .disk
            .clone()
            .map(|path| (path, config.cache.disk_limit)),
    };
    Store::open(&settings, clock.now()).map(|store| Some(Arc::new(store)))
}

type Transports = BTreeMap<std::time::Duration, Arc<dyn Transport>>;

/// A transport has one connect timeout, so each that is used gets a transport of its own.
fn http(config: &Config) -> Result<(Arc<dyn Transport>, Transports), StartError> {
    let default = Profile::default().timeouts().connect;
    let mut transports = Transports::new();
    for route in config.routes.values() {
        let connect = route.timeouts.connect;
        if connect != default && !transports.contains_key(&connect) {
            transports.insert(connect, Arc::new(HttpTransport::new(connect)?));
        }
    }
    Ok((Arc::new(HttpTransport::new(default)?), transports))
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("config", &self.config)
            .field("hooks", &self.hooks)
            .finish_non_exhaustive()
    }
}
