//! What is kept, where, and for how long.

use super::*;

const LADDER: &str = "[routes.default]\nladder = [\"anthropic\", \"cache\"]\n";

#[test]
fn a_ladder_with_a_cache_keeps_answers_for_ten_minutes_and_a_day_in_need() {
    let config = parse(LADDER).unwrap();
    assert_eq!(config.warnings, []);
    let kept = config.routes[DEFAULT_ROUTE].cache.unwrap();
    assert_eq!(kept, CacheSettings::default());
    assert_eq!(kept.ttl, Duration::from_secs(600));
    assert_eq!(kept.stale_if_error, Duration::from_secs(86_400));
    assert!(kept.max_temperature >= 1.0 && !kept.shared);
    assert_eq!(config.cache, CacheStore::default());
    assert_eq!(
        (config.cache.memory, config.cache.largest),
        (64 << 20, 4 << 20)
    );
    assert_eq!(
        (config.cache.disk, config.cache.disk_limit),
        (None, 1 << 30)
    );
    assert_eq!(parse("").unwrap().routes[DEFAULT_ROUTE].cache, None);
}

#[test]
fn every_setting_of_a_cache_can_be_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = format!(
        "{LADDER}cache = {{ ttl = \"1h\", stale_if_error = \"2h\", max_temperature = 0, shared = true }}\n\
         [cache]\nmemory = \"128MiB\"\ndisk = \"kept.sqlite\"\ndisk_limit = \"2GiB\"\nlargest = 500000\n"
    );
    let config = Config::parse(
        &text,
        &folder.join("seawall.toml"),
        &Overrides::default(),
        &environment(),
    )
    .unwrap();
    let kept = config.routes[DEFAULT_ROUTE].cache.unwrap();
    assert_eq!(kept.ttl, Duration::from_secs(3_600));
    assert_eq!(kept.stale_if_error, Duration::from_secs(7_200));
    assert!(kept.max_temperature <= 0.0 && kept.shared);
    let store = config.cache;
    assert_eq!(store.memory, 128 << 20);
    assert_eq!(store.disk.as_deref(), Some(&*folder.join("kept.sqlite")));
    assert_eq!((store.disk_limit, store.largest), (2 << 30, 500_000));
}

#[test]
fn the_lifetime_that_is_not_written_gives_way() {
    let kept = |cache: &str| {
        let config = parse(&format!("{LADDER}cache = {{ {cache} }}")).unwrap();
        let kept = config.routes[DEFAULT_ROUTE].cache.unwrap();
        (kept.ttl.as_secs(), kept.stale_if_error.as_secs())
    };
    assert_eq!(kept("stale_if_error = \"1m\""), (60, 60));
    assert_eq!(kept("ttl = \"48h\""), (172_800, 172_800));
    let small = parse(&format!("{LADDER}[cache]\nmemory = \"1MiB\"")).unwrap();
    assert_eq!(small.cache.largest, 1 << 20);
}

#[test]
fn what_a_cache_cannot_do_is_refused_with_its_place() {
    for (rest, place, words) in [
        (
            "cache = { ttl = \"2h\", stale_if_error = \"1h\" }",
            "seawall.toml:3:17:",
            &["longer than `stale_if_error`"][..],
        ),
        (
            "cache = { ttl = \"0s\" }",
            "seawall.toml:3:17:",
            &["from 1s"],
        ),
        (
            "cache = { max_temperature = 3 }",
            "seawall.toml:3:29:",
            &["from 0 to 2"],
        ),
        (
            "cache = { tll = \"1m\" }",
            "seawall.toml:3:11:",
            &["did you mean `ttl`?"],
        ),
        (
            "[cache]\nmemory = \"lots\"",
            "seawall.toml:4:10:",
            &["cache.memory", "no size"],
        ),
        (
            "[cache]\nmemory = true",
            "seawall.toml:4:10:",
            &["true or false", "\"64MiB\""],
        ),
        (
            "[cache]\nmemory = \"1kB\"",
            "seawall.toml:4:10:",
            &["is 1kiB", "from 1MiB to 1TiB"],
        ),
        (
            "[cache]\nlargest = \"65MiB\"",
            "seawall.toml:4:11:",
            &["65MiB", "64MiB"],
        ),
        (
            "[cache]\ndisk_limit = \"2GiB\"",
            "seawall.toml:4:14:",
            &["only with disk"],
        ),
        ("[cache]\ndisk = \" \"", "seawall.toml:4:8:", &["no path"]),
        (
            "[cache]\ndisk = \"no/such/kept.sqlite\"",
            "seawall.toml:4:8:",
            &["no folder no/such", "make it"],
        ),
        (
            "[cache]\ndisk = \"src\"",
            "seawall.toml:4:8:",
            &["src is a folder"],
        ),
        (
            "[cache]\ndisc = \"x\"",
            "seawall.toml:4:1:",
            &["did you mean `disk`?"],
        ),
    ] {
        refused(&format!("{LADDER}{rest}"), place, words);
    }
    refused(
        "[routes.default]\ncache = {}",
        "seawall.toml:2:9:",
        &["does nothing", "no \"cache\""],
    );
}

#[test]
fn a_store_that_no_ladder_uses_is_pointed_out() {
    let config = parse("[cache]\nmemory = \"1GiB\"").unwrap();
    let [warning] = config.warnings.as_slice() else {
        panic!("one warning expected: {:?}", config.warnings)
    };
    assert!(
        warning
            .to_string()
            .starts_with("seawall.toml:1:1: no ladder"),
        "{warning}"
    );
}
