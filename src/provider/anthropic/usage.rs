//! What an answer used, as the provider counts it.
//!
//! Every field is optional: the API leaves out, nulls and adds counts as it grows, and absence is not
//! zero. A stream states its usage several times; each later statement overwrites, never adds, and a
//! null erases nothing.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Counts of one answer. Tokens, where nothing else is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Prompt tokens after the last cache breakpoint: neither read from nor written to the cache.
    pub input: Option<u64>,
    /// Tokens produced, thinking included.
    pub output: Option<u64>,
    /// Prompt tokens read from the cache.
    pub cache_read: Option<u64>,
    /// Prompt tokens written to the cache, for whatever time.
    pub cache_write: Option<u64>,
    /// The part of `cache_write` that is kept for five minutes.
    pub cache_write_5m: Option<u64>,
    /// The part of `cache_write` that is kept for an hour.
    pub cache_write_1h: Option<u64>,
    /// The part of `output` that was thinking.
    pub thinking: Option<u64>,
    /// Web searches made by the provider, billed one by one.
    pub web_searches: Option<u64>,
    /// Web pages fetched by the provider.
    pub web_fetches: Option<u64>,
    /// `standard`, `priority` or `batch`.
    pub service_tier: Option<String>,
    /// `standard` or `fast`.
    pub speed: Option<String>,
    /// Where it was computed, such as `us` or `global`.
    pub inference_geo: Option<String>,
    /// The passes behind the answer, where the provider lists them. Passes such as a compaction are
    /// billed but appear in none of the counts above.
    pub iterations: Vec<Iteration>,
}

/// One of the passes behind an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Iteration {
    /// `message`, `compaction`, `fallback_message` or a newer kind.
    pub kind: Option<String>,
    /// The model that ran it, where it is not the answer's.
    pub model: Option<String>,
    /// What it used.
    pub tokens: Tokens,
}

/// Token counts with nothing unknown left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Prompt tokens that no cache had.
    pub input: u64,
    /// Tokens produced.
    pub output: u64,
    /// Prompt tokens read from the cache.
    pub cache_read: u64,
    /// Prompt tokens written to the five-minute cache, or to one of unknown time.
    pub cache_write_5m: u64,
    /// Prompt tokens written to the one-hour cache.
    pub cache_write_1h: u64,
}

impl Tokens {
    /// The whole prompt: fresh, read and written.
    #[must_use]
    pub const fn prompt(&self) -> u64 {
        self.quota_input().saturating_add(self.cache_read)
    }

    /// What counts against an input-token quota: cache reads are free there.
    #[must_use]
    pub const fn quota_input(&self) -> u64 {
        self.input
            .saturating_add(self.cache_write_5m)
            .saturating_add(self.cache_write_1h)
    }

    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            input: self.input.saturating_add(other.input),
            output: self.output.saturating_add(other.output),
            cache_read: self.cache_read.saturating_add(other.cache_read),
            cache_write_5m: self.cache_write_5m.saturating_add(other.cache_write_5m),
            cache_write_1h: self.cache_write_1h.saturating_add(other.cache_write_1h),
        }
    }
}

impl Usage {
    /// The `usage` of a whole answer; nothing where the body has none or is no JSON object.
    #[must_use]
    pub fn from_body(body: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Body>(body).ok()?.usage
    }

    /// The same of JSON that has been read already.
    #[must_use]
    pub fn from_value(body: &serde_json::Value) -> Option<Self> {
        Body::deserialize(body).ok()?.usage
    }

    /// Takes over what a later statement knows, and keeps what it leaves out.
    pub fn overwrite(&mut self, later: Self) {
        fn take<T>(mine: &mut Option<T>, theirs: Option<T>) {
            if theirs.is_some() {
                *mine = theirs;
            }
        }
        take(&mut self.input, later.input);
        take(&mut self.output, later.output);
        take(&mut self.cache_read, later.cache_read);
        take(&mut self.cache_write, later.cache_write);
        take(&mut self.cache_write_5m, later.cache_write_5m);
        take(&mut self.cache_write_1h, later.cache_write_1h);
        take(&mut self.thinking, later.thinking);
        take(&mut self.web_searches, later.web_searches);
        take(&mut self.web_fetches, later.web_fetches);
        take(&mut self.service_tier, later.service_tier);
        take(&mut self.speed, later.speed);
        take(&mut self.inference_geo, later.inference_geo);
        if !later.iterations.is_empty() {
            self.iterations = later.iterations;
        }
    }

    /// The counts that the answer itself states, unknown ones as zero.
    #[must_use]
    pub fn stated(&self) -> Tokens {
        let long = self.cache_write_1h.unwrap_or(0);
        // The total is the later and safer word: the split can still show a pass that it leaves out.
        let written = self
            .cache_write
            .unwrap_or_else(|| long.saturating_add(self.cache_write_5m.unwrap_or(0)));
        let long = long.min(written);
        Tokens {
            input: self.input.unwrap_or(0),
            output: self.output.unwrap_or(0),
            cache_read: self.cache_read.unwrap_or(0),
            cache_write_5m: written.saturating_sub(long),
            cache_write_1h: long,
        }
    }

    /// What is billed and charged to quotas: the sum of the passes where they are listed.
    #[must_use]
    pub fn billed(&self) -> Tokens {
        if self.iterations.is_empty() {
            return self.stated();
        }
        self.iterations
            .iter()
            .fold(Tokens::default(), |sum, pass| sum.plus(pass.tokens))
    }

    /// What is billed, by the model that did the work; none stands for the answer's own.
    #[must_use]
    pub fn billed_by_model(&self) -> Vec<(Option<String>, Tokens)> {
        if self.iterations.is_empty() {
            return vec![(None, self.stated())];
        }
        self.iterations
            .iter()
            .map(|pass| (pass.model.clone(), pass.tokens))
            .collect()
    }

    /// The size of the whole prompt of the answer itself, in tokens.
    #[must_use]
    pub fn prompt_total(&self) -> u64 {
        self.stated().prompt()
    }
}

/// An answer of which only the usage is wanted.
#[derive(serde::Deserialize)]
struct Body {
    usage: Option<Usage>,
}

/// A count, or nothing where the value is none: a surprise in one field must not cost the others.
struct Count(Option<u64>);

/// A short word, or nothing.
struct Word(Option<String>);

#[derive(serde::Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Field {
    InputTokens,
    OutputTokens,
    CacheReadInputTokens,
    CacheCreationInputTokens,
    CacheCreation,
    OutputTokensDetails,
    ServerToolUse,
    ServiceTier,
    Speed,
    InferenceGeo,
    Iterations,
    #[serde(rename = "ephemeral_5m_input_tokens")]
    Written5m,
    #[serde(rename = "ephemeral_1h_input_tokens")]
    Written1h,
    ThinkingTokens,
    WebSearchRequests,
    WebFetchRequests,
    Type,
    Model,
    #[serde(other)]
    Other,
}

/// Usage as read: the nested objects of the wire are flat here, and an iteration is a usage with two
/// words more.
#[derive(Default)]
struct Read {
    usage: Usage,
    kind: Option<String>,
    model: Option<String>,
}

impl Read {
    fn fill<'de, A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<(), A::Error> {
        while let Some(field) = map.next_key()? {
            let u = &mut self.usage;
            match field {
                Field::InputTokens => u.input = map.next_value::<Count>()?.0,
                Field::OutputTokens => u.output = map.next_value::<Count>()?.0,
                Field::CacheReadInputTokens => u.cache_read = map.next_value::<Count>()?.0,
                Field::CacheCreationInputTokens => u.cache_write = map.next_value::<Count>()?.0,
                Field::Written5m => u.cache_write_5m = map.next_value::<Count>()?.0,
                Field::Written1h => u.cache_write_1h = map.next_value::<Count>()?.0,
                Field::ThinkingTokens => u.thinking = map.next_value::<Count>()?.0,
                Field::WebSearchRequests => u.web_searches = map.next_value::<Count>()?.0,
                Field::WebFetchRequests => u.web_fetches = map.next_value::<Count>()?.0,
                Field::ServiceTier => u.service_tier = map.next_value::<Word>()?.0,
                Field::Speed => u.speed = map.next_value::<Word>()?.0,
                Field::InferenceGeo => u.inference_geo = map.next_value::<Word>()?.0,
                Field::CacheCreation | Field::OutputTokensDetails | Field::ServerToolUse => {
                    u.overwrite(map.next_value::<Self>()?.usage);
                }
                Field::Iterations => u.iterations = map.next_value::<Passes>()?.0,
                Field::Type => self.kind = map.next_value::<Word>()?.0,
                Field::Model => self.model = map.next_value::<Word>()?.0,
                Field::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

struct Passes(Vec<Iteration>);

impl From<Read> for Iteration {
    fn from(read: Read) -> Self {
        Self {
            kind: read.kind,
            model: read.model,
            tokens: read.usage.stated(),
        }
    }
}

impl<'de> Deserialize<'de> for Usage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Read::deserialize(deserializer)?.usage)
    }
}

/// Reads any JSON value into `$out` and keeps what it expected: the visitor methods that are not
/// named answer with the default.
macro_rules! lenient {
    ($out:ident, $default:expr, { $($method:tt)* }, [$($skipped:ident($arg:ty)),*]) => {
        impl<'de> Deserialize<'de> for $out {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Lenient;
                impl<'de> Visitor<'de> for Lenient {
                    type Value = $out;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("any JSON value")
                    }
                    $($method)*
                    $(fn $skipped<E>(self, _: $arg) -> Result<Self::Value, E> { Ok($default) })*
                    fn visit_unit<E>(self) -> Result<Self::Value, E> { Ok($default) }
                }
                deserializer.deserialize_any(Lenient)
            }
        }
    };
}

macro_rules! skip_seq {
    ($default:expr) => {
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            Ok($default)
        }
    };
}

macro_rules! skip_map {
    ($default:expr) => {
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok($default)
        }
    };
}

lenient!(
    Count,
    Count(None),
    {
        fn visit_u64<E>(self, v: u64) -> Result<Self::Value, E> {
            Ok(Count(Some(v)))
        }
        skip_seq!(Count(None));
        skip_map!(Count(None));
    },
    [
        visit_bool(bool),
        visit_i64(i64),
        visit_f64(f64),
        visit_str(&str)
    ]
);

lenient!(
    Word,
    Word(None),
    {
        fn visit_str<E>(self, v: &str) -> Result<Self::Value, E> {
            Ok(Word(Some(v.to_owned())))
        }
        skip_seq!(Word(None));
        skip_map!(Word(None));
    },
    [
        visit_bool(bool),
        visit_i64(i64),
        visit_u64(u64),
        visit_f64(f64)
    ]
);

lenient!(
    Read,
    Read::default(),
    {
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut read = Read::default();
            read.fill(&mut map)?;
            Ok(read)
        }
        skip_seq!(Read::default());
    },
    [
        visit_bool(bool),
        visit_i64(i64),
        visit_u64(u64),
        visit_f64(f64),
        visit_str(&str)
    ]
);

lenient!(
    Passes,
    Passes(Vec::new()),
    {
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut passes = Vec::new();
            while let Some(read) = seq.next_element::<Read>()? {
                passes.push(read.into());
            }
            Ok(Passes(passes))
        }
        skip_map!(Passes(Vec::new()));
    },
    [
        visit_bool(bool),
        visit_i64(i64),
        visit_u64(u64),
        visit_f64(f64),
        visit_str(&str)
    ]
);

#[cfg(test)]
mod tests {
    use super::{Tokens, Usage};

    fn usage(json: &str) -> Usage {
        serde_json::from_str(json).expect("usage")
    }

    #[test]
    fn a_later_statement_overwrites_and_a_null_erases_nothing() {
        let mut all = usage(
            r#"{"input_tokens":2049,"cache_read_input_tokens":7,"output_tokens":1,
                "cache_creation":{"ephemeral_5m_input_tokens":5,"ephemeral_1h_input_tokens":3},
                "cache_creation_input_tokens":8,"service_tier":"standard"}"#,
        );
        all.overwrite(usage(
            r#"{"input_tokens":13520,"cache_read_input_tokens":null,"output_tokens":90,
                "server_tool_use":{"web_search_requests":2},"output_tokens_details":{"thinking_tokens":40}}"#,
        ));
        assert_eq!(
            all.stated(),
            Tokens {
                input: 13520,
                output: 90,
                cache_read: 7,
                cache_write_5m: 5,
                cache_write_1h: 3,
            }
        );
        assert_eq!((all.web_searches, all.thinking), (Some(2), Some(40)));
        assert_eq!(all.service_tier.as_deref(), Some("standard"));
        assert_eq!(all.prompt_total(), 13520 + 7 + 8);
        assert_eq!(all.billed().quota_input(), 13520 + 8);
    }

    #[test]
    fn a_compaction_is_billed_though_the_totals_leave_it_out() {
        let all = usage(
            r#"{"input_tokens":162,"output_tokens":8,"iterations":[
                {"type":"compaction","input_tokens":99195,"output_tokens":83,"cache_read_input_tokens":null},
                {"type":"message","input_tokens":162,"output_tokens":8,"model":"claude-x"}]}"#,
        );
        assert_eq!((all.stated().input, all.billed().input), (162, 99_357));
        assert_eq!(all.billed().output, 91);
        assert_eq!(all.iterations[1].model.as_deref(), Some("claude-x"));
    }

    #[test]
    fn a_surprising_value_costs_only_its_own_field() {
        let all = usage(
            r#"{"input_tokens":"many","output_tokens":5,"cache_read_input_tokens":-1,
                "cache_creation":[1,{}],"cache_creation_input_tokens":1e30,"iterations":{"a":[]},
                "service_tier":{"x":1},"server_tool_use":3,"new":[[]]}"#,
        );
        assert_eq!(
            all,
            Usage {
                output: Some(5),
                ..Usage::default()
            }
        );
        assert_eq!(Usage::from_body(br#"{"usage":7}"#), Some(Usage::default()));
        assert_eq!(Usage::from_body(br#"{"type":"error"}"#), None);
        assert_eq!(Usage::from_body(br#"{"usage":{"input_tokens":1}"#), None);
    }
}
