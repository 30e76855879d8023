//! From the fields of a line to the text of a `GenerateContentRequest`.
//!
//! Values are copied as text, so numbers and the order of names go out as the user wrote them.

use std::borrow::Cow;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::fields::{Field, Fields, Members, shorten, string};
use super::media::{Look, Media, NewMedia};
use crate::domain::canonical;
use crate::domain::parts::{self, Part};
use crate::domain::schema::{self, Kind, Message, Problem, Violation};

const REQUEST: &str = "GenerateContentRequest";
const SCHEMA: &str = "Schema";
/// How many violations one reason tells.
const TOLD: usize = 3;

/// The fields of a line that are fields of the request too.
const PASSED_ON: [(Field, &str); 8] = [
    (Field::SystemInstruction, "systemInstruction"),
    (Field::GenerationConfig, "generationConfig"),
    (Field::SafetySettings, "safetySettings"),
    (Field::Tools, "tools"),
    (Field::ToolConfig, "toolConfig"),
    (Field::CachedContent, "cachedContent"),
    (Field::ServiceTier, "serviceTier"),
    (Field::Labels, "labels"),
];

/// The request of a line, and what goes into it when it is sent.
pub(super) struct Built {
    pub(super) text: String,
    pub(super) media: Vec<NewMedia>,
    /// What of the media makes it other content; empty without media.
    pub(super) identity: String,
}

/// Returns the request of a line that has a prompt, media, or both.
pub(super) fn from_prompt(fields: &Fields<'_>, look: Look<'_>) -> Result<Built, String> {
    let value = fields.get(Field::Prompt).unwrap_or("\"\"");
    let prompt = string(value)
        .map_err(|reason| format!("`prompt`: {reason}"))?
        .ok_or_else(|| "`prompt` must be text".to_owned())?;
    let media = Media::read(fields, look)?;
    let mut out = String::with_capacity(value.len() + 64);
    let mut later = Vec::new();
    out.push_str(r#"{"contents":[{"role":"user","parts":["#);
    write_parts(&prompt, value, &media, &mut out, &mut later)?;
    out.push_str("]}]");
    let passed_on = passed_on(fields);
    check(&passed_on, "")?;
    for (name, text) in &passed_on {
        out.push_str(",\"");
        out.push_str(name);
        out.push_str("\":");
        if let Some(field) = Message::named(REQUEST).and_then(|message| message.field(name)) {
            write_renamed(&field.kind, field.repeated, text, name, &mut out)?;
        }
    }
    out.push('}');
    Ok(Built { text: out, media: later, identity: media.identity() })
}

/// Writes the parts of a prompt; `value` is its JSON text.
fn write_parts(
    prompt: &str,
    value: &str,
    media: &Media,
    out: &mut String,
    later: &mut Vec<NewMedia>,
) -> Result<(), String> {
    let parts = parts::arrange(prompt, &media.counts())?;
    if parts.is_empty() {
        return Err("nothing to send: `prompt` is empty".to_owned());
    }
    for (index, part) in parts.iter().enumerate() {
        separate(index, out);
        match part {
            Part::Media(kind, index) => media.write(*kind, *index, out, later),
            Part::Text(text) => {
                out.push_str(r#"{"text":"#);
                // Text that is the prompt as it stands keeps its spelling.
                if text == prompt {
                    out.push_str(value);
                } else {
                    out.push_str(&Value::from(text.as_str()).to_string());
                }
                out.push('}');
            }
        }
    }
    Ok(())
}

/// Returns the text of a `VideoMetadata` with the API's names.
pub(super) fn video_metadata(text: &str, path: &str) -> Result<String, String> {
    let failed = |error: serde_json::Error| format!("`{path}`: {}", canonical::reason(&error));
    let value: Value = serde_json::from_str(text).map_err(failed)?;
    refuse(&schema::check("VideoMetadata", &value), path)?;
    check_segment(&value).map_err(|reason| format!("`{path}`: {reason}"))?;
    let mut out = String::new();
    write_renamed(&Kind::Message("VideoMetadata"), false, text, path, &mut out)?;
    Ok(out)
}

/// The API's documented range of frames a second: above 0, up to this.
const MOST_FRAMES: f64 = 24.0;

/// Checks that a piece of a video is one: values whose types are right.
fn check_segment(value: &Value) -> Result<(), String> {
    let member = |camel: &str| value.get(camel).or_else(|| value.get(schema::snake_case(camel)));
    let offset = |name| member(name).and_then(Value::as_str).and_then(schema::seconds);
    let (start, end) = (offset("startOffset"), offset("endOffset"));
    if start.into_iter().chain(end).any(|seconds| seconds < 0.0) {
        return Err("an offset must not be negative".to_owned());
    }
    if end.is_some_and(|end| end <= start.unwrap_or(0.0)) {
        return Err("the end must be after the start".to_owned());
    }
    let number = |value: &Value| match value {
        Value::String(text) => text.parse().ok(),
        other => other.as_f64(),
    };
    let frames: Option<f64> = member("fps").and_then(number);
    if frames.is_some_and(|frames| !(frames > 0.0 && frames <= MOST_FRAMES)) {
        return Err(format!("`fps` must be above 0 and at most {MOST_FRAMES}"));
    }
    Ok(())
}

/// Returns the request's further fields: their API names and values as text.
fn passed_on<'a>(fields: &Fields<'a>) -> Vec<(&'static str, Cow<'a, str>)> {
    let mut found = Vec::new();
    for (field, name) in PASSED_ON {
        let Some(text) = fields.get(field) else {
            continue;
        };
        if field != Field::SystemInstruction || !text.starts_with('"') {
            found.push((name, text.into()));
            continue;
        }
        // An empty instruction is none; the API would refuse an empty part.
        if text != "\"\"" {
            found.push((name, format!(r#"{{"parts":[{{"text":{text}}}]}}"#).into()));
        }
    }
    found
}

fn check(fields: &[(&'static str, Cow<'_, str>)], prefix: &str) -> Result<(), String> {
    if fields.is_empty() {
        return Ok(());
    }
    let mut object = Map::new();
    for (name, text) in fields {
        let value = serde_json::from_str(text).map_err(|error| {
            format!("`{}`: {}", schema::snake_case(name), canonical::reason(&error))
        })?;
        object.insert((*name).to_owned(), value);
    }
    refuse(&schema::check(REQUEST, &Value::Object(object)), prefix)
}

/// Checks the request of a Gemini Batch line, which goes out as it stands; returns its model.
pub(super) fn check_batch(text: &str) -> Result<Option<String>, String> {
    if !text.starts_with('{') {
        return Err("`request` must be an object".to_owned());
    }
    let value: Value = serde_json::from_str(text)
        .map_err(|error| format!("`request`: {}", canonical::reason(&error)))?;
    refuse(&schema::check(REQUEST, &value), "request")?;
    if value.get("contents").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        return Err("nothing to send: `request.contents` is empty".to_owned());
    }
    Ok(value.get("model").and_then(Value::as_str).map(str::to_owned))
}

/// Returns a schema in the API's own language under the API's names, as text in the user's order.
pub(super) fn named_as_in_the_api(text: &str, schema: &Value) -> Result<String, String> {
    refuse(&schema::check(SCHEMA, schema), "")?;
    let mut out = String::with_capacity(text.len());
    write_renamed(&Kind::Message(SCHEMA), false, text, "schema", &mut out)?;
    Ok(out)
}

fn refuse(violations: &[Violation], prefix: &str) -> Result<(), String> {
    if violations.is_empty() {
        return Ok(());
    }
    let told: Vec<String> =
        violations.iter().take(TOLD).map(|violation| describe(violation, prefix)).collect();
    let more = violations.len() - told.len();
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    Err(told.join("; ") + &more)
}

fn describe(violation: &Violation, prefix: &str) -> String {
    let place = |name: &str| {
        let parts = [prefix, &violation.path, name];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        format!("`{}`", shorten(&parts.join(".")))
    };
    match &violation.problem {
        Problem::UnknownName { name, nearest: None } => format!("unknown field {}", place(name)),
        Problem::UnknownName { name, nearest: Some(nearest) } => {
            let snake = name.contains('_');
            let nearest = if snake { schema::snake_case(nearest) } else { nearest.clone() };
            format!("unknown field {}; did you mean `{nearest}`?", place(name))
        }
        Problem::NotRepeated { name } => format!("{} takes one value, not a list", place(name)),
        Problem::WrongType { expected, found } => {
            // A single value of the right type stands where a list belongs.
            let expected = match (expected, found) {
                (Kind::Message(_), Value::Object(_)) => "a list of objects".to_owned(),
                (Kind::String, Value::String(_)) => "a list of texts".to_owned(),
                _ => expectation(expected),
            };
            format!("{} must be {expected}, not {}", place(""), finding(found))
        }
    }
}

fn expectation(kind: &Kind) -> String {
    match kind {
        Kind::String => "text".to_owned(),
        Kind::Bytes => "base64 text".to_owned(),
        Kind::Bool => "true or false".to_owned(),
        Kind::Int32 => "a 32-bit integer".to_owned(),
        Kind::Int64 => "an integer".to_owned(),
        Kind::Float | Kind::Double => "a number".to_owned(),
        Kind::Enum(names) => format!("one of {}", names.join(", ")),
        Kind::Duration => "a duration such as \"1.5s\"".to_owned(),
        Kind::Timestamp => "an RFC 3339 time".to_owned(),
        Kind::Struct | Kind::Map(_) | Kind::Message(_) => "an object".to_owned(),
        Kind::Any => "a value".to_owned(),
    }
}

fn finding(value: &Value) -> String {
    match value {
        Value::Object(_) => "an object".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            format!("`{}`", shorten(&value.to_string()))
        }
    }
}

/// Writes a checked value with the API's names, and all else as it was written.
///
/// Does on text what [`schema::rename`] does on values, because a schema's `properties` mean
/// something in their order, and because a value would silently keep one of two spellings.
fn write_renamed(
    kind: &Kind,
    repeated: bool,
    text: &str,
    path: &str,
    out: &mut String,
) -> Result<(), String> {
    let failed = |error: serde_json::Error| format!("`{path}`: {}", canonical::reason(&error));
    match kind {
        Kind::Message(_) | Kind::Map(_) if repeated && text.starts_with('[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text).map_err(failed)?;
            out.push('[');
            for (index, item) in items.into_iter().enumerate() {
                separate(index, out);
                write_renamed(kind, false, item.get(), path, out)?;
            }
            out.push(']');
        }
        Kind::Message(_) | Kind::Map(_) if text.starts_with('{') => {
            let Members(members) = serde_json::from_str(text).map_err(failed)?;
            write_members(kind, &members, path, out)?;
        }
        _ => out.push_str(text),
    }
    Ok(())
}

fn write_members(
    kind: &Kind,
    members: &[(Cow<'_, str>, &str)],
    path: &str,
    out: &mut String,
) -> Result<(), String> {
    let mut seen: Vec<&str> = Vec::with_capacity(members.len());
    out.push('{');
    for (index, (given, text)) in members.iter().enumerate() {
        separate(index, out);
        let field = match kind {
            Kind::Message(message) => Message::named(message).and_then(|it| it.field(given)),
            _ => None,
        };
        let name = field.map_or(given.as_ref(), |field| field.name);
        if field.is_some() && seen.contains(&name) {
            return Err(format!("`{path}.{name}` is given twice"));
        }
        seen.push(name);
        let quoted = serde_json::to_string(name).map_err(|error| canonical::reason(&error))?;
        out.push_str(&quoted);
        out.push(':');
        let path = format!("{path}.{name}");
        match (field, kind) {
            (Some(field), _) => write_renamed(&field.kind, field.repeated, text, &path, out)?,
            (None, Kind::Map(inner)) => write_renamed(inner, false, text, &path, out)?,
            (None, _) => out.push_str(text),
        }
    }
    out.push('}');
    Ok(())
}

fn separate(index: usize, out: &mut String) {
    if index > 0 {
        out.push(',');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_of_a_video_that_is_none_is_refused() {
        let check = |text: &str| video_metadata(text, "video_metadata[0]");
        for good in [
            r#"{"start_offset": "1s", "end_offset": "1.5s", "fps": 24}"#,
            r#"{"endOffset": "0.000000001s", "fps": "0.5"}"#,
            r#"{"start_offset": "0s"}"#,
        ] {
            assert!(check(good).is_ok(), "{good}");
        }
        for (bad, reason) in [
            (r#"{"start_offset": "soon"}"#, "must be a duration such as"),
            (r#"{"start_offset": "1.s"}"#, "must be a duration such as"),
            (r#"{"end_offset": "1m"}"#, "must be a duration such as"),
            (r#"{"start_offset": "-1s"}"#, "an offset must not be negative"),
            (r#"{"start_offset": "3s", "endOffset": "3s"}"#, "the end must be after the start"),
            (r#"{"end_offset": "0s"}"#, "the end must be after the start"),
            (r#"{"fps": 0}"#, "`fps` must be above 0 and at most 24"),
            (r#"{"fps": 24.5}"#, "`fps` must be above 0 and at most 24"),
            (r#"{"fps": "NaN"}"#, "`fps` must be above 0 and at most 24"),
        ] {
            let told = check(bad).unwrap_err();
            assert!(told.contains("`video_metadata[0]") && told.contains(reason), "{told}");
        }
    }
}
