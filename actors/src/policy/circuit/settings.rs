//! What one circuit may be told, and the check of it.

use std::time::Duration;

use crate::policy::InvalidPolicy;

const DAY: Duration = Duration::from_hours(24);

/// When a circuit opens, how it probes, and how it lets traffic back.
///
/// A rule that is `None` is off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CircuitSettings {
    /// Failures in a row that open a closed circuit, 1 to 10 000. A run says little when one call in
    /// five fails by nature: the windows are for that.
    pub consecutive_failures: Option<u32>,
    /// Attempts in the count window, 1 to 100 000.
    pub count_window: usize,
    /// Share of failures in the count window that opens, in percent.
    pub count_failed_percent: Option<u32>,
    /// Span of the time window, 1 ms to 24 h.
    pub time_window: Duration,
    /// Steps in which the time window forgets, 2 to 1 000.
    pub time_buckets: u32,
    /// Share of failures in the time window that opens, in percent.
    pub time_failed_percent: Option<u32>,
    /// Share of slow attempts in the time window that opens, in percent.
    pub slow_percent: Option<u32>,
    /// Attempts that a window must hold before its share counts, at least 1.
    pub min_calls: u64,
    /// An attempt is slow past this many medians of the successes' latency, 1 to 1 000. Twice the
    /// median gives false alarms under a heavy tail, three times none.
    pub slow_multiple: u32,
    /// Successes needed before their median is believed, 1 to 256.
    pub slow_min_samples: usize,
    /// Slow until enough successes are known.
    pub slow_default: Duration,
    /// Nothing faster is ever slow: one lost SYN costs a connection 1 s (RFC 6298 §2.1), and that
    /// is no hang, however fast the target usually is.
    pub slow_floor: Duration,
    /// First interval between opening and the probe, 1 ms to 24 h.
    pub open_first: Duration,
    /// Growth of the interval with each failed probe, 1 to 10.
    pub open_growth: f64,
    /// Longest interval while calls wait for this target.
    pub open_cap_waiting: Duration,
    /// Longest interval while nobody waits or another target serves.
    pub open_cap_idle: Duration,
    /// Calls that are left to another target, where one can serve them, for each that is a probe, up
    /// to 10 000. At three, a minute's outage costs three probes of one call in four seconds.
    pub spared_calls: u32,
    /// Calls are spared for this long since the opening or the last probe at most, up to 24 h.
    pub spare_at_most: Duration,
    /// Largest share taken off an interval by chance, 0 to 0.9, so that a fleet doesn't probe in
    /// step.
    pub open_jitter: f64,
    /// Longest time that a server's hint can hold the circuit open.
    pub hint_cap: Duration,
    /// Probes in a row that must succeed to close, 1 to 1 000.
    pub probe_successes: u32,
    /// Lease of a probe: past it, the probe counts as failed and its slot is free again.
    pub probe_max_wait: Duration,
    /// Attempts in flight that the ramp allows right after closing, at least 1.
    pub ramp_start: u32,
    /// The ramp ends when it would allow more than this many in flight.
    pub ramp_end: u32,
    /// The ramp ends when it has held nobody back for this long.
    pub ramp_quiet: Duration,
    /// Failures in a row that reopen before the ramp has seen `ramp_start` successes, at least 1.
    pub ramp_failures: u32,
}

impl Default for CircuitSettings {
    fn default() -> Self {
        Self {
            consecutive_failures: Some(5),
            count_window: 20,
            count_failed_percent: Some(50),
            time_window: Duration::from_secs(30),
            time_buckets: 10,
            time_failed_percent: Some(50),
            slow_percent: Some(80),
            min_calls: 10,
            slow_multiple: 3,
            slow_min_samples: 100,
            slow_default: Duration::from_secs(30),
            slow_floor: Duration::from_secs(1),
            open_first: Duration::from_secs(1),
            open_growth: 1.5,
            open_cap_waiting: Duration::from_secs(3),
            open_cap_idle: Duration::from_secs(60),
            spared_calls: 3,
            spare_at_most: Duration::from_secs(30),
            open_jitter: 0.2,
            hint_cap: Duration::from_secs(300),
            probe_successes: 2,
            probe_max_wait: Duration::from_secs(60),
            ramp_start: 10,
            ramp_end: 1_000,
            ramp_quiet: Duration::from_secs(2),
            ramp_failures: 2,
        }
    }
}

impl CircuitSettings {
    /// Checks everything that the windows don't check themselves.
    pub(super) fn validate(&self) -> Result<(), InvalidPolicy> {
        let run = self.consecutive_failures.unwrap_or(1);
        in_range(
            "breaker.consecutive_failures",
            run,
            (1, 10_000),
            "1 to 10000, or off",
        )?;
        for (field, percent) in [
            ("breaker.count_failed_percent", self.count_failed_percent),
            ("breaker.time_failed_percent", self.time_failed_percent),
            ("breaker.slow_percent", self.slow_percent),
        ] {
            in_range(field, percent.unwrap_or(1), (1, 100), "1 to 100, or off")?;
        }
        in_range(
            "breaker.min_calls",
            self.min_calls,
            (1, 100_000),
            "1 to 100000 attempts",
        )?;
        if self.count_failed_percent.is_some() && self.min_calls > self.count_window as u64 {
            let allowed = "at most breaker.count_window, which would never hold enough";
            return Err(InvalidPolicy::new(
                "breaker.min_calls",
                self.min_calls,
                allowed,
            ));
        }
        self.validate_counts()?;
        self.validate_times()?;
        in_range(
            "breaker.open_growth",
            self.open_growth,
            (1.0, 10.0),
            "1 to 10",
        )?;
        in_range(
            "breaker.open_jitter",
            self.open_jitter,
            (0.0, 0.9),
            "0 to 0.9",
        )
    }

    fn validate_counts(&self) -> Result<(), InvalidPolicy> {
        for (field, value, range, allowed) in [
            (
                "breaker.slow_multiple",
                self.slow_multiple,
                (1, 1_000),
                "1 to 1000",
            ),
            (
                "breaker.spared_calls",
                self.spared_calls,
                (0, 10_000),
                "0 to 10000",
            ),
            (
                "breaker.probe_successes",
                self.probe_successes,
                (1, 1_000),
                "1 to 1000",
            ),
            (
                "breaker.ramp_start",
                self.ramp_start,
                (1, u32::MAX),
                "at least 1",
            ),
            (
                "breaker.ramp_failures",
                self.ramp_failures,
                (1, 10_000),
                "1 to 10000",
            ),
        ] {
            in_range(field, value, range, allowed)?;
        }
        in_range(
            "breaker.slow_min_samples",
            self.slow_min_samples,
            (1, 256),
            "1 to 256",
        )
    }

    fn validate_times(&self) -> Result<(), InvalidPolicy> {
        for (field, time) in [
            ("breaker.slow_default", self.slow_default),
            ("breaker.open_first", self.open_first),
            ("breaker.open_cap_waiting", self.open_cap_waiting),
            ("breaker.open_cap_idle", self.open_cap_idle),
            ("breaker.probe_max_wait", self.probe_max_wait),
        ] {
            span(field, time, Duration::from_millis(1), "1 ms to 24 h")?;
        }
        for (field, time) in [
            ("breaker.slow_floor", self.slow_floor),
            ("breaker.spare_at_most", self.spare_at_most),
            ("breaker.hint_cap", self.hint_cap),
            ("breaker.ramp_quiet", self.ramp_quiet),
        ] {
            span(field, time, Duration::ZERO, "0 to 24 h")?;
        }
        Ok(())
    }
}

fn in_range<T: PartialOrd + std::fmt::Display>(
    field: &'static str,
    value: T,
    (least, most): (T, T),
    allowed: &'static str,
) -> Result<(), InvalidPolicy> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(InvalidPolicy::new(field, value, allowed))
}

fn span(
    field: &'static str,
    value: Duration,
    least: Duration,
    allowed: &'static str,
) -> Result<(), InvalidPolicy> {
    if (least..=DAY).contains(&value) {
        return Ok(());
    }
    Err(InvalidPolicy::new(field, format!("{value:?}"), allowed))
}
