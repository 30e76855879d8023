//! The worker: turns, calls in flight, stopping.
//!
//! Only the dispatcher writes to the store; an attempt gets a job, a key and a client and returns
//! what it came to.

mod attempt;
mod dispatcher;
mod event;
mod media;
mod preparations;
mod stopping;
mod transcripts;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

pub use attempt::WorkerKey;
pub use event::{Event, Events};

use crate::clock;
use crate::domain::pacing::{OnExhausted, Pacing};
use crate::domain::price::Prices;
use crate::domain::slot::Rests;
use crate::gemini::client::Client;
use crate::store::{Budget, Policy, Scope, Store, StoreError};
use dispatcher::Dispatcher;

/// How long a worker that ends waits for its row to be taken away.
const PARTING: Duration = Duration::from_secs(2);

/// How far a worker is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Work.
    Running,
    /// Claim no more, let calls in flight end.
    Draining,
    /// Cut what is in flight.
    Aborting,
}

/// How a worker works.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Calls in flight at once.
    pub workers: usize,
    /// How many of them are kept for jobs with a priority above 0.
    pub reserve: usize,
    /// Whether to end when nothing in scope is pending or running.
    pub drain: bool,
    /// The rules of its turns.
    pub policy: Policy,
    /// The rest of one worker after each call.
    pub worker_cooldown: Duration,
    /// How long calls in flight may go on at a stop.
    pub grace: Duration,
    /// What to do when all keys rest.
    pub on_exhausted: OnExhausted,
    /// Whether text cut by the output limit is a failure.
    pub reject_truncated: bool,
    /// How long the API may be at work on an uploaded file.
    pub processing_limit: Duration,
    /// How often to look for new jobs where nothing tells of them.
    pub poll_interval: Duration,
    /// The keys.
    pub keys: Vec<WorkerKey>,
    /// What calls cost.
    pub prices: Arc<Prices>,
}

impl WorkerOptions {
    /// Returns the options of a worker that works `scope` with four calls at once, under `pacing`,
    /// with calls that go to `client`.
    pub fn new(scope: Scope, pacing: &Pacing, client: &Client, keys: Vec<WorkerKey>) -> Self {
        let limit =
            |number: Option<u64>| number.map(|number| i64::try_from(number).unwrap_or(i64::MAX));
        Self {
            workers: 4,
            reserve: 0,
            drain: false,
            policy: Policy {
                scope,
                lease: Duration::from_mins(1),
                rests: Rests {
                    exhausted_wait: pacing.exhausted_wait,
                    fully_exhausted_wait: pacing.fully_exhausted_wait,
                    max_exhausted_retries: i64::from(pacing.max_exhausted_retries),
                },
                limits: pacing.limits.clone(),
                key_cooldown: pacing.key_cooldown,
                api_call_interval: pacing.api_call_interval,
                on_unknown: pacing.on_unknown,
                budget: Budget {
                    calls: limit(pacing.max_requests),
                    tokens: limit(pacing.max_tokens),
                    cost: pacing.max_cost,
                },
                inline_limit: pacing.inline_limit,
                api: client.base_url().clone(),
            },
            worker_cooldown: pacing.worker_cooldown,
            grace: Duration::from_secs(30),
            on_exhausted: pacing.on_exhausted,
            reject_truncated: false,
            processing_limit: pacing.request_timeout,
            poll_interval: Duration::from_millis(200),
            keys,
            prices: pacing.prices.clone(),
        }
    }
}

/// Why a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// Nothing in scope is left to do.
    Drained,
    /// It was told to stop.
    Stopped,
    /// All keys rest, and it was to leave then.
    Exhausted,
    /// No key can work at all.
    NoUsableKey,
    /// A budget is used up with work left.
    BudgetReached,
    /// The API serves nobody from this address.
    LocationRefused,
}

/// Works the queue until there is a reason to end.
///
/// # Errors
/// What the store says when it cannot go on: the file is gone, damaged, not writable for ever.
/// A full disk or a lock is waited for, and after a stop only for a short while.
pub async fn run(
    store: &Store,
    client: &Client,
    options: WorkerOptions,
    mut stop: watch::Receiver<Phase>,
    events: Events,
) -> Result<Finish, StoreError> {
    let registration = tokio::select! {
        registration = store.register_worker(
            options.workers, &options.policy.limits, clock::now(),
        ) => registration?,
        Ok(_) = stop.wait_for(|phase| *phase > Phase::Running) => return Ok(Finish::Stopped),
    };
    let worker = registration.worker;
    let finish = Dispatcher::new(store, client, options, worker, events).run(stop).await;
    // After an error, or where the database takes nothing, the lock goes with the process and the
    // next worker sweeps its row.
    if finish.is_ok() {
        let parting = async {
            store.deregister(registration).await?;
            store.sweep_locks().await
        };
        tokio::time::timeout(PARTING, parting).await.unwrap_or(Ok(()))?;
    }
    finish
}
