//! `gq enqueue` with many lines and with large ones: all are checked before the first is stored.

use serde_json::json;

use crate::support::TestEnv;

/// Writes `count` lines with `prompt`, then one that is bad.
fn write_with_a_bad_end(env: &TestEnv, count: usize, prompt: &str) {
    let good = format!("{{\"prompt\": \"{prompt}\"}}\n");
    env.write("in.jsonl", good.repeat(count) + "{\"prompt\": 5}\n");
}

/// Checks that the call is refused for its last line alone, on a new database and on an old one.
fn refused_for(env: &TestEnv, line: usize) {
    let reason = format!("line {line}: `prompt`");
    let ran = env.gq(&["enqueue", "in.jsonl"]).exits(2);
    assert!(ran.stderr.contains(&reason), "{}", ran.stderr);
    assert!(ran.stderr.contains("1 line is not valid"), "{}", ran.stderr);
    assert_eq!(ran.stdout, "");
    assert!(!env.path("gq.db").exists());

    env.prompts("old.jsonl", &["one", "two"]);
    env.gq(&["enqueue", "old.jsonl"]).exits(0);
    let ran = env.gq(&["enqueue", "in.jsonl"]).exits(2);
    assert!(ran.stderr.contains(&reason), "{}", ran.stderr);
    assert_eq!(env.status()["jobs"]["total"], json!(2));
    assert_eq!(env.count("SELECT count(*) FROM batches"), 1);
    env.counts_are_true();
}

#[test]
fn one_bad_line_after_two_hundred_thousand_refuses_all() {
    let env = TestEnv::new();
    write_with_a_bad_end(&env, 200_000, "x");
    refused_for(&env, 200_001);
}

#[test]
fn one_bad_line_at_the_end_of_an_input_stored_in_steps_refuses_all() {
    let env = TestEnv::new();
    write_with_a_bad_end(&env, 70, &"x".repeat(1_000_000));
    assert!(env.path("in.jsonl").metadata().unwrap().len() >= 64_000_000);
    refused_for(&env, 71);
}
