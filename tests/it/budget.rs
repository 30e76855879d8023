//! Budgets: what they count, and that work ends when they are used up.

use serde_json::json;

use crate::support::TestEnv;

/// Returns an environment with five prompts of one length in two batches, all pending.
fn with_five_jobs() -> TestEnv {
    let env = TestEnv::with_stand_in(&json!({}));
    env.prompts("a.jsonl", &["prompt 1", "prompt 2"]);
    env.prompts("b.jsonl", &["prompt 3", "prompt 4", "prompt 5"]);
    env.gq(&["enqueue", "a.jsonl", "b.jsonl"]).exits(0);
    env
}

/// Works one call at a time and checks the exit code and how many calls were ever made.
#[track_caller]
fn works(env: &TestEnv, flags: &[&str], code: i32, calls: u64) {
    let ran = env.gq(&[&["work", "--drain", "--workers", "1"], flags].concat()).exits(code);
    assert_eq!(ran.stderr.contains("budget"), code == 7, "{}", ran.stderr);
    assert_eq!(env.calls(), calls);
    assert_eq!(env.status()["jobs"]["succeeded"], json!(calls));
    assert_eq!(env.status()["jobs"]["pending"], json!(5 - calls));
    env.counts_are_true();
}

#[test]
fn a_budget_of_calls_is_one_over_all_batches() {
    let env = with_five_jobs();
    env.gq(&["work", "--drain", "--max-requests", "3"]).exits(7);
    assert_eq!(env.calls(), 3);
    assert_eq!(env.status()["jobs"]["pending"], json!(2));
    works(&env, &["--max-requests", "3"], 7, 3);
    works(&env, &["--max-requests", "5"], 0, 5);
}

#[test]
fn a_budget_of_calls_counts_failed_ones_too() {
    let env = TestEnv::with_stand_in(&json!({"script": [{"reply": "invalid_argument"}]}));
    env.prompts("in.jsonl", &["one", "two", "three"]);
    env.gq(&["run", "in.jsonl", "--max-requests", "2"]).exits(7);
    assert_eq!(env.calls(), 2);
    assert_eq!(env.status()["jobs"]["failed"], json!(2));
    assert_eq!(env.status()["jobs"]["pending"], json!(1));
}

#[test]
fn a_budget_of_one_batch_leaves_the_calls_of_others_out() {
    let env = with_five_jobs();
    env.gq(&["work", "--drain", "--batch", "a"]).exits(0);
    assert_eq!(env.calls(), 2);
    env.gq(&["work", "--drain", "--batch", "b", "--max-requests", "2"]).exits(7);
    assert_eq!(env.calls(), 4);
    env.gq(&["work", "--drain", "--batch", "b", "--max-requests", "3"]).exits(0);
    assert_eq!(env.calls(), 5);
}

#[test]
fn work_ends_when_a_budget_of_tokens_is_reached() {
    let env = with_five_jobs();
    works(&env, &["--max-tokens", "1"], 7, 1);
    let tokens = env.count("SELECT sum(total_tokens) FROM attempts");
    assert!(tokens > 1, "{tokens}");
    // All prompts and answers are of one length: two calls fall short of this, three do not.
    let limit = (2 * tokens + 1).to_string();
    works(&env, &["--max-tokens", &limit], 7, 3);
    works(&env, &["--max-tokens", &limit], 7, 3);
    assert_eq!(env.count("SELECT sum(total_tokens) FROM attempts"), 3 * tokens);
    works(&env, &["--max-tokens", "1000000"], 0, 5);
}

#[test]
fn work_ends_when_a_budget_of_money_is_reached() {
    let env = with_five_jobs();
    works(&env, &["--max-cost", "0.000001"], 7, 1);
    works(&env, &["--max-cost", "0.000001"], 7, 1);
    works(&env, &["--max-cost", "10"], 0, 5);
}

#[test]
fn a_budget_of_nothing_makes_no_call() {
    let env = with_five_jobs();
    for flag in ["--max-requests", "--max-tokens", "--max-cost"] {
        works(&env, &[flag, "0"], 7, 0);
    }
}

#[test]
fn a_budget_comes_from_the_environment_too() {
    let mut env = with_five_jobs();
    env.set("GQ_MAX_REQUESTS", "2");
    works(&env, &[], 7, 2);
    works(&env, &["--max-requests", "4"], 7, 4);
}
