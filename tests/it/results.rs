//! Reading the queue, and changing what is in it.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{LIMIT, TestEnv, column, wait_until};

const LISTED: &str = "one, \"two\"\n=three";

/// A queue with an answer of several lines, a blocked prompt and a usual answer.
fn worked() -> TestEnv {
    let env = TestEnv::with_stand_in(&json!({"script": [
        {"prompt_contains": "list", "text": LISTED},
        {"prompt_contains": "risky", "reply": "blocked_prompt"}
    ]}));
    env.prompts("in.jsonl", &["list", "risky", "usual"]);
    env.gq(&["run", "in.jsonl"]).exits(3);
    env
}

#[test]
fn lines_and_one_list_say_the_same() {
    let env = worked();
    let lines = env.results();
    assert_eq!(column(&lines, "task_id"), ["t1", "t2", "t3"]);
    assert_eq!(lines[0]["response"], LISTED);
    let list = env.gq(&["results", "--format", "json"]).exits(0).json();
    assert_eq!(list, Value::Array(lines));
}

#[test]
fn a_table_has_the_columns_of_a_result() {
    let env = worked();
    let table = env.gq(&["results", "--format", "csv"]).exits(0).stdout;
    let mut reader = csv::Reader::from_reader(table.as_bytes());
    let names = reader.headers().unwrap().clone();
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    let results = env.results();
    assert_eq!(rows.len(), 3);
    // Two more: `parsed`, and images and clips, which a result without any does not have.
    assert_eq!(names.len(), results[0].as_object().unwrap().len() + 2);
    let cell = |row: usize, name: &str| {
        let place = names.iter().position(|known| known == name).unwrap();
        rows[row].get(place).unwrap().to_owned()
    };
    assert_eq!(cell(0, "response"), LISTED);
    assert_eq!(cell(1, "response"), "");
    assert_eq!(cell(1, "state"), "failed");
    for (row, result) in results.iter().enumerate() {
        assert_eq!(cell(row, "task_id"), result["task_id"].as_str().unwrap());
        assert_eq!(cell(row, "attempts"), result["attempts"].to_string());
    }
    let json = |row, name| -> Value { serde_json::from_str(&cell(row, name)).unwrap() };
    assert_eq!(json(1, "error"), results[1]["error"]);
    assert_eq!(json(2, "usage"), results[2]["usage"]);
}

#[test]
fn text_is_the_answer_alone_or_with_names() {
    let env = worked();
    let one = env.gq(&["results", "--task-id", "t1", "--format", "text"]).exits(0).stdout;
    assert_eq!(one, format!("{LISTED}\n"));
    let all = env.gq(&["results", "--format", "text"]).exits(0).stdout;
    for part in ["t1", LISTED, "t2", "blocked", "t3", "This is a stand-in's answer to: usual"] {
        assert!(all.contains(part), "{part}: {all}");
    }
}

#[test]
fn results_are_chosen_by_task_state_and_batch() {
    let env = worked();
    env.prompts("other.jsonl", &["more", "still more"]);
    env.gq(&["enqueue", "other.jsonl"]).exits(0);
    let tasks = |args: &[&str]| {
        let lines = env.gq(&[&["results"], args].concat()).exits(0).lines();
        column(&lines, "batch").into_iter().zip(column(&lines, "task_id")).collect::<Vec<_>>()
    };
    let named = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(batch, task)| ((*batch).to_owned(), (*task).to_owned())).collect()
    };
    assert_eq!(tasks(&["--state", "failed"]), named(&[("in", "t2")]));
    assert_eq!(tasks(&["--batch", "other"]), named(&[]));
    assert_eq!(
        tasks(&["--state", "pending", "failed"]),
        named(&[("in", "t2"), ("other", "t1"), ("other", "t2")])
    );
    assert_eq!(tasks(&["--task-id", "t1"]), named(&[("in", "t1"), ("other", "t1")]));
    assert_eq!(
        tasks(&["--task-id", "t3", "t1", "--batch", "in"]),
        named(&[("in", "t1"), ("in", "t3")])
    );
}

#[test]
fn the_whole_answer_is_added_where_asked() {
    let env = worked();
    let lines = env.gq(&["results", "--full"]).exits(0).lines();
    assert_eq!(lines[0]["raw"]["candidates"][0]["content"]["parts"][0]["text"], LISTED);
    assert_eq!(lines[2]["raw"]["candidates"][0]["finishReason"], "STOP");
    assert!(env.results().iter().all(|result| result.get("raw").is_none()));
}

#[test]
fn a_file_is_written_whole_or_left_as_it_was() {
    let env = worked();
    let names = || {
        let entries = fs::read_dir(env.folder()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    env.write("out.jsonl", "old");
    env.gq(&["results", "-o", "out.jsonl", "--task-id", "nope"]).exits(4);
    assert_eq!(fs::read_to_string(env.path("out.jsonl")).unwrap(), "old");
    env.gq(&["results", "-o", "out.jsonl"]).exits(0);
    let whole = env.gq(&["results"]).exits(0).stdout;
    assert_eq!(fs::read_to_string(env.path("out.jsonl")).unwrap(), whole);

    fs::create_dir(env.path("taken")).unwrap();
    env.write("taken/old.txt", "old");
    let before = names();
    for target in ["taken", "missing/out.jsonl"] {
        let ran = env.gq(&["results", "-o", target]).exits(1);
        assert!(ran.stderr.contains(target), "{}", ran.stderr);
        assert_eq!(ran.stdout, "");
    }
    assert_eq!(names(), before);
    assert_eq!(fs::read_to_string(env.path("taken/old.txt")).unwrap(), "old");
}

#[test]
fn a_dash_as_the_file_means_stdout() {
    let env = worked();
    let whole = env.gq(&["results"]).exits(0).stdout;
    assert_eq!(env.gq(&["results", "-o", "-"]).exits(0).stdout, whole);
    assert_eq!(env.gq(&["run", "in.jsonl", "-o", "-"]).exits(3).stdout, whole);
    assert!(!env.path("-").exists());
}

#[test]
fn waiting_ends_when_the_time_is_up_and_the_jobs_stay() {
    let env = TestEnv::new();
    env.prompts("in.jsonl", &["one", "two"]);
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    env.gq(&["results", "--wait", "--timeout", "150ms"]).exits(5);
    env.gq(&["results", "--task-id", "t2", "--wait", "--timeout", "0s"]).exits(5);
    assert_eq!(env.status()["queue_size"], json!(2));
    env.gq(&["results", "--timeout", "1s"]).exits(2);
}

#[test]
fn waiting_ends_with_the_last_job_and_tells_of_failures() {
    let env = TestEnv::with_stand_in(&json!({"script": [
        {"prompt_contains": "risky", "reply": "blocked_prompt"}
    ]}));
    env.prompts("good.jsonl", &["one", "two"]);
    env.prompts("bad.jsonl", &["risky", "three"]);
    env.gq(&["enqueue", "good.jsonl", "bad.jsonl"]).exits(0);
    let good = env.spawn(&["results", "--wait", "--batch", "good"]);
    let bad = env.spawn(&["results", "--wait", "--batch", "bad"]);
    env.gq(&["work", "--drain"]).exits(3);
    assert_eq!(column(&good.wait().exits(0).lines(), "state"), ["succeeded", "succeeded"]);
    assert_eq!(column(&bad.wait().exits(3).lines(), "state"), ["failed", "succeeded"]);
    env.gq(&["results", "--batch", "bad"]).exits(0);
}

#[test]
fn only_jobs_in_the_states_asked_for_count_as_failures_of_waiting() {
    let env = worked();
    for (states, code, tasks) in [
        (&["pending"][..], 0, &[][..]),
        (&["succeeded"], 0, &["t1", "t3"]),
        (&["failed"], 3, &["t2"]),
        (&["succeeded", "failed"], 3, &["t1", "t2", "t3"]),
    ] {
        for scope in [&["--batch", "in"][..], &["--task-id", "t1", "t2", "t3"]] {
            let args = [&["results", "--wait", "--state"], states, scope].concat();
            assert_eq!(column(&env.gq(&args).exits(code).lines(), "task_id"), tasks);
        }
    }
    env.prompts("more.jsonl", &["four"]);
    env.gq(&["enqueue", "more.jsonl"]).exits(0);
    env.gq(&["results", "--state", "succeeded", "--wait", "--timeout", "0s"]).exits(5);
}

#[test]
fn what_is_not_there_is_named() {
    let env = worked();
    for args in [
        &["results", "--task-id", "t1", "nope"][..],
        &["results", "--task-id", "nope", "--wait"],
        &["results", "--batch", "nope"],
        &["show", "nope"],
        &["retry", "--task-id", "nope"],
        &["cancel", "--batch", "nope"],
        &["prune", "--older-than", "0s", "--batch", "nope"],
        &["work", "--batch", "nope"],
        &["keys", "disable", "nope"],
    ] {
        let ran = env.gq(args).exits(4);
        assert!(ran.stderr.contains("nope"), "{}", ran.stderr);
        assert_eq!(ran.stdout, "");
    }
}

#[test]
fn reading_a_database_that_is_not_there_makes_none() {
    let env = TestEnv::new();
    for args in [
        &["results"][..],
        &["results", "--wait"],
        &["show", "t1"],
        &["status"],
        &["status", "--format", "json"],
        &["retry", "--all-failed"],
        &["cancel", "--task-id", "t1"],
        &["prune", "--older-than", "1h"],
    ] {
        let ran = env.gq(args).exits(1);
        assert!(ran.stderr.contains("gq.db") && ran.stderr.contains("hint"), "{}", ran.stderr);
        assert_eq!(fs::read_dir(env.folder()).unwrap().count(), 0, "{args:?}");
    }
}

#[test]
fn one_job_is_shown_with_its_attempts() {
    let env = TestEnv::with_stand_in(&json!({"script": [
        {"prompt_contains": "shaky", "first": 1, "reply": "internal"}
    ]}));
    env.prompts("in.jsonl", &["shaky", "steady"]);
    env.gq(&["run", "in.jsonl"]).exits(0);
    let job = env.show("t1");
    assert_eq!(job["response"], "This is a stand-in's answer to: shaky");
    assert_eq!(job["attempts"], json!(2));
    let log = job["attempt_log"].as_array().unwrap();
    assert_eq!(column(log, "attempt"), ["1", "2"]);
    assert_eq!(column(log, "http_status"), ["500", "200"]);
    assert_eq!(column(log, "key"), ["GEMINI_API_KEY", "GEMINI_API_KEY"]);
    assert_eq!(log[0]["outcome"], "server_error");
    assert!(log[0]["message"].is_string());
    assert_eq!(log[0]["usage"], Value::Null);
    assert_eq!(log[1]["outcome"], "succeeded");
    assert_eq!(log[1]["paid"], "yes");
    assert_eq!(log[1]["usage"], job["usage"]);
    for attempt in log {
        let time = |name: &str| {
            chrono::DateTime::parse_from_rfc3339(attempt[name].as_str().unwrap()).unwrap()
        };
        assert!(time("started_at") <= time("ended_at"));
    }
    let text = env.gq(&["show", "t1"]).exits(0).stdout;
    assert!(text.contains("500") && text.contains("GEMINI_API_KEY"), "{text}");
    assert_eq!(env.show("t2")["attempt_log"].as_array().unwrap().len(), 1);
}

#[test]
fn a_task_of_several_batches_is_shown_by_its_batch() {
    let env = TestEnv::new();
    env.prompts("a.jsonl", &["one", "two"]);
    env.prompts("b.jsonl", &["three"]);
    env.gq(&["enqueue", "a.jsonl", "b.jsonl"]).exits(0);
    let ran = env.gq(&["show", "t1"]).exits(2);
    assert!(ran.stderr.contains("--batch"), "{}", ran.stderr);
    let job = env.gq(&["show", "t1", "--batch", "b", "--format", "json"]).exits(0).json();
    assert_eq!(job["batch"], "b");
}

#[test]
fn the_status_tells_jobs_batches_workers_and_keys() {
    let env = TestEnv::with_stand_in(&json!({"script": [
        {"prompt_contains": "slow", "hold": true},
        {"prompt_contains": "risky", "reply": "blocked_prompt"}
    ]}));
    env.prompts("a.jsonl", &["slow", "risky", "usual"]);
    env.prompts("b.jsonl", &["other", "slow", "slow"]);
    env.gq(&["enqueue", "a.jsonl", "b.jsonl"]).exits(0);
    let worker = env.spawn(&["work", "--workers", "2"]);
    wait_until("two calls in flight", LIMIT, || {
        let status = env.status();
        env.mock().stats().held == 2 && status["active_workers"] == json!(2)
    });
    let status = env.status();
    assert_eq!(status["workers_running"], json!(true));
    assert_eq!(status["max_workers"], json!(2));
    assert_eq!(status["queue_size"], json!(1));
    assert_eq!(
        status["jobs"],
        json!({"pending": 1, "running": 2, "succeeded": 2, "failed": 1, "cancelled": 0, "total": 6})
    );
    let batches = status["batches"].as_array().unwrap();
    assert_eq!(column(batches, "name"), ["a", "b"]);
    assert_eq!(column(batches, "running"), ["1", "1"]);
    assert_eq!(column(batches, "failed"), ["1", "0"]);
    assert_eq!(column(batches, "total"), ["3", "3"]);
    let workers = status["workers"].as_array().unwrap();
    assert_eq!(column(workers, "workers"), ["2"]);
    assert_eq!(column(workers, "busy"), ["2"]);
    assert!(workers[0]["pid"].as_u64().unwrap() > 0 && workers[0]["heartbeat_at"].is_string());
    assert_eq!(
        status["key_status"]["GEMINI_API_KEY"],
        json!({
            "status": "available", "exhausted_count": 0, "total_exhausted_count": 0,
            "available_at": null, "reason": null,
            "models": status["key_status"]["GEMINI_API_KEY"]["models"].clone(),
        })
    );
    assert!(status["throughput_per_minute"].as_i64().unwrap() >= 3);
    assert!(status["waiting_for"].is_null() || status["waiting_for"]["reason"].is_string());
    worker.kill();
}

#[test]
fn pruning_removes_finished_jobs_with_all_that_belongs_to_them() {
    let env = worked();
    env.prompts("more.jsonl", &["four", "five"]);
    env.gq(&["enqueue", "more.jsonl"]).exits(0);
    assert_eq!(env.gq(&["prune", "--older-than", "1h"]).exits(0).stdout, "0\n");
    assert_eq!(env.gq(&["prune", "--older-than", "0s", "--batch", "more"]).exits(0).stdout, "0\n");
    assert_eq!(env.gq(&["prune", "--older-than", "0s", "--vacuum"]).exits(0).stdout, "3\n");
    assert_eq!(env.count("SELECT count(*) FROM jobs"), 2);
    assert_eq!(env.count("SELECT count(*) FROM answers"), 0);
    assert_eq!(env.count("SELECT count(*) FROM attempts"), 0);
    assert_eq!(env.count("SELECT count(*) FROM inputs"), 2);
    env.gq(&["run", "more.jsonl"]).exits(0);
    assert_eq!(column(&env.results(), "task_id"), ["t1", "t2"]);
}

#[test]
fn pending_jobs_are_cancelled_and_come_back() {
    let env = TestEnv::with_stand_in(&json!({}));
    env.prompts("in.jsonl", &["one", "two", "three"]);
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    assert_eq!(env.gq(&["cancel", "--task-id", "t1", "t3"]).exits(0).stdout, "2\n");
    env.gq(&["work", "--drain"]).exits(3);
    let results = env.results();
    assert_eq!(column(&results, "state"), ["cancelled", "succeeded", "cancelled"]);
    assert_eq!(results[0]["error"]["kind"], "cancelled");
    let of_sql = "SELECT count(*) FROM job_results
                   WHERE error_kind = 'cancelled' AND error_message = 'cancelled by request'";
    assert_eq!(env.count(of_sql), 2);
    assert_eq!(env.calls(), 1);
    assert_eq!(env.gq(&["cancel", "--task-id", "t2"]).exits(0).stdout, "0\n");
    assert_eq!(env.gq(&["retry", "--batch", "in"]).exits(0).stdout, "2\n");
    env.gq(&["run", "in.jsonl"]).exits(0);
    assert_eq!(env.calls(), 3);
}

#[test]
fn running_jobs_are_cut_off() {
    let env = TestEnv::with_stand_in(&json!({"script": [{"hold": true}]}));
    env.prompts("in.jsonl", &["one", "two"]);
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    let worker = env.spawn(&["work"]);
    wait_until("two calls in flight", LIMIT, || env.mock().stats().held == 2);
    assert_eq!(env.gq(&["cancel", "--batch", "in"]).exits(0).stdout, "2\n");
    assert_eq!(column(&env.results(), "state"), ["cancelled", "cancelled"]);
    wait_until("the calls to be cut", LIMIT, || env.mock().stats().in_flight == 0);
    worker.signal(Signal::TERM);
    worker.wait().exits(0);
    assert_eq!(env.calls(), 2);
}

#[test]
fn failed_jobs_are_chosen_by_what_failed_them() {
    let env = TestEnv::with_stand_in(&json!({"script": [
        {"prompt_contains": "risky", "reply": "blocked_prompt"},
        {"prompt_contains": "wrong", "reply": "invalid_argument"}
    ]}));
    env.prompts("in.jsonl", &["risky", "wrong", "usual"]);
    env.gq(&["run", "in.jsonl"]).exits(3);
    assert_eq!(env.show("t2")["error"]["kind"], "invalid_request");
    assert_eq!(env.show("t2")["error"]["http_status"], json!(400));
    assert_eq!(env.gq(&["retry", "--error", "network"]).exits(0).stdout, "0\n");
    assert_eq!(env.gq(&["retry", "--error", "blocked"]).exits(0).stdout, "1\n");
    assert_eq!(env.show("t1")["state"], "pending");
    assert_eq!(env.show("t2")["state"], "failed");
    env.gq(&["retry"]).exits(2);
}

#[test]
fn keys_are_switched_off_and_on_and_reset() {
    let mut env = TestEnv::with_stand_in(&json!({"quota": {"rpd": 2}}));
    env.set("GEMINI_API_KEY_2", "secret-two");
    env.prompts("in.jsonl", &["one", "two", "three"]);
    let state = |name: &str| {
        let keys = env.gq(&["keys", "list", "--format", "json"]).exits(0).json();
        let key = keys.as_array().unwrap().iter().find(|key| key["name"] == name).cloned();
        key.unwrap()["status"].as_str().unwrap().to_owned()
    };
    env.gq(&["keys", "disable", "GEMINI_API_KEY_2"]).exits(0);
    assert_eq!(state("GEMINI_API_KEY_2"), "disabled");
    assert_eq!(state("GEMINI_API_KEY"), "available");
    env.gq(&["run", "in.jsonl", "--on-exhausted", "exit"]).exits(75);
    assert_eq!(env.calls_with("secret-two"), 0);
    assert_eq!(state("GEMINI_API_KEY"), "fully_exhausted");
    env.gq(&["keys", "enable", "GEMINI_API_KEY_2"]).exits(0);
    assert_eq!(state("GEMINI_API_KEY_2"), "available");
    env.gq(&["run", "in.jsonl", "--on-exhausted", "exit"]).exits(0);
    assert_eq!(env.calls_with("secret-two"), 1);
    env.gq(&["keys", "reset", "GEMINI_API_KEY"]).exits(0);
    assert_eq!(state("GEMINI_API_KEY"), "available");
    let key = &env.status()["key_status"]["GEMINI_API_KEY"];
    assert_eq!(key["total_exhausted_count"], json!(0));
    assert_eq!(key["available_at"], Value::Null);
    env.gq(&["keys", "disable"]).exits(0);
    env.gq(&["retry", "--batch", "in"]).exits(0);
    env.prompts("more.jsonl", &["four", "five"]);
    env.gq(&["run", "more.jsonl"]).exits(6);
}

#[test]
fn a_key_with_a_new_secret_is_shown_anew_before_anything_used_it() {
    let mut env = TestEnv::with_stand_in(&json!({"quota": {"rpd": 1}}));
    env.prompts("in.jsonl", &["one", "two"]);
    env.gq(&["run", "in.jsonl", "--on-exhausted", "exit"]).exits(75);
    let name = "GEMINI_API_KEY";
    assert_eq!(env.status()["key_status"][name]["status"], "fully_exhausted");
    assert!(env.status()["waiting_for"]["until"].is_string());
    env.set(name, "secret-two");
    env.set("GEMINI_API_KEY_2", "secret-three");
    let status = env.status();
    for name in [name, "GEMINI_API_KEY_2"] {
        assert_eq!(
            status["key_status"][name],
            json!({
                "status": "available", "exhausted_count": 0, "total_exhausted_count": 0,
                "available_at": null, "reason": null, "models": {},
            })
        );
    }
    assert_eq!(status["waiting_for"], Value::Null);
    let keys = env.gq(&["keys", "--format", "json"]).exits(0).json();
    assert_eq!(column(keys.as_array().unwrap(), "status"), ["available", "available"]);
    // Looking changed nothing.
    env.set(name, "secret-one");
    assert_eq!(env.status()["key_status"][name]["status"], "fully_exhausted");
}

#[test]
fn a_key_that_no_worker_has_does_not_end_its_waiting() {
    let mut env = TestEnv::with_stand_in(&json!({"quota": {"rpd": 1}}));
    env.prompts("in.jsonl", &["one", "two"]);
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    let worker = env.spawn(&["work"]);
    wait_until("the key to rest", LIMIT, || env.status()["waiting_for"]["until"].is_string());
    env.set("GEMINI_API_KEY_2", "secret-two");
    let status = env.status();
    assert_eq!(status["key_status"]["GEMINI_API_KEY_2"]["status"], "available");
    assert_eq!(status["waiting_for"]["reason"], "all 1 keys rest");
    worker.kill();
}

#[test]
fn a_file_that_is_no_database_is_named_and_left_as_it_is() {
    let env = worked();
    let text = "this is not a database at all, only some text";
    env.write("other.db", text);
    for args in [&["status", "--db", "other.db"][..], &["enqueue", "in.jsonl", "--db", "other.db"]]
    {
        let ran = env.gq(args).exits(1);
        assert!(ran.stderr.contains("other.db"), "{}", ran.stderr);
    }
    assert_eq!(fs::read_to_string(env.path("other.db")).unwrap(), text);
}

#[test]
fn a_link_is_written_through_and_a_file_keeps_its_mode() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let env = worked();
    env.write("target.jsonl", "old");
    fs::set_permissions(env.path("target.jsonl"), fs::Permissions::from_mode(0o640)).unwrap();
    symlink("target.jsonl", env.path("link.jsonl")).unwrap();
    env.gq(&["results", "-o", "link.jsonl"]).exits(0);
    assert!(fs::symlink_metadata(env.path("link.jsonl")).unwrap().is_symlink());
    let target = env.path("target.jsonl");
    assert_eq!(fs::read_to_string(&target).unwrap().lines().count(), 3);
    assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o640);
    // A device is written to and stays one.
    env.gq(&["results", "-o", "/dev/null"]).exits(0);
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
}
