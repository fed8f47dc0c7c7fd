use std::num::NonZeroU32;
use std::time::Duration;

use seawall_actors::policy::stagger::Spacing;
use secrecy::ExposeSecret;

use super::*;
use crate::profile::Profile;

mod cache;
mod fixed;
mod ladder;
mod route;

const SECRET: &str = "sk-ant-api03-quite-secret";

fn environment() -> Environment<'static> {
    Environment::from_fn(|name| match name {
        "KEY" => Some(SECRET.into()),
        "BLANK" => Some("  ".into()),
        "SPACED" => Some("two words".into()),
        _ => None,
    })
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(
        text,
        Path::new("seawall.toml"),
        &Overrides::default(),
        &environment(),
    )
}

fn flags(text: &str, flags: &Overrides) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("seawall.toml"), flags, &environment())
}

/// Asserts that the only problem of a config is this one.
#[track_caller]
fn refused(text: &str, place: &str, words: &[&str]) {
    let error = parse(text).expect_err("must be refused");
    let [problem] = error.problems() else {
        panic!("one problem expected:\n{error}")
    };
    let shown = problem.to_string();
    assert!(shown.starts_with(place), "{shown}");
    for word in words {
        assert!(shown.contains(word), "{word:?} is not in: {shown}");
    }
}

#[test]
fn no_config_at_all_passes_the_callers_own_calls_on() {
    let config = parse("").unwrap();
    assert_eq!(config.gateway.listen.to_string(), "127.0.0.1:4117");
    assert_eq!(config.gateway.body_limit, 32 << 20);
    assert_eq!(config.targets.keys().collect::<Vec<_>>(), [BUILT_IN_TARGET]);
    let target = &config.targets[BUILT_IN_TARGET];
    assert_eq!(target.base_url, DEFAULT_UPSTREAM);
    assert_eq!(target.model, None);
    assert!(matches!(target.credential, Credential::Caller));
    let route = &config.routes[DEFAULT_ROUTE];
    assert_eq!(route.ladder.len(), 1);
    assert_eq!(route.ladder[0].to_string(), BUILT_IN_TARGET);
    assert_eq!(route.profile, Profile::Standard);
    assert_eq!(route.wait, Duration::from_secs(60));
    assert_eq!(config.warnings, []);
}

#[test]
fn the_environments_key_serves_a_caller_who_brings_none() {
    let environment =
        Environment::from_fn(|name| (name == DEFAULT_KEY_ENV).then(|| format!("{SECRET}\n")));
    let config = Config::parse("", Path::new(""), &Overrides::default(), &environment).unwrap();
    let Credential::CallerOr(key) = &config.targets[BUILT_IN_TARGET].credential else {
        panic!()
    };
    assert_eq!(
        key.secret.expose_secret(),
        SECRET,
        "the line break is no part of the key"
    );
}

#[test]
fn the_example_loads_and_says_the_defaults() {
    let text = include_str!("../../examples/seawall.toml");
    let config = parse(text).unwrap();
    assert_eq!(config.warnings, []);
    let route = &config.routes[DEFAULT_ROUTE];
    assert_eq!(route.timeouts, Profile::Standard.timeouts());
    assert_eq!(route.retry, RetrySettings::default());
    assert_eq!(route.cache, Some(CacheSettings::default()));
    assert_eq!(config.cache, CacheStore::default());
    assert_eq!(config.targets["sonnet"].breaker, BreakerSettings::default());
    assert_eq!(
        config.targets["sonnet"].quota.as_deref(),
        Some("org-sonnet")
    );
    assert_eq!(
        config.quotas["org-sonnet"].input_tokens_per_minute,
        Some(5_000_000)
    );
    let chat: Vec<_> = config.routes["chat"].ladder.iter().collect();
    assert_eq!(chat[0].place, Place::Target("haiku".into()));
    assert_eq!((chat[1].place.clone(), chat.len()), (Place::Static, 2));
}

#[test]
fn the_examples_commented_lines_load_too() {
    let text: String = include_str!("../../examples/seawall.toml")
        .lines()
        .map(|line| {
            let setting = line.strip_prefix("# ").filter(|rest| {
                [
                    "client_keys =",
                    "api_key_env =",
                    "requests_per_minute =",
                    "tokens_per_minute =",
                    "concurrent_streams =",
                    "stagger =",
                    "cannot =",
                    "context_tokens =",
                    "output_tokens =",
                    "lossy =",
                    "wait =",
                    "single_flight =",
                    "probe =",
                    "hedge =",
                    "disk =",
                    "disk_limit =",
                ]
                .iter()
                .any(|key| rest.starts_with(key))
            });
            format!("{}\n", setting.unwrap_or(line))
        })
        .collect();
    let text = text
        .replace("ANTHROPIC_API_KEY\"", "KEY\"")
        .replace("[targets.haiku]", "[targets.haiku]\napi_key_env = \"KEY\"");
    let config = parse(&text).unwrap();
    let gateway = &config.gateway;
    assert_eq!(gateway.client_keys.len(), 1);
    assert_eq!(gateway.limits.concurrent_streams, NonZeroU32::new(20));
    let route = &config.routes[DEFAULT_ROUTE];
    assert_eq!(route.stagger, Some(Spacing::Over(Duration::from_secs(60))));
    assert!(route.single_flight && route.probe && route.hedge.is_some());
    assert_eq!(config.cache.disk_limit, CacheStore::default().disk_limit);
}

#[test]
fn a_client_has_the_limits_that_it_is_given_and_else_everybodys() {
    let text = "[gateway.limits]\nrequests_per_minute = 60\ntokens_per_minute = 1000\n\
        [[gateway.client_keys]]\nname = \"a\"\n\
        sha256 = \"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\"\n\
        limits = { requests_per_minute = 7, concurrent_streams = 2 }\n\
        [[gateway.client_keys]]\nname = \"b\"\n\
        sha256 = \"0f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\"\n\
        [targets.t]\napi_key_env = \"KEY\"";
    let gateway = parse(text).unwrap().gateway;
    let [own, common] = &gateway.client_keys[..] else {
        panic!()
    };
    let limits = |limits: &ClientLimits| {
        let of = |limit: Option<NonZeroU32>| limit.map(NonZeroU32::get);
        let ClientLimits {
            requests_per_minute,
            tokens_per_minute,
            concurrent_streams,
        } = limits;
        [
            of(*requests_per_minute),
            of(*tokens_per_minute),
            of(*concurrent_streams),
        ]
    };
    assert_eq!(limits(&own.limits), [Some(7), Some(1_000), Some(2)]);
    assert_eq!(limits(&common.limits), [Some(60), Some(1_000), None]);
    assert_eq!(common.limits, gateway.limits);
    let shown = "7 requests a minute, 1000 tokens a minute, 2 answers at once";
    assert_eq!(own.limits.to_string(), shown);
    assert_eq!(ClientLimits::default().to_string(), "no limit");
    assert!(!parse("").unwrap().gateway.limits.is_any());
}

#[test]
fn a_stagger_is_a_span_or_a_rate_in_either_form() {
    let stagger = |text: &str| {
        let text = format!("[routes.default]\nstagger = {text}");
        parse(&text).unwrap().routes[DEFAULT_ROUTE].stagger
    };
    let minute = Some(Spacing::Over(Duration::from_secs(60)));
    assert_eq!(stagger("\"60s\""), minute);
    let fifth = Some(Spacing::Every(Duration::from_millis(200)));
    assert_eq!(stagger("{ per_second = 5 }"), fifth);
    assert_eq!(stagger("{ runs = 300, over = \"1m\" }"), fifth);
    assert_eq!(parse("").unwrap().routes[DEFAULT_ROUTE].stagger, None);
    for (text, word) in [
        ("60", "write a table"),
        ("\"60\"", "default.stagger"),
        ("{}", "needs a rate: write \"60s\", {"),
        ("{ over = \"60s\" }", "needs a rate"),
        ("{ runs = 5 }", "needs a rate"),
        ("{ per_second = 5, over = \"60s\" }", "says the rate twice"),
        ("{ per_second = 0 }", "stagger.per_second"),
        ("{ runs = 0, over = \"60s\" }", "stagger.runs"),
    ] {
        let text = format!("[routes.default]\nstagger = {text}");
        refused(&text, "seawall.toml:2", &[word]);
    }
}

#[test]
fn limits_out_of_range_or_mistyped_are_refused_by_name() {
    refused(
        "[gateway.limits]\nrequests_per_minute = 0",
        "seawall.toml:2",
        &["gateway.limits.requests_per_minute", "from 1 to"],
    );
    refused(
        "[gateway]\nlimits = { token_per_minute = 5 }",
        "seawall.toml:2",
        &["token_per_minute", "`tokens_per_minute`"],
    );
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one_and_its_place() {
    refused(
        "[gateway]\nlisten = \"127.0.0.1:1\"\n  alowed_hosts = []\n",
        "seawall.toml:3:3: unknown key `alowed_hosts` in [gateway]",
        &["did you mean `allowed_hosts`?"],
    );
    refused(
        "[targts.a]\n",
        "seawall.toml:1:2: unknown key `targts`",
        &["did you mean `targets`?"],
    );
    refused(
        "[routes.default.retry]\nattempt = 3",
        "seawall.toml:2:1:",
        &["`attempts`", "[routes.default.retry]"],
    );
    refused(
        "[gateway]\nzzz = 1",
        "seawall.toml:2:1:",
        &["known there: listen"],
    );
}

#[test]
fn every_problem_is_reported_at_once_in_the_order_of_the_file() {
    let text = "[gateway]\nlisten = 4117\n[targets.a]\nmodle = \"x\"\n[routes.default]\nladder = [\"b\"]\ntimeouts = { stall = \"9x\" }\n";
    let error = parse(text).unwrap_err();
    let lines: Vec<_> = error
        .problems()
        .iter()
        .map(|p| p.place.as_ref().unwrap().line)
        .collect();
    assert_eq!(lines, [2, 4, 6, 7], "{error}");
}

#[test]
fn wrong_types_say_what_to_write() {
    refused(
        "[gateway]\nopen = \"yes\"",
        "seawall.toml:2:8:",
        &["is a text", "write true or false"],
    );
    refused(
        "gateway = 3",
        "seawall.toml:1:11:",
        &["is a whole number", "[gateway]"],
    );
    refused(
        "[quotas.q]\nrequests_per_minute = \"5\"\n[targets.a]\nquota = \"q\"",
        "seawall.toml:2:23:",
        &["without quotas".trim_end_matches("as"), "whole number"],
    );
    refused(
        "[routes.default]\nladder = \"anthropic\"",
        "seawall.toml:2:10:",
        &["a list"],
    );
    refused(
        "[gateway]\nclient_keys = \"k\"",
        "seawall.toml:2:15:",
        &["a list of tables"],
    );
}

#[test]
fn values_outside_their_range_say_the_range() {
    refused(
        "[routes.default.retry]\nattempts = 0",
        "seawall.toml:2:12:",
        &["from 1 to 100"],
    );
    refused(
        "[routes.default.retry]\nattempts = -1",
        "seawall.toml:2:12:",
        &["is -1", "from 1 to 100"],
    );
    refused(
        "[routes.default.retry]\nbudget = nan",
        "seawall.toml:2:10:",
        &["from 0 to 1"],
    );
    refused(
        "[routes.default.breaker]\nfailure_rate = 0",
        "seawall.toml:2:16:",
        &["from 0.01 to 1"],
    );
    refused(
        "[routes.default.timeouts]\ntotal = \"0s\"",
        "seawall.toml:2:9:",
        &["from 1ms"],
    );
    refused(
        "[gateway]\nbody_limit = \"2TB\"",
        "seawall.toml:2:14:",
        &["from 1kiB to 1GiB"],
    );
    refused(
        "[gateway]\nbody_limit = \"32XB\"",
        "seawall.toml:2:14:",
        &["\"32MB\""],
    );
    refused(
        "[quotas.q]\nrequests_per_minute = 99999999999999999999\n[targets.a]\nquota = \"q\"",
        "seawall.toml:2:23:",
        &["1000000000000"],
    );
}

#[test]
fn a_key_that_this_version_would_ignore_is_refused() {
    refused(
        "[routes.default]\ndelivery = \"whole\"",
        "seawall.toml:2:12:",
        &["no such delivery", "as_it_comes, complete, hold or resume"],
    );
    refused(
        "[routes.default]\ndelivery = \"complete\"\nhold = { tokens = 5 }",
        "seawall.toml:3:8:",
        &["delivery = \"hold\""],
    );
    refused(
        "[routes.default]\ntimeouts = { stall = \"20s\", events = \"10s\" }",
        "seawall.toml:2:12:",
        &["events", "shorter than `stall`"],
    );
    let many: Vec<String> = (0..17).map(|n| format!("\"t{n}\"")).collect();
    let targets: String = (0..17).map(|n| format!("[targets.t{n}]\n")).collect();
    let ladder = many.join(", ");
    refused(
        &format!("{targets}[routes.default]\nladder = [{ladder}]"),
        "seawall.toml:18:9:",
        &["17 rungs", "at most 16"],
    );
    refused(
        "[routes.default]\non_disconnect = \"wait\"",
        "seawall.toml:2:17:",
        &["\"stop\" or \"finish\""],
    );
    refused(
        "[targets.a]\nprovider = \"openai\"",
        "seawall.toml:2:12:",
        &["not in this version", "\"anthropic\""],
    );
    refused(
        "[routes.default]\nladder = [\"anthropic\"]\nstatic = { text = \"x\" }",
        "seawall.toml:1:9:",
        &["never given", "\"static\""],
    );
    refused(
        "[routes.default]\nmodels = [\"x\"]",
        "seawall.toml:2:11:",
        &["default route"],
    );
    refused(
        "[gateway]\nopen = true\nclient_keys = [{ name = \"a\", sha256 = \"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\" }]\n[targets.a]\napi_key_env = \"KEY\"",
        "seawall.toml:2:8:",
        &["would do nothing"],
    );
}

#[test]
fn names_that_lead_nowhere_are_refused_with_the_nearest() {
    let targets = "[targets.sonnet]\n[targets.haiku]\n";
    refused(
        &format!("{targets}[routes.default]\nladder = [\"sonet\"]"),
        "seawall.toml:4:11:",
        &["did you mean `sonnet`?"],
    );
    refused(
        &format!("{targets}[routes.default]\nladder = [\"qqqq\"]"),
        "seawall.toml:4:11:",
        &["[targets.qqqq]", "haiku, sonnet"],
    );
    refused(
        "[quotas.org]\n[targets.a]\nquota = \"ogr\"",
        "seawall.toml:3:9:",
        &["did you mean `org`?"],
    );
    refused(
        "[routes.default]\nladder = [\"static\"]",
        "seawall.toml:2:11:",
        &["nothing to say"],
    );
    refused(
        "[routes.default]\nladder = []",
        "seawall.toml:1:9:",
        &["empty"],
    );
    refused(
        targets,
        "[routes.default] needs a ladder",
        &["haiku, sonnet"],
    );
}

#[test]
fn a_timeout_that_could_never_run_out_is_refused() {
    refused(
        "[routes.default]\ntimeouts = { stall = \"11m\" }",
        "seawall.toml:2:22:",
        &["`total`", "600s"],
    );
    // One that was not written gives way to a short deadline.
    let config = parse("[routes.default]\ntimeouts = { total = \"3s\" }").unwrap();
    let timeouts = config.routes[DEFAULT_ROUTE].timeouts;
    assert_eq!(
        (timeouts.connect, timeouts.events),
        (Duration::from_secs(3), Duration::from_secs(3))
    );
    assert_eq!(config.routes[DEFAULT_ROUTE].wait, Duration::from_secs(3));
}

#[test]
fn base_and_cap_fit_together_whichever_is_written() {
    refused(
        "[routes.default]\nretry = { base = \"2s\", cap = \"1s\" }",
        "seawall.toml:2:18:",
        &["longer than `cap`"],
    );
    let short = parse("[routes.default]\nretry = { cap = \"100ms\" }")
        .unwrap()
        .routes[DEFAULT_ROUTE]
        .retry;
    assert_eq!(
        (short.base, short.cap),
        (Duration::from_millis(100), Duration::from_millis(100))
    );
    let long = parse("[routes.default]\nretry = { base = \"40s\" }")
        .unwrap()
        .routes[DEFAULT_ROUTE]
        .retry;
    assert_eq!(
        (long.base, long.cap),
        (Duration::from_secs(40), Duration::from_secs(40))
    );
}

#[test]
fn a_missing_key_names_its_target_and_a_key_in_the_wrong_place_is_never_repeated() {
    refused(
        "[targets.a]\napi_key_env = \"NOPE\"",
        "seawall.toml:2:15:",
        &["target `a`", "NOPE is not set"],
    );
    refused(
        "[targets.a]\napi_key_env = \"BLANK\"",
        "seawall.toml:2:15:",
        &["target `a`", "is empty"],
    );
    refused(
        "[targets.a]\napi_key_env = \"SPACED\"",
        "seawall.toml:2:15:",
        &["no header can carry"],
    );
    refused(
        "[targets.a]\napi_key_file = \"/no/such/file\"",
        "seawall.toml:2:16:",
        &["target `a`", "/no/such/file"],
    );
    refused(
        "[targets.a]\napi_key_env = \"KEY\"\napi_key_file = \"x\"",
        "seawall.toml:3:16:",
        &["keep one"],
    );
    for key in ["api_key_env", "api_key_file"] {
        let error = parse(&format!("[targets.a]\n{key} = \"{SECRET}\""))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("never the key itself") && !error.contains(SECRET),
            "{error}"
        );
    }
}

#[test]
fn no_debug_output_shows_a_secret() {
    let config = parse("[targets.a]\napi_key_env = \"KEY\"").unwrap();
    let Credential::Own(key) = &config.targets["a"].credential else {
        panic!()
    };
    assert_eq!(key.secret.expose_secret(), SECRET);
    assert!(!format!("{config:?} {:?}", environment()).contains("quite-secret"));
}

#[test]
fn a_key_file_is_found_beside_the_config_and_read_again_after_a_rotation() {
    let dir = std::env::temp_dir().join(format!("seawall-key-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("key"), "first\n").unwrap();
    let text = "[targets.a]\napi_key_file = \"key\"";
    let config = Config::parse(
        text,
        &dir.join("seawall.toml"),
        &Overrides::default(),
        &environment(),
    )
    .unwrap();
    let Credential::Own(key) = &config.targets["a"].credential else {
        panic!()
    };
    assert_eq!(key.secret.expose_secret(), "first");
    std::fs::write(dir.join("key"), "second").unwrap();
    assert_eq!(
        key.reread(&environment()).unwrap().secret.expose_secret(),
        "second"
    );
    std::fs::remove_dir_all(&dir).unwrap();
    assert!(key.reread(&environment()).is_err());
}

#[test]
fn an_address_beyond_loopback_needs_keys_or_the_word_open() {
    refused(
        "[gateway]\nlisten = \"0.0.0.0:4117\"",
        "seawall.toml:2:10:",
        &["client_keys", "open = true"],
    );
    assert!(
        parse("[gateway]\nlisten = \"0.0.0.0:4117\"\nopen = true")
            .unwrap()
            .gateway
            .open
    );
    let public = Overrides {
        listen: "[::]:80".parse().ok(),
        ..Overrides::default()
    };
    assert!(
        flags("", &public)
            .unwrap_err()
            .to_string()
            .starts_with("--listen: ")
    );
    assert!(
        flags(
            "",
            &Overrides {
                open: true,
                ..public
            }
        )
        .is_ok()
    );
}

#[test]
fn a_client_is_known_by_its_key_and_nobody_else_is() {
    // The SHA-256 of "test".
    let text = "[gateway]\nlisten = \"0.0.0.0:1\"\n[[gateway.client_keys]]\nname = \"a\"\nsha256 = \"9F86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\"\n[targets.t]\napi_key_env = \"KEY\"";
    let gateway = parse(text).unwrap().gateway;
    assert_eq!(
        gateway.client(b"test").map(|key| key.name.as_str()),
        Some("a")
    );
    assert_eq!(gateway.client(b"Test"), None);
    assert_eq!(gateway.client(b""), None);
    refused(
        &text.replace("9F86", "9F8"),
        "seawall.toml:5:10:",
        &["64 digits"],
    );
    refused(
        &text.replace("9F86", "ÄÖÜß"),
        "seawall.toml:5:10:",
        &["64 digits"],
    );
    refused(
        &text.replace("name = \"a\"", ""),
        "seawall.toml:3:",
        &["needs both"],
    );
}

#[test]
fn client_keys_and_a_passed_on_credential_cannot_go_together() {
    let text = "[gateway]\nclient_keys = [{ name = \"a\", sha256 = \"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\" }]\n";
    refused(
        text,
        "target `anthropic` has no key of its own",
        &["api_key_env"],
    );
}

#[test]
fn addresses_are_checked_and_trimmed() {
    refused(
        "[targets.a]\nbase_url = \"api.anthropic.com\"",
        "seawall.toml:2:12:",
        &["https://"],
    );
    refused(
        "[targets.a]\nbase_url = \"https://x.example/v1/\"",
        "seawall.toml:2:12:",
        &["write \"https://x.example\""],
    );
    refused(
        "[targets.a]\nbase_url = \"https://me:pw@x.example\"",
        "seawall.toml:2:12:",
        &["api_key_env"],
    );
    let config =
        parse("[targets.a]\nbase_url = \"http://x.example/claude/\"\napi_key_env = \"KEY\"")
            .unwrap();
    assert_eq!(config.targets["a"].base_url, "http://x.example/claude");
    assert!(
        config.warnings[0].what.contains("plain http"),
        "{:?}",
        config.warnings
    );
}

#[test]
fn hosts_and_origins_are_read_in_lower_case() {
    let config = parse("[gateway]\nallowed_hosts = [\"Sea.Internal:80\"]\nallowed_origins = [\"https://App.example\"]").unwrap();
    assert_eq!(config.gateway.allowed_hosts, ["sea.internal:80"]);
    assert_eq!(config.gateway.allowed_origins, ["https://app.example"]);
    refused(
        "[gateway]\nallowed_hosts = [\"*\"]",
        "seawall.toml:2:18:",
        &["no host"],
    );
    refused(
        "[gateway]\nallowed_origins = [\"https://a.example/x\"]",
        "seawall.toml:2:20:",
        &["no origin"],
    );
}

#[test]
fn dead_rungs_targets_and_quotas_are_pointed_out() {
    let text = "[quotas.q]\n[targets.a]\n[targets.b]\n[routes.default]\nladder = [\"a\", \"a\", \"static\", \"b\"]\nstatic = { text = \"down\" }\n[targets.c]";
    let warnings: Vec<String> = parse(text)
        .unwrap()
        .warnings
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(
        warnings[0].starts_with("seawall.toml:5:16: ") && warnings[0].contains("further up"),
        "{warnings:?}"
    );
    assert!(
        warnings[1].starts_with("seawall.toml:5:31: ") && warnings[1].contains("always answers")
    );
    assert!(warnings[2].contains("no ladder leads to target `b`"));
    assert!(warnings[3].contains("no ladder leads to target `c`"));
    assert!(warnings[4].contains("quota `q` limits nothing"));
}

#[test]
fn two_routes_must_agree_on_the_breaker_of_a_target_they_share() {
    let text = "[routes.default]\nbreaker = { open = \"2s\" }\n[routes.other]\n";
    assert_eq!(
        parse(text).unwrap().targets[BUILT_IN_TARGET].breaker.open,
        Duration::from_secs(2)
    );
    refused(
        &format!("{text}breaker = {{ open = \"3s\" }}"),
        "seawall.toml:4:20:",
        &["3s", "route `default` to 2s", "second target"],
    );
}

#[test]
fn a_call_finds_its_route_by_name_then_by_the_narrowest_model() {
    let config = parse("[routes.a]\nmodels = [\"claude-*\"]\n[routes.b]\nmodels = [\"claude-haiku-*\", \"x\"]\n[routes.c]\nmodels = [\"claude-haiku-5\"]").unwrap();
    let route = |name, model| {
        config
            .route_for(name, model)
            .map(|route| route.name.as_str())
    };
    assert_eq!(route(None, Some("claude-opus-5")), Some("a"));
    assert_eq!(route(None, Some("claude-haiku-4-5")), Some("b"));
    assert_eq!(route(None, Some("claude-haiku-5")), Some("c"));
    assert_eq!(route(None, Some("gpt")), Some("default"));
    assert_eq!(route(None, None), Some("default"));
    assert_eq!(route(Some("b"), Some("claude-opus-5")), Some("b"));
    assert_eq!(route(Some("nope"), None), None);
    refused(
        "[routes.a]\nmodels = [\"x\"]\n[routes.b]\nmodels = [\"x\"]",
        "seawall.toml:3:9:",
        &["leave it to one"],
    );
}

#[test]
fn flags_win_over_the_file() {
    let over = Overrides {
        upstream: Some("http://127.0.0.1:9/".into()),
        fallback: vec!["claude-haiku-5-5".into()],
        log_format: Some(LogFormat::Json),
        ..Overrides::default()
    };
    let config = flags("[gateway]\nlog_format = \"text\"\n[routes.default]\nladder = [\"anthropic\", \"static\"]\nstatic = { text = \"down\" }", &over).unwrap();
    assert_eq!(config.gateway.log_format, LogFormat::Json);
    let rungs: Vec<String> = config.routes[DEFAULT_ROUTE]
        .ladder
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(rungs, ["anthropic", "claude-haiku-5-5", "static"]);
    let added = &config.targets["claude-haiku-5-5"];
    assert_eq!(added.model.as_deref(), Some("claude-haiku-5-5"));
    assert_eq!(added.base_url, "http://127.0.0.1:9");
    let broken = Overrides {
        upstream: Some("nowhere".into()),
        fallback: vec!["a b".into()],
        ..Overrides::default()
    };
    let error = flags("", &broken).unwrap_err().to_string();
    assert!(
        error.contains("--upstream: ") && error.contains("--fallback: "),
        "{error}"
    );
}

#[test]
fn text_that_is_not_toml_is_reported_with_its_place() {
    let error = parse("[gateway\nlisten = 1").unwrap_err();
    assert!(error.to_string().starts_with("seawall.toml:1:"), "{error}");
    assert!(
        parse("a = 1\na = 2")
            .unwrap_err()
            .to_string()
            .starts_with("seawall.toml:2:1: not TOML: ")
    );
    assert!(
        Config::from_file(Path::new("/no/such/file.toml"), &Overrides::default())
            .unwrap_err()
            .to_string()
            .contains("/no/such/file.toml")
    );
}

proptest::proptest! {
    #[test]
    fn no_text_makes_a_panic(text in "[\\[\\]{}=\"'.,# \\na-z0-9äé-]{0,200}") {
        let _answer = parse(&text);
    }

    #[test]
    fn no_value_makes_a_panic(key in "[a-z_]{1,12}", value in "\\PC{0,40}") {
        for section in ["gateway", "targets.a", "quotas.a", "routes.default", "routes.default.timeouts"] {
            let _answer = parse(&format!("[{section}]\n{key} = {value}"));
        }
    }
}

#[test]
fn tenants_have_their_weights_and_everybody_else_one() {
    let config = parse("[tenants.paying]\nweight = 3\n[tenants.free]\n").unwrap();
    assert_eq!(config.warnings, []);
    let weight = |name: &str| config.tenants.named(name).weight();
    assert_eq!(
        [weight("paying"), weight("free"), weight("unknown")],
        [3, 1, 1]
    );
    let name = config.tenants.named("paying").name().cloned();
    assert_eq!(name.as_deref(), Some("paying"));
}

#[test]
fn weights_out_of_range_and_names_that_are_none_are_refused_with_their_line() {
    for weight in ["0", "1001", "-3", "1000000000000000000000"] {
        let text = format!("[tenants.a]\nweight = {weight}\n");
        refused(&text, "seawall.toml:2:10:", &["tenants.a.weight", "1000"]);
    }
    refused(
        "[tenants.a]\nweight = 1.5\n",
        "seawall.toml:2:10:",
        &["whole number"],
    );
    refused(
        "[tenants.a]\nwieght = 2\n",
        "seawall.toml:2:1:",
        &["weight"],
    );
    refused(
        "[tenants.\"two words\"]\n",
        "seawall.toml:1:",
        &["two words", "no name"],
    );
}

#[test]
fn a_tenant_whom_no_key_names_is_pointed_out() {
    let keys = |any: &str| {
        format!(
            "[gateway]\nclient_keys = [{{ name = \"a\", {any}sha256 = \"{}\" }}]\n\
             [targets.t]\napi_key_env = \"KEY\"\n[routes.default]\nladder = [\"t\"]\n\
             [tenants.b]\nweight = 2\n[tenants.a]\nweight = 5\n",
            "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
        )
    };
    let config = parse(&keys("")).unwrap();
    let warned: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert!(
        warned[0].starts_with("seawall.toml:7:") && warned[0].contains("`b`"),
        "{warned:?}"
    );
    assert_eq!(config.tenants.named("a").weight(), 5);
    assert_eq!(parse(&keys("any_tenant = true, ")).unwrap().warnings, []);
}

#[test]
fn an_organisation_needs_an_admin_key_that_is_named_and_not_written_out() {
    let environment = |name: &str| (name == "ADMIN").then(|| "sk-ant-admin01-x".to_owned());
    let parse = |text: &str| {
        let environment = Environment::from_fn(environment);
        Config::parse(
            text,
            Path::new("c.toml"),
            &Overrides::default(),
            &environment,
        )
    };
    let config = parse("[organization]\nadmin_key_env = \"ADMIN\"\n").expect("a config");
    let organization = config.organization.expect("an organisation");
    assert_eq!(organization.base_url, DEFAULT_UPSTREAM);
    assert_eq!(organization.refresh, Duration::from_secs(300));
    assert!(!format!("{organization:?}").contains("sk-ant"));
    assert!(parse("").expect("a config").organization.is_none());
    for (text, said) in [
        (
            "[organization]\nrefresh = \"1m\"\n",
            "an admin key is needed",
        ),
        (
            "[organization]\nadmin_key_env = \"sk-ant-admin01-x\"\n",
            "never written out",
        ),
        (
            "[organization]\nadmin_key_env = \"NONE\"\n",
            "NONE is not set",
        ),
        (
            "[organization]\nadmin_key_env = \"ADMIN\"\nadmin_key_file = \"f\"\n",
            "keep one",
        ),
        (
            "[organization]\nadmin_key_env = \"ADMIN\"\nrefresh = \"1s\"\n",
            "refresh",
        ),
        (
            "[organization]\nadmin_key_env = \"ADMIN\"\nrefersh = \"1m\"\n",
            "refresh",
        ),
    ] {
        let refused = parse(text).expect_err("refused").to_string();
        assert!(
            refused.contains(said) && !refused.contains("sk-ant"),
            "{text}: {refused}"
        );
    }
}

#[test]
fn counting_is_off_unless_a_target_says_from_where_on() {
    let parse = |text: &str| {
        let environment = Environment::from_fn(|_| None);
        let file = Path::new("c.toml");
        Config::parse(text, file, &Overrides::default(), &environment).expect("a config")
    };
    assert_eq!(parse("").targets[BUILT_IN_TARGET].count_tokens_above, None);
    assert_eq!(parse("[targets.a]\n").targets["a"].count_tokens_above, None);
    let above = parse("[targets.a]\ncount_tokens_above = 50_000\n");
    assert_eq!(above.targets["a"].count_tokens_above, Some(50_000));
}
