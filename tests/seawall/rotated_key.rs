//! A configured key that the provider refuses is alerted on, once, and read anew where it came from.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::process::{BOUND, Gateway, request, serve};
use crate::served::{answer, message, read};

const REFUSED: &str =
    r#"{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}}"#;

const ALERT: &str = "The provider refused the credential from the key file";

/// A provider that takes one key, and remembers which it was sent.
#[derive(Debug)]
pub(crate) struct Keyed {
    pub(crate) address: SocketAddr,
    good: Arc<Mutex<String>>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Keyed {
    pub(crate) async fn taking(key: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let good = Arc::new(Mutex::new(key.to_owned()));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (taken, noted) = (Arc::clone(&good), Arc::clone(&seen));
        serve(async move {
            loop {
                let (mut socket, _) = listener.accept().await?;
                let Some(request) = read(&mut socket).await else {
                    continue;
                };
                let key = request.header("x-api-key").concat();
                let is_good = key == *taken.lock();
                noted.lock().push(key);
                let words = if is_good {
                    message()
                } else {
                    let json = "content-type: application/json\r\n";
                    answer("401 Unauthorized", json, REFUSED)
                };
                socket.write_all(words.as_bytes()).await?;
                socket.shutdown().await?;
            }
        });
        Self {
            address,
            good,
            seen,
        }
    }

    pub(crate) fn takes(&self, key: &str) {
        key.clone_into(&mut self.good.lock());
    }

    /// The keys of all requests since the last look.
    fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock())
    }
}

/// A file with a key in it.
#[derive(Debug)]
pub(crate) struct KeyFile(PathBuf);

impl KeyFile {
    pub(crate) fn with(key: &str) -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("seawall-key-{}-{number}", std::process::id());
        let file = Self(std::env::temp_dir().join(name));
        file.write(key);
        file
    }

    /// Replaces it as a whole, as those do who rotate keys.
    pub(crate) fn write(&self, key: &str) {
        let new = self.0.with_extension("new");
        std::fs::write(&new, format!("{key}\n")).unwrap();
        std::fs::rename(new, &self.0).unwrap();
    }

    /// Its line in a target's section.
    pub(crate) fn line(&self) -> String {
        format!("api_key_file = {:?}\n", self.0)
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

async fn call(gateway: &Gateway) -> u16 {
    let post = gateway.post("/v1/messages").body(request(false));
    let answer = post.send().await.unwrap();
    assert_eq!(answer.headers()["x-seawall-attempts"], "1");
    answer.status().as_u16()
}

/// Calls, bounded, until it is answered: a key is read anew once a second at most.
async fn call_until_answered(gateway: &Gateway) {
    let answered = async {
        while call(gateway).await != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(BOUND, answered).await.unwrap();
}

async fn failures(gateway: &Gateway, target: &str) -> Option<u32> {
    let page = gateway.get("/_seawall/metrics").await;
    let series = format!("seawall_credential_failures_total{{target=\"{target}\"}} ");
    let mut lines = page.lines();
    lines.find_map(|line| line.strip_prefix(&series)?.parse().ok())
}

fn alerts(gateway: &Gateway) -> usize {
    gateway.log().matches(ALERT).count()
}

#[tokio::test]
async fn the_call_that_meets_a_rotated_key_is_answered_with_the_new_one() {
    let provider = Keyed::taking("sk-old-secret").await;
    let file = KeyFile::with("sk-old-secret");
    let config = format!("[targets.up]\n{}", file.line());
    let gateway = Gateway::start(provider.address, &config);
    assert_eq!(call(&gateway).await, 200);
    provider.seen();

    provider.takes("sk-new-secret");
    file.write("sk-new-secret");
    assert_eq!(call(&gateway).await, 200);
    assert_eq!(call(&gateway).await, 200);
    let sent = ["sk-old-secret", "sk-new-secret", "sk-new-secret"];
    assert_eq!(provider.seen(), sent, "once anew, and from then on at once");
    assert_eq!(failures(&gateway, "up").await, Some(1));
    let log = gateway.log();
    assert_eq!(alerts(&gateway), 0, "nothing is left to do: {log}");
    let said = log
        .matches("was refused and has been replaced there")
        .count();
    assert_eq!(said, 1, "{log}");
    assert!(!log.contains("-secret"), "{log}");
    let breakers = gateway.status().await["breakers"].as_array().unwrap().len();
    assert_eq!(breakers, 1, "the target's state stays its own");
}

#[tokio::test]
async fn a_key_that_is_refused_alerts_once_and_is_not_sent_twice_for_a_call() {
    let provider = Keyed::taking("sk-right-secret").await;
    let file = KeyFile::with("sk-wrong-secret");
    let config = format!("[targets.up]\n{}", file.line());
    let gateway = Gateway::start(provider.address, &config);
    for _ in 0..10 {
        assert_eq!(call(&gateway).await, 401);
    }
    assert_eq!(provider.seen().len(), 10);
    assert_eq!(
        (alerts(&gateway), failures(&gateway, "up").await),
        (1, Some(1))
    );
    let log = gateway.log();
    assert!(
        log.contains("unchanged") && !log.contains("-secret"),
        "{log}"
    );

    file.write("sk-right-secret");
    call_until_answered(&gateway).await;
    // A success behind it, the next refusal is news.
    provider.takes("sk-another-secret");
    for _ in 0..3 {
        assert_eq!(call(&gateway).await, 401);
    }
    assert_eq!(
        (alerts(&gateway), failures(&gateway, "up").await),
        (2, Some(2))
    );
    provider.takes("sk-right-secret");
    assert_eq!(call(&gateway).await, 200);
    provider.takes("sk-another-secret");
    assert_eq!(call(&gateway).await, 401);
    assert_eq!(
        (alerts(&gateway), failures(&gateway, "up").await),
        (3, Some(3))
    );
}

#[tokio::test]
async fn a_rung_below_does_not_hide_a_refused_key() {
    let provider = Keyed::taking("sk-right-secret").await;
    let (wrong, right) = (
        KeyFile::with("sk-wrong-secret"),
        KeyFile::with("sk-right-secret"),
    );
    let config = format!(
        "[targets.bad]\n{}[targets.good]\n{}[routes.default]\nladder = [\"bad\", \"good\"]\n",
        wrong.line(),
        right.line()
    );
    let gateway = Gateway::start(provider.address, &config);
    for _ in 0..3 {
        let post = gateway.post("/v1/messages").body(request(false));
        let answer = post.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["x-seawall-rung"], "good");
    }
    assert_eq!(alerts(&gateway), 1, "{}", gateway.log());
    assert_eq!(failures(&gateway, "bad").await, Some(1));
    assert_eq!(failures(&gateway, "good").await, None);
}

#[tokio::test]
async fn a_callers_own_key_is_the_callers_affair() {
    let provider = Keyed::taking("sk-right-secret").await;
    let gateway = Gateway::start(provider.address, "[targets.up]\n");
    assert_eq!(call(&gateway).await, 401);
    assert_eq!(provider.seen(), ["sk-test"]);
    assert_eq!(failures(&gateway, "up").await, None);
    assert!(!gateway.log().contains("ERROR"), "{}", gateway.log());
}
