//! Which worker processes live: each holds a lock that the kernel frees however it dies.

use std::fs::{File, TryLockError};
use std::path::PathBuf;

use crate::domain::limits::{Given, GivenLimits};
use crate::domain::time::Timestamp;
use crate::store::turn::WorkerId;
use crate::store::{Store, StoreError, connection};

/// A worker process that is registered; holds its lock for as long as it lives.
#[derive(Debug)]
pub struct Registration {
    /// The worker.
    pub worker: WorkerId,
    file: PathBuf,
    _lock: File,
}

impl Store {
    /// Registers this process as one that works `workers` jobs at once.
    pub async fn register_worker(
        &self,
        workers: usize,
        limits: &GivenLimits,
        now: Timestamp,
    ) -> Result<Registration, StoreError> {
        let [rpm, tpm, rpd] = limits.0.each_ref().map(Given::to_string);
        let token = format!("{:016x}{:016x}", rand::random::<u64>(), rand::random::<u64>());
        let folder = connection::lock_folder(&self.path);
        connection::make_lock_folder(&folder)?;
        let file = folder.join(&token);
        // The lock is held before anybody can read of it.
        let lock = connection::private_file(&file).map_err(StoreError::io("create", &file))?;
        lock.lock().map_err(StoreError::io("lock", &file))?;
        let workers = i64::try_from(workers).unwrap_or(i64::MAX);
        let worker = self
            .writer
            .write(move |connection| {
                Box::pin(async move {
                    let done = sqlx::query(
                        "INSERT INTO workers (token, pid, workers, heartbeat_at, rpm, tpm, rpd)
                         VALUES (?1, ?2, ?3, ?4, nullif(?5, ''), nullif(?6, ''), nullif(?7, ''))",
                    )
                    .bind(token)
                    .bind(std::process::id())
                    .bind(workers)
                    .bind(now.0)
                    .bind(rpm)
                    .bind(tpm)
                    .bind(rpd)
                    .execute(connection)
                    .await?;
                    Ok(WorkerId(done.last_insert_rowid()))
                })
            })
            .await?;
        Ok(Registration { worker, file, _lock: lock })
    }

    /// Takes the worker's row away, once it holds no job.
    pub async fn deregister(&self, registration: Registration) -> Result<(), StoreError> {
        let worker = registration.worker;
        self.writer
            .write(move |connection| {
                Box::pin(async move {
                    sqlx::query(
                        "DELETE FROM workers WHERE id = ?1 AND NOT EXISTS
                            (SELECT 1 FROM jobs INDEXED BY jobs_running
                              WHERE state = 'running' AND worker_id = ?1)
                            AND NOT EXISTS (SELECT 1 FROM uploads WHERE worker_id = ?1)",
                    )
                    .bind(worker.0)
                    .execute(connection)
                    .await?;
                    Ok(())
                })
            })
            .await?;
        std::fs::remove_file(&registration.file)
            .map_err(StoreError::io("remove", &registration.file))
    }

    /// Returns the registered workers but `own` whose process is dead.
    pub async fn dead_workers(&self, own: WorkerId) -> Result<Vec<WorkerId>, StoreError> {
        let others: Vec<(i64, String)> =
            sqlx::query_as("SELECT id, token FROM workers WHERE id != ?1")
                .bind(own.0)
                .fetch_all(&self.readers)
                .await?;
        let dead = others.into_iter().filter(|(_, token)| !self.lives(token));
        Ok(dead.map(|(id, _)| WorkerId(id)).collect())
    }

    /// Returns whether some process holds the worker's lock. What cannot be found out counts as
    /// alive: then its lease decides.
    pub(super) fn lives(&self, token: &str) -> bool {
        match File::open(connection::lock_folder(&self.path).join(token)) {
            Ok(file) => matches!(file.try_lock(), Err(TryLockError::WouldBlock)),
            Err(error) => error.kind() != std::io::ErrorKind::NotFound,
        }
    }

    /// Removes lock files of workers that no row names any more.
    pub async fn sweep_locks(&self) -> Result<(), StoreError> {
        let known: Vec<String> =
            sqlx::query_scalar("SELECT token FROM workers").fetch_all(&self.readers).await?;
        let folder = connection::lock_folder(&self.path);
        let Ok(entries) = std::fs::read_dir(&folder) else {
            return Ok(());
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_ours = name.len() == 32 && name.chars().all(|c| c.is_ascii_hexdigit());
            if is_ours && !known.contains(&name) && !self.lives(&name) {
                std::fs::remove_file(entry.path())
                    .map_err(StoreError::io("remove", &entry.path()))?;
            }
        }
        Ok(())
    }
}
