//! Counts of jobs and of what they used, by batch; and how many finish.

use std::collections::BTreeMap;

use sqlx::sqlite::SqliteConnection;

use crate::domain::time::Timestamp;
use crate::domain::view::{Counts, UsedUp};
use crate::store::{StoreError, bulk};

/// What one batch's jobs did in this turn.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) counts: Counts,
    pub(super) used: UsedUp,
}

/// Moves a batch's counters; each caller moves its jobs in the same transaction.
pub(super) async fn move_counters(
    connection: &mut SqliteConnection,
    batch: i64,
    counts: &Counts,
) -> Result<(), StoreError> {
    let moved = Moved { counts: *counts, used: UsedUp::default() };
    count(connection, &BTreeMap::from([(batch, moved)])).await
}

/// Moves the counters of batches.
macro_rules! move_counts {
    ($batches:literal) => {
        concat!(
            "UPDATE batches
                SET pending = pending + (e.value ->> '$[1][0]'),
                    running = running + (e.value ->> '$[1][1]'),
                    succeeded = succeeded + (e.value ->> '$[1][2]'),
                    failed = failed + (e.value ->> '$[1][3]'),
                    cancelled = cancelled + (e.value ->> '$[1][4]'),
                    calls = calls + (e.value ->> '$[2][0]'),
                    tokens = tokens + (e.value ->> '$[2][1]'),
                    cost = cost + (e.value ->> '$[2][2]')
               FROM jsonb_each(",
            $batches,
            ") AS e
              WHERE batches.id = e.value ->> 0"
        )
    };
}
pub(super) use move_counts;

/// Moves the counters of batches.
pub(super) async fn count(
    connection: &mut SqliteConnection,
    moved: &BTreeMap<i64, Moved>,
) -> Result<(), StoreError> {
    if moved.values().all(|moved| *moved == Moved::default()) {
        return Ok(());
    }
    sqlx::query(move_counts!("$1")).bind(count_rows(moved)?).execute(connection).await?;
    Ok(())
}

/// Forgets how many jobs finished where that is long ago; the clock may have been ahead.
pub(super) async fn forget_throughput(
    connection: &mut SqliteConnection,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM throughput WHERE bucket < ?1 - 60 OR bucket > ?1 + 60")
        .bind(now.0 / 10_000)
        .execute(connection)
        .await?;
    Ok(())
}

/// Returns the parameter of the statement that moves the counters of batches.
pub(super) fn count_rows(moved: &BTreeMap<i64, Moved>) -> Result<String, StoreError> {
    let row = |(batch, Moved { counts, used }): (&i64, &Moved)| {
        let jobs =
            [counts.pending, counts.running, counts.succeeded, counts.failed, counts.cancelled];
        (*batch, jobs, (used.calls, used.tokens, used.cost))
    };
    bulk::json(&moved.iter().map(row).collect::<Vec<_>>())
}
