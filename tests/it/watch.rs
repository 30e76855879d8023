//! `gq status --watch`: what it prints while others change the queue.

use std::io::{BufRead as _, BufReader, Read as _};
#[cfg(target_os = "linux")]
use std::process::Command;
use std::process::{Child, ChildStdout, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{LIMIT, TestEnv, wait_until};

/// Returns an environment where prompts with `risky` fail, and an empty queue.
fn env() -> TestEnv {
    let mut env = TestEnv::with_stand_in(&json!({
        "script": [{"prompt_contains": "risky", "reply": "blocked_prompt"}]
    }));
    env.set("TZ", "UTC");
    env.prompts("first.jsonl", &["one"]);
    env.gq(&["enqueue", "first.jsonl"]).exits(0);
    env
}

/// A `gq` whose stdout the test reads as it comes; it is killed when the test is over.
struct Piped {
    child: Child,
    stdout: Option<ChildStdout>,
}

impl Piped {
    fn start(env: &TestEnv, args: &[&str]) -> Self {
        let mut command = env.command(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self { stdout: child.stdout.take(), child }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end, which has to be a quiet one.
    #[track_caller]
    fn ends_well(mut self) {
        wait_until("its end", LIMIT, || self.child.try_wait().unwrap().is_some());
        let mut told = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
        assert_eq!((self.child.wait().unwrap().code(), told.as_str()), (Some(0), ""));
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn each_change_is_a_line_of_json_until_a_signal() {
    let env = env();
    for signal in [Signal::TERM, Signal::INT] {
        let mut watch = Piped::start(&env, &["status", "--watch", "--format", "json"]);
        let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
        let mut next = || -> Option<Value> {
            let line = lines.next()?.unwrap();
            Some(serde_json::from_str(&line).unwrap())
        };
        let first = next().unwrap();
        assert_eq!(first, env.status());
        let batch = format!("batch-{}", signal.as_raw());
        env.gq(&["enqueue", "first.jsonl", "--batch", &batch]).exits(0);
        let before = first["jobs"]["pending"].as_i64().unwrap();
        assert_eq!(next().unwrap()["jobs"]["pending"], json!(before + 1));
        watch.signal(signal);
        assert_eq!(next(), None);
        watch.ends_well();
    }
}

#[test]
fn text_to_a_file_shows_failures_and_no_escapes() {
    let env = env();
    let watch = env.spawn(&["status", "--watch"]);
    wait_until("the first frame", LIMIT, || watch.stdout().contains("0/1  0%\n"));
    env.prompts("more.jsonl", &["risky", "fine"]);
    env.gq(&["run", "more.jsonl"]).exits(3);
    wait_until("the failure", LIMIT, || watch.stdout().contains("t1    more   blocked  "));
    watch.signal(Signal::TERM);
    let text = watch.wait().exits(0).stdout;
    assert!(!text.contains('\x1b'), "{text}");
    assert!(text.split("\n\n").all(|frame| frame.starts_with("gq status  20")), "{text}");
    assert!(text.contains("2/2  100%  1 failed\n"), "{text}");
}

#[test]
fn it_ends_quietly_when_nobody_reads_any_more() {
    let env = env();
    for format in ["text", "json"] {
        let mut watch = Piped::start(&env, &["status", "--watch", "--format", format]);
        let mut line = String::new();
        let mut stdout = BufReader::new(watch.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        drop(stdout);
        watch.ends_well();
    }
}

#[test]
fn a_signal_ends_it_also_while_its_reader_does_not_read() {
    let env = env();
    env.prompts("in.jsonl", &["one"]);
    // The text of each state is so long that a pipe holds no more than one.
    let batch = |number: usize| format!("{}-{number}", "x".repeat(40_000));
    env.gq(&["enqueue", "in.jsonl", "--batch", &batch(1)]).exits(0);
    let watch = Piped::start(&env, &["status", "--watch", "--format", "json"]);
    let waiting = || rustix::io::ioctl_fionread(watch.stdout.as_ref().unwrap()).unwrap();
    wait_until("the first object", LIMIT, || waiting() > 40_000);
    env.gq(&["enqueue", "in.jsonl", "--batch", &batch(2)]).exits(0);
    wait_until("a pipe that is full", LIMIT, || waiting() > 60_000);
    watch.signal(Signal::TERM);
    watch.ends_well();
}

#[test]
fn there_must_be_a_database() {
    let env = TestEnv::new();
    let watched = env.gq(&["status", "--watch"]).exits(1);
    assert_eq!(watched.stderr, env.gq(&["status"]).exits(1).stderr);
    assert!(!env.path("gq.db").exists());
}

/// Returns a command that runs `gq` on a terminal of its own, where the system has one to give.
#[cfg(target_os = "linux")]
fn on_a_terminal(env: &TestEnv, args: &str) -> Option<Command> {
    Command::new("script").arg("--version").output().ok()?;
    let plain = env.command(&[]);
    let mut command = Command::new("script");
    let program = env!("CARGO_BIN_EXE_gq");
    // The shell becomes gq, so that its number is known.
    let line = format!("stty rows 30 cols 100; echo $$ > pid; exec '{program}' {args}");
    command.args(["-qefc", &line, "/dev/null"]).current_dir(env.folder()).env_clear();
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Some(command)
}

#[test]
#[cfg(target_os = "linux")]
fn a_terminal_is_redrawn_in_place_and_given_back() {
    let mut env = env();
    env.set("SHELL", "/bin/sh");
    let Some(command) = on_a_terminal(&env, "status --watch") else { return };
    let watch = env.start(command);
    wait_until("the first frame", LIMIT, || watch.stdout().contains("first"));
    env.prompts("more.jsonl", &["risky"]);
    env.gq(&["run", "more.jsonl"]).exits(3);
    wait_until("the failure", LIMIT, || watch.stdout().contains("blocked"));
    let pid = std::fs::read_to_string(env.path("pid")).unwrap().trim().parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::INT).unwrap();
    let text = watch.wait().exits(0).stdout;
    assert!(text.contains("\x1b[?25l") && text.contains("\x1b[H"), "{text:?}");
    let (_, after) = text.rsplit_once("\x1b[?25h").unwrap();
    assert!(after.contains("blocked"), "{after:?}");
    assert!(!after.contains("\x1b[?25l"), "{after:?}");
}
