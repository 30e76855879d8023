//! Nobody reads what is printed, or no longer can: work goes on, and signals and times are kept.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::support::{LIMIT, TestEnv, column, wait_until};

/// Answers that no pipe holds.
fn long_answers() -> TestEnv {
    let env = TestEnv::with_stand_in(&json!({
        "stream": {"chunk_chars": 5_000}, "script": [{"text": "long ".repeat(60_000)}]
    }));
    env.prompts("in.jsonl", &["one", "two", "three", "four", "five"]);
    env
}

/// A command whose stdout is a pipe that nobody reads.
struct Unread(Child);

impl Unread {
    fn start(env: &TestEnv, args: &[&str]) -> Self {
        let mut command = env.command(args);
        let stdio = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        Self(stdio.spawn().unwrap())
    }

    /// Waits for its end, and returns how it exited.
    fn exit_code(&mut self) -> Option<i32> {
        wait_until("the end of a process", LIMIT, || self.0.try_wait().unwrap().is_some());
        self.0.wait().unwrap().code()
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn all_succeeded(env: &TestEnv) -> bool {
    env.count("SELECT count(*) FROM jobs WHERE state = 'succeeded'") == 5
}

#[test]
fn a_run_that_is_followed_is_worked_off_though_nobody_reads_and_ends_by_a_signal() {
    let env = long_answers();
    let mut run = Unread::start(&env, &["run", "in.jsonl", "--follow", "--workers", "2"]);
    wait_until("all answers", LIMIT, || env.path("gq.db").exists() && env.calls() == 5);
    wait_until("all to be recorded", LIMIT, || all_succeeded(&env));
    kill_process(Pid::from_child(&run.0), Signal::TERM).unwrap();
    assert_eq!(run.exit_code(), Some(143));
    assert_eq!(env.calls(), 5);
}

#[test]
fn a_follower_whom_nobody_reads_ends_by_a_signal() {
    let env = long_answers();
    env.gq(&["run", "in.jsonl", "-o", "out.jsonl"]).exits(0);
    for signal in [Signal::INT, Signal::TERM] {
        let mut follower = Unread::start(&env, &["results", "--follow"]);
        let mut some = [0; 1];
        follower.0.stdout.as_mut().unwrap().read_exact(&mut some).unwrap();
        kill_process(Pid::from_child(&follower.0), signal).unwrap();
        let wanted = if signal == Signal::INT { 130 } else { 143 };
        assert_eq!(follower.exit_code(), Some(wanted));
    }
}

#[test]
fn a_question_whose_answer_nobody_reads_keeps_its_time() {
    let env = long_answers();
    let mut ask = Unread::start(&env, &["ask", "Why?", "--timeout", "2s"]);
    assert_eq!(ask.exit_code(), Some(5));
    assert_eq!(column(&env.results(), "state"), ["succeeded"]);
    assert_eq!(env.calls(), 1);
}

#[test]
fn a_question_keeps_its_time_while_standard_input_goes_on() {
    let env = TestEnv::with_stand_in(&json!({}));
    let mut command = env.command(&["ask", "Why?", "--timeout", "300ms"]);
    let mut ask = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    ask.stdin.as_mut().unwrap().write_all(b"more to come").unwrap();
    wait_until("the end of the question", LIMIT, || ask.try_wait().unwrap().is_some());
    assert_eq!(ask.wait().unwrap().code(), Some(5));
    let mut told = String::new();
    ask.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert!(told.contains("nothing was asked"), "{told}");
    assert_eq!(env.calls(), 0);
}

/// A command whose log nobody takes.
fn with_closed_stderr(env: &TestEnv, args: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg("exec \"$0\" \"$@\" 2>/dev/full")
        .arg(env!("CARGO_BIN_EXE_gq"))
        .args(args);
    env.isolate(command)
}

#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let env = TestEnv::with_stand_in(&json!({
        "script": [{"prompt_contains": "bad", "reply": "blocked_prompt"}]
    }));
    env.prompts("in.jsonl", &["bad", "two", "bad", "four"]);
    let mut run = with_closed_stderr(&env, &["run", "in.jsonl", "-o", "out.jsonl", "-v"]);
    assert_eq!(run.status().unwrap().code(), Some(3));
    let states = column(&env.results(), "state");
    assert_eq!(states, ["failed", "succeeded", "failed", "succeeded"]);
}

#[test]
fn a_log_that_nobody_reads_holds_nothing_up() {
    let env = TestEnv::with_stand_in(&json!({"script": [{"reply": "blocked_prompt"}]}));
    let prompts: Vec<String> = (0..1_500).map(|number| format!("bad {number}")).collect();
    env.prompts("in.jsonl", &prompts);
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    let mut command = env.command(&["work", "--drain", "--workers", "8", "-v"]);
    let mut worker = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("all to be settled", LIMIT, || {
        env.count("SELECT count(*) FROM jobs WHERE state = 'failed'") == 1_500
    });
    let mut stderr = worker.stderr.take().unwrap();
    let reader = thread::spawn(move || stderr.read_to_end(&mut Vec::new()));
    assert_eq!(worker.wait().unwrap().code(), Some(3));
    reader.join().unwrap().unwrap();
}
