use super::super::client::{By, Ended};
use super::super::load::{Class, Tenant};
use super::super::meter::AttemptEnd;
use super::super::scenario::Scenario;
use super::*;
use crate::client::ask::Degraded;
use crate::profile::Profile;

const FAULT: Window = Window {
    from: Duration::from_secs(10),
    until: Duration::from_secs(20),
};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn call(issued: u64, ended: u64, end: Ended) -> CallRecord {
    CallRecord {
        id: 0,
        issued: ms(issued),
        ended: ms(ended),
        end,
        class: None,
        tenant: None,
    }
}

fn answered(issued: u64, ended: u64) -> CallRecord {
    call(issued, ended, Ended::Answered { by: By::Wanted })
}

const fn less(kind: Degraded) -> Ended {
    Ended::Answered { by: By::Less(kind) }
}

fn attempt(started: u64, ended: u64, model: &str, status: u16) -> AttemptRecord {
    AttemptRecord {
        started: ms(started),
        ended: Some(ms(ended)),
        call: None,
        model: model.to_owned(),
        status: Some(status),
        end: AttemptEnd::Whole,
    }
}

fn score(calls: &[CallRecord], attempts: &[AttemptRecord]) -> Score {
    Score::of(&Observed {
        calls,
        attempts,
        primary: "big",
        fault: Some(FAULT),
        quota: None,
        runs: None,
        mix: None,
        ideal: None,
        in_flight_at_end: 0,
    })
}

#[test]
fn an_outage_is_scored_from_the_two_logs() {
    let failed = Ended::Failed { why: "status" };
    let calls = [
        answered(1_000, 2_000),
        answered(2_000, 4_000),
        call(10_100, 10_200, failed),
        call(11_000, 11_900, less(Degraded::Model)),
        answered(12_000, 21_500),
        answered(19_000, 23_000),
        answered(21_000, 22_000),
    ];
    let attempts = [
        attempt(1_000, 2_000, "big", 200),
        attempt(2_000, 4_000, "big", 200),
        attempt(10_100, 10_200, "big", 529),
        attempt(10_600, 10_700, "big", 529),
        attempt(11_000, 11_900, "small", 200),
        attempt(14_000, 14_100, "big", 529),
        attempt(20_400, 21_400, "big", 200),
        attempt(21_000, 21_300, "big", 200),
    ];
    let score = score(&calls, &attempts);
    assert_eq!((score.calls, score.succeeded, score.degraded), (7, 6, 1));
    assert_eq!(score.success_rate, 0.857_143);
    assert_eq!(score.attempts_per_call, 1.142_857);
    assert_eq!(score.calls_during_fault, Some(4));
    assert_eq!(score.attempts_during_fault, Some(3));
    assert_eq!(score.attempts_per_call_during_fault, Some(0.75));
    assert_eq!(score.degraded_rate_during_fault, Some(0.25));
    assert_eq!(score.detect_ms, Some(600));
    assert_eq!(score.recover_ms, Some(1_300));
    assert_eq!(score.waiting_served_ms, Some(3_000));
    assert_eq!(score.healthy_p99_ms, Some(2_000));
    assert_eq!(score.p99_after_open_ms, Some(9_500));
    assert_eq!((score.p50_ms, score.p99_ms), (Some(1_000), Some(9_500)));
    assert_eq!(score.figure(Figure::P99AfterOpenOverHealthy), Some(4.75));
    assert_eq!(score.figure(Figure::FailedOtherwise), Some(1.0));
}

#[test]
fn answers_that_are_less_are_told_apart_and_only_models_take_time() {
    let fresh = Ended::Answered { by: By::FreshCache };
    let calls = [
        answered(1_000, 2_000),
        call(11_000, 11_400, less(Degraded::Model)),
        call(12_000, 12_001, less(Degraded::Cache)),
        call(12_500, 12_501, less(Degraded::Static)),
        call(13_000, 13_001, less(Degraded::Static)),
        call(14_000, 14_001, fresh),
        call(21_000, 21_600, less(Degraded::Model)),
        call(22_000, 22_100, Ended::Failed { why: "unmarked" }),
    ];
    // The pause after it is the detection.
    let attempts = [attempt(10_000, 10_100, "big", 529)];
    let found = score(&calls, &attempts);
    let by = found.degraded_by;
    assert_eq!((by.model, by.cache, by.fixed), (2, 1, 2));
    assert_eq!((found.degraded, found.succeeded, found.lost), (5, 7, 1));
    assert_eq!(found.degraded_rate_during_fault, Some(0.8));
    assert_eq!(found.degraded_until_ms, Some(1_600));
    assert_eq!((found.p50_ms, found.p99_ms), (Some(600), Some(1_000)));
    assert_eq!(
        (found.detect_ms, found.p99_after_open_ms),
        (Some(0), Some(400))
    );
    let json = serde_json::to_value(&found).unwrap();
    assert_eq!(json["degraded"], 5);
    assert_eq!(
        json["degraded_by"],
        serde_json::json!({ "model": 2, "cache": 1, "static": 2 })
    );
    let none = score(&calls[..1], &[]);
    assert_eq!(none.degraded_until_ms, Some(0));
}

#[test]
fn a_client_that_never_pauses_has_detected_nothing() {
    let attempts: Vec<_> = (0..200)
        .map(|n| attempt(10_000 + n * 50, 10_010 + n * 50, "big", 529))
        .collect();
    let calls: Vec<_> = (0..200)
        .map(|n| {
            call(
                10_000 + n * 50,
                10_010 + n * 50,
                Ended::Failed { why: "status" },
            )
        })
        .collect();
    let found = score(&calls, &attempts);
    assert_eq!(found.detect_ms, None);
    assert_eq!(found.recover_ms, None);
    assert_eq!((found.p50_ms, found.p99_after_open_ms), (None, None));
}

#[test]
fn a_pause_in_which_nobody_wanted_anything_is_no_detection() {
    let attempts = [
        attempt(10_000, 10_100, "big", 529),
        attempt(15_000, 15_100, "big", 529),
    ];
    let calls = [
        call(10_000, 10_000, Ended::Failed { why: "status" }),
        call(15_000, 19_900, Ended::Failed { why: "status" }),
    ];
    assert_eq!(score(&calls, &attempts).detect_ms, Some(5_000));
}

#[test]
fn only_an_immediate_refusal_with_a_hint_is_a_refusal() {
    let refused = |retry_after| Ended::Refused {
        retry_after: ms(retry_after),
    };
    let calls = [
        call(0, 1, refused(3_000)),
        call(0, 101, refused(3_000)),
        call(0, 1, refused(0)),
        answered(0, 900),
    ];
    let found = score(&calls, &[]);
    assert_eq!((found.refused, found.succeeded), (1, 1));
    assert_eq!(found.figure(Figure::FailedOtherwise), Some(2.0));
}

#[test]
fn quota_use_counts_only_time_in_which_somebody_waited() {
    // Pending in 0..3 s and 10..13 s: 6 s at 60 a minute refill 6 units.
    let calls = [
        answered(0, 2_000),
        answered(1_000, 3_000),
        answered(10_000, 13_000),
    ];
    assert_eq!(pending_time(&calls), ms(6_000));
    let seen = Observed {
        calls: &calls,
        attempts: &[],
        primary: "big",
        fault: None,
        quota: Some((3, 60)),
        runs: Some(RunCount {
            started: 4,
            succeeded: 1,
        }),
        mix: None,
        ideal: None,
        in_flight_at_end: 2,
    };
    let found = Score::of(&seen);
    assert_eq!(found.quota_used, Some(0.5));
    assert_eq!(found.run_success_rate, Some(0.25));
    assert_eq!(found.attempts_during_fault, None);
    assert_eq!(found.figure(Figure::InFlightAtEnd), Some(2.0));
    assert_eq!(Score::of(&Observed { calls: &[], ..seen }).quota_used, None);
}

fn mix() -> Mix {
    let class = |profile| Class {
        profile,
        share: 1.0,
        deadline: ms(30_000),
    };
    Mix {
        stages: Vec::new(),
        classes: vec![class(Profile::Interactive), class(Profile::Batch)],
        tenants: 3,
        flood: 0.1,
    }
}

/// Calls in order, each with its place: class, tenant, when it was made and ended, and how.
fn mixed(calls: &[(usize, Tenant, u64, u64, Ended)]) -> Vec<CallRecord> {
    let numbered = (1..).zip(calls);
    numbered
        .map(|(id, &(class, tenant, issued, ended, end))| CallRecord {
            id,
            class: Some(class),
            tenant: Some(tenant),
            ..call(issued, ended, end)
        })
        .collect()
}

fn of_call(id: u64, started: u64, status: u16) -> AttemptRecord {
    AttemptRecord {
        call: Some(id),
        ..attempt(started, started + 100, "big", status)
    }
}

#[test]
fn a_mix_is_scored_by_class_and_by_tenant() {
    let (ok, late) = (
        Ended::Answered { by: By::Wanted },
        Ended::Failed { why: "deadline" },
    );
    let told = Ended::Refused {
        retry_after: ms(5_000),
    };
    let (one, two, three) = (Tenant::Equal(0), Tenant::Equal(1), Tenant::Equal(2));
    let calls = mixed(&[
        (0, one, 0, 900, ok),
        (0, two, 0, 1_000, ok),
        (1, one, 0, 9_000, ok),
        (1, three, 0, 3_000, told),
        (1, Tenant::Flooding, 0, 30_000, late),
        (1, Tenant::Flooding, 0, 5_000, ok),
    ]);
    let attempts = [
        of_call(1, 100, 200),
        // What counts is the first attempt, not the first answer, and not the order of the log.
        of_call(2, 700, 200),
        of_call(2, 200, 429),
        of_call(3, 8_000, 200),
        of_call(6, 4_000, 200),
        of_call(5, 12_000, 429),
    ];
    let mix = mix();
    let seen = Observed {
        calls: &calls,
        attempts: &attempts,
        primary: "big",
        fault: None,
        quota: None,
        runs: None,
        mix: Some(&mix),
        ideal: None,
        in_flight_at_end: 0,
    };
    let found = Score::of(&seen);
    assert_eq!((found.lost, found.refused), (1, 0));
    assert_eq!(found.figure(Figure::LostRate), Some(0.166_667));
    // Two, one and none: 9 over 3 x 5. The one that floods counts for nothing here.
    assert_eq!(found.fairness, Some(0.6));
    let classes = found.classes.unwrap();
    let interactive = classes["interactive"];
    assert_eq!((interactive.calls, interactive.succeeded), (2, 2));
    assert_eq!(
        (interactive.p50_wait_ms, interactive.p99_wait_ms),
        (Some(100), Some(200))
    );
    let batch = classes["batch"];
    assert_eq!(
        (batch.calls, batch.told_to_come_back, batch.lost),
        (4, 1, 1)
    );
    assert_eq!(
        (batch.p50_wait_ms, batch.p99_wait_ms),
        (Some(4_000), Some(12_000))
    );
    assert_eq!(found.interactive_p99_wait_over_batch, Some(0.016_667));
    assert_eq!(found.interactive_success_rate, Some(1.0));
    // Early, late: the ten seconds end before 12 s.
    assert_eq!(found.provider_429_first_10s, 1);
    assert_eq!(found.provider_429_per_1000_after_10s, Some(1_000.0));
}

#[test]
fn nobody_waited_less_where_nobody_waited() {
    let ok = Ended::Answered { by: By::Wanted };
    let calls = mixed(&[
        (0, Tenant::Equal(0), 0, 900, ok),
        (1, Tenant::Equal(0), 0, 900, ok),
    ]);
    let attempts = [of_call(1, 0, 200), of_call(2, 0, 200)];
    let mix = mix();
    let found = Score::of(&Observed {
        calls: &calls,
        attempts: &attempts,
        primary: "big",
        fault: None,
        quota: None,
        runs: None,
        mix: Some(&mix),
        ideal: None,
        in_flight_at_end: 0,
    });
    assert_eq!(found.interactive_p99_wait_over_batch, None);
    assert_eq!(found.provider_429_per_1000_after_10s, None);
}

#[test]
fn runs_are_held_to_the_time_that_the_provider_needs() {
    let launch = Scenario::find("launch").unwrap();
    // 10 at once and 10 a second; each takes 1.1325 s.
    let calls: Vec<_> = (0..110).map(|n| answered(0, 200 + n * 100)).collect();
    let seen = |calls, succeeded| Observed {
        calls,
        attempts: &[],
        primary: "big",
        fault: None,
        quota: None,
        runs: Some(RunCount {
            started: 2,
            succeeded,
        }),
        mix: None,
        ideal: launch.ideal(),
        in_flight_at_end: 0,
    };
    let found = Score::of(&seen(&calls, 2));
    assert_eq!(found.finish_over_ideal, Some(round(11.1 / 11.1325)));
    assert_eq!(
        found.throughput_over_ideal,
        Some(round(110.0 / (10.0 + 99.675)))
    );
    // Runs that broke off asked for less.
    assert_eq!(Score::of(&seen(&calls, 1)).finish_over_ideal, None);
}

#[test]
fn percentiles_are_nearest_rank() {
    let sorted: Vec<_> = (1..=100).map(ms).collect();
    assert_eq!(percentile(&sorted, 50), Some(50));
    assert_eq!(percentile(&sorted, 99), Some(99));
    assert_eq!(percentile(&sorted[..1], 50), Some(1));
    assert_eq!(percentile(&[], 50), None);
}
