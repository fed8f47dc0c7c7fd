//! JSON taken apart one level at a time, values unread.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::odd;
use crate::capability::Misfit;

/// A member of an object.
pub(super) struct Member<'a> {
    pub(super) name: Cow<'a, str>,
    /// Its value as JSON.
    pub(super) value: &'a str,
}

/// An object's members in their order. One that is there twice leaves open which of them holds.
pub(super) fn object(json: &str) -> Result<Vec<Member<'_>>, Misfit> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let members = deserializer
        .deserialize_map(Object)
        .map_err(|_| odd("an object is expected where there is none, or one holds a key twice"))?;
    Ok(members)
}

/// A list's elements as JSON.
pub(super) fn list(json: &str) -> Result<Vec<&str>, Misfit> {
    let elements: Vec<&RawValue> =
        serde_json::from_str(json).map_err(|_| odd("a list is expected where there is none"))?;
    Ok(elements.into_iter().map(RawValue::get).collect())
}

/// A string's text.
pub(super) fn string(json: &str) -> Result<Cow<'_, str>, Misfit> {
    // Without an escape it is there as it is.
    if let Some(plain) = json
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        && !plain.contains('\\')
    {
        return Ok(plain.into());
    }
    serde_json::from_str::<String>(json)
        .map(Cow::Owned)
        .map_err(|_| odd("a text is expected where there is none"))
}

pub(super) fn write_object(out: &mut String, members: &[(Cow<'_, str>, Cow<'_, str>)]) {
    out.push('{');
    for (i, (name, value)) in members.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        out.push_str(&Value::from(&**name).to_string());
        out.push(':');
        out.push_str(value);
    }
    out.push('}');
}

pub(super) fn write_list(elements: &[Cow<'_, str>]) -> String {
    format!("[{}]", elements.join(","))
}

struct Object;

impl<'de> Visitor<'de> for Object {
    type Value = Vec<Member<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        let mut names = HashSet::new();
        while let Some(Name(name)) = map.next_key()? {
            if !names.insert(name.clone()) {
                return Err(A::Error::custom("a key stands twice"));
            }
            let value: &RawValue = map.next_value()?;
            members.push(Member {
                name,
                value: value.get(),
            });
        }
        Ok(members)
    }
}

/// A key, borrowed where it has no escape.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
