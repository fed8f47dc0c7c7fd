//! Config files.

use std::net::SocketAddr;
use std::path::Path;

use bolero::check;
use seawall::config::{Config, DEFAULT_ROUTE, Environment, Overrides, Place, Problem};

use crate::source::{FEW, Source, Tally, bytes_of};

const EXAMPLE: &str = include_str!("../../examples/seawall.toml");
const SECRET: &str = "sk-never-to-be-seen";

const LINES: [&str; 36] = [
    "[gateway]",
    "[targets.a]",
    "[targets.\"é b\"]",
    "[quotas.q]",
    "[routes.default]",
    "[routes.chat]",
    "[routes.default.retry]",
    "[[targets]]",
    "ladder = [\"a\", \"static\"]",
    "ladder = []",
    "api_key_env = \"KEY\"",
    "api_key_env = \"NONE\"",
    "api_key_file = \"/none\"",
    "quota = \"q\"",
    "burst = \"9999999999999999999h\"",
    "timeouts = { total = \"1ns\" }",
    "requests_per_minute = 9223372036854775807",
    "retry = { attempts = -1, budget = nan }",
    "breaker = { failure_rate = inf }",
    "static = { text = \"é\" }",
    "models = [\"*\", \"\", 7]",
    "listen = \"0.0.0.0:80\"",
    "base_url = \"http://[::1\"",
    "hold = { tokens = 0 }",
    "ladder = [\"cache\", \"a\", { rung = \"haiku\", on = [\"quota\"], share = 0.1 }, \"cache\", \"static\"]",
    "ladder = [{ rung = \"static\", attempts = 2 }, { on = [] }, \"cache\"]",
    "cache = { ttl = \"2h\", stale_if_error = \"1h\" }",
    "hedge = { on = \"next\", budget = nan, after = \"0s\" }",
    "wait = \"99h\"",
    "lossy = [\"é\", \"thinking\"]",
    "cannot = [\"images\", 1]",
    "context_tokens = 18446744073709551615",
    "static = { text = \"{é {{ }\" }",
    "static = { file = \"/none\" }",
    "[cache]",
    "memory = \"99999999999999999999GB\"",
];

const VALUES: [&str; 16] = [
    "\"\"",
    "0",
    "-1",
    "1.5",
    "nan",
    "true",
    "[]",
    "{}",
    "\"30s\"",
    "\"1e99s\"",
    "\"é\"",
    "\"32MB\"",
    "9223372036854775807",
    "1979-05-27",
    "\"127.0.0.1:0\"",
    "[[1], {a = 1}]",
];

fn text(source: &mut Source<'_>) -> String {
    let mut text = if source.once_in(2) {
        EXAMPLE.lines().map(str::to_owned).collect()
    } else {
        let lines = EXAMPLE.lines().filter(|line| !line.starts_with('#'));
        let lines: Vec<_> = lines.map(str::to_owned).collect();
        lines
    };
    for _ in 0..source.below(6) {
        let at = source.below(text.len().max(1)).min(text.len());
        match source.below(5) {
            0 => text.insert(at, source.pick(&LINES).to_owned()),
            1 if at < text.len() => drop(text.remove(at)),
            2 if at < text.len() => {
                let other = source.below(text.len());
                text.swap(at, other);
            }
            3 if at < text.len() => {
                let key = text[at].split('=').next().unwrap().to_owned();
                text[at] = format!("{key}= {}", source.pick(&VALUES));
            }
            _ => text.truncate(at),
        }
    }
    let mut bytes = text.join("\n").into_bytes();
    for _ in 0..source.below(3) {
        source.damage(&mut bytes);
    }
    if source.once_in(16) {
        bytes = source.raw(128).to_vec();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn has_a_place_or_a_sentence(problem: &Problem, text: &str) {
    assert!(!problem.what.trim().is_empty());
    assert!(!problem.to_string().contains(SECRET));
    let Some(place) = &problem.place else {
        return;
    };
    assert_eq!(place.file, "seawall.toml");
    let line = text
        .split('\n')
        .nth(place.line - 1)
        .expect("a line of the file");
    assert!(
        (1..=line.chars().count() + 1).contains(&place.column),
        "{problem}"
    );
}

fn target(input: &[u8]) -> &'static str {
    let mut source = Source::new(input);
    let flags = Overrides {
        listen: source
            .once_in(8)
            .then(|| SocketAddr::from(([0, 0, 0, 0], 0))),
        upstream: source
            .once_in(8)
            .then(|| source.pick(&["", "http://x", "é"]).to_owned()),
        open: source.once_in(8),
        fallback: vec!["claude-x".to_owned(); source.below(8).saturating_sub(5)],
        log_format: None,
    };
    let text = text(&mut source);
    let environment = Environment::from_fn(|name| (name == "KEY").then(|| SECRET.to_owned()));
    match Config::parse(&text, Path::new("seawall.toml"), &flags, &environment) {
        Ok(config) => {
            assert!(config.routes.contains_key(DEFAULT_ROUTE));
            assert!(config.route_for(None, Some("claude-x")).is_some());
            for route in config.routes.values() {
                assert_eq!(
                    route.cache.is_some(),
                    route.ladder.iter().any(|rung| rung.place == Place::Cache)
                );
                for rung in &route.ladder {
                    if let Some(name) = rung.place.target() {
                        assert!(config.targets.contains_key(name));
                    }
                }
            }
            for warning in &config.warnings {
                has_a_place_or_a_sentence(warning, &text);
            }
            assert!(!format!("{config:?}").contains(SECRET));
            "accepted"
        }
        Err(error) => {
            assert!(!error.problems().is_empty());
            for problem in error.problems() {
                has_a_place_or_a_sentence(problem, &text);
            }
            if error.to_string().contains("not TOML") {
                "not TOML"
            } else {
                "refused"
            }
        }
    }
}

#[test]
fn config_text() {
    let tally = Tally::new("config");
    check!()
        .with_iterations(FEW / 10)
        .with_generator(bytes_of(32..=160))
        .for_each(|input: &Vec<u8>| {
            tally.count(target(input));
        });
    tally.saw(&["accepted", "refused", "not TOML"]);
}
