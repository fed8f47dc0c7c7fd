//! seawall keeps a service alive when the model provider behind it is slow, limited, flaky or down.
pub mod duration;
pub mod sim;
pub mod transport;
