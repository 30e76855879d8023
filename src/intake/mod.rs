//! From files and standard input to checked jobs, in two passes over the same bytes.
//!
//! The first pass checks every line, the second yields the jobs. Memory does not grow with the
//! input. Knows what a line means only through `domain::input`; stores and prints nothing.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::domain::input::{Defaults, NewJob, Pass, parse_line};

mod chunks;
mod digests;
mod duplicates;
mod error;
mod jobs;
mod media;
mod pipeline;
mod rejects;
mod source;
mod spill;

pub use error::IntakeError;
pub use jobs::Jobs;
pub use rejects::{Rejected, Rejects};
pub use source::{Source, batch_name};

use chunks::{Chunk, Chunks, Line};
use digests::Digests;
use duplicates::{ConflictLines, Conflicts, Duplicates, Record};
use pipeline::Pipeline;
use source::Input;

/// What the first pass found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checked {
    /// All lines, blank ones too.
    pub lines: u64,
    /// Lines that make a job.
    pub good: u64,
    /// Lines refused.
    pub bad: u64,
    /// The bytes read, decompressed.
    pub bytes: u64,
}

/// One source of lines that can be read again.
#[derive(Debug)]
pub struct Intake {
    input: Input,
    seen: OnceLock<Seen>,
}

/// What the second pass must know of the first.
#[derive(Debug)]
struct Seen {
    bytes: u64,
    hashes: Arc<[u64]>,
    /// Its lines in a numbering through all sources that were checked together.
    lines: Range<u64>,
    conflicts: Arc<Conflicts>,
    digests: Arc<Digests>,
}

/// What reading one source through found.
struct Scan {
    checked: Checked,
    hashes: Vec<u64>,
    digests: Arc<Digests>,
    lines: Range<u64>,
    /// The source's number among the refusals.
    source: usize,
}

/// How the lines of one source are read.
struct Reading {
    defaults: Defaults,
    /// Where the paths in the lines start from.
    folder: PathBuf,
    pass: Pass,
}

impl Reading {
    fn line(&self, line: &Line<'_>, number: u64) -> Result<Option<NewJob>, String> {
        read(line.read()?, number, &self.defaults, &self.folder, self.pass)
    }
}

/// Reads one line whose paths start from `folder`; `None` where it is blank.
///
/// # Errors
/// The reason for people, without the line's number.
pub fn read_job(
    text: &str,
    line: u64,
    defaults: &Defaults,
    folder: &Path,
) -> Result<Option<NewJob>, String> {
    read(text, line, defaults, folder, Pass::Whole)
}

fn read(
    text: &str,
    line: u64,
    defaults: &Defaults,
    folder: &Path,
    pass: Pass,
) -> Result<Option<NewJob>, String> {
    parse_line(text, line, defaults, &|kind, path: &str| media::look(folder, kind, path), pass)
}

/// What is found in one chunk of lines.
struct Findings {
    hash: u64,
    bytes: u64,
    lines: u64,
    records: Vec<Record>,
    bad: Vec<Bad>,
}

/// A line refused, with its text.
struct Bad {
    line: u64,
    reason: String,
    text: String,
}

impl Intake {
    /// Opens a source. Standard input and pipes are read to their end into an unlinked file.
    pub fn open(source: &Source) -> Result<Self, IntakeError> {
        Ok(Self { input: Input::open(source)?, seen: OnceLock::new() })
    }

    /// Returns the name for people: the path, or `standard input`.
    pub fn name(&self) -> &str {
        &self.input.label.name
    }

    /// Returns the bytes of input: the file's size, and once checked the size decompressed.
    pub fn size(&self) -> u64 {
        self.seen.get().map_or(self.input.length, |seen| seen.bytes)
    }

    /// Checks all lines; those refused go to `rejects`.
    pub fn check(
        &self,
        defaults: &Defaults,
        rejects: &mut Rejects,
    ) -> Result<Checked, IntakeError> {
        let mut checked = Self::check_together(&[self], defaults, rejects)?;
        Ok(checked.pop().unwrap_or_default())
    }

    /// Checks all lines of sources whose jobs go to one batch, where a task id names one job.
    pub fn check_together(
        intakes: &[&Self],
        defaults: &Defaults,
        rejects: &mut Rejects,
    ) -> Result<Vec<Checked>, IntakeError> {
        let mut duplicates = Duplicates::default();
        let mut scans: Vec<Scan> = Vec::new();
        for intake in intakes {
            let before = scans.last().map_or(0, |scan| scan.lines.end);
            scans.push(intake.scan(defaults, rejects, before, &mut duplicates)?);
        }
        let conflicts = Arc::new(duplicates.finish()?);
        let mut all = Vec::new();
        for (intake, scan) in intakes.iter().zip(&scans) {
            let mut checked = scan.checked;
            let refused = intake.reject(&conflicts, scan, rejects, |first| {
                let index = scans.partition_point(|other| other.lines.end < first);
                let (Some(other), Some(place)) = (intakes.get(index), scans.get(index)) else {
                    return String::new();
                };
                let line = first - place.lines.start;
                if index == all.len() {
                    return format!("line {line} has the same task id with other content");
                }
                let name = other.name();
                format!("line {line} of `{name}` has the same task id with other content")
            })?;
            checked.good -= refused;
            checked.bad += refused;
            let seen = Seen {
                bytes: checked.bytes,
                hashes: scan.hashes.as_slice().into(),
                lines: scan.lines.clone(),
                conflicts: Arc::clone(&conflicts),
                digests: Arc::clone(&scan.digests),
            };
            // A second check finds the same or `jobs` notices the change.
            let _ = intake.seen.set(seen);
            all.push(checked);
        }
        Ok(all)
    }

    fn reading(&self, defaults: &Defaults, pass: Pass) -> Reading {
        Reading { defaults: defaults.clone(), folder: self.input.folder.clone(), pass }
    }

    /// Reads all lines once; the jobs' task ids go to `duplicates`.
    fn scan(
        &self,
        defaults: &Defaults,
        rejects: &mut Rejects,
        before: u64,
        duplicates: &mut Duplicates,
    ) -> Result<Scan, IntakeError> {
        let source = rejects.begin(self.name());
        let reading = self.reading(defaults, Pass::Whole);
        let chunks = Chunks::new(self.input.reader()?);
        let mut digests = Digests::default();
        let mut checked = Checked::default();
        let mut hashes = Vec::new();
        for findings in Pipeline::start(chunks, move |chunk| inspect(&chunk, &reading, before)) {
            let findings = findings.map_err(|error| self.input.label.error(error))?;
            hashes.push(findings.hash);
            checked.bytes += findings.bytes;
            checked.lines += findings.lines;
            for record in &findings.records {
                checked.good += 1;
                duplicates.add(record)?;
                digests.add(record.line() - before, record.digest())?;
            }
            for bad in &findings.bad {
                checked.bad += 1;
                rejects.add(source, bad.line, &bad.reason, &bad.text)?;
            }
        }
        let lines = before..before + checked.lines;
        Ok(Scan { checked, hashes, digests: Arc::new(digests), lines, source })
    }

    /// Returns the jobs in the input's order, after [`check`](Self::check).
    ///
    /// A line that `check` refused is left out with `skip_invalid`, else it is an error.
    pub fn jobs(&self, defaults: &Defaults, skip_invalid: bool) -> Result<Jobs, IntakeError> {
        let label = &self.input.label;
        let seen = self.seen.get().ok_or_else(|| label.unchecked())?;
        let reading = self.reading(defaults, Pass::Again);
        let chunks = Chunks::new(self.input.reader()?);
        let pipeline = Pipeline::start(chunks, move |chunk| jobs::read(&chunk, &reading));
        Jobs::new(label.clone(), pipeline, seen, skip_invalid)
    }

    /// Reports the lines whose task id an earlier line has with other content, with their text;
    /// returns how many. `reason` says what is told of the first line, numbered through.
    fn reject(
        &self,
        conflicts: &Arc<Conflicts>,
        scan: &Scan,
        rejects: &mut Rejects,
        reason: impl Fn(u64) -> String,
    ) -> Result<u64, IntakeError> {
        let mut conflicts = ConflictLines::of(conflicts, &scan.lines);
        let mut next = conflicts.next().transpose()?;
        let mut count = 0;
        if next.is_none() {
            return Ok(count);
        }
        let mut chunks = Chunks::new(self.input.reader()?);
        while next.is_some() {
            let chunk = chunks.next().ok_or_else(|| self.input.label.changed())?;
            let chunk = chunk.map_err(|error| self.input.label.error(error))?;
            for (number, line) in chunk.lines() {
                let Some((wanted, first)) = next else { break };
                if number == wanted {
                    rejects.add(scan.source, number, &reason(first), &line.text())?;
                    count += 1;
                    next = conflicts.next().transpose()?;
                }
            }
        }
        Ok(count)
    }
}

fn inspect(chunk: &Chunk, reading: &Reading, before: u64) -> Findings {
    let mut findings = Findings {
        hash: chunk.hash(),
        bytes: chunk.size(),
        lines: 0,
        records: Vec::new(),
        bad: Vec::new(),
    };
    for (number, line) in chunk.lines() {
        findings.lines += 1;
        match reading.line(&line, number) {
            Ok(None) => {}
            Ok(Some(job)) => findings.records.push(Record::of(&job, before)),
            Err(reason) => {
                findings.bad.push(Bad { line: number, reason, text: line.text().into_owned() });
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests;
