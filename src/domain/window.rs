//! The calls of the last minute with their tokens: what a limit by the minute counts.

use std::collections::VecDeque;
use std::fmt::Write as _;

use crate::domain::limits::{Limits, Quota};
use crate::domain::time::Timestamp;

/// A minute in milliseconds. The API does not say whether its minutes roll or begin with the clock's;
/// what keeps within each rolling one keeps within both.
pub const MINUTE: i64 = 60_000;

/// A call counts so much longer than a minute: it may take longer on its way than later ones.
const SLACK: i64 = 500;

/// Calls within so many milliseconds are one entry, which counts from its last call.
const GRAIN: i64 = 1_000;

/// Calls of one second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    first: i64,
    last: i64,
    calls: i64,
    tokens: i64,
}

/// The calls of a slot that still count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// How long the minute of who counts is, in milliseconds.
    minute: i64,
    entries: VecDeque<Entry>,
    calls: i64,
    tokens: i64,
}

impl Default for Window {
    fn default() -> Self {
        Self { minute: MINUTE, entries: VecDeque::new(), calls: 0, tokens: 0 }
    }
}

impl Window {
    /// Returns how long a call counts, in milliseconds.
    pub fn span(&self) -> i64 {
        self.minute + SLACK
    }

    /// Notes that the minute of who counts is so long, in milliseconds.
    pub fn set_minute(&mut self, minute: i64) {
        self.minute = minute.clamp(SLACK, MINUTE);
    }

    /// Returns when the first call was that counts.
    pub fn first_at(&self) -> Option<Timestamp> {
        self.entries.front().map(|entry| Timestamp(entry.first))
    }

    /// Lets all calls so far count until `time` at most.
    pub fn end_at(&mut self, time: Timestamp) {
        let last = time.0 - self.span();
        for entry in self.entries.iter_mut().filter(|entry| entry.last > last) {
            entry.last = last;
            entry.first = entry.first.min(last);
        }
    }

    /// Returns the number of calls.
    pub fn calls(&self) -> i64 {
        self.calls
    }

    /// Returns the number of tokens.
    pub fn tokens(&self) -> i64 {
        self.tokens
    }

    /// Returns when the last call was, in milliseconds; zero where none counts.
    pub fn last_at(&self) -> i64 {
        self.entries.back().map_or(0, |entry| entry.last)
    }

    /// Forgets what counts no more at `now`. A call from the future was noted under a wrong clock;
    /// it may have been just now.
    pub fn advance(&mut self, now: Timestamp) {
        for entry in self.entries.iter_mut().filter(|entry| entry.last > now.0) {
            entry.last = now.0;
            entry.first = entry.first.min(now.0);
        }
        let span = self.span();
        while let Some(entry) = self.entries.front().filter(|entry| entry.last + span <= now.0) {
            self.calls -= entry.calls;
            self.tokens -= entry.tokens;
            self.entries.pop_front();
        }
    }

    /// Notes a call at `now` that is expected to have `tokens` of input.
    pub fn take(&mut self, tokens: i64, now: Timestamp) {
        match self.entries.back_mut().filter(|entry| now.0 - entry.first < GRAIN) {
            Some(entry) => {
                entry.last = entry.last.max(now.0);
                entry.calls += 1;
                entry.tokens += tokens;
            }
            None => {
                self.entries.push_back(Entry { first: now.0, last: now.0, calls: 1, tokens });
            }
        }
        self.calls += 1;
        self.tokens += tokens;
    }

    /// Takes back a call of `at` that was expected to have `tokens` and was not made.
    pub fn give_back(&mut self, tokens: i64, at: Timestamp) {
        self.correct(-tokens, at);
        if let Some(entry) = self.entry_of(at).filter(|entry| entry.calls > 0) {
            entry.calls -= 1;
            self.calls -= 1;
        }
    }

    fn entry_of(&mut self, at: Timestamp) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| (entry.first..=entry.last).contains(&at.0))
    }

    /// Puts right by `difference` what the call of `at` was expected to have, if it still counts.
    pub fn correct(&mut self, difference: i64, at: Timestamp) {
        let Some(entry) = self.entry_of(at) else { return };
        let difference = difference.max(-entry.tokens);
        entry.tokens += difference;
        self.tokens += difference;
    }

    /// Returns when one more call of `tokens` keeps within `limits`, if it does not now. A call
    /// that has more tokens than a minute may have goes when nothing else counts.
    pub fn fits_at(&self, limits: &Limits, tokens: i64) -> Option<Timestamp> {
        let surplus = |limit: Option<i64>, used: i64, more: i64| {
            limit.map_or(0, |limit| (used + more - limit).clamp(0, used))
        };
        let mut calls = surplus(limits.of(Quota::Rpm), self.calls, 1);
        let mut tokens = surplus(limits.of(Quota::Tpm), self.tokens, tokens);
        let mut fits = None;
        for entry in &self.entries {
            if calls <= 0 && tokens <= 0 {
                break;
            }
            calls -= entry.calls;
            tokens -= entry.tokens;
            fits = Some(Timestamp(entry.last + self.span()));
        }
        fits
    }

    /// Returns the window as text for the database: the length of a minute, then for each second
    /// how much later it begins than the one before (the first since 1970), how long it lasts, its
    /// calls and its tokens.
    pub fn to_text(&self) -> String {
        let mut text = self.minute.to_string();
        let mut before = 0;
        for Entry { first, last, calls, tokens } in &self.entries {
            // Writing to a string cannot fail.
            let _ = write!(text, " {} {} {calls} {tokens}", first - before, last - first);
            before = *first;
        }
        text
    }

    /// Reads what [`Window::to_text`] wrote; what is no such text counts nothing.
    pub fn from_text(text: &str) -> Self {
        let mut window = Self::default();
        let numbers: Vec<i64> = text.split(' ').map_while(|number| number.parse().ok()).collect();
        let Some((minute, numbers)) = numbers.split_first() else { return window };
        window.set_minute(*minute);
        let mut first = 0;
        for &[later, length, calls, tokens] in numbers.as_chunks().0 {
            first += later;
            window.entries.push_back(Entry { first, last: first + length, calls, tokens });
            window.calls += calls;
            window.tokens += tokens;
        }
        window
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPAN_MS: i64 = 60_500;

    fn limits(rpm: Option<i64>, tpm: Option<i64>) -> Limits {
        Limits([rpm, tpm, None])
    }

    #[test]
    fn a_call_fits_when_enough_older_ones_count_no_more() {
        let mut window = Window::default();
        let limits = limits(Some(3), Some(100));
        for (at, tokens) in [(0, 10), (5_000, 60), (9_000, 10)] {
            assert_eq!(window.fits_at(&limits, tokens), None);
            window.take(tokens, Timestamp(at));
        }
        assert_eq!(window.fits_at(&limits, 1), Some(Timestamp(SPAN_MS)));
        assert_eq!(window.fits_at(&limits, 50), Some(Timestamp(5_000 + SPAN_MS)));
        assert_eq!(window.fits_at(&limits, 500), Some(Timestamp(9_000 + SPAN_MS)));
        window.advance(Timestamp(SPAN_MS - 1));
        assert_eq!((window.calls(), window.tokens()), (3, 80));
        window.advance(Timestamp(SPAN_MS));
        assert_eq!((window.calls(), window.tokens()), (2, 70));
        window.advance(Timestamp(SPAN_MS * 2));
        assert_eq!(window, Window::default());
        assert_eq!(window.fits_at(&limits, 500), None, "it would never fit");
    }

    #[test]
    fn what_a_call_was_expected_to_have_is_put_right() {
        let mut window = Window::default();
        for at in [0, 400, 5_000] {
            window.take(100, Timestamp(at));
        }
        window.correct(-50, Timestamp(400));
        window.correct(20, Timestamp(5_000));
        assert_eq!(window.tokens(), 270);
        window.correct(-1_000, Timestamp(0));
        window.correct(-1_000, Timestamp(9_000));
        assert_eq!(window.tokens(), 120, "an entry has no less than nothing");
        window.advance(Timestamp(400 + SPAN_MS));
        assert_eq!((window.calls(), window.tokens()), (1, 120));
        window.correct(500, Timestamp(0));
        assert_eq!(window.tokens(), 120, "it counts no more");
        window.give_back(100, Timestamp(5_000));
        assert_eq!((window.calls(), window.tokens()), (0, 20));
        window.give_back(100, Timestamp(5_000));
        assert_eq!((window.calls(), window.tokens()), (0, 0));
    }

    #[test]
    fn a_minute_may_be_shorter_or_end_for_all_calls_at_once() {
        let mut window = Window::default();
        for at in [0, 10_000, 20_000] {
            window.take(1, Timestamp(at));
        }
        window.end_at(Timestamp(25_000));
        window.advance(Timestamp(24_999));
        assert_eq!(window.calls(), 3);
        window.advance(Timestamp(25_000));
        assert_eq!(window.calls(), 0);
        window.set_minute(2_000);
        window.take(1, Timestamp(30_000));
        let window = Window::from_text(&window.to_text());
        assert_eq!(window.fits_at(&limits(Some(1), None), 1), Some(Timestamp(32_500)));
    }

    #[test]
    fn a_clock_that_was_set_back_blocks_for_a_minute_at_most() {
        let mut window = Window::default();
        window.take(1, Timestamp(10_000_000));
        window.advance(Timestamp(5_000));
        let limits = limits(Some(1), None);
        assert_eq!(window.fits_at(&limits, 1), Some(Timestamp(5_000 + SPAN_MS)));
    }

    proptest! {
        #[test]
        fn no_rolling_minute_has_more_than_the_limit_and_the_text_reads_back(
            steps in proptest::collection::vec((0_i64..9_000, 1_i64..40), 1..200),
            rpm in 1_i64..12, tpm in 20_i64..200,
        ) {
            let limits = limits(Some(rpm), Some(tpm));
            let mut window = Window::default();
            let mut now = 1_800_000_000_000;
            let mut made: Vec<(i64, i64)> = Vec::new();
            for (wait, tokens) in steps {
                now += wait;
                window.advance(Timestamp(now));
                if let Some(time) = window.fits_at(&limits, tokens.min(tpm)) {
                    prop_assert!(time.0 > now && time.0 <= now + SPAN_MS, "it says when");
                    let mut later = window.clone();
                    later.advance(time);
                    prop_assert_eq!(later.fits_at(&limits, tokens.min(tpm)), None);
                    continue;
                }
                window.take(tokens.min(tpm), Timestamp(now));
                made.push((now, tokens.min(tpm)));
                prop_assert_eq!(&Window::from_text(&window.to_text()), &window);
            }
            for (start, _) in &made {
                let minute = made.iter().filter(|(at, _)| (*start..start + 60_000).contains(at));
                let (calls, tokens) = minute.fold((0, 0), |sum, it| (sum.0 + 1, sum.1 + it.1));
                prop_assert!(calls <= rpm && tokens <= tpm);
            }
        }
    }
}
