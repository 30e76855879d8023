//! Images and clips that the model returns.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::{TestEnv, column};

/// A stand-in that answers with a picture, a sound, text with both, or text alone.
fn stand_in() -> TestEnv {
    let data = |mime_type: &str, bytes: &[u8]| json!({"inlineData": {"mimeType": mime_type, "data": STANDARD.encode(bytes)}});
    let parts = json!([{"text": "Here: "}, data("image/jpeg", b"first"), {"text": "and"},
        data("application/x-odd", b"second")]);
    let broken = json!([{"inlineData": {"mimeType": "image/png", "data": "*"}},
        data("image/png", b"whole")]);
    let body = |parts: &Value| json!({"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]});
    TestEnv::with_stand_in(&json!({"script": [
        {"prompt_contains": "draw", "reply": "image"},
        {"prompt_contains": "play", "reply": "audio"},
        {"prompt_contains": "both", "body": body(&parts)},
        {"prompt_contains": "broken", "body": body(&broken)},
    ]}))
}

fn files(env: &TestEnv, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(env.path(folder)).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Returns the path of the first image or clip of a result.
fn first_path(env: &TestEnv, result: &Value) -> PathBuf {
    env.path(result["media"][0]["path"].as_str().unwrap())
}

#[test]
fn an_answer_of_nothing_but_media_is_a_success_and_listed_with_its_size() {
    let env = stand_in();
    env.prompts("in.jsonl", &["draw", "play", "both", "usual"]);
    let lines = env.gq(&["run", "in.jsonl", "--full"]).exits(0).lines();
    assert_eq!(column(&lines, "state"), ["succeeded"; 4]);
    assert_eq!(column(&lines[..3], "response"), ["null", "null", "Here: and"]);
    for (line, mime_type) in lines.iter().zip(["image/png", "audio/wav"]) {
        let sent = &line["raw"]["candidates"][0]["content"]["parts"][0]["inlineData"]["data"];
        let size = STANDARD.decode(sent.as_str().unwrap()).unwrap().len();
        assert_eq!(line["media"], json!([{"mime_type": mime_type, "path": null, "bytes": size}]));
    }
    assert_eq!(lines[2]["media"].as_array().unwrap().len(), 2);
    assert_eq!(lines[3].get("media"), None);
    assert_eq!(env.show("t1")["media"], lines[0]["media"]);

    let table = env.gq(&["results", "--format", "csv"]).exits(0).stdout;
    let mut reader = csv::Reader::from_reader(table.as_bytes());
    let place = reader.headers().unwrap().iter().position(|name| name == "media").unwrap();
    let cells: Vec<String> = reader.records().map(|row| row.unwrap()[place].to_owned()).collect();
    assert_eq!(serde_json::from_str::<Value>(&cells[0]).unwrap(), lines[0]["media"]);
    assert_eq!(cells[3], "");
    let text = env.gq(&["results", "--task-id", "t3", "--format", "text"]).exits(0).stdout;
    assert_eq!(text, "Here: and\n[image/jpeg, 5 bytes]\n[application/x-odd, 6 bytes]\n");
}

#[test]
fn media_is_written_to_files_named_by_batch_task_and_index() {
    let env = stand_in();
    env.prompts("in.jsonl", &["draw", "both", "usual", "draw another"]);
    let run = ["run", "in.jsonl", "--media-dir", "new/media", "-o", "out.jsonl"];
    env.gq(&run).exits(0);
    let names = ["in+t1-0.png", "in+t2-0.jpg", "in+t2-1.bin", "in+t4-0.png"];
    assert_eq!(files(&env, "new/media"), names);
    let whole = fs::read_to_string(env.path("out.jsonl")).unwrap();
    let lines: Vec<Value> = whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        lines[1]["media"],
        json!([{"mime_type": "image/jpeg", "path": "new/media/in+t2-0.jpg", "bytes": 5},
            {"mime_type": "application/x-odd", "path": "new/media/in+t2-1.bin", "bytes": 6}])
    );
    assert_eq!(fs::read(env.path("new/media/in+t2-1.bin")).unwrap(), b"second");
    let picture = fs::read(first_path(&env, &lines[0])).unwrap();
    assert!(picture.starts_with(b"\x89PNG"));
    assert_eq!(lines[0]["media"][0]["bytes"], json!(picture.len()));
    assert_ne!(picture, fs::read(first_path(&env, &lines[3])).unwrap());
    let mode = |name: &str| fs::metadata(env.path(name)).unwrap().permissions().mode();
    assert_eq!(mode("new/media/in+t1-0.png"), mode("out.jsonl"));

    env.write("new/media/in+t1-0.png", "spoilt");
    let args = ["results", "--media-dir", "new/media"];
    assert_eq!(env.gq(&args).exits(0).stdout, whole);
    assert_eq!(files(&env, "new/media"), names);
    assert_eq!(fs::read(env.path("new/media/in+t1-0.png")).unwrap(), picture);
    assert_eq!(env.calls(), 4);
}

#[test]
fn odd_and_equal_task_ids_get_files_of_their_own_inside_the_folder() {
    let env = stand_in();
    let long = "x".repeat(5_000);
    let ids = ["../../up", "..", "/tmp/abs", "a", "A", "a/b", "a_b", "a\nb", "日本", &long];
    let line =
        |id: &&str| json!({"task_id": id, "prompt": format!("draw {id}")}).to_string() + "\n";
    for batch in ["one", "../two"] {
        env.write("in.jsonl", ids.iter().map(line).collect::<String>());
        env.gq(&["run", "in.jsonl", "--batch", batch]).exits(0);
    }
    let lines = env.gq(&["results", "--media-dir", "media"]).exits(0).lines();
    assert_eq!(lines.len(), 2 * ids.len());
    assert_eq!(files(&env, "media").len(), lines.len());
    let inside = fs::canonicalize(env.path("media")).unwrap();
    for line in &lines {
        let file = fs::canonicalize(first_path(&env, line)).unwrap();
        assert_eq!(file.parent(), Some(inside.as_path()));
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let env = stand_in();
    env.prompts("in.jsonl", &["draw"]);
    env.gq(&["run", "in.jsonl"]).exits(0);
    env.write("taken", "a file");
    let ran = env.gq(&["results", "--media-dir", "taken"]).exits(1);
    assert!(ran.stderr.contains("cannot write `taken`"), "{}", ran.stderr);
    fs::create_dir_all(env.path("media/in+t1-0.png")).unwrap();
    let ran = env.gq(&["results", "--media-dir", "media"]).exits(1);
    assert!(ran.stderr.contains("cannot write `media/in+t1-0.png`"), "{}", ran.stderr);
    assert_eq!(files(&env, "media"), ["in+t1-0.png"]);
}

#[test]
fn a_file_that_finds_no_room_is_not_there() {
    let large = STANDARD.encode(vec![7; 300_000]);
    let parts = json!([{"inlineData": {"mimeType": "image/png", "data": large}}]);
    let env = TestEnv::with_stand_in(&json!({"script": [
        {"body": {"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]}}]}));
    env.prompts("in.jsonl", &["one"]);
    env.gq(&["run", "in.jsonl"]).exits(0);
    let ran = env.gq_within(102_400, &["results", "--media-dir", "media"]).exits(1);
    assert!(ran.stderr.contains("cannot write `media/in+t1-0.png`"), "{}", ran.stderr);
    assert_eq!(files(&env, "media"), Vec::<String>::new());
    env.gq(&["results", "--media-dir", "media"]).exits(0);
    assert_eq!(fs::read(env.path("media/in+t1-0.png")).unwrap(), vec![7; 300_000]);
}

#[test]
fn what_cannot_be_decoded_is_warned_of_and_not_written() {
    let env = stand_in();
    env.prompts("in.jsonl", &["broken"]);
    let ran = env.gq(&["run", "in.jsonl", "--media-dir", "media"]).exits(0);
    assert_eq!(
        ran.json()["media"],
        json!([{"mime_type": "image/png", "path": null, "bytes": null},
            {"mime_type": "image/png", "path": "media/in+t1-1.png", "bytes": 5}])
    );
    assert!(ran.stderr.contains("1 image or clip could not be decoded"), "{}", ran.stderr);
    assert_eq!(files(&env, "media"), ["in+t1-1.png"]);
}

#[test]
fn a_request_for_a_picture_or_speech_is_answered_by_the_stand_in_inside() {
    let env = TestEnv::new();
    let line = |id: &str, modalities: Value| {
        json!({"task_id": id, "prompt": "draw", "generation_config": {"response_modalities": modalities}})
            .to_string()
            + "\n"
    };
    let lines = [
        line("picture", json!(["IMAGE"])),
        line("told", json!(["TEXT", "IMAGE"])),
        line("said", json!(["AUDIO"])),
    ];
    env.write("in.jsonl", lines.concat());
    let lines = env.gq(&["run", "in.jsonl", "--mock", "--media-dir", "media"]).exits(0).lines();
    assert_eq!(files(&env, "media"), ["in+picture-0.png", "in+said-0.pcm", "in+told-0.png"]);
    assert_eq!(lines[0]["response"], Value::Null);
    assert_eq!(lines[1]["response"], "This is a stand-in's answer to: draw");
}
