//! The gateway beside a minimal hyper pass-through, both in front of the same instant upstream.
//!
//! Every part is a process of its own: this binary runs itself again as upstream and as
//! pass-through, and starts the real `seawall serve`. Rounds alternate between the three, ratios are
//! taken inside a round, and what is printed is their median. `--check` makes a missed bar fail,
//! `--quick` makes short rounds, and the name of a case runs that one alone: `pass-through` or
//! `ladder`.

mod child;
mod figures;
mod ladder;
mod load;
mod pass_through;
mod upstream;

use std::error::Error;
use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use child::Child;
use figures::{Bar, Sample, Table};
use load::{Kind, Load};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Connections of the throughput rounds.
const CONNECTIONS: usize = 64;

/// Connections of the latency rounds: too few to keep the machine busy.
const QUIET: usize = 2;

/// Streams held open for the memory figure.
const OPEN_STREAMS: usize = 1_000;

/// What can be run alone.
const CASES: [&str; 2] = ["pass-through", "ladder"];

/// How long and how often is measured.
#[derive(Debug, Clone, Copy)]
struct Plan {
    rounds: u32,
    each: Duration,
    check: bool,
    pass_through: bool,
    ladder: bool,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.first().map(String::as_str) {
        Some("upstream") => upstream::run(),
        // Alone it is the name of the case.
        Some("pass-through") if arguments.get(1).is_some_and(|next| !next.starts_with('-')) => {
            pass_through::run(&arguments)
        }
        // `cargo test --benches` only wants to know that it starts.
        Some("--test") => Ok(true),
        _ => bench(&arguments),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "error: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn bench(arguments: &[String]) -> Outcome<bool> {
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let case = |name: &str| has(name) || !CASES.into_iter().any(has);
    let plan = Plan {
        rounds: if has("--quick") { 3 } else { 7 },
        each: Duration::from_millis(if has("--quick") { 700 } else { 2_000 }),
        check: has("--check"),
        pass_through: case("pass-through"),
        ladder: case("ladder"),
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(measure(plan))
}

/// The upstream and what stands in front of it.
struct Stage {
    upstream: Child,
    pass_through: Child,
    /// The pass-through that writes each frame on its own.
    each_frame: Child,
    seawall: Child,
}

impl Stage {
    fn set() -> Outcome<Self> {
        let upstream = Child::again(&["upstream"])?;
        let address = upstream.address.to_string();
        Ok(Self {
            pass_through: Child::again(&["pass-through", &address])?,
            each_frame: Child::again(&["pass-through", &address, "each"])?,
            seawall: Child::seawall(upstream.address)?,
            upstream,
        })
    }
}

async fn measure(plan: Plan) -> Outcome<bool> {
    let mut holds = true;
    if plan.pass_through {
        holds &= beside_pass_through(plan).await?;
    }
    if plan.ladder {
        holds &= ladder::measure(plan).await?;
    }
    Ok(!plan.check || holds)
}

async fn beside_pass_through(plan: Plan) -> Outcome<bool> {
    let stage = Stage::set()?;
    let mut table = Table::new("gateway", ["upstream", "pass-through", "seawall"]);
    whole_answers(&stage, plan, &mut table).await?;
    quiet_answers(&stage, plan, &mut table).await?;
    streams(&stage, plan, &mut table).await?;
    events(&stage, plan, &mut table).await?;
    first_content(&stage, plan, &mut table).await?;
    drop(stage);
    memory(&mut table).await?;
    table.print(&mut std::io::stdout())?;
    Ok(table.holds())
}

/// Runs one load on one process and reads what it cost.
async fn sample(child: &Child, kind: Kind, connections: usize, each: Duration) -> Outcome<Sample> {
    cost(child, Load::new(child.address, kind, connections), each).await
}

async fn cost(child: &Child, load: Load, each: Duration) -> Outcome<Sample> {
    // The first requests open connections and learn limits.
    load.run(each / 10).await?;
    let before = child.cpu()?;
    let mut seen = load.run(each).await?;
    let cpu = child.cpu()?.saturating_sub(before);
    Ok(Sample::new(&mut seen, cpu))
}

async fn whole_answers(stage: &Stage, plan: Plan, table: &mut Table) -> Outcome<()> {
    let mut rounds = Vec::new();
    for _ in 0..plan.rounds {
        let run = |child| sample(child, Kind::Whole, CONNECTIONS, plan.each);
        rounds.push([
            run(&stage.upstream).await?,
            run(&stage.pass_through).await?,
            run(&stage.seawall).await?,
        ]);
    }
    table.row(
        "answers/s, 64 connections",
        Bar::AtLeast(0.5),
        &rounds,
        |s| s.per_second,
    );
    table.row("CPU µs an answer", Bar::AtMost(2.0), &rounds, |s| s.cpu_us);
    table.added(
        "added p50 µs, 64 connections",
        Bar::AtMost(2.0),
        &rounds,
        |s| s.p50_us,
    );
    table.added("added p99 µs, 64 connections", Bar::None, &rounds, |s| {
        s.p99_us
    });
    Ok(())
}

async fn quiet_answers(stage: &Stage, plan: Plan, table: &mut Table) -> Outcome<()> {
    let mut rounds = Vec::new();
    for _ in 0..plan.rounds {
        let run = |child| sample(child, Kind::Whole, QUIET, plan.each / 2);
        rounds.push([
            run(&stage.upstream).await?,
            run(&stage.pass_through).await?,
            run(&stage.seawall).await?,
        ]);
    }
    table.added(
        "added p50 µs, 2 connections",
        Bar::AtMost(2.0),
        &rounds,
        |s| s.p50_us,
    );
    table.added("added p99 µs, 2 connections", Bar::None, &rounds, |s| {
        s.p99_us
    });
    Ok(())
}

async fn streams(stage: &Stage, plan: Plan, table: &mut Table) -> Outcome<()> {
    let (mut rounds, mut against_plain) = (Vec::new(), Vec::new());
    let (mut chunked_rounds, mut chunked) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let run = |child| sample(child, Kind::Stream, CONNECTIONS, plan.each);
        let direct = run(&stage.upstream).await?;
        let plain = run(&stage.pass_through).await?;
        let each = run(&stage.each_frame).await?;
        let seawall = run(&stage.seawall).await?;
        rounds.push([direct.clone(), each, seawall.clone()]);
        against_plain.push([direct, plain, seawall]);
        let run = |child| sample(child, Kind::ChunkedStream, CONNECTIONS, plan.each);
        let direct = run(&stage.upstream).await?;
        let plain = run(&stage.pass_through).await?;
        let each = run(&stage.each_frame).await?;
        let seawall = run(&stage.seawall).await?;
        chunked_rounds.push([direct.clone(), each, seawall.clone()]);
        chunked.push([direct, plain, seawall]);
    }
    table.row(
        "streams/s, against each frame written on its own",
        Bar::AtLeast(2.0),
        &rounds,
        |s| s.per_second,
    );
    table.row(
        "the same, a chunk an event",
        Bar::None,
        &chunked_rounds,
        |s| s.per_second,
    );
    for (name, cpu, rounds) in [
        ("streams/s", "CPU µs a stream", &against_plain),
        (
            "streams/s, a chunk an event",
            "CPU µs a stream, a chunk an event",
            &chunked,
        ),
    ] {
        table.row(name, Bar::None, rounds, |s| s.per_second);
        table.row(cpu, Bar::None, rounds, |s| s.cpu_us);
    }
    Ok(())
}

async fn events(stage: &Stage, plan: Plan, table: &mut Table) -> Outcome<()> {
    let mut rounds = Vec::new();
    for _ in 0..plan.rounds {
        let run = |child| sample(child, Kind::LongStream, QUIET, plan.each);
        let direct = run(&stage.upstream).await?;
        let plain = run(&stage.pass_through).await?;
        let seawall = run(&stage.seawall).await?;
        rounds.push([direct, plain, seawall]);
    }
    let events = f64::from(upstream::LONG);
    table.difference("CPU µs an event", Bar::AtMost(5.0), &rounds, |s| {
        s.cpu_us / events
    });
    table.difference("p50 µs an event", Bar::AtMost(5.0), &rounds, |s| {
        s.p50_us / events
    });
    Ok(())
}

async fn first_content(stage: &Stage, plan: Plan, table: &mut Table) -> Outcome<()> {
    let mut rounds = Vec::new();
    for _ in 0..plan.rounds {
        let run = |child| sample(child, Kind::Stream, QUIET, plan.each);
        let direct = run(&stage.upstream).await?;
        let plain = run(&stage.pass_through).await?;
        let seawall = run(&stage.seawall).await?;
        rounds.push([direct, plain, seawall]);
    }
    table.difference("first content p50 µs", Bar::None, &rounds, |s| {
        s.first_p50_us
    });
    table.difference("first content p99 µs", Bar::AtMost(300.0), &rounds, |s| {
        s.first_p99_us
    });
    Ok(())
}

/// Memory of open streams, in fresh processes: a heap that has grown hides what it takes.
async fn memory(table: &mut Table) -> Outcome<()> {
    let stage = Stage::set()?;
    let mut sizes = Vec::new();
    for child in [&stage.upstream, &stage.pass_through, &stage.seawall] {
        sizes.push(held(child).await?);
    }
    let &[direct, plain, seawall] = sizes.as_slice() else {
        return Err("three were measured".into());
    };
    let round = [direct, plain, seawall].map(|kib| Sample {
        per_second: kib,
        ..Sample::default()
    });
    table.row("KiB an open stream", Bar::AtMost(2.0), &[round], |s| {
        s.per_second
    });
    Ok(())
}

async fn held(child: &Child) -> Outcome<f64> {
    Load::new(child.address, Kind::Whole, 1)
        .run(Duration::from_millis(200))
        .await?;
    let before = child.rss_kib()?;
    let streams = load::hold(child.address, OPEN_STREAMS).await?;
    let grown = child.rss_kib()?.saturating_sub(before);
    drop(streams);
    let open = f64::from(u32::try_from(OPEN_STREAMS)?);
    Ok(f64::from(u32::try_from(grown)?) / open)
}

fn parse_address(text: Option<&String>) -> Outcome<SocketAddr> {
    Ok(text.ok_or("an address is missing")?.parse()?)
}
