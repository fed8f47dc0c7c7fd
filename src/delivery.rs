//! How a streamed answer reaches its caller, and so what can be done when it breaks off.
//!
//! Up to the point at which an answer is released nothing has reached the caller, and any failure
//! is tried again unseen. What is released cannot be taken back: after that only a resumption, or
//! an honest `error` event, is left.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How a streamed answer reaches its caller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivery {
    /// Piece by piece, as the provider sends it: released at its first content.
    #[default]
    AsItComes,
    /// All at once: released when it is whole.
    Complete,
    /// As it comes, behind a head start in which a failure is still tried again unseen.
    Hold(Hold),
    /// As it comes; a text that breaks off is continued by another request.
    Resume,
}

/// The head start of [`Delivery::Hold`]: it ends with whichever comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hold {
    /// Output tokens, by the four-bytes-a-token floor.
    pub tokens: u64,
    /// Time since the first content.
    pub time: Duration,
}

impl Hold {
    /// A head start of `tokens` output tokens or `time` since the first content.
    #[must_use]
    pub const fn new(tokens: u64, time: Duration) -> Self {
        Self { tokens, time }
    }
}

impl Default for Hold {
    /// 50 tokens or half a second: a sentence, or what a reader does not notice.
    fn default() -> Self {
        Self::new(50, Duration::from_millis(500))
    }
}

impl Delivery {
    /// Every name.
    pub const NAMES: [&'static str; 4] = ["as_it_comes", "complete", "hold", "resume"];

    /// The name in config, headers, logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AsItComes => "as_it_comes",
            Self::Complete => "complete",
            Self::Hold(_) => "hold",
            Self::Resume => "resume",
        }
    }
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Delivery {
    type Err = UnknownDelivery;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "as_it_comes" => Ok(Self::AsItComes),
            "complete" => Ok(Self::Complete),
            "hold" => Ok(Self::Hold(Hold::default())),
            "resume" => Ok(Self::Resume),
            _ => Err(UnknownDelivery),
        }
    }
}

/// A name that is no delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such delivery: write as_it_comes, complete, hold or resume")]
pub struct UnknownDelivery;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_back_to_its_delivery() {
        for name in Delivery::NAMES {
            let delivery: Delivery = name.parse().unwrap();
            assert_eq!(delivery.to_string(), name);
        }
        assert_eq!("whole".parse::<Delivery>(), Err(UnknownDelivery));
    }
}
