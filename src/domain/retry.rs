//! How long a job waits before it is tried again.

use std::time::Duration;

use crate::domain::outcome::ErrorKind;

/// The ceiling of the first delay; it doubles with each failure.
const FIRST: Duration = Duration::from_secs(1);

/// No delay is longer than this.
pub const LONGEST: Duration = Duration::from_mins(2);

/// An answer that is empty or does not fit is paid for and mostly the same the next time.
const PAID_TRIES: i64 = 3;

/// Returns the delay after the `failures`-th failure (1 for the first): exponential backoff with
/// full jitter, `jitter` in `0.0..1.0`.
pub fn delay(failures: i64, jitter: f64) -> Duration {
    let doublings = u32::try_from(failures.clamp(1, 20) - 1).unwrap_or(0);
    FIRST.saturating_mul(1 << doublings).min(LONGEST).mul_f64(jitter.clamp(0.0, 1.0))
}

/// The first delay of a job that stands back by more than the others' turn, and the longest.
const STAND_BACK: (Duration, Duration) = (Duration::from_secs(15), Duration::from_mins(5));

/// Returns the delay of a job that met the rate limit of a key, after it did so `refused` times
/// before: at first it lets the others go, then it waits longer with each time.
pub fn stand_back(refused: i64) -> Duration {
    let doublings = u32::try_from((refused - 3).clamp(0, 20)).unwrap_or(0);
    let (first, longest) = STAND_BACK;
    if refused < 3 { Duration::ZERO } else { first.saturating_mul(1 << doublings).min(longest) }
}

/// Returns how many attempts a job may use on failures of `kind` alone; absent where only the
/// attempts in all are limited.
pub fn allowed(kind: ErrorKind) -> Option<i64> {
    match kind {
        ErrorKind::Empty | ErrorKind::InvalidOutput => Some(PAID_TRIES),
        kind if kind.is_retryable() => None,
        _ => Some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest() {
        let whole = |failures| delay(failures, 1.0).as_secs();
        assert_eq!(
            [whole(1), whole(2), whole(3), whole(7), whole(8), whole(999)],
            [1, 2, 4, 64, 120, 120]
        );
        assert_eq!(delay(3, 0.5), Duration::from_secs(2));
        assert_eq!(delay(3, 0.0), Duration::ZERO);
    }

    #[test]
    fn only_what_retrying_can_cure_is_tried_again() {
        assert_eq!(allowed(ErrorKind::Network), None);
        assert_eq!(allowed(ErrorKind::Empty), Some(3));
        assert_eq!(allowed(ErrorKind::InvalidOutput), Some(3));
        assert_eq!(allowed(ErrorKind::InvalidRequest), Some(1));
        assert_eq!(allowed(ErrorKind::Truncated), Some(1));
    }
}
