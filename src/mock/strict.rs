//! What the API's JSON reader refuses, in its own words.
//!
//! The names and types are `domain::schema`'s; this adds enumerations, base64, durations and
//! oneofs, and the wording. Whether the model can use a well-formed request is in `sense`.

use std::fmt;

use chrono::DateTime;
use serde_json::{Map, Value};

use super::error::Finding;
use crate::domain::schema::{self, Field, Kind, Message, Problem, Violation, snake_case};

const TYPES: &str = "type.googleapis.com/google.ai.generativelanguage.v1beta.";
/// The fields of a part that exclude each other.
const PART_DATA: [&str; 9] = [
    "text",
    "inlineData",
    "fileData",
    "functionCall",
    "functionResponse",
    "executableCode",
    "codeExecutionResult",
    "toolCall",
    "toolResponse",
];

/// Parses a body and returns it, or what the API would refuse in it as a `message`.
pub(super) fn read(message: &'static str, body: &[u8]) -> Result<Value, Vec<Finding>> {
    let document = document(body)?;
    let mut found: Vec<Finding> = schema::check(message, &document).iter().map(describe).collect();
    if let Value::Object(object) = &document {
        walk_message(message, object, &Place::TOP, &mut found);
    }
    if found.is_empty() { Ok(document) } else { Err(found) }
}

/// Parses a body as an object; an empty one is an empty object.
pub(super) fn document(body: &[u8]) -> Result<Value, Vec<Finding>> {
    let top = |text: &str| vec![Finding { field: String::new(), description: text.to_owned() }];
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Object(Map::new()));
    }
    let document: Value = serde_json::from_slice(body).map_err(|error| top(&syntax(&error)))?;
    if !document.is_object() {
        return Err(top(
            "Invalid JSON payload received. Unknown name \"\": Root element must be a message.",
        ));
    }
    Ok(document)
}

fn syntax(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = if error.is_eof() {
        "Unexpected end of string. Expected a value."
    } else if text.starts_with("expected `,` or `}`") {
        "Expected , or } after key:value pair."
    } else if text.starts_with("expected `,` or `]`") {
        "Expected , or ] after array value."
    } else if text.starts_with("expected `:`") {
        "Expected : between key:value pair."
    } else if text.starts_with("key must be a string") || text.starts_with("trailing comma") {
        "Expected an object key or }."
    } else {
        "Unexpected token."
    };
    format!("Invalid JSON payload received. {what}")
}

fn describe(violation: &Violation) -> Finding {
    let field = violation.path.clone();
    let place = if field.is_empty() { String::new() } else { format!(" at '{field}'") };
    let unknown = |name: &str, why: &str| {
        let name = Value::from(name);
        format!("Invalid JSON payload received. Unknown name {name}{place}: {why}")
    };
    let description = match &violation.problem {
        Problem::UnknownName { name, .. } => unknown(name, "Cannot find field."),
        Problem::NotRepeated { name } => {
            unknown(name, "Proto field is not repeating, cannot start list.")
        }
        Problem::WrongType { expected, found } => {
            let last = field.rsplit('.').next().unwrap_or_default();
            let kind = type_name(expected, last.split('[').next().unwrap_or_default());
            format!("Invalid value at '{field}' ({kind}), {}", shortened(found))
        }
    };
    Finding { field, description }
}

fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// Returns how the API calls a type; `field` is the field's name in `snake_case`.
fn type_name(kind: &Kind, field: &str) -> String {
    let simple = match kind {
        Kind::String | Kind::Any => "TYPE_STRING",
        Kind::Bytes => "TYPE_BYTES",
        Kind::Bool => "TYPE_BOOL",
        Kind::Int32 => "TYPE_INT32",
        Kind::Int64 => "TYPE_INT64",
        Kind::Float => "TYPE_FLOAT",
        Kind::Double => "TYPE_DOUBLE",
        Kind::Duration => "type.googleapis.com/google.protobuf.Duration",
        Kind::Timestamp => "type.googleapis.com/google.protobuf.Timestamp",
        Kind::Struct => "type.googleapis.com/google.protobuf.Struct",
        Kind::Enum(_) => return format!("{TYPES}{}", enum_name(field)),
        Kind::Message(name) => return format!("{TYPES}{name}"),
        Kind::Map(_) => return format!("{TYPES}Schema.{}Entry", upper_first(field)),
    };
    simple.to_owned()
}

/// Returns the name of the enumeration of a field. The names differ from field to field only.
fn enum_name(field: &str) -> String {
    let known = match field {
        "category" => "HarmCategory",
        "threshold" => "SafetySetting.HarmBlockThreshold",
        "media_resolution" => "GenerationConfig.MediaResolution",
        "response_modalities" => "GenerationConfig.Modality",
        "thinking_level" => "ThinkingConfig.ThinkingLevel",
        "level" => "MediaResolution.Level",
        "mode" => "FunctionCallingConfig.Mode",
        "behavior" => "FunctionDeclaration.Behavior",
        "environment" => "ComputerUse.Environment",
        "outcome" => "CodeExecutionResult.Outcome",
        "language" => "ExecutableCode.Language",
        "scheduling" => "FunctionResponse.Scheduling",
        other => return other.split('_').map(upper_first).collect(),
    };
    known.to_owned()
}

fn upper_first(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + letters.as_str())
}

/// A place in the document, spelled out only when it is needed.
struct Place<'a> {
    parent: Option<&'a Place<'a>>,
    step: Step<'a>,
}

enum Step<'a> {
    Top,
    Field(&'a str),
    Item(usize),
    Entry(usize),
}

impl Place<'_> {
    const TOP: Place<'static> = Place { parent: None, step: Step::Top };
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(out)?;
        }
        match self.step {
            Step::Top => Ok(()),
            Step::Field(name) => {
                let inner = self.parent.is_some_and(|parent| !matches!(parent.step, Step::Top));
                let dot = if inner { "." } else { "" };
                write!(out, "{dot}{}", snake_case(name))
            }
            Step::Item(index) => write!(out, "[{index}]"),
            Step::Entry(index) => write!(out, "[{index}].value"),
        }
    }
}

fn walk_message(
    name: &'static str,
    object: &Map<String, Value>,
    place: &Place<'_>,
    found: &mut Vec<Finding>,
) {
    let Some(message) = Message::named(name) else {
        return;
    };
    let mut data: Option<&str> = None;
    for (written, value) in object {
        let Some(field) = message.field(written).filter(|_| !value.is_null()) else {
            continue;
        };
        if name == "Part" && PART_DATA.contains(&field.name) {
            if data.is_some() {
                let description = format!(
                    "Invalid value at '{place}' (oneof), oneof field 'data' is already set. \
                     Cannot set '{written}'"
                );
                found.push(Finding { field: place.to_string(), description });
            }
            data = Some(field.name);
        }
        let here = Place { parent: Some(place), step: Step::Field(field.name) };
        match value {
            Value::Array(items) if field.repeated => {
                for (index, item) in items.iter().enumerate() {
                    let item_place = Place { parent: Some(&here), step: Step::Item(index) };
                    walk_value(field, &field.kind, item, &item_place, found);
                }
            }
            _ => walk_value(field, &field.kind, value, &here, found),
        }
    }
}

fn walk_value(
    field: &Field,
    kind: &Kind,
    value: &Value,
    place: &Place<'_>,
    found: &mut Vec<Finding>,
) {
    let problem = match (kind, value) {
        (Kind::Message(name), Value::Object(object)) => {
            return walk_message(name, object, place, found);
        }
        (Kind::Map(inner), Value::Object(object)) => {
            for (index, value) in object.values().enumerate() {
                let entry = Place { parent: Some(place), step: Step::Entry(index) };
                walk_value(field, inner, value, &entry, found);
            }
            return;
        }
        (Kind::Enum(names), Value::String(text)) => {
            let known = names.iter().any(|name| name.eq_ignore_ascii_case(text));
            (!known).then(|| shortened(value))
        }
        (Kind::Bytes, Value::String(text)) => {
            (!is_base64(text)).then(|| format!("Base64 decoding failed for {}", shortened(value)))
        }
        (Kind::Duration, Value::String(text)) => (!is_duration(text))
            .then(|| "Illegal duration format; duration must end with 's'".to_owned()),
        (Kind::Timestamp, Value::String(text)) => DateTime::parse_from_rfc3339(text)
            .is_err()
            .then(|| "Illegal timestamp format; timestamps must end with 'Z'".to_owned()),
        _ => None,
    };
    if let Some(problem) = problem {
        let kind = type_name(kind, &snake_case(field.name));
        let description = format!("Invalid value at '{place}' ({kind}), {problem}");
        found.push(Finding { field: place.to_string(), description });
    }
}

/// Returns whether `text` is base64 of either alphabet, with or without padding.
fn is_base64(text: &str) -> bool {
    let bytes = text.as_bytes();
    let stripped = bytes.strip_suffix(b"=").unwrap_or(bytes);
    let digits = stripped.strip_suffix(b"=").unwrap_or(stripped);
    let padded = digits.len() < bytes.len();
    digits.len() % 4 != 1
        && (!padded || bytes.len().is_multiple_of(4))
        && digits
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_'))
}

fn is_duration(text: &str) -> bool {
    text.strip_suffix('s').is_some_and(|number| {
        number.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-'))
            && number.parse::<f64>().is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str) -> Vec<String> {
        match read("GenerateContentRequest", body.as_bytes()) {
            Ok(_) => Vec::new(),
            Err(found) => found.into_iter().map(|finding| finding.description).collect(),
        }
    }

    #[test]
    fn an_unknown_name_is_told_with_its_place() {
        let body = r#"{"foo": 1, "generationConfig": {"responseSchema": {"type": "OBJECT",
            "properties": {"a": {"anyOf": [{"const": 1}]}}}}}"#;
        assert_eq!(
            refused(body),
            [
                "Invalid JSON payload received. Unknown name \"foo\": Cannot find field.",
                "Invalid JSON payload received. Unknown name \"const\" at 'generation_config.\
                 response_schema.properties[0].value.any_of[0]': Cannot find field.",
            ]
        );
    }

    #[test]
    fn a_wrong_type_is_told_with_the_right_one() {
        let body = r#"{"generationConfig": {"temperature": "hot"}, "systemInstruction": "Be brief",
            "safetySettings": [{"category": "FOO"}, {"category": 5.5}], "contents": [{"parts": []}]}"#;
        let types = "type.googleapis.com/google.ai.generativelanguage.v1beta";
        assert_eq!(
            refused(body),
            [
                "Invalid value at 'generation_config.temperature' (TYPE_FLOAT), \"hot\"".to_owned(),
                format!(
                    "Invalid value at 'safety_settings[1].category' ({types}.HarmCategory), 5.5"
                ),
                format!("Invalid value at 'system_instruction' ({types}.Content), \"Be brief\""),
                format!(
                    "Invalid value at 'safety_settings[0].category' ({types}.HarmCategory), \"FOO\""
                ),
            ]
        );
    }

    #[test]
    fn a_list_for_one_value_is_refused() {
        assert_eq!(
            refused(r#"{"system_instruction": [{"parts": []}]}"#),
            ["Invalid JSON payload received. Unknown name \"system_instruction\": Proto field is \
              not repeating, cannot start list."]
        );
    }

    #[test]
    fn a_part_holds_one_thing() {
        let body = r#"{"contents": [{"parts": [{"inlineData": {"data": "?"}, "text": "a"}]}]}"#;
        assert_eq!(
            refused(body),
            [
                "Invalid value at 'contents[0].parts[0].inline_data.data' (TYPE_BYTES), Base64 \
                 decoding failed for \"?\"",
                "Invalid value at 'contents[0].parts[0]' (oneof), oneof field 'data' is already \
                 set. Cannot set 'text'",
            ]
        );
    }

    #[test]
    fn broken_json_is_refused() {
        assert_eq!(
            refused(r#"{"a": 1 "b": 2}"#),
            ["Invalid JSON payload received. Expected , or } after key:value pair."]
        );
        assert_eq!(refused("{").len(), 1);
        assert_eq!(refused("[]").len(), 1);
        assert_eq!(refused(""), [""; 0]);
    }

    #[test]
    fn lower_case_enumerations_and_both_base64_alphabets_pass() {
        let body = r#"{"generationConfig": {"responseSchema": {"type": "object"}}, "contents":
            [{"parts": [{"inlineData": {"mimeType": "image/png", "data": "ab-_+/=="}}]},
             {"parts": [{"inlineData": {"mimeType": "image/png", "data": "abc"}}]}]}"#;
        assert_eq!(refused(body), [""; 0]);
        assert!(!is_base64("a") && !is_base64("ab=") && !is_base64("a b="));
        assert!(is_duration("70.5s") && !is_duration("70.5") && !is_duration("infs"));
    }
}
