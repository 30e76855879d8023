//! No secret leaves the environment but in the header of a call.

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use serde_json::json;

use crate::support::{LIMIT, Ran, TestEnv, wait_until};

const ECHOED: &str = "AIzaSyCanaryEchoed0123456789abcdefgh";
const SUSPENDED: &str = "AIzaSyCanarySuspended456789abcdefgh";
const INVALID: &str = "AIzaSyCanaryInvalid23456789abcdefghi";

const CANARIES: [&str; 3] = [ECHOED, SUSPENDED, INVALID];

#[track_caller]
fn holds_none(place: &str, content: &[u8]) {
    for canary in CANARIES {
        let held = content.windows(canary.len()).any(|window| window == canary.as_bytes());
        assert!(!held, "{place} holds {canary}");
    }
}

/// Checks all files below `folder`; returns how many there are.
fn no_file_holds_one(folder: &Path) -> usize {
    let mut files = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files += no_file_holds_one(&path);
        } else {
            holds_none(&path.display().to_string(), &fs::read(&path).unwrap());
            files += 1;
        }
    }
    files
}

#[track_caller]
fn clean(ran: Ran) -> Ran {
    holds_none("stdout", ran.stdout.as_bytes());
    holds_none("stderr", ran.stderr.as_bytes());
    ran
}

fn env() -> TestEnv {
    let mut env = TestEnv::new();
    env.stand_in(&json!({
        "keys": {(SUSPENDED): {"status": "suspended"}, (INVALID): {"status": "invalid"}},
        "script": [{"prompt_contains": "echo", "fault": "echo_key"}]
    }));
    env.set("GEMINI_API_KEY_1", SUSPENDED);
    env.set("GEMINI_API_KEY_2", INVALID);
    env.set("GEMINI_API_KEY_3", ECHOED);
    env.prompts("in.jsonl", &["echo one", "harmless", "echo two"]);
    env
}

#[test]
fn no_secret_is_shown_or_stored_when_the_server_repeats_it() {
    for format in ["text", "json"] {
        let env = env();
        clean(env.gq(&["enqueue", "in.jsonl", "-vvv"]).exits(0));
        let worker = env.spawn(&["work", "-vvv", "--log-format", format, "--workers", "3"]);
        wait_until("the end of all jobs", LIMIT, || {
            env.status()["jobs"]["failed"] == json!(2)
                && env.status()["jobs"]["succeeded"] == json!(1)
        });
        wait_until("both keys refused", LIMIT, || {
            let keys = &env.status()["key_status"];
            ["GEMINI_API_KEY_1", "GEMINI_API_KEY_2"]
                .iter()
                .all(|name| keys[*name]["status"] == "failed_init")
        });
        assert!(env.path("gq.db-wal").exists());
        assert!(no_file_holds_one(env.folder()) >= 6);
        worker.signal(Signal::TERM);
        let worker = clean(worker.wait().exits(0));
        assert!(worker.stderr.contains("could not be served"), "{}", worker.stderr);
        no_file_holds_one(env.folder());
        for secret in CANARIES {
            assert!(env.calls_with(secret) > 0, "{secret} was never sent");
        }
        assert!(env.show("t1")["error"]["message"].as_str().unwrap().contains("API key"));
    }
}

#[test]
fn no_command_shows_a_secret() {
    let env = env();
    clean(env.gq(&["run", "in.jsonl", "-vvv", "--progress"]).exits(3));
    for args in [
        &["keys", "list", "-vvv"][..],
        &["keys", "list", "--format", "json"],
        &["keys", "check", "-vvv"],
        &["keys", "reset"],
        &["status", "-vvv"],
        &["status", "--format", "json"],
        &["results", "--full", "-vvv"],
        &["results", "--format", "csv", "--full"],
        &["results", "--format", "text"],
        &["show", "t1", "-vvv"],
        &["show", "t3", "--format", "json"],
        &["retry", "--all-failed", "-vvv"],
    ] {
        clean(env.gq(args).exits(0));
    }
    no_file_holds_one(env.folder());
}

#[test]
fn a_key_where_a_name_belongs_is_not_repeated() {
    let mut env = env();
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    for args in [
        &["keys", "check", ECHOED][..],
        &["keys", "reset", ECHOED],
        &["show", ECHOED],
        &["results", "--task-id", ECHOED],
        &["results", "--batch", ECHOED],
        &["retry", "--batch", ECHOED],
    ] {
        let ran = clean(env.gq(args).exits(4));
        assert!(ran.stderr.contains("[redacted]"), "{}", ran.stderr);
    }
    env.set("GEMINI_API_KEY_4", "short-and-odd-secret");
    let ran = env.gq(&["show", "short-and-odd-secret"]).exits(4);
    assert!(!ran.stderr.contains("short-and-odd"), "{}", ran.stderr);
    env.set("GQ_PACE", ECHOED);
    clean(env.gq(&["doctor"]).exits(1));
    env.set("GQ_PACE", "");
    env.set("GEMINI_API_KEY_1_RPM", ECHOED);
    clean(env.gq(&["work", "--drain"]).exits(2));
}

#[test]
fn an_answer_that_repeats_the_key_is_stored_and_shown_without_it() {
    let mut env = TestEnv::new();
    env.stand_in(&json!({"script": [
        {"prompt_contains": "say", "text": format!("You sent {ECHOED} to me.")}
    ]}));
    env.set("GEMINI_API_KEY", ECHOED);
    env.prompts("in.jsonl", &["say it", "harmless"]);
    clean(env.gq(&["run", "in.jsonl", "-vvv"]).exits(0));
    for args in [
        &["results", "--full"][..],
        &["results", "--full", "--format", "csv"],
        &["results", "--format", "text"],
        &["show", "t1", "--format", "json"],
    ] {
        let ran = clean(env.gq(args).exits(0));
        assert!(ran.stdout.contains("You sent [redacted] to me."), "{}", ran.stdout);
    }
    no_file_holds_one(env.folder());
}

#[test]
fn a_key_that_cannot_be_sent_is_not_shown_either() {
    let mut env = TestEnv::new();
    env.stand_in(&json!({}));
    env.set("GEMINI_API_KEY_1", &format!("{ECHOED}\u{e9}\u{7}"));
    env.set("GEMINI_API_KEY_2", "secret-two");
    env.prompts("in.jsonl", &["one", "two"]);
    clean(env.gq(&["run", "in.jsonl", "-vvv"]).exits(0));
    clean(env.gq(&["keys"]).exits(0));
    assert_eq!(env.status()["key_status"]["GEMINI_API_KEY_1"]["status"], "failed_init");
    no_file_holds_one(env.folder());
}

#[test]
fn a_folder_cannot_send_a_key_of_the_environment_elsewhere() {
    let mut env = TestEnv::new();
    let url = env.stand_in(&json!({}));
    env.set("GEMINI_BASE_URL", "");
    env.set("GEMINI_API_KEY", ECHOED);
    env.write(".env", format!("GEMINI_BASE_URL={url}\n"));
    env.prompts("in.jsonl", &["one", "two"]);
    let ran = clean(env.gq(&["run", "in.jsonl"]));
    assert_ne!(ran.code, Some(0));
    assert!(ran.stderr.contains("GEMINI_BASE_URL"), "{}", ran.stderr);
    assert_eq!(env.calls(), 0);
}
