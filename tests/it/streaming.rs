//! Streaming jobs: text that is read while it comes.

use serde_json::{Value, json};

use crate::support::{LIMIT, TestEnv, wait_until};

const LINE: &str = r#"{"prompt": "What is the capital of France?", "task_id": "t", "stream": true}
"#;
const ANSWER: &str = "The capital of France is Paris.";

fn held(env: &TestEnv, count: u64) {
    wait_until("calls that are held", LIMIT, || env.mock().stats().held == count);
}

fn job(env: &TestEnv) -> Value {
    env.gq(&["results", "--task-id", "t"]).exits(0).json()
}

fn with(config: &Value) -> TestEnv {
    let env = TestEnv::with_stand_in(config);
    env.write("in.jsonl", LINE);
    env
}

#[test]
fn the_text_so_far_is_there_while_the_job_runs() {
    let env = with(&json!({"script": [{"hold_chunks": true}]}));
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    assert_eq!(job(&env)["response"], Value::Null);
    let worker = env.spawn(&["work", "--drain"]);
    held(&env, 1);
    env.mock().release(Some(1));
    wait_until("the first piece", LIMIT, || job(&env)["response"] == "The capital of Franc");
    assert_eq!(job(&env)["state"], "running");
    assert_eq!(env.count("SELECT count(*) FROM job_results WHERE response LIKE '%Franc'"), 1);
    env.mock().release(None);
    worker.wait().exits(0);
    let job = job(&env);
    assert_eq!((&job["response"], &job["state"]), (&json!(ANSWER), &json!("succeeded")));
    assert_eq!(job["usage"]["total_tokens"], 16);
    assert_eq!(env.count("SELECT count(*) FROM pieces"), 0);
    assert_eq!(env.mock().requests().len(), 1);
    assert!(env.mock().requests()[0].path.ends_with(":streamGenerateContent"));
}

#[test]
fn a_streamed_job_is_a_job_like_any_other() {
    let env = TestEnv::with_stand_in(&json!({
        "stream": {"chunk_chars": 1, "split_bytes": 3},
        "script": [
            {"prompt_contains": "blocked", "reply": "blocked_prompt"},
            {"prompt_contains": "busy", "first": 1, "reply": "overloaded"},
            {"prompt_contains": "limited", "first": 1, "reply": "rate_limit_minute", "retry_delay": "0.1s"},
            {"prompt_contains": "umlaut", "text": "Grüße, 世界 🌍"}
        ]
    }));
    env.prompts("in.jsonl", &["blocked", "busy", "limited", "umlaut"]);
    env.gq(&["run", "in.jsonl", "--stream", "--workers", "2"]).exits(3);
    let results = env.results();
    assert_eq!(results[0]["error"]["kind"], "blocked");
    assert_eq!((&results[1]["state"], &results[1]["attempts"]), (&json!("succeeded"), &json!(2)));
    assert_eq!((&results[2]["state"], &results[2]["attempts"]), (&json!("succeeded"), &json!(1)));
    assert_eq!(results[3]["response"], "Grüße, 世界 🌍");
    env.counts_are_true();
}

#[test]
fn streaming_is_a_setting_of_the_job() {
    let env = with(&json!({}));
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    assert_eq!(env.gq(&["enqueue", "in.jsonl"]).exits(0).json()["skipped"], 1);
    env.write("in.jsonl", LINE.replace("true", "false"));
    env.gq(&["enqueue", "in.jsonl"]).exits(2);
    env.gq(&["enqueue", "in.jsonl", "--on-conflict", "replace"]).exits(0);
    let batch =
        r#"{"key": "k", "request": {"contents": [{"parts": [{"text": "hi"}]}]}, "stream": true}"#;
    env.write("batch.jsonl", batch);
    env.gq(&["enqueue", "batch.jsonl"]).exits(0);
    env.gq(&["work", "--drain"]).exits(0);
    let paths = |ending: &str| {
        env.mock().requests().iter().filter(|call| call.path.ends_with(ending)).count()
    };
    assert_eq!((paths(":generateContent"), paths(":streamGenerateContent")), (1, 1));
}

#[test]
fn a_stream_that_breaks_is_a_failed_attempt() {
    for (rule, kind) in [
        (json!({"after_chunks": 1, "fault": "end_early"}), "network"),
        (json!({"after_chunks": 1, "fault": "cut_body"}), "network"),
        (json!({"after_chunks": 1, "fault": "reset_after_headers"}), "network"),
        (json!({"after_chunks": 1, "reply": "high_demand"}), "overloaded"),
        (json!({"after_chunks": 1, "reply": "high_demand", "bare": true}), "overloaded"),
        (json!({"after_chunks": 1, "reply": "internal"}), "server_error"),
    ] {
        let env = with(&json!({"script": [rule]}));
        env.gq(&["run", "in.jsonl", "--max-attempts", "1"]).exits(3);
        let result = env.results().remove(0);
        assert_eq!(result["error"]["kind"], kind, "{rule}");
        assert_eq!((&result["response"], &result["attempts"]), (&Value::Null, &json!(1)));
    }
}

#[test]
fn a_job_that_waits_for_its_next_attempt_shows_what_came() {
    let env = with(&json!({
        "script": [{"first": 1, "after_chunks": 1, "fault": "end_early"}, {"hold_chunks": true}]
    }));
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    let worker = env.spawn(&["work", "--drain"]);
    held(&env, 1);
    assert_eq!(job(&env)["response"], Value::Null, "the text begins anew");
    env.mock().release(None);
    worker.wait().exits(0);
    assert_eq!(job(&env)["response"], ANSWER);
}

#[test]
fn a_worker_that_dies_in_mid_stream_costs_nothing_but_the_call() {
    let env = with(&json!({"script": [{"first": 1, "after_chunks": 1, "hold": true}]}));
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    let worker = env.spawn(&["work"]);
    wait_until("the first piece", LIMIT, || job(&env)["response"] == "The capital of Franc");
    worker.kill();
    env.gq(&["work", "--drain"]).exits(0);
    assert_eq!(job(&env)["response"], ANSWER);
    assert_eq!((env.calls(), env.count("SELECT count(*) FROM pieces")), (2, 0));
    env.counts_are_true();
}

#[test]
fn one_who_follows_reads_the_text_as_it_comes() {
    let env = with(&json!({
        "script": [{"first": 1, "after_chunks": 1, "fault": "end_early"}, {"hold_chunks": true}]
    }));
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    let follower = env.spawn(&["results", "--follow", "--task-id", "t"]);
    let worker = env.spawn(&["work", "--drain"]);
    let first = "The capital of Franc\n";
    held(&env, 1);
    wait_until("the break", LIMIT, || follower.stdout() == first);
    env.mock().release(Some(1));
    wait_until("a piece", LIMIT, || follower.stdout() == format!("{first}The capital of Franc"));
    env.mock().release(None);
    worker.wait().exits(0);
    let ran = follower.wait().exits(0);
    assert_eq!(ran.stdout, format!("{first}{ANSWER}\n"));
    assert_eq!(ran.stderr, "warning: the answer broke off; it begins anew\n");
    let again = env.gq(&["results", "--follow", "--task-id", "t"]).exits(0);
    assert_eq!(again.stdout, format!("{ANSWER}\n"));
    let line = env.gq(&["results", "--follow", "--task-id", "t", "--format", "jsonl"]).exits(0);
    assert_eq!(line.json()["response"], ANSWER);
}

#[test]
fn a_schema_is_checked_when_the_text_is_whole() {
    let env = TestEnv::with_stand_in(&json!({"stream": {"chunk_chars": 4}}));
    let schema = json!({"type": "OBJECT", "properties": {"city": {"type": "STRING"}}});
    let config = json!({"response_mime_type": "application/json", "response_schema": schema});
    let line = json!({"prompt": "The capital of Peru?", "task_id": "t", "stream": true,
        "generation_config": config});
    env.write("in.jsonl", line.to_string());
    assert_eq!(env.gq(&["run", "in.jsonl"]).exits(0).json()["parsed"], json!({"city": "Lima"}));
}

/// An order inside of an aggregate is read by SQLite 3.44 and later; older ones, as many systems
/// have, would refuse the whole database.
#[test]
fn the_views_are_read_by_older_libraries() {
    let env = with(&json!({}));
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    let new_form = "SELECT count(*) FROM sqlite_schema WHERE sql LIKE '%'''' ORDER BY%'";
    assert_eq!(env.count(new_form), 0);
}
