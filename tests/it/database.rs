//! The file of the database: what is refused, and what is said of it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::json;

use crate::support::TestEnv;

/// Returns the files of a folder, and of those in it, with what they hold.
fn files(folder: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone().into_os_string(), fs::read(&path).unwrap());
        }
    }
    found
}

/// A queue with two jobs that nobody works.
fn queued() -> TestEnv {
    let env = TestEnv::new();
    env.prompts("in.jsonl", &["one", "two"]);
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    env
}

#[test]
fn a_newer_database_is_refused_and_gets_no_files_beside_it() {
    let env = queued();
    env.execute("PRAGMA user_version = 99");
    let before = files(env.folder());
    for args in [
        &["status"][..],
        &["results"],
        &["enqueue", "in.jsonl"],
        &["retry", "--all-failed"],
        &["work", "--drain"],
    ] {
        let ran = env.gq(args).exits(1);
        assert!(ran.stderr.contains("gq.db") && ran.stderr.contains("newer"), "{}", ran.stderr);
        assert!(files(env.folder()) == before, "{args:?} left a trace");
    }
}

#[test]
fn a_folder_is_named_as_one() {
    let env = queued();
    fs::create_dir(env.path("folder")).unwrap();
    for args in [&["status"][..], &["enqueue", "in.jsonl"]] {
        let ran = env.gq(&[args, &["--db", "folder"]].concat()).exits(1);
        let said = "error: `folder` is a folder, not a database\nhint: ";
        assert!(ran.stderr.starts_with(said), "{}", ran.stderr);
    }
    assert_eq!(fs::read_dir(env.path("folder")).unwrap().count(), 0);
}

#[test]
fn an_empty_file_holds_no_queue_until_a_command_writes_one() {
    let env = TestEnv::new();
    env.prompts("in.jsonl", &["one", "two"]);
    env.write("gq.db", "");
    let missing = env.gq(&["status", "--db", "missing.db"]).exits(1).stderr;
    let (_, hint) = missing.split_once("hint: ").unwrap();
    for args in [&["status"][..], &["results"], &["retry", "--all-failed"]] {
        let ran = env.gq(args).exits(1);
        let said = format!("error: the database `gq.db` holds no queue yet\nhint: {hint}");
        assert_eq!(ran.stderr, said);
    }
    assert_eq!(fs::read(env.path("gq.db")).unwrap(), b"");
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    assert_eq!(env.status()["queue_size"], 2);
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Makes it so that those who run commands may read the folder and not write to it; false where that
/// cannot be arranged.
fn make_read_only(env: &mut TestEnv) -> bool {
    set_mode(&env.path("gq.db"), 0o644);
    set_mode(env.folder(), 0o555);
    env.without_rights()
}

#[test]
fn a_database_in_a_read_only_folder_is_read_and_not_written() {
    let mut env = queued();
    if !make_read_only(&mut env) {
        return;
    }
    let before = files(env.folder());
    assert_eq!(env.gq(&["results", "--state", "pending"]).exits(0).lines().len(), 2);
    assert_eq!(env.status()["queue_size"], 2);
    env.gq(&["show", "t1"]).exits(0);
    for args in [&["enqueue", "in.jsonl"][..], &["work"], &["retry", "--all-failed"]] {
        let ran = env.gq(args).exits(1);
        let said = "the database `gq.db` cannot be written: its folder is read-only";
        assert!(ran.stderr.contains(said) && ran.stderr.contains("hint"), "{}", ran.stderr);
    }
    let ran = env.gq(&["enqueue", "in.jsonl", "--db", "new.db"]).exits(1);
    assert!(ran.stderr.contains("`new.db` cannot be written"), "{}", ran.stderr);
    assert!(files(env.folder()) == before);
    set_mode(env.folder(), 0o755);
}

#[test]
fn a_read_only_file_is_read_and_not_written() {
    let mut env = queued();
    set_mode(&env.path("gq.db"), 0o444);
    set_mode(env.folder(), 0o777);
    if !env.without_rights() {
        return;
    }
    assert_eq!(env.status()["queue_size"], 2);
    let ran = env.gq(&["enqueue", "in.jsonl"]).exits(1);
    assert!(ran.stderr.contains("cannot be written: the file is read-only"), "{}", ran.stderr);
}

#[test]
fn a_log_in_a_read_only_folder_is_told_of() {
    let mut env = queued();
    fs::write(env.path("gq.db-wal"), [0; 64]).unwrap();
    if !make_read_only(&mut env) {
        return;
    }
    let ran = env.gq(&["status"]).exits(1);
    assert!(ran.stderr.contains("it has a log") && ran.stderr.contains("-wal"), "{}", ran.stderr);
    set_mode(env.folder(), 0o755);
}

/// Runs `gq` where no file may grow beyond `blocks` of 512 bytes, as on a disk that is full then.
fn with_room(env: &TestEnv, blocks: u32, args: &[&str]) -> Output {
    Command::new("sh")
        .args(["-c", &format!("ulimit -f {blocks} && exec \"$0\" \"$@\"")])
        .arg(env!("CARGO_BIN_EXE_gq"))
        .args(args)
        .current_dir(env.folder())
        .env_clear()
        .output()
        .unwrap()
}

#[test]
fn a_full_disk_is_told_of_once_whatever_finds_it() {
    let env = queued();
    env.prompts("large.jsonl", &["x".repeat(200_000), "y".repeat(200_000)]);
    for (blocks, args) in [
        // No room for the index of the log, for pages of the log, for a new database.
        (16, &["status"][..]),
        (16, &["enqueue", "in.jsonl"]),
        (128, &["enqueue", "large.jsonl"]),
        (128, &["enqueue", "in.jsonl", "--db", "new.db"]),
    ] {
        let output = with_room(&env, blocks, args);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(
            String::from_utf8(output.stderr).unwrap(),
            "error: the database cannot be written: the disk is full, or the file-size limit is \
             reached\n\
             hint: make room, then make the same call again: what is stored stays\n"
        );
    }
    assert_eq!(env.status()["queue_size"], 2);
}

#[test]
fn a_copy_without_its_log_is_worked_on() {
    let env = TestEnv::new();
    env.prompts("in.jsonl", &["one", "two"]);
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    env.execute("PRAGMA journal_mode = DELETE");
    env.prompts("more.jsonl", &["three", "four"]);
    env.gq(&["enqueue", "more.jsonl"]).exits(0);
    assert_eq!(env.status()["queue_size"], json!(4));
}

/// Leaves a database as a process does that dies while it writes it without a log; `committed` are
/// the statements that were through before.
fn half_written(env: &TestEnv, name: &str, committed: &str) {
    let dying = rusqlite::Connection::open(env.path("dying.db")).unwrap();
    dying.execute_batch(committed).unwrap();
    // More than the cache holds: the file is written before the transaction is through.
    dying.execute_batch("PRAGMA cache_size = 1; BEGIN; CREATE TABLE t (x)").unwrap();
    for _ in 0..50 {
        dying.execute("INSERT INTO t VALUES (zeroblob(5000))", []).unwrap();
    }
    for end in ["", "-journal"] {
        let (from, to) = (format!("dying.db{end}"), format!("{name}{end}"));
        fs::copy(env.path(&from), env.path(&to)).unwrap();
    }
    assert!(fs::metadata(env.path(name)).unwrap().len() > 5_000);
}

#[test]
fn a_first_start_that_died_while_it_wrote_the_file_is_made_good_by_the_next() {
    let env = TestEnv::new();
    half_written(&env, "gq.db", "");
    let ran = env.gq(&["status"]).exits(1);
    let said = "a process died while it wrote the database `gq.db`";
    assert!(ran.stderr.contains(said) && ran.stderr.contains("hint: "), "{}", ran.stderr);
    env.prompts("in.jsonl", &["one", "two"]);
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    assert_eq!(env.status()["queue_size"], 2);
    assert!(!env.path("gq.db-journal").exists());
}

#[test]
fn a_half_written_database_of_others_is_not_made_a_queue() {
    let env = TestEnv::new();
    half_written(&env, "other.db", "CREATE TABLE theirs (x); INSERT INTO theirs VALUES (7)");
    env.prompts("in.jsonl", &["one", "two"]);
    let ran = env.gq(&["enqueue", "in.jsonl", "--db", "other.db"]).exits(1);
    assert!(ran.stderr.contains("`other.db` is not a gq database"), "{}", ran.stderr);
    let other = rusqlite::Connection::open(env.path("other.db")).unwrap();
    let tables = "SELECT group_concat(name) FROM sqlite_schema";
    assert_eq!(other.query_one(tables, [], |row| row.get::<_, String>(0)).unwrap(), "theirs");
}

#[test]
fn a_name_that_looks_like_an_address_is_a_name() {
    let env = TestEnv::new();
    env.prompts("in.jsonl", &["one", "two"]);
    env.gq(&["--db", "file:x.db?mode=memory", "enqueue", "in.jsonl"]).exits(0);
    assert!(env.path("file:x.db?mode=memory").exists());
    let ran = env.gq(&["--db", "file:x.db?mode=memory", "status", "--format", "json"]).exits(0);
    assert_eq!(ran.json()["jobs"]["total"], 2);
}
