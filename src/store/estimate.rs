//! How many tokens of input the calls of a turn will have, where a limit counts them.

use std::collections::HashMap;

use sqlx::sqlite::SqliteConnection;

use crate::domain::limits::Quota;
use crate::domain::plan::Candidate;
use crate::domain::tokens;
use crate::store::models::Model;
use crate::store::opening::Opened;
use crate::store::{StoreError, bulk};

/// Fills in the tokens of candidates for whose model a limit by tokens is known; those of others
/// are put right once they have their answer.
pub(super) async fn tokens(
    connection: &mut SqliteConnection,
    candidates: &mut [Candidate],
    opened: &Opened,
    models: &HashMap<i64, Model>,
) -> Result<(), StoreError> {
    let is_counted = |model: i64| {
        let mut slots = opened.open.slots.iter().filter(|(place, _)| place.1 == model);
        slots.any(|(_, slot)| slot.limits.of(Quota::Tpm).is_some())
    };
    let rates: HashMap<i64, i64> = opened
        .models
        .iter()
        .map(|(model, _)| *model)
        .filter(|model| is_counted(*model))
        .map(|model| (model, models.get(&model).map_or(tokens::ONE, |it| it.token_rate)))
        .collect();
    let asked: Vec<i64> =
        candidates.iter().filter(|job| rates.contains_key(&job.model)).map(|job| job.job).collect();
    if asked.is_empty() {
        return Ok(());
    }
    let rows: Vec<(i64, i64, Option<String>)> = sqlx::query_as(
        "SELECT i.job_id, octet_length(i.request),
                (SELECT json_group_array(json_array(m.mime_type, m.size)) FROM media AS m
                  WHERE m.job_id = i.job_id)
           FROM json_each(?1) AS e
           CROSS JOIN inputs AS i ON i.job_id = e.value",
    )
    .bind(bulk::json(&asked)?)
    .fetch_all(connection)
    .await?;
    let mut sizes = HashMap::new();
    for (job, bytes, media) in rows {
        let media: Vec<(String, i64)> =
            serde_json::from_str(media.as_deref().unwrap_or("[]")).unwrap_or_default();
        sizes.insert(job, (bytes, media));
    }
    for job in candidates {
        if let (Some(rate), Some((bytes, media))) = (rates.get(&job.model), sizes.get(&job.job)) {
            job.tokens = tokens::expected(*bytes, media, *rate);
        }
    }
    Ok(())
}
