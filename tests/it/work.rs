//! `gq run` and `gq work`: answers, retries, keys and budgets.

use chrono::{DateTime, Days, NaiveTime, TimeZone as _, Utc};
use chrono_tz::America::Los_Angeles;
use serde_json::{Value, json};

use crate::support::{TestEnv, column};

const CAPITALS: &str = r#"{"prompt": "What is the capital of France?", "metadata": {"task_id": "fr", "n": 1}}
{"prompt": "What is the capital of Peru?", "task_id": "pe"}

{"prompt": "What is the capital of Japan?"}
{"prompt": "What is the capital of Kenya or Norway?", "task_id": 7, "metadata": {"tags": ["a", null]}}
"#;

fn numbered(count: usize) -> Vec<String> {
    (1..=count).map(|number| format!("prompt number {number}")).collect()
}

#[test]
fn a_run_answers_all_prompts_in_the_order_of_the_file() {
    let mut env = TestEnv::with_stand_in(&json!({}));
    env.set("GEMINI_API_KEY_2", "secret-two");
    env.write("in.jsonl", CAPITALS);
    let ran = env.gq(&["run", "in.jsonl"]).exits(0);
    let results = ran.lines();
    assert_eq!(column(&results, "task_id"), ["fr", "pe", "4", "7"]);
    assert_eq!(column(&results, "line"), ["1", "2", "4", "5"]);
    assert_eq!(
        column(&results, "response")[..3],
        [
            "The capital of France is Paris.",
            "The capital of Peru is Lima.",
            "The capital of Japan is Tokyo.",
        ]
    );
    assert_eq!(results[0]["metadata"], json!({"task_id": "fr", "n": 1}));
    assert_eq!(results[1]["metadata"], Value::Null);
    assert_eq!(results[3]["metadata"], json!({"tags": ["a", null]}));
    for result in &results {
        assert_eq!(result["batch"], "in");
        assert_eq!(result["state"], "succeeded");
        assert_eq!(result["error"], Value::Null);
        assert_eq!(result["finish_reason"], "STOP");
        assert_eq!(result["model"], "gemini-flash-latest");
        assert_eq!(result["attempts"], json!(1));
        let key = result["key"].as_str().unwrap();
        assert!(["GEMINI_API_KEY", "GEMINI_API_KEY_2"].contains(&key), "{key}");
        let usage = |name: &str| result["usage"][name].as_i64().unwrap();
        assert!(usage("prompt_tokens") > 0 && usage("output_tokens") > 0);
        assert!(usage("total_tokens") >= usage("prompt_tokens") + usage("output_tokens"));
        let time = |name: &str| {
            let text = result[name].as_str().unwrap();
            assert!(text.ends_with('Z'), "{text}");
            DateTime::parse_from_rfc3339(text).unwrap()
        };
        assert!(time("created_at") <= time("started_at"));
        assert!(time("started_at") <= time("finished_at"));
    }
    assert_eq!(env.calls(), 4);
}

#[test]
fn a_result_has_the_documented_fields_in_their_order() {
    let env = TestEnv::with_stand_in(&json!({}));
    env.prompts("in.jsonl", &["one", "two"]);
    let ran = env.gq(&["run", "in.jsonl"]).exits(0);
    let names = [
        "task_id",
        "batch",
        "state",
        "metadata",
        "response",
        "error",
        "finish_reason",
        "model",
        "model_version",
        "usage",
        "attempts",
        "key",
        "line",
        "created_at",
        "started_at",
        "finished_at",
    ];
    for line in ran.stdout.lines() {
        let places: Vec<usize> =
            names.iter().map(|name| line.find(&format!("\"{name}\":")).unwrap()).collect();
        assert!(places.is_sorted(), "{line}");
    }
    for result in ran.lines() {
        assert_eq!(result.as_object().unwrap().len(), names.len());
    }
}

#[test]
fn the_same_run_again_makes_no_call() {
    let env = TestEnv::with_stand_in(&json!({}));
    env.write("in.jsonl", CAPITALS);
    let first = env.gq(&["run", "in.jsonl"]).exits(0);
    let second = env.gq(&["run", "in.jsonl", "-o", "out.jsonl"]).exits(0);
    assert_eq!(env.calls(), 4);
    assert_eq!(second.stdout, "");
    assert_eq!(std::fs::read_to_string(env.path("out.jsonl")).unwrap(), first.stdout);
}

#[test]
fn a_blocked_prompt_fails_alone_and_succeeds_when_tried_again() {
    let env = TestEnv::with_stand_in(&json!({
        "script": [{"prompt_contains": "risky", "first": 1, "reply": "blocked_prompt"}]
    }));
    env.prompts("in.jsonl", &["harmless", "risky", "also harmless"]);
    let results = env.gq(&["run", "in.jsonl"]).exits(3).lines();
    assert_eq!(column(&results, "state"), ["succeeded", "failed", "succeeded"]);
    assert_eq!(results[1]["error"]["kind"], "blocked");
    assert_eq!(results[1]["response"], Value::Null);
    assert_eq!(results[1]["attempts"], json!(1));
    assert_eq!(env.gq(&["retry", "--all-failed"]).exits(0).stdout, "1\n");
    assert_eq!(env.show("t2")["state"], "pending");
    assert_eq!(env.show("t2")["attempts"], json!(0));
    let results = env.gq(&["run", "in.jsonl"]).exits(0).lines();
    assert_eq!(results[1]["response"], "This is a stand-in's answer to: risky");
    assert_eq!(results[1]["error"], Value::Null);
    assert_eq!(results[1]["attempts"], json!(1));
    assert_eq!(env.calls(), 4);
}

#[test]
fn server_errors_are_tried_again_and_counted() {
    let env = TestEnv::with_stand_in(&json!({
        "script": [{"per_prompt": true, "first": 1, "reply": "internal"}]
    }));
    env.prompts("in.jsonl", &["one", "two", "three"]);
    let results = env.gq(&["run", "in.jsonl"]).exits(0).lines();
    assert_eq!(column(&results, "attempts"), ["2", "2", "2"]);
    assert_eq!(env.calls(), 6);
}

#[test]
fn a_job_fails_when_its_attempts_are_used_up() {
    let env = TestEnv::with_stand_in(&json!({
        "script": [{"prompt_contains": "bad", "reply": "internal"}]
    }));
    env.prompts("in.jsonl", &["bad", "good"]);
    let results = env.gq(&["run", "in.jsonl", "--max-attempts", "2"]).exits(3).lines();
    assert_eq!(column(&results, "attempts"), ["2", "1"]);
    assert_eq!(results[0]["error"]["kind"], "server_error");
    assert_eq!(results[0]["error"]["http_status"], json!(500));
    assert_eq!(env.calls_about("bad"), 2);
}

#[test]
fn keys_that_fail_or_rest_fail_no_job() {
    let mut env = TestEnv::new();
    env.stand_in(&json!({
        "latency_ms": 15,
        "minute_ms": 45_000,
        "keys": {
            "secret-invalid": {"status": "invalid"},
            "secret-day": {"quota": {"rpd": 1}},
            "secret-minute": {"quota": {"rpm": 2}},
            "secret-good": {}
        }
    }));
    for (name, secret) in [
        ("GEMINI_API_KEY_1", "secret-invalid"),
        ("GEMINI_API_KEY_2", "secret-day"),
        ("GEMINI_API_KEY_3", "secret-minute"),
        ("GEMINI_API_KEY_4", "secret-good"),
    ] {
        env.set(name, secret);
    }
    env.prompts("in.jsonl", &numbered(40));
    let before = Utc::now();
    let results = env.gq(&["run", "in.jsonl"]).exits(0).lines();
    assert_eq!(results.len(), 40);
    assert!(results.iter().all(|result| result["state"] == "succeeded"));
    assert!(column(&results, "attempts").iter().all(|attempts| attempts == "1"));

    let keys = &env.status()["key_status"];
    assert_eq!(keys["GEMINI_API_KEY_1"]["status"], "failed_init");
    assert_eq!(keys["GEMINI_API_KEY_1"]["available_at"], Value::Null);
    assert!(keys["GEMINI_API_KEY_1"]["reason"].is_string());
    let day = &keys["GEMINI_API_KEY_2"];
    assert_eq!(day["status"], "fully_exhausted");
    assert_eq!(day["total_exhausted_count"], json!(1));
    assert_eq!(day["models"]["gemini-flash-latest"]["status"], "fully_exhausted");
    let until = DateTime::parse_from_rfc3339(day["available_at"].as_str().unwrap()).unwrap();
    // The answer may have come just before or just after a midnight.
    let fits = [before, Utc::now()].into_iter().any(|now| {
        let late = until.signed_duration_since(next_pacific_midnight(now)).num_milliseconds();
        (0..=61_000).contains(&late)
    });
    assert!(fits, "{until}");
    assert_eq!(keys["GEMINI_API_KEY_3"]["status"], "temporarily_exhausted");
    assert_eq!(keys["GEMINI_API_KEY_3"]["exhausted_count"], json!(1));
    assert!(keys["GEMINI_API_KEY_3"]["available_at"].is_string());
    assert_eq!(keys["GEMINI_API_KEY_4"]["status"], "available");
    assert_eq!(keys["GEMINI_API_KEY_4"]["exhausted_count"], json!(0));

    let [invalid, day] = ["secret-invalid", "secret-day"].map(|secret| env.calls_with(secret));
    env.prompts("more.jsonl", &numbered(6));
    let results = env.gq(&["run", "more.jsonl"]).exits(0).lines();
    assert_eq!(column(&results, "key"), ["GEMINI_API_KEY_4"; 6]);
    assert_eq!(env.calls_with("secret-invalid"), invalid);
    assert_eq!(env.calls_with("secret-day"), day);
}

fn next_pacific_midnight(now: DateTime<Utc>) -> DateTime<Utc> {
    let day = now.with_timezone(&Los_Angeles).date_naive() + Days::new(1);
    Los_Angeles.from_local_datetime(&day.and_time(NaiveTime::MIN)).unwrap().to_utc()
}

#[test]
fn work_goes_on_when_the_minute_of_a_key_is_over() {
    let env = TestEnv::with_stand_in(&json!({"minute_ms": 1000, "quota": {"rpm": 2}}));
    env.prompts("in.jsonl", &numbered(3));
    let results = env.gq(&["run", "in.jsonl"]).exits(0).lines();
    assert_eq!(column(&results, "state"), ["succeeded"; 3]);
    assert_eq!(column(&results, "attempts"), ["1"; 3]);
    assert!(env.calls() > 3, "{} calls", env.calls());
}

#[test]
fn a_worker_told_so_exits_when_all_keys_rest() {
    let env = TestEnv::with_stand_in(&json!({"quota": {"rpd": 2}}));
    env.prompts("in.jsonl", &numbered(4));
    env.gq(&["run", "in.jsonl", "--on-exhausted", "exit", "--workers", "1"]).exits(75);
    let status = env.status();
    assert_eq!(status["jobs"]["succeeded"], json!(2));
    assert_eq!(status["queue_size"], json!(2));
    assert_eq!(env.calls(), 3);
    env.gq(&["run", "in.jsonl", "--on-exhausted", "exit"]).exits(75);
    assert_eq!(env.calls(), 3);
}

#[test]
fn without_a_key_nothing_starts() {
    let mut env = TestEnv::new();
    env.stand_in(&json!({}));
    env.prompts("in.jsonl", &["one", "two"]);
    let ran = env.gq(&["run", "in.jsonl"]).exits(6);
    assert!(ran.stderr.contains("GEMINI_API_KEY"), "{}", ran.stderr);
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    env.gq(&["work", "--drain"]).exits(6);
    assert_eq!(env.status()["queue_size"], json!(2));
    assert_eq!(env.calls(), 0);
}

#[test]
fn with_invalid_keys_only_work_ends_and_the_jobs_stay() {
    let mut env = TestEnv::with_stand_in(&json!({"strict_keys": true}));
    env.set("GEMINI_API_KEY_2", "secret-two");
    env.prompts("in.jsonl", &numbered(3));
    env.gq(&["run", "in.jsonl"]).exits(6);
    let status = env.status();
    assert_eq!(status["jobs"]["pending"], json!(3));
    for name in ["GEMINI_API_KEY", "GEMINI_API_KEY_2"] {
        assert_eq!(status["key_status"][name]["status"], "failed_init");
    }
    let calls = env.calls();
    env.gq(&["work", "--drain"]).exits(6);
    assert_eq!(env.calls(), calls);
}

#[test]
fn a_budget_of_calls_is_never_passed() {
    let env = TestEnv::with_stand_in(&json!({"latency_ms": 20}));
    env.prompts("in.jsonl", &numbered(6));
    env.gq(&["run", "in.jsonl", "--max-requests", "3"]).exits(7);
    assert_eq!(env.calls(), 3);
    assert_eq!(env.status()["jobs"]["succeeded"], json!(3));
    assert_eq!(env.status()["jobs"]["pending"], json!(3));
    env.gq(&["run", "in.jsonl", "--max-requests", "3"]).exits(7);
    assert_eq!(env.calls(), 3);
    env.gq(&["run", "in.jsonl", "--max-requests", "6"]).exits(0);
    assert_eq!(env.calls(), 6);
}

#[test]
fn an_answer_that_is_no_utf8_is_no_answer() {
    let env = TestEnv::with_stand_in(&json!({"script": [
        {"prompt_contains": "broken", "reply": "not_utf8"}
    ]}));
    env.prompts("in.jsonl", &["broken", "usual"]);
    env.gq(&["run", "in.jsonl", "--max-attempts", "1"]).exits(3);
    let results = env.results();
    assert_eq!(column(&results, "state"), ["failed", "succeeded"]);
    assert_eq!(results[0]["error"]["kind"], "malformed_response");
}
