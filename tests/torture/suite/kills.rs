//! Three worker processes that are killed and stopped at random, and enqueues that are killed, while
//! jobs come in all the time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use chrono::Utc;
use gq::mock::fingerprint;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::checker::{self, Account, Held, Upset};
use super::rig::{self, Rig};
use super::support::{LIMIT, Running, TestEnv, wait_until};

/// Kills of one round.
const KILLS: usize = 300;

/// Calls of one process at once.
const WORKERS: usize = 4;

/// Jobs of one batch.
const BATCH: usize = 400;

/// One that is stopped stands still for twice as long.
const LEASE: Duration = Duration::from_secs(2);

/// What a disk that is slow adds to a sync, in microseconds.
const SLOW_SYNC: &str = "15000";

struct Process {
    key: usize,
    running: Option<Running>,
    secret: String,
    /// Since when it stands still.
    stopped: Option<Instant>,
}

struct Run<'a> {
    rig: &'a Rig,
    env: TestEnv,
    processes: Vec<Process>,
    accepted: HashMap<(String, String), String>,
    seen: HashMap<(String, String), Held>,
    upsets: Vec<Upset>,
    kills: usize,
    faults: Vec<String>,
    processes_started: usize,
    batches: usize,
}

pub(crate) fn round(rig: &Rig) -> Vec<String> {
    let env = rig.env(json!({"latency_ms": {"min": 1, "max": 30}, "record": false}));
    let processes = (1..=3)
        .map(|key| Process { key, running: None, secret: String::new(), stopped: None })
        .collect();
    let mut run = Run {
        rig,
        env,
        processes,
        accepted: HashMap::new(),
        seen: HashMap::new(),
        upsets: Vec::new(),
        kills: 0,
        faults: Vec::new(),
        // Those of the environment are for the work after all kills.
        processes_started: 3,
        batches: 0,
    };
    let mut cycle = 0;
    while run.kills < KILLS {
        run.cycle(cycle);
        cycle += 1;
    }
    run.finish()
}

impl Run<'_> {
    fn cycle(&mut self, cycle: usize) {
        // One that stands still may hold the lock, and nobody wakes it up while this waits for it.
        if self.all_go() && self.pending() < BATCH {
            self.enqueue();
        }
        for index in 0..self.processes.len() {
            self.keep_up(index);
        }
        self.rig.pause(Duration::from_millis(5), Duration::from_millis(70));
        let index = self.rig.between(0, 2);
        if self.processes[index].stopped.is_none() {
            if self.rig.chance(0.02) {
                let process = &mut self.processes[index];
                process.running.as_ref().unwrap().signal(Signal::STOP);
                process.stopped = Some(Instant::now());
                self.upset(index);
            } else {
                self.kill(index);
            }
        }
        // Whoever stands still may hold a lock that a look needs.
        if cycle.is_multiple_of(25) && self.all_go() {
            self.look();
        }
    }

    fn all_go(&self) -> bool {
        self.processes.iter().all(|process| process.stopped.is_none())
    }

    fn pending(&self) -> usize {
        let path = self.env.path("gq.db");
        if !path.exists() {
            return 0;
        }
        let connection = checker::open(&path).unwrap();
        let query = "SELECT coalesce(sum(pending), 0) FROM batches";
        // The first enqueue may have been killed before there were tables.
        let pending = connection.query_row(query, [], |row| row.get::<_, u32>(0));
        pending.unwrap_or(0) as usize
    }

    /// Starts what does not run, and lets go on what stood still for long enough.
    fn keep_up(&mut self, index: usize) {
        let process = &mut self.processes[index];
        if process.running.is_none() {
            let (key, lease) = (process.key.to_string(), format!("{}s", LEASE.as_secs()));
            let workers = WORKERS.to_string();
            let slow = if self.rig.chance(0.2) { SLOW_SYNC } else { "0" };
            let args = ["-q", "work", "--workers", &workers, "--keys", &key, "--lease", &lease];
            let mut command = self.rig.command(&self.env, &args, &[("SYNC_DELAY_US", slow)]);
            // Each process has a secret of its own, by which its calls are known.
            self.processes_started += 1;
            process.secret = rig::key(self.processes_started);
            command.env(format!("GEMINI_API_KEY_{key}"), &process.secret);
            process.running = Some(self.env.start(command));
        }
        if process.stopped.is_some_and(|since| since.elapsed() > LEASE * 2) {
            process.running.as_ref().unwrap().signal(Signal::CONT);
            process.stopped = None;
        }
    }

    fn kill(&mut self, index: usize) {
        let process = &mut self.processes[index];
        let running = process.running.take().unwrap();
        if running.stderr().contains("error") || running.stderr().contains("panicked") {
            self.faults.push(format!("a worker said: {}", running.stderr()));
        }
        running.kill();
        self.kills += 1;
        self.upset(index);
    }

    fn upset(&mut self, index: usize) {
        let key = fingerprint(&self.processes[index].secret);
        self.upsets.push(Upset { key, at_ms: Utc::now().timestamp_millis() });
    }

    /// Adds a batch; the process that does it may be killed at first.
    fn enqueue(&mut self) {
        let name = format!("batch{}", self.batches);
        self.batches += 1;
        let prompts: Vec<String> =
            (1..=BATCH).map(|number| format!("{name} number {number} end")).collect();
        let file = format!("{name}.jsonl");
        self.env.prompts(&file, &prompts);
        // Where a key is new, others go out one by one at first.
        let enqueue = ["enqueue", &file, "--priority", "1"];
        if self.rig.chance(0.5) {
            let dying = self.env.spawn(&enqueue);
            self.rig.pause(Duration::from_micros(500), Duration::from_millis(25));
            // It may be through already.
            drop(dying);
        }
        let told = self.env.gq(&enqueue).exits(0).json();
        let all = told["enqueued"] == json!(BATCH) || told["skipped"] == json!(BATCH);
        assert!(all, "a killed enqueue stored a part: {told}");
        for (number, prompt) in prompts.into_iter().enumerate() {
            self.accepted.insert((name.clone(), format!("t{}", number + 1)), prompt);
        }
    }

    /// Remembers results as they are now.
    fn look(&mut self) {
        let connection = checker::open(&self.env.path("gq.db")).unwrap();
        for (task, job) in checker::jobs(&connection) {
            if job.state == "succeeded" {
                self.seen.entry(task).or_insert(job);
            }
        }
    }

    fn finish(mut self) -> Vec<String> {
        let running = std::mem::take(&mut self.processes);
        let running: Vec<Running> = running.into_iter().filter_map(|it| it.running).collect();
        for process in &running {
            process.signal(Signal::CONT);
        }
        for running in running {
            wait_until("an ear for signals", LIMIT, || running.catches(Signal::TERM));
            running.signal(Signal::TERM);
            running.wait().exits(0);
        }
        let drain = ["-q", "work", "--drain", "--workers", "32"];
        let mut given_up = 0;
        loop {
            let ran = self.rig.run(&self.env, &drain);
            match ran.code {
                Some(0) => break,
                Some(3) => {}
                _ => {
                    self.faults.push(format!("the last drain: {ran:?}"));
                    break;
                }
            }
            let failed = self.env.gq(&["results", "--state", "failed"]).exits(0).lines();
            let unknown = |job: &Value| job["error"]["kind"] == "unknown_outcome";
            if !failed.iter().all(unknown) {
                self.faults.push(format!("failed: {failed:?}"));
                break;
            }
            given_up += failed.len();
            self.env.gq(&["retry", "--all-failed"]).exits(0);
        }
        let mock = self.env.mock();
        wait_until("the end of all calls", LIMIT, || mock.stats().in_flight == 0);
        let connection = checker::open(&self.env.path("gq.db")).unwrap();
        let held = checker::jobs(&connection);
        let calls = checker::calls(&self.env.path("journal"));
        let account = Account::of(&self.accepted, &held, &self.seen, &calls, &self.upsets, WORKERS);
        println!(
            "  {} kills, {} upsets; accepted {}, recorded {}, lost {}, unexpected {}, recorded twice {}; calls {}, \
             made again {}, unexplained {}; answered more than once {}; in flight at three deaths {}",
            self.kills,
            self.upsets.len(),
            account.accepted,
            account.recorded,
            account.lost.len(),
            account.unexpected.len(),
            account.twice.len(),
            calls.len(),
            account.repeated,
            account.unexplained.len(),
            Account::answered_again(&calls),
            given_up,
        );
        let mut faults = std::mem::take(&mut self.faults);
        faults.extend(account.faults());
        faults.extend(checker::unsound(&connection));
        self.rig.search(self.env.folder());
        faults
    }
}
