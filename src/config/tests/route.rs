//! What else a route says, and whether its time is enough for its ladder.

use super::*;

const TWO: &str = "[targets.a]\n[targets.b]\nmodel = \"m\"\n[routes.default]\n";

fn route(text: &str) -> Route {
    parse(text).unwrap().routes[DEFAULT_ROUTE].clone()
}

#[test]
fn nothing_is_shared_probed_or_hedged_unasked() {
    let route = route("");
    assert!(!route.single_flight && !route.probe);
    assert_eq!(route.hedge, None);
    assert_eq!(route.wait, Duration::from_secs(60));
}

#[test]
fn a_wait_that_is_written_wins_over_the_profiles() {
    let wait = |text: &str| route(&format!("[routes.default]\n{text}")).wait;
    assert_eq!(wait("wait = \"10s\""), Duration::from_secs(10));
    assert_eq!(wait("wait = \"9m\""), Duration::from_secs(540));
    assert_eq!(wait("wait = \"0s\"\nprofile = \"batch\""), Duration::ZERO);
    refused(
        "[routes.default]\nprofile = \"interactive\"\nwait = \"31s\"",
        "seawall.toml:3:8:",
        &["never run out", "30s"],
    );
}

#[test]
fn a_route_shares_probes_and_hedges_where_it_says_so() {
    let route = route("[routes.default]\nsingle_flight = true\nprobe = true\nhedge = {}\n");
    assert!(route.single_flight && route.probe);
    let hedge = route.hedge.unwrap();
    assert_eq!((hedge.on, hedge.after), (HedgeOn::Same, None));
    assert!((hedge.budget - 0.02).abs() < 1e-9);
    let written = format!(
        "{TWO}ladder = [\"a\", \"b\"]\nhedge = {{ budget = 0.2, on = \"next\", after = \"2s\" }}"
    );
    let hedge = self::route(&written).hedge.unwrap();
    assert_eq!(hedge.on, HedgeOn::Next);
    assert_eq!(hedge.after, Some(Duration::from_secs(2)));
    assert!((hedge.budget - 0.2).abs() < 1e-9);
}

#[test]
fn a_hedge_for_which_no_attempt_is_left_is_warned_of() {
    for (written, dead) in [
        (
            "ladder = [\"a\"]\nretry = { attempts = 1 }\nhedge = {}",
            true,
        ),
        (
            "ladder = [\"a\"]\nretry = { attempts = 2 }\nhedge = {}",
            false,
        ),
        (
            "ladder = [\"a\", \"b\"]\nretry = { attempts = 2 }\nhedge = {}",
            true,
        ),
        (
            "ladder = [\"cache\", { rung = \"a\", attempts = 1 }, \"b\"]\nhedge = {}",
            true,
        ),
        (
            "ladder = [\"a\", \"b\"]\nretry = { attempts = 1 }\nhedge = { on = \"next\" }",
            false,
        ),
    ] {
        let config = parse(&format!("{TWO}{written}")).unwrap();
        let warnings = config.warnings.iter().map(ToString::to_string);
        let of_hedge = warnings.filter(|warning| warning.contains("`retry.attempts`"));
        let of_hedge: Vec<String> = of_hedge.collect();
        assert_eq!(of_hedge.len(), usize::from(dead), "{written}: {of_hedge:?}");
        let at_hedge = of_hedge
            .iter()
            .all(|warning| warning.contains("seawall.toml:"));
        assert!(at_hedge, "{of_hedge:?}");
    }
}

#[test]
fn a_hedge_that_cannot_be_is_refused_with_its_place() {
    for (hedge, column, words) in [
        ("budget = 0", 20, &["from 0.001 to 0.2"][..]),
        ("budget = 0.5", 20, &["from 0.001 to 0.2"]),
        ("on = \"next\"", 16, &["no second target", "\"same\""]),
        ("on = \"both\"", 16, &["\"same\"", "\"next\""]),
        ("after = \"10m\"", 19, &["ends after 600s"]),
        ("bugdet = 0.1", 11, &["did you mean `budget`?"]),
    ] {
        refused(
            &format!("[routes.default]\nhedge = {{ {hedge} }}"),
            &format!("seawall.toml:2:{column}:"),
            words,
        );
    }
    for key in ["single_flight", "probe"] {
        refused(
            &format!("[routes.default]\n{key} = 1"),
            "seawall.toml:2:",
            &["true or false"],
        );
    }
}

#[test]
fn the_room_of_a_target_can_be_written() {
    let config = parse("[targets.a]\ncontext_tokens = 32_000\noutput_tokens = 4_000").unwrap();
    let target = &config.targets["a"];
    assert_eq!(target.context_tokens, Some(32_000));
    assert_eq!(target.output_tokens, Some(4_000));
    let target = &parse("").unwrap().targets[BUILT_IN_TARGET];
    assert_eq!((target.context_tokens, target.output_tokens), (None, None));
    refused(
        "[targets.a]\ncontext_tokens = 0",
        "seawall.toml:2:18:",
        &["from 1 to 1000000000"],
    );
}

fn warning(route: &str) -> String {
    let config = parse(&format!("{TWO}{route}")).unwrap();
    assert!(config.warnings.len() <= 1, "{:?}", config.warnings);
    config
        .warnings
        .first()
        .map_or_else(String::new, ToString::to_string)
}

#[test]
fn a_target_that_a_silent_one_keeps_calls_from_is_pointed_out_with_the_sum() {
    let clocks = "timeouts = { connect = \"1s\", headers = \"2s\", first_content = \"3s\", stall = \"3s\", total = \"20s\" }\nretry = { attempts = 4, base = \"1s\", cap = \"1s\" }\n";
    let greedy = "{ rung = \"a\", share = 1.0 }";
    let said = warning(&format!("{clocks}ladder = [{greedy}, \"b\"]"));
    assert!(
        said.starts_with("seawall.toml:7:10: route `default`: "),
        "{said}"
    );
    // One of the four attempts is kept for the second target.
    assert!(
        said.contains("before it comes to `b`: 3 x 6s + 2s on `a` = 20s, and its deadline is 20s"),
        "{said}"
    );
    for enough in [
        "[\"a\", \"b\"]",
        "[{ rung = \"a\", share = 0.5 }, \"b\"]",
        "[{ rung = \"a\", share = 1.0, attempts = 2 }, \"b\"]",
        "[{ rung = \"a\", share = 1.0 }, { rung = \"b\", on = [\"overloaded\"] }]",
        "[{ rung = \"a\", share = 1.0 }, { rung = \"b\", attempts = 2 }]",
    ] {
        assert_eq!(
            warning(&format!("{clocks}ladder = {enough}")),
            "",
            "{enough}"
        );
    }
}

#[test]
fn time_that_no_target_may_use_is_pointed_out() {
    let said = warning("ladder = [{ rung = \"a\", share = 0.25 }, { rung = \"b\", share = 0.25 }]");
    assert!(
        said.contains("add up to 0.50") && said.contains("last 5m of 10m"),
        "{said}"
    );
    assert_eq!(
        warning("ladder = [{ rung = \"a\", share = 0.5 }, \"b\"]"),
        ""
    );
    assert_eq!(
        warning("ladder = [{ rung = \"a\", share = 0.4 }, { rung = \"b\", share = 0.6 }]"),
        ""
    );
}

#[test]
fn a_hedge_that_no_target_takes_is_pointed_out() {
    let warnings = |on: &str| {
        let text = format!(
            "{TWO}ladder = [\"a\", {{ rung = \"b\", on = [{on}] }}]\nhedge = {{ on = \"next\" }}"
        );
        parse(&text).unwrap().warnings
    };
    let [warning] = &warnings("\"quota\"")[..] else {
        panic!("one warning expected")
    };
    let said = warning.to_string();
    assert!(
        said.contains("hedge.on` is \"next\"") && said.contains("\"attempts_spent\" or"),
        "{said}"
    );
    assert_eq!(warning.place.as_ref().map(|place| place.column), Some(16));
    assert_eq!(warnings("\"attempts_spent\""), []);
}

#[test]
fn a_time_without_quotes_is_told_its_form() {
    refused(
        "[routes.default]\nretry = { base = 500 }",
        "seawall.toml:2:18:",
        &[
            "is a whole number",
            "a time with its unit in quotes",
            "\"500ms\"",
        ],
    );
}
