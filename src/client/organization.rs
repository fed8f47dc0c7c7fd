//! Limits from the organisation itself: asked for at the start and from time to time.
//!
//! They are *learned*, as from a header: a configured limit stays a ceiling, and whatever an answer's
//! headers say later wins, such as a workspace's lower limit. Without an answer everything goes on by
//! headers. The admin key is in no log line, error or status.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use jiff::Timestamp;
use parking_lot::RwLock;
use seawall_actors::policy::quota::{AxisWord, Learned};
use secrecy::ExposeSecret;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::Shared;
use super::keys::Keys;
use crate::config::{self, ApiKey, Config, Environment};
use crate::provider::anthropic::headers::{self as wire, Credential};
use crate::provider::anthropic::rate_limits::{GroupLimits, OrganizationLimits, PATH};
use crate::transport::{Request, Transport};
use crate::verdict::judge;

/// How long a start waits for the first answer, so that the first calls are limited rightly.
const FIRST_ANSWER: Duration = Duration::from_secs(3);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);
/// The largest page.
const LARGEST: usize = 4 << 20;
/// Most pages; one holds everything unless it is asked for less.
const MOST_PAGES: usize = 20;

/// What is known of the organisation.
#[derive(Debug, Default)]
pub(super) struct Organization {
    limits: RwLock<Arc<OrganizationLimits>>,
    /// The configured keys, where its limits are asked for. A caller's own key may be another
    /// organisation's.
    own: Option<Arc<Keys>>,
    task: RwLock<Option<Task>>,
}

/// Who asks now and then; ends with whoever holds this.
#[derive(Debug)]
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why there is no answer; nothing in it is the provider's own text.
#[derive(Debug, thiserror::Error)]
enum NoLimits {
    #[error("the admin key's origin or the address cannot be used")]
    Unusable,
    #[error("no answer within {} s", ANSWER.as_secs())]
    TimedOut,
    #[error(transparent)]
    Broken(#[from] crate::transport::TransportError),
    #[error("status {status}: {advice}")]
    Refused { status: u16, advice: String },
    #[error("an answer that is not the documented list")]
    Malformed,
}

impl Organization {
    pub(super) fn new(config: &Config, keys: &Arc<Keys>) -> Self {
        let asks = config.organization.is_some();
        Self {
            own: asks.then(|| Arc::clone(keys)),
            ..Self::default()
        }
    }

    pub(super) fn limits(&self) -> Arc<OrganizationLimits> {
        Arc::clone(&self.limits.read())
    }

    /// Whether a credential is one of the organisation's own keys. False for all where nobody asks
    /// for its limits.
    pub(super) fn owns(&self, credential: &Credential) -> bool {
        self.own
            .as_ref()
            .is_some_and(|keys| keys.contain(credential))
    }

    /// The group of a model for one of the organisation's own keys.
    pub(super) fn group_of(&self, model: &str, credential: &Credential) -> Option<Arc<str>> {
        if !self.owns(credential) {
            return None;
        }
        self.limits.read().group_of(model).cloned()
    }

    /// What a new quota of one of the organisation's own keys begins with.
    pub(super) fn learned(&self, model: &str, credential: &Credential) -> Option<Learned> {
        if !self.owns(credential) {
            return None;
        }
        self.limits.read().limits_of(model).map(learned)
    }

    pub(super) fn stop(&self) {
        drop(self.task.write().take());
    }
}

/// Asks now and then, for as long as the client is there. Returns with the first answer, or without
/// one after three seconds.
pub(super) async fn start(shared: &Arc<Shared>) {
    let Some(settings) = shared.config.organization.clone() else {
        return;
    };
    if timeout(FIRST_ANSWER, refresh(shared, &settings))
        .await
        .is_err()
    {
        warn(&settings, &NoLimits::TimedOut);
    }
    let weak = Arc::downgrade(shared);
    #[expect(
        clippy::disallowed_methods,
        reason = "the organisation holds the task and aborts it when it goes"
    )]
    let task = tokio::spawn(keep(weak, settings));
    *shared.organization.task.write() = Some(Task(task.abort_handle()));
}

async fn keep(shared: Weak<Shared>, mut settings: config::Organization) {
    loop {
        tokio::time::sleep(settings.refresh).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        if refresh(&shared, &settings).await
            && let Some(key) = replaced(&settings.admin_key).await
        {
            settings.admin_key = key;
            refresh(&shared, &settings).await;
        }
    }
}

/// The key that is there now in place of one that was refused.
async fn replaced(refused: &ApiKey) -> Option<ApiKey> {
    let known = refused.clone();
    let read = tokio::task::spawn_blocking(move || known.reread(&Environment::process()));
    let found = read.await.ok()?.ok()?;
    (found.secret.expose_secret() != refused.secret.expose_secret()).then_some(found)
}

/// Asks once and hands on what has changed. Whether the key was refused.
async fn refresh(shared: &Arc<Shared>, settings: &config::Organization) -> bool {
    let asked = timeout(ANSWER, ask(&*shared.transport, settings));
    match asked.await.unwrap_or(Err(NoLimits::TimedOut)) {
        Ok(limits) => {
            hand_on(shared, limits);
            false
        }
        Err(why) => {
            warn(settings, &why);
            matches!(
                why,
                NoLimits::Refused {
                    status: 401 | 403,
                    ..
                }
            )
        }
    }
}

fn warn(settings: &config::Organization, why: &NoLimits) {
    tracing::warn!(
        key = %settings.admin_key.origin,
        error = why as &dyn std::error::Error,
        "the organisation's rate limits could not be read; limits are learned from headers. It needs an \
         admin key (they begin with sk-ant-admin) of an organisation's administrator"
    );
}

/// Tells the quotas of the organisation's own keys what has changed.
fn hand_on(shared: &Shared, limits: OrganizationLimits) {
    let organization = &shared.organization;
    let before = organization.limits();
    if *before == limits {
        return;
    }
    tracing::info!(
        groups = limits.groups(),
        "read the organisation's rate limits"
    );
    let limits = Arc::new(limits);
    *organization.limits.write() = Arc::clone(&limits);
    for (quota, model) in shared.targets.quotas() {
        let news = limits.limits_of(&model);
        if news != before.limits_of(&model)
            && let (Some(news), Some(quota)) = (news, shared.system.known_quota(&quota))
        {
            quota.learn(learned(news));
        }
    }
}

/// A cursor is opaque, and may hold what has a meaning in an address.
fn encoded(cursor: &str) -> String {
    let mut encoded = String::with_capacity(cursor.len());
    for byte in cursor.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

fn learned(limits: GroupLimits) -> Learned {
    let word = |limit: Option<u64>| {
        limit.map(|limit| AxisWord {
            limit: Some(limit),
            ..AxisWord::default()
        })
    };
    Learned {
        axes: [
            word(limits.requests),
            word(limits.input),
            word(limits.output),
        ],
        ..Learned::default()
    }
}

async fn ask(
    transport: &dyn Transport,
    settings: &config::Organization,
) -> Result<OrganizationLimits, NoLimits> {
    let mut limits = OrganizationLimits::default();
    let mut page = None;
    for _ in 0..MOST_PAGES {
        let body = get(transport, settings, page.as_deref()).await?;
        page = limits.read_page(&body).map_err(|_| NoLimits::Malformed)?;
        if page.is_none() {
            return Ok(limits);
        }
    }
    Err(NoLimits::Malformed)
}

async fn get(
    transport: &dyn Transport,
    settings: &config::Organization,
    page: Option<&str>,
) -> Result<Bytes, NoLimits> {
    let key = settings.admin_key.secret.expose_secret();
    let mut key = HeaderValue::from_str(key).map_err(|_| NoLimits::Unusable)?;
    key.set_sensitive(true);
    let mut headers = HeaderMap::new();
    headers.insert("x-api-key", key);
    headers.insert(
        wire::VERSION,
        HeaderValue::from_static(wire::DEFAULT_VERSION),
    );
    let cursor = page.map_or_else(String::new, |page| format!("?page={}", encoded(page)));
    let uri = format!("{}{PATH}{cursor}", settings.base_url);
    let request = Request {
        method: Method::GET,
        uri: uri.parse::<Uri>().map_err(|_| NoLimits::Unusable)?,
        headers,
        body: Bytes::new(),
    };
    let mut response = transport.send(request).await?;
    let mut body = BytesMut::new();
    while let Some(chunk) = response.body.next().await.transpose()? {
        if body.len().saturating_add(chunk.len()) > LARGEST {
            return Err(NoLimits::Malformed);
        }
        body.extend_from_slice(&chunk);
    }
    if response.status == StatusCode::OK {
        return Ok(body.freeze());
    }
    let judged = judge(response.status, &response.headers, &body, Timestamp::now());
    Err(NoLimits::Refused {
        status: response.status.as_u16(),
        advice: judged.advice(&settings.admin_key.origin.to_string()),
    })
}
