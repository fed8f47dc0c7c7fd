//! Providers that fail: all at once, now and then, or slowly.

use std::time::Duration;

use super::{PRIMARY, SMALLER, at_least, at_most, bursts_of_a_second, scenario, secs};
use crate::drill::load::{Load, Repeated};
use crate::drill::scenario::rungs::{CACHE, CacheTerms, STATIC, StaticAnswer};
use crate::drill::scenario::{Scenario, Window};
use crate::drill::score::Figure;
use crate::profile::Profile;
use crate::sim::{Fault, FaultKind, QuotaSettings};

pub(super) fn outage() -> Scenario {
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

pub(super) fn outage_primary() -> Scenario {
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

pub(super) fn outage_ladder() -> Scenario {
    let smaller_too = Window {
        from: secs(80),
        until: secs(100),
    };
    let mut ladder = Scenario {
        name: "outage-ladder".to_owned(),
        about: "The same outage, for callers who do not wait: 10 s in all. Behind the wanted model stand a \
                smaller one, which is down too from 80 s to 100 s, the cache and a fixed answer. A quarter of \
                the calls asks one of 20 questions again and again."
            .to_owned(),
        ladder: [PRIMARY, SMALLER, CACHE, STATIC].map(str::to_owned).into(),
        cache: Some(CacheTerms {
            ttl: secs(10),
            stale_if_error: secs(3_600),
        }),
        fixed: Some(StaticAnswer {
            text: "The assistant is away; it is back in {retry_after}.".to_owned(),
        }),
        profile: Profile::Interactive,
        deadline: secs(10),
        wait: Some(secs(1)),
        bars: vec![
            at_most(Figure::InFlightAtEnd, 0.0),
            at_least(Figure::SuccessRate, 1.0),
            at_least(Figure::DegradedByModel, 1.0),
            at_least(Figure::DegradedByCache, 1.0),
            at_least(Figure::DegradedByStatic, 1.0),
            at_most(Figure::RecoverMs, 30_000.0),
            at_most(Figure::DegradedUntilMs, 30_000.0),
        ],
        ..outage()
    };
    ladder.request.repeated = Some(Repeated {
        share: 0.25,
        questions: 20,
    });
    let overloaded = Fault::new(FaultKind::Overloaded);
    ladder.provider.faults.push(
        overloaded
            .between(smaller_too.from, smaller_too.until)
            .on_model(SMALLER),
    );
    ladder
}

pub(super) fn flaky() -> Scenario {
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

pub(super) fn brownout() -> Scenario {
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

pub(super) fn mixed() -> Scenario {
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
        ..bursts_of_a_second()
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
