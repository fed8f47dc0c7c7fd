//! Limits that nobody has configured: they have to be learned while calls are asked for.

use std::time::Duration;

use super::{PRIMARY, SMALLER, at_least, at_most, bursts_of_a_second, scenario, secs};
use crate::drill::load::{Class, Load, Mix, Stage};
use crate::drill::scenario::{Bar, Scenario};
use crate::drill::score::Figure;
use crate::profile::Profile;
use crate::sim::{
    Above, ConcurrencySettings, HeaderStyle, QuotaSettings, RampSettings, TokenRange,
};

/// A person's calls, agents' steps and work that nobody waits for, of four equal tenants. At three
/// times a quota the first two together still ask for less than all of it: more would be a load in
/// which no order helps.
fn mix(stages: Vec<Stage>) -> Mix {
    let class = |profile, share, seconds| Class {
        profile,
        share,
        deadline: secs(seconds),
    };
    Mix {
        stages,
        classes: vec![
            class(Profile::Interactive, 0.1, 30),
            class(Profile::AgentStep, 0.2, 75),
            class(Profile::Batch, 0.7, 600),
        ],
        tenants: 4,
        flood: 0.0,
    }
}

const fn stage(of_quota: f64, seconds: u64) -> Stage {
    Stage {
        of_quota,
        lasting: secs(seconds),
    }
}

/// What a client that learns its limits has to show.
///
/// Interactive calls ask for three tenths of a quota at most, so a client that refuses many of them
/// has put others first, however short it keeps the waits of the rest.
fn learned() -> [Bar; 7] {
    [
        at_least(Figure::QuotaUsed, 0.97),
        at_most(Figure::Provider429First10s, 20.0),
        at_most(Figure::Provider429Per1000After10s, 1.0),
        at_most(Figure::Lost, 0.0),
        at_least(Figure::InteractiveSuccessRate, 0.95),
        at_most(Figure::InteractiveP99WaitOverBatch, 0.1),
        at_least(Figure::Fairness, 0.98),
    ]
}

fn limits(name: &str, about: &str, of_quota: f64, quota: QuotaSettings) -> Scenario {
    let mut limits = scenario(name, about, Load::Mix(mix(vec![stage(of_quota, 300)])));
    limits.provider.quotas = vec![quota];
    limits.bars.extend(learned());
    limits
}

fn requests() -> QuotaSettings {
    QuotaSettings {
        requests_per_minute: Some(600),
        ..bursts_of_a_second()
    }
}

pub(super) fn limits_120() -> Scenario {
    limits(
        "limits-120",
        "For five minutes, calls of three classes and four tenants ask for 120 % of 600 requests a \
         minute with bursts of one second. Nothing is configured.",
        1.2,
        requests(),
    )
}

pub(super) fn limits_300() -> Scenario {
    limits(
        "limits-300",
        "The same at 300 %: two calls in three can't be served, and should hear so in time.",
        3.0,
        requests(),
    )
}

pub(super) fn limits_input() -> Scenario {
    let quota = QuotaSettings {
        requests_per_minute: Some(5_000),
        input_tokens_per_minute: Some(1_200_000),
        output_tokens_per_minute: Some(400_000),
        ..bursts_of_a_second()
    };
    let mut limits = limits(
        "limits-input",
        "Prompts of 2,000 tokens ask for 300 % of 1,200,000 input tokens a minute; the limits on \
         requests and output tokens are out of reach. Nothing is configured.",
        3.0,
        quota,
    );
    limits.request.input_tokens = 2_000;
    limits
}

pub(super) fn limits_output() -> Scenario {
    let quota = QuotaSettings {
        requests_per_minute: Some(5_000),
        input_tokens_per_minute: Some(2_000_000),
        output_tokens_per_minute: Some(120_000),
        ..bursts_of_a_second()
    };
    let mut limits = limits(
        "limits-output",
        "Answers of 100 to 300 tokens ask for 120 % of 120,000 output tokens a minute; the limits on \
         requests and input tokens are out of reach. Nothing is configured.",
        1.2,
        quota,
    );
    limits.request.stream = true;
    for model in &mut limits.provider.models {
        model.output_tokens = TokenRange { from: 100, to: 300 };
    }
    limits
}

pub(super) fn limits_real() -> Scenario {
    let mut mix = mix(vec![stage(1.2, 40), stage(3.0, 40)]);
    // What is still waiting at the end is waited for in real time.
    for class in &mut mix.classes {
        class.deadline = class.deadline.min(secs(35));
    }
    let mut limits = scenario(
        "limits-real",
        "40 s at 120 % and 40 s at 300 % of 600 requests a minute, over loopback HTTP and in real \
         time. Nothing is configured.",
        Load::Mix(mix),
    );
    limits.real = true;
    limits.provider.quotas = vec![requests()];
    limits.bars.extend(learned());
    limits
}

fn two(name: &str, about: &str, burst: Duration) -> Scenario {
    let mut two = scenario(name, about, Load::Mix(mix(vec![stage(1.5, 300)])));
    two.systems = 2;
    two.provider.quotas = vec![QuotaSettings {
        burst,
        ..requests()
    }];
    two.bars.extend([
        at_least(Figure::QuotaUsed, 0.9),
        // A minute's burst alone would meet the bar above.
        at_least(Figure::ThroughputOverIdeal, 0.9),
        at_most(Figure::Provider429Per1000Attempts, 10.0),
        at_most(Figure::Lost, 0.0),
    ]);
    two
}

pub(super) fn two_processes() -> Scenario {
    two(
        "two-processes",
        "Two systems that don't know of each other share 600 requests a minute with bursts of one \
         second, and are asked for 150 % of it for five minutes. Nothing is configured.",
        secs(1),
    )
}

pub(super) fn two_processes_minute() -> Scenario {
    two(
        "two-processes-minute",
        "The same, where the provider lets a whole minute's requests come at once.",
        secs(60),
    )
}

pub(super) fn ramp() -> Scenario {
    let mut ramp = scenario(
        "ramp",
        "The provider has room enough but refuses growth beyond twice the minute before. The load \
         jumps to ten times as much, stops for two minutes, and jumps again. Nobody is in a hurry.",
        Load::Mix(Mix {
            // Of 6,000 requests a minute: one call a second, then ten.
            stages: vec![
                stage(0.01, 120),
                stage(0.1, 300),
                stage(0.0, 120),
                stage(0.1, 300),
            ],
            classes: vec![Class {
                profile: Profile::Batch,
                share: 1.0,
                deadline: secs(300),
            }],
            tenants: 1,
            flood: 0.0,
        }),
    );
    ramp.profile = Profile::Batch;
    ramp.deadline = secs(300);
    ramp.provider.quotas = vec![QuotaSettings {
        requests_per_minute: Some(6_000),
        ramp: Some(RampSettings {
            growth: 2.0,
            floor: 60,
        }),
        ..bursts_of_a_second()
    }];
    // Who knew the rule could serve every call in time. Who has to find it meets it now and then: two
    // refusals in a hundred are a tenth of what the clients get that don't look for it.
    ramp.bars.extend([
        at_most(Figure::Provider429Per1000Attempts, 20.0),
        at_least(Figure::SuccessRate, 0.9),
        at_most(Figure::Lost, 0.0),
    ]);
    ramp
}

pub(super) fn no_headers() -> Scenario {
    let mut blind = scenario(
        "no-headers",
        "The provider can answer 12 requests at a time, answers 529 to any more, and says nothing \
         about limits. Calls ask for 150 % of that for five minutes. Nothing is configured.",
        Load::Mix(mix(vec![stage(1.5, 300)])),
    );
    blind.provider.quotas = vec![QuotaSettings {
        models: vec![PRIMARY.to_owned(), SMALLER.to_owned()],
        headers: HeaderStyle::None,
        concurrency: Some(ConcurrencySettings {
            limit: 12,
            above: Above::Overloaded,
        }),
        ..QuotaSettings::of(PRIMARY)
    }];
    // A limit that is cut to seven tenths wherever it meets 12, and grows back, is 0.85 of it in the mean.
    // Clients that only try keep the provider busier, and lose a third of the calls.
    blind.bars.extend([
        at_least(Figure::ThroughputOverIdeal, 0.85),
        at_most(Figure::LostRate, 0.01),
    ]);
    blind
}
