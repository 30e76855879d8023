//! How models stand: calls in flight, what overload has left of them, and how many tokens there are in
//! what is sent to them.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::domain::outcome::{ErrorKind, Outcome};
use crate::domain::overload::{Overload, SLOW};
use crate::domain::plan::Place;
use crate::domain::time::Timestamp;
use crate::domain::tokens;
use crate::domain::traffic::{Busy, REFUSAL};
use crate::store::turn::Ended;
use crate::store::{StoreError, bulk};

/// Calls in flight by key and model, by whichever process, and how many of them are no slow ones.
pub(super) type InFlight = HashMap<Place, (Busy, i64)>;

/// Reads the calls in flight; the parameters are those of [`since`].
macro_rules! in_flight {
    () => {
        "SELECT key_id, model_id, count(*), coalesce(sum(started_at > $3 AND started_at <= $4), 0),
                coalesce(sum(started_at > $2 AND started_at <= $4), 0),
                min(iif(started_at > $2 AND started_at <= $4, started_at, NULL))
           FROM jobs INDEXED BY jobs_running
          WHERE state = 'running' AND key_id IS NOT NULL GROUP BY model_id, key_id"
    };
}
pub(super) use in_flight;

/// Returns since when calls are fresh, since when they are no slow ones, and the time itself.
pub(super) fn since(now: Timestamp) -> [i64; 3] {
    let ago = |time: Duration| now.0 - i64::try_from(time.as_millis()).unwrap_or(0);
    [ago(REFUSAL), ago(SLOW), now.0]
}

pub(super) fn in_flight_of(rows: &[SqliteRow]) -> Result<InFlight, StoreError> {
    let rows = bulk::read::<(i64, i64, i64, i64, i64, Option<i64>)>(rows)?;
    let busy = |(key, model, calls, recent, fresh, first): (_, _, _, _, _, Option<i64>)| {
        let busy = Busy { calls, fresh, first_fresh: first.map(Timestamp) };
        ((key, model), (busy, recent))
    };
    Ok(rows.into_iter().map(busy).collect())
}

/// A model as the database holds it.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(super) struct Model {
    /// Tokens that calls had, in thousandths of those that their size let expect.
    pub(super) token_rate: i64,
    allowed: Option<i64>,
    lowered_at: Option<i64>,
    overloads: i64,
    model_rest_until: Option<i64>,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            token_rate: tokens::ONE,
            allowed: None,
            lowered_at: None,
            overloads: 0,
            model_rest_until: None,
        }
    }
}

impl Model {
    /// Returns what overload left; what lies in the future was noted under a wrong clock.
    pub(super) fn overload(&self, now: Timestamp) -> Overload {
        Overload {
            allowed: self.allowed,
            lowered_at: self.lowered_at.map(|at| Timestamp(at).min(now)),
            streak: self.overloads,
            rest_until: self.model_rest_until.map(Timestamp),
        }
    }

    /// Takes new values; returns whether they are worth to be written. A rate that hardly moved
    /// is not.
    fn take(&mut self, overload: Overload, token_rate: i64, now: Timestamp) -> bool {
        let moved = (token_rate - self.token_rate).abs() > self.token_rate / 50;
        let eased = overload != self.overload(now);
        if moved || eased {
            *self = Self {
                token_rate: if moved { token_rate } else { self.token_rate },
                allowed: overload.allowed,
                lowered_at: overload.lowered_at.map(|time| time.0),
                overloads: overload.streak,
                model_rest_until: overload.rest_until.map(|time| time.0),
            };
        }
        moved || eased
    }
}

/// Applies what attempts tell of how much their models can take, and of how many tokens there are
/// in what is sent to them.
pub(super) async fn ease(
    connection: &mut SqliteConnection,
    models: &mut HashMap<i64, Model>,
    ended: &[Ended],
    now: Timestamp,
) -> Result<(), StoreError> {
    for (id, model) in models {
        let (mut overload, mut token_rate) = (model.overload(now), model.token_rate);
        for ended in ended.iter().filter(|ended| ended.model == *id) {
            if is_overload(ended) {
                let busy: i64 = sqlx::query_scalar(
                    "SELECT count(*) FROM jobs INDEXED BY jobs_running
                      WHERE state = 'running' AND model_id = ?1",
                )
                .bind(id)
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
        if model.take(overload, token_rate, now) {
            write(connection, *id, model).await?;
        }
    }
    Ok(())
}

async fn write(
    connection: &mut SqliteConnection,
    id: i64,
    model: &Model,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE models SET allowed = ?2, lowered_at = ?3, token_rate = ?4, overloads = ?5,
                rest_until = ?6
          WHERE id = ?1",
    )
    .bind(id)
    .bind(model.allowed)
    .bind(model.lowered_at)
    .bind(model.token_rate)
    .bind(model.overloads)
    .bind(model.model_rest_until)
    .execute(connection)
    .await?;
    Ok(())
}

fn is_overload(ended: &Ended) -> bool {
    ended.outcome == Outcome::Failed(ErrorKind::Overloaded) || ended.http_status == Some(504)
}
