//! What admission costs: knock at the breaker, reserve from three buckets, settle, report.
//!
//! The yardsticks run in the same rounds: one bare round trip to a task (tokio's mpsc there, a
//! oneshot back), and what one would write by hand (a semaphore and governor). Beside it, without a bar,
//! stands a whole call around an operation that is instant: on top of admission a caller drives it,
//! with its ladder, its retries and its alarm. Ratios are taken inside a round; what is printed is their
//! median. The limiter alone (reserve and settle, no breaker) has a bar of its own; `queue` tells what it
//! costs with many waiting. `--check` makes a missed bar fail, `--quick` makes short rounds, `--queue` runs
//! that part alone, `--callers N` one row alone, and `--only N` makes N calls and nothing else, for a
//! profiler: whole calls of one caller, or what `--subject` (`trip`, `hand`, `limiter`, `admission`, `call`)
//! and `--callers` say.

use std::error::Error;
use std::io::Write;
use std::num::NonZeroU32;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota as Cell, RateLimiter};
use seawall_actors::admission::Terms;
use seawall_actors::caller::{Attempt, Call, Outcome, Rung};
use seawall_actors::policy::quota::{Cost, QuotaSettings};
use seawall_actors::policy::retry::Retry;
use seawall_actors::policy::wait_queue::{Priority, Tenant};
use seawall_actors::system::{Quota, QuotaSpec, System, SystemSettings, Target, TargetSpec};
use seawall_actors::verdict::Verdict;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

mod queue;

type Failed = Box<dyn Error + Send + Sync>;

/// Callers at once, and the most round trips that an admission may cost.
const CALLERS: [(u32, f64); 3] = [(1, 5.0), (64, 5.0), (1024, 5.0)];

/// The most round trips that the limiter alone may cost, at 64 callers.
const LIMITER_BAR: (u32, f64) = (64, 3.0);

/// Limits that are counted and never met.
const PER_MINUTE: u64 = 1_000_000_000_000;

const HEADING: &str = "callers   round trip      by hand      limiter      admission     whole call   \
                       limiter÷trip admission÷trip  ÷ by hand";

const COST: Cost = Cost {
    requests: 1,
    input: 500,
    output: 200,
};

/// Everything that is measured.
#[derive(Debug, Clone)]
struct Subjects {
    system: System,
    /// What calls are called.
    name: Arc<str>,
    /// With three buckets.
    target: Target,
    quota: Quota,
    echo: mpsc::Sender<oneshot::Sender<u64>>,
    semaphore: Arc<Semaphore>,
    governor: Arc<DefaultDirectRateLimiter>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    RoundTrip,
    ByHand,
    Limiter,
    Admission,
    Call,
}

impl Subject {
    const ALL: [Self; 5] = [
        Self::RoundTrip,
        Self::ByHand,
        Self::Limiter,
        Self::Admission,
        Self::Call,
    ];
}

impl FromStr for Subject {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "trip" => Ok(Self::RoundTrip),
            "hand" => Ok(Self::ByHand),
            "limiter" => Ok(Self::Limiter),
            "admission" => Ok(Self::Admission),
            "call" => Ok(Self::Call),
            _ => Err(format!("no subject is called {word}")),
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` only wants to know that it starts.
    if arguments.iter().any(|argument| argument == "--test") {
        return ExitCode::SUCCESS;
    }
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failed::from)
        .and_then(|runtime| runtime.block_on(bench(&arguments)));
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// What follows an option.
fn value<'a>(arguments: &'a [String], option: &str) -> Option<&'a str> {
    let at = arguments.iter().position(|argument| argument == option)?;
    arguments.get(at.checked_add(1)?).map(String::as_str)
}

async fn bench(arguments: &[String]) -> Result<bool, Failed> {
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let mut tasks = JoinSet::new();
    let subjects = Subjects::new(&mut tasks).await?;
    let mut out = std::io::stdout();
    if let Some(calls) = value(arguments, "--only") {
        let subject = value(arguments, "--subject").map_or(Ok(Subject::Call), str::parse)?;
        let callers = value(arguments, "--callers").unwrap_or("1").parse()?;
        let nanos = subjects.run(subject, callers, calls.parse()?).await?;
        writeln!(out, "{nanos:.0} ns")?;
        return Ok(true);
    }
    if has("--queue") {
        let (_, holds) = queue::bench(has("--quick"), &mut out).await?;
        return Ok(holds || !has("--check"));
    }
    let (rounds, calls) = if has("--quick") {
        (5, 20_000)
    } else {
        (15, 100_000)
    };
    let (mut rows, mut holds) = (Vec::new(), true);
    writeln!(out, "{HEADING}")?;
    let row = value(arguments, "--callers").map(str::parse).transpose()?;
    for (callers, bar) in CALLERS {
        if row.is_some_and(|row: u32| row != callers) {
            continue;
        }
        let seen = subjects.rounds(callers, rounds, calls).await?;
        let [trip, by_hand, limiter, admission, _] = &seen;
        let (to_trip, to_hand) = (ratio(admission, trip), ratio(admission, by_hand));
        let limiter_to_trip = ratio(limiter, trip);
        let missed = to_trip > bar || (callers == LIMITER_BAR.0 && limiter_to_trip > LIMITER_BAR.1);
        holds &= !missed;
        let [trip, by_hand, limiter, admission, call] =
            seen.each_ref().map(|times| median(times.clone()));
        writeln!(
            out,
            "{callers:>7} {trip:>9.0} ns {by_hand:>9.0} ns {limiter:>9.0} ns {admission:>11.0} ns \
             {call:>11.0} ns {limiter_to_trip:>12.2} × {to_trip:>12.2} × {to_hand:>8.2} ×{}",
            if missed { "  MISSED" } else { "" }
        )?;
        rows.push(serde_json::json!({
            "callers": callers, "round_trip_ns": trip, "by_hand_ns": by_hand,
            "limiter_ns": limiter, "admission_ns": admission, "call_ns": call,
            "round_trips": to_trip, "at_most": bar, "by_hand": to_hand,
            "limiter_round_trips": limiter_to_trip,
        }));
    }
    let (limiter_callers, limiter_bar) = LIMITER_BAR;
    writeln!(
        out,
        "bars: admission ≤ {} round trips; limiter ≤ {limiter_bar} at {limiter_callers} callers",
        CALLERS[0].1
    )?;
    if row.is_some() {
        return Ok(holds || !has("--check"));
    }
    let (queued, queue_holds) = queue::bench(has("--quick"), &mut out).await?;
    holds &= queue_holds;
    let result = serde_json::json!({ "admission": rows, "queue": queued });
    writeln!(out, "{result}")?;
    subjects.system.stop().await;
    Ok(holds || !has("--check"))
}

impl Subjects {
    async fn new(tasks: &mut JoinSet<()>) -> Result<Self, Failed> {
        let system = System::start(SystemSettings::default()).await?;
        let settings = QuotaSettings {
            requests_per_minute: Some(PER_MINUTE),
            input_per_minute: Some(PER_MINUTE),
            output_per_minute: Some(PER_MINUTE),
            ..QuotaSettings::default()
        };
        let spec = QuotaSpec {
            settings,
            ..QuotaSpec::default()
        };
        let quota = system.quota("quota", spec).await?;
        let spec = || TargetSpec {
            quota: Some(quota.clone()),
            ..TargetSpec::default()
        };
        let target = system.target("target", spec).await?;
        let (echo, mut asked) = mpsc::channel::<oneshot::Sender<u64>>(1024);
        tasks.spawn(async move {
            let mut answered = 0_u64;
            while let Some(reply) = asked.recv().await {
                answered = answered.wrapping_add(1);
                if reply.send(answered).is_err() {
                    break;
                }
            }
        });
        let rate = NonZeroU32::new(1_000_000_000).ok_or("not zero")?;
        Ok(Self {
            system,
            name: "bench".into(),
            target,
            quota,
            echo,
            semaphore: Arc::new(Semaphore::new(4096)),
            governor: Arc::new(RateLimiter::direct(Cell::per_second(rate))),
        })
    }

    /// Nanoseconds of each subject, round by round.
    async fn rounds(&self, callers: u32, rounds: u32, calls: u32) -> Result<[Vec<f64>; 5], Failed> {
        let mut seen: [Vec<f64>; 5] = Default::default();
        for round in 0..=rounds {
            for (subject, times) in Subject::ALL.into_iter().zip(&mut seen) {
                let nanos = self.run(subject, callers, calls).await?;
                // The first round warms up: callers are hired, maps grow.
                if round > 0 {
                    times.push(nanos);
                }
            }
        }
        Ok(seen)
    }

    /// Nanoseconds of one admission while `callers` make `calls` in all.
    async fn run(&self, subject: Subject, callers: u32, calls: u32) -> Result<f64, Failed> {
        let each = (calls / callers).max(1);
        let began = Instant::now();
        let mut running = JoinSet::new();
        for _ in 0..callers {
            let subjects = self.clone();
            running.spawn(async move {
                for _ in 0..each {
                    subjects.once(subject).await?;
                }
                Ok::<(), Failed>(())
            });
        }
        while let Some(done) = running.join_next().await {
            done??;
        }
        let nanos = began.elapsed().as_secs_f64() * 1e9;
        Ok(nanos / f64::from(each) / f64::from(callers))
    }

    async fn once(&self, subject: Subject) -> Result<(), Failed> {
        match subject {
            Subject::RoundTrip => {
                let (reply, answer) = oneshot::channel();
                self.echo.send(reply).await?;
                answer.await?;
            }
            Subject::ByHand => {
                let permit = self.semaphore.acquire().await?;
                self.governor.until_ready().await;
                drop(permit);
            }
            Subject::Limiter => self.quota.reserve(self.terms()).await?.settle(COST),
            Subject::Admission => {
                let permit = self.system.admit(&self.target, self.terms()).await?;
                permit.finish(&Verdict::OK, Some(COST));
            }
            Subject::Call => self.call().await?,
        }
        Ok(())
    }

    fn terms(&self) -> Terms {
        let now = Instant::now();
        Terms {
            call: Arc::clone(&self.name),
            cost: COST,
            priority: Priority::Normal,
            tenant: Tenant::default(),
            again: false,
            until: now + Duration::from_secs(1),
            held_until: now + Duration::from_secs(60),
        }
    }

    async fn call(&self) -> Result<(), Failed> {
        let call = Call {
            id: Arc::clone(&self.name),
            rungs: vec![Rung::target(self.target.clone(), COST)],
            deadline: Instant::now() + Duration::from_secs(60),
            held_until: Instant::now() + Duration::from_secs(60),
            continues: false,
            patience: Duration::from_secs(1),
            priority: Priority::Normal,
            tenant: Tenant::default(),
            retry: Retry::default(),
            hedge: None,
        };
        let finished = self.system.call(call, instant).await;
        finished.result.map_err(Failed::from)
    }
}

async fn instant(_attempt: Attempt) -> Outcome<(), std::io::Error> {
    Outcome::ok(())
}

/// The median ratio of two subjects in the same rounds.
fn ratio(times: &[f64], yardstick: &[f64]) -> f64 {
    median(times.iter().zip(yardstick).map(|(a, b)| a / b).collect())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
