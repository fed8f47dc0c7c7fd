//! What seawall promises, one file a situation.

mod reset_herd_quota;
mod token_settlement;
mod window_bound;
