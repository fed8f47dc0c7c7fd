//! What a call cost, exactly: a dated table of public prices and integer arithmetic.
//!
//! Rates are micro-dollars per million tokens, sums nano-dollars rounded once, upward. A model that the
//! table does not know is priced as if it were a large one and flagged: never free, never silent.
//! Prices change: the table says since when each row holds, and where it was read.

use crate::provider::anthropic::plain_model;
use crate::provider::anthropic::usage::Tokens;

/// What else decides the price of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_structs,
    reason = "plain input, filled in by providers"
)]
pub struct Terms {
    /// The day of the call in UTC: prices have dates.
    pub day: Day,
    /// Processed in the United States only (`inference_geo: "us"`): 10 % more, for models since 4.6.
    pub us_only: bool,
    /// Sent through the Batch API: half price.
    pub batch: bool,
    /// Answered in fast mode: twice the base rates, where the model has it.
    pub fast: bool,
}

impl Terms {
    /// An ordinary call on that day.
    #[must_use]
    pub const fn on(day: Day) -> Self {
        Self {
            day,
            us_only: false,
            batch: false,
            fast: false,
        }
    }
}

/// A day in UTC, as year, month, day; ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a date has three parts")]
pub struct Day(pub i16, pub i8, pub i8);

/// What a call cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cost {
    /// Nano-dollars (10^-9 $).
    pub nano_dollars: u128,
    /// Whether the table knows the model; if not, the sum is a guess on the high side.
    pub known: bool,
}

/// Prices of one model, in micro-dollars per million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rates {
    /// Input.
    pub input: u64,
    /// Cache writes for five minutes.
    pub cache_write_5m: u64,
    /// Cache writes for an hour.
    pub cache_write_1h: u64,
    /// Cache reads.
    pub cache_read: u64,
    /// Output.
    pub output: u64,
}

/// Returns what the tokens cost under the terms.
#[must_use]
pub fn cost(model: &str, tokens: &Tokens, terms: &Terms) -> Cost {
    let row = find(&plain_model(model), tokens.prompt(), terms.day);
    let rates = row.map_or(UNKNOWN, |row| row.rates);
    let sum: u128 = [
        (tokens.input, rates.input),
        (tokens.output, rates.output),
        (tokens.cache_read, rates.cache_read),
        (tokens.cache_write_5m, rates.cache_write_5m),
        (tokens.cache_write_1h, rates.cache_write_1h),
    ]
    .into_iter()
    // 2^64 * 2^25 * 5 stays far below 2^128: nothing here can overflow.
    .map(|(count, rate)| u128::from(count) * u128::from(rate))
    .sum();
    // Tenths of a half, so that every factor is whole: fast x2, batch x0.5, United States x1.1.
    let fast = if terms.fast && row.is_some_and(|row| row.fast) {
        2
    } else {
        1
    };
    let batch = if terms.batch { 1 } else { 2 };
    let place = if terms.us_only && row.is_none_or(|row| row.us_premium) {
        11
    } else {
        10
    };
    // Tokens x micro-dollars per million tokens are pico-dollars: a thousand to the nano-dollar.
    let nano_dollars = (sum * fast * batch * place).div_ceil(1_000 * 2 * 10);
    Cost {
        nano_dollars,
        known: row.is_some(),
    }
}

/// Returns the rates of a model for a prompt of that many tokens on that day; `None` for a model
/// that the table does not know.
#[must_use]
pub fn rates(model: &str, prompt: u64, day: Day) -> Option<Rates> {
    find(&plain_model(model), prompt, day).map(|row| row.rates)
}

struct Row {
    model: &'static str,
    since: Day,
    /// Largest prompt in tokens that this row prices.
    prompt_up_to: u64,
    rates: Rates,
    fast: bool,
    us_premium: bool,
}

/// The latest matching row that has begun; a day before the first row takes that first row, since
/// a price that came later is a better guess than none.
fn find(id: &str, prompt: u64, day: Day) -> Option<&'static Row> {
    let rows = || {
        TABLE
            .iter()
            .filter(|row| row.model == id && prompt <= row.prompt_up_to)
    };
    // A model's rows stand with the narrower band first, and the newer date first within it.
    rows()
        .find(|row| row.since <= day)
        .or_else(|| rows().min_by_key(|row| row.since))
}

const ANY: u64 = u64::MAX;
/// Prices that have held as long as the model.
const EVER: Day = Day(0, 1, 1);

const fn rates_of(input: u64, write_5m: u64, write_1h: u64, read: u64, output: u64) -> Rates {
    Rates {
        input,
        cache_write_5m: write_5m,
        cache_write_1h: write_1h,
        cache_read: read,
        output,
    }
}

const fn row(model: &'static str, rates: Rates) -> Row {
    Row {
        model,
        since: EVER,
        prompt_up_to: ANY,
        rates,
        fast: false,
        us_premium: true,
    }
}

/// What Anthropic's own gateway assumes for an id that its meter cannot place: $5 in, $25 out, and
/// the usual cache multipliers.
const UNKNOWN: Rates = OPUS_5;

const FABLE_5_2: Rates = rates_of(8_000_000, 10_000_000, 16_000_000, 200_000, 40_000_000);
const FABLE_5_1: Rates = rates_of(10_000_000, 12_500_000, 20_000_000, 250_000, 50_000_000);
const FABLE_5: Rates = rates_of(10_000_000, 12_500_000, 20_000_000, 1_000_000, 50_000_000);
const OPUS_5_5: Rates = rates_of(4_000_000, 5_000_000, 8_000_000, 200_000, 20_000_000);
const OPUS_5: Rates = rates_of(5_000_000, 6_250_000, 10_000_000, 500_000, 25_000_000);
const SONNET_5: Rates = rates_of(2_000_000, 2_500_000, 4_000_000, 200_000, 10_000_000);
const SONNET_5_5: Rates = rates_of(2_000_000, 2_500_000, 4_000_000, 100_000, 10_000_000);
const SONNET_4: Rates = rates_of(3_000_000, 3_750_000, 6_000_000, 300_000, 15_000_000);
const HAIKU_5_5: Rates = rates_of(100_000, 125_000, 200_000, 10_000, 500_000);
const HAIKU_5_5_LONG: Rates = rates_of(500_000, 625_000, 1_000_000, 50_000, 2_500_000);
const HAIKU_4_5: Rates = rates_of(1_000_000, 1_250_000, 2_000_000, 100_000, 5_000_000);

/// Read on 2026-11-23. Sources: Anthropic's pricing page (copy of 2026-08-22), release notes and
/// model pages for what is newer (Opus 5.5, Haiku 5.5, Fable 5.1 and 5.2), compared with LiteLLM's
/// price file, which agrees wherever it has the model. The cache prices of Fable 5.2, and the date
/// of Sonnet 5.5's cheaper cache reads, rest on third parties alone.
static TABLE: &[Row] = &[
    Row {
        since: Day(2026, 11, 9),
        ..row("claude-fable-5-2", FABLE_5_2)
    },
    Row {
        since: Day(2026, 11, 9),
        ..row("claude-mythos-5-2", FABLE_5_2)
    },
    row("claude-fable-5-1", FABLE_5_1),
    row("claude-mythos-5-1", FABLE_5_1),
    row("claude-fable-5", FABLE_5),
    row("claude-mythos-5", FABLE_5),
    Row {
        fast: true,
        ..row("claude-opus-5-5", OPUS_5_5)
    },
    Row {
        fast: true,
        ..row("claude-opus-5", OPUS_5)
    },
    Row {
        fast: true,
        ..row("claude-opus-4-8", OPUS_5)
    },
    row("claude-opus-4-7", OPUS_5),
    row("claude-opus-4-6", OPUS_5),
    Row {
        us_premium: false,
        ..row("claude-opus-4-5", OPUS_5)
    },
    Row {
        since: Day(2026, 10, 7),
        ..row("claude-sonnet-5-5", SONNET_5_5)
    },
    row("claude-sonnet-5-5", SONNET_5),
    row("claude-sonnet-5", SONNET_5),
    row("claude-sonnet-4-6", SONNET_4),
    Row {
        us_premium: false,
        ..row("claude-sonnet-4-5", SONNET_4)
    },
    // The band follows the whole prompt, cache included, and prices the whole call, output too.
    Row {
        prompt_up_to: 100_000,
        since: Day(2026, 10, 7),
        ..row("claude-haiku-5-5", HAIKU_5_5)
    },
    Row {
        since: Day(2026, 10, 7),
        ..row("claude-haiku-5-5", HAIKU_5_5_LONG)
    },
    Row {
        us_premium: false,
        ..row("claude-haiku-4-5", HAIKU_4_5)
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    const TODAY: Day = Day(2026, 11, 23);

    const MIXED: Tokens = Tokens {
        input: 1_000,
        output: 500,
        cache_read: 10_000,
        cache_write_5m: 2_000,
        cache_write_1h: 3_000,
    };

    fn nano(model: &str, tokens: &Tokens) -> u128 {
        cost(model, tokens, &Terms::on(TODAY)).nano_dollars
    }

    #[test]
    fn sums_worked_by_hand_come_out_to_the_nano_dollar() {
        // 1000 x 5 + 500 x 25 + 10000 x 0.5 + 2000 x 6.25 + 3000 x 10 = 65,000 micro-dollars.
        assert_eq!(nano("claude-opus-5", &MIXED), 65_000_000);
        // 1000 x 2 + 500 x 10 + 10000 x 0.1 + 2000 x 2.5 + 3000 x 4 = 25,000.
        assert_eq!(nano("claude-sonnet-5-5", &MIXED), 25_000_000);
        // 1000 x 0.1 + 500 x 0.5 + 10000 x 0.01 + 2000 x 0.125 + 3000 x 0.2 = 1,300.
        assert_eq!(nano("claude-haiku-5-5", &MIXED), 1_300_000);
        // 1000 x 10 + 500 x 50 + 10000 x 0.25 + 2000 x 12.5 + 3000 x 20 = 122,500.
        assert_eq!(nano("claude-fable-5-1", &MIXED), 122_500_000);
        // One token read from the cache of the cheapest model: 0.01 micro-dollars.
        let one = Tokens {
            cache_read: 1,
            ..Tokens::default()
        };
        assert_eq!(nano("claude-haiku-5-5", &one), 10);
        assert_eq!(nano("claude-haiku-5-5", &Tokens::default()), 0);
    }

    #[test]
    fn place_batch_and_fast_mode_multiply() {
        let with = |model: &str, change: fn(&mut Terms)| {
            let mut terms = Terms::on(TODAY);
            change(&mut terms);
            cost(model, &MIXED, &terms).nano_dollars
        };
        assert_eq!(with("claude-opus-5", |t| t.us_only = true), 71_500_000);
        assert_eq!(with("claude-opus-5", |t| t.batch = true), 32_500_000);
        assert_eq!(with("claude-opus-5", |t| t.fast = true), 130_000_000);
        let all = |t: &mut Terms| (t.us_only, t.batch, t.fast) = (true, true, true);
        assert_eq!(with("claude-opus-5", all), 71_500_000);
        // No premium before 4.6, no fast mode on Sonnet.
        assert_eq!(with("claude-opus-4-5", |t| t.us_only = true), 65_000_000);
        assert_eq!(with("claude-sonnet-5-5", |t| t.fast = true), 25_000_000);
    }

    #[test]
    fn a_fraction_of_a_nano_dollar_is_rounded_up_once() {
        // 0.01 micro-dollars x 1.1 x 0.5 = 5.5 nano-dollars.
        let one = Tokens {
            cache_read: 1,
            ..Tokens::default()
        };
        let terms = Terms {
            us_only: true,
            batch: true,
            ..Terms::on(TODAY)
        };
        assert_eq!(cost("claude-haiku-5-5", &one, &terms).nano_dollars, 6);
        let two = Tokens {
            cache_read: 2,
            ..Tokens::default()
        };
        assert_eq!(cost("claude-haiku-5-5", &two, &terms).nano_dollars, 11);
    }

    #[test]
    fn the_long_prompt_band_counts_the_cache_and_prices_the_output() {
        let at = Tokens {
            input: 40_000,
            cache_read: 60_000,
            output: 100,
            ..Tokens::default()
        };
        // 40000 x 0.1 + 60000 x 0.01 + 100 x 0.5.
        assert_eq!(nano("claude-haiku-5-5", &at), 4_650_000);
        let above = Tokens {
            cache_read: 60_001,
            ..at
        };
        // 40000 x 0.5 + 60001 x 0.05 + 100 x 2.5.
        assert_eq!(nano("claude-haiku-5-5", &above), 23_250_050);
    }

    #[test]
    fn a_price_holds_from_its_day_on() {
        let reads = Tokens {
            cache_read: 1_000_000,
            ..Tokens::default()
        };
        let on = |day| cost("claude-sonnet-5-5", &reads, &Terms::on(day)).nano_dollars;
        assert_eq!(on(Day(2026, 10, 6)), 200_000_000);
        assert_eq!(on(Day(2026, 10, 7)), 100_000_000);
        // A clock set wrong still finds a known model's price.
        let early = cost("claude-haiku-5-5", &reads, &Terms::on(Day(1970, 1, 1)));
        assert_eq!((early.known, early.nano_dollars), (true, 50_000_000));
        let small = Tokens {
            cache_read: 1_000,
            ..Tokens::default()
        };
        let early = cost("claude-haiku-5-5", &small, &Terms::on(Day(1970, 1, 1)));
        assert_eq!(early.nano_dollars, 10_000);
    }

    #[test]
    fn an_unknown_model_is_flagged_and_never_free() {
        let tokens = Tokens {
            input: 1_000,
            output: 1_000,
            ..Tokens::default()
        };
        let guess = cost("claude-sonnet-55", &tokens, &Terms::on(TODAY));
        assert_eq!(
            guess,
            Cost {
                nano_dollars: 30_000_000,
                known: false
            }
        );
        assert_eq!(rates("claude-sonnet-55", 0, TODAY), None);
    }

    #[test]
    fn every_row_keeps_the_documented_multipliers_and_can_be_found() {
        for row in TABLE {
            let rates = row.rates;
            assert_eq!(rates.cache_write_5m * 4, rates.input * 5, "{}", row.model);
            assert_eq!(rates.cache_write_1h, rates.input * 2, "{}", row.model);
            assert_eq!(rates.output, rates.input * 5, "{}", row.model);
            assert!(
                [10, 20, 40].contains(&(rates.input / rates.cache_read)),
                "{}",
                row.model
            );
            assert_eq!(plain_model(row.model), row.model);
            let found = find(row.model, row.prompt_up_to, row.since).map(|found| found.rates);
            assert_eq!(found, Some(rates), "{}", row.model);
        }
    }

    #[test]
    fn absurd_counts_do_not_overflow() {
        let most = u64::MAX;
        let tokens = Tokens {
            input: most,
            output: most,
            cache_read: most,
            cache_write_5m: most,
            cache_write_1h: most,
        };
        let terms = Terms {
            us_only: true,
            fast: true,
            ..Terms::on(TODAY)
        };
        assert!(cost("claude-opus-5", &tokens, &terms).nano_dollars > u128::from(most));
    }
}
