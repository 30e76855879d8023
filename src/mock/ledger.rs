//! What came to the Files API and what went out: counters and the log.
//!
//! Owns no decision. Other requests are in `book`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many requests the log keeps.
const LOG_LIMIT: usize = 100_000;

/// One request to the Files API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRequest {
    /// `get`, `list`, `delete`, or the upload's command as it was sent: `start`, `upload`,
    /// `upload, finalize`, `query`, …
    pub command: String,
    /// The key it came with, or that of the upload's start; empty if there is none.
    pub key: Arc<str>,
    /// The id of the file it is about, also of one that is not whole yet; empty if there is none.
    pub file: String,
    /// The offset that it named.
    pub offset: Option<u64>,
    /// The bytes of its chunk that came, whether they were taken or not.
    pub bytes: u64,
    /// The status sent; 0 if none was: still in flight, given up by the client, or reset.
    pub status: u16,
}

/// Counts since the start or the last reset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct FileCounts {
    pub(super) requests: u64,
    pub(super) started: u64,
    pub(super) finished: u64,
    pub(super) bytes: u64,
    pub(super) chunks: u64,
}

/// Which line a request has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    index: Option<usize>,
    generation: u64,
}

#[derive(Debug, Default)]
struct Lines {
    generation: u64,
    log: Vec<FileRequest>,
    counts: FileCounts,
}

/// The counters and the log.
#[derive(Debug)]
pub(super) struct Ledger {
    record: bool,
    lines: Mutex<Lines>,
}

impl Ledger {
    pub(super) fn new(record: bool) -> Self {
        Self { record, lines: Mutex::default() }
    }

    /// Notes a request that came.
    pub(super) fn arrived(&self, request: FileRequest) -> Line {
        let mut lines = self.lines();
        lines.counts.requests += 1;
        let index = (self.record && lines.log.len() < LOG_LIMIT).then_some(lines.log.len());
        if index.is_some() {
            lines.log.push(request);
        }
        Line { index, generation: lines.generation }
    }

    /// Notes how a request ended.
    pub(super) fn ended(&self, line: Line, bytes: u64, status: u16) {
        let mut lines = self.lines();
        if lines.generation == line.generation
            && let Some(request) = line.index.and_then(|index| lines.log.get_mut(index))
        {
            (request.bytes, request.status) = (bytes, status);
        }
    }

    /// Changes the counts, unless the request came before a reset.
    pub(super) fn count(&self, line: Line, change: impl FnOnce(&mut FileCounts)) {
        let mut lines = self.lines();
        if lines.generation == line.generation {
            change(&mut lines.counts);
        }
    }

    /// Forgets everything.
    pub(super) fn reset(&self) {
        let mut lines = self.lines();
        let generation = lines.generation + 1;
        *lines = Lines { generation, ..Lines::default() };
    }

    pub(super) fn counts(&self) -> FileCounts {
        self.lines().counts
    }

    /// Returns the requests kept, in the order they came.
    pub(super) fn requests(&self) -> Vec<FileRequest> {
        self.lines().log.clone()
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_from_before_a_reset_changes_nothing() {
        let request = FileRequest {
            command: "get".to_owned(),
            key: "k1".into(),
            file: "a".to_owned(),
            offset: None,
            bytes: 0,
            status: 0,
        };
        let ledger = Ledger::new(true);
        let old = ledger.arrived(request.clone());
        ledger.reset();
        let new = ledger.arrived(request);
        ledger.count(old, |counts| counts.chunks += 1);
        ledger.ended(old, 5, 200);
        assert_eq!(ledger.counts(), FileCounts { requests: 1, ..FileCounts::default() });
        assert_eq!(ledger.requests()[0].status, 0);
        ledger.ended(new, 7, 404);
        assert_eq!((ledger.requests()[0].bytes, ledger.requests()[0].status), (7, 404));
    }
}
