//! Processes of the bench, and what they cost the machine.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::Outcome;

/// Clock ticks a second in `/proc`: fixed by Linux's user-space interface.
const TICKS: u64 = 100;

/// A running process that serves HTTP; killed on drop.
#[derive(Debug)]
pub(crate) struct Child {
    process: std::process::Child,
    pub(crate) address: SocketAddr,
}

impl Child {
    /// This binary again, in another role.
    pub(crate) fn again(arguments: &[&str]) -> Outcome<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments);
        Self::start(command)
    }

    /// The gateway as users run it: metrics, log lines, limits learned from the upstream.
    pub(crate) fn seawall(upstream: SocketAddr) -> Outcome<Self> {
        Self::start(serve("gateway-bench", upstream)?)
    }

    /// The same with a configuration, which the `name`d file gets.
    pub(crate) fn configured(name: &str, config: &str, upstream: SocketAddr) -> Outcome<Self> {
        let file = folder().join(name).with_extension("toml");
        std::fs::write(&file, config)?;
        let mut command = serve(name, upstream)?;
        command.arg("--config").arg(file);
        Self::start(command)
    }

    fn start(mut command: Command) -> Outcome<Self> {
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = process.stdout.take().ok_or("no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let address = line.trim().rsplit('/').next().unwrap_or_default().parse();
        let mut child = Self {
            process,
            address: ([127, 0, 0, 1], 0).into(),
        };
        child.address = address.map_err(|_| format!("unexpected first line: {line:?}"))?;
        Ok(child)
    }

    /// User and system time so far.
    pub(crate) fn cpu(&self) -> Outcome<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        // The name, in parentheses, may hold spaces; state is the first field after it.
        let (_, fields) = stat.rsplit_once(')').ok_or("no fields")?;
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        Ok(Duration::from_millis(ticks * 1_000 / TICKS))
    }

    /// Resident memory, in KiB.
    pub(crate) fn rss_kib(&self) -> Outcome<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let size = line.and_then(|line| line.split_whitespace().next());
        Ok(size.ok_or("no VmRSS")?.parse()?)
    }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

fn serve(name: &str, upstream: SocketAddr) -> Outcome<Command> {
    let log = folder().join(name).with_extension("log");
    let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--upstream"])
        .arg(format!("http://{upstream}"))
        .env_remove("ANTHROPIC_API_KEY")
        .stderr(std::fs::File::create(log)?);
    Ok(command)
}

impl Drop for Child {
    fn drop(&mut self) {
        // Err means that it is gone already.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
