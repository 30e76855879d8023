//! The 429 of a used-up quota.
//!
//! Owns the names of the quotas and the form of the body; the counting is in `quota`.

use serde_json::{Value, json};

use super::config::{QuotaDetail, Tier};
use super::error::ApiError;
use super::quota::{Bound, Excess};

const PREFIX: &str = "generativelanguage.googleapis.com/";
const DOCUMENTATION: &str = "https://ai.google.dev/gemini-api/docs/rate-limits";

/// What a refusal is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refusal<'a> {
    /// The limits passed; a limit of 0 means that there is no quota at all.
    pub(super) excess: &'a [Excess],
    /// The project's tier.
    pub(super) tier: Tier,
    /// The model.
    pub(super) model: &'a str,
    /// How much is told.
    pub(super) detail: QuotaDetail,
    /// The delay to name instead of the one that the limits give.
    pub(super) retry_delay: Option<&'a str>,
}

impl Refusal<'_> {
    /// Returns the error.
    pub(super) fn error(&self) -> ApiError {
        if self.detail == QuotaDetail::None {
            return bare();
        }
        let longest = self.excess.iter().map(|excess| excess.retry_ms).max().unwrap_or(0).max(0);
        let error = ApiError::new(429, "RESOURCE_EXHAUSTED", self.message(longest));
        if self.detail == QuotaDetail::MessageOnly {
            return error;
        }
        let link =
            json!({"description": "Learn more about Gemini API quotas", "url": DOCUMENTATION});
        let violations: Vec<Value> =
            self.excess.iter().map(|excess| self.violation(*excess)).collect();
        let delay = self.retry_delay.map_or_else(|| short_delay(longest), str::to_owned);
        error
            .with(json!({"@type": "type.googleapis.com/google.rpc.Help", "links": [link]}))
            .with(json!({
                "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                "violations": violations,
            }))
            .with(retry_info(&delay))
    }

    fn message(&self, retry_ms: i64) -> String {
        let head = format!(
            "You exceeded your current quota, please check your plan and billing details. For more \
             information on this error, head to: {DOCUMENTATION}. To monitor your current usage, \
             head to: https://ai.dev/rate-limit. "
        );
        let line = |Excess { bound, limit, .. }: &Excess| {
            let (_, metric) = names(*bound, self.tier);
            let model = self.model;
            format!(
                "\n* Quota exceeded for metric: {PREFIX}{metric}, limit: {limit}, model: {model}"
            )
        };
        let lines: Vec<String> = self.excess.iter().map(line).collect();
        let lines = lines.concat();
        let delay = self.retry_delay.map_or_else(|| long_delay(retry_ms), str::to_owned);
        format!("{head}{lines}\nPlease retry in {delay}.")
    }

    fn violation(&self, excess: Excess) -> Value {
        let (id, metric) = names(excess.bound, self.tier);
        let mut violation = json!({
            "quotaMetric": format!("{PREFIX}{metric}"),
            "quotaId": id,
            "quotaDimensions": {"location": "global", "model": self.model},
        });
        if excess.limit > 0 {
            violation["quotaValue"] = excess.limit.to_string().into();
        }
        violation
    }
}

/// Returns the 429 that tells nothing: shared capacity, a burst or a spending limit.
pub(super) fn bare() -> ApiError {
    let message = "Resource has been exhausted (e.g. check quota).";
    ApiError::new(429, "RESOURCE_EXHAUSTED", message)
}

/// Returns the detail that names a delay.
pub(super) fn retry_info(delay: &str) -> Value {
    json!({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay})
}

/// Returns the limits of a project that has no quota for a model.
pub(super) fn no_quota(retry_ms: i64) -> [Excess; 3] {
    [Bound::RequestsPerDay, Bound::RequestsPerMinute, Bound::TokensPerMinute].map(|bound| Excess {
        bound,
        limit: 0,
        retry_ms,
    })
}

/// Returns the quota's id and metric.
fn names(bound: Bound, tier: Tier) -> (&'static str, &'static str) {
    match (bound, tier) {
        (Bound::RequestsPerMinute, Tier::Free) => (
            "GenerateRequestsPerMinutePerProjectPerModel-FreeTier",
            "generate_content_free_tier_requests",
        ),
        (Bound::RequestsPerDay, Tier::Free) => (
            "GenerateRequestsPerDayPerProjectPerModel-FreeTier",
            "generate_content_free_tier_requests",
        ),
        (Bound::TokensPerMinute, Tier::Free) => (
            "GenerateContentInputTokensPerModelPerMinute-FreeTier",
            "generate_content_free_tier_input_token_count",
        ),
        (Bound::RequestsPerMinute, Tier::Paid) => {
            ("GenerateRequestsPerMinutePerProjectPerModel", "generate_requests_per_model")
        }
        (Bound::RequestsPerDay, Tier::Paid) => {
            ("GenerateRequestsPerDayPerProjectPerModel", "generate_requests_per_model_per_day")
        }
        (Bound::TokensPerMinute, Tier::Paid) => (
            "GenerateContentPaidTierInputTokensPerModelPerMinute",
            "generate_content_paid_tier_input_token_count",
        ),
    }
}

/// Returns the delay as `RetryInfo` has it: whole seconds, which are a little too short.
fn short_delay(ms: i64) -> String {
    if ms < 1000 { format!("0.{ms:03}s") } else { format!("{}s", ms / 1000) }
}

/// Returns the delay as the message has it: to the nanosecond.
fn long_delay(ms: i64) -> String {
    if ms < 1000 {
        format!("{ms}.760048ms")
    } else {
        format!("{}.{:03}760048s", ms / 1000, ms % 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Excess = Excess { bound: Bound::RequestsPerDay, limit: 20, retry_ms: 36_429 };

    fn refusal(excess: &[Excess]) -> Refusal<'_> {
        let (tier, detail) = (Tier::Free, QuotaDetail::Full);
        Refusal { excess, tier, model: "gemini-3.6-flash", detail, retry_delay: None }
    }

    #[test]
    fn a_used_up_day_reads_as_the_real_one() {
        let wanted = json!({"error": {"code": 429,
            "message": "You exceeded your current quota, please check your plan and billing details. For more information on this error, head to: https://ai.google.dev/gemini-api/docs/rate-limits. To monitor your current usage, head to: https://ai.dev/rate-limit. \n* Quota exceeded for metric: generativelanguage.googleapis.com/generate_content_free_tier_requests, limit: 20, model: gemini-3.6-flash\nPlease retry in 36.429760048s.",
            "status": "RESOURCE_EXHAUSTED",
            "details": [
                {"@type": "type.googleapis.com/google.rpc.Help", "links": [{"description": "Learn more about Gemini API quotas", "url": "https://ai.google.dev/gemini-api/docs/rate-limits"}]},
                {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [
                    {"quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests",
                     "quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier",
                     "quotaDimensions": {"location": "global", "model": "gemini-3.6-flash"}, "quotaValue": "20"}]},
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "36s"}]}});
        let body: Value = serde_json::from_slice(&refusal(&[DAY]).error().to_json(true)).unwrap();
        assert_eq!(body, wanted);
    }

    #[test]
    fn no_quota_has_no_value() {
        let error = refusal(&no_quota(8000)).error();
        assert!(error.message.contains("limit: 0, model: gemini-3.6-flash"));
        let violations = error.details[1]["violations"].as_array().unwrap();
        assert_eq!(violations.len(), 3);
        assert!(violations.iter().all(|violation| violation.get("quotaValue").is_none()));
    }

    #[test]
    fn details_can_be_left_out() {
        let refusal = Refusal { detail: QuotaDetail::MessageOnly, ..refusal(&[DAY]) };
        let error = refusal.error();
        assert!(error.details.is_empty());
        assert!(error.message.ends_with("\nPlease retry in 36.429760048s."));
        let none = Refusal { detail: QuotaDetail::None, ..refusal };
        assert_eq!(none.error(), bare());
    }

    #[test]
    fn a_delay_of_its_own_stands_in_both_places() {
        let refusal = Refusal { retry_delay: Some("1.5s"), ..refusal(&[DAY]) };
        let error = refusal.error();
        assert!(error.message.ends_with("Please retry in 1.5s."));
        assert_eq!(error.details[2]["retryDelay"], "1.5s");
    }

    #[test]
    fn short_delays_are_in_milliseconds() {
        assert_eq!((short_delay(412), long_delay(412)), ("0.412s".into(), "412.760048ms".into()));
        assert_eq!(short_delay(1999), "1s");
    }
}
