//! How fast the queue is: `cargo bench`. Runs the real binary on generated input, prints a table.
//!
//! `GQ_BENCH_LINES` sets the number of lines of the large input (default 1,000,000). Of several runs of
//! one measure the fastest counts. The ratio
//! column compares with a baseline of the same run: writing and syncing the input's bytes for an
//! enqueue, the time of an empty `gq --version` for a status and a question.

#![expect(clippy::print_stdout, reason = "the table is what this is for")]
#![expect(clippy::expect_used, reason = "a benchmark that cannot go on ends")]

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use gq::domain::input::NewJob;
use gq::mock::MockServer;
use gq::mock::config::Config;
use gq::queue::{Queue, Said};
use gq::store::{Access, EnqueueOptions, OnConflict, Store, StoreError};
use tokio::net::TcpListener;

const DRAINED: u32 = 100_000;

fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let lines: u32 =
        std::env::var("GQ_BENCH_LINES").ok().and_then(|it| it.parse().ok()).unwrap_or(1_000_000);
    println!("{:<34} {:>14} {:>12} {:>10}", "measure", "figure", "baseline", "ratio");
    enqueue_and_status(folder.path(), lines);
    drain(folder.path());
    wake_ups(folder.path());
    pieces(folder.path());
    questions(folder.path());
}

fn gq(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gq"));
    command.current_dir(folder).env_clear().env("GEMINI_API_KEY", "benchmark-key-0123456789");
    command
}

fn enqueue_and_status(folder: &Path, lines: u32) {
    let file = folder.join("large.jsonl");
    let baseline = write_lines(&file, lines, "item");
    let enqueue = || {
        remove_database(folder);
        measured(gq(folder).args(["enqueue", "large.jsonl"]))
    };
    let (took, peak) = fastest(3, enqueue);
    let rate = f64::from(lines) / took.as_secs_f64();
    let plain = f64::from(lines) / baseline.as_secs_f64();
    row("enqueue, rows/s", rate, Some(plain));
    row("enqueue, peak memory in MB", peak, None);
    let (status, _) = fastest(5, || measured(gq(folder).args(["status", "--format", "json"])));
    let (version, _) = fastest(5, || measured(gq(folder).arg("--version")));
    row("status, ms", millis(status), Some(millis(version)));
    remove_database(folder);
    std::fs::remove_file(file).expect("the input is there");
}

fn remove_database(folder: &Path) {
    for part in ["", "-wal", "-shm"] {
        // The parts that a clean end removed are not there.
        let _ = std::fs::remove_file(folder.join(format!("gq.db{part}")));
    }
}

fn drain(folder: &Path) {
    write_lines(&folder.join("drained.jsonl"), DRAINED, "item");
    let (_, _) = measured(gq(folder).args(["enqueue", "drained.jsonl"]));
    let mut process = gq(folder)
        .args(["mock", "--port", "0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the stand-in starts");
    let mut url = String::new();
    let output = process.stdout.as_mut().expect("its output is piped");
    BufReader::new(output).read_line(&mut url).expect("it prints its address");
    let args = ["work", "--drain", "--workers", "64", "--base-url", url.trim()];
    let (took, peak) = measured(gq(folder).args(args));
    row("drain, 64 workers, jobs/s", f64::from(DRAINED) / took.as_secs_f64(), None);
    row("drain, peak memory in MB", peak, None);
    process.kill().expect("the stand-in runs");
    process.wait().expect("the stand-in ends");
}

/// Jobs that are added one by one for an idle worker of another process.
const WOKEN: u32 = 500;

/// How long an idle worker's use of the processor is measured.
const IDLE: Duration = Duration::from_secs(20);

/// From the end of a commit here to the arrival of the call that a worker elsewhere makes of it.
fn wake_ups(folder: &Path) {
    remove_database(folder);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let mock = runtime.block_on(stand_in("{}"));
    let store = runtime.block_on(Store::open(&folder.join("gq.db"), Access::Write));
    let store = store.expect("the database can be made");
    let mut worker = worker(folder, &mock);
    let mut times: Vec<Duration> = (0..WOKEN)
        .map(|number| {
            std::thread::sleep(Duration::from_millis(5));
            runtime.block_on(async {
                let options = EnqueueOptions {
                    batch: "woken".to_owned(),
                    on_conflict: OnConflict::Refuse,
                    now: gq::clock::now(),
                };
                let jobs = std::iter::once(Ok::<_, StoreError>(job(number)));
                store.enqueue(vec![(options, jobs)]).await.expect("the job is stored");
                let committed = Instant::now();
                mock.wait_until(|stats| stats.requests > u64::from(number)).await;
                committed.elapsed()
            })
        })
        .collect();
    percentiles("commit to call", &mut times);
    let before = processor_time(worker.id());
    std::thread::sleep(IDLE);
    let used = processor_time(worker.id()) - before;
    row("idle worker, % of a core", used / IDLE.as_secs_f64() * 100.0, None);
    worker.kill().expect("the worker runs");
    worker.wait().expect("the worker ends");
}

async fn stand_in(config: &str) -> MockServer {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let config = Config::from_json(config).expect("the configuration is valid");
    MockServer::start(listener, config).expect("the stand-in starts")
}

fn worker(folder: &Path, mock: &MockServer) -> Child {
    let mut command = gq(folder);
    command.args(["work", "--base-url", &mock.url()]).stderr(Stdio::null());
    command.spawn().expect("the worker starts")
}

fn percentiles(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    row(&format!("{what}, p50, ms"), millis(times[times.len() / 2]), None);
    row(&format!("{what}, p99, ms"), millis(times[times.len() * 99 / 100]), None);
}

/// Pieces of a streamed answer.
const PIECES: usize = 500;

/// From the moment the API sends a piece of an answer to the worker of another process until it is
/// read here from the database.
fn pieces(folder: &Path) {
    remove_database(folder);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let text = "word".repeat(PIECES);
    let config = format!(
        r#"{{"stream": {{"chunk_chars": 4}}, "script": [{{"hold_chunks": true, "text": "{text}"}}]}}"#
    );
    let mut times = runtime.block_on(async {
        let mock = stand_in(&config).await;
        let queue = Queue::open(folder.join("gq.db")).await.expect("the database can be made");
        let mut worker = worker(folder, &mock);
        let job = serde_json::json!({"prompt": "x", "stream": true});
        let task = queue.enqueue("pieces", &job).await.expect("the job is stored");
        let mut said = std::pin::pin!(queue.text_stream(&task));
        let mut times = Vec::new();
        for _ in 0..PIECES {
            mock.wait_until(|stats| stats.held == 1).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
            mock.release(Some(1));
            let sent = Instant::now();
            let said = said.next().await.expect("more comes").expect("it can be read");
            times.push(sent.elapsed());
            assert_eq!(said, Said::Text("word".to_owned()));
        }
        worker.kill().expect("the worker runs");
        worker.wait().expect("the worker ends");
        times
    });
    percentiles("piece sent to read", &mut times);
}

/// Questions that are asked.
const QUESTIONS: usize = 30;

/// A whole `gq ask` without a worker, and how long it takes to be the next call of a busy queue.
fn questions(folder: &Path) {
    remove_database(folder);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let mock =
        runtime.block_on(stand_in(r#"{"script": [{"prompt_contains": "bulk", "hold": true}]}"#));
    let ask = || {
        let args = ["ask", "--format", "json", "--base-url", &mock.url(), "Why?"];
        measured(gq(folder).args(args).stdin(Stdio::null())).0
    };
    let (version, _) = fastest(5, || measured(gq(folder).arg("--version")));
    let mut times: Vec<Duration> = (0..QUESTIONS).map(|_| ask()).collect();
    times.sort_unstable();
    row("ask without a worker, p50, ms", millis(times[QUESTIONS / 2]), Some(millis(version)));
    let bulk = folder.join("bulk.jsonl");
    write_lines(&bulk, DRAINED, "bulk");
    measured(gq(folder).args(["enqueue", "bulk.jsonl"]));
    let mut worker = worker(folder, &mock);
    runtime.block_on(mock.wait_until(|stats| stats.held == 4));
    let mut times: Vec<Duration> = (0..QUESTIONS).map(|_| ask()).collect();
    times.sort_unstable();
    row("ask before 100,000 due jobs, ms", millis(times[QUESTIONS / 2]), Some(millis(version)));
    worker.kill().expect("the worker runs");
    worker.wait().expect("the worker ends");
}

fn job(number: u32) -> NewJob {
    NewJob {
        task_id: number.to_string(),
        line: u64::from(number) + 1,
        model: "gemini-2.5-flash".to_owned(),
        priority: 0,
        max_attempts: 5,
        not_before: None,
        stream: false,
        request: format!(r#"{{"contents":[{{"parts":[{{"text":"{number}"}}]}}]}}"#),
        media: Vec::new(),
        metadata: None,
        output: None,
        digest: [0; 16],
    }
}

/// Returns the seconds that a process has computed; Linux counts them in hundredths.
fn processor_time(process: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|it| it.parse::<f64>().ok());
    (ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)) / 100.0
}

/// Writes lines of about 300 bytes and returns how long that took, to disk.
fn write_lines(path: &PathBuf, lines: u32, noun: &str) -> Duration {
    let started = Instant::now();
    let mut file = BufWriter::new(File::create(path).expect("the input can be made"));
    let filler = "x".repeat(190);
    for number in 0..lines {
        writeln!(
            file,
            r#"{{"prompt": "What is {noun} {number}? {filler}", "metadata": {{"task_id": "task_{number}", "category": "benchmark"}}}}"#
        )
        .expect("there is room");
    }
    let file = file.into_inner().expect("there is room");
    file.sync_all().expect("there is room");
    started.elapsed()
}

fn fastest(runs: usize, run: impl Fn() -> (Duration, f64)) -> (Duration, f64) {
    (0..runs).map(|_| run()).min_by_key(|(took, _)| *took).expect("one run at least")
}

/// Runs a command to its end; returns its time and its peak memory in megabytes.
fn measured(command: &mut Command) -> (Duration, f64) {
    let started = Instant::now();
    let mut child =
        command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().expect("gq starts");
    let ended = AtomicBool::new(false);
    let id = child.id();
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peak = 0.0_f64;
            while !ended.load(Ordering::Relaxed) {
                peak = peak.max(peak_memory(id));
                std::thread::sleep(Duration::from_millis(10));
            }
            peak
        });
        let status = child.wait().expect("gq can be waited for");
        let took = started.elapsed();
        ended.store(true, Ordering::Relaxed);
        assert!(status.success(), "{status}");
        (took, watch.join().expect("memory can be watched"))
    })
}

fn peak_memory(process: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("");
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1024.0
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn row(measure: &str, figure: f64, baseline: Option<f64>) {
    match baseline {
        Some(baseline) => {
            println!("{measure:<34} {figure:>14.1} {baseline:>12.1} {:>10.2}", figure / baseline);
        }
        None => println!("{measure:<34} {figure:>14.1} {:>12} {:>10}", "-", "-"),
    }
}
