//! Adding jobs.

use std::collections::HashMap;

use futures_util::future::join;
use sqlx::sqlite::SqliteConnection;

use crate::domain::hex::hex;
use crate::domain::input::{NewJob, next_chunk};
use crate::domain::output::OutputForm;
use crate::domain::time::Timestamp;
use crate::domain::view::{Counts, JobState};
use crate::store::bulk::Insert;
use crate::store::error::StoreError;
use crate::store::{Store, bulk, counters, media};

/// What to do with a job that exists with other content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConflict {
    /// Refuse the whole call.
    Refuse,
    /// Leave the old one.
    Skip,
    /// Drop the old one's result and start anew; one that runs is left alone.
    Replace,
}

/// How jobs are added.
#[derive(Debug, Clone)]
pub struct EnqueueOptions {
    /// The batch's name.
    pub batch: String,
    /// What to do with a job that exists with other content.
    pub on_conflict: OnConflict,
    /// The time that the jobs get.
    pub now: Timestamp,
}

/// What an enqueue came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Added {
    /// Jobs that are new.
    pub enqueued: u64,
    /// Jobs that were there.
    pub skipped: u64,
    /// Jobs that start anew with other content.
    pub replaced: u64,
    /// Names of jobs that would have been replaced, but run.
    pub running: Vec<String>,
}

impl Added {
    /// Adds the numbers of `other`.
    pub fn merge(&mut self, other: Self) {
        self.enqueued += other.enqueued;
        self.skipped += other.skipped;
        self.replaced += other.replaced;
        self.running.extend(other.running);
    }
}

/// Jobs that are looked at together, and their bytes.
const CHUNK_ROWS: usize = 512;
const CHUNK_BYTES: usize = 8 << 20;

const INSERT_JOBS: Insert = Insert {
    into: "INSERT INTO jobs (id, batch_id, task_id, line, model_id, priority, due_at, max_attempts,
                             not_before, created_at, output, stream)",
    columns: 12,
    end: "ON CONFLICT (batch_id, task_id) DO NOTHING",
};

const INSERT_INPUTS: Insert =
    Insert { into: "INSERT INTO inputs (job_id, digest, metadata, request)", columns: 4, end: "" };

/// A job that is there already.
struct Existing {
    id: i64,
    state: JobState,
    digest: String,
}

impl Store {
    /// Adds the jobs of each source in one transaction, all or none.
    ///
    /// The iterators run inside the writing task, so that parsing and storing can overlap; an
    /// error from one rolls everything back.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where a job exists with other content and is to be refused.
    pub async fn enqueue<I, E>(&self, sources: Vec<(EnqueueOptions, I)>) -> Result<Vec<Added>, E>
    where
        I: Iterator<Item = Result<NewJob, E>> + Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (give, mut taken) = tokio::sync::oneshot::channel();
        let done = self
            .writer
            .write(move |connection| {
                Box::pin(async move {
                    let mut all = Vec::with_capacity(sources.len());
                    for (options, jobs) in sources {
                        match add_all(connection, jobs, &options).await {
                            Ok(added) => all.push(added),
                            Err(error) => {
                                drop(give.send(error));
                                return Err(StoreError::Closed);
                            }
                        }
                    }
                    Ok(all)
                })
            })
            .await;
        match (done, taken.try_recv()) {
            (Ok(added), _) => Ok(added),
            (Err(_), Ok(error)) => Err(error),
            (Err(error), Err(_)) => Err(error.into()),
        }
    }
}

impl Store {
    /// Looks whether any of `jobs` exists in the batch with other content; changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] for the first that does.
    pub async fn check_conflicts(
        &self,
        batch: i64,
        batch_name: &str,
        jobs: &[NewJob],
    ) -> Result<(), StoreError> {
        let mut connection = self.readers.acquire().await?;
        let known = existing(&mut connection, batch, jobs).await?;
        let differs = |job: &&NewJob| {
            known.get(&job.task_id).is_some_and(|old| old.digest != hex(&job.digest))
        };
        match jobs.iter().find(differs) {
            None => Ok(()),
            Some(job) => Err(StoreError::Conflict {
                task_id: job.task_id.clone(),
                line: job.line,
                batch: batch_name.to_owned(),
            }),
        }
    }
}

async fn add_all<I, E>(
    connection: &mut SqliteConnection,
    mut jobs: I,
    options: &EnqueueOptions,
) -> Result<Added, E>
where
    I: Iterator<Item = Result<NewJob, E>>,
    E: From<StoreError>,
{
    let mut adding = Adding::begin(connection, options).await?;
    let mut chunk = next_chunk(&mut jobs, CHUNK_ROWS, CHUNK_BYTES)?;
    while !chunk.is_empty() {
        // The next one is taken while SQLite writes this one.
        let adding = adding.chunk(connection, chunk);
        let (added, next) =
            join(adding, async { next_chunk(&mut jobs, CHUNK_ROWS, CHUNK_BYTES) }).await;
        added?;
        chunk = next?;
    }
    Ok(adding.finish(connection).await?)
}

/// One enqueue in progress.
struct Adding<'a> {
    options: &'a EnqueueOptions,
    batch: i64,
    /// Whether nothing met so far was there already.
    all_new: bool,
    next_id: i64,
    models: HashMap<String, i64>,
    moved: Counts,
    added: Added,
}

impl<'a> Adding<'a> {
    async fn begin(
        connection: &mut SqliteConnection,
        options: &'a EnqueueOptions,
    ) -> Result<Self, StoreError> {
        sqlx::query(
            "INSERT INTO batches (name, created_at) VALUES (?1, ?2) ON CONFLICT (name) DO NOTHING",
        )
        .bind(&options.batch)
        .bind(options.now.0)
        .execute(&mut *connection)
        .await?;
        let batch: i64 = sqlx::query_scalar("SELECT id FROM batches WHERE name = ?1")
            .bind(&options.batch)
            .fetch_one(&mut *connection)
            .await?;
        let last_id: Option<i64> =
            sqlx::query_scalar("SELECT seq FROM sqlite_sequence WHERE name = 'jobs'")
                .fetch_optional(&mut *connection)
                .await?;
        Ok(Self {
            options,
            batch,
            all_new: true,
            next_id: last_id.unwrap_or(0) + 1,
            models: HashMap::new(),
            moved: Counts::default(),
            added: Added::default(),
        })
    }

    async fn chunk(
        &mut self,
        connection: &mut SqliteConnection,
        jobs: Vec<NewJob>,
    ) -> Result<(), StoreError> {
        // Mostly all are new, and the index says so without a look-up.
        let jobs = if self.all_new {
            match self.try_insert(connection, jobs).await? {
                Ok(()) => return Ok(()),
                Err(jobs) => jobs,
            }
        } else {
            jobs
        };
        self.all_new = false;
        let mut known = existing(connection, self.batch, &jobs).await?;
        let mut fresh: Vec<(i64, NewJob)> = Vec::with_capacity(jobs.len());
        let mut replaced: Vec<(i64, NewJob)> = Vec::new();
        for job in jobs {
            let digest = hex(&job.digest);
            match known.get(&job.task_id) {
                None => {
                    let id = self.next_id + i64::try_from(fresh.len()).unwrap_or(i64::MAX);
                    let state = JobState::Pending;
                    known.insert(job.task_id.clone(), Existing { id, state, digest });
                    fresh.push((id, job));
                }
                Some(old) if old.digest == digest => self.added.skipped += 1,
                Some(old) => {
                    let (id, task_id) = (old.id, job.task_id.clone());
                    let takes_its_place = self.differing(id, old.state, job, &mut replaced)?;
                    if takes_its_place {
                        known.insert(task_id, Existing { id, state: JobState::Pending, digest });
                    }
                }
            }
        }
        if self.insert(connection, &fresh).await? != fresh.len() {
            return Err(StoreError::Value("a job that was not there is there".to_owned()));
        }
        self.replace(connection, &replaced).await
    }

    /// Inserts `jobs` if all of them are new; else gives them back and leaves nothing.
    async fn try_insert(
        &mut self,
        connection: &mut SqliteConnection,
        jobs: Vec<NewJob>,
    ) -> Result<Result<(), Vec<NewJob>>, StoreError> {
        let fresh: Vec<(i64, NewJob)> = (self.next_id..).zip(jobs).collect();
        if self.insert(connection, &fresh).await? == fresh.len() {
            return Ok(Ok(()));
        }
        // A savepoint would do the same, and copy every page that a chunk touches.
        sqlx::query("DELETE FROM jobs WHERE id >= ?1")
            .bind(self.next_id)
            .execute(connection)
            .await?;
        Ok(Err(fresh.into_iter().map(|(_, job)| job).collect()))
    }

    /// Decides what becomes of `job`, whose name exists with other content; returns whether it
    /// takes the old one's place.
    fn differing(
        &mut self,
        id: i64,
        state: JobState,
        job: NewJob,
        replaced: &mut Vec<(i64, NewJob)>,
    ) -> Result<bool, StoreError> {
        match self.options.on_conflict {
            OnConflict::Refuse => {
                let batch = self.options.batch.clone();
                return Err(StoreError::Conflict { task_id: job.task_id, line: job.line, batch });
            }
            OnConflict::Replace if state != JobState::Running => {
                self.moved.add(state, -1);
                self.moved.add(JobState::Pending, 1);
                self.added.replaced += 1;
                replaced.push((id, job));
                return Ok(true);
            }
            OnConflict::Replace => {
                self.added.running.push(job.task_id);
                self.added.skipped += 1;
            }
            OnConflict::Skip => self.added.skipped += 1,
        }
        Ok(false)
    }

    async fn insert(
        &mut self,
        connection: &mut SqliteConnection,
        fresh: &[(i64, NewJob)],
    ) -> Result<usize, StoreError> {
        for (_, job) in fresh {
            self.model(connection, &job.model).await?;
        }
        let inserted = INSERT_JOBS
            .run(connection, fresh, |row, (id, job)| {
                row.add(*id)
                    .add(self.batch)
                    .add(&job.task_id)
                    .add(i64::try_from(job.line).unwrap_or(i64::MAX))
                    .add(self.models.get(&job.model))
                    .add(job.priority)
                    .add(job.not_before.unwrap_or(self.options.now).0)
                    .add(job.max_attempts)
                    .add(job.not_before.map(|time| time.0))
                    .add(self.options.now.0)
                    .add(job.output.map(OutputForm::as_str))
                    .add(i64::from(job.stream));
            })
            .await?;
        if inserted != fresh.len() {
            return Ok(inserted);
        }
        insert_inputs(connection, fresh).await?;
        let added = i64::try_from(inserted).unwrap_or(i64::MAX);
        self.next_id += added;
        self.moved.pending += added;
        self.added.enqueued += u64::try_from(added).unwrap_or(0);
        Ok(inserted)
    }

    async fn replace(
        &mut self,
        connection: &mut SqliteConnection,
        replaced: &[(i64, NewJob)],
    ) -> Result<(), StoreError> {
        for (id, job) in replaced {
            let model = self.model(connection, &job.model).await?;
            for statement in [
                "DELETE FROM answers WHERE job_id = ?1",
                "DELETE FROM attempts WHERE job_id = ?1",
                "DELETE FROM inputs WHERE job_id = ?1",
                "DELETE FROM media WHERE job_id = ?1",
                "DELETE FROM waits WHERE job_id = ?1",
                "DELETE FROM pieces WHERE job_id = ?1",
            ] {
                sqlx::query(statement).bind(id).execute(&mut *connection).await?;
            }
            // The claim moves on, so that no attempt at the old content can count.
            sqlx::query(
                "UPDATE jobs SET state = 'pending', line = ?2, model_id = ?3, priority = ?4,
                        due_at = ?5, max_attempts = ?6, attempts = 0, deaths = 0, told_by = NULL,
                        claim = claim + 1, key_id = NULL, started_at = NULL, finished_at = NULL,
                        created_at = ?7, not_before = ?8, output = ?9,
                        stream = ?10
                  WHERE id = ?1",
            )
            .bind(id)
            .bind(i64::try_from(job.line).unwrap_or(i64::MAX))
            .bind(model)
            .bind(job.priority)
            .bind(job.not_before.unwrap_or(self.options.now).0)
            .bind(job.max_attempts)
            .bind(self.options.now.0)
            .bind(job.not_before.map(|time| time.0))
            .bind(job.output.map(OutputForm::as_str))
            .bind(job.stream)
            .execute(&mut *connection)
            .await?;
        }
        insert_inputs(connection, replaced).await
    }

    async fn finish(self, connection: &mut SqliteConnection) -> Result<Added, StoreError> {
        counters::move_counters(connection, self.batch, &self.moved).await?;
        Ok(self.added)
    }

    async fn model(
        &mut self,
        connection: &mut SqliteConnection,
        name: &str,
    ) -> Result<i64, StoreError> {
        if let Some(id) = self.models.get(name) {
            return Ok(*id);
        }
        sqlx::query("INSERT INTO models (name) VALUES (?1) ON CONFLICT (name) DO NOTHING")
            .bind(name)
            .execute(&mut *connection)
            .await?;
        let id: i64 = sqlx::query_scalar("SELECT id FROM models WHERE name = ?1")
            .bind(name)
            .fetch_one(&mut *connection)
            .await?;
        self.models.insert(name.to_owned(), id);
        Ok(id)
    }
}

async fn insert_inputs(
    connection: &mut SqliteConnection,
    jobs: &[(i64, NewJob)],
) -> Result<(), StoreError> {
    INSERT_INPUTS
        .run(connection, jobs, |row, (id, job)| {
            row.add(*id).add(hex(&job.digest)).add(job.metadata.as_deref()).add(&job.request);
        })
        .await?;
    media::insert(connection, jobs).await
}

async fn existing(
    connection: &mut SqliteConnection,
    batch: i64,
    jobs: &[NewJob],
) -> Result<HashMap<String, Existing>, StoreError> {
    let names: Vec<&str> = jobs.iter().map(|job| job.task_id.as_str()).collect();
    let rows: Vec<(String, i64, String, String)> = sqlx::query_as(
        "SELECT j.task_id, j.id, j.state, i.digest
           FROM json_each(?1) AS e
           CROSS JOIN jobs AS j ON j.batch_id = ?2 AND j.task_id = e.value
           CROSS JOIN inputs AS i ON i.job_id = j.id",
    )
    .bind(bulk::json(&names)?)
    .bind(batch)
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(task_id, id, state, digest)| {
            let state = state.parse().map_err(StoreError::Value)?;
            Ok((task_id, Existing { id, state, digest }))
        })
        .collect()
}
