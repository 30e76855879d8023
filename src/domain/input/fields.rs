//! The names at the top of an input line, and their values as text.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::domain::parts::Kind;
use crate::domain::{canonical, schema};

/// The members of one JSON object in their order: names, and values as text.
pub(super) struct Members<'a>(pub(super) Vec<(Cow<'a, str>, &'a str)>);

#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(4);
                while let Some(Name(name)) = map.next_key()? {
                    let value: &'de RawValue = map.next_value()?;
                    members.push((name, value.get()));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// A field that an input line may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Prompt,
    Metadata,
    TaskId,
    Model,
    Priority,
    MaxAttempts,
    NotBefore,
    Stream,
    SystemInstruction,
    GenerationConfig,
    SafetySettings,
    Tools,
    ToolConfig,
    CachedContent,
    ServiceTier,
    Labels,
    Key,
    Request,
}

const FIELDS: [(&str, Field); 18] = [
    ("prompt", Field::Prompt),
    ("metadata", Field::Metadata),
    ("task_id", Field::TaskId),
    ("model", Field::Model),
    ("priority", Field::Priority),
    ("max_attempts", Field::MaxAttempts),
    ("not_before", Field::NotBefore),
    ("stream", Field::Stream),
    ("system_instruction", Field::SystemInstruction),
    ("generation_config", Field::GenerationConfig),
    ("safety_settings", Field::SafetySettings),
    ("tools", Field::Tools),
    ("tool_config", Field::ToolConfig),
    ("cached_content", Field::CachedContent),
    ("service_tier", Field::ServiceTier),
    ("labels", Field::Labels),
    ("key", Field::Key),
    ("request", Field::Request),
];

/// What a field of a kind of media says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MediaField {
    Path,
    Bytes,
    Url,
    MimeType,
    Metadata,
}

const MEDIA_FIELDS: [(&str, MediaField); 5] = [
    ("path", MediaField::Path),
    ("bytes", MediaField::Bytes),
    ("url", MediaField::Url),
    ("mime_type", MediaField::MimeType),
    ("metadata", MediaField::Metadata),
];

impl MediaField {
    /// Returns the name behind that of the kind.
    pub(super) fn name(self) -> &'static str {
        MEDIA_FIELDS.iter().find(|(_, field)| *field == self).map_or("", |(name, _)| name)
    }
}

impl Field {
    /// Returns the name in `snake_case`.
    pub(super) fn name(self) -> &'static str {
        FIELDS.iter().find(|(_, field)| *field == self).map_or("", |(name, _)| name)
    }

    fn named(name: &str) -> Option<Self> {
        FIELDS.iter().find(|(known, _)| *known == name).map(|(_, field)| *field)
    }
}

/// The fields of one line, each at most once.
#[derive(Default)]
pub(super) struct Fields<'a> {
    values: [Option<&'a str>; FIELDS.len()],
    media: Vec<(Kind, MediaField, &'a str)>,
}

impl<'a> Fields<'a> {
    /// Reads a line that is not blank.
    pub(super) fn parse(text: &'a str) -> Result<Self, String> {
        if !text.trim_start().starts_with('{') {
            return Err("the line is not a JSON object".to_owned());
        }
        let Members(members) = serde_json::from_str(text).map_err(|error| {
            let reason = canonical::reason(&error);
            format!("not valid JSON: {reason} at column {}", error.column())
        })?;
        let mut fields = Self::default();
        for (name, value) in members {
            fields.add(&name, value)?;
        }
        Ok(fields)
    }

    /// Returns the value of `field` as JSON text; `null` counts as absent.
    pub(super) fn get(&self, field: Field) -> Option<&'a str> {
        self.values[field as usize].filter(|value| *value != "null")
    }

    /// Returns the fields that have a value.
    pub(super) fn given(&self) -> impl Iterator<Item = Field> {
        FIELDS.iter().map(|(_, field)| *field).filter(|field| self.get(*field).is_some())
    }

    fn add(&mut self, name: &str, value: &'a str) -> Result<(), String> {
        let snake = schema_name(name);
        let is_new = if let Some(field) = Field::named(&snake) {
            self.values[field as usize].replace(value).is_none()
        } else {
            let (kind, field) = media_field(&snake).ok_or_else(|| unknown(name))?;
            let is_new = self.media(kind, field).is_none();
            self.media.push((kind, field, value));
            is_new
        };
        if is_new { Ok(()) } else { Err(format!("`{snake}` is given twice")) }
    }

    /// Returns what a field of media says, as JSON text; it may be `null`.
    pub(super) fn media(&self, kind: Kind, field: MediaField) -> Option<&'a str> {
        let wanted = |given: &&(Kind, MediaField, &str)| given.0 == kind && given.1 == field;
        self.media.iter().find(wanted).map(|given| given.2)
    }

    /// Returns whether any field of media is given.
    pub(super) fn names_media(&self) -> bool {
        !self.media.is_empty()
    }

    /// Returns the name of a field of media that has a value, if one has.
    pub(super) fn any_media(&self) -> Option<String> {
        let (kind, field, _) = self.media.iter().find(|given| given.2 != "null")?;
        Some(format!("{}_{}", kind.name(), field.name()))
    }
}

fn schema_name(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        schema::snake_case(name).into()
    } else {
        name.into()
    }
}

fn media_field(name: &str) -> Option<(Kind, MediaField)> {
    Kind::ALL.into_iter().find_map(|kind| {
        let rest = name.strip_prefix(kind.name())?.strip_prefix('_')?;
        let (_, field) = MEDIA_FIELDS.iter().find(|(known, _)| *known == rest)?;
        Some((kind, *field))
    })
}

fn unknown(name: &str) -> String {
    let shown = shorten(name);
    let media = Kind::ALL
        .into_iter()
        .flat_map(|kind| MEDIA_FIELDS.map(|(field, _)| format!("{}_{field}", kind.name())));
    let known: Vec<String> =
        FIELDS.iter().map(|(known, _)| (*known).to_owned()).chain(media).collect();
    match schema::nearest(name, known.iter().map(String::as_str)) {
        Some(nearest) => format!("unknown field `{shown}`; did you mean `{nearest}`?"),
        None => format!("unknown field `{shown}`"),
    }
}

/// Returns the beginning of `text`, enough to know it by.
pub(super) fn shorten(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Reads JSON text that is a string; `None` where it is another type.
pub(super) fn string(text: &str) -> Result<Option<Cow<'_, str>>, String> {
    let Some(inner) = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return Ok(None);
    };
    if inner.contains('\\') {
        let plain: String =
            serde_json::from_str(text).map_err(|error| canonical::reason(&error))?;
        return Ok(Some(plain.into()));
    }
    Ok(Some(inner.into()))
}
