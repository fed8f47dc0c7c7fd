//! A delay or a number of tokens, or the range that one is drawn from.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand::{Rng, RngExt};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{InvalidScenario, require};
use crate::duration::{self, Humane};

/// A delay, or a range that it is drawn from evenly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delay {
    /// The shortest.
    pub from: Duration,
    /// The longest.
    pub to: Duration,
}

impl Delay {
    /// None at all.
    pub const ZERO: Self = Self::fixed(Duration::ZERO);

    /// Always the same.
    #[must_use]
    pub const fn fixed(delay: Duration) -> Self {
        Self {
            from: delay,
            to: delay,
        }
    }

    /// Draws one.
    pub fn draw(&self, rng: &mut impl Rng) -> Duration {
        if self.from >= self.to {
            self.from
        } else {
            rng.random_range(self.from..=self.to)
        }
    }

    pub(super) fn validate(self, at: &str) -> Result<(), InvalidScenario> {
        let fits = self.from <= self.to && self.to <= Duration::from_hours(1);
        require(fits, || at.to_owned(), self, "0s to 1h, the shorter first")
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Humane(self.from))?;
        if self.from == self.to {
            Ok(())
        } else {
            write!(f, "..{}", Humane(self.to))
        }
    }
}

impl FromStr for Delay {
    type Err = duration::InvalidDuration;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (from, to) = text.split_once("..").unwrap_or((text, text));
        Ok(Self {
            from: duration::parse(from)?,
            to: duration::parse(to)?,
        })
    }
}

impl Serialize for Delay {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Delay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// A number of tokens, or a range that it is drawn from evenly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenRange {
    /// The fewest.
    pub from: u64,
    /// The most.
    pub to: u64,
}

impl TokenRange {
    /// Always the same.
    #[must_use]
    pub const fn fixed(tokens: u64) -> Self {
        Self {
            from: tokens,
            to: tokens,
        }
    }

    /// Draws one.
    pub fn draw(&self, rng: &mut impl Rng) -> u64 {
        if self.from >= self.to {
            self.from
        } else {
            rng.random_range(self.from..=self.to)
        }
    }
}

impl fmt::Display for TokenRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.from == self.to {
            write!(f, "{}", self.from)
        } else {
            write!(f, "{}..{}", self.from, self.to)
        }
    }
}

impl Serialize for TokenRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TokenRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Fixed(u64),
            Text(String),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Fixed(tokens) => return Ok(Self::fixed(tokens)),
            Written::Text(text) => text,
        };
        let (from, to) = text.split_once("..").unwrap_or((&text, &text));
        match (from.trim().parse(), to.trim().parse()) {
            (Ok(from), Ok(to)) => Ok(Self { from, to }),
            _ => Err(de::Error::custom(format!(
                "`{text}` is no number of tokens: write 200 or \"50..400\""
            ))),
        }
    }
}
