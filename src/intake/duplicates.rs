//! Lines that have the same task id with different content, found in little memory.
//!
//! The lines of several sources are numbered through, as if one source followed the other.
//! Task ids are spread by their hash over parts that are sorted one at a time.

use std::ops::Range;
use std::sync::Arc;
use std::vec;

use sha2::{Digest, Sha256};

use super::error::IntakeError;
use super::spill::Spill;
use crate::domain::input::NewJob;

/// Parts by hash: a part of a hundred million lines is 16 MB.
const PARTS: u8 = 255;
/// Lines that make one part of the conflicts.
const LINES: u64 = 1 << 16;

/// What must be known of a line: 16 bytes of its task id's hash, its number, its digest.
///
/// Big-endian and in this order, so that sorting bytes puts the lines of one task id together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record([u8; 40]);

impl Record {
    /// Returns the record of a job that `before` lines of other sources come before.
    pub(super) fn of(job: &NewJob, before: u64) -> Self {
        let mut bytes = [0; 40];
        bytes[..16].copy_from_slice(&Sha256::digest(job.task_id.as_bytes())[..16]);
        bytes[16..24].copy_from_slice(&(before + job.line).to_be_bytes());
        bytes[24..].copy_from_slice(&job.digest);
        Self(bytes)
    }

    /// Returns the line's number through all sources.
    pub(super) fn line(&self) -> u64 {
        number(&self.0[16..24])
    }

    pub(super) fn digest(&self) -> [u8; 16] {
        let mut digest = [0; 16];
        digest.copy_from_slice(&self.0[24..]);
        digest
    }
}

/// Collects the lines of the sources of one batch.
#[derive(Default)]
pub(super) struct Duplicates(Spill<40>);

impl Duplicates {
    pub(super) fn add(&mut self, record: &Record) -> Result<(), IntakeError> {
        self.0.push(usize::from(record.0[0] % PARTS), record.0)
    }

    /// Finds the lines whose task id an earlier line has with other content.
    pub(super) fn finish(self) -> Result<Conflicts, IntakeError> {
        let mut conflicts = Conflicts::default();
        for part in 0..self.0.parts() {
            let mut records = self.0.part(part)?;
            records.sort_unstable();
            for same_id in records.chunk_by(|one, other| one[..16] == other[..16]) {
                let Some((first, later)) = same_id.split_first() else {
                    continue;
                };
                for record in later.iter().filter(|record| record[24..] != first[24..]) {
                    conflicts.add(number(&record[16..24]), number(&first[16..24]))?;
                }
            }
        }
        Ok(conflicts)
    }
}

/// The conflicting lines, each with the first line of its task id.
#[derive(Debug, Default)]
pub(super) struct Conflicts {
    spill: Spill<16>,
}

impl Conflicts {
    fn add(&mut self, line: u64, first: u64) -> Result<(), IntakeError> {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&line.to_be_bytes());
        bytes[8..].copy_from_slice(&first.to_be_bytes());
        self.spill.push(part_of(line), bytes)
    }
}

fn part_of(line: u64) -> usize {
    usize::try_from(line / LINES).unwrap_or(usize::MAX)
}

/// The conflicts of one source in its lines' order: the line's number in the source, and the first
/// line of its task id, numbered through.
pub(super) struct ConflictLines {
    conflicts: Arc<Conflicts>,
    lines: Range<u64>,
    part: usize,
    current: vec::IntoIter<[u8; 16]>,
}

impl ConflictLines {
    /// Returns those of the source whose lines, numbered through from 0, are `lines`.
    pub(super) fn of(conflicts: &Arc<Conflicts>, lines: &Range<u64>) -> Self {
        Self {
            conflicts: Arc::clone(conflicts),
            part: part_of(lines.start),
            lines: lines.clone(),
            current: Vec::new().into_iter(),
        }
    }
}

impl Iterator for ConflictLines {
    type Item = Result<(u64, u64), IntakeError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            for bytes in self.current.by_ref() {
                let line = number(&bytes[..8]);
                if line > self.lines.end {
                    return None;
                }
                if line > self.lines.start {
                    return Some(Ok((line - self.lines.start, number(&bytes[8..]))));
                }
            }
            if self.part >= self.conflicts.spill.parts() {
                return None;
            }
            let mut records = match self.conflicts.spill.part(self.part) {
                Ok(records) => records,
                Err(error) => return Some(Err(error)),
            };
            records.sort_unstable();
            self.current = records.into_iter();
            self.part += 1;
        }
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn record(id: u16, line: u64, content: u8) -> Record {
        let job = NewJob {
            task_id: id.to_string(),
            line,
            model: String::new(),
            priority: 0,
            max_attempts: 1,
            not_before: None,
            stream: false,
            request: String::new(),
            media: Vec::new(),
            metadata: None,
            output: None,
            digest: [content; 16],
        };
        Record::of(&job, 0)
    }

    fn found(lines: &[(u16, u8)]) -> Vec<(u64, u64)> {
        let mut duplicates = Duplicates::default();
        for (line, (id, content)) in (1..).zip(lines) {
            duplicates.add(&record(*id, line, *content)).unwrap();
        }
        let conflicts = Arc::new(duplicates.finish().unwrap());
        let all = 0..lines.len() as u64;
        ConflictLines::of(&conflicts, &all).map(Result::unwrap).collect()
    }

    fn expected(lines: &[(u16, u8)]) -> Vec<(u64, u64)> {
        let mut first: HashMap<u16, (u64, u8)> = HashMap::new();
        let mut conflicts = Vec::new();
        for (line, (id, content)) in (1..).zip(lines) {
            let (first_line, first_content) = *first.entry(*id).or_insert((line, *content));
            if first_content != *content {
                conflicts.push((line, first_line));
            }
        }
        conflicts
    }

    #[test]
    fn many_lines_are_spilled_and_all_conflicts_are_found() {
        let lines: Vec<(u16, u8)> =
            (0..200_000_u32).map(|n| ((n % 60_000) as u16, u8::from(n % 7 == 0))).collect();
        assert_eq!(found(&lines), expected(&lines));
    }

    #[test]
    fn each_source_has_the_conflicts_of_its_own_lines() {
        let lines: Vec<(u16, u8)> =
            (0..200_000_u32).map(|n| ((n % 60_000) as u16, u8::from(n % 7 == 0))).collect();
        let mut duplicates = Duplicates::default();
        let (first, second) = lines.split_at(70_000);
        for (source, before) in [(first, 0), (second, 70_000)] {
            for (line, (id, content)) in (1..).zip(source) {
                duplicates.add(&record(*id, before + line, *content)).unwrap();
            }
        }
        let conflicts = Arc::new(duplicates.finish().unwrap());
        let of = |lines: Range<u64>| {
            let start = lines.start;
            let found = ConflictLines::of(&conflicts, &lines).map(Result::unwrap);
            found.map(move |(line, first)| (start + line, first)).collect::<Vec<_>>()
        };
        assert_eq!([of(0..70_000), of(70_000..200_000)].concat(), expected(&lines));
        assert!(!of(0..70_000).is_empty());
    }

    proptest! {
        #[test]
        fn the_same_is_found_as_by_a_table(lines: Vec<(u16, bool)>, few: Vec<(u8, bool)>) {
            let few = few.into_iter().map(|(id, content)| (u16::from(id % 8), content));
            let lines: Vec<(u16, u8)> =
                lines.into_iter().chain(few).map(|(id, it)| (id, u8::from(it))).collect();
            prop_assert_eq!(found(&lines), expected(&lines));
        }
    }
}
