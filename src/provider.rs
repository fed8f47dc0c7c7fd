//! What a provider's bytes mean: requests, answers, streams, limits. No I/O, no clock.

pub mod anthropic;
