//! What the stand-in answers: the text for a prompt and the envelope around it.
//!
//! Deterministic and pure. JSON for a schema is in `fit`, the capitals in `capitals`.

use serde::Serialize;
use serde_json::{Value, json};

use super::capitals;
use super::fit;
use super::media;
use super::script::scramble;
use super::sense::{Facts, member, members, number_member, text_member};

/// What a picture or a sound counts.
const MEDIA_TOKENS: u64 = 258;
/// How much of a prompt is repeated.
const ECHO_LENGTH: usize = 80;

/// A whole answer; its fields stand in the order in which the API writes them.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) candidates: Vec<Candidate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) prompt_feedback: Option<Value>,
    pub(super) usage_metadata: Usage,
    pub(super) model_version: String,
    pub(super) response_id: String,
}

/// One candidate.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Candidate {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<Content>,
    pub(super) finish_reason: &'static str,
    pub(super) index: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) safety_ratings: Vec<Value>,
}

/// The content of a candidate.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Content {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) parts: Vec<Part>,
    pub(super) role: &'static str,
}

/// One part of a content.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Part {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) thought: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) inline_data: Option<Value>,
}

impl Part {
    fn text(text: String) -> Self {
        Self { text: Some(text), ..Self::default() }
    }

    fn media(inline_data: Value) -> Self {
        Self { inline_data: Some(inline_data), ..Self::default() }
    }
}

/// What an answer cost.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Usage {
    pub(super) prompt_token_count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) candidates_token_count: Option<u64>,
    pub(super) total_token_count: u64,
    pub(super) prompt_tokens_details: Vec<TokenDetail>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) thoughts_token_count: Option<u64>,
}

/// The tokens of one modality.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TokenDetail {
    pub(super) modality: &'static str,
    pub(super) token_count: u64,
}

impl Usage {
    /// Returns the cost of a prompt alone.
    pub(super) fn of_prompt(facts: &Facts) -> Self {
        Self {
            prompt_token_count: facts.total(),
            total_token_count: facts.total(),
            prompt_tokens_details: details(facts),
            ..Self::default()
        }
    }

    fn add(mut self, candidates: u64, thoughts: u64) -> Self {
        self.candidates_token_count = Some(candidates);
        self.thoughts_token_count = Some(thoughts).filter(|&tokens| tokens > 0);
        self.total_token_count += candidates + thoughts;
        self
    }
}

/// Returns the tokens of a prompt by modality.
pub(super) fn details(facts: &Facts) -> Vec<TokenDetail> {
    let detail = |&(modality, token_count): &(_, _)| TokenDetail { modality, token_count };
    facts.tokens.iter().map(detail).collect()
}

/// What an answer is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) request: &'a Value,
    pub(super) facts: &'a Facts,
    pub(super) model: &'a str,
    /// The text to answer with, instead of one found for the prompt.
    pub(super) text: Option<&'a str>,
    /// Makes the response's id.
    pub(super) serial: u64,
}

impl Question<'_> {
    /// Returns the answer.
    pub(super) fn answer(&self) -> Answer {
        let config = member(self.request, "generationConfig").unwrap_or(&Value::Null);
        let text = self.text.map_or_else(|| found_text(&self.facts.prompt, config), str::to_owned);
        let (text, stopped) = stop_at(text, members(config, "stopSequences"));
        let (text, cut) = cut_to(text, number_member(config, "maxOutputTokens"));
        let finish_reason = if cut && !stopped { "MAX_TOKENS" } else { "STOP" };
        let thinking = member(config, "thinkingConfig").unwrap_or(&Value::Null);
        let thoughts = member(thinking, "includeThoughts") == Some(&Value::Bool(true));
        let count = number_member(config, "candidateCount").unwrap_or(1).clamp(1, 8);
        let tokens = token_count(&text) * count;
        let parts = parts(text, thoughts, config, &self.facts.prompt);
        let candidate = |index| {
            let content = Some(Content { parts: parts.clone(), role: "model" });
            Candidate { content, finish_reason, index, safety_ratings: Vec::new() }
        };
        self.envelope(
            (0..count).map(candidate).collect(),
            Usage::of_prompt(self.facts).add(tokens, if thoughts { 12 } else { 0 }),
        )
    }

    /// Returns an answer whose prompt is refused.
    pub(super) fn blocked(&self, reason: &str) -> Answer {
        let mut answer = self.envelope(Vec::new(), Usage::of_prompt(self.facts));
        answer.prompt_feedback = Some(json!({"blockReason": reason}));
        answer
    }

    /// Returns an answer of a picture without text.
    pub(super) fn image(&self) -> Answer {
        self.of_media(media::image(&self.facts.prompt))
    }

    /// Returns an answer of a sound without text.
    pub(super) fn sound(&self) -> Answer {
        self.of_media(media::sound(&self.facts.prompt))
    }

    fn of_media(&self, inline_data: Value) -> Answer {
        let content = Some(Content { parts: vec![Part::media(inline_data)], role: "model" });
        let candidate = Candidate { content, finish_reason: "STOP", ..Candidate::default() };
        self.envelope(vec![candidate], Usage::of_prompt(self.facts).add(MEDIA_TOKENS, 0))
    }

    /// Returns an answer with one candidate that has no text.
    pub(super) fn without_text(&self, finish_reason: &'static str, content: bool) -> Answer {
        let content = content.then(|| Content { parts: Vec::new(), role: "model" });
        let mut candidate = Candidate { content, finish_reason, ..Candidate::default() };
        if finish_reason == "SAFETY" {
            candidate.safety_ratings = vec![json!({
                "category": "HARM_CATEGORY_HARASSMENT",
                "probability": "HIGH",
                "blocked": true,
            })];
        }
        let mut usage = Usage::of_prompt(self.facts);
        if finish_reason == "MAX_TOKENS" {
            usage.thoughts_token_count = Some(2999);
            usage.total_token_count += 2999;
        }
        self.envelope(vec![candidate], usage)
    }

    fn envelope(&self, candidates: Vec<Candidate>, usage_metadata: Usage) -> Answer {
        Answer {
            candidates,
            prompt_feedback: None,
            usage_metadata,
            model_version: version_of(self.model).to_owned(),
            response_id: response_id(self.serial),
        }
    }
}

/// Returns the text for a prompt.
pub(super) fn text_for(prompt: &str) -> String {
    if let Some((country, capital)) = capitals::asked_for(prompt) {
        return format!("The capital of {country} is {capital}.");
    }
    let words: Vec<&str> = prompt.split_whitespace().collect();
    let plain = words.join(" ");
    match plain.char_indices().nth(ECHO_LENGTH) {
        _ if plain.is_empty() => "This is a stand-in's answer.".to_owned(),
        Some((end, _)) => format!("This is a stand-in's answer to: {}…", &plain[..end]),
        None => format!("This is a stand-in's answer to: {plain}"),
    }
}

/// Returns how many tokens a text counts.
pub(super) fn token_count(text: &str) -> u64 {
    (text.chars().count() as u64).div_ceil(4)
}

fn found_text(prompt: &str, config: &Value) -> String {
    let schema = ["responseSchema", "responseJsonSchema", "_responseJsonSchema"]
        .iter()
        .find_map(|name| member(config, name));
    let short = capitals::asked_for(prompt)
        .map_or_else(|| text_for(prompt), |(_, capital)| capital.to_owned());
    match (text_member(config, "responseMimeType"), schema) {
        (Some("application/json"), Some(schema)) => fit::value_for(schema, &short).to_string(),
        (Some("application/json"), None) => json!({"answer": short}).to_string(),
        (Some("text/x.enum"), Some(schema)) => match fit::value_for(schema, &short) {
            Value::String(text) => text,
            other => other.to_string(),
        },
        _ => text_for(prompt),
    }
}

fn parts(text: String, thoughts: bool, config: &Value, prompt: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    if thoughts {
        let thought = Part::text("I look at what is asked and answer it.".to_owned());
        parts.push(Part { thought: Some(true), ..thought });
    }
    let modalities = members(config, "responseModalities");
    let asked = |modality: &str| {
        let mut all = modalities.iter().filter_map(Value::as_str);
        all.any(|name| name.eq_ignore_ascii_case(modality))
    };
    if asked("AUDIO") {
        return vec![Part::media(media::speech(prompt))];
    }
    if asked("TEXT") || !asked("IMAGE") {
        parts.push(Part::text(text));
    }
    if asked("IMAGE") {
        parts.push(Part::media(media::image(prompt)));
    }
    parts
}

fn stop_at(mut text: String, sequences: &[Value]) -> (String, bool) {
    let found = sequences.iter().filter_map(Value::as_str).filter(|stop| !stop.is_empty());
    let first = found.filter_map(|stop| text.find(stop)).min();
    if let Some(end) = first {
        text.truncate(end);
    }
    (text, first.is_some())
}

fn cut_to(mut text: String, tokens: Option<u64>) -> (String, bool) {
    let letters = tokens.and_then(|tokens| usize::try_from(tokens.saturating_mul(4)).ok());
    let end = letters.and_then(|letters| text.char_indices().nth(letters));
    if let Some((end, _)) = end {
        text.truncate(end);
    }
    (text, end.is_some())
}

/// Returns the model that a moving name stands for.
fn version_of(model: &str) -> &str {
    match model {
        "gemini-flash-latest" => "gemini-3.8-flash",
        "gemini-flash-lite-latest" => "gemini-3.5-flash-lite",
        "gemini-pro-latest" => "gemini-3.1-pro-preview",
        other => other,
    }
}

fn response_id(serial: u64) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = u128::from(scramble(serial)) << 64 | u128::from(scramble(!serial));
    (0..21).map(|place| char::from(LETTERS[(bits >> (place * 6) & 63) as usize])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(request: &Value) -> Value {
        let facts = &Facts::of(request);
        let question =
            Question { request, facts, model: "gemini-flash-latest", text: None, serial: 1 };
        serde_json::to_value(question.answer()).unwrap()
    }

    fn asking(prompt: &str, config: &Value) -> Value {
        json!({"contents": [{"parts": [{"text": prompt}]}], "generationConfig": config})
    }

    #[test]
    fn a_capital_is_known_and_anything_else_is_repeated() {
        assert_eq!(text_for("What is the capital of France?"), "The capital of France is Paris.");
        assert_eq!(text_for("Hello\n there"), "This is a stand-in's answer to: Hello there");
        assert_eq!(text_for(&"x".repeat(100)).chars().count(), 32 + 80 + 1);
        assert_eq!(text_for(" "), "This is a stand-in's answer.");
    }

    #[test]
    fn the_envelope_is_the_real_one() {
        let answer = answer(&asking("What is the capital of France?", &Value::Null));
        assert_eq!(answer["candidates"][0]["content"]["role"], "model");
        assert_eq!(answer["candidates"][0]["finishReason"], "STOP");
        assert_eq!(answer["candidates"][0]["index"], 0);
        assert_eq!(
            answer["usageMetadata"],
            json!({"promptTokenCount": 8, "candidatesTokenCount": 8, "totalTokenCount": 16,
                "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 8}]})
        );
        assert_eq!(answer["modelVersion"], "gemini-3.8-flash");
        assert_eq!(answer["responseId"].as_str().unwrap().len(), 21);
    }

    #[test]
    fn few_tokens_cut_the_text() {
        let answer = answer(&asking("Hello", &json!({"maxOutputTokens": 2})));
        assert_eq!(answer["candidates"][0]["finishReason"], "MAX_TOKENS");
        assert_eq!(answer["candidates"][0]["content"]["parts"][0]["text"], "This is ");
        assert_eq!(answer["usageMetadata"]["candidatesTokenCount"], 2);
    }

    #[test]
    fn a_stop_sequence_ends_the_text() {
        let answer = answer(&asking("Hello", &json!({"stopSequences": ["a stand"]})));
        assert_eq!(answer["candidates"][0]["content"]["parts"][0]["text"], "This is ");
        assert_eq!(answer["candidates"][0]["finishReason"], "STOP");
    }

    #[test]
    fn a_schema_is_answered_in_json() {
        let schema = json!({"type": "OBJECT", "properties": {"capital": {"type": "STRING"}}});
        let config = json!({"responseMimeType": "application/json", "responseSchema": schema});
        let answer = answer(&asking("The capital of Japan, please.", &config));
        let text = answer["candidates"][0]["content"]["parts"][0]["text"].as_str().unwrap();
        assert_eq!(text, r#"{"capital":"Tokyo"}"#);
    }

    #[test]
    fn other_modalities_are_answered_where_they_are_asked_for() {
        let kinds = |modalities: Value| -> Vec<String> {
            let answer = answer(&asking("Hello", &json!({"responseModalities": modalities})));
            let parts = answer["candidates"][0]["content"]["parts"].as_array().unwrap();
            let kind = |part: &Value| match part["inlineData"]["mimeType"].as_str() {
                Some(mime_type) => mime_type.to_owned(),
                None => "text".to_owned(),
            };
            parts.iter().map(kind).collect()
        };
        assert_eq!(kinds(json!(["IMAGE"])), ["image/png"]);
        assert_eq!(kinds(json!(["TEXT", "IMAGE"])), ["text", "image/png"]);
        assert_eq!(kinds(json!(["audio"])), ["audio/L16;codec=pcm;rate=24000"]);
        assert_eq!(kinds(json!([])), ["text"]);
    }

    #[test]
    fn thoughts_stand_before_the_text() {
        let config = json!({"thinkingConfig": {"includeThoughts": true}});
        let answer = answer(&asking("Hello", &config));
        let parts = answer["candidates"][0]["content"]["parts"].as_array().unwrap();
        assert_eq!((parts.len(), &parts[0]["thought"]), (2, &Value::Bool(true)));
        assert_eq!(answer["usageMetadata"]["thoughtsTokenCount"], 12);
    }
}
