//! The media fields of a line: lists of paths, bytes and addresses lined up by kind.

use std::borrow::Cow;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::fields::{Fields, MediaField, shorten, string};
use super::request;
use crate::domain::media_type;
use crate::domain::parts::{Counts, Kind};

/// A file as it was when its line was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundFile {
    /// Where it is, from the root.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was changed last: nanoseconds since 1970.
    pub modified: i64,
    /// Its type, if content or name tell it.
    pub mime_type: Option<&'static str>,
}

/// Looks at the file that a line names; an error is the reason for people.
pub type Look<'a> = &'a dyn Fn(Kind, &str) -> Result<FoundFile, String>;

/// Media of a job that go into its request when it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMedia {
    /// Where in the request's text they belong: behind the opening brace of their part.
    pub at: usize,
    /// Their type.
    pub mime_type: String,
    /// Where they come from.
    pub source: MediaSource,
}

/// Where media come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MediaSource {
    /// A file.
    File {
        /// Where it is, from the root.
        path: String,
        /// Its size in bytes.
        size: u64,
        /// When it was changed last: nanoseconds since 1970.
        modified: i64,
    },
    /// The line itself.
    Bytes(Vec<u8>),
}

/// All media of one line.
pub(super) struct Media {
    items: Vec<(Kind, Item)>,
}

/// One item of media.
pub(super) struct Item {
    source: ItemSource,
    mime_type: Option<String>,
    /// The text of a `VideoMetadata`, without its braces; empty where there is none.
    metadata: String,
    /// What makes it other content than another item.
    identity: String,
}

enum ItemSource {
    Stored(MediaSource),
    Address(String),
}

/// Padding may be there or not, as decoders of the API take it.
const DECODING: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);

impl Media {
    /// Reads and checks the media fields.
    pub(super) fn read(fields: &Fields<'_>, look: Look<'_>) -> Result<Self, String> {
        let mut items = Vec::new();
        // Most lines are text alone.
        let kinds = if fields.names_media() { Kind::ALL.as_slice() } else { &[] };
        for kind in kinds.iter().copied() {
            let own = read_kind(fields, kind, look)?;
            items.extend(own.into_iter().map(|item| (kind, item)));
        }
        Ok(Self { items })
    }

    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for (kind, _) in &self.items {
            counts.add(*kind);
        }
        counts
    }

    /// Returns what tells this content from other content.
    pub(super) fn identity(&self) -> String {
        let words = self.items.iter().map(|(kind, item)| {
            let mime_type = item.mime_type.as_deref().unwrap_or("");
            format!("\0{}\0{}\0{mime_type}", kind.name(), item.identity)
        });
        words.collect()
    }

    /// Writes the part of an item to `out`; what is to be put in later goes to `later`.
    pub(super) fn write(
        &self,
        kind: Kind,
        index: usize,
        out: &mut String,
        later: &mut Vec<NewMedia>,
    ) {
        let mut own = self.items.iter().filter(|(of, _)| *of == kind);
        let Some((_, item)) = own.nth(index) else { return };
        out.push('{');
        match &item.source {
            ItemSource::Stored(source) => later.push(NewMedia {
                at: out.len(),
                mime_type: item.mime_type.clone().unwrap_or_default(),
                source: source.clone(),
            }),
            ItemSource::Address(address) => {
                out.push_str(r#""fileData":{"#);
                if let Some(mime_type) = &item.mime_type {
                    let _ = write!(out, r#""mimeType":"{mime_type}","#);
                }
                let _ = write!(out, r#""fileUri":{}}}"#, Value::from(address.as_str()));
                if !item.metadata.is_empty() {
                    out.push(',');
                }
            }
        }
        out.push_str(&item.metadata);
        out.push('}');
    }
}

fn read_kind(fields: &Fields<'_>, kind: Kind, look: Look<'_>) -> Result<Vec<Item>, String> {
    let list = |field| strings(fields, kind, field);
    let mut items = Vec::new();
    for path in list(MediaField::Path)? {
        items.push(from_path(kind, &path, look)?);
    }
    for (index, bytes) in list(MediaField::Bytes)?.iter().enumerate() {
        items.push(
            from_bytes(kind, bytes).map_err(|reason| {
                format!("`{}_bytes`: item {}: {reason}", kind.name(), index + 1)
            })?,
        );
    }
    for address in list(MediaField::Url)? {
        items.push(from_address(kind, address.into_owned())?);
    }
    give_types(&mut items, kind, list(MediaField::MimeType)?)?;
    give_metadata(&mut items, kind, fields.media(kind, MediaField::Metadata))?;
    Ok(items)
}

/// Returns the texts of a field that is a text or a list of texts.
fn strings<'a>(
    fields: &Fields<'a>,
    kind: Kind,
    field: MediaField,
) -> Result<Vec<Cow<'a, str>>, String> {
    let name = || format!("{}_{}", kind.name(), field.name());
    let Some(text) = fields.media(kind, field).filter(|text| *text != "null") else {
        return Ok(Vec::new());
    };
    let one = |text: &'a str| {
        string(text)
            .map_err(|reason| format!("`{}`: {reason}", name()))?
            .ok_or_else(|| format!("`{}` must be text or a list of texts", name()))
    };
    if !text.starts_with('[') {
        return Ok(vec![one(text)?]);
    }
    let items: Vec<&'a RawValue> = serde_json::from_str(text)
        .map_err(|error| format!("`{}`: {}", name(), crate::domain::canonical::reason(&error)))?;
    items.into_iter().map(|item| one(item.get())).collect()
}

fn from_path(kind: Kind, path: &str, look: Look<'_>) -> Result<Item, String> {
    let found = look(kind, path).map_err(|reason| format!("`{}_path`: {reason}", kind.name()))?;
    Ok(Item {
        mime_type: found.mime_type.map(str::to_owned),
        metadata: String::new(),
        identity: format!("path\0{path}"),
        source: ItemSource::Stored(MediaSource::File {
            path: found.path,
            size: found.size,
            modified: found.modified,
        }),
    })
}

fn from_bytes(kind: Kind, text: &str) -> Result<Item, String> {
    let alphabet = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    let bytes = GeneralPurpose::new(alphabet, DECODING)
        .decode(text)
        .map_err(|error| format!("not valid base64: {error}"))?;
    if bytes.is_empty() {
        return Err("there is nothing in it".to_owned());
    }
    let head = &bytes[..bytes.len().min(media_type::HEAD)];
    Ok(Item {
        mime_type: media_type::of_content(kind, head, "").map(str::to_owned),
        metadata: String::new(),
        identity: format!("bytes\0{:x?}", Sha256::digest(&bytes).as_slice()),
        source: ItemSource::Stored(MediaSource::Bytes(bytes)),
    })
}

fn from_address(kind: Kind, address: String) -> Result<Item, String> {
    // The API fetches nothing by plain HTTP.
    let rest = address.strip_prefix("https://").or_else(|| address.strip_prefix("gs://"));
    let is_place = |rest: &str| {
        !rest.starts_with('/') && !rest.contains(|c: char| c.is_whitespace() || c.is_control())
    };
    if !rest.is_some_and(|rest| !rest.is_empty() && is_place(rest)) {
        let shown = shorten(&address);
        return Err(format!("`{}_url`: `{shown}` is no https address", kind.name()));
    }
    let path = address.split(['?', '#']).next().unwrap_or_default();
    let name = path.rsplit('/').next().unwrap_or_default();
    Ok(Item {
        mime_type: media_type::of_name(kind, name).map(str::to_owned),
        metadata: String::new(),
        identity: format!("url\0{address}"),
        source: ItemSource::Address(address),
    })
}

fn give_types(items: &mut [Item], kind: Kind, types: Vec<Cow<'_, str>>) -> Result<(), String> {
    let name = kind.name();
    if types.len() > items.len() {
        return Err(too_many(&format!("{name}_mime_type"), types.len(), kind, items.len()));
    }
    for (item, given) in items.iter_mut().zip(types) {
        if !media_type::is_valid(&given) {
            let shown = shorten(&given);
            return Err(format!("`{name}_mime_type`: `{shown}` is no type such as `audio/mp3`"));
        }
        item.mime_type = Some(given.to_ascii_lowercase());
    }
    for (index, item) in items.iter().enumerate() {
        if item.mime_type.is_none() && matches!(item.source, ItemSource::Stored(_)) {
            return Err(format!(
                "the type of {name} {} cannot be told; say it in `{name}_mime_type`",
                index + 1
            ));
        }
    }
    Ok(())
}

fn give_metadata(items: &mut [Item], kind: Kind, text: Option<&str>) -> Result<(), String> {
    let Some(text) = text.filter(|text| *text != "null") else {
        return Ok(());
    };
    let name = format!("{}_metadata", kind.name());
    let wrong = || format!("`{name}` must be a list of objects");
    let list: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| wrong())?;
    if list.len() > items.len() {
        return Err(too_many(&name, list.len(), kind, items.len()));
    }
    for (index, (item, given)) in items.iter_mut().zip(list).enumerate() {
        let given = given.get();
        if !given.starts_with('{') {
            return Err(wrong());
        }
        let path = format!("{name}[{index}]");
        let renamed = request::video_metadata(given, &path)?;
        if renamed != "{}" {
            item.identity.push('\0');
            item.identity.push_str(&renamed);
            item.metadata = format!(r#""videoMetadata":{renamed}"#);
        }
    }
    Ok(())
}

fn too_many(name: &str, given: usize, kind: Kind, items: usize) -> String {
    format!("`{name}` has {given} entries but {} items: {items}", kind.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_a_place() {
        let told = |address: &str| from_address(Kind::Image, address.to_owned()).err();
        for good in ["https://x.org/a.png?b=c", "gs://bucket/a.png", "https://x"] {
            assert_eq!(told(good), None, "{good}");
        }
        for bad in ["https://", "https:///a.png", "https://x.org/a b", "gs://", "ftp://x"] {
            assert!(
                told(bad).is_some_and(|reason| reason.ends_with("is no https address")),
                "{bad}"
            );
        }
    }
}
