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

#[test]
fn a_damaged_database_makes_no_backup() {
    let env = TestEnv::new();
    let prompts: Vec<String> =
        (0..300).map(|number| format!("{number} {}", "x".repeat(300))).collect();
    env.prompts("in.jsonl", &prompts);
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    let sound = fs::read(env.path("gq.db")).unwrap();
    let page = 8192;
    let mut refused = 0;
    for number in 1..sound.len() / page {
        let mut bytes = sound.clone();
        bytes[number * page..][..page / 2].fill(0);
        fs::write(env.path("gq.db"), bytes).unwrap();
        let ran = env.gq(&["backup", "copy.db"]);
        let copied = env.path("copy.db").exists();
        assert_eq!(ran.code, Some(i32::from(!copied)), "{ran:?}");
        refused += u32::from(!copied);
        if copied {
            let check = "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check = 'ok'";
            let copy = rusqlite::Connection::open(env.path("copy.db")).unwrap();
            assert_eq!(copy.query_one(check, [], |row| row.get::<_, i64>(0)).unwrap(), 1);
            fs::remove_file(env.path("copy.db")).unwrap();
        }
    }
    assert!(refused > 5, "{refused}");
    let left: Vec<_> =
        fs::read_dir(env.folder()).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".gq-backup")), "{left:?}");
}

#[test]
fn no_output_takes_the_place_of_what_belongs_to_the_database() {
    let env = TestEnv::with_stand_in(&json!({}));
    env.prompts("in.jsonl", &["one", "two"]);
    env.write("bad.jsonl", "{\"prompt\": 1}\n{\"prompt\": \"x\"}\n");
    let refused = |args: &[&str]| {
        let ran = env.gq(args).exits(2);
        assert!(ran.stderr.contains("would overwrite the database"), "{args:?}: {}", ran.stderr);
    };
    // The database is yet to be made.
    refused(&["run", "in.jsonl", "-o", "gq.db"]);
    refused(&["enqueue", "bad.jsonl", "--skip-invalid", "--rejects", "./gq.db"]);
    assert!(!env.path("gq.db").exists());
    env.gq(&["run", "in.jsonl", "-o", "out.jsonl"]).exits(0);
    std::os::unix::fs::symlink(env.folder(), env.path("link")).unwrap();
    for name in ["gq.db", "gq.db-wal", "link/gq.db-shm", "gq.db-journal", "gq.db-locks/x"] {
        refused(&["results", "-o", name]);
        refused(&["backup", name]);
        refused(&["enqueue", "bad.jsonl", "--skip-invalid", "--rejects", name]);
    }
    assert_eq!(env.results().len(), 2);
    env.gq(&["results", "-o", "gq.db-results"]).exits(0);
}
