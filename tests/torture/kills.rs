//! Three worker processes that are killed and stopped at random, and enqueues that are killed, while
//! jobs come in all the time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use gq::mock::fingerprint;
use rustix::process::Signal;
use serde_json::json;

use crate::checker::{self, Account, Held};
use crate::rig::{self, Rig};
use crate::support::{LIMIT, Running, TestEnv, wait_until};

/// Kills of one round.
const KILLS: usize = 300;

/// Calls of one process at once.
const WORKERS: usize = 4;

/// Jobs of one batch.
const BATCH: usize = 120;

/// One that is stopped stands still for twice as long.
const LEASE: Duration = Duration::from_secs(1);

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
    /// Which processes were killed or stopped, by the fingerprints of their secrets.
    upsets: Vec<String>,
    kills: usize,
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
        processes_started: 0,
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
        let all_go = self.processes.iter().all(|process| process.stopped.is_none());
        if all_go && self.pending() < BATCH {
            self.enqueue();
        }
        for index in 0..self.processes.len() {
            self.keep_up(index);
        }
        self.rig.pause(Duration::from_millis(5), Duration::from_millis(70));
        let index = self.rig.between(0, 2);
        if self.processes[index].stopped.is_none() {
            if self.rig.chance(0.05) {
                let process = &mut self.processes[index];
                process.running.as_ref().unwrap().signal(Signal::STOP);
                process.stopped = Some(Instant::now());
                self.upsets.push(fingerprint(&process.secret));
            } else {
                self.kill(index);
            }
        }
        if cycle.is_multiple_of(25) {
            self.look();
        }
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
        process.running.take().unwrap().kill();
        self.kills += 1;
        self.upsets.push(fingerprint(&process.secret));
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
            dying.kill();
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
            running.signal(Signal::TERM);
            running.wait().exits(0);
        }
        let drain = ["-q", "work", "--drain", "--workers", "32"];
        let mut given_up = 0;
        while self.env.gq(&drain).code == Some(3) {
            let failed = self.env.gq(&["results", "--state", "failed"]).exits(0).lines();
            assert!(
                failed.iter().all(|job| job["error"]["kind"] == "unknown_outcome"),
                "{failed:?}"
            );
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
        let mut faults = account.faults();
        faults.extend(checker::unsound(&connection));
        self.rig.search(self.env.folder());
        faults
    }
}
