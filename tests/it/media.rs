//! Media of prompts: from the fields of a line to the parts of a request.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::{TestEnv, column, hash};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
const WAV: &[u8] = b"RIFF\x24\0\0\0WAVEfmt sound";
const MP4: &[u8] = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom";

fn with_media() -> TestEnv {
    let env = TestEnv::with_stand_in(&json!({}));
    fs::create_dir(env.path("in")).unwrap();
    env.write("in/photo.png", PNG);
    env.write("in/talk.wav", WAV);
    env.write("clip \u{e9}.mp4", MP4);
    env
}

fn lines(env: &TestEnv, lines: &[Value]) {
    let text: String = lines.iter().map(|line| line.to_string() + "\n").collect();
    env.write("in/prompts.jsonl", text);
}

/// Returns the parts of each call in short, in the order of the calls.
fn sent(env: &TestEnv) -> Vec<Vec<String>> {
    let word = |part: &gq::mock::RecordedPart| {
        let what = part.text.clone().or_else(|| part.file_uri.clone()).or(part.mime_type.clone());
        let metadata = part.video_metadata.as_ref().map_or(String::new(), |it| format!(" {it}"));
        format!("{} {}{metadata}", part.kind, what.unwrap_or_default())
    };
    env.mock().requests().iter().map(|call| call.parts.iter().map(word).collect()).collect()
}

#[test]
fn files_and_bytes_and_addresses_go_out_in_their_order() {
    let env = with_media();
    lines(
        &env,
        &[
            json!({"prompt": "See <image>, hear <audio>.", "audio_path": "talk.wav",
                   "image_path": ["photo.png"], "image_bytes": STANDARD.encode(PNG),
                   "video_path": "../clip \u{e9}.mp4",
                   "video_metadata": [{"start_offset": "1s", "fps": 2}]}),
            json!({"prompt": "What is it?", "file_url": "https://example.org/a.pdf",
                   "audio_path": "talk.wav", "video_url": "https://www.youtube.com/watch?v=x"}),
        ],
    );
    env.gq(&["enqueue", "in/prompts.jsonl"]).exits(0);
    env.gq(&["work", "--drain", "--workers", "1"]).exits(0);
    assert_eq!(
        sent(&env),
        [
            vec![
                "text See ",
                "inlineData image/png",
                "text , hear ",
                "inlineData audio/wav",
                "text .",
                "inlineData image/png",
                "inlineData video/mp4 {\"fps\":2,\"startOffset\":\"1s\"}",
            ],
            vec![
                "fileData https://www.youtube.com/watch?v=x",
                "inlineData audio/wav",
                "fileData https://example.org/a.pdf",
                "text What is it?",
            ],
        ]
    );
    let calls = env.mock().requests();
    let hashes: Vec<&str> =
        calls[0].parts.iter().filter_map(|part| part.sha256.as_deref()).collect();
    for bytes in [PNG, WAV, MP4] {
        assert!(hashes.contains(&hash(bytes).as_str()));
    }
    assert_eq!(column(&env.results(), "state"), ["succeeded", "succeeded"]);
}

#[test]
fn bytes_are_kept_once_and_go_with_their_last_job() {
    let env = with_media();
    let bytes = STANDARD.encode(WAV);
    let line = |task: &str| json!({"task_id": task, "audio_bytes": bytes});
    lines(&env, &[line("a"), line("b")]);
    env.gq(&["enqueue", "in/prompts.jsonl"]).exits(0);
    assert_eq!(env.count("SELECT count(*) FROM blobs"), 1);
    assert_eq!(env.count("SELECT count(*) FROM media"), 2);
    lines(&env, &[json!({"task_id": "b", "prompt": "text"})]);
    env.gq(&["enqueue", "in/prompts.jsonl", "--on-conflict", "replace"]).exits(0);
    assert_eq!(env.count("SELECT count(*) FROM media"), 1);
    env.gq(&["work", "--drain"]).exits(0);
    assert_eq!(sent(&env).concat().len(), 2);
    env.gq(&["prune", "--older-than", "0s"]).exits(0);
    assert_eq!(env.count("SELECT count(*) FROM blobs"), 0);
    assert_eq!(env.count("SELECT count(*) FROM media"), 0);
}

#[test]
fn media_that_cannot_be_sent_are_refused_by_line() {
    let env = with_media();
    fs::create_dir(env.path("in/folder.mp3")).unwrap();
    env.write("in/empty.mp3", "");
    let huge = fs::File::create(env.path("in/huge.mp3")).unwrap();
    huge.set_len(2_147_483_649).unwrap();
    let good = json!({"prompt": "fine"});
    lines(
        &env,
        &[
            good,
            json!({"audio_path": "none.mp3"}),
            json!({"audio_path": "folder.mp3"}),
            json!({"audio_path": "empty.mp3"}),
            json!({"audio_path": "/dev/null"}),
            json!({"audio_path": "huge.mp3"}),
        ],
    );
    let refused = env.gq(&["enqueue", "in/prompts.jsonl"]).exits(2);
    for told in [
        "line 2: `audio_path`: there is no file `none.mp3`",
        "line 3: `audio_path`: `folder.mp3` is not a file",
        "line 4: `audio_path`: `empty.mp3` is empty",
        "line 5: `audio_path`: `/dev/null` is not a file",
        "line 6: `audio_path`: `huge.mp3` is larger than 2 GB",
    ] {
        assert!(refused.stderr.contains(told), "{told}: {}", refused.stderr);
    }
    assert!(!env.path("gq.db").exists());
}

#[test]
fn a_file_that_changed_or_went_fails_its_job_alone() {
    let env = with_media();
    let names = ["gone.mp3", "other.mp3", "pipe.mp3", "same.mp3"];
    for name in names {
        env.write(&format!("in/{name}"), "ID3 sound");
    }
    lines(&env, &names.map(|name| json!({"task_id": name, "audio_path": name})));
    env.gq(&["enqueue", "in/prompts.jsonl"]).exits(0);
    fs::remove_file(env.path("in/gone.mp3")).unwrap();
    env.write("in/other.mp3", "ID3 noise");
    fs::remove_file(env.path("in/pipe.mp3")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        env.path("in/pipe.mp3"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    env.gq(&["work", "--drain"]).exits(3);
    let results = env.results();
    assert_eq!(column(&results, "state"), ["failed", "failed", "failed", "succeeded"]);
    for (result, told) in results.iter().zip(["is gone", "was changed", "is not a file any more"]) {
        assert_eq!(result["error"]["kind"], "media");
        let message = result["error"]["message"].as_str().unwrap();
        assert!(message.contains(told) && message.contains("in/"), "{message}");
    }
    assert_eq!(env.calls(), 1);
    assert_eq!(env.show("gone.mp3")["attempt_log"][0]["paid"], "no");
}

#[test]
fn a_retry_takes_the_file_as_it_is_now() {
    let env = with_media();
    for name in ["a.mp3", "b.mp3"] {
        env.write(&format!("in/{name}"), "ID3 sound");
    }
    let line = |name: &str| json!({"task_id": name, "audio_path": name});
    let other = json!({"task_id": "c", "audio_path": "a.mp3"});
    lines(&env, &[line("a.mp3"), line("b.mp3"), other]);
    env.gq(&["enqueue", "in/prompts.jsonl"]).exits(0);
    env.write("in/a.mp3", "ID3 better sound");
    env.write("in/b.mp3", "ID3 other sound");
    env.gq(&["work", "--drain"]).exits(3);
    env.gq(&["retry", "--task-id", "a.mp3"]).exits(0);
    env.gq(&["work", "--drain"]).exits(3);
    assert_eq!(column(&env.results(), "state"), ["succeeded", "failed", "failed"]);
    let stamps = "SELECT count(DISTINCT size) FROM media WHERE path LIKE '%a.mp3'";
    assert_eq!(env.count(stamps), 2, "the job that is not retried keeps its file");
    let calls = env.mock().requests();
    let sent: Vec<_> = calls.iter().map(|call| call.parts[0].sha256.clone().unwrap()).collect();
    assert_eq!(sent, [hash(b"ID3 better sound")]);
}

#[test]
fn a_vacuum_gives_the_room_of_removed_bytes_back() {
    let env = with_media();
    let large = [WAV, &vec![7; 3_000_000]].concat();
    lines(&env, &[json!({"audio_bytes": STANDARD.encode(large)})]);
    env.gq(&["run", "in/prompts.jsonl"]).exits(0);
    let size = || fs::metadata(env.path("gq.db")).unwrap().len();
    env.gq(&["prune", "--older-than", "0s"]).exits(0);
    assert!(size() > 3_000_000);
    env.gq(&["prune", "--older-than", "0s", "--vacuum"]).exits(0);
    assert!(size() < 1_000_000, "{}", size());
}
