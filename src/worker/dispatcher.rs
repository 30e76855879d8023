//! The loop of turns: collects attempts that ended, runs one turn at a time, starts what it claims.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::OptionFuture;
use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::Instant;

use crate::clock;
use crate::domain::outcome::{ErrorKind, Outcome, Paid};
use crate::domain::overdue::{AUDIT_EVERY, Overdue};
use crate::domain::pacing::OnExhausted;
use crate::gemini::client::Client;
use crate::store::{
    CallStart, Changes, Ended, Settled, Store, StoreError, TurnReport, TurnRequest, WorkerId,
};
use crate::worker::attempt::{self, Started, Tools, WorkerKey};
use crate::worker::event::{Event, Events};
use crate::worker::preparations::{Means, Preparations};
use crate::worker::stopping::{LAST_TRY, Stopping};
use crate::worker::transcripts::Transcripts;
use crate::worker::{Finish, Phase, WorkerOptions};

/// A wall clock that falls behind by more milliseconds than this was set back.
const CLOCK_STEP: i64 = 1_000;

/// How long it waits at most before it tries a turn again that the database refused: who could not
/// write for long is counted on to renew its leases as often as others.
const LONGEST_BACKOFF: Duration = AUDIT_EVERY;

/// What one worker process is doing.
pub(super) struct Dispatcher<'a> {
    store: &'a Store,
    tools: Tools,
    options: WorkerOptions,
    worker: WorkerId,
    events: Events,
    keys: HashMap<i64, WorkerKey>,
    tasks: JoinSet<Ended>,
    in_flight: HashMap<Id, (Started, AbortHandle)>,
    ended: Vec<Ended>,
    /// What a turn under way is settling; kept until that is known to be on disk.
    settling: Vec<Ended>,
    /// Uploads, and what else jobs wait for.
    preparations: Preparations,
    /// What streaming calls bring.
    transcripts: Transcripts,
    /// Pieces of text that a turn under way is storing.
    storing: usize,
    /// Tells of what other processes do.
    changes: Changes,
    /// Whether something was committed since the last look at what there is to do.
    woken: bool,
    /// The last job ever added, at that look.
    last_job: i64,
    /// Names of jobs whose attempt ended and is not settled.
    names: HashMap<(i64, i64), Started>,
    /// When workers that rest after a call may go on, with the priority of that call's job.
    resting: Vec<(Instant, i64)>,
    /// The start of the last call, where calls keep an interval, until a turn has recorded it.
    last_call: Option<CallStart>,
    stopping: Stopping,
    next_turn: Instant,
    next_audit: Instant,
    /// Workers whose leases ran out, as the audits saw them.
    overdue: Overdue,
    failures: u32,
    /// Why the last turn failed.
    trouble: Option<StoreError>,
    report: TurnReport,
    refused_location: bool,
    /// The wall clock less the boot clock at the last turn, in milliseconds: falls when the wall
    /// clock is set back.
    drift: Option<i64>,
}

impl<'a> Dispatcher<'a> {
    pub(super) fn new(
        store: &'a Store,
        client: &'a Client,
        options: WorkerOptions,
        worker: WorkerId,
        events: Events,
    ) -> Self {
        let keys = options.keys.iter().map(|key| (key.id, key.clone())).collect();
        let now = Instant::now();
        let means = Means {
            client: client.clone(),
            store: store.clone(),
            processing_limit: options.processing_limit,
        };
        Self {
            store,
            tools: Tools {
                client: client.clone(),
                store: store.clone(),
                prices: options.prices.clone(),
                reject_truncated: options.reject_truncated,
            },
            preparations: Preparations::new(means, &options.keys, events.clone()),
            transcripts: Transcripts::default(),
            storing: 0,
            changes: store.changes(options.poll_interval),
            woken: false,
            last_job: 0,
            options,
            worker,
            events,
            keys,
            tasks: JoinSet::new(),
            in_flight: HashMap::new(),
            ended: Vec::new(),
            settling: Vec::new(),
            names: HashMap::new(),
            resting: Vec::new(),
            last_call: None,
            stopping: Stopping::new(),
            next_turn: now,
            next_audit: now,
            overdue: Overdue::default(),
            failures: 0,
            trouble: None,
            report: TurnReport::default(),
            refused_location: false,
            drift: None,
        }
    }

    pub(super) async fn run(mut self, stop: watch::Receiver<Phase>) -> Result<Finish, StoreError> {
        let finish = self.work(stop).await;
        // The last connection to close puts the log back into the database.
        let closed = self.changes.close().await;
        let finish = finish?;
        closed?;
        Ok(finish)
    }

    async fn work(&mut self, mut stop: watch::Receiver<Phase>) -> Result<Finish, StoreError> {
        let store = self.store;
        let mut turn: OptionFuture<_> = None.into();
        let mut turning = false;
        self.told(*stop.borrow_and_update());
        loop {
            if self.woken && !turning {
                self.look().await;
            }
            if !turning && self.wants_turn() {
                let request = self.request().await?;
                let policy = self.options.policy.clone();
                turn = Some(Box::pin(store.turn(request, policy))).into();
                turning = true;
            }
            let wake = self.wake(turning);
            let listens = !turning && self.listens();
            tokio::select! {
                Some(result) = &mut turn, if turning => {
                    turning = false;
                    turn = None.into();
                    match result {
                        Ok(report) => {
                            if let Some(finish) = self.after_turn(report) {
                                return Ok(finish);
                            }
                        }
                        Err(error) => self.after_failed_turn(error)?,
                    }
                }
                Some(joined) = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => {
                    self.collect(joined);
                }
                Some(joined) = self.preparations.next() => self.preparations.collect(joined),
                () = self.changes.next(), if listens => self.woken = true,
                () = self.transcripts.listen(), if !self.transcripts.has_news() => {}
                Ok(()) = stop.changed(), if self.stopping.may_be_told() => {
                    self.told(*stop.borrow_and_update());
                }
                () = tokio::time::sleep_until(wake) => {}
            }
            self.refused_location |= self.preparations.refused_location();
            if self.stopping.cuts(Instant::now()) {
                self.enter(Phase::Aborting);
            }
            let give_up_at = self.stopping.give_up_at(self.has_work());
            if give_up_at.is_some_and(|at| at <= Instant::now()) {
                return self.give_up();
            }
        }
    }

    /// Returns whether new jobs could be started.
    fn listens(&self) -> bool {
        let busy = self.in_flight.len() + self.resting.len();
        let has_place = self.stopping.is_running() && busy < self.options.workers;
        has_place && !self.woken && self.failures == 0
    }

    /// Looks, without the write lock, whether what was committed is a reason for a turn: there is
    /// more to do than the last one saw, or nothing any more.
    async fn look(&mut self) {
        self.woken = false;
        let Ok(demand) = self.changes.demand(self.options.policy.scope).await else { return };
        let more = demand.pending > self.report.counts.pending || demand.last_job > self.last_job;
        let done = self.options.drain && demand.pending + demand.running == 0;
        self.last_job = demand.last_job;
        if more || done {
            self.next_turn = Instant::now();
        }
    }

    /// Returns whether there is a reason for a turn now.
    fn wants_turn(&self) -> bool {
        let now = Instant::now();
        if self.failures > 0 {
            return now >= self.next_turn;
        }
        let news =
            !self.ended.is_empty() || self.preparations.has_ended() || self.transcripts.has_news();
        news || now >= self.next_turn || now >= self.next_audit
    }

    fn wake(&self, turning: bool) -> Instant {
        let far = Instant::now() + Duration::from_hours(1);
        let cut = self.stopping.next_at(self.has_work()).unwrap_or(far);
        // A turn that failed is tried again at its own time and at no other.
        let audit = if self.failures > 0 { far } else { self.next_audit };
        if turning { cut } else { self.next_turn.min(audit).min(cut) }
    }

    async fn request(&mut self) -> Result<TurnRequest, StoreError> {
        let now = Instant::now();
        let audit = now >= self.next_audit || self.failures > 0;
        let dead = if audit {
            self.next_audit = now + self.audit_every();
            self.store.dead_workers(self.worker).await.unwrap_or_default()
        } else {
            Vec::new()
        };
        self.settling.append(&mut self.ended);
        let ended = self.settling.clone();
        self.resting.retain(|(until, _)| *until > now);
        let busy = self.in_flight.len() + self.resting.len();
        let (capacity, room) = match self.stopping.phase() {
            Phase::Running if !self.refused_location => {
                (self.options.workers.saturating_sub(busy), self.preparations.room())
            }
            _ => (0, 0),
        };
        let resting = self.resting.iter().map(|(_, priority)| *priority);
        let priorities = self.in_flight.values().map(|(started, _)| started.priority);
        let in_bulk = priorities.chain(resting).filter(|priority| *priority <= 0).count();
        let for_bulk = self.options.workers.saturating_sub(self.options.reserve);
        let pieces = self.transcripts.take();
        self.storing = pieces.len();
        let mut in_flight: Vec<(i64, i64)> =
            self.in_flight.values().map(|(started, _)| (started.job, started.claim)).collect();
        in_flight.extend(ended.iter().map(|ended| (ended.job, ended.claim)));
        let moment = clock::moment();
        let drift = moment.now.0 - moment.boot;
        let rebase = self.drift.is_none_or(|before| drift < before - CLOCK_STEP);
        if rebase {
            tracing::debug!("checking for times that a wrong clock set");
        }
        self.drift = Some(drift);
        Ok(TurnRequest {
            worker: self.worker,
            moment: clock::moment,
            ended,
            last_call: self.last_call,
            uploading: self.preparations.known_uploads(),
            hashing: self.preparations.hashing(),
            prepared: self.preparations.take_ended(),
            capacity,
            bulk: for_bulk.saturating_sub(in_bulk).min(capacity),
            pieces,
            room,
            keys: self.keys.keys().copied().collect(),
            in_flight,
            audit,
            overdue: self.overdue.clone(),
            rebase,
            dead,
        })
    }

    /// Takes what a turn did; returns why the worker ends, if it does.
    fn after_turn(&mut self, mut report: TurnReport) -> Option<Finish> {
        self.failures = 0;
        self.trouble = None;
        self.last_call = report.reserved.map(|reserved| CallStart { reserved, at: clock::now() });
        self.settling.clear();
        self.transcripts.saved(std::mem::take(&mut self.storing));
        self.preparations.settled();
        for settled in std::mem::take(&mut report.settled) {
            self.tell(&settled);
        }
        for job in &report.lost {
            let cut = self.in_flight.values().find(|(started, _)| started.job == *job);
            if let Some((_, abort)) = cut {
                abort.abort();
            }
        }
        self.overdue = std::mem::take(&mut report.overdue);
        if report.taken_back > 0 {
            self.events.send(&Event::TakenBack { jobs: report.taken_back });
        }
        let claimed = std::mem::take(&mut report.claimed);
        if !claimed.is_empty() {
            self.events.send(&Event::Started { jobs: claimed.len() });
        }
        for claimed in claimed {
            self.start(claimed);
        }
        for order in std::mem::take(&mut report.orders) {
            self.preparations.start(order);
        }
        self.events.send(&Event::Turn {
            counts: report.counts,
            in_flight: self.in_flight.len(),
            uploads: self.preparations.uploads(),
            waiting: report.waiting.clone(),
            held_until: report.held_until,
            capacity: report.capacity,
        });
        self.schedule(&report);
        self.report = report;
        self.finish()
    }

    /// A lease that is half over is renewed by an audit: two of them fit into the rest.
    fn audit_every(&self) -> Duration {
        AUDIT_EVERY.min(self.options.policy.lease / 4)
    }

    /// Decides when the next turn is due if nothing happens before.
    fn schedule(&mut self, report: &TurnReport) {
        let now = Instant::now();
        let due =
            report.wake_at.map(|at| now + at.since(clock::now()).max(Duration::from_millis(1)));
        let rested = self.resting.iter().map(|(until, _)| *until).min();
        let far = if self.last_call.is_some() { now } else { now + self.audit_every() };
        self.next_turn = [due, rested].into_iter().flatten().fold(far, Instant::min);
    }

    fn after_failed_turn(&mut self, error: StoreError) -> Result<(), StoreError> {
        if !error.is_transient() {
            return Err(error);
        }
        if self.failures == 0 {
            self.events.send(&Event::StoreTrouble { message: error.to_string() });
        }
        let backoff = Duration::from_millis(100).saturating_mul(1 << self.failures.min(6));
        self.failures += 1;
        self.trouble = Some(error);
        self.next_turn = Instant::now() + backoff.min(LONGEST_BACKOFF);
        Ok(())
    }

    /// Returns why the worker ends, once nothing of its own is left.
    fn finish(&mut self) -> Option<Finish> {
        if !self.in_flight.is_empty() || !self.ended.is_empty() {
            return None;
        }
        let finish = self.reason_to_end()?;
        if self.preparations.is_empty() {
            return Some(finish);
        }
        // At a stop uploads have the same time as calls.
        if self.stopping.phase() != Phase::Draining {
            self.preparations.cut_all();
        }
        None
    }

    fn reason_to_end(&self) -> Option<Finish> {
        if self.refused_location {
            return Some(Finish::LocationRefused);
        }
        if !self.stopping.is_running() {
            return Some(Finish::Stopped);
        }
        let left = self.report.counts.pending > 0;
        if self.options.drain && self.report.counts.unfinished() == 0 {
            Some(Finish::Drained)
        } else if left && self.report.budget_reached {
            Some(Finish::BudgetReached)
        } else if self.report.keys_alive == 0 {
            Some(Finish::NoUsableKey)
        } else if left
            && self.report.waiting.is_some()
            && self.options.on_exhausted == OnExhausted::Exit
        {
            Some(Finish::Exhausted)
        } else {
            None
        }
    }

    fn start(&mut self, claimed: crate::store::Claimed) {
        let started = Started::new(&claimed);
        // The turn may have waited for its lock since before the stop.
        if !self.stopping.is_running() {
            let cut = started.ended(Outcome::Cut, Some("not started: the worker stops".to_owned()));
            self.ended.push(Ended { paid: Paid::No, ..cut });
            return;
        }
        let Some(key) = self.keys.get(&claimed.key).cloned() else {
            self.ended.push(started.ended(Outcome::Cut, None));
            return;
        };
        let scribe = claimed
            .at_claim
            .is_stream()
            .then(|| self.transcripts.begin(claimed.job, claimed.claim));
        let call = attempt::run(started.clone(), claimed, key, self.tools.clone(), scribe);
        let abort = self.tasks.spawn(call);
        self.in_flight.insert(abort.id(), (started, abort));
    }

    /// Takes an attempt that ended, was cut, or panicked.
    fn collect(&mut self, joined: Result<(Id, Ended), JoinError>) {
        let id = match &joined {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let Some((started, _)) = self.in_flight.remove(&id) else { return };
        let ended = match joined {
            Ok((_, ended)) => ended,
            Err(error) if error.is_panic() => {
                tracing::error!(job.id = started.job, "an attempt panicked; this is a bug in gq");
                let message = "an internal fault ended the attempt".to_owned();
                started.ended(Outcome::Failed(ErrorKind::Internal), Some(message))
            }
            Err(_) => started.ended(Outcome::Cut, Some("cut by a stop or a cancel".to_owned())),
        };
        if !self.options.worker_cooldown.is_zero() {
            self.resting.push((Instant::now() + self.options.worker_cooldown, started.priority));
        }
        let answered = ended.outcome == Outcome::Answered;
        self.transcripts.end(started.job, started.claim, answered);
        self.refused_location |= ended.outcome == Outcome::LocationRefused;
        self.names.insert((started.job, started.claim), started);
        self.ended.push(ended);
    }

    /// Takes what a signal says.
    fn told(&mut self, phase: Phase) {
        self.stopping.told(phase, Instant::now());
        self.enter(phase);
    }

    /// Returns whether calls are in flight, or ended and not settled.
    fn has_work(&self) -> bool {
        !(self.in_flight.is_empty() && self.ended.is_empty() && self.settling.is_empty())
    }

    /// Ends without another write; an error where that loses answers. Jobs whose calls were cut are
    /// found by the next worker.
    fn give_up(&mut self) -> Result<Finish, StoreError> {
        let lost = self.ended.iter().chain(&self.settling);
        let lost = lost.filter(|ended| ended.outcome != Outcome::Cut).count();
        if lost == 0 {
            return Ok(Finish::Stopped);
        }
        tracing::error!(calls = lost, "calls that ended could not be recorded");
        let path = self.store.path().to_owned();
        Err(self.trouble.take().unwrap_or(StoreError::Locked { path, waited: LAST_TRY }))
    }

    fn enter(&mut self, phase: Phase) {
        if !self.stopping.enter(phase, Instant::now() + self.options.grace) {
            return;
        }
        self.preparations.close();
        if phase == Phase::Draining {
            self.events.send(&Event::Draining);
        } else {
            self.tasks.abort_all();
            self.preparations.cut_all();
        }
        self.next_turn = Instant::now();
    }

    fn tell(&mut self, settled: &Settled) {
        let ended = &settled.ended;
        let Some(started) = self.names.remove(&(ended.job, ended.claim)) else { return };
        let key = self.keys.get(&ended.key).map_or("", |key| key.name.as_str());
        if let Some(event) = Event::of(settled, started.task_id, started.model_name, key) {
            self.events.send(&event);
        }
    }
}
