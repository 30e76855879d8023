//! One response schema for all lines that have none of their own.

use serde_json::Value;

use super::fields::Members;
use super::request;
use crate::domain::canonical;
use crate::domain::output::{Dialect, OutputSchema, is_openapi};

/// Both spellings of the fields that it goes into.
const CONFIG: [&str; 2] = ["generationConfig", "generation_config"];
const MIME_TYPE: [&str; 2] = ["responseMimeType", "response_mime_type"];

/// A checked schema for lines that have none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultSchema {
    dialect: Dialect,
    text: String,
}

impl DefaultSchema {
    /// Reads a schema: the API's subset of `OpenAPI` where it names a type in upper case, else JSON
    /// Schema.
    ///
    /// # Errors
    /// Says what is wrong with it, for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim_start_matches('\u{feff}').trim();
        let value: Value =
            serde_json::from_str(text).map_err(|error| format!("not valid JSON: {error}"))?;
        if !value.is_object() {
            return Err("a schema is a JSON object".to_owned());
        }
        let (dialect, text) = if is_openapi(&value) {
            (Dialect::OpenApi, request::named_as_in_the_api(text, &value)?)
        } else {
            (Dialect::JsonSchema, text.to_owned())
        };
        OutputSchema::new(dialect, &text).compile()?;
        Ok(Self { dialect, text })
    }

    /// Returns a request that has no schema with this one; its other values stay as they stand.
    pub(super) fn put_into(&self, request: &str) -> Result<String, String> {
        let Members(members) =
            serde_json::from_str(request).map_err(|error| canonical::reason(&error))?;
        let mut out = Object::with_capacity(request.len() + self.text.len() + 128);
        let mut config = None;
        for (name, value) in &members {
            if !CONFIG.contains(&name.as_ref()) {
                out.member(name, value)?;
            } else if *value != "null" {
                config = Some(*value);
            }
        }
        out.member(CONFIG[0], &self.config(config)?)?;
        Ok(out.end())
    }

    fn config(&self, given: Option<&str>) -> Result<String, String> {
        let Members(members) = serde_json::from_str(given.unwrap_or("{}"))
            .map_err(|error| canonical::reason(&error))?;
        let mut out = Object::with_capacity(self.text.len() + 128);
        let mut typed = false;
        for (name, value) in members.iter().filter(|(_, value)| *value != "null") {
            typed |= MIME_TYPE.contains(&name.as_ref());
            out.member(name, value)?;
        }
        if !typed {
            out.member(MIME_TYPE[0], "\"application/json\"")?;
        }
        out.member(self.dialect.field(), &self.text)?;
        Ok(out.end())
    }
}

/// The text of a JSON object in the making.
struct Object(String);

impl Object {
    fn with_capacity(bytes: usize) -> Self {
        let mut text = String::with_capacity(bytes);
        text.push('{');
        Self(text)
    }

    fn member(&mut self, name: &str, value: &str) -> Result<(), String> {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        let name = serde_json::to_string(name).map_err(|error| canonical::reason(&error))?;
        self.0.push_str(&name);
        self.0.push(':');
        self.0.push_str(value);
        Ok(())
    }

    fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}
