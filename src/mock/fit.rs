//! A small JSON value that fits a schema, for answers in JSON.
//!
//! Takes both of the API's schema languages. A `pattern` is not followed.

use serde_json::{Map, Number, Value, json};

use super::sense::{member, members, number_member, text_member};

/// How deep a schema is followed; one that refers to itself has no end.
const DEPTH: usize = 12;

/// Returns a value that fits `schema`, with `text` wherever any text will do.
pub(super) fn value_for(schema: &Value, text: &str) -> Value {
    Fit { root: schema, text }.value(schema, DEPTH)
}

struct Fit<'a> {
    root: &'a Value,
    text: &'a str,
}

impl Fit<'_> {
    fn value(&self, schema: &Value, depth: usize) -> Value {
        if depth == 0 {
            return Value::Null;
        }
        if let Some(fixed) = fixed(schema) {
            return fixed;
        }
        if let Some(target) = text_member(schema, "$ref").and_then(|path| self.target(path)) {
            return self.value(target, depth - 1);
        }
        let choice =
            ["anyOf", "oneOf", "allOf"].iter().find_map(|name| members(schema, name).first());
        if let Some(choice) = choice {
            return self.value(choice, depth - 1);
        }
        match kind(schema).as_str() {
            "object" => self.object(schema, depth),
            "array" => self.array(schema, depth),
            "integer" => number(schema).unwrap_or_else(|| json!(1)),
            "number" => number(schema).unwrap_or_else(|| json!(1.5)),
            "boolean" => Value::Bool(true),
            "null" => Value::Null,
            _ => Value::String(self.string(schema)),
        }
    }

    fn object(&self, schema: &Value, depth: usize) -> Value {
        let Some(Value::Object(properties)) = member(schema, "properties") else {
            return Value::Object(Map::new());
        };
        let required = members(schema, "required");
        // Near the end of the depth only what must be there is.
        let wanted = |name: &str| depth > DEPTH / 2 || required.iter().any(|it| it == name);
        properties
            .iter()
            .filter(|(name, _)| wanted(name))
            .map(|(name, schema)| (name.clone(), self.value(schema, depth - 1)))
            .collect()
    }

    fn array(&self, schema: &Value, depth: usize) -> Value {
        let least = number_member(schema, "minItems").unwrap_or(0);
        let most = number_member(schema, "maxItems").unwrap_or(u64::MAX);
        let usual = u64::from(depth > DEPTH / 2);
        let count = least.max(usual).min(most).min(1000);
        let any = json!({"type": "string"});
        let items = member(schema, "items").unwrap_or(&any);
        (0..count).map(|_| self.value(items, depth - 1)).collect()
    }

    fn string(&self, schema: &Value) -> String {
        let text = match text_member(schema, "format") {
            Some("date-time") => return "2026-01-01T00:00:00Z".to_owned(),
            Some("date") => return "2026-01-01".to_owned(),
            Some("time") => return "00:00:00Z".to_owned(),
            Some("duration") => return "PT1S".to_owned(),
            Some("email") => return "someone@example.org".to_owned(),
            Some("uri") => return "https://example.org/".to_owned(),
            Some("uuid") => return "00000000-0000-4000-8000-000000000000".to_owned(),
            _ => self.text,
        };
        let size = |name| number_member(schema, name).and_then(|size| usize::try_from(size).ok());
        let least = size("minLength").unwrap_or(0).min(10_000);
        let most = size("maxLength").unwrap_or(usize::MAX);
        let missing = least.saturating_sub(text.chars().count());
        text.chars().chain(std::iter::repeat_n('.', missing)).take(most).collect()
    }

    fn target(&self, path: &str) -> Option<&Value> {
        self.root.pointer(path.strip_prefix('#')?)
    }
}

fn fixed(schema: &Value) -> Option<Value> {
    let value = member(schema, "const").or_else(|| members(schema, "enum").first())?;
    // The API's own language lists numbers as texts.
    let number = matches!(kind(schema).as_str(), "integer" | "number");
    let number = value.as_str().filter(|_| number).and_then(|text| text.parse().ok());
    Some(number.map_or_else(|| value.clone(), Value::Number))
}

/// Returns the lower-case name of the type; the first one that is not null if there are several.
fn kind(schema: &Value) -> String {
    let named = match member(schema, "type") {
        Some(Value::Array(all)) => {
            all.iter().filter_map(Value::as_str).find(|name| *name != "null")
        }
        other => other.and_then(Value::as_str),
    };
    match named {
        Some(name) => name.to_ascii_lowercase(),
        None if member(schema, "properties").is_some() => "object".to_owned(),
        None if member(schema, "items").is_some() => "array".to_owned(),
        None => "string".to_owned(),
    }
}

/// Returns the limit that a number must keep, as the number.
fn number(schema: &Value) -> Option<Value> {
    let limit = ["minimum", "maximum"].iter().find_map(|name| member(schema, name))?;
    let number: Number = limit.to_string().trim_matches('"').parse().ok()?;
    Some(Value::Number(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_gets_a_value() {
        let schema = json!({"type": "OBJECT", "properties": {
            "a": {"type": "STRING"}, "b": {"type": "INTEGER", "minimum": 5},
            "c": {"type": "ARRAY", "minItems": "2", "items": {"type": "BOOLEAN"}},
            "d": {"type": "STRING", "enum": ["x", "y"]}, "h": {"type": "INTEGER", "enum": ["3"]}, "e": {"type": "NUMBER"},
            "f": {"anyOf": [{"type": "NULL"}, {"type": "STRING"}]},
            "g": {"type": "STRING", "minLength": 4, "maxLength": 5}}});
        let wanted = json!({"a": "hi", "b": 5, "c": [true, true], "d": "x", "h": 3, "e": 1.5, "f": null,
            "g": "hi.."});
        assert_eq!(value_for(&schema, "hi"), wanted);
    }

    #[test]
    fn a_schema_that_refers_to_itself_comes_to_an_end() {
        let schema = json!({"$ref": "#/$defs/node", "$defs": {"node": {"type": ["null", "object"],
            "properties": {"next": {"$ref": "#/$defs/node"}, "name": {"type": "string"}},
            "required": ["name"]}}});
        let value = value_for(&schema, "hi");
        assert_eq!(value["name"], "hi");
        assert_eq!(value["next"]["name"], "hi");
    }
}
