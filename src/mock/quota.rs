//! Quota counters: what a project has used of a model's minute and day.
//!
//! Pure: the time is an argument. How a refusal looks on the wire is in `refusal`.

use std::collections::VecDeque;

use chrono::{DateTime, Days, LocalResult, NaiveTime, TimeZone, Utc};
use chrono_tz::America::Los_Angeles;

use super::config::{Config, Quota, Tier, WindowKind};

/// The limits of one key, ready to count against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    quota: Quota,
    minute_ms: i64,
    day_ms: Option<i64>,
    count_refused: bool,
}

impl Limits {
    /// Puts a key's own quota over the default one.
    pub(super) fn new(own: Quota, config: &Config) -> Self {
        let signed = |number: u64| i64::try_from(number.max(1)).unwrap_or(i64::MAX);
        Self {
            quota: own.or(config.quota),
            minute_ms: signed(config.minute_ms),
            day_ms: config.day_ms.map(signed),
            count_refused: config.count_refused,
        }
    }

    /// Returns whether nothing is limited, so nothing need be counted.
    pub(super) fn unlimited(&self) -> bool {
        self.quota.rpm.is_none() && self.quota.rpd.is_none() && self.quota.tpm.is_none()
    }

    /// Returns the tier whose names a refusal uses.
    pub(super) fn tier(&self) -> Tier {
        self.quota.tier.unwrap_or_default()
    }

    fn fixed(&self) -> bool {
        self.quota.window == Some(WindowKind::Fixed)
    }

    fn day_end(&self, now: i64) -> i64 {
        match self.day_ms {
            Some(length) => (now.div_euclid(length) + 1) * length,
            None => next_midnight(now),
        }
    }
}

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bound {
    /// Requests a minute.
    RequestsPerMinute,
    /// Input tokens a minute.
    TokensPerMinute,
    /// Requests a day.
    RequestsPerDay,
}

/// One limit that a request would pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Excess {
    /// Which limit.
    pub(super) bound: Bound,
    /// Its value.
    pub(super) limit: u64,
    /// The delay that the refusal names, in milliseconds.
    pub(super) retry_ms: i64,
}

/// What one project has used of one model.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Time and tokens of each request in the current minute.
    recent: VecDeque<(i64, u64)>,
    tokens: u64,
    today: u64,
    day_end: i64,
}

impl Counters {
    /// Counts a request of `tokens` at `now`, or returns the limits it would pass.
    pub(super) fn take(&mut self, limits: &Limits, tokens: u64, now: i64) -> Vec<Excess> {
        self.forget_old(limits, now);
        let excess = self.excess(limits, tokens, now);
        if excess.is_empty() || limits.count_refused {
            self.recent.push_back((now, tokens));
            self.tokens += tokens;
            self.today += 1;
        }
        excess
    }

    fn forget_old(&mut self, limits: &Limits, now: i64) {
        let start = if limits.fixed() {
            now - now.rem_euclid(limits.minute_ms)
        } else {
            now - limits.minute_ms + 1
        };
        while let Some(&(at, tokens)) = self.recent.front() {
            if at >= start {
                break;
            }
            self.recent.pop_front();
            self.tokens -= tokens;
        }
        if now >= self.day_end {
            self.day_end = limits.day_end(now);
            self.today = 0;
        }
    }

    fn excess(&self, limits: &Limits, tokens: u64, now: i64) -> Vec<Excess> {
        let mut found = Vec::new();
        let Quota { rpm, rpd, tpm, .. } = limits.quota;
        if let Some(limit) = rpd.filter(|&limit| self.today >= limit) {
            // The real server names a short delay here too, though the day has long to go.
            let retry_ms = (limits.minute_ms - now.rem_euclid(limits.minute_ms))
                .max(limits.minute_ms * 8 / 60);
            found.push(Excess { bound: Bound::RequestsPerDay, limit, retry_ms });
        }
        let count = self.recent.len() as u64;
        if let Some(limit) = rpm.filter(|&limit| count >= limit) {
            let over = usize::try_from(count - limit).unwrap_or(usize::MAX);
            let retry_ms = self.frees_in(limits, over, now);
            found.push(Excess { bound: Bound::RequestsPerMinute, limit, retry_ms });
        }
        if let Some(limit) = tpm.filter(|&limit| self.tokens + tokens > limit) {
            let over = self.first_to_leave(self.tokens + tokens - limit);
            let retry_ms = self.frees_in(limits, over, now);
            found.push(Excess { bound: Bound::TokensPerMinute, limit, retry_ms });
        }
        found
    }

    /// Returns the index of the request whose leaving frees `tokens`.
    fn first_to_leave(&self, tokens: u64) -> usize {
        let mut freed = 0;
        let enough = self.recent.iter().position(|&(_, used)| {
            freed += used;
            freed >= tokens
        });
        enough.unwrap_or(usize::MAX)
    }

    /// Returns the time until the request at `index` leaves the minute.
    fn frees_in(&self, limits: &Limits, index: usize, now: i64) -> i64 {
        if limits.fixed() {
            return limits.minute_ms - now.rem_euclid(limits.minute_ms);
        }
        self.recent.get(index).map_or(limits.minute_ms, |&(at, _)| at + limits.minute_ms - now)
    }
}

/// Returns the next midnight in Los Angeles, in Unix milliseconds.
fn next_midnight(now: i64) -> i64 {
    let day = 24 * 60 * 60 * 1000;
    let Some(now_utc) = DateTime::<Utc>::from_timestamp_millis(now) else {
        return now + day;
    };
    let today = now_utc.with_timezone(&Los_Angeles).date_naive();
    let Some(tomorrow) = today.checked_add_days(Days::new(1)) else {
        return now + day;
    };
    match Los_Angeles.from_local_datetime(&tomorrow.and_time(NaiveTime::MIN)) {
        LocalResult::Single(time) | LocalResult::Ambiguous(time, _) => time.timestamp_millis(),
        LocalResult::None => now + day,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(quota: Quota) -> Limits {
        Limits::new(quota, &Config::default())
    }

    fn at(text: &str) -> i64 {
        text.parse::<DateTime<Utc>>().unwrap().timestamp_millis()
    }

    #[test]
    fn a_rolling_minute_frees_one_request_at_a_time() {
        let limits = limits(Quota { rpm: Some(2), ..Quota::default() });
        let mut counters = Counters::default();
        assert_eq!(counters.take(&limits, 1, 0), []);
        assert_eq!(counters.take(&limits, 1, 10_000), []);
        let excess = Excess { bound: Bound::RequestsPerMinute, limit: 2, retry_ms: 40_000 };
        assert_eq!(counters.take(&limits, 1, 20_000), [excess]);
        assert_eq!(counters.take(&limits, 1, 59_999).len(), 1);
        assert_eq!(counters.take(&limits, 1, 60_000), []);
        assert_eq!(counters.take(&limits, 1, 60_001).len(), 1);
        assert_eq!(counters.take(&limits, 1, 70_000), []);
    }

    #[test]
    fn a_fixed_minute_frees_all_at_its_end() {
        let window = Some(WindowKind::Fixed);
        let limits = limits(Quota { rpm: Some(2), window, ..Quota::default() });
        let mut counters = Counters::default();
        assert_eq!(counters.take(&limits, 1, 58_000), []);
        assert_eq!(counters.take(&limits, 1, 59_000), []);
        let excess = Excess { bound: Bound::RequestsPerMinute, limit: 2, retry_ms: 500 };
        assert_eq!(counters.take(&limits, 1, 59_500), [excess]);
        assert_eq!(counters.take(&limits, 1, 60_000), []);
        assert_eq!(counters.take(&limits, 1, 60_001), []);
    }

    #[test]
    fn tokens_wait_until_enough_of_them_leave() {
        let limits = limits(Quota { tpm: Some(100), ..Quota::default() });
        let mut counters = Counters::default();
        assert_eq!(counters.take(&limits, 40, 0), []);
        assert_eq!(counters.take(&limits, 50, 5_000), []);
        let excess = Excess { bound: Bound::TokensPerMinute, limit: 100, retry_ms: 55_000 };
        assert_eq!(counters.take(&limits, 60, 10_000), [excess]);
        assert_eq!(counters.take(&limits, 10, 10_000), []);
        assert_eq!(counters.take(&limits, 101, 200_000)[0].retry_ms, 60_000);
    }

    #[test]
    fn a_day_ends_at_midnight_in_los_angeles() {
        let limits = limits(Quota { rpd: Some(1), ..Quota::default() });
        let mut counters = Counters::default();
        assert_eq!(counters.take(&limits, 1, at("2026-07-01T08:00:00Z")), []);
        let refused = counters.take(&limits, 1, at("2026-07-02T06:59:50Z"));
        let excess = Excess { bound: Bound::RequestsPerDay, limit: 1, retry_ms: 10_000 };
        assert_eq!(refused, [excess], "a short delay, though the day is what is used up");
        assert_eq!(counters.take(&limits, 1, at("2026-07-02T07:00:00Z")), []);
    }

    #[test]
    fn a_winter_day_ends_an_hour_later() {
        assert_eq!(next_midnight(at("2026-12-01T12:00:00Z")), at("2026-12-02T08:00:00Z"));
        assert_eq!(next_midnight(at("2026-11-01T07:30:00Z")), at("2026-11-02T08:00:00Z"));
    }

    #[test]
    fn refused_calls_count_only_when_asked() {
        let config = Config { count_refused: true, ..Config::default() };
        let limits = Limits::new(Quota { rpm: Some(1), ..Quota::default() }, &config);
        let mut counters = Counters::default();
        assert_eq!(counters.take(&limits, 1, 0), []);
        assert_eq!(counters.take(&limits, 1, 30_000).len(), 1);
        assert_eq!(counters.take(&limits, 1, 60_000).len(), 1, "the refused one is still there");
    }
}
