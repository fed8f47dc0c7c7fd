//! The simulated provider of one client, in memory or on a socket.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::client::Endpoint;
use super::super::{DrillError, Options, Scenario};
use crate::sim::{self, Sim};
use crate::transport::Transport;

/// Time that the server gets to stop.
const DRAIN: Duration = Duration::from_secs(30);

/// The simulated provider's calendar starts at the beginning of 2026.
const VIRTUAL_START: Duration = Duration::from_secs(1_767_225_600);

/// The provider of one client.
pub(super) struct Provider {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) endpoint: Endpoint,
    sim: Arc<Sim>,
    server: Option<Server>,
}

struct Server {
    stop: oneshot::Sender<()>,
    tasks: JoinSet<()>,
}

impl Provider {
    pub(super) async fn open(scenario: &Scenario, options: &Options) -> Result<Self, DrillError> {
        let start = || {
            let settings = sim::Settings {
                seed: options.seed,
                ..scenario.provider.clone()
            };
            Sim::new(settings).map_err(|error| DrillError::Provider {
                scenario: scenario.name.clone(),
                why: error.to_string(),
            })
        };
        let Some(loopback) = &options.real else {
            let sim = start()?;
            let transport: Arc<dyn Transport> = Arc::new(sim.transport());
            let endpoint = Endpoint::new("http://sim.invalid")?;
            return Ok(Self {
                sim,
                transport,
                endpoint,
                server: None,
            });
        };
        let transport =
            (loopback.transport)().map_err(|error| DrillError::Start(io::Error::other(error)))?;
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = TcpListener::bind(any_port)
            .await
            .map_err(DrillError::Start)?;
        let address = listener.local_addr().map_err(DrillError::Start)?;
        // Its faults count from here, as the drill's time does.
        let sim = start()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let mut tasks = JoinSet::new();
        let stopped = stopped.map(|_sent_or_dropped| ()).boxed();
        tasks.spawn((loopback.serve)(listener, Arc::clone(&sim), stopped));
        sim.follow_wall_clock();
        let endpoint = Endpoint::new(&format!("http://{address}"))?;
        Ok(Self {
            sim,
            transport,
            endpoint,
            server: Some(Server { stop, tasks }),
        })
    }

    /// Requests that are being answered.
    pub(super) fn in_flight(&self) -> u64 {
        self.sim.stats().in_flight
    }

    /// Stops it; its counters as they were before.
    pub(super) async fn close(self) -> sim::Stats {
        let stats = self.sim.stats();
        if let Some(Server { stop, mut tasks }) = self.server {
            // Nobody left to hear it means that the server has stopped already.
            let _heard = stop.send(());
            if timeout(DRAIN, tasks.join_next()).await.is_err() {
                tasks.abort_all();
            }
        }
        stats
    }
}

/// Time since the Unix epoch. Virtual drills start at a fixed moment, so that no header, and no
/// draw that follows from one, depends on the day.
pub(super) fn unix_now(real: bool) -> Duration {
    if !real {
        return VIRTUAL_START;
    }
    u64::try_from(jiff::Timestamp::now().as_millisecond())
        .map_or(VIRTUAL_START, Duration::from_millis)
}
