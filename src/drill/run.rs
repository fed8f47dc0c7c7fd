//! One scenario: each client on a thread, a runtime and a provider of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::client::{self, CallPlan, Client, ClientKind, Ended, Endpoint, Wiring};
use super::load::Arrival;
use super::meter::{AttemptEnd, AttemptLog, AttemptRecord, Meter};
use super::progress::{Line, Progress};
use super::score::{CallRecord, Observed, RunCount, Score};
use super::{ClientReport, DrillError, Options, Scenario, ScenarioReport};
use crate::sim::{self, Sim};
use crate::transport::Transport;

/// How much longer than its deadline a call is given to say itself that it is over.
const GRACE: Duration = Duration::from_millis(250);

/// Time for cancelled attempts and returned permits to arrive, before what is left is counted.
const SETTLE: Duration = Duration::from_secs(2);

/// Time that a client gets to stop.
const DRAIN: Duration = Duration::from_secs(30);

/// The simulated provider's calendar starts at the beginning of 2026.
const VIRTUAL_START: Duration = Duration::from_secs(1_767_225_600);

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
                let line = progress.line(&scenario.name, kind, scenario.load.calls());
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
        .map(|client| client.lasted)
        .max()
        .unwrap_or_default();
    Ok(ScenarioReport {
        scenario: scenario.clone(),
        lasted,
        clients,
    })
}

fn one_client(
    kind: ClientKind,
    scenario: &Scenario,
    options: &Options,
    line: Line,
) -> Result<ClientReport, DrillError> {
    let runtime = runtime(options.real.is_some()).map_err(DrillError::Start)?;
    let report = runtime.block_on(play(kind, scenario, options, line));
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
    options: &Options,
    line: Line,
) -> Result<ClientReport, DrillError> {
    let start = Instant::now();
    let provider = Provider::open(scenario, options).await?;
    let attempts = AttemptLog::new(start);
    let wiring = Wiring {
        transport: Arc::new(Meter::new(
            Arc::clone(&provider.transport),
            attempts.clone(),
        )),
        endpoint: provider.endpoint.clone(),
        scenario,
        seed: options.seed,
        unix_now: unix_now(options.real.is_some()),
    };
    let client = client::build(kind, &wiring)?;
    let callers = Arc::new(Callers {
        client: Arc::clone(&client),
        scenario: scenario.clone(),
        ladder: scenario.ladder.clone().into(),
        start,
        seen: Mutex::new(Seen {
            calls: Vec::new(),
            runs: RunCount::default(),
            issued: 0,
            line,
        }),
    });
    let arrivals = scenario.load.draw(options.seed);
    Arc::clone(&callers).come(&arrivals).await;
    let lasted = start.elapsed();
    sleep(SETTLE).await;
    let pending = client.in_flight();
    let drained = timeout(DRAIN, client.drain()).await.is_ok();
    let attempts = attempts.snapshot();
    let open = attempts
        .iter()
        .filter(|a| a.end == AttemptEnd::UnderWay)
        .count();
    let stats = provider.close().await;
    agree(scenario, kind, &attempts, &stats)?;
    let seen = callers.seen.lock();
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
        in_flight_at_end: left.fold(stats.in_flight, u64::max),
    });
    Ok(ClientReport {
        kind,
        score,
        calls: seen.calls.clone(),
        attempts,
        lasted,
    })
}

/// The callers of one drill and what they saw.
#[derive(Debug)]
struct Callers {
    client: Arc<dyn Client>,
    scenario: Scenario,
    ladder: Arc<[String]>,
    start: Instant,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    calls: Vec<CallRecord>,
    runs: RunCount,
    issued: u64,
    line: Line,
}

impl Callers {
    /// Starts every caller at its time and waits until the last has its end.
    async fn come(self: Arc<Self>, arrivals: &[Arrival]) {
        let mut callers = JoinSet::new();
        for arrival in arrivals {
            sleep_until(self.start + arrival.at).await;
            callers.spawn(Arc::clone(&self).one(*arrival));
            while callers.try_join_next().is_some() {}
        }
        while callers.join_next().await.is_some() {}
    }

    async fn one(self: Arc<Self>, arrival: Arrival) {
        let runs = self.scenario.load.is_runs();
        for _ in 0..arrival.steps {
            if !self.call(runs).await {
                self.seen.lock().runs.started += 1;
                return;
            }
        }
        let mut seen = self.seen.lock();
        seen.runs.started += 1;
        seen.runs.succeeded += 1;
    }

    /// Makes one call and says whether it succeeded.
    async fn call(&self, step: bool) -> bool {
        let issued = self.start.elapsed();
        let id = {
            let mut seen = self.seen.lock();
            seen.issued += 1;
            seen.line.asked(issued);
            seen.issued
        };
        let shape = self.scenario.request;
        let plan = CallPlan {
            id,
            ladder: Arc::clone(&self.ladder),
            input_tokens: shape.input_tokens,
            max_tokens: shape.max_tokens,
            stream: shape.stream,
            deadline: self.scenario.deadline,
        };
        let call = if step {
            self.client.run_step(plan)
        } else {
            self.client.call(plan)
        };
        let bound = self.scenario.deadline.saturating_add(GRACE);
        let mut end = timeout(bound, call)
            .await
            .unwrap_or(Ended::Failed { why: "deadline" });
        let ended = self.start.elapsed();
        if ended.saturating_sub(issued) > self.scenario.deadline {
            end = Ended::Failed { why: "deadline" };
        }
        let record = CallRecord { issued, ended, end };
        let mut seen = self.seen.lock();
        seen.calls.push(record);
        seen.line.ended(ended, end);
        record.succeeded()
    }
}

/// The provider of one client.
struct Provider {
    sim: Arc<Sim>,
    transport: Arc<dyn Transport>,
    endpoint: Endpoint,
    server: Option<Server>,
}

struct Server {
    stop: oneshot::Sender<()>,
    tasks: JoinSet<()>,
}

impl Provider {
    async fn open(scenario: &Scenario, options: &Options) -> Result<Self, DrillError> {
        let settings = sim::Settings {
            seed: options.seed,
            ..scenario.provider.clone()
        };
        let sim = Sim::new(settings).map_err(|error| DrillError::Provider {
            scenario: scenario.name.clone(),
            why: error.to_string(),
        })?;
        let Some(loopback) = &options.real else {
            let transport: Arc<dyn Transport> = Arc::new(sim.transport());
            let endpoint = Endpoint::new("http://sim.invalid")?;
            return Ok(Self {
                sim,
                transport,
                endpoint,
                server: None,
            });
        };
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = TcpListener::bind(any_port)
            .await
            .map_err(DrillError::Start)?;
        let address = listener.local_addr().map_err(DrillError::Start)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let mut tasks = JoinSet::new();
        let stopped = stopped.map(|_sent_or_dropped| ()).boxed();
        tasks.spawn((loopback.serve)(listener, Arc::clone(&sim), stopped));
        sim.follow_wall_clock();
        let transport = (loopback.transport)()
            .map_err(|error| DrillError::Start(std::io::Error::other(error)))?;
        let endpoint = Endpoint::new(&format!("http://{address}"))?;
        Ok(Self {
            sim,
            transport,
            endpoint,
            server: Some(Server { stop, tasks }),
        })
    }

    async fn close(self) -> sim::Stats {
        let stats = self.sim.stats();
        if let Some(Server { stop, mut tasks }) = self.server {
            // Nobody left to hear it means that the server has stopped already.
            let _heard = stop.send(());
            if timeout(DRAIN, tasks.join_next()).await.is_err() {
                tasks.abort_all();
            }
        }
        stats
    }
}

/// Time since the Unix epoch. Virtual drills start at a fixed moment, so that no header, and no
/// draw that follows from one, depends on the day.
fn unix_now(real: bool) -> Duration {
    if !real {
        return VIRTUAL_START;
    }
    u64::try_from(jiff::Timestamp::now().as_millisecond())
        .map_or(VIRTUAL_START, Duration::from_millis)
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

/// Fails unless the provider saw what the meter saw.
///
/// A client that leaves before the headers may have left before its request arrived, or after its
/// answer was decided: only such attempts may be missing on either side.
fn agree(
    scenario: &Scenario,
    kind: ClientKind,
    attempts: &[AttemptRecord],
    stats: &sim::Stats,
) -> Result<(), DrillError> {
    let count = |chosen: &dyn Fn(&AttemptRecord) -> bool| {
        u64::try_from(attempts.iter().filter(|a| chosen(a)).count()).unwrap_or(u64::MAX)
    };
    let unsure = count(&|a| a.status.is_none() && a.end == AttemptEnd::Departed);
    let check = |what: String, metered: u64, provider: u64, fits: bool| {
        if fits {
            return Ok(());
        }
        let (scenario, client) = (scenario.name.clone(), kind.as_str());
        Err(DrillError::Disagreement {
            scenario,
            client,
            what,
            metered,
            provider,
        })
    };
    let (all, seen) = (count(&|_| true), stats.attempts);
    check(
        "attempts".to_owned(),
        all,
        seen,
        seen <= all && all - seen <= unsure,
    )?;
    let mut statuses: Vec<_> = attempts.iter().filter_map(|a| a.status).collect();
    statuses.sort_unstable();
    statuses.dedup();
    for status in statuses {
        let (got, given) = (count(&|a| a.status == Some(status)), stats.answered(status));
        let what = format!("answers with status {status}");
        check(what, got, given, given >= got && given - got <= unsure)?;
    }
    let got = count(&|a| a.status == Some(429));
    let fits = stats.provider_429 >= got && stats.provider_429 - got <= unsure;
    check(
        "answers with status 429 in all".to_owned(),
        got,
        stats.provider_429,
        fits,
    )
}

#[cfg(test)]
mod tests {
    use super::super::load::Load;
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
                table::render(&report),
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

    #[test]
    fn a_provider_that_counted_otherwise_is_not_believed() {
        let scenario = Scenario::find("outage").unwrap();
        let attempt = |status, end| AttemptRecord {
            started: Duration::ZERO,
            ended: Some(Duration::ZERO),
            model: scenario.primary().to_owned(),
            status,
            end,
        };
        let whole = attempt(Some(200), AttemptEnd::Whole);
        let left = attempt(None, AttemptEnd::Departed);
        let agrees = |attempts: &[AttemptRecord], stats: &sim::Stats| {
            agree(&scenario, ClientKind::Sdk, attempts, stats).is_ok()
        };
        let none = sim::Stats::default();
        let one = sim::Stats {
            attempts: 1,
            ..sim::Stats::default()
        };
        assert!(agrees(&[], &none));
        assert!(!agrees(&[], &one));
        assert!(!agrees(std::slice::from_ref(&whole), &one));
        assert!(agrees(std::slice::from_ref(&left), &none));
        assert!(agrees(&[left], &one));
    }
}
