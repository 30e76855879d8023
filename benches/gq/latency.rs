//! What a person or a program waits for: wake-ups, text as it comes, questions.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use gq::domain::input::NewJob;
use gq::mock::MockServer;
use gq::mock::config::Config;
use gq::queue::{Queue, Said};
use gq::store::{Access, EnqueueOptions, OnConflict, Store, StoreError};
use tokio::net::TcpListener;

use crate::input;
use crate::process::{Killed, fastest, gq, measured, millis, processor_time, remove_database};
use crate::report::{Bound, Report};

/// Jobs that are added one by one for an idle worker of another process.
const WOKEN: u32 = 500;

/// How long an idle worker's use of the processor is measured.
const IDLE: Duration = Duration::from_secs(20);

/// From the end of a commit here to the arrival of the call that a worker elsewhere makes of it.
pub(crate) fn wake_ups(folder: &Path, report: &mut Report) {
    remove_database(folder);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let mock = runtime.block_on(stand_in("{}"));
    let store = runtime.block_on(Store::open(&folder.join("gq.db"), Access::Write));
    let store = store.expect("the database can be made");
    let worker = worker(folder, &mock);
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
    percentiles(report, "commit to call", &mut times, [1.5, 5.0]);
    let before = processor_time(worker.0.id());
    std::thread::sleep(IDLE);
    let used = processor_time(worker.0.id()) - before;
    let share = used / IDLE.as_secs_f64() * 100.0;
    report.figure("idle worker, % of a core", share, Some(Bound::AtMost(0.5)));
}

pub(crate) async fn stand_in(config: &str) -> MockServer {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let config = Config::from_json(config).expect("the configuration is valid");
    MockServer::start(listener, config).expect("the stand-in starts")
}

fn worker(folder: &Path, mock: &MockServer) -> Killed {
    let mut command = gq(folder);
    command.args(["work", "--base-url", &mock.url()]).stderr(Stdio::null());
    Killed(command.spawn().expect("the worker starts"))
}

/// Tells the median and the slowest hundredth, and what they may be.
fn percentiles(report: &mut Report, what: &str, times: &mut [Duration], wanted: [f64; 2]) {
    times.sort_unstable();
    for ((name, place), wanted) in [("p50", 50), ("p99", 99)].into_iter().zip(wanted) {
        let time = millis(times[times.len() * place / 100]);
        report.figure(&format!("{what}, {name}, ms"), time, Some(Bound::AtMost(wanted)));
    }
}

/// Pieces of a streamed answer.
const PIECES: usize = 500;

/// From the moment the API sends a piece of an answer to the worker of another process until it is
/// read here from the database.
pub(crate) fn pieces(folder: &Path, report: &mut Report) {
    remove_database(folder);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let text = "word".repeat(PIECES);
    let config = format!(
        r#"{{"stream": {{"chunk_chars": 4}}, "script": [{{"hold_chunks": true, "text": "{text}"}}]}}"#
    );
    let mut times = runtime.block_on(async {
        let mock = stand_in(&config).await;
        let queue = Queue::open(folder.join("gq.db")).await.expect("the database can be made");
        let worker = worker(folder, &mock);
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
        drop(worker);
        times
    });
    percentiles(report, "piece sent to read", &mut times, [8.0, 8.0]);
}

/// Jobs that are due while a question is asked.
const BULK: u32 = 100_000;

/// Questions that are asked.
const QUESTIONS: usize = 30;

/// A whole `gq ask` without a worker, and how long it takes to be the next call of a busy queue.
pub(crate) fn questions(folder: &Path, report: &mut Report) {
    remove_database(folder);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let mock =
        runtime.block_on(stand_in(r#"{"script": [{"prompt_contains": "item", "hold": true}]}"#));
    let ask = || {
        let args = ["ask", "--format", "json", "--base-url", &mock.url(), "Why?"];
        measured(gq(folder).args(args).stdin(Stdio::null())).took
    };
    let version = millis(fastest(5, || measured(gq(folder).arg("--version"))).took);
    let mut times: Vec<Duration> = (0..QUESTIONS).map(|_| ask()).collect();
    times.sort_unstable();
    let median = millis(times[QUESTIONS / 2]);
    report.figure("empty `gq --version`, ms", version, None);
    report.figure("ask without a worker, p50, ms", median, Some(Bound::AtMost(30.0)));
    let bulk = folder.join("bulk.jsonl");
    input::write_lines(&bulk, BULK);
    measured(gq(folder).args(["enqueue", "bulk.jsonl"]));
    let _worker = worker(folder, &mock);
    runtime.block_on(mock.wait_until(|stats| stats.held == 4));
    let mut times: Vec<Duration> = (0..QUESTIONS).map(|_| ask()).collect();
    times.sort_unstable();
    report.figure("ask before 100,000 due jobs, p50, ms", millis(times[QUESTIONS / 2]), None);
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
