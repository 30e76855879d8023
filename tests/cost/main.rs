//! What a job costs in things that can be counted: allocations, bytes written, syncs. No time is
//! measured, so a machine that is busy or slow changes nothing.
//!
//! A bound is what was counted when it was set, and a tenth: a change that costs more has to say why.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails right there")]
#![expect(clippy::print_stdout, reason = "the figures are for whoever changes the bounds")]

use std::alloc::System;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use gq::domain::input::NewJob;
use gq::domain::limits::GivenLimits;
use gq::domain::outcome::{Outcome, Paid, Usage};
use gq::domain::pacing::OnUnknown;
use gq::domain::slot::Rests;
use gq::store::{
    Access, Budget, Claimed, Ended, EnqueueOptions, FoundKey, OnConflict, Policy, Scope, Store,
    StoreError, TurnRequest, WorkerId,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static COUNTED: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Jobs that a turn claims or settles.
const TOGETHER: usize = 64;

/// Turns that claim; as many settle.
const TURNS: usize = 20;

const JOBS: usize = TOGETHER * TURNS;

/// Says in the environment of a child process where its database is.
const CHILD: &str = "GQ_COST_DATABASE";

const PROMPT: &str = "What is the capital of a country that is large, has many rivers and lakes, \
    three neighbours, and a coast where it rains on most days of the year?";

const ANSWER: &str = r#"{"candidates":[{"content":{"parts":[{"text":"The capital."}],"role":"model"},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":60,"candidatesTokenCount":3,"totalTokenCount":63},"modelVersion":"gemini-2.5-flash","responseId":"0123456789abcdef"}"#;

fn main() {
    if let Some(database) = std::env::var_os(CHILD) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(work(Path::new(&database)));
    }
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("disk.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/disk.c");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source);
    assert!(compiler.status().unwrap().success());
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.env(CHILD, folder.path().join("gq.db"));
    child.env("LD_PRELOAD", library).env("SYNC_COUNTS", folder.path().join("syncs"));
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
    count.end("claim", JOBS, [7.7, 1_310.0], TURNS as u64);

    let count = Count::begin();
    for claimed in claimed {
        assert_eq!(claimed.len(), TOGETHER);
        turn(&store, &keys, 0, claimed.iter().map(answered).collect()).await;
    }
    count.end("settle", JOBS, [5.4, 2_570.0], TURNS as u64);
    store.close().await.unwrap();
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
    let request = TurnRequest {
        worker: WorkerId(1),
        moment: gq::clock::moment,
        ended,
        last_call: None,
        prepared: Vec::new(),
        capacity,
        bulk: capacity,
        pieces: Vec::new(),
        room: 8,
        uploading: Vec::new(),
        hashing: Vec::new(),
        keys: keys.to_vec(),
        in_flight: Vec::new(),
        audit: false,
        rebase: false,
        dead: Vec::new(),
    };
    let policy = Policy {
        scope: Scope::All,
        lease: Duration::from_mins(10),
        rests: Rests {
            exhausted_wait: Duration::from_mins(2),
            fully_exhausted_wait: Duration::from_hours(12),
            max_exhausted_retries: 3,
        },
        limits: GivenLimits::default(),
        key_cooldown: Duration::ZERO,
        api_call_interval: Duration::ZERO,
        on_unknown: OnUnknown::Retry,
        budget: Budget::default(),
        inline_limit: 20_000_000,
        api: "http://api".into(),
    };
    store.turn(request, policy).await.unwrap().claimed
}

fn answered(claimed: &Claimed) -> Ended {
    Ended {
        job: claimed.job,
        claim: claimed.claim,
        key: claimed.key,
        model: claimed.model,
        started_at: claimed.claimed_at,
        ended_at: gq::clock::now(),
        outcome: Outcome::Answered,
        http_status: Some(200),
        message: None,
        paid: Paid::Yes,
        usage: Some(Usage { total_tokens: 63, prompt_tokens: 60, ..Usage::default() }),
        cost: 0,
        lost_uploads: Vec::new(),
        claimed_at: claimed.claimed_at,
        reserved: claimed.reserved,
        plain_tokens: 60,
        quotas: Vec::new(),
        consumer: None,
        raw: Some(ANSWER.into()),
        jitter: 0.0,
    }
}
