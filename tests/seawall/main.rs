//! What seawall promises, in situations; one binary, so that it links once.

// `cfg(test)` is always true here. It tells clippy that these modules are tests throughout, so that
// their helpers may unwrap as their test functions may.
#[cfg(test)]
mod jitter;
#[cfg(test)]
mod metastability;
#[cfg(test)]
mod reset_herd;
#[cfg(test)]
mod retry_budgets;
#[cfg(test)]
mod throttling;
//! The product, situation by situation.

mod breaker_detection;
//! What seawall promises, one file a situation.

mod reset_herd_quota;
mod token_settlement;
mod window_bound;
//! Situations, one binary.

mod recordings_offline;
