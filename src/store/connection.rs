//! Opening the database: file mode, first start, pragmas, version, identity.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;
use rustix::io::Errno;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Row};

use crate::store::error::{StoreError, is_half_written, is_not_a_database, is_unopenable};

/// `gqdb` in ASCII; tells our files from other SQLite databases.
const APPLICATION_ID: i64 = 1_734_435_180;

/// The schema that the newest migration leaves.
const SCHEMA_VERSION: i64 = 7;

/// SQLite itself waits this long for another process's lock; the writer asks again after it.
pub(crate) const BUSY_SLICE: Duration = Duration::from_secs(5);

/// The size of a page of a new database. A job with its prompt is a few hundred bytes: larger
/// pages than SQLite's 4,096 bytes are filled and written in fewer steps.
const PAGE_BYTES: u32 = 8192;

/// Rows of a turn's statement that may wait for their reader. None holds an answer.
const ROWS_WAITING: usize = 1024;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// What a command does with the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Makes and migrates it where needed.
    Write,
    /// Needs it as it is.
    Read,
}

/// Which file a path named when it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// Reads it by `stat`: opening and closing the file would drop SQLite's own locks.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let data = std::fs::metadata(path).ok()?;
        Some(Self { device: data.dev(), inode: data.ino() })
    }
}

enum Version {
    None,
    Current,
    Older,
    /// A process died while it wrote the file without a log, as at a first start; only who may write
    /// can put that right and see what it is.
    HalfWritten,
}

/// Makes sure that a database of this version stands at `path`.
pub(crate) async fn prepare(path: &Path, access: Access) -> Result<(), StoreError> {
    if path.is_dir() {
        return Err(StoreError::Folder(path.to_owned()));
    }
    if access == Access::Write {
        refuse_read_only(path)?;
    }
    let exists = path.try_exists().map_err(StoreError::io("look at", path))?;
    if !exists && path.is_symlink() {
        return Err(StoreError::io("follow the link", path)(std::io::ErrorKind::NotFound.into()));
    }
    if exists && is_newer_on_disk(path).await {
        return Err(StoreError::Newer(path.to_owned()));
    }
    if access == Access::Read {
        if !exists {
            return Err(StoreError::Missing(path.to_owned()));
        }
        return match version(path).await? {
            Version::Current => Ok(()),
            Version::Older => Err(StoreError::Older(path.to_owned())),
            Version::None => Err(StoreError::Empty(path.to_owned())),
            Version::HalfWritten => Err(StoreError::HalfWritten(path.to_owned())),
        };
    }
    if exists && matches!(version(path).await?, Version::Current) {
        return Ok(());
    }
    // Switching a new file to the write-ahead log ignores the busy timeout: one process at a time.
    let _first = first_open_lock(path).await?;
    create(path)?;
    let found = match version(path).await? {
        Version::HalfWritten => look(path, base_options(path)).await?,
        found => found,
    };
    match found {
        Version::Current => Ok(()),
        _ => migrate(path).await,
    }
}

/// Refuses what cannot be written: the file itself, or the folder, where SQLite makes files.
fn refuse_read_only(path: &Path) -> Result<(), StoreError> {
    let part = if is_read_only(&folder_of(path)) {
        "its folder"
    } else if is_read_only(path) {
        "the file"
    } else {
        return Ok(());
    };
    Err(StoreError::ReadOnly { path: path.to_owned(), part })
}

/// Returns whether this process may not write to `path`, which is there.
fn is_read_only(path: &Path) -> bool {
    let answer = rustix::fs::access(path, rustix::fs::Access::WRITE_OK);
    matches!(answer, Err(Errno::ACCESS | Errno::PERM | Errno::ROFS))
}

/// Returns the folder in which the log lies: that of the file, not of a link to it.
fn folder_of(path: &Path) -> PathBuf {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new(".")).to_owned()
}

/// Returns the bytes of the database's log; 0 where there is none.
fn log_bytes(path: &Path) -> u64 {
    let mut log = path.canonicalize().unwrap_or_else(|_| path.to_owned()).into_os_string();
    log.push("-wal");
    std::fs::metadata(log).map_or(0, |log| log.len())
}

/// Pages of the log at which it is put back into the database, where there is room. Pages that change
/// again and again are put back less often; a log of that length, and of one transaction more, stays
/// below 64 MB.
const LOG_PAGES: u64 = 4000;

/// Returns at how many pages the log is put back where so many bytes are free: it must not fill the disk
/// that it needs to be put back.
fn log_pages(free: u64) -> u64 {
    (free / 4 / u64::from(PAGE_BYTES)).clamp(64, LOG_PAGES)
}

/// Returns the bytes that are free where the database lies; where nobody knows, there is room.
fn free_bytes(path: &Path) -> u64 {
    rustix::fs::statvfs(folder_of(path))
        .map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Returns the folder beside the database that holds lock files: one and the same, whatever link
/// leads to the file.
pub(crate) fn lock_folder(path: &Path) -> PathBuf {
    let real = path.canonicalize();
    let mut name = real.as_deref().unwrap_or(path).as_os_str().to_owned();
    name.push("-locks");
    PathBuf::from(name)
}

/// Makes the folder of lock files; a missing parent is an error, as it is for the database.
pub(crate) fn make_lock_folder(folder: &Path) -> Result<(), StoreError> {
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(StoreError::io("create the folder", folder)(error))
        }
        _ => Ok(()),
    }
}

async fn first_open_lock(path: &Path) -> Result<File, StoreError> {
    let folder = lock_folder(path);
    make_lock_folder(&folder)?;
    let file = folder.join("open");
    let lock = private_file(&file).map_err(StoreError::io("create", &file))?;
    tokio::task::spawn_blocking(move || lock.lock().map(|()| lock))
        .await
        .map_err(|_| StoreError::Closed)?
        .map_err(StoreError::io("lock", &file))
}

fn create(path: &Path) -> Result<(), StoreError> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(StoreError::io("create the database", path)(error)),
    }
}

/// Opens `path`, made with mode 0600 where it is missing.
pub(crate) fn private_file(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Returns whether the file itself, without its log, says that a newer gq wrote it.
///
/// Opened as one that nobody changes, it gets neither a lock nor files beside it, so a newer
/// database stays untouched. Whatever else may be wrong is for the usual opening to say.
async fn is_newer_on_disk(path: &Path) -> bool {
    let options = SqliteConnectOptions::new().filename(path).read_only(true).immutable(true);
    let Ok(mut connection) = options.disable_statement_logging().connect().await else {
        return false;
    };
    let header: Result<(i64, i64), sqlx::Error> = sqlx::query_as(
        "SELECT application_id, user_version FROM pragma_application_id, pragma_user_version",
    )
    .fetch_one(&mut connection)
    .await;
    // It has read what it was opened for.
    drop(connection.close().await);
    header.is_ok_and(|(application, version)| {
        application == APPLICATION_ID && version > SCHEMA_VERSION
    })
}

async fn version(path: &Path) -> Result<Version, StoreError> {
    if std::fs::metadata(path).map_err(StoreError::io("look at", path))?.len() == 0 {
        return Ok(Version::None);
    }
    match look(path, read_options(path)).await {
        Err(StoreError::Database(error)) if is_half_written(&error) => Ok(Version::HalfWritten),
        found => found,
    }
}

async fn look(path: &Path, options: SqliteConnectOptions) -> Result<Version, StoreError> {
    let mut connection = options.connect().await.map_err(|error| unreadable(error, path))?;
    let found = read_version(&mut connection, path).await;
    connection.close().await?;
    found
}

async fn read_version(
    connection: &mut SqliteConnection,
    path: &Path,
) -> Result<Version, StoreError> {
    let row = sqlx::query(
        "SELECT (SELECT user_version FROM pragma_user_version),
                (SELECT application_id FROM pragma_application_id),
                (SELECT count(*) FROM sqlite_schema WHERE type = 'table'),
                (SELECT count(*) FROM sqlite_schema WHERE name = '_sqlx_migrations')",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(|error| unreadable(error, path))?;
    let (version, application, tables, migrations): (i64, i64, i64, i64) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
    if tables == 0 && version == 0 {
        return Ok(Version::None);
    }
    // A first start that died may have left the table of migrations and nothing else.
    if application != APPLICATION_ID {
        let unfinished = application == 0 && tables == migrations;
        return if unfinished { Ok(Version::None) } else { Err(StoreError::NotOurs(path.into())) };
    }
    let newest: i64 = sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM _sqlx_migrations")
        .fetch_one(&mut *connection)
        .await?;
    let known = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
    if version > SCHEMA_VERSION || newest > known {
        return Err(StoreError::Newer(path.to_owned()));
    }
    Ok(if version == SCHEMA_VERSION { Version::Current } else { Version::Older })
}

/// Says what is wrong with a file that SQLite does not read.
fn unreadable(error: sqlx::Error, path: &Path) -> StoreError {
    if is_not_a_database(&error) {
        return StoreError::NotOurs(path.to_owned());
    }
    if !is_unopenable(&error) {
        return error.into();
    }
    if let Err(why) = rustix::fs::access(path, rustix::fs::Access::READ_OK) {
        return StoreError::io("read", path)(why.into());
    }
    if is_read_only(&folder_of(path)) {
        return StoreError::LogNeedsWriting(path.to_owned());
    }
    error.into()
}

async fn migrate(path: &Path) -> Result<(), StoreError> {
    let mut connection = base_options(path).page_size(PAGE_BYTES).connect().await?;
    let mode: String =
        sqlx::query_scalar("PRAGMA journal_mode = WAL").fetch_one(&mut connection).await?;
    if mode != "wal" {
        return Err(StoreError::Pragma("journal_mode = WAL"));
    }
    MIGRATIONS.run(&mut connection).await?;
    connection.close().await?;
    Ok(())
}

fn base_options(path: &Path) -> SqliteConnectOptions {
    // SQLite would read a name that begins so as an address.
    let is_address = path.as_os_str().as_encoded_bytes().starts_with(b"file:");
    let path = if is_address { Path::new(".").join(path) } else { path.to_owned() };
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .busy_timeout(BUSY_SLICE)
        // Reported means on disk, also at power loss.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        // A database from elsewhere must not run functions through its schema.
        .pragma("trusted_schema", "OFF")
        // Finds a damaged page before it is believed.
        .pragma("cell_size_check", "ON")
        // Each as a `trace` of sqlx, which nobody sees unless asked for.
        .log_statements(LevelFilter::Trace)
        .log_slow_statements(LevelFilter::Off, Duration::MAX)
}

/// Returns how a reading connection opens the database.
///
/// Also to read, SQLite makes files beside a database with a log. Where it cannot, and the log
/// holds nothing, the file alone is the whole database, and is read as one that nobody changes.
pub(crate) fn read_options(path: &Path) -> SqliteConnectOptions {
    let alone = is_read_only(&folder_of(path)) && log_bytes(path) == 0;
    base_options(path).read_only(true).immutable(alone)
}

/// Opens a connection that writes, and reads back that every pragma took.
pub(crate) async fn open_writer(path: &Path) -> Result<SqliteConnection, StoreError> {
    let options = base_options(path)
        // The rows of a turn wait for their reader; SQLite does not wait for it to take some.
        .row_buffer_size(ROWS_WAITING)
        // What a bulk enqueue changes in one transaction fits, so that no page is written twice.
        .pragma("cache_size", "-6000")
        .pragma("wal_autocheckpoint", log_pages(free_bytes(path)).to_string())
        // A statement of many rows keeps what it may have to undo in memory, not in `/var/tmp`.
        .pragma("temp_store", "MEMORY");
    let mut connection = options.connect().await?;
    // A copy of a database may come without its log; the check below sees whether this took.
    sqlx::query("PRAGMA journal_mode = WAL").execute(&mut connection).await?;
    let found: (String, String, i64, i64, i64, i64, i64) = sqlx::query_as(
        "SELECT sqlite_version(), j.journal_mode, s.synchronous, f.foreign_keys, b.timeout,
                t.trusted_schema, c.cell_size_check
           FROM pragma_journal_mode AS j, pragma_synchronous AS s, pragma_foreign_keys AS f,
                pragma_busy_timeout AS b, pragma_trusted_schema AS t, pragma_cell_size_check AS c",
    )
    .fetch_one(&mut connection)
    .await?;
    if !is_safe_library(&found.0) {
        return Err(StoreError::Library(found.0));
    }
    for (pragma, took) in [
        ("journal_mode", found.1 == "wal"),
        ("synchronous", found.2 == 2),
        ("foreign_keys", found.3 == 1),
        ("busy_timeout", u128::try_from(found.4).is_ok_and(|it| it == BUSY_SLICE.as_millis())),
        ("trusted_schema", found.5 == 0),
        ("cell_size_check", found.6 == 1),
    ] {
        if !took {
            return Err(StoreError::Pragma(pragma));
        }
    }
    Ok(connection)
}

/// Earlier ones, and 3.52.0, can lose committed pages in a write-ahead log that several
/// connections share (<https://sqlite.org/wal.html>).
fn is_safe_library(version: &str) -> bool {
    let parts: Vec<u32> = version.split('.').filter_map(|part| part.parse().ok()).collect();
    parts.as_slice() >= [3, 51, 3].as_slice() && parts != [3, 52, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_takes_a_quarter_of_the_room_at_most() {
        assert_eq!(log_pages(u64::MAX), 4000);
        assert_eq!(log_pages(128 << 20), 4000);
        assert_eq!(log_pages(8 << 20), 256);
        assert_eq!(log_pages(0), 64);
    }

    #[test]
    fn libraries_that_lose_pages_are_refused() {
        for (version, safe) in [
            ("3.51.3", true),
            ("3.51.2", false),
            ("3.52.0", false),
            ("3.52.1", true),
            ("3.54.1", true),
            ("3.45.0", false),
            ("4.0.0", true),
        ] {
            assert_eq!(is_safe_library(version), safe, "{version}");
        }
    }
}
