//! When the queue will be done, in words.

use gq::domain::forecast::Forecast;
use gq::domain::time::Timestamp;

/// Returns a line such as `12400 left, about 250 a day: 49 days; with 3 more keys of projects of
/// their own: 13 days`.
pub(crate) fn text(forecast: &Forecast, now: Timestamp) -> String {
    let Forecast { left, per_day, done_at, with_more } = forecast;
    let span = span(*done_at, now);
    let more = with_more.map(|(keys, done_at)| {
        format!("; with {keys} more keys of projects of their own: {}", self::span(done_at, now))
    });
    format!("{left} left, about {per_day} a day: {span}{}", more.unwrap_or_default())
}

/// Returns how long it is from `now`, in the unit that fits.
fn span(time: Timestamp, now: Timestamp) -> String {
    let minutes = time.since(now).as_secs().div_ceil(60);
    let (number, unit) = match minutes {
        0..120 => (minutes, "minute"),
        120..2_880 => (minutes.div_ceil(60), "hour"),
        _ => (minutes / 1_440, "day"),
    };
    format!("{number} {unit}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_how_long_it_takes_and_what_more_keys_would_do() {
        let hours = |hours: i64| Timestamp(hours * 3_600_000);
        let forecast = Forecast {
            left: 12_400,
            per_day: 250,
            done_at: hours(49 * 24 + 12),
            with_more: Some((3, hours(13 * 24))),
        };
        assert_eq!(
            text(&forecast, Timestamp(0)),
            "12400 left, about 250 a day: 49 days; with 3 more keys of projects of their own: 13 \
             days"
        );
        let soon = |minutes: i64| span(Timestamp(minutes * 60_000 - 1), Timestamp(0));
        assert_eq!([soon(1), soon(119), soon(121)], ["1 minute", "119 minutes", "3 hours"]);
    }
}
