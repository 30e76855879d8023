//! The keys and their states. Names only, never a secret.

use chrono::TimeZone;
use gq::domain::key::{KeySettings, Tier};
use gq::domain::limits::Quota;
use gq::domain::view::{KeyView, LimitOrigin, LimitView, ModelView, StatusView};
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
        let mut state = object(key);
        let settings = &key.settings;
        for quota in Quota::ALL {
            let given = settings.limits.0[quota as usize].to_string();
            let value = Some(given).filter(|given| !given.is_empty());
            state.insert(quota.as_str().to_owned(), json!(value));
        }
        state.insert("tier".to_owned(), json!(settings.tier.map(Tier::as_str)));
        state.insert("project".to_owned(), json!(settings.project));
        state.insert("limits".to_owned(), limits(key));
        Named { name: &key.name, state }
    };
    pretty(&keys.iter().map(named).collect::<Vec<_>>())
}

/// Returns the keys as a table with a further line for each model in another state.
pub(crate) fn table<Z: TimeZone>(keys: &[KeyView], zone: &Z) -> String
where
    Z::Offset: std::fmt::Display,
{
    let heading = ["KEY", "STATUS", "429s", "TOTAL", "AVAILABLE AT", "LIMITS", "REASON"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for key in keys {
        rows.push(line(key.name.clone(), &key.overall, standing(key), zone));
        for model in key.models.iter().filter(|model| is_told(model, key)) {
            let limits = model.limits.iter().map(limit_text).collect::<Vec<_>>().join(", ");
            rows.push(line(format!("  {}", model.name), &model.status, limits, zone));
        }
    }
    aligned(&rows)
}

/// Returns whether a model has a line of its own: it is otherwise than its key, or limited.
fn is_told(model: &ModelView, key: &KeyView) -> bool {
    model.status != key.overall || !model.limits.is_empty()
}

/// Returns what people say of a key.
fn standing(key: &KeyView) -> String {
    let KeySettings { limits, project, tier } = &key.settings;
    let project = project.as_ref().map(|project| format!("project {project}"));
    let tier = tier.map(|tier| tier.as_str().to_owned());
    let limit = |quota: Quota| {
        let given = limits.0[quota as usize].to_string();
        (!given.is_empty()).then(|| format!("{} {given}", quota.as_str()))
    };
    let limits = Quota::ALL.into_iter().filter_map(limit);
    tier.into_iter().chain(project).chain(limits).collect::<Vec<_>>().join(", ")
}

/// Returns a limit with what is used of it, such as `rpm 3/20 learned`.
fn limit_text(limit: &LimitView) -> String {
    let LimitView { quota, limit, used, origin } = limit;
    format!("{} {used}/{limit} {}", quota.as_str(), origin_name(*origin))
}

fn origin_name(origin: LimitOrigin) -> &'static str {
    match origin {
        LimitOrigin::Environment => "environment",
        LimitOrigin::Set => "set",
        LimitOrigin::Worker => "worker",
        LimitOrigin::Learned(_) => "learned",
    }
}

/// Returns the state of a key with its models, as `keys` and `status` show it in JSON.
pub(super) fn object(key: &KeyView) -> Map<String, Value> {
    let models = key.models.iter();
    let models: Map<String, Value> =
        models.map(|model| (model.name.clone(), Value::Object(fields(&model.status)))).collect();
    let mut object = fields(&key.overall);
    object.insert("models".to_owned(), Value::Object(models));
    object
}

/// Returns the limits by model and by what is counted.
fn limits(key: &KeyView) -> Value {
    let of_model = |model: &ModelView| {
        let limits = model.limits.iter().map(|it| (it.quota.as_str().to_owned(), limit_value(it)));
        (model.name.clone(), Value::Object(limits.collect()))
    };
    let limited = key.models.iter().filter(|model| !model.limits.is_empty());
    Value::Object(limited.map(of_model).collect())
}

fn limit_value(limit: &LimitView) -> Value {
    let learned_at = match limit.origin {
        LimitOrigin::Learned(at) => Some(at),
        LimitOrigin::Environment | LimitOrigin::Set | LimitOrigin::Worker => None,
    };
    json!({"limit": limit.limit, "used": limit.used, "origin": origin_name(limit.origin),
        "learned_at": text_of(learned_at)})
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

fn line<Z: TimeZone>(name: String, state: &StatusView, limits: String, zone: &Z) -> Vec<String>
where
    Z::Offset: std::fmt::Display,
{
    vec![
        name,
        state.status.as_str().to_owned(),
        state.exhausted_count.to_string(),
        state.total_exhausted_count.to_string(),
        state.available_at.map_or_else(|| "-".to_owned(), |time| clock_time(time, zone)),
        limits,
        state.reason.clone().unwrap_or_default(),
    ]
}
