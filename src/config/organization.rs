//! The organisation's own word on its limits, where an admin key is given.

use std::path::Path;
use std::time::Duration;

use super::document::Section;
use super::target::{ApiKey, KeyOrigin, Keys, base_url, looks_like_a_key};
use super::{DEFAULT_UPSTREAM, Overrides};

/// How often limits are asked for. They change when somebody changes them.
const REFRESH: Duration = Duration::from_mins(5);
const MOST_OFTEN: Duration = Duration::from_secs(10);
const LEAST_OFTEN: Duration = Duration::from_hours(24);

/// Whom to ask for the limits of an organisation.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Organization {
    /// The admin key; it is used for nothing else.
    pub admin_key: ApiKey,
    /// The address, without `/v1` and without a slash at the end.
    pub base_url: String,
    /// How often to ask.
    pub refresh: Duration,
}

pub(super) fn read(
    section: Section<'_>,
    keys: &Keys<'_>,
    flags: &Overrides,
) -> Option<Organization> {
    if !section.is_present() {
        return None;
    }
    let base = section
        .parsed("base_url", base_url)
        .map(toml::Spanned::into_inner);
    let refresh = section
        .duration("refresh", MOST_OFTEN..=LEAST_OFTEN)
        .map_or(REFRESH, toml::Spanned::into_inner);
    let admin_key = read_key(&section, keys);
    section.close();
    // A flag that is no address is refused where targets are read.
    let upstream = flags.upstream.as_deref().and_then(|url| base_url(url).ok());
    Some(Organization {
        admin_key: admin_key?,
        base_url: upstream
            .or(base)
            .unwrap_or_else(|| DEFAULT_UPSTREAM.to_owned()),
        refresh,
    })
}

fn read_key(section: &Section<'_>, keys: &Keys<'_>) -> Option<ApiKey> {
    let doc = section.doc();
    let (variable, file) = (
        section.string("admin_key_env"),
        section.string("admin_key_file"),
    );
    let (said, is_file) = match (variable, file) {
        (None, None) => {
            doc.refuse(
                section.span(),
                "organization: an admin key is needed: write admin_key_env = \"ANTHROPIC_ADMIN_KEY\" or admin_key_file",
            );
            return None;
        }
        (Some(_), Some(file)) => {
            let what = "organization has both admin_key_env and admin_key_file: keep one";
            doc.refuse(&file.span(), what);
            return None;
        }
        (Some(variable), None) => (variable, false),
        (None, Some(file)) => (file, true),
    };
    if looks_like_a_key(said.get_ref()) {
        // The value itself is not repeated: it may be the secret.
        let what = "organization: an admin key is named by its environment variable or file, never written out";
        doc.refuse(&said.span(), what);
        return None;
    }
    let origin = if is_file {
        let path = Path::new(said.get_ref());
        let whole = keys.beside.map(|dir| dir.join(path));
        KeyOrigin::File(whole.unwrap_or_else(|| path.to_owned()))
    } else {
        KeyOrigin::Env(said.get_ref().clone())
    };
    ApiKey::read(origin, keys.environment)
        .map_err(|why| doc.refuse(&said.span(), format!("organization: {why}")))
        .ok()
}
