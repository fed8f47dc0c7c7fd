//! Durations as people write them in a config file: `500ms`, `1.5s`, `2m`, `1h30m`.
//!
//! [`parse`] reads them, [`Humane`] shows them, and the module itself is a serde helper:
//! `#[serde(with = "crate::duration")]`, with [`option`] for a key that may be absent. A number
//! without a unit is refused, since a reader could not tell seconds from milliseconds.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer, de};

/// The longest duration that is accepted: 365 days.
pub const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Units with their length in nanoseconds, largest first.
const UNITS: [(&str, u128); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Reads a duration: one or more numbers, each with a unit (`h`, `m`, `s`, `ms`, `us`, `ns`).
///
/// # Errors
///
/// [`InvalidDuration`] for anything else, and for more than [`LONGEST`].
pub fn parse(text: &str) -> Result<Duration, InvalidDuration> {
    let refused = || InvalidDuration {
        text: text.to_owned(),
    };
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(refused());
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(refused)?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(tail.len());
        let (unit, after) = tail.split_at(letters);
        let nanos = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(refused)?
            .1;
        total = scaled(number, nanos)
            .and_then(|n| total.checked_add(n))
            .ok_or_else(refused)?;
        rest = after.trim_start();
    }
    if total > LONGEST.as_nanos() {
        return Err(refused());
    }
    Ok(from_nanos(total))
}

/// A duration that does not read as one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no duration: write a number with a unit (ns, us, ms, s, m, h), such as \"500ms\", \
     \"1.5s\" or \"1h30m\", at most 365 days"
)]
pub struct InvalidDuration {
    /// What was written.
    pub text: String,
}

/// Shows a duration the way [`parse`] reads it, exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Humane(pub Duration);

impl fmt::Display for Humane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.0.as_nanos();
        if left == 0 {
            return f.write_str("0s");
        }
        for (unit, nanos) in UNITS {
            if left < nanos {
                continue;
            }
            let whole = left / nanos;
            left %= nanos;
            // Hours and minutes leave the rest to the next unit; a smaller unit takes it as a
            // decimal fraction.
            if left == 0 || nanos >= 60_000_000_000 {
                write!(f, "{whole}{unit}")?;
            } else {
                let width = usize::try_from(nanos.ilog10()).unwrap_or_default();
                let fraction = format!("{left:0width$}");
                left = 0;
                write!(f, "{whole}.{}{unit}", fraction.trim_end_matches('0'))?;
            }
            if left == 0 {
                break;
            }
        }
        Ok(())
    }
}

/// Reads a duration with serde.
///
/// # Errors
///
/// The deserializer's own, with [`InvalidDuration`] as its message.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).map_err(de::Error::custom)
}

/// Writes a duration with serde.
///
/// # Errors
///
/// The serializer's own.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Humane(*duration))
}

/// The same for a key that may be absent; needs `#[serde(default)]` beside it.
pub mod option {
    use std::time::Duration;

    use serde::{Deserializer, Serializer};

    /// Reads a duration that is there.
    ///
    /// # Errors
    ///
    /// As [`deserialize`](super::deserialize).
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        super::deserialize(deserializer).map(Some)
    }

    /// Writes a duration, or nothing.
    ///
    /// # Errors
    ///
    /// The serializer's own.
    pub fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => super::serialize(duration, serializer),
            None => serializer.serialize_none(),
        }
    }
}

/// `number` times `nanos`; fractions finer than a nanosecond are cut.
fn scaled(number: &str, nanos: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || number.ends_with('.') || fraction.contains('.') {
        return None;
    }
    let mut total = whole.parse::<u128>().ok()?.checked_mul(nanos)?;
    let mut worth = nanos;
    for digit in fraction.chars() {
        worth /= 10;
        total = total.checked_add(u128::from(digit.to_digit(10)?).checked_mul(worth)?)?;
    }
    Some(total)
}

fn from_nanos(nanos: u128) -> Duration {
    let seconds = u64::try_from(nanos / 1_000_000_000).unwrap_or(u64::MAX);
    let rest = u32::try_from(nanos % 1_000_000_000).unwrap_or_default();
    Duration::new(seconds, rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn people_write_durations_with_units() {
        for (text, millis) in [
            ("500ms", 500),
            ("1.5s", 1_500),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("1h30m", 5_400_000),
            ("1m 30s", 90_000),
            ("0s", 0),
            (" 8s ", 8_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn a_number_without_a_unit_is_refused() {
        for text in [
            "", "5", "s", "1.s", ".5s", "1..5s", "-1s", "5 sec", "1e3s", "9999999h", "1s5",
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.to_string().contains("500ms"), "{text}: {error}");
        }
        let enormous = format!("{}h", "9".repeat(60));
        assert!(parse(&enormous).is_err());
    }

    #[test]
    fn what_is_shown_is_what_a_person_would_write() {
        for (millis, text) in [
            (500, "500ms"),
            (1_500, "1.5s"),
            (90_000, "1m30s"),
            (3_600_000, "1h"),
            (0, "0s"),
        ] {
            assert_eq!(Humane(Duration::from_millis(millis)).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back_exactly(nanos in 0_u64..=31_536_000_000_000_000) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(parse(&Humane(duration).to_string()), Ok(duration));
        }

        #[test]
        fn no_text_makes_a_panic(text in ".{0,40}") {
            drop(parse(&text));
        }
    }
}
