//! What the queue is compared with: SQLite alone, and an HTTP client alone.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use crate::input;
use crate::process::{Run, measured};

/// The first argument of a process that is nothing but a client.
pub(crate) const CLIENT: &str = "bare-client";

/// Inserts the rows of `lines` jobs in one transaction, one prepared statement a row: what each
/// program does that keeps nothing but the rows. Returns how long it took, to disk.
pub(crate) fn plain_sqlite(folder: &Path, lines: u32) -> Duration {
    let path = folder.join("plain.db");
    let mut connection = rusqlite::Connection::open(&path).expect("a database can be made");
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             CREATE TABLE jobs (id INTEGER PRIMARY KEY, task_id TEXT NOT NULL, metadata TEXT,
                                request TEXT NOT NULL)",
        )
        .expect("a table can be made");
    let started = Instant::now();
    let transaction = connection.transaction().expect("nobody else writes");
    {
        let mut insert = transaction
            .prepare("INSERT INTO jobs (task_id, metadata, request) VALUES (?1, ?2, ?3)")
            .expect("the table is there");
        for number in 0..lines {
            let row = (input::task_id(number), input::metadata(number), input::request(number));
            insert.execute(row).expect("there is room");
        }
    }
    transaction.commit().expect("there is room");
    let took = started.elapsed();
    drop(connection);
    std::fs::remove_file(path).expect("the database is there");
    took
}

/// Runs the bare client in a process of its own.
pub(crate) fn client(url: &str, workers: usize, calls: u32) -> Run {
    let mut command = Command::new(std::env::current_exe().expect("this is a program"));
    measured(command.args([CLIENT, url, &workers.to_string(), &calls.to_string()]))
}

/// Makes calls and takes their answers, and nothing else.
pub(crate) fn be_client(args: &[String]) {
    let [url, workers, calls] = args else { panic!("{CLIENT} URL WORKERS CALLS") };
    let left = Arc::new(AtomicI64::new(calls.parse().expect("a number of calls")));
    let workers: usize = workers.parse().expect("a number of workers");
    let url = format!("{url}/v1beta/models/gemini-2.5-flash:generateContent");
    // Fails only where a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .tls_certs_only(std::iter::empty())
        .no_proxy()
        .tcp_nodelay(true)
        .build()
        .expect("a client can be built");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    runtime.block_on(async {
        let loops = (0..workers).map(|_| {
            let (client, url, left) = (client.clone(), url.clone(), left.clone());
            tokio::spawn(async move {
                loop {
                    let number = left.fetch_sub(1, Ordering::Relaxed);
                    let Ok(number @ 1..) = u32::try_from(number) else { return };
                    let call = client
                        .post(&url)
                        .header("x-goog-api-key", "benchmark-key-0123456789")
                        .header("content-type", "application/json")
                        .body(input::request(number))
                        .send();
                    let answer = call.await.expect("the stand-in answers");
                    assert_eq!(answer.status(), 200);
                    answer.bytes().await.expect("the stand-in answers");
                }
            })
        });
        for done in loops.collect::<Vec<_>>() {
            done.await.expect("a client does not panic");
        }
    });
}
