//! The API's subset of `OpenAPI` as JSON Schema.

use serde_json::{Map, Number, Value, json};

use crate::domain::schema;

/// The API's type names in the order of their numbers, which it takes as well.
const TYPES: [&str; 8] =
    ["TYPE_UNSPECIFIED", "STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL"];

/// Returns whether a schema is written in the subset: it names a type in upper case.
pub fn is_openapi(schema: &Value) -> bool {
    let Value::Object(schema) = schema else { return false };
    let upper = |name: &str| TYPES.contains(&name);
    if schema.get("type").and_then(Value::as_str).is_some_and(upper) {
        return true;
    }
    let listed = schema.get("anyOf").or_else(|| schema.get("any_of")).and_then(Value::as_array);
    let properties = schema.get("properties").and_then(Value::as_object);
    listed.into_iter().flatten().any(is_openapi)
        || properties.into_iter().flat_map(Map::values).any(is_openapi)
        || schema.get("items").is_some_and(is_openapi)
}

/// Returns the same schema as JSON Schema; what limits nothing (`title`, `example`, `format`, the
/// order of properties) is left out.
pub(super) fn to_json_schema(schema: &Value) -> Result<Value, String> {
    convert(&schema::rename("Schema", schema.clone()))
}

fn convert(schema: &Value) -> Result<Value, String> {
    let Value::Object(given) = schema else {
        return Err("a schema is an object".to_owned());
    };
    let kind = given.get("type").filter(|kind| !kind.is_null()).map(type_name).transpose()?;
    let kind = kind.filter(|kind| *kind != "type_unspecified");
    let mut out = Map::new();
    for (name, value) in given.iter().filter(|(_, value)| !value.is_null()) {
        if let Some(value) = keyword(name, value, kind.as_deref())? {
            out.insert(name.clone(), value);
        }
    }
    let nullable = given.get("nullable") == Some(&Value::Bool(true));
    if let Some(kind) = kind {
        let kind = if nullable { json!([kind, "null"]) } else { kind.into() };
        out.insert("type".to_owned(), kind);
    }
    if nullable {
        if let Some(Value::Array(values)) = out.get_mut("enum") {
            values.push(Value::Null);
        }
        if let Some(Value::Array(choices)) = out.get_mut("anyOf") {
            choices.push(json!({"type": "null"}));
        }
    }
    Ok(Value::Object(out))
}

/// Returns what a keyword says in JSON Schema, if it limits anything.
fn keyword(name: &str, value: &Value, kind: Option<&str>) -> Result<Option<Value>, String> {
    Ok(match (name, value) {
        ("anyOf", Value::Array(choices)) => {
            Some(Value::Array(choices.iter().map(convert).collect::<Result<_, _>>()?))
        }
        ("properties", Value::Object(properties)) => {
            let converted = properties.iter().map(|(name, schema)| {
                Ok((name.clone(), convert(schema).map_err(|reason| inside(name, &reason))?))
            });
            Some(Value::Object(converted.collect::<Result<_, String>>()?))
        }
        ("items", schema) => Some(convert(schema).map_err(|reason| inside("items", &reason))?),
        // Of a number, too, the values are listed as texts.
        ("enum", Value::Array(values)) if matches!(kind, Some("integer" | "number")) => {
            let numbers = values.iter().map(|value| number(value).unwrap_or_else(|| value.clone()));
            Some(Value::Array(numbers.collect()))
        }
        // An empty list is the same as none to the API, and refuses all in JSON Schema.
        ("enum", Value::Array(values)) if values.is_empty() => None,
        ("enum" | "required" | "pattern", value) => Some(value.clone()),
        (
            "minItems" | "maxItems" | "minLength" | "maxLength" | "minProperties" | "maxProperties"
            | "minimum" | "maximum",
            value,
        ) => number(value),
        _ => None,
    })
}

fn inside(name: &str, reason: &str) -> String {
    format!("`{name}`: {reason}")
}

fn type_name(value: &Value) -> Result<String, String> {
    let name = match value {
        Value::String(name) => TYPES.iter().find(|known| known.eq_ignore_ascii_case(name)),
        Value::Number(number) => {
            number.as_u64().and_then(|number| TYPES.get(usize::try_from(number).ok()?))
        }
        _ => None,
    };
    match name {
        Some(name) => Ok(name.to_ascii_lowercase()),
        None => Err(format!("`type` must be one of {}, not `{value}`", TYPES[1..].join(", "))),
    }
}

/// Reads a number, which the API also takes as text; infinity and the like are none.
fn number(value: &Value) -> Option<Value> {
    let number: Number = match value {
        Value::String(text) => text.trim().parse().ok()?,
        Value::Number(number) => number.clone(),
        _ => return None,
    };
    Some(Value::Number(number))
}
