//! `gq ask`: one question, whoever answers it.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{LIMIT, TestEnv, wait_until};

const QUESTION: &str = "What is the capital of France?";
const ANSWER: &str = "The capital of France is Paris.";

fn held(env: &TestEnv, count: u64) {
    wait_until("calls that are held", LIMIT, || env.mock().stats().held == count);
}

fn ask(env: &TestEnv, args: &[&str]) -> Value {
    env.gq(&[&["ask", "--format", "json"], args].concat()).exits(0).json()
}

/// Starts a worker and waits until it is there.
fn worker(env: &TestEnv, args: &[&str]) -> crate::support::Running {
    let worker = env.spawn(&[&["work"], args].concat());
    wait_until("a worker", LIMIT, || {
        env.gq(&["status", "--format", "json"]).code == Some(0)
            && env.status()["workers_running"] == json!(true)
    });
    worker
}

/// Leaves no key for commands from now on.
fn without_keys(env: &mut TestEnv) {
    env.set("GEMINI_API_KEY", "");
}

#[test]
fn a_question_is_answered_without_a_worker() {
    let env = TestEnv::with_stand_in(&json!({}));
    let answer = ask(&env, &[QUESTION]);
    assert_eq!((&answer["response"], &answer["batch"]), (&json!(ANSWER), &json!("ask")));
    let task = answer["task_id"].as_str().unwrap();
    assert_ne!(ask(&env, &[QUESTION])["task_id"], task, "each question is its own task");
    assert_eq!(env.gq(&["results", "--task-id", task]).exits(0).json()["response"], ANSWER);
    assert_eq!(env.status()["workers_running"], json!(false));
    env.counts_are_true();
}

#[test]
fn a_worker_that_runs_answers_with_its_own_key() {
    let mut env = TestEnv::with_stand_in(&json!({}));
    let _worker = worker(&env, &[]);
    without_keys(&mut env);
    assert_eq!(ask(&env, &[QUESTION])["response"], ANSWER);
    assert_eq!(env.calls_with("secret-one"), 1);
}

#[test]
fn without_key_and_worker_nothing_is_stored() {
    let mut env = TestEnv::with_stand_in(&json!({}));
    without_keys(&mut env);
    let ran = env.gq(&["ask", QUESTION]).exits(6);
    assert!(ran.stderr.contains("no API key is set"), "{}", ran.stderr);
    assert!(!env.path("gq.db").exists());
}

#[test]
fn a_worker_that_is_busy_does_not_keep_a_question_waiting() {
    let env = TestEnv::with_stand_in(&json!({
        "script": [{"prompt_contains": "bulk", "hold": true}]
    }));
    let bulk: Vec<String> = (0..200).map(|number| format!("bulk {number}")).collect();
    env.prompts("bulk.jsonl", &bulk);
    env.gq(&["enqueue", "bulk.jsonl"]).exits(0);
    let _worker = worker(&env, &["--workers", "2"]);
    held(&env, 2);
    assert_eq!(ask(&env, &[QUESTION])["response"], ANSWER);
    assert_eq!(env.calls(), 3);
    assert!(env.mock().requests()[2].prompt.contains("France"));
}

#[test]
fn a_question_is_the_next_call_of_a_busy_worker() {
    let mut env = TestEnv::with_stand_in(&json!({"script": [{"hold": true}]}));
    let bulk: Vec<String> = (0..200).map(|number| format!("bulk {number}")).collect();
    env.prompts("bulk.jsonl", &bulk);
    env.gq(&["enqueue", "bulk.jsonl"]).exits(0);
    let _worker = worker(&env, &["--workers", "2"]);
    held(&env, 2);
    without_keys(&mut env);
    let asking = env.spawn(&["ask", "--format", "json", QUESTION]);
    wait_until("the question", LIMIT, || env.status()["jobs"]["total"] == json!(201));
    env.mock().release(Some(1));
    wait_until("a third call", LIMIT, || env.calls() == 3);
    assert!(env.mock().requests()[2].prompt.contains("France"));
    env.mock().release(None);
    asking.wait().exits(0);
}

#[test]
fn workers_are_kept_for_questions() {
    let mut env = TestEnv::with_stand_in(&json!({
        "script": [{"prompt_contains": "bulk", "hold": true}]
    }));
    env.prompts("bulk.jsonl", &["bulk 1", "bulk 2", "bulk 3"]);
    env.gq(&["enqueue", "bulk.jsonl"]).exits(0);
    let _worker = worker(&env, &["--workers", "3", "--reserve", "1"]);
    held(&env, 2);
    without_keys(&mut env);
    assert_eq!(ask(&env, &[QUESTION])["response"], ANSWER);
    assert_eq!((env.calls(), env.mock().stats().held), (3, 2));
    assert_eq!(env.status()["jobs"]["pending"], json!(1));
}

#[test]
fn when_the_time_is_up_the_job_stays_and_is_answered_later() {
    let env = TestEnv::with_stand_in(&json!({"script": [{"first": 1, "hold": true}]}));
    let ran = env.gq(&["ask", "--timeout", "300ms", QUESTION]).exits(5);
    assert_eq!(ran.stdout, "");
    let task = ran.stderr.split("--task-id ").nth(1).unwrap().split('`').next().unwrap();
    let job = env.show(task);
    assert_eq!((&job["state"], &job["attempts"]), (&json!("pending"), &json!(0)));
    env.gq(&["work", "--drain"]).exits(0);
    let args = ["results", "--batch", "ask", "--task-id", task];
    assert_eq!(env.gq(&args).exits(0).json()["state"], "succeeded");
}

#[test]
fn an_answer_that_comes_after_the_time_is_kept() {
    let mut env = TestEnv::with_stand_in(&json!({"script": [{"hold": true}]}));
    let _worker = worker(&env, &[]);
    without_keys(&mut env);
    let ran = env.gq(&["ask", "--timeout", "300ms", "--format", "json", QUESTION]).exits(5);
    let task = ran.stderr.split("--task-id ").nth(1).unwrap().split('`').next().unwrap();
    env.mock().release(None);
    let args = ["results", "--wait", "--batch", "ask", "--task-id", task];
    assert_eq!(env.gq(&args).exits(0).json()["response"], ANSWER);
    assert_eq!(env.calls(), 1);
}

#[test]
fn an_interrupt_cancels_the_question() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let env = TestEnv::with_stand_in(&json!({"script": [{"hold": true}]}));
        let asking = env.spawn(&["ask", QUESTION]);
        held(&env, 1);
        asking.signal(signal);
        asking.wait().exits(code);
        let results = env.results();
        assert_eq!(results.len(), 1);
        assert_eq!(results[0]["state"], "cancelled");
        env.counts_are_true();
    }
}

#[test]
fn a_question_that_fails_says_why() {
    let env = TestEnv::with_stand_in(&json!({"script": [{"reply": "blocked_prompt"}]}));
    let ran = env.gq(&["ask", "--format", "json", QUESTION]).exits(3);
    assert_eq!(ran.json()["error"]["kind"], "blocked");
    let ran = env.gq(&["ask", QUESTION]).exits(3);
    assert_eq!(ran.stdout, "");
    assert!(ran.stderr.starts_with("error: failed: blocked: "), "{}", ran.stderr);
}

#[test]
fn a_key_that_is_refused_ends_it_and_the_job_stays() {
    let env = TestEnv::with_stand_in(&json!({"keys": {"secret-one": {"status": "invalid"}}}));
    let ran = env.gq(&["ask", "--format", "json", QUESTION]).exits(6);
    assert!(ran.stderr.contains("--task-id"), "{}", ran.stderr);
    assert_eq!(env.status()["jobs"]["pending"], json!(1));
}

#[test]
fn resting_keys_end_it_where_that_is_asked_for() {
    let env = TestEnv::with_stand_in(&json!({"script": [{"reply": "rate_limit_day"}]}));
    env.gq(&["ask", "--format", "json", "--on-exhausted", "exit", QUESTION]).exits(75);
    assert_eq!(env.status()["jobs"]["pending"], json!(1));
}

/// Returns the parts of the last call, without their forms.
fn last_parts(env: &TestEnv) -> Vec<String> {
    let call = env.mock().requests().pop().unwrap();
    let body: Value = serde_json::from_slice(call.body.as_deref().unwrap()).unwrap();
    let parts = body["contents"][0]["parts"].as_array().unwrap().clone();
    parts
        .iter()
        .map(|part| match part["text"].as_str() {
            Some(text) => text.to_owned(),
            None => part["inlineData"]["mimeType"].as_str().unwrap().to_owned(),
        })
        .collect()
}

#[test]
fn what_is_piped_is_the_question_or_a_file_behind_it() {
    let env = TestEnv::with_stand_in(&json!({"record_bodies": true}));
    env.gq_reading(&["ask", "--format", "json", "-"], "from a pipe").exits(0);
    assert_eq!(last_parts(&env), ["from a pipe"]);
    env.gq_reading(&["ask", "--format", "json"], "from a pipe").exits(0);
    assert_eq!(last_parts(&env), ["from a pipe"]);
    env.gq_reading(&["ask", "--format", "json", "sum it up"], "a, b, c").exits(0);
    assert_eq!(last_parts(&env), ["sum it up", "text/plain"]);
    env.gq(&["ask", "--format", "json", "what does <video> mean?"]).exits(0);
    assert_eq!(last_parts(&env), ["what does <video> mean?"]);
    env.gq_reading(&["ask"], "").exits(2);
    env.gq_reading(&["ask"], [0xff]).exits(2);
}

#[test]
fn files_system_and_schema_go_with_the_question() {
    let env = TestEnv::with_stand_in(&json!({"record_bodies": true}));
    env.write("x.png", b"\x89PNG\r\n\x1a\n0000");
    env.write("notes.txt", "notes");
    env.write("schema.json", r#"{"type": "object", "properties": {"city": {"type": "string"}}}"#);
    let args = ["--image", "x.png", "--file", "notes.txt", "--system", "be brief"];
    let schema = ["--schema", "schema.json", "--model", "gemini-2.5-pro", QUESTION];
    let answer = ask(&env, &[&args[..], &schema[..]].concat());
    assert_eq!(answer["parsed"], json!({"city": "Paris"}));
    assert_eq!(answer["model"], "gemini-2.5-pro");
    assert_eq!(last_parts(&env), ["image/png", "text/plain", QUESTION]);
    let body: Value =
        serde_json::from_slice(env.mock().requests()[0].body.as_deref().unwrap()).unwrap();
    assert_eq!(body["systemInstruction"]["parts"][0]["text"], "be brief");
    let ran = env.gq(&["ask", "--image", "none.png", "what?"]).exits(2);
    assert!(ran.stderr.contains("there is no file `none.png`"), "{}", ran.stderr);
}

#[test]
fn the_answer_is_printed_as_it_comes() {
    let env = TestEnv::with_stand_in(&json!({"script": [{"hold_chunks": true}]}));
    let asking = env.spawn(&["ask", QUESTION]);
    for text in ["The capital of Franc", "The capital of France is Paris."] {
        held(&env, 1);
        env.mock().release(Some(1));
        wait_until("the next piece", LIMIT, || asking.stdout().trim_end() == text);
    }
    assert_eq!(asking.wait().exits(0).stdout, "The capital of France is Paris.\n");
    assert_eq!(env.results()[0]["response"], ANSWER);
}

#[test]
fn an_answer_that_breaks_off_begins_anew() {
    let env = TestEnv::with_stand_in(&json!({
        "script": [{"first": 1, "after_chunks": 1, "fault": "end_early"}]
    }));
    let ran = env.gq(&["ask", QUESTION]).exits(0);
    assert_eq!(ran.stdout, format!("The capital of Franc\n{ANSWER}\n"));
    assert_eq!(ran.stderr, "warning: the answer broke off; it begins anew\n");
    assert_eq!(env.calls(), 2);
}

#[test]
fn nobody_reads_and_the_answer_is_recorded_all_the_same() {
    let env = TestEnv::with_stand_in(&json!({"script": [{"hold_chunks": true}]}));
    let mut command = std::process::Command::new("sh");
    // The reader goes away after the first piece.
    command.args(["-c", "\"$0\" ask \"$1\" | head -c 3"]).arg(env!("CARGO_BIN_EXE_gq"));
    command.arg(QUESTION);
    let asking = env.start(env.isolate(command));
    held(&env, 1);
    env.mock().release(None);
    assert_eq!(asking.wait().exits(0).stdout, "The");
    wait_until("the answer", LIMIT, || env.status()["jobs"]["succeeded"] == json!(1));
}
