//! The example files, and the order of parts that each way of bringing media comes to.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gq::mock::RecordedPart;
use serde_json::{Value, json};

use crate::support::{TestEnv, column, hash};

const README: &str = include_str!("../../README.md");

/// Content of different kinds; no two are the same.
const TALK: &[u8] = b"RIFF\x24\0\0\0WAVEfmt one";
const REPLY: &[u8] = b"ID3\x03\0\0 two";
const CLIP: &[u8] = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom three";
const PHOTO: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR four";
const SCAN: &[u8] = b"\xff\xd8\xff\xe0\0\x10JFIF five";
const PAPER: &[u8] = b"%PDF-1.7\nsix";

/// What must be known of a part.
#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(String),
    /// Type, hash and `videoMetadata` (null without one).
    Data(String, String, Value),
    /// Type, address and `videoMetadata` (null without one).
    Address(Option<String>, String, Value),
}

fn text(text: &str) -> Part {
    Part::Text(text.to_owned())
}

fn data(mime_type: &str, content: &[u8]) -> Part {
    segment(mime_type, content, Value::Null)
}

fn segment(mime_type: &str, content: &[u8], metadata: Value) -> Part {
    Part::Data(mime_type.to_owned(), hash(content), metadata)
}

fn seen(part: &RecordedPart) -> Part {
    let part = part.clone();
    let metadata = part.video_metadata.unwrap_or_default();
    match part.kind {
        "text" => Part::Text(part.text.unwrap()),
        "inlineData" => Part::Data(part.mime_type.unwrap(), part.sha256.unwrap(), metadata),
        "fileData" => Part::Address(part.mime_type, part.file_uri.unwrap(), metadata),
        other => panic!("a part of kind `{other}`"),
    }
}

/// Returns the parts of each call, in the order of the calls.
fn sent(env: &TestEnv) -> Vec<Vec<Part>> {
    env.mock().requests().iter().map(|call| call.parts.iter().map(seen).collect()).collect()
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

fn example_media(name: &str) -> Vec<u8> {
    fs::read(examples().join("media").join(name)).unwrap()
}

/// Runs an example file to its end, one call after the other; returns its results.
fn run_example(env: &TestEnv, name: &str, more: &[&str]) -> Vec<Value> {
    let file = examples().join(name);
    let args = [&["run", file.to_str().unwrap(), "--workers", "1"], more].concat();
    let results = env.gq(&args).exits(0).lines();
    assert!(!results.is_empty());
    assert!(results.iter().all(|result| result["state"] == "succeeded"), "{results:?}");
    results
}

/// Sends one line, with the media beside it; returns the parts of its call.
fn parts_of(line: &Value) -> Vec<Part> {
    let env = TestEnv::with_stand_in(&json!({}));
    fs::create_dir(env.path("in")).unwrap();
    let media = [
        ("talk.wav", TALK),
        ("reply.mp3", REPLY),
        ("clip.mp4", CLIP),
        ("photo.png", PHOTO),
        ("scan.jpg", SCAN),
        ("paper.pdf", PAPER),
    ];
    for (name, content) in media {
        env.write(&format!("in/{name}"), content);
    }
    env.write("in/line.jsonl", line.to_string());
    let results = env.gq(&["run", "in/line.jsonl"]).exits(0).lines();
    assert_eq!(column(&results, "state"), ["succeeded"]);
    let mut calls = sent(&env);
    assert_eq!(calls.len(), 1);
    calls.remove(0)
}

/// Returns whether `text` is what `shown` says, where `…` stands for anything.
fn is_short_for(shown: &str, text: &str) -> bool {
    let (begin, end) = shown.rsplit_once('…').unwrap_or((shown, ""));
    let Some(mut rest) = text.strip_suffix(end) else { return false };
    for (index, piece) in begin.split('…').enumerate() {
        match rest.find(piece) {
            Some(place) if index > 0 || place == 0 => rest = &rest[place + piece.len()..],
            _ => return false,
        }
    }
    shown.contains('…') || rest.is_empty()
}

#[test]
fn the_examples_of_the_readme_print_what_it_shows() {
    let section = README.split("\n## ").find(|part| part.starts_with("Examples\n")).unwrap();
    let env = TestEnv::new();
    std::os::unix::fs::symlink(examples(), env.path("examples")).unwrap();
    let mut commands = 0;
    let mut lines = section.lines().map(|line| line.strip_prefix("    ").unwrap_or_default());
    while let Some(line) = lines.next() {
        let Some(command) = line.strip_prefix("gq ") else { continue };
        commands += 1;
        let ran = env.gq(&command.split(' ').collect::<Vec<_>>()).exits(0);
        let shown: Vec<&str> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
        assert_eq!(shown.len(), ran.stdout.lines().count(), "{command}");
        for (shown, printed) in shown.into_iter().zip(ran.stdout.lines()) {
            assert!(is_short_for(shown, printed), "{command}\n{shown}\n{printed}");
        }
    }
    assert_eq!(commands, 4);
}

#[test]
fn the_readme_has_every_line_of_the_example_files() {
    let paths = fs::read_dir(examples()).unwrap().map(|entry| entry.unwrap().path());
    let inputs = paths.filter(|path| path.extension().is_some_and(|ending| ending == "jsonl"));
    let mut names: Vec<String> =
        inputs.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    assert_eq!(names, ["audio", "capitals", "several_files", "structured", "video_segment"]);
    for name in names {
        assert!(README.contains(&format!("run examples/{name}.jsonl ")), "no command for {name}");
        // The quick start tells what is in that one.
        if name == "capitals" {
            continue;
        }
        for line in fs::read_to_string(examples().join(format!("{name}.jsonl"))).unwrap().lines() {
            assert!(README.contains(&format!("    {line}\n")), "{name}: {line}");
        }
    }
}

#[test]
fn the_example_of_capitals_is_text_alone() {
    let env = TestEnv::with_stand_in(&json!({}));
    let results = run_example(&env, "capitals.jsonl", &[]);
    let names: Vec<String> = (1..=6).map(|number| format!("task_{number}")).collect();
    assert_eq!(column(&results, "task_id"), names);
    let sent = sent(&env);
    assert_eq!(sent[0], [text("What is the capital of France?")]);
    assert!(sent.iter().all(|parts| matches!(parts[..], [Part::Text(_)])), "{sent:?}");
}

#[test]
fn the_example_of_audio_sends_it_before_the_text() {
    let env = TestEnv::with_stand_in(&json!({}));
    run_example(&env, "audio.jsonl", &[]);
    let chime = data("audio/wav", &example_media("chime.wav"));
    let question = text("How many notes do you hear, and do they rise or fall?");
    assert_eq!(sent(&env), [[chime, question]]);
}

#[test]
fn the_example_of_video_segments_sends_which_piece_is_meant() {
    let env = TestEnv::with_stand_in(&json!({}));
    run_example(&env, "video_segment.jsonl", &[]);
    let count = example_media("count.mp4");
    let piece = |metadata| segment("video/mp4", &count, metadata);
    assert_eq!(
        sent(&env),
        [
            vec![
                piece(json!({"startOffset": "1s", "endOffset": "3s", "fps": 2})),
                text("Which numbers do you see?"),
            ],
            vec![
                text("What changed from "),
                piece(json!({"endOffset": "1s"})),
                text(" to "),
                piece(json!({"startOffset": "3s"})),
                text("?"),
            ],
        ]
    );
}

#[test]
fn the_example_of_several_files_places_them_by_tokens() {
    let env = TestEnv::with_stand_in(&json!({}));
    run_example(&env, "several_files.jsonl", &[]);
    let chime = data("audio/wav", &example_media("chime.wav"));
    let count = data("video/mp4", &example_media("count.mp4"));
    let shapes = data("image/png", &example_media("shapes.png"));
    let notes = data("application/pdf", &example_media("notes.pdf"));
    assert_eq!(
        sent(&env),
        [
            vec![
                text("Look at "),
                shapes.clone(),
                text(", read "),
                notes.clone(),
                text(", then listen to "),
                chime.clone(),
                text(". Which two belong together?"),
            ],
            vec![text("Which of these does "), notes, text(" describe?"), shapes, count, chime,],
        ]
    );
}

#[test]
fn the_example_of_structured_output_gives_values_that_fit() {
    let env = TestEnv::with_stand_in(&json!({"record_bodies": true}));
    let schema = examples().join("capital.schema.json");
    let results = run_example(&env, "structured.jsonl", &["--schema", schema.to_str().unwrap()]);
    assert_eq!(column(&results, "task_id"), ["schema_of_the_run", "schema_of_its_own"]);
    assert_eq!(results[0]["parsed"], json!({"capital": "Tokyo"}));
    assert_eq!(results[1]["parsed"], "yes");
    assert_eq!(
        sent(&env),
        [[text("What is the capital of Japan?")], [text("Is the capital of Peru on the coast?")],]
    );
    let config = |index: usize| {
        let body: Value =
            serde_json::from_slice(env.mock().requests()[index].body.as_ref().unwrap()).unwrap();
        body["generationConfig"].clone()
    };
    let schema: Value = serde_json::from_slice(&fs::read(&schema).unwrap()).unwrap();
    assert_eq!(
        config(0),
        json!({"responseMimeType": "application/json", "responseJsonSchema": schema})
    );
    assert_eq!(config(1)["responseMimeType"], "text/x.enum");
    assert_eq!(config(1).get("responseJsonSchema"), None);
}

#[test]
fn audio_from_a_path_precedes_the_text() {
    let parts = parts_of(&json!({"prompt": "Transcribe this audio.", "audio_path": "talk.wav"}));
    assert_eq!(parts, [data("audio/wav", TALK), text("Transcribe this audio.")]);
}

#[test]
fn video_from_bytes_has_the_type_of_the_line() {
    // Nothing in these bytes tells their type.
    let content = b"\0\x01\x02 no container";
    let parts = parts_of(&json!({"prompt": "Describe this clip.",
        "video_bytes": STANDARD.encode(content), "video_mime_type": "video/mp4"}));
    assert_eq!(parts, [data("video/mp4", content), text("Describe this clip.")]);
}

#[test]
fn video_by_address_is_left_to_the_api() {
    let address = "https://www.youtube.com/watch?v=9hE5-98ZeCg";
    let parts = parts_of(&json!({"prompt": "Summarise.", "video_url": address}));
    let video = Part::Address(None, address.to_owned(), Value::Null);
    assert_eq!(parts, [video, text("Summarise.")]);
}

#[test]
fn tokens_place_several_media_in_the_text() {
    let parts = parts_of(&json!({"prompt": "Compare <audio> with <audio> and then <video>.",
        "video_path": "clip.mp4", "audio_path": ["talk.wav", "reply.mp3"]}));
    assert_eq!(
        parts,
        [
            text("Compare "),
            data("audio/wav", TALK),
            text(" with "),
            data("audio/mp3", REPLY),
            text(" and then "),
            data("video/mp4", CLIP),
            text("."),
        ]
    );
}

#[test]
fn a_segment_belongs_to_its_video() {
    let parts = parts_of(&json!({"prompt": "What happens?", "video_path": "clip.mp4",
        "video_metadata": [{"start_offset": "10s", "end_offset": "20s", "fps": 2}]}));
    let wanted = json!({"startOffset": "10s", "endOffset": "20s", "fps": 2});
    assert_eq!(parts, [segment("video/mp4", CLIP, wanted), text("What happens?")]);
}

#[test]
fn segments_of_several_videos_follow_paths_then_bytes_then_addresses() {
    let address = "https://www.youtube.com/watch?v=9hE5-98ZeCg";
    let content = b"\0\0\0\x18ftypisom\0\0\0\0isom seven";
    let [first, second, third] =
        ["10s", "30s", "50s"].map(|start| json!({"start_offset": start, "fps": 2}));
    let wanted = |start: &str| json!({"startOffset": start, "fps": 2});
    let video = |metadata| Part::Address(None, address.to_owned(), metadata);

    // The fields stand in another order in the line.
    let two = parts_of(&json!({"video_url": address, "video_metadata": [first, second],
        "video_path": "clip.mp4", "prompt": "Compare."}));
    assert_eq!(
        two,
        [segment("video/mp4", CLIP, wanted("10s")), video(wanted("30s")), text("Compare.")]
    );
    let three = parts_of(&json!({"video_url": address, "video_bytes": STANDARD.encode(content),
        "video_path": "clip.mp4", "video_metadata": [first, second, third], "prompt": "Compare."}));
    assert_eq!(
        three,
        [
            segment("video/mp4", CLIP, wanted("10s")),
            segment("video/mp4", content, wanted("30s")),
            video(wanted("50s")),
            text("Compare."),
        ]
    );
}

#[test]
fn media_without_a_token_follow_the_text_where_there_is_one() {
    let parts = parts_of(&json!({"prompt": "First <image>.", "file_path": "paper.pdf",
        "audio_path": "talk.wav", "video_path": "clip.mp4", "image_path": ["photo.png", "scan.jpg"]}));
    assert_eq!(
        parts,
        [
            text("First "),
            data("image/png", PHOTO),
            text("."),
            data("image/jpeg", SCAN),
            data("video/mp4", CLIP),
            data("audio/wav", TALK),
            data("application/pdf", PAPER),
        ]
    );
}
