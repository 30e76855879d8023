//! Pending jobs that were put off, and what makes them due again.

use std::time::Duration;

use sqlx::sqlite::SqliteConnection;

use crate::domain::time::Timestamp;
use crate::store::{StoreError, bulk};

/// Jobs that wait look again after this time, should nothing wake them; below the longest delay
/// of a retry, beyond which a due time counts as set by a wrong clock.
const LONGEST_WAIT: Duration = Duration::from_secs(100);

/// What jobs wait for that wait for a hash.
pub(super) const HASH: &str = "hash";
/// What jobs wait for that wait until more can be prepared.
pub(super) const ROOM: &str = "room";

/// Jobs that are woken when room becomes free: one or two take it.
const FOR_ROOM: i64 = 8;
/// SQLite's word for no limit.
const ALL: i64 = -1;

/// Puts jobs off until what they wait for has happened; each is given with the time at which it was
/// due, which it gets back then.
pub(super) async fn put_off(
    connection: &mut SqliteConnection,
    jobs: &[(i64, Timestamp, Vec<String>)],
    now: Timestamp,
) -> Result<(), StoreError> {
    let waits: Vec<(&str, i64, i64)> = jobs
        .iter()
        .flat_map(|(job, due, subjects)| {
            subjects.iter().map(move |subject| (subject.as_str(), *job, due.0))
        })
        .collect();
    // A job that waits already keeps the time it had at first.
    sqlx::query(
        "INSERT OR IGNORE INTO waits (subject, job_id, due_at)
         SELECT e.value ->> 0, e.value ->> 1,
                min(e.value ->> 2, coalesce((SELECT min(due_at) FROM waits AS w
                                              WHERE w.job_id = e.value ->> 1), e.value ->> 2))
           FROM json_each(?1) AS e",
    )
    .bind(bulk::json(&waits)?)
    .execute(&mut *connection)
    .await?;
    let ids: Vec<i64> = jobs.iter().map(|(job, ..)| *job).collect();
    sqlx::query("UPDATE jobs SET due_at = ?2 WHERE id IN (SELECT value FROM json_each(?1))")
        .bind(bulk::json(&ids)?)
        .bind(now.after(LONGEST_WAIT).0)
        .execute(connection)
        .await?;
    Ok(())
}

/// Takes jobs off all lists of those that wait.
pub(super) async fn no_longer_wait(
    connection: &mut SqliteConnection,
    jobs: &[i64],
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM waits WHERE job_id IN (SELECT value FROM json_each(?1))")
        .bind(bulk::json(jobs)?)
        .execute(connection)
        .await?;
    Ok(())
}

/// Makes the jobs due that wait for `subject`.
pub(super) async fn wake(
    connection: &mut SqliteConnection,
    subject: &str,
) -> Result<(), StoreError> {
    wake_first(connection, subject, ALL).await
}

/// Makes the first `most` jobs due that wait for `subject`.
async fn wake_first(
    connection: &mut SqliteConnection,
    subject: &str,
    most: i64,
) -> Result<(), StoreError> {
    for statement in [
        "UPDATE jobs SET due_at = w.due_at
           FROM (SELECT job_id, due_at FROM waits WHERE subject = ?1 ORDER BY job_id LIMIT ?2) AS w
          WHERE jobs.id = w.job_id AND jobs.state = 'pending'",
        "DELETE FROM waits WHERE subject = ?1 AND job_id IN
            (SELECT job_id FROM waits WHERE subject = ?1 ORDER BY job_id LIMIT ?2)",
    ] {
        sqlx::query(statement).bind(subject).bind(most).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Makes a few jobs due that wait for room.
pub(super) async fn wake_for_room(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    wake_first(connection, ROOM, FOR_ROOM).await
}

/// Makes all jobs due that wait, for whatever; those that have to wait on are put off again.
pub(super) async fn wake_all(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    for statement in [
        "UPDATE jobs SET due_at = w.due_at
           FROM (SELECT job_id, min(due_at) AS due_at FROM waits GROUP BY job_id) AS w
          WHERE jobs.id = w.job_id AND jobs.state = 'pending'",
        "DELETE FROM waits",
    ] {
        sqlx::query(statement).execute(&mut *connection).await?;
    }
    Ok(())
}
