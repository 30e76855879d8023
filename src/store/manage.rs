//! What people do to jobs: retry, cancel, prune.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _};

use crate::domain::outcome::ErrorKind;
use crate::domain::time::Timestamp;
use crate::domain::view::{Counts, JobState};
use crate::store::counters::move_counters;
use crate::store::{FileStamp, Store, StoreError, bulk, media, pieces, uploads};

/// Which jobs a person means.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Jobs with these names; all where it is empty.
    pub task_ids: Vec<String>,
    /// Jobs of this batch.
    pub batch: Option<String>,
    /// Jobs whose last failure was one of these kinds; all where it is empty.
    pub errors: Vec<ErrorKind>,
    /// Only jobs that failed (for a retry), or that failed before (for a cancel).
    pub only_failed: bool,
}

/// Jobs of one transaction.
const CHUNK_ROWS: i64 = 5_000;

#[derive(Clone)]
enum Change {
    /// With the files that are other than they were.
    Retry(Arc<Vec<(FileStamp, FileStamp)>>),
    Cancel,
}

impl Store {
    /// Puts failed and cancelled jobs back to pending with fresh attempts; returns how many.
    ///
    /// `changed` names files that are other than when the jobs were added, with what they are now:
    /// see [`retried_files`](Self::retried_files).
    pub async fn retry(
        &self,
        selection: Selection,
        changed: Vec<(FileStamp, FileStamp)>,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        self.change(selection, Change::Retry(Arc::new(changed)), now).await
    }

    /// Cancels pending and running jobs; returns how many.
    pub async fn cancel(&self, selection: Selection, now: Timestamp) -> Result<u64, StoreError> {
        self.change(selection, Change::Cancel, now).await
    }

    /// Returns the files of jobs that a retry of `selection` puts back and that failed for their
    /// media.
    pub async fn retried_files(&self, selection: &Selection) -> Result<Vec<FileStamp>, StoreError> {
        let media = ErrorKind::Media;
        if !selection.errors.is_empty() && !selection.errors.contains(&media) {
            return Ok(Vec::new());
        }
        let selection = Selection { errors: vec![media], ..selection.clone() };
        let retry = Change::Retry(Arc::default());
        let mut connection = self.readers.acquire().await?;
        let mut files = HashSet::new();
        let mut after = 0;
        loop {
            let jobs = select(&mut connection, &selection, &retry, after).await?;
            let Some(last) = jobs.last() else { return Ok(files.into_iter().collect()) };
            after = last.0;
            let ids: Vec<i64> = jobs.iter().map(|job| job.0).collect();
            files.extend(media::files_of(&mut connection, &ids).await?);
        }
    }

    async fn change(
        &self,
        selection: Selection,
        change: Change,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let mut changed = 0;
        let mut after = 0;
        loop {
            let (selection, change) = (selection.clone(), change.clone());
            let jobs: Vec<Selected> = self
                .writer
                .write(move |connection| {
                    Box::pin(async move {
                        let jobs = select(connection, &selection, &change, after).await?;
                        apply(connection, &jobs, &change, now).await?;
                        let ids: Vec<i64> = jobs.iter().map(|job| job.0).collect();
                        pieces::forget(connection, &ids).await?;
                        if let Change::Retry(changed) = &change {
                            media::restamp(connection, &ids, changed).await?;
                            uploads::forget_failures(connection).await?;
                        }
                        Ok(jobs)
                    })
                })
                .await?;
            changed += u64::try_from(jobs.len()).unwrap_or(0);
            match jobs.last() {
                Some(last) => after = last.0,
                None => return Ok(changed),
            }
        }
    }

    /// Removes jobs that finished before `before`, with all that belongs to them; returns how many.
    pub async fn prune(&self, before: Timestamp, batch: Option<String>) -> Result<u64, StoreError> {
        let mut removed = 0;
        let mut after = 0;
        loop {
            let batch = batch.clone();
            let (jobs, last) = self
                .writer
                .write(move |connection| Box::pin(prune_chunk(connection, before, batch, after)))
                .await?;
            removed += jobs;
            match last {
                Some(last) => after = last,
                None => return Ok(removed),
            }
        }
    }

    /// Copies the database as it stands now into the empty file at `path`, which has to be absolute.
    /// Others can write meanwhile; the log grows as long as it takes. Returns what is wrong with the
    /// copy, if something is: it is no better than what was copied.
    ///
    /// # Errors
    /// What SQLite says of reading the one or writing the other file.
    pub async fn copy_to(&self, path: &Path) -> Result<Option<String>, StoreError> {
        let name = path.to_str().ok_or_else(|| {
            StoreError::Value(format!("the name `{}` is not UTF-8", path.display()))
        })?;
        let mut connection = super::connection::read_options(&self.path).connect().await?;
        sqlx::query("VACUUM INTO ?1").bind(name).execute(&mut connection).await?;
        connection.close().await?;
        let options = SqliteConnectOptions::new().filename(path).read_only(true).immutable(true);
        let mut copy = options.disable_statement_logging().connect().await?;
        let said: String =
            sqlx::query_scalar("PRAGMA integrity_check(1)").fetch_one(&mut copy).await?;
        copy.close().await?;
        Ok(Some(said).filter(|said| said != "ok"))
    }

    /// Gives the room of removed rows back to the file system.
    pub async fn vacuum(&self) -> Result<(), StoreError> {
        self.writer.close().await?;
        let mut connection = super::connection::open_writer(&self.path).await?;
        sqlx::query("VACUUM").execute(&mut connection).await?;
        // The shorter database stands in the log until that is written back.
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut connection).await?;
        sqlx::Connection::close(connection).await?;
        Ok(())
    }
}

/// A selected job: id, batch, state.
type Selected = (i64, i64, String);

async fn select(
    connection: &mut SqliteConnection,
    selection: &Selection,
    change: &Change,
    after: i64,
) -> Result<Vec<Selected>, StoreError> {
    let states: &[JobState] = match (change, selection.only_failed) {
        (Change::Retry(_), true) => &[JobState::Failed],
        (Change::Retry(_), false) => &[JobState::Failed, JobState::Cancelled],
        (Change::Cancel, _) => &[JobState::Pending, JobState::Running],
    };
    let states: Vec<&str> = states.iter().map(|state| state.as_str()).collect();
    let errors: Vec<&str> = selection.errors.iter().map(|kind| kind.as_str()).collect();
    let needs_failure = matches!(change, Change::Cancel) && selection.only_failed;
    Ok(sqlx::query_as(
        "SELECT j.id, j.batch_id, j.state
           FROM jobs AS j
           JOIN batches AS b ON b.id = j.batch_id
           LEFT JOIN attempts AS t ON t.job_id = j.id AND t.attempt = j.told_by
          WHERE j.id > ?1 AND j.state IN (SELECT value FROM json_each(?2))
            AND (?3 = '[]' OR j.task_id IN (SELECT value FROM json_each(?3)))
            AND (?4 IS NULL OR b.name = ?4)
            AND (?5 = '[]' OR t.outcome IN (SELECT value FROM json_each(?5))
                 OR (j.state = 'cancelled' AND 'cancelled' IN (SELECT value FROM json_each(?5))))
            AND (?6 = 0 OR t.outcome IS NOT NULL)
          ORDER BY j.id LIMIT ?7",
    )
    .bind(after)
    .bind(bulk::json(&states)?)
    .bind(bulk::json(&selection.task_ids)?)
    .bind(&selection.batch)
    .bind(bulk::json(&errors)?)
    .bind(needs_failure)
    .bind(CHUNK_ROWS)
    .fetch_all(connection)
    .await?)
}

async fn apply(
    connection: &mut SqliteConnection,
    jobs: &[Selected],
    change: &Change,
    now: Timestamp,
) -> Result<(), StoreError> {
    let ids: Vec<i64> = jobs.iter().map(|job| job.0).collect();
    let (target, statement) = match change {
        Change::Retry(_) => (
            JobState::Pending,
            "UPDATE jobs SET state = 'pending', attempts = 0, deaths = 0, due_at = ?2,
                    finished_at = NULL
              WHERE id IN (SELECT value FROM json_each(?1))",
        ),
        Change::Cancel => (
            JobState::Cancelled,
            "UPDATE jobs SET state = 'cancelled', finished_at = ?2, worker_id = NULL,
                    lease_until = NULL
              WHERE id IN (SELECT value FROM json_each(?1))",
        ),
    };
    sqlx::query(statement).bind(bulk::json(&ids)?).bind(now.0).execute(&mut *connection).await?;
    let mut moved: BTreeMap<i64, Counts> = BTreeMap::new();
    for (_, batch, state) in jobs {
        let counts = moved.entry(*batch).or_default();
        counts.add(state.parse().map_err(StoreError::Value)?, -1);
        counts.add(target, 1);
    }
    for (batch, counts) in moved {
        move_counters(connection, batch, &counts).await?;
    }
    Ok(())
}

async fn prune_chunk(
    connection: &mut SqliteConnection,
    before: Timestamp,
    batch: Option<String>,
    after: i64,
) -> Result<(u64, Option<i64>), StoreError> {
    let jobs: Vec<Selected> = sqlx::query_as(
        "SELECT j.id, j.batch_id, j.state FROM jobs AS j JOIN batches AS b ON b.id = j.batch_id
          WHERE j.id > ?1 AND j.finished_at <= ?2 AND (?3 IS NULL OR b.name = ?3)
          ORDER BY j.id LIMIT ?4",
    )
    .bind(after)
    .bind(before.0)
    .bind(batch)
    .bind(CHUNK_ROWS)
    .fetch_all(&mut *connection)
    .await?;
    let ids: Vec<i64> = jobs.iter().map(|job| job.0).collect();
    if ids.is_empty() {
        // All are gone: bytes that none of the others needs are looked for once.
        media::sweep(connection).await?;
        return Ok((0, None));
    }
    sqlx::query("DELETE FROM jobs WHERE id IN (SELECT value FROM json_each(?1))")
        .bind(bulk::json(&ids)?)
        .execute(&mut *connection)
        .await?;
    let mut moved: BTreeMap<i64, Counts> = BTreeMap::new();
    for (_, batch, state) in &jobs {
        moved.entry(*batch).or_default().add(state.parse().map_err(StoreError::Value)?, -1);
    }
    for (batch, counts) in moved {
        move_counters(connection, batch, &counts).await?;
    }
    Ok((u64::try_from(jobs.len()).unwrap_or(0), ids.last().copied()))
}
