//! A disk that is full: nothing is half done, and work goes on once there is room.
//!
//! The limit on the size of a process's files stands for it: writes beyond it fail.

use serde_json::{Value, json};

use crate::support::TestEnv;
#[cfg(target_os = "linux")]
use crate::support::{LIMIT, wait_until};

/// Returns `count` different prompts of about `bytes` bytes.
fn prompts(count: usize, bytes: usize) -> Vec<String> {
    (1..=count).map(|number| format!("{number} {}", "x".repeat(bytes))).collect()
}

/// Returns an environment with a batch `old` of three jobs.
fn with_an_old_batch() -> TestEnv {
    let env = TestEnv::with_stand_in(&json!({}));
    env.prompts("old.jsonl", &["one", "two", "three"]);
    env.gq(&["enqueue", "old.jsonl"]).exits(0);
    env
}

/// Checks that an enqueue without room stores nothing, and with room all.
fn all_or_nothing(count: usize, bytes: usize, room: u64) {
    let env = with_an_old_batch();
    let old = env.show("t2");
    env.prompts("new.jsonl", &prompts(count, bytes));
    let args = ["enqueue", "new.jsonl"];

    let ran = env.gq_within(room, &args).exits(1);
    assert!(ran.stderr.contains("the disk is full"), "{}", ran.stderr);
    assert_eq!(ran.stdout, "");
    env.counts_are_true();
    assert_eq!(env.count("SELECT count(*) FROM jobs"), 3);
    assert_eq!(env.count("SELECT count(*) FROM inputs"), 3);
    assert_eq!(env.count("SELECT count(*) FROM batches"), 1);
    assert_eq!(env.show("t2"), old);

    let ran = env.gq(&args).exits(0);
    assert_eq!(ran.json()["enqueued"], json!(count));
    assert_eq!(ran.json()["skipped"], json!(0));
    env.counts_are_true();
    assert_eq!(env.status()["jobs"]["pending"], json!(count + 3));
    assert_eq!(env.gq(&["show", "t2", "--batch", "old", "--format", "json"]).exits(0).json(), old);
    let sound = "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check = 'ok'";
    assert_eq!(env.count(sound), 1);
}

#[test]
fn an_enqueue_whose_commit_finds_no_room_stores_nothing() {
    // What the transaction changes waits in memory up to its end.
    all_or_nothing(2_000, 300, 400_000);
}

#[test]
fn an_enqueue_that_finds_no_room_on_its_way_stores_nothing() {
    // More than waits in memory: much of it is written before the room ends.
    all_or_nothing(16, 1_000_000, 12_000_000);
}

#[test]
fn a_first_enqueue_without_room_leaves_what_the_next_one_can_use() {
    // The room ends at different steps of making the database.
    for room in [8_192, 40_960, 204_800, 220_160] {
        let env = TestEnv::new();
        env.prompts("in.jsonl", &["one", "two"]);
        let ran = env.gq_within(room, &["enqueue", "in.jsonl"]).exits(1);
        assert!(ran.stderr.contains("the disk is full"), "{}", ran.stderr);
        assert_eq!(ran.stdout, "");
        let ran = env.gq(&["enqueue", "in.jsonl"]).exits(0);
        assert_eq!(ran.json()["enqueued"], json!(2), "{room}");
        env.counts_are_true();
    }
}

#[test]
fn a_large_input_cut_by_a_full_disk_is_completed_by_the_same_call() {
    let env = with_an_old_batch();
    env.prompts("new.jsonl", &prompts(68, 1_000_000));
    let args = ["enqueue", "new.jsonl"];
    let ran = env.gq_within(30_000_000, &args).exits(1);
    assert!(ran.stderr.contains("the disk is full"), "{}", ran.stderr);
    env.counts_are_true();
    let stored = env.count("SELECT count(*) FROM jobs") - 3;
    assert!((1..68).contains(&stored), "{stored}");
    assert!(ran.stderr.contains(&format!("{stored} jobs are stored")), "{}", ran.stderr);
    let ran = env.gq(&args).exits(0);
    assert_eq!(ran.json()["skipped"], json!(stored));
    assert_eq!(ran.json()["enqueued"], json!(68 - stored));
    env.counts_are_true();
}

#[test]
fn what_was_committed_stays_when_there_is_no_room_to_tidy_up() {
    let env = TestEnv::new();
    env.prompts("old.jsonl", &prompts(30, 100_000));
    env.gq(&["enqueue", "old.jsonl"]).exits(0);
    env.prompts("new.jsonl", &prompts(10, 100_000));
    // The log of the transaction has room, the database itself cannot grow.
    let size = std::fs::metadata(env.path("gq.db")).unwrap().len();
    let ran = env.gq_within(size + 100_000, &["enqueue", "new.jsonl"]).exits(0);
    assert_eq!(ran.json()["enqueued"], json!(10));
    env.counts_are_true();
    assert_eq!(env.status()["jobs"]["pending"], json!(40));
    let ran = env.gq(&["enqueue", "new.jsonl"]).exits(0);
    assert_eq!(ran.json()["skipped"], json!(10));
    assert!(std::fs::metadata(env.path("gq.db")).unwrap().len() > size + 100_000);
    env.counts_are_true();
}

#[test]
fn results_that_find_no_room_leave_the_file_as_it_was() {
    let env = TestEnv::with_stand_in(&json!({"script": [{"text": "y".repeat(20_000)}]}));
    env.prompts("in.jsonl", &["one", "two", "three"]);
    env.gq(&["run", "in.jsonl", "-o", "out.jsonl"]).exits(0);
    let whole = std::fs::read_to_string(env.path("out.jsonl")).unwrap();
    let ran = env.gq_within(40_960, &["results", "-o", "out.jsonl", "--full"]).exits(1);
    assert!(ran.stderr.contains("out.jsonl"), "{}", ran.stderr);
    assert!(std::fs::read_to_string(env.path("out.jsonl")).unwrap() == whole);
    let line: Value = serde_json::from_str(whole.lines().next().unwrap()).unwrap();
    assert!(line["response"] == "y".repeat(20_000));
}

#[test]
#[cfg(target_os = "linux")]
fn a_worker_goes_on_when_there_is_room_again_and_pays_nothing_twice() {
    const JOBS: usize = 12;
    let answer = "y".repeat(200_000);
    let env = TestEnv::with_stand_in(&json!({"script": [{"text": answer}]}));
    env.prompts("in.jsonl", &prompts(JOBS, 1));
    env.gq(&["enqueue", "in.jsonl"]).exits(0);

    let worker = env.spawn_within(1_000_000, &["work", "--drain"]);
    wait_until("trouble with the disk", LIMIT, || worker.stderr().contains("the disk is full"));
    env.counts_are_true();
    let status = env.status();
    assert_ne!(status["jobs"]["succeeded"], json!(JOBS));
    assert_eq!(status["jobs"]["failed"], json!(0));

    worker.lift_file_limit();
    worker.wait().exits(0);
    env.counts_are_true();
    let results = env.results();
    assert_eq!(results.len(), JOBS);
    for result in &results {
        assert_eq!(result["state"], "succeeded");
        assert_eq!(result["attempts"], json!(1));
        assert!(result["response"] == answer.as_str(), "{}", result["task_id"]);
    }
    assert_eq!(env.count("SELECT count(*) FROM answers"), 12);
    assert_eq!(env.count("SELECT count(*) FROM attempts"), 12);
    assert_eq!(env.calls(), 12);
    assert_eq!(env.mock().stats().duplicates, 0);
}
