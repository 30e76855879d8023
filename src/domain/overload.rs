//! How many calls of a model may be in flight after the API said that it has too much to do: halved
//! at each burst of such answers, raised by one with each round of good ones (the additive increase
//! and multiplicative decrease of TCP, RFC 5681). 503 and 504 are of the model, not of the key.

use std::time::Duration;

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
    /// Overloads in a row with one call at a time.
    pub streak: i64,
    /// Until when no call is made at all.
    pub rest_until: Option<Timestamp>,
}

/// The rest after the first overload of a lone call, ...
const FIRST_REST: Duration = Duration::from_millis(250);

/// ... a quarter more with each further one, up to this.
const LONGEST_REST: Duration = Duration::from_mins(1);

/// A call in flight for longer is no reason to hold back others.
pub const SLOW: Duration = Duration::from_secs(30);

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
        let lone = self.most() == 1;
        let streak = if lone { self.streak + 1 } else { 0 };
        let steps = i32::try_from(streak.clamp(1, 40) - 1).unwrap_or(0);
        let rest = FIRST_REST.mul_f64(1.25_f64.powi(steps)).min(LONGEST_REST);
        Self {
            allowed: Some((before / 2).max(CALL)),
            lowered_at: Some(now),
            streak,
            rest_until: lone.then(|| now.after(rest)),
        }
    }

    /// Returns the end of the rest that holds at `now`; one further off than a rest is long was set
    /// under a wrong clock.
    pub fn rest_end(&self, now: Timestamp) -> Option<Timestamp> {
        self.rest_until.filter(|end| *end > now && *end <= now.after(LONGEST_REST))
    }

    /// Returns the state after an answer to a call that began at `started_at`.
    #[must_use]
    pub fn after_success(self, started_at: Timestamp) -> Self {
        if self.lowered_at.is_some_and(|lowered| started_at <= lowered) {
            return self;
        }
        let raised = self.allowed.map(|allowed| allowed + (CALL * CALL / allowed).max(1));
        let allowed = raised.filter(|allowed| *allowed < NO_LIMIT);
        Self { allowed, streak: 0, rest_until: None, ..self }
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
    fn a_lone_call_that_meets_overload_again_and_again_waits_longer_each_time() {
        let mut model = Overload::default();
        let mut rests = Vec::new();
        for start in (0..30).map(|number| number * 100_000) {
            model = model.after_overload(1, Timestamp(start + 1), Timestamp(start + 2));
            let end = model.rest_end(Timestamp(start + 2));
            rests.push(end.map_or(0, |end| end.0 - start - 2));
        }
        assert_eq!(rests[..4], [0, 250, 312, 390]);
        assert_eq!(rests[25..], [52_939, 60_000, 60_000, 60_000, 60_000]);
        assert_eq!(model.rest_end(Timestamp(0)), None, "a clock that was set back");
        model = model.after_success(Timestamp(9_000_000));
        assert_eq!((model.streak, model.rest_until), (0, None));
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
