//! Requests of several tenants through the key and the store: an answer is seen again only by who may
//! see it, for what was asked, and the store holds no more than it may.

use std::collections::HashMap;
use std::time::Duration;

use bolero::check;
use http::{HeaderMap, HeaderValue, StatusCode};
use jiff::Timestamp;
use seawall::cache::{Ages, CacheKey, Entry, Fingerprint, KeyParts, Scope, Settings, Store};
use seawall::provider::anthropic::headers::Credential;
use serde_json::{Value, json};

use crate::source::{FEW, Source, Tally, bytes_of};

/// Little, so that a few dozen answers are too many.
const MEMORY: u64 = 16 << 10;

const LARGEST: usize = 8 << 10;

const AGES: Ages = Ages {
    ttl: Duration::from_secs(60),
    stale_if_error: Duration::from_secs(600),
};

/// Names that differ by what a careless key would lose: a case, an end, a separator, a neighbour.
const NAMES: [&str; 10] = ["", "a", "A", "a ", "aa", "a\0", "a\na", "t", "b", "\u{e9}"];
const KEYS: [&str; 6] = ["sk-1", "sk-2", "sk-11", "sk-", "a", "b"];

/// Who asks: a tenant, or whoever brings a key, as a bearer or not, and may name a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Who {
    Tenant(&'static str),
    Key(&'static str, bool, Option<&'static str>),
}

impl Who {
    fn any(source: &mut Source<'_>) -> Self {
        if source.once_in(2) {
            return Self::Tenant(source.pick(&NAMES));
        }
        let tenant = source.once_in(2).then(|| source.pick(&NAMES));
        Self::Key(source.pick(&KEYS), source.once_in(3), tenant)
    }

    /// A key is the same in either header.
    const fn plain(self) -> Self {
        match self {
            Self::Key(key, _, tenant) => Self::Key(key, false, tenant),
            who @ Self::Tenant(_) => who,
        }
    }

    fn fingerprint(
        self,
        (route, body): (&str, &[u8]),
        headers: &mut HeaderMap,
    ) -> Option<Fingerprint> {
        let credential;
        let scope = match self {
            Self::Tenant(name) => Scope::Tenant(name),
            Self::Key(key, is_bearer, tenant) => {
                let (name, value) = if is_bearer {
                    ("authorization", format!("Bearer {key}"))
                } else {
                    ("x-api-key", key.to_owned())
                };
                headers.insert(name, HeaderValue::from_str(&value).unwrap());
                credential = Credential::from_headers(headers)?;
                Scope::Credential(&credential, tenant)
            }
        };
        Fingerprint::of(&KeyParts {
            scope,
            route,
            model: None,
            query: None,
            headers,
            body,
        })
    }
}

/// A body: one of a few, so that requests meet, in one of its forms, and now and then damaged.
fn body(source: &mut Source<'_>) -> Vec<u8> {
    let words = source.pick(&["hi", "hi ", "Hi", "\u{e9}", "", "x\0y"]);
    let model = source.pick(&["claude-sonnet-4-5", "claude-sonnet-4-5-20250929"]);
    let mut body = json!({ "model": model, "max_tokens": source.below(3),
        "messages": [{ "role": "user", "content": words }] });
    if source.once_in(3) {
        body["stream"] = source.once_in(2).into();
    }
    if source.once_in(4) {
        body["metadata"] = json!({ "user_id": source.pick(&NAMES) });
    }
    let mut bytes = if source.once_in(3) {
        serde_json::to_vec_pretty(&body).unwrap()
    } else {
        body.to_string().into_bytes()
    };
    if source.once_in(6) {
        source.damage(&mut bytes);
    }
    bytes
}

/// What a request asks, as a reader that knows no canonical form says it.
fn meaning(body: &[u8]) -> Option<Value> {
    let mut value: Value = serde_json::from_slice(body).ok()?;
    let members = value.as_object_mut()?;
    members.remove("stream");
    members.remove("metadata");
    Some(value)
}

fn entry(owner: usize, size: usize, now: Timestamp) -> Entry {
    let body = json!({ "type": "message", "model": "m", "stop_reason": "end_turn",
        "content": [{ "type": "text", "text": format!("{owner:08}{}", "x".repeat(size)) }] });
    let body = body.to_string();
    let headers = HeaderMap::new();
    Entry::of_body(StatusCode::OK, &headers, body.as_bytes(), (now, LARGEST)).unwrap()
}

/// The number that an answer was written with.
fn owner(entry: &Entry) -> usize {
    let body: Value = serde_json::from_slice(entry.body()).unwrap();
    let text = body["content"][0]["text"].as_str().unwrap();
    text[..8].parse().unwrap()
}

fn target(input: &[u8], runtime: &tokio::runtime::Runtime) -> &'static str {
    let mut source = Source::new(input);
    let settings = Settings {
        memory: MEMORY,
        keep: AGES.stale_if_error,
        largest: LARGEST,
        disk: None,
    };
    let now = Timestamp::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
    let store = Store::open(&settings, now).unwrap();
    let mut asked: Vec<(Who, &str, Value)> = Vec::new();
    let mut keys: HashMap<CacheKey, usize> = HashMap::new();
    let mut outcome = "nothing";
    while !source.is_empty() && asked.len() < 64 {
        let who = Who::any(&mut source);
        let route = source.pick(&["default", "chat", ""]);
        let body = body(&mut source);
        let Some(print) = who.fingerprint((route, &body), &mut HeaderMap::new()) else {
            continue;
        };
        // What is valid text and no value, such as a number without bounds, has a key all the same.
        let Some(meaning) = meaning(&body) else {
            continue;
        };
        let this = (who.plain(), route, meaning);
        let hit = runtime.block_on(store.find(&print.key, now, AGES));
        if let Some(hit) = hit {
            // Who asks, where and for what are those of the one whose answer it is.
            assert_eq!(asked[owner(&hit.entry)], this);
            outcome = "hit";
        } else {
            let number = asked.len();
            if let Some(first) = keys.insert(print.key, number) {
                assert_eq!(asked[first], this);
            }
            store.put(print.key, entry(number, source.below(4_000), now));
            asked.push(this);
        }
        let stats = store.stats();
        assert!(stats.bytes <= MEMORY, "{stats:?}");
        if stats.evictions > 0 && outcome == "nothing" {
            outcome = "full";
        }
    }
    outcome
}

#[test]
fn an_answer_is_seen_again_by_its_own_tenant_alone() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let tally = Tally::new("cache");
    check!()
        .with_generator(bytes_of(0..=600))
        // Each opens a store of its own.
        .with_iterations(FEW / 4)
        .for_each(|input: &Vec<u8>| tally.count(target(input, &runtime)));
    tally.saw(&["hit", "full"]);
}
