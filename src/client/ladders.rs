//! The configured ladders as calls walk them, made once.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use seawall_actors::policy::InvalidPolicy;
use seawall_actors::policy::hedge::HedgeBudget;
use seawall_actors::policy::ladder::{Cause, Rules};

use crate::capability::{Capabilities, Features};
use crate::config::{self, Config, Place};

/// The ladder of each route.
#[derive(Debug)]
pub(super) struct Ladders(BTreeMap<String, Arc<Ladder>>);

/// The ladder of one route.
#[derive(Debug)]
pub(super) struct Ladder {
    pub(super) rungs: Vec<Rung>,
    /// Whether a call must fit its rungs: there are several, or a target says what it can't carry.
    pub(super) is_choosy: bool,
    /// Whether a rung is there for requests that a model refuses to answer.
    pub(super) minds_refusals: bool,
    /// Pays for second attempts, where the route makes any.
    pub(super) hedges: Option<Arc<Mutex<HedgeBudget>>>,
}

/// One rung, the same for every call.
#[derive(Debug)]
pub(super) struct Rung {
    pub(super) name: Arc<str>,
    pub(super) place: Place,
    /// But for what depends on the request and on keys that may change.
    pub(super) rules: Rules,
    /// What a request may lose on its way to it.
    pub(super) lossy: Features,
    /// What its target can carry, whatever the version of the API.
    pub(super) carries: Capabilities,
    /// Whether its target has a model of its own, which is asked in place of the caller's.
    pub(super) asks_own_model: bool,
}

/// The callers' own credentials, whatever they are: within one call they are one.
const THE_CALLERS: u64 = 0;

impl Ladders {
    pub(super) fn new(config: &Config) -> Result<Self, InvalidPolicy> {
        let mut ladders = BTreeMap::new();
        for (name, route) in &config.routes {
            let budget = route.hedge.map(|hedge| HedgeBudget::new(hedge.budget));
            let rung_of = |rung| rung_of(rung, config);
            let rungs: Vec<Rung> = route.ladder.iter().map(rung_of).collect();
            let is_target = |rung: &&Rung| rung.place.target().is_some();
            let targets = rungs.iter().filter(is_target).count();
            let says = |rung: &Rung| {
                let target = config.targets.get(rung.place.target().unwrap_or_default());
                target.is_some_and(|target| {
                    !target.cannot.is_empty()
                        || target.context_tokens.is_some()
                        || target.output_tokens.is_some()
                })
            };
            let ladder = Ladder {
                is_choosy: targets > 1 || rungs.iter().any(says),
                minds_refusals: rungs
                    .iter()
                    .any(|rung| rung.rules.led_to_by.contains(Cause::Refused)),
                rungs,
                hedges: budget
                    .transpose()?
                    .map(|budget| Arc::new(Mutex::new(budget))),
            };
            ladders.insert(name.clone(), Arc::new(ladder));
        }
        Ok(Self(ladders))
    }

    pub(super) fn of(&self, route: &str) -> Option<&Arc<Ladder>> {
        self.0.get(route)
    }
}

fn rung_of(rung: &config::Rung, config: &Config) -> Rung {
    let target = rung.place.target();
    let target = target.and_then(|name| config.targets.get(name));
    let mut rules = rung.rules();
    rules.credential = THE_CALLERS;
    Rung {
        name: rung.place.to_string().into(),
        place: rung.place.clone(),
        rules,
        lossy: rung.lossy,
        carries: target.map_or_else(Capabilities::everything, config::Target::capabilities),
        asks_own_model: target.is_some_and(|target| target.model.is_some()),
    }
}
