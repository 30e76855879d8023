//! Which signal ends which command, and with what exit code.

use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::json;

use crate::support::{LIMIT, TestEnv, column, wait_until};

/// Returns an environment with two jobs whose calls wait for a release.
fn with_two_slow_jobs() -> TestEnv {
    let env = TestEnv::with_stand_in(&json!({"script": [{"hold": true}]}));
    env.prompts("in.jsonl", &["one", "two"]);
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    env
}

fn both_held(env: &TestEnv) {
    wait_until("both calls", LIMIT, || env.mock().stats().held == 2);
}

#[test]
fn a_hangup_lets_calls_in_flight_end() {
    let env = with_two_slow_jobs();
    let worker = env.spawn(&["work"]);
    both_held(&env);
    worker.signal(Signal::HUP);
    wait_until("the end to begin", LIMIT, || worker.stderr().contains("stopping"));
    env.mock().release(None);
    worker.wait().exits(0);
    assert_eq!(column(&env.results(), "state"), ["succeeded", "succeeded"]);
    assert_eq!(env.calls(), 2);
}

#[test]
fn a_second_hangup_cuts_calls_and_gives_their_jobs_back() {
    let env = with_two_slow_jobs();
    let worker = env.spawn(&["work"]);
    both_held(&env);
    worker.signal(Signal::HUP);
    wait_until("the end to begin", LIMIT, || worker.stderr().contains("stopping"));
    worker.signal(Signal::HUP);
    worker.wait().exits(0);
    assert_eq!(env.status()["jobs"]["pending"], json!(2));
    assert_eq!(env.show("t1")["attempts"], json!(0));
}

#[test]
fn a_drain_cut_by_a_hangup_ends_as_if_terminated() {
    let env = with_two_slow_jobs();
    let worker = env.spawn(&["work", "--drain", "--grace", "0s"]);
    both_held(&env);
    worker.signal(Signal::HUP);
    worker.wait().exits(143);
    assert_eq!(env.status()["jobs"]["pending"], json!(2));
}

#[test]
fn a_run_that_a_signal_cuts_short_tells_which_and_goes_on_later() {
    let env = with_two_slow_jobs();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 143)] {
        let run = env.spawn(&["run", "in.jsonl", "--grace", "0s"]);
        both_held(&env);
        run.signal(signal);
        assert_eq!(run.wait().exits(code).stdout, "");
        assert_eq!(env.status()["jobs"]["pending"], json!(2));
        wait_until("the calls to be cut", LIMIT, || env.mock().stats().in_flight == 0);
    }
    env.mock().release(None);
    let results = env.gq(&["run", "in.jsonl"]).exits(0).lines();
    assert_eq!(column(&results, "attempts"), ["1", "1"]);
}

#[test]
fn a_run_cut_short_gives_the_results_it_has() {
    let env = TestEnv::with_stand_in(&json!({
        "script": [{"prompt_contains": "slow", "hold": true}]
    }));
    env.prompts("in.jsonl", &["quick", "slow"]);
    let run = env.spawn(&["run", "in.jsonl", "--grace", "0s"]);
    wait_until("the slow call", LIMIT, || env.mock().stats().held == 1);
    wait_until("the quick job", LIMIT, || env.status()["jobs"]["succeeded"] == json!(1));
    run.signal(Signal::INT);
    let results = run.wait().exits(130).lines();
    assert_eq!(column(&results, "task_id"), ["t1"]);
    assert_eq!(column(&results, "response"), ["This is a stand-in's answer to: quick"]);
}

#[test]
fn a_drain_that_ends_by_itself_after_a_signal_still_tells_of_it() {
    let env = with_two_slow_jobs();
    env.prompts("more.jsonl", &["three"]);
    env.gq(&["enqueue", "more.jsonl"]).exits(0);
    let worker = env.spawn(&["work", "--drain", "--workers", "2"]);
    both_held(&env);
    worker.signal(Signal::INT);
    wait_until("the end to begin", LIMIT, || worker.stderr().contains("stopping"));
    env.mock().release(None);
    worker.wait().exits(130);
    assert_eq!(env.status()["jobs"]["succeeded"], json!(2));
    assert_eq!(env.status()["jobs"]["pending"], json!(1));
}

#[test]
#[cfg(target_os = "linux")]
fn waiting_that_a_signal_cuts_short_tells_which() {
    let env = TestEnv::new();
    env.prompts("in.jsonl", &["one", "two"]);
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 143)] {
        let waiting = env.spawn(&["results", "--wait"]);
        wait_until("the signal to be awaited", LIMIT, || waiting.catches(signal));
        waiting.signal(signal);
        assert_eq!(waiting.wait().exits(code).stdout, "");
    }
    assert_eq!(env.status()["jobs"]["pending"], json!(2));
}

#[test]
fn a_signal_ends_the_printing_to_a_reader_that_does_not_read() {
    let env = TestEnv::with_stand_in(&json!({}));
    let prompts: Vec<String> = (1..=300).map(|number| format!("prompt {number}")).collect();
    env.prompts("in.jsonl", &prompts);
    env.gq(&["run", "in.jsonl", "-o", "out.jsonl"]).exits(0);
    for args in [&["run", "in.jsonl"][..], &["results", "--wait"]] {
        let mut child = env.command(args).stdout(Stdio::piped()).spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        // More is printed than a pipe holds.
        wait_until("a pipe that fills", LIMIT, || {
            let stdout = child.stdout.as_ref().unwrap();
            rustix::io::ioctl_fionread(stdout).is_ok_and(|waiting| waiting >= 32_768)
        });
        rustix::process::kill_process(pid, Signal::TERM).unwrap();
        wait_until("its end", LIMIT, || child.try_wait().unwrap().is_some());
        assert_eq!(child.wait().unwrap().code(), Some(143), "{args:?}");
    }
}

#[test]
fn a_hang_up_that_was_ignored_from_the_start_stays_ignored() {
    let env = TestEnv::with_stand_in(&json!({"script": [{"hold": true}]}));
    env.prompts("in.jsonl", &["one", "two"]);
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    let plain = env.command(&["work", "--drain"]);
    let mut command = Command::new("nohup");
    command.arg(plain.get_program()).args(plain.get_args()).current_dir(env.folder()).env_clear();
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let worker = env.start(command);
    wait_until("both calls", LIMIT, || env.mock().stats().held == 2);
    worker.signal(Signal::HUP);
    env.mock().release(None);
    worker.wait().exits(0);
    assert_eq!(column(&env.results(), "state"), ["succeeded", "succeeded"]);
}

#[test]
fn a_run_whose_time_is_up_leaves_the_rest_in_the_queue() {
    let env =
        TestEnv::with_stand_in(&json!({"script": [{"prompt_contains": "slow", "hold": true}]}));
    env.prompts("in.jsonl", &["quick", "slow"]);
    let run = ["run", "in.jsonl", "--timeout", "1s", "--grace", "100ms"];
    let ran = env.gq(&run).exits(5);
    assert_eq!(column(&ran.lines(), "task_id"), ["t1"]);
    let jobs = env.status()["jobs"].clone();
    assert_eq!((&jobs["succeeded"], &jobs["pending"]), (&json!(1), &json!(1)));
    env.mock().release(None);
    assert_eq!(env.gq(&["run", "in.jsonl", "--timeout", "20s"]).exits(0).lines().len(), 2);
}

/// A command that goes on until something ends it; its exit code by SIGINT, and by the others.
#[cfg(target_os = "linux")]
const LONG: [(&[&str], i32, i32); 9] = [
    (&["work", "--grace", "0s"], 0, 0),
    (&["work", "--drain", "--grace", "0s"], 130, 143),
    (&["run", "in.jsonl", "--grace", "0s"], 130, 143),
    (&["ask", "Why?"], 130, 143),
    (&["results", "--wait"], 130, 143),
    (&["results", "--follow"], 130, 143),
    (&["results", "--follow", "--task-id", "t1"], 130, 143),
    (&["status", "--watch"], 0, 0),
    (&["mock"], 0, 0),
];

#[test]
#[cfg(target_os = "linux")]
fn every_long_command_ends_by_each_signal_sent_once_or_twice() {
    let check = |(args, by_interrupt, otherwise): (&[&str], i32, i32)| {
        for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
            for times in 1..=2 {
                let env = with_two_slow_jobs();
                let running = env.spawn(args);
                wait_until("an ear for the signal", LIMIT, || running.catches(signal));
                for _ in 0..times {
                    running.signal(signal);
                }
                let ran = running.wait();
                let wanted = if signal == Signal::INT { by_interrupt } else { otherwise };
                assert_eq!(ran.code, Some(wanted), "{args:?}, {signal:?}, {times}: {}", ran.stderr);
                assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
                // Nothing is held by one that has gone, and nothing was used up.
                env.counts_are_true();
                assert_eq!(env.count("SELECT sum(attempts + deaths) FROM jobs"), 0, "{args:?}");
                assert_eq!(env.count("SELECT count(*) FROM jobs WHERE state = 'running'"), 0);
            }
        }
    };
    std::thread::scope(|scope| {
        for long in LONG {
            scope.spawn(move || check(long));
        }
    });
}

#[test]
fn a_large_input_whose_storing_a_signal_cuts_short_is_told_how_far_it_came() {
    const LINES: i64 = 300_000;
    let env = TestEnv::new();
    let line = |number| format!("{{\"prompt\": \"{number} {}\"}}\n", "x".repeat(220));
    env.write("in.jsonl", (0..LINES).map(line).collect::<String>());
    for (args, signal, code) in [
        (&["enqueue", "in.jsonl", "--batch", "a"][..], Signal::INT, 130),
        (&["run", "in.jsonl", "--batch", "b", "--mock"], Signal::TERM, 143),
    ] {
        let stored = || {
            let jobs = rusqlite::Connection::open(env.path("gq.db")).unwrap();
            let stored = "SELECT pending FROM batches WHERE name = ?1";
            jobs.query_one(stored, [args[3]], |row| row.get::<_, i64>(0)).unwrap_or(0)
        };
        let storing = env.spawn(args);
        wait_until("the first jobs", LIMIT, || env.path("gq.db-wal").exists() && stored() > 0);
        storing.signal(signal);
        let ran = storing.wait().exits(code);
        let stored = stored();
        assert!((1..LINES).contains(&stored), "{stored}");
        assert!(ran.stderr.contains(&format!("{stored} jobs are stored")), "{}", ran.stderr);
        let told = env.gq(&["enqueue", "in.jsonl", "--batch", args[3]]).exits(0).json();
        assert_eq!((&told["skipped"], &told["enqueued"]), (&json!(stored), &json!(LINES - stored)));
    }
    env.counts_are_true();
}
