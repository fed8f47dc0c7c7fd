//! What the cache costs: a request's key, a lookup, and an answer that goes out again.
//!
//! The yardsticks run in the same rounds: SHA-256 over the body, below which no key by that digest can
//! be, and the one pass that every request is read in anyway. Printed are the fastest rounds, and the
//! median of the key's ratio to reading and hashing together. `--check` makes a missed bar fail,
//! `--quick` makes few rounds.

use std::error::Error;
use std::fmt::Write as _;
use std::hint::black_box;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use seawall::cache::{
    Ages, CacheKey, Entry, Fingerprint, KeyParts, Recording, Scope, Settings, Store,
};
use seawall::provider::anthropic::request::RequestView;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

type Failed = Box<dyn Error + Send + Sync>;

/// The most that a key may cost of reading the body once and hashing it once.
const BAR: f64 = 1.0;

const LARGEST: usize = 1 << 20;

const AGES: Ages = Ages {
    ttl: Duration::from_secs(3600),
    stale_if_error: Duration::from_secs(86_400),
};

/// Words as they come in prompts: with lines, quotes and a character beyond ASCII now and then.
const WORDS: &str =
    "Read the log below and say \"why\" the wall broke – then list\nwhat holds the sea back.\n";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    // `cargo test --benches` only wants to know that it starts.
    if has("--test") {
        return ExitCode::SUCCESS;
    }
    let rounds = if has("--quick") { 20 } else { 200 };
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failed::from)
        .and_then(|runtime| {
            let held = keys(rounds)?;
            runtime.block_on(hits(rounds))?;
            Ok(held || !has("--check"))
        });
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// A conversation of about so many bytes, with a tool and a system prompt.
fn request(bytes: usize) -> Bytes {
    let text = |bytes: usize| WORDS.chars().cycle().take(bytes).collect::<String>();
    let mut messages = Vec::new();
    let turns = (bytes / 2_000).clamp(1, 20);
    for turn in 0..turns {
        let said = text(bytes * 7 / 10 / turns);
        messages.push(match turn % 2 {
            0 => json!({ "role": "user", "content": [{ "type": "text", "text": said }] }),
            _ => json!({ "role": "assistant", "content": said }),
        });
    }
    let tool = json!({ "name": "read_log", "description": "Reads a log.", "input_schema": {
        "type": "object", "properties": { "lines": { "type": "integer" } }, "required": ["lines"] } });
    let body = json!({
        "model": "claude-sonnet-5-5", "max_tokens": 1024, "stream": true, "temperature": 0,
        "system": text(bytes / 10), "tools": [tool], "messages": messages,
    });
    Bytes::from(body.to_string())
}

/// An answer of about so many tokens, whole and as its stream.
fn answer(tokens: usize) -> (String, Vec<Bytes>) {
    let words: Vec<String> = WORDS
        .split(' ')
        .cycle()
        .take(tokens)
        .map(|w| format!("{w} "))
        .collect();
    let message = |content: Value, stop: Value| {
        json!({ "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-5-5",
            "content": content, "stop_reason": stop, "stop_sequence": null,
            "usage": { "input_tokens": 500, "output_tokens": tokens } })
    };
    let whole = message(
        json!([{ "type": "text", "text": words.concat() }]),
        json!("end_turn"),
    );
    let mut data = vec![
        json!({ "type": "message_start", "message": message(json!([]), Value::Null) }),
        json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } }),
    ];
    data.extend(words.iter().map(|word| {
        json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": word } })
    }));
    data.push(json!({ "type": "content_block_stop", "index": 0 }));
    data.push(json!({ "type": "message_delta", "delta": { "stop_reason": "end_turn", "stop_sequence": null },
        "usage": { "output_tokens": tokens } }));
    data.push(json!({ "type": "message_stop" }));
    let event = |data: &Value| {
        let name = data.get("type").and_then(Value::as_str).unwrap_or_default();
        Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
    };
    (whole.to_string(), data.iter().map(event).collect())
}

/// Nanoseconds that one of `times` takes.
fn time<T>(times: u32, mut what: impl FnMut() -> T) -> f64 {
    let began = Instant::now();
    for _ in 0..times {
        black_box(what());
    }
    began.elapsed().as_secs_f64() * 1e9 / f64::from(times)
}

fn fastest(times: &[f64]) -> f64 {
    times.iter().copied().fold(f64::INFINITY, f64::min)
}

fn median(mut ratios: Vec<f64>) -> f64 {
    ratios.sort_by(f64::total_cmp);
    ratios.get(ratios.len() / 2).copied().unwrap_or(f64::NAN)
}

fn key(headers: &HeaderMap, body: &[u8]) -> Option<CacheKey> {
    let parts = KeyParts {
        scope: Scope::Tenant("a tenant"),
        route: "default",
        model: None,
        query: None,
        headers,
        body,
    };
    Fingerprint::of(&parts).map(|found| found.key)
}

fn keys(rounds: usize) -> Result<bool, Failed> {
    let mut held = true;
    let headers = HeaderMap::new();
    let mut table = "   body        key       read    SHA-256   key÷(read + SHA-256)\n".to_owned();
    for size in [1_000, 10_000, 100_000] {
        let body = request(size);
        let times = u32::try_from(1_000_000 / size)?;
        let (mut keys, mut reads, mut digests, mut ratios) = (vec![], vec![], vec![], vec![]);
        for _ in 0..rounds {
            keys.push(time(times, || key(&headers, &body)));
            reads.push(time(times, || RequestView::parse(&body)));
            digests.push(time(times, || Sha256::digest(&body)));
            if let (Some(key), Some(read), Some(digest)) =
                (keys.last(), reads.last(), digests.last())
            {
                ratios.push(key / (read + digest));
            }
        }
        let ratio = median(ratios);
        held &= ratio <= BAR;
        let verdict = if ratio <= BAR { "" } else { "  MISSED" };
        writeln!(
            table,
            "{:7} {:7.0} ns {:7.0} ns {:7.0} ns   {ratio:.2}{verdict}",
            body.len(),
            fastest(&keys),
            fastest(&reads),
            fastest(&digests),
        )?;
    }
    std::io::stdout().write_all(table.as_bytes())?;
    Ok(held)
}

async fn hits(rounds: usize) -> Result<(), Failed> {
    let settings = Settings {
        memory: 64 << 20,
        keep: AGES.stale_if_error,
        largest: LARGEST,
        disk: None,
    };
    let now = Timestamp::now();
    let store = Store::open(&settings, now)?;
    let (whole, events) = answer(400);
    let headers = HeaderMap::new();
    let record = || {
        let mut recording = Recording::new(StatusCode::OK, &headers, LARGEST);
        for events in &events {
            recording.hear(events);
        }
        recording.finish(now)
    };
    let body = request(2_000);
    let name = key(&headers, &body).ok_or("no key")?;
    // Beside it as many others as a busy store has.
    for n in 0..10_000_u64 {
        let mut other = [0; 32];
        for (place, byte) in other.iter_mut().zip(n.to_le_bytes()) {
            *place = byte;
        }
        store.put(other.into(), record()?);
    }
    store.put(name, record()?);
    let (mut lookups, mut whole_hits, mut stream_hits) = (vec![], vec![], vec![]);
    let (mut keeps, mut records) = (vec![], vec![]);
    for _ in 0..rounds {
        const TIMES: u32 = 200;
        for (found, as_stream) in [(&mut whole_hits, false), (&mut stream_hits, true)] {
            let began = Instant::now();
            for _ in 0..TIMES {
                let name = key(&headers, &body).ok_or("no key")?;
                let hit = store.find(&name, now, AGES).await.ok_or("no hit")?;
                black_box(hit.entry.replay(as_stream));
            }
            found.push(began.elapsed().as_secs_f64() * 1e9 / f64::from(TIMES));
        }
        let began = Instant::now();
        for _ in 0..TIMES {
            black_box(store.find(&name, now, AGES).await);
        }
        lookups.push(began.elapsed().as_secs_f64() * 1e9 / f64::from(TIMES));
        keeps.push(time(10, || {
            Entry::of_body(StatusCode::OK, &headers, whole.as_bytes(), (now, LARGEST))
        }));
        records.push(time(10, record));
    }
    let mut table = format!(
        "\na prompt of {} bytes, an answer of 400 tokens, 10,001 entries\n",
        body.len()
    );
    for (what, times) in [
        ("lookup", &lookups),
        ("key + lookup + whole", &whole_hits),
        ("key + lookup + stream", &stream_hits),
        ("keep a body", &keeps),
        ("keep a stream", &records),
    ] {
        writeln!(table, "{what:22} {:9.0} ns", fastest(times))?;
    }
    std::io::stdout().write_all(table.as_bytes())?;
    Ok(())
}
