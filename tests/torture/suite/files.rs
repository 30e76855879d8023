//! A database that is cut, spoiled, locked, taken away or put in another's place: a clear message and
//! the contract's exit code; and work goes on once the cause is gone.

use std::fs;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use super::checker;
use super::rig::Rig;
use super::support::{LIMIT, Ran, TestEnv, wait_until};

/// Spoiled files of each kind.
const SPOILED: usize = 40;

/// How long another process holds the lock.
const HELD: Duration = Duration::from_secs(30);

/// Commands that meet them.
const COMMANDS: [&[&str]; 7] = [
    &["status"],
    &["results", "--full"],
    &["show", "t1", "--batch", "left"],
    &["enqueue", "more.jsonl"],
    &["work", "--drain"],
    &["retry", "--all-failed"],
    &["doctor"],
];

pub(crate) fn round(rig: &Rig) -> Vec<String> {
    thread::scope(|scope| {
        let locked = scope.spawn(|| locked(rig));
        let mut faults = spoiled(rig);
        faults.extend(taken_away(rig));
        faults.extend(locked.join().unwrap());
        faults
    })
}

fn queue(rig: &Rig) -> TestEnv {
    let env = rig.env(json!({}));
    env.prompts("done.jsonl", &["one", "two", "three"]);
    env.gq(&["-q", "run", "done.jsonl", "-o", "out.jsonl"]).exits(0);
    env.prompts("left.jsonl", &["four", "five"]);
    env.gq(&["enqueue", "left.jsonl"]).exits(0);
    env.prompts("more.jsonl", &["six", "seven"]);
    env
}

/// Bits that flipped, an end that is missing: no command hangs, panics or dies of a signal.
fn spoiled(rig: &Rig) -> Vec<String> {
    let env = queue(rig);
    let sound = fs::read(env.path("gq.db")).unwrap();
    let mut faults = Vec::new();
    let mut refused = 0;
    for number in 0..SPOILED * 2 {
        let mut bytes = sound.clone();
        let at = rig.between(0, bytes.len() - 1);
        let how = if number < SPOILED {
            bytes[at] ^= 1 << rig.between(0, 7);
            format!("a bit of byte {at} flipped")
        } else {
            bytes.truncate(at);
            format!("cut to {at} bytes")
        };
        let args = COMMANDS[number % COMMANDS.len()];
        for rest in ["gq.db-wal", "gq.db-shm", "gq.db-journal"] {
            // Mostly there is none.
            let _ = fs::remove_file(env.path(rest));
        }
        fs::write(env.path("gq.db"), bytes).unwrap();
        let ran = rig.run(&env, args);
        refused += u32::from(ran.code == Some(1));
        if !told_well(&ran, args[0]) {
            faults.push(format!("{how}, {args:?}: {ran:?}"));
        }
    }
    println!("  {} spoiled databases, {refused} refused", SPOILED * 2);
    for rest in ["gq.db-wal", "gq.db-shm"] {
        let _ = fs::remove_file(env.path(rest));
    }
    fs::write(env.path("gq.db"), sound).unwrap();
    env.gq(&["work", "--drain"]).exits(0);
    faults.extend(checker::unsound(&checker::open(&env.path("gq.db")).unwrap()));
    rig.search(env.folder());
    faults
}

/// Returns whether a command ended as commands do: by itself, and with words where it failed.
fn told_well(ran: &Ran, command: &str) -> bool {
    let ended = ran.code.is_some_and(|code| matches!(code, 0 | 1 | 3 | 4 | 6));
    let told = if command == "doctor" { &ran.stdout } else { &ran.stderr };
    let said = ran.code != Some(1) || !told.is_empty();
    ended && said && !ran.stderr.contains("panicked")
}

/// A database that is moved away, or another's, under a worker that runs.
fn taken_away(rig: &Rig) -> Vec<String> {
    let mut faults = Vec::new();
    for replaced in [false, true] {
        let env = queue(rig);
        let worker = env.spawn(&["work", "--keys", "1"]);
        wait_until("the jobs", LIMIT, || env.status()["jobs"]["succeeded"] == 5);
        let names = ["gq.db", "gq.db-wal", "gq.db-shm"];
        let aside = |name: &str| env.path(&format!("aside-{name}"));
        for name in names {
            // The worker may have noticed the first, and taken its log with it.
            let _ = fs::rename(env.path(name), aside(name));
        }
        if replaced {
            env.gq(&["enqueue", "more.jsonl"]).exits(0);
        }
        let ran = worker.wait();
        if ran.code != Some(1) || !ran.stderr.contains("was deleted or replaced") {
            faults.push(format!("replaced {replaced}: {ran:?}"));
        }
        for name in names {
            let _ = fs::remove_file(env.path(name));
            // The worker has taken its log with it.
            let _ = fs::rename(aside(name), env.path(name));
        }
        env.gq(&["enqueue", "more.jsonl"]).exits(0);
        env.gq(&["work", "--drain"]).exits(0);
        let done = env.status()["jobs"]["succeeded"].clone();
        faults
            .extend((done != 7).then(|| format!("replaced {replaced}: {done} jobs are done of 7")));
        faults.extend(checker::unsound(&checker::open(&env.path("gq.db")).unwrap()));
        rig.search(env.folder());
    }
    faults
}

/// Another process holds the lock: a worker waits for as long as it takes, an enqueue for a minute.
fn locked(rig: &Rig) -> Vec<String> {
    let env = queue(rig);
    let lock = checker::open(&env.path("gq.db")).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let worker = env.spawn(&["work"]);
    let enqueue = env.spawn(&["enqueue", "more.jsonl"]);
    for process in [&worker, &enqueue] {
        wait_until("a word about the lock", LIMIT, || process.stderr().contains("waiting"));
    }
    thread::sleep(HELD);
    lock.execute_batch("ROLLBACK").unwrap();
    drop(lock);
    enqueue.wait().exits(0);
    wait_until("all jobs", LIMIT, || env.status()["jobs"]["succeeded"] == 7);
    worker.signal(Signal::TERM);
    worker.wait().exits(0);
    rig.search(env.folder());
    let mut faults = checker::unsound(&checker::open(&env.path("gq.db")).unwrap());
    let calls = env.calls();
    faults.extend((calls != 7).then(|| format!("{calls} calls for 7 jobs behind a lock")));
    faults
}
