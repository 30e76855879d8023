//! The progress line of a worker, and its log.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gq::domain::forecast::{Capacity, Forecast};
use gq::domain::time::Timestamp;
use gq::domain::today::Today;
use gq::domain::view::{Counts, Waiting};
use gq::worker::{Event, Events};
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::forecast;

/// What the line is made of.
#[derive(Default)]
struct Told {
    failures: BTreeMap<&'static str, u64>,
    waiting: Option<Waiting>,
    counts: Counts,
    in_flight: usize,
    uploads: usize,
    held_until: Option<Timestamp>,
    capacity: Option<Capacity>,
    printed: Option<Instant>,
}

/// How often progress is printed where it cannot be redrawn.
const EVERY: Duration = Duration::from_secs(5);

/// Shows what a worker tells of itself.
pub(crate) struct Progress {
    bar: ProgressBar,
    /// Whether lines are printed instead of a bar: stderr is no terminal.
    plain: bool,
}

impl Progress {
    /// Starts a progress line on stderr, if `visible`.
    pub(crate) fn start(visible: bool, is_terminal: bool) -> Self {
        let target = if visible && is_terminal {
            ProgressDrawTarget::stderr_with_hz(8)
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        bar.set_style(
            ProgressStyle::with_template("{bar:24} {pos}/{len} {per_sec}{msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        if visible && is_terminal {
            bar.enable_steady_tick(Duration::from_millis(250));
        }
        Self { bar, plain: visible && !is_terminal }
    }

    /// Returns where a worker's events go.
    pub(crate) fn events(&self) -> Events {
        let (bar, plain) = (self.bar.clone(), self.plain);
        let told = Arc::new(Mutex::new(Told::default()));
        Events::to(move |event| {
            log(event);
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(waiting) = told.begins_long_wait(event, gq::clock::now()) {
                let until = waiting.until.map(|until| until.to_string()).unwrap_or_default();
                tracing::warn!(until, "{}", waiting.reason);
            }
            told.take(event);
            if let Event::Turn { counts, .. } = event {
                let done = counts.total() - counts.unfinished();
                bar.set_length(u64::try_from(counts.total()).unwrap_or(0));
                bar.set_position(u64::try_from(done).unwrap_or(0));
                let line = told.line(bar.eta(), gq::clock::now());
                if plain && told.is_time_to_print(Instant::now()) {
                    super::log::write(format!("{done}/{}{line}\n", counts.total()).as_bytes());
                }
                bar.set_message(line);
            }
        })
    }

    /// Takes the line away.
    pub(crate) fn end(self) {
        self.bar.finish_and_clear();
    }
}

/// A wait that is worth a line of the log.
const LONG_WAIT: Duration = Duration::from_mins(5);

impl Told {
    /// Returns whether the last line was printed long enough ago, or all is done, and notes the time.
    fn is_time_to_print(&mut self, now: Instant) -> bool {
        let is_done = self.counts.unfinished() == 0;
        let is_time = is_done || self.printed.is_none_or(|printed| now - printed >= EVERY);
        if is_time {
            self.printed = Some(now);
        }
        is_time
    }

    /// Returns what an event says is waited for, where that is new and takes long.
    fn begins_long_wait(&self, event: &Event, now: Timestamp) -> Option<Waiting> {
        let Event::Turn { waiting: Some(waiting), .. } = event else { return None };
        let is_long = waiting.until.is_none_or(|until| until.since(now) > LONG_WAIT);
        Some(waiting.clone()).filter(|_| is_long && self.waiting.is_none())
    }

    fn take(&mut self, event: &Event) {
        match event {
            Event::Failed { kind, .. } => *self.failures.entry(kind.as_str()).or_default() += 1,
            Event::Turn { counts, in_flight, uploads, waiting, held_until, capacity } => {
                self.held_until = *held_until;
                self.capacity = capacity.or(self.capacity);
                self.counts = *counts;
                self.in_flight = *in_flight;
                self.uploads = *uploads;
                self.waiting.clone_from(waiting);
            }
            _ => {}
        }
    }

    /// Returns what follows the bar: calls in flight, failures by kind, what is waited for.
    fn line(&self, left: Duration, now: Timestamp) -> String {
        // Writing to a string cannot fail.
        use std::fmt::Write as _;
        let is_held = self.waiting.is_some() || self.held_until.is_some();
        let left = Some(left).filter(|left| !left.is_zero() && !is_held);
        let left = left.map(|left| format!(", {} left", HumanDuration(left)));
        let mut line = format!("{}, {} in flight", left.unwrap_or_default(), self.in_flight);
        if self.uploads > 0 {
            let _ = write!(line, ", {} uploading", self.uploads);
        }
        for (kind, count) in &self.failures {
            let _ = write!(line, ", {count} {kind}");
        }
        if let Some(waiting) = self.waiting.as_ref().filter(|_| self.in_flight == 0) {
            let _ = write!(line, "; {}", waiting.reason);
            if let Some(until) = waiting.until {
                let _ = write!(line, "; next at {}", local(until, now));
            }
        } else if let Some(until) = self.held_until.filter(|_| self.in_flight == 0) {
            let _ = write!(line, "; limits: next call at {}", local(until, now));
        }
        if let Some(text) = self.days(now) {
            let _ = write!(line, "; {text}");
        }
        line
    }

    /// Returns how long it takes under the limits that are known, where that is more than a day.
    fn days(&self, now: Timestamp) -> Option<String> {
        let today = Today::at(now);
        let forecast = Forecast::of(self.counts.unfinished(), self.capacity.as_ref()?, 0, &today)?;
        (forecast.done_at > today.ends).then(|| forecast::text(&forecast, now))
    }
}

/// Returns the time where the user is, with the day where that is not today's.
fn local(time: Timestamp, now: Timestamp) -> impl std::fmt::Display {
    let here = |time: Timestamp| time.to_utc().with_timezone(&chrono::Local);
    let is_today = here(time).date_naive() == here(now).date_naive();
    here(time).format(if is_today { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" })
}

fn log(event: &Event) {
    match event {
        Event::Started { jobs } => tracing::debug!(jobs, "jobs started"),
        Event::Succeeded { task_id } => tracing::debug!(task_id, "job succeeded"),
        Event::Failed { task_id, kind, message } => {
            tracing::warn!(task_id, %kind, message, "job failed");
        }
        Event::Retrying { task_id, kind, message } => {
            tracing::info!(task_id, %kind, message, "attempt failed; the job is tried again");
        }
        Event::Uploading { key, path, bytes } => {
            let path = path.as_deref().unwrap_or("bytes of a line");
            tracing::info!(key, path, bytes, "uploading media");
        }
        Event::UploadFailed { kind, message } => {
            tracing::warn!(%kind, message, "upload failed; the jobs that need it are told so");
        }
        Event::UploadLimited { key } => tracing::info!(key, "rate limit reached by an upload"),
        Event::KeyRefused { key, message } => {
            tracing::warn!(key, message, "the API refused a key; it is not used any more");
        }
        Event::RateLimited { key, model } => tracing::info!(key, model, "rate limit reached"),
        Event::TakenBack { jobs } => {
            tracing::warn!(jobs, "took back jobs of a worker that died or hung");
        }
        Event::Turn { counts, in_flight, .. } => {
            tracing::trace!(pending = counts.pending, in_flight, "turn done");
        }
        Event::StoreTrouble { message } => {
            tracing::warn!(message, "cannot write the database; trying again");
        }
        Event::Draining => {
            tracing::warn!("stopping: calls in flight may end; a second signal cuts them");
        }
    }
}

#[cfg(test)]
mod tests {
    use gq::domain::outcome::ErrorKind;

    use super::*;

    #[test]
    fn the_line_tells_failures_by_kind_and_what_is_waited_for() {
        let mut told = Told::default();
        for _ in 0..2 {
            told.take(&Event::Failed {
                task_id: "a".into(),
                kind: ErrorKind::Blocked,
                message: String::new(),
            });
        }
        let waiting =
            Waiting { reason: "all 4 keys rest".into(), until: Some(Timestamp(1_800_000_000_000)) };
        told.take(&Event::Turn {
            counts: Counts::default(),
            in_flight: 0,
            uploads: 2,
            waiting: Some(waiting),
            held_until: None,
            capacity: None,
        });
        let end = Timestamp(1_800_000_000_000);
        let wait = |until| Event::Turn {
            counts: Counts::default(),
            in_flight: 0,
            uploads: 0,
            waiting: Some(Waiting { reason: "it rests".into(), until: Some(until) }),
            held_until: None,
            capacity: None,
        };
        let before = Timestamp(end.0 - 400_000);
        assert_eq!(told.begins_long_wait(&wait(end), before), None, "it waits already");
        assert!(Told::default().begins_long_wait(&wait(end), before).is_some());
        assert_eq!(Told::default().begins_long_wait(&wait(before), before), None);
        let line = told.line(Duration::from_secs(90), Timestamp(0));
        assert!(
            line.starts_with(
                ", 0 in flight, 2 uploading, 2 blocked; all 4 keys rest; next at 2027-"
            ),
            "{line}"
        );
        let line = Told::default().line(Duration::from_secs(90), Timestamp(0));
        assert_eq!(line, ", 2 minutes left, 0 in flight");
    }
}
