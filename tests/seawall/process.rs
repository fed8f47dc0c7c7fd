//! `seawall serve` as a process, with a simulated provider behind it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use seawall::sim::{Fault, Settings, Sim, http as sim_http};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// Longest wait for a state.
pub(crate) const BOUND: Duration = Duration::from_secs(10);

pub(crate) const ONE_ATTEMPT: &str =
    "[routes.default]\nladder = [\"up\"]\nretry = { attempts = 1 }\n[targets.up]\n";

/// `seawall serve` as a process of its own, ended with the test.
pub(crate) struct Gateway {
    pub(crate) process: Child,
    pub(crate) stdout: BufReader<ChildStdout>,
    /// Its address, as a URL without a path.
    pub(crate) base: String,
    pub(crate) client: reqwest::Client,
    log: PathBuf,
}

impl Gateway {
    /// With an upstream, all targets are there; without, each is where the configuration says.
    pub(crate) fn start(upstream: impl Into<Option<SocketAddr>>, config: &str) -> Self {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let folder = std::env::temp_dir().join(format!(
            "seawall-{}-{}",
            std::process::id(),
            STARTED.fetch_add(1, Ordering::Relaxed)
        ));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("seawall.toml");
        std::fs::write(&file, config).unwrap();
        let log = folder.join("stderr");
        let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--config"])
            .arg(&file);
        if let Some(upstream) = upstream.into() {
            command.args(["--upstream", &format!("http://{upstream}")]);
        }
        let mut process = command
            .env_remove("ANTHROPIC_API_KEY")
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let base = line
            .trim()
            .strip_prefix("seawall listening on ")
            .expect(&line)
            .to_owned();
        Self {
            process,
            stdout,
            base,
            client: reqwest::Client::new(),
            log,
        }
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> &str {
        self.base.trim_start_matches("http://")
    }

    pub(crate) async fn get(&self, path: &str) -> String {
        let answer = self.client.get(format!("{}{path}", self.base)).send().await;
        answer.unwrap().text().await.unwrap()
    }

    pub(crate) fn post(&self, path: &str) -> reqwest::RequestBuilder {
        self.client
            .post(format!("{}{path}", self.base))
            .header("x-api-key", "sk-test")
            .header("anthropic-version", "2023-06-01")
            .header("content-type", "application/json")
    }

    pub(crate) async fn status(&self) -> Value {
        let answer = self
            .client
            .get(format!("{}/_seawall/status", self.base))
            .send()
            .await;
        serde_json::from_slice(&answer.unwrap().bytes().await.unwrap()).unwrap()
    }

    /// Waits, bounded, until nothing is in flight.
    pub(crate) async fn idle(&self) {
        for _ in 0..500 {
            let status = self.status().await;
            if status["in_flight"] == 0 && status["pool"]["running"] == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("still in flight: {}", self.status().await);
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
pub(crate) fn serve(server: impl Future<Output = std::io::Result<()>> + Send + 'static) {
    drop(tokio::spawn(server));
}

pub(crate) async fn sim(settings: Settings) -> (SocketAddr, Arc<Sim>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let sim = Sim::new(settings).unwrap();
    serve(sim_http::serve(
        listener,
        Arc::clone(&sim),
        std::future::pending(),
    ));
    (address, sim)
}

pub(crate) fn instant(faults: Vec<Fault>) -> Settings {
    Settings {
        instant: true,
        faults,
        ..Settings::default()
    }
}

pub(crate) fn request(stream: bool) -> String {
    json!({
        "model": "claude-sonnet-5-5", "max_tokens": 64, "stream": stream,
        "messages": [{ "role": "user", "content": "hello" }],
    })
    .to_string()
}
