use std::path::Path;
use std::time::Duration;

use seawall::config::{DEFAULT_ROUTE, Environment, Overrides};

use serde_json::json;

use super::carriage::{Carriage, Fate, carriages, carry};
use super::faults::FAULTS;
use super::json::{as_json, refused_as_json};
use super::outlook::foretell;
use super::requests::KINDS;
use super::words::{in_words, show};
use super::*;

fn config(text: &str) -> Config {
    let environment = Environment::from_fn(|_| Some("sk-ant-very-secret".into()));
    Config::parse(
        text,
        Path::new("seawall.toml"),
        &Overrides::default(),
        &environment,
    )
    .unwrap()
}

#[test]
fn the_worst_case_is_worked_out() {
    let text = "[routes.default]\nretry = { attempts = 4, base = \"1s\", cap = \"3s\" }\ntimeouts = { connect = \"1s\", headers = \"2s\", first_content = \"3s\", stall = \"4s\", total = \"60s\" }";
    let words = in_words(&config(text));
    // Waits 1 + 2 + 3; attempts 4 x (1 + 2 + 3).
    assert!(
        words.contains("add up to 6 s at most, 3 s on average"),
        "{words}"
    );
    assert!(
        words.contains("4 x 6 s + 6 s = 30 s, which leaves 30 s of 60 s"),
        "{words}"
    );
}

#[test]
fn a_rung_that_outlasts_the_deadline_is_said_to() {
    let words = in_words(&config(""));
    assert!(
        words.contains("is cut off by the deadline of 10 min"),
        "{words}"
    );
    assert!(
        words.contains("else the key from the environment variable ANTHROPIC_API_KEY"),
        "{words}"
    );
}

#[test]
fn every_rung_and_quota_is_named_and_no_key_is_shown() {
    let text = "[quotas.q]\nrequests_per_minute = 50\n[targets.a]\napi_key_env = \"K\"\nquota = \"q\"\n[routes.default]\nladder = [\"a\", \"static\"]\nstatic = { text = \"down\" }";
    let config = config(text);
    let words = in_words(&config);
    for part in [
        "rung 1: a = the caller's model",
        "quota q",
        "rung 2: the fixed answer \"down\"",
        "50 requests a minute",
        "input tokens as learned",
    ] {
        assert!(words.contains(part), "{part:?} is not in:\n{words}");
    }
    assert!(
        !words.contains("very-secret") && !as_json(&config).to_string().contains("very-secret")
    );
}

#[test]
fn what_clients_may_use_is_said() {
    let key = "{ name = \"a\", sha256 = \"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\", limits = { concurrent_streams = 2 } }";
    let text = format!(
        "[gateway]\nlimits = {{ requests_per_minute = 60 }}\nclient_keys = [{key}]\n[targets.t]\napi_key_env = \"K\""
    );
    let words = in_words(&config(&text));
    assert!(words.contains("  each of them: 60 requests a minute\n  client a: 60 requests a minute, 2 answers at once\n"), "{words}");
}

#[test]
fn json_has_problems_with_their_places() {
    let environment = Environment::from_fn(|_| None);
    let error = Config::parse(
        "[gateway]\nx = 1",
        Path::new("s.toml"),
        &Overrides::default(),
        &environment,
    )
    .unwrap_err();
    let shown = refused_as_json(&error);
    assert_eq!(shown["valid"], json!(false));
    assert_eq!(shown["problems"][0]["line"], json!(2));
    assert_eq!(
        as_json(&config(""))["routes"]["default"]["ladder"],
        json!(["anthropic"])
    );
}

#[test]
fn durations_are_shown_in_round_units() {
    for (millis, shown) in [
        (500, "500 ms"),
        (1_500, "1.5 s"),
        (60_000, "60 s"),
        (600_000, "10 min"),
        (7_200_000, "2 h"),
        (0, "0 ms"),
    ] {
        assert_eq!(show(Duration::from_millis(millis)), shown);
    }
}

/// What becomes of a call on the default route that meets a fault, in words.
fn foretold(text: &str, fault: &str, form: &str) -> String {
    let config = config(text);
    let fault = FAULTS.into_iter().find(|known| known.word == fault);
    let route = &config.routes[DEFAULT_ROUTE];
    let told = foretell(&config, route, fault.expect("a fault"), form == "streamed");
    told.expect("a client that starts").words
}

const TWO: &str = "[targets.a]\nmodel = \"m\"\n[targets.b]\nmodel = \"n\"\n[routes.default]\n";

#[test]
fn without_a_second_rung_a_call_waits_and_then_gets_the_providers_own_error() {
    for (fault, words) in [
        (
            "overloaded",
            "retried here 4 times, then fails with overloaded_error",
        ),
        (
            "rate_limited",
            "retried here 4 times, then fails with rate_limit_error",
        ),
        (
            "rate_limited_for_long",
            "fails with rate_limit_error at once",
        ),
        (
            "invalid_request",
            "fails with invalid_request_error at once",
        ),
        ("authentication", "fails with authentication_error at once"),
        ("spend_cap", "fails with rate_limit_error at once"),
        (
            "breaker_open",
            "fails with overloaded_error after about 60 s",
        ),
        ("quota", "fails with rate_limit_error at once"),
    ] {
        let said = foretold("", fault, "whole");
        assert!(said.starts_with(words), "{fault}: {said}");
    }
}

#[test]
fn what_leads_to_a_rung_is_what_a_call_leaves_for_it() {
    let ladder = |rung: &str| format!("{TWO}ladder = [\"a\", {rung}]");
    let plain = ladder("\"b\"");
    assert!(
        foretold(&plain, "overloaded", "streamed")
            .starts_with("retried here 3 times, then rung 2 b")
    );
    assert_eq!(
        foretold(&plain, "breaker_open", "streamed"),
        "rung 2 b at once; if every target fails so: fails with overloaded_error after about 60 s"
    );
    let early = ladder("{ rung = \"b\", on = [\"overloaded\"], attempts = 2 }");
    assert!(
        foretold(&early, "overloaded", "whole")
            .starts_with("rung 2 b at once; if every target fails so: ")
    );
    assert_eq!(
        foretold(&early, "breaker_open", "whole"),
        "fails with overloaded_error after about 60 s (`breaker_open` leads to no rung)"
    );
    // Nothing but a long wait leads from one rung to the other.
    let patient = ladder("{ rung = \"b\", on = [\"quota\"] }");
    assert_eq!(
        foretold(&patient, "rate_limited_for_long", "whole"),
        "rung 2 b at once; if every target fails so: 1 attempt at rung 2 b, then fails with rate_limit_error"
    );
    assert!(foretold(&patient, "server_error", "whole").contains("fails with api_error"));
}

#[test]
fn another_credential_is_tried_and_the_same_one_is_not() {
    let same = format!("{TWO}ladder = [\"a\", \"b\"]");
    assert_eq!(
        foretold(&same, "authentication", "whole"),
        "fails with authentication_error at once (no rung has another credential)"
    );
    let other = same.replace("[targets.b]", "[targets.b]\napi_key_env = \"K\"");
    assert!(foretold(&other, "authentication", "whole").starts_with("rung 2 b at once"));
    assert!(foretold(&other, "spend_cap", "streamed").starts_with("rung 2 b at once"));
}

#[test]
fn a_refusal_is_respected_unless_a_rung_says_otherwise() {
    let ladder = |rung: &str| format!("{TWO}ladder = [\"a\", {rung}]");
    assert_eq!(
        foretold(&ladder("\"b\""), "refusal", "whole"),
        "the refusal is handed on at once (`refused` leads to no rung)"
    );
    let asks = ladder("{ rung = \"b\", on = [\"refused\"] }");
    let said = foretold(&asks, "refusal", "whole");
    assert!(said.starts_with("rung 2 b at once"), "{said}");
    let said = foretold(&asks, "not_found", "streamed");
    assert_eq!(
        said,
        "fails with not_found_error at once (`not_found` leads to no rung)"
    );
}

#[test]
fn too_large_a_request_goes_to_more_room_and_nowhere_else() {
    let room = |a: u32, b: u32| {
        let text = format!(
            "[targets.a]\nmodel = \"m\"\ncontext_tokens = {a}\n[targets.b]\nmodel = \"n\"\ncontext_tokens = {b}\n[routes.default]\nladder = [\"a\", \"b\"]"
        );
        foretold(&text, "prompt_too_long", "streamed")
    };
    assert!(
        room(200_000, 1_000_000).starts_with("rung 2 b at once"),
        "{}",
        room(200_000, 1_000_000)
    );
    assert_eq!(
        room(1_000_000, 200_000),
        "fails with invalid_request_error at once (no rung is known to take more)"
    );
}

#[test]
fn how_a_streamed_answer_that_breaks_off_goes_on_is_its_deliverys_to_say() {
    let cut = |delivery: &str| {
        foretold(
            &format!("[routes.default]\ndelivery = \"{delivery}\""),
            "cut",
            "streamed",
        )
    };
    assert_eq!(cut("as_it_comes"), "breaks off with an error event at once");
    assert!(
        cut("complete").starts_with("retried here 4 times, then fails with "),
        "{}",
        cut("complete")
    );
    assert!(foretold("", "cut", "whole").starts_with("retried here 4 times"));
}

#[test]
fn the_cache_and_the_fixed_answer_come_at_the_end() {
    let text = format!(
        "{TWO}ladder = [\"cache\", \"a\", \"b\", \"cache\", \"static\"]\nstatic = {{ text = \"down\" }}"
    );
    let said = foretold(&text, "server_error", "streamed");
    for part in [
        "then rung 3 b",
        "if every target fails so: ",
        "then rung 5 static",
        "if the cache has an answer, that one instead",
    ] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    let shown = as_json(&config(&text));
    let unavailable = &shown["routes"]["default"]["faults"]["unavailable"]["whole"];
    assert_eq!(unavailable["first_fails"]["answered_by"], json!("b"));
    assert_eq!(unavailable["all_fail"]["answered_by"], json!("static"));
    assert_eq!(
        unavailable["all_fail_with_cached"]["answered_by"],
        json!("cache")
    );
    assert_eq!(
        unavailable["first_fails"]["attempts"][0]["target"],
        json!("a")
    );
}

#[test]
fn what_a_route_does_besides_its_ladder_is_said() {
    let text = "[organization]\nadmin_key_env = \"K\"\n[targets.a]\ncount_tokens_above = 5\ncannot = [\"images\"]\ncontext_tokens = 9000\n[cache]\nmemory = \"8MiB\"\n[routes.default]\nladder = [{ rung = \"a\", share = 1.0, attempts = 3, lossy = [\"thinking\"] }, \"cache\"]\nhedge = { after = \"2s\" }\nprobe = true\nsingle_flight = true\n";
    let config = config(text);
    let words = in_words(&config);
    for part in [
        "prompts of more than 5 tokens are counted by the provider first",
        "cannot carry images",
        "holds 9000 tokens",
        "at most 3 attempts",
        "may lose thinking",
        "fresh for 10 min",
        "a second attempt at the same target after 2 s of silence, for at most 2 %",
        "probed by a tiny request",
        "share one attempt",
        "organization: https://api.anthropic.com is asked for its limits every 5 min with the admin key from the environment variable K",
        "cache: 8MiB in memory",
    ] {
        assert!(words.contains(part), "{part:?} is not in:\n{words}");
    }
    let shown = as_json(&config);
    let route = &shown["routes"]["default"];
    assert_eq!(route["rungs"][0]["lossy"], json!(["thinking"]));
    assert_eq!(route["hedge"]["after_ms"], json!(2_000));
    assert_eq!(shown["cache"]["memory_bytes"], json!(8 << 20));
    assert_eq!(shown["organization"]["refresh_ms"], json!(300_000));
    assert!(!shown.to_string().contains("very-secret") && !words.contains("very-secret"));
}

#[test]
fn every_kind_of_request_needs_what_its_name_says() {
    for (kind, cannot) in [
        ("tools", "tools"),
        ("forced_tools", "forced_tools"),
        ("server_tools", "server_tools"),
        ("images", "images"),
        ("documents", "documents"),
        ("citations", "citations"),
        ("adaptive_thinking", "thinking"),
        ("thinking_budget", "thinking"),
        ("no_thinking", "no_thinking"),
        ("earlier_thinking", "prompt_caching"),
        ("effort", "effort"),
        ("json_schema", "json_schema"),
        ("prompt_caching", "prompt_caching"),
        ("sampling", "sampling"),
        ("prefill", "prefill"),
        ("fast_mode", "fast_mode"),
        ("inference_geo", "inference_geo"),
    ] {
        let text = format!(
            "[targets.a]\n[targets.b]\nmodel = \"n\"\ncannot = [\"{cannot}\"]\n[routes.default]\nladder = [\"a\", \"b\"]"
        );
        let config = config(&text);
        let sent = KINDS.into_iter().find(|known| known.word == kind);
        let told = carry(&config, &config.routes[DEFAULT_ROUTE], sent.expect(kind));
        let skipped = Fate::Skipped(format!("cannot_{cannot}"));
        assert_eq!(
            told.expect("a client that starts").targets,
            [("a".to_owned(), Fate::AS_IT_IS), ("b".to_owned(), skipped)],
            "{kind}"
        );
    }
}

#[test]
fn what_targets_can_carry_is_said_once_for_all_that_fare_alike() {
    let text = "[targets.new]\nmodel = \"claude-sonnet-5-5\"\n[targets.old]\nmodel = \"claude-haiku-4-5\"\ncannot = [\"images\"]\n[routes.default]\nladder = [\"cache\", \"new\", { rung = \"old\", on = [\"refused\"], lossy = [\"thinking\", \"max_tokens\"] }, \"static\"]\nstatic = { text = \"down\" }";
    let config = config(text);
    let words = in_words(&config);
    for part in [
        "    as they are on every target: text, tools, a forced call of a tool, web search, documents, citations, ",
        "    images: rung 3 old is skipped (cannot_images)\n",
        "    adaptive thinking: rung 3 old loses thinking\n",
        "    thinking with a budget: rung 2 new is skipped (cannot_thinking)\n",
        "    an agent's turn with its earlier thinking: rung 3 old loses thinking_blocks\n",
        "    fast mode: rung 2 new is skipped (cannot_fast_mode), rung 3 old is skipped (cannot_fast_mode), so the call ends with invalid_request_error\n",
        "    answers of up to 128,000 tokens: rung 3 old loses max_tokens\n",
        "    prompts of about 500,000 tokens: rung 3 old is skipped (context_too_long)\n",
    ] {
        assert!(words.contains(part), "{part:?} is not in:\n{words}");
    }
    let shown = as_json(&config);
    let requests = &shown["routes"]["default"]["requests"];
    assert_eq!(
        requests["images"],
        json!({
            "new": { "skipped": null, "lost": [] },
            "old": { "skipped": "cannot_images", "lost": [] },
        })
    );
    assert_eq!(
        requests["answer_128k"]["old"],
        json!({ "skipped": null, "lost": ["max_tokens"] })
    );
    assert_eq!(requests.as_object().expect("kinds").len(), KINDS.len());
}

#[test]
fn a_lone_target_gets_everything_as_it_is() {
    let config = config("[targets.a]\nmodel = \"claude-haiku-4-5\"");
    let words = in_words(&config);
    assert!(
        words.contains("  every kind of request goes to its targets as it is; "),
        "{words}"
    );
    let all = carriages(&config, &config.routes[DEFAULT_ROUTE]);
    assert!(
        all.expect("a client that starts")
            .iter()
            .all(Carriage::is_plain)
    );
}

#[test]
fn thinking_does_not_go_to_another_account() {
    let words = |model: &str| {
        let text = format!(
            "[targets.a]\nmodel = \"{model}\"\n[targets.b]\nmodel = \"{model}\"\napi_key_env = \"K\"\n[routes.default]\nladder = [\"a\", \"b\"]"
        );
        in_words(&config(&text))
    };
    let loses = "an agent's turn with its earlier thinking: rung 2 b loses thinking_blocks\n";
    assert!(words("claude-opus-5-5").contains(loses));
    assert!(!words("claude-opus-5").contains("loses"));
}
