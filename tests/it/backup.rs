//! `gq backup`: a copy that is whole, whatever others do meanwhile.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use rustix::process::Signal;
use serde_json::json;

use crate::support::{LIMIT, TestEnv, column, wait_until};

const JOBS: usize = 400;

fn busy() -> TestEnv {
    let env = TestEnv::with_stand_in(&json!({"latency_ms": 5}));
    let prompts: Vec<String> = (0..JOBS).map(|number| format!("number {number}")).collect();
    env.prompts("in.jsonl", &prompts);
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    env
}

#[test]
fn a_backup_that_is_made_while_a_worker_runs_holds_each_job_once_and_can_be_worked_on() {
    let env = busy();
    let worker = env.spawn(&["work", "--workers", "4"]);
    wait_until("some answers", LIMIT, || env.calls() > 40);
    let ran = env.gq(&["backup", "copy.db"]).exits(0);
    let told = ran.json();
    let copy = env.path("copy.db");
    assert_eq!(told, json!({"file": "copy.db", "bytes": fs::metadata(&copy).unwrap().len()}));
    assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    worker.signal(Signal::TERM);
    worker.wait().exits(0);

    let status = env.gq(&["--db", "copy.db", "status", "--format", "json"]).exits(0).json();
    assert_eq!(status["jobs"]["total"], JOBS);
    let before = status["jobs"]["succeeded"].as_u64().unwrap();
    assert!(before > 0 && before < JOBS as u64, "{before}");
    env.gq(&["--db", "copy.db", "work", "--drain"]).exits(0);
    let results = env.gq(&["--db", "copy.db", "results"]).exits(0).lines();
    assert_eq!(results.len(), JOBS);
    assert!(column(&results, "state").iter().all(|state| state == "succeeded"));
    // The other one goes on where it was.
    assert_ne!(env.status()["jobs"]["succeeded"], JOBS);
    env.gq(&["work", "--drain"]).exits(0);
    env.counts_are_true();
}

#[test]
fn no_backup_replaces_a_file() {
    let env = busy();
    env.write("old", "kept");
    let ran = env.gq(&["backup", "old"]).exits(2);
    assert!(ran.stderr.contains("`old` is there already"), "{}", ran.stderr);
    assert_eq!(fs::read(env.path("old")).unwrap(), b"kept");
    let ran = env.gq(&["backup", "nowhere/copy.db"]).exits(1);
    assert!(ran.stderr.contains("its folder is not there"), "{}", ran.stderr);
    env.gq(&["--db", "none.db", "backup", "copy.db"]).exits(1);
    assert!(!env.path("copy.db").exists());
    let ran = env.gq_within(100_000, &["backup", "copy.db"]).exits(1);
    assert!(ran.stderr.contains("cannot copy the database to `copy.db`"), "{}", ran.stderr);
    assert_eq!(fs::read_dir(env.folder()).unwrap().filter(is_left_over).count(), 0);
}

/// Returns whether a file is a copy, whole or begun.
fn is_left_over(entry: &std::io::Result<fs::DirEntry>) -> bool {
    let name = entry.as_ref().unwrap().file_name();
    let name = name.to_string_lossy();
    name.starts_with(".tmp") || name.starts_with("copy")
}
