//! The gateway's own settings: who may come in, how much at once, and the log.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use subtle::ConstantTimeEq;

use super::Overrides;
use super::document::Section;

mod limits;

pub use limits::ClientLimits;

/// Default address: loopback only.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4117);
/// The Messages API's own limit on a request body.
const BODY_LIMIT: usize = 32 << 20;
/// A client sends its headers in one packet.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest body limit that may be asked for; bodies are held in memory.
const LARGEST_BODY: u64 = 1 << 30;
/// Smaller than this holds no request.
const SMALLEST_BODY: u64 = 1 << 10;

/// The gateway's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gateway {
    /// The address to listen on; port 0 picks one.
    pub listen: SocketAddr,
    /// The keys that clients must present one of; empty: none is asked for.
    pub client_keys: Vec<ClientKey>,
    /// What each client may use: a client key with what it says otherwise, or without client keys
    /// whoever has one address.
    pub limits: ClientLimits,
    /// Whether an address that is not loopback may be served without client keys.
    pub open: bool,
    /// Accepted `Host` values besides loopback names and the listening address, in lower case.
    pub allowed_hosts: Vec<String>,
    /// Accepted `Origin` values (`https://app.example`), in lower case; a request without
    /// `Origin` is no web page's.
    pub allowed_origins: Vec<String>,
    /// The largest request body, in bytes.
    pub body_limit: usize,
    /// How long the head of a request may take to arrive, and how long a connection may idle between
    /// requests.
    pub header_timeout: Duration,
    /// How long calls in flight may take to finish once a stop was asked for.
    pub drain: Duration,
    /// Worker threads that serve; at least 1.
    pub workers: usize,
    /// The form of log lines.
    pub log_format: LogFormat,
    /// The least important lines that are logged.
    pub log_level: LogLevel,
}

impl Gateway {
    /// Finds the client that a presented key belongs to, in the same time whichever it is.
    #[must_use]
    pub fn client(&self, presented: &[u8]) -> Option<&ClientKey> {
        let digest = sha256(presented);
        self.client_keys.iter().fold(None, |found, key| {
            if bool::from(key.sha256.ct_eq(&digest)) {
                Some(key)
            } else {
                found
            }
        })
    }

    pub(super) fn read(section: Section<'_>, flags: &Overrides) -> Self {
        let doc = section.doc();
        let listen = section.parsed("listen", |text| {
            text.parse::<SocketAddr>().map_err(|_| {
                format!("`{text}` is no address: write one such as \"127.0.0.1:4117\"")
            })
        });
        let open = section.flag("open");
        // Read even where a flag wins: a key in the file is never unknown, nor its value unchecked.
        let log_format = section
            .parsed("log_format", LogFormat::from_str)
            .map(toml::Spanned::into_inner);
        let limits = ClientLimits::read(section.section("limits"), &ClientLimits::default());
        let (client_keys, listed) = read_keys(&section, &limits);
        if let (Some(open), false) = (
            open.as_ref().filter(|open| *open.get_ref()),
            client_keys.is_empty(),
        ) {
            doc.refuse(&open.span(), "open = true lets everybody in, so client_keys would do nothing: remove one of them");
        } else if flags.open && !client_keys.is_empty() {
            doc.refuse_all(
                "--open lets everybody in, so client_keys would do nothing: remove one of them",
            );
        }
        let gateway = Self {
            listen: flags
                .listen
                .unwrap_or_else(|| listen.as_ref().map_or(LISTEN, |l| *l.get_ref())),
            open: flags.open || open.is_some_and(toml::Spanned::into_inner),
            client_keys,
            limits,
            allowed_hosts: read_each(&section, "allowed_hosts", host),
            allowed_origins: read_each(&section, "allowed_origins", origin),
            body_limit: section
                .size("body_limit", SMALLEST_BODY..=LARGEST_BODY)
                .and_then(|limit| usize::try_from(limit.into_inner()).ok())
                .unwrap_or(BODY_LIMIT),
            header_timeout: section
                .duration(
                    "header_timeout",
                    Duration::from_millis(100)..=Duration::from_secs(300),
                )
                .map_or(HEADER_TIMEOUT, toml::Spanned::into_inner),
            drain: section
                .duration("drain", Duration::ZERO..=Duration::from_secs(3_600))
                .map_or(Duration::from_secs(30), toml::Spanned::into_inner),
            workers: section
                .integer("workers", 1..=1024)
                .and_then(|workers| usize::try_from(*workers.get_ref()).ok())
                .unwrap_or_else(cores),
            log_format: flags.log_format.or(log_format).unwrap_or_default(),
            log_level: section
                .parsed("log_level", LogLevel::from_str)
                .map_or_else(LogLevel::default, toml::Spanned::into_inner),
        };
        if !gateway.listen.ip().is_loopback() && !gateway.open && !listed {
            let what = format!(
                "listening on {} would lend the provider's key to everybody who reaches it: list \
                 client_keys in [gateway], or say open = true (--open) if that is meant",
                gateway.listen
            );
            match listen.filter(|_| flags.listen.is_none()) {
                Some(listen) => doc.refuse(&listen.span(), what),
                None => doc.refuse_all(format!("--listen: {what}")),
            }
        }
        section.close();
        gateway
    }
}

/// The default of `workers`; one where the system doesn't tell.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A client's key, of which only the hash is known.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientKey {
    /// The client's name in logs and metrics. It is the tenant of its calls.
    pub name: String,
    /// Whether its calls may be for another tenant, in `x-seawall-tenant`.
    pub any_tenant: bool,
    /// What the client may use.
    pub limits: ClientLimits,
    sha256: [u8; 32],
}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientKey")
            .field("name", &self.name)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("write \"text\" or \"json\""),
        }
    }
}

/// The least important lines that are logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogLevel {
    /// Only what failed.
    Error,
    /// And what looks wrong.
    Warn,
    /// And one line a call.
    #[default]
    Info,
    /// And every decision.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// Returns the level's name, as log filters write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl FromStr for LogLevel {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [
            Self::Error,
            Self::Warn,
            Self::Info,
            Self::Debug,
            Self::Trace,
        ]
        .into_iter()
        .find(|level| level.as_str() == text)
        .ok_or("write \"error\", \"warn\", \"info\", \"debug\" or \"trace\"")
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).into()
}

/// Returns the keys that can be used, and whether any are listed.
fn read_keys(section: &Section<'_>, limits: &ClientLimits) -> (Vec<ClientKey>, bool) {
    let doc = section.doc();
    let mut keys: Vec<ClientKey> = Vec::new();
    let entries = section.sections("client_keys");
    let listed = !entries.is_empty();
    for entry in entries {
        let name = entry.parsed("name", |name| super::target::label(name).map(str::to_owned));
        let hash = entry.parsed("sha256", digest);
        let any_tenant = entry.flag("any_tenant");
        let limits = ClientLimits::read(entry.section("limits"), limits);
        match (name, hash) {
            (Some(name), Some(hash)) => {
                let key = ClientKey {
                    name: name.get_ref().clone(),
                    any_tenant: any_tenant.is_some_and(toml::Spanned::into_inner),
                    limits,
                    sha256: *hash.get_ref(),
                };
                if keys.iter().any(|other| other.name == key.name) {
                    doc.refuse(
                        &name.span(),
                        format!(
                            "two client keys are named `{}`: each needs its own name",
                            key.name
                        ),
                    );
                } else if keys.iter().any(|other| other.sha256 == key.sha256) {
                    doc.refuse(
                        &hash.span(),
                        format!(
                            "client `{}` has another client's key: give it one of its own",
                            key.name
                        ),
                    );
                } else {
                    keys.push(key);
                }
            }
            // A value that was there and wrong has been reported; a missing one has not.
            _ if !entry.has("name") || !entry.has("sha256") => {
                doc.refuse(
                    entry.span(),
                    "a client key needs both: { name = \"…\", sha256 = \"…\" }",
                );
            }
            _ => {}
        }
        entry.close();
    }
    (keys, listed)
}

/// Reads a SHA-256 in hex.
fn digest(text: &str) -> Result<[u8; 32], &'static str> {
    const WANTED: &str = "not a SHA-256 in hex (64 digits): write what `printf %s \"$KEY\" | sha256sum` prints, never the key itself";
    let nibbles: Vec<u8> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()
        .ok_or(WANTED)?;
    let bytes: Vec<u8> = nibbles
        .chunks(2)
        .map(|pair| pair.iter().fold(0_u8, |byte, nibble| (byte << 4) | nibble))
        .collect();
    if nibbles.len() == 64 {
        bytes.try_into().map_err(|_| WANTED)
    } else {
        Err(WANTED)
    }
}

fn read_each(
    section: &Section<'_>,
    key: &'static str,
    read: fn(&str) -> Result<String, String>,
) -> Vec<String> {
    let items = section.strings(key).unwrap_or_default();
    items
        .into_iter()
        .filter_map(|item| match read(item.get_ref()) {
            Ok(value) => Some(value),
            Err(why) => {
                section
                    .doc()
                    .refuse(&item.span(), format!("`{}`: {why}", section.name(key)));
                None
            }
        })
        .collect()
}

fn host(text: &str) -> Result<String, String> {
    match text.parse::<http::uri::Authority>() {
        Ok(host) if !text.contains(['@', '*']) => Ok(host.as_str().to_ascii_lowercase()),
        _ => Err(format!(
            "`{text}` is no host: write a name such as \"seawall.internal\" or \"seawall.internal:4117\""
        )),
    }
}

fn origin(text: &str) -> Result<String, String> {
    let wrong = || {
        format!(
            "`{text}` is no origin: write scheme and host without a path, such as \"https://app.example\""
        )
    };
    let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
    if !matches!(scheme, "http" | "https") || rest.contains('/') {
        return Err(wrong());
    }
    host(rest)
        .map(|host| format!("{scheme}://{host}"))
        .map_err(|_| wrong())
}
