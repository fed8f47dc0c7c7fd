//! The product, situation by situation.

mod breaker_detection;
