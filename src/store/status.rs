//! The queue at a glance, from counters and small tables: its cost does not grow with the jobs.

use crate::domain::forecast::{Capacity, Forecast};
use crate::domain::outcome::ErrorKind;
use crate::domain::time::Timestamp;
use crate::domain::today::Today;
use crate::domain::view::{
    BatchView, Counts, FailureView, JobError, JobState, KeyStatus, KeyView, QueueStatus, UsedUp,
    Waiting, WorkerView,
};
use crate::store::key_settings;
use crate::store::standing::Standing;
use crate::store::{FoundKey, Store, StoreError};

/// What the calls of all batches have used.
const USED_IN_ALL: &str = "SELECT coalesce(sum(calls), 0), coalesce(sum(tokens), 0),
    coalesce(sum(cost), 0) FROM batches";

impl Store {
    /// Returns the queue's status at `now`, with the keys that this process found.
    pub async fn status(
        &self,
        found: &[FoundKey<'_>],
        now: Timestamp,
    ) -> Result<QueueStatus, StoreError> {
        let batches = self.batches().await?;
        let mut counts = Counts::default();
        for batch in &batches {
            for state in JobState::ALL {
                counts.add(state, batch.counts.of(state));
            }
        }
        let throughput: i64 = sqlx::query_scalar(
            "SELECT coalesce(sum(finished), 0) FROM throughput WHERE bucket > ?1 AND bucket <= ?2",
        )
        .bind(now.0 / 10_000 - 6)
        .bind(now.0 / 10_000)
        .fetch_one(&self.readers)
        .await?;
        let keys = self.keys(found, now).await?;
        let workers = self.workers().await?;
        // A worker has only the keys that it recorded when it started.
        let at_work = if workers.is_empty() { &keys } else { &self.keys(&[], now).await? };
        let waiting_for = self.waiting(&counts, at_work, now).await?;
        let (calls, tokens, cost) = sqlx::query_as(USED_IN_ALL).fetch_one(&self.readers).await?;
        let today = Today::at(now);
        let capacity = self.capacity(&today).await?;
        Ok(QueueStatus {
            forecast: Forecast::of(counts.unfinished(), &capacity, throughput, &today),
            used: UsedUp { calls, tokens, cost },
            counts,
            batches,
            workers,
            keys,
            throughput_per_minute: throughput,
            waiting_for,
        })
    }

    /// Returns what the keys of the database may take together, for models with unfinished jobs.
    async fn capacity(&self, today: &Today) -> Result<Capacity, StoreError> {
        let mut connection = self.readers.acquire().await?;
        let standing = Standing::read(&mut connection, today).await?;
        let models: Vec<(i64, String)> = sqlx::query_as(
            "SELECT id, name FROM models AS m
              WHERE EXISTS (SELECT 1 FROM jobs WHERE state = 'pending' AND model_id = m.id)
                 OR EXISTS (SELECT 1 FROM jobs WHERE state = 'running' AND model_id = m.id)",
        )
        .fetch_all(&mut *connection)
        .await?;
        let workers = key_settings::of_workers(&mut connection).await?;
        Ok(standing.capacity(&models, &workers, today))
    }

    /// Returns the batches that have jobs, with their counts.
    pub async fn batches(&self) -> Result<Vec<BatchView>, StoreError> {
        let rows: Vec<(String, i64, i64, i64, i64, i64)> = sqlx::query_as(
            "SELECT name, pending, running, succeeded, failed, cancelled FROM batches
              WHERE pending + running + succeeded + failed + cancelled > 0 ORDER BY id",
        )
        .fetch_all(&self.readers)
        .await?;
        Ok(rows
            .into_iter()
            .map(|(name, pending, running, succeeded, failed, cancelled)| BatchView {
                name,
                counts: Counts { pending, running, succeeded, failed, cancelled },
            })
            .collect())
    }

    /// Returns whether any worker process lives.
    pub async fn is_worked(&self) -> Result<bool, StoreError> {
        Ok(!self.workers().await?.is_empty())
    }

    /// Returns up to `limit` failed jobs among the last thousand that finished, the latest first.
    pub async fn recent_failures(&self, limit: u32) -> Result<Vec<FailureView>, StoreError> {
        // The inner query decides what it costs, however many jobs there are and fail.
        let rows: Vec<(String, String, Option<String>, Option<String>, Option<u16>, i64)> =
            sqlx::query_as(
                "SELECT j.task_id, b.name, t.outcome, t.message, t.http_status, j.finished_at
                   FROM (SELECT id FROM jobs WHERE finished_at IS NOT NULL
                          ORDER BY finished_at DESC, id DESC LIMIT 1000) AS recent
                  CROSS JOIN jobs AS j ON j.id = recent.id
                   JOIN batches AS b ON b.id = j.batch_id
                   LEFT JOIN attempts AS t ON t.job_id = j.id AND t.attempt = j.told_by
                  WHERE j.state = 'failed'
                  ORDER BY j.finished_at DESC, j.id DESC LIMIT ?1",
            )
            .bind(limit)
            .fetch_all(&self.readers)
            .await?;
        Ok(rows
            .into_iter()
            .map(|(task_id, batch, outcome, message, http_status, finished_at)| {
                let kind = outcome.and_then(|name| name.parse().ok());
                let kind = kind.unwrap_or(ErrorKind::Internal);
                let message = message.unwrap_or_else(|| kind.as_str().to_owned());
                let error = JobError { kind, message, http_status };
                FailureView { task_id, batch, error, finished_at: Timestamp(finished_at) }
            })
            .collect())
    }

    async fn workers(&self) -> Result<Vec<WorkerView>, StoreError> {
        let rows: Vec<(i64, String, i64, i64, i64, i64)> = sqlx::query_as(
            "SELECT id, token, pid, workers, heartbeat_at,
                    (SELECT count(*) FROM jobs INDEXED BY jobs_running
                      WHERE state = 'running' AND worker_id = w.id)
               FROM workers AS w ORDER BY id",
        )
        .fetch_all(&self.readers)
        .await?;
        Ok(rows
            .into_iter()
            .filter(|(_, token, ..)| self.lives(token))
            .map(|(id, _, pid, workers, heartbeat_at, busy)| WorkerView {
                id: id.to_string(),
                pid,
                workers,
                busy,
                heartbeat_at: Timestamp(heartbeat_at),
            })
            .collect())
    }

    async fn waiting(
        &self,
        counts: &Counts,
        keys: &[KeyView],
        now: Timestamp,
    ) -> Result<Option<Waiting>, StoreError> {
        if counts.pending == 0 || counts.running > 0 {
            return Ok(None);
        }
        // Finds the first one that is due, which mostly is the first it looks at.
        let any_due: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM models AS m CROSS JOIN jobs AS j INDEXED BY jobs_due
                             WHERE j.state = 'pending' AND j.model_id = m.id AND j.due_at <= ?1)",
        )
        .bind(now.0)
        .fetch_one(&self.readers)
        .await?;
        let first_due: Option<i64> = if any_due { None } else { self.first_due().await? };
        if let Some(due) = first_due {
            if self.awaits_media().await? {
                let reason = "media are on their way to the API".to_owned();
                return Ok(Some(Waiting { reason, until: None }));
            }
            let reason = "no job is due yet".to_owned();
            return Ok(Some(Waiting { reason, until: Some(Timestamp(due)) }));
        }
        let alive: Vec<&KeyView> = keys
            .iter()
            .filter(|key| {
                !matches!(key.overall.status, KeyStatus::FailedInit | KeyStatus::Disabled)
            })
            .collect();
        if alive.iter().any(|key| key.overall.status == KeyStatus::Available) {
            return Ok(None);
        }
        if alive.is_empty() {
            let reason = (!keys.is_empty()).then(|| "no key is usable".to_owned());
            return Ok(reason.map(|reason| Waiting { reason, until: None }));
        }
        let until = alive.iter().filter_map(|key| key.overall.available_at).min();
        Ok(Some(Waiting { reason: format!("all {} keys rest", alive.len()), until }))
    }

    /// Returns whether jobs wait for uploads, or for what comes before those.
    async fn awaits_media(&self) -> Result<bool, StoreError> {
        let query = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM waits)");
        Ok(query.fetch_one(&self.readers).await?)
    }

    async fn first_due(&self) -> Result<Option<i64>, StoreError> {
        Ok(sqlx::query_scalar(
            "SELECT min((SELECT min(due_at) FROM jobs WHERE state = 'pending' AND model_id = m.id))
               FROM models AS m",
        )
        .fetch_one(&self.readers)
        .await?)
    }
}
