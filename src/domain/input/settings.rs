//! The fields of a line that are the queue's own: task id, model, priority, attempts, time.

use super::Defaults;
use super::fields::{Field, Fields, Members, shorten, string};
use crate::domain::canonical;
use crate::domain::time::Timestamp;

const PRIORITY: i64 = 1_000_000_000;
const ATTEMPTS: u32 = 1000;

/// Returns `text` as a model's name, without a leading `models/`; fails on what can be none.
pub fn model_name(text: &str) -> Result<String, String> {
    let name = text.strip_prefix("models/").unwrap_or(text);
    let fits = |letter: char| letter.is_ascii_alphanumeric() || "._/-".contains(letter);
    // A path of dots would lead to another address than a model's.
    let climbs = name.split('/').any(|part| part.is_empty() || part == "." || part == "..");
    if !climbs && name.chars().all(fits) {
        return Ok(name.to_owned());
    }
    Err(format!("`{}` is no name of a model", shorten(text)))
}

/// Returns the line's task id: that of `key`, `task_id` or `metadata.task_id`, else its number.
pub(super) fn task_id(
    fields: &Fields<'_>,
    metadata: Option<&str>,
    line: u64,
) -> Result<String, String> {
    let mut chosen: Option<(&str, String)> = None;
    let given = [
        ("key", fields.get(Field::Key)),
        ("task_id", fields.get(Field::TaskId)),
        ("metadata.task_id", metadata.map(id_in_metadata).transpose()?.flatten()),
    ];
    for (name, value) in given {
        let Some(value) = value else { continue };
        let id = read_id(name, value)?;
        match &chosen {
            None => chosen = Some((name, id)),
            Some((_, other)) if *other == id => {}
            Some((first, other)) => {
                let (other, id) = (shorten(other), shorten(&id));
                return Err(format!("`{first}` is `{other}`, but `{name}` is `{id}`"));
            }
        }
    }
    Ok(chosen.map_or_else(|| line.to_string(), |(_, id)| id))
}

fn id_in_metadata(metadata: &str) -> Result<Option<&str>, String> {
    let Members(members) = serde_json::from_str(metadata)
        .map_err(|error| format!("`metadata`: {}", canonical::reason(&error)))?;
    let mut ids = members.into_iter().filter(|(name, _)| name == "task_id");
    let id = ids.next().map(|(_, value)| value).filter(|value| *value != "null");
    match ids.next() {
        None => Ok(id),
        Some(_) => Err("`metadata.task_id` is given twice".to_owned()),
    }
}

fn read_id(name: &str, value: &str) -> Result<String, String> {
    let id = string(value).map_err(|reason| format!("`{name}`: {reason}"))?;
    let id = match id {
        Some(id) => id.into_owned(),
        None if value.starts_with(|first: char| first == '-' || first.is_ascii_digit()) => {
            value.to_owned()
        }
        None => return Err(format!("`{name}` must be text or a number")),
    };
    if id.is_empty() {
        return Err(format!("`{name}` is empty"));
    }
    if id.contains('\0') {
        return Err(format!("`{name}` holds a NUL character"));
    }
    Ok(id)
}

/// Returns the line's model: its own, else that of its request, else the default.
pub(super) fn model(
    fields: &Fields<'_>,
    requested: Option<&str>,
    defaults: &Defaults,
) -> Result<String, String> {
    let own = fields.get(Field::Model).map(read_model).transpose()?;
    let requested = requested
        .map(|name| model_name(name).map_err(|reason| format!("`request.model`: {reason}")))
        .transpose()?;
    match (own, requested) {
        (Some(own), Some(requested)) if own != requested => {
            Err(format!("`model` is `{own}`, but `request.model` is `{requested}`"))
        }
        (Some(name), _) | (None, Some(name)) => Ok(name),
        (None, None) => Ok(defaults.model.clone()),
    }
}

fn read_model(value: &str) -> Result<String, String> {
    let text = string(value)
        .map_err(|reason| format!("`model`: {reason}"))?
        .ok_or_else(|| "`model` must be text".to_owned())?;
    model_name(&text).map_err(|reason| format!("`model`: {reason}"))
}

/// Returns the line's priority.
pub(super) fn priority(fields: &Fields<'_>, defaults: &Defaults) -> Result<i64, String> {
    let Some(value) = fields.get(Field::Priority) else {
        return Ok(defaults.priority);
    };
    value
        .parse()
        .ok()
        .filter(|priority| (-PRIORITY..=PRIORITY).contains(priority))
        .ok_or_else(|| format!("`priority` must be an integer from -{PRIORITY} to {PRIORITY}"))
}

/// Returns how many attempts the line's job has.
pub(super) fn max_attempts(fields: &Fields<'_>, defaults: &Defaults) -> Result<u32, String> {
    let Some(value) = fields.get(Field::MaxAttempts) else {
        return Ok(defaults.max_attempts);
    };
    value
        .parse()
        .ok()
        .filter(|attempts| (1..=ATTEMPTS).contains(attempts))
        .ok_or_else(|| format!("`max_attempts` must be an integer from 1 to {ATTEMPTS}"))
}

/// Returns the time before which the line's job must not start.
pub(super) fn not_before(
    fields: &Fields<'_>,
    defaults: &Defaults,
) -> Result<Option<Timestamp>, String> {
    let Some(value) = fields.get(Field::NotBefore) else {
        return Ok(defaults.not_before);
    };
    let text = string(value).map_err(|reason| format!("`not_before`: {reason}"))?;
    let time = text.as_deref().and_then(Timestamp::parse);
    time.map(Some).ok_or_else(|| {
        "`not_before` must be an RFC 3339 time, such as `2026-11-24T08:00:00Z`".to_owned()
    })
}

/// Returns whether the line's text is stored as it comes.
pub(super) fn stream(fields: &Fields<'_>, defaults: &Defaults) -> Result<bool, String> {
    match fields.get(Field::Stream) {
        None => Ok(defaults.stream),
        Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err("`stream` must be true or false".to_owned()),
    }
}
