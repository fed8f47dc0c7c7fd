//! What names an answer: a digest of the request and of who may see the answer.

use std::fmt;

use http::{HeaderMap, HeaderName};
use sha2::{Digest, Sha256};

use super::canonical;
use crate::provider::anthropic::headers::{Credential, DEFAULT_VERSION, VERSION};

const BETA: HeaderName = HeaderName::from_static("anthropic-beta");

/// Another form of the key or of what stands under it needs another one.
const DOMAIN: &[u8] = b"seawall cache key 2";

/// The name of an answer: SHA-256 over who may see it and what was asked.
///
/// It says nothing about either, and no credential can be found from it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheKey(pub(super) [u8; 32]);

/// Who may see an answer again.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::exhaustive_enums, reason = "a new kind must be decided on")]
pub enum Scope<'a> {
    /// All calls of one tenant, where the gateway or the service vouches for its name.
    Tenant(&'a str),
    /// All calls that bring this credential, and name this tenant if they name one: a name alone
    /// is only a caller's word.
    Credential(&'a Credential, Option<&'a str>),
    /// Every caller.
    Shared,
}

/// What a key is made of.
#[derive(Debug, Clone, Copy)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a part that is left out is a wrong hit"
)]
pub struct KeyParts<'a> {
    /// Who may see the answer again.
    pub scope: Scope<'a>,
    /// The route: another one answers otherwise.
    pub route: &'a str,
    /// The model that the route's first rung asks for, where it is not the body's own.
    pub model: Option<&'a str>,
    /// The query string.
    pub query: Option<&'a str>,
    /// The client's headers; `anthropic-version` and `anthropic-beta` count.
    pub headers: &'a HeaderMap,
    /// The body; `stream` and `metadata` do not count.
    pub body: &'a [u8],
}

/// A request's key, and what else was read on the way to it.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Fingerprint {
    /// Its key.
    pub key: CacheKey,
    /// The temperature that it asks for, if it names one.
    pub temperature: Option<f64>,
}

impl Fingerprint {
    /// Reads a request of the Messages API in one pass. `None` where its body is not one JSON object
    /// or is ambiguous, such as by a member named twice: there is no cache for such a request.
    #[must_use]
    pub fn of(parts: &KeyParts<'_>) -> Option<Self> {
        let body = canonical::request(parts.body, parts.model)?;
        let mut hash = Hash(Sha256::new());
        hash.field(DOMAIN);
        hash.scope(parts.scope);
        hash.field(parts.route.as_bytes());
        hash.tagged(b'q', parts.query.map(str::as_bytes));
        let version = parts.headers.get(VERSION).map(http::HeaderValue::as_bytes);
        hash.field(version.unwrap_or(DEFAULT_VERSION.as_bytes()));
        for beta in betas(parts.headers) {
            hash.tagged(b'b', Some(beta));
        }
        hash.tagged(b'j', Some(&body.bytes));
        Some(Self {
            key: CacheKey(hash.0.finalize().into()),
            temperature: body.temperature,
        })
    }
}

/// Beta features, each once, in one order.
fn betas(headers: &HeaderMap) -> Vec<&[u8]> {
    let mut betas: Vec<&[u8]> = headers
        .get_all(BETA)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|beta| !beta.is_empty())
        .collect();
    betas.sort_unstable();
    betas.dedup();
    betas
}

struct Hash(Sha256);

impl Scope<'_> {
    /// Tells it from others.
    pub(crate) fn digest(self) -> [u8; 32] {
        let mut hash = Hash(Sha256::new());
        hash.field(b"seawall scope");
        hash.scope(self);
        hash.0.finalize().into()
    }
}

impl Hash {
    fn scope(&mut self, scope: Scope<'_>) {
        match scope {
            Scope::Tenant(name) => self.tagged(b't', Some(name.as_bytes())),
            Scope::Credential(credential, tenant) => {
                self.tagged(b'c', Some(&credential.digest()));
                self.tagged(b't', tenant.map(str::as_bytes));
            }
            Scope::Shared => self.tagged(b's', None),
        }
    }

    fn field(&mut self, bytes: &[u8]) {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.0.update(length.to_le_bytes());
        self.0.update(bytes);
    }

    fn tagged(&mut self, tag: u8, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => {
                self.0.update([tag, 1]);
                self.field(bytes);
            }
            None => self.0.update([tag, 0]),
        }
    }
}

impl CacheKey {
    /// The key as bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for CacheKey {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CacheKey(")?;
        for byte in self.0.iter().take(4) {
            write!(f, "{byte:02x}")?;
        }
        f.write_str("…)")
    }
}

#[cfg(test)]
mod tests;
