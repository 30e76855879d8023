//! From the responses of a stream to the one that a plain call would have brought.
//!
//! Of most members the last value counts; only candidates, their parts and the text of neighbouring
//! parts add up. Values stay text as they came, so numbers of any size and unknown members survive.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::gemini::redact;

/// The members of an object as it came.
type Members<'a> = BTreeMap<String, &'a RawValue>;

/// The candidate whose text counts.
const FIRST: u64 = 0;

/// What the responses so far amount to; without the secret once it is JSON.
#[derive(Serialize)]
pub(super) struct Merged<'a> {
    #[serde(skip_serializing_if = "BTreeMap::is_empty", serialize_with = "values")]
    candidates: BTreeMap<u64, Candidate>,
    #[serde(flatten)]
    more: Kept,
    #[serde(skip)]
    is_empty: bool,
    #[serde(skip)]
    secret: &'a str,
}

#[derive(Default, Serialize)]
struct Candidate {
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Content>,
    #[serde(flatten)]
    more: Kept,
}

#[derive(Default, Serialize)]
struct Content {
    #[serde(skip_serializing_if = "Option::is_none")]
    parts: Option<Vec<Part>>,
    #[serde(flatten)]
    more: Kept,
}

#[derive(Default, Serialize)]
struct Part {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(flatten)]
    more: Kept,
}

/// Members of which the last value counts.
#[derive(Default, Serialize)]
#[serde(transparent)]
struct Kept(BTreeMap<String, Box<RawValue>>);

fn values<S: serde::Serializer>(
    candidates: &BTreeMap<u64, Candidate>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(candidates.values())
}

impl<'a> Merged<'a> {
    /// Begins an answer that must not hold `secret`.
    pub(super) fn new(secret: &'a str) -> Self {
        let candidates = BTreeMap::new();
        Self { candidates, more: Kept::default(), is_empty: true, secret }
    }

    /// Takes an event, which is a response or a list of some; returns what they add to the first
    /// candidate's text, the secret included. Whatever follows an error is left out.
    pub(super) fn add(&mut self, event: &[u8]) -> serde_json::Result<String> {
        let mut heard = String::new();
        let responses: Vec<Members<'_>> = if event.trim_ascii_start().starts_with(b"[") {
            serde_json::from_slice(event)?
        } else {
            vec![serde_json::from_slice(event)?]
        };
        for response in responses {
            self.add_response(response, &mut heard)?;
            if self.error().is_some() {
                break;
            }
        }
        Ok(heard)
    }

    /// Returns what the API says went wrong.
    pub(super) fn error(&self) -> Option<&str> {
        self.more.get("error").filter(|error| *error != "null")
    }

    /// Returns whether the candidate that was heard is the one that an answer's reader sees.
    pub(super) fn has_first(&self) -> bool {
        self.candidates.contains_key(&FIRST)
    }

    /// Returns the whole as JSON, unless nothing came; its texts lose the secret for good.
    pub(super) fn masked_json(&mut self) -> Option<String> {
        if self.is_empty {
            return None;
        }
        for candidate in self.candidates.values_mut() {
            let parts = candidate.content.iter_mut().flat_map(|content| &mut content.parts);
            let parts = parts.flatten();
            let (thoughts, spoken): (Vec<_>, Vec<_>) = parts.partition(|part| part.is_thought());
            for parts in [thoughts, spoken] {
                let texts = parts.into_iter().filter_map(|part| part.text.as_mut());
                redact::answer_texts(texts, self.secret);
            }
        }
        serde_json::to_string(self).ok()
    }

    fn add_response(
        &mut self,
        mut response: Members<'_>,
        heard: &mut String,
    ) -> serde_json::Result<()> {
        let candidates = response.remove("candidates").map_or("null", RawValue::get);
        let candidates: Option<Vec<Members<'_>>> = serde_json::from_str(candidates)?;
        // The first index is 0, which may be left out, as any zero; a proxy leaves out all.
        let mut without_index = 0..;
        for candidate in candidates.into_iter().flatten() {
            let index = candidate.get("index").and_then(|index| index.get().parse().ok());
            let index = index.or_else(|| without_index.next()).unwrap_or(FIRST);
            let known = self.candidates.entry(index).or_default();
            known.add(candidate, self.secret, &mut |text| {
                if index == FIRST {
                    heard.push_str(text);
                }
            })?;
        }
        self.is_empty = false;
        self.more.add(response, self.secret)
    }
}

impl Candidate {
    fn add(
        &mut self,
        mut members: Members<'_>,
        secret: &str,
        hear: &mut dyn FnMut(&str),
    ) -> serde_json::Result<()> {
        let content = members.remove("content").map_or("null", RawValue::get);
        self.more.add(members, secret)?;
        let Some(mut content) = serde_json::from_str::<Option<Members<'_>>>(content)? else {
            return Ok(());
        };
        let known = self.content.get_or_insert_default();
        let parts = content.remove("parts").map_or("null", RawValue::get);
        known.more.add(content, secret)?;
        let Some(parts) = serde_json::from_str::<Option<Vec<Members<'_>>>>(parts)? else {
            return Ok(());
        };
        let known = known.parts.get_or_insert_default();
        for part in parts {
            let part = Part::read(part, secret)?;
            if let Some(text) = part.text.as_deref().filter(|_| !part.is_thought()) {
                hear(text);
            }
            match known.last_mut() {
                Some(last) if last.continues_in(&part) => last.extend(&part),
                _ => known.push(part),
            }
        }
        Ok(())
    }
}

impl Part {
    fn read(mut members: Members<'_>, secret: &str) -> serde_json::Result<Self> {
        let text = members.get("text").map(|text| text.get()).filter(|text| text.starts_with('"'));
        let text = text.map(serde_json::from_str).transpose()?;
        if text.is_some() {
            members.remove("text");
        }
        let mut more = Kept::default();
        more.add(members, secret)?;
        Ok(Self { text, more })
    }

    fn is_thought(&self) -> bool {
        self.more.get("thought") == Some("true")
    }

    /// Returns whether it is text and nothing else, not even a signature of it.
    fn is_plain(&self) -> bool {
        self.text.is_some() && self.more.0.keys().all(|name| name == "thought")
    }

    fn continues_in(&self, next: &Self) -> bool {
        self.is_plain() && next.is_plain() && self.is_thought() == next.is_thought()
    }

    fn extend(&mut self, next: &Self) {
        if let (Some(text), Some(more)) = (&mut self.text, &next.text) {
            text.push_str(more);
        }
    }
}

impl Kept {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.get())
    }

    /// Takes newer values; a null stands for none.
    fn add(&mut self, members: Members<'_>, secret: &str) -> serde_json::Result<()> {
        for (name, value) in members {
            let name = redact::answer_text(name, secret);
            if value.get() == "null" && self.0.contains_key(&name) {
                continue;
            }
            let value = redact::answer_text(value.get().to_owned(), secret);
            self.0.insert(name, RawValue::from_string(value)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "canary-secret-0123456789";

    fn merged(events: &[&str]) -> (String, Vec<String>) {
        let mut merged = Merged::new(SECRET);
        let heard = events.iter().map(|event| merged.add(event.as_bytes()).unwrap()).collect();
        (merged.masked_json().unwrap(), heard)
    }

    fn with_parts(parts: &str) -> String {
        format!(r#"{{"candidates":[{{"content":{{"parts":[{parts}]}}}}]}}"#)
    }

    #[test]
    fn the_last_value_counts_and_unknown_ones_stay() {
        let (raw, heard) = merged(&[
            r#"{"candidates": [{"content": {"parts": [{"text": "a"}], "role": "model"}, "index": 0}],
                "usageMetadata": {"promptTokenCount": 7}, "modelVersion": "m", "new": {"x": 1e999}}"#,
            r#"{"candidates": [{"finishReason": "STOP", "index": 0, "citationMetadata": {"y": []}}],
                "usageMetadata": {"totalTokenCount": 123456789012345678901234567890}}"#,
            r#"{"candidates": null, "usageMetadata": null, "responseId": "r"}"#,
        ]);
        assert_eq!(
            raw,
            concat!(
                r#"{"candidates":[{"content":{"parts":[{"text":"a"}],"role":"model"},"#,
                r#""citationMetadata":{"y": []},"finishReason":"STOP","index":0}],"#,
                r#""modelVersion":"m","new":{"x": 1e999},"responseId":"r","#,
                r#""usageMetadata":{"totalTokenCount": 123456789012345678901234567890}}"#
            )
        );
        assert_eq!(heard, ["a", "", ""]);
    }

    #[test]
    fn neighbouring_texts_of_one_kind_are_joined() {
        let signed = r#"{"text":"s","thoughtSignature":"AA"}"#;
        let thought = r#"{"text":"t","thought":true}"#;
        let call = r#"{"functionCall":{"name":"f"}}"#;
        let text = r#"{"text":"é\n\"\\u"}"#;
        for (events, wanted) in [
            (vec![text, r#"{"text":"\u00e9\/"}"#], r#"{"text":"é\n\"\\ué/"}"#.to_owned()),
            (
                vec![thought, thought, text, text],
                r#"{"text":"tt","thought":true},{"text":"é\n\"\\ué\n\"\\u"}"#.to_owned(),
            ),
            (vec![signed, signed], format!("{signed},{signed}")),
            (vec![text, signed, text], format!("{text},{signed},{text}")),
            (vec![call, call, text], format!("{call},{call},{text}")),
            (vec![r#"{"text":""}"#, text], text.to_owned()),
            (vec![r#"{"text":null}"#, r#"{"text":5}"#], r#"{"text":null},{"text":5}"#.to_owned()),
        ] {
            let apart: Vec<_> = events.iter().map(|part| with_parts(part)).collect();
            let apart: Vec<_> = apart.iter().map(String::as_str).collect();
            assert_eq!(merged(&apart).0, with_parts(&wanted));
            assert_eq!(merged(&[&with_parts(&events.join(","))]).0, with_parts(&wanted));
            assert_eq!(merged(&[&format!("[{}]", apart.join(","))]).0, with_parts(&wanted));
        }
    }

    #[test]
    fn candidates_are_told_apart_by_their_index() {
        let text = |text| format!(r#""content": {{"parts": [{{"text": "{text}"}}]}}"#);
        let first =
            format!(r#"{{"candidates": [{{{}, "index": 1}}, {{{}}}]}}"#, text("b"), text("a"));
        let second = format!(r#"{{"candidates": [{{{}}}, {{{}}}]}}"#, text("A"), text("B"));
        let (raw, heard) = merged(&[&first, &second]);
        assert_eq!(
            raw,
            concat!(
                r#"{"candidates":[{"content":{"parts":[{"text":"aA"}]}},"#,
                r#"{"content":{"parts":[{"text":"bB"}]},"index":1}]}"#
            )
        );
        assert_eq!(heard, ["a", "A"]);
    }

    #[test]
    fn thoughts_are_not_heard_and_nothing_counts_after_an_error() {
        let mut merged = Merged::new(SECRET);
        let parts = with_parts(r#"{"text": "a"}, {"thought": true, "text": "t"}, {"text": "b"}"#);
        assert_eq!(merged.add(parts.as_bytes()).unwrap(), "ab");
        let list = format!(r#"[{{"error": null}}, {{"error": {{"code": 503}}}}, {parts}]"#);
        assert_eq!(merged.add(list.as_bytes()).unwrap(), "");
        assert_eq!(merged.error(), Some(r#"{"code": 503}"#));
        assert!(merged.masked_json().unwrap().ends_with(r#","error":{"code": 503}}"#));
    }

    #[test]
    fn what_is_no_response_is_refused() {
        for event in ["", "x", "5", "[5]", "{\"candidates\": [", "{} {}", "{\"candidates\": 5}"] {
            assert!(Merged::new(SECRET).add(event.as_bytes()).is_err(), "{event}");
        }
        assert!(Merged::new(SECRET).add(b"{\"a\": \"\xff\"}").is_err());
        assert_eq!(Merged::new(SECRET).masked_json(), None);
        assert_eq!(merged(&["{}"]).0, "{}");
    }

    #[test]
    fn no_member_holds_the_secret() {
        let parts = [
            format!(r#"{{"text": "a {SECRET} canary-"}}"#),
            r#"{"text": "secret-", "thoughtSignature": "AA"}"#.to_owned(),
            r#"{"text": "canary-secret-", "thought": true}"#.to_owned(),
            r#"{"text": "01234\u00356789 b"}"#.to_owned(),
            format!(r#"{{"functionCall": {{"{SECRET}": "{SECRET}"}}}}"#),
        ];
        let other = format!(r#"{{"{SECRET}": "{SECRET}"}}"#);
        let (raw, _) = merged(&[&with_parts(&parts.join(",")), &other]);
        assert!(!raw.contains(SECRET), "{raw}");
        assert_eq!(raw.matches(redact::MASK).count(), 6, "{raw}");
        assert!(raw.contains(r#"{"text":"a [redacted] [redacted]"},{"text":"","thought"#), "{raw}");
        assert!(raw.contains(r#"{"text":" b"}"#), "{raw}");
    }
}
