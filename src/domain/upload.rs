//! Media that are too large to go into a request: which jobs need uploads, and how far a key is
//! with them.

use std::time::Duration;

use crate::domain::outcome::ErrorKind;
use crate::domain::time::Timestamp;

/// How long the API keeps a file unless it says otherwise (its documentation, 2026).
const USUAL_LIFE: Duration = Duration::from_hours(48);

/// A file is not used any more so long before it expires, or a tenth of its life where that is
/// less: the call that names it has to start, and clocks differ.
const MARGIN: Duration = Duration::from_mins(10);

/// What `"inlineData":{"mimeType":"","data":""},` adds besides type and data.
const INLINE_FRAME: u64 = 42;

/// Returns the bytes of a request once its media are in it; each is given by the length of its
/// type and its size.
pub fn inline_size(request: u64, media: impl IntoIterator<Item = (usize, u64)>) -> u64 {
    let added = |(mime_type, size): (usize, u64)| {
        let encoded = size.div_ceil(3).saturating_mul(4);
        encoded.saturating_add(mime_type as u64).saturating_add(INLINE_FRAME)
    };
    media.into_iter().map(added).fold(request, u64::saturating_add)
}

/// How far one key is with one medium, or with all media of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The API has it and it may be used.
    Ready,
    /// It is being uploaded, or the API is at work on it.
    UnderWay,
    /// Nothing was done.
    Missing,
    /// It failed not long ago; the jobs that need it are told so.
    Failed(ErrorKind, String),
}

impl Progress {
    /// Returns how far a key is with a job that needs both: a failure decides, then what is most
    /// to do.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (failed @ Self::Failed(..), _) | (_, failed @ Self::Failed(..)) => failed,
            (Self::Missing, _) | (_, Self::Missing) => Self::Missing,
            (Self::UnderWay, _) | (_, Self::UnderWay) => Self::UnderWay,
            (Self::Ready, Self::Ready) => Self::Ready,
        }
    }

    /// Returns whether a job can be called with the key now, if only to be told of a failure.
    pub fn is_settled(&self) -> bool {
        matches!(self, Self::Ready | Self::Failed(..))
    }
}

/// Returns until when a file may be used that the API keeps from `created` to `expires` by its own
/// clock; ours may be wrong, so the life counts from `now`, and less of it if that is plausible.
pub fn usable_until(
    created: Option<Timestamp>,
    expires: Option<Timestamp>,
    now: Timestamp,
) -> Timestamp {
    let life = created
        .zip(expires)
        .map(|(created, expires)| expires.since(created))
        .filter(|life| !life.is_zero())
        .unwrap_or(USUAL_LIFE);
    let left = expires.map(|expires| expires.since(now)).filter(|left| !left.is_zero());
    let left = left.map_or(life, |left| left.min(life));
    now.after(left.saturating_sub(MARGIN.min(left / 10)))
}

/// Returns how long jobs are told of a failure before the upload is tried again: what may pass,
/// for a moment; what would come again, for long enough to tell all that wait.
pub fn told_for(kind: ErrorKind) -> Duration {
    Duration::from_secs(if kind.is_retryable() { 1 } else { 30 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_is_what_goes_around_the_data() {
        let frame = r#""inlineData":{"mimeType":"","data":""},"#.len() as u64;
        assert!((frame..=INLINE_FRAME).contains(&frame), "{frame}");
        assert_eq!(inline_size(100, []), 100);
        assert_eq!(inline_size(100, [(9, 1), (9, 3)]), 100 + 2 * (4 + 9 + INLINE_FRAME));
        assert_eq!(inline_size(1, [(9, u64::MAX)]), u64::MAX);
    }

    #[test]
    fn a_job_is_as_far_as_its_last_medium_and_a_failure_decides() {
        use Progress::{Failed, Missing, Ready, UnderWay};
        let failed = || Failed(ErrorKind::Media, "gone".into());
        for (one, other, both) in [
            (Ready, Ready, Ready),
            (Ready, UnderWay, UnderWay),
            (Missing, UnderWay, Missing),
            (Ready, failed(), failed()),
            (failed(), Missing, failed()),
        ] {
            assert_eq!(one.clone().and(other.clone()), both);
            assert_eq!(other.and(one), both);
        }
    }

    #[test]
    fn a_file_is_used_until_shortly_before_it_expires() {
        let at = |hours: i64| Timestamp(hours * 3_600_000);
        let minutes = |time: Timestamp| time.0 / 60_000;
        let until = |created, expires, now| usable_until(created, expires, now);
        assert_eq!(minutes(until(Some(at(0)), Some(at(48)), at(0))), 48 * 60 - 10);
        // Met again later, with less of its life left.
        assert_eq!(minutes(until(Some(at(0)), Some(at(48)), at(40))), 48 * 60 - 10);
        // Our clock is days ahead, or behind.
        assert_eq!(minutes(until(Some(at(0)), Some(at(48)), at(100))), 148 * 60 - 10);
        assert_eq!(minutes(until(Some(at(100)), Some(at(148)), at(0))), 48 * 60 - 10);
        assert_eq!(minutes(until(None, None, at(1))), 49 * 60 - 10);
        // A short life is not all margin.
        let short = until(Some(Timestamp(0)), Some(Timestamp(1_000)), Timestamp(0));
        assert_eq!(short, Timestamp(900));
    }
}
