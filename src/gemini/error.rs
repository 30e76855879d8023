//! What an answer means, by its status and body; never by anything but the API's documented marks
//! where it has some.

use std::time::Duration;

use serde::de::IgnoredAny;
use serde_json::Value;

use crate::domain::limits::Quota;
use crate::domain::outcome::{ErrorKind, Exhaustion, Outcome, Paid, Usage};
use crate::gemini::quota::{exhaustion, named_limits};
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
    /// Limits that a 429 names.
    pub quotas: Vec<(Quota, i64)>,
    /// The project that a refusal names.
    pub consumer: Option<String>,
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
            quotas: Vec::new(),
            consumer: None,
        }
    }

    /// Returns a 200 whose body is no answer; `what` says of it what it is.
    pub(super) fn malformed(what: &str) -> Self {
        let outcome = Outcome::Failed(ErrorKind::MalformedResponse);
        Self::refused(200, outcome, format!("the answer's body {what}"))
    }

    /// Returns a stream that ended before its answer did.
    pub(super) fn stopped_short() -> Self {
        let message = "the stream ended before the answer did".to_owned();
        let call = Self::without_answer(ErrorKind::Network, message, Paid::Maybe);
        Self { http_status: Some(200), ..call }
    }

    /// Returns the call with what `body` holds besides what came of it.
    pub(super) fn keeping(self, body: &str) -> Self {
        let raw = Some(minify(body));
        match Answer::read(body) {
            Some(answer) => Self {
                raw,
                usage: answer.usage(),
                model_version: answer.model_version(),
                finish_reason: answer.finish_reason(),
                ..self
            },
            None => Self { raw, ..self },
        }
    }

    /// Returns the call with what a refusal tells of quotas and projects.
    fn told_by(self, error: Option<&ApiError>) -> Self {
        let quotas = match self.outcome {
            Outcome::Exhausted(_) => error.map(named_limits).unwrap_or_default(),
            _ => Vec::new(),
        };
        Self { quotas, consumer: error.and_then(ApiError::consumer), ..self }
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

/// Reads an answer; `retry_after` is the rest that the header of that name asks for, which
/// some proxies add.
pub fn classify(status: u16, retry_after: Option<Duration>, body: &str) -> Call {
    if status == 200 {
        return classify_success(body);
    }
    let error = ApiError::read(body);
    let message = message(status, error.as_ref(), body);
    let outcome = match &error {
        _ if status >= 500 => server_error(status),
        Some(error) => classify_error(status, error, retry_after),
        None => without_details(status, retry_after),
    };
    Call::refused(status, outcome, message).told_by(error.as_ref())
}

fn server_error(status: u16) -> Outcome {
    Outcome::Failed(if status == 503 { ErrorKind::Overloaded } else { ErrorKind::ServerError })
}

fn without_details(status: u16, retry_after: Option<Duration>) -> Outcome {
    match status {
        404 => Outcome::Failed(ErrorKind::ModelNotFound),
        // With 401 and 403 a proxy or a front end speaks, not the API: it says nothing of the key.
        401 | 403 | 408 | 499 => Outcome::Failed(ErrorKind::ServerError),
        429 => Outcome::Exhausted(Exhaustion::Short { delay: retry_after }),
        400..=499 => Outcome::Failed(ErrorKind::InvalidRequest),
        // Redirects are not followed: the key goes to the configured host and nowhere else.
        _ => Outcome::Failed(ErrorKind::ServerError),
    }
}

fn classify_error(status: u16, error: &ApiError, retry_after: Option<Duration>) -> Outcome {
    let says = |text: &str| error.message.contains(text);
    match status {
        400 if error.blames_key() => Outcome::BadKey,
        400 if says("User location is not supported") => Outcome::LocationRefused,
        400 if says("not in an ACTIVE state") => Outcome::FileRefused,
        403 if says("permission to access the File") => Outcome::FileRefused,
        403 if says("CachedContent not found") => Outcome::Failed(ErrorKind::InvalidRequest),
        401 | 403 => Outcome::BadKey,
        429 => Outcome::Exhausted(exhaustion(error, retry_after)),
        _ => without_details(status, retry_after),
    }
}

fn classify_success(body: &str) -> Call {
    match Answer::read(body).filter(|answer| answer.error.is_none()) {
        Some(answer) => classify_answer(&answer, body),
        None => classify_no_answer(body),
    }
}

/// Reads what a stream's events came to; `fault` is what ended it before its time. Once the API has
/// said that the answer is all there it is paid for, and nothing that breaks afterwards takes it
/// away; without that word it was cut.
pub(super) fn classify_stream(body: &str, fault: Option<Call>) -> Call {
    match Answer::read(body) {
        Some(answer) if !answer.has_ended() => {
            fault.unwrap_or_else(Call::stopped_short).keeping(body)
        }
        _ => classify_success(body),
    }
}

fn classify_answer(answer: &Answer<'_>, body: &str) -> Call {
    let (outcome, message) = judge(answer);
    Call {
        outcome,
        http_status: Some(200),
        message,
        paid: Paid::Yes,
        usage: answer.usage(),
        raw: Some(minify(body)),
        model_version: answer.model_version(),
        finish_reason: answer.finish_reason(),
        quotas: Vec::new(),
        consumer: None,
    }
}

/// Reads a 200 that is an error, of another form, or no JSON at all.
fn classify_no_answer(body: &str) -> Call {
    let is_json = serde_json::from_str::<IgnoredAny>(body).is_ok();
    let raw = is_json.then(|| minify(body));
    if let Some(error) = ApiError::read(body) {
        let status = error.code.unwrap_or(500);
        let outcome = match status {
            500.. => server_error(status),
            _ => classify_error(status, &error, None),
        };
        let message = message(status, Some(&error), body);
        return Call { raw, ..Call::refused(200, outcome, message).told_by(Some(&error)) };
    }
    let what = match () {
        () if is_json => "is JSON of an unknown form",
        () if body.trim().is_empty() => "is empty",
        () => "is no JSON, or was cut",
    };
    Call { raw, ..Call::malformed(what) }
}

/// Decides whether a 200 is an answer, and says what is wrong if not.
fn judge(answer: &Answer<'_>) -> (Outcome, Option<String>) {
    // The server's own words stand in it.
    let failed = |kind, message: String| (Outcome::Failed(kind), Some(one_line(&message)));
    if let Some(reason) =
        answer.prompt_feedback.as_ref().and_then(|feedback| feedback.block_reason.as_deref())
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

/// What the API says of a call it refused. Read as a loose value, since proxies send forms of their
/// own and one odd field must not hide the rest.
#[derive(Debug, Default)]
pub(super) struct ApiError {
    code: Option<u16>,
    pub(super) message: String,
    details: Vec<Value>,
}

impl ApiError {
    /// Reads an error body, which may be an object or a list with one object.
    pub(super) fn read(body: &str) -> Option<Self> {
        let body: Value = serde_json::from_str(body).ok()?;
        let error = body.get(0).unwrap_or(&body).get("error")?;
        if let Value::String(message) = error {
            return Some(Self { message: message.clone(), ..Self::default() });
        }
        error.is_object().then(|| Self {
            code: error["code"].as_u64().and_then(|code| code.try_into().ok()),
            message: error["message"].as_str().unwrap_or_default().to_owned(),
            details: error["details"].as_array().cloned().unwrap_or_default(),
        })
    }

    pub(super) fn violations(&self) -> impl Iterator<Item = &Value> {
        self.details.iter().filter_map(|detail| detail["violations"].as_array()).flatten()
    }

    pub(super) fn retry_delay(&self) -> Option<&str> {
        self.details.iter().find_map(|detail| detail["retryDelay"].as_str())
    }

    /// Returns the project that the call was counted for.
    fn consumer(&self) -> Option<String> {
        let mut named = self.details.iter().filter_map(|it| it["metadata"]["consumer"].as_str());
        named.find(|name| name.starts_with("projects/")).map(one_line)
    }

    /// Returns whether the key is at fault: by the reason, or, where details are missing, by the
    /// texts that the API is known to begin with.
    fn blames_key(&self) -> bool {
        let mut reasons = self.details.iter().filter_map(|detail| detail["reason"].as_str());
        if self.details.is_empty() {
            let texts = ["API key not valid", "API Key not found", "API key expired"];
            return texts.iter().any(|text| self.message.starts_with(text));
        }
        reasons.any(|reason| reason.starts_with("API_KEY_"))
    }
}

/// Returns what the API says, or else a page's title, or else the bare status.
fn message(status: u16, error: Option<&ApiError>, body: &str) -> String {
    if (300..400).contains(&status) {
        return format!("status {status}: a redirect to another place was not followed");
    }
    let title = || {
        let (title, _) = body.split_once("<title>")?.1.split_once("</title>")?;
        Some(title)
    };
    let said = error.map(|error| error.message.as_str()).or_else(title).map(one_line);
    said.filter(|said| !said.is_empty())
        .unwrap_or_else(|| format!("status {status} without an explanation"))
}

/// Returns text as one line of at most 2,000 characters without control characters.
pub(super) fn one_line(text: &str) -> String {
    // Marks of direction could turn what a terminal shows.
    let turns = |c| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let words = text.split(|c: char| c.is_whitespace() || c.is_control() || turns(c));
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

    const REASON: &str =
        r#"{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}"#;

    #[test]
    fn errors_are_told_apart_by_status_and_reason() {
        let file = "You do not have permission to access the File abc123 or it may not exist.";
        let location = "User location is not supported for the API use.";
        let table = [
            (400, body(400, "bad field", ""), Outcome::Failed(ErrorKind::InvalidRequest)),
            (400, body(400, "API key not valid.", REASON), Outcome::BadKey),
            (
                400,
                body(400, "API key expired.", &REASON.replace("INVALID", "EXPIRED")),
                Outcome::BadKey,
            ),
            (
                400,
                body(400, "API key not valid. Please pass a valid API key.", ""),
                Outcome::BadKey,
            ),
            (400, body(400, "The File a is not in an ACTIVE state", ""), Outcome::FileRefused),
            (
                403,
                body(403, "CachedContent not found (or permission denied)", ""),
                Outcome::Failed(ErrorKind::InvalidRequest),
            ),
            (400, body(400, location, ""), Outcome::LocationRefused),
            (401, body(401, "x", ""), Outcome::BadKey),
            (403, body(403, "leaked", ""), Outcome::BadKey),
            (403, body(403, file, ""), Outcome::FileRefused),
            (404, body(404, "no model", ""), Outcome::Failed(ErrorKind::ModelNotFound)),
            (499, body(499, "cancelled", ""), Outcome::Failed(ErrorKind::ServerError)),
            (500, body(500, "x", ""), Outcome::Failed(ErrorKind::ServerError)),
            (503, body(503, "x", ""), Outcome::Failed(ErrorKind::Overloaded)),
            (504, body(504, "x", ""), Outcome::Failed(ErrorKind::ServerError)),
            (502, "<title>Error 502</title>".to_owned(), Outcome::Failed(ErrorKind::ServerError)),
            (302, String::new(), Outcome::Failed(ErrorKind::ServerError)),
            (413, "<html>".to_owned(), Outcome::Failed(ErrorKind::InvalidRequest)),
            (408, "<html>".to_owned(), Outcome::Failed(ErrorKind::ServerError)),
        ];
        for (status, body, wanted) in table {
            assert_eq!(outcome(status, &body), wanted, "{status} {body}");
            assert_eq!(outcome(status, &format!("[{body}]")), wanted, "list: {status} {body}");
        }
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
            (format!("[{}]", body(503, "x", "")), failed(ErrorKind::Overloaded)),
            (body(400, "x", REASON), Outcome::BadKey),
            ("[]".into(), failed(ErrorKind::MalformedResponse)),
            (candidate(r#"{"inlineData": {}, "thought": true}"#, "STOP"), failed(ErrorKind::Empty)),
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

    #[test]
    fn a_200_of_json_keeps_its_body_whatever_it_says() {
        assert_eq!(classify(200, None, "{ }").raw.as_deref(), Some("{}"));
        assert_eq!(classify(200, None, "[ 1 ]").raw.as_deref(), Some("[1]"));
        assert!(classify(200, None, &body(503, "x", "")).raw.is_some());
        assert_eq!(classify(200, None, "{\"candidates\": [").raw, None);
    }

    #[test]
    fn who_is_not_the_api_says_nothing_of_the_key() {
        for status in [401, 403] {
            for page in
                ["<html>Forbidden by the proxy</html>", "Forbidden", "", r#"{"message": "no"}"#]
            {
                assert_eq!(
                    outcome(status, page),
                    Outcome::Failed(ErrorKind::ServerError),
                    "{page}"
                );
            }
            assert_eq!(outcome(status, &body(status, "denied", "")), Outcome::BadKey);
        }
    }

    #[test]
    fn odd_errors_still_speak() {
        let said = |status, body: &str| classify(status, None, body).message.unwrap();
        assert_eq!(said(400, r#"{"error": "bad gateway"}"#), "bad gateway");
        assert_eq!(
            said(400, r#"{"error": {"message": "a\n b\u001b[0m", "details": null}}"#),
            "a b [0m"
        );
        assert_eq!(said(502, "<title>Error 502</title>"), "Error 502");
        assert_eq!(
            said(500, r#"{"error": {"message": null}}"#),
            "status 500 without an explanation"
        );
        assert!(said(302, "").contains("redirect"));
    }
}
