//! Questions that are asked more than once.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use super::Arrival;

/// What part of the calls asks one of a few questions. All others ask something of their own.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repeated {
    /// The share of all calls, 0 to 1.
    pub share: f64,
    /// How many questions there are, each asked as often as the others.
    pub questions: u32,
}

impl Repeated {
    /// What is wrong with it, if anything is.
    pub(in crate::drill) fn wrong(&self) -> Option<(&'static str, String, &'static str)> {
        if !(0.0..=1.0).contains(&self.share) {
            return Some(("request.repeated.share", self.share.to_string(), "0 to 1"));
        }
        let value = self.questions.to_string();
        (self.questions == 0).then_some(("request.repeated.questions", value, "1 or more"))
    }

    /// Says who asks what. The chance is its own, so that the calls come when they would without it.
    pub(in crate::drill) fn draw(&self, seed: u64, arrivals: &mut [Arrival]) {
        const STREAM: u64 = 0x7175_6573_7469_6f6e;
        let mut rng = StdRng::seed_from_u64(seed ^ STREAM);
        for arrival in arrivals {
            let repeats = rng.random::<f64>() < self.share;
            let question = rng.random_range(0..self.questions.max(1));
            arrival.question = repeats.then_some(question);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::drill::load::Load;

    #[test]
    fn a_share_of_the_calls_asks_one_of_a_few_questions() {
        let load = Load::Open {
            calls_per_second: 20.0,
            lasting: Duration::from_secs(180),
        };
        let plain = load.draw(1, 0.0);
        let repeated = Repeated {
            share: 0.25,
            questions: 20,
        };
        let ask = |seed| {
            let mut arrivals = plain.clone();
            repeated.draw(seed, &mut arrivals);
            arrivals
        };
        let drawn = ask(1);
        assert_eq!(drawn, ask(1));
        assert_ne!(drawn, ask(2));
        assert!(
            drawn
                .iter()
                .zip(&plain)
                .all(|(one, other)| one.at == other.at)
        );
        let mut asked: BTreeMap<u32, u32> = BTreeMap::new();
        for question in drawn.iter().filter_map(|arrival| arrival.question) {
            *asked.entry(question).or_default() += 1;
        }
        // 900 of 3,600 are expected, 45 for each; five standard deviations are 130 and 33.
        assert!(
            asked.values().sum::<u32>().abs_diff(900) <= 130,
            "{asked:?}"
        );
        assert_eq!(asked.len(), 20);
        assert!(asked.values().all(|n| n.abs_diff(45) <= 33), "{asked:?}");
    }
}
