//! The rungs of one call: which of them are for it, and what each is sent.
//!
//! A rung below the first gets its request when the call comes to it, which few calls do.

use std::sync::{Arc, OnceLock};

use seawall_actors::caller::{Place as At, Rung};
use seawall_actors::policy::ladder::{Cause, Kind};
use seawall_actors::policy::quota::Cost;
use seawall_actors::system::Target;

use super::Seawall;
use super::ask::{Endpoint, Fallback, Skipped};
use super::exchange::{Exchange, Prepared};
use super::ladders::{self, Ladder};
use crate::capability::{Capabilities, Features, Fit, Misfit, Needs, fit};
use crate::client::expectation::Shape;
use crate::config::Place;
use crate::error::Error;

/// A call's rungs, as far as it has come to them.
#[derive(Debug)]
pub(super) struct Rungs {
    ladder: Arc<Ladder>,
    stations: Vec<Station>,
    /// Why a rung could not be set up, where that was the last word.
    pub(super) failed: parking_lot::Mutex<Option<Error>>,
}

/// One rung, as far as a call has come to it.
#[derive(Debug, Default)]
struct Station {
    fitting: OnceLock<Fitting>,
    sent: OnceLock<Sent>,
}

/// How a call's request suits a rung's target.
#[derive(Debug)]
pub(super) struct Fitting {
    pub(super) shape: Shape,
    pub(super) fit: Result<Fit, Misfit>,
}

/// What a rung is sent, and what it cost the request.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) prepared: Arc<Prepared>,
    pub(super) target: Target,
    pub(super) cost: Cost,
    pub(super) losses: Features,
}

impl Rungs {
    pub(super) fn new(ladder: Arc<Ladder>) -> Self {
        let stations = ladder.rungs.iter().map(|_| Station::default()).collect();
        Self {
            ladder,
            stations,
            failed: parking_lot::Mutex::new(None),
        }
    }

    pub(super) fn ladder(&self) -> &Arc<Ladder> {
        &self.ladder
    }

    pub(super) fn name(&self, rung: usize) -> Option<&Arc<str>> {
        self.ladder.rungs.get(rung).map(|rung| &rung.name)
    }

    pub(super) fn place(&self, rung: usize) -> Option<&Place> {
        self.ladder.rungs.get(rung).map(|rung| &rung.place)
    }

    pub(super) fn sent(&self, rung: usize) -> Option<&Sent> {
        self.stations.get(rung)?.sent.get()
    }

    /// How the request suits a rung, where the ladder is choosy and the rung a target.
    pub(super) fn fitting(&self, rung: usize) -> Option<&Fitting> {
        self.stations.get(rung)?.fitting.get()
    }

    pub(super) fn prepared(&self, rung: usize) -> Option<&Arc<Prepared>> {
        self.sent(rung).map(|sent| &sent.prepared)
    }

    /// What the rungs that were prepared are sent.
    pub(super) fn all_sent(&self) -> impl Iterator<Item = &Sent> {
        self.stations.iter().filter_map(|at| at.sent.get())
    }

    /// What the first rung that was prepared is sent.
    pub(super) fn any_prepared(&self) -> Option<&Arc<Prepared>> {
        self.all_sent().next().map(|sent| &sent.prepared)
    }

    /// Rungs that can't carry the request, each with the reason.
    fn misfits(&self) -> impl Iterator<Item = (&Arc<str>, &Misfit)> {
        let rungs = self.ladder.rungs.iter().zip(&self.stations);
        rungs.filter_map(|(rung, at)| Some((&rung.name, at.fitting.get()?.fit.as_ref().err()?)))
    }

    /// The same for whoever is told.
    pub(super) fn skipped(&self) -> Vec<Skipped> {
        let skipped = |(rung, why): (&Arc<str>, &Misfit)| Skipped {
            rung: Arc::clone(rung),
            why: why.clone(),
        };
        self.misfits().map(skipped).collect()
    }

    /// The same in one line; empty for most calls.
    pub(super) fn skipped_words(&self) -> String {
        let words: Vec<String> = self.skipped().iter().map(Skipped::to_string).collect();
        words.join(", ")
    }

    pub(super) fn keep(&self, rung: usize, sent: Sent) {
        if let Some(at) = self.stations.get(rung) {
            // Prepared twice at the same time, both are the same.
            drop(at.sent.set(sent));
        }
    }

    /// The rung where a call begins that asks no cache: the first target.
    pub(super) fn first_target(&self) -> Option<(usize, &ladders::Rung)> {
        let mut rungs = self.ladder.rungs.iter().enumerate();
        rungs.find(|(_, rung)| rung.place.target().is_some())
    }
}

impl Seawall {
    /// The rungs as the actors walk them. The first that is a target is prepared, unless an answer at
    /// hand is looked for before.
    pub(super) async fn rungs(
        &self,
        exchange: &Arc<Exchange>,
        fallback: Fallback,
    ) -> Result<Vec<Rung>, Error> {
        let ladder = exchange.rungs.ladder();
        let mut rungs = Vec::with_capacity(ladder.rungs.len());
        let mut targets = 0_usize;
        for (index, rung) in ladder.rungs.iter().enumerate() {
            let mut rules = rung.rules;
            rules.credential = self.credential_of(rung).unwrap_or(rules.credential);
            let place = if rules.kind == Kind::Target {
                targets += 1;
                At::Later(Arc::clone(&rung.name))
            } else {
                At::StandIn(stand_in_name(&rung.place))
            };
            if let Some(why) = not_for(exchange, fallback, (rung, targets)) {
                rules.unfit = Some(why);
            } else if ladder.is_choosy && rules.kind == Kind::Target {
                let capabilities = Self::capabilities(exchange, rung);
                rules.room = capabilities
                    .context_tokens
                    .or_else(|| self.own_room(exchange, rung));
                rules.unfit = exchange.rungs.stations.get(index).and_then(|at| {
                    let fitting = || self.fitting(exchange, rung, &capabilities);
                    let fitting = at.fitting.get_or_init(fitting);
                    fitting.fit.as_ref().err().map(Misfit::as_str)
                });
            }
            rungs.push(Rung { place, rules });
        }
        let begins = rungs.iter().position(|rung| rung.rules.unfit.is_none());
        let has_target =
            |rung: &Rung| rung.rules.unfit.is_none() && rung.rules.kind == Kind::Target;
        if !rungs.iter().any(has_target) {
            let misfits = exchange.rungs.misfits();
            let misfits: Vec<_> = misfits
                .map(|(name, why)| (Arc::clone(name), why.clone()))
                .collect();
            if !misfits.is_empty() {
                return Err(Error::Unfit(misfits));
            }
        }
        // Errors of a call's beginning are its own: a missing credential, a wrong address.
        if let Some((index, rung)) = begins.and_then(|index| Some((index, rungs.get_mut(index)?)))
            && rung.rules.kind == Kind::Target
        {
            let (target, cost) = self.send_to(exchange, index).await?;
            rung.place = At::Target(target, cost);
        }
        Ok(rungs)
    }

    /// A number for a target's own key, the same for the same key: two targets with one key are refused
    /// together.
    fn credential_of(&self, rung: &ladders::Rung) -> Option<u64> {
        let key = self.shared.keys.of(rung.place.target()?)?;
        key.always.then(|| key.current().number)
    }

    /// Prepares a rung that a call has come to.
    pub(super) async fn place(
        &self,
        exchange: &Exchange,
        rung: usize,
    ) -> Result<(Target, Cost), Cause> {
        if let Some(sent) = exchange.rungs.sent(rung) {
            return Ok((sent.target.clone(), sent.cost));
        }
        self.send_to(exchange, rung).await.map_err(|error| {
            let cause = match &error {
                Error::NoCredential => Cause::Credential,
                _ => Cause::NotFound,
            };
            tracing::warn!(call = %exchange.call, rung, %error, "a rung could not be set up");
            *exchange.rungs.failed.lock() = Some(error);
            cause
        })
    }

    /// What a rung's target can carry.
    fn capabilities(exchange: &Exchange, rung: &ladders::Rung) -> Capabilities {
        if rung.asks_own_model {
            rung.carries.under(exchange.source.version())
        } else {
            // The caller's model: its provider judges.
            rung.carries
        }
    }

    /// The context of the caller's own model, where a rung asks for that.
    fn own_room(&self, exchange: &Exchange, rung: &ladders::Rung) -> Option<u64> {
        let target = self.shared.config.targets.get(rung.place.target()?)?;
        let source = &exchange.source;
        let own = target.model.is_none();
        own.then(|| Capabilities::of(source.model(), source.version()).context_tokens)?
    }

    /// How a call's request suits a rung, and with which losses.
    fn fitting(
        &self,
        exchange: &Exchange,
        rung: &ladders::Rung,
        capabilities: &Capabilities,
    ) -> Fitting {
        let name = rung.place.target().unwrap_or_default();
        let model = self.shared.config.targets.get(name);
        let model = model.and_then(|target| target.model.as_deref());
        let asked = model.or_else(|| exchange.source.model()).unwrap_or("");
        let view = exchange.source.view.as_ref();
        let shape = Shape::of(asked, view);
        let Some(view) = view else {
            let fit = Ok(Fit::default());
            return Fitting { shape, fit };
        };
        let mut needs: Needs = view.needs.moved(self.conversed_with(exchange), model);
        let first = exchange.rungs.first_target();
        if first.is_some_and(|(_, first)| self.credential_of(first) != self.credential_of(rung)) {
            needs = needs.for_another_account(model.or(view.model.as_deref()));
        }
        let fit = fit(&needs, shape.estimate.tokens, capabilities, rung.lossy);
        Fitting { shape, fit }
    }

    /// The model that the conversation so far was with: the first target's.
    pub(super) fn conversed_with<'a>(&'a self, exchange: &'a Exchange) -> Option<&'a str> {
        let first = exchange.rungs.first_target();
        let name = first.and_then(|(_, rung)| rung.place.target())?;
        let own = self.shared.config.targets.get(name)?.model.as_deref();
        own.or_else(|| exchange.source.model())
    }
}

const fn stand_in_name(place: &Place) -> &'static str {
    match place {
        Place::Static => "static",
        _ => "cache",
    }
}

/// Why a rung is not for a call, whatever the request holds. `nth` counts targets, this one included.
fn not_for(
    exchange: &Exchange,
    fallback: Fallback,
    (rung, nth): (&ladders::Rung, usize),
) -> Option<&'static str> {
    let is_target = rung.rules.kind == Kind::Target;
    // Whoever may not fall stays at the first target, and before it.
    if fallback == Fallback::Never && (nth > 1 || nth == 1 && !is_target) {
        return Some("fallback_never");
    }
    match exchange.endpoint {
        Endpoint::Messages if !is_target && exchange.attempts_before > 0 => Some("continuation"),
        Endpoint::Messages => None,
        // A count by another model is another count.
        Endpoint::CountTokens if is_target => None,
        Endpoint::Other(..) if is_target && nth == 1 => None,
        _ => Some("other_endpoint"),
    }
}
