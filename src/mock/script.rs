//! The script: rules that pick requests and say what happens to them.
//!
//! Owns which rule fires. What a rule does is carried out by the handler.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use serde_json::Value;

use super::canned::Canned;

/// One rule: the first fields pick requests (all given ones must hold), the rest act.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the file")]
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// Which calls it looks at; left out, those that generate, streamed or not.
    pub method: MethodFilter,
    /// Only calls with this key.
    pub key: Option<String>,
    /// Only calls of this model.
    pub model: Option<String>,
    /// Only calls whose prompt contains this text.
    pub prompt_contains: Option<String>,
    /// Whether the counts below are kept for each prompt alone.
    pub per_prompt: bool,
    /// Only the call of this number, from 1, among those that the fields above pick.
    pub nth: Option<u64>,
    /// Only the first so many.
    pub first: Option<u64>,
    /// Only each so-many-th.
    pub every: Option<u64>,
    /// Only this share of them, from 0 to 1.
    pub probability: Option<f64>,
    /// What the choice by `probability` starts from; the same seed chooses the same.
    pub seed: u64,

    /// Sends so many chunks of a streamed answer before it does what follows; left out, none.
    pub after_chunks: Option<usize>,
    /// Waits until a release lets it go on.
    pub hold: bool,
    /// Lets each chunk of a streamed answer wait for a release of its own.
    pub hold_chunks: bool,
    /// Waits so long.
    pub delay_ms: u64,
    /// Answers with a ready-made body.
    pub reply: Option<Canned>,
    /// Answers with this status; without a body of its own it gets the usual one.
    pub status: Option<u16>,
    /// Answers with this body: text as it stands, any other value as JSON.
    pub body: Option<Value>,
    /// Sends an error in the midst of a stream as bare JSON, without `data:`.
    pub bare: bool,
    /// Answers with this text, as the model.
    pub text: Option<String>,
    /// Breaks the answer on its way.
    pub fault: Option<Fault>,
    /// The size of the answer of `huge_body`.
    pub bytes: Option<u64>,
    /// The delay that an error names, such as `1.5s`.
    pub retry_delay: Option<String>,
    /// Headers added to the answer.
    pub headers: BTreeMap<String, String>,
}

/// Which calls a rule looks at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum MethodFilter {
    /// `generateContent` and `streamGenerateContent`; has no name.
    #[default]
    #[serde(skip)]
    Generate,
    /// `generateContent`.
    #[serde(rename = "generateContent")]
    GenerateContent,
    /// `streamGenerateContent`.
    #[serde(rename = "streamGenerateContent")]
    StreamGenerateContent,
    /// `countTokens`.
    #[serde(rename = "countTokens")]
    CountTokens,
    /// The list of models, and one model.
    #[serde(rename = "models")]
    Models,
    /// The start of an upload, and its chunks.
    #[serde(rename = "upload")]
    Upload,
    /// Other calls of the Files API: one file, the list, a deletion; and of an upload a query or
    /// the giving up.
    #[serde(rename = "files")]
    Files,
    /// All calls.
    #[serde(rename = "any")]
    Any,
}

/// How an answer is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// A TCP reset before the first byte.
    ResetBefore,
    /// A TCP reset after the headers.
    ResetAfterHeaders,
    /// The connection is closed in the middle of the body.
    CutBody,
    /// Half of the body, then nothing more.
    Stall,
    /// Nothing at all, on an open connection.
    StallBefore,
    /// A redirect; its `location` may be set by `headers`.
    Redirect,
    /// An answer of so many `bytes`; left out, 300 MiB.
    HugeBody,
    /// An error whose message holds the key.
    EchoKey,
    /// Half of a chunk is taken, then a TCP reset; of another call, a reset before the first byte.
    CutUpload,
    /// A request of an upload is answered without a status and changes nothing.
    NoUploadStatus,
    /// A streamed answer ends in order before its last chunk; any other one is cut in the middle.
    EndEarly,
}

/// What a rule needs to know of a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) method: MethodFilter,
    pub(super) key: &'a str,
    pub(super) model: &'a str,
    pub(super) prompt: &'a str,
    pub(super) prompt_number: u64,
}

/// The rules with their counts.
#[derive(Debug, Default)]
pub(super) struct Script {
    rules: Vec<(Rule, Mutex<HashMap<u64, u64>>)>,
}

impl Script {
    pub(super) fn new(rules: Vec<Rule>) -> Self {
        Self { rules: rules.into_iter().map(|rule| (rule, Mutex::default())).collect() }
    }

    /// Counts a call in each rule that looks at it, and returns the first rule that fires.
    pub(super) fn fires(&self, seen: &Seen<'_>) -> Option<&Rule> {
        let mut fired = None;
        for (rule, counts) in &self.rules {
            if !rule.looks_at(seen) {
                continue;
            }
            let slot = if rule.per_prompt { seen.prompt_number } else { 0 };
            let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
            let number = counts.entry(slot).or_default();
            *number += 1;
            if fired.is_none() && rule.picks(*number, slot) {
                fired = Some(rule);
            }
        }
        fired
    }

    /// Sets all counts back.
    pub(super) fn reset(&self) {
        for (_, counts) in &self.rules {
            counts.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }
}

impl Rule {
    fn looks_at(&self, seen: &Seen<'_>) -> bool {
        let same = |wanted: &Option<String>, given| wanted.as_deref().is_none_or(|it| it == given);
        let generates = matches!(
            seen.method,
            MethodFilter::GenerateContent | MethodFilter::StreamGenerateContent
        );
        (self.method == MethodFilter::Any
            || self.method == seen.method
            || (self.method == MethodFilter::Generate && generates))
            && same(&self.key, seen.key)
            && same(&self.model, seen.model)
            && self.prompt_contains.as_deref().is_none_or(|text| seen.prompt.contains(text))
    }

    fn picks(&self, number: u64, slot: u64) -> bool {
        self.nth.is_none_or(|nth| number == nth)
            && self.first.is_none_or(|first| number <= first)
            && self.every.is_none_or(|every| number.checked_rem(every) == Some(0))
            && self.probability.is_none_or(|share| {
                unit(scramble(self.seed ^ slot.rotate_left(17) ^ (number << 1))) < share
            })
    }
}

/// Returns a number that looks random and depends only on `seed`.
pub(super) fn scramble(seed: u64) -> u64 {
    let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Returns a number from 0 up to 1.
fn unit(random: u64) -> f64 {
    let top = u32::try_from(random >> 32).unwrap_or(u32::MAX);
    f64::from(top) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &str) -> Script {
        Script::new(serde_json::from_str(text).unwrap())
    }

    fn seen(prompt: &str) -> Seen<'_> {
        let prompt_number = super::super::book::prompt_number(prompt, b"");
        let method = MethodFilter::GenerateContent;
        Seen { method, key: "k1", model: "m1", prompt, prompt_number }
    }

    fn fired(script: &Script, prompt: &str, times: usize) -> Vec<bool> {
        (0..times).map(|_| script.fires(&seen(prompt)).is_some()).collect()
    }

    #[test]
    fn counts_are_kept_for_all_calls_that_a_rule_looks_at() {
        assert_eq!(fired(&script(r#"[{"nth": 2}]"#), "a", 3), [false, true, false]);
        assert_eq!(fired(&script(r#"[{"first": 2}]"#), "a", 3), [true, true, false]);
        assert_eq!(fired(&script(r#"[{"every": 2}]"#), "a", 4), [false, true, false, true]);
        assert_eq!(fired(&script(r#"[{"every": 0}]"#), "a", 2), [false, false]);
        assert_eq!(fired(&script(r#"[{"key": "k2"}]"#), "a", 1), [false]);
        assert_eq!(fired(&script(r#"[{"prompt_contains": "b"}]"#), "abc", 1), [true]);
        assert_eq!(fired(&script(r#"[{"method": "models"}]"#), "a", 1), [false]);
        let streams = script(r#"[{"method": "streamGenerateContent"}]"#);
        assert_eq!(fired(&streams, "a", 1), [false]);
        let streamed = Seen { method: MethodFilter::StreamGenerateContent, ..seen("a") };
        assert!(streams.fires(&streamed).is_some());
        assert!(script("[{}]").fires(&streamed).is_some());
        assert!(script(r#"[{"method": "generateContent"}]"#).fires(&streamed).is_none());
    }

    #[test]
    fn counts_can_be_kept_for_each_prompt() {
        let script = script(r#"[{"per_prompt": true, "first": 1}]"#);
        assert_eq!(fired(&script, "a", 2), [true, false]);
        assert_eq!(fired(&script, "b", 2), [true, false]);
        script.reset();
        assert_eq!(fired(&script, "a", 1), [true]);
    }

    #[test]
    fn the_first_rule_that_fires_decides_and_the_others_count_on() {
        let script = script(r#"[{"nth": 1, "status": 500}, {"nth": 2, "status": 503}]"#);
        let status = |script: &Script| script.fires(&seen("a")).and_then(|rule| rule.status);
        assert_eq!(status(&script), Some(500));
        assert_eq!(status(&script), Some(503));
        assert_eq!(status(&script), None);
    }

    #[test]
    fn a_seed_chooses_the_same_again() {
        let text = r#"[{"probability": 0.3, "seed": 7}]"#;
        let first = fired(&script(text), "a", 1000);
        assert_eq!(first, fired(&script(text), "a", 1000));
        let hits = first.iter().filter(|hit| **hit).count();
        assert!((250..350).contains(&hits), "{hits}");
        assert_ne!(first, fired(&script(r#"[{"probability": 0.3, "seed": 8}]"#), "a", 1000));
    }
}
