//! What came in and what went out: counters and the log of requests.
//!
//! Owns no decision. One short lock is taken when a request comes and one when it ends.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Bytes;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use crate::domain::hex::hex;

use super::parts::RecordedPart;

/// How many requests the log keeps.
const LOG_LIMIT: usize = 1_000_000;
/// How many different names are kept only once; beyond it each entry has its own copy.
const NAME_LIMIT: usize = 10_000;
/// The log's mark for a request that has got no answer.
const NO_STATUS: u16 = 0;

/// One request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// When it came, in Unix milliseconds.
    pub arrived_ms: i64,
    /// The key it came with; empty if none.
    pub key: Arc<str>,
    /// The model it asked for; empty if its path names none.
    pub model: Arc<str>,
    /// Its path without the query.
    pub path: Arc<str>,
    /// The text parts of its contents, joined.
    pub prompt: Arc<str>,
    /// The parts of its contents, in order.
    pub parts: Arc<[RecordedPart]>,
    /// The status sent; 0 if none was: still in flight, given up by the client, or reset.
    pub status: u16,
    /// Its body, if bodies are recorded.
    pub body: Option<Bytes>,
}

/// Counts since the start or the last reset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Requests that came, whatever became of them.
    pub requests: u64,
    /// Requests that got a whole usable answer.
    pub answered: u64,
    /// Requests that ended without a status: reset, or given up by the client.
    pub unanswered: u64,
    /// Requests being worked on.
    pub in_flight: u64,
    /// The most requests ever worked on at once.
    pub peak_in_flight: u64,
    /// Requests waiting for a release.
    pub held: u64,
    /// Chunks of streamed answers that were sent.
    pub chunks: u64,
    /// Prompts that were answered more than once.
    pub duplicates: u64,
    /// Answers sent, by status.
    pub by_status: BTreeMap<u16, u64>,
    /// Counts by key; a key is named by the first 8 digits of its SHA-256.
    pub by_key: BTreeMap<String, KeyStats>,
    /// Requests by model.
    pub by_model: BTreeMap<String, u64>,
    /// When the first request came, in Unix milliseconds.
    pub first_arrival_ms: Option<i64>,
    /// When the latest request came, in Unix milliseconds.
    pub last_arrival_ms: Option<i64>,
    /// Requests to the Files API; no other count but `held` and those below has them.
    pub file_requests: u64,
    /// Uploads that were started.
    pub uploads_started: u64,
    /// Uploads that made a file.
    pub uploads: u64,
    /// Bytes taken into uploads.
    pub upload_bytes: u64,
    /// Chunks of uploads that were taken to their ends.
    pub upload_chunks: u64,
    /// Files that exist; a wait does not see one expire before something else changes.
    pub files: u64,
}

/// Counts of one key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct KeyStats {
    /// Requests that came with it.
    pub requests: u64,
    /// Requests that got a whole usable answer.
    pub answered: u64,
    /// Requests that got a 429.
    pub rate_limited: u64,
}

/// Returns the name of a key that gives nothing of it away.
pub fn fingerprint(key: &str) -> String {
    hex(&Sha256::digest(key)[..4])
}

/// A request when it comes.
pub(super) struct Arrival<'a> {
    pub(super) at_ms: i64,
    pub(super) key: &'a str,
    pub(super) model: &'a str,
    pub(super) path: &'a str,
    pub(super) prompt: &'a str,
    pub(super) parts: Vec<RecordedPart>,
    pub(super) body: &'a Bytes,
}

/// Which log entry a request has.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Entry {
    index: Option<usize>,
    generation: u64,
}

#[derive(Debug, Default)]
struct Pages {
    generation: u64,
    log: Vec<Recorded>,
    names: HashSet<Arc<str>>,
    keys: HashMap<Arc<str>, KeyStats>,
    models: HashMap<Arc<str>, u64>,
    statuses: BTreeMap<u16, u64>,
    /// How often each prompt was answered, by the hash of its text.
    answers: HashMap<u64, u32>,
    requests: u64,
    answered: u64,
    unanswered: u64,
    duplicates: u64,
    arrivals: Option<(i64, i64)>,
}

impl Pages {
    fn name(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.names.get(text) {
            return known.clone();
        }
        let name: Arc<str> = text.into();
        if self.names.len() < NAME_LIMIT {
            self.names.insert(name.clone());
        }
        name
    }
}

/// All counters and the log.
#[derive(Debug, Default)]
pub(super) struct Book {
    record: bool,
    record_bodies: bool,
    in_flight: AtomicI64,
    peak: AtomicI64,
    held: AtomicU64,
    chunks: AtomicU64,
    pages: Mutex<Pages>,
    changed: Notify,
}

impl Book {
    pub(super) fn new(record: bool, record_bodies: bool) -> Self {
        Self { record, record_bodies, ..Self::default() }
    }

    /// Returns whether requests are kept.
    pub(super) fn records(&self) -> bool {
        self.record
    }

    /// Notes that a request is being worked on.
    pub(super) fn enter(&self) {
        let now = self.in_flight.fetch_add(1, Relaxed) + 1;
        self.peak.fetch_max(now, Relaxed);
    }

    /// Notes that a request is no longer being worked on.
    pub(super) fn leave(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
        self.changed.notify_waiters();
    }

    /// Notes that a request waits for a release.
    pub(super) fn hold(&self) {
        self.held.fetch_add(1, Relaxed);
        self.changed.notify_waiters();
    }

    /// Notes that a request waits no more.
    pub(super) fn unhold(&self) {
        self.held.fetch_sub(1, Relaxed);
        self.changed.notify_waiters();
    }

    /// Notes chunks of a streamed answer that are sent.
    pub(super) fn chunks(&self, count: u64) {
        self.chunks.fetch_add(count, Relaxed);
        self.changed.notify_waiters();
    }

    /// Notes a request that came.
    pub(super) fn arrived(&self, arrival: Arrival<'_>) -> Entry {
        let prompt: Option<Arc<str>> = self.record.then(|| arrival.prompt.into());
        let mut pages = self.pages();
        pages.requests += 1;
        let first = pages.arrivals.map_or(arrival.at_ms, |(first, _)| first.min(arrival.at_ms));
        let last = pages.arrivals.map_or(arrival.at_ms, |(_, last)| last.max(arrival.at_ms));
        pages.arrivals = Some((first, last));
        let key = pages.name(arrival.key);
        let model = pages.name(arrival.model);
        if !key.is_empty() {
            pages.keys.entry(key.clone()).or_default().requests += 1;
        }
        if !model.is_empty() {
            *pages.models.entry(model.clone()).or_default() += 1;
        }
        let generation = pages.generation;
        let Some(prompt) = prompt.filter(|_| pages.log.len() < LOG_LIMIT) else {
            return Entry { index: None, generation };
        };
        let path = pages.name(arrival.path);
        let body = self.record_bodies.then(|| arrival.body.clone());
        let (arrived_ms, parts, status) = (arrival.at_ms, arrival.parts.into(), NO_STATUS);
        let index = Some(pages.log.len());
        pages.log.push(Recorded { arrived_ms, key, model, path, prompt, parts, status, body });
        drop(pages);
        self.changed.notify_waiters();
        Entry { index, generation }
    }

    /// Notes the answer to a request; `answered` is the prompt that got a whole usable one.
    pub(super) fn sent(&self, entry: Entry, key: &str, status: u16, answered: Option<u64>) {
        let mut pages = self.pages();
        if pages.generation != entry.generation {
            return;
        }
        *pages.statuses.entry(status).or_default() += 1;
        if let Some(record) = entry.index.and_then(|index| pages.log.get_mut(index)) {
            record.status = status;
        }
        if let Some(counts) = pages.keys.get_mut(key) {
            counts.answered += u64::from(answered.is_some());
            counts.rate_limited += u64::from(status == 429);
        }
        if let Some(prompt) = answered {
            pages.answered += 1;
            let times = pages.answers.entry(prompt).or_default();
            *times += 1;
            let again = *times == 2;
            pages.duplicates += u64::from(again);
        }
    }

    /// Notes that a request ended without a status.
    pub(super) fn lost(&self, entry: Entry) {
        let mut pages = self.pages();
        if pages.generation == entry.generation {
            pages.unanswered += 1;
        }
    }

    /// Forgets all but the requests being worked on.
    pub(super) fn reset(&self) {
        let mut pages = self.pages();
        let generation = pages.generation + 1;
        *pages = Pages { generation, ..Pages::default() };
        self.peak.store(self.in_flight.load(Relaxed), Relaxed);
        self.chunks.store(0, Relaxed);
    }

    /// Says that a count changed which is kept elsewhere.
    pub(super) fn notify(&self) {
        self.changed.notify_waiters();
    }

    /// Waits until `condition` holds.
    pub(super) async fn wait_until(&self, condition: impl Fn() -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Enabled before the look, so that a change in between is not missed.
            changed.as_mut().enable();
            if condition() {
                return;
            }
            changed.await;
        }
    }

    /// Returns the requests kept, in the order they came.
    pub(super) fn requests(&self) -> Vec<Recorded> {
        self.pages().log.clone()
    }

    /// Returns the counts of each key by its secret.
    pub(super) fn keys(&self) -> HashMap<Arc<str>, KeyStats> {
        self.pages().keys.clone()
    }

    /// Returns all counts but those of the Files API.
    pub(super) fn stats(&self) -> Stats {
        let positive = |number: i64| u64::try_from(number).unwrap_or(0);
        let pages = self.pages();
        Stats {
            requests: pages.requests,
            answered: pages.answered,
            unanswered: pages.unanswered,
            in_flight: positive(self.in_flight.load(Relaxed)),
            peak_in_flight: positive(self.peak.load(Relaxed)),
            held: self.held.load(Relaxed),
            chunks: self.chunks.load(Relaxed),
            duplicates: pages.duplicates,
            by_status: pages.statuses.clone(),
            by_key: pages.keys.iter().map(|(key, counts)| (fingerprint(key), *counts)).collect(),
            by_model: pages.models.iter().map(|(name, n)| (name.to_string(), *n)).collect(),
            first_arrival_ms: pages.arrivals.map(|(first, _)| first),
            last_arrival_ms: pages.arrivals.map(|(_, last)| last),
            ..Stats::default()
        }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the number by which a prompt is counted: of its text, or of the whole body if it has
/// none, so that two jobs of nothing but media are not taken for one.
pub(super) fn prompt_number(prompt: &str, body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    if prompt.trim().is_empty() {
        body.hash(&mut hasher);
    } else {
        prompt.hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrive(book: &Book, prompt: &str, at_ms: i64) -> Entry {
        let (key, model, path, body) = ("secret", "m", "/p", &Bytes::from_static(b"{}"));
        book.arrived(Arrival { at_ms, key, model, path, prompt, parts: Vec::new(), body })
    }

    #[test]
    fn a_prompt_answered_twice_is_one_duplicate() {
        let book = Book::new(true, false);
        for time in 1..=3 {
            let entry = arrive(&book, "a", time);
            book.sent(entry, "secret", 200, Some(prompt_number("a", b"")));
        }
        let entry = arrive(&book, "b", 4);
        book.sent(entry, "secret", 503, None);
        arrive(&book, "c", 5);
        let stats = book.stats();
        assert_eq!((stats.requests, stats.answered, stats.duplicates), (5, 3, 1));
        assert_eq!(stats.by_status, BTreeMap::from([(200, 3), (503, 1)]));
        assert_eq!((stats.first_arrival_ms, stats.last_arrival_ms), (Some(1), Some(5)));
        let statuses: Vec<u16> = book.requests().iter().map(|request| request.status).collect();
        assert_eq!(statuses, [200, 200, 200, 503, 0]);
    }

    #[test]
    fn no_count_shows_a_key() {
        let book = Book::new(true, false);
        arrive(&book, "a", 1);
        let text = serde_json::to_string(&book.stats()).unwrap();
        assert!(!text.contains("secret"), "{text}");
        assert!(text.contains("2bb80d53"), "{text}");
    }

    #[test]
    fn an_answer_from_before_a_reset_changes_nothing() {
        let book = Book::new(true, true);
        let entry = arrive(&book, "a", 1);
        book.reset();
        book.sent(entry, "secret", 200, Some(1));
        assert_eq!(book.stats(), Stats::default());
        assert_eq!(book.requests(), []);
    }

    #[test]
    fn prompts_without_text_are_told_apart_by_their_bodies() {
        assert_eq!(prompt_number("a", b"1"), prompt_number("a", b"2"));
        assert_ne!(prompt_number("", b"1"), prompt_number("", b"2"));
    }
}
