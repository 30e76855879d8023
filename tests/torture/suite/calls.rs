//! Every call by which gq changes its files, and every sync, fails or is the last that the process
//! makes: the first, the second, and so on until none is left.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::checker;
use super::rig::Rig;
use super::support::{Ran, TestEnv};

/// Jobs of each input.
const JOBS: usize = 6;

/// So many runs in a row, each with a higher number, pass without what they were to meet.
const PASSES: usize = 4;

/// No command makes fewer calls.
const LEAST: usize = 30;

/// What happens, and at how many calls in a row.
const KINDS: [(&str, &str); 4] = [("kill", "1"), ("tear", "1"), ("broken", "1"), ("full", "3")];

/// A command whose calls are counted, in a folder that was made ready once.
struct Scenario {
    name: &'static str,
    args: &'static [&'static str],
    /// Makes ready what the command finds.
    prepare: fn(&TestEnv),
    /// Returns what is wrong after the command was broken off, and made again.
    judge: fn(&Trial<'_>) -> Vec<String>,
}

/// A command that was broken off, and the same once more.
struct Trial<'a> {
    env: &'a TestEnv,
    kind: &'static str,
    /// Whether anything was broken at all.
    fired: bool,
    broken: &'a Ran,
    again: &'a Ran,
}

const SCENARIOS: [Scenario; 5] = [
    Scenario {
        name: "enqueue",
        args: &["enqueue", "new.jsonl"],
        prepare: |env| {
            prompts(env, "new");
            finished(env, "old");
        },
        judge: |trial| {
            let old = trial.whole("old", "succeeded");
            old.chain(trial.whole("new", "pending")).chain(trial.all_or_nothing()).collect()
        },
    },
    Scenario {
        name: "work",
        args: &["work", "--drain", "--workers", "3"],
        prepare: |env| {
            finished(env, "old");
            prompts(env, "new");
            env.gq(&["enqueue", "new.jsonl"]).exits(0);
        },
        judge: |trial| {
            let jobs = trial.whole("old", "succeeded").chain(trial.whole("new", "succeeded"));
            jobs.chain(trial.calls_made_again(3)).collect()
        },
    },
    Scenario {
        name: "prune",
        args: &["prune", "--older-than", "0s", "--batch", "old"],
        prepare: |env| {
            finished(env, "old");
            finished(env, "new");
        },
        judge: |trial| trial.none_of("old").chain(trial.whole("new", "succeeded")).collect(),
    },
    Scenario {
        name: "retry",
        args: &["retry", "--all-failed"],
        prepare: |env| {
            finished(env, "old");
            prompts(env, "new");
            env.gq(&["enqueue", "new.jsonl"]).exits(0);
            // One whose process died in its first call.
            let dying = env.spawn(&["work", "--on-unknown", "fail", "--batch", "new"]);
            super::support::wait_until("calls", super::support::LIMIT, || {
                env.mock().stats().held > 0
            });
            dying.kill();
            env.mock().release(None);
            env.gq(&["work", "--drain", "--on-unknown", "fail"]).exits(3);
        },
        judge: |trial| trial.whole("old", "succeeded").chain(trial.none_failed()).collect(),
    },
    Scenario {
        name: "first enqueue",
        args: &["enqueue", "new.jsonl"],
        prepare: |env| prompts(env, "new"),
        judge: |trial| trial.whole("new", "pending").chain(trial.all_or_nothing()).collect(),
    },
];

/// Writes the input of a batch.
fn prompts(env: &TestEnv, batch: &str) {
    let prompts: Vec<String> =
        (1..=JOBS).map(|number| format!("{batch} number {number} end")).collect();
    env.prompts(&format!("{batch}.jsonl"), &prompts);
}

fn finished(env: &TestEnv, batch: &str) {
    prompts(env, batch);
    env.gq(&["run", &format!("{batch}.jsonl"), "--mock", "-o", "/dev/null"]).exits(0);
}

impl Trial<'_> {
    fn held(&self) -> HashMap<(String, String), checker::Held> {
        checker::jobs(&checker::open(&self.env.path("gq.db")).unwrap())
    }

    /// All jobs of a batch are there, in that state, with the right answers.
    fn whole(&self, batch: &str, state: &str) -> impl Iterator<Item = String> + use<> {
        let held = self.held();
        let mut faults = Vec::new();
        for number in 1..=JOBS {
            let job = held.get(&(batch.to_owned(), format!("t{number}")));
            let prompt = format!("{batch} number {number} end");
            let fits = job.is_some_and(|job| {
                let raw = job.raw.as_deref();
                job.state == state
                    && (state != "succeeded" || raw.is_some_and(|raw| raw.contains(&prompt)))
            });
            if !fits {
                faults.push(format!("{batch} t{number} is {job:?}, not {state}"));
            }
        }
        faults.into_iter()
    }

    fn none_of(&self, batch: &str) -> impl Iterator<Item = String> + use<> {
        let left = self.held().into_keys().filter(|task| task.0 == batch).count();
        (left > 0).then(|| format!("{left} jobs of {batch} are left")).into_iter()
    }

    fn none_failed(&self) -> impl Iterator<Item = String> + use<> {
        let failed = self.held().into_values().filter(|job| job.state == "failed").count();
        (failed > 0).then(|| format!("{failed} jobs are still failed")).into_iter()
    }

    /// What an enqueue that was broken off reported is there; one that reported nothing has stored
    /// all or nothing.
    fn all_or_nothing(&self) -> impl Iterator<Item = String> + use<> {
        let told: Value = serde_json::from_str(&self.again.stdout).unwrap_or_default();
        // Whoever was killed after it had said so has reported too.
        let reported = !self.broken.stdout.is_empty();
        let fits = if reported {
            told["skipped"] == json!(JOBS)
        } else {
            told["skipped"] == json!(JOBS) || told["enqueued"] == json!(JOBS)
        };
        let fault =
            format!("it had said {:?}, the same call again says {told}", self.broken.stdout);
        (!fits).then_some(fault).into_iter()
    }

    /// No more calls were made again than a kill makes unavoidable.
    fn calls_made_again(&self, in_flight: usize) -> impl Iterator<Item = String> + use<> {
        let calls = checker::calls(&self.env.path("journal")).len();
        let allowed = if self.broken.code.is_none() { JOBS + in_flight } else { JOBS };
        let fits = (JOBS..=allowed).contains(&calls);
        (!fits).then(|| format!("{calls} calls for {JOBS} jobs")).into_iter()
    }

    /// What holds for every command.
    fn told_well(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let Ran { code, stderr, .. } = self.broken;
        match (self.kind, code) {
            (_, Some(0)) if !self.fired => {}
            ("kill" | "tear", None) | ("broken" | "full", Some(0)) => {}
            ("broken" | "full", Some(1)) if stderr.contains("error: ") => {}
            _ => faults.push(format!("exit code {code:?}, {stderr:?}")),
        }
        if stderr.contains("panicked") || self.again.stderr.contains("panicked") {
            faults.push(format!("a panic: {stderr} {}", self.again.stderr));
        }
        if self.again.code != Some(0) {
            faults.push(format!("the same call again: {:?}", self.again));
        }
        faults
    }
}

pub(crate) fn round(rig: &Rig) -> Vec<String> {
    let jobs: Vec<(&Scenario, (&'static str, &'static str))> =
        SCENARIOS.iter().flat_map(|scenario| KINDS.map(|kind| (scenario, kind))).collect();
    let next = AtomicUsize::new(0);
    let faults = Mutex::new(Vec::new());
    let trials = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((scenario, kind)) = jobs.get(next.fetch_add(1, Ordering::Relaxed))
                    && faults.lock().unwrap().is_empty()
                {
                    let (tried, found) = sweep(rig, scenario, *kind);
                    println!("  {}, {}: {tried} calls", scenario.name, kind.0);
                    trials.fetch_add(tried, Ordering::Relaxed);
                    faults.lock().unwrap().extend(found);
                }
            });
        }
    });
    println!("  {} trials of {} commands", trials.into_inner(), SCENARIOS.len());
    faults.into_inner().unwrap()
}

/// Tries one call after the other; returns how many there were, and the faults of the first that had
/// some.
fn sweep(rig: &Rig, scenario: &Scenario, kind: (&'static str, &str)) -> (usize, Vec<String>) {
    let template = TempDir::new().unwrap();
    let made = rig.env(json!({"script": [{"prompt_contains": "new", "hold": true}]}));
    (scenario.prepare)(&made);
    copy_files(made.folder(), template.path());
    let (mut call, mut passed) = (1, 0);
    // How many calls there are depends on how turns fall together.
    while passed < PASSES {
        let (fired, found) = trial(rig, scenario, kind, call, template.path());
        if !found.is_empty() {
            let place = format!("{}, {} at call {call}", scenario.name, kind.0);
            return (call, found.into_iter().map(|fault| format!("{place}: {fault}")).collect());
        }
        passed = if fired { 0 } else { passed + 1 };
        call += 1;
    }
    let calls = call - 1 - PASSES;
    let few = (calls < LEAST).then(|| format!("{} makes but {calls} calls", scenario.name));
    (calls, few.into_iter().collect())
}

fn trial(
    rig: &Rig,
    scenario: &Scenario,
    (kind, in_a_row): (&'static str, &str),
    call: usize,
    template: &std::path::Path,
) -> (bool, Vec<String>) {
    let env = rig.env(json!({}));
    copy_files(template, env.folder());
    let at = call.to_string();
    let settings = [
        ("FAULT_FILES", "gq.db"),
        ("FAULT_AT", at.as_str()),
        ("FAULT_FOR", in_a_row),
        ("FAULT_KIND", kind),
        ("FAULT_FIRED", "fired"),
    ];
    let broken = env.start(rig.command(&env, scenario.args, &settings)).wait();
    let fired = env.path("fired").exists();
    // As it is before anybody mends it.
    let mut faults = left_behind(&env);
    let again = rig.run(&env, scenario.args);
    let trial = Trial { env: &env, kind, fired, broken: &broken, again: &again };
    faults.extend(trial.told_well());
    if faults.is_empty() {
        faults.extend(checker::unsound(&checker::open(&env.path("gq.db")).unwrap()));
        faults.extend((scenario.judge)(&trial));
    }
    rig.search(env.folder());
    (fired, faults)
}

/// Returns what is wrong with a copy of the database.
fn left_behind(env: &TestEnv) -> Vec<String> {
    let copy = TempDir::new().unwrap();
    for name in ["gq.db", "gq.db-wal", "gq.db-journal"] {
        // Mostly there is no log, or no journal; and a first start may not have come so far.
        let _ = std::fs::copy(env.path(name), copy.path().join(name));
    }
    let path = copy.path().join("gq.db");
    if !path.exists() {
        return Vec::new();
    }
    let found = checker::unsound(&checker::open(&path).unwrap());
    found.into_iter().map(|fault| format!("left behind: {fault}")).collect()
}

/// Copies the files of a folder, not the folders in it.
fn copy_files(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap();
        if path.is_file() && name != "journal" {
            std::fs::copy(&path, to.join(name)).unwrap();
        }
    }
}
