//! The request's fields: which names and types the API takes, and what a document has wrong.
//!
//! Owns the table in `request_fields.txt`. Knows nothing of queue fields or of HTTP.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Map, Value};

/// The type of one field's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    String,
    /// Base64 text.
    Bytes,
    /// `true` or `false`.
    Bool,
    /// A 32-bit integer, as a number or as digits in a string.
    Int32,
    /// A 64-bit integer, as a number or as digits in a string.
    Int64,
    /// A single-precision number.
    Float,
    /// A double-precision number.
    Double,
    /// One of these names. New ones appear over time.
    Enum(Vec<&'static str>),
    /// Decimal seconds with the suffix `s`.
    Duration,
    /// An RFC 3339 time.
    Timestamp,
    /// Any JSON object; its names belong to the user.
    Struct,
    /// Any JSON value; its names belong to the user.
    Any,
    /// A JSON object whose names belong to the user and whose values have one type.
    Map(Box<Kind>),
    /// A message of this name.
    Message(&'static str),
}

/// One field of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// The name as the API documents it, in lowerCamelCase.
    pub name: &'static str,
    /// The type of the value, or of each element.
    pub kind: Kind,
    /// Whether the field is a list.
    pub repeated: bool,
}

/// The fields of one message.
#[derive(Debug, Default)]
pub struct Message {
    fields: Vec<Field>,
    /// Both spellings of each name.
    by_name: HashMap<String, usize>,
}

impl Message {
    /// Returns the message called `name`, such as `GenerateContentRequest`.
    pub fn named(name: &str) -> Option<&'static Self> {
        MESSAGES.get(name)
    }

    /// Returns the field written `name` in lowerCamelCase or in `snake_case`.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.by_name.get(name).map(|&index| &self.fields[index])
    }

    /// Returns all fields in the table's order.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }
}

/// One thing in a document that the API would refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Where, in the API's way: `generation_config.stop_sequences[0]`. Empty at the top.
    pub path: String,
    /// What is wrong there.
    pub problem: Problem,
}

/// What is wrong at a place of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The object at the path has a name that its message lacks.
    UnknownName {
        /// The name as it was written.
        name: String,
        /// The message's own name that is nearest to it.
        nearest: Option<String>,
    },
    /// A list was given for a field that takes one value; the path is that of its object.
    NotRepeated {
        /// The field as it was written.
        name: String,
    },
    /// The value has another type than the field.
    WrongType {
        /// The type that belongs there.
        expected: Kind,
        /// The value that stands there, shortened.
        found: Value,
    },
}

/// Returns what is wrong with `value` as the message `message`; empty means the API would take it.
///
/// Enumerations are not checked for their values, since new ones appear over time.
pub fn check(message: &str, value: &Value) -> Vec<Violation> {
    let mut found = Vec::new();
    check_kind(&message_kind(message), value, &mut String::new(), &mut found);
    found
}

/// Returns `value` with every field of `message` under its lowerCamelCase name.
///
/// Names inside maps, structs and free values are the user's own and stay. Unknown names stay too;
/// [`check`] finds them. A name given in both spellings keeps the later one.
pub fn rename(message: &str, value: Value) -> Value {
    rename_kind(&message_kind(message), value)
}

/// Returns the candidate nearest to `name`, if one is near enough to be meant.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.replace('_', "").to_lowercase();
    let wanted = plain(name);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&wanted, &plain(candidate)), candidate))
        .filter(|(distance, candidate)| *distance * 3 <= candidate.len().max(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Returns `name` in the `snake_case` that the API uses in its error paths.
pub fn snake_case(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

fn message_kind(message: &str) -> Kind {
    MESSAGES.get_key_value(message).map_or(Kind::Any, |(name, _)| Kind::Message(name))
}

fn check_kind(kind: &Kind, value: &Value, path: &mut String, found: &mut Vec<Violation>) {
    if value.is_null() {
        return;
    }
    match (kind, value) {
        (Kind::Message(name), Value::Object(object)) => {
            if let Some(message) = Message::named(name) {
                check_object(message, object, path, found);
            }
        }
        (Kind::Map(inner), Value::Object(object)) => {
            for (index, value) in object.values().enumerate() {
                within(path, &format!("[{index}].value"), |path| {
                    check_kind(inner, value, path, found);
                });
            }
        }
        _ if fits(kind, value) => {}
        _ => found.push(Violation {
            path: path.clone(),
            problem: Problem::WrongType { expected: kind.clone(), found: value.clone() },
        }),
    }
}

fn check_object(
    message: &Message,
    object: &Map<String, Value>,
    path: &mut String,
    found: &mut Vec<Violation>,
) {
    for (name, value) in object {
        let Some(field) = message.field(name) else {
            let names = message.fields.iter().map(|field| field.name);
            let nearest = nearest(name, names).map(str::to_owned);
            let problem = Problem::UnknownName { name: name.clone(), nearest };
            found.push(Violation { path: path.clone(), problem });
            continue;
        };
        let segment = snake_case(field.name);
        match value {
            Value::Array(items) if field.repeated => {
                for (index, item) in items.iter().enumerate() {
                    within(path, &format!("{segment}[{index}]"), |path| {
                        check_kind(&field.kind, item, path, found);
                    });
                }
            }
            Value::Array(_) if !matches!(field.kind, Kind::Any) => {
                let problem = Problem::NotRepeated { name: name.clone() };
                found.push(Violation { path: path.clone(), problem });
            }
            _ if field.repeated && !value.is_null() => within(path, &segment, |path| {
                let expected = field.kind.clone();
                let problem = Problem::WrongType { expected, found: value.clone() };
                found.push(Violation { path: path.clone(), problem });
            }),
            _ => within(path, &segment, |path| check_kind(&field.kind, value, path, found)),
        }
    }
}

/// Runs `inside` with `segment` added to the path.
fn within(path: &mut String, segment: &str, inside: impl FnOnce(&mut String)) {
    let length = path.len();
    if !path.is_empty() && !segment.starts_with('[') {
        path.push('.');
    }
    path.push_str(segment);
    inside(path);
    path.truncate(length);
}

fn fits(kind: &Kind, value: &Value) -> bool {
    match kind {
        Kind::Any => true,
        Kind::Duration => value.as_str().is_some_and(|text| seconds(text).is_some()),
        Kind::String | Kind::Bytes | Kind::Timestamp => value.is_string(),
        Kind::Bool => value.is_boolean(),
        Kind::Enum(_) => value.is_string() || value.is_i64(),
        Kind::Int32 => integer(value).is_some_and(|number| i32::try_from(number).is_ok()),
        Kind::Int64 => integer(value).is_some(),
        Kind::Float | Kind::Double => match value {
            Value::Number(_) => true,
            Value::String(text) => text.parse::<f64>().is_ok(),
            _ => false,
        },
        Kind::Struct | Kind::Map(_) | Kind::Message(_) => value.is_object(),
    }
}

/// Reads an integer written as `5`, `5.0`, `5e0` or `"5"`, as the API does.
fn integer(value: &Value) -> Option<i64> {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => return None,
    };
    text.parse().ok().or_else(|| {
        let number: f64 = text.parse().ok()?;
        (number.fract() == 0.0).then(|| format!("{number:.0}").parse().ok())?
    })
}

fn rename_kind(kind: &Kind, value: Value) -> Value {
    match (kind, value) {
        (Kind::Message(name), Value::Object(object)) => {
            let Some(message) = Message::named(name) else {
                return Value::Object(object);
            };
            Value::Object(object.into_iter().map(|entry| rename_field(message, entry)).collect())
        }
        (Kind::Map(inner), Value::Object(object)) => Value::Object(
            object.into_iter().map(|(name, value)| (name, rename_kind(inner, value))).collect(),
        ),
        (_, value) => value,
    }
}

fn rename_field(message: &Message, (name, value): (String, Value)) -> (String, Value) {
    let Some(field) = message.field(&name) else {
        return (name, value);
    };
    let value = match value {
        Value::Array(items) if field.repeated => {
            Value::Array(items.into_iter().map(|item| rename_kind(&field.kind, item)).collect())
        }
        value => rename_kind(&field.kind, value),
    };
    (field.name.to_owned(), value)
}

static MESSAGES: LazyLock<HashMap<&'static str, Message>> =
    LazyLock::new(|| parse_table(include_str!("request_fields.txt")));

fn parse_table(table: &'static str) -> HashMap<&'static str, Message> {
    let mut messages: HashMap<&'static str, Message> = HashMap::new();
    let mut current = "";
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let Some(entry) = line.strip_prefix("  ") else {
            current = line;
            messages.entry(current).or_default();
            continue;
        };
        let Some((name, kind)) = entry.split_once(' ') else {
            continue;
        };
        let message = messages.entry(current).or_default();
        let (kind, repeated) = match kind.strip_suffix("[]") {
            Some(kind) => (kind, true),
            None => (kind, false),
        };
        let index = message.fields.len();
        message.by_name.insert(name.to_owned(), index);
        message.by_name.insert(snake_case(name), index);
        message.fields.push(Field { name, kind: parse_kind(kind), repeated });
    }
    messages
}

fn parse_kind(text: &'static str) -> Kind {
    let inner = |prefix: &str| text.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(')'));
    if let Some(names) = inner("enum(") {
        return Kind::Enum(names.split('|').collect());
    }
    if let Some(values) = inner("map(") {
        return Kind::Map(Box::new(parse_kind(values)));
    }
    match text {
        "string" => Kind::String,
        "bytes" => Kind::Bytes,
        "bool" => Kind::Bool,
        "int32" => Kind::Int32,
        "int64" => Kind::Int64,
        "float" => Kind::Float,
        "double" => Kind::Double,
        "duration" => Kind::Duration,
        "timestamp" => Kind::Timestamp,
        "struct" => Kind::Struct,
        "any" => Kind::Any,
        message => Kind::Message(message),
    }
}

/// Returns the seconds that a duration in the API's form says, such as `"70.5s"`.
pub fn seconds(text: &str) -> Option<f64> {
    let number = text.strip_suffix('s')?;
    let digits = number.strip_prefix('-').unwrap_or(number);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    // Nine decimals at most: the form is that of protobuf.
    let is_duration = plain(whole) && plain(fraction) && fraction.len() <= 9;
    is_duration.then(|| number.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const REQUEST: &str = "GenerateContentRequest";

    #[test]
    fn every_message_that_a_field_names_is_in_the_table() {
        fn named(kind: &Kind) -> Option<&'static str> {
            match kind {
                Kind::Message(name) => Some(name),
                Kind::Map(inner) => named(inner),
                _ => None,
            }
        }
        for message in MESSAGES.values() {
            for name in message.fields.iter().filter_map(|field| named(&field.kind)) {
                assert!(Message::named(name).is_some(), "{name}");
            }
        }
    }

    #[test]
    fn names_become_the_apis_own_and_the_users_stay() {
        let given = json!({"generation_config": {
            "max_output_tokens": 5,
            "thinking_config": {"include_thoughts": true},
            "response_schema": {"type": "OBJECT", "property_ordering": ["first_name"],
                "properties": {"first_name": {"type": "STRING", "min_length": "1"}}}},
            "labels": {"my_label": "x"}});
        let wanted = json!({"generationConfig": {
            "maxOutputTokens": 5,
            "thinkingConfig": {"includeThoughts": true},
            "responseSchema": {"type": "OBJECT", "propertyOrdering": ["first_name"],
                "properties": {"first_name": {"type": "STRING", "minLength": "1"}}}},
            "labels": {"my_label": "x"}});
        assert_eq!(check(REQUEST, &given), []);
        assert_eq!(rename(REQUEST, given), wanted);
    }

    #[test]
    fn what_the_api_refuses_is_found_with_its_path() {
        let given = json!({"foo": 1, "generationConfig": {"temprature": 1, "topK": "x",
            "seed": 3_000_000_000_i64, "stopSequences": ["a", 5]}, "tools": {},
            "systemInstruction": [], "contents": null});
        let found: Vec<String> = check(REQUEST, &given)
            .into_iter()
            .map(|violation| match violation.problem {
                Problem::UnknownName { name, nearest } => {
                    format!("{}: unknown {name}, nearest {nearest:?}", violation.path)
                }
                Problem::NotRepeated { name } => format!("{}: list {name}", violation.path),
                Problem::WrongType { found, .. } => format!("{}: type {found}", violation.path),
            })
            .collect();
        assert_eq!(
            found,
            [
                ": unknown foo, nearest None",
                "generation_config.seed: type 3000000000",
                "generation_config.stop_sequences[1]: type 5",
                "generation_config: unknown temprature, nearest Some(\"temperature\")",
                "generation_config.top_k: type \"x\"",
                ": list systemInstruction",
                "tools: type {}",
            ]
        );
    }
}
