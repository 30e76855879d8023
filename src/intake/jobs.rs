//! The second pass: the checked lines as jobs.

use std::sync::Arc;
use std::vec;

use super::chunks::Chunk;
use super::digests::DigestsOfLines;
use super::duplicates::ConflictLines;
use super::source::Label;
use super::{Bad, IntakeError, NewJob, Pipeline, Reading, Seen};

/// The jobs and refusals of one chunk in the lines' order.
pub(super) struct Parsed {
    hash: u64,
    lines: Vec<Result<NewJob, Bad>>,
}

/// Reads the jobs of one chunk.
pub(super) fn read(chunk: &Chunk, reading: &Reading) -> Parsed {
    let lines = chunk
        .lines()
        .filter_map(|(number, line)| match reading.line(&line, number) {
            Ok(job) => job.map(Ok),
            Err(reason) => Some(Err(Bad { line: number, reason, text: String::new() })),
        })
        .collect();
    Parsed { hash: chunk.hash(), lines }
}

/// The jobs of one source in the lines' order, read ahead in other threads.
///
/// Ends after the first error.
pub struct Jobs {
    label: Label,
    pipeline: Pipeline<Parsed>,
    current: vec::IntoIter<Result<NewJob, Bad>>,
    hashes: Arc<[u64]>,
    chunks: usize,
    conflicts: ConflictLines,
    conflict: Option<(u64, u64)>,
    digests: DigestsOfLines,
    skip_invalid: bool,
    ended: bool,
}

impl Jobs {
    pub(super) fn new(
        label: Label,
        pipeline: Pipeline<Parsed>,
        seen: &Seen,
        skip_invalid: bool,
    ) -> Result<Self, IntakeError> {
        let mut conflicts = ConflictLines::of(&seen.conflicts, &seen.lines);
        let conflict = conflicts.next().transpose()?;
        Ok(Self {
            label,
            pipeline,
            current: Vec::new().into_iter(),
            hashes: Arc::clone(&seen.hashes),
            chunks: 0,
            conflicts,
            conflict,
            digests: DigestsOfLines::of(&seen.digests),
            skip_invalid,
            ended: false,
        })
    }

    /// Returns the next job; all chunks must be those that the first pass saw.
    fn advance(&mut self) -> Result<Option<NewJob>, IntakeError> {
        loop {
            match self.current.next() {
                Some(Ok(job)) => {
                    if let Some(job) = self.unless_refused(job)? {
                        return Ok(Some(job));
                    }
                }
                Some(Err(_)) if self.skip_invalid => {}
                Some(Err(bad)) => return Err(self.refused(bad.line, bad.reason)),
                None => {
                    let Some(parsed) = self.pipeline.next() else {
                        return if self.chunks == self.hashes.len() {
                            Ok(None)
                        } else {
                            Err(self.label.changed())
                        };
                    };
                    let parsed = parsed.map_err(|error| self.label.error(error))?;
                    if self.hashes.get(self.chunks) != Some(&parsed.hash) {
                        return Err(self.label.changed());
                    }
                    self.chunks += 1;
                    self.current = parsed.lines.into_iter();
                }
            }
        }
    }

    /// Gives a job the digest of the first pass; leaves out one that had none. That pass checks more,
    /// or a file of it was not there then.
    fn unless_refused(&mut self, mut job: NewJob) -> Result<Option<NewJob>, IntakeError> {
        match self.digests.of_line(job.line)? {
            Some(digest) => {
                // A file may have changed since: what is stored of it tells this pass.
                if job.media.is_empty() {
                    job.digest = digest;
                }
                self.unless_conflicting(job)
            }
            None if self.skip_invalid => Ok(None),
            None => Err(self.refused(job.line, "it was refused when it was checked".to_owned())),
        }
    }

    /// Leaves out a job whose task id an earlier line has with other content.
    fn unless_conflicting(&mut self, job: NewJob) -> Result<Option<NewJob>, IntakeError> {
        if self.conflict.is_none_or(|(line, _)| line != job.line) {
            return Ok(Some(job));
        }
        if !self.skip_invalid {
            let reason = "an earlier line has the same task id with other content".to_owned();
            return Err(self.refused(job.line, reason));
        }
        self.conflict = self.conflicts.next().transpose()?;
        Ok(None)
    }

    fn refused(&self, line: u64, reason: String) -> IntakeError {
        IntakeError::Refused { name: self.label.name.clone(), line, reason }
    }
}

impl Iterator for Jobs {
    type Item = Result<NewJob, IntakeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.advance().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}
