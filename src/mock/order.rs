//! What the start of an upload asks for.
//!
//! Pure. Which bytes the upload then takes is in `upload`.

use axum::http::HeaderMap;
use serde_json::Value;

use super::error::{ApiError, Finding, bad_request, invalid_argument};
use super::sense::{member, text_member};

/// The largest file.
pub(super) const LARGEST: u64 = 2 * 1024 * 1024 * 1024;
const LONGEST_ID: usize = 40;
const LONGEST_DISPLAY_NAME: usize = 512;
/// The members of a file that a start may send; most of them are ignored.
const FILE_MEMBERS: [&str; 14] = [
    "name",
    "displayName",
    "mimeType",
    "sizeBytes",
    "createTime",
    "updateTime",
    "expirationTime",
    "sha256Hash",
    "uri",
    "downloadUri",
    "state",
    "source",
    "error",
    "videoMetadata",
];

/// What a request of an upload asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Start,
    Upload,
    /// The last chunk, or the end without one.
    Finalize,
    Query,
    Cancel,
}

impl Command {
    pub(super) fn of(text: &str) -> Option<Self> {
        let words: Vec<_> = text.split(',').map(|word| word.trim().to_ascii_lowercase()).collect();
        match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["start"] => Some(Self::Start),
            ["upload"] => Some(Self::Upload),
            ["finalize"] | ["upload", "finalize"] => Some(Self::Finalize),
            ["query"] => Some(Self::Query),
            ["cancel"] => Some(Self::Cancel),
            _ => None,
        }
    }
}

/// What a start asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Order {
    /// The name without `files/`.
    pub(super) id: String,
    pub(super) display_name: String,
    pub(super) mime_type: String,
    /// The size, if it was announced.
    pub(super) size: Option<u64>,
}

impl Order {
    /// Reads a start; `fresh` is the id of a file that names none.
    pub(super) fn of(
        headers: &HeaderMap,
        document: &Value,
        fresh: String,
    ) -> Result<Self, ApiError> {
        let said = |name| header(headers, name).unwrap_or_default();
        let protocol = said("x-goog-upload-protocol");
        if !protocol.eq_ignore_ascii_case("resumable") {
            return Err(invalid_argument(format!("Unsupported upload protocol: \"{protocol}\".")));
        }
        let command = said("x-goog-upload-command");
        if Command::of(command) != Some(Command::Start) {
            return Err(invalid_argument(format!("Invalid upload command: \"{command}\".")));
        }
        let size = header(headers, "x-goog-upload-header-content-length").map(size).transpose()?;
        let file = member(document, "file").unwrap_or(&Value::Null);
        let display_name = text_member(file, "displayName").unwrap_or_default().to_owned();
        if display_name.chars().count() > LONGEST_DISPLAY_NAME {
            return Err(invalid_argument(format!(
                "* CreateFileRequest.file.display_name: must be at most {LONGEST_DISPLAY_NAME} \
                 characters long.\n"
            )));
        }
        let mime_type = header(headers, "x-goog-upload-header-content-type")
            .or_else(|| text_member(file, "mimeType"))
            .unwrap_or("application/octet-stream")
            .to_owned();
        let id = match text_member(file, "name").filter(|name| !name.is_empty()) {
            Some(name) => chosen_id(name)?.to_owned(),
            None => fresh,
        };
        Ok(Self { id, display_name, mime_type, size })
    }
}

/// Returns what is wrong with the names in the body of a start.
pub(super) fn check_names(document: &Value) -> Result<(), ApiError> {
    let known = |names: &[&str], name: &str| {
        let camel = |letters: &str| letters.replace('_', "").to_ascii_lowercase();
        names.iter().any(|known| camel(known) == camel(name))
    };
    let unknown = |object: Option<&Value>, names: &[&str], field: &str| {
        let object = object.and_then(Value::as_object).into_iter().flatten();
        let place = if field.is_empty() { String::new() } else { format!(" at '{field}'") };
        let finding = |name: &String| Finding {
            field: field.to_owned(),
            description: format!(
                "Invalid JSON payload received. Unknown name \"{name}\"{place}: Cannot find field."
            ),
        };
        let strange = object.filter(|(name, _)| !known(names, name));
        strange.map(|(name, _)| finding(name)).collect::<Vec<_>>()
    };
    let mut found = unknown(Some(document), &["file"], "");
    found.extend(unknown(member(document, "file"), &FILE_MEMBERS, "file"));
    if found.is_empty() { Ok(()) } else { Err(bad_request(&found)) }
}

/// Returns a header as text.
pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn size(text: &str) -> Result<u64, ApiError> {
    let size = text.parse::<u64>().map_err(|_| {
        invalid_argument(format!("Invalid X-Goog-Upload-Header-Content-Length: \"{text}\"."))
    })?;
    if size > LARGEST {
        return Err(invalid_argument(format!(
            "File size {size} exceeds the limit: {LARGEST} bytes."
        )));
    }
    Ok(size)
}

fn chosen_id(name: &str) -> Result<&str, ApiError> {
    let fits = |id: &&str| {
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (1..=LONGEST_ID).contains(&id.len())
            && id.bytes().all(letter)
            && !id.starts_with('-')
            && !id.ends_with('-')
    };
    name.strip_prefix("files/").filter(fits).ok_or_else(|| {
        invalid_argument(format!(
            "* CreateFileRequest.file.name: \"{name}\" must be files/ and at most {LONGEST_ID} \
             lower case letters, digits or dashes, without a dash at either end.\n"
        ))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn order(headers: &[(&'static str, &str)], document: &Value) -> Result<Order, ApiError> {
        let usual = [("x-goog-upload-protocol", "resumable"), ("x-goog-upload-command", "start")];
        let mut all = HeaderMap::new();
        for (name, value) in usual.iter().chain(headers) {
            all.insert(*name, value.parse().unwrap());
        }
        Order::of(&all, document, "fresh".to_owned())
    }

    #[test]
    fn commands_are_read_in_any_spelling() {
        assert_eq!(Command::of("upload, finalize"), Some(Command::Finalize));
        assert_eq!(Command::of("Upload,Finalize"), Some(Command::Finalize));
        assert_eq!(Command::of("upload"), Some(Command::Upload));
        assert_eq!(Command::of("finalize, upload"), None);
        assert_eq!(Command::of(""), None);
    }

    #[test]
    fn a_start_says_what_comes() {
        let length = ("x-goog-upload-header-content-length", "5");
        let mime_type = ("x-goog-upload-header-content-type", "video/mp4");
        let named = json!({"file": {"display_name": "clip", "name": "files/my-1"}});
        assert_eq!(
            order(&[length, mime_type], &named).unwrap(),
            Order {
                id: "my-1".to_owned(),
                display_name: "clip".to_owned(),
                mime_type: "video/mp4".to_owned(),
                size: Some(5)
            }
        );
        let plain = order(&[], &json!({"file": {"mimeType": "text/plain"}})).unwrap();
        assert_eq!((&*plain.id, &*plain.mime_type, plain.size), ("fresh", "text/plain", None));
        assert_eq!(order(&[], &json!({})).unwrap().mime_type, "application/octet-stream");
    }

    #[test]
    fn a_start_with_a_bad_name_size_or_protocol_is_refused() {
        let named = |name: &str| order(&[], &json!({"file": {"name": name}})).is_ok();
        assert!(named(&format!("files/{}", "a".repeat(40))));
        let bad = ["files/", "my-1", "files/My", "files/a_b", "files/-a", "files/a-", "files/a/b"];
        for name in bad {
            assert!(!named(name), "{name}");
        }
        assert!(!named(&format!("files/{}", "a".repeat(41))));
        let sized = |text| order(&[("x-goog-upload-header-content-length", text)], &json!({}));
        assert!(sized("2147483648").is_ok());
        assert_eq!(sized("2147483649").unwrap_err().status, "INVALID_ARGUMENT");
        assert!(sized("many").is_err());
        assert!(order(&[("x-goog-upload-protocol", "raw")], &json!({})).is_err());
        assert!(order(&[("x-goog-upload-command", "upload")], &json!({})).is_err());
        let long = json!({"file": {"displayName": "x".repeat(513)}});
        assert!(order(&[], &long).is_err());
    }

    #[test]
    fn unknown_names_of_a_start_are_told() {
        let sent = json!({"file": {"display_name": "a", "sizeBytes": "1", "foo": 1}, "bar": 2});
        let message = check_names(&sent).unwrap_err().message;
        assert_eq!(
            message,
            "Invalid JSON payload received. Unknown name \"bar\": Cannot find field.\n\
             Invalid JSON payload received. Unknown name \"foo\" at 'file': Cannot find field."
        );
        assert_eq!(check_names(&json!({"file": null})), Ok(()));
    }
}
