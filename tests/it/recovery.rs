//! Workers that are killed, stopped or told to end.

use std::collections::BTreeSet;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{LIMIT, Running, TestEnv, column, wait_until};

const WORKERS: u64 = 2;

fn enqueue<P: AsRef<str>>(env: &TestEnv, prompts: &[P]) {
    env.prompts("in.jsonl", prompts);
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
}

fn held(env: &TestEnv, count: u64) {
    wait_until("calls that are held", LIMIT, || env.mock().stats().held == count);
}

/// Sends the first signal and waits until it is taken.
fn drain(worker: &Running) {
    worker.signal(Signal::TERM);
    wait_until("the end to begin", LIMIT, || worker.stderr().contains("stopping"));
}

#[test]
fn killed_workers_lose_no_job_and_repeat_only_calls_in_flight() {
    let env = TestEnv::with_stand_in(&json!({"latency_ms": {"min": 60, "max": 120}}));
    let prompts: Vec<String> = (1..=60).map(|number| format!("prompt {number}")).collect();
    enqueue(&env, &prompts);
    let start = || env.spawn(&["work", "--workers", "2"]);
    let mut workers = vec![start(), start(), start()];
    for round in 1..=3 {
        wait_until("answers", LIMIT, || env.mock().stats().answered >= round * 10);
        workers.remove(0).kill();
        workers.push(start());
    }
    wait_until("the end of all jobs", LIMIT, || env.status()["jobs"]["succeeded"] == json!(60));
    let results = env.results();
    let tasks: BTreeSet<String> = column(&results, "task_id").into_iter().collect();
    assert_eq!((results.len(), tasks.len()), (60, 60));
    for (result, prompt) in results.iter().zip(&prompts) {
        assert_eq!(result["response"], format!("This is a stand-in's answer to: {prompt}"));
        assert_eq!(result["attempts"], json!(1));
    }
    assert_eq!(env.count("SELECT count(*) FROM answers"), 60);
    assert!(env.calls() <= 60 + 3 * WORKERS, "{} calls", env.calls());
}

#[test]
fn the_living_finish_the_jobs_of_the_dead() {
    let env = TestEnv::with_stand_in(&json!({"script": [{"first": 2, "hold": true}]}));
    enqueue(&env, &["one", "two"]);
    let dying = env.spawn(&["work"]);
    held(&env, 2);
    let living = env.spawn(&["work"]);
    wait_until("both workers", LIMIT, || {
        env.status()["workers"].as_array().is_some_and(|workers| workers.len() == 2)
    });
    dying.kill();
    wait_until("the end of all jobs", LIMIT, || env.status()["jobs"]["succeeded"] == json!(2));
    assert_eq!(env.calls(), 4);
    assert_eq!(column(&env.results(), "attempts"), ["1", "1"]);
    living.signal(Signal::TERM);
    living.wait().exits(0);
}

#[test]
fn a_worker_that_starts_finishes_what_a_dead_one_left() {
    let env = TestEnv::with_stand_in(&json!({"script": [{"first": 2, "hold": true}]}));
    enqueue(&env, &["one", "two", "three"]);
    let dying = env.spawn(&["work", "--workers", "2"]);
    held(&env, 2);
    dying.kill();
    env.gq(&["work", "--drain"]).exits(0);
    assert_eq!(column(&env.results(), "state"), ["succeeded"; 3]);
    assert_eq!(env.calls(), 5);
}

#[test]
fn a_job_in_flight_at_three_deaths_is_not_called_again() {
    let env = TestEnv::with_stand_in(&json!({
        "script": [{"prompt_contains": "deadly", "hold": true}]
    }));
    enqueue(&env, &["deadly", "harmless"]);
    for death in 1..=3 {
        let worker = env.spawn(&["work"]);
        wait_until("the deadly call", LIMIT, || env.calls_about("deadly") == death);
        wait_until("the other job", LIMIT, || env.status()["jobs"]["succeeded"] == json!(1));
        worker.kill();
    }
    env.gq(&["work", "--drain"]).exits(3);
    assert_eq!(env.calls_about("deadly"), 3);
    let results = env.results();
    assert_eq!(column(&results, "state"), ["failed", "succeeded"]);
    assert_eq!(results[0]["error"]["kind"], "unknown_outcome");
    assert_eq!(results[0]["response"], Value::Null);
}

#[test]
fn a_job_of_unknown_outcome_fails_at_once_where_asked() {
    let env = TestEnv::with_stand_in(&json!({
        "script": [{"prompt_contains": "deadly", "hold": true}]
    }));
    enqueue(&env, &["deadly", "harmless"]);
    let worker = env.spawn(&["work", "--on-unknown", "fail"]);
    wait_until("the deadly call", LIMIT, || env.calls_about("deadly") == 1);
    worker.kill();
    env.gq(&["work", "--drain", "--on-unknown", "fail"]).exits(3);
    assert_eq!(env.calls_about("deadly"), 1);
    assert_eq!(env.show("t1")["state"], "failed");
    assert_eq!(env.show("t1")["error"]["kind"], "unknown_outcome");
}

#[test]
fn a_stopped_worker_loses_its_job_and_its_late_answer_changes_nothing() {
    let env = TestEnv::with_stand_in(&json!({
        "script": [{"prompt_contains": "slow", "first": 1, "hold": true}]
    }));
    enqueue(&env, &["slow", "quick"]);
    let stopped = env.spawn(&["work", "--lease", "1s"]);
    held(&env, 1);
    wait_until("the other job", LIMIT, || env.status()["jobs"]["succeeded"] == json!(1));
    stopped.signal(Signal::STOP);
    let other = env.spawn(&["work", "--lease", "1s"]);
    wait_until("the end of all jobs", LIMIT, || env.status()["jobs"]["succeeded"] == json!(2));
    let before = env.results();
    assert_eq!(env.calls_about("slow"), 2);
    env.mock().release(None);
    wait_until("the late answer", LIMIT, || env.mock().stats().in_flight == 0);
    stopped.signal(Signal::CONT);
    stopped.signal(Signal::TERM);
    stopped.wait().exits(0);
    other.signal(Signal::TERM);
    other.wait().exits(0);
    assert_eq!(env.results(), before);
    assert_eq!(column(&before, "state"), ["succeeded", "succeeded"]);
    assert_eq!(env.count("SELECT count(*) FROM answers"), 2);
    assert_eq!(env.calls(), 3);
}

#[test]
fn the_first_signal_lets_calls_in_flight_end() {
    let env = TestEnv::with_stand_in(&json!({"script": [{"hold": true}]}));
    enqueue(&env, &["one", "two", "three"]);
    let worker = env.spawn(&["work", "--workers", "2"]);
    held(&env, 2);
    drain(&worker);
    env.mock().release(None);
    worker.wait().exits(0);
    assert_eq!(column(&env.results(), "task_id"), ["t1", "t2"]);
    assert_eq!(env.show("t3")["state"], "pending");
    assert_eq!(env.calls(), 2);
}

#[test]
fn the_second_signal_cuts_calls_and_gives_their_jobs_back() {
    let env = TestEnv::with_stand_in(&json!({"script": [{"hold": true}]}));
    enqueue(&env, &["one", "two"]);
    let worker = env.spawn(&["work"]);
    held(&env, 2);
    drain(&worker);
    worker.signal(Signal::TERM);
    worker.wait().exits(0);
    for task in ["t1", "t2"] {
        let job = env.show(task);
        assert_eq!(job["state"], "pending");
        assert_eq!(job["attempts"], json!(0));
    }
    env.mock().release(None);
    env.gq(&["work", "--drain"]).exits(0);
    assert_eq!(column(&env.results(), "attempts"), ["1", "1"]);
}

#[test]
fn a_drain_that_a_signal_cuts_short_tells_which() {
    let env = TestEnv::with_stand_in(&json!({"script": [{"hold": true}]}));
    enqueue(&env, &["one", "two"]);
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let worker = env.spawn(&["work", "--drain", "--grace", "0s"]);
        held(&env, 2);
        worker.signal(signal);
        worker.wait().exits(code);
    }
    assert_eq!(env.status()["jobs"]["pending"], json!(2));
}

#[test]
fn workers_that_come_by_different_links_know_each_other() {
    let env = TestEnv::with_stand_in(&json!({"script": [{"first": 2, "hold": true}]}));
    enqueue(&env, &["one", "two", "three"]);
    std::os::unix::fs::symlink("gq.db", env.path("link.db")).unwrap();
    let first = env.spawn(&["--db", "link.db", "work", "--workers", "2"]);
    held(&env, 2);
    let second = env.spawn(&["work"]);
    wait_until("the other job", LIMIT, || env.status()["jobs"]["succeeded"] == json!(1));
    assert_eq!(env.status()["workers"].as_array().unwrap().len(), 2);
    env.mock().release(None);
    wait_until("the end of all jobs", LIMIT, || env.status()["jobs"]["succeeded"] == json!(3));
    for worker in [first, second] {
        worker.signal(Signal::TERM);
        worker.wait().exits(0);
    }
    assert_eq!(env.calls(), 3);
    assert_eq!(env.count("SELECT sum(deaths) FROM jobs"), 0);
}
