//! What goes wrong at the first target, and what a reader of the provider's documents says of it.

use std::time::Duration;

use seawall::sim::{Fault, FaultKind};
use seawall::transport::Broken;
use seawall::verdict::label;
use serde_json::json;

use super::State;

/// What the first target does.
#[derive(Debug, Clone)]
pub(crate) enum How {
    /// The simulated provider fails so.
    Fault(Fault),
    /// These bytes come back.
    Says { status: u16, body: String },
    /// Nothing comes back.
    Breaks(Broken),
    /// Nothing comes back, and then the process is told to leave.
    Leaves,
    /// The model answers that it will not answer.
    Declines,
    /// Nothing, since it is in this state before the call comes.
    Is(State),
}

/// What is to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The provider says when, which is soon, and then answers.
    Heals,
    /// It may pass: tried again here, and elsewhere when the attempts are spent.
    Passes,
    /// The same of a quota.
    Refills,
    /// Not again here, elsewhere at once.
    NotHere,
    /// The quota has nothing for this request in time.
    NoQuota,
    /// Another credential may do.
    Credential,
    /// A larger context may do.
    TooLong,
    /// It may exist elsewhere.
    Missing,
    /// Nobody would answer it.
    Stands,
    /// Another may answer it, if the operator says so.
    Refused,
    /// The same of a refusal that is an answer, and is else handed on as one.
    Declined,
    /// Its breaker lets nothing pass: elsewhere at once, else it is waited for.
    Barred,
    /// Its quota lets nothing pass in time.
    UsedUp,
    /// It can't carry the request and is skipped.
    Unfit,
}

/// In which form it can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Both,
    Streamed,
    Whole,
}

#[derive(Debug, Clone)]
pub(crate) struct Trouble {
    pub(crate) label: &'static str,
    pub(crate) how: How,
    pub(crate) fate: Fate,
    /// The status and the type of the error that the caller gets in the end.
    pub(crate) status: u16,
    pub(crate) kind: &'static str,
    pub(crate) form: Form,
    /// Whether it says that there is too much to do.
    pub(crate) overloaded: bool,
}

/// The error that a call ends in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) label: &'static str,
    pub(crate) status: u16,
    pub(crate) kind: &'static str,
}

impl Ending {
    /// A breaker lets no call pass.
    pub(crate) const BARRED: Self = Self::new("breaker_open", 503, "overloaded_error");
    /// A quota has nothing left in time.
    pub(crate) const USED_UP: Self = Self::new("quota_exhausted", 429, LIMITED);
    /// No target can carry the request.
    const UNFIT: Self = Self::new("unfit", 400, INVALID);

    const fn new(label: &'static str, status: u16, kind: &'static str) -> Self {
        Self {
            label,
            status,
            kind,
        }
    }
}

impl Trouble {
    pub(crate) const fn ending(&self) -> Ending {
        Ending::new(self.label, self.status, self.kind)
    }

    /// What keeps a call from being sent to the first target at all.
    const fn state(state: State, fate: Fate, ending: Ending) -> Self {
        let error = (ending.status, ending.kind);
        Self::new(ending.label, How::Is(state), fate, error)
    }

    const fn new(label: &'static str, how: How, fate: Fate, error: (u16, &'static str)) -> Self {
        Self {
            label,
            how,
            fate,
            status: error.0,
            kind: error.1,
            form: Form::Both,
            overloaded: false,
        }
    }

    const fn in_form(mut self, form: Form) -> Self {
        self.form = form;
        self
    }

    const fn overloaded(mut self) -> Self {
        self.overloaded = true;
        self
    }
}

fn says(status: u16, kind: &str, message: &str) -> How {
    let body = json!({
        "type": "error", "error": { "type": kind, "message": message },
        "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy",
    });
    How::Says {
        status,
        body: body.to_string(),
    }
}

const fn fails(kind: FaultKind) -> How {
    How::Fault(Fault::new(kind))
}

const INVALID: &str = "invalid_request_error";
const LIMITED: &str = "rate_limit_error";

/// Every verdict, at least once.
pub(crate) fn all() -> Vec<Trouble> {
    [credentials(), requests(), quotas(), targets(), ways()].concat()
}

/// What keeps a call from the first target before it is sent.
pub(crate) fn states() -> Vec<Trouble> {
    vec![
        Trouble::state(State::Open, Fate::Barred, Ending::BARRED),
        Trouble::state(State::Exhausted, Fate::UsedUp, Ending::USED_UP),
        Trouble::state(State::Unfit, Fate::Unfit, Ending::UNFIT),
    ]
}

/// One of each kind, for what does not depend on the verdict but on what is done about it.
pub(crate) fn kinds() -> Vec<Trouble> {
    let mut kinds: Vec<Trouble> = Vec::new();
    for trouble in all().into_iter().chain(states()) {
        let same = |known: &Trouble| {
            (known.fate, known.overloaded) == (trouble.fate, trouble.overloaded)
                && known.form == trouble.form
        };
        if !kinds.iter().any(same) {
            kinds.push(trouble);
        }
    }
    kinds
}

fn credentials() -> Vec<Trouble> {
    use FaultKind as K;
    let new = Trouble::new;
    vec![
        new(
            label::AUTHENTICATION,
            fails(K::Authentication),
            Fate::Credential,
            (401, "authentication_error"),
        ),
        new(
            label::BILLING,
            says(402, "billing_error", "Your organization is on hold."),
            Fate::Credential,
            (402, "billing_error"),
        ),
        new(
            label::BILLING,
            says(
                400,
                INVALID,
                "Your credit balance is too low to access the API.",
            ),
            Fate::Credential,
            (400, INVALID),
        ),
        new(
            label::PERMISSION,
            fails(K::Permission),
            Fate::Credential,
            (403, "permission_error"),
        ),
    ]
}

fn requests() -> Vec<Trouble> {
    use FaultKind as K;
    let new = Trouble::new;
    let too_long = "prompt is too long: 210000 tokens > 200000 maximum";
    vec![
        new(
            label::INVALID_REQUEST,
            fails(K::InvalidRequest),
            Fate::Stands,
            (400, INVALID),
        ),
        new(
            label::TOO_LARGE,
            fails(K::TooLarge),
            Fate::Stands,
            (413, "request_too_large"),
        ),
        new(
            label::CONFLICT,
            says(409, "conflict_error", "The container is in use."),
            Fate::Passes,
            (409, "conflict_error"),
        ),
        new(
            label::MODEL_NOT_FOUND,
            says(404, "not_found_error", "model: claude-haiku-4-5"),
            Fate::Missing,
            (404, "not_found_error"),
        ),
        new(
            label::NOT_FOUND,
            says(404, "not_found_error", "Not found"),
            Fate::Missing,
            (404, "not_found_error"),
        ),
        new(
            label::PROMPT_TOO_LONG,
            says(400, INVALID, too_long),
            Fate::TooLong,
            (400, INVALID),
        ),
        new(
            label::REFUSED,
            fails(K::ContentFiltered),
            Fate::Refused,
            (400, INVALID),
        ),
        new(label::REFUSED, How::Declines, Fate::Declined, (200, "")),
    ]
}

fn quotas() -> Vec<Trouble> {
    use FaultKind as K;
    let limited = |retry_after: Option<u64>| Fault {
        retry_after: retry_after.map(Duration::from_secs),
        ..Fault::new(K::RateLimited)
    };
    let never = Fault {
        should_retry: Some(false),
        ..limited(None)
    };
    let new = |label, fault, fate| Trouble::new(label, How::Fault(fault), fate, (429, LIMITED));
    vec![
        new(
            label::RATE_LIMITED,
            limited(Some(2)).on_attempts(1, 1),
            Fate::Heals,
        ),
        new(label::RATE_LIMITED, limited(Some(600)), Fate::NoQuota),
        new(label::RATE_LIMITED, limited(None), Fate::Refills),
        new(label::TOO_LARGE_FOR_QUOTA, never, Fate::NoQuota),
        new(label::RAMP_LIMIT, Fault::new(K::RampLimited), Fate::Refills),
        new(
            label::CONCURRENCY_LIMIT,
            Fault::new(K::ConcurrentConnections),
            Fate::Refills,
        ),
        new(
            label::SPEND_LIMIT,
            Fault::new(K::SpendCap),
            Fate::Credential,
        ),
    ]
}

fn targets() -> Vec<Trouble> {
    use FaultKind as K;
    let api = "api_error";
    let passes = |label, kind, status, error| {
        Trouble::new(label, fails(kind), Fate::Passes, (status, error))
    };
    let internal = |should_retry| {
        How::Fault(Fault {
            should_retry,
            ..Fault::new(K::Internal)
        })
    };
    vec![
        passes(label::BAD_GATEWAY, K::BadGateway, 502, ""),
        passes(label::UNAVAILABLE, K::Unavailable, 503, ""),
        passes(label::SERVER_TIMEOUT, K::Timeout, 504, "timeout_error"),
        passes(label::OVERLOADED, K::Overloaded, 529, "overloaded_error").overloaded(),
        Trouble::new(
            label::SERVER_ERROR,
            internal(Some(true)),
            Fate::Passes,
            (500, api),
        ),
        // As the real provider says of each of them.
        Trouble::new(
            label::SERVER_ERROR,
            internal(None),
            Fate::NotHere,
            (500, api),
        ),
        Trouble::new(
            label::REDIRECTED,
            How::Says {
                status: 301,
                body: String::new(),
            },
            Fate::NotHere,
            (301, ""),
        ),
        passes(label::MALFORMED, K::MalformedEvent, 502, api),
        passes(label::TRUNCATED, K::CutStream, 502, api).in_form(Form::Streamed),
        passes(label::TRUNCATED, K::TruncatedJson, 502, api).in_form(Form::Whole),
    ]
}

fn ways() -> Vec<Trouble> {
    use FaultKind as K;
    let breaks =
        |label, broken, error| Trouble::new(label, How::Breaks(broken), Fate::Passes, error);
    let silent = |label, kind, form| {
        Trouble::new(label, fails(kind), Fate::Passes, (504, "timeout_error")).in_form(form)
    };
    let api = (502, "api_error");
    vec![
        breaks(label::CONNECT, Broken::Connect, api),
        breaks(
            label::CONNECT_TIMEOUT,
            Broken::ConnectTimeout,
            (504, "timeout_error"),
        ),
        breaks(label::DISCONNECTED, Broken::BeforeHeaders, api),
        breaks(label::PROTOCOL, Broken::Protocol, api),
        Trouble::new(
            label::DISCONNECTED,
            fails(K::ResetAfterHeaders),
            Fate::Passes,
            api,
        ),
        silent(label::HEADERS_TIMEOUT, K::NoAnswer, Form::Streamed).overloaded(),
        silent(
            label::FIRST_CONTENT_TIMEOUT,
            K::StallBeforeContent,
            Form::Streamed,
        )
        .overloaded(),
        silent(label::STALLED, K::StallInStream, Form::Streamed),
        silent(label::TOTAL_TIMEOUT, K::NoAnswer, Form::Whole).overloaded(),
        Trouble::new(
            label::DRAINING,
            How::Leaves,
            Fate::Stands,
            (503, "overloaded_error"),
        ),
    ]
}
