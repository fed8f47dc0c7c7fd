//! The turns of runs: where a route staggers them, a run's first call waits for its beginning.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use seawall_actors::error::{Rejected, Rejection};
use seawall_actors::policy::stagger::Stagger;
use tokio::time::{Instant, sleep_until};

use super::Seawall;
use super::exchange::Exchange;
use crate::config::Config;

/// The turns on each route that staggers its runs.
pub(super) type Staggers = BTreeMap<String, Mutex<Stagger>>;

pub(super) fn staggers(config: &Config) -> Staggers {
    let now = Instant::now();
    let routes = config.routes.iter();
    routes
        .filter_map(|(name, route)| {
            let stagger = Stagger::new(route.stagger?, Stagger::MOST_RUNS, now);
            Some((name.clone(), Mutex::new(stagger)))
        })
        .collect()
}

impl Seawall {
    /// Waits until the run that a call belongs to may begin; a drain ends the wait.
    pub(super) async fn take_turn(
        &self,
        exchange: &Exchange,
        patience: Duration,
    ) -> Result<(), Rejected> {
        let (Some(run), Some(stagger)) =
            (&exchange.run, self.shared.staggers.get(&*exchange.route))
        else {
            return Ok(());
        };
        let (turn, now) = {
            let mut stagger = stagger.lock();
            let now = Instant::now();
            (stagger.turn(run, patience, now), now)
        };
        let begins = turn.map_err(|free| Rejected {
            why: Rejection::TurnTooLate,
            by: Some(Arc::clone(&exchange.route)),
            // By then the same turn is near enough to wait for.
            retry_after: Some(free.saturating_duration_since(now + patience)),
        })?;
        if begins <= now {
            return Ok(());
        }
        tokio::select! {
            biased;
            () = self.shared.draining.ended() => return Err(Rejected::new(Rejection::Draining)),
            () = sleep_until(begins) => {}
        }
        exchange.progress.lock().queued += now.elapsed();
        Ok(())
    }
}
