//! The queue as a live view shows it: one frame, made to fit where it is shown.

use std::fmt::Display;
use std::time::Duration;

use chrono::TimeZone;
use gq::domain::forecast::Forecast;
use gq::domain::time::Timestamp;
use gq::domain::view::{
    BatchView, Counts, FailureView, KeyStatus, KeyView, QueueStatus, StatusView,
};

use super::columns::clock_time;
use super::forecast;
use super::line::{Line, Side, Tint, table};

/// What takes longer than this depends on the limits of days, not on the last minute.
const LONG: Duration = Duration::from_hours(24);

/// What a frame shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) status: QueueStatus,
    /// The latest first.
    pub(crate) failures: Vec<FailureView>,
    /// Why this is not how things are now, but how they were.
    pub(crate) trouble: Option<String>,
}

/// How a frame may look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    /// Columns of a line, at most.
    pub(crate) width: usize,
    /// Lines, at most.
    pub(crate) height: usize,
    pub(crate) color: bool,
}

impl Look {
    /// Returns the look of a frame that has all the room it needs.
    pub(crate) fn unbounded(color: bool) -> Self {
        Self { width: usize::MAX, height: usize::MAX, color }
    }
}

/// Returns the view at `now` as lines of text; times are those of `zone`.
pub(crate) fn frame<Z: TimeZone>(view: &View, look: &Look, zone: &Z, now: Timestamp) -> String
where
    Z::Offset: Display,
{
    let mut lines = summary(view, zone, now);
    let sections = [
        batches(&view.status, look.width),
        keys(&view.status.keys, zone, now),
        failures(&view.failures, now),
    ];
    let room = look.height.saturating_sub(lines.len());
    let heights = shares(room, sections.each_ref().map(Section::height));
    for (section, height) in sections.into_iter().zip(heights) {
        lines.extend(section.within(height));
    }
    let mut text = String::new();
    for line in lines.into_iter().take(look.height) {
        line.cut(look.width).write(look.color, &mut text);
        text.push('\n');
    }
    text
}

/// Returns a frame without its blank lines, so that one can stand between frames.
pub(crate) fn paragraph(frame: &str) -> String {
    frame.split_inclusive('\n').filter(|line| *line != "\n").collect()
}

/// A heading with rows under it.
struct Section {
    heading: Line,
    rows: Vec<Line>,
}

impl Section {
    /// Takes the rows of a table whose first one is the heading.
    fn of(mut lines: Vec<Line>) -> Self {
        let heading = if lines.is_empty() { Line::default() } else { lines.remove(0) };
        Self { heading, rows: lines }
    }

    /// Returns the lines that it takes as a whole, with the blank one before it.
    fn height(&self) -> usize {
        if self.rows.is_empty() { 0 } else { self.rows.len() + 2 }
    }

    /// Returns as much of it as fits, and how much does not.
    fn within(mut self, height: usize) -> Vec<Line> {
        let room = height.saturating_sub(2);
        if self.rows.is_empty() || room == 0 {
            return Vec::new();
        }
        let all = self.rows.len();
        if all > room {
            self.rows.truncate(room - 1);
            let left = all - self.rows.len();
            self.rows.push(Line::of(Tint::Dim, format!("… and {left} more")));
        }
        let mut lines = vec![Line::default(), self.heading];
        lines.append(&mut self.rows);
        lines
    }
}

/// Divides `room` among those who want so much: nobody gets less than another for wanting more.
fn shares<const N: usize>(mut room: usize, wanted: [usize; N]) -> [usize; N] {
    let mut given = [0; N];
    while room > 0 && given != wanted {
        for (given, wanted) in given.iter_mut().zip(wanted) {
            if *given < wanted && room > 0 {
                *given += 1;
                room -= 1;
            }
        }
    }
    given
}

/// Returns what there is to say of the queue as a whole.
fn summary<Z: TimeZone>(view: &View, zone: &Z, now: Timestamp) -> Vec<Line>
where
    Z::Offset: Display,
{
    let status = &view.status;
    let mut lines = vec![Line::of(Tint::Bold, format!("gq status  {}", clock_time(now, zone)))];
    if let Some(trouble) = &view.trouble {
        lines.push(Line::of(Tint::Red, format!("trouble   {trouble}")));
    }
    lines.push(Line::of(Tint::Plain, format!("rate      {}", rate(status))));
    let is_long = |it: &&Forecast| it.done_at.since(now) > LONG;
    if let Some(known) = status.forecast.as_ref().filter(is_long) {
        lines.push(Line::of(Tint::Plain, format!("forecast  {}", forecast::text(known, now))));
    }
    let (tint, workers) = workers(status);
    lines.push(Line::of(Tint::Plain, "workers   ").and(tint, workers));
    if !status.keys.is_empty() {
        let is_usable = |key: &&KeyView| key.overall.status == KeyStatus::Available;
        let usable = status.keys.iter().filter(is_usable).count();
        let text = format!("keys      {usable} of {} available", status.keys.len());
        lines.push(Line::of(Tint::Plain, text));
    }
    if let Some(waiting) = &status.waiting_for {
        let until = waiting.until.map(|time| format!(" until {}", ahead(time, zone, now)));
        let text = format!("{}{}", waiting.reason, until.unwrap_or_default());
        lines.push(Line::of(Tint::Plain, "waiting   ").and(Tint::Yellow, text));
    }
    lines
}

fn workers(status: &QueueStatus) -> (Tint, String) {
    let busy: i64 = status.workers.iter().map(|worker| worker.busy).sum();
    let most: i64 = status.workers.iter().map(|worker| worker.workers).sum();
    let noun = match status.workers.len() {
        0 => {
            let tint = if status.counts.unfinished() > 0 { Tint::Yellow } else { Tint::Plain };
            return (tint, "no worker runs".to_owned());
        }
        1 => "process",
        _ => "processes",
    };
    let processes = status.workers.len();
    (Tint::Plain, format!("{processes} {noun}, {busy} of {most} calls in flight"))
}

/// Returns how fast jobs finish, and how long that takes for those that are left.
fn rate(status: &QueueStatus) -> String {
    let rate = status.throughput_per_minute;
    let left = status.counts.unfinished();
    match (left, rate) {
        (0, _) => format!("{rate} in the last minute, none left"),
        (_, 0) => format!("0 in the last minute, {left} left"),
        _ => {
            let seconds = u64::try_from(left.saturating_mul(60) / rate).unwrap_or(0);
            let time = span(Duration::from_secs(seconds));
            format!("{rate} in the last minute, {left} left: about {time} at this rate")
        }
    }
}

/// Returns the batches, those at work first, of those that are done the latest one.
fn batches(status: &QueueStatus, width: usize) -> Section {
    let (mut active, mut finished): (Vec<&BatchView>, Vec<_>) =
        status.batches.iter().partition(|batch| batch.counts.unfinished() > 0);
    active.sort_by_key(|batch| batch.counts.running == 0);
    finished.reverse();
    let names = (width / 3).max(8);
    let bar = (width / 4).clamp(6, 24);
    let mut rows = vec![heading(["BATCH", "", "DONE", "", "", "", ""])];
    if status.batches.len() > 1 {
        rows.push(batch("all", &status.counts, names, bar));
    }
    rows.extend(
        active.into_iter().chain(finished).map(|it| batch(&it.name, &it.counts, names, bar)),
    );
    let [left, right] = [Side::Left, Side::Right];
    Section::of(table([left, left, right, right, left, left, left], rows))
}

fn batch(name: &str, counts: &Counts, names: usize, bar: usize) -> [Line; 7] {
    let total = counts.total();
    let done = total - counts.unfinished();
    let number = |tint, count: i64, what: &str| match count {
        0 => Line::default(),
        _ => Line::of(tint, format!("{count} {what}")),
    };
    let filled = part(done, total, bar);
    [
        Line::of(Tint::Plain, name).cut(names),
        Line::of(Tint::Green, "█".repeat(filled)).and(Tint::Dim, "░".repeat(bar - filled)),
        Line::of(Tint::Plain, format!("{done}/{total}")),
        Line::of(Tint::Plain, format!("{}%", part(done, total, 100))),
        number(Tint::Plain, counts.running, "running"),
        number(Tint::Red, counts.failed, "failed"),
        number(Tint::Yellow, counts.cancelled, "cancelled"),
    ]
}

/// Returns which part of `whole` is done, rounded down: it is all of it only at the end.
fn part(done: i64, total: i64, whole: usize) -> usize {
    let [done, total] = [done, total].map(|number| usize::try_from(number).unwrap_or(0));
    done.saturating_mul(whole) / total.max(1)
}

/// Returns the keys, each with the models that are in another state.
fn keys<Z: TimeZone>(keys: &[KeyView], zone: &Z, now: Timestamp) -> Section
where
    Z::Offset: Display,
{
    let mut rows = vec![heading(["KEY", "STATUS", "BACK AT", "REASON"])];
    for key in keys {
        rows.push(key_row(&key.name, &key.overall, zone, now));
        let others = key.models.iter().filter(|model| model.status != key.overall);
        rows.extend(others.map(|it| key_row(&format!("  {}", it.name), &it.status, zone, now)));
    }
    Section::of(table([Side::Left; 4], rows))
}

fn key_row<Z: TimeZone>(name: &str, state: &StatusView, zone: &Z, now: Timestamp) -> [Line; 4]
where
    Z::Offset: Display,
{
    let tint = match state.status {
        KeyStatus::Available => Tint::Green,
        KeyStatus::Cooldown | KeyStatus::TemporarilyExhausted => Tint::Yellow,
        KeyStatus::FullyExhausted | KeyStatus::FailedInit => Tint::Red,
        KeyStatus::Disabled => Tint::Dim,
    };
    let back = state.available_at.map(|time| ahead(time, zone, now)).unwrap_or_default();
    [
        Line::of(Tint::Plain, name),
        Line::of(tint, state.status.as_str()),
        Line::of(Tint::Plain, back),
        Line::of(Tint::Plain, state.reason.as_deref().unwrap_or_default()),
    ]
}

fn failures(failures: &[FailureView], now: Timestamp) -> Section {
    let mut rows = vec![heading(["FAILED", "TASK", "BATCH", "KIND", "MESSAGE"])];
    rows.extend(failures.iter().map(|failure| {
        [
            Line::of(Tint::Plain, format!("{} ago", span(now.since(failure.finished_at)))),
            Line::of(Tint::Plain, &failure.task_id).cut(24),
            Line::of(Tint::Plain, &failure.batch).cut(16),
            Line::of(Tint::Red, failure.error.kind.as_str()),
            Line::of(Tint::Plain, &failure.error.message),
        ]
    }));
    Section::of(table([Side::Left; 5], rows))
}

fn heading<const N: usize>(words: [&str; N]) -> [Line; N] {
    words.map(|word| Line::of(Tint::Bold, word))
}

/// Returns a time to come as a clock in `zone` shows it, and how long that is from `now`.
fn ahead<Z: TimeZone>(time: Timestamp, zone: &Z, now: Timestamp) -> String
where
    Z::Offset: Display,
{
    let [then, today] = [time, now].map(|time| time.to_utc().with_timezone(zone));
    let is_today = then.date_naive() == today.date_naive();
    let form = if is_today { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" };
    // Rounded up: a countdown that says 0 s has come to its end.
    let left = time.since(now) + Duration::from_millis(999);
    format!("{} (in {})", then.format(form), span(left))
}

/// Returns a duration in its two largest units.
fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h {:02}m", minutes % 60),
        _ => format!("{days}d {:02}h", hours % 24),
    }
}

#[cfg(test)]
mod tests;
