//! What of a body can be read where the whole of it cannot.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::count::{Key, Top};

/// The outermost fields alone. Values are only split off, so that any that is JSON at all passes.
pub(super) struct Shallow<'t, 'de>(pub(super) &'t mut Top<'de>);

impl<'de> DeserializeSeed<'de> for Shallow<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Shallow<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.0.is_object = true;
        while let Some(key) = map.next_key()? {
            let value: &RawValue = map.next_value()?;
            match key {
                Key::Model => self.0.model = Some(value),
                Key::Stream => self.0.stream = Some(value),
                Key::MaxTokens => self.0.max_tokens = Some(value),
                _ => {}
            }
        }
        Ok(())
    }
}
