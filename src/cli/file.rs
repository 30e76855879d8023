//! Files that commands write: whole or not at all, and never over what they read.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::exit::ExitStatus;
use super::failure::{Failure, Result};

/// A file in the making: beside its place until it is finished.
pub(crate) struct WholeFile {
    path: PathBuf,
    target: Target,
}

enum Target {
    Beside(NamedTempFile),
    /// What is no file (a pipe, a terminal) is written to, not replaced.
    Through(File),
}

impl WholeFile {
    /// Begins the file at `path`; a link stays a link, and an old file's mode is kept.
    pub(crate) fn begin(path: &Path) -> Result<Self> {
        let target = path.canonicalize();
        let path = target.as_deref().unwrap_or(path);
        Self::begin_at(path).map_err(|error| failed(path, &error))
    }

    fn begin_at(path: &Path) -> io::Result<Self> {
        let existing = std::fs::metadata(path).ok();
        let target = if existing.as_ref().is_some_and(|it| !it.is_file() && !it.is_dir()) {
            Target::Through(OpenOptions::new().write(true).open(path)?)
        } else {
            let mode =
                existing.map_or_else(|| Permissions::from_mode(0o666), |it| it.permissions());
            let file = tempfile::Builder::new().permissions(mode).tempfile_in(folder_of(path))?;
            Target::Beside(file)
        };
        Ok(Self { path: path.to_owned(), target })
    }

    /// Returns where its bytes are written.
    pub(crate) fn file(&self) -> &File {
        match &self.target {
            Target::Beside(file) => file.as_file(),
            Target::Through(file) => file,
        }
    }

    /// Returns where the file will be.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the file in its place, on disk.
    pub(crate) fn finish(self) -> Result<()> {
        let Target::Beside(file) = self.target else { return Ok(()) };
        let placed = file.as_file().sync_all().map(|()| file.persist(&self.path));
        match placed {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(failed(&self.path, &error.error)),
            Err(error) => Err(failed(&self.path, &error)),
        }
    }
}

pub(super) fn folder_of(path: &Path) -> &Path {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

pub(super) fn failed(path: &Path, error: &io::Error) -> Failure {
    let message = format!("cannot write `{}`: {error}", path.display());
    Failure::new(ExitStatus::Failure, message).hint("the file was left as it was")
}

/// Refuses to write `path`, given with `flag`, where there is no folder for it, over one of `read`,
/// which the same command reads or writes, or over what belongs to the database, also one that is yet to be
/// made.
pub(crate) fn check<'a>(
    flag: &str,
    path: &Path,
    database: &'a Path,
    read: impl IntoIterator<Item = &'a Path>,
) -> Result<()> {
    if !folder_of(path).is_dir() {
        let message = format!("cannot write `{}`: its folder is not there", path.display());
        return Err(Failure::new(ExitStatus::Failure, message));
    }
    let refused = |what: &str| {
        let message = format!("`{flag} {}` would overwrite {what}", path.display());
        Err(Failure::new(ExitStatus::Usage, message).hint("name another file"))
    };
    if belongs_to(path, database) {
        return refused("the database, or a file that belongs to it");
    }
    let identity = |path: &Path| {
        let found = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
        Some((found.dev(), found.ino()))
    };
    let own = identity(path);
    let same = |other| real(other) == real(path) || (own.is_some() && identity(other) == own);
    if read.into_iter().chain([database]).any(same) {
        return refused("what is read or written besides");
    }
    Ok(())
}

/// Returns whether `path` is that of the database, or of what SQLite and gq keep beside it.
fn belongs_to(path: &Path, database: &Path) -> bool {
    let (path, database) = (real(path), real(database));
    ["", "-wal", "-shm", "-journal", "-locks"].iter().any(|end| {
        let mut part = database.clone().into_os_string();
        part.push(end);
        path.starts_with(part)
    })
}

/// Returns where a path leads, also that of a file that is not there yet.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| {
        let folder = folder_of(path);
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        path.file_name().map_or_else(|| folder.clone(), |name| folder.join(name))
    })
}
