//! What people see of keys and slots, and the columns of `keys` that tell it to SQL.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::sqlite::SqliteConnection;

use crate::domain::key::KeySettings;
use crate::domain::limits::{GivenLimits, Quota};
use crate::domain::slot::{Rests, Slot};
use crate::domain::time::Timestamp;
use crate::domain::today::Today;
use crate::domain::view::{KeyStatus, KeyView, LimitOrigin, LimitView, ModelView, StatusView};
use crate::store::StoreError;
use crate::store::key_settings;
use crate::store::keys::{KeyRow, NO_ROW, Printed, UNSENDABLE, all, find_owners};
use crate::store::standing::{Slots, read_slots};

/// What people see does not depend on a worker's flags, which only decide whether an end of rest
/// is so far off that a wrong clock must have set it.
pub(super) fn default_rests() -> Rests {
    Rests {
        exhausted_wait: Duration::from_hours(1),
        fully_exhausted_wait: Duration::from_hours(336),
        max_exhausted_retries: i64::MAX,
    }
}

/// Brings the columns that people read in `keys` up to date; writes only what changed.
pub(super) async fn refresh(
    connection: &mut SqliteConnection,
    rests: &Rests,
    now: Timestamp,
) -> Result<(), StoreError> {
    let rows = all(&mut *connection).await?;
    for view in views(connection, &rows, rests, now).await? {
        sqlx::query(
            "UPDATE keys SET status = ?2, exhausted_count = ?3, total_exhausted_count = ?4,
                    available_at = ?5, reason = ?6
              WHERE name = ?1 AND (status, exhausted_count, total_exhausted_count, available_at,
                                   reason) IS NOT (?2, ?3, ?4, ?5, ?6)",
        )
        .bind(&view.name)
        .bind(view.overall.status.as_str())
        .bind(view.overall.exhausted_count)
        .bind(view.overall.total_exhausted_count)
        .bind(view.overall.available_at.map(|time| time.0))
        .bind(&view.overall.reason)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// Returns the rows as recording `found` would leave them: those found, then the others.
pub(super) fn as_recorded(
    known: &[KeyRow],
    prints: &HashMap<i64, Vec<u8>>,
    found: &[Printed],
) -> Vec<KeyRow> {
    let has = |row: &KeyRow, key: &Printed| prints.get(&row.id) == Some(&key.print);
    let is_found = |row: &KeyRow| found.iter().any(|key| has(row, key));
    let recorded = |key: &Printed| {
        let mut row = match known.iter().find(|row| has(row, key)) {
            Some(row) => row.clone(),
            None => KeyRow {
                id: NO_ROW,
                name: String::new(),
                // A name that gets a new secret stays switched off.
                disabled: known
                    .iter()
                    .any(|row| row.name == key.name && row.disabled && !is_found(row)),
                failed: None,
                cooldown_until: None,
                environment: KeySettings::default(),
                set: KeySettings::default(),
                settings: KeySettings::default(),
                owner: NO_ROW,
                consumer: None,
                twin: None,
            },
        };
        if let Some(settings) = &key.settings {
            row.environment = settings.clone();
        }
        row.settings = row.environment.clone().or(row.set.clone());
        row.name.clone_from(&key.name);
        if !key.is_sendable {
            row.failed = Some(UNSENDABLE.to_owned());
        }
        row
    };
    let others = known
        .iter()
        .filter(|row| !is_found(row) && !found.iter().any(|key| key.name == row.name))
        .cloned();
    let mut rows: Vec<KeyRow> = found.iter().map(recorded).chain(others).collect();
    find_owners(&mut rows);
    rows
}

/// Reads what people see of the keys; rows that lost their name to another secret are left out.
pub(super) async fn views(
    connection: &mut SqliteConnection,
    rows: &[KeyRow],
    rests: &Rests,
    now: Timestamp,
) -> Result<Vec<KeyView>, StoreError> {
    let today = Today::at(now);
    let slots = read_slots(&mut *connection, &today).await?.slots;
    let workers = key_settings::of_workers(&mut *connection).await?;
    let models: Vec<(i64, String, bool)> = sqlx::query_as(
        "SELECT id, name,
                EXISTS (SELECT 1 FROM jobs WHERE state = 'pending' AND model_id = m.id)
                OR EXISTS (SELECT 1 FROM jobs WHERE state = 'running' AND model_id = m.id)
           FROM models AS m ORDER BY name",
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .iter()
        .filter(|row| !row.name.starts_with('#'))
        .map(|row| KeyView {
            same_project_as: same_project(row, rows),
            ..key_view(row, (rows, &workers), (&slots, &models), (rests, &today))
        })
        .collect())
}

/// Returns another key that seems to be of the same project, though it is counted apart.
fn same_project(row: &KeyRow, all: &[KeyRow]) -> Option<String> {
    let is_same = |other: &&KeyRow| {
        let is_named = row.consumer.is_some() && other.consumer == row.consumer;
        other.owner != row.owner && (is_named || row.twin == Some(other.id))
    };
    all.iter().find(is_same).map(|other| other.name.clone())
}

fn key_view(
    row: &KeyRow,
    (rows, workers): (&[KeyRow], &[GivenLimits]),
    (slots, models): (&Slots, &[(i64, String, bool)]),
    (rests, today): (&Rests, &Today),
) -> KeyView {
    let project: Vec<&KeyRow> = rows.iter().filter(|other| other.owner == row.owner).collect();
    let any_in_use = models.iter().any(|(_, _, in_use)| *in_use);
    let mut seen = Vec::new();
    let mut in_use = Vec::new();
    for (id, name, used) in models {
        let slot = slots.get(&(row.owner, *id));
        let slot_or_fresh = slot.cloned().unwrap_or_default();
        let view = model_view((&project, workers), name, &slot_or_fresh, (rests, today));
        if *used || (!any_in_use && slot.is_some()) {
            in_use.push(view.status.clone());
        }
        if slot.is_some() {
            seen.push(view);
        }
    }
    KeyView {
        name: row.name.clone(),
        overall: overall(row, &in_use, rests, today.now),
        settings: row.settings.clone(),
        models: seen,
        same_project_as: None,
    }
}

/// Returns what people see of a slot of the keys `project`.
fn model_view(
    (project, workers): (&[&KeyRow], &[GivenLimits]),
    name: &str,
    slot: &Slot,
    (rests, today): (&Rests, &Today),
) -> ModelView {
    let mut status = slot.view(rests, today.now);
    let limit = |quota| limit_view((project, workers), name, slot, quota, today);
    let limits: Vec<LimitView> = Quota::ALL.into_iter().filter_map(limit).collect();
    let has_had_its_day = limits.iter().any(|it| it.quota == Quota::Rpd && it.used >= it.limit);
    if has_had_its_day && status.status == KeyStatus::Available {
        let owner = project.first().map_or(NO_ROW, |row| row.owner);
        status.status = KeyStatus::FullyExhausted;
        status.available_at = Some(today.tomorrow(owner));
        status.reason = Some("the day's requests are used up".to_owned());
    }
    ModelView { name: name.to_owned(), status, limits }
}

/// Returns the lowest of what people and 429s say.
fn limit_view(
    (project, workers): (&[&KeyRow], &[GivenLimits]),
    model: &str,
    slot: &Slot,
    quota: Quota,
    today: &Today,
) -> Option<LimitView> {
    let used = slot.traffic.used(quota);
    let given = project.iter().filter_map(|row| {
        let limit = row.settings.limits.of(model).of(quota)?;
        let is_found = row.environment.limits.of(model).of(quota).is_some();
        Some((limit, if is_found { LimitOrigin::Environment } else { LimitOrigin::Set }))
    });
    let learned = slot.learned.0[quota as usize]
        .and_then(|it| Some((it.raised(today.now)?, LimitOrigin::Learned(it.at))));
    let told = workers.iter().filter_map(|limits| limits.of(model).of(quota));
    let told = told.map(|limit| (limit, LimitOrigin::Worker));
    let (limit, origin) = given.chain(told).chain(learned).min_by_key(|(limit, _)| *limit)?;
    Some(LimitView { quota, limit, used, origin })
}

/// A key is as its best model in use is, unless something holds for all of them.
fn overall(row: &KeyRow, in_use: &[StatusView], rests: &Rests, now: Timestamp) -> StatusView {
    let best = in_use.iter().min_by_key(|view| (view.status, view.available_at)).cloned();
    let mut view = best.unwrap_or_else(|| Slot::default().view(rests, now));
    view.exhausted_count = in_use.iter().map(|view| view.exhausted_count).max().unwrap_or(0);
    view.total_exhausted_count = in_use.iter().map(|view| view.total_exhausted_count).sum();
    let own = if row.disabled {
        Some((KeyStatus::Disabled, None, Some("switched off".to_owned())))
    } else if let Some(reason) = &row.failed {
        Some((KeyStatus::FailedInit, None, Some(reason.clone())))
    } else {
        row.cooldown_end(rests.fully_exhausted_wait, now)
            .filter(|_| view.status == KeyStatus::Available)
            .map(|end| (KeyStatus::Cooldown, Some(end), None))
    };
    if let Some((status, available_at, reason)) = own {
        view = StatusView { status, available_at, reason, ..view };
    }
    view
}
