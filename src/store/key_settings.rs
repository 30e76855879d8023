//! What people say of keys, as the database keeps it.

use std::str::FromStr as _;

use sqlx::sqlite::SqliteConnection;

use crate::domain::key::{KeySettings, Tier};
use crate::domain::limits::{Given, GivenLimits};
use crate::domain::time::Timestamp;
use crate::domain::today::Today;
use crate::store::key_view::{default_rests, refresh};
use crate::store::standing::Standing;
use crate::store::{Store, StoreError, keys};

/// Who says it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin {
    /// Variables beside the key's own.
    Environment,
    /// `gq keys set`.
    Command,
}

impl Origin {
    fn as_str(self) -> &'static str {
        match self {
            Self::Environment => "environment",
            Self::Command => "command",
        }
    }
}

/// A row of settings: limits, project, tier; empty text for no limit.
pub(super) struct SettingsRow(
    pub(super) [String; 3],
    pub(super) Option<String>,
    pub(super) Option<String>,
);

impl SettingsRow {
    pub(super) fn read(self) -> Result<KeySettings, StoreError> {
        let Self(limits, project, tier) = self;
        let mut given = [Given::default(), Given::default(), Given::default()];
        for (given, text) in given.iter_mut().zip(limits).filter(|(_, text)| !text.is_empty()) {
            *given = text.parse().map_err(StoreError::Value)?;
        }
        let tier = tier.map(|tier| Tier::from_str(&tier)).transpose().map_err(StoreError::Value)?;
        Ok(KeySettings { limits: GivenLimits(given), project, tier })
    }
}

/// Puts what `origin` says of a key in the place of what it said before.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    key: i64,
    origin: Origin,
    settings: &KeySettings,
) -> Result<(), StoreError> {
    if *settings == KeySettings::default() {
        sqlx::query("DELETE FROM key_settings WHERE key_id = ?1 AND origin = ?2")
            .bind(key)
            .bind(origin.as_str())
            .execute(connection)
            .await?;
        return Ok(());
    }
    let [rpm, tpm, rpd] = settings.limits.0.each_ref().map(Given::to_string);
    sqlx::query(
        "INSERT OR REPLACE INTO key_settings (key_id, origin, rpm, tpm, rpd, project, tier)
         VALUES (?1, ?2, nullif(?3, ''), nullif(?4, ''), nullif(?5, ''), ?6, ?7)",
    )
    .bind(key)
    .bind(origin.as_str())
    .bind(rpm)
    .bind(tpm)
    .bind(rpd)
    .bind(&settings.project)
    .bind(settings.tier.map(Tier::as_str))
    .execute(connection)
    .await?;
    Ok(())
}

/// What `gq keys set` changes: `None` leaves a setting as it is, `Some(None)` takes it away.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SettingsChange {
    /// Limits, in the order of [`Quota::ALL`](crate::domain::limits::Quota::ALL).
    pub limits: [Option<Option<Given>>; 3],
    /// The project.
    pub project: Option<Option<String>>,
    /// The tier.
    pub tier: Option<Option<Tier>>,
}

impl SettingsChange {
    fn apply(&self, mut settings: KeySettings) -> KeySettings {
        for (given, change) in settings.limits.0.iter_mut().zip(&self.limits) {
            if let Some(change) = change {
                *given =
                    change.clone().map_or_else(Given::default, |more| given.clone().with(more));
            }
        }
        KeySettings {
            project: self.project.clone().unwrap_or(settings.project),
            tier: self.tier.unwrap_or(settings.tier),
            ..settings
        }
    }
}

impl Store {
    /// Changes the settings of `names` that `gq keys set` made; those of the environment stay;
    /// `now` tells the time once the write lock is held.
    pub async fn set_keys(
        &self,
        names: Vec<String>,
        change: SettingsChange,
        now: fn() -> Timestamp,
    ) -> Result<(), StoreError> {
        self.writer
            .write(move |connection| {
                Box::pin(async move {
                    let now = now();
                    let before = Standing::read(connection, &Today::at(now)).await?;
                    for row in keys::all(&mut *connection).await? {
                        if names.contains(&row.name) {
                            let set = change.apply(row.set);
                            write(&mut *connection, row.id, Origin::Command, &set).await?;
                        }
                    }
                    before.move_slots(connection).await?;
                    refresh(connection, &default_rests(), now).await
                })
            })
            .await
    }
}

/// Reads the limits that workers were told for each slot.
pub(super) async fn of_workers(
    connection: &mut SqliteConnection,
) -> Result<Vec<GivenLimits>, StoreError> {
    let rows: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT coalesce(rpm, ''), coalesce(tpm, ''), coalesce(rpd, '') FROM workers",
    )
    .fetch_all(connection)
    .await?;
    let limits = |(rpm, tpm, rpd)| Ok(SettingsRow([rpm, tpm, rpd], None, None).read()?.limits);
    rows.into_iter().map(limits).collect()
}
