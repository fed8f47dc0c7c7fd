//! The rules about the code that the compiler does not keep.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file under a folder, with its path relative to the workspace.
fn files(folder: &str) -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), &mut found);
    found.sort();
    assert!(!found.is_empty(), "{folder} has no Rust files");
    let named = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        (
            path.strip_prefix(root()).unwrap().display().to_string(),
            text,
        )
    };
    found.into_iter().map(named).collect()
}

/// The part of a file that ships: no tests, no comments.
fn production(text: &str) -> String {
    let shipped = text
        .split("#[cfg(test)]\nmod tests")
        .next()
        .unwrap_or_default();
    let code = shipped
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default());
    code.collect::<Vec<_>>().join("\n")
}

fn is_test(path: &str) -> bool {
    path.ends_with("tests.rs") || path.contains("/tests/")
}

/// Files in which a forbidden word stands.
fn offenders<'a>(files: impl Iterator<Item = &'a (String, String)>, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in files {
        let code = production(text);
        for word in words.iter().filter(|word| code.contains(**word)) {
            found.push(format!("{path}: {word}"));
        }
    }
    found
}

#[test]
fn policies_decide_from_what_they_are_given() {
    let policies = files("actors/src/policy");
    let words = [
        ".await",
        "spawn(",
        "tracing::",
        "::now(",
        "rand::rng(",
        "rand::random",
        "thread_rng",
    ];
    let policies = policies.iter().filter(|(path, _)| !is_test(path));
    assert_eq!(offenders(policies, &words), Vec::<String>::new());
}

#[test]
fn the_actors_know_no_http_json_or_vendor() {
    let actors = files("actors/src");
    let words = [
        "http::",
        "serde",
        "reqwest",
        "anthropic",
        "claude",
        "hyper::",
    ];
    let actors = actors.iter().filter(|(path, _)| !is_test(path));
    assert_eq!(offenders(actors, &words), Vec::<String>::new());
}

#[test]
fn only_the_address_and_the_supervisor_send_to_actors() {
    let actors = files("actors/src");
    let others = actors.iter().filter(|(path, _)| {
        !is_test(path) && !path.ends_with("address.rs") && !path.contains("supervisor")
    });
    assert_eq!(
        offenders(others, &[".cast(", "call_t!", "call!("]),
        Vec::<String>::new()
    );
}

#[test]
fn one_file_names_the_http_client() {
    let root = files("src");
    let others = root
        .iter()
        .filter(|(path, _)| !path.ends_with("transport/http.rs"));
    assert_eq!(offenders(others, &["reqwest"]), Vec::<String>::new());
}

#[test]
fn nothing_is_unfinished_ignored_or_asleep() {
    let words = [
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("#[ig", "nore"),
        concat!("thread::", "sleep"),
    ];
    for folder in ["src", "actors/src", "tests", "examples"] {
        let found = files(folder);
        assert_eq!(offenders(found.iter(), &words), Vec::<String>::new());
    }
}

#[test]
fn every_file_is_named_after_a_noun() {
    let banned = [
        "utils", "util", "common", "helpers", "types", "manager", "core", "misc", "mod",
    ];
    for folder in ["src", "actors/src", "tests"] {
        for (path, _) in files(folder) {
            let name = Path::new(&path)
                .file_stem()
                .unwrap()
                .to_string_lossy()
                .into_owned();
            assert!(!banned.contains(&name.as_str()), "{path}");
        }
    }
}

#[test]
fn every_test_file_is_reached() {
    for tree in ["tests/seawall", "tests/fuzz"] {
        for (path, _) in files(tree) {
            let path = Path::new(&path);
            let (folder, name) = (path.parent().unwrap(), path.file_stem().unwrap());
            let parent = if folder == Path::new(tree) {
                folder.join("main.rs")
            } else {
                folder.with_extension("rs")
            };
            let parent = fs::read_to_string(root().join(parent)).unwrap();
            let named = format!("mod {};", name.to_string_lossy());
            assert!(
                name == "main" || parent.contains(&named),
                "{}",
                path.display()
            );
        }
    }
}

#[test]
fn the_rules_can_be_broken() {
    let bad = [(
        "bad.rs".to_owned(),
        "let now = Instant::now(); // fine\n".to_owned(),
    )];
    assert_eq!(offenders(bad.iter(), &["::now("]), ["bad.rs: ::now("]);
    let good = [(
        "good.rs".to_owned(),
        "// Instant::now()\n#[cfg(test)]\nmod tests".to_owned(),
    )];
    assert!(offenders(good.iter(), &["::now("]).is_empty());
}
