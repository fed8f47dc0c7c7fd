//! What a call is for decides how long it may take: the four profiles and their defaults.
//!
//! The timeouts follow one another: `connect` until there is a connection, `headers` from there to
//! the answer's status line, `first_content` from there to the first content, `stall` between two
//! pieces of the answer and `events` between two that are no pings. `total` spans the whole call:
//! every attempt and every wait.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::delivery::Delivery;
pub use seawall_actors::policy::wait_queue::Priority;

/// What a call is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Profile {
    /// Anybody's call through a transparent gateway: patient, as the official SDKs are.
    #[default]
    Standard,
    /// A person waits for the first word.
    Interactive,
    /// One step of an agent: must come whole, soon enough for the next step.
    AgentStep,
    /// Nobody waits: patient, and behind everybody else.
    Batch,
}

impl Profile {
    /// Every profile.
    pub const ALL: [Self; 4] = [
        Self::Standard,
        Self::Interactive,
        Self::AgentStep,
        Self::Batch,
    ];

    /// Returns the profile's name in config, logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Interactive => "interactive",
            Self::AgentStep => "agent_step",
            Self::Batch => "batch",
        }
    }

    /// Returns the timeouts of calls that set none.
    #[must_use]
    pub const fn timeouts(self) -> Timeouts {
        let (headers, first_content, stall, events, total) = match self {
            // 600 s is the total of the official SDKs; 300 s is the event watchdog of coding agents.
            Self::Standard => (60, 60, 60, 300, 600),
            Self::Interactive => (8, 8, 8, 30, 30),
            Self::AgentStep => (20, 8, 8, 40, 75),
            Self::Batch => (120, 120, 120, 600, 1_800),
        };
        Timeouts {
            // The official SDKs' connect timeout.
            connect: Duration::from_secs(5),
            headers: Duration::from_secs(headers),
            first_content: Duration::from_secs(first_content),
            stall: Duration::from_secs(stall),
            events: Duration::from_secs(events),
            total: Duration::from_secs(total),
            learn_first_content: false,
            generation: LONGEST_GENERATION,
        }
    }

    /// Returns how answers of streamed calls reach their caller where nothing else is said: an
    /// agent's step is of no use in part, and everybody else wants the first word early.
    #[must_use]
    pub const fn delivery(self) -> Delivery {
        match self {
            Self::AgentStep => Delivery::Complete,
            Self::Standard | Self::Interactive | Self::Batch => Delivery::AsItComes,
        }
    }

    /// Returns the longest wait for a breaker or a quota before the call moves on; the call's
    /// deadline still ends it earlier.
    ///
    /// A transparent gateway hands the provider's own error on after a minute; where the user has
    /// said what the call is for, only the deadline counts.
    #[must_use]
    pub const fn wait_limit(self, total: Duration) -> Duration {
        const STANDARD: Duration = Duration::from_secs(60);
        match self {
            Self::Standard if total.as_nanos() > STANDARD.as_nanos() => STANDARD,
            Self::Standard | Self::Interactive | Self::AgentStep | Self::Batch => total,
        }
    }

    /// Returns how urgent a call of this profile is in a queue: `interactive` before `standard` and
    /// `agent_step`, which nobody can tell from an agent's own calls, before `batch`.
    #[must_use]
    pub const fn priority(self) -> Priority {
        match self {
            Self::Interactive => Priority::High,
            Self::Standard | Self::AgentStep => Priority::Normal,
            Self::Batch => Priority::Low,
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|profile| profile.as_str() == name)
            .ok_or(UnknownProfile)
    }
}

/// A name that is no profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such profile: write standard, interactive, agent_step or batch")]
pub struct UnknownProfile;

/// The time limits of a call. Every one is finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// Until a connection is there, TLS included.
    pub connect: Duration,
    /// From there to the status line. A call that is not streamed has none: its headers come with
    /// the answer.
    pub headers: Duration,
    /// From there to the first content of a streamed answer.
    pub first_content: Duration,
    /// Between two pieces of a streamed answer, pings included.
    pub stall: Duration,
    /// Between two events that say something, pings left out: a provider can ping for ever.
    pub events: Duration,
    /// The whole call, from its acceptance: every attempt and every wait, up to the answer's release.
    pub total: Duration,
    /// Whether `first_content` is only an upper bound, and what the target usually takes decides.
    pub learn_first_content: bool,
    /// From the call's acceptance to the end of an answer that is handed on as it comes. As long as
    /// `total` where that is configured; no default cuts a generation that goes on healthily.
    pub generation: Duration,
}

/// 128,000 output tokens, the most that a model writes, at 36 a second, the pace of the slower ones.
const LONGEST_GENERATION: Duration = Duration::from_secs(3_600);

impl Timeouts {
    /// Returns the longest time that one attempt can take to its first content.
    #[must_use]
    pub const fn longest_silence(self) -> Duration {
        let silent = self
            .connect
            .saturating_add(self.headers)
            .saturating_add(self.first_content);
        if silent.as_nanos() < self.total.as_nanos() {
            silent
        } else {
            self.total
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_back_to_its_profile() {
        for profile in Profile::ALL {
            assert_eq!(profile.as_str().parse(), Ok(profile));
        }
        assert_eq!("Batch".parse::<Profile>(), Err(UnknownProfile));
    }

    #[test]
    fn no_default_outlasts_its_deadline_and_batch_is_finite() {
        for profile in Profile::ALL {
            let t = profile.timeouts();
            for limit in [t.connect, t.headers, t.first_content, t.stall, t.events] {
                assert!(limit <= t.total && !limit.is_zero(), "{profile}: {t:?}");
            }
            assert!(t.stall <= t.events);
            assert!(t.total <= Duration::from_secs(3_600));
        }
        assert!(Profile::Batch.timeouts().total >= Duration::from_secs(600));
    }

    #[test]
    fn only_a_transparent_call_gives_up_waiting_before_its_deadline() {
        let (minute, ten) = (Duration::from_secs(60), Duration::from_secs(600));
        assert_eq!(Profile::Standard.wait_limit(ten), minute);
        assert_eq!(
            Profile::Standard.wait_limit(Duration::from_secs(5)),
            Duration::from_secs(5)
        );
        assert_eq!(Profile::Batch.wait_limit(ten), ten);
    }

    #[test]
    fn a_person_goes_first_and_batch_last() {
        assert!(Profile::Interactive.priority() < Profile::AgentStep.priority());
        assert!(Profile::AgentStep.priority() < Profile::Batch.priority());
    }
}
