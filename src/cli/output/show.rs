//! One job with its attempts.

use chrono::TimeZone;
use gq::domain::view::AttemptView;
use serde::Serialize;

use super::columns::{aligned, clock_time};
use super::json::pretty;
use super::record::{AttemptRecord, Record};
use super::results::ResultRow;
use super::text::alone;

/// Returns the result object with its `attempt_log`.
pub(crate) fn json_value(row: &ResultRow, attempts: &[AttemptView]) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Shown<'a> {
        #[serde(flatten)]
        result: Record<'a>,
        attempt_log: Vec<AttemptRecord<'a>>,
    }
    let attempt_log = attempts.iter().map(AttemptRecord::from).collect();
    pretty(&Shown { result: Record::new(row)?, attempt_log })
}

/// Returns the job as text: what it is, its attempts, its answer.
pub(crate) fn text<Z: TimeZone>(row: &ResultRow, attempts: &[AttemptView], zone: &Z) -> String
where
    Z::Offset: std::fmt::Display,
{
    let job = &row.answer.job;
    let pair = |name: &str, value: String| vec![name.to_owned(), value];
    let mut facts = vec![
        pair("task", job.task_id.clone()),
        pair("batch", format!("{} (line {})", job.batch, job.line)),
        pair("state", job.state.as_str().to_owned()),
        pair("model", job.model.clone()),
        pair("attempts", job.attempts.to_string()),
        pair("created", clock_time(job.created_at, zone)),
    ];
    match job.finished_at {
        Some(time) => facts.push(pair("finished", clock_time(time, zone))),
        None => facts.push(pair("next try", clock_time(job.due_at, zone))),
    }
    let mut log = vec![
        ["#", "STARTED", "KEY", "HTTP", "OUTCOME", "TOKENS", "MESSAGE"].map(str::to_owned).to_vec(),
    ];
    log.extend(attempts.iter().map(|attempt| attempt_line(attempt, zone)));
    format!("{}\n{}\n{}", aligned(&facts), aligned(&log), alone(row))
}

fn attempt_line<Z: TimeZone>(attempt: &AttemptView, zone: &Z) -> Vec<String>
where
    Z::Offset: std::fmt::Display,
{
    let dash = || "-".to_owned();
    vec![
        attempt.attempt.to_string(),
        clock_time(attempt.started_at, zone),
        attempt.key.clone().unwrap_or_else(dash),
        attempt.http_status.map_or_else(dash, |status| status.to_string()),
        attempt.outcome.clone(),
        attempt.usage.map_or_else(dash, |usage| usage.total_tokens.to_string()),
        attempt.message.as_deref().unwrap_or_default().replace('\n', " "),
    ]
}
