//! One fault, and what must come of it.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use seawall::sim::{Arrival, Fault};
use serde_json::{Value, json};

use crate::stream_faults::reading::{self, End};

/// The model that callers ask for, which the primary has.
pub(crate) const WANTED: &str = "claude-sonnet-5-5";
/// The model of the fallback. It refuses a prefill, as all current ones do.
pub(crate) const FALLBACK: &str = "claude-haiku-5-5";

/// Who answers in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Primary,
    Fallback,
    /// Nobody: the primary's own error is handed on.
    Nobody {
        error: &'static str,
        message: &'static str,
    },
}

/// Whether the answer is asked for as a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Both,
    Streamed,
    Whole,
}

/// One line of the table.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) form: Form,
    /// What befalls the primary.
    pub(crate) faults: Vec<Fault>,
    pub(crate) by: By,
    /// Attempts that the primary may get.
    pub(crate) primary: RangeInclusive<usize>,
    /// What the primary asks to wait before it is tried again.
    pub(crate) hint: Duration,
    /// From the call to the last byte of its answer, in seconds.
    pub(crate) seconds: RangeInclusive<f64>,
    pub(crate) model: &'static str,
    pub(crate) prompt: String,
}

impl Row {
    pub(crate) fn new(name: &'static str, fault: Option<Fault>, by: By) -> Self {
        Self {
            name,
            form: Form::Both,
            faults: fault.into_iter().collect(),
            by,
            // Two retries, of which the fallback is kept one.
            primary: match by {
                By::Primary => 2..=2,
                By::Fallback => 1..=3,
                By::Nobody { .. } => 1..=1,
            },
            hint: Duration::ZERO,
            seconds: 0.0..=10.0,
            model: WANTED,
            prompt: "How does a seawall work?".to_owned(),
        }
    }

    pub(crate) const fn in_form(mut self, form: Form) -> Self {
        self.form = form;
        self
    }

    pub(crate) const fn attempts(mut self, primary: RangeInclusive<usize>) -> Self {
        self.primary = primary;
        self
    }

    pub(crate) const fn hinted(mut self, seconds: u64) -> Self {
        self.hint = Duration::from_secs(seconds);
        self
    }

    pub(crate) const fn takes(mut self, seconds: RangeInclusive<f64>) -> Self {
        self.seconds = seconds;
        self
    }

    pub(crate) const fn of_model(mut self, model: &'static str) -> Self {
        self.model = model;
        self
    }

    /// The forms that it is played in, as whether to stream.
    pub(crate) const fn forms(&self) -> &'static [bool] {
        match self.form {
            Form::Both => &[true, false],
            Form::Streamed => &[true],
            Form::Whole => &[false],
        }
    }

    pub(crate) fn body(&self, stream: bool) -> String {
        request(self.model, &self.prompt, stream)
    }
}

pub(crate) fn request(model: &str, prompt: &str, stream: bool) -> String {
    json!({
        "model": model, "max_tokens": 512, "stream": stream,
        "messages": [{ "role": "user", "content": prompt }],
    })
    .to_string()
}

/// What a caller got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Whole {
        model: String,
        text: String,
        stop_reason: String,
        output_tokens: u64,
    },
    Error {
        status: u16,
        error: String,
        message: String,
    },
}

impl Answer {
    /// Reads what came under `status`, in whichever form it came.
    pub(crate) fn read(status: u16, bytes: &[u8]) -> Self {
        if bytes.starts_with(b"event: ") {
            return Self::of_stream(status, bytes);
        }
        let body: Value = serde_json::from_slice(bytes).unwrap();
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        if body["type"] == "error" {
            let error = &body["error"];
            return Self::Error {
                status,
                error: word(&error["type"]),
                message: word(&error["message"]),
            };
        }
        assert_eq!((status, &body["type"]), (200, &json!("message")), "{body}");
        let blocks = body["content"].as_array().unwrap().iter();
        Self::Whole {
            model: word(&body["model"]),
            text: blocks.map(|block| word(&block["text"])).collect(),
            stop_reason: word(&body["stop_reason"]),
            output_tokens: body["usage"]["output_tokens"].as_u64().unwrap(),
        }
    }

    fn of_stream(status: u16, bytes: &[u8]) -> Self {
        let message = reading::read(bytes).unwrap_or_else(|wrong| panic!("{wrong}"));
        match message.end.clone() {
            End::Whole => Self::Whole {
                text: message.text(),
                model: message.model,
                stop_reason: message.stop_reason.unwrap(),
                output_tokens: message.usage["output_tokens"].as_u64().unwrap(),
            },
            End::Failed { kind, message, .. } => Self::Error {
                status,
                error: kind,
                message,
            },
            End::Cut => panic!("the stream ends without a word"),
        }
    }
}

/// What came of a row.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) answer: Answer,
    /// What the primary and the fallback would say to this request, undisturbed.
    pub(crate) undisturbed: [Answer; 2],
    pub(crate) took: Duration,
    pub(crate) primary: Vec<Arrival>,
    pub(crate) fallback: Vec<Arrival>,
    /// The `messages` that arrived, raw.
    pub(crate) messages: Vec<String>,
}

/// Statuses that no repetition on the same target can change.
const REFUSALS: [u16; 6] = [400, 401, 403, 404, 413, 422];

/// Most attempts on the primary within [`BURST`].
const MOST: usize = 4;
const BURST: Duration = Duration::from_secs(3);

/// What holds for every primary, however many calls there are.
pub(crate) fn paced(what: &str, arrivals: &[Arrival]) {
    for (n, first) in arrivals.iter().enumerate() {
        let close = arrivals[n..].iter().filter(|a| a.at < first.at + BURST);
        assert!(close.count() <= MOST, "{what}: {arrivals:?}");
    }
}

/// Checks one run of a row, and returns its line of the table.
pub(crate) fn judge(row: &Row, stream: bool, seen: &Seen) -> String {
    let form = if stream { "streamed" } else { "whole" };
    let what = format!("{}, {form}: {seen:?}", row.name);
    let [of_primary, of_fallback] = &seen.undisturbed;
    assert_ne!(of_primary, of_fallback, "{what}");
    match row.by {
        By::Primary => assert_eq!(&seen.answer, of_primary, "{what}"),
        By::Fallback => assert_eq!(&seen.answer, of_fallback, "{what}"),
        By::Nobody { error, message } => {
            // An error inside a stream comes under the status that the stream began with.
            let Answer::Error {
                status,
                error: told,
                message: text,
            } = &seen.answer
            else {
                panic!("{what}");
            };
            assert!(
                matches!(status, 200 | 400) && told == error && text == message,
                "{what}"
            );
        }
    }
    assert!(row.primary.contains(&seen.primary.len()), "{what}");
    let below = usize::from(row.by == By::Fallback);
    assert_eq!(seen.fallback.len(), below, "{what}");
    paced(&what, &seen.primary);
    for pair in seen.primary.windows(2) {
        let [before, after] = pair else { continue };
        let refused = before
            .status
            .is_some_and(|status| REFUSALS.contains(&status));
        assert!(!refused, "a refusal was sent again: {what}");
        if let Some(answered) = before.answered {
            assert!(after.at >= answered + row.hint, "before the hint: {what}");
        }
    }
    let asked: Value = serde_json::from_str(&row.body(stream)).unwrap();
    for messages in &seen.messages {
        assert_eq!(
            *messages,
            asked["messages"].to_string(),
            "asked from the beginning"
        );
    }
    let seconds = seen.took.as_secs_f64();
    assert!(row.seconds.contains(&seconds), "{what}");
    format!(
        "{:<44} {form:<9} {:>7} {:>8} {seconds:>8.2}  {}",
        row.name,
        seen.primary.len(),
        seen.fallback.len(),
        Outcome(row.by)
    )
}

/// The head of the table.
pub(crate) fn head() -> String {
    format!(
        "{:<44} {:<9} {:>7} {:>8} {:>8}  outcome",
        "fault", "form", "primary", "fallback", "seconds"
    )
}

struct Outcome(By);

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            By::Primary => f.write_str("whole, from the primary"),
            By::Fallback => f.write_str("whole, from the fallback"),
            By::Nobody { error, .. } => f.write_str(error),
        }
    }
}
