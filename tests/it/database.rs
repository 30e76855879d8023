//! The file of the database: what is refused, and what is said of it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

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
