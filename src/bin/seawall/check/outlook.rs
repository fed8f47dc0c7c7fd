//! What becomes of a call that meets a fault, in words.

use std::time::Duration;

use seawall::config::{Config, Place, Route};
use seawall_actors::policy::ladder::Cause;

use super::faults::{FAULTS, Fault, Happens};
use super::rehearsal::{Course, End, Scene, play};
use super::words::show;

/// What becomes of a call that meets one fault.
#[derive(Debug)]
pub(super) struct Outlook {
    pub(super) fault: Fault,
    pub(super) streamed: Foretold,
    pub(super) whole: Foretold,
}

/// The same for one form of the answer.
#[derive(Debug)]
pub(super) struct Foretold {
    /// The first target has the fault, the others are well.
    pub(super) first_fails: Course,
    /// Every target has it; absent where nothing is left to tell.
    pub(super) all_fail: Option<Course>,
    /// The same with an answer in the cache; absent where there is no cache to come to.
    pub(super) with_kept: Option<Course>,
    pub(super) words: String,
}

/// Foretells what becomes of a route's calls.
///
/// # Errors
///
/// Why the client can't be started with the config.
pub(super) fn outlook(config: &Config, route: &Route) -> Result<Vec<Outlook>, String> {
    let foretold = |fault: Fault| {
        Ok(Outlook {
            fault,
            streamed: foretell(config, route, fault, true)?,
            whole: foretell(config, route, fault, false)?,
        })
    };
    FAULTS.into_iter().map(foretold).collect()
}

/// Foretells what becomes of a call that meets one fault.
pub(super) fn foretell(
    config: &Config,
    route: &Route,
    fault: Fault,
    streamed: bool,
) -> Result<Foretold, String> {
    let scene = |everywhere, kept| {
        let scene = Scene {
            fault,
            streamed,
            everywhere,
            kept,
        };
        play(config, route, scene)
    };
    let first_fails = scene(false, false)?;
    let several = route.ladder.iter().filter_map(|rung| rung.place.target());
    let all_fail = match several.count() {
        0 | 1 => None,
        _ => Some(scene(true, false)?),
    };
    let behind = route.ladder.iter().skip(1);
    let with_kept = match behind.filter(|rung| rung.place == Place::Cache).count() {
        0 => None,
        _ => Some(scene(true, true)?),
    };
    let told = Told { config, route };
    let words = told.words(fault, &first_fails, all_fail.as_ref(), with_kept.as_ref());
    Ok(Foretold {
        first_fails,
        all_fail,
        with_kept,
        words,
    })
}

struct Told<'t> {
    config: &'t Config,
    route: &'t Route,
}

impl Told<'_> {
    fn words(
        &self,
        fault: Fault,
        first_fails: &Course,
        all_fail: Option<&Course>,
        with_kept: Option<&Course>,
    ) -> String {
        let mut words = self.course(first_fails);
        if let Some(proviso) = self.proviso(fault, &first_fails.end) {
            words = format!("{words} ({proviso})");
        }
        if matches!(first_fails.end, End::Failed(_) | End::Refused)
            && let Some(why) = self.why(fault)
        {
            words = format!("{words} ({why})");
        }
        let worst = all_fail.unwrap_or(first_fails);
        if all_fail
            .is_some_and(|all| all.attempts != first_fails.attempts || all.end != first_fails.end)
        {
            words = format!("{words}; if every target fails so: {}", self.course(worst));
        }
        let from_cache = with_kept.is_some_and(|kept| is_cache(&kept.end));
        if from_cache && !is_cache(&worst.end) {
            words = format!("{words}; if the cache has an answer, that one instead");
        }
        words
    }

    /// One call, from its first attempt to its end.
    fn course(&self, course: &Course) -> String {
        let mut steps = Vec::new();
        let answered = match &course.end {
            End::Answered(by) => Some(by.as_str()),
            _ => None,
        };
        for (index, (name, times)) in course.attempts.iter().enumerate() {
            let is_last = index + 1 == course.attempts.len();
            // The attempt that succeeds is told as the answer.
            let succeeds = u32::from(is_last && answered == Some(name.as_str()));
            match (index, times - succeeds) {
                (_, 0) => {}
                (0, 1) if self.is_first(name) => {}
                (0, 2) if self.is_first(name) => steps.push("retried here once".to_owned()),
                (0, failed) if self.is_first(name) => {
                    steps.push(format!("retried here {} times", failed - 1));
                }
                (_, 1) => steps.push(format!("1 attempt at {}", self.rung(name))),
                (_, failed) => steps.push(format!("{failed} attempts at {}", self.rung(name))),
            }
        }
        let late = course.took.as_secs() >= 1;
        let at_once = steps.is_empty() && !late;
        let end = match &course.end {
            End::Answered(by) if self.is_first(by) => "it answers".to_owned(),
            End::Answered(by) => self.rung(by),
            End::Refused => "the refusal is handed on".to_owned(),
            End::Failed(kind) => format!("fails with {kind}"),
            End::BrokeOff => "breaks off with an error event".to_owned(),
        };
        steps.push(end);
        let when = match (late, at_once) {
            (true, _) => format!(
                " after about {}",
                show(Duration::from_secs_f64(course.took.as_secs_f64().round()))
            ),
            (false, true) => " at once".to_owned(),
            (false, false) => String::new(),
        };
        format!("{}{when}", steps.join(", then "))
    }

    fn is_first(&self, name: &str) -> bool {
        let first = self
            .route
            .ladder
            .iter()
            .find_map(|rung| rung.place.target());
        first == Some(name)
    }

    fn rung(&self, name: &str) -> String {
        // A cache before the first target is asked in front of all this.
        let at = self
            .route
            .ladder
            .iter()
            .rposition(|rung| rung.to_string() == name);
        at.map_or_else(|| name.to_owned(), |at| format!("rung {} {name}", at + 1))
    }

    /// What an answer depends on that the configuration does not say.
    fn proviso(&self, fault: Fault, end: &End) -> Option<&'static str> {
        let End::Answered(by) = end else { return None };
        let ladder = self.route.ladder.iter();
        let first = ladder.filter_map(|rung| rung.place.target()).next()?;
        let first = self.config.targets.get(first)?;
        let is_unknown = first.model.is_none() && first.context_tokens.is_none();
        let falls = fault.word == "prompt_too_long" && !self.is_first(by);
        (falls && is_unknown).then_some("if it takes more than the caller's model")
    }

    /// Why nobody else answers, where that is the ladder's doing.
    fn why(&self, fault: Fault) -> Option<String> {
        let (cause, word) = match (fault.happens, fault.word) {
            (_, "invalid_request") => return Some("nobody would answer it otherwise".into()),
            (_, "prompt_too_long") => (Cause::TooLarge, "context_too_long"),
            (Happens::Error(401, ..) | Happens::SpendCap, _) => (Cause::Credential, "credential"),
            (Happens::Error(404, ..), _) => (Cause::NotFound, "not_found"),
            (Happens::Refusal, _) => (Cause::Refused, "refused"),
            (Happens::Limited { .. } | Happens::QuotaUsedUp, _) => (Cause::Quota, "quota"),
            (Happens::BreakerOpen, _) => (Cause::BreakerOpen, "breaker_open"),
            _ => return None,
        };
        let ladder = &self.route.ladder;
        if ladder.iter().all(|rung| !rung.on.contains(cause)) {
            return (ladder.len() > 1).then(|| format!("`{word}` leads to no rung"));
        }
        let mut targets = ladder
            .iter()
            .filter_map(|rung| self.config.targets.get(rung.place.target()?));
        let first = targets.next()?;
        match cause {
            Cause::Credential => targets
                .all(|other| other.shares_credential_with(first))
                .then(|| "no rung has another credential".to_owned()),
            Cause::TooLarge => Some("no rung is known to take more".to_owned()),
            _ => None,
        }
    }
}

fn is_cache(end: &End) -> bool {
    matches!(end, End::Answered(by) if *by == Place::Cache.to_string())
}
