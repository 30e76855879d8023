use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn defaults() -> Defaults {
    Defaults {
        model: "m".to_owned(),
        priority: 0,
        max_attempts: 5,
        not_before: None,
    }
}

fn job(text: &str) -> NewJob {
    parse_line(text, 7, &defaults()).unwrap().unwrap()
}

fn refusal(text: &str) -> String {
    parse_line(text, 7, &defaults()).unwrap_err()
}

#[test]
fn a_prompt_line_becomes_a_request() {
    let job = job(r#"{"prompt": "Hi \"you\"", "metadata": {"task_id": "t1", "n": 1.50}}"#);
    assert_eq!(
        job.request,
        r#"{"contents":[{"role":"user","parts":[{"text":"Hi \"you\""}]}]}"#
    );
    assert_eq!(
        job.metadata.as_deref(),
        Some(r#"{"task_id": "t1", "n": 1.50}"#)
    );
    assert_eq!(
        (job.task_id.as_str(), job.line, job.model.as_str()),
        ("t1", 7, "m")
    );
    assert_eq!(
        (job.priority, job.max_attempts, job.not_before),
        (0, 5, None)
    );
}
