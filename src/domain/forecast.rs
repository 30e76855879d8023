//! When a queue will be done under the limits that are known.

use std::time::Duration;

use crate::domain::limits::{Limits, Quota};
use crate::domain::time::Timestamp;
use crate::domain::today::Today;

const MINUTES_A_DAY: i64 = 1_440;

const DAY: Duration = Duration::from_hours(24);

/// So many more keys are spoken of, where a queue takes long.
const MORE_KEYS: i64 = 3;

/// A queue that takes longer than so many days is a reason to speak of more keys.
const LONG: i64 = 7;

/// What slots may take together; absent where one of them has no limit that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Calls a minute.
    pub per_minute: Option<i64>,
    /// Calls a day.
    pub per_day: Option<i64>,
    /// What is left of today's calls.
    pub today: Option<i64>,
    /// How many slots there are.
    pub slots: i64,
    /// Until when all slots of some model rest.
    pub rests_until: Option<Timestamp>,
}

impl Default for Capacity {
    fn default() -> Self {
        Self { per_minute: Some(0), per_day: Some(0), today: Some(0), slots: 0, rests_until: None }
    }
}

impl Capacity {
    /// Adds a slot that has made `day_calls` today.
    #[must_use]
    pub fn and_slot(self, limits: &Limits, day_calls: i64) -> Self {
        let sum = |all: Option<i64>, one: Option<i64>| Some(all?.saturating_add(one?));
        let rpd = limits.of(Quota::Rpd);
        Self {
            per_minute: sum(self.per_minute, limits.of(Quota::Rpm)),
            per_day: sum(self.per_day, rpd),
            today: sum(self.today, rpd.map(|rpd| (rpd - day_calls).max(0))),
            slots: self.slots + 1,
            ..self
        }
    }

    /// Adds that a model waits until then for the first of its slots.
    #[must_use]
    pub fn and_rest(self, until: Timestamp) -> Self {
        Self { rests_until: self.rests_until.max(Some(until)), ..self }
    }
}

/// When a queue will be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forecast {
    /// Jobs that are left.
    pub left: i64,
    /// How many are done in a day.
    pub per_day: i64,
    /// When none is left, about.
    pub done_at: Timestamp,
    /// A number of further keys, each of a project of its own, and when it would be done with them.
    pub with_more: Option<(i64, Timestamp)>,
}

impl Forecast {
    /// Returns when `left` jobs are done, with `measured` of them done in the last minute; nothing
    /// where neither limits nor work tell how fast it goes.
    pub fn of(left: i64, capacity: &Capacity, measured: i64, today: &Today) -> Option<Self> {
        if left == 0 || capacity.slots == 0 {
            return None;
        }
        let done_at = done_at(left, capacity, measured, today)?;
        let by_rate = rate(capacity, measured).map(|rate| rate.saturating_mul(MINUTES_A_DAY));
        let per_day = [capacity.per_day, by_rate].into_iter().flatten().min()?;
        let more = |number: Option<i64>| {
            number.map(|it| it.saturating_mul(capacity.slots + MORE_KEYS) / capacity.slots)
        };
        let with_more = Capacity {
            per_minute: more(capacity.per_minute),
            per_day: more(capacity.per_day),
            today: more(capacity.today),
            ..*capacity
        };
        let is_long = done_at.since(today.now) > DAY * u32::try_from(LONG).unwrap_or(0);
        let with_more = (is_long && capacity.per_day.is_some())
            .then(|| self::done_at(left, &with_more, measured, today))
            .flatten();
        Some(Self { left, per_day, done_at, with_more: with_more.map(|at| (MORE_KEYS, at)) })
    }
}

/// Returns how many calls a minute there are: what is done, or what may be where nothing is.
fn rate(capacity: &Capacity, measured: i64) -> Option<i64> {
    let measured = Some(measured).filter(|measured| *measured > 0);
    measured.or(capacity.per_minute).filter(|rate| *rate > 0)
}

fn done_at(left: i64, capacity: &Capacity, measured: i64, today: &Today) -> Option<Timestamp> {
    // What rests goes on then; what goes on meanwhile is not known apart.
    let wakes = today.when(capacity.rests_until.unwrap_or_default().max(today.now));
    let is_later = wakes.day > today.day;
    let today = &wakes;
    let rate = rate(capacity, measured);
    let minutes = |jobs: i64, rate: i64| {
        Duration::from_secs(u64::try_from(jobs.saturating_mul(60) / rate).unwrap_or(0))
    };
    let (Some(per_day), Some(of_today)) = (capacity.per_day, capacity.today) else {
        return rate.map(|rate| today.now.after(minutes(left, rate)));
    };
    let of_today = if is_later { per_day } else { of_today };
    if left <= of_today || per_day == 0 {
        return rate.map(|rate| today.now.after(minutes(left, rate)));
    }
    let after = left - of_today;
    let days = (after - 1) / per_day;
    let last = rate.map_or(Duration::ZERO, |rate| minutes(after - days * per_day, rate).min(DAY));
    let days = DAY.saturating_mul(u32::try_from(days).unwrap_or(u32::MAX));
    Some(today.ends.after(days.saturating_add(last)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn today() -> Today {
        Today::at(Timestamp::parse("2026-11-24T20:00:00Z").unwrap())
    }

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn slots(limits: &[[Option<i64>; 3]], day_calls: i64) -> Capacity {
        let add = |all: Capacity, one: &[Option<i64>; 3]| all.and_slot(&Limits(*one), day_calls);
        limits.iter().fold(Capacity::default(), add)
    }

    #[test]
    fn a_queue_longer_than_the_days_calls_takes_days() {
        let capacity = slots(&[[Some(10), None, Some(250)]], 250);
        let forecast = Forecast::of(12_400, &capacity, 0, &today()).unwrap();
        assert_eq!((forecast.left, forecast.per_day), (12_400, 250));
        assert_eq!(forecast.done_at, at("2027-01-13T08:15:00Z"), "49 days after midnight");
        let (keys, done_at) = forecast.with_more.unwrap();
        assert_eq!((keys, done_at), (3, at("2026-12-07T08:10:00Z")));
    }

    #[test]
    fn what_today_still_has_room_for_is_done_today() {
        let capacity = slots(&[[Some(10), None, Some(250)], [Some(10), None, Some(250)]], 200);
        let done_at = |left| Forecast::of(left, &capacity, 0, &today()).unwrap().done_at;
        assert_eq!(done_at(100), at("2026-11-24T20:05:00Z"));
        assert_eq!(done_at(101), at("2026-11-25T08:00:03Z"));
        assert_eq!(Forecast::of(100, &capacity, 0, &today()).unwrap().with_more, None);
    }

    #[test]
    fn what_rests_is_not_done_before_it_wakes() {
        let limited = slots(&[[Some(60), None, None]], 0);
        let resting =
            limited.and_rest(at("2026-11-25T08:00:30Z")).and_rest(at("2026-11-24T21:00:00Z"));
        let forecast = Forecast::of(600, &resting, 0, &today()).unwrap();
        assert_eq!(forecast.done_at, at("2026-11-25T08:10:30Z"));
        let day = slots(&[[Some(10), None, Some(250)]], 250).and_rest(at("2026-11-25T08:00:00Z"));
        let forecast = Forecast::of(250, &day, 0, &today()).unwrap();
        assert_eq!(forecast.done_at, at("2026-11-25T08:25:00Z"));
    }

    #[test]
    fn without_a_days_limit_the_rate_tells() {
        let unknown = slots(&[[None; 3]], 0);
        assert_eq!(Forecast::of(600, &unknown, 0, &today()), None);
        let forecast = Forecast::of(600, &unknown, 20, &today()).unwrap();
        assert_eq!((forecast.per_day, forecast.done_at), (28_800, at("2026-11-24T20:30:00Z")));
        let limited = slots(&[[Some(60), None, None]], 0);
        assert_eq!(Forecast::of(600, &limited, 0, &today()).unwrap().per_day, 86_400);
        assert_eq!(Forecast::of(0, &limited, 5, &today()), None);
    }
}
