//! What an answer means, by its status and body; never by anything but the API's documented marks
//! where it has some.

use std::time::Duration;

use serde::Deserialize;

use crate::domain::outcome::{ErrorKind, Exhaustion, Outcome, Paid, Usage};
use crate::gemini::wire::{Answer, minify};

/// What one call came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// In the queue's terms.
    pub outcome: Outcome,
    /// The status, if an answer came.
    pub http_status: Option<u16>,
    /// What the API or the network said, in one line; holds no secret.
    pub message: Option<String>,
    /// Whether it may have been billed.
    pub paid: Paid,
    /// Tokens.
    pub usage: Option<Usage>,
    /// The whole answer of a 200 as compact JSON text.
    pub raw: Option<String>,
    /// The model that answered.
    pub model_version: Option<String>,
    /// Why the answer ended.
    pub finish_reason: Option<String>,
}

impl Call {
    /// Returns a call that brought no answer.
    pub(super) fn without_answer(kind: ErrorKind, message: String, paid: Paid) -> Self {
        Self {
            outcome: Outcome::Failed(kind),
            http_status: None,
            message: Some(message),
            paid,
            usage: None,
            raw: None,
            model_version: None,
            finish_reason: None,
        }
    }

    fn refused(status: u16, outcome: Outcome, message: String) -> Self {
        let paid = if status >= 500 || status == 200 { Paid::Maybe } else { Paid::No };
        Self {
            outcome,
            http_status: Some(status),
            ..Self::without_answer(ErrorKind::Internal, message, paid)
        }
    }
}

/// Reads an answer; `retry_after` is the header of that name in seconds, which some proxies add.
pub fn classify(status: u16, retry_after: Option<u64>, body: &str) -> Call {
    if status == 200 {
        return classify_success(body);
    }
    let error = ApiError::read(body);
    let message = error.as_ref().map_or_else(|| page_title(status, body), ApiError::line);
    let outcome = match &error {
        _ if status >= 500 => server_error(status),
        Some(error) => classify_error(status, error, retry_after),
        None => without_details(status, retry_after),
    };
    Call::refused(status, outcome, message)
}

fn server_error(status: u16) -> Outcome {
    Outcome::Failed(if status == 503 { ErrorKind::Overloaded } else { ErrorKind::ServerError })
}

fn without_details(status: u16, retry_after: Option<u64>) -> Outcome {
    match status {
        401 | 403 => Outcome::BadKey,
        404 => Outcome::Failed(ErrorKind::ModelNotFound),
        408 | 499 => Outcome::Failed(ErrorKind::ServerError),
        429 => {
            Outcome::Exhausted(Exhaustion::Short { delay: retry_after.map(Duration::from_secs) })
        }
        400..=499 => Outcome::Failed(ErrorKind::InvalidRequest),
        // Redirects are not followed: the key goes to the configured host and nowhere else.
        _ => Outcome::Failed(ErrorKind::ServerError),
    }
}

fn classify_error(status: u16, error: &ApiError, retry_after: Option<u64>) -> Outcome {
    let says = |text: &str| error.message.contains(text);
    match status {
        400 if error.reasons().any(|reason| reason.starts_with("API_KEY_")) => Outcome::BadKey,
        400 if says("User location is not supported") => Outcome::LocationRefused,
        400 if says("not in an ACTIVE state") => Outcome::Failed(ErrorKind::Media),
        403 if says("permission to access the File") => Outcome::Failed(ErrorKind::Media),
        403 if says("CachedContent not found") => Outcome::Failed(ErrorKind::InvalidRequest),
        429 => Outcome::Exhausted(exhaustion(error, retry_after)),
        _ => without_details(status, retry_after),
    }
}

/// Reads a 429: the quota's id first, since a daily one names the same short delay as one by the
/// minute; then the delay; then the text.
fn exhaustion(error: &ApiError, retry_after: Option<u64>) -> Exhaustion {
    let violations: Vec<&Violation> =
        error.details.iter().flat_map(|detail| &detail.violations).collect();
    let id_has = |text: &str| violations.iter().any(|quota| quota.quota_id.contains(text));
    let no_quota = error.message.contains("limit: 0")
        && violations.iter().all(|quota| matches!(quota.quota_value.as_deref(), None | Some("0")))
        && !error.message.split("limit: ").skip(1).any(|rest| !rest.starts_with('0'));
    if no_quota {
        return Exhaustion::NoQuota;
    }
    if id_has("PerDay") || id_has("Daily") {
        return Exhaustion::Day;
    }
    let named = error.details.iter().find_map(|detail| duration(detail.retry_delay.as_deref()?));
    let in_text = || {
        let (_, rest) = error.message.rsplit_once("Please retry in ")?;
        duration(rest.split_whitespace().next()?.trim_end_matches('.'))
    };
    let delay = named.or_else(in_text).or(retry_after.map(Duration::from_secs));
    let minute = || id_has("PerMinute").then_some(Duration::from_mins(1));
    Exhaustion::Short { delay: delay.or_else(minute) }
}

/// Reads a duration as the API writes it: `36s`, `34.074824224s`, `900ms`.
fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 0.001),
        None => (text.strip_suffix('s')?, 1.0),
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * unit).ok()
}

fn classify_success(body: &str) -> Call {
    let Some(answer) = Answer::read(body) else {
        let what = if body.trim().is_empty() { "is empty" } else { "is no JSON, or was cut" };
        let outcome = Outcome::Failed(ErrorKind::MalformedResponse);
        return Call::refused(200, outcome, format!("the answer's body {what}"));
    };
    if answer.error.is_some()
        && let Some(error) = ApiError::read(body)
    {
        let status = u16::try_from(error.code).unwrap_or(500);
        let outcome = match status {
            500.. => server_error(status),
            _ => classify_error(status, &error, None),
        };
        return Call::refused(200, outcome, error.line());
    }
    let (outcome, message) = judge(&answer);
    let finish = answer.candidates.first().and_then(|first| first.finish_reason.as_deref());
    Call {
        outcome,
        http_status: Some(200),
        message,
        paid: Paid::Yes,
        usage: answer.usage(),
        raw: Some(minify(body)),
        model_version: answer.model_version(),
        finish_reason: finish.map(str::to_owned),
    }
}

/// Decides whether a 200 is an answer, and says what is wrong if not.
fn judge(answer: &Answer<'_>) -> (Outcome, Option<String>) {
    let failed = |kind, message: String| (Outcome::Failed(kind), Some(message));
    if let Some(reason) =
        answer.prompt_feedback.as_ref().and_then(|feedback| feedback.block_reason.as_deref())
        && answer.candidates.is_empty()
    {
        return failed(ErrorKind::Blocked, format!("the prompt was blocked: {reason}"));
    }
    let first = answer.candidates.first();
    let finish = first.and_then(|first| first.finish_reason.as_deref()).unwrap_or("");
    let explained = first.and_then(|first| first.finish_message.as_deref());
    let say = |text: &str| match explained {
        Some(more) => format!("{text}: {finish} ({more})"),
        None => format!("{text}: {finish}"),
    };
    match finish {
        "SAFETY"
        | "PROHIBITED_CONTENT"
        | "BLOCKLIST"
        | "SPII"
        | "IMAGE_SAFETY"
        | "IMAGE_PROHIBITED_CONTENT"
        | "MODEL_ARMOR" => failed(ErrorKind::Blocked, say("the answer was blocked")),
        "RECITATION" | "IMAGE_RECITATION" => {
            failed(ErrorKind::Recitation, say("the answer was withheld"))
        }
        _ if answer.has_text() || answer.has_other_content() => (Outcome::Answered, None),
        "MAX_TOKENS" => {
            let text = "the output limit was reached before any text (thinking counts as output)";
            failed(ErrorKind::Truncated, text.to_owned())
        }
        "" => failed(ErrorKind::Empty, "the answer holds no text".to_owned()),
        _ => failed(ErrorKind::Empty, say("the answer holds no text")),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ApiError {
    code: i64,
    message: String,
    details: Vec<Detail>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Detail {
    reason: Option<String>,
    violations: Vec<Violation>,
    retry_delay: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Violation {
    quota_id: String,
    quota_value: Option<String>,
}

#[derive(Deserialize)]
struct Envelope {
    error: ApiError,
}

impl ApiError {
    /// Reads an error body, which may be an object or a list with one object.
    fn read(body: &str) -> Option<Self> {
        // A derived reader takes a list for an object's fields in order, so they are told apart here.
        let envelope = if body.trim_start().starts_with('[') {
            serde_json::from_str::<Vec<Envelope>>(body).ok()?.into_iter().next()
        } else {
            serde_json::from_str::<Envelope>(body).ok()
        };
        envelope.map(|envelope| envelope.error)
    }

    fn reasons(&self) -> impl Iterator<Item = &str> {
        self.details.iter().filter_map(|detail| detail.reason.as_deref())
    }

    fn line(&self) -> String {
        one_line(&self.message)
    }
}

/// Returns what a page without JSON says of itself.
fn page_title(status: u16, body: &str) -> String {
    let title = body
        .split_once("<title>")
        .and_then(|(_, rest)| rest.split_once("</title>"))
        .map(|(title, _)| one_line(title));
    title.unwrap_or_else(|| format!("status {status} without an explanation"))
}

/// Returns text as one line of at most 2,000 characters without control characters.
pub(super) fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let line = words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    line.chars().take(2000).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(code: u16, message: &str, details: &str) -> String {
        format!(
            r#"{{"error": {{"code": {code}, "message": "{message}", "status": "X", "details": [{details}]}}}}"#
        )
    }

    fn outcome(status: u16, body: &str) -> Outcome {
        classify(status, None, body).outcome
    }

    fn quota(id: &str, value: &str, delay: &str) -> String {
        format!(
            r#"{{"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{{"quotaId": "{id}"{value}}}]}},
               {{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "{delay}"}}"#
        )
    }

    const REASON: &str =
        r#"{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}"#;

    #[test]
    fn errors_are_told_apart_by_status_and_reason() {
        let file = "You do not have permission to access the File abc123 or it may not exist.";
        let location = "User location is not supported for the API use.";
        let table = [
            (400, body(400, "bad field", ""), Outcome::Failed(ErrorKind::InvalidRequest)),
            (400, body(400, "API key not valid.", REASON), Outcome::BadKey),
            (400, body(400, location, ""), Outcome::LocationRefused),
            (401, body(401, "x", ""), Outcome::BadKey),
            (403, body(403, "leaked", ""), Outcome::BadKey),
            (403, body(403, file, ""), Outcome::Failed(ErrorKind::Media)),
            (404, body(404, "no model", ""), Outcome::Failed(ErrorKind::ModelNotFound)),
            (499, body(499, "cancelled", ""), Outcome::Failed(ErrorKind::ServerError)),
            (500, body(500, "x", ""), Outcome::Failed(ErrorKind::ServerError)),
            (503, body(503, "x", ""), Outcome::Failed(ErrorKind::Overloaded)),
            (504, body(504, "x", ""), Outcome::Failed(ErrorKind::ServerError)),
            (502, "<title>Error 502</title>".to_owned(), Outcome::Failed(ErrorKind::ServerError)),
            (302, String::new(), Outcome::Failed(ErrorKind::ServerError)),
            (413, "<html>".to_owned(), Outcome::Failed(ErrorKind::InvalidRequest)),
        ];
        for (status, body, wanted) in table {
            assert_eq!(outcome(status, &body), wanted, "{status} {body}");
            assert_eq!(outcome(status, &format!("[{body}]")), wanted, "list: {status} {body}");
        }
    }

    #[test]
    fn a_429_is_read_by_quota_then_delay_then_text() {
        let short = |millis| Exhaustion::Short { delay: Some(Duration::from_millis(millis)) };
        let minute = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier";
        let day = "GenerateRequestsPerDayPerProjectPerModel-FreeTier";
        let value = r#", "quotaValue": "20""#;
        let table = [
            (body(429, "x, limit: 20", &quota(day, value, "36s")), Exhaustion::Day),
            (body(429, "x, limit: 10", &quota(minute, value, "34.5s")), short(34_500)),
            (body(429, "x, limit: 0, model: y", &quota(minute, "", "3s")), Exhaustion::NoQuota),
            (body(429, "Please retry in 900.5ms.", ""), short(900)),
            (body(429, "Please retry in 44.25s.", ""), short(44_250)),
            (
                body(429, "Resource has been exhausted (e.g. check quota).", ""),
                Exhaustion::Short { delay: None },
            ),
        ];
        for (body, wanted) in table {
            let Outcome::Exhausted(found) = outcome(429, &body) else { panic!("{body}") };
            let whole = |exhaustion: Exhaustion| match exhaustion {
                Exhaustion::Short { delay: Some(delay) } => Exhaustion::Short {
                    delay: Some(Duration::from_millis(u64::try_from(delay.as_millis()).unwrap())),
                },
                other => other,
            };
            assert_eq!(whole(found), wanted, "{body}");
        }
        let header = classify(429, Some(7), "").outcome;
        assert_eq!(header, Outcome::Exhausted(short(7000)));
    }

    #[test]
    fn a_200_that_is_no_answer_has_a_kind_of_its_own() {
        let candidate = |parts: &str, finish: &str| {
            format!(
                r#"{{"candidates": [{{"content": {{"parts": [{parts}]}}, "finishReason": "{finish}"}}]}}"#
            )
        };
        let failed = Outcome::Failed;
        let text = r#"{"text": "x"}"#;
        let table = [
            (candidate(text, "STOP"), Outcome::Answered),
            (candidate(text, "MAX_TOKENS"), Outcome::Answered),
            (candidate(text, "NEW_REASON"), Outcome::Answered),
            (candidate(r#"{"functionCall": {}}"#, "STOP"), Outcome::Answered),
            (candidate("", "MAX_TOKENS"), failed(ErrorKind::Truncated)),
            (candidate(r#"{"text": "p", "thought": true}"#, "STOP"), failed(ErrorKind::Empty)),
            (candidate("", "OTHER"), failed(ErrorKind::Empty)),
            (candidate(text, "SAFETY"), failed(ErrorKind::Blocked)),
            (candidate("", "RECITATION"), failed(ErrorKind::Recitation)),
            (r#"{"promptFeedback": {"blockReason": "OTHER"}}"#.into(), failed(ErrorKind::Blocked)),
            ("{}".into(), failed(ErrorKind::Empty)),
            (String::new(), failed(ErrorKind::MalformedResponse)),
            (r#"{"candidates": [{"con"#.into(), failed(ErrorKind::MalformedResponse)),
            ("<html>".into(), failed(ErrorKind::MalformedResponse)),
            (body(503, "x", ""), failed(ErrorKind::Overloaded)),
        ];
        for (body, wanted) in table {
            assert_eq!(outcome(200, &body), wanted, "{body}");
        }
    }

    #[test]
    fn only_an_answer_with_a_body_is_surely_paid() {
        assert_eq!(classify(429, None, "").paid, Paid::No);
        assert_eq!(classify(500, None, "").paid, Paid::Maybe);
        assert_eq!(classify(200, None, "cut").paid, Paid::Maybe);
        assert_eq!(classify(200, None, "{}").paid, Paid::Yes);
    }
}
