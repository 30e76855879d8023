//! `gq doctor`: what it finds, and what it puts right.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::support::{Ran, TestEnv};

/// Two batches, one of them worked off.
fn queue() -> TestEnv {
    let env = TestEnv::with_stand_in(&json!({}));
    env.prompts("done.jsonl", &["one", "two"]);
    env.gq(&["run", "done.jsonl"]).exits(0);
    env.prompts("left.jsonl", &["three", "four", "five"]);
    env.gq(&["enqueue", "left.jsonl"]).exits(0);
    env
}

fn doctor(env: &TestEnv) -> Ran {
    env.gq(&["doctor", "--format", "json"])
}

/// Returns the finding of one check.
#[track_caller]
fn finding(ran: &Ran, check: &str) -> Value {
    let findings = ran.json();
    let found = findings.as_array().unwrap().iter().find(|finding| finding["check"] == check);
    found.unwrap_or_else(|| panic!("no check `{check}` in {findings:#}")).clone()
}

/// Checks that what one check found is a problem, and says what to do.
#[track_caller]
fn is_problem(ran: &Ran, check: &str, words: &str) {
    let finding = finding(ran, check);
    assert_eq!(finding["verdict"], "problem", "{finding}");
    assert!(finding["message"].as_str().unwrap().contains(words), "{finding}");
    assert!(finding["hint"].is_string(), "{finding}");
}

#[test]
fn a_queue_that_is_well_gets_no_advice() {
    let env = queue();
    let ran = doctor(&env).exits(0);
    let checks: Vec<Value> =
        ran.json().as_array().unwrap().iter().map(|finding| finding["check"].clone()).collect();
    for check in [
        "database",
        "integrity",
        "counters",
        "file mode",
        "disk space",
        "endpoint",
        "clock",
        "key GEMINI_API_KEY",
    ] {
        assert!(checks.contains(&json!(check)), "{checks:?}");
        assert_ne!(finding(&ran, check)["verdict"], "problem", "{check}");
    }
    assert_eq!(finding(&ran, "database")["message"], "`gq.db`, jobs: 5, batches: 2");
    let text = env.gq(&["doctor"]).exits(0).stdout;
    assert!(text.contains("ok  integrity           every page"), "{text}");
    // A question about the models costs nothing and is no call to one.
    let calls = env.mock().requests();
    assert_eq!(calls.iter().filter(|call| call.path.ends_with(":generateContent")).count(), 2);
}

#[test]
fn wrong_counters_are_told_of_and_put_right() {
    let env = queue();
    env.execute("UPDATE batches SET pending = pending + 7, failed = 2 WHERE name = 'left'");
    let ran = doctor(&env).exits(1);
    is_problem(&ran, "counters", "batch `left` says 10 pending, 0 running, 0 succeeded, 2 failed");
    assert_eq!(finding(&ran, "integrity")["verdict"], "ok");
    let ran = env.gq(&["doctor", "--repair-counters", "--format", "json"]).exits(0);
    assert_eq!(finding(&ran, "repair")["message"], "counted anew; batches that were wrong: 1");
    assert_eq!(finding(&ran, "counters")["verdict"], "ok");
    env.counts_are_true();
    assert_eq!(env.status()["jobs"]["pending"], 3);
    assert_eq!(env.status()["jobs"]["succeeded"], 2);
    let ran = env.gq(&["doctor", "--repair-counters", "--format", "json"]).exits(0);
    assert_eq!(finding(&ran, "repair")["message"], "counted anew; batches that were wrong: 0");
}

#[test]
fn a_damaged_page_and_a_lost_answer_are_found() {
    let env = queue();
    env.execute("DELETE FROM answers WHERE job_id = 2");
    is_problem(&doctor(&env).exits(1), "integrity", "1 succeeded jobs have no answer");

    env.execute("PRAGMA wal_checkpoint(TRUNCATE)");
    let mut bytes = fs::read(env.path("gq.db")).unwrap();
    let page = 8192;
    for number in 2..bytes.len() / page {
        bytes[number * page..][..16].fill(0xA5);
    }
    fs::write(env.path("gq.db"), &bytes).unwrap();
    for args in
        [&["doctor", "--format", "json"][..], &["doctor", "--repair-counters", "--format", "json"]]
    {
        let ran = env.gq(args).exits(1);
        let said = ran.json().to_string();
        assert!(said.contains("damaged") || said.contains("malformed"), "{said}");
        assert!(!said.contains("counted anew"), "{said}");
        assert!(fs::read(env.path("gq.db")).unwrap() == bytes);
    }
}

#[test]
fn an_address_where_something_else_answers_is_a_problem() {
    let mut env = queue();
    let url = env.mock().url() + "/elsewhere";
    env.set("GEMINI_BASE_URL", &url);
    let ran = doctor(&env).exits(1);
    is_problem(&ran, "endpoint", "answers with status 404");
    assert!(!ran.stdout.contains("key GEMINI_API_KEY"), "{}", ran.stdout);
}

#[test]
fn a_first_user_is_told_what_is_missing_and_nothing_is_made() {
    let mut env = TestEnv::new();
    env.set("GEMINI_BASE_URL", "http://127.0.0.1:9");
    let ran = doctor(&env).exits(1);
    is_problem(&ran, "database", "there is no database `gq.db`");
    is_problem(&ran, "endpoint", "http://127.0.0.1:9");
    is_problem(&ran, "keys", "no API key is set");
    assert!(!env.path("gq.db").exists());
}

#[test]
fn each_key_is_asked_about_and_none_is_shown() {
    let mut env = TestEnv::new();
    env.stand_in(&json!({"keys": {"AIzaCanaryBad0123456789": {"status": "invalid"}}}));
    env.set("GEMINI_API_KEY_1", "AIzaCanaryBad0123456789");
    env.set("GEMINI_API_KEY_2", "AIzaCanaryGood0123456789");
    env.set("GEMINI_API_KEY_3", "AIzaCanaryOff0123456789");
    env.prompts("in.jsonl", &["one", "two"]);
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    env.gq(&["keys", "disable", "GEMINI_API_KEY_3"]).exits(0);
    let ran = env.gq(&["doctor", "--format", "json", "-vvv"]).exits(1);
    is_problem(&ran, "key GEMINI_API_KEY_1", "API key not valid");
    assert_eq!(finding(&ran, "key GEMINI_API_KEY_2")["verdict"], "ok");
    env.execute("UPDATE keys SET failed_reason = 'API key not valid', status = 'failed_init' WHERE name LIKE '%_2'");
    let known = finding(&doctor(&env).exits(1), "key GEMINI_API_KEY_2");
    assert_eq!(known["verdict"], "warning");
    assert_eq!(known["hint"], "`gq keys check GEMINI_API_KEY_2` takes it back");
    let off = finding(&ran, "key GEMINI_API_KEY_3");
    assert_eq!(off["verdict"], "warning");
    assert_eq!(off["hint"], "`gq keys enable GEMINI_API_KEY_3` switches it on");
    assert!(!(ran.stdout + &ran.stderr).contains("AIzaCanary"));
}

#[test]
fn keys_that_no_worker_can_use_are_a_problem() {
    let env = queue();
    env.gq(&["keys", "disable"]).exits(0);
    is_problem(&doctor(&env).exits(1), "keys", "no worker can use one");
    env.gq(&["work", "--drain"]).exits(6);
    env.gq(&["keys", "enable"]).exits(0);
    doctor(&env).exits(0);
}

#[test]
fn a_database_that_others_may_read_is_warned_of() {
    let env = queue();
    fs::set_permissions(env.path("gq.db"), fs::Permissions::from_mode(0o644)).unwrap();
    let ran = doctor(&env).exits(0);
    let mode = finding(&ran, "file mode");
    assert_eq!(mode["verdict"], "warning");
    assert!(mode["message"].as_str().unwrap().contains("mode 0644"), "{mode}");
}

#[test]
fn an_address_that_was_refused_is_a_problem_of_its_own() {
    let mut env = queue();
    env.set("GEMINI_BASE_URL", "");
    env.write(".env", "GEMINI_BASE_URL=http://127.0.0.1:9\n");
    is_problem(&doctor(&env).exits(1), "endpoint", "GEMINI_BASE_URL");
    assert_eq!(env.calls(), 2);
}
