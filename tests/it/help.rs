//! What people read: help, and the reports of the queue.

use serde_json::json;

use crate::support::snapshot::{matches, without_times};
use crate::support::{LIMIT, TestEnv, wait_until};

const COMMANDS: [&str; 16] = [
    "enqueue",
    "work",
    "run",
    "ask",
    "results",
    "show",
    "status",
    "keys",
    "media",
    "retry",
    "cancel",
    "prune",
    "backup",
    "doctor",
    "mock",
    "completions",
];

/// Returns an environment whose output does not depend on where it runs.
fn env() -> TestEnv {
    let mut env = TestEnv::with_stand_in(&json!({
        "keys": {
            "secret-invalid": {"status": "invalid"},
            "secret-day": {"quota": {"rpd": 1}}
        },
        "script": [
            {"prompt_contains": "risky", "reply": "blocked_prompt"},
            {"prompt_contains": "shaky", "first": 1, "reply": "internal"},
            {"prompt_contains": "slow", "hold": true}
        ]
    }));
    env.set("COLUMNS", "100");
    env.set("TZ", "UTC");
    env
}

#[test]
fn the_program_explains_itself() {
    let env = env();
    matches("help", &env.gq(&["--help"]).exits(0).stdout);
    assert_eq!(env.gq(&["help"]).exits(0).stdout, env.gq(&["--help"]).exits(0).stdout);
}

#[test]
fn each_command_explains_itself() {
    let env = env();
    for command in COMMANDS {
        let ran = env.gq(&[command, "--help"]).exits(0);
        assert_eq!(ran.stderr, "");
        matches(&format!("help-{command}"), &ran.stdout);
    }
}

#[test]
fn the_help_names_all_commands() {
    let help = env().gq(&["-h"]).exits(0).stdout;
    let listed: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert_eq!(listed, COMMANDS);
}

#[test]
fn the_version_is_that_of_the_package() {
    let expected = concat!("gq ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(env().gq(&["--version"]).exits(0).stdout, expected);
}

#[test]
fn a_status_is_read_at_a_glance() {
    let env = env();
    env.prompts("capitals.jsonl", &["usual", "risky", "other"]);
    env.prompts("later.jsonl", &["one", "two"]);
    env.gq(&["run", "capitals.jsonl"]).exits(3);
    env.gq(&["enqueue", "later.jsonl"]).exits(0);
    env.gq(&["cancel", "--task-id", "t2", "--batch", "later"]).exits(0);
    matches("status", &without_times(&env.gq(&["status"]).exits(0).stdout));
}

#[test]
fn a_status_tells_of_a_worker() {
    let env = env();
    env.prompts("in.jsonl", &["slow", "slow too"]);
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    let worker = env.spawn(&["work", "--workers", "3"]);
    wait_until("both calls", LIMIT, || {
        env.mock().stats().held == 2 && env.status()["active_workers"] == json!(2)
    });
    matches("status-worker", &without_times(&env.gq(&["status"]).exits(0).stdout));
    worker.kill();
}

#[test]
fn keys_are_listed_with_their_states() {
    let mut env = env();
    env.set("GEMINI_API_KEY_2", "secret-invalid");
    env.set("GEMINI_API_KEY_3", "secret-day");
    env.set("GEMINI_API_KEY_4", "secret-off");
    env.gq(&["keys", "disable", "GEMINI_API_KEY_4"]).exits(0);
    env.prompts("in.jsonl", &["one", "two", "three", "four"]);
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    for (key, code) in [("GEMINI_API_KEY_2", 6), ("GEMINI_API_KEY_3", 75), ("GEMINI_API_KEY", 0)] {
        let args = ["work", "--drain", "--on-exhausted", "exit", "--workers", "1", "--keys", key];
        env.gq(&args).exits(code);
    }
    matches("keys", &without_times(&env.gq(&["keys"]).exits(0).stdout));
}

#[test]
fn a_job_is_shown_with_all_that_happened() {
    let env = env();
    env.prompts("in.jsonl", &["shaky", "risky"]);
    env.gq(&["run", "in.jsonl"]).exits(3);
    env.prompts("waiting.jsonl", &["three"]);
    env.gq(&["enqueue", "waiting.jsonl", "--batch", "waiting"]).exits(0);
    for (name, args) in [
        ("show-succeeded", ["show", "t1", "--batch", "in"]),
        ("show-failed", ["show", "t2", "--batch", "in"]),
        ("show-pending", ["show", "t1", "--batch", "waiting"]),
    ] {
        matches(name, &without_times(&env.gq(&args).exits(0).stdout));
    }
}

#[test]
fn a_wrong_command_line_is_repeated_without_escapes_and_keys() {
    let env = TestEnv::new();
    for word in ["\u{1b}]0;x\u{7}", "AIzaSyCanaryOfAnArgument0123456789abcdef"] {
        let ran = env.gq(&["status", "--format", word]).exits(2);
        assert!(ran.stderr.contains("--format"), "{}", ran.stderr);
        assert!(!ran.stderr.contains(word), "{}", ran.stderr);
    }
}
