//! The cache's part in a call: what may serve it, and whether its answer is kept.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use metrics::counter;
use seawall_actors::policy::ladder::Cause;

use super::Seawall;
use super::ask::{Ask, Endpoint};
use crate::cache::{
    Admission, Ages, CacheKey, Entry, Fingerprint, Hit, KeyParts, Recording, Scope, Store, Unfit,
};
use crate::config::Route;
use crate::wall_clock::WallClock;

/// The cache's part in one call.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    store: Arc<Store>,
    key: CacheKey,
    admission: Admission,
    ages: Ages,
    clock: WallClock,
}

/// A request, told from others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Print {
    pub(super) key: CacheKey,
    pub(super) admission: Admission,
    /// Who asks, where the key does not say it.
    pub(super) asker: Option<[u8; 32]>,
}

impl Seawall {
    /// Tells a request from others, where its route keeps or shares answers.
    pub(super) fn print(&self, ask: &Ask, route: &Route) -> Option<Print> {
        if ask.endpoint != Endpoint::Messages || !(route.single_flight || route.cache.is_some()) {
            return None;
        }
        let settings = route.cache.unwrap_or_default();
        let brought = self.brought(&ask.headers);
        let tenant = ask.tenant.as_deref();
        let own = match &brought {
            Some(credential) => Scope::Credential(credential, tenant),
            None => Scope::Tenant(tenant.unwrap_or("")),
        };
        let (scope, asker) = if settings.shared {
            (Scope::Shared, route.single_flight.then(|| own.digest()))
        } else {
            (own, None)
        };
        let first = route.ladder.iter().find_map(|rung| rung.place.target());
        let targets = &self.shared.config.targets;
        let model = first.and_then(|name| targets.get(name)?.model.as_deref());
        let fingerprint = Fingerprint::of(&KeyParts {
            scope,
            route: &route.name,
            model,
            query: ask.query.as_deref(),
            headers: &ask.headers,
            body: &ask.body,
        })?;
        let temperature = fingerprint.temperature;
        Some(Print {
            key: fingerprint.key,
            admission: Admission::of(&ask.headers, temperature, settings.max_temperature),
            asker,
        })
    }

    /// The cache's part in a call.
    pub(super) fn kept(&self, print: Print, route: &Route) -> Option<Kept> {
        let settings = route.cache.as_ref()?;
        Some(Kept {
            store: Arc::clone(self.shared.store.as_ref()?),
            key: print.key,
            admission: print.admission,
            ages: Ages {
                ttl: settings.ttl,
                stale_if_error: settings.stale_if_error,
            },
            clock: self.shared.wall_clock,
        })
    }
}

impl Kept {
    /// Finds an answer that may serve the call. `cause` is why the rungs above did not; with none
    /// they have not been asked, and only a fresh answer is as good as theirs.
    pub(super) async fn find(&self, cause: Option<Cause>) -> Option<Hit> {
        let (serves, ages) = match cause {
            None => (self.admission.serves_first(), self.ages.fresh_only()),
            Some(_) => (self.admission.serves_last(), self.ages),
        };
        if !serves {
            return None;
        }
        self.store.find(&self.key, self.clock.now(), ages).await
    }

    /// Keeps an answer that came whole.
    pub(super) fn keep_body(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) {
        if self.admission.keeps() {
            let at = (self.clock.now(), self.store.largest());
            self.keep(Entry::of_body(status, headers, body, at));
        }
    }

    /// Keeps an answer that was held until its stream was whole.
    pub(super) fn keep_events<'e>(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        events: impl IntoIterator<Item = &'e [u8]>,
    ) {
        if self.admission.keeps() {
            let at = (self.clock.now(), self.store.largest());
            self.keep(Entry::of_judged_events(status, headers, events, at));
        }
    }

    /// What listens to an answer that is handed on as it comes.
    pub(super) fn record(&self, status: StatusCode, headers: &HeaderMap) -> Option<Recording> {
        let keeps = self.admission.keeps();
        keeps.then(|| self.store.recording(status, headers))
    }

    /// Keeps an answer that was handed on and has ended well.
    pub(super) fn keep_recording(&self, recording: Recording) {
        self.keep(recording.finish(self.clock.now()));
    }

    fn keep(&self, entry: Result<Entry, Unfit>) {
        match entry {
            Ok(entry) => self.store.put(self.key, entry),
            Err(why) => {
                counter!("seawall_cache_unfit_total", "why" => why.as_str()).increment(1);
            }
        }
    }
}
