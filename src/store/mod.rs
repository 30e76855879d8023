//! Every SQL statement, and what holds between them.
//!
//! Invariants: all writing goes through one task; a job's state moves only together with its
//! batch's counters; nothing but a success counts from an attempt that no longer owns its job.
//! No SQL type leaves this module, and no transaction is open during a call to the API.

mod bulk;
mod claim;
mod connection;
#[cfg(test)]
mod contract;
mod counters;
mod due;
mod enqueue;
mod error;
mod estimate;
mod health;
mod key_settings;
mod key_view;
mod keys;
mod lease;
#[cfg(test)]
mod lease_contract;
mod liveness;
mod manage;
mod media;
mod models;
mod needs;
mod opening;
mod pieces;
mod read;
mod settle;
mod standing;
mod status;
mod turn;
#[cfg(test)]
mod upload_contract;
mod uploads;
mod waits;
mod wake;
mod writer;

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{SqlitePool, SqlitePoolOptions};

pub use connection::Access;
pub use due::{Demand, Scope};
pub use enqueue::{Added, EnqueueOptions, OnConflict};
pub use error::StoreError;
pub use key_settings::SettingsChange;
pub use keys::{FoundKey, KeyRow, Switch};
pub use liveness::Registration;
pub use manage::Selection;
pub use media::{ClaimedMedia, ClaimedSource, FileStamp};
pub use pieces::{Heard, Interest, News, Piece};
pub use read::{Finish, Page, ResultFilter};
pub use turn::{
    AtClaim, Budget, CallStart, Claimed, Ended, Policy, Settled, TurnReport, TurnRequest, WorkerId,
};
pub use uploads::{ApiFile, Order, Prepared, UploadEnd};
pub use wake::Changes;

use writer::Writer;

/// Connections that read at once.
const READERS: u32 = 4;

/// The queue's database.
#[derive(Debug, Clone)]
pub struct Store {
    path: PathBuf,
    writer: Writer,
    readers: SqlitePool,
}

impl Store {
    /// Opens the database at `path`; see [`Access`] for whether it is made.
    ///
    /// # Errors
    /// A missing, newer or foreign file, one that another process locks for a minute, and
    /// whatever the file system says.
    pub async fn open(path: &Path, access: Access) -> Result<Self, StoreError> {
        Self::open_with(path, access, writer::PATIENCE).await
    }

    /// Opens the database for a worker, which waits for another process's lock for ever.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_for_work(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, Access::Write, Duration::MAX).await
    }

    async fn open_with(
        path: &Path,
        access: Access,
        patience: Duration,
    ) -> Result<Self, StoreError> {
        let mut waiting = writer::Waiting::new(path, patience);
        while let Err(error) = connection::prepare(path, access).await {
            if !error.is_lock() {
                return Err(error);
            }
            waiting.again().await?;
        }
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            // A file does not hang up.
            .test_before_acquire(false)
            .connect_lazy_with(connection::read_options(path));
        Ok(Self {
            path: path.to_owned(),
            writer: Writer::start(path.to_owned(), patience),
            readers,
        })
    }

    /// Returns where the database lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Closes all connections; what was asked for before is done first.
    ///
    /// # Errors
    /// What SQLite says when it closes the file.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.readers.close().await;
        self.writer.close().await
    }
}
