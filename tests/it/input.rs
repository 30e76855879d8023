//! Input that is odd or broken: what is taken stays exactly as it was, what is refused is named, with
//! its line, and stores nothing.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::support::{LIMIT, TestEnv, wait_until};

/// Checks that a call whose second line is `line` is refused for it.
#[track_caller]
fn is_refused(line: &[u8], reason: &str) {
    let env = TestEnv::new();
    let input = [b"{\"prompt\": \"first\"}\n", line, b"\n{\"prompt\": \"last\"}\n"].concat();
    env.write("in.jsonl", input);
    let ran = env.gq(&["enqueue", "in.jsonl"]).exits(2);
    assert!(ran.stderr.contains("line 2: "), "{}", ran.stderr);
    assert!(ran.stderr.contains(reason), "{}", ran.stderr);
    assert!(ran.stderr.len() < 2_000, "{} bytes of error", ran.stderr.len());
    assert_eq!(ran.stdout, "");
    assert!(!env.path("gq.db").exists());
}

#[test]
fn lines_that_are_no_json_are_refused() {
    is_refused(b"{\"prompt\": \"a\0b\"}", "JSON");
    is_refused(b"\0", "JSON");
    is_refused(br#"{"prompt": "\ud800"}"#, "hex escape");
    is_refused(br#"{"prompt": "\udc00x"}"#, "surrogate");
    is_refused(b"{\"prompt\": \"\xff\"}", "UTF-8");
    is_refused(b"{\"prompt\": \"\xed\xa0\x80\"}", "UTF-8");
    is_refused(br#"{"prompt": "x"} {"prompt": "y"}"#, "JSON");
    is_refused(br#"{"prompt": "x"}{"prompt": "y"}"#, "JSON");
    is_refused(b"{'prompt': 'x'}", "JSON");
    is_refused(b"{\"prompt\": \"x\",}", "JSON");
    is_refused(b"{\"prompt\": NaN}", "JSON");
}

#[test]
fn numbers_beyond_their_field_are_refused() {
    is_refused(br#"{"prompt": "x", "priority": 1e999}"#, "`priority`");
    is_refused(
        br#"{"prompt": "x", "priority": 1234567890123456789012345678901234567890}"#,
        "`priority`",
    );
    is_refused(br#"{"prompt": "x", "max_attempts": -1}"#, "`max_attempts`");
    is_refused(br#"{"prompt": "x", "not_before": "2026-13-01T00:00:00Z"}"#, "`not_before`");
}

#[test]
fn a_line_that_is_nested_without_end_is_refused() {
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let metadata = format!(r#"{{"prompt": "x", "metadata": {{"a": {deep}}}}}"#);
    is_refused(metadata.as_bytes(), "nested deeper than 128 levels");
    let tools = format!(r#"{{"prompt": "x", "tools": {deep}}}"#);
    is_refused(tools.as_bytes(), "`tools`: recursion limit");
    is_refused("[".repeat(100_000).as_bytes(), "object");
}

#[test]
fn input_in_utf_16_is_refused_as_such() {
    for mark in [b"\xff\xfe", b"\xfe\xff"] {
        let env = TestEnv::new();
        let line: Vec<u8> = r#"{"prompt": "x"}"#.bytes().flat_map(|byte| [byte, 0]).collect();
        env.write("in.jsonl", [mark.as_slice(), &line].concat());
        let ran = env.gq(&["enqueue", "in.jsonl"]).exits(2);
        assert!(ran.stderr.contains("UTF-16") && ran.stderr.contains("in.jsonl"), "{}", ran.stderr);
        assert!(!env.path("gq.db").exists());
    }
}

#[test]
fn what_is_odd_and_allowed_comes_back_as_it_was() {
    let env = TestEnv::new();
    let metadata = [
        r#"{"big": 1234567890123456789012345678901234567890, "e": 1e999, "z": -0.0}"#,
        r#"{"nul": "a\u0000b", "": {"": []}, "emoji": "\ud83d\ude00 ä"}"#,
        r#"{"task_id": "a\nb\u001b[31m\u202e", "formula": "=1+1"}"#,
    ];
    let lines =
        metadata.map(|metadata| format!("{{\"prompt\": \"x\", \"metadata\": {metadata}}}\n"));
    env.write("in.jsonl", lines.concat());
    let ran = env.gq(&["run", "in.jsonl", "--mock"]).exits(0);
    let shown: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(shown.len(), 3);
    for (line, metadata) in shown.iter().zip(metadata) {
        assert!(line.contains(&format!("\"metadata\":{metadata},")), "{line}");
    }
    assert_eq!(ran.lines()[2]["task_id"], "a\nb\u{1b}[31m\u{202e}");
    let id = "a\nb\u{1b}[31m\u{202e}";
    assert_eq!(env.gq(&["results", "--task-id", id]).exits(0).lines().len(), 1);
    // The same again is the same.
    let told = env.gq(&["enqueue", "in.jsonl"]).exits(0).json();
    assert_eq!(told["skipped"], 3);
}

#[test]
fn what_is_no_file_is_read_or_named() {
    let env = TestEnv::new();
    fs::create_dir(env.path("folder.jsonl")).unwrap();
    let ran = env.gq(&["enqueue", "folder.jsonl"]).exits(2);
    assert!(ran.stderr.contains("folder.jsonl"), "{}", ran.stderr);
    let ran = env.gq(&["enqueue", "missing.jsonl"]).exits(2);
    assert!(ran.stderr.contains("missing.jsonl"), "{}", ran.stderr);
    assert!(!env.path("gq.db").exists());

    assert!(Command::new("mkfifo").arg(env.path("pipe.jsonl")).status().unwrap().success());
    let reader = env.spawn(&["enqueue", "pipe.jsonl"]);
    let mut pipe = fs::OpenOptions::new().write(true).open(env.path("pipe.jsonl")).unwrap();
    pipe.write_all(b"{\"prompt\": \"one\"}\n{\"prompt\": \"two\"}").unwrap();
    drop(pipe);
    assert_eq!(reader.wait().exits(0).json()["enqueued"], 2);
    let ran = env.gq(&["enqueue", "/dev/null"]).exits(2);
    assert!(ran.stderr.contains("`/dev/null` is not a file"), "{}", ran.stderr);
}

#[test]
fn a_pipe_that_nobody_writes_to_can_be_given_up() {
    let env = TestEnv::new();
    assert!(Command::new("mkfifo").arg(env.path("pipe.jsonl")).status().unwrap().success());
    let mut child = env
        .command(&["enqueue", "pipe.jsonl"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    wait_until("its end", LIMIT, || child.try_wait().unwrap().is_some());
    assert!(!env.path("gq.db").exists());
}

#[test]
#[cfg(target_os = "linux")]
fn a_line_of_a_gigabyte_is_refused_in_little_memory() {
    let env = TestEnv::new();
    let mut command = env.command(&["enqueue", "-"]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"{\"prompt\": \"first\"}\n{\"prompt\": \"").unwrap();
    let block = vec![b'x'; 1 << 20];
    for _ in 0..1024 {
        stdin.write_all(&block).unwrap();
    }
    stdin.write_all(b"\"}\n{\"prompt\": \"last\"}\n").unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    drop(stdin);
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim();
    let peak: u64 = peak.trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 100_000, "{peak} kB while it reads");
    let ran = child.wait_with_output().unwrap();
    let said = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(2), "{said}");
    assert!(said.contains("line 2: ") && said.contains("128"), "{said}");
    assert!(!env.path("gq.db").exists());
}

#[test]
fn archives_that_are_cut_or_none_at_all_are_refused() {
    let whole = {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all("{\"prompt\": \"x\"}\n".repeat(1_000).as_bytes()).unwrap();
        packed.finish().unwrap()
    };
    for bytes in [&whole[..whole.len() / 2], b"no archive at all", &whole[..5]] {
        let env = TestEnv::new();
        env.write("in.jsonl.gz", bytes);
        let ran = env.gq(&["enqueue", "in.jsonl.gz"]).exits(2);
        assert!(ran.stderr.contains("in.jsonl.gz"), "{}", ran.stderr);
        assert!(!env.path("gq.db").exists());
    }
    let env = TestEnv::new();
    env.write("in.jsonl.gz", whole);
    assert_eq!(env.gq(&["enqueue", "in.jsonl.gz"]).exits(0).json()["enqueued"], json!(1_000));
}
