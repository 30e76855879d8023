//! What one attempt came to, in the queue's terms.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Why a job failed, or why it will be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorKind {
    /// The API refused the request as such.
    InvalidRequest,
    /// No such model, or not for this method.
    ModelNotFound,
    /// A safety filter stopped prompt or answer.
    Blocked,
    /// The answer repeated its training data.
    Recitation,
    /// The output limit was reached before any text, or before text that counts.
    Truncated,
    /// A 200 without text, for no named reason.
    Empty,
    /// A 200 whose body is no JSON, or is cut.
    MalformedResponse,
    /// A media file is gone, unreadable or refused.
    Media,
    /// 503: the model has too much to do.
    Overloaded,
    /// Another 5xx, HTML pages too.
    ServerError,
    /// The connection was refused, reset or cut.
    Network,
    /// The call took longer than it may.
    Timeout,
    /// A fault of gq itself.
    Internal,
    /// A person cancelled the job.
    Cancelled,
    /// The answer does not fit the response schema.
    InvalidOutput,
    /// The process died while the call was in flight.
    UnknownOutcome,
}

const KINDS: [(ErrorKind, &str); 16] = [
    (ErrorKind::InvalidRequest, "invalid_request"),
    (ErrorKind::ModelNotFound, "model_not_found"),
    (ErrorKind::Blocked, "blocked"),
    (ErrorKind::Recitation, "recitation"),
    (ErrorKind::Truncated, "truncated"),
    (ErrorKind::Empty, "empty"),
    (ErrorKind::MalformedResponse, "malformed_response"),
    (ErrorKind::Media, "media"),
    (ErrorKind::Overloaded, "overloaded"),
    (ErrorKind::ServerError, "server_error"),
    (ErrorKind::Network, "network"),
    (ErrorKind::Timeout, "timeout"),
    (ErrorKind::Internal, "internal"),
    (ErrorKind::Cancelled, "cancelled"),
    (ErrorKind::InvalidOutput, "invalid_output"),
    (ErrorKind::UnknownOutcome, "unknown_outcome"),
];

impl ErrorKind {
    /// Returns the name that users and the database see.
    pub fn as_str(self) -> &'static str {
        KINDS.iter().find(|(kind, _)| *kind == self).map_or("internal", |(_, name)| name)
    }

    /// Returns whether the same call can end better: the API's sheet and the official clients
    /// retry these and no others.
    pub fn is_retryable(self) -> bool {
        match self {
            Self::Empty
            | Self::MalformedResponse
            | Self::Overloaded
            | Self::ServerError
            | Self::Network
            | Self::Timeout
            | Self::Internal
            | Self::InvalidOutput => true,
            Self::InvalidRequest
            | Self::ModelNotFound
            | Self::Blocked
            | Self::Recitation
            | Self::Truncated
            | Self::Media
            | Self::Cancelled
            | Self::UnknownOutcome => false,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ErrorKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = KINDS.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
        KINDS
            .iter()
            .find(|(_, name)| *name == text)
            .map(|(kind, _)| *kind)
            .ok_or_else(|| format!("`{text}` is no kind of error; there are {names}"))
    }
}

/// Whether the API may have billed a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paid {
    /// It surely was not: refused before it was sent, or answered with an error that costs nothing.
    No,
    /// The request was sent and its answer is not known whole.
    Maybe,
    /// An answer with usage came.
    Yes,
}

impl Paid {
    /// Returns the name that users and the database see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Maybe => "maybe",
            Self::Yes => "yes",
        }
    }
}

/// Tokens of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Input, cached tokens included.
    pub prompt_tokens: i64,
    /// The part of the input that came from a cache.
    pub cached_tokens: i64,
    /// The answer's candidates.
    pub output_tokens: i64,
    /// Thinking.
    pub thought_tokens: i64,
    /// The API's own total.
    pub total_tokens: i64,
}

/// The quota that a 429 says is used up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exhaustion {
    /// Requests or tokens a minute, or a bare delay; the time until it frees, where one was named.
    Short {
        /// The rest that the server asked for.
        delay: Option<Duration>,
    },
    /// A daily quota: until the next midnight in `America/Los_Angeles`.
    Day,
    /// The project has no quota at all for this model.
    NoQuota,
}

/// What one attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A usable answer.
    Answered,
    /// A failure of the job's own or of the way there; [`ErrorKind::is_retryable`] tells which.
    Failed(ErrorKind),
    /// A 429: it is the slot's affair, the job waits.
    Exhausted(Exhaustion),
    /// The key is not good (400 `API_KEY_INVALID`, 401, 403): it is the key's affair.
    BadKey,
    /// The API serves nobody from this address: no job's and no key's fault.
    LocationRefused,
    /// The key may not use a file that the request names, or not yet: another key or a later try
    /// may.
    FileRefused,
    /// The API no longer has an uploaded file: it is uploaded again and the job waits.
    FileExpired,
    /// We cut it ourselves, at a stop or a cancel.
    Cut,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_reads_back_from_its_name() {
        for (kind, name) in KINDS {
            assert_eq!(name.parse::<ErrorKind>(), Ok(kind));
            assert_eq!(kind.to_string(), name);
        }
        assert!("nonsense".parse::<ErrorKind>().unwrap_err().contains("unknown_outcome"));
    }
}
