//! The configured keys as they are now: one that the provider refuses is alerted on, and read anew where
//! it came from, since it may have been rotated.
//!
//! What callers bring is theirs to look after.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use parking_lot::{Mutex, RwLock};
use secrecy::ExposeSecret;
use tokio::time::{Instant, timeout_at};

use crate::config::{self, ApiKey, Config, Environment};
use crate::provider::anthropic::headers::{Credential, Form};
use crate::verdict::{Judged, label};

/// A thousand refusals a second are no reason to read a file a thousand times.
const READ_EVERY: Duration = Duration::from_secs(1);

/// How long a refused call waits for its key to be read anew; a file may be on a disk that hangs.
const READ_WITHIN: Duration = Duration::from_secs(1);

/// How long a refusal counts as news of a dead key. Where that keeps all calls away, nobody would find
/// out otherwise that the same key is good again. As long as a spend cap of unknown end stops.
const DEAD_FOR: Duration = Duration::from_mins(10);

/// The configured keys, by the target that sends them.
#[derive(Debug, Default)]
pub(super) struct Keys(BTreeMap<String, Arc<TargetKey>>);

impl Keys {
    pub(super) fn new(config: &Config) -> Self {
        let mut stored: Vec<Arc<Stored>> = Vec::new();
        let mut keys = BTreeMap::new();
        for (name, target) in &config.targets {
            let (key, always) = match &target.credential {
                config::Credential::Caller => continue,
                config::Credential::CallerOr(key) => (key, !config.gateway.client_keys.is_empty()),
                config::Credential::Own(key) => (key, true),
            };
            let Ok(secret) = Secret::new(key, 1) else {
                continue;
            };
            let known = stored.iter().find(|known| known.origin == key.origin);
            let known = known.cloned().unwrap_or_else(|| {
                let new = Arc::new(Stored::new(key.clone(), secret));
                stored.push(Arc::clone(&new));
                new
            });
            let key = TargetKey {
                target: name.as_str().into(),
                always,
                stored: known,
                refused: Mutex::new(None),
            };
            keys.insert(name.clone(), Arc::new(key));
        }
        Self(keys)
    }

    /// The key of a target that has one.
    pub(super) fn of(&self, target: &str) -> Option<&Arc<TargetKey>> {
        self.0.get(target)
    }

    /// Whether a credential is one of them.
    pub(super) fn contain(&self, credential: &Credential) -> bool {
        let fingerprint = credential.fingerprint();
        self.0
            .values()
            .any(|key| key.current().credential.fingerprint() == fingerprint)
    }

    /// Reads anew those that were refused.
    pub(super) async fn look_again(&self) {
        let until = Instant::now() + READ_WITHIN;
        for key in self.0.values() {
            if key.is_dead(Instant::now()) {
                // Whatever keeps it as it is was said when it was refused.
                drop(key.stored.renew(key.current().version, until).await);
            }
        }
    }
}

/// A key as it is sent.
#[derive(Debug)]
pub(super) struct Secret {
    pub(super) credential: Credential,
    /// Counts the secrets that its origin has held, from 1.
    version: u64,
    /// The same for the same secret only, wherever it came from.
    pub(super) number: u64,
}

impl Secret {
    fn new(key: &ApiKey, version: u64) -> Result<Self, String> {
        let credential = Credential::new(Form::ApiKey, key.secret.expose_secret())
            .map_err(|invalid| invalid.to_string())?;
        let [a, b, c, d, e, f, g, h, ..] = credential.digest();
        Ok(Self {
            number: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            credential,
            version,
        })
    }
}

/// The key that one target sends.
#[derive(Debug)]
pub(super) struct TargetKey {
    target: Arc<str>,
    /// Whether no call is sent with another.
    pub(super) always: bool,
    stored: Arc<Stored>,
    refused: Mutex<Option<Refused>>,
}

/// The last secret that was refused and has not been taken since.
#[derive(Debug, Clone, Copy)]
struct Refused {
    version: u64,
    at: Instant,
    /// The provider does not know it, or no longer.
    is_dead: bool,
}

impl TargetKey {
    pub(super) fn current(&self) -> Arc<Secret> {
        Arc::clone(&self.stored.current.read())
    }

    /// Where it comes from, in words.
    pub(super) fn origin(&self) -> String {
        self.stored.origin.to_string()
    }

    /// Whether the provider refused it lately, and it has not changed since.
    pub(super) fn is_dead(&self, now: Instant) -> bool {
        let refused = *self.refused.lock();
        refused.is_some_and(|refused| {
            refused.is_dead
                && refused.version == self.current().version
                && now < refused.at + DEAD_FOR
        })
    }

    /// Hears that an attempt with this secret was answered.
    pub(super) fn taken(&self, secret: &Secret) {
        let mut refused = self.refused.lock();
        if refused.is_some_and(|refused| refused.version == secret.version) {
            *refused = None;
        }
    }

    /// Hears that an attempt with this secret was refused for it. Whether there is another one now.
    ///
    /// Alerts once for each secret that is not replaced.
    pub(super) async fn refused(&self, secret: &Secret, judged: &Judged, until: Instant) -> bool {
        if self.current().version != secret.version {
            return true;
        }
        let renewed = self.stored.renew(secret.version, until).await;
        if self.note(secret, judged) {
            counter!("seawall_credential_failures_total", "target" => self.target.to_string())
                .increment(1);
            if let Err(kept) = &renewed {
                tracing::error!(
                    upstream = &*self.target,
                    credential = secret.credential.fingerprint(),
                    read_anew = %kept,
                    "{}",
                    judged.advice(&self.origin())
                );
            }
        }
        renewed.is_ok()
    }

    /// Whether the refusal is news.
    fn note(&self, secret: &Secret, judged: &Judged) -> bool {
        let mut refused = self.refused.lock();
        let is_news = refused.is_none_or(|known| known.version < secret.version);
        let is_older = refused.is_some_and(|known| known.version > secret.version);
        if !is_older {
            *refused = Some(Refused {
                version: secret.version,
                at: Instant::now(),
                is_dead: judged.verdict.label == label::AUTHENTICATION,
            });
        }
        is_news
    }
}

/// Whether an answer refuses the credential, whatever was asked with it. A 403 with a code of its own
/// speaks of the request, such as a profile that is not billed.
pub(super) fn refuses_the_key(judged: &Judged) -> bool {
    match judged.verdict.label {
        label::AUTHENTICATION => true,
        label::PERMISSION => judged
            .error_code
            .as_deref()
            .is_none_or(|code| code == "organization_on_hold"),
        _ => false,
    }
}

/// Why a key stays what it was.
#[derive(Debug, thiserror::Error)]
enum Kept {
    #[error("unchanged")]
    Unchanged,
    #[error("{0}")]
    Unreadable(String),
    #[error("not read within {} s", READ_WITHIN.as_secs())]
    Late,
}

/// A secret and where it came from: targets of one origin change together.
struct Stored {
    origin: config::KeyOrigin,
    configured: ApiKey,
    current: RwLock<Arc<Secret>>,
    /// When it was last read anew; held by whoever reads.
    read_at: Arc<tokio::sync::Mutex<Option<Instant>>>,
}

// Nothing of it is shown but where it came from.
impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stored").field(&self.origin).finish()
    }
}

impl Stored {
    fn new(configured: ApiKey, secret: Secret) -> Self {
        Self {
            origin: configured.origin.clone(),
            configured,
            current: RwLock::new(Arc::new(secret)),
            read_at: Arc::default(),
        }
    }

    /// Reads the secret anew unless that was done just now or is of no use, since another than
    /// `refused` is there.
    async fn renew(self: &Arc<Self>, refused: u64, until: Instant) -> Result<(), Kept> {
        let until = until.min(Instant::now() + READ_WITHIN);
        let reading = Arc::clone(&self.read_at).lock_owned();
        let mut reading = timeout_at(until, reading).await.map_err(|_| Kept::Late)?;
        if self.current.read().version != refused {
            return Ok(());
        }
        let now = Instant::now();
        if reading.is_some_and(|at| now < at + READ_EVERY) {
            return Err(Kept::Unchanged);
        }
        *reading = Some(now);
        if matches!(self.origin, config::KeyOrigin::Env(_)) {
            return self.read();
        }
        let stored = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || {
            let read = stored.read();
            // Held until here, so that a disk that hangs holds one thread and not one a call.
            drop(reading);
            read
        });
        match timeout_at(until, read).await {
            Ok(Ok(read)) => read,
            Ok(Err(_)) | Err(_) => Err(Kept::Late),
        }
    }

    /// Blocks on the file.
    fn read(&self) -> Result<(), Kept> {
        let read = self.configured.reread(&Environment::process());
        let key = read.map_err(Kept::Unreadable)?;
        let before = Arc::clone(&self.current.read());
        let version = before.version.saturating_add(1);
        let secret = Secret::new(&key, version).map_err(Kept::Unreadable)?;
        if secret.number == before.number {
            return Err(Kept::Unchanged);
        }
        tracing::warn!(
            refused = before.credential.fingerprint(),
            credential = secret.credential.fingerprint(),
            "the key from {} was refused and has been replaced there: the new one is used from here on",
            self.origin
        );
        *self.current.write() = Arc::new(secret);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use http::{HeaderMap, StatusCode};
    use jiff::Timestamp;
    use tokio::time::advance;

    use super::*;
    use crate::config::Overrides;
    use crate::verdict::judge;

    /// A key file of this test's own.
    fn file(of: &str, key: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("seawall-keys-{}-{of}", std::process::id()));
        std::fs::write(&path, key).unwrap();
        path
    }

    fn keys(path: &Path) -> Keys {
        let text = format!(
            "[targets.a]\napi_key_file = {path:?}\n[targets.b]\napi_key_file = {path:?}\n\
             [routes.default]\nladder = [\"a\", \"b\"]\n"
        );
        let nothing = Environment::from_fn(|_| None);
        let config = Config::parse(&text, Path::new(""), &Overrides::default(), &nothing);
        Keys::new(&config.unwrap())
    }

    fn refusal() -> Judged {
        let body = br#"{"type":"error","error":{"type":"authentication_error","message":"no"}}"#;
        judge(
            StatusCode::UNAUTHORIZED,
            &HeaderMap::new(),
            body,
            Timestamp::now(),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_is_read_once_a_second_and_serves_all_its_targets() {
        let path = file("often", "sk-one");
        let keys = keys(&path);
        let (a, b) = (keys.of("a").unwrap(), keys.of("b").unwrap());
        let until = Instant::now() + Duration::from_mins(5);
        let old = a.current();
        assert!(!a.refused(&old, &refusal(), until).await);
        std::fs::write(&path, "sk-two").unwrap();
        for _ in 0..1_000 {
            assert!(!a.refused(&old, &refusal(), until).await, "read just now");
        }
        assert!(a.is_dead(Instant::now()) && !b.is_dead(Instant::now()));
        advance(READ_EVERY).await;
        assert!(b.refused(&old, &refusal(), until).await);
        assert!(
            a.refused(&old, &refusal(), until).await,
            "it is there already"
        );
        assert_ne!(a.current().number, old.number);
        assert_eq!(a.current().number, b.current().number);
        assert!(!a.is_dead(Instant::now()), "another secret");
        std::fs::remove_file(path).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_read_leaves_the_key_as_it_is() {
        let path = file("gone", "sk-one");
        let keys = keys(&path);
        let key = keys.of("a").unwrap();
        let until = Instant::now() + Duration::from_mins(5);
        for unreadable in ["", "two words"] {
            std::fs::write(&path, unreadable).unwrap();
            assert!(!key.refused(&key.current(), &refusal(), until).await);
            advance(READ_EVERY).await;
        }
        std::fs::remove_file(&path).unwrap();
        assert!(!key.refused(&key.current(), &refusal(), until).await);
        assert_eq!(key.current().version, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_news_once_and_again_after_a_success() {
        let path = file("news", "sk-one");
        let keys = keys(&path);
        let key = keys.of("a").unwrap();
        let first = key.current();
        assert!(key.note(&first, &refusal()) && !key.note(&first, &refusal()));
        key.taken(&first);
        assert!(!key.is_dead(Instant::now()));
        assert!(key.note(&first, &refusal()));
        advance(DEAD_FOR).await;
        assert!(!key.is_dead(Instant::now()), "it may be good again by now");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_403_with_a_code_of_its_own_speaks_of_the_request() {
        let forbidden = |code: &str| {
            let body = format!(
                r#"{{"type":"error","error":{{"type":"permission_error","message":"no","details":{{"error_code":{code}}}}}}}"#
            );
            let headers = HeaderMap::new();
            judge(
                StatusCode::FORBIDDEN,
                &headers,
                body.as_bytes(),
                Timestamp::now(),
            )
        };
        assert!(refuses_the_key(&refusal()));
        assert!(refuses_the_key(&forbidden("null")));
        assert!(refuses_the_key(&forbidden("\"organization_on_hold\"")));
        assert!(!refuses_the_key(&forbidden(
            "\"user_profile_not_billable\""
        )));
        assert!(!refuses_the_key(&Judged::ok()));
    }
}
