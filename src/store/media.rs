//! Media of jobs: files by name, and bytes once each.

use std::collections::HashMap;

use sha2::{Digest, Sha256};
use sqlx::sqlite::SqliteConnection;

use crate::domain::input::{MediaSource, NewJob, NewMedia};
use crate::store::turn::Claimed;
use crate::store::{Store, StoreError, bulk};

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
}

/// Where media of a claimed job come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimedSource {
    /// A file.
    File {
        /// Where it is.
        path: String,
        /// When it was changed last, in nanoseconds since 1970.
        modified: i64,
    },
    /// Bytes in the database: see [`Store::blob`].
    Blob(i64),
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

/// Gives claimed jobs their media.
pub(super) async fn attach(
    connection: &mut SqliteConnection,
    claimed: &mut [Claimed],
) -> Result<(), StoreError> {
    let jobs: Vec<i64> = claimed.iter().map(|claimed| claimed.job).collect();
    let rows: Vec<(i64, i64, String, i64, Option<String>, Option<i64>, Option<i64>)> =
        sqlx::query_as(
            "SELECT m.job_id, m.place, m.mime_type, m.size, m.path, m.modified, m.blob_id
               FROM json_each(?1) AS e CROSS JOIN media AS m ON m.job_id = e.value
              ORDER BY m.job_id, m.place",
        )
        .bind(bulk::json(&jobs)?)
        .fetch_all(connection)
        .await?;
    let mut by_job: HashMap<i64, Vec<ClaimedMedia>> = HashMap::new();
    for (job, place, mime_type, size, path, modified, blob) in rows {
        let source = match (path, modified, blob) {
            (Some(path), Some(modified), None) => ClaimedSource::File { path, modified },
            (None, None, Some(blob)) => ClaimedSource::Blob(blob),
            _ => return Err(StoreError::Value(format!("media of job {job} from nowhere"))),
        };
        by_job.entry(job).or_default().push(ClaimedMedia {
            place: usize::try_from(place).unwrap_or(usize::MAX),
            mime_type,
            size: u64::try_from(size).unwrap_or(0),
            source,
        });
    }
    for claimed in claimed {
        claimed.media = by_job.remove(&claimed.job).unwrap_or_default();
    }
    Ok(())
}
