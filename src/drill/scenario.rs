//! What a drill plays: the calls, the provider, its faults, and the bars that seawall must meet.
//!
//! The built-in scenarios are values of the same type that a TOML file fills, so a file can do
//! whatever they do.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::DrillError;
use super::load::{Arrival, Class, Load, Mix, Repeated, mix};
use super::score::Figure;
use crate::profile::Profile;
use crate::sim;

mod built_in;
mod ideal;
pub mod rungs;

pub use self::ideal::Ideal;
use self::rungs::{CacheTerms, StaticAnswer};

/// A scripted outage.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// What it is, for people.
    #[serde(default)]
    pub about: String,
    /// Who asks when.
    pub load: Load,
    /// What each call asks for.
    #[serde(default)]
    pub request: RequestShape,
    /// What may answer, the wanted model first: models, `cache` and `static`. The client under drill may
    /// fall back along it.
    #[serde(default = "Scenario::one_rung")]
    pub ladder: Vec<String>,
    /// How long the ladder's cache keeps answers; absent, as long as usual.
    #[serde(default)]
    pub cache: Option<CacheTerms>,
    /// The ladder's fixed answer, if it has one.
    #[serde(default, rename = "static")]
    pub fixed: Option<StaticAnswer>,
    /// Profile of the calls.
    #[serde(default = "Scenario::agent_step", deserialize_with = "mix::read")]
    pub profile: Profile,
    /// Time after which the caller of one call, or of one step of a run, stops waiting. The classes of
    /// a mix have their own.
    #[serde(with = "crate::duration")]
    pub deadline: Duration,
    /// The longest that a call of the client under drill waits for a breaker or a quota; absent, as long
    /// as its profile says.
    #[serde(default, with = "crate::duration::option")]
    pub wait: Option<Duration>,
    /// How many systems of the client share the calls, and nothing else: one provider sees them all.
    #[serde(default = "Scenario::one_system")]
    pub systems: u32,
    /// Whether it is played in real time over loopback HTTP, also where nobody asks for that.
    #[serde(default)]
    pub real: bool,
    /// Limits that the client is configured with; absent, it has to learn them.
    #[serde(default)]
    pub limits: Option<Limits>,
    /// The fault whose detection and recovery are measured.
    #[serde(default)]
    pub fault: Option<Window>,
    /// The simulated provider: latencies, quotas and faults. The drill's seed replaces its own.
    #[serde(default)]
    pub provider: sim::Settings,
    /// What seawall must show.
    #[serde(default)]
    pub bars: Vec<Bar>,
}

/// What each call of a scenario asks for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RequestShape {
    /// Size of the prompt in input tokens, about.
    pub input_tokens: u64,
    /// The request's `max_tokens`.
    pub max_tokens: u64,
    /// Whether the answer is asked for as a stream.
    pub stream: bool,
    /// What part of the calls asks what others ask too; absent, none does.
    pub repeated: Option<Repeated>,
}

impl Default for RequestShape {
    fn default() -> Self {
        Self {
            input_tokens: 200,
            max_tokens: 1_024,
            stream: false,
            repeated: None,
        }
    }
}

/// Limits that a client is configured with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Requests a minute.
    pub requests_per_minute: Option<u64>,
    /// Input tokens a minute.
    pub input_tokens_per_minute: Option<u64>,
    /// Output tokens a minute.
    pub output_tokens_per_minute: Option<u64>,
    /// How much may be sent at once, in time's worth of the rate.
    #[serde(with = "crate::duration")]
    pub burst: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_per_minute: None,
            input_tokens_per_minute: None,
            output_tokens_per_minute: None,
            burst: Duration::from_secs(1),
        }
    }
}

/// A stretch of a drill's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Its first moment, since the drill's start.
    #[serde(with = "crate::duration")]
    pub from: Duration,
    /// The first moment after it.
    #[serde(with = "crate::duration")]
    pub until: Duration,
}

impl Window {
    /// Whether a moment lies inside.
    #[must_use]
    pub fn contains(&self, at: Duration) -> bool {
        (self.from..self.until).contains(&at)
    }
}

/// What seawall must show in a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bar {
    /// Of which figure.
    pub figure: Figure,
    /// Where it has to stay.
    #[serde(flatten)]
    pub limit: Limit,
}

/// Where a figure has to stay.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(
    clippy::exhaustive_enums,
    reason = "a figure can be too low or too high, nothing else"
)]
pub enum Limit {
    /// Not below.
    AtLeast(f64),
    /// Not above.
    AtMost(f64),
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(value) => write!(f, "at least {value}"),
            Self::AtMost(value) => write!(f, "at most {value}"),
        }
    }
}

impl Bar {
    /// Whether a figure meets the bar; one that is not defined does not.
    #[must_use]
    pub fn met_by(&self, found: Option<f64>) -> bool {
        found.is_some_and(|found| match self.limit {
            Limit::AtLeast(least) => found >= least,
            Limit::AtMost(most) => found <= most,
        })
    }
}

/// Most calls that one scenario may make.
const MOST_CALLS: u64 = 1_000_000;

/// Most systems that one scenario may have.
const MOST_SYSTEMS: u32 = 16;

impl Scenario {
    /// The built-in scenarios of virtual time, in the order in which `seawall drill` plays them.
    #[must_use]
    pub fn built_in() -> Vec<Self> {
        let mut all = built_in::all();
        all.retain(|scenario| !scenario.real);
        all
    }

    /// The built-in scenario of this name, else the scenario file at this path.
    ///
    /// # Errors
    ///
    /// [`DrillError::Unknown`], [`DrillError::Read`], [`DrillError::Parse`] or
    /// [`DrillError::Invalid`].
    pub fn find(name: &str) -> Result<Self, DrillError> {
        let mut built_in = built_in::all();
        if let Some(place) = built_in.iter().position(|s| s.name == name) {
            return Ok(built_in.swap_remove(place));
        }
        let path = Path::new(name);
        if !path.exists() {
            let known = built_in.into_iter().map(|s| s.name).collect();
            return Err(DrillError::Unknown {
                name: name.to_owned(),
                known,
            });
        }
        let text = std::fs::read_to_string(path).map_err(|source| DrillError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// A scenario from the text of a TOML file; `path` is only named in errors.
    ///
    /// # Errors
    ///
    /// [`DrillError::Parse`] or [`DrillError::Invalid`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, DrillError> {
        let scenario: Self = toml::from_str(text).map_err(|error| DrillError::Parse {
            path: path.to_owned(),
            why: error.to_string().trim_end().to_owned(),
        })?;
        scenario.validate()?;
        Ok(scenario)
    }

    /// The model that the callers want.
    #[must_use]
    pub fn primary(&self) -> &str {
        self.models().next().map_or("", String::as_str)
    }

    /// The models of the ladder, the wanted one first.
    pub fn models(&self) -> impl Iterator<Item = &String> {
        self.ladder.iter().filter(|entry| rungs::is_model(entry))
    }

    /// What the provider could serve at best; none without a limit on the first model.
    #[must_use]
    pub fn ideal(&self) -> Option<Ideal> {
        Ideal::of(self)
    }

    /// Calls made if all goes well.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.load.calls(self.full_rate())
    }

    /// Every caller, by the time at which it starts.
    #[must_use]
    pub fn arrivals(&self, seed: u64) -> Vec<Arrival> {
        let mut arrivals = self.load.draw(seed, self.full_rate());
        if let Some(repeated) = self.request.repeated {
            repeated.draw(seed, &mut arrivals);
        }
        arrivals
    }

    /// The class of a caller, if the load has classes.
    #[must_use]
    pub fn class(&self, arrival: &Arrival) -> Option<&Class> {
        self.load.mix()?.classes.get(arrival.class?)
    }

    fn full_rate(&self) -> f64 {
        self.ideal().map_or(0.0, |ideal| ideal.calls_per_second)
    }

    /// Checks what the types leave open.
    ///
    /// # Errors
    ///
    /// [`DrillError::Invalid`] with the setting, its value and what would be accepted.
    pub fn validate(&self) -> Result<(), DrillError> {
        let invalid = |field, value: String, allowed| DrillError::Invalid {
            scenario: self.name.clone(),
            field,
            value,
            allowed,
        };
        let repeated = self.request.repeated;
        let wrong = self
            .wrong_ladder()
            .or_else(|| self.load.mix().and_then(Mix::wrong))
            .or_else(|| repeated.and_then(|repeated| repeated.wrong()));
        if let Some((field, value, allowed)) = wrong {
            return Err(invalid(field, value, allowed));
        }
        if repeated.is_some() && !matches!(self.load, Load::Open { .. }) {
            let value = "a load of runs or a mix".to_owned();
            return Err(invalid("request.repeated", value, "an open load"));
        }
        let day = Duration::from_secs(86_400);
        if self.deadline.is_zero() || self.deadline > day {
            let value = format!("{:?}", self.deadline);
            return Err(invalid("deadline", value, "above 0 and at most 24h"));
        }
        if self.load.lasting() > day {
            let value = format!("{:?}", self.load.lasting());
            return Err(invalid("load", value, "a day at most"));
        }
        if self.load.mix().is_some() && self.ideal().is_none() {
            let value = "a share of no quota".to_owned();
            return Err(invalid(
                "load",
                value,
                "a provider that limits the first model",
            ));
        }
        if !(1..=MOST_SYSTEMS).contains(&self.systems) {
            return Err(invalid("systems", self.systems.to_string(), "1 to 16"));
        }
        if !(1..=MOST_CALLS).contains(&self.calls()) {
            let value = format!("{} calls", self.calls());
            return Err(invalid("load", value, "1 to 1,000,000 calls"));
        }
        if let Some(window) = self.fault.filter(|window| window.from >= window.until) {
            return Err(invalid("fault", format!("{window:?}"), "from before until"));
        }
        Ok(())
    }

    const fn agent_step() -> Profile {
        Profile::AgentStep
    }

    fn one_rung() -> Vec<String> {
        vec![built_in::PRIMARY.to_owned()]
    }

    const fn one_system() -> u32 {
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        name = "monday"
        about = "What Monday looks like."
        ladder = ["claude-sonnet-5-5", "claude-haiku-5"]
        profile = "interactive"
        deadline = "30s"
        fault = { from = "10s", until = "20s" }
        limits = { requests_per_minute = 600 }

        [load]
        kind = "open"
        calls_per_second = 4
        lasting = "40s"

        [request]
        input_tokens = 800

        [provider]
        network = "5ms"
        faults = [{ kind = "529", from = "10s", until = "20s" }]

        [[bars]]
        figure = "success_rate"
        at_least = 0.99

        [[bars]]
        figure = "provider_429"
        at_most = 5
    "#;

    fn refusal(text: &str) -> String {
        Scenario::parse(text, Path::new("monday.toml"))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_file_says_what_a_built_in_scenario_says() {
        let monday = Scenario::parse(FILE, Path::new("monday.toml")).unwrap();
        assert_eq!(monday.primary(), "claude-sonnet-5-5");
        assert_eq!(monday.profile, Profile::Interactive);
        assert_eq!(monday.calls(), 160);
        assert_eq!(monday.request.max_tokens, 1_024);
        assert_eq!(monday.limits.unwrap().burst, Duration::from_secs(1));
        assert_eq!(monday.provider.faults.len(), 1);
        let limits: Vec<_> = monday
            .bars
            .iter()
            .map(|bar| (bar.figure, bar.limit))
            .collect();
        assert_eq!(
            limits,
            [
                (Figure::SuccessRate, Limit::AtLeast(0.99)),
                (Figure::Provider429, Limit::AtMost(5.0)),
            ]
        );
    }

    #[test]
    fn a_wrong_file_is_told_where_and_what() {
        let typo = refusal(&FILE.replace("deadline", "dedline"));
        assert!(
            typo.contains("monday.toml") && typo.contains("dedline"),
            "{typo}"
        );
        let backwards = refusal(&FILE.replace(
            "until = \"20s\" }\n        limits",
            "until = \"5s\" }\n        limits",
        ));
        assert!(backwards.contains("from before until"), "{backwards}");
        let many = refusal(&FILE.replace("calls_per_second = 4", "calls_per_second = 1e9"));
        assert!(many.contains("1 to 1,000,000 calls"), "{many}");
        let none = refusal(&FILE.replace("calls_per_second = 4", "calls_per_second = nan"));
        assert!(none.contains("1 to 1,000,000 calls"), "{none}");
        let mix = FILE.replace(
            "kind = \"open\"\n        calls_per_second = 4\n        lasting = \"40s\"",
            "kind = \"mix\"\n        stages = [{ of_quota = 1.2, lasting = \"40s\" }]\n        \
             classes = [{ profile = \"batch\", share = 1, deadline = \"60s\" }]",
        );
        let unlimited = refusal(&mix.replace("network =", "quotas = []\n        network ="));
        assert!(unlimited.contains("limits the first model"), "{unlimited}");
        let alone = refusal(&FILE.replace("about =", "systems = 0\n        about ="));
        assert!(alone.contains("1 to 16"), "{alone}");
        assert!(Scenario::find("nothing-like-it").unwrap_err().is_usage());
    }

    #[test]
    fn a_ladder_may_end_in_the_cache_and_a_fixed_answer() {
        let ladder = FILE.replace(
            "\"claude-haiku-5\"]",
            "\"claude-haiku-5\", \"cache\", \"static\"]
             static = { text = \"Away {retry_after}.\" }
             cache = { ttl = \"5s\", stale_if_error = \"1h\" }
             wait = \"2s\"",
        );
        let repeating = ladder.replace(
            "input_tokens = 800",
            "repeated = { share = 0.5, questions = 4 }",
        );
        let monday = Scenario::parse(&repeating, Path::new("monday.toml")).unwrap();
        let models: Vec<_> = monday.models().collect();
        assert_eq!(models, ["claude-sonnet-5-5", "claude-haiku-5"]);
        assert_eq!(monday.wait, Some(Duration::from_secs(2)));
        let asked = monday.arrivals(1).into_iter().filter_map(|a| a.question);
        assert!(asked.clone().count() > 40 && asked.max() == Some(3));

        let silent = refusal(&ladder.replace("static = {", "# static = {"));
        assert!(silent.contains("or neither"), "{silent}");
        let empty = refusal(&ladder.replace("\"claude-sonnet-5-5\", \"claude-haiku-5\", ", ""));
        assert!(empty.contains("at least one model"), "{empty}");
        let useless = refusal(&ladder.replace("\"cache\", ", ""));
        assert!(useless.contains("only with"), "{useless}");
        for (from, to, why) in [
            ("share = 0.5", "share = 1.5", "0 to 1"),
            ("share = 0.5", "share = nan", "0 to 1"),
            ("questions = 4", "questions = 0", "1 or more"),
        ] {
            let found = refusal(&repeating.replace(from, to));
            assert!(found.contains(why), "{found}");
        }
        let runs = refusal(&repeating.replace(
            "kind = \"open\"\n        calls_per_second = 4\n        lasting = \"40s\"",
            "kind = \"runs\"\n        runs = 4\n        steps = 2\n        start_over = \"1s\"",
        ));
        assert!(runs.contains("an open load"), "{runs}");
    }

    #[test]
    fn a_figure_that_is_not_defined_misses_its_bar() {
        let bar = Bar {
            figure: Figure::RecoverMs,
            limit: Limit::AtMost(6_000.0),
        };
        assert!(bar.met_by(Some(6_000.0)));
        assert!(!bar.met_by(Some(6_001.0)) && !bar.met_by(None));
    }
}
