//! The real binary in front of a provider that says what a test tells it, byte for byte.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::redirect::Policy;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Longest wait for a state.
pub(crate) const BOUND: Duration = Duration::from_secs(20);

/// `seawall serve` as a process of its own, ended with the test.
pub(crate) struct Served {
    process: Child,
    _stdout: BufReader<ChildStdout>,
    folder: std::path::PathBuf,
    pub(crate) base: String,
    pub(crate) client: reqwest::Client,
}

impl Served {
    pub(crate) fn start(upstream: SocketAddr, config: &str, env: &[(&str, &str)]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder =
            std::env::temp_dir().join(format!("seawall-served-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("seawall.toml");
        std::fs::write(&file, config).unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_seawall"))
            .args(["serve", "--listen", "127.0.0.1:0", "--config"])
            .arg(&file)
            .args(["--upstream", &format!("http://{upstream}")])
            .env_remove("ANTHROPIC_API_KEY")
            .envs(env.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let base = line.trim().strip_prefix("seawall listening on ");
        let base = base.expect(&line).to_owned();
        let client = reqwest::Client::builder().redirect(Policy::none());
        Self {
            process,
            _stdout: stdout,
            folder,
            base,
            client: client.build().unwrap(),
        }
    }

    /// A post with the headers that every client sends.
    pub(crate) fn post(&self, path: &str) -> reqwest::RequestBuilder {
        self.client
            .post(format!("{}{path}", self.base))
            .header("x-api-key", "sk-test")
            .header("anthropic-version", "2023-06-01")
            .header("content-type", "application/json")
    }

    /// Waits, bounded, until nothing is in flight.
    pub(crate) async fn idle(&self) {
        let idle = async {
            loop {
                let answer = self
                    .client
                    .get(format!("{}/_seawall/status", self.base))
                    .send();
                let bytes = answer.await.unwrap().bytes().await.unwrap();
                let status: Value = serde_json::from_slice(&bytes).unwrap();
                if status["in_flight"] == 0 && status["pool"]["running"] == 0 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(BOUND, idle).await.unwrap();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        std::fs::remove_dir_all(&self.folder).unwrap();
    }
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Arrived {
    /// `METHOD target`
    pub(crate) line: String,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Arrived {
    /// Every value of a header, in order.
    pub(crate) fn header(&self, name: &str) -> Vec<&str> {
        let of_name = self.headers.iter().filter(|(known, _)| known == name);
        of_name.map(|(_, value)| value.as_str()).collect()
    }
}

/// A provider that gives the same answer to every request, or the test the socket to answer on.
pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    arrived: Arc<Mutex<Vec<Arrived>>>,
}

impl Scripted {
    /// Answers everything with these bytes, head included, and closes.
    #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
    pub(crate) async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let arrived = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (Arc::clone(&arrived), answer.into());
        drop(tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                if let Some(request) = read(&mut socket).await {
                    seen.lock().push(request);
                    // A client that has left by now is not the provider's affair.
                    drop(socket.write_all(&answer).await);
                    drop(socket.shutdown().await);
                }
            }
        }));
        Self { address, arrived }
    }

    pub(crate) fn arrived(&self) -> Vec<Arrived> {
        self.arrived.lock().clone()
    }

    /// The only request there was.
    pub(crate) fn only(&self) -> Arrived {
        let all = self.arrived();
        assert_eq!(all.len(), 1, "{all:?}");
        all.into_iter().next().unwrap()
    }
}

/// Reads one request; none when the connection closes first.
pub(crate) async fn read(socket: &mut TcpStream) -> Option<Arrived> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        if socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
    let (line, rest) = head.split_once("\r\n").unwrap_or((&head, ""));
    let headers: Vec<(String, String)> = rest
        .split("\r\n")
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = length.map_or(0, |(_, value)| value.parse().unwrap());
    let mut body = bytes.split_off(head_end + 4);
    while body.len() < length {
        if socket.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    let line = line.trim_end_matches(" HTTP/1.1").to_owned();
    Some(Arrived {
        line,
        headers,
        body,
    })
}

/// A whole answer on the wire.
pub(crate) fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

/// A short message of the provider's.
pub(crate) const MESSAGE: &str = r#"{"type":"message","id":"msg_1","role":"assistant","content":[{"type":"text","text":"hi"}],"stop_reason":"end_turn","usage":{"input_tokens":3,"output_tokens":5}}"#;

pub(crate) fn message() -> String {
    answer("200 OK", "content-type: application/json\r\n", MESSAGE)
}

pub(crate) fn request(stream: bool) -> String {
    json!({
        "model": "claude-sonnet-5-5", "max_tokens": 64, "stream": stream,
        "messages": [{ "role": "user", "content": "hello" }],
    })
    .to_string()
}
