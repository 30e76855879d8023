//! The documented JSON shape of results, attempts and their parts.

use gq::domain::outcome::Usage;
use gq::domain::time::Timestamp;
use gq::domain::view::{AttemptView, JobError};
use serde::Serialize;
use serde_json::value::RawValue;

use super::results::{MediaItem, ResultRow};

/// A result in the documented order of fields.
#[derive(Serialize)]
pub(super) struct Record<'a> {
    pub(super) task_id: &'a str,
    pub(super) batch: &'a str,
    pub(super) state: &'static str,
    pub(super) metadata: Option<Box<RawValue>>,
    pub(super) response: Option<&'a str>,
    pub(super) error: Option<ErrorRecord<'a>>,
    pub(super) finish_reason: Option<&'a str>,
    pub(super) model: &'a str,
    pub(super) model_version: Option<&'a str>,
    pub(super) usage: Option<UsageRecord>,
    pub(super) attempts: i64,
    pub(super) key: Option<&'a str>,
    pub(super) line: i64,
    pub(super) created_at: String,
    pub(super) started_at: Option<String>,
    pub(super) finished_at: Option<String>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(super) media: &'a [MediaItem],
    #[serde(skip_serializing_if = "Option::is_none")]
    #[expect(clippy::option_option, reason = "absent without a schema; null without an answer")]
    pub(super) parsed: Option<Option<Box<RawValue>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[expect(clippy::option_option, reason = "absent unless asked for; null without an answer")]
    pub(super) raw: Option<Option<Box<RawValue>>>,
}

/// Why a job has no answer.
#[derive(Serialize)]
pub(super) struct ErrorRecord<'a> {
    kind: &'static str,
    message: &'a str,
    http_status: Option<u16>,
}

/// Tokens of one call.
#[derive(Serialize)]
pub(super) struct UsageRecord {
    prompt_tokens: i64,
    cached_tokens: i64,
    output_tokens: i64,
    thought_tokens: i64,
    total_tokens: i64,
}

/// One attempt of a job.
#[derive(Serialize)]
pub(super) struct AttemptRecord<'a> {
    attempt: i64,
    key: Option<&'a str>,
    started_at: String,
    ended_at: Option<String>,
    http_status: Option<u16>,
    outcome: &'a str,
    message: Option<&'a str>,
    paid: &'a str,
    usage: Option<UsageRecord>,
}

impl<'a> Record<'a> {
    /// Returns the record of a row.
    pub(super) fn new(row: &'a ResultRow) -> serde_json::Result<Self> {
        let job = &row.answer.job;
        let json = |text: &Option<String>| text.as_deref().map(verbatim).transpose();
        Ok(Self {
            task_id: &job.task_id,
            batch: &job.batch,
            state: job.state.as_str(),
            metadata: json(&job.metadata)?,
            response: row.answer.response.as_deref(),
            error: job.error.as_ref().map(ErrorRecord::new),
            finish_reason: row.answer.finish_reason.as_deref(),
            model: &job.model,
            model_version: row.answer.model_version.as_deref(),
            usage: job.usage.map(UsageRecord::from),
            attempts: job.attempts,
            key: job.key.as_deref(),
            line: job.line,
            created_at: job.created_at.to_string(),
            started_at: text_of(job.started_at),
            finished_at: text_of(job.finished_at),
            media: &row.media,
            parsed: row.parsed.as_ref().map(json).transpose()?,
            raw: if row.full { Some(json(&job.raw)?) } else { None },
        })
    }
}

impl<'a> ErrorRecord<'a> {
    fn new(error: &'a JobError) -> Self {
        let JobError { kind, message, http_status } = error;
        Self { kind: kind.as_str(), message, http_status: *http_status }
    }
}

impl From<Usage> for UsageRecord {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            cached_tokens: usage.cached_tokens,
            output_tokens: usage.output_tokens,
            thought_tokens: usage.thought_tokens,
            total_tokens: usage.total_tokens,
        }
    }
}

impl<'a> From<&'a AttemptView> for AttemptRecord<'a> {
    fn from(view: &'a AttemptView) -> Self {
        Self {
            attempt: view.attempt,
            key: view.key.as_deref(),
            started_at: view.started_at.to_string(),
            ended_at: text_of(view.ended_at),
            http_status: view.http_status,
            outcome: &view.outcome,
            message: view.message.as_deref(),
            paid: &view.paid,
            usage: view.usage.map(UsageRecord::from),
        }
    }
}

/// Returns a time as JSON output shows it.
pub(super) fn text_of(time: Option<Timestamp>) -> Option<String> {
    time.map(|time| time.to_string())
}

/// Takes JSON text as it stands, on one line; what is no JSON becomes a JSON string.
fn verbatim(text: &str) -> serde_json::Result<Box<RawValue>> {
    // A line break in JSON text is only ever between values.
    RawValue::from_string(text.replace(['\n', '\r'], " "))
        .or_else(|_| serde_json::value::to_raw_value(text))
}
