//! A load of several classes and tenants, as large as a share of what the provider's limits allow.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::profile::Profile;

/// Calls at a share of a quota: stage after stage, each call of one class and one tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mix {
    /// What is offered, in this order.
    pub stages: Vec<Stage>,
    /// What the calls are for.
    pub classes: Vec<Class>,
    /// Tenants that ask for the same, each as often as the others.
    #[serde(default = "Mix::one_tenant")]
    pub tenants: u32,
    /// The share of all calls that one more tenant makes, 0 to 1.
    #[serde(default)]
    pub flood: f64,
}

/// A stretch of a steady rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// The rate, over the rate that the provider's limits allow.
    pub of_quota: f64,
    /// For how long.
    #[serde(with = "crate::duration")]
    pub lasting: Duration,
}

/// Calls of one profile.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// What they are for.
    #[serde(serialize_with = "written", deserialize_with = "read")]
    pub profile: Profile,
    /// How many they are, relative to the shares of the others.
    pub share: f64,
    /// When their callers stop waiting.
    #[serde(with = "crate::duration")]
    pub deadline: Duration,
}

/// One of equal tenants, or the one that floods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(
    clippy::exhaustive_enums,
    reason = "a tenant is one of the equal ones or the one that is not"
)]
pub enum Tenant {
    /// One of the equal ones, from 0.
    Equal(u32),
    /// The one that asks for more.
    Flooding,
}

impl Tenant {
    /// The name that its calls carry.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Equal(number) => format!("tenant-{number}"),
            Self::Flooding => "tenant-flood".to_owned(),
        }
    }
}

impl Mix {
    /// The time over which calls are made.
    #[must_use]
    pub fn lasting(&self) -> Duration {
        self.stages.iter().fold(Duration::ZERO, |sum, stage| {
            sum.saturating_add(stage.lasting)
        })
    }

    /// The longest time that a caller waits.
    #[must_use]
    pub fn longest_deadline(&self) -> Duration {
        let deadlines = self.classes.iter().map(|class| class.deadline);
        deadlines.max().unwrap_or_default()
    }

    /// What is wrong with it, if anything is.
    pub(in crate::drill) fn wrong(&self) -> Option<(&'static str, String, &'static str)> {
        let day = Duration::from_secs(86_400);
        let positive = |value: f64| value.is_finite() && value >= 0.0;
        if self.stages.is_empty() || !self.stages.iter().all(|s| positive(s.of_quota)) {
            let value = format!("{:?}", self.stages);
            return Some(("load.stages", value, "at least one, of_quota from 0"));
        }
        let shares: f64 = self.classes.iter().map(|class| class.share).sum();
        if !self.classes.iter().all(|c| positive(c.share)) || !shares.is_finite() || shares <= 0.0 {
            let value = format!("{:?}", self.classes);
            return Some(("load.classes", value, "at least one with a share above 0"));
        }
        let timely = |class: &Class| !class.deadline.is_zero() && class.deadline <= day;
        if !self.classes.iter().all(timely) {
            let value = format!("{:?}", self.classes);
            return Some(("load.classes", value, "deadlines above 0 and at most 24h"));
        }
        if !(1..=1_000).contains(&self.tenants) {
            let value = self.tenants.to_string();
            return Some(("load.tenants", value, "1 to 1000"));
        }
        let value = self.flood.to_string();
        (!(0.0..=1.0).contains(&self.flood)).then_some(("load.flood", value, "0 to 1"))
    }

    /// The place of the class of one call.
    pub(super) fn class(&self, rng: &mut StdRng) -> usize {
        let shares: f64 = self.classes.iter().map(|class| class.share).sum();
        let mut left = rng.random::<f64>() * shares;
        let drawn = self.classes.iter().position(|class| {
            left -= class.share;
            left < 0.0
        });
        drawn.unwrap_or_else(|| self.classes.len().saturating_sub(1))
    }

    /// The tenant of one call.
    pub(super) fn tenant(&self, rng: &mut StdRng) -> Tenant {
        let floods = rng.random::<f64>() < self.flood;
        let number = rng.random_range(0..self.tenants.max(1));
        if floods {
            Tenant::Flooding
        } else {
            Tenant::Equal(number)
        }
    }

    const fn one_tenant() -> u32 {
        1
    }
}

fn written<S: Serializer>(profile: &Profile, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(profile.as_str())
}

/// A profile by its name.
pub(in crate::drill) fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Profile, D::Error> {
    String::deserialize(from)?
        .parse()
        .map_err(de::Error::custom)
}
