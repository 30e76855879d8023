//! How much a slot has been used, and whether one more call keeps within its limits.
//!
//! Limits by the minute hold for each rolling minute. Calls of a long queue are spread evenly over
//! it, so that each minute of the clock is used as well; a question, or a queue that fits into the
//! minute as a whole, need not wait for its turn in that. Where no limit is known, few calls go out
//! before others were answered or taken: a limit nobody knows of then shows by few refusals.

use std::time::Duration;

use crate::domain::limits::{Limits, Quota};
use crate::domain::time::Timestamp;
use crate::domain::today::{Today, spread};
use crate::domain::window::{MINUTE, Window};

/// A call that has had no answer for so long was taken: refusals come fast.
pub const REFUSAL: Duration = Duration::from_secs(1);

/// Until so many calls of the last minute were taken, two may be such that can still be refused.
const FEW: i64 = 24;

/// The calls of a slot so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Those of the last minute.
    pub window: Window,
    /// When the next call of a long queue is due.
    pub next_at: Timestamp,
    /// The day of the last call.
    pub day: i64,
    /// Calls of that day.
    pub day_calls: i64,
}

/// Calls of a slot that have no answer yet, by whichever process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Busy {
    /// All of them.
    pub calls: i64,
    /// Those that may still be refused, see [`REFUSAL`].
    pub fresh: i64,
    /// The start of the first one of these.
    pub first_fresh: Option<Timestamp>,
}

impl Busy {
    /// Counts a call that starts at `now`.
    pub fn start(&mut self, now: Timestamp) {
        self.calls += 1;
        self.fresh += 1;
        self.first_fresh = self.first_fresh.or(Some(now));
    }
}

/// Whether a call may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// It may.
    Now,
    /// Not before this time.
    At(Timestamp),
    /// Not today: the day's calls are made.
    Tomorrow,
}

impl Traffic {
    /// Returns whether something was noted under a clock that was ahead of `today`.
    pub fn is_ahead(&self, today: &Today) -> bool {
        self.window.last_at() > today.now.0
            || self.next_at.0 > today.now.0 + self.window.span()
            || self.day > today.day + 1
    }

    /// Forgets what counts no more, and takes what was noted under a clock that was ahead for now.
    pub fn advance(&mut self, today: &Today) {
        if self.window.last_at() - today.now.0 > SET_BACK {
            self.day = self.day.min(today.day);
        }
        self.window.advance(today.now);
        // No turn is further off than a minute.
        if self.next_at.0 > today.now.0 + self.window.span() {
            self.next_at = today.now;
        }
        self.turn_to(today.day);
    }

    fn turn_to(&mut self, day: i64) {
        if self.day < day {
            self.day_calls = 0;
        }
        // A day that is over by a clock set back a little goes on with its count; one that is
        // further off was never there.
        if self.day < day || self.day > day + 1 {
            self.day = day;
        }
    }

    /// Returns whether the day's calls are made.
    pub fn has_had_its_day(&self, limits: &Limits) -> bool {
        limits.of(Quota::Rpd).is_some_and(|most| self.day_calls >= most)
    }

    /// Returns whether a call of `tokens` may start; `paced` where it belongs to a long queue.
    ///
    /// The traffic has to be advanced to `today` before.
    pub fn ready(&self, limits: &Limits, tokens: i64, paced: bool, today: &Today) -> Ready {
        if self.has_had_its_day(limits) {
            return Ready::Tomorrow;
        }
        let turn =
            Some(self.next_at).filter(|at| paced && *at > today.now && self.window.calls() > 0);
        match self.window.fits_at(limits, tokens).max(turn) {
            Some(time) => Ready::At(time),
            None => Ready::Now,
        }
    }

    /// Learns from a 429 that names `limit` requests a minute and a delay of so many milliseconds,
    /// where our own calls explain it, how the minutes of who counts go: they roll, or begin with the
    /// clock's, or are shorter.
    pub fn refused(&mut self, limit: i64, delay: i64, now: Timestamp) {
        let Some(first) = self.window.first_at().filter(|_| self.window.calls() >= limit) else {
            return;
        };
        let again = now.0 + delay;
        let to_full_minute = (again + NEAR_FULL).rem_euclid(MINUTE);
        match again - first.0 {
            minute @ 1..=SHORT_MINUTE if to_full_minute > 2 * NEAR_FULL => {
                self.window.set_minute(minute);
            }
            minute if minute < MINUTE - NEARLY => {
                self.window.set_minute(MINUTE);
                self.window.end_at(Timestamp(again));
            }
            _ => self.window.set_minute(MINUTE),
        }
    }

    /// Takes back a call of `at` that was expected to have `tokens` and was not made.
    pub fn give_back(&mut self, tokens: i64, at: Timestamp) {
        self.window.give_back(tokens, at);
        if Today::at(at).day == self.day {
            self.day_calls = (self.day_calls - 1).max(0);
        }
    }

    /// Takes back the tokens of a call of `at` that was refused: it may count as a request, but nobody
    /// read it. The next one is due when the rest is over.
    pub fn forgo(&mut self, tokens: i64, at: Timestamp, now: Timestamp) {
        self.window.correct(-tokens, at);
        self.next_at = self.next_at.min(now);
    }

    /// Returns the greater use of both: one may be a copy of the other.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        let of_day = |it: &Self, day: i64| if it.day == day { it.day_calls } else { 0 };
        let day = self.day.max(other.day);
        let is_more = (other.window.calls(), other.window.tokens())
            > (self.window.calls(), self.window.tokens());
        Self {
            next_at: self.next_at.max(other.next_at),
            day,
            day_calls: of_day(&self, day).max(of_day(&other, day)),
            window: if is_more { other.window } else { self.window },
        }
    }

    /// Returns how much is used of `quota`.
    pub fn used(&self, quota: Quota) -> i64 {
        match quota {
            Quota::Rpm => self.window.calls(),
            Quota::Tpm => self.window.tokens(),
            Quota::Rpd => self.day_calls,
        }
    }

    /// Returns how many more calls fit into the minute and the day.
    pub fn room(&self, limits: &Limits) -> i64 {
        let left = |limit: Option<i64>, used: i64| limit.map_or(i64::MAX, |limit| limit - used);
        let minute = left(limits.of(Quota::Rpm), self.window.calls());
        minute.min(left(limits.of(Quota::Rpd), self.day_calls)).max(0)
    }

    /// Notes a call at `today`; `place` tells slots apart, so that they take turns. `probing` says that
    /// a 429 was the last word before.
    pub fn take(
        &mut self,
        limits: &Limits,
        tokens: i64,
        (place, probing): (i64, bool),
        today: &Today,
    ) {
        let span = self.window.span();
        let each = |limit: Option<i64>, used: i64| {
            limit.map_or(0, |limit| span.saturating_mul(used) / limit).min(span)
        };
        let interval = each(limits.of(Quota::Rpm), 1).max(each(limits.of(Quota::Tpm), tokens));
        let now = today.now.0;
        let kept_back = probing && now - self.next_at.0 < 2 * span;
        let turn = if interval == 0 {
            now
        } else if self.window.calls() > 0 || kept_back {
            // What was kept back makes up for it: a minute that was full at once is so again.
            self.next_at.0.max(now - span)
        } else {
            // The first call of several keys is made at once, the ones that follow are not.
            now - spread(place, interval)
        };
        self.next_at = Timestamp(turn + interval);
        self.window.take(tokens, today.now);
        self.turn_to(today.day);
        self.day_calls += 1;
    }
}

/// A clock is set back by no more than this to be right again; further, it was wrong by days.
const SET_BACK: i64 = 2 * 3_600_000;

/// A minute that is shorter is one of a stand-in; one of some length in between is what was left of
/// a minute of the clock.
const SHORT_MINUTE: i64 = 10_000;

/// A delay is told in whole seconds, and calls take their time.
const NEARLY: i64 = 5_000;

/// A delay that ends so near to a full minute of the clock ends with it.
const NEAR_FULL: i64 = 1_500;

/// Returns the time from which one more call may start with `busy` calls that have no answer yet,
/// or `None` where it may at once: few calls may be such that can still be refused.
///
/// `calls` is how many calls the last minute has seen, those in flight among them.
pub fn cautious(calls: i64, busy: &Busy, knows_limit: bool) -> Option<Timestamp> {
    let taken = (calls - busy.fresh).max(0);
    let most = match taken {
        // It may be out for the day.
        0 => 1,
        // Limits that nobody speaks of are mostly those of free keys, which are low.
        ..FEW if !knows_limit => 2,
        // Each call that was taken lets one more go: their number doubles with each round.
        _ => taken,
    };
    if busy.fresh < most {
        return None;
    }
    Some(busy.first_fresh.unwrap_or_default().after(REFUSAL))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RPM: Limits = Limits([Some(20), None, None]);

    fn today(now: i64) -> Today {
        Today::at(Timestamp(now))
    }

    /// Makes calls of `tokens` from `start` on as soon as they may, for so long, and returns when.
    fn flood(traffic: &mut Traffic, limits: &Limits, tokens: i64, span: (i64, i64)) -> Vec<i64> {
        let (mut now, end) = span;
        let mut made = Vec::new();
        while now < end {
            let today = today(now);
            traffic.advance(&today);
            match traffic.ready(limits, tokens, true, &today) {
                Ready::Now => {
                    traffic.take(limits, tokens, (1, false), &today);
                    made.push(now);
                }
                Ready::At(time) => now = time.0,
                Ready::Tomorrow => break,
            }
        }
        made
    }

    fn within(made: &[i64], start: i64) -> usize {
        made.iter().filter(|at| (start..start + 60_000).contains(*at)).count()
    }

    const START: i64 = 1_800_000_000_000;

    const SPAN_MS: i64 = 60_500;

    #[test]
    fn a_long_queue_is_spread_evenly_and_uses_nearly_all() {
        let made = flood(&mut Traffic::default(), &RPM, 1, (START, START + 600_000));
        for start in (START..START + 540_000).step_by(250) {
            assert!(
                (19..=20).contains(&within(&made, start)),
                "{} at {start}",
                within(&made, start)
            );
        }
        assert!(made.len() >= 198, "{}", made.len());
        let gaps: Vec<i64> = made.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps[1..].iter().all(|gap| (1_000..=5_000).contains(gap)), "{gaps:?}");
    }

    #[test]
    fn tokens_are_spread_evenly_too() {
        let limits = Limits([None, Some(1_000), None]);
        let made = flood(&mut Traffic::default(), &limits, 100, (START, START + 300_000));
        assert!(made.len() >= 49, "{}", made.len());
        assert!((START..START + 240_000).step_by(500).all(|at| within(&made, at) <= 10));
    }

    #[test]
    fn a_question_goes_at_once_while_the_minute_has_room() {
        let mut traffic = Traffic::default();
        let now = today(START);
        for _ in 0..20 {
            assert_eq!(traffic.ready(&RPM, 1, false, &now), Ready::Now);
            traffic.take(&RPM, 1, (1, false), &now);
        }
        assert_eq!(traffic.room(&RPM), 0);
        assert_eq!(traffic.ready(&RPM, 1, false, &now), Ready::At(Timestamp(START + SPAN_MS)));
        assert_eq!(traffic.ready(&RPM, 1, true, &now), Ready::At(Timestamp(START + SPAN_MS)));
    }

    #[test]
    fn what_was_kept_back_is_made_up_for() {
        let mut traffic = Traffic::default();
        let unknown = Limits::default();
        for second in 0..20 {
            traffic.take(&unknown, 1, (1, false), &today(START + second * 200));
        }
        let made = flood(&mut traffic, &RPM, 1, (START + 5_000, START + 66_000));
        assert_eq!(made.len(), 20, "as the first minute was, so is the second");
    }

    #[test]
    fn a_minute_that_was_full_at_once_is_so_again_after_its_refusal() {
        let mut traffic = Traffic::default();
        for _ in 0..20 {
            traffic.take(&Limits::default(), 1, (1, false), &today(START));
        }
        let again = today(START + 61_000);
        traffic.advance(&again);
        let mut other = traffic.clone();
        traffic.take(&RPM, 1, (1, true), &again);
        let made = flood(&mut traffic, &RPM, 1, (START + 61_000, START + 62_000));
        assert_eq!(made.len(), 19);
        let tomorrow = today(START + 40_000_000);
        other.take(&RPM, 1, (1, true), &tomorrow);
        let made = flood(&mut other, &RPM, 1, (tomorrow.now.0, tomorrow.now.0 + 1_000));
        assert_eq!(made.len(), 0, "after a long rest it begins slowly");
    }

    #[test]
    fn a_refusal_tells_how_minutes_go() {
        let full = || {
            let mut traffic = Traffic::default();
            for second in 0..20 {
                traffic.take(&Limits::default(), 1, (1, false), &today(START + second * 200));
            }
            traffic
        };
        let calls_until = |delay: i64, end: i64| {
            let mut traffic = full();
            traffic.refused(20, delay, Timestamp(START + 4_000));
            let mut made = flood(&mut traffic, &RPM, 1, (START + 4_000 + delay, START + end));
            made.retain(|at| *at < START + end);
            made.len()
        };
        assert_eq!(calls_until(56_000, 60_500), 0, "a minute that rolls");
        assert_eq!(calls_until(56_000, 66_000), 20);
        assert_eq!(calls_until(20_000, 84_500), 20, "one of the clock");
        assert!(calls_until(1_000, 30_500) >= 90, "short ones");
        let to_full = 60_000 - (START + 4_000).rem_euclid(60_000);
        assert_eq!(
            calls_until(to_full, 4_000 + to_full + 50_000),
            20,
            "the end of one of the clock"
        );
        let mut other = full();
        other.refused(30, 1_000, Timestamp(START + 4_000));
        assert_eq!(other, full(), "our own calls do not explain it");
    }

    #[test]
    fn the_days_calls_end_with_the_day() {
        let limits = Limits([None, None, Some(2)]);
        let mut traffic = Traffic::default();
        let made = flood(&mut traffic, &limits, 1, (START, START + 1_000));
        assert_eq!(made.len(), 2);
        let tomorrow = Today::at(today(START).ends);
        traffic.advance(&tomorrow);
        assert_eq!(traffic.ready(&limits, 1, true, &tomorrow), Ready::Now);
        let mut new = Traffic::default();
        new.take(&limits, 1, (1, false), &tomorrow);
        new.advance(&tomorrow);
        assert_eq!(new.day_calls, 1);
        traffic.take(&limits, 1, (1, false), &tomorrow);
        traffic.take(&limits, 1, (1, false), &tomorrow);
        let back = Today::at(Timestamp(tomorrow.now.0 - 3_600_000));
        traffic.advance(&back);
        assert_eq!(traffic.ready(&limits, 1, true, &back), Ready::Tomorrow, "a clock set back");
        for ahead in [1, 2, 400] {
            let mut wrong = Traffic::default();
            let then = Today::at(Timestamp(tomorrow.now.0 + ahead * 86_400_000));
            wrong.take(&limits, 1, (1, false), &then);
            assert!(wrong.is_ahead(&tomorrow));
            wrong.advance(&tomorrow);
            assert_eq!((wrong.day, wrong.day_calls), (tomorrow.day, 1), "{ahead} days ahead");
            assert!(!wrong.is_ahead(&tomorrow));
        }
    }

    #[test]
    fn where_no_limit_is_known_few_calls_wait_for_their_answer() {
        let fresh = |fresh: i64| Busy { calls: fresh, fresh, first_fresh: Some(Timestamp(7)) };
        let later = Some(Timestamp(7).after(REFUSAL));
        let may = |calls, busy: &Busy| cautious(calls, busy, false);
        assert_eq!([may(0, &fresh(0)), may(1, &fresh(0))], [None, None]);
        assert_eq!([may(1, &fresh(1)), may(2, &fresh(1))], [later, None]);
        assert_eq!([may(3, &fresh(2)), may(25, &fresh(2))], [later, later]);
        assert_eq!([may(26, &fresh(2)), may(61, &fresh(30))], [None, None]);
        assert_eq!(may(60, &fresh(30)), later, "as many as were taken");
        let slow = Busy { calls: 9, fresh: 1, first_fresh: Some(Timestamp(7)) };
        assert_eq!(may(9, &slow), None, "calls that were not refused are as good as answered");
        assert_eq!(cautious(8, &fresh(4), true), later);
        assert_eq!(cautious(9, &fresh(4), true), None);
    }

    proptest! {
        #[test]
        fn no_minute_has_more_than_its_limit(
            steps in proptest::collection::vec((0_i64..5_000, 1_i64..60, any::<bool>()), 1..300),
            rpm in 1_i64..30, tpm in 60_i64..600,
        ) {
            let limits = Limits([Some(rpm), Some(tpm), None]);
            let mut traffic = Traffic::default();
            let mut now = START;
            let mut made: Vec<(i64, i64)> = Vec::new();
            for (wait, tokens, paced) in steps {
                now += wait;
                let today = today(now);
                traffic.advance(&today);
                match traffic.ready(&limits, tokens, paced, &today) {
                    Ready::Now => {
                        traffic.take(&limits, tokens, (3, false), &today);
                        made.push((now, tokens));
                    }
                    Ready::At(time) => prop_assert!(time.0 > now && time.0 <= now + SPAN_MS),
                    Ready::Tomorrow => prop_assert!(false, "no limit a day"),
                }
            }
            for (start, _) in &made {
                let minute = made.iter().filter(|(at, _)| (*start..start + 60_000).contains(at));
                let (calls, tokens) = minute.fold((0, 0), |sum, it| (sum.0 + 1, sum.1 + it.1));
                prop_assert!(calls <= rpm && tokens <= tpm);
            }
        }
    }
}
