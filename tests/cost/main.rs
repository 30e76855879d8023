//! What a job costs in things that can be counted: allocations, bytes written, syncs, statements. No time
//! is measured, so a machine that is busy or slow changes nothing.
//!
//! A bound is what was counted when it was set, and a tenth: a change that costs more has to say why.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails right there")]
#![expect(clippy::print_stdout, reason = "the figures are for whoever changes the bounds")]

#[path = "../disk/mod.rs"]
mod disk;
mod statements;
mod turns;

use std::alloc::System;
use std::path::Path;
use std::process::Command;

use gq::domain::input::NewJob;
use gq::store::{
    Access, Claimed, Ended, EnqueueOptions, FoundKey, OnConflict, Store, StoreError, WorkerId,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

use turns::{TOGETHER, answered};

#[global_allocator]
static COUNTED: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Turns that claim; as many settle.
const TURNS: usize = 20;

const JOBS: usize = TOGETHER * TURNS;

/// Says in the environment of a child process where its database is.
const CHILD: &str = "GQ_COST_DATABASE";

const PROMPT: &str = "What is the capital of a country that is large, has many rivers and lakes, \
    three neighbours, and a coast where it rains on most days of the year?";

fn main() {
    if let Some(database) = std::env::var_os(CHILD) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(work(Path::new(&database)));
    }
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.env(CHILD, folder.path().join("gq.db"));
    child
        .env("LD_PRELOAD", disk::build(folder.path()))
        .env("SYNC_COUNTS", folder.path().join("syncs"));
    assert!(child.status().unwrap().success());
}

/// What was counted since it began.
struct Count {
    region: Region<'static, System>,
    written: u64,
    syncs: u64,
}

impl Count {
    fn begin() -> Self {
        Self { region: Region::new(COUNTED), written: written(), syncs: syncs() }
    }

    /// Holds the allocations and bytes for each of `jobs` to their bounds, and the syncs of all.
    fn end(self, what: &str, jobs: usize, most: [f64; 2], wanted_syncs: u64) {
        #[expect(clippy::cast_precision_loss, reason = "a mean")]
        let mean = |number: u64| number as f64 / jobs as f64;
        let allocations = mean(u64::try_from(self.region.change().allocations).unwrap());
        let bytes = mean(written() - self.written);
        let syncs = syncs() - self.syncs;
        println!("{what}: {allocations:.1} allocations and {bytes:.0} bytes a job, {syncs} syncs");
        assert!(allocations <= most[0], "{what}: {allocations:.1} allocations a job");
        assert!(bytes <= most[1], "{what}: {bytes:.0} bytes written a job");
        assert_eq!(syncs, wanted_syncs, "{what}: syncs");
    }
}

/// Bytes that this process has handed to the system to be written.
fn written() -> u64 {
    let told = std::fs::read_to_string("/proc/self/io").unwrap();
    told.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap().parse().unwrap()
}

fn syncs() -> u64 {
    std::fs::metadata(std::env::var_os("SYNC_COUNTS").unwrap()).map_or(0, |counts| counts.len())
}

async fn work(database: &Path) {
    let store = Store::open(database, Access::Write).await.unwrap();
    let key = FoundKey { name: "KEY", secret: "key", is_sendable: true, settings: None };
    let keys = store.register_keys(&[key], gq::clock::now).await.unwrap();
    let keys: Vec<i64> = keys.iter().map(|key| key.id).collect();
    // What is made once is not counted: prepared statements, the first slot.
    enqueue(&store, "warm", TOGETHER).await;
    let warm = turn(&store, &keys, TOGETHER, Vec::new()).await;
    turn(&store, &keys, 0, warm.iter().map(answered).collect()).await;

    let count = Count::begin();
    enqueue(&store, "counted", JOBS).await;
    count.end("enqueue", JOBS, [13.5, 520.0], 1);

    let mut claimed = Vec::new();
    let count = Count::begin();
    for _ in 0..TURNS {
        claimed.push(turn(&store, &keys, TOGETHER, Vec::new()).await);
    }
    count.end("claim", JOBS, [5.2, 1_340.0], TURNS as u64);

    let count = Count::begin();
    for claimed in claimed {
        assert_eq!(claimed.len(), TOGETHER);
        turn(&store, &keys, 0, claimed.iter().map(answered).collect()).await;
    }
    count.end("settle", JOBS, [3.3, 2_490.0], TURNS as u64);
    count_statements(&store, &keys).await;
    store.close().await.unwrap();
}

/// Holds what a turn asks of SQLite to what it asked when this was written: each is a way to its thread
/// and back, and each row wakes the one that waits for it.
async fn count_statements(store: &Store, keys: &[i64]) {
    enqueue(store, "told", TOGETHER).await;
    let told = statements::count();
    let claimed = turn(store, keys, TOGETHER, Vec::new()).await;
    assert_eq!(claimed.len(), TOGETHER);
    told.end("a turn that claims", 5, 5);
    turn(store, keys, 0, claimed.iter().map(answered).collect()).await;
    told.end("a turn that settles", 5, 3);
}

async fn enqueue(store: &Store, batch: &str, jobs: usize) {
    let job = |number: usize| NewJob {
        task_id: format!("task_{number}"),
        line: number as u64 + 1,
        model: "gemini-2.5-flash".to_owned(),
        // Nobody need be careful with it.
        priority: 1,
        max_attempts: 5,
        not_before: None,
        stream: false,
        request: format!(r#"{{"contents":[{{"role":"user","parts":[{{"text":"{PROMPT}"}}]}}]}}"#),
        media: Vec::new(),
        metadata: Some(format!(r#"{{"task_id":"task_{number}"}}"#)),
        output: None,
        digest: [0; 16],
    };
    let jobs = (0..jobs).map(move |number| Ok::<_, StoreError>(job(number)));
    let options = EnqueueOptions {
        batch: batch.to_owned(),
        on_conflict: OnConflict::Refuse,
        now: gq::clock::now(),
    };
    store.enqueue(vec![(options, jobs)]).await.unwrap();
}

async fn turn(store: &Store, keys: &[i64], capacity: usize, ended: Vec<Ended>) -> Vec<Claimed> {
    let request = turns::request(WorkerId(1), keys, capacity, ended);
    store.turn(request, turns::policy()).await.unwrap().claimed
}
