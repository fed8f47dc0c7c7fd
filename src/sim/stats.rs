//! What the provider itself saw: the counters that any client's own must agree with.
//!
//! An attempt is counted when the request has arrived, its status when the headers leave. The number
//! of model names is bounded; requests that name no known model count under `none`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::faults::FaultKind;

/// Distinct model names that are counted apart; the rest count under `other`.
const MODELS: usize = 64;

/// A copy of the counters. Serialises with sorted keys.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Requests that arrived.
    pub attempts: u64,
    /// Requests that are being answered.
    pub in_flight: u64,
    /// The most at one time.
    pub max_in_flight: u64,
    /// Answers with status 429, from a limit or a fault.
    pub provider_429: u64,
    /// Exchanges whose client left before the end.
    pub aborted: u64,
    /// Input tokens charged.
    pub input_tokens: u64,
    /// Output tokens charged.
    pub output_tokens: u64,
    /// By model.
    pub models: BTreeMap<String, ModelStats>,
    /// By quota, in the order of the scenario.
    pub quotas: Vec<QuotaStats>,
}

/// The counters of one model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ModelStats {
    /// Requests that arrived.
    pub attempts: u64,
    /// By status (`reset` for a connection reset in place of one), then by fault (`none` without).
    pub answers: BTreeMap<String, BTreeMap<String, u64>>,
    /// Clients that left before the headers.
    pub left_before_headers: u64,
    /// Clients that left inside the body.
    pub left_in_body: u64,
    /// Input tokens charged.
    pub input_tokens: u64,
    /// Output tokens charged.
    pub output_tokens: u64,
    /// Of these, the answers that were sent to their true end.
    pub whole: WholeStats,
}

/// Answers of a model that were sent to their true end, and what they were charged. A client can
/// know no more of what it used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct WholeStats {
    /// Answers.
    pub answers: u64,
    /// Input tokens.
    pub input_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
}

/// How much of a quota was used.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct QuotaStats {
    /// The models that share it.
    pub models: Vec<String>,
    /// Requests; none without a limit.
    pub requests: Option<AxisStats>,
    /// Input tokens.
    pub input_tokens: Option<AxisStats>,
    /// Output tokens.
    pub output_tokens: Option<AxisStats>,
}

/// How much of one limit was used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct AxisStats {
    /// The limit a minute.
    pub limit: u64,
    /// What was charged.
    pub charged: u64,
    /// What was charged as a share of what the limit offered, burst included, from the first
    /// charge to the last.
    pub used: f64,
}

impl Stats {
    /// The share used of the quota's axis that was used most; 0 without a limit.
    #[must_use]
    pub fn quota_used(&self) -> f64 {
        self.quotas
            .iter()
            .flat_map(|quota| [quota.requests, quota.input_tokens, quota.output_tokens])
            .flatten()
            .fold(0.0, |most, axis| most.max(axis.used))
    }

    /// Answers with a status over all models and faults.
    #[must_use]
    pub fn answered(&self, status: u16) -> u64 {
        let key = status.to_string();
        self.models
            .values()
            .filter_map(|model| model.answers.get(&key))
            .flat_map(BTreeMap::values)
            .sum()
    }

    /// The name that a model counts under.
    pub(super) fn label(&self, model: Option<&str>) -> String {
        match model {
            None => "none".to_owned(),
            Some(model) if self.models.contains_key(model) || self.models.len() < MODELS => {
                model.chars().take(100).collect()
            }
            Some(_) => "other".to_owned(),
        }
    }

    pub(super) fn arrived(&mut self, label: &str) {
        self.attempts += 1;
        self.in_flight += 1;
        self.max_in_flight = self.max_in_flight.max(self.in_flight);
        self.model(label).attempts += 1;
    }

    pub(super) fn answer(&mut self, label: &str, status: Option<u16>, fault: Option<FaultKind>) {
        if status == Some(429) {
            self.provider_429 += 1;
        }
        let status = status.map_or_else(|| "reset".to_owned(), |status| status.to_string());
        let fault = fault.map_or("none", FaultKind::as_str).to_owned();
        *self
            .model(label)
            .answers
            .entry(status)
            .or_default()
            .entry(fault)
            .or_default() += 1;
    }

    pub(super) fn ended(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    pub(super) fn left(&mut self, label: &str, opened: bool) {
        self.aborted += 1;
        let model = self.model(label);
        if opened {
            model.left_in_body += 1;
        } else {
            model.left_before_headers += 1;
        }
    }

    pub(super) fn charged(&mut self, label: &str, input: u64, output: u64) {
        self.input_tokens += input;
        self.output_tokens += output;
        let model = self.model(label);
        model.input_tokens += input;
        model.output_tokens += output;
    }

    pub(super) fn whole(&mut self, label: &str, input: u64, output: u64) {
        let whole = &mut self.model(label).whole;
        whole.answers += 1;
        whole.input_tokens += input;
        whole.output_tokens += output;
    }

    fn model(&mut self, label: &str) -> &mut ModelStats {
        self.models.entry(label.to_owned()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_invents_model_names_fills_one_row_only() {
        let mut stats = Stats::default();
        for n in 0..1_000 {
            let label = stats.label(Some(&format!("claude-opus-{n}")));
            stats.arrived(&label);
        }
        assert!(stats.models.len() <= MODELS + 1);
        assert_eq!(stats.models["other"].attempts, 936);
    }

    #[test]
    fn the_json_has_its_keys_in_order() {
        let mut stats = Stats::default();
        stats.arrived("b");
        stats.arrived("a");
        stats.answer("a", Some(529), Some(FaultKind::Overloaded));
        stats.answer("a", Some(200), None);
        let text = serde_json::to_string(&stats.models).unwrap();
        assert!(text.find("\"a\"").unwrap() < text.find("\"b\"").unwrap());
        assert!(
            text.contains(r#""answers":{"200":{"none":1},"529":{"overloaded":1}}"#),
            "{text}"
        );
        assert_eq!(stats.answered(529), 1);
    }
}
