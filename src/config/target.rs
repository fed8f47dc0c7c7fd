//! Targets (where attempts go, with which key) and the quotas they share.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::document::{Section, nearest};
use super::features::read_features;
use super::route::BreakerSettings;
use super::{BUILT_IN_TARGET, DEFAULT_KEY_ENV, DEFAULT_UPSTREAM, Environment, Overrides};
use crate::capability::{Capabilities, Features};

/// Tokens a success puts back into a target's retry budget.
const RETRY_BUDGET: f64 = 0.3;
/// Longest name of a target, quota, route or client: names are metric labels.
const LONGEST_NAME: usize = 64;

/// Where attempts go: an address, a credential, a model.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Target {
    /// Whose wire format is spoken there.
    pub provider: Provider,
    /// The address, without `/v1` and without a slash at the end.
    pub base_url: String,
    /// The model asked for; `None`: the caller's.
    pub model: Option<String>,
    /// Whose key is used.
    pub credential: Credential,
    /// The named quota its attempts are taken from; `None`: one per credential and model group,
    /// learned from the provider.
    pub quota: Option<String>,
    /// When its breaker opens.
    pub breaker: BreakerSettings,
    /// Tokens a success adds to its retry budget, 0 to 1: bounds the load under failures to
    /// 1 + this.
    pub retry_budget: f64,
    /// The provider is asked to count prompts that are estimated at more tokens than this; `None`:
    /// never.
    pub count_tokens_above: Option<u64>,
    /// What it cannot carry, besides what is known of the model.
    pub cannot: Features,
    /// Tokens that a prompt and its answer may have together there; `None`: what is known of the
    /// model.
    pub context_tokens: Option<u64>,
    /// Tokens that an answer may have there; `None`: what is known of the model.
    pub output_tokens: Option<u64>,
}

impl Target {
    /// What it can carry, whatever the version of the API; everything where it asks for the caller's
    /// own model, whose provider judges.
    pub(crate) fn capabilities(&self) -> Capabilities {
        let mut known = Capabilities::of_model(self.model.as_deref()).without(self.cannot);
        known.context_tokens = self.context_tokens.or(known.context_tokens);
        known.output_tokens = self.output_tokens.or(known.output_tokens);
        known
    }

    /// Whether both targets' attempts of one call carry the same credential: the same key of their
    /// own, or what the call itself is sent with.
    #[must_use]
    pub fn shares_credential_with(&self, other: &Self) -> bool {
        match (&self.credential, &other.credential) {
            (Credential::Own(key), Credential::Own(other)) => {
                key.secret.expose_secret() == other.secret.expose_secret()
            }
            (Credential::Own(_), _) | (_, Credential::Own(_)) => false,
            _ => true,
        }
    }
}

/// Whose wire format a target speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Provider {
    /// The Anthropic Messages API.
    #[default]
    Anthropic,
}

impl Provider {
    /// Returns the provider's name in config, logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Anthropic => "anthropic",
        }
    }

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "anthropic" => Ok(Self::Anthropic),
            "openai" | "gemini" => Err(format!(
                "{text} is not in this version; the provider it speaks is \"anthropic\""
            )),
            _ => Err(format!("`{text}` is no provider; write \"anthropic\"")),
        }
    }
}

/// Whose key a target's attempts carry.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Credential {
    /// The caller's own, passed on.
    Caller,
    /// The caller's own, and this one for a call that brings none. Where client keys are asked
    /// for, the caller's is never the provider's, so this one always applies.
    CallerOr(ApiKey),
    /// Always this one.
    Own(ApiKey),
}

/// A provider key and where it came from.
#[derive(Clone)]
#[non_exhaustive]
pub struct ApiKey {
    /// The key.
    pub secret: SecretString,
    /// Where it was read.
    pub origin: KeyOrigin,
}

impl ApiKey {
    /// Reads the key again, for a secret that was rotated. Blocks on the file.
    ///
    /// # Errors
    ///
    /// Why there is no usable key at its origin.
    pub fn reread(&self, environment: &Environment<'_>) -> Result<Self, String> {
        Self::read(self.origin.clone(), environment)
    }

    pub(super) fn read(origin: KeyOrigin, environment: &Environment<'_>) -> Result<Self, String> {
        let text = match &origin {
            KeyOrigin::Env(name) => environment
                .get(name)
                .ok_or_else(|| format!("the environment variable {name} is not set"))?,
            KeyOrigin::File(path) => std::fs::read_to_string(path)
                .map_err(|why| format!("cannot read the key file {}: {why}", path.display()))?,
        };
        let key = text.trim();
        if key.is_empty() {
            return Err(format!("{origin} is empty"));
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!(
                "{origin} holds something that is no key: spaces, line breaks or other characters that no header can carry"
            ));
        }
        Ok(Self {
            secret: SecretString::from(key),
            origin,
        })
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

/// Where a key came from; safe to show.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyOrigin {
    /// An environment variable.
    Env(String),
    /// A file.
    File(PathBuf),
}

impl fmt::Display for KeyOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "the environment variable {name}"),
            Self::File(path) => write!(f, "the key file {}", path.display()),
        }
    }
}

/// A named quota. A rate that is not given is learned from the provider's headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuotaSettings {
    /// Requests a minute.
    pub requests_per_minute: Option<u64>,
    /// Input tokens a minute, cache reads left out.
    pub input_tokens_per_minute: Option<u64>,
    /// Output tokens a minute.
    pub output_tokens_per_minute: Option<u64>,
    /// How much may go out at once, as so much time's worth of the rate.
    pub burst: Duration,
}

/// Where keys are looked up.
pub(super) struct Keys<'k> {
    pub(super) environment: &'k Environment<'k>,
    /// Relative key files are looked for here.
    pub(super) beside: Option<&'k Path>,
}

pub(super) fn read_quotas(top: &Section<'_>) -> BTreeMap<String, QuotaSettings> {
    const MOST: u64 = 1_000_000_000_000;
    let read = |(name, section): (String, Section<'_>)| {
        check_name(&section, "quota", &name);
        let rate = |key| {
            section
                .integer(key, 1..=MOST)
                .map(toml::Spanned::into_inner)
        };
        let quota = QuotaSettings {
            requests_per_minute: rate("requests_per_minute"),
            input_tokens_per_minute: rate("input_tokens_per_minute"),
            output_tokens_per_minute: rate("output_tokens_per_minute"),
            // The provider enforces 60 a minute as 1 a second.
            burst: section
                .duration("burst", Duration::from_millis(1)..=Duration::from_secs(60))
                .map_or(Duration::from_secs(1), toml::Spanned::into_inner),
        };
        section.close();
        (name, quota)
    };
    top.named_sections("quotas").into_iter().map(read).collect()
}

pub(super) fn read_all(
    top: &Section<'_>,
    quotas: &BTreeMap<String, QuotaSettings>,
    keys: &Keys<'_>,
    flags: &Overrides,
) -> BTreeMap<String, Target> {
    let upstream = flags.upstream.as_deref().and_then(|url| {
        base_url(url)
            .map_err(|why| top.doc().refuse_all(format!("--upstream: {why}")))
            .ok()
    });
    let mut targets = BTreeMap::new();
    for (name, section) in top.named_sections("targets") {
        check_name(&section, "target", &name);
        if matches!(name.as_str(), "static" | "cache") {
            let what =
                format!("`{name}` is the name of a kind of rung: call the target something else");
            section.doc().refuse(section.span(), what);
        }
        let mut target = read(&section, &name, quotas, keys);
        section.close();
        if let Some(upstream) = &upstream {
            target.base_url.clone_from(upstream);
        }
        targets.insert(name, target);
    }
    if targets.is_empty() {
        targets.insert(BUILT_IN_TARGET.to_owned(), built_in(top, upstream, keys));
    }
    targets
}

fn read(
    section: &Section<'_>,
    name: &str,
    quotas: &BTreeMap<String, QuotaSettings>,
    keys: &Keys<'_>,
) -> Target {
    let doc = section.doc();
    let base = section.parsed("base_url", base_url);
    let credential = read_credential(section, name, keys);
    if let (Some(base), Credential::Own(_)) = (&base, &credential)
        && sent_in_clear(base.get_ref())
    {
        doc.warn(
            Some(&base.span()),
            format!(
                "target `{name}` sends its key over plain http: anybody on the way can read it"
            ),
        );
    }
    let quota = section.string("quota").and_then(|quota| {
        if quotas.contains_key(quota.get_ref()) {
            return Some(quota.into_inner());
        }
        let advice = match nearest(quota.get_ref(), quotas.keys().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!(
                "define [quotas.{}], or leave `quota` out to have it learned",
                quota.get_ref()
            ),
        };
        doc.refuse(
            &quota.span(),
            format!("target `{name}`: no quota `{}`; {advice}", quota.get_ref()),
        );
        None
    });
    let tokens = |key, least| {
        let tokens = section.integer(key, least..=1_000_000_000);
        tokens.map(toml::Spanned::into_inner)
    };
    let (context_tokens, output_tokens) = (tokens("context_tokens", 1), tokens("output_tokens", 1));
    if let (Some(context), Some(output)) = (context_tokens, output_tokens)
        && output > context
    {
        let what = format!(
            "target `{name}`: `output_tokens` is {output}, more than the {context} of `context_tokens`, which an answer is a part of: write less"
        );
        doc.refuse(&section.span_of("output_tokens"), what);
    }
    Target {
        provider: section
            .parsed("provider", Provider::read)
            .map_or_else(Provider::default, toml::Spanned::into_inner),
        base_url: base.map_or_else(|| DEFAULT_UPSTREAM.to_owned(), toml::Spanned::into_inner),
        model: section
            .parsed("model", |model| label(model).map(str::to_owned))
            .map(toml::Spanned::into_inner),
        credential,
        quota,
        breaker: BreakerSettings::default(),
        retry_budget: RETRY_BUDGET,
        count_tokens_above: tokens("count_tokens_above", 0),
        cannot: read_features(section, "cannot").unwrap_or_default(),
        context_tokens,
        output_tokens,
    }
}

fn built_in(top: &Section<'_>, upstream: Option<String>, keys: &Keys<'_>) -> Target {
    // An empty variable is how shells unset one for a single command.
    let set = keys
        .environment
        .get(DEFAULT_KEY_ENV)
        .is_some_and(|key| !key.trim().is_empty());
    let origin = KeyOrigin::Env(DEFAULT_KEY_ENV.to_owned());
    let credential = match set.then(|| ApiKey::read(origin, keys.environment)) {
        Some(Ok(key)) => Credential::CallerOr(key),
        Some(Err(why)) => {
            top.doc()
                .refuse_all(format!("target `{BUILT_IN_TARGET}`: {why}"));
            Credential::Caller
        }
        None => Credential::Caller,
    };
    Target {
        provider: Provider::default(),
        base_url: upstream.unwrap_or_else(|| DEFAULT_UPSTREAM.to_owned()),
        model: None,
        credential,
        quota: None,
        breaker: BreakerSettings::default(),
        retry_budget: RETRY_BUDGET,
        count_tokens_above: None,
        cannot: Features::NONE,
        context_tokens: None,
        output_tokens: None,
    }
}

fn read_credential(section: &Section<'_>, target: &str, keys: &Keys<'_>) -> Credential {
    let doc = section.doc();
    let (variable, file) = (
        section.string("api_key_env"),
        section.string("api_key_file"),
    );
    let (origin, span) = match (variable, file) {
        (None, None) => return Credential::Caller,
        (Some(_), Some(file)) => {
            let what = format!("target `{target}` has both api_key_env and api_key_file: keep one");
            doc.refuse(&file.span(), what);
            return Credential::Caller;
        }
        (Some(variable), None) => {
            if looks_like_a_key(variable.get_ref()) {
                // The value itself is not repeated: it may be the secret.
                doc.refuse(&variable.span(), format!("target `{target}`: api_key_env takes the name of an environment variable, such as \"{DEFAULT_KEY_ENV}\", never the key itself"));
                return Credential::Caller;
            }
            let span = variable.span();
            (KeyOrigin::Env(variable.into_inner()), span)
        }
        (None, Some(file)) => {
            if looks_like_a_key(file.get_ref()) {
                doc.refuse(&file.span(), format!("target `{target}`: api_key_file takes the path of a file, never the key itself"));
                return Credential::Caller;
            }
            let path = Path::new(file.get_ref());
            (
                KeyOrigin::File(
                    keys.beside
                        .map_or_else(|| path.to_owned(), |dir| dir.join(path)),
                ),
                file.span(),
            )
        }
    };
    match ApiKey::read(origin, keys.environment) {
        Ok(key) => Credential::Own(key),
        Err(why) => {
            doc.refuse(&span, format!("target `{target}`: {why}"));
            Credential::Caller
        }
    }
}

/// Anthropic, OpenAI and Google keys begin like this.
pub(super) fn looks_like_a_key(text: &str) -> bool {
    ["sk-", "AIza"]
        .iter()
        .any(|prefix| text.starts_with(prefix))
}

fn sent_in_clear(base_url: &str) -> bool {
    let Some(host) = base_url.strip_prefix("http://") else {
        return false;
    };
    let local = ["127.", "localhost", "[::1]"];
    !local.iter().any(|name| host.starts_with(name))
}

pub(super) fn base_url(text: &str) -> Result<String, String> {
    let wrong = || format!("`{text}` is no address: write one such as \"{DEFAULT_UPSTREAM}\"");
    let uri = text.parse::<http::Uri>().map_err(|_| wrong())?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.query().is_some() {
        return Err(wrong());
    }
    if uri
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        return Err(
            "no user or password in an address: the key belongs in api_key_env or api_key_file"
                .into(),
        );
    }
    let trimmed = text.trim_end_matches('/');
    match trimmed.strip_suffix("/v1") {
        Some(shorter) => Err(format!(
            "leave /v1 out, it is added to every path: write \"{shorter}\""
        )),
        None => Ok(trimmed.to_owned()),
    }
}

/// Checks a name that ends up in metric labels and headers.
pub(super) fn label(name: &str) -> Result<&str, String> {
    let known =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '@' | '/');
    if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(known) {
        return Err(format!(
            "`{name}` is no name: write 1 to {LONGEST_NAME} of the characters a-z A-Z 0-9 - _ . : @ /"
        ));
    }
    Ok(name)
}

pub(super) fn check_name(section: &Section<'_>, what: &str, name: &str) {
    if let Err(why) = label(name) {
        section
            .doc()
            .refuse(section.span(), format!("the {what} {why}"));
    }
}
