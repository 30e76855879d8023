//! Keys and slots as the database keeps them; their secrets never come here.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::domain::key::KeySettings;
use crate::domain::time::Timestamp;
use crate::domain::today::Today;
use crate::domain::view::KeyView;
use crate::store::key_settings::{self, Origin, SettingsRow};
use crate::store::key_view::{as_recorded, default_rests, refresh, views};
use crate::store::standing::Standing;
use crate::store::turn::Ended;
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
    /// What the environment says of it.
    pub settings: Option<&'a KeySettings>,
}

/// A found key as the database knows keys.
pub(super) struct Printed {
    pub(super) name: String,
    pub(super) print: Vec<u8>,
    pub(super) is_sendable: bool,
    /// Nothing where the environment says nothing of it.
    pub(super) settings: Option<KeySettings>,
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
    /// What variables say of it.
    pub environment: KeySettings,
    /// What `gq keys set` says of it.
    pub set: KeySettings,
    /// Both, the variables first.
    pub settings: KeySettings,
    /// The row of the first key of its project, which the project's slots belong to.
    pub owner: i64,
    /// The project that the API named when it refused the key.
    pub consumer: Option<String>,
    /// The row of a key that ran out in the same moment, where that leaves no other explanation.
    pub twin: Option<i64>,
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

impl Store {
    /// Records the keys that this process found, and returns their rows in the same order; `now`
    /// tells the time once the write lock is held.
    ///
    /// A name with a new secret starts anew; a secret under a new name keeps its state.
    pub async fn register_keys(
        &self,
        found: &[FoundKey<'_>],
        now: fn() -> Timestamp,
    ) -> Result<Vec<KeyRow>, StoreError> {
        let found = self.printed(found).await?;
        self.writer
            .write(move |connection| {
                Box::pin(async move {
                    let before = Standing::read(connection, &Today::at(now())).await?;
                    let rows = register(&mut *connection, found).await?;
                    before.move_slots(connection).await?;
                    Ok(rows)
                })
            })
            .await
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
            settings: key.settings.filter(|it| **it != KeySettings::default()).cloned(),
        };
        Ok(found.iter().map(printed).collect())
    }

    /// Makes `names` available again and clears their counters.
    pub async fn reset_keys(&self, names: Vec<String>, now: Timestamp) -> Result<(), StoreError> {
        const RESET: [&str; 3] = [
            "DELETE FROM key_settings WHERE origin = 'environment' AND key_id IN
                (SELECT id FROM keys WHERE name IN (SELECT value FROM json_each(?1)))",
            // What was used stays used.
            "UPDATE slots SET streak = 0, total = 0, rest_until = NULL, is_full = 0, is_never = 0,
                    exhausted_at = NULL, reason = NULL, learned = '[null,null,null]'
              WHERE key_id IN (SELECT value FROM json_each(?2))",
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
    ) -> Result<(), StoreError> {
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
    ) -> Result<(), StoreError> {
        self.writer
            .write(move |connection| {
                Box::pin(async move {
                    let keys = all(&mut *connection).await?;
                    let chosen = keys.iter().filter(|key| names.contains(&key.name));
                    let owners = bulk::json(&chosen.map(|key| key.owner).collect::<Vec<i64>>())?;
                    let names = bulk::json(&names)?;
                    for statement in statements {
                        let query = sqlx::query(statement).bind(&names).bind(&owners);
                        query.execute(&mut *connection).await?;
                    }
                    refresh(connection, &default_rests(), now).await
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
    for Printed { name, print, is_sendable, settings } in &found {
        let id = match by_print.get(print.as_slice()) {
            Some(&id) => rename(connection, id, name).await?,
            None => renew(connection, name, print).await?,
        };
        if !is_sendable {
            fail(connection, id, UNSENDABLE).await?;
        }
        // A process that knows nothing of it does not take away what others enforce.
        if let Some(settings) = settings {
            key_settings::write(connection, id, Origin::Environment, settings).await?;
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
            // What belongs to a project stays with its other keys.
            [
                "DELETE FROM slots WHERE key_id = ?1 AND NOT EXISTS
                 (SELECT 1 FROM key_settings AS own
                    JOIN key_settings AS other ON other.project = own.project
                   WHERE own.key_id = ?1 AND other.key_id != ?1)",
                "DELETE FROM uploads WHERE key_id = ?1",
            ]
        {
            sqlx::query(statement).bind(id).execute(&mut *connection).await?;
        }
        sqlx::query(
            "UPDATE keys SET fingerprint = ?2, failed_reason = NULL, cooldown_until = NULL,
                    consumer = NULL, twin_id = NULL, exhausted_count = 0, total_exhausted_count = 0, available_at = NULL,
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

/// Reads all keys.
macro_rules! all_keys {
    () => {
        "SELECT k.id, k.name, k.disabled, k.failed_reason, k.cooldown_until, k.consumer, k.twin_id,
                coalesce(e.rpm, '') AS rpm, coalesce(e.tpm, '') AS tpm,
                coalesce(e.rpd, '') AS rpd, e.project, e.tier,
                coalesce(c.rpm, '') AS own_rpm, coalesce(c.tpm, '') AS own_tpm,
                coalesce(c.rpd, '') AS own_rpd, c.project AS own_project, c.tier AS own_tier
           FROM keys AS k
           LEFT JOIN key_settings AS e ON e.key_id = k.id AND e.origin = 'environment'
           LEFT JOIN key_settings AS c ON c.key_id = k.id AND c.origin = 'command'
          ORDER BY k.id"
    };
}
pub(super) use all_keys;

/// Reads all key rows.
pub(super) async fn all(connection: &mut SqliteConnection) -> Result<Vec<KeyRow>, StoreError> {
    of_rows(&sqlx::query(all_keys!()).fetch_all(connection).await?)
}

/// Returns the keys in rows of the statement above.
pub(super) fn of_rows(rows: &[SqliteRow]) -> Result<Vec<KeyRow>, StoreError> {
    let mut keys = Vec::with_capacity(rows.len());
    for row in bulk::read::<ReadKey>(rows)? {
        keys.push(row.row()?);
    }
    find_owners(&mut keys);
    Ok(keys)
}

/// Lets the first key of each project stand for it.
pub(super) fn find_owners(rows: &mut [KeyRow]) {
    let mut owners: HashMap<String, i64> = HashMap::new();
    for row in rows.iter().filter(|row| row.id != NO_ROW) {
        if let Some(project) = &row.settings.project {
            let owner = owners.entry(project.clone()).or_insert(row.id);
            *owner = row.id.min(*owner);
        }
    }
    for row in rows {
        let project = row.settings.project.as_ref();
        row.owner = project.and_then(|project| owners.get(project).copied()).unwrap_or(row.id);
    }
}

/// The id of a key that has no row yet, and so no slots.
pub(super) const NO_ROW: i64 = 0;

#[derive(sqlx::FromRow)]
struct ReadKey {
    id: i64,
    name: String,
    disabled: bool,
    failed_reason: Option<String>,
    cooldown_until: Option<i64>,
    consumer: Option<String>,
    twin_id: Option<i64>,
    rpm: String,
    tpm: String,
    rpd: String,
    project: Option<String>,
    tier: Option<String>,
    own_rpm: String,
    own_tpm: String,
    own_rpd: String,
    own_project: Option<String>,
    own_tier: Option<String>,
}

impl ReadKey {
    fn row(self) -> Result<KeyRow, StoreError> {
        let limits = [self.own_rpm, self.own_tpm, self.own_rpd];
        let set = SettingsRow(limits, self.own_project, self.own_tier).read()?;
        let limits = [self.rpm, self.tpm, self.rpd];
        let environment = SettingsRow(limits, self.project, self.tier).read()?;
        Ok(KeyRow {
            id: self.id,
            name: self.name,
            disabled: self.disabled,
            failed: self.failed_reason,
            cooldown_until: self.cooldown_until.map(Timestamp),
            settings: environment.clone().or(set.clone()),
            environment,
            set,
            owner: self.id,
            consumer: self.consumer,
            twin: self.twin_id,
        })
    }
}

/// Lets keys rest after their use.
pub(super) async fn rest_after_use(
    connection: &mut SqliteConnection,
    keys: &mut [KeyRow],
    ended: &[Ended],
    cooldown: Duration,
) -> Result<(), StoreError> {
    if cooldown.is_zero() {
        return Ok(());
    }
    for ended in ended {
        let until = ended.ended_at.after(cooldown);
        sqlx::query(
            "UPDATE keys SET cooldown_until = ?2, status = 'cooldown', available_at = ?2
              WHERE id = ?1 AND disabled = 0 AND failed_reason IS NULL",
        )
        .bind(ended.key)
        .bind(until.0)
        .execute(&mut *connection)
        .await?;
        let key = keys.iter_mut().find(|key| key.id == ended.key && key.is_alive());
        if let Some(key) = key {
            key.cooldown_until = Some(until);
        }
    }
    Ok(())
}
