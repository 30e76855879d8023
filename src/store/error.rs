//! What can go wrong with the database, by what a caller can do about it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use sqlx::migrate::MigrateError;
use sqlx::sqlite::SqliteError;

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no database, and the command does not make one.
    #[error("there is no database `{}`", .0.display())]
    Missing(PathBuf),
    /// The file is a database in which nothing has been made yet.
    #[error("the database `{}` holds no queue yet", .0.display())]
    Empty(PathBuf),
    /// The path is that of a folder.
    #[error("`{}` is a folder, not a database", .0.display())]
    Folder(PathBuf),
    /// A later gq wrote it.
    #[error("the database `{}` was written by a newer gq", .0.display())]
    Newer(PathBuf),
    /// An earlier gq wrote it, and the command only reads.
    #[error("the database `{}` was written by an older gq", .0.display())]
    Older(PathBuf),
    /// A process died while it wrote the file, and the command only reads.
    #[error("a process died while it wrote the database `{}`", .0.display())]
    HalfWritten(PathBuf),
    /// The file is something else.
    #[error("`{}` is not a gq database", .0.display())]
    NotOurs(PathBuf),
    /// It, or its folder, cannot be written.
    #[error("the database `{}` cannot be written: {part} is read-only", path.display())]
    ReadOnly {
        /// The database.
        path: PathBuf,
        /// What cannot be written, in words.
        part: &'static str,
    },
    /// Its log holds something and cannot be read in a read-only folder.
    #[error(
        "the database `{}` cannot be read: it has a log, and its folder is read-only", .0.display()
    )]
    LogNeedsWriting(PathBuf),
    /// Another process held the write lock for too long.
    #[error("the database `{}` is locked by another process (waited {} s)", path.display(), waited.as_secs())]
    Locked {
        /// The database.
        path: PathBuf,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The file was deleted or replaced while it was open.
    #[error("the database `{}` was deleted or replaced while it was in use", .0.display())]
    Replaced(PathBuf),
    /// The SQLite library is one that can lose committed pages.
    #[error(
        "SQLite {0} can lose data with several processes; 3.51.3 or later is needed, not 3.52.0"
    )]
    Library(String),
    /// A pragma did not take.
    #[error("the database would not take `PRAGMA {0}`")]
    Pragma(&'static str),
    /// The file system failed.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A migration failed.
    #[error("cannot bring the database up to date")]
    Migrate(#[source] MigrateError),
    /// A stored value is not one that gq writes.
    #[error("the database holds an unknown value: {0}")]
    Value(String),
    /// The writing task ended.
    #[error("the writing task has ended")]
    Closed,
    /// A job exists with other content.
    #[error("task `{task_id}` (line {line}) exists in batch `{batch}` with other content")]
    Conflict {
        /// The job's name.
        task_id: String,
        /// The line that brings the other content.
        line: u64,
        /// The batch that has it.
        batch: String,
    },
    /// There is no room to write.
    #[error("the database cannot be written: the disk is full, or the file-size limit is reached")]
    Full,
    /// SQLite failed; the message says it all, so the cause stands in it and not behind it.
    #[error("the database failed: {}", describe(.0))]
    Database(sqlx::Error),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if is_full(&error) { Self::Full } else { Self::Database(error) }
    }
}

impl From<MigrateError> for StoreError {
    fn from(error: MigrateError) -> Self {
        match &error {
            MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _)
                if is_full(cause) =>
            {
                Self::Full
            }
            _ => Self::Migrate(error),
        }
    }
}

impl StoreError {
    pub(crate) fn io(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(std::io::Error) -> StoreError {
        let path = path.to_owned();
        move |source| StoreError::Io { action, path, source }
    }

    /// Returns whether another connection holds the lock that was asked for.
    pub(crate) fn is_lock(&self) -> bool {
        matches!(self, Self::Database(error) if matches!(primary_code(error), Some(5 | 6)))
    }

    /// Returns whether the file itself is spoiled.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Database(error) if matches!(primary_code(error), Some(11 | 26)))
    }

    /// Returns whether the counts of a batch were found to be wrong.
    pub fn is_miscount(&self) -> bool {
        matches!(self, Self::Database(error) if code(error) == Some(CHECK_FAILED))
    }

    /// Returns whether a later try can succeed without anybody's help in code: the disk is full,
    /// the file locked, a device failed for a moment.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Locked { .. } | Self::Io { .. } | Self::Full => true,
            Self::Database(error) => {
                // Busy, locked, out of memory, read-only, interrupted, I/O error, cannot open.
                matches!(primary_code(error), Some(5 | 6 | 7 | 8 | 9 | 10 | 14))
            }
            _ => false,
        }
    }
}

/// Returns whether the file is no SQLite database at all.
pub(crate) fn is_not_a_database(error: &sqlx::Error) -> bool {
    primary_code(error) == Some(26)
}

/// Returns whether SQLite could not open a file that it needs.
pub(crate) fn is_unopenable(error: &sqlx::Error) -> bool {
    primary_code(error) == Some(14)
}

/// Returns whether a process died while it wrote the file without a log, which whoever may write puts
/// right.
pub(crate) fn is_half_written(error: &sqlx::Error) -> bool {
    code(error) == Some(NEEDS_ROLLBACK)
}

/// A CHECK; those of the counts of batches are the only ones that what gq writes can meet.
const CHECK_FAILED: i32 = 275;
/// A rollback journal that has to be played back, by a connection that only reads.
const NEEDS_ROLLBACK: i32 = 776;
/// A write to the database that found no room.
const FULL: i32 = 13;
/// No room for the index of the log, which each connection needs, also to read.
const NO_ROOM_FOR_INDEX: i32 = 4874;
/// A write that failed otherwise; a file-size limit has no code of its own.
const WRITE_FAILED: i32 = 778;

fn is_full(error: &sqlx::Error) -> bool {
    match code(error) {
        Some(FULL | NO_ROOM_FOR_INDEX) => true,
        Some(WRITE_FAILED) => getrlimit(Resource::Fsize).current.is_some(),
        _ => false,
    }
}

fn primary_code(error: &sqlx::Error) -> Option<i32> {
    Some(code(error)? & 0xff)
}

fn code(error: &sqlx::Error) -> Option<i32> {
    let error = error.as_database_error()?.try_downcast_ref::<SqliteError>()?;
    sqlx::error::DatabaseError::code(error)?.parse().ok()
}

fn describe(error: &sqlx::Error) -> String {
    match primary_code(error) {
        Some(8) => "it cannot be written (read-only)".to_owned(),
        Some(11) => "the file is damaged".to_owned(),
        Some(14) => "it cannot be opened".to_owned(),
        _ => error.to_string(),
    }
}
