//! Settings: a TOML file, flags and the environment, read once into one validated [`Config`].
//!
//! Nothing behind it checks again. Every problem is reported at once, with its place and what to
//! write instead; a key that this version would ignore is refused, never accepted in silence.
//! No file at all is a good config: the public API, the caller's own credential and model, profile
//! `standard`, no fallback.

mod cache;
mod document;
mod features;
mod gateway;
mod organization;
mod problem;
mod route;
mod target;
mod tenant;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

pub use self::cache::CacheStore;
pub use self::gateway::{ClientKey, ClientLimits, Gateway, LogFormat, LogLevel};
pub use self::organization::Organization;
pub use self::problem::{ConfigError, Position, Problem};
pub use self::route::{
    BreakerSettings, CacheSettings, HedgeOn, HedgeSettings, InvalidTemplate, ModelPattern,
    OnDisconnect, Place, RetrySettings, Route, Rung, Template, Variables,
};
pub use self::target::{ApiKey, Credential, KeyOrigin, Provider, QuotaSettings, Target};
pub use self::tenant::Tenants;
pub use crate::delivery::{Delivery, Hold};

use self::document::{Document, Section};

/// The environment variable that holds the provider key by default.
pub const DEFAULT_KEY_ENV: &str = "ANTHROPIC_API_KEY";
/// Where calls go by default.
pub const DEFAULT_UPSTREAM: &str = "https://api.anthropic.com";
/// The route used when no other matches.
pub const DEFAULT_ROUTE: &str = "default";
/// The target that exists when a config defines none.
pub const BUILT_IN_TARGET: &str = "anthropic";

/// Everything that a running seawall needs to know. Holds what it says: validated, complete,
/// defaults filled in.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// The gateway's own door, limits and log.
    pub gateway: Gateway,
    /// Where attempts go, by name; never empty.
    pub targets: BTreeMap<String, Target>,
    /// The named quotas.
    pub quotas: BTreeMap<String, QuotaSettings>,
    /// The tenants that share them.
    pub tenants: Tenants,
    /// Whom to ask for the organisation's limits, where there is an admin key.
    pub organization: Option<Organization>,
    /// The ladders, by name; [`DEFAULT_ROUTE`] is always there.
    pub routes: BTreeMap<String, Route>,
    /// Where the routes' caches keep their answers.
    pub cache: CacheStore,
    /// What looks like a mistake and yet works.
    pub warnings: Vec<Problem>,
}

impl Config {
    /// Reads a file, this process's environment and the flags.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, at once.
    pub fn from_file(path: &Path, flags: &Overrides) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|why| {
            ConfigError::one(format!(
                "cannot read the config file {}: {why}",
                path.display()
            ))
        })?;
        Self::parse(&text, path, flags, &Environment::process())
    }

    /// The defaults, under the flags and this process's environment.
    ///
    /// # Errors
    ///
    /// Flags or environment variables that cannot be used.
    pub fn without_file(flags: &Overrides) -> Result<Self, ConfigError> {
        Self::parse("", Path::new(""), flags, &Environment::process())
    }

    /// Reads a config's text. `file` names it in problems, and relative key files are looked for
    /// beside it.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, at once.
    pub fn parse(
        text: &str,
        file: &Path,
        flags: &Overrides,
        environment: &Environment<'_>,
    ) -> Result<Self, ConfigError> {
        let doc = Document::new(file.display().to_string(), text);
        let (table, broken) = toml::de::DeTable::parse_recoverable(text);
        for error in &broken {
            doc.refuse(
                &error.span().unwrap_or(0..0),
                format!("not TOML: {}", error.message()),
            );
        }
        if !broken.is_empty() {
            return Err(ConfigError::new(doc.into_findings().0));
        }
        let top = Section::top(&doc, Some(table.get_ref()));
        let gateway = Gateway::read(top.section("gateway"), flags);
        let quotas = target::read_quotas(&top);
        let tenants = Tenants::read(&top, &gateway.client_keys);
        let keys = target::Keys {
            environment,
            beside: file.parent(),
        };
        let organization = organization::read(top.section("organization"), &keys, flags);
        let mut targets = target::read_all(&top, &quotas, &keys, flags);
        let routes = route::read_all(&top, &mut targets, flags, file.parent());
        let used = routes.values().any(|route| route.cache.is_some());
        let cache = cache::read(top.section("cache"), file.parent(), used);
        top.close();
        check_together(&doc, &gateway, &targets, &quotas);

        let (problems, warnings) = doc.into_findings();
        if problems.is_empty() {
            Ok(Self {
                gateway,
                targets,
                quotas,
                tenants,
                organization,
                routes,
                cache,
                warnings,
            })
        } else {
            Err(ConfigError::new(problems))
        }
    }

    /// Returns the route of a call: the one it names, else the one with the narrowest pattern
    /// for its model, else the default. `None` only when the call names a route that does not exist.
    #[must_use]
    pub fn route_for(&self, named: Option<&str>, model: Option<&str>) -> Option<&Route> {
        if let Some(name) = named {
            return self.routes.get(name);
        }
        let by_model = model.and_then(|model| {
            let fitting = |route: &'_ Route| {
                let narrowest = route.models.iter().filter(|pattern| pattern.matches(model));
                narrowest.map(ModelPattern::narrowness).max()
            };
            let routes = self
                .routes
                .values()
                .filter_map(|route| Some((fitting(route)?, route)));
            routes
                .max_by_key(|(narrowness, _)| *narrowness)
                .map(|(_, route)| route)
        });
        by_model.or_else(|| self.routes.get(DEFAULT_ROUTE))
    }
}

/// Flags that win over the file.
#[derive(Debug, Clone, Default)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a bag of flags, filled in by the command line"
)]
pub struct Overrides {
    /// `--listen`.
    pub listen: Option<SocketAddr>,
    /// `--upstream`: the address of every target.
    pub upstream: Option<String>,
    /// `--open`.
    pub open: bool,
    /// `--fallback`: models that become further rungs of the default route, in this order.
    pub fallback: Vec<String>,
    /// `--log-format`.
    pub log_format: Option<LogFormat>,
}

/// The environment variables that a config may name.
pub struct Environment<'e>(Lookup<'e>);

type Lookup<'e> = Box<dyn Fn(&str) -> Option<String> + 'e>;

impl<'e> Environment<'e> {
    /// This process's own. A variable that is not Unicode counts as unset.
    #[must_use]
    pub fn process() -> Self {
        Self(Box::new(|name| std::env::var(name).ok()))
    }

    /// One that answers from a function.
    pub fn from_fn(get: impl Fn(&str) -> Option<String> + 'e) -> Self {
        Self(Box::new(get))
    }

    fn get(&self, name: &str) -> Option<String> {
        (self.0)(name)
    }
}

impl fmt::Debug for Environment<'_> {
    // The values are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Environment")
    }
}

/// What no single section can see.
fn check_together(
    doc: &Document<'_>,
    gateway: &Gateway,
    targets: &BTreeMap<String, Target>,
    quotas: &BTreeMap<String, QuotaSettings>,
) {
    for (name, target) in targets {
        if gateway.client_keys.is_empty() {
            let public_key = matches!(target.credential, Credential::CallerOr(_));
            if gateway.open && public_key && !gateway.listen.ip().is_loopback() {
                let what = format!(
                    "open to everybody, and {DEFAULT_KEY_ENV} is set: whoever reaches {} without a \
                     credential spends on that key; unset it or list client_keys",
                    gateway.listen
                );
                doc.warn(None, what);
            }
        } else if matches!(target.credential, Credential::Caller) {
            let what = format!(
                "target `{name}` has no key of its own, and with `gateway.client_keys` the \
                 caller's credential is seawall's, of no use to the provider: give it api_key_env \
                 or api_key_file"
            );
            doc.refuse_all(what);
        }
    }
    for name in quotas.keys() {
        if !targets
            .values()
            .any(|target| target.quota.as_ref() == Some(name))
        {
            doc.warn(
                None,
                format!("quota `{name}` limits nothing: no target has quota = \"{name}\""),
            );
        }
    }
}

#[cfg(test)]
mod tests;
