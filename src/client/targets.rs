//! From the configuration's targets to those of the actors.
//!
//! A configured target stands for as many of the actors' targets as models and credentials are used
//! through it, since each of these can fail or be limited on its own. Their number is bounded by
//! the system, which lets go of those that nobody uses.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use http::Uri;
use parking_lot::RwLock;
use seawall_actors::error::{Rejected, Rejection, StartError};
use seawall_actors::policy::circuit::CircuitSettings;
use seawall_actors::policy::quota::{Learned, QuotaSettings};
use seawall_actors::system::{QuotaSpec, System, Target, TargetSpec};

use super::Shared;
use super::ask::Endpoint;
use super::expectation::{Accuracy, Expectation};
use super::first_content::FirstContent;
use super::preparation::address;
use crate::config;
use crate::error::Error;
use crate::provider::anthropic::headers::Credential;
use crate::provider::anthropic::quota_group;

/// The targets that calls have used.
#[derive(Debug)]
pub(super) struct Targets {
    /// Where each configured target takes messages.
    messages: BTreeMap<String, Uri>,
    expectations: RwLock<HashMap<Arc<str>, Arc<Expectation>>>,
    /// A model of each quota of the organisation's own keys.
    quotas: RwLock<HashMap<Arc<str>, Arc<str>>>,
    /// What the actors' targets for messages stand for.
    uses: RwLock<HashMap<Arc<str>, Use>>,
}

/// What one of the actors' targets stands for.
#[derive(Debug, Clone)]
pub(super) struct Use {
    /// The configured target.
    pub(super) target: Arc<str>,
    pub(super) quota: Arc<str>,
}

/// Room for a target's name, so that it is allocated once.
const LONGEST_NAME: usize = 96;

/// Most expectations kept; as many as a system holds targets.
const MOST: usize = 1024;

/// Part of the provider's burst that is used. The rest absorbs what reservations can't know: how
/// long a request travels, and what the provider itself estimates before it counts.
const BURST_SHARE: f64 = 0.8;

/// Part of a deadline that may be spent in a queue: above about a third, a short overload turns into
/// a standing one.
const QUEUE_SHARE: f64 = 0.3;

impl Targets {
    pub(super) fn new(config: &config::Config) -> Self {
        let at = |(name, settings): (&String, &config::Target)| {
            let address = address(&settings.base_url, &Endpoint::Messages, None);
            Some((name.clone(), address.ok()?))
        };
        Self {
            messages: config.targets.iter().filter_map(at).collect(),
            expectations: RwLock::default(),
            quotas: RwLock::default(),
            uses: RwLock::default(),
        }
    }

    /// Where a configured target takes messages, if that is an address at all.
    pub(super) fn messages_at(&self, name: &str) -> Option<Uri> {
        self.messages.get(name).cloned()
    }

    /// The actors' target for one model and credential of a configured one.
    pub(super) async fn resolve(
        &self,
        shared: &Shared,
        (name, settings): (&str, &config::Target),
        endpoint: &Endpoint,
        (model, credential): (Option<&str>, &Credential),
    ) -> Result<(Target, Arc<Expectation>), Error> {
        let own = matches!(settings.credential, config::Credential::Own(_));
        let mut full = String::with_capacity(LONGEST_NAME);
        full.push_str(name);
        if settings.model.is_none() {
            full.push('/');
            full.push_str(model.unwrap_or("-"));
        }
        if !own {
            full.push('#');
            full.push_str(credential.fingerprint());
        }
        match endpoint {
            Endpoint::Messages => {}
            Endpoint::CountTokens => full.push_str(":count_tokens"),
            Endpoint::Other(..) => full.push_str(":other"),
        }
        if let Some(target) = shared.system.known_target(&full) {
            return Ok((target, self.expectation(&full)));
        }
        let group = |model: &str| shared.organization.group_of(model, credential);
        let quota = quota_name((settings, endpoint), model, credential, group);
        let known = match endpoint {
            Endpoint::Messages => shared
                .organization
                .learned(model.unwrap_or("-"), credential),
            _ => None,
        };
        if let (Endpoint::Messages, Some(quota), Some(model)) = (endpoint, &quota, model)
            && shared.organization.owns(credential)
        {
            self.note_quota(quota, model);
        }
        if let (Endpoint::Messages, Some(quota)) = (endpoint, &quota) {
            let target = name.into();
            let quota = quota.as_str().into();
            self.note_use(&shared.system, &full, Use { target, quota });
        }
        let target = start(shared, &full, settings, (quota, known)).boxed().await;
        let target = target.map_err(|error| match error {
            StartError::Invalid(invalid) => Error::Invalid(invalid),
            StartError::Stopped => Error::Refused(Rejected::new(Rejection::Stopped)),
            other => Error::NoTarget(other),
        })?;
        Ok((target, self.expectation(&full)))
    }

    /// What is usual from the headers to the first content, by target.
    pub(super) fn first_contents(&self) -> Vec<(Arc<str>, FirstContent)> {
        let expectations = self.expectations.read();
        let mut usual: Vec<_> = expectations
            .iter()
            .filter_map(|(name, expected)| Some((Arc::clone(name), expected.first_content()?)))
            .collect();
        usual.sort_by(|(a, _), (b, _)| a.cmp(b));
        usual
    }

    /// The quotas of the organisation's own keys, each with a model that is limited by it.
    pub(super) fn quotas(&self) -> Vec<(Arc<str>, Arc<str>)> {
        let quotas = self.quotas.read();
        let both = |(quota, model): (&Arc<str>, &Arc<str>)| (Arc::clone(quota), Arc::clone(model));
        quotas.iter().map(both).collect()
    }

    fn note_quota(&self, quota: &str, model: &str) {
        let mut quotas = self.quotas.write();
        if quotas.len() >= MOST {
            // Those still in use are noted again with their next target; headers limit them till then.
            quotas.clear();
        }
        quotas.insert(quota.into(), model.into());
    }

    /// What one of the actors' targets stands for, if it is for messages.
    pub(super) fn use_of(&self, full: &str) -> Option<Use> {
        self.uses.read().get(full).cloned()
    }

    fn note_use(&self, system: &System, full: &str, of: Use) {
        let mut uses = self.uses.write();
        // Twice as many, so that not each new one looks through all.
        if uses.len() >= 2 * MOST {
            uses.retain(|full, _| system.known_target(full).is_some());
        }
        uses.insert(full.into(), of);
    }

    /// How well prompts are estimated, by target and class.
    pub(super) fn accuracies(&self) -> Vec<(Arc<str>, Vec<Accuracy>)> {
        let expectations = self.expectations.read();
        let mut all: Vec<_> = expectations
            .iter()
            .map(|(name, expected)| (Arc::clone(name), expected.accuracy()))
            .filter(|(_, accuracy)| !accuracy.is_empty())
            .collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all
    }

    fn expectation(&self, full: &str) -> Arc<Expectation> {
        if let Some(found) = self.expectations.read().get(full) {
            return Arc::clone(found);
        }
        let mut expectations = self.expectations.write();
        if expectations.len() >= MOST {
            // What is dropped is learned again from the next few answers.
            expectations.retain(|_, expectation| Arc::strong_count(expectation) > 1);
        }
        Arc::clone(
            expectations
                .entry(full.into())
                .or_insert_with(|| Arc::new(Expectation::new())),
        )
    }
}

/// Starts a target of the actors, and its quota.
async fn start(
    shared: &Shared,
    full: &str,
    settings: &config::Target,
    (quota, known): (Option<String>, Option<Learned>),
) -> Result<Target, StartError> {
    let system: &System = &shared.system;
    let quota = match quota {
        Some(quota) => {
            let configured = settings
                .quota
                .as_ref()
                .and_then(|q| shared.config.quotas.get(q));
            let spec = spec_of(&shared.config, configured);
            let is_new = system.known_quota(&quota).is_none();
            let quota = system.quota(&quota, spec).await?;
            if let (true, Some(known)) = (is_new, known) {
                quota.learn(known);
            }
            Some(quota)
        }
        None => None,
    };
    let breaker = &settings.breaker;
    let circuit = CircuitSettings {
        time_window: breaker.window,
        time_failed_percent: Some(percent(breaker.failure_rate)),
        count_failed_percent: Some(percent(breaker.failure_rate)),
        open_first: breaker.open,
        ..CircuitSettings::default()
    };
    let defaults = CircuitSettings::default();
    let circuit = CircuitSettings {
        open_cap_waiting: defaults.open_cap_waiting.max(breaker.open),
        open_cap_idle: defaults.open_cap_idle.max(breaker.open),
        ..circuit
    };
    let spec = TargetSpec {
        quota,
        circuit,
        retry_ratio: settings.retry_budget,
        ..TargetSpec::default()
    };
    system.target(full, || spec).await
}

/// The quota of an attempt: the configured one, or one for each model group and credential.
fn quota_name(
    (settings, endpoint): (&config::Target, &Endpoint),
    model: Option<&str>,
    credential: &Credential,
    group: impl FnOnce(&str) -> Option<Arc<str>>,
) -> Option<String> {
    match endpoint {
        Endpoint::Messages => Some(settings.quota.clone().unwrap_or_else(|| {
            let model = model.unwrap_or("-");
            let fingerprint = credential.fingerprint();
            match group(model) {
                Some(group) => format!("{group}#{fingerprint}"),
                None => format!("{}#{fingerprint}", quota_group(model)),
            }
        })),
        // Counting has a pool of its own, of requests only.
        Endpoint::CountTokens => Some(format!("count_tokens#{}", credential.fingerprint())),
        Endpoint::Other(..) => None,
    }
}

fn spec_of(config: &config::Config, quota: Option<&config::QuotaSettings>) -> QuotaSpec {
    let Some(quota) = quota else {
        let settings = QuotaSettings {
            find_burst: true,
            ..QuotaSettings::default()
        };
        return QuotaSpec {
            settings,
            ..QuotaSpec::default()
        };
    };
    let settings = QuotaSettings {
        requests_per_minute: quota.requests_per_minute,
        input_per_minute: quota.input_tokens_per_minute,
        output_per_minute: quota.output_tokens_per_minute,
        burst: quota.burst.mul_f64(BURST_SHARE),
        ..QuotaSettings::default()
    };
    let longest = config
        .routes
        .values()
        .map(|route| route.timeouts.total)
        .max();
    let queue_bound = match (quota.requests_per_minute, longest) {
        (Some(rate), Some(total)) => queue_bound(rate, total),
        _ => QuotaSpec::default().queue_bound,
    };
    QuotaSpec {
        settings,
        queue_bound,
    }
}

/// The longest queue in which nobody waits for longer than their share of the deadline.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a bound; the product is finite and not negative, and `as` saturates"
)]
fn queue_bound(per_minute: u64, total: Duration) -> usize {
    let bound = QUEUE_SHARE * total.as_secs_f64() * per_minute as f64 / 60.0;
    (bound.ceil() as usize).clamp(16, 1_000_000)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the configuration holds a share between 0 and 1"
)]
fn percent(share: f64) -> u32 {
    (share * 100.0).round().clamp(1.0, 100.0) as u32
}
