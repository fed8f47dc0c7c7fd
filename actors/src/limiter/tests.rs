//! The queue of a running limiter: who is served when, what they are told, and that all end.

use std::time::Duration;

use futures_util::FutureExt;
use proptest::prelude::*;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout_at};

use super::*;
use crate::admission::{Reserved, Terms};
use crate::error::{Rejected, Rejection};
use crate::event::Heard;
use crate::system::{Quota as Limited, QuotaSpec, System, SystemSettings};

const SECOND: Duration = Duration::from_secs(1);

async fn system() -> System {
    let settings = SystemSettings {
        seed: Some(7),
        ..SystemSettings::default()
    };
    System::start(settings).await.unwrap()
}

/// A quota of so many requests and input tokens a second, one second's worth at once.
async fn quota(system: &System, per_second: u64, queue_bound: usize) -> Limited {
    let settings = QuotaSettings {
        requests_per_minute: Some(60 * per_second),
        input_per_minute: Some(60_000 * per_second),
        burst: SECOND,
        ..QuotaSettings::default()
    };
    let spec = QuotaSpec {
        settings,
        queue_bound,
    };
    system.quota("q", spec).await.unwrap()
}

fn terms(tenant: &str, input: u64, patience: Duration) -> Terms {
    Terms {
        call: tenant.into(),
        cost: Cost {
            requests: 1,
            input,
            output: 0,
        },
        tenant: Tenant::new(tenant.into(), 1),
        ..Terms::within(patience)
    }
}

type Answers = JoinSet<(usize, Duration, Result<Reserved, Rejected>)>;

/// Asks at once, in this order, and holds what is granted.
async fn ask(answers: &mut Answers, quota: &Limited, number: usize, terms: Terms) {
    let (quota, began) = (quota.clone(), Instant::now());
    answers.spawn(async move {
        let answer = quota.reserve(terms).await;
        (number, began.elapsed(), answer)
    });
    sleep(Duration::from_millis(1)).await;
}

/// Calls were overtaken for a while, and now nobody is there who could: the quota is what they wait for.
#[tokio::test(start_paused = true)]
async fn a_rush_that_is_over_refuses_nobody_who_comes_alone() {
    let system = system().await;
    let quota = quota(&system, 1, 1_000).await;
    let of = |priority, patience| Terms {
        priority,
        ..terms("t", 1, patience)
    };
    let patience = SECOND * 100;
    for _ in 0..60 {
        let mut answers = JoinSet::new();
        ask(&mut answers, &quota, 0, of(Priority::Low, patience)).await;
        ask(&mut answers, &quota, 1, of(Priority::Low, patience)).await;
        for number in 2..12 {
            ask(&mut answers, &quota, number, of(Priority::High, patience)).await;
        }
        while let Some(answer) = answers.join_next().await {
            let (number, after, reserved) = answer.unwrap();
            assert!(number != 1 || after > SECOND * 10, "it is overtaken");
            reserved.unwrap().settle(terms("t", 1, patience).cost);
        }
        sleep(SECOND).await;
    }
    let large = quota.reserve(of(Priority::Low, SECOND)).await.unwrap();
    let debt = Cost {
        input: 6_000,
        ..terms("t", 0, SECOND).cost
    };
    large.settle(debt);
    let mut answers = JoinSet::new();
    ask(&mut answers, &quota, 0, of(Priority::Low, SECOND * 20)).await;
    let (_, after, reserved) = answers.join_next().await.unwrap().unwrap();
    assert!(reserved.is_ok(), "{reserved:?}");
    assert!(after < SECOND * 6, "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_floods_delays_anothers_first_call_by_one_turn() {
    let system = system().await;
    let quota = quota(&system, 1, 1_000).await;
    let mut answers = JoinSet::new();
    let patience = Duration::from_secs(100);
    for number in 0..80 {
        ask(&mut answers, &quota, number, terms("flood", 1, patience)).await;
    }
    // Behind eighty calls in line it would be refused: two seconds are enough for its own share.
    ask(&mut answers, &quota, 99, terms("quiet", 1, 3 * SECOND)).await;
    let snapshot = system.snapshot();
    let queue = &snapshot.limiters[0].queue;
    assert_eq!(queue.by_class, [0, 80, 0]);
    let tenants: Vec<_> = queue
        .by_tenant
        .iter()
        .map(|t| (t.name.as_deref(), t.waiting))
        .collect();
    assert_eq!(tenants, [(Some("flood"), 79), (Some("quiet"), 1)]);
    assert_eq!((queue.tenants, queue.first.len()), (2, 50));
    let quiet = &queue.first[1];
    assert_eq!(
        (quiet.tenant.as_deref(), quiet.position),
        (Some("quiet"), 2)
    );
    assert!(
        quiet.eta > SECOND && quiet.eta < 2 * SECOND,
        "{:?}",
        quiet.eta
    );
    let told = quiet.eta;
    let mut took = None;
    while let Some(answer) = answers.join_next().await {
        let (number, after, answer) = answer.unwrap();
        answer.unwrap().settle(Cost {
            requests: 1,
            input: 1,
            output: 0,
        });
        if number == 99 {
            took = Some(after);
        }
    }
    let took = took.unwrap();
    assert!(
        took.abs_diff(told) <= Duration::from_millis(3),
        "{told:?} told, {took:?} waited"
    );
}

#[tokio::test(start_paused = true)]
async fn a_wait_past_the_deadline_is_told_by_the_tenants_own_backlog() {
    let system = system().await;
    let quota = quota(&system, 1, 1_000).await;
    let mut answers = JoinSet::new();
    for number in 0..41 {
        ask(
            &mut answers,
            &quota,
            number,
            terms("flood", 1, 100 * SECOND),
        )
        .await;
    }
    let began = Instant::now();
    let refused = quota
        .reserve(terms("flood", 1, 20 * SECOND))
        .await
        .unwrap_err();
    assert_eq!(began.elapsed(), Duration::ZERO, "told at once");
    assert_eq!(refused.why, Rejection::QuotaExhausted);
    let eta = refused.retry_after.unwrap();
    assert!(eta > 40 * SECOND && eta < 41 * SECOND, "{eta:?}");
    let admitted = quota.reserve(terms("quiet", 1, 20 * SECOND)).await;
    assert!(admitted.is_ok() && began.elapsed() <= 2 * SECOND);
    answers.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_spend_cap_sends_those_who_wait_on_at_once_and_says_so() {
    let system = system().await;
    let quota = quota(&system, 1, 1_000).await;
    let mut answers = JoinSet::new();
    for number in 0..20 {
        ask(&mut answers, &quota, number, terms("a", 1, 100 * SECOND)).await;
    }
    let (first, _, granted) = answers.join_next().await.unwrap().unwrap();
    assert_eq!((first, granted.is_ok()), (0, true));
    let capped = Instant::now();
    quota.learn(Learned {
        stop_for: Some(600 * SECOND),
        refused_by: Some(RefusedBy::SpendCap),
        ..Learned::default()
    });
    let late = quota.reserve(terms("a", 1, 100 * SECOND)).await;
    let mut refused = vec![late.unwrap_err()];
    while let Some(answer) = answers.join_next().await {
        refused.push(answer.unwrap().2.unwrap_err());
    }
    assert!(capped.elapsed() < SECOND, "{:?}", capped.elapsed());
    assert_eq!(refused.len(), 20);
    for refused in refused {
        assert_eq!(refused.why, Rejection::SpendCap);
        let until = refused.retry_after.unwrap();
        assert!(until > 599 * SECOND && until <= 600 * SECOND, "{until:?}");
    }
    let shown = &system.snapshot().limiters[0].quota;
    assert_eq!(shown.stopped_by, Some(RefusedBy::SpendCap));
}

#[tokio::test(start_paused = true)]
async fn tenants_share_what_each_is_short_of() {
    let system = system().await;
    // One call's worth of requests is a thousand tokens' worth of input.
    let quota = quota(&system, 10, 10_000).await;
    let mut answers = JoinSet::new();
    for number in 0..2_000 {
        let (name, input) = if number % 2 == 0 {
            ("large", 4_000)
        } else {
            ("small", 10)
        };
        ask(
            &mut answers,
            &quota,
            number,
            terms(name, input, 3_000 * SECOND),
        )
        .await;
    }
    let until = Instant::now() + 40 * SECOND;
    let mut shares = [0_u64; 2];
    while let Ok(Some(answer)) = timeout_at(until, answers.join_next()).await {
        let (number, _, answer) = answer.unwrap();
        shares[number % 2] += if number % 2 == 0 { 4_000 } else { 1_000 };
        answer.unwrap().settle(Cost {
            requests: 1,
            input: if number % 2 == 0 { 4_000 } else { 10 },
            output: 0,
        });
    }
    let [large, small] = shares;
    assert!(large + small > 400_000, "{shares:?}");
    assert!(large.abs_diff(small) <= 20_000, "{shares:?}");
    answers.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn those_who_leave_a_full_queue_make_room_at_once() {
    let system = system().await;
    let quota = quota(&system, 1, 200).await;
    let mut answers = JoinSet::new();
    // The first is served; the second stays at the head of the queue.
    for number in 0..2 {
        let terms = terms("a", 1, 500 * SECOND);
        ask(&mut answers, &quota, number, terms).await;
    }
    let mut leaving: Vec<_> = (0..199)
        .map(|_| Box::pin(quota.reserve(terms("a", 1, 900 * SECOND))))
        .collect();
    for asked in &mut leaving {
        assert!(asked.now_or_never().is_none());
    }
    sleep(Duration::from_millis(1)).await;
    let waiting = || system.snapshot().limiters[0].waiting;
    assert_eq!(waiting(), 200);
    let refused = quota
        .reserve(terms("a", 1, 500 * SECOND))
        .await
        .unwrap_err();
    assert_eq!(refused.why, Rejection::QueueFull);
    drop(leaving);
    assert_eq!(waiting(), 200, "nobody has looked yet");
    ask(&mut answers, &quota, 2, terms("a", 1, 500 * SECOND)).await;
    assert_eq!(waiting(), 2);
    let mut order = Vec::new();
    while let Some(answer) = answers.join_next().await {
        let (number, _, answer) = answer.unwrap();
        answer.unwrap().settle(Cost {
            requests: 1,
            ..Cost::ZERO
        });
        order.push(number);
    }
    assert_eq!(order, [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_crowd_is_let_go_in_parts_and_nobody_is_forgotten() {
    let system = system().await;
    let quota = quota(&system, 2_000, 10_000).await;
    let mut events = system.events();
    // The quota is stopped for a second, and opens for everybody at once.
    let stop = Learned {
        stop_for: Some(SECOND),
        ..Learned::default()
    };
    quota.limiter().learn(stop);
    let began = Instant::now();
    let mut answers = JoinSet::new();
    for number in 0..1_500 {
        let quota = quota.clone();
        let impatient = number % 3 == 0;
        // A third of them could be served when the stop ends, and have no moment longer.
        let patience = if impatient { SECOND } else { 10 * SECOND };
        answers.spawn(async move { quota.reserve(terms("a", 1, patience)).await.is_ok() });
    }
    let answers = answers.join_all().await;
    assert!(answers.iter().filter(|served| **served).count() >= 1_000);
    assert_eq!(answers.len(), 1_500);
    assert!(
        began.elapsed() <= SECOND + Duration::from_millis(20),
        "{:?}",
        began.elapsed()
    );
    let Some(Heard::Lagged(_) | Heard::Event(_)) = events.next().await else {
        panic!("nobody waited")
    };
    assert_eq!(system.snapshot().limiters[0].waiting, 0);
}

/// One caller of the property below.
#[derive(Debug, Clone)]
struct Caller {
    after_ms: u64,
    tenant: usize,
    priority: Priority,
    input: u64,
    patience_ms: u64,
    leaves_after_ms: Option<u64>,
    holds_ms: u64,
}

fn any_caller() -> impl Strategy<Value = Caller> {
    let leaves = prop::option::weighted(0.3, 0_u64..4_000);
    let priority = prop::sample::select(Priority::ALL.to_vec());
    (
        0_u64..8_000,
        0_usize..4,
        priority,
        0_u64..3_000,
        0_u64..6_000,
        leaves,
        0_u64..500,
    )
        .prop_map(
            |(after_ms, tenant, priority, input, patience_ms, leaves_after_ms, holds_ms)| Caller {
                after_ms,
                tenant,
                priority,
                input,
                patience_ms,
                leaves_after_ms,
                holds_ms,
            },
        )
}

/// When it was granted, if it was, and what; the wait is checked here.
async fn one_caller(quota: Limited, caller: Caller) -> Result<Option<(Instant, u64)>, String> {
    sleep(Duration::from_millis(caller.after_ms)).await;
    let patience = Duration::from_millis(caller.patience_ms);
    let name = ["", "a", "b", "c"][caller.tenant];
    let mut terms = terms(name, caller.input, patience);
    terms.priority = caller.priority;
    let until = terms.until;
    let leaves = caller
        .leaves_after_ms
        .map(|ms| Instant::now() + Duration::from_millis(ms));
    let leaves = leaves.unwrap_or(until + 60 * SECOND);
    let answer = timeout_at(leaves, quota.reserve(terms)).await;
    let now = Instant::now();
    // A timer's resolution, and the supervisor's pause before a killed limiter is back.
    if now > until.max(now.min(leaves)) + 200 * Duration::from_millis(1) && now != leaves {
        return Err(format!("answered {:?} after its deadline", now - until));
    }
    let Ok(Ok(reserved)) = answer else {
        return Ok(None);
    };
    if now > until + Duration::from_millis(200) {
        return Err("served after its deadline".to_owned());
    }
    sleep(Duration::from_millis(caller.holds_ms)).await;
    reserved.settle(Cost {
        requests: 1,
        input: caller.input,
        output: 0,
    });
    Ok(Some((now, caller.input)))
}

async fn every_caller_ends(callers: Vec<Caller>, kill_at: Vec<u64>) -> Result<(), TestCaseError> {
    let system = system().await;
    let quota = quota(&system, 5, 50).await;
    let began = Instant::now();
    let mut running = JoinSet::new();
    for caller in callers {
        running.spawn(one_caller(quota.clone(), caller));
    }
    for at in kill_at {
        sleep_until(began + Duration::from_millis(at)).await;
        let _was_up = system.kill("limiters/q");
    }
    let ended = timeout_at(began + 60 * SECOND, running.join_all()).await;
    let ended = ended.map_err(|_| TestCaseError::fail("somebody still waits"))?;
    let mut grants = Vec::new();
    for end in ended {
        grants.extend(end.map_err(TestCaseError::fail)?);
    }
    grants.sort_unstable();
    // Never more in any span than a full bucket and what flows in meanwhile.
    for (n, &(from, _)) in grants.iter().enumerate() {
        let (mut requests, mut input) = (0.0, 0.0);
        for &(to, cost) in &grants[n..] {
            requests += 1.0;
            input += f64::from(u32::try_from(cost).unwrap());
            let secs = (to - from).as_secs_f64() + 0.002;
            prop_assert!(requests <= 5.0 + 5.0 * secs, "{requests} in {secs} s");
            prop_assert!(input <= 5_000.0 * (1.0 + secs), "{input} in {secs} s");
        }
    }
    sleep(3 * SECOND).await;
    let snapshot = system.snapshot();
    prop_assert_eq!(snapshot.limiters[0].waiting, 0);
    prop_assert_eq!(snapshot.limiters[0].quota.in_flight, 0);
    system.stop().await;
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whoever asks, leaves or dies, in whatever order: every waiter is served or refused by its
    /// deadline, no bucket gives more than it has, and nothing stays behind.
    #[test]
    fn every_waiter_ends_and_nothing_is_left(
        callers in prop::collection::vec(any_caller(), 1..80),
        mut kill_at in prop::collection::vec(0_u64..8_000, 0..3),
    ) {
        kill_at.sort_unstable();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(every_caller_ends(callers, kill_at))?;
    }
}

/// A quota of which no limit is known.
async fn cold(system: &System, queue_bound: usize) -> Limited {
    let settings = QuotaSettings {
        find_burst: true,
        ..QuotaSettings::default()
    };
    let spec = QuotaSpec {
        settings,
        queue_bound,
    };
    system.quota("q", spec).await.unwrap()
}

/// Asks so often at once, and holds what is granted for so long. Says for how many there was room.
async fn burst(quota: &Limited, calls: usize, patience: Duration, holds: Duration) -> usize {
    let mut answers = JoinSet::new();
    for _ in 0..calls {
        let quota = quota.clone();
        answers.spawn(async move {
            let began = Instant::now();
            let answer = quota.reserve(terms("t", 1, patience)).await;
            assert!(began.elapsed() <= patience + Duration::from_millis(2));
            match answer {
                Ok(reserved) => {
                    sleep(holds).await;
                    reserved.settle(Cost::ZERO);
                    true
                }
                Err(refused) => {
                    let again = refused.retry_after.unwrap();
                    assert!(again >= SECOND, "{again:?}");
                    false
                }
            }
        });
    }
    let served = answers.join_all().await;
    served.into_iter().filter(|served| *served).count()
}

#[tokio::test(start_paused = true)]
async fn a_burst_onto_a_cold_quota_waits_to_see_how_long_an_attempt_takes() {
    let system = system().await;
    let ms = Duration::from_millis;
    // Eight, sixteen and the rest: each round shows that there is room for twice as many.
    assert_eq!(
        burst(&cold(&system, 100).await, 50, SECOND, ms(300)).await,
        50
    );
    let snapshot = system.snapshot();
    assert_eq!(
        (
            snapshot.limiters[0].waiting,
            snapshot.limiters[0].quota.in_flight
        ),
        (0, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_burst_onto_a_cold_quota_that_hangs_waits_for_its_own_patience_in_a_bounded_queue() {
    for patience in [Duration::ZERO, SECOND] {
        let quota = cold(&system().await, 20).await;
        assert_eq!(burst(&quota, 50, patience, 60 * SECOND).await, 8);
    }
}
