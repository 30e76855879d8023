//! Tells of commits of any process: a file watch where there is one, and a slow poll.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use sqlx::sqlite::SqliteConnection;
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::store::due::{self, Demand, Scope};
use crate::store::{Store, StoreError, connection};

/// The event comes when a commit is written, which is before it is synced and can be seen. It is
/// looked for again after so long, which is less than a fast disk takes to sync,
const LOOK: Duration = Duration::from_micros(100);

/// so often,
const LOOKS: u32 = 50;

/// and then after this time, doubled each time,
const LATE_LOOK: Duration = Duration::from_millis(2);

/// so often. A disk that takes longer than a quarter of a second is left to the next event or poll.
const LATE_LOOKS: u32 = 7;

/// Waits for commits.
pub struct Changes {
    path: PathBuf,
    /// Its own connection: SQLite counts the commits of all others for each one.
    connection: Option<SqliteConnection>,
    version: Option<i64>,
    /// Tells of commits of this process.
    own: watch::Receiver<u64>,
    touched: Arc<Notify>,
    watcher: Watcher,
    poll: Duration,
    next_poll: Instant,
    /// The next look after an event, if there was one.
    look: Option<u32>,
}

/// A file watch.
enum Watcher {
    /// Set up by the first wait: the end of a watch holds up the end of its process for some
    /// milliseconds (Linux waits for all who may be telling of events).
    Later,
    Here(
        #[expect(dead_code, reason = "it sends events for as long as it lives")] RecommendedWatcher,
    ),
    /// There is none to be had, or none is wanted.
    None,
}

impl Store {
    /// Begins to wait for commits of any process; looks each `poll` even if nothing tells of one.
    pub fn changes(&self, poll: Duration) -> Changes {
        Changes {
            path: self.path.clone(),
            connection: None,
            version: None,
            own: self.writer.commits(),
            touched: Arc::new(Notify::new()),
            watcher: Watcher::Later,
            poll,
            next_poll: Instant::now(),
            look: None,
        }
    }

    /// Begins to wait for commits of this process; those of others are found by a look each `poll`.
    pub fn own_changes(&self, poll: Duration) -> Changes {
        Changes { watcher: Watcher::None, ..self.changes(poll) }
    }
}

/// Watches the folder and not the file: the log is deleted and made anew.
fn watched(path: &Path, touched: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let path = path.canonicalize().map_err(notify::Error::io)?;
    let (folder, name) = path.parent().zip(path.file_name()).unwrap_or((&path, OsStr::new("")));
    let mut log: OsString = name.to_owned();
    log.push("-wal");
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        let is_log = |event: &Event| {
            event.paths.is_empty() || event.paths.iter().any(|path| path.file_name() == Some(&log))
        };
        // An error may stand for events that were lost.
        if event.as_ref().is_ok_and(is_log) || event.is_err() {
            touched.notify_one();
        }
    })?;
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

impl Changes {
    /// Waits until something was committed since the last return. May be dropped and called again
    /// at any time; nothing is missed by that.
    pub async fn next(&mut self) {
        if matches!(self.watcher, Watcher::Later) {
            self.watcher = self.begin();
        }
        loop {
            let look = self.look;
            tokio::select! {
                () = self.touched.notified() => self.look = Some(0),
                Ok(()) = self.own.changed() => {}
                () = pause(look.unwrap_or(0)), if look.is_some() => {
                    self.look = look.map(|look| look + 1).filter(|look| *look < LOOKS + LATE_LOOKS);
                }
                () = tokio::time::sleep_until(self.next_poll) => {}
            }
            let changed = self.has_changed().await;
            self.next_poll = Instant::now() + self.poll;
            if changed {
                return;
            }
        }
    }

    fn begin(&self) -> Watcher {
        match watched(&self.path, self.touched.clone()) {
            Ok(watcher) => Watcher::Here(watcher),
            Err(error) => {
                tracing::info!(%error, "the database cannot be watched; it is polled");
                Watcher::None
            }
        }
    }

    /// Returns whether something was committed since the last look; the first one says so too.
    async fn has_changed(&mut self) -> bool {
        match self.read_version().await {
            Ok(version) if Some(version) == self.version => false,
            Ok(version) => {
                self.version = Some(version);
                self.look = None;
                true
            }
            Err(error) => {
                tracing::debug!(%error, "cannot look for commits");
                self.connection = None;
                false
            }
        }
    }

    async fn read_version(&mut self) -> Result<i64, StoreError> {
        if self.connection.is_none() {
            // What a new connection counts cannot be compared with what the last one did.
            self.version = None;
            self.connection = Some(connection::read_options(&self.path).connect().await?);
        }
        let connection = self.connection.as_mut().ok_or(StoreError::Closed)?;
        Ok(sqlx::query_scalar("PRAGMA data_version").fetch_one(connection).await?)
    }

    /// Returns what there is to do in `scope`, by the connection that has just seen the commit.
    ///
    /// # Errors
    /// What SQLite says; the next wait then begins with a new connection.
    pub async fn demand(&mut self, scope: Scope) -> Result<Demand, StoreError> {
        let connection = self.connection.as_mut().ok_or(StoreError::Closed)?;
        let demand = due::demand(connection, scope).await;
        if demand.is_err() {
            self.connection = None;
        }
        demand
    }

    /// Stops waiting, so that the database can be closed.
    ///
    /// # Errors
    /// What SQLite says when it closes the file.
    pub async fn close(self) -> Result<(), StoreError> {
        match self.connection {
            Some(connection) => Ok(connection.close().await?),
            None => Ok(()),
        }
    }
}

/// Sleeps before the look number `look`, from 0; the runtime's timer knows no less than a millisecond.
async fn pause(look: u32) {
    if let Some(late) = look.checked_sub(LOOKS) {
        tokio::time::sleep(LATE_LOOK * (1 << late)).await;
    } else {
        // The runtime may shut down in between; then nobody waits for it.
        let _ = tokio::task::spawn_blocking(|| thread::sleep(LOOK)).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::domain::time::Timestamp;
    use crate::store::{Access, FoundKey};

    /// No wait of these tests for something that happens takes so long.
    const LIMIT: Duration = Duration::from_secs(20);

    /// Longer than any test: nothing is found by it.
    const NEVER: Duration = Duration::from_hours(1);

    struct Bench {
        folder: tempfile::TempDir,
        own: Store,
    }

    impl Bench {
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let own = Store::open(&folder.path().join("q.db"), Access::Write).await.unwrap();
            Self { folder, own }
        }

        async fn other(&self) -> Store {
            Store::open(&self.folder.path().join("q.db"), Access::Write).await.unwrap()
        }

        /// Begins to wait, with what was committed before behind it.
        async fn listen(&self, poll: Duration) -> Changes {
            let mut changes = self.own.changes(poll);
            timeout(LIMIT, changes.next()).await.unwrap();
            changes
        }
    }

    async fn commit(store: &Store, name: &str) {
        let key = FoundKey { name, secret: name, is_sendable: true, settings: None };
        store.register_keys(&[key], || Timestamp(0)).await.unwrap();
    }

    #[tokio::test]
    async fn a_commit_elsewhere_is_told_of_without_a_poll() {
        let bench = Bench::new().await;
        let other = bench.other().await;
        let mut changes = bench.listen(NEVER).await;
        assert!(matches!(changes.watcher, Watcher::Here(_)));
        for name in ["a", "b", "c"] {
            commit(&other, name).await;
            timeout(LIMIT, changes.next()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_log_that_was_emptied_is_watched_on() {
        let bench = Bench::new().await;
        let other = bench.other().await;
        let mut changes = bench.listen(NEVER).await;
        commit(&other, "a").await;
        timeout(LIMIT, changes.next()).await.unwrap();
        other.vacuum().await.unwrap();
        let log = bench.folder.path().join("q.db-wal");
        assert_eq!(std::fs::metadata(log).unwrap().len(), 0);
        timeout(LIMIT, changes.next()).await.unwrap();
        commit(&other, "b").await;
        timeout(LIMIT, changes.next()).await.unwrap();
    }

    #[tokio::test]
    async fn a_commit_is_found_by_a_poll_where_nothing_tells_of_it() {
        let bench = Bench::new().await;
        let other = bench.other().await;
        let mut changes = bench.listen(Duration::from_millis(10)).await;
        changes.watcher = Watcher::None;
        commit(&other, "a").await;
        timeout(LIMIT, changes.next()).await.unwrap();
    }

    #[tokio::test]
    async fn a_commit_of_this_process_is_told_of_without_a_watch() {
        let bench = Bench::new().await;
        let mut changes = bench.own.own_changes(NEVER);
        timeout(LIMIT, changes.next()).await.unwrap();
        for name in ["a", "b"] {
            commit(&bench.own, name).await;
            timeout(LIMIT, changes.next()).await.unwrap();
        }
        assert!(matches!(changes.watcher, Watcher::None));
    }

    #[tokio::test]
    async fn a_wait_that_was_dropped_misses_nothing() {
        let bench = Bench::new().await;
        let other = bench.other().await;
        let mut changes = bench.listen(NEVER).await;
        commit(&other, "a").await;
        let started = Instant::now();
        while timeout(Duration::from_micros(300), changes.next()).await.is_err() {
            assert!(started.elapsed() < LIMIT);
        }
    }

    #[tokio::test]
    async fn nothing_is_told_where_nothing_happened() {
        let bench = Bench::new().await;
        let mut changes = bench.listen(Duration::from_millis(1)).await;
        let look = timeout(Duration::from_millis(50), changes.next()).await;
        assert!(look.is_err());
        changes.close().await.unwrap();
    }
}
