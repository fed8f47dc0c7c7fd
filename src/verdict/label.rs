//! The words that verdicts carry into logs and metrics. Few and fixed, so that a metric's series stay
//! bounded.

/// A wrong, revoked or missing credential.
pub const AUTHENTICATION: &str = "authentication";
/// An edge or proxy answered in place of the API.
pub const BAD_GATEWAY: &str = "bad_gateway";
/// No money on the account.
pub const BILLING: &str = "billing";
/// Too many requests at the same time.
pub const CONCURRENCY_LIMIT: &str = "concurrency_limit";
/// The state that the request speaks of has moved.
pub const CONFLICT: &str = "conflict";
/// No connection.
pub const CONNECT: &str = "connect";
/// No connection in time.
pub const CONNECT_TIMEOUT: &str = "connect_timeout";
/// The connection ended early.
pub const DISCONNECTED: &str = "disconnected";
/// The answer was ended by a stop of this process.
pub const DRAINING: &str = "draining";
/// No first content in time.
pub const FIRST_CONTENT_TIMEOUT: &str = "first_content_timeout";
/// No status line in time.
pub const HEADERS_TIMEOUT: &str = "headers_timeout";
/// A request that nobody will take as it is.
pub const INVALID_REQUEST: &str = "invalid_request";
/// An answer that cannot be read.
pub const MALFORMED: &str = "malformed";
/// A model that does not exist here.
pub const MODEL_NOT_FOUND: &str = "model_not_found";
/// Another thing that does not exist here.
pub const NOT_FOUND: &str = "not_found";
/// The provider has too much to do.
pub const OVERLOADED: &str = "overloaded";
/// The credential may not do this.
pub const PERMISSION: &str = "permission";
/// More tokens than the model takes.
pub const PROMPT_TOO_LONG: &str = "prompt_too_long";
/// What came was not HTTP.
pub const PROTOCOL: &str = "protocol";
/// Usage grew too fast.
pub const RAMP_LIMIT: &str = "ramp_limit";
/// A quota is used up for the moment.
pub const RATE_LIMITED: &str = "rate_limited";
/// The API is not at this address.
pub const REDIRECTED: &str = "redirected";
/// The model will not answer this.
pub const REFUSED: &str = "refused";
/// An internal error of the provider.
pub const SERVER_ERROR: &str = "server_error";
/// The provider ran out of time itself.
pub const SERVER_TIMEOUT: &str = "server_timeout";
/// A spend cap is reached.
pub const SPEND_LIMIT: &str = "spend_limit";
/// The answer fell silent.
pub const STALLED: &str = "stalled";
/// More bytes than the API takes.
pub const TOO_LARGE: &str = "too_large";
/// One request that is larger than a whole quota.
pub const TOO_LARGE_FOR_QUOTA: &str = "too_large_for_quota";
/// The attempt took too long as a whole.
pub const TOTAL_TIMEOUT: &str = "total_timeout";
/// The answer ended before it was complete.
pub const TRUNCATED: &str = "truncated";
/// The provider is not there for the moment.
pub const UNAVAILABLE: &str = "unavailable";

/// Those that say that one of an attempt's clocks ran out.
pub const TIMEOUTS: [&str; 5] = [
    CONNECT_TIMEOUT,
    HEADERS_TIMEOUT,
    FIRST_CONTENT_TIMEOUT,
    STALLED,
    TOTAL_TIMEOUT,
];

/// Every label above, for whoever lists series beforehand.
pub const ALL: [&str; 32] = [
    AUTHENTICATION,
    BAD_GATEWAY,
    BILLING,
    CONCURRENCY_LIMIT,
    CONFLICT,
    CONNECT,
    CONNECT_TIMEOUT,
    DISCONNECTED,
    DRAINING,
    FIRST_CONTENT_TIMEOUT,
    HEADERS_TIMEOUT,
    INVALID_REQUEST,
    MALFORMED,
    MODEL_NOT_FOUND,
    NOT_FOUND,
    OVERLOADED,
    PERMISSION,
    PROMPT_TOO_LONG,
    PROTOCOL,
    RAMP_LIMIT,
    RATE_LIMITED,
    REDIRECTED,
    REFUSED,
    SERVER_ERROR,
    SERVER_TIMEOUT,
    SPEND_LIMIT,
    STALLED,
    TOO_LARGE,
    TOO_LARGE_FOR_QUOTA,
    TOTAL_TIMEOUT,
    TRUNCATED,
    UNAVAILABLE,
];
