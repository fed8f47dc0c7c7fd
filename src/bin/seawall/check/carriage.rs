//! Which targets of a ladder carry which kinds of requests, and what gets lost on the way, found out by
//! letting the real client send each to each.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use seawall::capability::{Feature, Features};
use seawall::client::Seawall;
use seawall::client::ask::{Ask, Report};
use seawall::config::{Config, Route};
use seawall::error::Error;
use seawall::transport::Transport;
use seawall_actors::policy::ladder::Cause;

use super::faults::overloaded;
use super::rehearsal::{Scene, Stage, asked, key, staged, virtually};
use super::requests::{KINDS, Kind};

/// What becomes of one kind of request.
#[derive(Debug)]
pub(super) struct Carriage {
    pub(super) kind: Kind,
    /// For each target of the ladder, in its order.
    pub(super) targets: Vec<(String, Fate)>,
}

/// What becomes of a request on one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes there without these.
    Carried(Features),
    /// The target is passed by, for this reason.
    Skipped(String),
}

impl Fate {
    pub(super) const AS_IT_IS: Self = Self::Carried(Features::NONE);

    pub(super) const fn is_skipped(&self) -> bool {
        matches!(self, Self::Skipped(_))
    }

    pub(super) fn losses(&self) -> Vec<&'static str> {
        match self {
            Self::Carried(losses) => losses.iter().map(Feature::as_str).collect(),
            Self::Skipped(_) => Vec::new(),
        }
    }
}

impl Carriage {
    pub(super) fn is_plain(&self) -> bool {
        self.targets.iter().all(|(_, fate)| *fate == Fate::AS_IT_IS)
    }

    pub(super) fn is_refused(&self) -> bool {
        self.targets.iter().all(|(_, fate)| fate.is_skipped())
    }
}

/// Foretells what becomes of every kind of request on a route.
///
/// # Errors
///
/// Why the client can't be started with the config.
pub(super) fn carriages(config: &Config, route: &Route) -> Result<Vec<Carriage>, String> {
    let carry = |kind| carry(config, route, kind);
    KINDS.into_iter().map(carry).collect()
}

/// Foretells what becomes of one kind of request.
pub(super) fn carry(config: &Config, route: &Route, kind: Kind) -> Result<Carriage, String> {
    let targets: Vec<String> = route
        .ladder
        .iter()
        .filter_map(|rung| rung.place.target().map(str::to_owned))
        .collect();
    let fates = (0..targets.len()).map(|nth| {
        let fate = virtually(send(config, route, kind, (&targets, nth)))??;
        let name = targets.get(nth).cloned().unwrap_or_default();
        Ok((name, fate))
    });
    let targets = fates.collect::<Result<_, String>>()?;
    Ok(Carriage { kind, targets })
}

/// Sends a request to one target: those above it have too much to do.
async fn send(
    config: &Config,
    route: &Route,
    kind: Kind,
    (targets, nth): (&[String], usize),
) -> Result<Fate, String> {
    let scene = Scene {
        fault: overloaded(),
        streamed: false,
        everywhere: false,
        kept: false,
    };
    let above = targets.iter().take(nth).cloned().collect();
    let stage = Arc::new(Stage::of(config, route, scene, above));
    stage.begin_fault();
    let seawall = Seawall::builder()
        .config(targets_alone(config, route))
        .transport(stage as Arc<dyn Transport>)
        .seed(1)
        .start()
        .await
        .map_err(|error| error.to_string())?;
    let mut headers = HeaderMap::new();
    let (name, value) = key();
    headers.insert(name, value);
    let body = kind.body(&asked(config, route));
    let mut ask = Ask::messages(headers, Bytes::from(body));
    ask.route = Some(route.name.clone());
    let name = targets.get(nth).map_or("", String::as_str);
    let fate = match seawall.forward(ask).await {
        Ok(reply) => fate(name, &reply.report),
        Err(Error::Unfit(misfits)) => {
            let mut here = misfits.iter().filter(|(rung, _)| **rung == *name);
            let why = here.next().map_or("unfit", |(_, why)| why.as_str());
            Fate::Skipped(why.to_owned())
        }
        // Nobody below takes it, so those above, which fail here, had the last word.
        Err(error) => match error.report() {
            Some(report) => fate(name, report),
            None => Fate::Skipped(error.error_type().to_owned()),
        },
    };
    seawall.end_streams();
    Ok(fate)
}

fn fate(name: &str, report: &Report) -> Fate {
    let mut here = report.skipped.iter().filter(|skip| *skip.rung == *name);
    match here.next() {
        Some(skip) => Fate::Skipped(skip.why.as_str().to_owned()),
        None if *report.rung == *name => Fate::Carried(report.losses),
        // The body was too odd to be rewritten for it.
        None => Fate::Skipped("unreadable".to_owned()),
    }
}

/// The config with nothing but the targets on the route, each led to by whatever happens above it.
fn targets_alone(config: &Config, route: &Route) -> Config {
    let mut config = staged(config, route);
    if let Some(route) = config.routes.get_mut(&route.name) {
        route.ladder.retain(|rung| rung.place.target().is_some());
        for rung in route.ladder.iter_mut().skip(1) {
            rung.on = Cause::ALL.into_iter().collect();
            (rung.attempts, rung.share) = (None, None);
        }
        (route.cache, route.static_text, route.hedge) = (None, None, None);
    }
    config
}
