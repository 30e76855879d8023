//! How many calls of a model may be in flight after the API said that it has too much to do: halved
//! at each burst of such answers, raised by one with each round of good ones (the additive increase
//! and multiplicative decrease of TCP, RFC 5681). 503 and 504 are of the model, not of the key.

use crate::domain::time::Timestamp;

/// Thousandths of a call.
const CALL: i64 = 1_000;

/// With so many calls allowed nothing is limited.
const NO_LIMIT: i64 = 1_000 * CALL;

/// What overload left of a model's concurrency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Overload {
    /// Calls in flight that are allowed, in thousandths, where they are limited.
    pub allowed: Option<i64>,
    /// When it was lowered last.
    pub lowered_at: Option<Timestamp>,
}

impl Overload {
    /// Returns how many calls may be in flight.
    pub fn most(&self) -> i64 {
        self.allowed.map_or(i64::MAX, |allowed| allowed / CALL)
    }

    /// Returns the state after a 503 or 504 of a call that began at `started_at`, with `in_flight`
    /// calls of the model at the time. What began before the last lowering tells nothing new.
    #[must_use]
    pub fn after_overload(self, in_flight: i64, started_at: Timestamp, now: Timestamp) -> Self {
        if self.lowered_at.is_some_and(|lowered| started_at <= lowered) {
            return self;
        }
        let before = self.most().min(in_flight.max(1)).saturating_mul(CALL);
        Self { allowed: Some((before / 2).max(CALL)), lowered_at: Some(now) }
    }

    /// Returns the state after an answer to a call that began at `started_at`.
    #[must_use]
    pub fn after_success(self, started_at: Timestamp) -> Self {
        if self.lowered_at.is_some_and(|lowered| started_at <= lowered) {
            return self;
        }
        let raised = self.allowed.map(|allowed| allowed + (CALL * CALL / allowed).max(1));
        Self { allowed: raised.filter(|allowed| *allowed < NO_LIMIT), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_halves_once_and_each_round_of_answers_adds_one() {
        let mut model = Overload::default();
        assert_eq!(model.most(), i64::MAX);
        for started in [5, 6, 10] {
            model = model.after_overload(16, Timestamp(started), Timestamp(10));
        }
        assert_eq!(model.most(), 8);
        assert_eq!(model.after_success(Timestamp(10)), model, "it began before");
        for _ in 0..9 {
            model = model.after_success(Timestamp(11));
        }
        assert_eq!(model.most(), 9);
        model = model.after_overload(3, Timestamp(12), Timestamp(13));
        assert_eq!(model.most(), 1, "from what was really in flight");
        model = model.after_overload(1, Timestamp(14), Timestamp(15));
        assert_eq!(model.most(), 1, "one call always tries");
    }

    #[test]
    fn in_the_end_nothing_is_limited() {
        let mut model = Overload::default().after_overload(1_900, Timestamp(1), Timestamp(2));
        let mut rounds = 0;
        while model.allowed.is_some() {
            model = model.after_success(Timestamp(3));
            rounds += 1;
        }
        assert!((45_000..60_000).contains(&rounds), "{rounds}");
    }
}
