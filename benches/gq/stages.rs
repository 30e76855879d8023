//! What a job costs by stage, and what a claim costs in a queue of any length.

use std::path::Path;
use std::time::{Duration, Instant};

use gq::domain::limits::GivenLimits;
use gq::domain::outcome::{Outcome, Paid, Usage};
use gq::domain::pacing::OnUnknown;
use gq::domain::slot::Rests;
use gq::gemini::client::{ApiKey, Client, ClientOptions};
use gq::store::{
    Access, Budget, Claimed, Ended, FoundKey, Policy, Registration, Scope, Store, TurnRequest,
};
use tokio::runtime::Runtime;

use crate::input;
use crate::process::{StandIn, gq, measured, processor_time, remove_database};
use crate::report::Report;

/// Jobs that a turn claims or settles.
const TOGETHER: usize = 64;

/// Jobs whose stages are counted.
const JOBS: u32 = 40_000;

/// An answer as the stand-in gives it.
const ANSWER: &str = r#"{"candidates":[{"content":{"parts":[{"text":"mock answer"}],"role":"model"},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":60,"candidatesTokenCount":3,"totalTokenCount":63},"modelVersion":"gemini-2.5-flash","responseId":"0123456789abcdef"}"#;

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
        let request = TurnRequest {
            worker: self.registration.worker,
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
            keys: self.keys.clone(),
            in_flight: Vec::new(),
            audit: false,
            rebase: false,
            dead: Vec::new(),
        };
        self.runtime.block_on(self.store.turn(request, policy())).expect("there is room").claimed
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

fn policy() -> Policy {
    Policy {
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
    }
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

/// Tells the processor's time of each stage of a job's life in turns of 64.
pub(crate) fn cost_by_stage(folder: &Path, report: &mut Report) {
    remove_database(folder);
    input::write_lines(&folder.join("stages.jsonl"), JOBS);
    measured(gq(folder).args(["enqueue", "stages.jsonl", "--priority", "1"]));
    let turns = Turns::open(&folder.join("gq.db"));
    let (mut claim, mut settle) = (0.0, 0.0);
    let own = || processor_time(std::process::id());
    for _ in 0..JOBS as usize / TOGETHER {
        let before = own();
        let claimed = turns.turn(TOGETHER, Vec::new());
        let between = own();
        turns.turn(0, claimed.iter().map(answered).collect());
        claim += between - before;
        settle += own() - between;
    }
    turns.close();
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
                for number in 0..JOBS / 64 {
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
