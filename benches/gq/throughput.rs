//! Rows and calls in bulk: adding, working, printing, and what they take on the disk.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::process::{Killed, Run, StandIn, fastest, gq, measured, remove_database};
use crate::report::{Bound, Report};
use crate::{baseline, disk, input};

/// Jobs of a drain without delay.
const DRAINED: u32 = 100_000;

/// Jobs of a drain whose server takes its time.
const DELAYED: u32 = 50_000;

/// The time that it takes.
const DELAY: Duration = Duration::from_millis(200);

/// Calls at once to it.
const MANY: u16 = 500;

/// What a slow disk adds to each sync.
const SLOW_SYNC: Duration = Duration::from_millis(10);

pub(crate) fn enqueue(folder: &Path, lines: u32, report: &mut Report) {
    input::write_lines(&folder.join("large.jsonl"), lines);
    let enqueue = fastest(3, || {
        remove_database(folder);
        measured(gq(folder).args(["enqueue", "large.jsonl"]))
    });
    let plain = (0..3).map(|_| baseline::plain_sqlite(folder, lines)).min();
    let rate = |took: Duration| f64::from(lines) / took.as_secs_f64();
    let plain = rate(plain.expect("three runs"));
    report.ratio("enqueue, rows/s", rate(enqueue.took), plain, Some(Bound::AtLeast(0.5)));
    report.figure("enqueue, rows/s", rate(enqueue.took), Some(Bound::AtLeast(300_000.0)));
    report.figure("enqueue, peak memory, MB", enqueue.memory, Some(Bound::AtMost(40.0)));
    remove_database(folder);
    std::fs::remove_file(folder.join("large.jsonl")).expect("the input is there");
}

pub(crate) fn drain(folder: &Path, report: &mut Report) {
    input::write_lines(&folder.join("drained.jsonl"), DRAINED);
    let stand_in = StandIn::start(folder, &[]);
    for workers in [64, 256] {
        // In turn, so that a machine that slows down slows both.
        let runs: Vec<(Run, Run)> = (0..2)
            .map(|_| {
                let bare = baseline::client(&stand_in.url, workers, DRAINED);
                (bare, work_off(folder, &stand_in, workers, &mut gq(folder)))
            })
            .collect();
        let best = |of: fn(&(Run, Run)) -> f64| runs.iter().map(of).fold(f64::INFINITY, f64::min);
        let rate = |of| f64::from(DRAINED) / best(of);
        let cost = |of| best(of) * 1e6 / f64::from(DRAINED);
        report.ratio(
            &format!("drain, {workers} workers, jobs/s"),
            rate(|run| run.1.took.as_secs_f64()),
            rate(|run| run.0.took.as_secs_f64()),
            Some(Bound::AtLeast(0.8)),
        );
        report.ratio(
            &format!("drain, {workers} workers, µs of processor a job"),
            cost(|run| run.1.processor),
            cost(|run| run.0.processor),
            Some(Bound::AtMost(1.4)),
        );
        report.figure(
            &format!("drain, {workers} workers, peak memory, MB"),
            runs.iter().map(|run| run.1.memory).fold(0.0, f64::max),
            Some(Bound::AtMost(50.0)),
        );
    }
    disk(folder, report);
    slow_disk(folder, &stand_in, report);
}

/// Adds the jobs and works them off by `command`.
fn work_off(folder: &Path, stand_in: &StandIn, workers: usize, command: &mut Command) -> Run {
    remove_database(folder);
    measured(gq(folder).args(["enqueue", "drained.jsonl"]));
    measured(command.args(drain_args(stand_in, &workers.to_string())))
}

fn drain_args<'a>(stand_in: &'a StandIn, workers: &'a str) -> [&'a str; 6] {
    ["work", "--drain", "--workers", workers, "--base-url", &stand_in.url]
}

/// What a finished job takes on the disk beyond its request, metadata and answer.
fn disk(folder: &Path, report: &mut Report) {
    let connection = rusqlite::Connection::open(folder.join("gq.db")).expect("a database");
    let payload = connection.query_one(
        "SELECT (SELECT sum(octet_length(request) + octet_length(metadata)) FROM inputs)
              + (SELECT sum(octet_length(raw)) FROM answers)",
        [],
        |row| row.get::<_, i64>(0),
    );
    #[expect(clippy::cast_precision_loss, reason = "a mean")]
    let mean = |bytes: i64| bytes as f64 / f64::from(DRAINED);
    let payload = payload.expect("the jobs are there");
    let file = std::fs::metadata(folder.join("gq.db")).expect("the database is there").len();
    let beyond = i64::try_from(file).unwrap_or(i64::MAX) - payload;
    report.figure("disk beyond the payload, bytes a job", mean(beyond), Some(Bound::AtMost(350.0)));
    report.figure("payload, bytes a job", mean(payload), None);
}

/// A drain on a disk whose syncs take longer, beside the same without.
fn slow_disk(folder: &Path, stand_in: &StandIn, report: &mut Report) {
    let library = disk::build(folder);
    let fast = work_off(folder, stand_in, 256, &mut gq(folder));
    let mut slowed = gq(folder);
    slowed.env("LD_PRELOAD", library).env("SYNC_DELAY_US", SLOW_SYNC.as_micros().to_string());
    let slow = work_off(folder, stand_in, 256, &mut slowed);
    let rate = |run: Run| f64::from(DRAINED) / run.took.as_secs_f64();
    let wanted = Some(Bound::AtLeast(0.9));
    report.ratio("drain, each sync 10 ms later, jobs/s", rate(slow), rate(fast), wanted);
}

/// A server that takes its time: only what runs at once counts.
pub(crate) fn delayed(folder: &Path, report: &mut Report) {
    remove_database(folder);
    input::write_lines(&folder.join("delayed.jsonl"), DELAYED);
    measured(gq(folder).args(["enqueue", "delayed.jsonl"]));
    let config = format!(r#"{{"latency_ms": {}}}"#, DELAY.as_millis());
    std::fs::write(folder.join("delayed.json"), config).expect("there is room");
    let stand_in = StandIn::start(folder, &["--config", "delayed.json"]);
    let bare = baseline::client(&stand_in.url, MANY.into(), DELAYED);
    // A key of unknown limits begins with one call, and doubles.
    let care = measured(gq(folder).args(drain_args(&stand_in, &MANY.to_string())));
    remove_database(folder);
    measured(gq(folder).args(["enqueue", "delayed.jsonl"]));
    let mut paid = gq(folder);
    paid.env("GEMINI_API_KEY_TIER", "paid");
    let run = measured(paid.args(drain_args(&stand_in, &MANY.to_string())));
    let rate = |run: Run| f64::from(DELAYED) / run.took.as_secs_f64();
    let most = f64::from(MANY) / DELAY.as_secs_f64();
    let wanted = Some(Bound::AtLeast(0.97));
    report.ratio("drain, 200 ms delay, 500 workers, jobs/s", in_step(folder), most, wanted);
    report.ratio("the same from start to end, jobs/s", rate(run), most, None);
    report.ratio("the same, key of unknown limits, jobs/s", rate(care), most, None);
    report.ratio("the bare client there, calls/s", rate(bare), most, None);
}

/// How many jobs a second ended once all places were taken: a run begins with few calls, since
/// nobody knows what the key may take, and ends with few.
fn in_step(folder: &Path) -> f64 {
    let connection = rusqlite::Connection::open(folder.join("gq.db")).expect("a database");
    let milliseconds: u32 = connection
        .query_one(
            "SELECT (SELECT ended_at FROM attempts ORDER BY ended_at LIMIT 1 OFFSET ?1 * 9 / 10)
                  - (SELECT ended_at FROM attempts ORDER BY ended_at LIMIT 1 OFFSET ?1 * 2 / 10)",
            [DELAYED],
            |row| row.get(0),
        )
        .expect("the attempts are there");
    f64::from(DELAYED * 7 / 10) / (f64::from(milliseconds) / 1000.0)
}

/// The log while jobs are worked off and others look on all the time.
pub(crate) fn log(folder: &Path, jobs: u32, report: &mut Report) {
    remove_database(folder);
    input::write_lines(&folder.join("logged.jsonl"), jobs);
    measured(gq(folder).args(["enqueue", "logged.jsonl"]));
    let stand_in = StandIn::start(folder, &[]);
    let readers = [["status", "--watch"], ["results", "--follow"]].map(|args| {
        let mut command = gq(folder);
        command.args(args).stdout(Stdio::null()).stderr(Stdio::null());
        Killed(command.spawn().expect("gq starts"))
    });
    let path = folder.join("gq.db-wal");
    let ended = AtomicBool::new(false);
    let largest = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut largest = 0;
            while !ended.load(Ordering::Relaxed) {
                largest = largest.max(std::fs::metadata(&path).map_or(0, |data| data.len()));
                std::thread::sleep(Duration::from_millis(5));
            }
            largest
        });
        measured(gq(folder).args(drain_args(&stand_in, "64")));
        ended.store(true, Ordering::Relaxed);
        watch.join().expect("a file can be watched")
    });
    drop(readers);
    #[expect(clippy::cast_precision_loss, reason = "megabytes")]
    let megabytes = largest as f64 / 1e6;
    let measure = format!("largest log, {jobs} jobs with readers, MB");
    report.figure(&measure, megabytes, Some(Bound::AtMost(64.0)));
}
