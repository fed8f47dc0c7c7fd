//! The Rate Limits API: what an organisation may use a minute, by group of models.
//!
//! `GET /v1/organizations/rate_limits` answers an admin key with one entry a group. Types of groups and of
//! limits are open lists, so unknown ones pass unread.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;

use super::plain_model;

/// Where it is.
pub const PATH: &str = "/v1/organizations/rate_limits";

/// Most groups that are kept; an organisation has a dozen.
const MOST_GROUPS: usize = 1_000;

/// What one group of models may use a minute. An absent axis has no limit there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupLimits {
    /// Requests.
    pub requests: Option<u64>,
    /// Input tokens, cache reads left out wherever the provider has such a limit.
    ///
    /// It may have two: one that counts cache reads and one that is aware of the cache. The headers and
    /// every bucket here leave cache reads out, so the aware one is taken, and the other only where
    /// there is none.
    pub input: Option<u64>,
    /// Output tokens.
    pub output: Option<u64>,
}

/// Which models share a bucket, and what is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OrganizationLimits {
    groups: HashMap<Arc<str>, GroupLimits>,
    /// Group of each model, by its plain name.
    models: HashMap<String, Arc<str>>,
}

impl OrganizationLimits {
    /// The id of the group that a model belongs to.
    #[must_use]
    pub fn group_of(&self, model: &str) -> Option<&Arc<str>> {
        self.models.get(&*plain_model(model))
    }

    /// What the group of a model may use.
    #[must_use]
    pub fn limits_of(&self, model: &str) -> Option<GroupLimits> {
        self.limits_of_group(self.group_of(model)?)
    }

    /// What a group may use.
    #[must_use]
    pub fn limits_of_group(&self, group: &str) -> Option<GroupLimits> {
        self.groups.get(group).copied()
    }

    /// How many groups of models there are.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// Takes in one page, and returns where the next one begins.
    ///
    /// # Errors
    ///
    /// When it is not the list that the API documents.
    pub fn read_page(&mut self, body: &[u8]) -> Result<Option<String>, serde_json::Error> {
        let page: Page = serde_json::from_slice(body)?;
        for entry in page.data {
            let Some(models) = entry.models else { continue };
            if entry.group.kind != "model_group" || self.groups.len() >= MOST_GROUPS {
                continue;
            }
            let group: Arc<str> = entry.group.id.into();
            for model in &models {
                let plain = plain_model(model).into_owned();
                self.models.insert(plain, Arc::clone(&group));
            }
            self.groups.insert(group, limits(&entry.limits));
        }
        Ok(page.next_page)
    }
}

fn limits(all: &[Limit]) -> GroupLimits {
    let of = |kind: &str| {
        let found = all.iter().find(|limit| limit.kind == kind)?;
        found.value.as_u64()
    };
    GroupLimits {
        requests: of("requests_per_minute"),
        input: of("input_tokens_per_minute_cache_aware").or_else(|| of("input_tokens_per_minute")),
        output: of("output_tokens_per_minute"),
    }
}

#[derive(Deserialize)]
struct Page {
    data: Vec<Entry>,
    #[serde(default)]
    next_page: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    group: Group,
    #[serde(default)]
    models: Option<Vec<String>>,
    #[serde(default)]
    limits: Vec<Limit>,
}

#[derive(Deserialize)]
struct Group {
    #[serde(rename = "type")]
    kind: String,
    id: String,
}

#[derive(Deserialize)]
struct Limit {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    value: serde_json::Value,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::{GroupLimits, OrganizationLimits};

    const PAGE: &str = r#"{"data":[
      {"type":"rate_limit","id":"rl_1","group":{"type":"model_group","id":"mg_sonnet","display_name":"Sonnet 4.x"},
       "models":["claude-sonnet-4-6","claude-sonnet-4-5-20250929","claude-sonnet-4-5"],
       "limits":[{"type":"requests_per_minute","value":1000},{"type":"input_tokens_per_minute","value":2000},
                 {"type":"input_tokens_per_minute_cache_aware","value":3000},{"type":"output_tokens_per_minute","value":4000},
                 {"type":"brand_new","value":{"a":1}}]},
      {"type":"rate_limit","id":"rl_2","group":{"type":"model_group","id":"mg_old"},"models":["claude-3-5-haiku-latest"],
       "limits":[{"type":"input_tokens_per_minute","value":50},{"type":"output_tokens_per_minute","value":null}]},
      {"type":"rate_limit","id":"rl_3","group":{"type":"token_count","id":"tc"},"models":null,
       "limits":[{"type":"requests_per_minute","value":7}]},
      {"type":"rate_limit","id":"rl_4","group":{"type":"new_kind","id":"x"},"models":["claude-new"],"limits":[]}
    ],"next_page":"p2"}"#;

    #[test]
    fn models_are_mapped_to_their_group_and_its_limits() {
        let mut limits = OrganizationLimits::default();
        let next = limits.read_page(PAGE.as_bytes()).expect("a page");
        assert_eq!((next.as_deref(), limits.groups()), (Some("p2"), 2));
        let sonnet = GroupLimits {
            requests: Some(1_000),
            input: Some(3_000),
            output: Some(4_000),
        };
        for model in [
            "claude-sonnet-4-6",
            "claude-sonnet-4-5",
            "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        ] {
            assert_eq!(limits.limits_of(model), Some(sonnet), "{model}");
            assert_eq!(
                limits.group_of(model).map(|group| &**group),
                Some("mg_sonnet")
            );
        }
        let old = limits.limits_of("claude-3-5-haiku").expect("an alias");
        assert_eq!(
            (old.requests, old.input, old.output),
            (None, Some(50), None)
        );
        assert_eq!(limits.limits_of("claude-new"), None);
        assert_eq!(limits.limits_of("claude-opus-5"), None);
    }

    #[test]
    fn another_page_adds_to_the_first() {
        let mut limits = OrganizationLimits::default();
        for (page, next) in [
            (PAGE, Some("p2")),
            (
                r#"{"data":[{"group":{"type":"model_group","id":"b"},"models":["claude-opus-5"]}],"next_page":null}"#,
                None,
            ),
        ] {
            assert_eq!(
                limits
                    .read_page(page.as_bytes())
                    .expect("a page")
                    .as_deref(),
                next
            );
        }
        assert_eq!(limits.groups(), 3);
        assert_eq!(
            limits.limits_of("claude-opus-5"),
            Some(GroupLimits::default())
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..200), cut in 0_usize..900) {
            let mut limits = OrganizationLimits::default();
            let is_page = limits.read_page(&body).is_ok();
            proptest::prop_assert!(!is_page, "noise is no page");
            proptest::prop_assert!(limits.read_page(&PAGE.as_bytes()[..cut.min(PAGE.len() - 1)]).is_err());
        }
    }
}
