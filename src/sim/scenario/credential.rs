//! Credentials with windows of their own, and workspaces with limits of their own.

use serde::{Deserialize, Serialize};

use super::{InvalidScenario, require};

/// A credential that is more than a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialSettings {
    /// The key or the token.
    pub key: String,
    /// A subscription's windows, told in place of the organisation's limits.
    pub unified: UnifiedSettings,
}

/// The windows of a subscription, each in requests. A window begins with its first request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnifiedSettings {
    /// Requests in five hours.
    pub five_hour: u64,
    /// Requests in seven days.
    pub seven_day: u64,
}

/// A workspace whose limits are below the organisation's. What is absent is inherited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkspaceSettings {
    /// Its id, as in `wrkspc_01`.
    pub id: String,
    /// The beginning of the names of the models that the limits are for, as a quota has it.
    pub model: String,
    /// Requests a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,
    /// Input tokens a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens_per_minute: Option<u64>,
    /// Output tokens a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens_per_minute: Option<u64>,
}

impl CredentialSettings {
    pub(super) fn validate(&self, at: &str) -> Result<(), InvalidScenario> {
        let UnifiedSettings {
            five_hour,
            seven_day,
        } = self.unified;
        for (name, most) in [("five_hour", five_hour), ("seven_day", seven_day)] {
            require(
                most >= 1,
                || format!("{at}.unified.{name}"),
                most,
                "at least 1",
            )?;
        }
        require(
            !self.key.is_empty(),
            || format!("{at}.key"),
            &self.key,
            "a key or a token",
        )
    }
}
