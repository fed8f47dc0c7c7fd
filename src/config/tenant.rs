//! Tenants: those between whom a quota that is short is shared.

use std::collections::BTreeMap;
use std::sync::Arc;

use seawall_actors::policy::wait_queue::Tenant;

use super::document::Section;
use super::gateway::ClientKey;
use super::target::{check_name, label};

/// As many as a queue keeps apart.
const MOST: usize = 1_024;

/// Who calls, and how many parts of a quota each gets while calls wait for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tenants(BTreeMap<String, Tenant>);

impl Tenants {
    /// The tenant of this name; of weight 1 if the configuration doesn't know it.
    #[must_use]
    pub fn named(&self, name: &str) -> Tenant {
        let known = self.0.get(name).cloned();
        known.unwrap_or_else(|| Tenant::new(name.into(), 1))
    }

    /// Checks a name that a client gave itself.
    ///
    /// # Errors
    ///
    /// What to write instead.
    pub fn check(name: &str) -> Result<&str, String> {
        label(name)
    }

    pub(super) fn read(top: &Section<'_>, keys: &[ClientKey]) -> Self {
        let doc = top.doc();
        let mut tenants = BTreeMap::new();
        let named_by_callers = keys.is_empty() || keys.iter().any(|key| key.any_tenant);
        for (name, section) in top.named_sections("tenants") {
            check_name(&section, "tenant", &name);
            if tenants.len() == MOST {
                let what = format!(
                    "{MOST} tenants are the most that are kept apart: leave out those of weight 1"
                );
                doc.refuse(section.span(), what);
            }
            if !named_by_callers && !keys.iter().any(|key| key.name == name) {
                let what = format!(
                    "tenant `{name}` has no calls: no client key is named so, and none has \
                     any_tenant = true"
                );
                doc.warn(Some(section.span()), what);
            }
            let weight = section
                .integer("weight", 1..=u64::from(Tenant::MOST_WEIGHT))
                .and_then(|weight| u32::try_from(*weight.get_ref()).ok());
            section.close();
            let tenant = Tenant::new(Arc::from(name.as_str()), weight.unwrap_or(1));
            tenants.insert(name, tenant);
        }
        for key in keys {
            let name = || Tenant::new(Arc::from(key.name.as_str()), 1);
            tenants.entry(key.name.clone()).or_insert_with(name);
        }
        Self(tenants)
    }
}
