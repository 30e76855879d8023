//! The answer's JSON, read tolerantly: unknown fields, new enum values and nulls are no errors.

use std::borrow::Cow;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::domain::outcome::Usage;

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Answer<'a> {
    #[serde(borrow, deserialize_with = "or_default")]
    pub(super) candidates: Vec<Candidate<'a>>,
    #[serde(borrow)]
    pub(super) prompt_feedback: Option<PromptFeedback<'a>>,
    #[serde(borrow)]
    usage_metadata: Option<UsageMetadata<'a>>,
    #[serde(borrow)]
    model_version: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) error: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Candidate<'a> {
    #[serde(borrow)]
    content: Option<Content<'a>>,
    #[serde(borrow)]
    pub(super) finish_reason: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) finish_message: Option<Cow<'a, str>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Content<'a> {
    #[serde(borrow, deserialize_with = "or_default")]
    parts: Vec<Part<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Part<'a> {
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    thought: Option<bool>,
    #[serde(borrow)]
    inline_data: Option<&'a RawValue>,
    #[serde(borrow)]
    file_data: Option<&'a RawValue>,
    #[serde(borrow)]
    function_call: Option<&'a RawValue>,
    #[serde(borrow)]
    function_response: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_call: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_response: Option<&'a RawValue>,
    #[serde(borrow)]
    executable_code: Option<&'a RawValue>,
    #[serde(borrow)]
    code_execution_result: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PromptFeedback<'a> {
    #[serde(borrow)]
    pub(super) block_reason: Option<Cow<'a, str>>,
}

/// Counts stay text until they are asked for: one of a new form must not cost a paid answer.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct UsageMetadata<'a> {
    #[serde(borrow)]
    prompt_token_count: Option<&'a RawValue>,
    #[serde(borrow)]
    cached_content_token_count: Option<&'a RawValue>,
    #[serde(borrow)]
    candidates_token_count: Option<&'a RawValue>,
    #[serde(borrow)]
    thoughts_token_count: Option<&'a RawValue>,
    #[serde(borrow)]
    total_token_count: Option<&'a RawValue>,
}

/// Reads a count, which proto3 writes as a number or, where it has 64 bits, as a string.
fn count(value: Option<&RawValue>) -> i64 {
    value.and_then(|value| value.get().trim_matches('"').parse().ok()).unwrap_or(0)
}

impl<'a> Answer<'a> {
    /// Reads an answer; a list is none, although serde would take one for a struct's fields.
    pub(super) fn read(body: &'a str) -> Option<Self> {
        if !body.trim_start().starts_with('{') {
            return None;
        }
        serde_json::from_str(body).ok()
    }

    pub(super) fn usage(&self) -> Option<Usage> {
        let usage = self.usage_metadata.as_ref()?;
        Some(Usage {
            prompt_tokens: count(usage.prompt_token_count),
            cached_tokens: count(usage.cached_content_token_count),
            output_tokens: count(usage.candidates_token_count),
            thought_tokens: count(usage.thoughts_token_count),
            total_tokens: count(usage.total_token_count),
        })
    }

    pub(super) fn model_version(&self) -> Option<String> {
        self.model_version.as_deref().map(str::to_owned)
    }

    pub(super) fn finish_reason(&self) -> Option<String> {
        self.candidates.first()?.finish_reason.as_deref().map(str::to_owned)
    }

    /// Returns whether the API says that nothing more comes.
    pub(super) fn has_ended(&self) -> bool {
        self.candidates.first().is_some_and(|first| first.finish_reason.is_some())
            || self.prompt_feedback.as_ref().is_some_and(|said| said.block_reason.is_some())
    }

    fn parts(&self) -> &[Part<'a>] {
        self.candidates
            .first()
            .and_then(|candidate| candidate.content.as_ref())
            .map_or(&[], |content| &content.parts)
    }

    /// Returns the parts that are no thoughts.
    fn spoken(&self) -> impl Iterator<Item = &Part<'_>> {
        self.parts().iter().filter(|part| part.thought != Some(true))
    }

    pub(super) fn has_text(&self) -> bool {
        self.spoken().any(|part| part.text.as_deref().is_some_and(|text| !text.is_empty()))
    }

    /// Returns whether the answer holds something besides text: an image, a call, code.
    pub(super) fn has_other_content(&self) -> bool {
        self.spoken().any(|part| {
            part.inline_data.is_some()
                || part.file_data.is_some()
                || part.function_call.is_some()
                || part.function_response.is_some()
                || part.tool_call.is_some()
                || part.tool_response.is_some()
                || part.executable_code.is_some()
                || part.code_execution_result.is_some()
        })
    }

    fn text(&self) -> Option<String> {
        let mut text = None;
        for part in self.spoken() {
            if let Some(piece) = part.text.as_deref() {
                text.get_or_insert_with(String::new).push_str(piece);
            }
        }
        text
    }

    fn media(&self) -> Vec<Media> {
        self.spoken().filter_map(|part| part.inline_data).map(Media::read).collect()
    }
}

/// An image or a clip as the answer holds it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct InlineData<'a> {
    #[serde(borrow)]
    mime_type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<Cow<'a, str>>,
}

/// The JSON form of protocol buffers allows either alphabet, with or without padding.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);

fn decoded(data: &str) -> Option<Vec<u8>> {
    let alphabet = if data.contains(['-', '_']) { alphabet::URL_SAFE } else { alphabet::STANDARD };
    GeneralPurpose::new(&alphabet, LENIENT).decode(data).ok()
}

/// An image, a clip or another file that an answer holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Media {
    /// Its type as the API says it; `application/octet-stream` where it says none.
    pub mime_type: String,
    /// Its bytes; absent where they cannot be decoded.
    pub data: Option<Vec<u8>>,
}

impl Media {
    fn read(inline_data: &RawValue) -> Self {
        let known = serde_json::from_str::<InlineData<'_>>(inline_data.get()).ok();
        let mime_type = known.as_ref().and_then(|media| media.mime_type.as_deref());
        Self {
            mime_type: mime_type.unwrap_or("application/octet-stream").to_owned(),
            // Empty bytes may be left out.
            data: known.and_then(|media| decoded(media.data.as_deref().unwrap_or_default())),
        }
    }
}

/// What people want to know of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AnswerSummary {
    /// The text of the first candidate without thoughts; absent where it has no text part.
    pub text: Option<String>,
    /// The images and clips of the first candidate, without those of its thoughts.
    pub media: Vec<Media>,
    /// Why the answer ended.
    pub finish_reason: Option<String>,
    /// The model that answered.
    pub model_version: Option<String>,
    /// Tokens.
    pub usage: Option<Usage>,
}

/// Reads a stored answer; `None` where it is no JSON object.
pub fn summarize(raw: &str) -> Option<AnswerSummary> {
    let answer = Answer::read(raw)?;
    Some(AnswerSummary {
        text: answer.text(),
        media: answer.media(),
        finish_reason: answer.finish_reason(),
        model_version: answer.model_version(),
        usage: answer.usage(),
    })
}

/// Returns the text of a stored answer's first candidate without thoughts.
pub fn answer_text(raw: &str) -> Option<String> {
    Answer::read(raw)?.text()
}

/// Returns JSON text without the white space between its tokens; every value stays as it is.
pub fn minify(json: &str) -> String {
    let mut out = Vec::with_capacity(json.len());
    let mut in_string = false;
    let mut escaped = false;
    for &byte in json.as_bytes() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if byte.is_ascii_whitespace() {
            continue;
        } else {
            in_string = byte == b'"';
        }
        out.push(byte);
    }
    // Only ASCII was left out, so the text is still UTF-8.
    String::from_utf8(out).unwrap_or_else(|_| json.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_that_of_the_first_candidate_without_thoughts() {
        let raw = r#"{"candidates": [{"content": {"parts": [
            {"text": "plan", "thought": true}, {"text": "a\n"}, {"text": "b"}], "role": "model"},
            "finishReason": "STOP", "newField": null}, {"content": {"parts": [{"text": "c"}]}}],
            "usageMetadata": {"promptTokenCount": 8, "thoughtsTokenCount": 3, "totalTokenCount": 11},
            "modelVersion": "gemini-x"}"#;
        let summary = summarize(raw).unwrap();
        assert_eq!(summary.text.as_deref(), Some("a\nb"));
        assert_eq!(summary.finish_reason.as_deref(), Some("STOP"));
        assert_eq!(summary.usage.unwrap().thought_tokens, 3);
        assert_eq!(summarize(r#"{"candidates": null}"#).unwrap().text, None);
        assert_eq!(summarize("[]"), None);
        assert_eq!(answer_text(raw).as_deref(), Some("a\nb"));
    }

    #[test]
    fn counts_of_another_form_cost_no_answer() {
        let raw = r#"{"usageMetadata": {"promptTokenCount": "7", "totalTokenCount": {"a": 1},
            "candidatesTokenCount": null}, "candidates": [{"content": {"parts": [{"text": "x"}]}}]}"#;
        let summary = summarize(raw).unwrap();
        assert_eq!(summary.text.as_deref(), Some("x"));
        assert_eq!(summary.usage, Some(Usage { prompt_tokens: 7, ..Usage::default() }));
    }

    #[test]
    fn media_is_read_in_order_and_without_thoughts() {
        let raw = r#"{"candidates": [{"content": {"parts": [
            {"inlineData": {"mimeType": "image/png", "data": "AAAA"}, "thought": true},
            {"text": "two pictures"}, {"inlineData": {"mimeType": "image/png", "data": "aGk="}},
            {"inlineData": {"data": "-_-_8A", "more": 1}}, {"inlineData": {"mimeType": "a/b"}},
            {"inlineData": {"mimeType": "a/b", "data": "*"}}, {"inlineData": {"data": 5}}]}},
            {"content": {"parts": [{"inlineData": {"mimeType": "c/d", "data": "AAAA"}}]}}]}"#;
        let media = summarize(raw).unwrap().media;
        let told: Vec<(&str, Option<&[u8]>)> =
            media.iter().map(|one| (one.mime_type.as_str(), one.data.as_deref())).collect();
        assert_eq!(
            told,
            [
                ("image/png", Some(&b"hi"[..])),
                ("application/octet-stream", Some(&[251, 255, 191, 240])),
                ("a/b", Some(&[])),
                ("a/b", None),
                ("application/octet-stream", None),
            ]
        );
    }

    #[test]
    fn minifying_keeps_every_value() {
        let pretty = "{\r\n  \"a b\": [1, \"x \\\" y\\\\\", 1.0e5],\n\t\"ü\": \" \"\n}\n";
        assert_eq!(minify(pretty), "{\"a b\":[1,\"x \\\" y\\\\\",1.0e5],\"ü\":\" \"}");
    }
}
