//! Hostile bytes against everything that reads bytes, with checks of what must hold for any input.
//!
//! An input is a string of bytes: the choices that build a case, so that any engine can drive it and
//! shrink it. `cargo test` runs a few of each. More of them:
//! `BOLERO_RANDOM_ITERATIONS=1000000 cargo test --profile fuzz --test fuzz -- --nocapture`;
//! by time: `BOLERO_RANDOM_TEST_TIME_MS=60000` next to a number of iterations that is out of reach.
//! A failure prints the shrunken input and its `BOLERO_RANDOM_SEED`.

// `cfg(test)` is always true here. It tells clippy that these modules are tests throughout, so that
// their helpers may unwrap as their test functions may.
#[cfg(test)]
mod bodies;
#[cfg(test)]
mod cache;
#[cfg(test)]
mod client;
#[cfg(test)]
mod config;
#[cfg(test)]
mod events;
#[cfg(test)]
mod gateway;
#[cfg(test)]
mod headers;
#[cfg(test)]
#[path = "../seawall/process.rs"]
#[expect(
    dead_code,
    reason = "made for the situations, of which some are of use here"
)]
mod process;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod source;
#[cfg(test)]
mod splice;
#[cfg(test)]
mod sse;
#[cfg(test)]
mod watch;
