//! seawall keeps a service alive when the model provider behind it is slow, limited, flaky or down.
pub mod config;
pub mod duration;
pub mod estimate;
pub mod prices;
pub mod profile;
pub mod transport;
