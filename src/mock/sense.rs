//! What a well-formed request asks for, and what the model refuses in it.
//!
//! Owns the facts that answering and counting need, and the checks behind the JSON reader. The
//! reader's own checks are in `strict`.

use serde_json::Value;

use super::error::{self, ApiError};
use super::files::id_in;

/// The longest input that a model takes, in tokens.
pub(super) const INPUT_LIMIT: u64 = 1_048_576;
/// What one image, clip or document counts; the real numbers depend on its size.
const MEDIA_TOKENS: u64 = 258;
/// Types of which the API says that it does not take them, though their family is known.
const UNSUPPORTED: [&str; 5] =
    ["image/tiff", "image/svg+xml", "image/x-icon", "application/zip", "application/octet-stream"];

/// The members of which a part has one.
pub(super) const PART_DATA: [&str; 9] = [
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

/// Returns the member of an object that is called `name`, in either spelling.
pub(super) fn member<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let same = |key: &str| {
        let mut wanted = name.bytes();
        key.bytes()
            .filter(|&byte| byte != b'_')
            .all(|byte| wanted.next().is_some_and(|other| other.eq_ignore_ascii_case(&byte)))
            && wanted.next().is_none()
    };
    let object = value.as_object()?;
    let found = object.iter().find(|(key, _)| same(key)).map(|(_, value)| value);
    found.filter(|value| !value.is_null())
}

/// Returns the elements of a list member, none if it is missing.
pub(super) fn members<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    member(value, name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Returns a text member.
pub(super) fn text_member<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    member(value, name).and_then(Value::as_str)
}

/// Returns a whole-number member, also if it is written as text.
pub(super) fn number_member(value: &Value, name: &str) -> Option<u64> {
    let value = member(value, name)?;
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// Returns what a number or its text means.
fn float_member(value: &Value, name: &str) -> Option<f64> {
    let value = member(value, name)?;
    value.as_f64().or_else(|| value.as_str()?.parse().ok())
}

/// What a request holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// The text parts of the contents, joined.
    pub(super) prompt: String,
    /// Tokens by modality, in the order of first appearance.
    pub(super) tokens: Vec<(&'static str, u64)>,
}

impl Facts {
    /// Reads the facts of a `GenerateContentRequest`.
    pub(super) fn of(request: &Value) -> Self {
        let mut facts = Self::default();
        let mut letters = 0;
        for part in members(request, "contents").iter().flat_map(|it| members(it, "parts")) {
            if let Some(text) = text_member(part, "text") {
                facts.prompt.push_str(text);
            }
        }
        let system = member(request, "systemInstruction");
        for part in system.map_or(&[][..], |system| members(system, "parts")) {
            letters += text_member(part, "text").map_or(0, |text| text.chars().count() as u64);
        }
        letters += facts.prompt.chars().count() as u64;
        facts.tokens.push(("TEXT", letters.div_ceil(4).max(1)));
        for part in members(request, "contents").iter().flat_map(|it| members(it, "parts")) {
            let media = member(part, "inlineData").or_else(|| member(part, "fileData"));
            if let Some(media) = media {
                facts.add(modality(text_member(media, "mimeType").unwrap_or_default()));
            }
        }
        facts
    }

    /// Returns the tokens of all modalities.
    pub(super) fn total(&self) -> u64 {
        self.tokens.iter().map(|(_, tokens)| tokens).sum()
    }

    fn add(&mut self, modality: &'static str) {
        match self.tokens.iter_mut().find(|(name, _)| *name == modality) {
            Some((_, tokens)) => *tokens += MEDIA_TOKENS,
            None => self.tokens.push((modality, MEDIA_TOKENS)),
        }
    }
}

fn modality(mime_type: &str) -> &'static str {
    match mime_type.split('/').next() {
        Some("image") => "IMAGE",
        Some("audio") => "AUDIO",
        Some("video") => "VIDEO",
        _ => "DOCUMENT",
    }
}

/// Returns the id of the first uploaded file that a request names.
pub(super) fn first_file(request: &Value) -> Option<&str> {
    parts(request).find_map(|part| id_in(text_member(member(part, "fileData")?, "fileUri")?))
}

/// Returns what the model refuses, if anything; `check_file` tells of an uploaded file whether it
/// may be used.
pub(super) fn refused(
    request: &Value,
    facts: &Facts,
    check_file: impl Fn(&str) -> Result<(), ApiError>,
) -> Option<ApiError> {
    let contents = members(request, "contents");
    if contents.is_empty() {
        let message = "* GenerateContentRequest.contents: contents is not specified\n";
        return Some(error::invalid_argument(message));
    }
    let lines: Vec<String> = contents
        .iter()
        .enumerate()
        .flat_map(|(index, content)| content_faults(index, content))
        .chain(setting_faults(request))
        .collect();
    if !lines.is_empty() {
        return Some(error::invalid_argument(lines.concat()));
    }
    if !contents.iter().all(|content| role_is_known(text_member(content, "role"))) {
        return Some(error::invalid_argument("Please use a valid role: user, model."));
    }
    if member(request, "cachedContent").is_some() {
        let message = "CachedContent not found (or permission denied)";
        return Some(error::permission_denied(message));
    }
    if facts.total() > INPUT_LIMIT {
        return Some(too_long(facts.total()));
    }
    parts(request).find_map(|part| media_fault(part, &check_file))
}

/// The input has more tokens than the model takes.
pub(super) fn too_long(tokens: u64) -> ApiError {
    error::invalid_argument(format!(
        "The input token count ({tokens}) exceeds the maximum number of tokens allowed \
         ({INPUT_LIMIT})."
    ))
}

fn parts(request: &Value) -> impl Iterator<Item = &Value> {
    members(request, "contents").iter().flat_map(|content| members(content, "parts"))
}

fn role_is_known(role: Option<&str>) -> bool {
    matches!(role, None | Some("" | "user" | "model" | "function"))
}

fn content_faults(index: usize, content: &Value) -> Vec<String> {
    let place = format!("* GenerateContentRequest.contents[{index}].parts");
    let parts = members(content, "parts");
    if parts.is_empty() {
        return vec![format!("{place}: contents.parts must not be empty.\n")];
    }
    let empty = |part: &Value| PART_DATA.iter().all(|name| member(part, name).is_none());
    let numbered = parts.iter().enumerate().filter(|(_, part)| empty(part));
    numbered
        .map(|(part, _)| {
            format!(
                "{place}[{part}].data: required oneof field 'data' must have one initialized field\n"
            )
        })
        .collect()
}

fn setting_faults(request: &Value) -> Vec<String> {
    let Some(config) = member(request, "generationConfig") else {
        return Vec::new();
    };
    let place = "* GenerateContentRequest.generation_config";
    let mut lines = Vec::new();
    for (camel, snake, most) in [("temperature", "temperature", 2.0), ("topP", "top_p", 1.0)] {
        if float_member(config, camel).is_some_and(|value| !(0.0..=most).contains(&value)) {
            lines
                .push(format!("{place}.{snake}: {snake} must be in the range [0.0, {most:.1}].\n"));
        }
    }
    if members(config, "stopSequences").len() > 5 {
        lines.push(format!("{place}.stop_sequences: at most 5 stop sequences are allowed.\n"));
    }
    if member(config, "responseSchema").is_some() && member(config, "responseJsonSchema").is_some()
    {
        lines.push(format!(
            "{place}.response_json_schema: only one of response_schema and response_json_schema \
             may be set.\n"
        ));
    }
    lines
}

fn media_fault(
    part: &Value,
    check_file: impl Fn(&str) -> Result<(), ApiError>,
) -> Option<ApiError> {
    let media = member(part, "inlineData").or_else(|| member(part, "fileData"))?;
    let mime_type = text_member(media, "mimeType").unwrap_or_default();
    if UNSUPPORTED.contains(&mime_type) {
        return Some(error::invalid_argument(format!("Unsupported MIME type: {mime_type}")));
    }
    let uri = text_member(media, "fileUri")?;
    if let Some(id) = id_in(uri) {
        return check_file(id).err();
    }
    (!uri.starts_with("https://"))
        .then(|| error::invalid_argument(format!("Invalid or unsupported file uri: {uri}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(request: &Value) -> Option<String> {
        let check_file = |id: &str| match id {
            "mine" => Ok(()),
            other => Err(error::file_permission(other)),
        };
        refused(request, &Facts::of(request), check_file).map(|error| error.message)
    }

    #[test]
    fn either_spelling_is_found() {
        let value = json!({"max_output_tokens": "5", "topK": null, "a": 1});
        assert_eq!(number_member(&value, "maxOutputTokens"), Some(5));
        assert_eq!(member(&value, "topK"), None);
        assert_eq!(member(&value, "ab"), None);
    }

    #[test]
    fn facts_join_text_and_count_media() {
        let facts = Facts::of(&json!({"systemInstruction": {"parts": [{"text": "1234"}]},
            "contents": [{"parts": [{"text": "Hello, "}, {"inline_data": {"mime_type": "image/png"}},
                {"text": "world"}, {"fileData": {"mimeType": "image/png"}}]}]}));
        assert_eq!(facts.prompt, "Hello, world");
        assert_eq!(facts.tokens, [("TEXT", 4), ("IMAGE", 516)]);
        assert_eq!(facts.total(), 520);
    }

    #[test]
    fn what_the_model_refuses_is_told_in_its_words() {
        assert_eq!(
            message(&json!({})).unwrap(),
            "* GenerateContentRequest.contents: contents is not specified\n"
        );
        assert_eq!(
            message(&json!({"contents": [{"parts": [{"thought": true}]}]})).unwrap(),
            "* GenerateContentRequest.contents[0].parts[0].data: required oneof field 'data' must \
             have one initialized field\n"
        );
        assert_eq!(
            message(&json!({"contents": [{"role": "system", "parts": [{"text": "a"}]}]})).unwrap(),
            "Please use a valid role: user, model."
        );
        let hot = json!({"contents": [{"parts": [{"text": "a"}]}], "generationConfig": {"temperature": 3}});
        assert!(message(&hot).unwrap().contains("must be in the range [0.0, 2.0]"));
        assert_eq!(message(&json!({"contents": [{"parts": [{"text": "a"}]}]})), None);
    }

    #[test]
    fn media_that_is_not_there_is_refused() {
        let with = |uri: &str| json!({"contents": [{"parts": [{"fileData": {"fileUri": uri, "mimeType": "video/mp4"}}]}]});
        let own = with("https://generativelanguage.googleapis.com/v1beta/files/abc");
        assert_eq!(first_file(&own), Some("abc"));
        assert_eq!(
            message(&own).unwrap(),
            "You do not have permission to access the File abc or it may not exist."
        );
        assert_eq!(message(&with("http://127.0.0.1:1/v1beta/files/mine")), None);
        let plain = message(&with("http://example.org/a.mp4")).unwrap();
        assert_eq!(plain, "Invalid or unsupported file uri: http://example.org/a.mp4");
        assert_eq!(message(&with("https://example.org/files/a.mp4")), None);
    }
}
