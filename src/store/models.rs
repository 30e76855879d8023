//! How models stand: calls in flight, what overload has left of them, and how many tokens there are in
//! what is sent to them.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::sqlite::SqliteConnection;

use crate::domain::outcome::{ErrorKind, Outcome};
use crate::domain::overload::{Overload, SLOW};
use crate::domain::plan::Place;
use crate::domain::time::Timestamp;
use crate::domain::tokens;
use crate::domain::traffic::{Busy, REFUSAL};
use crate::store::StoreError;
use crate::store::turn::Ended;

/// Returns the calls in flight by key and model, by whichever process, and how many of them are no
/// slow ones.
pub(super) async fn busy(
    connection: &mut SqliteConnection,
    now: Timestamp,
) -> Result<HashMap<Place, (Busy, i64)>, StoreError> {
    let ago = |time: Duration| now.0 - i64::try_from(time.as_millis()).unwrap_or(0);
    let rows: Vec<(i64, i64, i64, i64, i64, Option<i64>)> = sqlx::query_as(
        "SELECT key_id, model_id, count(*), coalesce(sum(started_at > ?2), 0),
                coalesce(sum(started_at > ?1), 0), min(iif(started_at > ?1, started_at, NULL))
           FROM jobs INDEXED BY jobs_running
          WHERE state = 'running' AND key_id IS NOT NULL GROUP BY key_id, model_id",
    )
    .bind(ago(REFUSAL))
    .bind(ago(SLOW))
    .fetch_all(connection)
    .await?;
    let busy = |(key, model, calls, recent, fresh, first): (_, _, _, _, _, Option<i64>)| {
        let busy = Busy { calls, fresh, first_fresh: first.map(Timestamp) };
        ((key, model), (busy, recent))
    };
    Ok(rows.into_iter().map(busy).collect())
}

/// A model as the database holds it.
#[derive(sqlx::FromRow)]
pub(super) struct Model {
    pub(super) id: i64,
    pub(super) name: String,
    /// Thousandths.
    pub(super) token_rate: i64,
    allowed: Option<i64>,
    lowered_at: Option<i64>,
    overloads: i64,
    rest_until: Option<i64>,
}

impl Model {
    pub(super) fn overload(&self) -> Overload {
        Overload {
            allowed: self.allowed,
            lowered_at: self.lowered_at.map(Timestamp),
            streak: self.overloads,
            rest_until: self.rest_until.map(Timestamp),
        }
    }
}

/// Applies what attempts tell of how much their models can take, and of how many tokens there are
/// in what is sent to them.
pub(super) async fn ease(
    connection: &mut SqliteConnection,
    ended: &[Ended],
    now: Timestamp,
) -> Result<(), StoreError> {
    let told = |ended: &&Ended| is_overload(ended) || ended.outcome == Outcome::Answered;
    let mut models: Vec<i64> = ended.iter().filter(told).map(|ended| ended.model).collect();
    models.sort_unstable();
    models.dedup();
    for model in models {
        let row: Option<Model> = sqlx::query_as(
            "SELECT id, name, token_rate, allowed, lowered_at, overloads, rest_until FROM models
              WHERE id = ?1",
        )
        .bind(model)
        .fetch_optional(&mut *connection)
        .await?;
        let Some(row) = row else { continue };
        let before = (row.overload(), row.token_rate);
        let (mut overload, mut token_rate) = before;
        for ended in ended.iter().filter(|ended| ended.model == model) {
            if is_overload(ended) {
                let busy: i64 = sqlx::query_scalar(
                    "SELECT count(*) FROM jobs INDEXED BY jobs_running
                      WHERE state = 'running' AND model_id = ?1",
                )
                .bind(model)
                .fetch_one(&mut *connection)
                .await?;
                overload = overload.after_overload(busy, ended.started_at, now);
            } else if ended.outcome == Outcome::Answered {
                overload = overload.after_success(ended.started_at);
            }
            if let Some(usage) = ended.usage {
                token_rate = tokens::corrected(token_rate, ended.plain_tokens, usage.prompt_tokens);
            }
        }
        if (overload, token_rate) != before {
            sqlx::query(
                "UPDATE models SET allowed = ?2, lowered_at = ?3, token_rate = ?4, overloads = ?5,
                        rest_until = ?6
                  WHERE id = ?1",
            )
            .bind(model)
            .bind(overload.allowed)
            .bind(overload.lowered_at.map(|time| time.0))
            .bind(token_rate)
            .bind(overload.streak)
            .bind(overload.rest_until.map(|time| time.0))
            .execute(&mut *connection)
            .await?;
        }
    }
    Ok(())
}

fn is_overload(ended: &Ended) -> bool {
    ended.outcome == Outcome::Failed(ErrorKind::Overloaded) || ended.http_status == Some(504)
}
