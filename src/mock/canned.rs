//! Ready-made answers by name: what the real API has been seen to send.
//!
//! Owns the list of names. The bodies themselves come from `error`, `refusal` and `answer`.

use axum::body::Bytes;
use serde::Deserialize;

use super::answer::{Answer, Question};
use super::config::{QuotaDetail, Tier};
use super::error::{self, ApiError, failed_precondition, invalid_argument};
use super::quota::{Bound, Excess};
use super::refusal::{self, Refusal};
use super::reply::{HTML, JSON, Reply};
use super::sense;

/// The delay of a scripted 429 that names none.
const DELAY_MS: i64 = 36_429;

/// The name of a ready-made answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Canned {
    /// 503, the model is overloaded.
    Overloaded,
    /// 503, the model is in high demand.
    HighDemand,
    /// 503 with the text of a deadline.
    DeadlineUnavailable,
    /// 500 with the long text.
    Internal,
    /// 500 with the short text.
    InternalError,
    /// 504.
    Deadline,
    /// 499.
    Cancelled,
    /// 502, a page of the front end.
    #[serde(rename = "html_502")]
    Html502,
    /// 413, a page of the front end.
    #[serde(rename = "html_413")]
    Html413,
    /// 429, requests a minute.
    RateLimitMinute,
    /// 429, input tokens a minute.
    RateLimitTokens,
    /// 429, requests a day, with its misleading short delay.
    RateLimitDay,
    /// 429, a day and a minute at once.
    RateLimitDayAndMinute,
    /// 429 with the full message and no details.
    RateLimitMessageOnly,
    /// 429 without message or details of use.
    RateLimitBare,
    /// 429, no quota for the model at all.
    LimitZero,
    /// 400, no such key.
    InvalidKey,
    /// 400, the key is not found.
    KeyNotFound,
    /// 400, the key has expired.
    ExpiredKey,
    /// 401, a credential of the wrong kind.
    Unauthorized,
    /// 403, no key was sent.
    Unregistered,
    /// 403, the key is suspended.
    SuspendedKey,
    /// 403, the key is reported as leaked.
    LeakedKey,
    /// 403, the API is off in the project.
    ServiceDisabled,
    /// 403, the project is denied access.
    Denied,
    /// 400, the country is not served.
    Location,
    /// 403, the file is not the caller's.
    FilePermission,
    /// 400, the file is not ready.
    FileNotActive,
    /// 404, no such model.
    NoSuchModel,
    /// 400 without a word on what is wrong.
    InvalidArgument,
    /// 400, too many input tokens.
    InputTooLong,
    /// 400, too many bytes.
    PayloadTooLarge,
    /// 200, a picture without text.
    Image,
    /// 200, a sound without text.
    Audio,
    /// 200, the prompt is blocked.
    BlockedPrompt,
    /// 200, the answer is blocked for safety.
    Safety,
    /// 200, the answer is blocked as a recitation.
    Recitation,
    /// 200, the answer is prohibited content.
    ProhibitedContent,
    /// 200, all tokens went into thinking.
    MaxTokensEmpty,
    /// 200, finished without text.
    EmptyStop,
    /// 200, finished for another reason without content.
    Other,
    /// 200, an empty object.
    EmptyObject,
    /// 200, a body that is no JSON.
    NotJson,
    /// 200, a body that is no UTF-8.
    NotUtf8,
    /// 200, no body.
    EmptyBody,
}

/// What the ready-made answers tell of the request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) question: Question<'a>,
    pub(super) key: &'a str,
    pub(super) project: u64,
    pub(super) tier: Tier,
    pub(super) version: &'a str,
    pub(super) method: &'a str,
    /// The id of the file that the call is about.
    pub(super) file: &'a str,
    pub(super) retry_delay: Option<&'a str>,
    pub(super) max_body_bytes: u64,
    pub(super) pretty: bool,
}

impl Canned {
    /// Returns the usual answer of a status, if it has one.
    pub(super) fn of_status(status: u16) -> Option<Self> {
        match status {
            400 => Some(Self::InvalidArgument),
            401 => Some(Self::Unauthorized),
            403 => Some(Self::Denied),
            404 => Some(Self::NoSuchModel),
            413 => Some(Self::Html413),
            429 => Some(Self::RateLimitMinute),
            499 => Some(Self::Cancelled),
            500 => Some(Self::Internal),
            502 => Some(Self::Html502),
            503 => Some(Self::Overloaded),
            504 => Some(Self::Deadline),
            _ => None,
        }
    }

    /// Returns the answer.
    pub(super) fn reply(self, context: &Context<'_>) -> Reply {
        if let Some(answer) = self.answer(&context.question) {
            return Reply::answer(&answer, context.pretty);
        }
        if let Some(reply) = self.raw() {
            return reply;
        }
        let error = self.server_error().or_else(|| self.quota_error(context));
        let mut error = error.unwrap_or_else(|| self.request_error(context));
        let told = error.details.iter().any(|detail| detail.get("retryDelay").is_some());
        if let Some(delay) = context.retry_delay.filter(|_| !told && !self.keeps_silent()) {
            error.details.push(refusal::retry_info(delay));
        }
        Reply::error(&error, context.pretty)
    }

    /// Returns whether the error is known by its lack of details.
    fn keeps_silent(self) -> bool {
        matches!(self, Self::RateLimitMessageOnly | Self::RateLimitBare)
    }

    fn answer(self, question: &Question<'_>) -> Option<Answer> {
        match self {
            Self::Image => Some(question.image()),
            Self::Audio => Some(question.sound()),
            Self::BlockedPrompt => Some(question.blocked("PROHIBITED_CONTENT")),
            Self::Safety => Some(question.without_text("SAFETY", false)),
            Self::Recitation => Some(question.without_text("RECITATION", false)),
            Self::ProhibitedContent => Some(question.without_text("PROHIBITED_CONTENT", false)),
            Self::MaxTokensEmpty => Some(question.without_text("MAX_TOKENS", true)),
            Self::EmptyStop => Some(question.without_text("STOP", true)),
            Self::Other => Some(question.without_text("OTHER", false)),
            _ => None,
        }
    }

    fn raw(self) -> Option<Reply> {
        let ok = |body: &'static [u8]| Some(Reply::new(200, JSON, Bytes::from_static(body)));
        let page = |status, what| Some(Reply::new(status, HTML, error::html_page(status, what)));
        match self {
            Self::EmptyObject => ok(b"{}\n"),
            Self::NotJson => ok(b"upstream connect error or disconnect/reset before headers"),
            Self::NotUtf8 => {
                ok(b"{\"candidates\": [{\"content\": {\"parts\": [{\"text\": \"\xff\xfe\"}]}}]}")
            }
            Self::EmptyBody => ok(b""),
            Self::Html502 => page(
                502,
                "The server encountered a temporary error and could not complete your request.\
                 <p>Please try again in 30 seconds.",
            ),
            Self::Html413 => page(413, "Your client issued a request that was too large."),
            _ => None,
        }
    }

    fn server_error(self) -> Option<ApiError> {
        let (code, status, message) = match self {
            Self::Overloaded => {
                (503, "UNAVAILABLE", "The model is overloaded. Please try again later.")
            }
            Self::HighDemand => (
                503,
                "UNAVAILABLE",
                "This model is currently experiencing high demand. Spikes in demand are usually \
                 temporary. Please try again later.",
            ),
            Self::DeadlineUnavailable => {
                (503, "UNAVAILABLE", "Deadline expired before operation could complete.")
            }
            Self::Deadline => {
                (504, "DEADLINE_EXCEEDED", "Deadline expired before operation could complete.")
            }
            Self::Internal => (
                500,
                "INTERNAL",
                "An internal error has occurred. Please retry or report in \
                 https://developers.generativeai.google/guide/troubleshooting",
            ),
            Self::InternalError => (500, "INTERNAL", "Internal error encountered."),
            Self::Cancelled => (499, "CANCELLED", "The operation was cancelled."),
            _ => return None,
        };
        Some(ApiError::new(code, status, message))
    }

    fn quota_error(self, context: &Context<'_>) -> Option<ApiError> {
        let excess = |bound, limit| Excess { bound, limit, retry_ms: DELAY_MS };
        let minute = excess(Bound::RequestsPerMinute, 10);
        let day = excess(Bound::RequestsPerDay, 20);
        let (excess, detail) = match self {
            Self::RateLimitMinute => (vec![minute], QuotaDetail::Full),
            Self::RateLimitTokens => {
                (vec![excess(Bound::TokensPerMinute, 250_000)], QuotaDetail::Full)
            }
            Self::RateLimitDay => (vec![day], QuotaDetail::Full),
            Self::RateLimitDayAndMinute => (vec![day, minute], QuotaDetail::Full),
            Self::RateLimitMessageOnly => (vec![minute], QuotaDetail::MessageOnly),
            Self::RateLimitBare => (Vec::new(), QuotaDetail::None),
            Self::LimitZero => (refusal::no_quota(DELAY_MS).to_vec(), QuotaDetail::Full),
            _ => return None,
        };
        let (tier, model) = (context.tier, context.question.model);
        let retry_delay = context.retry_delay;
        Some(Refusal { excess: &excess, tier, model, detail, retry_delay }.error())
    }

    fn request_error(self, context: &Context<'_>) -> ApiError {
        match self {
            Self::InvalidKey => error::unknown_key(),
            Self::KeyNotFound => {
                error::key_invalid("API Key not found. Please pass a valid API key.")
            }
            Self::ExpiredKey => error::key_invalid("API key expired. Please renew the API key."),
            Self::Unauthorized => error::unauthenticated(),
            Self::Unregistered => error::unregistered(),
            Self::SuspendedKey => error::suspended(context.key, context.project),
            Self::LeakedKey => error::leaked(),
            Self::ServiceDisabled => error::service_disabled(context.project),
            Self::Denied => error::denied(),
            Self::Location => error::location(),
            Self::FilePermission => error::file_permission(context.file),
            Self::FileNotActive => error::file_not_active(context.file),
            // A call of no model got the status alone.
            Self::NoSuchModel if context.question.model.is_empty() => error::not_found(),
            Self::NoSuchModel => {
                error::no_such_model(context.question.model, context.version, context.method)
            }
            Self::InputTooLong => sense::too_long(1_200_293),
            Self::PayloadTooLarge => error::payload_too_large(context.max_body_bytes),
            // The rest is answered before, or is the argument of which nothing is said.
            _ => invalid_argument("Request contains an invalid argument."),
        }
    }
}

/// Returns an error whose message holds the key.
pub(super) fn echoing(key: &str) -> ApiError {
    failed_precondition(format!("Request with API key {key} could not be served."))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::sense::Facts;
    use super::*;

    fn reply(name: &str, retry_delay: Option<&str>) -> Reply {
        let canned: Canned = serde_json::from_value(name.into()).unwrap();
        let request = &json!({"contents": [{"parts": [{"text": "Hello"}]}]});
        let facts = &Facts::of(request);
        let question = Question { request, facts, model: "gemini-2.5-pro", text: None, serial: 1 };
        canned.reply(&Context {
            question,
            key: "AIzaSecret",
            project: 845_248_215_272,
            tier: Tier::Free,
            version: "v1beta",
            method: "generateContent",
            file: "abc123",
            retry_delay,
            max_body_bytes: 20_971_520,
            pretty: true,
        })
    }

    fn body(name: &str) -> Value {
        serde_json::from_slice(&reply(name, None).body).unwrap()
    }

    #[test]
    fn every_error_says_its_code_and_status() {
        let all = [
            ("overloaded", 503, "UNAVAILABLE"),
            ("high_demand", 503, "UNAVAILABLE"),
            ("deadline_unavailable", 503, "UNAVAILABLE"),
            ("internal", 500, "INTERNAL"),
            ("internal_error", 500, "INTERNAL"),
            ("deadline", 504, "DEADLINE_EXCEEDED"),
            ("cancelled", 499, "CANCELLED"),
            ("rate_limit_minute", 429, "RESOURCE_EXHAUSTED"),
            ("rate_limit_tokens", 429, "RESOURCE_EXHAUSTED"),
            ("rate_limit_day", 429, "RESOURCE_EXHAUSTED"),
            ("rate_limit_day_and_minute", 429, "RESOURCE_EXHAUSTED"),
            ("rate_limit_message_only", 429, "RESOURCE_EXHAUSTED"),
            ("rate_limit_bare", 429, "RESOURCE_EXHAUSTED"),
            ("limit_zero", 429, "RESOURCE_EXHAUSTED"),
            ("invalid_key", 400, "INVALID_ARGUMENT"),
            ("key_not_found", 400, "INVALID_ARGUMENT"),
            ("expired_key", 400, "INVALID_ARGUMENT"),
            ("unauthorized", 401, "UNAUTHENTICATED"),
            ("unregistered", 403, "PERMISSION_DENIED"),
            ("suspended_key", 403, "PERMISSION_DENIED"),
            ("leaked_key", 403, "PERMISSION_DENIED"),
            ("service_disabled", 403, "PERMISSION_DENIED"),
            ("denied", 403, "PERMISSION_DENIED"),
            ("location", 400, "FAILED_PRECONDITION"),
            ("file_permission", 403, "PERMISSION_DENIED"),
            ("file_not_active", 400, "FAILED_PRECONDITION"),
            ("no_such_model", 404, "NOT_FOUND"),
            ("invalid_argument", 400, "INVALID_ARGUMENT"),
            ("input_too_long", 400, "INVALID_ARGUMENT"),
            ("payload_too_large", 400, "INVALID_ARGUMENT"),
        ];
        for (name, code, status) in all {
            let error = &body(name)["error"];
            assert_eq!(reply(name, None).status, code, "{name}");
            assert_eq!(
                (&error["code"], &error["status"]),
                (&json!(code), &json!(status)),
                "{name}"
            );
            assert!(!error["message"].as_str().unwrap().is_empty(), "{name}");
            assert!(!reply(name, None).usable, "{name}");
        }
    }

    #[test]
    fn answers_without_text_have_the_real_shapes() {
        assert_eq!(body("blocked_prompt")["promptFeedback"]["blockReason"], "PROHIBITED_CONTENT");
        assert_eq!(body("blocked_prompt").get("candidates"), None);
        let candidate = |name| body(name)["candidates"][0].clone();
        assert_eq!(candidate("safety")["finishReason"], "SAFETY");
        assert_eq!(candidate("safety")["safetyRatings"][0]["blocked"], true);
        assert_eq!(candidate("max_tokens_empty")["content"], json!({"role": "model"}));
        assert_eq!(candidate("empty_stop")["content"], json!({"role": "model"}));
        assert_eq!(candidate("other"), json!({"finishReason": "OTHER", "index": 0}));
        for name in ["blocked_prompt", "recitation", "prohibited_content", "empty_object"] {
            assert!(!reply(name, None).usable, "{name}");
        }
    }

    #[test]
    fn pictures_and_sounds_are_usable_answers_without_text() {
        for (name, mime_type) in [("image", "image/png"), ("audio", "audio/wav")] {
            let parts = body(name)["candidates"][0]["content"]["parts"].clone();
            assert_eq!(parts.as_array().unwrap().len(), 1, "{name}");
            assert_eq!(parts[0]["inlineData"]["mimeType"], mime_type);
            assert_eq!(parts[0].get("text"), None, "{name}");
            assert!(reply(name, None).usable, "{name}");
        }
    }

    #[test]
    fn bodies_that_are_no_json_are_none() {
        for name in ["html_502", "html_413", "not_json", "not_utf8", "empty_body"] {
            assert!(serde_json::from_slice::<Value>(&reply(name, None).body).is_err(), "{name}");
        }
        assert_eq!(reply("html_502", None).status, 502);
        assert!(String::from_utf8(reply("html_502", None).body.to_vec()).unwrap().contains("!!1"));
    }

    #[test]
    fn a_given_delay_is_named_by_any_error_with_details() {
        let delay = |name| {
            let body: Value = serde_json::from_slice(&reply(name, Some("1.5s")).body).unwrap();
            let details = body["error"]["details"].as_array().cloned().unwrap_or_default();
            details.iter().filter(|detail| detail["retryDelay"] == "1.5s").count()
        };
        assert_eq!((delay("overloaded"), delay("rate_limit_day")), (1, 1));
        assert_eq!((delay("rate_limit_bare"), delay("rate_limit_message_only")), (0, 0));
    }
}
