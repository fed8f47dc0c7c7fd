//! Answers that are kept: after the provider's death, over a restart, and for whom.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use seawall::sim::{Fault, FaultKind};
use serde_json::Value;

use super::provider::Mortal;
use super::{ask, asking, send};
use crate::process::{BOUND, Gateway, instant, sim};

const LAST: &str = r#"
[targets.up]
[routes.default]
ladder = ["up", "cache"]
retry = { attempts = 1 }
wait = "1ms"
"#;

const FIRST: &str = r#"
[targets.up]
[routes.default]
ladder = ["cache", "up"]
retry = { attempts = 1 }
wait = "1ms"
"#;

/// A folder that ends with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("seawall-ladder-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("cache.sqlite")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn on_disk(file: &Path, ladder: &str) -> String {
    format!("[cache]\ndisk = {:?}\n{ladder}", file.to_str().unwrap())
}

#[tokio::test]
async fn a_kept_answer_outlives_the_provider() {
    let provider = Mortal::start().await;
    let gateway = Gateway::start(provider.address, LAST);
    let kept = send(ask(&gateway, &asking("What stays?", false))).await;
    provider.die().await;
    for stream in [false, true] {
        let got = send(ask(&gateway, &asking("What stays?", stream))).await;
        assert_eq!(got.message(), kept.message());
        assert_eq!(got.header("x-seawall-rung"), "cache");
        assert!(got.header("x-seawall-cache").starts_with("hit; age="));
    }
    let got = send(ask(&gateway, &asking("What was never asked?", false))).await;
    assert!(got.status >= 500, "{got:?}");
}

#[cfg(unix)]
#[tokio::test]
async fn a_kept_answer_outlives_the_gateway_where_it_has_a_file() {
    let folder = Folder::new();
    let config = on_disk(&folder.file(), LAST);
    let provider = Mortal::start().await;
    let address = provider.address;
    let mut gateway = Gateway::start(address, &config);
    let kept = send(ask(&gateway, &asking("What stays?", true))).await;
    let pid = gateway.process.id().to_string();
    let told = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    assert!(told.success());
    assert!(gateway.process.wait().unwrap().success());
    provider.die().await;

    let gateway = Gateway::start(address, &config);
    for (stream, tier) in [(true, "disk"), (false, "memory")] {
        let got = send(ask(&gateway, &asking("What stays?", stream))).await;
        assert_eq!(got.message(), kept.message());
        assert_eq!(got.header("x-seawall-rung"), "cache");
        let status = gateway.status().await;
        assert_eq!(status["cache"][tier]["hits"], 1, "{status}");
        assert_eq!(status["cache"][tier]["entries"], 1, "{status}");
    }
    let page = gateway.get("/_seawall/").await;
    assert!(page.contains("id=\"cache\""), "{page}");
}

#[tokio::test]
async fn a_kept_answer_is_for_who_asked_alone() {
    let (address, sim) = sim(instant(Vec::new())).await;
    let gateway = Gateway::start(address, FIRST);
    let body = asking("Who sees it?", false);
    assert_eq!(send(ask(&gateway, &body)).await.status, 200);
    assert_eq!(
        send(ask(&gateway, &body)).await.header("x-seawall-rung"),
        "cache"
    );
    assert_eq!(sim.stats().attempts, 1);
    let strangers = [
        ask(&gateway, &body).header("x-seawall-tenant", "another"),
        gateway
            .client
            .post(format!("{}/v1/messages", gateway.base))
            .header("x-api-key", "sk-another")
            .body(body.to_string()),
    ];
    for (stranger, attempts) in strangers.into_iter().zip(2..) {
        let got = send(stranger).await;
        assert_eq!((got.status, got.header("x-seawall-rung")), (200, "up"));
        assert_eq!(sim.stats().attempts, attempts);
    }
}

#[tokio::test]
async fn a_caller_says_whether_the_cache_has_a_part_in_its_call() {
    let (address, sim) = sim(instant(Vec::new())).await;
    let gateway = Gateway::start(address, &FIRST.replace("\"up\"]", "\"up\", \"cache\"]"));
    let asked = async |question, control| {
        let post = ask(&gateway, &asking(question, false));
        send(post.header("x-seawall-cache", control)).await
    };
    // Neither looked up nor kept.
    for attempts in 1..=2 {
        let got = asked("What is kept?", "no-store").await;
        assert_eq!(got.header("x-seawall-rung"), "up");
        assert_eq!(sim.stats().attempts, attempts);
    }
    // Kept, and not looked up while the provider answers.
    for attempts in 3..=4 {
        let got = asked("What is kept?", "no-cache").await;
        assert_eq!(got.header("x-seawall-rung"), "up");
        assert_eq!(sim.stats().attempts, attempts);
    }
    sim.set_faults(vec![Fault::new(FaultKind::Overloaded)])
        .unwrap();
    let got = asked("What is kept?", "no-cache").await;
    assert_eq!(got.header("x-seawall-rung"), "cache");
    let got = asked("What is kept?", "no-store").await;
    assert_eq!(got.status, 529, "{got:?}");
}

/// Without a date a name may come to mean another snapshot.
#[tokio::test]
async fn what_a_model_of_nearly_the_same_name_wrote_is_not_kept() {
    let dated = "claude-sonnet-4-5-20250929";
    let fault = Fault::new(FaultKind::Overloaded).on_model(dated);
    let (address, sim) = sim(instant(vec![fault])).await;
    let config = format!(
        "[targets.dated]\nmodel = \"{dated}\"\n[targets.plain]\nmodel = \"claude-sonnet-4-5\"\n\
         [routes.default]\nladder = [\"dated\", \"plain\", \"cache\"]\n\
         retry = {{ attempts = 2, base = \"1ms\" }}\n"
    );
    let gateway = Gateway::start(address, &config);
    let rung = async || {
        let got = send(ask(&gateway, &asking("Which of the two?", false))).await;
        got.header("x-seawall-rung").to_owned()
    };
    assert_eq!(rung().await, "plain");
    assert_eq!(gateway.status().await["cache"]["puts"], 0);
    sim.set_faults(Vec::new()).unwrap();
    assert_eq!(rung().await, "dated");
    assert_eq!(gateway.status().await["cache"]["puts"], 1);
}

#[tokio::test]
async fn what_the_cache_does_is_shown() {
    let (address, _sim) = sim(instant(Vec::new())).await;
    let gateway = Gateway::start(address, FIRST);
    for _ in 0..3 {
        assert_eq!(
            send(ask(&gateway, &asking("Once?", false))).await.status,
            200
        );
    }
    let status = gateway.status().await;
    let cache = &status["cache"];
    let figures = ["entries", "hits", "misses", "evictions"].map(|name| &cache["memory"][name]);
    assert_eq!(figures, [1, 2, 1, 0], "{status}");
    assert!(cache["memory"]["bytes"].as_u64() > Some(200), "{status}");
    assert_eq!((&cache["fresh"], &cache["puts"]), (&2.into(), &1.into()));
    assert_eq!(cache["disk"], Value::Null);
    let metrics = gateway.get("/_seawall/metrics").await;
    for line in [
        "seawall_cache_entries{tier=\"memory\"} 1",
        "seawall_cache_lookups{found=\"fresh\"} 2",
        "seawall_cache_lookups{found=\"nothing\"} 1",
    ] {
        assert!(
            metrics.lines().any(|shown| shown == line),
            "{line}: {metrics}"
        );
    }
    let plain = Gateway::start(address, "");
    assert_eq!(plain.status().await["cache"], Value::Null);
}

#[tokio::test]
async fn a_file_that_is_no_cache_ends_the_start_and_is_left_as_it_was() {
    let folder = Folder::new();
    let junk = b"These are the minutes of the dike board, and no cache.".repeat(100);
    std::fs::write(folder.file(), &junk).unwrap();
    let config = folder.0.join("seawall.toml");
    std::fs::write(&config, on_disk(&folder.file(), LAST)).unwrap();
    let process = Command::new(env!("CARGO_BIN_EXE_seawall"))
        .args(["serve", "--listen", "127.0.0.1:0", "--config"])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = process.id().to_string();
    let ending = tokio::task::spawn_blocking(|| process.wait_with_output());
    let Ok(ended) = tokio::time::timeout(BOUND, ending).await else {
        Command::new("kill").arg(&pid).status().unwrap();
        panic!("it has started");
    };
    let ended = ended.unwrap().unwrap();
    assert!(!ended.status.success());
    let said = String::from_utf8_lossy(&ended.stderr);
    for words in [
        "cache.sqlite",
        "is not a seawall cache file",
        "move it away",
    ] {
        assert!(said.contains(words), "{said}");
    }
    assert_eq!(std::fs::read(folder.file()).unwrap(), junk);
}
