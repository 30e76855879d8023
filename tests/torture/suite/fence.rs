//! A process that stands still beyond its lease, and hears of the failure of its call only when the job
//! is another's: that must change nothing.

use rustix::process::Signal;
use serde_json::json;

use super::checker;
use super::rig::Rig;
use super::support::{LIMIT, wait_until};

pub(crate) fn round(rig: &Rig) -> Vec<String> {
    let env = rig.env(json!({"script": [
        {"prompt_contains": "slow", "nth": 1, "hold": true, "reply": "invalid_argument"},
        {"prompt_contains": "slow", "nth": 2, "hold": true},
    ]}));
    env.prompts("in.jsonl", &["slow", "quick"]);
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    let first = env.spawn(&["work", "--lease", "1s", "--keys", "1"]);
    wait_until("the first call", LIMIT, || env.mock().stats().held == 1);
    wait_until("the other job", LIMIT, || env.status()["jobs"]["succeeded"] == 1);
    first.signal(Signal::STOP);
    let second = env.spawn(&["work", "--keys", "2"]);
    wait_until("the second call", LIMIT, || env.mock().stats().held == 2);
    env.mock().release(Some(1));
    wait_until("the failure", LIMIT, || env.mock().stats().held == 1);
    first.signal(Signal::CONT);
    wait_until("its record", LIMIT, || {
        env.count("SELECT count(*) FROM attempts WHERE outcome = 'invalid_request'") == 1
    });
    let state = env.show("t1")["state"].clone();
    env.mock().release(None);
    wait_until("the answer", LIMIT, || env.status()["jobs"]["succeeded"] == 2);
    for worker in [first, second] {
        worker.signal(Signal::TERM);
        worker.wait().exits(0);
    }
    let mut faults = checker::unsound(&checker::open(&env.path("gq.db")).unwrap());
    if state != "running" {
        faults.push(format!("a late failure made the job {state}"));
    }
    rig.search(env.folder());
    faults
}
