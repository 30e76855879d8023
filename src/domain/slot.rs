//! The state machine of a slot: one key together with one model, as quotas are counted.

use std::time::Duration;

use crate::domain::limits::{Learned, Quota};
use crate::domain::outcome::Exhaustion;
use crate::domain::time::Timestamp;
use crate::domain::today::Today;
use crate::domain::traffic::Traffic;
use crate::domain::view::{KeyStatus, StatusView};

/// The longest rest after a 429 that names no time, unless the first is longer.
const LONGEST_UNNAMED: Duration = Duration::from_hours(1);

/// Clocks differ: so long after the day has begun, its quota may still be that of the day before.
const EARLY: Duration = Duration::from_mins(10);

/// A server that names no delay at all, or zero, still gets this rest; after further 429s in a row
/// twice as much each time, ...
const SHORTEST: Duration = Duration::from_secs(1);

/// ... up to this.
const LONGEST_LEAST: Duration = Duration::from_mins(1);

/// No rest of ours reaches further than this beyond the longest configured one; a later end was
/// set under a wrong clock and is taken as over. A day with a change of daylight saving has 25 h.
const LONGEST_DAY: Duration = Duration::from_hours(26);

/// How long 429s make a slot rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rests {
    /// The first rest after a 429 that names no time; doubles with each further one in a row.
    pub exhausted_wait: Duration,
    /// The rest when counted out and no reset time is known.
    pub fully_exhausted_wait: Duration,
    /// Bursts of 429s in a row that count a slot out.
    pub max_exhausted_retries: i64,
}

/// What 429s left of a slot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Slot {
    /// Bursts of 429s in a row, without a success between.
    pub streak: i64,
    /// Bursts of 429s ever.
    pub total: i64,
    /// The end of the rest, if there is one.
    pub rest_until: Option<Timestamp>,
    /// Whether the rest is that of a slot that is used up, not of a minute.
    pub full: bool,
    /// Whether the project has no quota for the model: it never works by itself.
    pub never: bool,
    /// When the last burst was seen.
    pub exhausted_at: Option<Timestamp>,
    /// Why it rests, in words.
    pub reason: Option<String>,
    /// Limits that 429s have named.
    pub learned: Learned,
    /// What was used of it.
    pub traffic: Traffic,
}

impl Slot {
    /// Returns the slot of a project that another key comes to: the greater use of it and of the slot
    /// that the key had before, and the longer rest, hold.
    #[must_use]
    pub fn joined_by(self, other: Self) -> Self {
        let traffic = self.traffic.clone().max(other.traffic.clone());
        let rests_longer = other.never || other.rest_until > self.rest_until;
        let slot = if rests_longer && !self.never { other } else { self };
        Self { traffic, ..slot }
    }

    /// Returns whether something was noted under a clock that was ahead of `today`.
    pub fn is_ahead(&self, today: &Today) -> bool {
        let mut learned = self.learned.0.iter().flatten();
        self.traffic.is_ahead(today)
            || self.exhausted_at.is_some_and(|at| at > today.now)
            || learned.any(|limit| limit.at > today.now)
    }

    /// Forgets what counts no more. What lies in the future was noted under a wrong clock, and is
    /// taken for now. A rest of up to an hour from then begins anew, so that it does not last as long as
    /// the clock was set back; a longer one is mostly the end of a day, and stays.
    pub fn advance(&mut self, today: &Today) {
        self.traffic.advance(today);
        if let Some(seen) = self.exhausted_at.filter(|seen| *seen > today.now) {
            self.exhausted_at = Some(today.now);
            let rest = self.rest_until.map(|end| end.since(seen));
            let short = rest.filter(|rest| *rest <= LONGEST_UNNAMED);
            self.rest_until = short.map(|rest| today.now.after(rest)).or(self.rest_until);
        }
        for learned in self.learned.0.iter_mut().flatten() {
            learned.at = learned.at.min(today.now);
        }
    }

    /// Returns the end of the rest that holds at `now`.
    pub fn rest_end(&self, rests: &Rests, now: Timestamp) -> Option<Timestamp> {
        let longest = LONGEST_DAY.max(rests.fully_exhausted_wait).max(rests.exhausted_wait);
        self.rest_until.filter(|&end| end > now && end <= now.after(longest.saturating_mul(2)))
    }

    /// Returns whether an attempt that began at `started_at` did so before the last burst was seen.
    fn is_of_last_burst(&self, started_at: Timestamp) -> bool {
        self.exhausted_at.is_some_and(|seen| started_at <= seen)
    }

    /// Returns the slot after a success of an attempt that began at `started_at`.
    ///
    /// An attempt from before the last burst says nothing about the quota since.
    #[must_use]
    pub fn after_success(self, started_at: Timestamp) -> Self {
        if self.is_of_last_burst(started_at) {
            return self;
        }
        let Self { total, exhausted_at, learned, traffic, .. } = self;
        Self { total, exhausted_at, learned, traffic, ..Self::default() }
    }

    /// Returns the slot after a 429 of an attempt that began at `started_at`; `jitter` is in
    /// `0.0..1.0`.
    ///
    /// Several calls in flight that hit the same wall are one event: what began before the last
    /// burst was seen is not counted, though a longer rest that it names holds.
    #[must_use]
    pub fn after_exhaustion(
        self,
        exhaustion: &Exhaustion,
        started_at: Timestamp,
        rests: &Rests,
        now: Timestamp,
        jitter: f64,
    ) -> Self {
        let same_burst = self.is_of_last_burst(started_at);
        if same_burst && (self.full || matches!(exhaustion, Exhaustion::Short { .. })) {
            return self;
        }
        let counted = i64::from(!same_burst);
        let streak = self.streak + counted;
        let times = (started_at, now);
        let (rest, full) = rest_after(exhaustion, streak, rests, times, jitter);
        Self {
            streak,
            total: self.total + counted,
            rest_until: rest,
            full,
            never: matches!(exhaustion, Exhaustion::NoQuota),
            exhausted_at: Some(now),
            reason: Some(reason(exhaustion, streak, full)),
            ..self
        }
    }

    /// Learns from a 429 of an attempt that began at `started_at`, with `tokens` of input beyond those
    /// that were noted, the limits that it names. The slot has to be advanced to `now` before.
    pub fn learn(
        &mut self,
        exhaustion: &Exhaustion,
        quotas: &[(Quota, i64)],
        (started_at, tokens): (Timestamp, i64),
        now: Timestamp,
    ) {
        let same_burst = self.is_of_last_burst(started_at);
        for &(quota, limit) in quotas {
            // After a day's quota it rests until the next in any case, which has the same for all.
            let used = match quota {
                Quota::Rpd => limit,
                Quota::Rpm => self.traffic.used(quota),
                Quota::Tpm => self.traffic.used(quota) + tokens,
            };
            self.learned.learn(quota, limit, used, now);
            if let (Quota::Rpm, Exhaustion::Short { delay: Some(delay) }) = (quota, exhaustion)
                && !same_burst
            {
                let delay = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
                self.traffic.refused(limit, delay, now);
            }
        }
    }

    /// Returns what people see of the slot at `now`.
    pub fn view(&self, rests: &Rests, now: Timestamp) -> StatusView {
        let end = self.rest_end(rests, now);
        let status = match (self.never, end) {
            (true, _) => KeyStatus::FullyExhausted,
            (false, Some(_)) if self.full => KeyStatus::FullyExhausted,
            (false, Some(_)) => KeyStatus::TemporarilyExhausted,
            (false, None) => KeyStatus::Available,
        };
        let reason = self.reason.clone().filter(|_| status != KeyStatus::Available);
        StatusView {
            status,
            exhausted_count: self.streak,
            total_exhausted_count: self.total,
            available_at: end.filter(|_| !self.never),
            reason,
        }
    }
}

fn rest_after(
    exhaustion: &Exhaustion,
    streak: i64,
    rests: &Rests,
    (started_at, now): (Timestamp, Timestamp),
    jitter: f64,
) -> (Option<Timestamp>, bool) {
    let counted_out = streak >= rests.max_exhausted_retries;
    let doublings = u32::try_from(streak.clamp(1, 20) - 1).unwrap_or(0);
    match exhaustion {
        Exhaustion::NoQuota => (None, true),
        // Everybody's quota comes back at the same second; a spread of a minute is polite.
        Exhaustion::Day => {
            let day = Today::at(started_at);
            let just_began = Today::at(started_at.before(EARLY)).day != day.day;
            let ends = if just_began { started_at.after(EARLY) } else { day.ends };
            (Some(ends.after(spread(60.0, jitter))), true)
        }
        // Refused again and again though it did as it was told, it waits longer.
        Exhaustion::Short { delay: Some(delay) } => {
            let least = SHORTEST.saturating_mul(1 << doublings).min(LONGEST_LEAST);
            (Some(now.after((*delay).max(least) + spread(1.0, jitter))), counted_out)
        }
        Exhaustion::Short { delay: None } if counted_out => {
            (Some(now.after(rests.fully_exhausted_wait)), true)
        }
        Exhaustion::Short { delay: None } => {
            let longest = LONGEST_UNNAMED.max(rests.exhausted_wait);
            (
                Some(now.after(rests.exhausted_wait.saturating_mul(1 << doublings).min(longest))),
                false,
            )
        }
    }
}

fn spread(seconds: f64, jitter: f64) -> Duration {
    Duration::from_secs(1).mul_f64(seconds * jitter.clamp(0.0, 1.0))
}

fn reason(exhaustion: &Exhaustion, streak: i64, full: bool) -> String {
    match exhaustion {
        Exhaustion::NoQuota => "the project has no quota for this model".to_owned(),
        Exhaustion::Day => "daily quota used up; it is renewed at midnight Pacific time".to_owned(),
        Exhaustion::Short { delay: None } if full => format!("{streak} rate limits in a row"),
        Exhaustion::Short { .. } => "rate limit reached".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESTS: Rests = Rests {
        exhausted_wait: Duration::from_mins(2),
        fully_exhausted_wait: Duration::from_hours(12),
        max_exhausted_retries: 3,
    };

    fn hit(slot: Slot, exhaustion: &Exhaustion, started: i64, now: i64) -> Slot {
        slot.after_exhaustion(exhaustion, Timestamp(started), &RESTS, Timestamp(now), 0.0)
    }

    fn short(secs: Option<u64>) -> Exhaustion {
        Exhaustion::Short { delay: secs.map(Duration::from_secs) }
    }

    #[test]
    fn unnamed_rests_double_until_the_slot_is_counted_out() {
        let mut slot = Slot::default();
        let mut rests = Vec::new();
        for now in [1_000, 200_000, 600_000, 60_000_000] {
            slot = hit(slot, &short(None), now - 1, now);
            let view = slot.view(&RESTS, Timestamp(now));
            rests.push((view.status.as_str(), (view.available_at.unwrap().0 - now) / 1000));
        }
        let (short, full) = ("temporarily_exhausted", "fully_exhausted");
        assert_eq!(rests, [(short, 120), (short, 240), (full, 43_200), (full, 43_200)]);
    }

    #[test]
    fn a_named_delay_is_kept_also_when_counted_out() {
        let mut slot = Slot::default();
        for now in [1_000, 100_000, 200_000] {
            slot = hit(slot, &short(Some(30)), now - 1, now);
        }
        let view = slot.view(&RESTS, Timestamp(200_000));
        assert_eq!(view.status, KeyStatus::FullyExhausted);
        assert_eq!(view.available_at, Some(Timestamp(230_000)));
    }

    #[test]
    fn a_days_quota_is_back_with_the_day_or_soon_where_that_has_just_begun() {
        let at = |text: &str| Timestamp::parse(text).unwrap();
        let end = |started: &str, now: &str| {
            let slot = Slot::default();
            let slot = slot.after_exhaustion(&Exhaustion::Day, at(started), &RESTS, at(now), 0.0);
            slot.rest_until.unwrap()
        };
        let midnight = at("2026-11-25T08:00:00Z");
        assert_eq!(end("2026-11-24T08:10:01Z", "2026-11-24T08:10:01Z"), midnight);
        assert_eq!(end("2026-11-25T07:59:59Z", "2026-11-25T08:00:01Z"), midnight, "by its start");
        let soon = at("2026-11-25T08:10:02Z");
        assert_eq!(end("2026-11-25T08:00:02Z", "2026-11-25T08:00:02Z"), soon);
    }

    #[test]
    fn one_burst_counts_once() {
        let mut slot = hit(Slot::default(), &short(Some(30)), 900, 1_000);
        for started in [800, 950, 1_000] {
            slot = hit(slot, &short(Some(30)), started, 1_100);
        }
        assert_eq!((slot.streak, slot.total), (1, 1));
        assert_eq!(slot.rest_until, Some(Timestamp(31_000)));
        let day = hit(slot, &Exhaustion::Day, 950, 1_200);
        assert!(day.full, "a daily quota seen within the burst rules");
        assert_eq!((day.streak, day.total), (1, 1));
    }

    #[test]
    fn a_short_rest_keeps_its_length_when_the_clock_is_set_back() {
        // Hours from midnight in Los Angeles.
        let (then, now) = (Timestamp(1_800_030_000_000), Timestamp(1_799_930_000_000));
        let rested = |exhaustion: &Exhaustion| {
            // Counted out, as it is refused once more.
            let slot = Slot { streak: 5, ..Slot::default() };
            let mut slot = hit(slot, exhaustion, then.0 - 1, then.0);
            assert!(slot.full);
            let end = slot.rest_until;
            slot.advance(&Today::at(now));
            (end.unwrap(), slot.rest_until.unwrap())
        };
        let minute = Duration::from_mins(1);
        assert_eq!(rested(&short(Some(60))), (then.after(minute), now.after(minute)));
        // The end of a day is a time of the clock.
        let (before, after) = rested(&Exhaustion::Day);
        assert_eq!(before, after);
    }

    #[test]
    fn a_success_clears_the_streak_unless_it_began_before() {
        let slot = hit(Slot::default(), &short(None), 900, 1_000);
        assert_eq!(slot.clone().after_success(Timestamp(950)), slot);
        let healed = slot.after_success(Timestamp(130_000));
        assert_eq!((healed.streak, healed.total, healed.rest_until), (0, 1, None));
    }

    #[test]
    fn what_a_key_has_used_goes_with_it_to_another_project() {
        let today = Today::at(Timestamp(1_800_000_000_000));
        let used = |calls: i64| {
            let mut slot = Slot::default();
            for _ in 0..calls {
                slot.traffic.take(&crate::domain::limits::Limits::default(), 5, (1, false), &today);
            }
            slot
        };
        let resting = hit(used(3), &short(Some(30)), today.now.0 - 1, today.now.0);
        for joined in [used(2).joined_by(resting.clone()), resting.joined_by(used(2))] {
            let traffic = &joined.traffic;
            assert_eq!((traffic.day_calls, traffic.window.calls()), (3, 3));
            assert_eq!((traffic.window.tokens(), joined.streak), (15, 1));
        }
    }

    #[test]
    fn no_quota_is_for_ever() {
        let slot = hit(Slot::default(), &Exhaustion::NoQuota, 1, 2);
        assert!(slot.never);
        assert_eq!(slot.view(&RESTS, Timestamp(2)).available_at, None);
    }

    #[test]
    fn a_rest_set_under_a_wrong_clock_is_over() {
        let mut slot = hit(Slot::default(), &short(None), 9_999_999_999_999, 10_000_000_000_000);
        let later = Timestamp(10_000_000_000_001);
        slot.learn(&Exhaustion::Day, &[(Quota::Rpd, 20)], (later, 0), later);
        assert!(!slot.never && slot.rest_end(&RESTS, Timestamp(1_000)).is_none());
        let today = Today::at(Timestamp(1_000));
        assert!(slot.is_ahead(&today));
        slot.advance(&today);
        assert!(!slot.is_ahead(&today));
        assert_eq!(slot.learned.0[2].unwrap().at, Timestamp(1_000));
        assert_eq!(slot.after_success(Timestamp(1_001)).streak, 0, "a success counts again");
    }
}
