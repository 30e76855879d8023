//! Who holds which jobs: renewal, and what deaths and lost leases do to them.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use sqlx::sqlite::SqliteConnection;

use crate::domain::job::{self, Job, Transition};
use crate::domain::outcome::{ErrorKind, Paid};
use crate::domain::pacing::OnUnknown;
use crate::domain::time::{Moment, Timestamp};
use crate::domain::view::{Counts, JobState};
use crate::store::counters::{Moved, count, move_counters};
use crate::store::settle::{AttemptRow, JobRow, write};
use crate::store::turn::WorkerId;
use crate::store::{StoreError, bulk, uploads};

/// Compares what runs here by the database with what does, and returns jobs that a person cancelled
/// or removed. One that another worker took over goes on: its answer is paid for and may be first.
/// What the database gives us unknown to us was never called: it goes back unharmed.
pub(super) async fn audit(
    connection: &mut SqliteConnection,
    worker: WorkerId,
    in_flight: &[(i64, i64)],
) -> Result<Vec<i64>, StoreError> {
    let held: Vec<(i64, i64, i64)> = sqlx::query_as(
        "SELECT id, claim, batch_id FROM jobs INDEXED BY jobs_running
          WHERE state = 'running' AND worker_id = ?1",
    )
    .bind(worker.0)
    .fetch_all(&mut *connection)
    .await?;
    let known: HashSet<(i64, i64)> = in_flight.iter().copied().collect();
    let orphans: Vec<(i64, i64)> = held
        .iter()
        .filter(|(job, claim, _)| !known.contains(&(*job, *claim)))
        .map(|(job, _, batch)| (*job, *batch))
        .collect();
    release(connection, &orphans).await?;
    let held: HashSet<(i64, i64)> = held.into_iter().map(|(job, claim, _)| (job, claim)).collect();
    let missing: Vec<i64> = known.difference(&held).map(|(job, _)| *job).collect();
    if missing.is_empty() {
        return Ok(missing);
    }
    Ok(sqlx::query_scalar(
        "SELECT e.value FROM json_each(?1) AS e LEFT JOIN jobs AS j ON j.id = e.value
          WHERE j.id IS NULL OR j.state = 'cancelled'",
    )
    .bind(bulk::json(&missing)?)
    .fetch_all(connection)
    .await?)
}

async fn release(connection: &mut SqliteConnection, jobs: &[(i64, i64)]) -> Result<(), StoreError> {
    for (job, batch) in jobs {
        sqlx::query(
            "UPDATE jobs SET state = 'pending', worker_id = NULL, lease_until = NULL WHERE id = ?1",
        )
        .bind(job)
        .execute(&mut *connection)
        .await?;
        let moved = Counts { pending: 1, running: -1, ..Counts::default() };
        move_counters(connection, *batch, &moved).await?;
    }
    Ok(())
}

/// Renews the leases of what runs here, and says that the worker lives.
pub(super) async fn renew(
    connection: &mut SqliteConnection,
    worker: WorkerId,
    moment: Moment,
    lease: Duration,
) -> Result<(), StoreError> {
    let lease = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
    // Half a lease is left at the latest when this runs again; earlier ones need no write.
    sqlx::query(
        "UPDATE jobs INDEXED BY jobs_running SET lease_until = ?2
          WHERE state = 'running' AND worker_id = ?1 AND lease_until < ?3",
    )
    .bind(worker.0)
    .bind(moment.boot.saturating_add(lease))
    .bind(moment.boot.saturating_add(lease / 2))
    .execute(&mut *connection)
    .await?;
    uploads::renew(connection, worker, moment, lease).await?;
    sqlx::query("UPDATE workers SET heartbeat_at = ?2 WHERE id = ?1 AND heartbeat_at < ?3")
        .bind(worker.0)
        .bind(moment.now.0)
        .bind(moment.now.0 - 5_000)
        .execute(connection)
        .await?;
    Ok(())
}

/// Returns the other workers that hold something under a lease that ran out.
pub(super) async fn overdue(
    connection: &mut SqliteConnection,
    own: WorkerId,
    moment: Moment,
) -> Result<Vec<i64>, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT worker_id FROM jobs INDEXED BY jobs_running
          WHERE state = 'running' AND worker_id != ?1 AND lease_until < ?2
         UNION SELECT worker_id FROM uploads WHERE worker_id != ?1 AND lease_until < ?2",
    )
    .bind(own.0)
    .bind(moment.boot)
    .fetch_all(connection)
    .await?)
}

/// Takes back the jobs of dead workers, and those of hung ones whose lease ran out.
pub(super) async fn take_back(
    connection: &mut SqliteConnection,
    dead: &[WorkerId],
    hung: &[i64],
    moment: Moment,
    on_unknown: OnUnknown,
) -> Result<u64, StoreError> {
    let mut taken = 0;
    for worker in dead {
        taken += take_from_dead(connection, *worker, moment.now, on_unknown).await?;
        sqlx::query("DELETE FROM workers WHERE id = ?1")
            .bind(worker.0)
            .execute(&mut *connection)
            .await?;
    }
    if hung.is_empty() {
        return Ok(taken);
    }
    let expired: Vec<Held> = sqlx::query_as(
        "SELECT id, claim, batch_id, attempts, max_attempts, deaths, key_id, started_at
           FROM jobs INDEXED BY jobs_running
          WHERE state = 'running' AND lease_until < ?2
            AND worker_id IN (SELECT value FROM json_each(?1))",
    )
    .bind(bulk::json(hung)?)
    .bind(moment.boot)
    .fetch_all(&mut *connection)
    .await?;
    let message = "its worker did not renew the lease";
    let lost: Vec<AttemptRow> =
        expired.iter().map(|held| lost_row(held, moment.now, "lease_lost", message)).collect();
    write(connection, &lost, &[]).await?;
    let jobs: Vec<(i64, i64)> = expired.iter().map(|held| (held.0, held.2)).collect();
    release(connection, &jobs).await?;
    Ok(taken + u64::try_from(jobs.len()).unwrap_or(u64::MAX))
}

/// A running job: id, claim, batch, attempts, `max_attempts`, deaths, key, start.
type Held = (i64, i64, i64, i64, i64, i64, Option<i64>, i64);

fn lost_row(held: &Held, now: Timestamp, outcome: &'static str, message: &str) -> AttemptRow {
    (
        (held.0, held.1, held.6, held.7, now.0, None),
        (outcome, Some(message.to_owned()), Paid::Maybe.as_str()),
        None,
    )
}

async fn take_from_dead(
    connection: &mut SqliteConnection,
    worker: WorkerId,
    now: Timestamp,
    on_unknown: OnUnknown,
) -> Result<u64, StoreError> {
    let held: Vec<Held> = sqlx::query_as(
        "SELECT id, claim, batch_id, attempts, max_attempts, deaths, key_id, started_at
           FROM jobs INDEXED BY jobs_running
          WHERE state = 'running' AND worker_id = ?1",
    )
    .bind(worker.0)
    .fetch_all(&mut *connection)
    .await?;
    let mut rows: Vec<JobRow> = Vec::new();
    let mut lost = Vec::new();
    let mut moved: BTreeMap<i64, Moved> = BTreeMap::new();
    for held in &held {
        let (id, claim, batch, attempts, max_attempts, deaths, ..) = *held;
        let state = JobState::Running;
        let job = Job {
            state,
            owned: true,
            attempts,
            max_attempts,
            alike: 0,
            deaths,
            mended: 0,
            refused: 0,
        };
        let kind = ErrorKind::UnknownOutcome;
        lost.push(lost_row(
            held,
            now,
            kind.as_str(),
            "the process died while the call was in flight",
        ));
        let batch = moved.entry(batch).or_default();
        batch.used.calls += 1;
        batch.counts.running -= 1;
        if let Transition::Fail(_) = job::after_death(&job, on_unknown) {
            batch.counts.failed += 1;
            let failed = JobState::Failed.as_str();
            rows.push((id, failed, None, attempts, deaths + 1, Some(claim), Some(now.0), None));
        } else {
            batch.counts.pending += 1;
            let pending = JobState::Pending.as_str();
            rows.push((id, pending, None, attempts, deaths + 1, None, None, None));
        }
    }
    write(connection, &lost, &rows).await?;
    count(connection, &moved).await?;
    Ok(u64::try_from(held.len()).unwrap_or(u64::MAX))
}
