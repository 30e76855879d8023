//! Media of jobs: files by name, and bytes once each.

use std::collections::HashMap;

use sha2::{Digest, Sha256};
use sqlx::sqlite::SqliteConnection;

use crate::domain::input::{MediaSource, NewJob, NewMedia};
use crate::store::{Store, StoreError, bulk};

/// A file as it was when its job was added.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileStamp {
    /// Where it is.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was changed last, in nanoseconds since 1970.
    pub modified: i64,
}

/// Media that go into the request of a claimed job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedMedia {
    /// Where in the request's text they belong, in bytes.
    pub place: usize,
    /// Their type.
    pub mime_type: String,
    /// Their size in bytes.
    pub size: u64,
    /// Where they come from.
    pub source: ClaimedSource,
    /// Where the API has them, if they were uploaded.
    pub uri: Option<String>,
}

/// Where media of a claimed job come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimedSource {
    /// A file.
    File(FileStamp),
    /// Bytes in the database: see [`Store::blob`].
    Blob {
        /// Their row.
        id: i64,
        /// Their SHA-256 as hexadecimal digits.
        sha256: String,
    },
}

impl Store {
    /// Returns bytes that came with a job.
    ///
    /// # Errors
    /// [`StoreError::Value`] where they are gone, which only a damaged database can have.
    pub async fn blob(&self, id: i64) -> Result<Vec<u8>, StoreError> {
        sqlx::query_scalar("SELECT bytes FROM blobs WHERE id = ?1")
            .bind(id)
            .fetch_optional(&self.readers)
            .await?
            .ok_or_else(|| StoreError::Value(format!("no bytes {id}")))
    }
}

/// Adds the media of new jobs.
pub(super) async fn insert(
    connection: &mut SqliteConnection,
    jobs: &[(i64, NewJob)],
) -> Result<(), StoreError> {
    for (id, job) in jobs {
        for media in &job.media {
            insert_one(connection, *id, media).await?;
        }
    }
    Ok(())
}

async fn insert_one(
    connection: &mut SqliteConnection,
    job: i64,
    media: &NewMedia,
) -> Result<(), StoreError> {
    let row = sqlx::query(
        "INSERT INTO media (job_id, place, mime_type, size, path, modified, blob_id)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, (SELECT id FROM blobs WHERE sha256 = ?7))",
    )
    .bind(job)
    .bind(i64::try_from(media.at).unwrap_or(i64::MAX))
    .bind(&media.mime_type);
    let row = match &media.source {
        MediaSource::File { path, size, modified } => row
            .bind(i64::try_from(*size).unwrap_or(i64::MAX))
            .bind(path)
            .bind(modified)
            .bind(None::<Vec<u8>>),
        MediaSource::Bytes(bytes) => {
            let hash = Sha256::digest(bytes).to_vec();
            sqlx::query(
                "INSERT INTO blobs (sha256, bytes) VALUES (?1, ?2) ON CONFLICT (sha256) DO NOTHING",
            )
            .bind(&hash)
            .bind(bytes)
            .execute(&mut *connection)
            .await?;
            row.bind(i64::try_from(bytes.len()).unwrap_or(i64::MAX))
                .bind(None::<String>)
                .bind(None::<i64>)
                .bind(hash)
        }
    };
    row.execute(connection).await?;
    Ok(())
}

/// Removes bytes that no job has any more.
pub(super) async fn sweep(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    sqlx::query(
        "DELETE FROM blobs WHERE NOT EXISTS (SELECT 1 FROM media WHERE blob_id = blobs.id)",
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Returns the files of jobs, each once.
pub(super) async fn files_of(
    connection: &mut SqliteConnection,
    jobs: &[i64],
) -> Result<Vec<FileStamp>, StoreError> {
    let rows: Vec<(String, i64, i64)> = sqlx::query_as(
        "SELECT DISTINCT m.path, m.size, m.modified
           FROM json_each(?1) AS e CROSS JOIN media AS m ON m.job_id = e.value
          WHERE m.path IS NOT NULL",
    )
    .bind(bulk::json(jobs)?)
    .fetch_all(connection)
    .await?;
    let file = |(path, size, modified): (String, i64, i64)| FileStamp {
        path,
        size: u64::try_from(size).unwrap_or(0),
        modified,
    };
    Ok(rows.into_iter().map(file).collect())
}

/// Lets jobs take files as they are now; each is given as it was and as it is.
pub(super) async fn restamp(
    connection: &mut SqliteConnection,
    jobs: &[i64],
    changed: &[(FileStamp, FileStamp)],
) -> Result<(), StoreError> {
    let jobs = bulk::json(jobs)?;
    for (old, new) in changed {
        sqlx::query(
            "UPDATE media SET size = ?2, modified = ?3
              WHERE job_id IN (SELECT value FROM json_each(?1)) AND path = ?4 AND size = ?5
                AND modified = ?6",
        )
        .bind(&jobs)
        .bind(i64::try_from(new.size).unwrap_or(i64::MAX))
        .bind(new.modified)
        .bind(&old.path)
        .bind(i64::try_from(old.size).unwrap_or(i64::MAX))
        .bind(old.modified)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// The media of one job and what they go into.
#[derive(Debug)]
pub(super) struct JobMedia {
    /// Bytes of the request without them.
    pub(super) request: u64,
    /// In the order of their places.
    pub(super) media: Vec<ClaimedMedia>,
}

/// Reads the media of those of `jobs` that have some.
pub(super) async fn of_jobs(
    connection: &mut SqliteConnection,
    jobs: &[i64],
) -> Result<HashMap<i64, JobMedia>, StoreError> {
    type Row =
        (i64, i64, String, i64, Option<String>, Option<i64>, Option<i64>, Option<String>, i64);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT m.job_id, m.place, m.mime_type, m.size, m.path, m.modified, m.blob_id,
                lower(hex(b.sha256)), octet_length(i.request)
           FROM json_each(?1) AS e
           CROSS JOIN media AS m ON m.job_id = e.value
           CROSS JOIN inputs AS i ON i.job_id = m.job_id
           LEFT JOIN blobs AS b ON b.id = m.blob_id
          ORDER BY m.job_id, m.place",
    )
    .bind(bulk::json(jobs)?)
    .fetch_all(connection)
    .await?;
    let positive = |number: i64| u64::try_from(number).unwrap_or(0);
    let mut by_job: HashMap<i64, JobMedia> = HashMap::new();
    for (job, place, mime_type, size, path, modified, blob, sha256, request) in rows {
        let size = positive(size);
        let source = match (path, modified, blob, sha256) {
            (Some(path), Some(modified), None, _) => {
                ClaimedSource::File(FileStamp { path, size, modified })
            }
            (None, None, Some(id), Some(sha256)) => ClaimedSource::Blob { id, sha256 },
            _ => return Err(StoreError::Value(format!("media of job {job} from nowhere"))),
        };
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        let new = || JobMedia { request: positive(request), media: Vec::new() };
        let media = ClaimedMedia { place, mime_type, size, source, uri: None };
        by_job.entry(job).or_insert_with(new).media.push(media);
    }
    Ok(by_job)
}
