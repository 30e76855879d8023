//! The day by which the API counts: that of `America/Los_Angeles`
//! (<https://ai.google.dev/gemini-api/docs/rate-limits>).

use std::time::Duration;

use chrono::{Datelike as _, Days, NaiveDate, NaiveTime, TimeZone as _};
use chrono_tz::America::Los_Angeles;

use crate::domain::time::Timestamp;

/// A day with a change of daylight saving has up to 25 hours.
const LONGEST_DAY: Duration = Duration::from_hours(25);

/// Everybody's quota comes back at the same second; who waits for it is spread over a minute.
const SPREAD_MS: i64 = 60_000;

/// A point in time with the day that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Today {
    /// The time.
    pub now: Timestamp,
    /// The number of the day.
    pub day: i64,
    /// When it began.
    pub began: Timestamp,
    /// When the next day begins.
    pub ends: Timestamp,
}

impl Today {
    /// Returns the day of `now`.
    pub fn at(now: Timestamp) -> Self {
        let date = now.to_utc().with_timezone(&Los_Angeles).date_naive();
        let midnight = |date: Option<NaiveDate>| {
            let midnight = date?.and_time(NaiveTime::MIN);
            let time = Los_Angeles.from_local_datetime(&midnight).earliest()?;
            Some(Timestamp(time.timestamp_millis()))
        };
        let tomorrow = date.checked_add_days(Days::new(1));
        Self {
            now,
            day: i64::from(date.num_days_from_ce()),
            began: midnight(Some(date)).unwrap_or(now),
            ends: midnight(tomorrow).unwrap_or(now.after(LONGEST_DAY)),
        }
    }

    /// Returns the same day at another time of it.
    #[must_use]
    pub fn when(self, now: Timestamp) -> Self {
        if now < self.ends && now >= self.now { Self { now, ..self } } else { Self::at(now) }
    }

    /// Returns when what waits for the next day goes on; `place` spreads those who wait.
    pub fn tomorrow(&self, place: i64) -> Timestamp {
        Timestamp(self.ends.0.saturating_add(spread(place, SPREAD_MS)))
    }

    /// Returns when what waited for this day goes on, if it is not yet time.
    pub fn first_call(&self, place: i64) -> Option<Timestamp> {
        let first = Timestamp(self.began.0.saturating_add(spread(place, SPREAD_MS)));
        Some(first).filter(|first| *first > self.now)
    }
}

/// Returns a number below `length` for each place, such that any number of places that follow each
/// other are spread evenly: a step of the golden ratio for each.
pub fn spread(place: i64, length: i64) -> i64 {
    let part = i128::from(place.wrapping_mul(0x9e37_79b9).rem_euclid(1 << 32));
    i64::try_from((part * i128::from(length)) >> 32).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_day_ends_at_midnight_pacific_in_winter_summer_and_between() {
        for (now, midnight) in [
            ("2026-11-24T08:30:00Z", "2026-11-25T08:00:00Z"),
            ("2026-07-01T06:59:59Z", "2026-07-01T07:00:00Z"),
            ("2026-03-08T09:00:00Z", "2026-03-09T07:00:00Z"),
            ("2026-11-01T08:00:00Z", "2026-11-02T08:00:00Z"),
            ("2028-02-29T08:00:00Z", "2028-03-01T08:00:00Z"),
        ] {
            let at = |text| Timestamp::parse(text).unwrap();
            let today = Today::at(at(now));
            assert_eq!(today.ends, at(midnight), "{now}");
            assert_eq!(Today::at(today.ends).day, today.day + 1, "{now}");
            assert_eq!(Today::at(today.ends).began, today.ends, "{now}");
            assert_eq!(Today::at(Timestamp(today.ends.0 - 1)).day, today.day, "{now}");
        }
    }

    #[test]
    fn those_who_wait_for_midnight_are_spread_over_a_minute() {
        let today = Today::at(Timestamp(1_800_000_000_000));
        let delays: Vec<i64> = (1..=4).map(|key| today.tomorrow(key).0 - today.ends.0).collect();
        assert_eq!(delays, [37_082, 14_164, 51_246, 28_328]);
        let after = |millis| Today::at(Timestamp(today.ends.0 + millis)).first_call(1);
        assert_eq!(after(37_000), Some(Timestamp(today.ends.0 + 37_082)));
        assert_eq!([after(37_082), after(40_000_000)], [None, None]);
    }
}
