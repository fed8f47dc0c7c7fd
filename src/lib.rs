//! seawall keeps a service alive when the model provider behind it is slow, limited, flaky or down.

pub mod client;
pub mod error;

pub mod config;
pub mod profile;

pub mod estimate;
pub mod prices;
pub mod provider;
mod telemetry;
pub mod transport;
pub mod verdict;

pub mod sim;

#[cfg(feature = "gateway")]
pub mod drill;

pub mod duration;
