//! Media that are too large for a request: uploaded once, shared, and mended when they are lost.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{LIMIT, TestEnv, column, hash, wait_until};

/// A video of `size` bytes, no two blocks of which are the same.
fn video(size: usize) -> Vec<u8> {
    let head = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom";
    let numbers = (0_u32..).flat_map(u32::to_be_bytes);
    head.iter().copied().chain(numbers).take(size).collect()
}

/// A stand-in that is told `config`, two keys, and a video of 20,000 bytes.
fn env(config: &Value) -> TestEnv {
    let mut env = TestEnv::new();
    env.stand_in(config);
    env.set("GEMINI_API_KEY_1", "secret-number-one");
    env.set("GEMINI_API_KEY_2", "secret-number-two");
    env.set("GQ_INLINE_LIMIT", "10KB");
    env.write("clip.mp4", video(20_000));
    env
}

/// Adds jobs over the video, and lines of text.
fn enqueue(env: &TestEnv, batch: &str, videos: usize, texts: usize) {
    let mut lines = String::new();
    for number in 0..videos {
        let task = format!("video{number}");
        let line =
            json!({"task_id": task, "prompt": format!("film {number}"), "video_path": "clip.mp4"});
        lines += &(line.to_string() + "\n");
    }
    for number in 0..texts {
        let line = json!({"task_id": format!("text{number}"), "prompt": format!("text {number}")});
        lines += &(line.to_string() + "\n");
    }
    env.write("in.jsonl", lines);
    env.gq(&["enqueue", "in.jsonl", "--batch", batch]).exits(0);
}

fn uploads(env: &TestEnv) -> u64 {
    env.mock().stats().uploads
}

/// Checks that each answer to a video was asked with the whole of it.
fn all_asked_with(env: &TestEnv, content: &[u8]) {
    let calls = env.mock().requests();
    let files: Vec<_> = calls
        .iter()
        .flat_map(|call| call.parts.iter())
        .filter(|part| part.kind == "fileData")
        .collect();
    assert!(!files.is_empty());
    for part in files {
        assert_eq!(part.mime_type.as_deref(), Some("video/mp4"));
        assert_eq!(part.sha256.as_deref(), Some(hash(content).as_str()), "{part:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn many_jobs_over_one_large_file_upload_it_once_for_each_key() {
    let mut env = env(&json!({}));
    env.set("GQ_INLINE_LIMIT", "20MB");
    let content = video(25_000_000);
    env.write("clip.mp4", &content);
    enqueue(&env, "first", 200, 0);
    let worker = env.spawn(&["work"]);
    let done = || env.status()["jobs"]["succeeded"] == 200;
    wait_until("200 answers", LIMIT, done);
    let peak = worker.peak_memory();
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait().code, Some(0));
    assert!(peak < 80_000_000, "{peak} bytes");
    assert_eq!(uploads(&env), 2);
    all_asked_with(&env, &content);
    assert!(env.results().iter().all(|job| job["attempts"] == 1));
    for secret in ["secret-number-one", "secret-number-two"] {
        assert!(env.calls_with(secret) > 50, "{}", env.calls_with(secret));
    }

    enqueue(&env, "second", 200, 0);
    env.gq(&["work", "--drain"]).exits(0);
    assert_eq!(uploads(&env), 2);
    assert_eq!(env.status()["jobs"]["succeeded"], 400);
    env.counts_are_true();
}

#[test]
fn workers_of_several_processes_share_one_upload() {
    let env = env(&json!({"files": {"processing_ms": 300}}));
    enqueue(&env, "b", 40, 0);
    let work = || env.spawn(&["work", "--drain", "--keys", "1"]);
    let workers = [work(), work(), work()];
    for worker in workers {
        assert_eq!(worker.wait().code, Some(0));
    }
    assert_eq!((uploads(&env), env.calls()), (1, 40));
    assert_eq!(column(&env.results(), "attempts"), ["1"; 40]);
    env.counts_are_true();
}

#[test]
fn an_upload_that_was_cut_goes_on_from_where_it_was() {
    // The second chunk breaks off in the middle, the third is not answered as it should be.
    let env = env(&json!({"script": [
        {"method": "upload", "nth": 3, "fault": "cut_upload"},
        {"method": "upload", "nth": 5, "fault": "no_upload_status"},
        {"method": "upload", "nth": 6, "status": 503},
    ]}));
    let content = video(40_000_000);
    env.write("clip.mp4", &content);
    enqueue(&env, "b", 1, 1);
    env.gq(&["work", "--drain"]).exits(0);
    let stats = env.mock().stats();
    assert_eq!((stats.uploads_started, stats.uploads), (1, 1));
    assert_eq!(stats.upload_bytes, 40_000_000, "what has arrived is not sent again");
    all_asked_with(&env, &content);
    assert_eq!(column(&env.results(), "attempts"), ["1", "1"]);
}

#[test]
fn a_file_that_the_api_is_at_work_on_holds_no_place() {
    let env = env(&json!({"files": {"processing_ms": 5_000}}));
    enqueue(&env, "b", 1, 20);
    env.gq(&["work", "--drain", "--workers", "1"]).exits(0);
    let prompts: Vec<String> =
        env.mock().requests().iter().map(|call| call.prompt.to_string()).collect();
    assert_eq!((prompts.len(), prompts.last().unwrap().as_str()), (21, "film 0"));
    assert_eq!(column(&env.results(), "attempts"), ["1"; 21]);
    assert_eq!(uploads(&env), 1);
}

#[test]
fn a_key_that_rests_does_not_keep_the_jobs_whose_file_it_has() {
    let env = env(&json!({"keys": {"secret-number-one": {"quota": {"rpd": 1}}}}));
    enqueue(&env, "b", 1, 0);
    env.gq(&["work", "--drain", "--keys", "1"]).exits(0);
    enqueue(&env, "c", 3, 0);
    env.gq(&["work", "--drain", "--workers", "1"]).exits(0);
    let results = env.gq(&["results", "--batch", "c"]).exits(0).lines();
    assert_eq!(column(&results, "state"), ["succeeded"; 3]);
    assert_eq!(column(&results, "key"), ["GEMINI_API_KEY_2"; 3]);
    assert_eq!(column(&results, "attempts"), ["1"; 3]);
    assert_eq!(uploads(&env), 2);
}

#[test]
fn a_job_goes_to_the_key_that_has_its_file() {
    let env = env(&json!({}));
    enqueue(&env, "b", 1, 0);
    env.gq(&["work", "--drain", "--keys", "2"]).exits(0);
    enqueue(&env, "c", 9, 0);
    env.gq(&["work", "--drain"]).exits(0);
    assert_eq!(uploads(&env), 1);
    assert_eq!(env.calls_with("secret-number-two"), 10);
}

#[test]
fn files_that_the_api_no_longer_has_are_uploaded_again() {
    let env = env(&json!({}));
    enqueue(&env, "b", 2, 0);
    env.gq(&["work", "--drain", "--keys", "1"]).exits(0);
    env.mock().forget_files();
    enqueue(&env, "c", 5, 0);
    env.gq(&["work", "--drain", "--keys", "1"]).exits(0);
    let results = env.gq(&["results", "--batch", "c"]).exits(0).lines();
    assert_eq!(column(&results, "state"), ["succeeded"; 5]);
    assert_eq!(column(&results, "attempts"), ["1"; 5], "it is not the jobs' fault");
    assert_eq!(uploads(&env), 2);
}

#[test]
fn a_file_that_is_refused_each_time_fails_its_job_in_the_end() {
    let env = env(&json!({"script": [{"prompt_contains": "film 0", "status": 403, "body":
        {"error": {"code": 403, "status": "PERMISSION_DENIED", "message":
            "You do not have permission to access the File abc or it may not exist."}}}]}));
    enqueue(&env, "b", 2, 0);
    env.gq(&["work", "--drain", "--max-requests", "30"]).exits(3);
    let results = env.results();
    assert_eq!(column(&results, "state"), ["failed", "succeeded"]);
    assert_eq!(results[0]["error"]["kind"], "media");
    assert_eq!(results[0]["error"]["http_status"], 403);
    assert_eq!(results[0]["attempts"], 5);
    assert_eq!(env.calls_about("film 0"), 8, "the first three cost nothing");
    assert_eq!(env.status()["key_status"]["GEMINI_API_KEY_1"]["status"], "available");
}

#[test]
fn a_file_of_the_users_own_is_tried_with_other_keys() {
    let env = env(&json!({"script": [{"key": "secret-number-one", "status": 403, "body":
        {"error": {"code": 403, "status": "PERMISSION_DENIED", "message":
            "You do not have permission to access the File abc or it may not exist."}}}]}));
    let url = "https://generativelanguage.googleapis.com/v1beta/files/abc";
    let line = json!({"prompt": "x", "file_url": url, "file_mime_type": "application/pdf"});
    env.write("in.jsonl", line.to_string());
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    env.gq(&["work", "--drain", "--keys", "1-2"]).exits(3);
    // The other key's answer is that of the stand-in, which knows no such file either.
    let tried = env.show("1");
    let keys: Vec<&str> = tried["attempt_log"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["key"].as_str().unwrap())
        .collect();
    let both = ["GEMINI_API_KEY_1", "GEMINI_API_KEY_2"];
    assert_eq!(keys[..2], both, "{keys:?}");
    assert_eq!(env.status()["key_status"]["GEMINI_API_KEY_1"]["status"], "available");
}

#[test]
fn a_day_without_uploads_on_one_key_is_left_to_another() {
    let env = env(&json!({"script": [{"method": "upload", "key": "secret-number-one",
        "reply": "rate_limit_day"}]}));
    enqueue(&env, "b", 2, 0);
    env.gq(&["work", "--drain"]).exits(0);
    assert_eq!(column(&env.results(), "key"), ["GEMINI_API_KEY_2"; 2]);
    assert_eq!(column(&env.results(), "attempts"), ["1"; 2]);
}

#[test]
fn a_file_that_is_lost_while_the_api_is_at_work_on_it_is_uploaded_again() {
    let env = env(&json!({"files": {"processing_ms": 4_000}}));
    enqueue(&env, "b", 1, 0);
    let worker = env.spawn(&["work", "--drain", "--keys", "1"]);
    let waiting = || {
        let reason = &env.status()["waiting_for"]["reason"];
        env.mock().stats().file_requests >= 3 && reason == "media are on their way to the API"
    };
    wait_until("the file to be asked for", LIMIT, waiting);
    env.mock().forget_files();
    assert_eq!(worker.wait().code, Some(0));
    assert_eq!(uploads(&env), 2);
    assert_eq!(column(&env.results(), "attempts"), ["1"]);
}

#[test]
fn a_file_that_the_api_cannot_process_fails_its_jobs_and_is_tried_again_on_request() {
    let mut env = env(&json!({"files": {"processing_ms": 10, "fails": true}}));
    enqueue(&env, "b", 3, 1);
    env.gq(&["work", "--drain", "--keys", "1"]).exits(3);
    let results = env.results();
    assert_eq!(column(&results, "state"), ["failed", "failed", "failed", "succeeded"]);
    for result in &results[..3] {
        assert_eq!(result["error"]["kind"], "media");
        let message = result["error"]["message"].as_str().unwrap();
        assert!(message.starts_with("the API could not process the file: "), "{message}");
    }
    assert_eq!(uploads(&env), 1);
    env.stand_in(&json!({}));
    env.gq(&["retry", "--all-failed"]).exits(0);
    env.gq(&["work", "--drain"]).exits(0);
    assert_eq!(column(&env.results(), "state"), ["succeeded"; 4]);
}

#[test]
fn the_api_may_not_be_at_work_on_a_file_for_ever() {
    let env = env(&json!({"files": {"processing_ms": 600_000}}));
    enqueue(&env, "b", 2, 0);
    env.gq(&["work", "--drain", "--keys", "1", "--request-timeout", "1s"]).exits(3);
    let results = env.results();
    assert_eq!(results[1]["error"]["kind"], "media");
    assert_eq!(results[1]["error"]["message"], "the API was not done with the file after 1 s");
}

#[test]
fn a_death_in_an_upload_costs_the_job_nothing() {
    let env = env(&json!({"script": [{"method": "upload", "first": 4, "hold": true}]}));
    enqueue(&env, "b", 1, 0);
    for number in 1..=4 {
        let worker = env.spawn(&["work", "--drain", "--on-unknown", "fail"]);
        let begun = || {
            let stats = env.mock().stats();
            stats.held == 1 && stats.file_requests == number
        };
        wait_until("an upload", LIMIT, begun);
        worker.kill();
    }
    env.gq(&["work", "--drain", "--on-unknown", "fail"]).exits(0);
    let job = env.show("video0");
    assert_eq!(job["attempt_log"].as_array().unwrap().len(), 1);
    assert_eq!(uploads(&env), 1);
    assert_eq!(env.count("SELECT count(*) FROM waits"), 0);
}

#[test]
fn an_upload_that_the_api_is_at_work_on_survives_a_death() {
    let env = env(&json!({"files": {"processing_ms": 3_000}}));
    enqueue(&env, "b", 1, 0);
    let worker = env.spawn(&["work", "--keys", "1"]);
    let processing = || {
        let listed = env.gq(&["media", "--format", "json"]).exits(0).json();
        listed[0]["state"] == "processing"
    };
    wait_until("an uploaded file", LIMIT, processing);
    worker.kill();
    env.gq(&["work", "--drain"]).exits(0);
    assert_eq!(uploads(&env), 1);
    assert_eq!(column(&env.results(), "key"), ["GEMINI_API_KEY_1"]);
}

#[test]
fn a_stop_cuts_an_upload_when_the_grace_is_over() {
    let env = env(&json!({"script": [{"method": "upload", "nth": 2, "hold": true}]}));
    enqueue(&env, "b", 2, 0);
    let worker = env.spawn(&["work", "--keys", "1", "--grace", "100ms"]);
    wait_until("an upload", LIMIT, || env.mock().stats().held == 1);
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait().code, Some(0));
    assert_eq!(env.count("SELECT count(*) FROM uploads"), 0);
    assert_eq!(env.count("SELECT count(*) FROM workers"), 0);
    env.gq(&["work", "--drain"]).exits(0);
    assert_eq!(column(&env.results(), "attempts"), ["1", "1"]);
}

#[test]
fn bytes_of_a_line_and_equal_files_are_one_upload() {
    let env = env(&json!({}));
    let content = video(20_000);
    fs::create_dir_all(env.path("a folder/\u{e9}")).unwrap();
    env.write("a folder/\u{e9}/other name.mp4", &content);
    let lines = [
        json!({"video_bytes": STANDARD.encode(&content)}),
        json!({"video_bytes": STANDARD_NO_PAD.encode(&content)}),
        json!({"video_path": "a folder/../a folder/\u{e9}/other name.mp4"}),
        json!({"video_path": env.path("clip.mp4")}),
    ];
    env.write("in.jsonl", lines.map(|line| line.to_string() + "\n").concat());
    env.gq(&["run", "in.jsonl", "--keys", "1"]).exits(0);
    assert_eq!((uploads(&env), env.calls()), (1, 4));
    all_asked_with(&env, &content);
}

#[test]
fn a_large_file_that_changed_or_went_fails_its_job_alone() {
    let env = env(&json!({}));
    for name in ["gone.mp4", "other.mp4"] {
        env.write(name, video(20_001));
    }
    let line = |name: &str| json!({"task_id": name, "video_path": name}).to_string() + "\n";
    env.write("in.jsonl", ["gone.mp4", "other.mp4", "clip.mp4"].map(line).concat());
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    fs::remove_file(env.path("gone.mp4")).unwrap();
    env.write("other.mp4", video(20_002));
    env.gq(&["work", "--drain"]).exits(3);
    let results = env.results();
    assert_eq!(column(&results, "state"), ["failed", "failed", "succeeded"]);
    for (result, told) in results.iter().zip(["gone.mp4` is gone", "other.mp4` was changed"]) {
        assert_eq!(result["error"]["kind"], "media");
        let message = result["error"]["message"].as_str().unwrap();
        assert!(message.contains(told), "{message}");
    }
    assert_eq!((uploads(&env), env.calls()), (1, 1));
}

#[test]
fn a_key_that_is_refused_leaves_its_uploads_to_others() {
    let env = env(&json!({"keys": {"secret-number-one": {"status": "leaked"}}}));
    enqueue(&env, "b", 2, 0);
    env.gq(&["work", "--drain"]).exits(0);
    assert_eq!(column(&env.results(), "key"), ["GEMINI_API_KEY_2"; 2]);
    assert_eq!(env.status()["key_status"]["GEMINI_API_KEY_1"]["status"], "failed_init");
}

#[test]
fn a_network_that_is_gone_fails_uploads_as_it_fails_calls() {
    let env = env(&json!({"script": [{"method": "upload", "fault": "reset_before"}]}));
    let line = json!({"task_id": "a", "video_path": "clip.mp4", "max_attempts": 1});
    env.write("in.jsonl", line.to_string());
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    env.gq(&["work", "--drain", "--keys", "1"]).exits(3);
    let job = env.show("a");
    assert_eq!(job["error"]["kind"], "network");
    assert_eq!(job["attempt_log"][0]["paid"], "no");
    let message = job["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("the upload failed: "), "{message}");
}

#[test]
fn uploads_are_listed_and_removed() {
    let env = env(&json!({}));
    enqueue(&env, "b", 2, 0);
    assert_eq!(env.gq(&["media", "--format", "json"]).exits(0).json(), json!([]));
    env.gq(&["work", "--drain", "--keys", "2"]).exits(0);
    let listed = env.gq(&["media", "--format", "json"]).exits(0).json();
    let upload = &listed[0];
    assert_eq!((listed.as_array().unwrap().len(), &upload["state"]), (1, &json!("ready")));
    assert_eq!((&upload["key"], &upload["bytes"]), (&json!("GEMINI_API_KEY_2"), &json!(20_000)));
    assert!(upload["path"].as_str().unwrap().ends_with("/clip.mp4"));
    let table = env.gq(&["media"]).exits(0).stdout;
    assert!(
        table.starts_with("NAME") && table.contains(upload["name"].as_str().unwrap()),
        "{table}"
    );

    let kept = env.gq(&["media", "--delete", "--keys", "1"]).exits(0);
    assert_eq!((kept.stdout.as_str(), env.mock().stats().files), ("0\n", 1));
    assert!(kept.stderr.contains("left at the API: 1;"), "{}", kept.stderr);
    assert_eq!(env.gq(&["media", "--delete"]).exits(0).stdout, "1\n");
    assert_eq!(env.mock().stats().files, 0);
    assert_eq!(env.gq(&["media", "--format", "json"]).exits(0).json(), json!([]));
    assert_eq!(env.gq(&["media", "--delete"]).exits(0).stdout, "0\n");
}

#[test]
fn a_file_that_is_gone_already_counts_as_removed() {
    let env = env(&json!({}));
    enqueue(&env, "b", 1, 0);
    env.gq(&["work", "--drain", "--keys", "1"]).exits(0);
    env.mock().forget_files();
    assert_eq!(env.gq(&["media", "--delete"]).exits(0).stdout, "1\n");
    assert_eq!(env.gq(&["media", "--format", "json"]).exits(0).json(), json!([]));
}

#[test]
fn no_log_names_the_place_of_an_upload() {
    let env = env(&json!({"script": [
        {"method": "upload", "nth": 2, "status": 400, "body": {"error": {"code": 400,
            "message": "no"}}},
        {"method": "upload", "nth": 3, "fault": "reset_before"},
    ]}));
    enqueue(&env, "b", 1, 0);
    let ran = env.gq(&["work", "--drain", "-vvv"]).exits(0);
    assert!(ran.stderr.contains("uploading media"), "{}", ran.stderr);
    for secret in ["upload_id", "secret-number"] {
        assert!(!ran.stderr.contains(secret), "{}", ran.stderr);
    }
    let database = fs::read(env.path("gq.db")).unwrap();
    let text = String::from_utf8_lossy(&database);
    assert!(!text.contains("upload_id"));
}
