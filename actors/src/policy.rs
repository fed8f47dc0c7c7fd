//! The decisions, as plain structs.
//!
//! The law of this folder: no await, no spawn, no log, no clock, no chance of its own. Every method
//! takes `now`, and every draw takes the generator, so a whole outage replays in milliseconds and
//! the same seed gives the same answers. Each policy has one constructor that validates, and after
//! it nothing downstream checks again.

use std::fmt::Display;

pub mod backoff;
pub mod circuit;
pub mod concurrency;
pub mod hedge;
pub mod ladder;
pub mod overtaking;
pub mod pace;
pub mod quota;
pub mod restart;
pub mod retry;
pub mod retry_budget;
pub mod rolling_window;
pub mod stagger;
pub mod token_bucket;
pub mod wait_queue;

/// A setting that a policy refuses: which one, what it was, and what it may be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} = {value} is out of range: {allowed}")]
pub struct InvalidPolicy {
    /// The setting, as written in configuration, such as `retry.attempts`.
    pub field: &'static str,
    /// The value that was given.
    pub value: String,
    /// What would be accepted, in words.
    pub allowed: &'static str,
}

impl InvalidPolicy {
    /// Names a refused setting.
    pub fn new(field: &'static str, value: impl Display, allowed: &'static str) -> Self {
        Self {
            field,
            value: value.to_string(),
            allowed,
        }
    }
}
