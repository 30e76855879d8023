//! The lines refused: the first few for people, all of them for a file.

use std::fmt;
use std::io::Write;

use serde::Serialize;

use super::error::IntakeError;

/// How many refusals are kept to be shown.
const KEPT: usize = 20;

/// A line refused, as it is told to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The source's name.
    pub source: String,
    /// The line's number, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// Collects the refused lines of all sources of one call.
#[derive(Default)]
pub struct Rejects {
    kept: Vec<(usize, Rejected)>,
    count: u64,
    writer: Option<Box<dyn Write + Send>>,
    sources: Vec<String>,
}

/// One line of the rejects file.
#[derive(Serialize)]
struct Entry<'a> {
    line: u64,
    error: &'a str,
    text: &'a str,
}

impl Rejects {
    /// Returns a collection that also writes each refused line as JSON to `writer`.
    pub fn to_writer(writer: Box<dyn Write + Send>) -> Self {
        Self { writer: Some(writer), ..Self::default() }
    }

    /// Returns the first refusals, at most 20, in the order of sources and lines.
    pub fn kept(&self) -> impl ExactSizeIterator<Item = &Rejected> {
        self.kept.iter().map(|(_, rejected)| rejected)
    }

    /// Returns how many lines were refused.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Writes out what is still buffered.
    pub fn flush(&mut self) -> Result<(), IntakeError> {
        self.writer.as_mut().map_or(Ok(()), Write::flush).map_err(IntakeError::Rejects)
    }

    /// Begins with the lines of another source; returns its number.
    pub(super) fn begin(&mut self, source: &str) -> usize {
        self.sources.push(source.to_owned());
        self.sources.len() - 1
    }

    pub(super) fn add(
        &mut self,
        source: usize,
        line: u64,
        reason: &str,
        text: &str,
    ) -> Result<(), IntakeError> {
        self.count += 1;
        self.keep(source, line, reason);
        let Some(writer) = &mut self.writer else {
            return Ok(());
        };
        serde_json::to_writer(&mut *writer, &Entry { line, error: reason, text })
            .map_err(std::io::Error::from)
            .and_then(|()| writer.write_all(b"\n"))
            .map_err(IntakeError::Rejects)
    }

    /// Keeps the first by line: conflicts between lines are found after all others.
    fn keep(&mut self, index: usize, line: u64, reason: &str) {
        let place =
            self.kept.partition_point(|(source, kept)| (*source, kept.line) <= (index, line));
        if place < KEPT {
            let source = self.sources.get(index).cloned().unwrap_or_default();
            let rejected = Rejected { source, line, reason: reason.to_owned() };
            self.kept.insert(place, (index, rejected));
            self.kept.truncate(KEPT);
        }
    }
}

impl fmt::Debug for Rejects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejects").field("count", &self.count).finish_non_exhaustive()
    }
}
