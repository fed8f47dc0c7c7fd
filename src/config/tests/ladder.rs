//! Ladders: what a rung is, what leads to it, and those that no call would ever stand on.

use seawall_actors::policy::ladder::{Cause, Causes};

use super::*;
use crate::capability::{Feature, Features};

const TARGETS: &str = "[targets.a]\n[targets.b]\nmodel = \"m\"\n[targets.c]\napi_key_env = \"KEY\"\n[routes.default]\nstatic = { text = \"down\" }\n";

/// The line that ladders are on.
const LINE: &str = "seawall.toml:8:";

fn with(ladder: &str) -> String {
    // Every target and the static answer are used, so that only the first ladder is warned of.
    format!("{TARGETS}ladder = {ladder}\n[routes.all]\nladder = [\"a\", \"b\", \"c\"]\n")
}

fn ladder(written: &str) -> Vec<Rung> {
    parse(&with(written)).unwrap().routes[DEFAULT_ROUTE]
        .ladder
        .clone()
}

fn warned(written: &str) -> (Vec<String>, Vec<String>) {
    let config = parse(&with(written)).unwrap();
    let ladder = config.routes[DEFAULT_ROUTE].ladder.iter();
    let warnings = config.warnings.iter().map(ToString::to_string).collect();
    (ladder.map(ToString::to_string).collect(), warnings)
}

#[test]
fn a_rung_has_what_usually_leads_to_its_place() {
    let rungs = ladder("[\"a\", \"b\", \"cache\", \"static\"]");
    let on: Vec<_> = rungs.iter().map(|rung| rung.on).collect();
    assert_eq!(
        on,
        [Causes::NONE, Causes::TARGET, Causes::STAND_IN, Causes::LAST]
    );
    for rung in rungs {
        assert_eq!((rung.attempts, rung.share), (None, None));
    }
}

#[test]
fn a_rung_says_what_leads_to_it_how_many_attempts_it_has_and_which_share_of_the_time() {
    let rungs = ladder(
        "[\"a\", { rung = \"b\", on = [\"overloaded\", \"context_too_long\"], attempts = 2, share = 0.5 }, { rung = \"static\", on = [\"refused\"] }]",
    );
    assert_eq!(rungs[1].place, Place::Target("b".into()));
    assert_eq!(
        rungs[1].on,
        Causes::of(&[Cause::Overloaded, Cause::TooLarge])
    );
    let words: Vec<_> = rungs[1].causes().collect();
    assert_eq!(words, ["overloaded", "context_too_long"]);
    assert_eq!((rungs[1].attempts, rungs[1].share), (Some(2), Some(0.5)));
    assert_eq!(rungs[2].on, Causes::of(&[Cause::Refused]));
}

#[test]
fn every_cause_has_its_word() {
    for word in [
        "breaker_open",
        "quota",
        "attempts_spent",
        "overloaded",
        "context_too_long",
        "refused",
        "credential",
        "not_found",
        "last_resort",
    ] {
        let rungs = ladder(&format!(
            "[\"a\", {{ rung = \"c\", on = [\"{word}\"] }}, \"static\"]"
        ));
        assert_eq!(rungs[1].causes().collect::<Vec<_>>(), [word]);
    }
}

#[test]
fn a_cache_before_the_first_target_is_looked_into_first_and_nothing_leads_there() {
    let (rungs, warnings) = warned("[\"cache\", \"a\", \"b\", \"cache\", \"static\"]");
    assert_eq!(rungs, ["cache", "a", "b", "cache", "static"]);
    assert!(warnings.is_empty(), "{warnings:?}");
    let on: Vec<_> = ladder("[\"cache\", \"a\", \"b\", \"cache\", \"static\"]")
        .iter()
        .map(|rung| rung.on)
        .collect();
    assert_eq!(
        on,
        [
            Causes::NONE,
            Causes::NONE,
            Causes::TARGET,
            Causes::STAND_IN,
            Causes::LAST
        ]
    );
}

#[test]
fn a_rung_that_no_call_stands_on_is_pointed_out_and_left_out() {
    for (written, left, why) in [
        ("[\"a\", \"static\", \"b\"]", "a static", "always answers"),
        (
            "[\"a\", \"static\", \"cache\"]",
            "a static",
            "always answers",
        ),
        (
            "[\"a\", \"b\", \"a\", \"static\"]",
            "a b static",
            "tried further up",
        ),
        (
            "[\"a\", \"cache\", \"b\", \"static\"]",
            "a b static",
            "before the first target",
        ),
        (
            "[\"a\", \"cache\", \"cache\", \"static\"]",
            "a cache static",
            "looked into further up",
        ),
        (
            "[\"cache\", \"cache\", \"a\", \"static\"]",
            "cache a static",
            "looked into further up",
        ),
    ] {
        let (rungs, warnings) = warned(written);
        assert_eq!(rungs.join(" "), left, "{written}");
        let [warning] = warnings.as_slice() else {
            panic!("one warning expected for {written}: {warnings:?}")
        };
        assert!(warning.starts_with(LINE), "{warning}");
        assert!(
            warning.contains("is dead: ") && warning.contains(why),
            "{warning}"
        );
    }
    // The repetition is dead, so the cache stands behind the last target.
    let (rungs, warnings) = warned("[\"a\", \"cache\", \"a\", \"static\"]");
    assert_eq!(rungs, ["a", "cache", "static"]);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[test]
fn a_rung_that_no_usual_request_reaches_is_pointed_out() {
    let target = |own: &str, lossy: &str| {
        let text = format!(
            "[targets.a]\n[targets.b]\nmodel = \"m\"\n{own}\n[routes.default]\nladder = [\"a\", {{ rung = \"b\", lossy = [{lossy}] }}]"
        );
        let config = parse(&text).unwrap();
        let warning = config.warnings.first().map(ToString::to_string);
        warning.unwrap_or_default()
    };
    for (own, lossy, why) in [
        ("output_tokens = 1023", "", "at most 1023"),
        ("output_tokens = 500", "\"max_tokens\"", "at most 500"),
        ("context_tokens = 1024", "", "context of 1024"),
    ] {
        let said = target(own, lossy);
        assert!(
            said.starts_with("seawall.toml:6:16: ")
                && said.contains("`b` is unreachable for a request that asks for 1024 tokens")
                && said.contains(why),
            "{said}"
        );
    }
    for own in ["output_tokens = 1024", "context_tokens = 2000"] {
        assert_eq!(target(own, ""), "", "{own}");
    }
    let warning = |rung: &str| warned(&format!("[\"a\", {rung}, \"static\"]")).1;
    let [said] = &warning("{ rung = \"b\", on = [\"last_resort\"] }")[..] else {
        panic!("one warning expected")
    };
    assert!(
        said.starts_with(LINE)
            && said.contains("`b` is unreachable: `last_resort`: only a cache or a fixed answer"),
        "{said}"
    );
    assert!(warning("{ rung = \"b\", on = [\"last_resort\", \"quota\"] }").is_empty());
}

#[test]
fn a_rung_that_asks_the_same_again_is_pointed_out() {
    let second = |first: &str, second: &str| {
        let text = format!(
            "[targets.a]\n{first}\n[targets.b]\n{second}\n[routes.default]\nladder = [\"a\", \"b\"]"
        );
        let config = parse(&text).unwrap();
        let warning = config.warnings.first().map(ToString::to_string);
        warning.unwrap_or_default()
    };
    for same in ["", "model = \"m\"", "api_key_env = \"KEY\""] {
        let said = second(same, same);
        assert!(
            said.starts_with("seawall.toml:6:16: ")
                && said.contains("`b` asks the same model at the same address")
                && said.contains("as `a` above"),
            "{said}"
        );
    }
    for other in [
        "model = \"m\"",
        "api_key_env = \"KEY\"",
        "base_url = \"http://localhost\"",
        "context_tokens = 10000",
    ] {
        assert_eq!(second("", other), "", "{other}");
    }
    for (text, model, known) in [
        ("[targets.a]\nmodel = \"m\"", "m", "`a` asks for m already"),
        (
            "[targets.a]\n[targets.m]\nmodel = \"m\"\n[routes.default]\nladder = [\"a\", \"m\"]",
            "m",
            "`m` stands in the ladder already",
        ),
    ] {
        let over = Overrides {
            fallback: vec![model.into()],
            ..Overrides::default()
        };
        let before = parse(text).unwrap();
        let config = flags(text, &over).unwrap();
        let [warning] = &config.warnings[..] else {
            panic!("one warning expected: {:?}", config.warnings)
        };
        let said = warning.to_string();
        assert!(
            said.starts_with("--fallback: ") && said.contains(known),
            "{said}"
        );
        let ladder = |config: &Config| config.routes[DEFAULT_ROUTE].ladder.clone();
        assert_eq!(ladder(&config), ladder(&before));
        assert_eq!(config.targets.len(), before.targets.len());
    }
}

#[test]
fn a_static_answer_for_some_causes_still_stands_last() {
    let (rungs, warnings) = warned("[\"a\", { rung = \"static\", on = [\"refused\"] }, \"b\"]");
    assert_eq!(rungs, ["a", "static"]);
    let [warning] = &warnings[..] else {
        panic!("one warning expected: {warnings:?}")
    };
    assert!(
        warning.contains("`b` is dead: nothing stands behind \"static\"; move that to the end"),
        "{warning}"
    );
}

#[test]
fn a_ladder_of_the_wrong_type_is_not_missing_too() {
    refused(
        "[targets.a]\n[targets.b]\n[routes.default]\nladder = \"a\"",
        "seawall.toml:4:10:",
        &["`routes.default.ladder` is a text", "write a list"],
    );
}

#[test]
fn a_rung_with_the_same_credential_is_not_reached_for_the_sake_of_another() {
    let (rungs, warnings) = warned(
        "[\"a\", { rung = \"b\", on = [\"credential\"] }, { rung = \"c\", on = [\"credential\"] }, \"static\"]",
    );
    assert_eq!(rungs, ["a", "b", "c", "static"]);
    let [warning] = warnings.as_slice() else {
        panic!("one warning expected: {warnings:?}")
    };
    assert!(
        warning.starts_with(LINE)
            && warning.contains("`b` is unreachable: `credential`: it has the same"),
        "{warning}"
    );
    let (_, warnings) =
        warned("[\"a\", { rung = \"b\", on = [\"credential\", \"quota\"] }, \"static\"]");
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn what_cannot_be_meant_is_refused_with_its_place() {
    for (written, words) in [
        (
            "[{ rung = \"a\", on = [\"quota\"] }, \"b\", \"static\"]",
            &["nothing leads to `a`", "leave `on` out"][..],
        ),
        (
            "[{ rung = \"cache\", on = [\"quota\"] }, \"a\", \"static\"]",
            &["nothing leads to `cache`"],
        ),
        (
            "[\"cache\", { rung = \"a\", on = [\"quota\"] }, \"static\"]",
            &["nothing leads to `a`"],
        ),
        (
            "[\"a\", { rung = \"b\", on = [\"overload\"] }, \"static\"]",
            &["no such cause `overload`", "did you mean `overloaded`?"],
        ),
        (
            "[\"a\", { rung = \"b\", on = [\"x\"] }, \"static\"]",
            &["known: breaker_open, quota, ", ", last_resort"],
        ),
        (
            "[\"a\", { rung = \"b\", on = [] }, \"static\"]",
            &["is empty", "leave it out"],
        ),
        (
            "[\"a\", { rung = \"b\", attempts = 6 }, \"static\"]",
            &["6 attempts", "5 in all", "retry.attempts"],
        ),
        (
            "[\"a\", { rung = \"b\", attempts = 0 }, \"static\"]",
            &["from 1 to 100"],
        ),
        (
            "[\"a\", { rung = \"b\", share = 0.01 }, \"static\"]",
            &["from 0.05 to 1"],
        ),
    ] {
        refused(&with(written), LINE, words);
    }
}

#[test]
fn what_no_rung_has_is_refused_with_its_place() {
    for (written, words) in [
        (
            "[\"a\", { rung = \"static\", attempts = 2 }]",
            &["only a target has attempts"][..],
        ),
        (
            "[\"a\", { rung = \"cache\", share = 0.5 }, \"static\"]",
            &["only a target has share"],
        ),
        (
            "[\"a\", { rung = \"cache\", lossy = [\"thinking\"] }, \"static\"]",
            &["only a target has lossy"],
        ),
        (
            "[\"a\", { rung = \"b\", lossy = [\"thinkin\"] }, \"static\"]",
            &["ladder.lossy", "write \"thinking\""],
        ),
        (
            "[\"a\", { on = [\"quota\"] }, \"static\"]",
            &["needs its rung"],
        ),
        (
            "[\"a\", { rung = \"b\", attempst = 2 }, \"static\"]",
            &["unknown key `attempst`", "did you mean `attempts`?"],
        ),
        (
            "[\"a\", { rung = \"cahce\" }, \"static\"]",
            &["did you mean `cache`?"],
        ),
        (
            "[\"a\", 7, \"static\"]",
            &["a whole number", "a text in quotes or a table"],
        ),
    ] {
        refused(&with(written), LINE, words);
    }
    refused(
        "[routes.default]\nladder = [\"cache\", \"static\"]\nstatic = { text = \"x\" }",
        "seawall.toml:1:9:",
        &["nothing ever fills its cache", "anthropic"],
    );
}

#[test]
fn a_fallback_of_a_flag_comes_behind_the_targets_with_the_usual_causes() {
    let over = Overrides {
        fallback: vec!["claude-haiku-5-5".into()],
        ..Overrides::default()
    };
    let text = "[routes.default]\nladder = [\"cache\", \"anthropic\", \"cache\", \"static\"]\nstatic = { text = \"x\" }";
    let config = flags(text, &over).unwrap();
    let ladder = &config.routes[DEFAULT_ROUTE].ladder;
    let names: Vec<_> = ladder.iter().map(ToString::to_string).collect();
    assert_eq!(
        names,
        ["cache", "anthropic", "claude-haiku-5-5", "cache", "static"]
    );
    assert_eq!(ladder[2].on, Causes::TARGET);
}

#[test]
fn what_may_get_lost_is_the_routes_to_say_unless_the_rung_does() {
    let lossy = |route: &str, rung: &str| {
        let text = format!(
            "[targets.a]\n[targets.b]\n[routes.default]\n{route}\nladder = [\"a\", {{ rung = \"b\"{rung} }}]"
        );
        let route = parse(&text).unwrap().routes[DEFAULT_ROUTE].clone();
        (route.ladder[0].lossy, route.ladder[1].lossy)
    };
    let (thinking, images) = (Feature::Thinking.into(), Feature::Images.into());
    assert_eq!(lossy("", ""), (Features::NONE, Features::NONE));
    let everywhere = "lossy = [\"thinking\"]";
    assert_eq!(lossy(everywhere, ""), (thinking, thinking));
    assert_eq!(
        lossy(everywhere, ", lossy = [\"images\"]"),
        (thinking, images)
    );
    assert_eq!(
        lossy(everywhere, ", lossy = []"),
        (thinking, Features::NONE)
    );
    let over = Overrides {
        fallback: vec!["m".into()],
        ..Overrides::default()
    };
    let config = flags(&format!("[routes.default]\n{everywhere}"), &over).unwrap();
    assert_eq!(config.routes[DEFAULT_ROUTE].ladder[1].lossy, thinking);
}

#[test]
fn a_target_says_what_it_cannot_carry() {
    let config = parse("[targets.a]\ncannot = [\"images\", \"tools\"]").unwrap();
    let cannot: Vec<_> = config.targets["a"].cannot.iter().collect();
    assert_eq!(cannot, [Feature::Tools, Feature::Images]);
    assert!(
        parse("").unwrap().targets[BUILT_IN_TARGET]
            .cannot
            .is_empty()
    );
    refused(
        "[targets.a]\ncannot = [\"image\"]",
        "seawall.toml:2:11:",
        &["targets.a.cannot", "write \"images\""],
    );
    refused(
        "[targets.a]\ncontext_tokens = 1000\noutput_tokens = 1001",
        "seawall.toml:3:17:",
        &["more than the 1000"],
    );
}

#[test]
fn a_rung_without_more_room_is_not_reached_for_the_sake_of_it() {
    let unreachable = |above: &str, here: &str| {
        let text = format!(
            "[targets.a]\n{above}\n[targets.b]\nbase_url = \"http://localhost\"\n{here}\n[routes.default]\nladder = [\"a\", {{ rung = \"b\", on = [\"context_too_long\", \"credential\"] }}]"
        );
        let config = parse(&text).unwrap();
        assert!(config.warnings.len() <= 1, "{:?}", config.warnings);
        let warning = config.warnings.first().map(ToString::to_string);
        warning.unwrap_or_default()
    };
    for (above, here, why) in [
        (
            "context_tokens = 10000",
            "context_tokens = 10000",
            "as large a request",
        ),
        ("", "", "as large a request"),
        ("", "model = \"unheard-of\"", "write `context_tokens`"),
    ] {
        let said = unreachable(above, here);
        assert!(
            said.contains("`b` is unreachable: `context_too_long`: ")
                && said.contains(why)
                && said.contains("; `credential`: "),
            "{said}"
        );
    }
    for (above, here) in [
        ("context_tokens = 10000", "context_tokens = 11000"),
        ("context_tokens = 10000", ""),
        ("model = \"unheard-of\"", "context_tokens = 10000"),
        ("", "context_tokens = 10000"),
    ] {
        assert_eq!(unreachable(above, here), "", "{above} {here}");
    }
}
