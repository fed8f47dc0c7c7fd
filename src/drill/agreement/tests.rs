use std::time::Duration;

use super::super::client::{By, Ended};
use super::super::published::{CallLine, Metrics};
use super::*;
use crate::sim::stats::{ModelStats, WholeStats};

const BIG: &str = "claude-sonnet-5-5";
const SMALL: &str = "claude-haiku-5";

fn attempt(model: &str, status: Option<u16>, end: AttemptEnd) -> AttemptRecord {
    AttemptRecord {
        started: Duration::ZERO,
        ended: Some(Duration::ZERO),
        call: None,
        model: model.to_owned(),
        status,
        end,
    }
}

fn used(input: u64, output: u64) -> Used {
    Used {
        input,
        output,
        cached: 0,
    }
}

fn line(attempts: u64, verdict: &str, used: Used) -> CallLine {
    CallLine {
        attempts,
        verdict: verdict.to_owned(),
        degraded: String::new(),
        used,
        estimated: verdict != "ok" && used != Used::default(),
    }
}

fn model(attempts: u64, answers: &[(&str, &str, u64)]) -> ModelStats {
    let mut stats = ModelStats {
        attempts,
        ..ModelStats::default()
    };
    for (status, fault, n) in answers {
        let by_fault = stats.answers.entry((*status).to_owned()).or_default();
        by_fault.insert((*fault).to_owned(), *n);
    }
    stats
}

/// Three calls: one answered after a 529 and a reset, one broken off inside its stream, one refused
/// before any attempt.
struct Drill {
    calls: Vec<CallRecord>,
    attempts: Vec<AttemptRecord>,
    ladder: Vec<String>,
    stats: Stats,
    published: Published,
}

impl Drill {
    fn new() -> Self {
        let mut big = model(
            3,
            &[
                ("529", "overloaded", 1),
                ("reset", "reset_before_headers", 1),
                ("200", "truncated_body", 1),
            ],
        );
        (big.input_tokens, big.output_tokens) = (100, 7);
        let mut small = model(1, &[("200", "none", 1)]);
        (small.input_tokens, small.output_tokens) = (90, 40);
        small.whole = WholeStats {
            answers: 1,
            input_tokens: 90,
            output_tokens: 40,
        };
        let attempts =
            |target: &str, status, verdict: &str| (target.to_owned(), status, verdict.to_owned());
        let metrics = Metrics {
            calls: [("ok", 1), ("truncated", 1), ("breaker_open", 1)]
                .map(|(verdict, n)| (verdict.to_owned(), n))
                .into(),
            attempts: [
                (attempts("rung0", 529, "overloaded"), 1),
                (attempts("rung0", 0, "network"), 1),
                (attempts("rung0", 200, "truncated"), 1),
                (attempts("rung1", 200, "ok"), 1),
            ]
            .into(),
            stated: [(SMALL.to_owned(), used(90, 40))].into(),
            degraded: BTreeMap::new(),
            lower_bound: [(BIG.to_owned(), used(100, 3))].into(),
            retries_count: 3,
            retries_sum: 2,
        };
        Self {
            calls: Vec::new(),
            attempts: vec![
                attempt(BIG, Some(529), AttemptEnd::Whole),
                attempt(BIG, None, AttemptEnd::Broken),
                attempt(SMALL, Some(200), AttemptEnd::Whole),
                attempt(BIG, Some(200), AttemptEnd::Broken),
            ],
            ladder: vec![BIG.to_owned(), SMALL.to_owned()],
            stats: Stats {
                attempts: 4,
                models: [(BIG.to_owned(), big), (SMALL.to_owned(), small)].into(),
                ..Stats::default()
            },
            published: Published {
                metrics,
                lines: vec![
                    line(3, "ok", used(90, 40)),
                    line(1, "truncated", used(100, 3)),
                    line(0, "breaker_open", Used::default()),
                ],
                asked: Some(3),
            },
        }
    }

    fn check(&self) -> Result<u64, Difference> {
        check(&Evidence {
            calls: &self.calls,
            attempts: &self.attempts,
            ladder: &self.ladder,
            stats: &self.stats,
            published: Some(&self.published),
        })
    }

    fn small(&mut self) -> &mut ModelStats {
        self.stats.models.get_mut(SMALL).unwrap()
    }
}

#[test]
fn sides_that_counted_the_same_agree() {
    let compared = Drill::new().check().unwrap();
    assert!(compared > 20, "{compared}");
}

#[test]
fn every_number_that_is_tampered_with_is_found() {
    for (at, (what, tamper)) in TAMPERED.iter().enumerate() {
        let mut drill = Drill::new();
        tamper(&mut drill);
        let found = drill.check().expect_err(&format!("{at}: {what}"));
        assert_eq!(&found.what, what, "{at}: {found}");
    }
}

type Tamper = fn(&mut Drill);

const TAMPERED: &[(&str, Tamper)] = &[
    ("attempts", |d| d.stats.attempts += 1),
    ("attempts", |d| drop(d.attempts.pop())),
    ("attempts in flight", |d| d.stats.in_flight = 1),
    ("answers with status 529", |d| {
        d.stats.models.get_mut(BIG).unwrap().answers.remove("529");
    }),
    ("answers with status 500", |d| {
        *d.small() = model(1, &[("200", "none", 1), ("500", "none", 1)]);
    }),
    ("answers with status 429 in all", |d| {
        d.stats.provider_429 = 1
    }),
    ("connections broken before an answer", |d| {
        d.stats.models.get_mut(BIG).unwrap().answers.remove("reset");
    }),
    ("calls", |d| d.published.asked = Some(4)),
    ("calls that ended in \"departed\"", |d| {
        d.published.lines[0].verdict = "departed".to_owned()
    }),
    ("calls", |d| {
        *d.published.metrics.calls.get_mut("ok").unwrap() += 1
    }),
    ("calls that ended in \"ok\"", |d| {
        d.published.asked = None;
        *d.published.metrics.calls.get_mut("ok").unwrap() += 1;
    }),
    ("attempts", |d| d.published.lines[0].attempts += 1),
    ("calls in the histogram of retries", |d| {
        d.published.metrics.retries_count += 1
    }),
    ("retries", |d| d.published.metrics.retries_sum += 1),
    ("attempts on claude-haiku-5 with status 0", |d| {
        let attempts = &mut d.published.metrics.attempts;
        let n = attempts
            .remove(&("rung1".to_owned(), 200, "ok".to_owned()))
            .unwrap();
        attempts.insert(("rung1".to_owned(), 0, "ok".to_owned()), n);
    }),
    ("input tokens", |d| {
        d.published.lines[0].used.input -= 1;
    }),
    ("cached tokens", |d| {
        d.published.metrics.stated.get_mut(SMALL).unwrap().cached += 1;
    }),
    ("input tokens", |d| {
        d.published.metrics.stated.remove(SMALL);
    }),
    ("whether some usage is a lower bound", |d| {
        d.published.lines[1].estimated = false;
    }),
    ("input tokens in whole answers of claude-haiku-5", |d| {
        let all = d.published.metrics.stated.remove(SMALL).unwrap();
        d.published.metrics.stated.insert(BIG.to_owned(), all);
    }),
    ("whole answers of claude-haiku-5", |d| {
        d.small().whole.answers += 1
    }),
    ("output tokens in whole answers of claude-haiku-5", |d| {
        d.small().whole.output_tokens += 1
    }),
    ("input tokens in whole answers of claude-haiku-5", |d| {
        d.small().whole.input_tokens -= 1
    }),
    ("input tokens in broken answers of claude-sonnet-5-5", |d| {
        d.stats.models.get_mut(BIG).unwrap().input_tokens = 99;
    }),
];

#[test]
fn a_client_that_left_early_leaves_open_what_the_provider_did() {
    let left = [attempt(BIG, None, AttemptEnd::Departed)];
    let agrees = |attempts: &[AttemptRecord], stats: &Stats| {
        let evidence = Evidence {
            calls: &[],
            attempts,
            ladder: &[],
            stats,
            published: None,
        };
        check(&evidence).is_ok()
    };
    let arrived = |answers| Stats {
        attempts: 1,
        models: [(BIG.to_owned(), model(1, answers))].into(),
        ..Stats::default()
    };
    assert!(agrees(&[], &Stats::default()));
    assert!(!agrees(&[], &arrived(&[])));
    assert!(agrees(&left, &Stats::default()));
    assert!(agrees(&left, &arrived(&[])));
    assert!(agrees(&left, &arrived(&[("200", "none", 1)])));
    assert!(!agrees(&left, &arrived(&[("200", "none", 2)])));
    let broken = [attempt(BIG, None, AttemptEnd::Broken)];
    assert!(agrees(
        &broken,
        &arrived(&[("200", "reset_after_headers", 1)])
    ));
    assert!(!agrees(&broken, &arrived(&[("200", "none", 1)])));
}

#[test]
fn an_answer_whose_mark_nobody_saw_is_a_difference() {
    let ended = |end| CallRecord {
        id: 0,
        issued: Duration::ZERO,
        ended: Duration::ZERO,
        end,
        class: None,
        tenant: None,
    };
    let by = |by| ended(Ended::Answered { by });
    let marked = by(By::Less(Degraded::Static));
    let mut drill = Drill::new();
    drill.published.metrics.calls.insert("static".to_owned(), 1);
    drill
        .published
        .metrics
        .degraded
        .insert("static".to_owned(), 1);
    drill.published.metrics.retries_count += 1;
    drill.published.asked = Some(4);
    drill.published.lines.push(CallLine {
        degraded: "static".to_owned(),
        ..line(0, "static", Used::default())
    });
    drill.calls = vec![by(By::Wanted), marked];
    drill.check().unwrap();
    // Who left has seen no answer at all.
    drill.calls = vec![by(By::Wanted), ended(Ended::Failed { why: "deadline" })];
    drill.check().unwrap();
    for wrong in [
        vec![by(By::Wanted), by(By::Wanted)],
        vec![by(By::Wanted), by(By::Less(Degraded::Cache))],
        vec![marked, marked],
    ] {
        drill.calls = wrong;
        let difference = drill.check().unwrap_err();
        assert!(difference.what.contains("less by"), "{difference}");
    }
    drill.calls = vec![marked];
    drill.published.lines[3].degraded.clear();
    assert_eq!(drill.check().unwrap_err().other, (LOG, 0));
}
