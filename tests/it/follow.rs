//! `gq results --follow` and `--wait`: what is told as it happens.

use rustix::process::Signal;
use serde_json::json;

use crate::support::{LIMIT, Running, TestEnv, wait_until};

/// An environment with jobs whose calls are let through one by one.
fn gated(prompts: &[&str]) -> TestEnv {
    let env = TestEnv::with_stand_in(&json!({
        "script": [
            {"prompt_contains": "bad", "reply": "blocked_prompt", "hold": true},
            {"hold": true}
        ]
    }));
    env.prompts("in.jsonl", prompts);
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    env
}

fn lines(follower: &Running, count: usize) {
    wait_until("lines", LIMIT, || follower.stdout().lines().count() == count);
}

#[test]
fn each_result_is_printed_when_its_job_finishes() {
    let env = gated(&["a", "bad", "c"]);
    let follower = env.spawn(&["results", "--follow", "--batch", "in"]);
    let worker = env.spawn(&["work", "--drain", "--workers", "1"]);
    for count in 1..=3 {
        env.mock().release(Some(1));
        lines(&follower, count);
    }
    worker.wait().exits(3);
    let ran = follower.wait().exits(0);
    let tasks: Vec<_> = ran.lines().iter().map(|line| line["task_id"].clone()).collect();
    assert_eq!(tasks, ["t1", "t2", "t3"]);
}

#[test]
fn results_that_are_there_are_printed_at_once_and_states_choose() {
    let env = gated(&["a", "bad", "c"]);
    env.mock().release(None);
    env.gq(&["work", "--drain"]).exits(3);
    assert_eq!(env.gq(&["results", "--follow"]).exits(0).lines().len(), 3);
    let failed = env.gq(&["results", "--follow", "--state", "failed"]).exits(0).lines();
    assert_eq!((failed.len(), &failed[0]["task_id"]), (1, &json!("t2")));
    assert_eq!(env.gq(&["results", "--follow", "--wait"]).exits(3).lines().len(), 3);
    let whole = env.gq(&["results", "--follow", "--format", "json"]).exits(0).json();
    assert_eq!(whole.as_array().unwrap().len(), 3);
    env.gq(&["results", "--follow", "-o", "out.jsonl"]).exits(0);
    assert_eq!(std::fs::read_to_string(env.path("out.jsonl")).unwrap().lines().count(), 3);
}

#[test]
fn a_job_that_is_tried_again_is_told_of_again() {
    let env = gated(&["bad", "c"]);
    let follower = env.spawn(&["results", "--follow"]);
    let worker = env.spawn(&["work", "--workers", "1"]);
    env.mock().release(Some(1));
    lines(&follower, 1);
    env.gq(&["retry", "--all-failed"]).exits(0);
    // The call that is held is that of `c`.
    env.mock().release(Some(1));
    lines(&follower, 2);
    env.mock().release(Some(1));
    let ran = follower.wait().exits(0);
    let tasks: Vec<_> = ran.lines().iter().map(|line| line["task_id"].clone()).collect();
    assert_eq!(tasks, ["t1", "t2", "t1"]);
    drop(worker);
}

#[test]
fn following_ends_when_the_time_is_up_or_a_signal_comes() {
    let env = gated(&["a"]);
    let ran = env.gq(&["results", "--follow", "--timeout", "100ms"]).exits(5);
    assert!(ran.stderr.contains("the jobs stay in the queue"), "{}", ran.stderr);
    let follower = env.spawn(&["results", "--follow"]);
    wait_until("a handler", LIMIT, || follower.catches(Signal::INT));
    follower.signal(Signal::INT);
    follower.wait().exits(130);
    env.gq(&["results", "--timeout", "1s"]).exits(2);
}

#[test]
fn a_run_prints_results_while_it_works() {
    let env = gated(&["a", "b"]);
    let running = env.spawn(&["run", "in.jsonl", "--follow", "--workers", "1"]);
    env.mock().release(Some(1));
    lines(&running, 1);
    env.mock().release(Some(1));
    assert_eq!(running.wait().exits(0).lines().len(), 2);
}

#[test]
fn waiting_ends_with_the_last_job_without_a_poll() {
    let env = gated(&["a", "b"]);
    let waiting = env.spawn(&["results", "--wait"]);
    let worker = env.spawn(&["work", "--drain"]);
    env.mock().release(None);
    assert_eq!(waiting.wait().exits(0).lines().len(), 2);
    worker.wait().exits(0);
}
