//! Bytes to chunks of whole lines, and chunks to lines.

use std::borrow::Cow;
use std::hash::Hasher;
use std::io::{self, Read};

/// How much is read at once. Where chunks end depends on the bytes alone, never on the reads.
const CHUNK: usize = 1 << 16;
/// The longest line that is read.
#[cfg(not(test))]
const LONGEST: usize = 128 << 20;
/// Short enough for tests to go beyond.
#[cfg(test)]
const LONGEST: usize = 1 << 20;
/// How much is kept of a line that is longer, to know it by.
const KEPT: usize = 200;

/// Why no further chunk can be read.
#[derive(Debug)]
pub(super) enum ReadError {
    Io(io::Error),
    Utf16,
}

/// Some whole lines.
#[derive(Debug)]
pub(super) struct Chunk {
    first_line: u64,
    bytes: Vec<u8>,
    /// The length of its only line, of which `bytes` holds the beginning.
    too_long: Option<u64>,
}

/// One line without its end.
#[derive(Debug)]
pub(super) enum Line<'a> {
    Whole(&'a [u8]),
    TooLong(&'a [u8]),
}

impl Chunk {
    /// Returns the lines with their numbers.
    pub(super) fn lines(&self) -> impl Iterator<Item = (u64, Line<'_>)> {
        let bytes = self.bytes.strip_suffix(b"\n").unwrap_or(&self.bytes);
        let mut rest = Some(bytes);
        let lines = std::iter::from_fn(move || {
            let bytes = rest?;
            let end = memchr::memchr(b'\n', bytes);
            rest = end.map(|end| &bytes[end + 1..]);
            let line = &bytes[..end.unwrap_or(bytes.len())];
            if self.too_long.is_some() {
                return Some(Line::TooLong(line));
            }
            Some(Line::Whole(line.strip_suffix(b"\r").unwrap_or(line)))
        });
        (self.first_line..).zip(lines)
    }

    /// Returns the number of bytes that the chunk had in the input.
    pub(super) fn size(&self) -> u64 {
        self.too_long.unwrap_or(self.bytes.len() as u64)
    }

    /// Returns a hash to tell whether a later pass finds the same bytes.
    pub(super) fn hash(&self) -> u64 {
        let mut hasher = std::hash::DefaultHasher::new();
        hasher.write(&self.bytes);
        hasher.write_u64(self.size());
        hasher.finish()
    }
}

impl<'a> Line<'a> {
    /// Returns the text, or why it cannot be read.
    pub(super) fn read(&self) -> Result<&'a str, String> {
        match self {
            Self::TooLong(_) => Err(too_long()),
            Self::Whole(bytes) if bytes.len() > LONGEST => Err(too_long()),
            Self::Whole(bytes) => std::str::from_utf8(bytes).map_err(|error| {
                format!("the line is not UTF-8: bad byte at column {}", error.valid_up_to() + 1)
            }),
        }
    }

    /// Returns the text with stand-ins for what is not UTF-8; of a line too long the beginning.
    pub(super) fn text(&self) -> Cow<'a, str> {
        match self {
            Self::Whole(bytes) => String::from_utf8_lossy(bytes),
            Self::TooLong(bytes) => format!("{}…", String::from_utf8_lossy(bytes)).into(),
        }
    }
}

fn too_long() -> String {
    format!("the line is longer than {} MB", LONGEST >> 20)
}

/// Reads chunk after chunk.
pub(super) struct Chunks {
    reader: Box<dyn Read + Send>,
    /// The beginning of a line whose end is not read yet.
    rest: Vec<u8>,
    next_line: u64,
    started: bool,
    ended: bool,
}

impl Chunks {
    pub(super) fn new(reader: Box<dyn Read + Send>) -> Self {
        Self { reader, rest: Vec::new(), next_line: 1, started: false, ended: false }
    }

    fn read_chunk(&mut self) -> Result<Option<Chunk>, ReadError> {
        let mut bytes = std::mem::take(&mut self.rest);
        let mut searched = 0;
        loop {
            self.fill(&mut bytes)?;
            if !self.started {
                self.started = true;
                skip_mark(&mut bytes)?;
            }
            if self.ended {
                return Ok((!bytes.is_empty()).then(|| self.chunk(bytes)));
            }
            if let Some(end) = memchr::memrchr(b'\n', &bytes[searched..]) {
                self.rest = bytes.split_off(searched + end + 1);
                return Ok(Some(self.chunk(bytes)));
            }
            if bytes.len() > LONGEST {
                return self.skip_line(bytes).map(Some);
            }
            searched = bytes.len();
        }
    }

    /// Reads one more block to the end of `bytes`; less only at the end of the input.
    fn fill(&mut self, bytes: &mut Vec<u8>) -> Result<(), ReadError> {
        let mut filled = bytes.len();
        let wanted = filled + CHUNK;
        bytes.resize(wanted, 0);
        while filled < wanted && !self.ended {
            match self.reader.read(&mut bytes[filled..]) {
                Ok(0) => self.ended = true,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ReadError::Io(error)),
            }
        }
        bytes.truncate(filled);
        Ok(())
    }

    fn chunk(&mut self, bytes: Vec<u8>) -> Chunk {
        let first_line = self.next_line;
        let ends = memchr::memchr_iter(b'\n', &bytes).count() as u64;
        self.next_line += ends;
        Chunk { first_line, bytes, too_long: None }
    }

    /// Reads to the end of a line without keeping it.
    fn skip_line(&mut self, mut bytes: Vec<u8>) -> Result<Chunk, ReadError> {
        let mut length = bytes.len() as u64;
        bytes.truncate(KEPT);
        bytes.shrink_to_fit();
        let mut block = Vec::with_capacity(CHUNK);
        while !self.ended {
            block.clear();
            self.fill(&mut block)?;
            if let Some(end) = block.iter().position(|byte| *byte == b'\n') {
                self.rest = block.split_off(end + 1);
                length += end as u64 + 1;
                break;
            }
            length += block.len() as u64;
        }
        let first_line = self.next_line;
        self.next_line += 1;
        Ok(Chunk { first_line, bytes, too_long: Some(length) })
    }
}

impl Iterator for Chunks {
    type Item = Result<Chunk, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended && self.rest.is_empty() {
            return None;
        }
        let chunk = self.read_chunk().transpose();
        if matches!(chunk, Some(Err(_))) {
            self.ended = true;
        }
        chunk
    }
}

/// Drops a byte order mark; refuses the marks and zero bytes of UTF-16.
fn skip_mark(bytes: &mut Vec<u8>) -> Result<(), ReadError> {
    if let [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [_, 0, ..] = bytes.as_slice() {
        return Err(ReadError::Utf16);
    }
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    Ok(())
}
