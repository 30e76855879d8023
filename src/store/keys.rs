//! Keys and slots as the database keeps them; their secrets never come here.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use sqlx::sqlite::SqliteConnection;

use crate::domain::outcome::{Exhaustion, Outcome};
use crate::domain::slot::{Rests, Slot};
use crate::domain::time::Timestamp;
use crate::domain::view::KeyView;
use crate::store::key_view::{as_recorded, default_rests, refresh, views};
use crate::store::turn::{Ended, Policy};
use crate::store::{Store, StoreError, bulk};

/// A key that this process found.
#[derive(Clone, Copy)]
pub struct FoundKey<'a> {
    /// The variable's name.
    pub name: &'a str,
    /// The secret, of which only a fingerprint is kept.
    pub secret: &'a str,
    /// Whether it can be sent at all; if not it starts as `failed_init`.
    pub is_sendable: bool,
}

/// A found key as the database knows keys.
pub(super) struct Printed {
    pub(super) name: String,
    pub(super) print: Vec<u8>,
    pub(super) is_sendable: bool,
}

/// Why a key that cannot be sent is `failed_init`.
pub(super) const UNSENDABLE: &str = "the key holds characters that cannot be sent";

/// A key's own row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// The row.
    pub id: i64,
    /// The variable's name.
    pub name: String,
    /// Whether a person switched it off.
    pub disabled: bool,
    /// Why the API refused it, if it did.
    pub failed: Option<String>,
    /// The end of the rest after its last use.
    pub cooldown_until: Option<Timestamp>,
}

impl KeyRow {
    /// Returns whether the key can work at all, now or later.
    pub fn is_alive(&self) -> bool {
        !self.disabled && self.failed.is_none()
    }

    /// Returns the end of the rest after use that holds at `now`; one further off than a rest is
    /// long was set under a wrong clock.
    pub(super) fn cooldown_end(&self, cooldown: Duration, now: Timestamp) -> Option<Timestamp> {
        rest_end(self.cooldown_until?, cooldown, now)
    }
}

/// A process with other settings than ours may have set a rest this much longer than ours.
const FOREIGN_REST: Duration = Duration::from_mins(1);

/// Returns `end` if a rest of length `rest` can end then; further off, a wrong clock set it.
pub(super) fn rest_end(end: Timestamp, rest: Duration, now: Timestamp) -> Option<Timestamp> {
    (end > now && end <= now.after(rest.max(FOREIGN_REST))).then_some(end)
}

/// Slots by (key, model).
pub(super) type Slots = HashMap<(i64, i64), Slot>;

impl Store {
    /// Records the keys that this process found, and returns their rows in the same order.
    ///
    /// A name with a new secret starts anew; a secret under a new name keeps its state.
    pub async fn register_keys(&self, found: &[FoundKey<'_>]) -> Result<Vec<KeyRow>, StoreError> {
        let found = self.printed(found).await?;
        self.writer.write(move |connection| Box::pin(register(connection, found))).await
    }

    /// Returns the keys that this process found and all others of the database, as they stand at
    /// `now`; writes nothing, and shows each as recording it would leave it.
    pub async fn keys(
        &self,
        found: &[FoundKey<'_>],
        now: Timestamp,
    ) -> Result<Vec<KeyView>, StoreError> {
        let found = self.printed(found).await?;
        let mut connection = self.readers.acquire().await?;
        let prints: HashMap<i64, Vec<u8>> = sqlx::query_as("SELECT id, fingerprint FROM keys")
            .fetch_all(&mut *connection)
            .await?
            .into_iter()
            .collect();
        let rows = as_recorded(&all(&mut connection).await?, &prints, &found);
        views(&mut connection, &rows, &default_rests(), now).await
    }

    async fn printed(&self, found: &[FoundKey<'_>]) -> Result<Vec<Printed>, StoreError> {
        let salt: Vec<u8> =
            sqlx::query_scalar("SELECT salt FROM meta").fetch_one(&self.readers).await?;
        let printed = |key: &FoundKey<'_>| Printed {
            name: key.name.to_owned(),
            print: fingerprint(&salt, key.secret),
            is_sendable: key.is_sendable,
        };
        Ok(found.iter().map(printed).collect())
    }

    /// Makes `names` available again and clears their counters.
    pub async fn reset_keys(&self, names: Vec<String>, now: Timestamp) -> Result<u64, StoreError> {
        const RESET: [&str; 2] = [
            "DELETE FROM slots WHERE key_id IN (SELECT id FROM keys WHERE name IN
                (SELECT value FROM json_each(?1)))",
            "UPDATE keys SET disabled = 0, failed_reason = NULL, cooldown_until = NULL,
                    status = 'available', exhausted_count = 0, total_exhausted_count = 0,
                    available_at = NULL, reason = NULL
              WHERE name IN (SELECT value FROM json_each(?1))",
        ];
        self.change_keys(names, RESET.to_vec(), now).await
    }

    /// Switches `names` off or on again.
    pub async fn set_keys_disabled(
        &self,
        names: Vec<String>,
        disabled: Switch,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let statement = match disabled {
            Switch::Off => {
                "UPDATE keys SET disabled = 1 WHERE name IN (SELECT value FROM json_each(?1))"
            }
            Switch::On => {
                "UPDATE keys SET disabled = 0 WHERE name IN (SELECT value FROM json_each(?1))"
            }
        };
        self.change_keys(names, vec![statement], now).await
    }

    /// Records that the API takes the key of this row.
    pub async fn accept_key(&self, key: i64, now: Timestamp) -> Result<(), StoreError> {
        self.writer
            .write(move |connection| {
                Box::pin(async move {
                    sqlx::query("UPDATE keys SET failed_reason = NULL WHERE id = ?1")
                        .bind(key)
                        .execute(&mut *connection)
                        .await?;
                    refresh(connection, &default_rests(), now).await
                })
            })
            .await
    }

    /// Records that the API refused the key of this row.
    pub async fn fail_key(
        &self,
        key: i64,
        reason: String,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.writer
            .write(move |connection| {
                Box::pin(async move {
                    fail(connection, key, &reason).await?;
                    refresh(connection, &default_rests(), now).await
                })
            })
            .await
    }

    async fn change_keys(
        &self,
        names: Vec<String>,
        statements: Vec<&'static str>,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let names = bulk::json(&names)?;
        self.writer
            .write(move |connection| {
                Box::pin(async move {
                    let mut changed = 0;
                    for statement in statements {
                        let done = sqlx::query(statement).bind(&names).execute(&mut *connection);
                        changed = done.await?.rows_affected();
                    }
                    refresh(connection, &default_rests(), now).await?;
                    Ok(changed)
                })
            })
            .await
    }
}

/// Whether a key may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// It may.
    On,
    /// It may not.
    Off,
}

fn fingerprint(salt: &[u8], secret: &str) -> Vec<u8> {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(salt) else {
        return Vec::new();
    };
    mac.update(secret.as_bytes());
    mac.finalize().into_bytes()[..12].to_vec()
}

async fn register(
    connection: &mut SqliteConnection,
    found: Vec<Printed>,
) -> Result<Vec<KeyRow>, StoreError> {
    let known: Vec<(i64, String, Vec<u8>)> =
        sqlx::query_as("SELECT id, name, fingerprint FROM keys")
            .fetch_all(&mut *connection)
            .await?;
    let by_print: HashMap<&[u8], i64> =
        known.iter().map(|(id, _, print)| (print.as_slice(), *id)).collect();
    let taken: HashSet<i64> =
        found.iter().filter_map(|key| by_print.get(key.print.as_slice()).copied()).collect();
    // Names are unique; those that move give theirs up first.
    let moving = known.iter().filter(|(id, name, print)| {
        taken.contains(id) && !found.iter().any(|key| key.name == *name && key.print == *print)
    });
    for (id, ..) in moving {
        sqlx::query("UPDATE keys SET name = '#' || id WHERE id = ?1")
            .bind(id)
            .execute(&mut *connection)
            .await?;
    }
    let mut ids = Vec::with_capacity(found.len());
    for Printed { name, print, is_sendable } in &found {
        let id = match by_print.get(print.as_slice()) {
            Some(&id) => rename(connection, id, name).await?,
            None => renew(connection, name, print).await?,
        };
        if !is_sendable {
            fail(connection, id, UNSENDABLE).await?;
        }
        ids.push(id);
    }
    let rows = all(connection).await?;
    let row = |id: &i64| rows.iter().find(|row| row.id == *id).cloned();
    Ok(ids.iter().filter_map(row).collect())
}

/// Gives the known secret `id` the name `name`; a row that has the name has lost its secret.
async fn rename(connection: &mut SqliteConnection, id: i64, name: &str) -> Result<i64, StoreError> {
    sqlx::query("UPDATE keys SET name = '#' || id WHERE name = ?2 AND id != ?1")
        .bind(id)
        .bind(name)
        .execute(&mut *connection)
        .await?;
    sqlx::query("UPDATE keys SET name = ?2 WHERE id = ?1 AND name != ?2")
        .bind(id)
        .bind(name)
        .execute(connection)
        .await?;
    Ok(id)
}

/// Records a secret that is not known, under a name that is new or gets a new secret.
async fn renew(
    connection: &mut SqliteConnection,
    name: &str,
    print: &[u8],
) -> Result<i64, StoreError> {
    let known: Option<i64> = sqlx::query_scalar("SELECT id FROM keys WHERE name = ?1")
        .bind(name)
        .fetch_optional(&mut *connection)
        .await?;
    if let Some(id) = known {
        for statement in
            ["DELETE FROM slots WHERE key_id = ?1", "DELETE FROM uploads WHERE key_id = ?1"]
        {
            sqlx::query(statement).bind(id).execute(&mut *connection).await?;
        }
        sqlx::query(
            "UPDATE keys SET fingerprint = ?2, failed_reason = NULL, cooldown_until = NULL,
                    exhausted_count = 0, total_exhausted_count = 0, available_at = NULL,
                    status = CASE disabled WHEN 1 THEN 'disabled' ELSE 'available' END,
                    reason = NULL
              WHERE id = ?1",
        )
        .bind(id)
        .bind(print)
        .execute(connection)
        .await?;
        return Ok(id);
    }
    let done = sqlx::query("INSERT INTO keys (name, fingerprint) VALUES (?1, ?2)")
        .bind(name)
        .bind(print)
        .execute(connection)
        .await?;
    Ok(done.last_insert_rowid())
}

pub(super) async fn fail(
    connection: &mut SqliteConnection,
    key: i64,
    reason: &str,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE keys SET failed_reason = ?2, status = 'failed_init', reason = ?2 WHERE id = ?1",
    )
    .bind(key)
    .bind(reason)
    .execute(connection)
    .await?;
    Ok(())
}

/// Reads all key rows.
pub(super) async fn all(connection: &mut SqliteConnection) -> Result<Vec<KeyRow>, StoreError> {
    let rows: Vec<(i64, String, bool, Option<String>, Option<i64>)> = sqlx::query_as(
        "SELECT id, name, disabled, failed_reason, cooldown_until FROM keys ORDER BY id",
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(id, name, disabled, failed, cooldown)| KeyRow {
            id,
            name,
            disabled,
            failed,
            cooldown_until: cooldown.map(Timestamp),
        })
        .collect())
}

/// Reads all slots.
pub(super) async fn slots(connection: &mut SqliteConnection) -> Result<Slots, StoreError> {
    type Row = (i64, i64, i64, i64, Option<i64>, bool, bool, Option<i64>, Option<String>);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT key_id, model_id, streak, total, rest_until, is_full, is_never, exhausted_at, reason
           FROM slots",
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(key, model, streak, total, rest_until, full, never, exhausted_at, reason)| {
            let slot = Slot {
                streak,
                total,
                rest_until: rest_until.map(Timestamp),
                full,
                never,
                exhausted_at: exhausted_at.map(Timestamp),
                reason,
            };
            ((key, model), slot)
        })
        .collect())
}

/// Applies what attempts tell of their keys and slots.
pub(super) async fn after_attempts(
    connection: &mut SqliteConnection,
    ended: &[Ended],
    policy: &Policy,
    now: Timestamp,
) -> Result<(), StoreError> {
    let mut slots = slots(connection).await?;
    let mut changed: HashSet<(i64, i64)> = HashSet::new();
    for ended in ended {
        let place = (ended.key, ended.model);
        let before = slots.get(&place).cloned().unwrap_or_default();
        let after = match &ended.outcome {
            Outcome::Answered => before.clone().after_success(ended.started_at),
            Outcome::Exhausted(exhaustion) => {
                let started = ended.started_at;
                let rests = &policy.rests;
                before.clone().after_exhaustion(exhaustion, started, rests, now, ended.jitter)
            }
            Outcome::BadKey => {
                let reason = ended.message.as_deref().unwrap_or("the API refused the key");
                fail(connection, ended.key, reason).await?;
                continue;
            }
            Outcome::Failed(_)
            | Outcome::LocationRefused
            | Outcome::FileRefused
            | Outcome::FileExpired
            | Outcome::Cut => continue,
        };
        if after != before {
            slots.insert(place, after);
            changed.insert(place);
        }
    }
    for place in changed {
        write_slot(connection, place, &slots[&place]).await?;
    }
    rest_after_use(connection, ended, policy.key_cooldown).await
}

/// Applies a 429 of an upload that jobs of `models` wait for: the quota, when the upload began,
/// and a number in `0.0..1.0` that spreads delays.
pub(super) async fn exhaust(
    connection: &mut SqliteConnection,
    (key, models): (i64, &[i64]),
    (exhaustion, started_at, jitter): (&Exhaustion, Timestamp, f64),
    rests: &Rests,
    now: Timestamp,
) -> Result<(), StoreError> {
    let slots = slots(connection).await?;
    for model in models {
        let before = slots.get(&(key, *model)).cloned().unwrap_or_default();
        let after = before.after_exhaustion(exhaustion, started_at, rests, now, jitter);
        write_slot(connection, (key, *model), &after).await?;
    }
    Ok(())
}

async fn write_slot(
    connection: &mut SqliteConnection,
    (key, model): (i64, i64),
    slot: &Slot,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT OR REPLACE INTO slots
                (key_id, model_id, streak, total, rest_until, is_full, is_never, exhausted_at,
                 reason)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )
    .bind(key)
    .bind(model)
    .bind(slot.streak)
    .bind(slot.total)
    .bind(slot.rest_until.map(|time| time.0))
    .bind(slot.full)
    .bind(slot.never)
    .bind(slot.exhausted_at.map(|time| time.0))
    .bind(&slot.reason)
    .execute(connection)
    .await?;
    Ok(())
}

async fn rest_after_use(
    connection: &mut SqliteConnection,
    ended: &[Ended],
    cooldown: Duration,
) -> Result<(), StoreError> {
    if cooldown.is_zero() {
        return Ok(());
    }
    for ended in ended {
        let until = ended.ended_at.after(cooldown).0;
        sqlx::query(
            "UPDATE keys SET cooldown_until = ?2, status = 'cooldown', available_at = ?2
              WHERE id = ?1 AND disabled = 0 AND failed_reason IS NULL",
        )
        .bind(ended.key)
        .bind(until)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}
