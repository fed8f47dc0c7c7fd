//! Quotas that the client knows, or whose use depends on how it counts.

use std::time::Duration;

use super::{at_least, at_most, bursts_of_a_second, scenario, secs};
use crate::drill::load::{Class, Load, Mix, Stage};
use crate::drill::scenario::{Limits, Scenario};
use crate::drill::score::Figure;
use crate::profile::Profile;
use crate::sim::{QuotaSettings, TokenRange};

pub(super) fn limits() -> Scenario {
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
        ..bursts_of_a_second()
    }];
    limits.bars.extend([
        at_least(Figure::RunSuccessRate, 1.0),
        at_most(Figure::Provider429, 5.0),
        at_least(Figure::QuotaUsed, 0.97),
    ]);
    limits
}

pub(super) fn overload() -> Scenario {
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
        ..bursts_of_a_second()
    }];
    overload.bars.extend([
        at_least(Figure::QuotaUsed, 0.97),
        at_most(Figure::Provider429Per1000Attempts, 1.0),
        at_least(Figure::SuccessRate, 0.80),
        at_most(Figure::FailedOtherwise, 0.0),
    ]);
    overload
}

pub(super) fn launch() -> Scenario {
    let mut launch = scenario(
        "launch",
        "100 agents of three steps each start at the same moment against 600 requests a minute with \
         bursts of one second. Nothing is configured: the client has to learn what it may send.",
        Load::Runs {
            runs: 100,
            steps: 3,
            start_over: Duration::ZERO,
        },
    );
    launch.provider.quotas = vec![QuotaSettings {
        requests_per_minute: Some(600),
        ..bursts_of_a_second()
    }];
    launch.bars.extend([
        at_least(Figure::RunSuccessRate, 1.0),
        at_most(Figure::FinishOverIdeal, 1.1),
    ]);
    launch
}

pub(super) fn settlement() -> Scenario {
    const ANSWER: u64 = 400;
    let limit = Some(240_000);
    let mut settlement = scenario(
        "settlement",
        "Calls ask for up to 4,000 output tokens and get 400, on a quota of 240,000 output tokens a \
         minute. Whoever reserves what was asked for, and leaves it at that, uses a tenth. The client \
         knows its limits.",
        Load::Mix(Mix {
            stages: vec![Stage {
                of_quota: 1.2,
                lasting: secs(300),
            }],
            classes: vec![Class {
                profile: Profile::Batch,
                share: 1.0,
                deadline: secs(600),
            }],
            tenants: 1,
            flood: 0.0,
        }),
    );
    settlement.request.max_tokens = 4_000;
    settlement.request.stream = true;
    settlement.profile = Profile::Batch;
    settlement.deadline = secs(600);
    settlement.limits = Some(Limits {
        output_tokens_per_minute: limit,
        ..Limits::default()
    });
    for model in &mut settlement.provider.models {
        model.output_tokens = TokenRange {
            from: ANSWER,
            to: ANSWER,
        };
    }
    settlement.provider.quotas = vec![QuotaSettings {
        output_tokens_per_minute: limit,
        ..bursts_of_a_second()
    }];
    settlement.bars.extend([
        at_least(Figure::ThroughputOverIdeal, 0.95),
        at_most(Figure::Lost, 0.0),
    ]);
    settlement
}
