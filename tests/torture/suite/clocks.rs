//! A wall clock that jumps by a day and by ten years, forth and back, while calls are in flight and a key
//! rests.

use std::path::Path;

use rustix::process::Signal;
use serde_json::json;

use super::checker;
use super::rig::Rig;
use super::support::{LIMIT, Running, TestEnv, wait_until};

const DAY: i64 = 86_400;

/// How far the clock jumps, in seconds.
const JUMPS: [i64; 4] = [DAY, -DAY, 3_652 * DAY, -3_652 * DAY];

pub(crate) fn round(rig: &Rig) -> Vec<String> {
    let mut found = JUMPS.into_iter().map(|jump| (jump, jumped(rig, jump)));
    let first = found.find(|(_, faults)| !faults.is_empty());
    let (jump, faults) = first.unwrap_or_default();
    faults.into_iter().map(|fault| format!("a jump of {jump} s: {fault}")).collect()
}

fn set(clock: &Path, ahead: i64) {
    // In place: the processes have mapped the file.
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(clock);
    file.unwrap().write_all_at(&ahead.to_le_bytes(), 0).unwrap();
}

/// One process stands still with a call in flight, another works, and the clock jumps.
fn jumped(rig: &Rig, jump: i64) -> Vec<String> {
    let env = rig.env(json!({"script": [
        {"prompt_contains": "slow", "nth": 1, "hold": true},
        {"prompt_contains": "limited", "nth": 1, "reply": "rate_limit_minute", "retry_delay": "2s"},
    ]}));
    let clock = env.path("clock");
    set(&clock, 0);
    env.prompts("in.jsonl", &["slow", "quick"]);
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    // All processes of a machine have one clock.
    let start = |args: &[&str]| -> Running {
        let offset = [("CLOCK_OFFSET", clock.to_str().unwrap())];
        env.start(rig.command(&env, args, &offset))
    };
    let add = |prompt: &str| {
        let file = format!("{prompt}.jsonl");
        env.prompts(&file, &[prompt]);
        start(&["enqueue", &file]).wait().exits(0);
    };
    let still = start(&["work", "--keys", "1", "--lease", "10m"]);
    wait_until("the slow call", LIMIT, || env.mock().stats().held == 1);
    wait_until("the quick job", LIMIT, || env.status()["jobs"]["succeeded"] == 1);
    still.signal(Signal::STOP);
    let other = start(&["work", "--keys", "2"]);
    add("limited");
    wait_until("the refusal", LIMIT, || {
        env.count("SELECT count(*) FROM attempts WHERE outcome = 'rate_limited'") == 1
    });
    set(&clock, jump);
    // The rest of the key was set under one clock and ends under another.
    add("after");
    wait_until("the end of the rest", LIMIT, || env.status()["jobs"]["succeeded"] == 3);
    if jump > 0 {
        looked_often(&env, (now() + jump / 2) * 1000);
    }
    let mut faults = Vec::new();
    let slow = env.calls_about("slow");
    if slow != 1 {
        faults.push(format!("the call in flight was made {slow} times"));
    }
    env.mock().release(None);
    still.signal(Signal::CONT);
    wait_until("the slow answer", LIMIT, || env.status()["jobs"]["succeeded"] == 4);
    // What was noted under the wrong clock does no harm under the right one.
    set(&clock, 0);
    add("again");
    wait_until("a job by the right clock", LIMIT, || env.status()["jobs"]["succeeded"] == 5);
    for worker in [still, other] {
        worker.signal(Signal::TERM);
        worker.wait().exits(0);
    }
    let calls = env.calls();
    if calls != 6 {
        faults.push(format!("{calls} calls for 5 jobs, one of them refused once"));
    }
    faults.extend(checker::unsound(&checker::open(&env.path("gq.db")).unwrap()));
    rig.search(env.folder());
    faults
}

/// Waits until the other process has looked for leases that ran out, by a clock that says more than
/// `ahead`, as often as it takes: some five seconds lie between two of its heartbeats.
fn looked_often(env: &TestEnv, ahead: i64) {
    let heartbeat = || -> i64 {
        let connection = checker::open(&env.path("gq.db")).unwrap();
        let last = "SELECT max(heartbeat_at) FROM workers";
        connection.query_row(last, [], |row| row.get(0)).unwrap()
    };
    wait_until("a heartbeat by the new clock", LIMIT, || heartbeat() > ahead);
    let first = heartbeat();
    wait_until("the next heartbeat", LIMIT, || heartbeat() > first);
}

fn now() -> i64 {
    chrono::Utc::now().timestamp()
}
