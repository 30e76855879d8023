//! How calls are spaced.

use serde_json::json;

use crate::support::{LIMIT, TestEnv, column, wait_until};

/// Runs four prompts against a stand-in that takes its time, with the flags given.
fn run_four(flags: &[&str]) -> TestEnv {
    let env = TestEnv::with_stand_in(&json!({"latency_ms": 150}));
    env.prompts("in.jsonl", &["one", "two", "three", "four"]);
    let args = [&["run", "in.jsonl", "--workers", "4"], flags].concat();
    let results = env.gq(&args).exits(0).lines();
    assert_eq!(column(&results, "state"), ["succeeded"; 4]);
    assert_eq!(column(&results, "attempts"), ["1"; 4]);
    assert_eq!(env.calls(), 4);
    env
}

#[test]
fn a_key_that_rests_after_each_use_has_one_call_at_a_time() {
    let env = run_four(&["--key-cooldown", "400ms"]);
    assert_eq!(env.mock().stats().peak_in_flight, 1);
    let early = env.count(
        "SELECT count(*) FROM (SELECT started_at - lag(ended_at) OVER (ORDER BY started_at) AS rest
                                 FROM attempts) WHERE rest < 400",
    );
    assert_eq!(early, 0);
}

#[test]
fn a_rest_shorter_than_the_call_begins_after_it() {
    let env = run_four(&["--key-cooldown", "50ms"]);
    assert_eq!(env.mock().stats().peak_in_flight, 1);
}

#[test]
fn two_keys_that_rest_work_beside_each_other() {
    let mut env = TestEnv::with_stand_in(&json!({"script": [{"first": 2, "hold": true}]}));
    env.set("GEMINI_API_KEY_2", "secret-two");
    env.prompts("in.jsonl", &["one", "two", "three"]);
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    let worker = env.spawn(&["work", "--drain", "--key-cooldown", "50ms"]);
    wait_until("a call of each key", LIMIT, || env.mock().stats().held == 2);
    assert_eq!([env.calls_with("secret-one"), env.calls_with("secret-two")], [1, 1]);
    env.mock().release(None);
    worker.wait().exits(0);
    assert_eq!(env.mock().stats().peak_in_flight, 2);
    assert_eq!(env.calls(), 3);
}

#[test]
fn calls_start_no_sooner_than_the_interval_allows() {
    let env = run_four(&["--api-call-interval", "120ms"]);
    let early = env.count(
        "SELECT count(*) FROM (SELECT started_at - lag(started_at) OVER (ORDER BY started_at) AS gap
                                 FROM attempts) WHERE gap < 120",
    );
    assert_eq!(early, 0);
    assert_eq!(env.count("SELECT count(DISTINCT started_at) FROM attempts"), 4);
}

#[test]
fn interval_and_rest_hold_between_processes() {
    let env = TestEnv::with_stand_in(&json!({"latency_ms": 5}));
    let prompts: Vec<String> = (1..=16).map(|number| format!("prompt {number}")).collect();
    env.prompts("in.jsonl", &prompts);
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    let args = ["work", "--drain", "--api-call-interval", "60ms", "--key-cooldown", "40ms"];
    let workers: Vec<_> = (0..3).map(|_| env.spawn(&args)).collect();
    for worker in workers {
        worker.wait().exits(0);
    }
    let early = env.count(
        "SELECT count(*) FROM (SELECT started_at - lag(started_at) OVER (ORDER BY started_at) AS gap,
                                      started_at - lag(ended_at) OVER (ORDER BY started_at) AS rest
                                 FROM attempts) WHERE gap < 60 OR rest < 40",
    );
    assert_eq!(early, 0);
    assert_eq!(env.calls(), 16);
}
