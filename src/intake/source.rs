//! Where lines come from: regular files, pipes and standard input, compressed or not.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::chunks::ReadError;
use super::error::IntakeError;

/// A source of input lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file or a named pipe.
    Path(PathBuf),
    /// Standard input.
    Stdin,
}

impl Source {
    /// Returns the source that an argument names; `-` is standard input.
    pub fn named(path: &Path) -> Self {
        if path.as_os_str() == "-" { Self::Stdin } else { Self::Path(path.to_owned()) }
    }

    /// Returns the batch that the source's jobs belong to unless told otherwise.
    pub fn batch_name(&self) -> String {
        match self {
            Self::Path(path) => batch_name(path),
            Self::Stdin => "stdin".to_owned(),
        }
    }
}

/// Returns the file's name without `.gz` and without one more ending; `stdin` for `-`.
pub fn batch_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    if name == "-" {
        return "stdin".to_owned();
    }
    let plain = name.strip_suffix(".gz").filter(|rest| !rest.is_empty()).unwrap_or(&name);
    let stem = plain.rsplit_once('.').map_or(plain, |(stem, _)| stem);
    let chosen = if stem.is_empty() { plain } else { stem };
    if chosen.is_empty() { "input".to_owned() } else { chosen.to_owned() }
}

/// An opened source: the bytes that it had then.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) label: Label,
    /// Both passes stop here, so that a file that is still appended to does no harm.
    pub(super) length: u64,
    /// Where the paths in its lines start from.
    pub(super) folder: PathBuf,
    place: Place,
}

/// What errors say of a source.
#[derive(Debug, Clone)]
pub(super) struct Label {
    pub(super) name: String,
    compressed: bool,
}

#[derive(Debug)]
enum Place {
    /// Opened anew for each pass: many files may be checked before the first is stored.
    Path(PathBuf),
    Spool(File),
}

impl Input {
    pub(super) fn open(source: &Source) -> Result<Self, IntakeError> {
        match source {
            Source::Stdin => {
                Self::spool("standard input".to_owned(), PathBuf::new(), io::stdin().lock())
            }
            Source::Path(path) => Self::open_path(path),
        }
    }

    fn open_path(path: &Path) -> Result<Self, IntakeError> {
        let name = path.display().to_string();
        let failed = |source| IntakeError::Io { name: name.clone(), source };
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let kind = std::fs::metadata(path).map_err(failed)?.file_type();
        if kind.is_fifo() {
            let pipe = File::open(path).map_err(failed)?;
            return Self::spool(name, folder, pipe);
        }
        if !kind.is_file() {
            return Err(IntakeError::NotAFile { name });
        }
        let file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let compressed = is_gzip(&file).map_err(failed)?;
        let place = Place::Path(path.to_owned());
        Ok(Self { label: Label { name, compressed }, length, folder, place })
    }

    fn spool(name: String, folder: PathBuf, mut from: impl Read) -> Result<Self, IntakeError> {
        let mut file = tempfile::tempfile().map_err(IntakeError::Temporary)?;
        let mut block = vec![0; 1 << 16];
        loop {
            let count = match from.read(&mut block) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(IntakeError::Io { name, source }),
            };
            io::Write::write_all(&mut file, &block[..count]).map_err(IntakeError::Temporary)?;
        }
        let length = file.stream_position().map_err(IntakeError::Temporary)?;
        let compressed = is_gzip(&file).map_err(IntakeError::Temporary)?;
        let place = Place::Spool(file);
        Ok(Self { label: Label { name, compressed }, length, folder, place })
    }

    /// Returns a reader of the decompressed bytes, from their start.
    pub(super) fn reader(&self) -> Result<Box<dyn Read + Send>, IntakeError> {
        let file = match &self.place {
            Place::Path(path) => File::open(path),
            Place::Spool(file) => file.try_clone(),
        };
        let file =
            file.map_err(|source| IntakeError::Io { name: self.label.name.clone(), source })?;
        let window = Window { file, at: 0, end: self.length };
        if self.label.compressed {
            return Ok(Box::new(MultiGzDecoder::new(io::BufReader::with_capacity(
                1 << 16,
                window,
            ))));
        }
        Ok(Box::new(window))
    }
}

impl Label {
    /// Returns `error` with the source's name.
    pub(super) fn error(&self, error: ReadError) -> IntakeError {
        let name = self.name.clone();
        match error {
            ReadError::Utf16 => IntakeError::Utf16 { name },
            ReadError::Io(source) if self.compressed && is_damage(&source) => {
                IntakeError::Gzip { name, source }
            }
            ReadError::Io(source) => IntakeError::Io { name, source },
        }
    }

    pub(super) fn unchecked(&self) -> IntakeError {
        IntakeError::Unchecked { name: self.name.clone() }
    }

    pub(super) fn changed(&self) -> IntakeError {
        IntakeError::Changed { name: self.name.clone() }
    }
}

fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    matches!(error.kind(), InvalidData | InvalidInput | UnexpectedEof)
}

fn is_gzip(file: &File) -> io::Result<bool> {
    let mut magic = [0; 2];
    let count = file.read_at(&mut magic, 0)?;
    Ok(count == 2 && magic == [0x1f, 0x8b])
}

/// Reads a file up to a fixed end, with a position of its own.
struct Window {
    file: File,
    at: u64,
    end: u64,
}

impl Read for Window {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let count = self.file.read_at(&mut buffer[..wanted], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_named_after_the_file() {
        let cases = [
            ("a.b.jsonl.gz", "a.b"),
            ("/x/prompts.jsonl", "prompts"),
            ("prompts", "prompts"),
            ("prompts.gz", "prompts"),
            ("v1.2.txt", "v1.2"),
            (".jsonl", ".jsonl"),
            (".gz", ".gz"),
            ("-", "stdin"),
        ];
        for (path, name) in cases {
            assert_eq!(batch_name(Path::new(path)), name, "{path}");
        }
    }
}
