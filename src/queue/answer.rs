//! A job with what its answer says.

use crate::domain::outcome::ErrorKind;
use crate::domain::view::{JobState, JobView};
use crate::gemini::wire::{self, Media};

/// A job with what its answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The job: its state, its last error, its tokens.
    pub job: JobView,
    /// The text of the answer; of a job that failed as `invalid_output` the text that did not fit,
    /// of a streaming one that is not finished the text so far.
    pub response: Option<String>,
    /// The images and clips of the answer.
    pub media: Vec<Media>,
    /// Why the answer ended.
    pub finish_reason: Option<String>,
    /// The model that answered.
    pub model_version: Option<String>,
}

impl Answer {
    /// Reads what a job's stored answer says.
    pub fn of(mut job: JobView) -> Self {
        let answer = job.raw.as_deref().and_then(wire::summarize).unwrap_or_default();
        let succeeded = job.state == JobState::Succeeded;
        let misfit = job.state == JobState::Failed
            && job.error.as_ref().is_some_and(|error| error.kind == ErrorKind::InvalidOutput);
        let so_far = job.text.take();
        Self {
            response: if job.state.is_finished() {
                answer.text.filter(|_| succeeded || misfit)
            } else {
                so_far
            },
            media: if succeeded { answer.media } else { Vec::new() },
            finish_reason: answer.finish_reason,
            model_version: answer.model_version,
            job,
        }
    }
}
