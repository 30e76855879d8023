//! How fast the queue calls the API, how it rests, and what it may spend.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::limits::GivenLimits;
use crate::domain::price::Prices;

/// What to do when every key that could work rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnExhausted {
    /// Wait for the first that wakes.
    #[default]
    Wait,
    /// Stop and leave the work for later.
    Exit,
}

impl FromStr for OnExhausted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "wait" => Ok(Self::Wait),
            "exit" => Ok(Self::Exit),
            _ => Err(format!("`{text}` must be `wait` or `exit`")),
        }
    }
}

/// What to do with a job whose call was in flight when its process died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnUnknown {
    /// Call again, and pay twice at worst.
    #[default]
    Retry,
    /// Fail it as `unknown_outcome`.
    Fail,
}

impl FromStr for OnUnknown {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "retry" => Ok(Self::Retry),
            "fail" => Ok(Self::Fail),
            _ => Err(format!("`{text}` must be `retry` or `fail`")),
        }
    }
}

/// A set of defaults for [`Pacing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pace {
    /// As fast as the limits allow.
    #[default]
    Full,
    /// Slow enough for free keys.
    Gentle,
}

impl FromStr for Pace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "full" => Ok(Self::Full),
            "gentle" => Ok(Self::Gentle),
            _ => Err(format!("`{text}` must be `full` or `gentle`")),
        }
    }
}

/// The pacing settings of a worker.
#[derive(Debug, Clone, PartialEq)]
pub struct Pacing {
    /// The shortest time between any two calls of all processes on a database.
    pub api_call_interval: Duration,
    /// The rest of a key after each use.
    pub key_cooldown: Duration,
    /// The rest of one worker after each call.
    pub worker_cooldown: Duration,
    /// The shortest rest of a slot after a 429 that names no time.
    pub exhausted_wait: Duration,
    /// The rest of a slot that is counted out, when no reset time is known.
    pub fully_exhausted_wait: Duration,
    /// 429s in a row before a slot is counted out.
    pub max_exhausted_retries: u32,
    /// Limits of each slot.
    pub limits: GivenLimits,
    /// What to do when every key rests.
    pub on_exhausted: OnExhausted,
    /// The longest that one call may take.
    pub request_timeout: Duration,
    /// The most bytes that a request may have with its media in it.
    pub inline_limit: u64,
    /// Calls that may be made for the jobs in scope.
    pub max_requests: Option<u64>,
    /// Tokens that the jobs in scope may use.
    pub max_tokens: Option<u64>,
    /// Billionths of a USD that the jobs in scope may cost.
    pub max_cost: Option<i64>,
    /// What calls cost.
    pub prices: Arc<Prices>,
    /// What to do with a job whose process died in its call.
    pub on_unknown: OnUnknown,
}

impl Pacing {
    /// Returns the defaults of `pace`.
    pub fn of(pace: Pace) -> Self {
        let (call, key, worker) = match pace {
            Pace::Full => (0, 0, 0),
            Pace::Gentle => (2, 30, 5),
        };
        Self {
            api_call_interval: Duration::from_secs(call),
            key_cooldown: Duration::from_secs(key),
            worker_cooldown: Duration::from_secs(worker),
            exhausted_wait: Duration::from_mins(2),
            fully_exhausted_wait: Duration::from_hours(12),
            max_exhausted_retries: 3,
            limits: GivenLimits::default(),
            on_exhausted: OnExhausted::Wait,
            request_timeout: Duration::from_mins(10),
            inline_limit: 20_000_000,
            max_requests: None,
            max_tokens: None,
            max_cost: None,
            prices: Arc::new(Prices::default()),
            on_unknown: OnUnknown::Retry,
        }
    }
}

impl Default for Pacing {
    fn default() -> Self {
        Self::of(Pace::Full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gentle_differs_in_three_rests() {
        let gentle = Pacing::of(Pace::Gentle);
        assert_eq!(gentle.api_call_interval, Duration::from_secs(2));
        assert_eq!(gentle.key_cooldown, Duration::from_secs(30));
        assert_eq!(gentle.worker_cooldown, Duration::from_secs(5));
        let zero = Duration::ZERO;
        let full =
            Pacing { api_call_interval: zero, key_cooldown: zero, worker_cooldown: zero, ..gentle };
        assert_eq!(full, Pacing::default());
    }

    #[test]
    fn choices_are_read_by_name() {
        assert_eq!("exit".parse(), Ok(OnExhausted::Exit));
        assert_eq!("fail".parse(), Ok(OnUnknown::Fail));
        assert_eq!("gentle".parse(), Ok(Pace::Gentle));
        assert!("never".parse::<OnUnknown>().is_err());
    }
}
