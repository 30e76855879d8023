//! The parts of a request as the log keeps them, so that tests can look at their order.
//!
//! Pure. Media is kept as its size and hash, never as a whole.

use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::domain::hex::hex;

use super::files::{self, StoredFile};
use super::sense::{PART_DATA, member, members, text_member};

/// One part of a request's contents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordedPart {
    /// Which member it has: `text`, `inlineData`, `fileData`, …; empty if none is known.
    pub kind: &'static str,
    /// Its text.
    pub text: Option<String>,
    /// The type of its media.
    pub mime_type: Option<String>,
    /// The size of its text, of its decoded data, or of its uploaded file, in bytes.
    pub bytes: Option<u64>,
    /// The SHA-256 of the same, as hexadecimal digits.
    pub sha256: Option<String>,
    /// The address of its file.
    pub file_uri: Option<String>,
    /// Which piece of a video is meant, as it was sent.
    pub video_metadata: Option<Value>,
}

/// Returns the parts of all contents of a request, in their order; `stored` finds uploaded files.
pub(super) fn recorded(
    request: &Value,
    stored: impl Fn(&str) -> Option<Arc<StoredFile>>,
) -> Vec<RecordedPart> {
    let contents = members(request, "contents").iter();
    let mut parts: Vec<_> =
        contents.flat_map(|content| members(content, "parts")).map(RecordedPart::of).collect();
    for part in &mut parts {
        let id = part.file_uri.as_deref().and_then(files::id_in);
        if let Some(file) = id.and_then(&stored) {
            part.bytes = Some(file.content.bytes);
            part.sha256 = Some(file.content.sha256.clone());
        }
    }
    parts
}

impl RecordedPart {
    fn of(part: &Value) -> Self {
        let kind =
            PART_DATA.into_iter().find(|name| member(part, name).is_some()).unwrap_or_default();
        let text = text_member(part, "text");
        let media = member(part, "inlineData").or_else(|| member(part, "fileData"));
        let said = |name| media.and_then(|media| text_member(media, name));
        let decoded = said("data").and_then(decoded);
        let content = text.map(str::as_bytes).or(decoded.as_deref());
        Self {
            kind,
            text: text.map(str::to_owned),
            mime_type: said("mimeType").map(str::to_owned),
            bytes: content.map(|content| content.len() as u64),
            sha256: content.map(hash),
            file_uri: said("fileUri").map(str::to_owned),
            video_metadata: member(part, "videoMetadata").cloned(),
        }
    }
}

/// Decodes base64 of either alphabet, with or without padding; the reader let no other pass.
fn decoded(data: &str) -> Option<Vec<u8>> {
    let settings = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    let alphabet = if data.contains(['-', '_']) { alphabet::URL_SAFE } else { alphabet::STANDARD };
    GeneralPurpose::new(&alphabet, settings).decode(data).ok()
}

fn hash(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parts_are_kept_in_order_with_what_tells_them_apart() {
        let clip = json!({"start_offset": "1s", "fps": 0.5});
        let parts = recorded(
            &json!({"contents": [
                {"parts": [{"text": "abc"}, {"inlineData": {"mimeType": "image/png", "data": "-_8"}}]},
                {"parts": [{"file_data": {"mime_type": "video/mp4", "file_uri": "https://x/files/a"},
                    "video_metadata": clip}, {"functionCall": {"name": "f"}}, {}]}
            ]}),
            |_| None,
        );
        let kinds: Vec<&str> = parts.iter().map(|part| part.kind).collect();
        assert_eq!(kinds, ["text", "inlineData", "fileData", "functionCall", ""]);
        assert_eq!(parts[0].text.as_deref(), Some("abc"));
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((parts[0].bytes, parts[0].sha256.as_deref()), (Some(3), Some(abc)));
        assert_eq!((parts[1].mime_type.as_deref(), parts[1].bytes), (Some("image/png"), Some(2)));
        assert_eq!(parts[1].sha256, Some(hash(&[251, 255])));
        assert_eq!(parts[2].file_uri.as_deref(), Some("https://x/files/a"));
        assert_eq!(parts[2].video_metadata, Some(clip));
        assert_eq!((parts[2].bytes, &parts[2].sha256), (None, &None));
        assert_eq!(parts[4], RecordedPart::default());
    }
}
