//! What there is to do in a scope: counts, budget, and the jobs that are due, best first.

use serde::Deserialize;
use sqlx::sqlite::SqliteConnection;

use crate::domain::plan::Candidate;
use crate::domain::retry;
use crate::domain::time::Timestamp;
use crate::domain::view::{Counts, UsedUp};
use crate::store::models::{self, InFlight, in_flight};
use crate::store::turn::AtClaim;
use crate::store::{StoreError, bulk};

/// Which jobs a worker works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All of the database.
    All,
    /// Those of one batch, by its row.
    Batch(i64),
    /// One, by its row.
    Job(i64),
}

impl Scope {
    /// Returns the parameter that statements of this scope take as their first.
    fn id(self) -> Option<i64> {
        match self {
            Self::All => None,
            Self::Batch(id) | Self::Job(id) => Some(id),
        }
    }
}

/// Picks a statement about pending jobs by the scope: each finds them by the index of its own. The
/// macro given makes the statement of the way to the jobs, and of what tells those in scope.
macro_rules! pending_in {
    ($scope:expr, $statement:ident) => {
        match $scope {
            Scope::All => $statement!("INDEXED BY jobs_due", "?1 IS NULL"),
            Scope::Batch(_) => $statement!("INDEXED BY jobs_due_in_batch", "j.batch_id = ?1"),
            Scope::Job(_) => $statement!("NOT INDEXED", "j.id = ?1"),
        }
    };
}

/// What there is to do, as far as a reader sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// Pending jobs in scope.
    pub pending: i64,
    /// Running jobs in scope.
    pub running: i64,
    /// The number of the last job ever added.
    pub last_job: i64,
}

/// A scope as a turn sees it first.
pub(super) struct State {
    pub(super) counts: Counts,
    /// Of the whole database where the scope is one job.
    pub(super) used: UsedUp,
    /// When the next call of any process may start, where calls keep an interval.
    pub(super) next_call_at: Timestamp,
    /// Whether any job of the database has media.
    pub(super) has_media: bool,
    /// Those with pending jobs.
    pub(super) models: Vec<(i64, String)>,
}

#[derive(sqlx::FromRow)]
struct StateRow {
    pending: i64,
    running: i64,
    succeeded: i64,
    failed: i64,
    cancelled: i64,
    calls: i64,
    tokens: i64,
    cost: i64,
    next_call_at: i64,
    has_media: bool,
    last_job: i64,
    models: String,
}

impl StateRow {
    fn state(self) -> Result<State, StoreError> {
        Ok(State {
            counts: Counts {
                pending: self.pending,
                running: self.running,
                succeeded: self.succeeded,
                failed: self.failed,
                cancelled: self.cancelled,
            },
            used: UsedUp { calls: self.calls, tokens: self.tokens, cost: self.cost },
            next_call_at: Timestamp(self.next_call_at),
            has_media: self.has_media,
            models: bulk::parse(&self.models)?,
        })
    }
}

/// The models that have pending jobs in scope, as a JSON list.
macro_rules! models {
    ($way:literal, $own:literal) => {
        concat!(
            "(SELECT json_group_array(json_array(id, name)) FROM models AS m WHERE EXISTS
                (SELECT 1 FROM jobs AS j ",
            $way,
            " WHERE j.state = 'pending' AND ",
            $own,
            " AND j.model_id = m.id))"
        )
    };
}

macro_rules! state {
    ($counts_and_budget:expr, $from:literal, $way:literal, $own:literal) => {
        concat!(
            "SELECT ",
            $counts_and_budget,
            ", m.next_call_at, EXISTS (SELECT 1 FROM media) AS has_media,
             coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'jobs'), 0) AS last_job, ",
            models!($way, $own),
            " AS models FROM meta AS m LEFT JOIN ",
            $from
        )
    };
}

macro_rules! of_batches {
    () => {
        "coalesce(sum(b.pending), 0) AS pending, coalesce(sum(b.running), 0) AS running,
         coalesce(sum(b.succeeded), 0) AS succeeded, coalesce(sum(b.failed), 0) AS failed,
         coalesce(sum(b.cancelled), 0) AS cancelled,
         coalesce(sum(b.calls), 0) AS calls, coalesce(sum(b.tokens), 0) AS tokens,
         coalesce(sum(b.cost), 0) AS cost"
    };
}

macro_rules! of_job {
    () => {
        "coalesce(j.state = 'pending', 0) AS pending, coalesce(j.state = 'running', 0) AS running,
         coalesce(j.state = 'succeeded', 0) AS succeeded, coalesce(j.state = 'failed', 0) AS failed,
         coalesce(j.state = 'cancelled', 0) AS cancelled,
         (SELECT coalesce(sum(calls), 0) FROM batches) AS calls,
         (SELECT coalesce(sum(tokens), 0) FROM batches) AS tokens,
         (SELECT coalesce(sum(cost), 0) FROM batches) AS cost"
    };
}

/// Picks a statement by the scope, from a macro that takes where its counts come from.
macro_rules! with_scope {
    ($scope:expr, $statement:ident) => {
        match $scope {
            Scope::All => $statement!(
                of_batches!(),
                "batches AS b ON ?1 IS NULL",
                "INDEXED BY jobs_due",
                "?1 IS NULL"
            ),
            Scope::Batch(_) => $statement!(
                of_batches!(),
                "batches AS b ON b.id = ?1",
                "INDEXED BY jobs_due_in_batch",
                "j.batch_id = ?1"
            ),
            Scope::Job(_) => {
                $statement!(of_job!(), "jobs AS j ON j.id = ?1", "NOT INDEXED", "j.id = ?1")
            }
        }
    };
}

macro_rules! state_and_in_flight {
    ($counts_and_budget:expr, $from:literal, $way:literal, $own:literal) => {
        concat!(state!($counts_and_budget, $from, $way, $own), "; ", in_flight!())
    };
}

/// Returns what there is to do in `scope`.
pub(super) async fn demand(
    connection: &mut SqliteConnection,
    scope: Scope,
) -> Result<Demand, StoreError> {
    let query = sqlx::query_as(with_scope!(scope, state));
    let row: StateRow = query.bind(scope.id()).fetch_one(connection).await?;
    Ok(Demand { pending: row.pending, running: row.running, last_job: row.last_job })
}

/// Reads the scope's counts, budget and models, and the calls in flight of all scopes.
pub(super) async fn state(
    connection: &mut SqliteConnection,
    scope: Scope,
    now: Timestamp,
) -> Result<(State, InFlight), StoreError> {
    let [fresh, recent, now] = models::since(now);
    let query = sqlx::query(with_scope!(scope, state_and_in_flight));
    let query = query.bind(scope.id()).bind(fresh).bind(recent).bind(now);
    let [state, in_flight] = bulk::together(connection, query).await?;
    let row = bulk::read::<StateRow>(&state)?.pop().ok_or(sqlx::Error::RowNotFound)?;
    let state = row.state()?;
    Ok((state, models::in_flight_of(&in_flight)?))
}

/// The levels of priority of a model's pending jobs, the highest first: each is found by the index,
/// and only when the ones before it did not have enough.
macro_rules! by_level {
    ($way:literal, $own:literal, $($rest:expr),+) => {
        concat!(
            "WITH RECURSIVE level (priority) AS (
                 SELECT (SELECT j.priority FROM jobs AS j ",
            $way,
            " WHERE j.state = 'pending' AND ",
            $own,
            " AND j.model_id = ?2 ORDER BY j.priority DESC LIMIT 1)
             UNION ALL
                 SELECT (SELECT j.priority FROM jobs AS j ",
            $way,
            " WHERE j.state = 'pending' AND ",
            $own,
            " AND j.model_id = ?2 AND j.priority < level.priority
                          ORDER BY j.priority DESC LIMIT 1)
                   FROM level WHERE level.priority IS NOT NULL) ",
            $($rest),+
        )
    };
}

// SQLite prepares a statement anew for each number that its LIMIT gets, unless an operator hides it;
// that takes longer than all the rest of a small look.
macro_rules! due {
    ($way:literal, $own:literal) => {
        by_level!(
            $way,
            $own,
            "SELECT json_group_array(json_array(id, model_id, priority, due_at, avoid, claim, task_id,
                         output IS NOT NULL,
                         json_array(batch_id, attempts, max_attempts, deaths, stream)))
               FROM (SELECT j.id, j.model_id, j.priority, j.due_at, j.claim, j.task_id, j.output,
                            CASE WHEN j.attempts > 0 THEN j.key_id END AS avoid, j.batch_id,
                            j.attempts, j.max_attempts, j.deaths, j.stream
                       FROM level CROSS JOIN jobs AS j ",
            $way,
            " WHERE j.state = 'pending' AND ",
            $own,
            " AND j.model_id = ?2 AND j.priority = level.priority AND j.due_at <= ?3 LIMIT +?4)"
        )
    };
}

/// A job that is due, as a claim has to know it: a list of these.
#[derive(Deserialize)]
pub(super) struct DueJob {
    pub(super) id: i64,
    pub(super) model_id: i64,
    pub(super) priority: i64,
    due_at: i64,
    avoid: Option<i64>,
    /// The number of its last claim.
    pub(super) claim: i64,
    pub(super) task_id: String,
    /// 0 or 1.
    pub(super) has_schema: u8,
    pub(super) at_claim: AtClaim,
}

impl DueJob {
    /// Returns what a plan has to know of it.
    pub(super) fn candidate(&self) -> Candidate {
        Candidate {
            job: self.id,
            model: self.model_id,
            priority: self.priority,
            due_at: Timestamp(self.due_at),
            avoid: self.avoid,
            tokens: 0,
            uploads: None,
        }
    }
}

/// Returns the best `most` due jobs of `model`: they come in the order of the levels, and in each in
/// that of the index, by due time and id. They come as one value: each row of its own would be handed
/// from SQLite's thread to ours, and wake it.
pub(super) async fn due(
    connection: &mut SqliteConnection,
    scope: Scope,
    model: i64,
    now: Timestamp,
    most: usize,
) -> Result<Vec<DueJob>, StoreError> {
    let due: String = sqlx::query_scalar(pending_in!(scope, due))
        .bind(scope.id())
        .bind(model)
        .bind(now.0)
        .bind(i64::try_from(most).unwrap_or(i64::MAX))
        .fetch_one(connection)
        .await?;
    bulk::parse(&due)
}

macro_rules! next_due {
    ($way:literal, $own:literal) => {
        by_level!(
            $way,
            $own,
            "SELECT min((SELECT j.due_at FROM jobs AS j ",
            $way,
            " WHERE j.state = 'pending' AND ",
            $own,
            " AND j.model_id = ?2 AND j.priority = level.priority AND j.due_at > ?3
                          ORDER BY j.due_at LIMIT 1))
               FROM (SELECT priority FROM level WHERE priority IS NOT NULL LIMIT +?4) AS level"
        )
    };
}

/// Levels of priority that are asked for the next job to come due; a worker looks again soon
/// anyway.
const LEVELS: i64 = 64;

/// Returns when the next job of `model` comes due that is not due yet.
pub(super) async fn next_due(
    connection: &mut SqliteConnection,
    scope: Scope,
    model: i64,
    now: Timestamp,
) -> Result<Option<Timestamp>, StoreError> {
    let due: Option<i64> = sqlx::query_scalar(pending_in!(scope, next_due))
        .bind(scope.id())
        .bind(model)
        .bind(now.0)
        .bind(LEVELS)
        .fetch_one(connection)
        .await?;
    Ok(due.map(Timestamp))
}

macro_rules! rebase {
    ($way:literal, $own:literal) => {
        by_level!(
            $way,
            $own,
            "UPDATE jobs SET due_at = max(?3, coalesce(not_before, ?3))
              WHERE id IN (SELECT j.id FROM level CROSS JOIN jobs AS j ",
            $way,
            " WHERE j.state = 'pending' AND ",
            $own,
            " AND j.model_id = ?2 AND j.priority = level.priority AND j.due_at > ?4
                AND j.due_at > coalesce(j.not_before, 0) + ?4 - ?3)"
        )
    };
}

/// Makes jobs due whose time is further off than any delay of ours: a wrong clock set it. A time
/// that the user set stays. They are found by the index: a worker begins with this, and there may be
/// millions.
pub(super) async fn rebase(
    connection: &mut SqliteConnection,
    now: Timestamp,
) -> Result<(), StoreError> {
    let scope = Scope::All;
    let models: Vec<i64> =
        sqlx::query_scalar("SELECT id FROM models").fetch_all(&mut *connection).await?;
    for model in models {
        sqlx::query(pending_in!(scope, rebase))
            .bind(scope.id())
            .bind(model)
            .bind(now.0)
            .bind(now.after(retry::LONGEST).0)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Access, Store};

    #[tokio::test]
    async fn due_jobs_are_found_by_their_index_on_a_database_that_was_never_analysed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("q.db"), Access::Write).await.unwrap();
        let by = |index: &str, columns: &str| format!("SEARCH j USING INDEX {index} ({columns})");
        let whole = "model_id=? AND priority=? AND due_at<?";
        let in_batch = format!("batch_id=? AND {whole}");
        for (scope, search) in [
            (Scope::All, by("jobs_due", whole)),
            (Scope::Batch(1), by("jobs_due_in_batch", &in_batch)),
            (Scope::Job(1), "SEARCH j USING INTEGER PRIMARY KEY (rowid=?)".to_owned()),
        ] {
            for statement in [
                pending_in!(scope, due),
                pending_in!(scope, next_due),
                pending_in!(scope, rebase),
                with_scope!(scope, state),
            ] {
                let plan = plan(&store, statement).await;
                assert!(!plan.iter().any(|step| step.contains("TEMP B-TREE")), "{plan:?}");
                assert!(!plan.iter().any(|step| step.starts_with("SCAN j")), "{plan:?}");
                if statement == pending_in!(scope, due) {
                    assert!(plan.contains(&search), "{plan:?}");
                }
            }
        }
    }
    #[tokio::test]
    async fn times_that_a_wrong_clock_set_are_found_by_the_index() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("q.db"), Access::Write).await.unwrap();
        let plan = plan(&store, pending_in!(Scope::All, rebase)).await;
        let search = "SEARCH j USING INDEX jobs_due (model_id=? AND priority=? AND due_at>?)";
        assert!(plan.iter().any(|step| step == search), "{plan:?}");
    }

    async fn plan(store: &Store, statement: &str) -> Vec<String> {
        let query = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
        let rows: Vec<(i64, i64, i64, String)> =
            sqlx::query_as(query).fetch_all(&store.readers).await.unwrap();
        rows.into_iter().map(|row| row.3).collect()
    }
}
