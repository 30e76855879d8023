//! What a job costs by stage, and what a claim costs in a queue of any length.

use std::path::Path;
use std::time::{Duration, Instant};

use gq::domain::limits::GivenLimits;
use gq::domain::outcome::Outcome;
use gq::gemini::client::{ApiKey, Client, ClientOptions};
use gq::store::{Access, Claimed, Ended, FoundKey, Registration, Store};
use tokio::runtime::Runtime;

use crate::process::{StandIn, gq, measured, processor_time, remove_database};
use crate::report::Report;
use crate::turns::{TOGETHER, answered};
use crate::{input, turns};

/// Jobs whose stages are counted.
const JOBS: u32 = 40_000;

/// The store as a worker uses it. Its jobs have a priority above 0: none has to be careful.
pub(crate) struct Turns {
    runtime: Runtime,
    store: Store,
    registration: Registration,
    keys: Vec<i64>,
}

impl Turns {
    pub(crate) fn open(database: &Path) -> Self {
        let runtime = Runtime::new().expect("a runtime starts");
        let (store, registration, keys) = runtime.block_on(async {
            let store = Store::open(database, Access::Write).await.expect("a database");
            let limits = GivenLimits::default();
            let worker = store.register_worker(1, &limits, gq::clock::now());
            let registration = worker.await.expect("a worker can be registered");
            let key =
                FoundKey { name: "BENCH", secret: "bench", is_sendable: true, settings: None };
            let keys = store.register_keys(&[key], gq::clock::now).await.expect("there is room");
            (store, registration, keys.iter().map(|key| key.id).collect())
        });
        Self { runtime, store, registration, keys }
    }

    fn turn(&self, capacity: usize, ended: Vec<Ended>) -> Vec<Claimed> {
        let request = turns::request(self.registration.worker, &self.keys, capacity, ended);
        let turn = self.store.turn(request, turns::policy());
        self.runtime.block_on(turn).expect("there is room").claimed
    }

    /// Claims jobs in turns and settles none; returns the time of the median turn.
    pub(crate) fn claim_time(&self, turns: usize) -> Duration {
        let mut times: Vec<Duration> = (0..turns)
            .map(|_| {
                let started = Instant::now();
                let claimed = self.turn(TOGETHER, Vec::new()).len();
                assert_eq!(claimed, TOGETHER);
                let took = started.elapsed();
                self.turn(0, Vec::new());
                took
            })
            .collect();
        times.sort_unstable();
        times[times.len() / 2]
    }

    pub(crate) fn close(self) {
        self.runtime.block_on(async {
            self.store.deregister(self.registration).await.expect("there is room");
            self.store.close().await.expect("the database closes");
        });
    }
}

/// Tells the processor's time of each stage of a job's life in turns of 64.
pub(crate) fn cost_by_stage(folder: &Path, report: &mut Report) {
    remove_database(folder);
    input::write_lines(&folder.join("stages.jsonl"), JOBS);
    measured(gq(folder).args(["enqueue", "stages.jsonl", "--priority", "1"]));
    let store = Turns::open(&folder.join("gq.db"));
    let (mut claim, mut settle) = (0.0, 0.0);
    let own = || processor_time(std::process::id());
    for _ in 0..JOBS as usize / TOGETHER {
        let before = own();
        let claimed = store.turn(TOGETHER, Vec::new());
        let between = own();
        store.turn(0, claimed.iter().map(answered).collect());
        claim += between - before;
        settle += own() - between;
    }
    store.close();
    let a_job = |seconds: f64| seconds * 1e6 / f64::from(JOBS);
    report.figure("claim, µs of processor a job", a_job(claim), None);
    report.figure("request, µs of processor a job", a_job(requests(folder)), None);
    report.figure("settle, µs of processor a job", a_job(settle), None);
}

/// Returns the seconds that this process computes for the calls of the jobs.
fn requests(folder: &Path) -> f64 {
    let stand_in = StandIn::start(folder, &[]);
    let client = Client::new(&ClientOptions {
        base_url: stand_in.url.clone(),
        request_timeout: Duration::from_mins(1),
        proxy: None,
        plain: true,
        direct: true,
    });
    let (client, key) = (client.expect("a client"), ApiKey::new("benchmark-key-0123456789"));
    let before = processor_time(std::process::id());
    Runtime::new().expect("a runtime starts").block_on(async {
        let loops = (0..TOGETHER).map(|_| {
            let (client, key) = (client.clone(), key.clone());
            tokio::spawn(async move {
                for number in (0..JOBS).step_by(TOGETHER) {
                    let call = client.generate(&key, "gemini-2.5-flash", input::request(number));
                    assert_eq!(call.await.outcome, Outcome::Answered);
                }
            })
        });
        for done in loops.collect::<Vec<_>>() {
            done.await.expect("a client does not panic");
        }
    });
    processor_time(std::process::id()) - before
}
