//! Known traps of limiters, breakers and supervision, each on the whole tree and named by its number.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use super::*;
use crate::limiter::Reservation;
use crate::policy::backoff::Backoff;

/// A target on a quota of `per_minute` requests.
async fn limited(system: &System, per_minute: u64) -> Target {
    let settings = QuotaSettings {
        requests_per_minute: Some(per_minute),
        ..QuotaSettings::default()
    };
    let spec = QuotaSpec {
        settings,
        ..QuotaSpec::default()
    };
    let quota = system.quota("q", spec).await.unwrap();
    let spec = TargetSpec {
        quota: Some(quota),
        ..TargetSpec::default()
    };
    system.target("t", || spec).await.unwrap()
}

fn leases(system: &System) -> usize {
    system.snapshot().limiters[0].quota.in_flight
}

/// Fails a target, in no time, until its breaker is open.
async fn break_down(system: &System, target: &Target) {
    let once = Retry::new(1, Backoff::default(), Duration::ZERO).unwrap();
    for _ in 0..5 {
        let mut call = call_to(&[target], MINUTE);
        call.retry = once;
        let down = |_| async { Outcome::<(), _>::failed("down", OVERLOADED) };
        drop(system.call(call, down).await);
    }
    let name = target.name();
    let snapshot = system.snapshot();
    let breaker = snapshot.breakers.iter().find(|b| b.name == *name).unwrap();
    assert_eq!(breaker.circuit.state, State::Open, "{name}");
}

#[tokio::test(start_paused = true)]
async fn trap_32_one_failed_request_cools_no_target_and_a_broken_one_no_other() {
    let system = system().await;
    let (bad, good) = (target(&system, "bad").await, target(&system, "good").await);
    let once = |_| async { Outcome::<(), _>::failed("bad luck", INVALID) };
    drop(system.call(call_to(&[&bad], MINUTE), once).await);
    let fails_first = |attempt: Attempt| async move {
        if attempt.number == 1 {
            Outcome::failed("busy", OVERLOADED)
        } else {
            Outcome::ok(())
        }
    };
    let passed = system.call(call_to(&[&bad], MINUTE), fails_first).await;
    assert!(passed.result.is_ok());
    assert_eq!(system.snapshot().breakers[0].circuit.state, State::Closed);
    break_down(&system, &bad).await;
    let began = Instant::now();
    let other = system
        .call(call_to(&[&good], MINUTE), |_| async {
            Outcome::<_, ()>::ok(())
        })
        .await;
    assert!(other.result.is_ok());
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn trap_33_a_thousand_who_reserve_at_once_get_what_there_is() {
    let system = system().await;
    // Six thousand a minute, of which a second's worth is there at once.
    let target = limited(&system, 6_000).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let mut calls = JoinSet::new();
    for _ in 0..1000 {
        let (system, target, sent) = (system.clone(), target.clone(), Arc::clone(&sent));
        calls.spawn(async move {
            let operation = move |_| {
                sent.fetch_add(1, Ordering::Relaxed);
                async {
                    sleep(MINUTE).await;
                    Outcome::<(), ()>::ok(())
                }
            };
            drop(
                system
                    .call(call_to(&[&target], MINUTE * 2), operation)
                    .await,
            );
        });
    }
    sleep(Duration::from_millis(1)).await;
    assert_eq!(sent.load(Ordering::Relaxed), 100);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(sent.load(Ordering::Relaxed), 200);
    calls.join_all().await;
    assert_eq!(leases(&system), 0);
}

#[tokio::test(start_paused = true)]
async fn trap_34_a_permit_that_nobody_finishes_comes_back() {
    let system = system().await;
    let target = limited(&system, 60).await;
    let finished = system
        .call(call_to(&[&target], MINUTE), |attempt| async move {
            // Taken along and forgotten about, as by a stream that nobody reads.
            drop(attempt.take_permit());
            Outcome::<_, ()>::Committed(())
        })
        .await;
    assert!(finished.result.is_ok());
    sleep(Duration::from_millis(1)).await;
    assert_eq!(leases(&system), 0);
    assert_eq!(system.snapshot().pool.in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn trap_35_a_call_dropped_after_any_number_of_polls_leaks_nothing() {
    let system = system().await;
    let target = limited(&system, 600).await;
    let mut completed = 0;
    for polls in 0..40 {
        // Each call has a wait for the quota, two attempts and a backoff between them.
        let walk = caller::run(
            Arc::clone(&system.shared.context),
            call_to(&[&target], MINUTE),
            Attempts(|attempt: Attempt| async move {
                sleep(Duration::from_millis(20)).await;
                tokio::task::yield_now().await;
                if attempt.number == 1 {
                    Outcome::failed("busy", OVERLOADED)
                } else {
                    Outcome::ok(())
                }
            }),
        );
        {
            let mut walk = pin!(walk);
            let mut left = polls;
            completed += poll_fn(|cx| {
                if left == 0 {
                    return Poll::Ready(0);
                }
                left -= 1;
                walk.as_mut().poll(cx).map(|_| 1)
            })
            .await;
        }
        sleep(Duration::from_millis(5)).await;
        assert_eq!(leases(&system), 0, "dropped after {polls} polls");
        assert_eq!(system.snapshot().pool.in_flight, 0, "after {polls} polls");
    }
    assert!((1..40).contains(&completed), "some end, some are cut");
}

#[tokio::test(start_paused = true)]
async fn trap_36_a_grant_that_nobody_claims_blocks_nobody_and_expires() {
    let system = system().await;
    let target = limited(&system, 60).await;
    let limiter = target.limiter().unwrap().clone();
    let reservation = |priority| Reservation {
        call: "call".into(),
        cost: Cost {
            requests: 1,
            ..Cost::ZERO
        },
        priority,
        tenant: Tenant::default(),
        until: Instant::now() + Duration::from_secs(30),
        expires: Instant::now() + Duration::from_secs(30),
    };
    let first = limiter.reserve(reservation(Priority::Normal)).await;
    let held = first.unwrap().unwrap();
    let mut asleep = Box::pin(limiter.reserve(reservation(Priority::High)));
    assert!(asleep.as_mut().now_or_never().is_none());
    // It is granted the next token and never looks.
    let behind = limiter.reserve(reservation(Priority::Normal)).await;
    drop(behind.unwrap().unwrap());
    drop(held);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(leases(&system), 1, "the unclaimed one");
    sleep(MINUTE).await;
    assert_eq!(leases(&system), 0);
}

#[tokio::test(start_paused = true)]
async fn trap_37_the_permit_stays_with_the_work_and_not_with_the_waiter() {
    let system = system().await;
    let target = limited(&system, 60).await;
    let finished = system
        .call(call_to(&[&target], MINUTE), |attempt| async move {
            let permit = attempt.take_permit().unwrap();
            tokio::spawn(async move {
                sleep(Duration::from_secs(5)).await;
                permit.finish(&Verdict::OK, None);
            });
            Outcome::<_, ()>::Committed(())
        })
        .await;
    assert!(finished.result.is_ok());
    sleep(Duration::from_secs(4)).await;
    assert_eq!((leases(&system), system.snapshot().pool.in_flight), (1, 1));
    sleep(Duration::from_secs(2)).await;
    assert_eq!((leases(&system), system.snapshot().pool.in_flight), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn trap_41_what_nobody_uses_makes_room() {
    let settings = SystemSettings {
        targets: 10,
        seed: Some(7),
        ..SystemSettings::default()
    };
    let system = System::start(settings).await.unwrap();
    let mut kept = None;
    for n in 0..50 {
        // As with a credential each: a quota and a target of its own.
        let quota = system.quota(&format!("q{n}"), QuotaSpec::default()).await;
        let spec = TargetSpec {
            quota: Some(quota.unwrap()),
            ..TargetSpec::default()
        };
        let target = system.target(&format!("t{n}"), || spec).await.unwrap();
        kept.get_or_insert(target);
    }
    let snapshot = system.snapshot();
    assert_eq!((snapshot.limiters.len(), snapshot.breakers.len()), (10, 10));
    assert!(system.known_target("t0").is_some(), "the one that is held");
    assert!(system.known_target("t49").is_some() && system.known_target("t1").is_none());
    let actors = system.actors();
    let of = |branch: &str| actors.iter().filter(|a| a.starts_with(branch)).count();
    assert_eq!((of("limiters/"), of("breakers/")), (10, 10));
    let mut held = vec![kept.unwrap()];
    for n in 41..50 {
        held.extend(system.known_target(&format!("t{n}")));
    }
    let full = system.quota("one more", QuotaSpec::default()).await;
    assert!(matches!(full, Err(StartError::TooMany(10))), "{full:?}");
}

#[tokio::test(start_paused = true)]
async fn trap_42_those_who_wait_are_woken_for_their_own_turn_only() {
    let system = system().await;
    let target = limited(&system, 6_000).await;
    let polls = Arc::new(AtomicUsize::new(0));
    let mut calls = JoinSet::new();
    let crowd = 2_000;
    for _ in 0..crowd {
        let (system, target, polls) = (system.clone(), target.clone(), Arc::clone(&polls));
        calls.spawn(async move {
            let walk = caller::run(
                Arc::clone(&system.shared.context),
                call_to(&[&target], MINUTE),
                Attempts(|_| async { Outcome::<(), ()>::ok(()) }),
            );
            let mut walk = pin!(walk);
            let finished = poll_fn(|cx| {
                polls.fetch_add(1, Ordering::Relaxed);
                walk.as_mut().poll(cx)
            });
            finished.await.result.unwrap();
        });
    }
    calls.join_all().await;
    let each = polls.load(Ordering::Relaxed) / crowd;
    assert!(each <= 5, "{each} polls a call");
}

#[tokio::test(start_paused = true)]
async fn trap_45_targets_that_broke_together_are_not_probed_together() {
    let system = system().await;
    let mut targets = Vec::new();
    for n in 0..20 {
        targets.push(target(&system, &format!("t{n}")).await);
    }
    let began = Instant::now();
    for target in &targets {
        break_down(&system, target).await;
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    let snapshot = system.snapshot();
    let due: HashSet<_> = snapshot
        .breakers
        .iter()
        .map(|b| b.circuit.open_until.unwrap())
        .collect();
    assert!(due.len() > 15, "{} moments for 20 targets", due.len());
}

#[tokio::test(start_paused = true)]
async fn trap_46_with_every_rung_down_a_call_waits_for_the_first_to_return() {
    let system = system().await;
    let (first, second) = (target(&system, "a").await, target(&system, "b").await);
    break_down(&system, &first).await;
    break_down(&system, &second).await;
    let finished = system
        .call(call_to(&[&first, &second], MINUTE), |attempt| async move {
            if &**attempt.target.name() == "b" {
                Outcome::ok(())
            } else {
                Outcome::failed("down", OVERLOADED)
            }
        })
        .await;
    assert!(finished.result.is_ok(), "{:?}", finished.result);
    assert_eq!(finished.report.target.as_deref(), Some("b"));
}

#[tokio::test(start_paused = true)]
async fn trap_52_what_a_dying_limiter_was_told_is_not_lost() {
    let system = system().await;
    let target = limited(&system, 6_000).await;
    for _ in 0..50 {
        let finished = system
            .call(call_to(&[&target], MINUTE), |_| async {
                Outcome::<(), ()>::ok(())
            })
            .await;
        // The settlement is on its way; the one who is to read it dies.
        assert!(finished.result.is_ok());
        assert!(system.kill("limiters/q"));
        sleep(Duration::from_secs(10)).await;
        assert_eq!(leases(&system), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn trap_53_calls_follow_their_actors_from_one_incarnation_to_the_next() {
    let system = system().await;
    let target = limited(&system, 60).await;
    let answer = |_| async { Outcome::<_, ()>::ok(()) };
    let first = system.call(call_to(&[&target], MINUTE), answer).await;
    assert!(first.result.is_ok());
    // Waits in the limiter's queue for a second; the limiter and the breaker die meanwhile.
    let waiting = {
        let (system, target) = (system.clone(), target.clone());
        tokio::spawn(async move { system.call(call_to(&[&target], MINUTE), answer).await })
    };
    sleep(Duration::from_millis(300)).await;
    assert_eq!(system.snapshot().limiters[0].waiting, 1);
    assert!(system.kill("limiters/q") && system.kill("breakers/t"));
    let finished = waiting.await.unwrap();
    assert!(finished.result.is_ok());
    assert_eq!(finished.report.attempts, 1);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(leases(&system), 0);
}

#[tokio::test(start_paused = true)]
async fn trap_57_nobody_is_killed_for_being_busy() {
    let system = system().await;
    let target = target(&system, "t").await;
    let hour = MINUTE * 60;
    let call = system.call(call_to(&[&target], hour * 2), move |_| async move {
        sleep(hour).await;
        Outcome::<_, ()>::ok(())
    });
    let settings = StepSettings {
        deadline: hour * 2,
        run_timeout: hour * 2,
        ..StepSettings::default()
    };
    let step = system.spawn_step(settings, move |run| async move {
        sleep(hour).await;
        Ok::<_, ()>(run.number)
    });
    let step = step.await.unwrap();
    let (call, step) = tokio::join!(call, step.join());
    assert!(call.result.is_ok());
    assert_eq!((call.report.attempts, step.unwrap()), (1, 1));
    assert_eq!(system.snapshot().restarts, 0);
}

#[tokio::test(start_paused = true)]
async fn trap_59_a_subscriber_that_lags_is_told_so_and_goes_on() {
    let system = system().await;
    let mut events = system.events();
    let emit = || {
        system
            .shared_events()
            .emit(|| EventKind::BreakerHalfOpen { target: "t".into() });
    };
    for _ in 0..1500 {
        emit();
    }
    let Some(Heard::Lagged(lost)) = events.next().await else {
        panic!("nothing was lost")
    };
    assert_eq!(lost, 1500 - 1024);
    let Some(Heard::Event(next)) = events.next().await else {
        panic!("the stream has ended")
    };
    assert_eq!(next.seq, lost + 1);
    for _ in 0..1023 {
        assert!(matches!(events.next().await, Some(Heard::Event(_))));
    }
    emit();
    assert!(matches!(events.next().await, Some(Heard::Event(e)) if e.seq == 1501));
}

/// A provider that wasn't scheduled for a while meets at once what was sent apart, and refuses more of
/// it than the retry budget has: those calls wait for it, and are not failed with the 429.
#[tokio::test(start_paused = true)]
async fn a_refused_call_waits_for_the_retry_budget_and_not_longer_than_it_may() {
    const REFUSED: Verdict = Verdict::new("rate_limited", Blame::Quota, Again::Here);
    let system = system().await;
    let target = limited(&system, 600).await;
    let start = Instant::now();
    let sent = Arc::new(AtomicUsize::new(0));
    let refuse = |most: usize| {
        let sent = Arc::clone(&sent);
        move |_| {
            let refused = sent.fetch_add(1, Ordering::Relaxed) < most;
            async move {
                sleep(Duration::from_millis(50)).await;
                let second = Some(Duration::from_secs(1));
                match refused {
                    true => Outcome::failed("429", REFUSED.not_before(second)),
                    false => Outcome::ok(()),
                }
            }
        }
    };
    let all = |most: usize| {
        let mut calls = JoinSet::new();
        for _ in 0..75 {
            let (system, call, operation) =
                (system.clone(), call_to(&[&target], MINUTE), refuse(most));
            calls.spawn(async move { system.call(call, operation).await.result });
        }
        calls.join_all()
    };
    let results = all(40).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(sent.swap(0, Ordering::Relaxed), 115);
    // 10.5 s for the requests; the budget began with 10, earned 1 a second and 0.3 an answer.
    assert!(
        start.elapsed() < Duration::from_secs(16),
        "{:?}",
        start.elapsed()
    );

    // Whoever is refused for ever ends with the provider's word, in time, and without what it waited in.
    let start = Instant::now();
    let results = all(usize::MAX).await;
    assert!(
        results
            .iter()
            .all(|result| matches!(result, Err(CallError::Failed { error: "429", .. }))),
        "{results:?}"
    );
    assert!(start.elapsed() <= MINUTE, "{:?}", start.elapsed());
    // What the first part saved up, and 1 a second.
    assert!(sent.load(Ordering::Relaxed) <= 75 + 30 + 60, "{sent:?}");
    assert_eq!(system.snapshot().breakers[0].waiting, 0);
    assert_eq!(leases(&system), 0);
}
