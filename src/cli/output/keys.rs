//! The keys and their states. Names only, never a secret.

use chrono::TimeZone;
use gq::domain::view::{KeyView, StatusView};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::columns::{aligned, clock_time};
use super::json::pretty;
use super::record::text_of;

/// Returns the keys as a JSON list.
pub(crate) fn json_list(keys: &[KeyView]) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Named<'a> {
        name: &'a str,
        #[serde(flatten)]
        state: Map<String, Value>,
    }
    let named = |key| {
        let key: &KeyView = key;
        Named { name: &key.name, state: object(key) }
    };
    pretty(&keys.iter().map(named).collect::<Vec<_>>())
}

/// Returns the keys as a table with a further line for each model in another state.
pub(crate) fn table<Z: TimeZone>(keys: &[KeyView], zone: &Z) -> String
where
    Z::Offset: std::fmt::Display,
{
    let mut rows = vec![
        ["KEY", "STATUS", "429s", "TOTAL", "AVAILABLE AT", "REASON"].map(str::to_owned).to_vec(),
    ];
    for key in keys {
        rows.push(line(key.name.clone(), &key.overall, zone));
        for (model, state) in key.models.iter().filter(|(_, state)| *state != key.overall) {
            rows.push(line(format!("  {model}"), state, zone));
        }
    }
    aligned(&rows)
}

/// Returns the state of a key with its models, as `keys` and `status` show it in JSON.
pub(super) fn object(key: &KeyView) -> Map<String, Value> {
    let models = key.models.iter();
    let models: Map<String, Value> =
        models.map(|(model, state)| (model.clone(), Value::Object(fields(state)))).collect();
    let mut object = fields(&key.overall);
    object.insert("models".to_owned(), Value::Object(models));
    object
}

fn fields(state: &StatusView) -> Map<String, Value> {
    [
        ("status", json!(state.status.as_str())),
        ("exhausted_count", json!(state.exhausted_count)),
        ("total_exhausted_count", json!(state.total_exhausted_count)),
        ("available_at", json!(text_of(state.available_at))),
        ("reason", json!(state.reason)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into_iter()
    .collect()
}

fn line<Z: TimeZone>(name: String, state: &StatusView, zone: &Z) -> Vec<String>
where
    Z::Offset: std::fmt::Display,
{
    vec![
        name,
        state.status.as_str().to_owned(),
        state.exhausted_count.to_string(),
        state.total_exhausted_count.to_string(),
        state.available_at.map_or_else(|| "-".to_owned(), |time| clock_time(time, zone)),
        state.reason.clone().unwrap_or_default(),
    ]
}
