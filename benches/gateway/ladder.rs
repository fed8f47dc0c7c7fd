//! What a ladder costs while its first rung is healthy, and what an answer from the cache costs, both
//! beside seawall itself with one target and nothing else.

use std::time::Duration;

use crate::child::Child;
use crate::figures::{Bar, Sample, Table};
use crate::load::{Kind, Load};
use crate::{CONNECTIONS, Outcome, Plan, cost};

const ONE_TARGET: &str = r#"
[routes.default]
ladder = ["upstream"]
[targets.upstream]
"#;

const LADDER: &str = r#"
[routes.default]
ladder = ["upstream", "smaller", "cache", "static"]
cache = { ttl = "10m", stale_if_error = "24h" }
static = { text = "Please try again in {retry_after}." }
[targets.upstream]
[targets.smaller]
model = "claude-haiku-5-5"
"#;

const CACHE: &str = r#"
[routes.default]
ladder = ["cache", "upstream"]
cache = { ttl = "10m", stale_if_error = "24h" }
[targets.upstream]
"#;

pub(crate) async fn measure(plan: Plan) -> Outcome<bool> {
    let columns = ["one target", "healthy ladder", "from the cache"];
    let mut table = Table::new("ladder", columns);
    for (kind, ladder, cache) in [
        (
            Kind::Whole,
            "CPU µs an answer, healthy ladder",
            "CPU µs an answer, from the cache",
        ),
        (
            Kind::Stream,
            "CPU µs a stream, healthy ladder",
            "CPU µs a stream, from the cache",
        ),
        (
            Kind::ChunkedStream,
            "CPU µs a stream of chunks, healthy ladder",
            "CPU µs a stream of chunks, from the cache",
        ),
    ] {
        let rounds = rounds(plan, kind).await?;
        table.second(ladder, Bar::AtMost(1.1), &rounds, |s| s.cpu_us);
        table.third(cache, Bar::AtMost(0.5), &rounds, |s| s.cpu_us);
    }
    table.print(&mut std::io::stdout())?;
    Ok(table.holds())
}

/// Every kind has processes of its own: a cache serves an answer in either form.
async fn rounds(plan: Plan, kind: Kind) -> Outcome<Vec<[Sample; 3]>> {
    let upstream = Child::again(&["upstream"])?;
    let start = |name, config| Child::configured(name, config, upstream.address);
    let plain = start("one-target", ONE_TARGET)?;
    let ladder = start("healthy-ladder", LADDER)?;
    let cache = start("from-the-cache", CACHE)?;
    let warm = Duration::from_millis(500);
    for child in [&plain, &ladder] {
        let load = Load::new(child.address, kind, CONNECTIONS);
        load.varied().run(warm).await?;
    }
    let mut rounds = Vec::new();
    for _ in 0..plan.rounds {
        // All ask something new each time, but for those that are to be served what is kept.
        let varied = |child: &Child| Load::new(child.address, kind, CONNECTIONS).varied();
        let same = Load::new(cache.address, kind, CONNECTIONS);
        rounds.push([
            cost(&plain, varied(&plain), plan.each).await?,
            cost(&ladder, varied(&ladder), plan.each).await?,
            cost(&cache, same, plan.each).await?,
        ]);
    }
    Ok(rounds)
}
