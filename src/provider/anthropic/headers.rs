//! Which headers travel, and the credential among them.
//!
//! A gateway passes everything on that does not belong to one hop: the API adds headers without
//! notice and refuses requests whose beta header was lost. Upstream is asked for an uncompressed
//! answer, so that the bytes that are passed on are also the bytes that can be read; an answer that
//! comes compressed all the same passes unread (see [`is_encoded`]).

use std::fmt;

use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, EXPECT, HOST, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, header::Entry};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

/// The API version that is sent where the client names none: the oldest that is still served.
pub const DEFAULT_VERSION: &str = "2023-06-01";

/// Header that names the API version.
pub const VERSION: HeaderName = HeaderName::from_static("anthropic-version");

/// Header of the older form of the credential.
pub const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The headers of a client's request that go upstream.
///
/// Left out: those of one hop, `host`, `content-length` and `expect` (the transport writes its own)
/// and seawall's own `x-seawall-*`.
#[must_use]
pub fn request_headers(mut from_client: HeaderMap) -> HeaderMap {
    let mut left_out = listed_for_one_hop(&from_client);
    let own = |name: &&HeaderName| name.as_str().starts_with("x-seawall-");
    left_out.extend(from_client.keys().filter(own).cloned());
    for name in &left_out {
        from_client.remove(name);
    }
    for name in OF_ONE_HOP.iter().chain(&[HOST, CONTENT_LENGTH, EXPECT]) {
        from_client.remove(name);
    }
    from_client.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    from_client
}

/// The headers of an answer that go back to the client: all but those of one hop.
///
/// `content-length` is kept only where the body goes back unchanged and whole.
#[must_use]
pub fn response_headers(from_upstream: HeaderMap, body_unchanged: bool) -> HeaderMap {
    let stale = |name: &HeaderName| *name == CONTENT_LENGTH && !body_unchanged;
    // Most answers have nothing to lose and need no copy. Removing in place would change the order.
    let has_stale = !body_unchanged && from_upstream.contains_key(CONTENT_LENGTH);
    if !has_stale
        && !OF_ONE_HOP
            .iter()
            .any(|name| from_upstream.contains_key(name))
    {
        return from_upstream;
    }
    let listed = listed_for_one_hop(&from_upstream);
    let mut out = HeaderMap::with_capacity(from_upstream.len().saturating_add(6));
    for (name, value) in &from_upstream {
        if !stale(name) && !OF_ONE_HOP.contains(name) && !listed.contains(name) {
            out.append(name.clone(), value.clone());
        }
    }
    out
}

/// Whether the body is compressed, so that only its bytes can be passed on, not read.
#[must_use]
pub fn is_encoded(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_ENCODING)
        .is_some_and(|v| !v.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// How a credential is written on the wire. The API takes both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Form {
    /// `x-api-key: …`
    ApiKey,
    /// `authorization: Bearer …`
    Bearer,
}

/// A credential. It is shown nowhere; [`Credential::fingerprint`] names it.
#[derive(Clone)]
pub struct Credential {
    secret: SecretString,
    form: Form,
    fingerprint: [u8; 8],
}

/// Text that no header can carry. The text itself is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the credential is empty or has characters that no HTTP header can carry")]
pub struct InvalidCredential;

impl Credential {
    /// A credential; white space around it, such as a file's last line end, is not part of it.
    ///
    /// # Errors
    ///
    /// [`InvalidCredential`] when it is empty or cannot be written in a header.
    pub fn new(form: Form, secret: &str) -> Result<Self, InvalidCredential> {
        let secret = secret.trim();
        let printable = secret.bytes().all(|b| b.is_ascii_graphic());
        if secret.is_empty() || !printable {
            return Err(InvalidCredential);
        }
        Ok(Self {
            secret: SecretString::from(secret),
            form,
            fingerprint: fingerprint(secret),
        })
    }

    /// The credential that a client sent, if any; `x-api-key` where it sent both.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let key = headers.get(&API_KEY).and_then(|v| v.to_str().ok());
        if let Some(found) = key.and_then(|k| Self::new(Form::ApiKey, k).ok()) {
            return Some(found);
        }
        let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = value.trim().split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        Self::new(Form::Bearer, token).ok()
    }

    /// Writes the credential in its form, in place of any that is there.
    pub fn apply(&self, headers: &mut HeaderMap) {
        let secret = self.secret.expose_secret();
        let (name, other) = match self.form {
            Form::ApiKey => (API_KEY, AUTHORIZATION),
            Form::Bearer => (AUTHORIZATION, API_KEY),
        };
        headers.remove(other);
        // Most credentials are the client's own and stand there already.
        if self.form == Form::ApiKey
            && let Entry::Occupied(mut there) = headers.entry(&name)
            && there.get().as_bytes() == secret.as_bytes()
            && there.iter().count() == 1
        {
            there.get_mut().set_sensitive(true);
            return;
        }
        let value = match self.form {
            Form::ApiKey => HeaderValue::from_str(secret),
            Form::Bearer => HeaderValue::from_str(&format!("Bearer {secret}")),
        };
        headers.remove(&name);
        // The constructor let only visible ASCII through, which every header carries.
        if let Ok(mut value) = value {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
    }

    /// Eight hexadecimal digits of a SHA-256: enough to tell keys apart, useless to find them.
    ///
    /// Both forms of one key have the same fingerprint, as they share its quotas.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        std::str::from_utf8(&self.fingerprint).unwrap_or_default()
    }

    /// A digest that no two keys share, where eight digits would not do: it must not be shown either.
    ///
    /// Both forms of one key have the same digest.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let secret = self.secret.expose_secret().as_bytes();
        let digest = Sha256::new_with_prefix(b"seawall credential\0");
        digest.chain_update(secret).finalize().into()
    }

    /// How it is written on the wire.
    #[must_use]
    pub const fn form(&self) -> Form {
        self.form
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(…)")
    }
}

fn fingerprint(secret: &str) -> [u8; 8] {
    const HEX: [u8; 16] = *b"0123456789abcdef";
    let digest = Sha256::digest(secret.as_bytes());
    let nibbles = digest.iter().flat_map(|byte| [byte >> 4, byte & 0x0F]);
    let mut out = [b'0'; 8];
    for (place, nibble) in out.iter_mut().zip(nibbles) {
        *place = HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
    }
    out
}

/// RFC 9110 §7.6.1: the fixed names.
const OF_ONE_HOP: [HeaderName; 9] = [
    CONNECTION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-authorization"),
    HeaderName::from_static("proxy-connection"),
];

/// What the `connection` header lists beside its own words.
fn listed_for_one_hop(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|listed| !["keep-alive", "close"].contains(listed))
        .filter_map(|listed| HeaderName::from_bytes(listed.as_bytes()).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::{
        Credential, Form, InvalidCredential, is_encoded, request_headers, response_headers,
    };

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v)))
            .collect()
    }

    #[test]
    fn a_request_loses_only_what_belongs_to_one_hop() {
        let out = request_headers(headers(&[
            ("host", "127.0.0.1:4117"),
            ("content-length", "12"),
            ("connection", "keep-alive, X-Private"),
            ("x-private", "1"),
            ("transfer-encoding", "chunked"),
            ("accept-encoding", "gzip, br"),
            ("x-seawall-profile", "batch"),
            ("anthropic-version", "2026-10-21"),
            ("anthropic-beta", "one-2025,two-2026"),
            ("anthropic-new-thing", "yes"),
            ("x-claude-code-session-id", "s"),
            ("x-api-key", "k"),
            ("authorization", "Bearer k"),
        ]));
        let mut names: Vec<&str> = out.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "accept-encoding",
                "anthropic-beta",
                "anthropic-new-thing",
                "anthropic-version",
                "authorization",
                "x-api-key",
                "x-claude-code-session-id",
            ]
        );
        assert_eq!(out["accept-encoding"], "identity");
        assert_eq!(out["anthropic-version"], "2026-10-21");
    }

    #[test]
    fn an_answer_keeps_its_length_only_where_its_body_is_unchanged() {
        let upstream = headers(&[
            ("content-length", "12"),
            ("connection", "close"),
            ("request-id", "req_1"),
            ("anthropic-ratelimit-requests-limit", "50"),
        ]);
        let same = response_headers(upstream.clone(), true);
        assert_eq!(
            (same.len(), &same["content-length"]),
            (3, &HeaderValue::from_static("12"))
        );
        assert!(!response_headers(upstream.clone(), false).contains_key("content-length"));
        assert!(!is_encoded(&upstream) && is_encoded(&headers(&[("content-encoding", "gzip")])));
    }

    #[test]
    fn both_forms_are_read_written_and_never_shown() {
        let key =
            Credential::from_headers(&headers(&[("x-api-key", "sk-ant-api-1")])).expect("a key");
        let bearer =
            Credential::from_headers(&headers(&[("authorization", "bearer sk-ant-api-1")]))
                .expect("a token");
        assert_eq!((key.form(), bearer.form()), (Form::ApiKey, Form::Bearer));
        assert_eq!(key.fingerprint(), bearer.fingerprint());
        assert_eq!(key.fingerprint().len(), 8);
        assert!(
            !format!("{key:?}").contains("sk-ant")
                && !format!("{key:?}").contains(key.fingerprint())
        );

        let mut out = headers(&[("x-api-key", "client"), ("authorization", "Bearer client")]);
        bearer.apply(&mut out);
        assert_eq!(
            (out.get("x-api-key"), &out["authorization"]),
            (None, &HeaderValue::from_static("Bearer sk-ant-api-1"),)
        );
        assert!(out["authorization"].is_sensitive());
        key.apply(&mut out);
        assert_eq!(
            (&out["x-api-key"], out.len()),
            (&HeaderValue::from_static("sk-ant-api-1"), 1)
        );
    }

    #[test]
    fn a_credential_that_no_header_can_carry_is_refused() {
        for bad in ["", "  \n", "a\nb", "ключ", "two words"] {
            assert_eq!(
                Credential::new(Form::ApiKey, bad).map(|_| ()),
                Err(InvalidCredential),
                "{bad:?}"
            );
        }
        assert!(Credential::new(Form::ApiKey, "sk-ant\r\n").is_ok());
        assert!(Credential::from_headers(&headers(&[("authorization", "Basic abc")])).is_none());
    }
}
