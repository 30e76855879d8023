//! The one task that writes.
//!
//! It owns the one connection that writes and is never cancelled; callers wait on a channel. Every
//! write is an explicit `BEGIN IMMEDIATE` … `COMMIT`, and the connection is thrown away after any
//! error: one whose COMMIT has failed may say yes to later ones and store nothing.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use sqlx::Connection;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use tokio::sync::{mpsc, oneshot, watch};

use crate::store::bulk;
use crate::store::connection::{self, BUSY_SLICE, Identity};
use crate::store::error::StoreError;

/// Work that waits for the connection.
type Command = Box<dyn for<'a> FnOnce(&'a mut Link) -> BoxFuture<'a, ()> + Send>;

/// How long a caller waits for another process's lock unless told otherwise.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// The least time between two tries for a lock.
const RETRY: Duration = Duration::from_millis(50);

/// Callers that may wait at once.
const QUEUE: usize = 64;

/// A handle to the writing task, which ends with the last one.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    commands: mpsc::Sender<Command>,
    /// Counts the transactions that were committed.
    commits: watch::Receiver<u64>,
}

/// How a transaction begins.
pub(crate) struct Begin {
    /// `BEGIN IMMEDIATE`, and statements that go to SQLite with it.
    pub(crate) sql: &'static str,
    /// Their one parameter.
    pub(crate) parameter: Option<String>,
}

/// The connection, opened when it is needed.
struct Link {
    path: PathBuf,
    identity: Option<Identity>,
    /// How long another process's lock is waited for.
    patience: Duration,
    connection: Option<SqliteConnection>,
    commits: watch::Sender<u64>,
}

impl Writer {
    /// Starts the task for the database at `path`, which has to exist.
    pub(crate) fn start(path: PathBuf, patience: Duration) -> Self {
        let identity = Identity::of(&path);
        let (commands, mut queue) = mpsc::channel::<Command>(QUEUE);
        let (told, commits) = watch::channel(0);
        let mut link = Link { path, identity, patience, connection: None, commits: told };
        let task = async move {
            while let Some(command) = queue.recv().await {
                command(&mut link).await;
            }
            if let Some(connection) = link.connection.take()
                && let Err(error) = connection.close().await
            {
                tracing::warn!(%error, "the database did not close cleanly");
            }
        };
        let thread = thread::Builder::new().name("gq-writer".to_owned());
        if let Err(error) = thread.spawn(move || run(task)) {
            // The queue is dropped with the task, which callers see as closed.
            tracing::error!(%error, "there is no thread to be had for the writing task");
        }
        Self { commands, commits }
    }

    /// Returns what tells of the commits of this process.
    pub(crate) fn commits(&self) -> watch::Receiver<u64> {
        self.commits.clone()
    }

    /// Runs `work` in one transaction and returns its value once that is on disk.
    ///
    /// An error from `work` rolls everything back. An error from COMMIT means *unknown*: what is
    /// written has to be such that writing it again is harmless.
    pub(crate) async fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, StoreError>>
            + Send
            + 'static,
    {
        let begin = Begin { sql: "BEGIN IMMEDIATE", parameter: None };
        self.write_after(begin, |connection, [_]| work(connection)).await
    }

    /// As [`write`](Self::write); `work` also gets the rows of the statements that begin it.
    pub(crate) async fn write_after<T, F, const STATEMENTS: usize>(
        &self,
        begin: Begin,
        work: F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(
                &'c mut SqliteConnection,
                [Vec<SqliteRow>; STATEMENTS],
            ) -> BoxFuture<'c, Result<T, StoreError>>
            + Send
            + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let command: Command = Box::new(move |link| {
            Box::pin(async move {
                let result = link.transaction(begin, work).await;
                // A caller that went away no longer wants to know.
                drop(reply.send(result));
            })
        });
        self.commands.send(command).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Waits until all that was asked before is done, and the connection is closed.
    pub(crate) async fn close(&self) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        let command: Command = Box::new(move |link| {
            Box::pin(async move {
                let closed = match link.connection.take() {
                    Some(connection) => connection.close().await,
                    None => Ok(()),
                };
                drop(reply.send(closed));
            })
        });
        self.commands.send(command).await.map_err(|_| StoreError::Closed)?;
        Ok(answer.await.map_err(|_| StoreError::Closed)??)
    }
}

/// Runs the task on this thread alone: it talks to that of SQLite all the time, and each word would
/// wake one of the runtime's threads after the other.
fn run(task: impl Future<Output = ()>) {
    match tokio::runtime::Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => runtime.block_on(task),
        Err(error) => tracing::error!(%error, "the writing task cannot start"),
    }
}

impl Link {
    async fn transaction<T, F, const STATEMENTS: usize>(
        &mut self,
        begin: Begin,
        work: F,
    ) -> Result<T, StoreError>
    where
        F: for<'c> FnOnce(
            &'c mut SqliteConnection,
            [Vec<SqliteRow>; STATEMENTS],
        ) -> BoxFuture<'c, Result<T, StoreError>>,
    {
        let (mut connection, rows) = self.begin(&begin).await?;
        let result = match work(&mut connection, rows).await {
            Ok(value) => {
                let committed = sqlx::query("COMMIT").execute(&mut connection).await;
                committed.map(|_| value).map_err(StoreError::from)
            }
            Err(error) => Err(error),
        };
        if result.is_ok() {
            self.connection = Some(connection);
            self.commits.send_modify(|commits| *commits += 1);
        } else if let Err(error) = connection.close_hard().await {
            tracing::debug!(%error, "a connection that failed did not close cleanly");
        }
        result
    }

    /// Opens the transaction; another process's lock is waited for.
    async fn begin<const STATEMENTS: usize>(
        &mut self,
        begin: &Begin,
    ) -> Result<(SqliteConnection, [Vec<SqliteRow>; STATEMENTS]), StoreError> {
        let mut waiting = Waiting::new(&self.path, self.patience);
        loop {
            if Identity::of(&self.path) != self.identity {
                return Err(StoreError::Replaced(self.path.clone()));
            }
            match self.try_begin(begin).await {
                Err(error) if error.is_lock() => waiting.again().await?,
                other => return other,
            }
        }
    }

    async fn try_begin<const STATEMENTS: usize>(
        &mut self,
        begin: &Begin,
    ) -> Result<(SqliteConnection, [Vec<SqliteRow>; STATEMENTS]), StoreError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connection::open_writer(&self.path).await?,
        };
        let mut query = sqlx::query(begin.sql);
        if let Some(parameter) = &begin.parameter {
            query = query.bind(parameter.clone());
        }
        let rows = bulk::together(&mut connection, query).await?;
        Ok((connection, rows))
    }
}

/// A wait for another process's lock.
pub(crate) struct Waiting {
    path: PathBuf,
    patience: Duration,
    started: Instant,
    told: Duration,
}

impl Waiting {
    pub(crate) fn new(path: &Path, patience: Duration) -> Self {
        Self { path: path.to_owned(), patience, started: Instant::now(), told: Duration::ZERO }
    }

    /// Says whether to try once more, after a try that SQLite has mostly waited in.
    ///
    /// # Errors
    /// [`StoreError::Locked`] where the patience is at its end.
    pub(crate) async fn again(&mut self) -> Result<(), StoreError> {
        let waited = self.started.elapsed();
        if waited + BUSY_SLICE / 2 >= self.patience {
            return Err(StoreError::Locked { path: self.path.clone(), waited });
        }
        if waited >= self.told * 2 {
            self.told = waited;
            let waited_s = waited.as_secs();
            tracing::warn!(waited_s, "another process holds the database; waiting");
        }
        // Some locks are refused at once.
        tokio::time::sleep(RETRY).await;
        Ok(())
    }
}
