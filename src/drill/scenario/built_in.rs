//! The scenarios of `seawall drill`.

use std::time::Duration;

use super::{Bar, Limit, RequestShape, Scenario};
use crate::drill::load::Load;
use crate::drill::score::Figure;
use crate::profile::Profile;
use crate::sim::{Delay, ModelSettings, QuotaSettings, Settings, TokenRange};

mod learned;
mod outage;
mod quota;

/// The model that every built-in scenario wants.
pub(super) const PRIMARY: &str = "claude-sonnet-5-5";
const SMALLER: &str = "claude-haiku-5";

/// Every built-in scenario, in playing order. Those of real time are last.
pub(super) fn all() -> Vec<Scenario> {
    vec![
        outage::outage(),
        outage::outage_primary(),
        outage::outage_ladder(),
        quota::limits(),
        quota::overload(),
        outage::flaky(),
        outage::brownout(),
        outage::mixed(),
        learned::limits_120(),
        learned::limits_300(),
        learned::limits_input(),
        learned::limits_output(),
        quota::launch(),
        quota::settlement(),
        learned::two_processes(),
        learned::two_processes_minute(),
        learned::ramp(),
        learned::no_headers(),
        learned::limits_real(),
    ]
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn scenario(name: &str, about: &str, load: Load) -> Scenario {
    Scenario {
        name: name.to_owned(),
        about: about.to_owned(),
        load,
        request: RequestShape::default(),
        ladder: vec![PRIMARY.to_owned()],
        cache: None,
        fixed: None,
        profile: Profile::AgentStep,
        deadline: secs(75),
        wait: None,
        systems: 1,
        real: false,
        limits: None,
        fault: None,
        provider: provider(),
        bars: vec![at_most(Figure::InFlightAtEnd, 0.0)],
    }
}

/// Healthy, without limits: a whole answer takes 0.8 to 1.5 s.
fn provider() -> Settings {
    let model = |name: &str| ModelSettings {
        ttft: Delay {
            from: Duration::from_millis(400),
            to: Duration::from_millis(700),
        },
        tokens_per_second: 80.0,
        output_tokens: TokenRange { from: 30, to: 60 },
        ..ModelSettings::of(name)
    };
    Settings {
        network: Delay::fixed(Duration::from_millis(10)),
        models: vec![model(PRIMARY), model(SMALLER)],
        quotas: Vec::new(),
        ..Settings::default()
    }
}

/// Limits that enforce bursts of one second.
fn bursts_of_a_second() -> QuotaSettings {
    QuotaSettings {
        burst: secs(1),
        ..QuotaSettings::of(PRIMARY)
    }
}

const fn at_least(figure: Figure, value: f64) -> Bar {
    Bar {
        figure,
        limit: Limit::AtLeast(value),
    }
}

const fn at_most(figure: Figure, value: f64) -> Bar {
    Bar {
        figure,
        limit: Limit::AtMost(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_scenario_is_valid_and_has_its_name() {
        let mut names = std::collections::HashSet::new();
        for scenario in all() {
            scenario.validate().unwrap();
            scenario.provider.validate().unwrap();
            assert!(!scenario.bars.is_empty() && !scenario.about.is_empty());
            let found = Scenario::find(&scenario.name).unwrap();
            assert_eq!((found.about, found.real), (scenario.about, scenario.real));
            assert!(names.insert(scenario.name));
        }
        assert!(Scenario::built_in().iter().all(|scenario| !scenario.real));
    }

    #[test]
    fn fifteen_percent_of_the_flaky_attempts_fail() {
        let through: f64 = outage::flaky()
            .provider
            .faults
            .iter()
            .map(|f| 1.0 - f.probability)
            .product();
        assert!((through - 0.85).abs() < 1e-12);
    }
}
