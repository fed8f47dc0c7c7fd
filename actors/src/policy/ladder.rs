//! Which rung a call stands on, what leads from it to another, and how many attempts are left.
//!
//! Every rung says which causes lead to it; the others pass it by. A cause that another rung would
//! only meet again leads nowhere: a request that was too large goes to a rung with more room, one
//! whose credential was refused to a rung with another.
//!
//! A call's attempts are shared by its rungs: a rung may use all but those of the rungs below that are
//! there for a call whose attempts were in vain, so that the last of them always gets its turn. A probe that failed is the breaker's attempt and not
//! the call's; otherwise the call at the head of a queue would spend all of its attempts on finding
//! out that the target is still down.

use super::InvalidPolicy;

mod cause;

pub use cause::{Cause, Causes};

/// What one rung is, to the ladder.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Rules {
    /// What answers there.
    pub kind: Kind,
    /// The causes that lead to it. The first rung needs none.
    pub led_to_by: Causes,
    /// Attempts that a call makes on it at most, 1 to 100; none: as many as are left.
    pub attempts: Option<u32>,
    /// Part of the call's time that it may use each time it is stood on, above 0 and up to 1; none:
    /// all that is left.
    pub share: Option<f64>,
    /// The largest request that it takes, in a unit that all rungs of the ladder share; none where
    /// that is not known.
    pub room: Option<u64>,
    /// Tells the credentials of rungs apart.
    pub credential: u64,
    /// Why this call is not for it, as a stable word: the ladder passes it by.
    pub unfit: Option<&'static str>,
}

impl Rules {
    /// A target that any cause leads to but a passing overload and a refusal.
    pub const TARGET: Self = Self {
        kind: Kind::Target,
        led_to_by: Causes::TARGET,
        attempts: None,
        share: None,
        room: None,
        credential: 0,
        unfit: None,
    };

    const fn is_fit_target(&self) -> bool {
        matches!(self.kind, Kind::Target) && self.unfit.is_none()
    }

    /// Whether it is there for a call whose attempts above were in vain.
    #[must_use]
    pub const fn takes_over(&self) -> bool {
        self.led_to_by.contains(Cause::AttemptsSpent) || self.led_to_by.contains(Cause::Quota)
    }

    /// An answer that needs no attempt and is nearly as good as one.
    pub const STAND_IN: Self = Self {
        kind: Kind::StandIn,
        led_to_by: Causes::STAND_IN,
        ..Self::TARGET
    };
}

/// What answers on a rung.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "either attempts are made or none")]
pub enum Kind {
    /// A target, by attempts.
    Target,
    /// Something at hand, such as a cache, that may have nothing to say.
    StandIn,
}

/// A ladder as one call walks it.
#[derive(Debug, Clone, PartialEq)]
pub struct Ladder {
    rules: Vec<Rules>,
    rung: Option<usize>,
    attempts_left: u32,
    /// More, for a first attempt on a rung that would have none: with `attempts_left` there is one for
    /// each target.
    firsts_left: u32,
    made: [u32; MOST_RUNGS],
    /// The rung was waited for: it gets an attempt, whatever is kept for those below.
    waited_for: bool,
    relief: Relief,
    lessons: Lessons,
}

/// Where a call stands that looks for another rung because of an overload.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Relief {
    NotSought,
    /// It left this rung, after so many attempts of the whole call.
    Sought(usize, u32),
    InVain,
}

/// Part of the time left that a rung without a share of its own may be silent for while a target that
/// takes over is below it: one that hangs must not take the others' turn with it. The rest is enough for
/// one more attempt.
pub const QUIET_SHARE: f64 = 2.0 / 3.0;

/// Most rungs of a ladder.
pub const MOST_RUNGS: usize = 16;

impl Ladder {
    /// Stands on the first of `rules` (1 to 16) that is fit, with `attempts` (1 to 100) to make; more
    /// where there are more targets, since each that is led to gets one.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`] when a number is out of range.
    pub fn new(rules: Vec<Rules>, attempts: u32) -> Result<Self, InvalidPolicy> {
        if !(1..=MOST_RUNGS).contains(&rules.len()) {
            return Err(InvalidPolicy::new("ladder", rules.len(), "1 to 16 rungs"));
        }
        if !(1..=100).contains(&attempts) {
            return Err(InvalidPolicy::new("retry.attempts", attempts, "1 to 100"));
        }
        for rule in &rules {
            if let Some(own) = rule.attempts
                && !(1..=100).contains(&own)
            {
                return Err(InvalidPolicy::new("rung.attempts", own, "1 to 100"));
            }
            if let Some(share) = rule.share
                && !(share > 0.0 && share <= 1.0)
            {
                return Err(InvalidPolicy::new("rung.share", share, "above 0, up to 1"));
            }
        }
        let (mut targets, mut least) = (0_u32, 0_u32);
        for rule in rules.iter().filter(|rule| rule.is_fit_target()) {
            least += u32::from(targets == 0 || rule.takes_over());
            targets += 1;
        }
        let attempts_left = attempts.max(least);
        Ok(Self {
            rung: rules.iter().position(|rule| rule.unfit.is_none()),
            rules,
            attempts_left,
            firsts_left: targets.saturating_sub(attempts_left),
            made: [0; MOST_RUNGS],
            waited_for: false,
            relief: Relief::NotSought,
            lessons: Lessons::default(),
        })
    }

    /// The rung that the call stands on; `None` below the last.
    #[must_use]
    pub const fn rung(&self) -> Option<usize> {
        self.rung
    }

    /// What a rung is.
    #[must_use]
    pub fn rules(&self, rung: usize) -> Option<&Rules> {
        self.rules.get(rung)
    }

    /// Whether the call may make one more attempt on this rung.
    #[must_use]
    pub fn may_attempt(&self) -> bool {
        self.rung.is_some_and(|rung| self.attempts_on(rung) > 0)
    }

    /// Attempts that the call may still make on a rung: its own number, or all but those that are kept
    /// for the targets below.
    #[must_use]
    pub fn attempts_on(&self, rung: usize) -> u32 {
        let (Some(rules), Some(made)) = (self.rules.get(rung), self.made.get(rung)) else {
            return 0;
        };
        let (kept, least) = self.kept_below(rung);
        let waited_for = self.waited_for && self.rung == Some(rung);
        let gets_one =
            waited_for && self.attempts_left() > 0 || *made == 0 && self.attempts_left() > least;
        let may = self.attempts_left.saturating_sub(kept);
        let may = may.max(u32::from(gets_one));
        rules
            .attempts
            .map_or(may, |own| may.min(own.saturating_sub(*made)))
    }

    /// Whether the call may make one more attempt on `rung` beside one that is under way on its own.
    #[must_use]
    pub fn may_attempt_beside(&self, rung: usize) -> bool {
        let mut then = self.clone();
        if let Some(here) = self.rung {
            then.count_attempt(here);
        }
        then.attempts_on(rung) > 0
    }

    /// Attempts that the whole call may still make.
    #[must_use]
    pub const fn attempts_left(&self) -> u32 {
        self.attempts_left.saturating_add(self.firsts_left)
    }

    /// Attempts that the call has made and that counted.
    #[must_use]
    pub fn attempts_made(&self) -> u32 {
        self.made.iter().sum()
    }

    /// Counts an attempt on a rung that ended.
    pub fn count_attempt(&mut self, rung: usize) {
        let (_, least) = self.kept_below(rung);
        if self.firsts_left > 0 && self.attempts_left <= least {
            self.firsts_left -= 1;
        } else {
            self.attempts_left = self.attempts_left.saturating_sub(1);
        }
        if let Some(made) = self.made.get_mut(rung) {
            *made += 1;
        }
        self.waited_for = false;
    }

    /// Attempts kept for the targets below a rung that take over: their own, or one; and how many
    /// targets these are.
    fn kept_below(&self, rung: usize) -> (u32, u32) {
        let below = self.rules.iter().zip(self.made).skip(rung + 1);
        let below = below.filter(|(below, _)| below.is_fit_target() && below.takes_over());
        let kept = below.map(|(below, made)| {
            let own = below.attempts.map(|own| own.saturating_sub(made));
            own.unwrap_or(1)
        });
        kept.fold((0, 0), |(kept, least), more| {
            (kept + more, least + more.min(1))
        })
    }

    /// The rung that `cause` would lead to from here.
    #[must_use]
    pub fn leads_to(&self, cause: Cause) -> Option<usize> {
        let after = self.taught(self.rung, cause);
        self.below().find(|&rung| self.takes(rung, cause, &after))
    }

    /// The next target below that `cause` leads to, whatever stands in between.
    #[must_use]
    pub fn next_target(&self, cause: Cause) -> Option<usize> {
        self.below().find(|&rung| {
            self.takes(rung, cause, &self.lessons)
                && self.rules.get(rung).is_some_and(|r| r.kind == Kind::Target)
        })
    }

    /// The next target below that is there for a call that this rung leaves without an answer.
    #[must_use]
    pub fn next_after_silence(&self) -> Option<usize> {
        let spent = self.next_target(Cause::AttemptsSpent);
        spent.or_else(|| self.next_target(Cause::Overloaded))
    }

    /// Leaves the rung for the one that `cause` leads to; below the last where there is none.
    pub fn fall(&mut self, cause: Cause) -> Option<usize> {
        self.lessons = self.taught(self.rung, cause);
        self.waited_for = false;
        self.rung = self
            .below()
            .find(|&rung| self.takes(rung, cause, &self.lessons));
        self.rung
    }

    /// Notes the last word of a rung, whether the call stands on it or not: it does not come to it again.
    pub fn close(&mut self, rung: usize, cause: Cause) {
        self.lessons = self.taught(Some(rung), cause);
        self.lessons.close(rung);
    }

    /// Leaves a rung that had nothing to say, on the way on which it was come to: with the cause that
    /// led to it, or from above all.
    pub fn pass_by(&mut self, cause: Option<Cause>) -> Option<usize> {
        self.rung = self.below().find(|&rung| match cause {
            Some(cause) => self.takes(rung, cause, &self.lessons),
            None => self.is_fit(rung, &self.lessons),
        });
        self.rung
    }

    /// Whether a rung could still answer, going by what others have refused.
    #[must_use]
    pub fn is_open(&self, rung: usize) -> bool {
        self.is_fit(rung, &self.lessons)
    }

    /// Whether a rung that has too much to do is left at once: where another is there for that, unless it
    /// has been in vain. `attempts`: those of the whole call so far.
    pub fn seeks_relief(&mut self, attempts: u32) -> bool {
        let (Some(rung), Some(_)) = (self.rung, self.leads_to(Cause::Overloaded)) else {
            return false;
        };
        if self.relief == Relief::InVain {
            return false;
        }
        self.relief = Relief::Sought(rung, attempts);
        true
    }

    /// Goes back, below the last rung, to the one that was left for its overload where no other could be
    /// asked since. From then on it makes its attempts as if there were none below.
    pub fn comes_back(&mut self, attempts: u32) -> bool {
        let Relief::Sought(rung, then) = self.relief else {
            return false;
        };
        if attempts != then || !self.is_open(rung) {
            return false;
        }
        self.relief = Relief::InVain;
        self.rung = Some(rung);
        self.waited_for = false;
        true
    }

    /// Goes back to a rung that was waited for and lets calls pass again.
    pub const fn stand_on(&mut self, rung: usize) {
        self.rung = Some(rung);
        self.waited_for = true;
    }

    /// The stand-ins that are there when everything else has been in vain.
    pub fn last_resorts(&self) -> impl Iterator<Item = usize> {
        let rungs = self.rules.iter().enumerate();
        rungs
            .filter(|(_, rules)| {
                rules.kind == Kind::StandIn
                    && rules.unfit.is_none()
                    && rules.led_to_by.contains(Cause::LastResort)
            })
            .map(|(rung, _)| rung)
    }

    fn below(&self) -> std::ops::Range<usize> {
        let from = self.rung.map_or(self.rules.len(), |rung| rung + 1);
        from..self.rules.len()
    }

    fn takes(&self, rung: usize, cause: Cause, lessons: &Lessons) -> bool {
        self.is_fit(rung, lessons)
            && self
                .rules
                .get(rung)
                .is_some_and(|rules| rules.led_to_by.contains(cause))
    }

    fn is_fit(&self, rung: usize, lessons: &Lessons) -> bool {
        self.rules.get(rung).is_some_and(|rules| {
            rules.unfit.is_none() && (rules.kind == Kind::StandIn || lessons.allow(rung, rules))
        })
    }

    /// What is known after a rung was left for `cause`.
    fn taught(&self, rung: Option<usize>, cause: Cause) -> Lessons {
        let mut lessons = self.lessons.clone();
        if let Some((rung, rules)) = rung.and_then(|rung| Some((rung, self.rules.get(rung)?))) {
            lessons.learn(rung, rules, cause);
        }
        lessons
    }
}

/// What refusals have taught of the rungs that are left.
#[derive(Debug, Clone, Default, PartialEq)]
struct Lessons {
    /// A rung with no more room than this has refused the request for its size.
    too_small: Option<u64>,
    refused_credentials: Vec<u64>,
    /// A bit for each rung that has given its last word.
    closed: u16,
}

impl Lessons {
    fn learn(&mut self, rung: usize, rules: &Rules, cause: Cause) {
        match cause {
            Cause::TooLarge => {
                let room = rules.room.unwrap_or(0);
                self.too_small = Some(self.too_small.map_or(room, |known| known.max(room)));
            }
            Cause::Credential => self.refused_credentials.push(rules.credential),
            Cause::Refused | Cause::NotFound => self.close(rung),
            _ => {}
        }
    }

    const fn close(&mut self, rung: usize) {
        self.closed |= Self::bit(rung);
    }

    fn allow(&self, rung: usize, rules: &Rules) -> bool {
        let roomy = match (self.too_small, rules.room) {
            (None, _) => true,
            (Some(refused), Some(room)) => room > refused,
            (Some(_), None) => false,
        };
        roomy
            && !self.refused_credentials.contains(&rules.credential)
            && self.closed & Self::bit(rung) == 0
    }

    const fn bit(rung: usize) -> u16 {
        if rung < MOST_RUNGS { 1 << rung } else { 0 }
    }
}

#[cfg(test)]
mod tests;
