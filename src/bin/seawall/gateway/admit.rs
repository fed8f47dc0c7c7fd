//! Who may come in.
//!
//! Any web page can send requests to loopback, so a foreign `Host` (a name rebound to this address)
//! or `Origin` (a page's script) is refused before anything else is read. With client keys in the
//! configuration, one of them is asked for, and goes no further.

use std::net::{IpAddr, SocketAddr};

use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::{HeaderMap, StatusCode};
use seawall::config::{ClientKey, Gateway};

/// A request that is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stranger {
    pub(crate) status: StatusCode,
    pub(crate) error_type: &'static str,
    pub(crate) message: &'static str,
}

const FOREIGN_HOST: Stranger = Stranger {
    status: StatusCode::FORBIDDEN,
    error_type: "permission_error",
    message: "this Host is not served here; add it to allowed_hosts in [gateway] if it is meant",
};

const FOREIGN_ORIGIN: Stranger = Stranger {
    status: StatusCode::FORBIDDEN,
    error_type: "permission_error",
    message: "web pages of this Origin are not served; add it to allowed_origins in [gateway] if it \
              is meant",
};

const NO_KEY: Stranger = Stranger {
    status: StatusCode::UNAUTHORIZED,
    error_type: "authentication_error",
    message: "this gateway asks for one of its own client keys, in x-api-key or as a bearer token",
};

/// Lets a request in, or says why not. Says whose key it has, where keys are asked for.
pub(crate) fn admit<'g>(
    gateway: &'g Gateway,
    local: SocketAddr,
    headers: &HeaderMap,
) -> Result<Option<&'g ClientKey>, Stranger> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    match text(HOST) {
        Some(host) if is_own_host(gateway, local, host) => {}
        // HTTP/1.0 has no Host, and no browser speaks it.
        None => {}
        Some(_) => return Err(FOREIGN_HOST),
    }
    if let Some(origin) = text(ORIGIN) {
        let origin = origin.to_ascii_lowercase();
        if !gateway.allowed_origins.contains(&origin) {
            return Err(FOREIGN_ORIGIN);
        }
    }
    if gateway.client_keys.is_empty() {
        return Ok(None);
    }
    match presented(headers).find_map(|key| gateway.client(key)) {
        Some(client) => Ok(Some(client)),
        None => Err(NO_KEY),
    }
}

/// The keys in both headers: some clients fill both, with the gateway's key in one of them.
fn presented(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| {
        let (scheme, token) = value.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
    });
    let key = headers.get("x-api-key").map(|value| value.as_bytes());
    key.into_iter().chain(bearer)
}

fn is_own_host(gateway: &Gateway, local: SocketAddr, host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    if name == "localhost" || name.ends_with(".localhost") {
        return true;
    }
    if let Ok(ip) = name.parse::<IpAddr>() {
        // An address can't be rebound: whoever wrote it meant this machine.
        return ip.is_loopback() || ip == local.ip() || local.ip().is_unspecified();
    }
    gateway
        .allowed_hosts
        .iter()
        .any(|allowed| *allowed == host || *allowed == name)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use seawall::config::{Config, Environment, Overrides};

    use super::*;

    fn gateway(text: &str) -> Gateway {
        let environment = Environment::from_fn(|_| Some("sk-test".to_owned()));
        Config::parse(
            text,
            Path::new("t.toml"),
            &Overrides::default(),
            &environment,
        )
        .unwrap()
        .gateway
    }

    fn asked(gateway: &Gateway, headers: &[(&'static str, &str)]) -> Result<(), Stranger> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        admit(gateway, "127.0.0.1:4117".parse().unwrap(), &map).map(drop)
    }

    #[test]
    fn loopback_names_and_addresses_are_served() {
        let gateway = gateway("");
        for host in [
            "127.0.0.1:4117",
            "localhost:4117",
            "LOCALHOST",
            "[::1]:4117",
            "a.localhost",
        ] {
            assert_eq!(asked(&gateway, &[("host", host)]), Ok(()), "{host}");
        }
    }

    #[test]
    fn a_name_rebound_to_loopback_and_a_foreign_page_are_refused() {
        let gateway = gateway("");
        for host in [
            "evil.example",
            "127.0.0.1.evil.example:4117",
            "10.1.2.3",
            "",
        ] {
            assert_eq!(
                asked(&gateway, &[("host", host)]),
                Err(FOREIGN_HOST),
                "{host}"
            );
        }
        let page = [("host", "localhost"), ("origin", "https://evil.example")];
        assert_eq!(asked(&gateway, &page), Err(FOREIGN_ORIGIN));
        let null = [("host", "localhost"), ("origin", "null")];
        assert_eq!(asked(&gateway, &null), Err(FOREIGN_ORIGIN));
    }

    #[test]
    fn a_configured_origin_and_host_are_served() {
        let text = "[gateway]\nallowed_hosts = [\"seawall.internal\"]\n\
                    allowed_origins = [\"https://app.example\"]\n";
        let gateway = gateway(text);
        let page = [
            ("host", "seawall.internal:4117"),
            ("origin", "https://app.example"),
        ];
        assert_eq!(asked(&gateway, &page), Ok(()));
    }

    #[test]
    fn a_client_key_is_asked_for_and_found_in_either_header() {
        // The SHA-256 of "test".
        let gateway = gateway(
            "[gateway]\nclient_keys = [{ name = \"a\", sha256 = \
             \"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\" }]\n\
             [targets.a]\napi_key_env = \"KEY\"\n",
        );
        let host = ("host", "localhost");
        for (key, let_in) in [
            (&[("x-api-key", "test")][..], true),
            (&[("authorization", "bearer test")], true),
            (
                &[("x-api-key", "other"), ("authorization", "Bearer test")],
                true,
            ),
            (&[], false),
            (&[("x-api-key", "tes")], false),
            (&[("authorization", "test")], false),
            (&[("authorization", "Basic test")], false),
        ] {
            let headers = [&[host], key].concat();
            let expected = if let_in { Ok(()) } else { Err(NO_KEY) };
            assert_eq!(asked(&gateway, &headers), expected, "{key:?}");
        }
    }
}
