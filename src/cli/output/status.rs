//! The queue at a glance.

use std::fmt::Write as _;

use chrono::TimeZone;
use gq::domain::time::Timestamp;
use gq::domain::view::{Counts, JobState, QueueStatus, UsedUp};
use serde_json::{Map, Value, json};

use super::columns::{aligned, clock_time};
use super::forecast;
use super::json::pretty;
use super::keys;
use super::record::text_of;

/// Returns the status as one JSON object, indented to be read.
pub(crate) fn json_value(status: &QueueStatus) -> serde_json::Result<String> {
    pretty(&object(status))
}

/// Returns the status as the same JSON object on one line.
pub(crate) fn json_line(status: &QueueStatus) -> String {
    format!("{}\n", object(status))
}

/// Returns the status as text; times are those of `zone`.
pub(crate) fn text<Z: TimeZone>(status: &QueueStatus, zone: &Z, now: Timestamp) -> String
where
    Z::Offset: std::fmt::Display,
{
    let mut heading = vec!["BATCH".to_owned()];
    heading.extend(JobState::ALL.map(|state| state.as_str().to_uppercase()));
    heading.push("TOTAL".to_owned());
    let mut rows = vec![heading];
    rows.extend(status.batches.iter().map(|batch| numbers(&batch.name, &batch.counts)));
    rows.push(numbers("all", &status.counts));
    let mut text = aligned(&rows);
    let busy: i64 = status.workers.iter().map(|worker| worker.busy).sum();
    let most: i64 = status.workers.iter().map(|worker| worker.workers).sum();
    // Writing to a string cannot fail.
    let _ = match status.workers.len() {
        0 => writeln!(text, "\nno worker runs"),
        processes => writeln!(text, "\nprocesses: {processes}, calls in flight: {busy} of {most}"),
    };
    let _ = writeln!(text, "finished in the last minute: {}", status.throughput_per_minute);
    if let Some(waiting) = &status.waiting_for {
        let until = waiting.until.map(|time| format!(" until {}", clock_time(time, zone)));
        let _ = writeln!(text, "waiting: {}{}", waiting.reason, until.unwrap_or_default());
    }
    if let Some(known) = &status.forecast {
        let _ = writeln!(text, "forecast: {}", forecast::text(known, now));
    }
    let UsedUp { calls, tokens, cost } = status.used;
    if calls > 0 {
        let _ = writeln!(text, "so far: {calls} calls, {tokens} tokens, {:.4} USD", dollars(cost));
    }
    if !status.keys.is_empty() {
        let _ = write!(text, "\n{}", keys::table(&status.keys, zone));
    }
    text
}

fn object(status: &QueueStatus) -> Value {
    let keys: Map<String, Value> = status
        .keys
        .iter()
        .map(|key| (key.name.clone(), Value::Object(keys::object(key))))
        .collect();
    let batches = status.batches.iter().map(|batch| {
        let mut object = counts(&batch.counts);
        object.insert("name".to_owned(), json!(batch.name));
        object
    });
    let workers = status.workers.iter().map(|worker| {
        json!({"id": worker.id, "pid": worker.pid, "workers": worker.workers,
            "busy": worker.busy, "heartbeat_at": worker.heartbeat_at.to_string()})
    });
    let waiting = status
        .waiting_for
        .as_ref()
        .map(|waiting| json!({"reason": waiting.reason, "until": text_of(waiting.until)}));
    json!({
        "workers_running": !status.workers.is_empty(),
        "queue_size": status.counts.pending,
        "max_workers": status.workers.iter().map(|worker| worker.workers).sum::<i64>(),
        "active_workers": status.workers.iter().map(|worker| worker.busy).sum::<i64>(),
        "key_status": keys,
        "jobs": counts(&status.counts),
        "batches": batches.collect::<Vec<_>>(),
        "workers": workers.collect::<Vec<_>>(),
        "throughput_per_minute": status.throughput_per_minute,
        "waiting_for": waiting,
        "forecast": status.forecast.as_ref().map(|it| {
            json!({"left": it.left, "per_day": it.per_day, "done_at": it.done_at.to_string()})
        }),
        "used": {
            "calls": status.used.calls,
            "tokens": status.used.tokens,
            "cost_usd": dollars(status.used.cost),
        },
    })
}

/// Returns billionths of a dollar as dollars.
#[expect(clippy::cast_precision_loss, reason = "nobody pays so much that a cent is lost")]
fn dollars(billionths: i64) -> f64 {
    billionths as f64 / 1e9
}

fn counts(counts: &Counts) -> Map<String, Value> {
    let mut object: Map<String, Value> = JobState::ALL
        .into_iter()
        .map(|state| (state.as_str().to_owned(), json!(counts.of(state))))
        .collect();
    object.insert("total".to_owned(), json!(counts.total()));
    object
}

fn numbers(name: &str, counts: &Counts) -> Vec<String> {
    let mut row = vec![name.to_owned()];
    row.extend(JobState::ALL.map(|state| counts.of(state).to_string()));
    row.push(counts.total().to_string());
    row
}

#[cfg(test)]
mod tests {
    use chrono::FixedOffset;
    use gq::domain::forecast::Forecast;
    use gq::domain::key::KeySettings;
    use gq::domain::view::{BatchView, KeyStatus, KeyView, StatusView, Waiting, WorkerView};

    use super::*;

    fn status() -> QueueStatus {
        let counts = Counts { pending: 2, succeeded: 10, ..Counts::default() };
        let overall = StatusView {
            status: KeyStatus::Cooldown,
            exhausted_count: 0,
            total_exhausted_count: 3,
            available_at: Some(Timestamp(60_000)),
            reason: None,
        };
        QueueStatus {
            counts,
            batches: vec![BatchView { name: "prompts".into(), counts }],
            workers: vec![WorkerView {
                id: "w1".into(),
                pid: 7,
                workers: 4,
                busy: 1,
                heartbeat_at: Timestamp(0),
            }],
            keys: vec![KeyView {
                name: "GEMINI_API_KEY".into(),
                overall,
                settings: KeySettings::default(),
                models: vec![],
                same_project_as: None,
            }],
            throughput_per_minute: 5,
            waiting_for: Some(Waiting {
                reason: "every key rests".into(),
                until: Some(Timestamp(60_000)),
            }),
            forecast: Some(Forecast {
                left: 2,
                per_day: 7_200,
                done_at: Timestamp(84_000),
                with_more: None,
            }),
            used: UsedUp { calls: 12, tokens: 3_400, cost: 5_600_000 },
        }
    }

    #[test]
    fn the_text_says_what_it_waits_for_and_until_when() {
        let zone = FixedOffset::east_opt(3600).unwrap();
        let text = text(&status(), &zone, Timestamp(60_000));
        assert!(text.contains("prompts  2        0        10"), "{text}");
        assert!(text.contains("waiting: every key rests until 1970-01-01 01:01:00 +01:00\n"));
        assert!(text.contains("forecast: 2 left, about 7200 a day: 1 minute\n"), "{text}");
        assert!(text.contains("so far: 12 calls, 3400 tokens, 0.0056 USD\n"), "{text}");
        assert!(text.contains("processes: 1, calls in flight: 1 of 4\n"));
    }

    #[test]
    fn the_json_has_the_documented_fields() {
        let value: Value = serde_json::from_str(&json_value(&status()).unwrap()).unwrap();
        assert_eq!(value["queue_size"], json!(2));
        assert_eq!(value["max_workers"], json!(4));
        assert_eq!(value["key_status"]["GEMINI_API_KEY"]["status"], json!("cooldown"));
        assert_eq!(value["jobs"]["total"], json!(12));
        assert_eq!(value["batches"][0]["name"], json!("prompts"));
        assert_eq!(value["waiting_for"]["until"], json!("1970-01-01T00:01:00.000Z"));
        assert_eq!(value["forecast"]["done_at"], json!("1970-01-01T00:01:24.000Z"));
        assert_eq!(value["used"], json!({"calls": 12, "tokens": 3_400, "cost_usd": 0.0056}));
        let line = json_line(&status());
        assert_eq!(line.find('\n'), Some(line.len() - 1));
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), value);
    }
}
