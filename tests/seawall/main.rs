//! What seawall promises, in situations; one binary, so that it links once.

// `cfg(test)` is always true here. It tells clippy that these modules are tests throughout, so that
// their helpers may unwrap as their test functions may.
#[cfg(test)]
mod adaptive_concurrency;
#[cfg(test)]
mod architecture;
#[cfg(test)]
mod breaker_detection;
#[cfg(test)]
mod cache_recordings;
#[cfg(test)]
mod churning_keys;
#[cfg(test)]
mod claude_code;
#[cfg(test)]
mod client_limits;
#[cfg(test)]
mod drain;
#[cfg(test)]
mod drill_real;
#[cfg(test)]
mod estimates;
#[cfg(test)]
mod fallen_answers;
#[cfg(test)]
mod false_answers;
#[cfg(test)]
mod gateway;
#[cfg(test)]
mod gateway_abuse;
#[cfg(test)]
mod gateway_ladder;
#[cfg(test)]
mod gateway_recordings;
#[cfg(test)]
mod headers_timeout;
#[cfg(test)]
mod jitter;
#[cfg(test)]
mod ladder_table;
#[cfg(test)]
mod leaving;
#[cfg(test)]
mod metastability;
#[cfg(test)]
mod metric_series;
#[cfg(test)]
mod organization_limits;
#[cfg(test)]
mod own_headers;
#[cfg(test)]
mod process;
#[cfg(test)]
mod proxies;
#[cfg(test)]
mod readiness;
#[cfg(test)]
mod recordings_offline;
#[cfg(test)]
mod reset_herd;
#[cfg(test)]
mod reset_herd_quota;
#[cfg(test)]
mod retry_budgets;
#[cfg(test)]
mod rotated_key;
#[cfg(test)]
mod served;
#[cfg(test)]
mod sim_faults;
#[cfg(test)]
mod sixteen_faults;
#[cfg(test)]
mod spend_cap;
#[cfg(test)]
mod stacked_retries;
#[cfg(test)]
mod staggered_runs;
#[cfg(test)]
mod stale_connections;
#[cfg(test)]
mod steps;
#[cfg(test)]
mod stopped_quotas;
#[cfg(test)]
mod stream_faults;
#[cfg(test)]
mod stream_soak;
#[cfg(test)]
mod tenants;
#[cfg(test)]
mod throttling;
#[cfg(test)]
mod token_counts;
#[cfg(test)]
mod token_settlement;
#[cfg(test)]
mod traps;
#[cfg(test)]
mod two_processes;
#[cfg(test)]
mod window_bound;
