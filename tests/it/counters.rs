//! Random runs of all commands: the counts stay true, no job is lost, none has two results.

use std::collections::BTreeSet;
use std::thread;

use rustix::process::Signal;
use serde_json::json;

use crate::support::{Running, TestEnv, column};

const STEPS: usize = 14;

/// With what the random choices begin, and whether a worker runs beside the commands.
const RUNS: [(u64, bool); 4] = [(1, false), (20_261_124, false), (77, true), (4_711, true)];

/// A generator of random numbers (xorshift) that gives the same ones on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// A run and what it should come to.
struct Steps {
    env: TestEnv,
    random: Random,
    /// Jobs added less jobs removed.
    jobs: i64,
    done: Vec<&'static str>,
}

impl Steps {
    fn new(seed: u64) -> Self {
        let mut env = TestEnv::with_stand_in(&json!({"script": [
            {"prompt_contains": "shaky", "probability": 0.5, "seed": seed, "reply": "overloaded"},
            {"prompt_contains": "wrong", "reply": "invalid_argument"},
            {"prompt_contains": "risky", "reply": "blocked_prompt"},
            {"every": 11, "reply": "rate_limit_minute", "retry_delay": "0.05s"}
        ], "quota_detail": "message_only"}));
        // While one key rests after a 429, the other goes on.
        env.set("GEMINI_API_KEY_2", "secret-two");
        let mut steps = Self { env, random: Random(seed), jobs: 0, done: Vec::new() };
        steps.enqueue("skip");
        steps
    }

    fn step(&mut self) {
        match self.random.below(8) {
            0 | 1 => self.enqueue("replace"),
            2 => self.enqueue("skip"),
            3 | 4 => {
                self.done.push("work");
                let code = self.env.gq(&["work", "--drain"]).code;
                assert!(matches!(code, Some(0 | 3)), "{code:?}");
            }
            5 => {
                let task = format!("t{}", 1 + self.random.below(12));
                self.done.push("cancel");
                let code = self.env.gq(&["cancel", "--task-id", &task, "--batch", "in"]).code;
                assert!(matches!(code, Some(0 | 4)), "{code:?}");
            }
            6 => {
                self.done.push("retry");
                self.env.gq(&["retry", "--all-failed"]).exits(0);
            }
            _ => self.prune(),
        }
        self.check();
    }

    /// Adds some of twelve tasks, with content that differs from call to call.
    fn enqueue(&mut self, on_conflict: &'static str) {
        self.done.push(on_conflict);
        let count = 1 + self.random.below(12);
        let kinds = ["usual", "usual", "usual", "shaky", "wrong", "risky"];
        let prompts: Vec<String> = (0..count)
            .map(|_| {
                let kind = kinds[usize::try_from(self.random.below(6)).unwrap()];
                format!("{kind} {}", self.random.below(3))
            })
            .collect();
        self.env.prompts("in.jsonl", &prompts);
        // A second attempt may wait for a second: few jobs get one.
        let attempts = if self.random.below(6) == 0 { "2" } else { "1" };
        let args =
            ["enqueue", "in.jsonl", "--on-conflict", on_conflict, "--max-attempts", attempts];
        let counts = self.env.gq(&args).exits(0).json();
        let number = |name: &str| counts[name].as_u64().unwrap();
        assert_eq!(number("enqueued") + number("skipped") + number("replaced"), count);
        self.jobs += counts["enqueued"].as_i64().unwrap();
    }

    fn prune(&mut self) {
        self.done.push("prune");
        let ran = self.env.gq(&["prune", "--older-than", "0s"]).exits(0);
        self.jobs -= ran.stdout.trim().parse::<i64>().unwrap();
    }

    fn check(&self) {
        let env = &self.env;
        env.counts_are_true();
        assert_eq!(env.count("SELECT count(*) FROM jobs"), self.jobs);
        let without_answer = env.count(
            "SELECT count(*) FROM jobs AS j WHERE state = 'succeeded'
                AND NOT EXISTS (SELECT 1 FROM answers AS a WHERE a.job_id = j.id)",
        );
        assert_eq!(without_answer, 0);
        let answered_twice = env.count(
            "SELECT count(*) FROM (SELECT job_id FROM attempts WHERE outcome = 'succeeded'
                                    GROUP BY job_id HAVING count(*) > 1)",
        );
        assert_eq!(answered_twice, 0);
        let orphans = env.count(
            "SELECT (SELECT count(*) FROM inputs WHERE job_id NOT IN (SELECT id FROM jobs))
                  + (SELECT count(*) FROM answers WHERE job_id NOT IN (SELECT id FROM jobs))
                  + (SELECT count(*) FROM attempts WHERE job_id NOT IN (SELECT id FROM jobs))",
        );
        assert_eq!(orphans, 0);
    }

    /// Works off what is left and compares the results with the jobs.
    fn finish(&mut self) {
        self.env.gq(&["work", "--drain"]);
        self.check();
        let results = self.env.results();
        let tasks: BTreeSet<String> = column(&results, "task_id").into_iter().collect();
        assert_eq!(i64::try_from(results.len()).unwrap(), self.jobs);
        assert_eq!(tasks.len(), results.len());
        for result in &results {
            let succeeded = result["state"] == "succeeded";
            assert_eq!(result["response"].is_string(), succeeded, "{result}");
            assert_eq!(result["error"].is_null(), succeeded, "{result}");
        }
    }
}

/// Tells which steps led to a failure.
impl Drop for Steps {
    fn drop(&mut self) {
        if thread::panicking() {
            std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("steps: {}\n", self.done.join(", ")).as_bytes(),
            )
            .unwrap();
        }
    }
}

fn run(seed: u64, with_worker: bool) {
    let mut steps = Steps::new(seed);
    let mut worker = with_worker.then(|| start(&steps.env));
    for step in 1..=STEPS {
        steps.step();
        if step % 5 == 0 {
            worker = worker.map(|worker| {
                steps.done.push("crash");
                worker.kill();
                start(&steps.env)
            });
        }
    }
    steps.finish();
    if let Some(worker) = worker {
        worker.signal(Signal::TERM);
        worker.wait().exits(0);
        steps.check();
    }
}

fn start(env: &TestEnv) -> Running {
    env.spawn(&["work", "--workers", "2"])
}

#[test]
fn random_commands_keep_the_counts_true_and_lose_no_job() {
    thread::scope(|scope| {
        for (seed, with_worker) in RUNS {
            scope.spawn(move || run(seed, with_worker));
        }
    });
}
