//! The rules that open a closed circuit, in the order in which they are named.

use super::CircuitSettings;
use crate::policy::rolling_window::Totals;

/// Names the rule that opens, if one does: `in_a_row` failures, or a share of either window.
pub(super) fn tripped_by(
    settings: &CircuitSettings,
    in_a_row: u32,
    recent: Totals,
    timed: Totals,
) -> Option<&'static str> {
    let enough = |totals: Totals| totals.calls >= settings.min_calls;
    let failed = |totals: Totals, percent: Option<u32>| {
        enough(totals) && percent.is_some_and(|percent| totals.failed_at_least(percent))
    };
    let slow = |percent| timed.slow_at_least(percent);
    if settings
        .consecutive_failures
        .is_some_and(|run| in_a_row >= run)
    {
        Some("consecutive failures")
    } else if failed(recent, settings.count_failed_percent) {
        Some("failure rate of the last attempts")
    } else if failed(timed, settings.time_failed_percent) {
        Some("failure rate over time")
    } else if enough(timed) && settings.slow_percent.is_some_and(slow) {
        Some("slow attempts")
    } else {
        None
    }
}
