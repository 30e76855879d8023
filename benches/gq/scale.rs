//! The same at a thousand rows and at millions.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::input;
use crate::latency::stand_in;
use crate::process::{Killed, StandIn, fastest, gq, measured, millis, remove_database};
use crate::report::{Bound, Report};
use crate::stages::Turns;

/// Turns whose median is the cost of a claim.
const TURNS: usize = 12;

/// Calls that a worker makes whose memory is measured.
const CALLS: &str = "20000";

pub(crate) fn scale(folder: &Path, sizes: &[u32], report: &mut Report) {
    let mut first = None;
    for rows in sizes {
        let claim = queue_of(folder, *rows, report);
        report.ratio(
            &format!("claim of 64 jobs of {rows}, ms"),
            millis(claim),
            millis(*first.get_or_insert(claim)),
            Some(Bound::AtMost(1.3)),
        );
    }
    remove_database(folder);
}

/// Tells what there is to tell of a queue of one length, and returns what a claim takes there.
fn queue_of(folder: &Path, rows: u32, report: &mut Report) -> Duration {
    remove_database(folder);
    let file = folder.join("scaled.jsonl");
    input::write_lines(&file, rows);
    measured(gq(folder).args(["enqueue", "scaled.jsonl", "--priority", "1"]));
    std::fs::remove_file(file).expect("the input is there");
    // What the system still writes of the input and the queue holds up nothing that is measured.
    rustix::fs::sync();
    let status = fastest(5, || measured(gq(folder).args(["status", "--format", "json"])));
    let wanted = Some(Bound::AtMost(15.0));
    report.figure(&format!("status of {rows} jobs, ms"), millis(status.took), wanted);
    let start = millis(worker_start(folder));
    let wanted = Some(Bound::AtMost(100.0));
    report.figure(&format!("worker start to first call, {rows} jobs, ms"), start, wanted);
    let turns = Turns::open(&folder.join("gq.db"));
    let claim = turns.claim_time(TURNS);
    turns.close();
    if rows > 100_000 {
        let stand_in = StandIn::start(folder, &[]);
        let args =
            ["work", "--workers", "256", "--max-requests", CALLS, "--base-url", &stand_in.url];
        let worker = measured(gq(folder).args(args));
        let wanted = Some(Bound::AtMost(50.0));
        let measure = format!("worker's peak memory, 256 in flight of {rows}, MB");
        report.figure(&measure, worker.memory, wanted);
    }
    claim
}

/// From the start of a worker's process to the arrival of its first call.
fn worker_start(folder: &Path) -> Duration {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let mock = runtime.block_on(stand_in(r#"{"script": [{"hold": true}]}"#));
    let once = |before: u64| {
        let started = Instant::now();
        let mut command = gq(folder);
        command.args(["work", "--workers", "1", "--base-url", &mock.url()]).stderr(Stdio::null());
        let worker = Killed(command.spawn().expect("the worker starts"));
        runtime.block_on(mock.wait_until(|stats| stats.requests > before));
        let took = started.elapsed();
        drop(worker);
        took
    };
    (0..3).map(once).min().expect("three runs")
}
