//! What a ladder costs while its first rung is healthy, what keeping its answers costs on top, and what
//! an answer from the cache costs, all beside seawall itself with one target and nothing else.
//!
//! A healthy ladder's requests say `no-store`: they are told from others as any, and neither looked up
//! nor kept. What a lookup takes is measured in the store itself, and added.

use std::hint::black_box;
use std::io::Write;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use seawall::cache::{Ages, CacheKey, Entry, Fingerprint, KeyParts, Scope, Settings, Store};
use tokio::time::Instant;

use crate::child::Child;
use crate::figures::{Bar, Sample, Table, micros};
use crate::load::{Kind, Load};
use crate::{CONNECTIONS, Outcome, Plan, cost, upstream};

const ONE_TARGET: &str = r#"
[routes.default]
ladder = ["upstream"]
[targets.upstream]
"#;

const LADDER: &str = r#"
[routes.default]
ladder = ["cache", "upstream", "smaller", "cache", "static"]
cache = { ttl = "10m", stale_if_error = "24h" }
static = { text = "Please try again in {retry_after}." }
[targets.upstream]
[targets.smaller]
model = "claude-haiku-5-5"
"#;

/// Entries that a lookup goes past.
const ENTRIES: u32 = 10_000;

const LOOKUPS: u32 = 200_000;

/// Into how many each round is cut: the figures lie so close together that a machine whose speed drifts
/// within a round decides which is smaller.
const CUTS: u32 = 4;

pub(crate) async fn measure(plan: Plan) -> Outcome<bool> {
    let plan = Plan {
        rounds: plan.rounds * CUTS,
        each: plan.each / CUTS,
        ..plan
    };
    let lookup_us = lookup_us().await?;
    let mut healthy = Table::new(
        "ladder",
        ["one target", "healthy ladder", "the same, answers kept"],
    );
    let mut hits = Table::new("cache", ["one target", "healthy ladder", "from the cache"]);
    for (kind, [ladder, keeping, cache]) in [
        (
            Kind::Whole,
            [
                "CPU µs an answer, healthy ladder and lookup",
                "CPU µs an answer, each kept",
                "CPU µs an answer, from the cache",
            ],
        ),
        (
            Kind::Stream,
            [
                "CPU µs a stream, healthy ladder and lookup",
                "CPU µs a stream, each kept",
                "CPU µs a stream, from the cache",
            ],
        ),
        (
            Kind::ChunkedStream,
            [
                "CPU µs a stream of chunks, healthy ladder and lookup",
                "CPU µs a stream of chunks, each kept",
                "CPU µs a stream of chunks, from the cache",
            ],
        ),
    ] {
        let mut kept = Vec::new();
        let mut cached = Vec::new();
        for [plain, mut ladder, keeping, hit] in rounds(plan, kind).await? {
            ladder.cpu_us += lookup_us;
            kept.push([plain.clone(), ladder.clone(), keeping]);
            cached.push([plain, ladder, hit]);
        }
        healthy.second(ladder, Bar::AtMost(1.1), &kept, |s| s.cpu_us);
        healthy.third(keeping, Bar::None, &kept, |s| s.cpu_us);
        hits.third(cache, Bar::AtMost(0.5), &cached, |s| s.cpu_us);
    }
    let out = &mut std::io::stdout();
    healthy.print(out)?;
    hits.print(out)?;
    writeln!(out, "of which a lookup: {lookup_us:.2} µs")?;
    Ok(healthy.holds() && hits.holds())
}

/// Every kind has processes of its own: a cache serves an answer in either form.
async fn rounds(plan: Plan, kind: Kind) -> Outcome<Vec<[Sample; 4]>> {
    let upstream = Child::again(&["upstream"])?;
    let start = |name, config| Child::configured(name, config, upstream.address);
    let plain = start("one-target", ONE_TARGET)?;
    let ladder = start("healthy-ladder", LADDER)?;
    let keeping = start("answers-kept", LADDER)?;
    let cache = start("from-the-cache", LADDER)?;
    // All ask something new each time, but for those that are to be served what is kept.
    let load = |child: &Child| Load::new(child.address, kind, CONNECTIONS);
    let varied = |child| load(child).varied();
    let unkept = |child| varied(child).no_store();
    let warm = Duration::from_millis(500);
    unkept(&plain).run(warm).await?;
    unkept(&ladder).run(warm).await?;
    varied(&keeping).run(warm).await?;
    let mut rounds = Vec::new();
    for _ in 0..plan.rounds {
        rounds.push([
            cost(&plain, unkept(&plain), plan.each).await?,
            cost(&ladder, unkept(&ladder), plan.each).await?,
            cost(&keeping, varied(&keeping), plan.each).await?,
            cost(&cache, load(&cache), plan.each).await?,
        ]);
    }
    Ok(rounds)
}

/// What it takes to look for an answer that is not there.
async fn lookup_us() -> Outcome<f64> {
    let now = Timestamp::now();
    let hour = Duration::from_secs(3_600);
    let settings = Settings {
        memory: 64 << 20,
        keep: hour,
        largest: 4 << 20,
        disk: None,
    };
    let store = Store::open(&settings, now)?;
    for number in 0..ENTRIES {
        let answer = upstream::ANSWER.as_bytes();
        let at = (now, settings.largest);
        let entry = Entry::of_body(StatusCode::OK, &HeaderMap::new(), answer, at)
            .map_err(|why| format!("the upstream's answer is not kept: {}", why.as_str()))?;
        store.put(key(number)?, entry);
    }
    let missing = key(ENTRIES)?;
    let ages = Ages {
        ttl: hour,
        stale_if_error: hour,
    };
    let began = Instant::now();
    for _ in 0..LOOKUPS {
        black_box(store.find(black_box(&missing), now, ages).await);
    }
    Ok(micros(began.elapsed()) / f64::from(LOOKUPS))
}

fn key(number: u32) -> Outcome<CacheKey> {
    let body = format!(r#"{{"model":"m","max_tokens":1,"messages":[{number}]}}"#);
    let fingerprint = Fingerprint::of(&KeyParts {
        scope: Scope::Tenant("bench"),
        route: "default",
        model: None,
        query: None,
        headers: &HeaderMap::new(),
        body: body.as_bytes(),
    });
    Ok(fingerprint.ok_or("no key")?.key)
}
