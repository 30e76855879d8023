//! Results of a queue that is done.

use std::path::Path;

use crate::input;
use crate::process::{gq, measured, remove_database};
use crate::report::{Bound, Report};

/// An answer of an ordinary length.
const ANSWER: &str = r#"{"candidates":[{"content":{"parts":[{"text":"The capital is a city of some two million people on a river that many ships go up and down."}],"role":"model"},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":60,"candidatesTokenCount":24,"totalTokenCount":84},"modelVersion":"gemini-2.5-flash","responseId":"0123456789abcdef"}"#;

pub(crate) fn export(folder: &Path, rows: u32, report: &mut Report) {
    remove_database(folder);
    let file = folder.join("exported.jsonl");
    input::write_lines(&file, rows);
    measured(gq(folder).args(["enqueue", "exported.jsonl"]));
    std::fs::remove_file(file).expect("the input is there");
    finish_all(&folder.join("gq.db"));
    let run = measured(gq(folder).args(["results", "-o", "results.jsonl"]));
    let lines = std::fs::read(folder.join("results.jsonl")).expect("the results are there");
    assert_eq!(memchr::memchr_iter(b'\n', &lines).count(), rows as usize);
    let rate = f64::from(rows) / run.took.as_secs_f64();
    report.figure("export, rows/s", rate, Some(Bound::AtLeast(200_000.0)));
    report.figure("export, peak memory, MB", run.memory, Some(Bound::AtMost(50.0)));
    std::fs::remove_file(folder.join("results.jsonl")).expect("the results are there");
    remove_database(folder);
}

/// Gives each job its answer, as a worker would have.
fn finish_all(database: &Path) {
    let connection = rusqlite::Connection::open(database).expect("a database");
    connection
        .execute_batch(&format!(
            "PRAGMA synchronous = OFF;
             BEGIN;
             INSERT INTO answers (job_id, raw) SELECT id, '{ANSWER}' FROM jobs;
             INSERT INTO attempts (job_id, attempt, key_id, started_at, ended_at, http_status,
                                   outcome, paid, prompt_tokens, output_tokens, total_tokens)
             SELECT id, 1, 1, created_at, created_at + 900, 200, 'succeeded', 'yes', 60, 24, 84
               FROM jobs;
             UPDATE jobs SET state = 'succeeded', attempts = 1, claim = 1, told_by = 1, key_id = 1,
                             started_at = created_at, finished_at = created_at + 900;
             UPDATE batches SET succeeded = pending, pending = 0;
             COMMIT;"
        ))
        .expect("there is room");
}
