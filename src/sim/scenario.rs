//! What a simulated provider is like: its models, its limits, its faults.
//!
//! [`Settings`] is the scenario file, in TOML; every key is optional and an unknown key is refused.
//! Durations read as in [`crate::duration`]; a range is written `"300ms..900ms"` or `"50..400"`,
//! both ends included.

mod credential;
mod quota;
mod range;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::credential::{CredentialSettings, UnifiedSettings, WorkspaceSettings};
pub use self::quota::{
    Above, ConcurrencySettings, FastSettings, HeaderStyle, QuotaSettings, RampSettings,
};
pub use self::range::{Delay, TokenRange};
use super::chunking::Chunking;
use super::faults::Fault;
use crate::duration;

/// A simulated provider: the scenario file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The seed of every draw: the same seed and the same requests give the same answers.
    pub seed: u64,
    /// Answers without any delay, for measuring what stands in front.
    pub instant: bool,
    /// The way from client to provider, and back. Only the in-memory transport adds it.
    pub network: Delay,
    /// The time an error answer takes.
    #[serde(with = "duration")]
    pub error_latency: Duration,
    /// Whether data lines of a stream carry the run of spaces that the real ones have.
    pub padding: bool,
    /// Cuts streamed answers at arbitrary bytes; absent: one piece an event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunking: Option<Chunking>,
    /// The keys that are accepted; empty: any.
    pub api_keys: Vec<String>,
    /// The keys that may read the organisation's limits; empty: any that begins with `sk-ant-admin`.
    pub admin_keys: Vec<String>,
    /// Credentials that are more than a key.
    pub credentials: Vec<CredentialSettings>,
    /// Workspaces with limits of their own. They are told to administrators, not enforced.
    pub workspaces: Vec<WorkspaceSettings>,
    /// The models that exist, the first match counts; a model that none matches is unknown.
    pub models: Vec<ModelSettings>,
    /// The limits, the first match counts; a model that none matches has none.
    pub quotas: Vec<QuotaSettings>,
    /// What goes wrong.
    pub faults: Vec<Fault>,
}

impl Default for Settings {
    /// Healthy, with limits that no rehearsal on one machine reaches.
    fn default() -> Self {
        Self {
            seed: 1,
            instant: false,
            network: Delay::ZERO,
            error_latency: Duration::from_millis(50),
            padding: true,
            chunking: None,
            api_keys: Vec::new(),
            admin_keys: Vec::new(),
            credentials: Vec::new(),
            workspaces: Vec::new(),
            models: [
                "claude-fable-",
                "claude-haiku-",
                "claude-mythos-",
                "claude-opus-",
                "claude-sonnet-",
            ]
            .map(ModelSettings::of)
            .into(),
            quotas: vec![QuotaSettings {
                requests_per_minute: Some(1_000_000_000),
                input_tokens_per_minute: Some(1_000_000_000_000),
                output_tokens_per_minute: Some(1_000_000_000_000),
                ..QuotaSettings::of("claude-")
            }],
            faults: Vec::new(),
        }
    }
}

impl Settings {
    /// Reads and validates a scenario file.
    ///
    /// # Errors
    ///
    /// [`InvalidScenario`], which names the line or the field.
    pub fn from_toml(text: &str) -> Result<Self, InvalidScenario> {
        let settings: Self =
            toml::from_str(text).map_err(|e| InvalidScenario::Unreadable(e.to_string()))?;
        settings.validate()?;
        Ok(settings)
    }

    /// Checks every field.
    ///
    /// # Errors
    ///
    /// The first field out of its range.
    pub fn validate(&self) -> Result<(), InvalidScenario> {
        self.network.validate("network")?;
        for (i, model) in self.models.iter().enumerate() {
            model.validate(&format!("models[{i}]"))?;
        }
        for (i, quota) in self.quotas.iter().enumerate() {
            quota.validate(&format!("quotas[{i}]"))?;
        }
        for (i, credential) in self.credentials.iter().enumerate() {
            credential.validate(&format!("credentials[{i}]"))?;
        }
        if let Some(chunking) = self.chunking {
            chunking.validate()?;
        }
        super::faults::validate(&self.faults)
    }

    /// The first entry whose prefix fits.
    #[must_use]
    pub fn model(&self, name: &str) -> Option<&ModelSettings> {
        self.models
            .iter()
            .find(|model| name.starts_with(&model.prefix))
    }
}

/// How one family of models answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    /// The beginning of the model's name.
    pub prefix: String,
    /// Time to the first content.
    #[serde(default = "ModelSettings::usual_ttft")]
    pub ttft: Delay,
    /// The pace after it.
    #[serde(default = "ModelSettings::usual_pace")]
    pub tokens_per_second: f64,
    /// The length of an answer, before `max_tokens` cuts it.
    #[serde(default = "ModelSettings::usual_output")]
    pub output_tokens: TokenRange,
    /// How often an answer to a request that offers tools calls one, 0 to 1. A turn that brings a
    /// tool's result is always answered in text, so that an agent comes to an end.
    #[serde(default = "ModelSettings::usual_tool_use")]
    pub tool_use: f64,
    /// Tokens in one streamed delta; recorded streams have 2 in the median.
    #[serde(default = "ModelSettings::usual_delta")]
    pub tokens_per_delta: u32,
}

impl ModelSettings {
    /// The family of a prefix at the pace that recordings of current models show.
    pub fn of(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
            ttft: Self::usual_ttft(),
            tokens_per_second: Self::usual_pace(),
            output_tokens: Self::usual_output(),
            tool_use: Self::usual_tool_use(),
            tokens_per_delta: Self::usual_delta(),
        }
    }

    const fn usual_ttft() -> Delay {
        Delay {
            from: Duration::from_millis(400),
            to: Duration::from_millis(1_200),
        }
    }

    const fn usual_pace() -> f64 {
        55.0
    }

    const fn usual_output() -> TokenRange {
        TokenRange { from: 40, to: 200 }
    }

    const fn usual_tool_use() -> f64 {
        1.0
    }

    const fn usual_delta() -> u32 {
        4
    }

    fn validate(&self, at: &str) -> Result<(), InvalidScenario> {
        require(
            !self.prefix.is_empty(),
            || format!("{at}.prefix"),
            &self.prefix,
            "a model's name or its beginning",
        )?;
        self.ttft.validate(&format!("{at}.ttft"))?;
        require(
            (0.1..=1e6).contains(&self.tokens_per_second),
            || format!("{at}.tokens_per_second"),
            self.tokens_per_second,
            "0.1 to 1000000",
        )?;
        require(
            self.output_tokens.from >= 1
                && self.output_tokens.from <= self.output_tokens.to
                && self.output_tokens.to <= 1_000_000,
            || format!("{at}.output_tokens"),
            self.output_tokens,
            "1 to 1000000, the smaller first",
        )?;
        require(
            (0.0..=1.0).contains(&self.tool_use),
            || format!("{at}.tool_use"),
            self.tool_use,
            "0 to 1",
        )?;
        require(
            (1..=10_000).contains(&self.tokens_per_delta),
            || format!("{at}.tokens_per_delta"),
            self.tokens_per_delta,
            "1 to 10000",
        )
    }
}

/// A scenario that cannot run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidScenario {
    /// The file is no TOML, or has a key or value that does not belong there.
    #[error("{0}")]
    Unreadable(String),
    /// A value out of its range.
    #[error("{field} is {value}; allowed: {allowed}")]
    Field {
        /// The field's path.
        field: String,
        /// What it holds.
        value: String,
        /// What it may hold.
        allowed: String,
    },
}

/// `Ok` when the condition holds, else the error that names the field.
pub(super) fn require(
    holds: bool,
    field: impl FnOnce() -> String,
    value: impl fmt::Display,
    allowed: &str,
) -> Result<(), InvalidScenario> {
    if holds {
        return Ok(());
    }
    Err(InvalidScenario::Field {
        field: field(),
        value: value.to_string(),
        allowed: allowed.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::faults::FaultKind;

    const OUTAGE: &str = r#"
        seed = 7
        network = "10ms..30ms"

        [[models]]
        prefix = "claude-sonnet-"
        ttft = "500ms"
        tokens_per_second = 80
        output_tokens = "20..60"

        [[quotas]]
        models = ["claude-sonnet-"]
        requests_per_minute = 600
        burst = "1s"

        [[faults]]
        kind = "overloaded"
        from = "60s"
        until = "2m"
        models = ["claude-sonnet-5"]

        [[faults]]
        kind = "529"
        probability = 0.15
        attempts = [1, 2]
    "#;

    #[test]
    fn a_scenario_file_reads_as_written() {
        let settings = Settings::from_toml(OUTAGE).unwrap();
        assert_eq!(settings.seed, 7);
        assert_eq!(settings.network.to_string(), "10ms..30ms");
        assert_eq!(
            settings.models[0].output_tokens,
            TokenRange { from: 20, to: 60 }
        );
        assert_eq!(settings.quotas[0].burst, Duration::from_secs(1));
        assert_eq!(settings.faults[0].kind, FaultKind::Overloaded);
        assert_eq!(settings.faults[0].until, Some(Duration::from_mins(2)));
        assert_eq!(settings.faults[1].kind, FaultKind::Overloaded);
        assert_eq!(settings.faults[1].attempts, Some((1, 2)));
    }

    #[test]
    fn a_scenario_written_out_reads_back_the_same() {
        let settings = Settings::from_toml(OUTAGE).unwrap();
        let written = toml::to_string(&settings).unwrap();
        let again = Settings::from_toml(&written).unwrap();
        assert_eq!(toml::to_string(&again).unwrap(), written);
    }

    #[test]
    fn a_wrong_value_is_named_with_what_is_allowed() {
        for (text, wanted) in [
            (
                "[[quotas]]\nmodels = [\"claude-\"]\nrequests_per_minute = 0",
                "quotas[0].requests_per_minute is 0",
            ),
            (
                "[[quotas]]\nmodels = [\"claude-\"]\nburst = \"2m\"",
                "quotas[0].burst is 2m; allowed: 1ms to 1m",
            ),
            ("[[models]]\nprefix = \"\"", "models[0].prefix"),
            (
                "[[models]]\nprefix = \"a\"\noutput_tokens = \"9..3\"",
                "models[0].output_tokens is 9..3",
            ),
            (
                "[[faults]]\nkind = \"overloaded\"\nprobability = 1.5",
                "faults[0].probability is 1.5; allowed: 0 to 1",
            ),
            ("[[faults]]\nkind = \"nonsense\"", "nonsense"),
            ("network = \"5\"", "write a number with a unit"),
            ("sead = 3", "sead"),
        ] {
            let error = Settings::from_toml(text).unwrap_err().to_string();
            assert!(error.contains(wanted), "{text}\n{error}");
        }
    }
}
