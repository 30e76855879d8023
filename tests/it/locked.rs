//! A database that another process holds.

use rustix::process::Signal;
use serde_json::json;
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tokio::runtime::Runtime;

use crate::support::{LIMIT, Running, TestEnv, column, wait_until};

/// The write lock of the database, held until it is released.
struct Held {
    runtime: Runtime,
    connection: SqliteConnection,
}

impl Held {
    fn of(env: &TestEnv) -> Self {
        Self::by(env, "SELECT 1")
    }

    /// Holds the lock that keeps readers out too.
    fn whole(env: &TestEnv) -> Self {
        Self::by(env, "PRAGMA locking_mode = EXCLUSIVE")
    }

    fn by(env: &TestEnv, first: &'static str) -> Self {
        let runtime = Runtime::new().unwrap();
        let options = SqliteConnectOptions::new().filename(env.path("gq.db"));
        let connection = runtime.block_on(async {
            let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
            sqlx::query(first).execute(&mut connection).await.unwrap();
            sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await.unwrap();
            connection
        });
        Self { runtime, connection }
    }

    fn release(mut self) {
        self.runtime.block_on(async {
            sqlx::query("ROLLBACK").execute(&mut self.connection).await.unwrap();
            self.connection.close().await.unwrap();
        });
    }
}

fn two_calls_in_flight() -> (TestEnv, Running) {
    let env = TestEnv::with_stand_in(&json!({"script": [{"first": 2, "hold": true}]}));
    env.prompts("in.jsonl", &["one", "two"]);
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    let worker = env.spawn(&["work"]);
    wait_until("calls that are held", LIMIT, || env.mock().stats().held == 2);
    (env, worker)
}

/// Sends the first signal and waits until it is taken.
fn stop(worker: &Running) {
    worker.signal(Signal::TERM);
    wait_until("the end to begin", LIMIT, || worker.stderr().contains("stopping"));
}

#[test]
fn answers_that_came_while_it_was_locked_are_recorded_before_a_worker_ends() {
    let (env, worker) = two_calls_in_flight();
    let lock = Held::of(&env);
    env.mock().release(None);
    wait_until("both answers", LIMIT, || env.mock().stats().in_flight == 0);
    stop(&worker);
    lock.release();
    worker.wait().exits(0);
    assert_eq!(column(&env.results(), "state"), ["succeeded", "succeeded"]);
    assert_eq!(env.calls(), 2);
}

#[test]
fn a_second_signal_ends_a_worker_that_cannot_record_its_answers() {
    let (env, worker) = two_calls_in_flight();
    let lock = Held::of(&env);
    env.mock().release(None);
    wait_until("both answers", LIMIT, || env.mock().stats().in_flight == 0);
    stop(&worker);
    worker.signal(Signal::TERM);
    let ended = worker.wait().exits(1);
    assert!(ended.stderr.contains("is locked by another process"), "{}", ended.stderr);
    assert!(ended.stderr.contains("could not be recorded"), "{}", ended.stderr);
    lock.release();
    env.gq(&["work", "--drain"]).exits(0);
    assert_eq!(column(&env.results(), "state"), ["succeeded", "succeeded"]);
    assert_eq!(env.calls(), 4);
}

#[test]
fn a_signal_ends_a_worker_that_has_nothing_to_record() {
    let env = TestEnv::with_stand_in(&json!({}));
    env.prompts("in.jsonl", &["one", "two"]);
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    let idle = env.spawn(&["work"]);
    wait_until("the end of all jobs", LIMIT, || env.status()["jobs"]["succeeded"] == json!(2));
    let lock = Held::of(&env);
    let starting = env.spawn(&["work", "-vvv"]);
    wait_until("a start", LIMIT, || !starting.stderr().is_empty());
    for worker in [idle, starting] {
        worker.signal(Signal::TERM);
        worker.wait().exits(0);
    }
    lock.release();
    assert_eq!(column(&env.results(), "state"), ["succeeded", "succeeded"]);
}

#[test]
fn what_a_turn_claims_after_the_stop_is_not_called() {
    let env = TestEnv::with_stand_in(&json!({"script": [{"first": 1, "hold": true}]}));
    env.prompts("in.jsonl", &["one", "two", "three"]);
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    let worker = env.spawn(&["work", "--workers", "1"]);
    wait_until("a call that is held", LIMIT, || env.mock().stats().held == 1);
    let lock = Held::of(&env);
    env.mock().release(None);
    wait_until("the answer", LIMIT, || env.mock().stats().in_flight == 0);
    stop(&worker);
    lock.release();
    worker.wait().exits(0);
    assert_eq!(env.calls(), 1);
    let jobs = env.status()["jobs"].clone();
    assert_eq!([&jobs["succeeded"], &jobs["pending"]], [&json!(1), &json!(2)]);
    assert_eq!(env.count("SELECT sum(deaths) FROM jobs"), 0);
}

#[test]
fn a_lock_that_keeps_readers_out_is_waited_for_at_the_start() {
    let env = TestEnv::with_stand_in(&json!({}));
    env.prompts("in.jsonl", &["one", "two"]);
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    let lock = Held::whole(&env);
    let worker = env.spawn(&["work", "--drain"]);
    wait_until("a word about the lock", LIMIT, || worker.stderr().contains("waiting"));
    lock.release();
    worker.wait().exits(0);
    assert_eq!(column(&env.results(), "state"), ["succeeded", "succeeded"]);
}

#[test]
fn a_question_that_cannot_be_stored_in_its_time_is_not_asked() {
    let env = TestEnv::with_stand_in(&json!({}));
    env.prompts("in.jsonl", &["one"]);
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    let lock = Held::of(&env);
    let ran = env.gq(&["ask", "Why?", "--timeout", "100ms"]).exits(5);
    assert!(ran.stderr.contains("another process holds the database"), "{}", ran.stderr);
    lock.release();
    assert_eq!(env.count("SELECT count(*) FROM jobs"), 1);
}
