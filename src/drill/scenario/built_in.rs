//! The scenarios of `seawall drill`.

use std::time::Duration;

use super::{Bar, Limit, Limits, RequestShape, Scenario, Window};
use crate::drill::load::Load;
use crate::drill::score::Figure;
use crate::profile::Profile;
use crate::sim::{Delay, Fault, FaultKind, ModelSettings, QuotaSettings, Settings, TokenRange};

/// The model that every built-in scenario wants.
pub(super) const PRIMARY: &str = "claude-sonnet-5-5";
const SMALLER: &str = "claude-haiku-5";

/// The names, in playing order.
pub(super) const NAMES: [&str; 7] = [
    "outage",
    "outage-primary",
    "limits",
    "overload",
    "flaky",
    "brownout",
    "mixed",
];

/// Every built-in scenario, in playing order.
pub(super) fn all() -> Vec<Scenario> {
    vec![
        outage(),
        outage_primary(),
        limits(),
        overload(),
        flaky(),
        brownout(),
        mixed(),
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
        profile: Profile::AgentStep,
        deadline: secs(75),
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

fn quota() -> QuotaSettings {
    QuotaSettings {
        models: vec![PRIMARY.to_owned()],
        requests_per_minute: None,
        input_tokens_per_minute: None,
        output_tokens_per_minute: None,
        burst: secs(1),
    }
}

fn outage() -> Scenario {
    let mut outage = scenario(
        "outage",
        "The provider answers 529 to everything for a minute, in the middle of three minutes at 20 \
         calls a second. Callers wait up to 75 s, longer than the outage; there is no other model.",
        Load::Open {
            calls_per_second: 20.0,
            lasting: secs(180),
        },
    );
    let fault = Window {
        from: secs(60),
        until: secs(120),
    };
    outage.fault = Some(fault);
    outage.provider.faults = vec![
        Fault::new(FaultKind::Overloaded)
            .between(fault.from, fault.until)
            .on_model(PRIMARY),
    ];
    outage.bars.extend([
        at_least(Figure::SuccessRate, 0.999),
        at_most(Figure::AttemptsPerCallDuringFault, 0.2),
        at_most(Figure::RecoverMs, 6_000.0),
        at_most(Figure::WaitingServedMs, 15_000.0),
    ]);
    outage
}

fn outage_primary() -> Scenario {
    let bars = vec![
        at_most(Figure::InFlightAtEnd, 0.0),
        at_least(Figure::SuccessRate, 0.999),
        at_least(Figure::DegradedRateDuringFault, 0.999),
        at_most(Figure::P99AfterOpenOverHealthy, 1.5),
    ];
    Scenario {
        name: "outage-primary".to_owned(),
        about: "The same outage, but a smaller model stays healthy and is the second rung."
            .to_owned(),
        ladder: vec![PRIMARY.to_owned(), SMALLER.to_owned()],
        bars,
        ..outage()
    }
}

fn limits() -> Scenario {
    let mut limits = scenario(
        "limits",
        "300 agents of three steps each start at the same moment against a quota of 600 requests a \
         minute that enforces bursts of one second. The client knows its limits.",
        Load::Runs {
            runs: 300,
            steps: 3,
            start_over: Duration::ZERO,
        },
    );
    limits.profile = Profile::Batch;
    limits.deadline = secs(600);
    limits.limits = Some(Limits {
        requests_per_minute: Some(600),
        ..Limits::default()
    });
    limits.provider.quotas = vec![QuotaSettings {
        requests_per_minute: Some(600),
        ..quota()
    }];
    limits.bars.extend([
        at_least(Figure::RunSuccessRate, 1.0),
        at_most(Figure::Provider429, 5.0),
        at_least(Figure::QuotaUsed, 0.97),
    ]);
    limits
}

fn overload() -> Scenario {
    let mut overload = scenario(
        "overload",
        "For ten minutes, calls ask for 120 % of a quota of 600,000 input tokens a minute. Not all \
         can be served: five in six fit, and the rest should hear so at once. The client knows its \
         limits.",
        Load::Open {
            calls_per_second: 6.0,
            lasting: secs(600),
        },
    );
    overload.request.input_tokens = 2_000;
    overload.limits = Some(Limits {
        input_tokens_per_minute: Some(600_000),
        ..Limits::default()
    });
    overload.provider.quotas = vec![QuotaSettings {
        input_tokens_per_minute: Some(600_000),
        ..quota()
    }];
    overload.bars.extend([
        at_least(Figure::QuotaUsed, 0.97),
        at_most(Figure::Provider429Per1000Attempts, 1.0),
        at_least(Figure::SuccessRate, 0.80),
        at_most(Figure::FailedOtherwise, 0.0),
    ]);
    overload
}

fn flaky() -> Scenario {
    let mut flaky = scenario(
        "flaky",
        "200 agent runs of ten steps while 15 % of all attempts fail: 500, 529, 503 and reset \
         connections, a quarter each.",
        Load::Runs {
            runs: 200,
            steps: 10,
            start_over: secs(60),
        },
    );
    // The first fault that comes up counts, so each later one is drawn from what is left.
    let kinds = [
        FaultKind::Internal,
        FaultKind::Overloaded,
        FaultKind::Unavailable,
        FaultKind::ResetBeforeHeaders,
    ];
    let (each, mut left) = (0.15 / 4.0, 1.0);
    for kind in kinds {
        flaky
            .provider
            .faults
            .push(Fault::new(kind).with_probability(each / left));
        left -= each;
    }
    flaky.bars.extend([
        at_least(Figure::RunSuccessRate, 0.999),
        at_most(Figure::AttemptsPerCall, 1.25),
    ]);
    flaky
}

fn brownout() -> Scenario {
    let mut brownout = scenario(
        "brownout",
        "The time to the first content of the wanted model grows from half a second to 30 s over two \
         minutes, and back over the next two. Nothing fails. A smaller model stays healthy.",
        Load::Open {
            calls_per_second: 5.0,
            lasting: secs(360),
        },
    );
    brownout.ladder.push(SMALLER.to_owned());
    brownout.fault = Some(Window {
        from: secs(60),
        until: secs(300),
    });
    let (fast, slow) = (Duration::from_millis(500), secs(30));
    let stretch = |from, until, ttft, ttft_end| Fault {
        ttft: Some(ttft),
        ttft_end: Some(ttft_end),
        ..Fault::new(FaultKind::Slow)
            .between(from, until)
            .on_model(PRIMARY)
    };
    brownout.provider.faults = vec![
        stretch(secs(60), secs(180), fast, slow),
        stretch(secs(180), secs(300), slow, fast),
    ];
    brownout.bars.push(at_least(Figure::SuccessRate, 0.999));
    brownout
}

fn mixed() -> Scenario {
    let mut mixed = scenario(
        "mixed",
        "Five minutes at 10 calls a second with a little of everything: 429, 500, reset connections, \
         answers that stall or break off, an outage of 30 s, and a quota of 700 requests a minute that \
         the client has to learn. A smaller model stays healthy.",
        Load::Open {
            calls_per_second: 10.0,
            lasting: secs(300),
        },
    );
    mixed.ladder.push(SMALLER.to_owned());
    let fault = Window {
        from: secs(120),
        until: secs(150),
    };
    mixed.fault = Some(fault);
    mixed.provider.quotas = vec![QuotaSettings {
        requests_per_minute: Some(700),
        burst: secs(5),
        ..quota()
    }];
    let some = |kind, probability| {
        Fault::new(kind)
            .with_probability(probability)
            .on_model(PRIMARY)
    };
    mixed.provider.faults = vec![
        Fault::new(FaultKind::Overloaded)
            .between(fault.from, fault.until)
            .on_model(PRIMARY),
        Fault {
            retry_after: Some(secs(1)),
            ..some(FaultKind::RateLimited, 0.01)
        },
        some(FaultKind::Internal, 0.02),
        some(FaultKind::ResetBeforeHeaders, 0.01),
        some(FaultKind::TruncatedBody, 0.005),
        some(FaultKind::StallBeforeContent, 0.005),
    ];
    mixed.bars.push(at_least(Figure::SuccessRate, 0.999));
    mixed
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
        let all = all();
        assert_eq!(
            all.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(),
            NAMES
        );
        for scenario in all {
            scenario.validate().unwrap();
            scenario.provider.validate().unwrap();
            assert!(!scenario.bars.is_empty() && !scenario.about.is_empty());
        }
    }

    #[test]
    fn fifteen_percent_of_the_flaky_attempts_fail() {
        let through: f64 = flaky()
            .provider
            .faults
            .iter()
            .map(|f| 1.0 - f.probability)
            .product();
        assert!((through - 0.85).abs() < 1e-12);
    }
}
