//! The HTTP service: receives a call, waits as told, sends what was decided.

use std::borrow::Cow;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::connect_info::ConnectInfo;
use axum::extract::{Request, State};
use axum::http::Response;
use axum::http::request::Parts;
use axum::http::uri::PathAndQuery;
use chrono::Utc;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};

use super::book::{Arrival, Book, Entry, Stats};
use super::config::Config;
use super::delivery;
use super::error::to_json;
use super::files::Shelf;
use super::journal::Journal;
use super::reply::{JSON, Reply, stopped, waited};
use super::route::{OwnPage, Route, query};
use super::script::Fault;
use super::transfer;
use super::verdict::{Call, Judge, TooLarge, Verdict};
use super::wire::Wire;

/// The counts that `/__wait` waits for, by their names.
const WAITABLE: [(&str, fn(&Stats) -> u64); 10] = [
    ("requests", |stats| stats.requests),
    ("answered", |stats| stats.answered),
    ("held", |stats| stats.held),
    ("chunks", |stats| stats.chunks),
    ("file_requests", |stats| stats.file_requests),
    ("uploads_started", |stats| stats.uploads_started),
    ("uploads", |stats| stats.uploads),
    ("upload_bytes", |stats| stats.upload_bytes),
    ("upload_chunks", |stats| stats.upload_chunks),
    ("files", |stats| stats.files),
];

/// What all connections share.
pub(super) struct Shared {
    pub(super) judge: Judge,
    pub(super) book: Book,
    pub(super) journal: Option<Journal>,
    pub(super) gate: Gate,
    pub(super) stopping: watch::Sender<bool>,
}

impl Shared {
    pub(super) fn new(config: Config) -> io::Result<Self> {
        Ok(Self {
            book: Book::new(config.record, config.record_bodies),
            journal: config.journal.as_deref().map(Journal::open).transpose()?,
            judge: Judge::new(config),
            gate: Gate::default(),
            stopping: watch::Sender::new(false),
        })
    }

    /// Forgets all that was counted, and closes the gate again.
    pub(super) fn reset(&self) {
        self.judge.reset();
        self.book.reset();
        self.gate.reset();
    }

    /// Makes all files vanish.
    pub(super) fn forget_files(&self) {
        self.judge.desk.files(Shelf::clear);
        self.book.notify();
    }

    /// Returns all counts.
    pub(super) fn stats(&self) -> Stats {
        let desk = &self.judge.desk;
        let counts = desk.ledger.counts();
        Stats {
            file_requests: counts.requests,
            uploads_started: counts.started,
            uploads: counts.finished,
            upload_bytes: counts.bytes,
            upload_chunks: counts.chunks,
            files: desk.files(|shelf| shelf.count(Utc::now().timestamp_millis())),
            ..self.book.stats()
        }
    }

    /// Waits until the counts fulfil `condition`.
    pub(super) async fn wait_until(&self, condition: impl Fn(&Stats) -> bool) {
        self.book.wait_until(|| condition(&self.stats())).await;
    }
}

/// Where held calls wait.
pub(super) struct Gate(Mutex<Arc<Semaphore>>);

impl Default for Gate {
    fn default() -> Self {
        Self(Mutex::new(Arc::new(Semaphore::new(0))))
    }
}

impl Gate {
    /// Lets `count` calls pass, or from now on all.
    pub(super) fn release(&self, count: Option<usize>) {
        match count {
            Some(count) => self.now().add_permits(count.min(Semaphore::MAX_PERMITS / 2)),
            None => self.now().close(),
        }
    }

    fn reset(&self) {
        self.release(None);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(Semaphore::new(0));
    }

    pub(super) async fn pass(&self) {
        // A closed gate of this kind is one that stands open.
        if let Ok(permit) = self.now().acquire().await {
            permit.forget();
        }
    }

    fn now(&self) -> Arc<Semaphore> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A call being worked on; it is noted as lost if it is dropped before its answer.
pub(super) struct Flight {
    shared: Arc<Shared>,
    entry: Option<Entry>,
    key: String,
    status: u16,
    /// The prompt, if it got a whole usable answer.
    answered: Option<u64>,
}

impl Flight {
    fn enter(shared: Arc<Shared>) -> Self {
        shared.book.enter();
        Self { shared, entry: None, key: String::new(), status: 0, answered: None }
    }

    /// Notes the answer, which is sent.
    pub(super) fn landed(&mut self) {
        if let Some(entry) = self.entry.take() {
            self.shared.book.sent(entry, &self.key, self.status, self.answered);
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            self.shared.book.lost(entry);
        }
        self.shared.book.leave();
    }
}

/// A call that waits at the gate.
pub(super) struct Held<'a>(&'a Book);

impl<'a> Held<'a> {
    pub(super) fn new(book: &'a Book) -> Self {
        book.hold();
        Self(book)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.unhold();
    }
}

/// Answers one request.
pub(super) async fn serve(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(wire): ConnectInfo<Wire>,
    request: Request,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let route = Route::of(&parts.method, parts.uri.path());
    let reply = match route {
        Route::Own(page) => own(&shared, page, &parts, body).await,
        Route::Files(call) => transfer::serve(&shared, call, &parts, body).await,
        _ => {
            let mut flight = Flight::enter(shared.clone());
            let mut reply = answer(&shared, &mut flight, route, &parts, body).await;
            if let Some(plan) = reply.stream.take() {
                return reply.into_streamed(delivery::body(shared, plan, wire, flight));
            }
            if reply.has_status() {
                flight.landed();
            }
            reply
        }
    };
    reply.into_response(&wire, &shared.stopping.subscribe())
}

async fn answer(
    shared: &Shared,
    flight: &mut Flight,
    route: Route<'_>,
    parts: &Parts,
    body: Body,
) -> Reply {
    let at_ms = Utc::now().timestamp_millis();
    let Some(received) = receive(body, shared.judge.config().max_body_bytes).await else {
        return Reply::new(400, JSON, Bytes::new());
    };
    let key = sent_key(parts);
    let (uri, path) = (&parts.uri, parts.uri.path());
    let call = Call { route, uri, key, at_ms, body: received.as_ref().map_err(|&large| large) };
    let reading = call.read();
    let key = call.key.as_deref().unwrap_or_default();
    let (model, prompt) = (route.model(), reading.facts.prompt.as_str());
    let nothing = Bytes::new();
    let body = received.as_ref().unwrap_or(&nothing);
    let desk = &shared.judge.desk;
    let parts = if shared.book.records() { reading.parts(desk, at_ms) } else { Vec::new() };
    let entry = shared.book.arrived(Arrival { at_ms, key, model, path, prompt, parts, body });
    flight.entry = Some(entry);
    let journal = shared.journal.as_ref();
    let target = uri.path_and_query().map_or(path, PathAndQuery::as_str);
    let noted = journal.map(|it| it.request(at_ms, key, target, prompt)).transpose();
    let Ok(number) = noted else { return unjournalled() };
    let verdict = shared.judge.decide(&call, &reading);
    let mut reply = carry_out(shared, verdict).await;
    if let Some((journal, number)) = journal.zip(number) {
        let status = if reply.has_status() { reply.status } else { 0 };
        let (now_ms, is_usable) = (Utc::now().timestamp_millis(), reply.usable && reply.is_whole());
        if journal.answer(number, now_ms, status, is_usable).is_err() {
            reply = unjournalled();
        }
    }
    key.clone_into(&mut flight.key);
    flight.status = reply.status;
    flight.answered = (reply.usable && reply.is_whole()).then_some(reading.prompt_number);
    reply
}

/// Nobody relies on an answer of which the journal knows nothing.
fn unjournalled() -> Reply {
    Reply::new(500, JSON, to_json(&json!({"error": "the journal cannot be written"}), true))
}

/// Waits as the verdict says, and returns its reply; a reset if the stand-in stops first.
pub(super) async fn carry_out(shared: &Shared, verdict: Verdict) -> Reply {
    let Verdict { hold, delay_ms, mut reply, .. } = verdict;
    let mut goes_on = true;
    if hold {
        let _held = Held::new(&shared.book);
        tokio::select! {
            () = shared.gate.pass() => {}
            () = stopped(shared.stopping.subscribe()) => goes_on = false,
        }
    }
    let delay = Duration::from_millis(delay_ms);
    if goes_on && !delay.is_zero() {
        goes_on = waited(delay, shared.stopping.subscribe()).await;
    }
    if reply.fault == Some(Fault::StallBefore) {
        stopped(shared.stopping.subscribe()).await;
        goes_on = false;
    }
    if !goes_on {
        reply = Reply { fault: Some(Fault::ResetBefore), stream: None, ..reply };
    }
    reply
}

/// Returns the key of a request.
pub(super) fn sent_key(parts: &Parts) -> Option<Cow<'_, str>> {
    let header = parts.headers.get("x-goog-api-key").and_then(|value| value.to_str().ok());
    header.map(Cow::Borrowed).or_else(|| query(&parts.uri, "key").map(Cow::Owned))
}

/// Reads a body to its end, keeping no more than `limit`; nothing if the client broke off.
pub(super) async fn receive(body: Body, limit: u64) -> Option<Result<Bytes, TooLarge>> {
    let mut stream = body.into_data_stream();
    let Some(first) = stream.next().await else {
        return Some(Ok(Bytes::new()));
    };
    let first = first.ok()?;
    let mut length = first.len() as u64;
    let Some(second) = stream.next().await else {
        return Some(if length > limit { Err(TooLarge) } else { Ok(first) });
    };
    let mut all = first.to_vec();
    let mut next = Some(second);
    while let Some(chunk) = next {
        let chunk = chunk.ok()?;
        length += chunk.len() as u64;
        if length <= limit {
            all.extend_from_slice(&chunk);
        }
        next = stream.next().await;
    }
    Some(if length > limit { Err(TooLarge) } else { Ok(all.into()) })
}

async fn own(shared: &Shared, page: OwnPage, parts: &Parts, body: Body) -> Reply {
    let json = |value: &Value| Reply::new(200, JSON, to_json(value, true));
    match page {
        OwnPage::Stats => Reply::new(200, JSON, to_json(&shared.stats(), true)),
        OwnPage::Reset => {
            shared.reset();
            json(&json!({}))
        }
        OwnPage::ForgetFiles => {
            shared.forget_files();
            json(&json!({}))
        }
        OwnPage::Release => {
            let body = receive(body, 1024).await.and_then(Result::ok).unwrap_or_default();
            let told: Value = serde_json::from_slice(&body).unwrap_or_default();
            let count = query(&parts.uri, "n").and_then(|text| text.parse().ok());
            let count = count.or_else(|| told["n"].as_u64()?.try_into().ok());
            shared.gate.release(count);
            json(&json!({"released": count}))
        }
        OwnPage::Wait => {
            let number = |name| query(&parts.uri, name).and_then(|text| text.parse::<u64>().ok());
            let wanted: Vec<_> =
                WAITABLE.iter().filter_map(|(name, count)| Some((number(name)?, count))).collect();
            let enough = |stats: &Stats| wanted.iter().all(|(least, count)| count(stats) >= *least);
            let limit = Duration::from_millis(number("timeout_ms").unwrap_or(30_000));
            let waiting = tokio::time::timeout(limit, shared.wait_until(enough));
            let status = if waiting.await.is_ok() { 200 } else { 408 };
            Reply::new(status, JSON, to_json(&shared.stats(), true))
        }
    }
}
