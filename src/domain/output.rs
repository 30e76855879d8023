//! Structured output: which requests ask for it, and whether a text fits what they ask for.
//!
//! Owns the reading of both schema languages of the API. A schema never makes gq fetch or open
//! anything: what lies outside of it is refused. `format` says something to people and to the
//! model and is not checked, as JSON Schema has it.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use jsonschema::{Retrieve, Uri, Validator};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::domain::{canonical, schema};

mod openapi;

pub use openapi::is_openapi;

/// Compiled schemas that are kept: jobs of one file mostly share a few.
const KEPT: usize = 16;

/// A schema with a longer text is compiled anew each time.
const LONGEST_KEPT: usize = 256 << 10;

/// In which form the answer to a request with a schema holds its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputForm {
    /// The text is JSON.
    Json,
    /// The text itself is the value, one of the schema's `enum` (`text/x.enum`).
    Enum,
}

impl OutputForm {
    /// Returns the name that the database sees.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Enum => "enum",
        }
    }
}

impl std::str::FromStr for OutputForm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut forms = [Self::Json, Self::Enum].into_iter();
        forms
            .find(|form| form.as_str() == text)
            .ok_or_else(|| format!("`{text}` is no form of output"))
    }
}

/// In which language a schema is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// `responseSchema`: the API's subset of `OpenAPI`.
    OpenApi,
    /// `responseJsonSchema`, also with a `_` before it.
    JsonSchema,
}

impl Dialect {
    /// Returns the name of the request's field.
    pub fn field(self) -> &'static str {
        match self {
            Self::OpenApi => "responseSchema",
            Self::JsonSchema => "responseJsonSchema",
        }
    }
}

/// The schema of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputSchema {
    dialect: Dialect,
    form: OutputForm,
    text: String,
}

/// A schema made ready to check texts.
#[derive(Debug)]
pub struct Compiled {
    validator: Validator,
    form: OutputForm,
}

/// The members of an object that matter here; of a name given twice the last counts.
type Members<'a> = HashMap<String, &'a RawValue>;

/// The names of the fields that hold a schema, in both spellings.
const FIELDS: [(&str, Dialect); 6] = [
    ("responseSchema", Dialect::OpenApi),
    ("response_schema", Dialect::OpenApi),
    ("responseJsonSchema", Dialect::JsonSchema),
    ("response_json_schema", Dialect::JsonSchema),
    ("_responseJsonSchema", Dialect::JsonSchema),
    ("_response_json_schema", Dialect::JsonSchema),
];

impl OutputSchema {
    /// Takes a schema that stands by itself.
    pub fn new(dialect: Dialect, text: &str) -> Self {
        Self { dialect, form: OutputForm::Json, text: text.to_owned() }
    }

    /// Returns the schema that the text of a request holds, if it holds one.
    ///
    /// # Errors
    /// Where it holds several; the API takes one.
    pub fn of_request(request: &str) -> Result<Option<Self>, String> {
        let unreadable = |error: serde_json::Error| canonical::reason(&error);
        let request: Members<'_> = serde_json::from_str(request).map_err(unreadable)?;
        let config =
            ["generationConfig", "generation_config"].iter().find_map(|name| request.get(*name));
        let Some(config) = config.filter(|config| config.get() != "null") else {
            return Ok(None);
        };
        let config: Members<'_> = serde_json::from_str(config.get()).map_err(unreadable)?;
        let mut given = FIELDS.iter().filter_map(|(name, dialect)| {
            let text = config.get(*name)?.get();
            (text != "null").then_some((*name, *dialect, text))
        });
        let Some((name, dialect, text)) = given.next() else { return Ok(None) };
        if let Some((other, ..)) = given.next() {
            return Err(format!("`{name}` and `{other}` cannot stand together"));
        }
        let mime_type = ["responseMimeType", "response_mime_type"]
            .iter()
            .find_map(|name| config.get(*name))
            .and_then(|mime_type| serde_json::from_str::<String>(mime_type.get()).ok());
        let form = match mime_type.as_deref() {
            Some("text/x.enum") => OutputForm::Enum,
            _ => OutputForm::Json,
        };
        Ok(Some(Self { dialect, form, text: text.to_owned() }))
    }

    /// Returns in which form the answer holds the value.
    pub fn form(&self) -> OutputForm {
        self.form
    }

    /// Makes the schema ready; the same one again costs a look-up.
    ///
    /// # Errors
    /// Says what is wrong with it, where it is no valid schema.
    pub fn compile(&self) -> Result<Arc<Compiled>, String> {
        if let Some(compiled) = KNOWN.find(self) {
            return Ok(compiled);
        }
        let schema: Value =
            serde_json::from_str(&self.text).map_err(|error| canonical::reason(&error))?;
        let schema = match self.dialect {
            Dialect::OpenApi => openapi::to_json_schema(&schema)?,
            Dialect::JsonSchema => schema,
        };
        let validator = validator(&schema)?;
        let compiled = Arc::new(Compiled { validator, form: self.form });
        KNOWN.keep(self, &compiled);
        Ok(compiled)
    }

    /// Fails where the schema is not valid; the reason names the request's field.
    pub fn validate(&self) -> Result<(), String> {
        match self.compile() {
            Ok(_) => Ok(()),
            Err(reason) => {
                let field = schema::snake_case(self.dialect.field());
                Err(format!("`generation_config.{field}`: {reason}"))
            }
        }
    }
}

fn validator(schema: &Value) -> Result<Validator, String> {
    if !schema.is_object() && !schema.is_boolean() {
        return Err("a schema is an object".to_owned());
    }
    jsonschema::options()
        .with_retriever(Nowhere)
        .should_validate_formats(false)
        .build(schema)
        .map_err(|error| {
            let place = error.instance_path().to_string();
            let at = if place.is_empty() { String::new() } else { format!(" at `{place}`") };
            plain(&format!("not a valid schema{at}: {error}"))
        })
}

/// Refuses to follow a reference out of the schema.
struct Nowhere;

impl Retrieve for Nowhere {
    fn retrieve(
        &self,
        uri: &Uri<String>,
    ) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        Err(format!("`{uri}` lies outside of the schema; only references within it are followed")
            .into())
    }
}

/// Returns text without control characters, and not too long for a message.
fn plain(text: &str) -> String {
    const SHOWN: usize = 300;
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut short: String = plain.clone().take(SHOWN).collect();
    if plain.count() > SHOWN {
        short.push('…');
    }
    short
}

impl Compiled {
    /// Checks the text of an answer; `cut` says that the output limit ended it.
    ///
    /// # Errors
    /// Says what does not fit, without showing values of the answer.
    pub fn check(&self, text: &str, cut: bool) -> Result<(), String> {
        let text = text.trim();
        let value = match self.form {
            OutputForm::Enum => Value::String(text.to_owned()),
            OutputForm::Json => serde_json::from_str(text)
                .map_err(|error| format!("the answer is no JSON: {}", canonical::reason(&error)))?,
        };
        if let Err(error) = self.validator.validate(&value) {
            let place = error.instance_path().to_string();
            let at = if place.is_empty() { String::new() } else { format!(" at `{place}`") };
            return Err(plain(&format!(
                "the answer does not fit the response schema{at}: {}",
                error.masked()
            )));
        }
        // These do not say where they end, so what is left of them can fit as well.
        if cut && (self.form == OutputForm::Enum || value.is_number()) {
            return Err("the answer may go on where it was cut".to_owned());
        }
        Ok(())
    }
}

/// Returns the value that the text of a checked answer holds, as JSON text.
pub fn parsed(form: OutputForm, text: &str) -> Option<String> {
    let text = text.trim();
    match form {
        OutputForm::Enum => serde_json::to_string(text).ok(),
        OutputForm::Json => {
            serde_json::from_str::<&RawValue>(text).ok().map(|value| value.get().to_owned())
        }
    }
}

/// The schemas compiled last. It only saves time: the same text always gives the same.
#[derive(Default)]
struct Known(Mutex<Vec<(OutputSchema, Arc<Compiled>)>>);

static KNOWN: LazyLock<Known> = LazyLock::new(Known::default);

impl Known {
    fn find(&self, schema: &OutputSchema) -> Option<Arc<Compiled>> {
        let mut known = self.0.lock().ok()?;
        let place = known.iter().position(|(other, _)| other == schema)?;
        known[..=place].rotate_right(1);
        known.first().map(|(_, compiled)| Arc::clone(compiled))
    }

    fn keep(&self, schema: &OutputSchema, compiled: &Arc<Compiled>) {
        if schema.text.len() > LONGEST_KEPT {
            return;
        }
        if let Ok(mut known) = self.0.lock() {
            known.insert(0, (schema.clone(), Arc::clone(compiled)));
            known.truncate(KEPT);
        }
    }
}

#[cfg(test)]
mod tests;
