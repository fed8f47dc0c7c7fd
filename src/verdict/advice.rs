//! What the reader of an error can do about it, in one sentence.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// What would help, with the figures that the provider gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Advice {
    /// Nothing to do.
    #[default]
    None,
    /// The credential is wrong.
    CheckCredential,
    /// Payment is the problem.
    Billing,
    /// The prepaid credit is used up.
    CreditBalance,
    /// A spend cap is reached.
    SpendLimit {
        /// When it lifts, where that is known.
        until: Option<Timestamp>,
    },
    /// The credential may not do this.
    Permission,
    /// The model does not exist for this credential.
    ModelNotFound {
        /// The model, as the provider names it.
        model: String,
    },
    /// The address or the thing it names does not exist.
    CheckPath,
    /// The body has too many bytes.
    TooLarge,
    /// The prompt has too many tokens.
    PromptTooLong {
        /// The prompt's size.
        tokens: Option<u64>,
        /// What the model takes.
        maximum: Option<u64>,
    },
    /// Prompt and answer together would not fit.
    ContextLimit {
        /// The prompt's size.
        input: u64,
        /// The answer's size as asked for.
        max_tokens: u64,
        /// What the model takes of both together.
        limit: u64,
    },
    /// The answer takes too long.
    ShortenOrStream,
    /// One request is larger than a whole quota.
    TooLargeForQuota,
    /// The quota is used up for the moment.
    SlowDown,
    /// Usage grew too fast.
    RampUp,
    /// The fast mode's quota is used up.
    DropFastMode,
    /// Too many requests at the same time.
    FewerAtOnce,
    /// A subscription's window is used up.
    WindowSpent,
    /// A limit without a name refused the request for good.
    UnnamedLimit,
    /// The model has too much to do.
    Overloaded,
    /// A transient failure at the provider.
    TryLater,
    /// The provider cannot be reached.
    CheckNetwork,
    /// What answers is not the API.
    CheckBaseUrl,
    /// The request came with an `Origin` header.
    RemoveOrigin,
    /// A field came without its beta header.
    KeepBetaHeader,
    /// The state that the request speaks of has moved.
    ResolveConflict,
    /// The request is wrong as it is.
    FixRequest,
    /// The model refused to answer it.
    Refused,
}

impl Advice {
    /// The sentence; empty for [`Advice::None`].
    #[must_use]
    pub fn sentence(&self, credential_source: &str) -> String {
        match self {
            Self::CheckCredential => format!(
                "The provider refused the credential from {credential_source}: check that it is complete, belongs to this provider and has not been revoked."
            ),
            Self::Billing => format!(
                "Settle the payment problem of the account behind the credential from {credential_source}."
            ),
            Self::CreditBalance => format!(
                "Buy credit for the organisation behind the credential from {credential_source}, or use another credential."
            ),
            Self::SpendLimit { until: Some(until) } => format!(
                "The spend limit behind the credential from {credential_source} is reached until {}: raise it in the provider's console, or use another credential.",
                day(*until)
            ),
            Self::SpendLimit { until: None } => format!(
                "The spend limit behind the credential from {credential_source} is reached: raise it in the provider's console, or use another credential."
            ),
            Self::Permission => format!(
                "The credential from {credential_source} is valid but not allowed to do this: check its workspace and permissions."
            ),
            Self::ModelNotFound { model } => format!(
                "There is no model `{model}` for the credential from {credential_source}: check its spelling and whether it is retired; GET /v1/models lists what there is."
            ),
            Self::PromptTooLong {
                tokens: Some(tokens),
                maximum: Some(maximum),
            } => format!(
                "Shorten the prompt by at least {} tokens ({tokens} of at most {maximum}), or use a model with a larger context.",
                tokens.saturating_sub(*maximum)
            ),
            Self::ContextLimit { input, limit, .. } if input < limit => format!(
                "Lower max_tokens to at most {} (the prompt takes {input} of {limit} tokens), or shorten the prompt.",
                limit.saturating_sub(*input)
            ),
            Self::ContextLimit { input, limit, .. } => format!(
                "Shorten the prompt: it takes {input} of {limit} tokens and leaves no room for an answer."
            ),
            plain => plain.fixed_sentence().to_owned(),
        }
    }

    /// The sentences without a figure or name in them.
    const fn fixed_sentence(&self) -> &'static str {
        match self {
            Self::CheckPath => {
                "Check the path and the ids in it: the provider has nothing at this address."
            }
            Self::TooLarge => {
                "Make the request body smaller: the Messages API takes up to 32 MB; send large files by reference."
            }
            Self::PromptTooLong { .. } => {
                "Shorten the prompt, or use a model with a larger context."
            }
            Self::ShortenOrStream => {
                "If it repeats on one request, shorten the prompt, lower max_tokens or stream the answer."
            }
            Self::TooLargeForQuota => {
                "This request alone is larger than the quota's minute, so waiting cannot help: shorten the prompt, use a model with a larger quota, or have the limit raised."
            }
            Self::SlowDown => {
                "The quota is used up for the moment: wait as long as the provider says, send less at once, or have the limit raised."
            }
            Self::RampUp => "Usage grew too fast: raise the rate of requests gradually.",
            Self::DropFastMode => {
                "The fast mode's quota is used up: wait, or send the request without `speed`."
            }
            Self::FewerAtOnce => "Too many requests are open at once: lower the concurrency.",
            Self::WindowSpent => {
                "The subscription's usage window is used up: wait for its reset, or use an API key."
            }
            Self::UnnamedLimit => {
                "The provider refused the request by a limit that it does not name, and asks not to be sent it again: check the account's limits in its console."
            }
            Self::Overloaded => {
                "The model is overloaded for everybody: wait, or let another model answer."
            }
            Self::TryLater => {
                "The failure is on the provider's side: try again later, or let another model or provider answer."
            }
            Self::CheckNetwork => {
                "Check the base URL, name resolution, proxy and firewall between here and the provider."
            }
            Self::CheckBaseUrl => {
                "What answers at the base URL is not the provider's API: check scheme, host, port and path."
            }
            Self::RemoveOrigin => {
                "The organisation refuses browsers: send the request from a server, without an `Origin` header; the key itself may be fine."
            }
            Self::KeepBetaHeader => {
                "A field of the request is not known without its beta: send the matching `anthropic-beta` header and keep proxies from stripping it."
            }
            Self::ResolveConflict => {
                "Something else changed or holds what this request works on: let it finish, read the state again, then repeat."
            }
            Self::Refused => {
                "The provider will not answer this content: change it, or give the route a rung with on = [\"refused\"]."
            }
            Self::FixRequest => "Correct the request as the provider's message says.",
            Self::None
            | Self::CheckCredential
            | Self::Billing
            | Self::CreditBalance
            | Self::SpendLimit { .. }
            | Self::Permission
            | Self::ModelNotFound { .. }
            | Self::ContextLimit { .. } => "",
        }
    }
}

fn day(at: Timestamp) -> String {
    TimeZone::UTC
        .to_datetime(at)
        .strftime("%Y-%m-%d %H:%M UTC")
        .to_string()
}
