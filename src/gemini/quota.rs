//! What a 429 says of the quota that is used up, and for how long.

use std::time::Duration;

use chrono::DateTime;
use serde_json::Value;

use crate::domain::limits::Quota;
use crate::domain::outcome::Exhaustion;
use crate::gemini::error::ApiError;

/// Reads a 429: the quota's id first, since a daily one names the same short delay as one by the
/// minute; then the delay; then the text.
pub(super) fn exhaustion(error: &ApiError, retry_after: Option<Duration>) -> Exhaustion {
    let id_has = |text: &str| {
        error
            .violations()
            .any(|quota| quota["quotaId"].as_str().is_some_and(|id| id.contains(text)))
    };
    if has_no_quota(error) {
        return Exhaustion::NoQuota;
    }
    if id_has("PerDay") || id_has("Daily") {
        return Exhaustion::Day;
    }
    let in_text = || {
        let (_, rest) = error.message.rsplit_once("Please retry in ")?;
        duration(rest.split_whitespace().next()?.trim_end_matches('.'))
    };
    // The text has the fractions of a second that the detail leaves out.
    let delay = error.retry_delay().and_then(duration).max(in_text()).or(retry_after);
    let minute = || id_has("PerMinute").then_some(Duration::from_mins(1));
    Exhaustion::Short { delay: delay.or_else(minute) }
}

/// Returns the limits that a 429 names with their values.
pub(super) fn named_limits(error: &ApiError) -> Vec<(Quota, i64)> {
    let limit = |violation: &Value| {
        let id = violation["quotaId"].as_str()?;
        let quota = match (id.contains("PerDay"), id.contains("InputTokens")) {
            (false, true) if id.contains("PerMinute") => Quota::Tpm,
            (false, false) if id.contains("RequestsPerMinute") => Quota::Rpm,
            (true, false) if id.contains("RequestsPerDay") => Quota::Rpd,
            _ => return None,
        };
        let value = &violation["quotaValue"];
        let limit = value.as_str().map_or_else(|| value.as_i64(), |text| text.parse().ok())?;
        Some((quota, limit)).filter(|(_, limit)| *limit > 0)
    };
    error.violations().filter_map(limit).collect()
}

/// Returns whether every limit named is zero, and no violation names another value.
fn has_no_quota(error: &ApiError) -> bool {
    let is_zero = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text == "0",
        other => other.as_i64() == Some(0),
    };
    let mut limits = error.message.split("limit: ").skip(1).peekable();
    limits.peek().is_some()
        && limits.all(|rest| rest.split(|c: char| !c.is_ascii_digit()).next() == Some("0"))
        && error.violations().all(|quota| is_zero(&quota["quotaValue"]))
}

/// Reads a duration as the API writes it: `36s`, `34.074824224s`, `900ms`.
fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 0.001),
        None => (text.strip_suffix('s')?, 1.0),
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * unit).ok()
}

/// Reads a `Retry-After` header: seconds, or a time, which counts from the answer's own `Date` so
/// that this machine's clock does not matter.
pub(super) fn retry_after(value: &str, date: Option<&str>) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = DateTime::parse_from_rfc2822(value).ok()?;
    let now = DateTime::parse_from_rfc2822(date?.trim()).ok()?;
    Some((until - now).to_std().unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: &str = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier";
    const DAY: &str = "GenerateRequestsPerDayPerProjectPerModel-FreeTier";
    const TOKENS: &str = "GenerateContentInputTokensPerModelPerMinute-FreeTier";
    const PAID_TOKENS: &str = "GenerateContentPaidTierInputTokensPerModelPerMinute";
    const NO_LIMIT: &str = "Quota exceeded for metric: x, limit: 0, model: y";

    fn body(message: &str, details: &str) -> String {
        format!(r#"{{"error": {{"code": 429, "message": "{message}", "details": [{details}]}}}}"#)
    }

    fn quotas(ids: &[&str], value: &str) -> String {
        let each = |id: &&str| format!(r#"{{"quotaId": "{id}"{value}}}"#);
        let list = ids.iter().map(each).collect::<Vec<_>>().join(",");
        format!(
            r#"{{"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{list}]}}"#
        )
    }

    fn delay(text: &str) -> String {
        format!(
            r#"{{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "{text}"}}"#
        )
    }

    #[test]
    fn a_429_is_read_by_quota_then_delay_then_text() {
        let short = |millis| Exhaustion::Short { delay: Some(Duration::from_millis(millis)) };
        let none = || Exhaustion::Short { delay: None };
        let value = r#", "quotaValue": "20""#;
        let both = |ids: &[&str], wait: &str| format!("{}, {}", quotas(ids, value), delay(wait));
        let table = [
            (body("limit: 20", &both(&[DAY], "36s")), Exhaustion::Day),
            (body("limit: 20", &both(&[MINUTE, DAY], "36s")), Exhaustion::Day),
            (body("limit: 10", &both(&[MINUTE], "34.5s")), short(34_500)),
            (body("x", &quotas(&[MINUTE], value)), short(60_000)),
            (body("Please retry in 2s.", &quotas(&[MINUTE], value)), short(2_000)),
            (body("Please retry in 36.43s.", &both(&[MINUTE], "36s")), short(36_430)),
            (body(NO_LIMIT, &quotas(&[MINUTE, DAY], "")), Exhaustion::NoQuota),
            (body(NO_LIMIT, &quotas(&[MINUTE], r#", "quotaValue": 15"#)), short(60_000)),
            (body("x", &delay("0s")), short(0)),
            (body("x", &delay("51820.5s")), short(51_820_500)),
            (body("x", &delay("900ms")), short(900)),
            (
                body("Please retry in 900.5ms.", ""),
                Exhaustion::Short { delay: Some(Duration::from_micros(900_500)) },
            ),
            (body("Please retry in 44.25s.", ""), short(44_250)),
            (body("Resource has been exhausted (e.g. check quota).", ""), none()),
            (body("Your prepayment credits are depleted.", ""), none()),
        ];
        for (body, wanted) in table {
            let list = format!("[{body}]");
            for body in [body, list] {
                let error = ApiError::read(&body).unwrap();
                assert_eq!(exhaustion(&error, None), wanted, "{body}");
            }
        }
    }

    #[test]
    fn a_429_names_its_limits() {
        let named = |ids: &[&str], value: &str| {
            named_limits(&ApiError::read(&body("x", &quotas(ids, value))).unwrap())
        };
        let value = r#", "quotaValue": "20""#;
        let all = named(&[MINUTE, DAY, TOKENS, PAID_TOKENS], value);
        let wanted = [Quota::Rpm, Quota::Rpd, Quota::Tpm, Quota::Tpm].map(|quota| (quota, 20));
        assert_eq!(all, wanted);
        assert_eq!(named(&[MINUTE], r#", "quotaValue": 15"#), [(Quota::Rpm, 15)]);
        assert_eq!(named(&[MINUTE, DAY], ""), []);
        assert_eq!(named(&[MINUTE], r#", "quotaValue": "0""#), []);
        assert_eq!(named(&["GenerateContentInputTokensPerModelPerDay-FreeTier"], value), []);
    }

    #[test]
    fn a_header_is_seconds_or_a_time() {
        let date = Some("Wed, 21 Oct 2026 07:28:00 GMT");
        assert_eq!(retry_after(" 7 ", None), Some(Duration::from_secs(7)));
        let later = "Wed, 21 Oct 2026 07:28:30 GMT";
        assert_eq!(retry_after(later, date), Some(Duration::from_secs(30)));
        let past = "Wed, 21 Oct 2026 07:00:00 GMT";
        assert_eq!(retry_after(past, date), Some(Duration::ZERO));
        assert_eq!(retry_after(later, None), None);
        assert_eq!(retry_after("soon", date), None);
    }
}
