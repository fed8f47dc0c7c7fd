//! One scenario: each client on a thread, a runtime and a provider of its own.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::callers::Callers;
use self::provider::{Provider, unix_now};
use super::agreement::{self, Evidence};
use super::client::{self, ClientKind, Wiring};
use super::meter::{AttemptLog, Meter};
use super::progress::{Line, Progress};
use super::published::Catcher;
use super::score::{Observed, Score};
use super::{ClientReport, DrillError, Options, Scenario, ScenarioReport};
use crate::sim;

mod callers;
mod provider;

/// Time for cancelled attempts and returned permits to arrive, before what is left is counted.
const SETTLE: Duration = Duration::from_secs(2);

/// How often it is looked whether all has arrived.
const LOOK: Duration = Duration::from_millis(10);

/// Time that a client gets to stop.
const DRAIN: Duration = Duration::from_secs(30);

/// Plays one scenario with every client.
pub(super) fn scenario(
    scenario: &Scenario,
    options: &Options,
    progress: &Progress,
) -> Result<ScenarioReport, DrillError> {
    scenario.validate()?;
    let clients = thread::scope(|scope| {
        let running: Vec<_> = options
            .clients
            .iter()
            .map(|&kind| {
                let line = progress.line(&scenario.name, kind, scenario.calls());
                (
                    kind,
                    scope.spawn(move || one_client(kind, scenario, options, line)),
                )
            })
            .collect();
        running
            .into_iter()
            .map(|(kind, thread)| {
                thread.join().unwrap_or_else(|_| {
                    let (scenario, client) = (scenario.name.clone(), kind.as_str());
                    Err(DrillError::Crashed { scenario, client })
                })
            })
            .collect::<Result<Vec<_>, _>>()
    })?;
    let lasted = clients
        .iter()
        .map(|(client, _)| client.lasted)
        .max()
        .unwrap_or_default();
    Ok(ScenarioReport {
        scenario: scenario.clone(),
        lasted,
        interrupted: clients.iter().any(|(_, broken_off)| *broken_off),
        clients: clients.into_iter().map(|(client, _)| client).collect(),
    })
}

/// The report, and whether the drill was broken off.
fn one_client(
    kind: ClientKind,
    scenario: &Scenario,
    options: &Options,
    line: Line,
) -> Result<(ClientReport, bool), DrillError> {
    let runtime = runtime(options.real.is_some()).map_err(DrillError::Start)?;
    let caught = (kind == ClientKind::Seawall)
        .then(Catcher::new)
        .transpose()?;
    let drive = || runtime.block_on(play(kind, scenario, (options, caught.as_ref()), line));
    let report = match &caught {
        Some(catcher) => catcher.around(drive),
        None => drive(),
    };
    runtime.shutdown_background();
    report
}

// One thread, so that the same seed wakes the same tasks in the same order.
fn runtime(real: bool) -> std::io::Result<Runtime> {
    let mut builder = Builder::new_current_thread();
    if real {
        return builder.enable_all().build();
    }
    builder.enable_time().start_paused(true).build()
}

async fn play(
    kind: ClientKind,
    scenario: &Scenario,
    (options, caught): (&Options, Option<&Catcher>),
    line: Line,
) -> Result<(ClientReport, bool), DrillError> {
    let arrivals = scenario.arrivals(options.seed);
    let provider = Provider::open(scenario, options).await?;
    let start = Instant::now();
    let attempts = AttemptLog::new(start);
    let meter = Meter::new(Arc::clone(&provider.transport), attempts.clone());
    let wiring = Wiring {
        transport: Arc::new(meter),
        endpoint: provider.endpoint.clone(),
        scenario,
        seed: options.seed,
        unix_now: unix_now(options.real.is_some()),
    };
    let client = client::build(kind, &wiring)?;
    let callers = Callers::new(Arc::clone(&client), scenario, start, line);
    let broken_off = tokio::select! {
        biased;
        () = Arc::clone(&callers).come(&arrivals) => false,
        () = stopped(options.stop.clone()) => true,
    };
    let lasted = start.elapsed();
    settle(options.real.is_some(), || {
        client.in_flight() == 0 && provider.in_flight() == 0 && attempts.open() == 0
    })
    .await;
    let pending = client.in_flight();
    let drained = timeout(DRAIN, client.drain()).await.is_ok();
    let open = attempts.open();
    let attempts = attempts.snapshot();
    let stats = provider.close().await;
    let published = caught.map(|catcher| catcher.published(client.asked()));
    let agreed = agreement::check(&Evidence {
        calls: &callers.seen().calls,
        attempts: &attempts,
        ladder: &scenario.ladder,
        stats: &stats,
        published: published.as_ref(),
    })
    .map_err(|difference| DrillError::Disagreement {
        scenario: scenario.name.clone(),
        client: kind.as_str(),
        difference,
    })?;
    let seen = callers.seen();
    seen.line.finish();
    let left = [pending, open, usize::from(!drained)];
    let left = left
        .into_iter()
        .map(|n| u64::try_from(n).unwrap_or(u64::MAX));
    let score = Score::of(&Observed {
        calls: &seen.calls,
        attempts: &attempts,
        primary: scenario.primary(),
        fault: scenario.fault,
        quota: binding_quota(&stats),
        runs: scenario.load.is_runs().then_some(seen.runs),
        mix: scenario.load.mix(),
        ideal: scenario.ideal(),
        in_flight_at_end: left.fold(stats.in_flight, u64::max),
    });
    let report = ClientReport {
        kind,
        score,
        calls: seen.calls.clone(),
        attempts,
        lasted,
        agreed,
    };
    Ok((report, broken_off))
}

/// Gives what was cancelled time to arrive. In real time no longer than it takes; in virtual time it
/// costs nothing.
async fn settle(real: bool, settled: impl Fn() -> bool) {
    let until = Instant::now() + SETTLE;
    if !real {
        return sleep_until(until).await;
    }
    while !settled() && Instant::now() < until {
        sleep(LOOK).await;
    }
}

/// Resolves when the drill is to break off.
async fn stopped(stop: Option<watch::Receiver<bool>>) {
    if let Some(mut stop) = stop
        && stop.wait_for(|stop| *stop).await.is_ok()
    {
        return;
    }
    // Nobody is left who could stop it.
    std::future::pending().await
}

/// Charged units and the limit of the provider's axis that was used most.
fn binding_quota(stats: &sim::Stats) -> Option<(u64, u64)> {
    let axes = stats
        .quotas
        .iter()
        .flat_map(|quota| [quota.requests, quota.input_tokens, quota.output_tokens]);
    axes.flatten()
        .max_by(|a, b| a.used.total_cmp(&b.used))
        .map(|axis| (axis.charged, axis.limit))
}

#[cfg(test)]
mod tests {
    use super::super::load::{Load, Stage};
    use super::super::scenario::Limits;
    use super::super::{Report, run, table};
    use super::*;
    use crate::drill::report;

    const PEERS: [ClientKind; 2] = [ClientKind::Sdk, ClientKind::Naive];

    fn drill(scenario: Scenario, clients: &[ClientKind], seed: u64) -> Report {
        let mut options = Options::new(vec![scenario], seed);
        options.clients = clients.to_vec();
        run(&options).unwrap()
    }

    fn score(report: &Report, kind: ClientKind) -> &Score {
        let clients = &report.scenarios[0].clients;
        &clients
            .iter()
            .find(|client| client.kind == kind)
            .unwrap()
            .score
    }

    fn short_outage() -> Scenario {
        let mut outage = Scenario::find("outage").unwrap();
        outage.load = Load::Open {
            calls_per_second: 5.0,
            lasting: Duration::from_secs(130),
        };
        outage
    }

    #[test]
    fn the_same_seed_prints_the_same_bytes() {
        let print = |seed| {
            let report = drill(short_outage(), &PEERS, seed);
            (
                report.to_json(true).unwrap(),
                table::render(&report, None),
                report::render(&report).unwrap(),
            )
        };
        let once = print(3);
        assert!(once == print(3));
        assert!(once.0 != print(4).0);
    }

    #[test]
    fn an_outage_takes_every_call_of_the_plain_clients_with_it() {
        let report = drill(short_outage(), &PEERS, 1);
        let (sdk, naive) = (
            score(&report, ClientKind::Sdk),
            score(&report, ClientKind::Naive),
        );
        assert_eq!((sdk.calls, sdk.calls_during_fault), (650, Some(300)));
        assert_eq!(naive.attempts, 650);
        assert!(naive.succeeded.abs_diff(350) <= 2, "{}", naive.succeeded);
        assert!(
            sdk.succeeded > naive.succeeded && sdk.succeeded <= 360,
            "{}",
            sdk.succeeded
        );
        assert!(sdk.attempts_during_fault.is_some_and(|sent| sent > 850));
        assert_eq!((sdk.detect_ms, naive.detect_ms), (None, None));
        assert_eq!((sdk.in_flight_at_end, naive.in_flight_at_end), (0, 0));
        assert!(naive.recover_ms.is_some_and(|ms| ms < 2_000));
        assert!(
            naive.p50_ms.is_some_and(|ms| (800..=1_500).contains(&ms)),
            "{:?}",
            naive.p50_ms
        );
    }

    #[test]
    fn one_in_five_naive_runs_survives_fifteen_percent() {
        let report = drill(Scenario::find("flaky").unwrap(), &[ClientKind::Naive], 1);
        let rate = score(&report, ClientKind::Naive).run_success_rate.unwrap();
        assert!((rate - 0.20).abs() <= 0.09, "{rate}");
    }

    #[test]
    fn a_ladder_answers_every_call_and_the_same_seed_prints_the_same_bytes() {
        let play = |seed| {
            let mut ladder = Scenario::find("outage-ladder").unwrap();
            ladder.load = Load::Open {
                calls_per_second: 5.0,
                lasting: Duration::from_secs(110),
            };
            drill(ladder, &[ClientKind::Seawall], seed)
        };
        let report = play(3);
        let found = score(&report, ClientKind::Seawall);
        assert_eq!((found.calls, found.succeeded), (550, 550));
        let by = found.degraded_by;
        assert!(by.model > 50 && by.cache > 5 && by.fixed > 30, "{by:?}");
        assert_eq!(found.degraded, by.sum());
        let calls = &report.scenarios[0].clients[0].calls;
        let stood_in = calls.iter().filter(|call| !call.by_target());
        let times: Vec<_> = stood_in.map(|call| call.ended.as_secs()).collect();
        // A model that nobody has asked yet lets few in at once until its first answers are there, and who
        // waits no longer than a second can't wait for them. That it is back is found within the 5 s in
        // which those who wait look for it.
        let alone = |at: &u64| (60..63).contains(at) || (80..106).contains(at);
        assert!(times.iter().all(alone), "{times:?}");
        let json = report.to_json(true).unwrap();
        assert_eq!(json, play(3).to_json(true).unwrap());
        assert_ne!(json, play(4).to_json(true).unwrap());
        let page = report::render(&report).unwrap();
        assert!(page.contains("model/cache/static"));
    }

    #[test]
    fn a_bar_counts_against_seawall_only() {
        let report = drill(short_outage(), &PEERS, 1);
        assert_eq!(
            (report.missed().count(), report.scenarios[0].bars_checked()),
            (0, 0)
        );
    }

    #[test]
    fn a_prompt_is_as_large_as_the_scenario_says() {
        let mut overload = Scenario::find("overload").unwrap();
        overload.load = Load::Open {
            calls_per_second: 1.0,
            lasting: Duration::from_secs(10),
        };
        let report = drill(overload, &[ClientKind::Naive], 1);
        // Ten calls of 2,000 tokens within ten to eleven seconds of demand at 10,000 a second.
        let used = score(&report, ClientKind::Naive).quota_used.unwrap();
        assert!((0.17..=0.35).contains(&used), "{used}");
    }

    fn mixed(of_quota: f64) -> Scenario {
        let mut mixed = Scenario::find("limits-120").unwrap();
        let Load::Mix(mix) = &mut mixed.load else {
            panic!("{:?}", mixed.load);
        };
        mix.stages = vec![Stage {
            of_quota,
            lasting: Duration::from_secs(60),
        }];
        mix.flood = 0.5;
        mixed
    }

    #[test]
    fn a_mix_meets_a_quota_with_every_class_and_every_tenant() {
        let report = drill(mixed(1.2), &PEERS, 3);
        for kind in PEERS {
            let score = score(&report, kind);
            let classes = score.classes.as_ref().unwrap();
            let made: u64 = classes.values().map(|class| class.calls).sum();
            assert_eq!((score.calls, made), (720, 720));
            assert!(classes.values().all(|class| class.lost > 0), "{classes:?}");
            // These clients wait for nothing before their first attempt, and refuse nobody.
            assert!(classes.values().all(|class| class.p99_wait_ms == Some(0)));
            assert_eq!(
                (score.refused, score.interactive_p99_wait_over_batch),
                (0, None)
            );
            assert!(
                score
                    .fairness
                    .is_some_and(|index| index > 0.9 && index < 1.0)
            );
            assert!(
                score
                    .throughput_over_ideal
                    .is_some_and(|share| (0.95..=1.02).contains(&share))
            );
            let refused = score.provider_429_per_1000_after_10s.unwrap();
            assert!(
                refused > 100.0 && score.provider_429_first_10s > 5,
                "{refused}"
            );
        }
    }

    #[test]
    fn two_systems_with_half_of_a_quota_each_use_all_of_it() {
        let mut two = mixed(1.2);
        two.systems = 2;
        two.limits = Some(Limits {
            requests_per_minute: Some(300),
            ..Limits::default()
        });
        let report = drill(two, &[ClientKind::Seawall], 3);
        let score = score(&report, ClientKind::Seawall);
        assert_eq!((score.provider_429, score.in_flight_at_end), (0, 0));
        assert!(
            score
                .throughput_over_ideal
                .is_some_and(|share| share > 0.95),
            "{score:?}"
        );
        assert!(report.scenarios[0].clients[0].agreed > 10);
    }
}
