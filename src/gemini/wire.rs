//! The answer's JSON, read tolerantly: unknown fields, new enum values and nulls are no errors.

use std::borrow::Cow;

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
    usage_metadata: Option<UsageMetadata>,
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

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct UsageMetadata {
    prompt_token_count: Option<i64>,
    cached_content_token_count: Option<i64>,
    candidates_token_count: Option<i64>,
    thoughts_token_count: Option<i64>,
    total_token_count: Option<i64>,
}

impl<'a> Answer<'a> {
    /// Reads an answer, which is a JSON object; a derived reader would take a list as well.
    pub(super) fn read(body: &'a str) -> Option<Self> {
        let body = body.trim_start();
        body.starts_with('{').then(|| serde_json::from_str(body).ok())?
    }

    pub(super) fn usage(&self) -> Option<Usage> {
        let usage = self.usage_metadata?;
        Some(Usage {
            prompt_tokens: usage.prompt_token_count.unwrap_or(0),
            cached_tokens: usage.cached_content_token_count.unwrap_or(0),
            output_tokens: usage.candidates_token_count.unwrap_or(0),
            thought_tokens: usage.thoughts_token_count.unwrap_or(0),
            total_tokens: usage.total_token_count.unwrap_or(0),
        })
    }

    pub(super) fn model_version(&self) -> Option<String> {
        self.model_version.as_deref().map(str::to_owned)
    }

    fn parts(&self) -> &[Part<'a>] {
        self.candidates
            .first()
            .and_then(|candidate| candidate.content.as_ref())
            .map_or(&[], |content| &content.parts)
    }

    pub(super) fn has_text(&self) -> bool {
        let mut spoken = self.parts().iter().filter(|part| part.thought != Some(true));
        spoken.any(|part| part.text.as_deref().is_some_and(|text| !text.is_empty()))
    }

    /// Returns whether the answer holds something besides text: an image, a call, code.
    pub(super) fn has_other_content(&self) -> bool {
        self.parts().iter().any(|part| {
            part.inline_data.is_some()
                || part.file_data.is_some()
                || part.function_call.is_some()
                || part.executable_code.is_some()
                || part.code_execution_result.is_some()
        })
    }

    fn text(&self) -> Option<String> {
        let mut text = None;
        for part in self.parts().iter().filter(|part| part.thought != Some(true)) {
            if let Some(piece) = part.text.as_deref() {
                text.get_or_insert_with(String::new).push_str(piece);
            }
        }
        text
    }
}

/// What people want to know of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AnswerSummary {
    /// The text of the first candidate without thoughts; absent where it has no text part.
    pub text: Option<String>,
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
        finish_reason: answer
            .candidates
            .first()
            .and_then(|candidate| candidate.finish_reason.as_deref())
            .map(str::to_owned),
        model_version: answer.model_version(),
        usage: answer.usage(),
    })
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
    }

    #[test]
    fn minifying_keeps_every_value() {
        let pretty = "{\r\n  \"a b\": [1, \"x \\\" y\\\\\", 1.0e5],\n\t\"ü\": \" \"\n}\n";
        assert_eq!(minify(pretty), "{\"a b\":[1,\"x \\\" y\\\\\",1.0e5],\"ü\":\" \"}");
    }
}
