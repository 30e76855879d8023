//! Files at the API: what ended uploads leave, who is at work on one, which jobs wait for it.

use sqlx::sqlite::SqliteConnection;

use crate::domain::outcome::{ErrorKind, Exhaustion};
use crate::domain::slot::Rests;
use crate::domain::time::{Moment, Timestamp};
use crate::domain::upload;
use crate::domain::view::UploadView;
use crate::store::media::{ClaimedSource, FileStamp};
use crate::store::standing::Standing;
use crate::store::turn::WorkerId;
use crate::store::waits::{HASH, wake, wake_all, wake_for_room};
use crate::store::{Store, StoreError, bulk};

/// What a worker has to do before jobs can be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Find out what is in a file.
    Hash(FileStamp),
    /// Upload.
    Upload {
        /// The row of the upload.
        upload: i64,
        /// The row of the key that is to own it.
        key: i64,
        /// The type.
        mime_type: String,
        /// The size in bytes.
        size: u64,
        /// What is uploaded.
        source: ClaimedSource,
    },
    /// Wait until the API is done with a file that was uploaded.
    Poll {
        /// The row of the upload.
        upload: i64,
        /// The row of the key that owns it.
        key: i64,
        /// The API's name for the file.
        name: String,
        /// Whether another worker uploaded it, some time ago.
        taken_over: bool,
    },
}

/// What came of an [`Order`].
#[derive(Debug, Clone, PartialEq)]
pub enum Prepared {
    /// Of a hash.
    Hashed {
        /// The file.
        file: FileStamp,
        /// Its SHA-256 as hexadecimal digits, or why it cannot be read.
        result: Result<String, String>,
    },
    /// Of a hash that was cut.
    NotHashed,
    /// Of an upload or of the wait for one.
    Upload {
        /// The row of the upload.
        upload: i64,
        /// The row of its key.
        key: i64,
        /// How it stands.
        end: UploadEnd,
    },
}

/// A file as the API knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiFile {
    /// Its name, such as `files/abc`.
    pub name: String,
    /// Its address, as requests name it.
    pub uri: String,
    /// Until when it may be used.
    pub until: Timestamp,
}

/// How an upload stands.
#[derive(Debug, Clone, PartialEq)]
pub enum UploadEnd {
    /// All bytes are there and the API is at work on them; the worker waits on.
    Processing(ApiFile),
    /// It may be used.
    Ready(ApiFile),
    /// It failed.
    Failed {
        /// Why.
        kind: ErrorKind,
        /// What happened, for people; holds no secret.
        message: String,
    },
    /// The API refused the key, and says why.
    BadKey(String),
    /// A 429: it is the affair of the key, as after a call.
    RateLimited {
        /// The quota.
        exhaustion: Exhaustion,
        /// When the upload began.
        started_at: Timestamp,
        /// A number in `0.0..1.0` that spreads delays.
        jitter: f64,
    },
    /// The API has the file no more.
    Lost,
    /// The API serves nobody from this address.
    LocationRefused,
    /// It was cut.
    Cut,
}

/// An upload as a person sees it.
#[derive(sqlx::FromRow)]
struct UploadRow {
    id: i64,
    key_id: i64,
    key: String,
    api: String,
    mime_type: String,
    size: i64,
    state: String,
    name: Option<String>,
    until: Option<i64>,
    message: Option<String>,
    path: Option<String>,
}

impl From<UploadRow> for UploadView {
    fn from(row: UploadRow) -> Self {
        Self {
            id: row.id,
            key_id: row.key_id,
            key: row.key,
            api: row.api,
            mime_type: row.mime_type,
            bytes: u64::try_from(row.size).unwrap_or(0),
            state: row.state,
            name: row.name,
            usable_until: row.until.map(Timestamp).filter(|_| row.message.is_none()),
            message: row.message,
            path: row.path,
        }
    }
}

impl Store {
    /// Returns the uploads that are known, those of one key together.
    pub async fn uploads(&self, now: Timestamp) -> Result<Vec<UploadView>, StoreError> {
        let rows: Vec<UploadRow> = sqlx::query_as(
            "SELECT u.id, u.key_id, k.name AS key, u.api, u.mime_type, u.size, u.name, u.until,
                    u.message,
                    CASE WHEN u.state = 'ready' AND u.until <= ?1 THEN 'expired'
                         ELSE u.state END AS state,
                    (SELECT min(path) FROM contents AS c WHERE c.sha256 = u.sha256) AS path
               FROM uploads AS u JOIN keys AS k ON k.id = u.key_id
              ORDER BY u.key_id, u.id",
        )
        .bind(now.0)
        .fetch_all(&self.readers)
        .await?;
        Ok(rows.into_iter().map(UploadView::from).collect())
    }

    /// Forgets uploads whose files are gone.
    pub async fn forget_uploads(&self, uploads: Vec<i64>) -> Result<(), StoreError> {
        self.writer
            .write(move |connection| Box::pin(async move { remove(connection, &uploads).await }))
            .await
    }
}

/// Returns whether the state of a key changes with it.
pub(super) fn concerns_keys(prepared: &Prepared) -> bool {
    let Prepared::Upload { end, .. } = prepared else { return false };
    matches!(end, UploadEnd::BadKey(_) | UploadEnd::RateLimited { .. })
}

/// Records what came of orders of this worker, and lets the jobs go on that waited for it.
pub(super) async fn settle(
    connection: &mut SqliteConnection,
    worker: WorkerId,
    prepared: Vec<Prepared>,
    standing: &mut Standing,
    rests: &Rests,
    now: Timestamp,
) -> Result<(), StoreError> {
    for prepared in prepared {
        match prepared {
            Prepared::Hashed { file, result } => {
                record_hash(connection, &file, result, now).await?;
            }
            Prepared::NotHashed => wake(connection, HASH).await?,
            Prepared::Upload { upload, key, end } => {
                if let UploadEnd::RateLimited { exhaustion, started_at, jitter } = &end {
                    let models = waiting_models(connection, upload).await?;
                    let burst = (exhaustion, *started_at, *jitter);
                    standing.exhaust((key, &models), burst, rests, now);
                }
                if let UploadEnd::BadKey(reason) = &end {
                    standing.fail_key(connection, key, reason).await?;
                }
                settle_upload(connection, worker, upload, end, now).await?;
            }
        }
    }
    Ok(())
}

async fn record_hash(
    connection: &mut SqliteConnection,
    file: &FileStamp,
    result: Result<String, String>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let until = result.is_err().then(|| now.after(upload::told_for(ErrorKind::Internal)).0);
    sqlx::query(
        "INSERT OR REPLACE INTO contents (path, size, modified, sha256, message, until)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )
    .bind(&file.path)
    .bind(i64::try_from(file.size).unwrap_or(i64::MAX))
    .bind(file.modified)
    .bind(result.as_ref().ok())
    .bind(result.as_ref().err())
    .bind(until)
    .execute(&mut *connection)
    .await?;
    wake(connection, HASH).await?;
    wake_for_room(connection).await
}

async fn settle_upload(
    connection: &mut SqliteConnection,
    worker: WorkerId,
    upload: i64,
    end: UploadEnd,
    now: Timestamp,
) -> Result<(), StoreError> {
    match end {
        UploadEnd::Processing(file) => {
            sqlx::query(
                "UPDATE uploads SET state = 'processing', name = ?3, uri = ?4, until = ?5
                  WHERE id = ?1 AND worker_id = ?2",
            )
            .bind(upload)
            .bind(worker.0)
            .bind(file.name)
            .bind(file.uri)
            .bind(file.until.0)
            .execute(connection)
            .await?;
            return Ok(());
        }
        // Whoever owns the row by now: the file is there.
        UploadEnd::Ready(file) => {
            ready(connection, upload, file).await?;
            wake_for_content(connection, upload).await?;
            sweep(connection, now).await?;
        }
        UploadEnd::Failed { kind, message } => {
            sqlx::query(
                "UPDATE uploads SET state = 'failed', error_kind = ?3, message = ?4, until = ?5,
                        worker_id = NULL, lease_until = NULL
                  WHERE id = ?1 AND worker_id = ?2",
            )
            .bind(upload)
            .bind(worker.0)
            .bind(kind.as_str())
            .bind(message)
            .bind(now.after(upload::told_for(kind)).0)
            .execute(&mut *connection)
            .await?;
        }
        UploadEnd::Lost => remove(connection, &[upload]).await?,
        UploadEnd::BadKey(_)
        | UploadEnd::RateLimited { .. }
        | UploadEnd::LocationRefused
        | UploadEnd::Cut => {
            abandon(connection, upload, worker).await?;
        }
    }
    wake(connection, &upload.to_string()).await?;
    wake_for_room(connection).await
}

async fn ready(
    connection: &mut SqliteConnection,
    upload: i64,
    file: ApiFile,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE uploads SET state = 'ready', name = ?2, uri = ?3, until = ?4,
                worker_id = NULL, lease_until = NULL, error_kind = NULL, message = NULL
          WHERE id = ?1",
    )
    .bind(upload)
    .bind(file.name)
    .bind(file.uri)
    .bind(file.until.0)
    .execute(connection)
    .await?;
    Ok(())
}

/// Gives up what a worker is at: bytes on their way are lost, a file that the API is at work on can
/// be asked for by another. The caller wakes the jobs that wait for it.
async fn abandon(
    connection: &mut SqliteConnection,
    upload: i64,
    worker: WorkerId,
) -> Result<(), StoreError> {
    for statement in [
        "DELETE FROM uploads WHERE id = ?1 AND worker_id = ?2 AND state = 'uploading'",
        "UPDATE uploads SET worker_id = NULL, lease_until = NULL WHERE id = ?1 AND worker_id = ?2",
    ] {
        sqlx::query(statement).bind(upload).bind(worker.0).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Takes away what dead workers are at, and what hung ones are at whose lease ran out; what this
/// worker holds unknown to it goes too.
pub(super) async fn take_back(
    connection: &mut SqliteConnection,
    dead: &[WorkerId],
    hung: &[i64],
    audit: Option<(WorkerId, &[i64])>,
    moment: Moment,
) -> Result<(), StoreError> {
    let mut lost: Vec<(i64, i64)> = Vec::new();
    for worker in dead {
        let held: Vec<(i64, i64)> =
            sqlx::query_as("SELECT id, worker_id FROM uploads WHERE worker_id = ?1")
                .bind(worker.0)
                .fetch_all(&mut *connection)
                .await?;
        lost.extend(held);
    }
    if let Some((own, known)) = audit {
        let held: Vec<(i64, i64)> = sqlx::query_as(
            "SELECT id, worker_id FROM uploads WHERE worker_id IS NOT NULL
                AND ((worker_id = ?1 AND id NOT IN (SELECT value FROM json_each(?2)))
                     OR (worker_id IN (SELECT value FROM json_each(?4)) AND lease_until < ?3))",
        )
        .bind(own.0)
        .bind(bulk::json(known)?)
        .bind(moment.boot)
        .bind(bulk::json(hung)?)
        .fetch_all(&mut *connection)
        .await?;
        lost.extend(held);
    }
    for (upload, worker) in &lost {
        abandon(connection, *upload, WorkerId(*worker)).await?;
    }
    if !lost.is_empty() || !dead.is_empty() {
        wake_all(connection).await?;
    }
    Ok(())
}

/// Renews the leases of what this worker is at.
pub(super) async fn renew(
    connection: &mut SqliteConnection,
    worker: WorkerId,
    moment: Moment,
    lease: i64,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE uploads SET lease_until = ?2 WHERE worker_id = ?1 AND lease_until < ?3")
        .bind(worker.0)
        .bind(moment.boot.saturating_add(lease))
        .bind(moment.boot.saturating_add(lease / 2))
        .execute(connection)
        .await?;
    Ok(())
}

/// Forgets uploads.
pub(super) async fn remove(
    connection: &mut SqliteConnection,
    uploads: &[i64],
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM uploads WHERE id IN (SELECT value FROM json_each(?1))")
        .bind(bulk::json(uploads)?)
        .execute(connection)
        .await?;
    Ok(())
}

/// Forgets what failed, so that it is tried again.
pub(super) async fn forget_failures(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    for statement in
        ["DELETE FROM uploads WHERE state = 'failed'", "DELETE FROM contents WHERE sha256 IS NULL"]
    {
        sqlx::query(statement).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Removes what is over, and what is known of the content of files of which no upload is left.
async fn sweep(connection: &mut SqliteConnection, now: Timestamp) -> Result<(), StoreError> {
    let gone: Vec<String> =
        sqlx::query_scalar("DELETE FROM uploads WHERE until < ?1 RETURNING sha256")
            .bind(now.0)
            .fetch_all(&mut *connection)
            .await?;
    if gone.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "DELETE FROM contents WHERE sha256 IN (SELECT value FROM json_each(?1))
            AND NOT EXISTS (SELECT 1 FROM uploads AS u WHERE u.sha256 = contents.sha256)",
    )
    .bind(bulk::json(&gone)?)
    .execute(connection)
    .await?;
    Ok(())
}

/// Makes the jobs due that wait for the same content at another key: they may be done with this one.
async fn wake_for_content(
    connection: &mut SqliteConnection,
    upload: i64,
) -> Result<(), StoreError> {
    let others: Vec<i64> = sqlx::query_scalar(
        "SELECT o.id FROM uploads AS u JOIN uploads AS o ON o.sha256 = u.sha256
          WHERE u.id = ?1 AND o.id != ?1",
    )
    .bind(upload)
    .fetch_all(&mut *connection)
    .await?;
    for other in others {
        wake(connection, &other.to_string()).await?;
    }
    Ok(())
}

/// Returns the models of the jobs that wait for an upload.
async fn waiting_models(
    connection: &mut SqliteConnection,
    upload: i64,
) -> Result<Vec<i64>, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT DISTINCT j.model_id FROM waits AS w JOIN jobs AS j ON j.id = w.job_id
          WHERE w.subject = ?1",
    )
    .bind(upload.to_string())
    .fetch_all(connection)
    .await?)
}
