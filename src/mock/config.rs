//! What the stand-in is told: models, keys, quotas, delays and scripted faults.
//!
//! Owns the shape of the configuration file; what each value does lives with the part it steers.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use super::script::Rule;

/// The models offered when none are named.
const DEFAULT_MODELS: [&str; 13] = [
    "gemini-2.5-flash",
    "gemini-2.5-flash-lite",
    "gemini-2.5-pro",
    "gemini-3-flash-preview",
    "gemini-3.1-flash-lite",
    "gemini-3.1-pro-preview",
    "gemini-3.5-flash",
    "gemini-3.5-flash-lite",
    "gemini-3.6-flash",
    "gemini-3.8-flash",
    "gemini-flash-latest",
    "gemini-flash-lite-latest",
    "gemini-pro-latest",
];

/// All settings of a stand-in; every one may be left out.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the file")]
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The models that exist.
    pub models: Vec<String>,
    /// How long an answer takes.
    pub latency_ms: Latency,
    /// The quota of each key that has none of its own.
    pub quota: Quota,
    /// Keys by their secret.
    pub keys: BTreeMap<String, KeyConfig>,
    /// Whether keys that are not listed are invalid.
    pub strict_keys: bool,
    /// How much a 429 tells.
    pub quota_detail: QuotaDetail,
    /// Whether refused calls count against the quotas too.
    pub count_refused: bool,
    /// The length of a quota "minute", so that tests need not wait for a real one.
    pub minute_ms: u64,
    /// The length of a quota "day"; left out, a day ends at midnight in Los Angeles.
    pub day_ms: Option<u64>,
    /// What becomes of uploaded files.
    pub files: FilesConfig,
    /// How streamed answers are sent.
    pub stream: StreamConfig,
    /// Faults and fixed answers; the first rule that fires decides.
    pub script: Vec<Rule>,
    /// Whether each request is kept for [`MockServer::requests`](super::MockServer::requests).
    pub record: bool,
    /// Whether the kept requests have their bodies.
    pub record_bodies: bool,
    /// A file that gets a line for each request and each answer, on disk before the answer goes out.
    pub journal: Option<PathBuf>,
    /// The largest request taken, in bytes.
    pub max_body_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            models: DEFAULT_MODELS.map(str::to_owned).to_vec(),
            latency_ms: Latency::default(),
            quota: Quota::default(),
            keys: BTreeMap::new(),
            strict_keys: false,
            quota_detail: QuotaDetail::default(),
            count_refused: false,
            minute_ms: 60_000,
            day_ms: None,
            files: FilesConfig::default(),
            stream: StreamConfig::default(),
            script: Vec::new(),
            record: true,
            record_bodies: false,
            journal: None,
            max_body_bytes: 104_857_600,
        }
    }
}

impl Config {
    /// Reads a configuration from JSON text; an unknown name is an error.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}

/// How long an answer takes: a number of milliseconds, or `{"min": …, "max": …}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Value")]
pub struct Latency {
    /// The shortest delay in milliseconds.
    pub min: u64,
    /// The longest delay in milliseconds.
    pub max: u64,
}

impl Latency {
    /// Returns the delay that `random` picks between the two ends.
    pub fn pick(self, random: u64) -> u64 {
        let span = self.max.saturating_sub(self.min);
        self.min + random.checked_rem(span.saturating_add(1)).unwrap_or(0)
    }
}

impl TryFrom<Value> for Latency {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let wrong = || format!("`{value}` is neither milliseconds nor {{\"min\", \"max\"}}");
        if let Some(fixed) = value.as_u64() {
            return Ok(Self { min: fixed, max: fixed });
        }
        let number = |name| value.get(name).and_then(Value::as_u64).ok_or_else(wrong);
        let latency = Self { min: number("min")?, max: number("max")? };
        if latency.min > latency.max { Err(wrong()) } else { Ok(latency) }
    }
}

/// Limits of a project for each model; a missing one is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quota {
    /// Requests a minute.
    pub rpm: Option<u64>,
    /// Requests a day.
    pub rpd: Option<u64>,
    /// Input tokens a minute.
    pub tpm: Option<u64>,
    /// How a minute is counted.
    pub window: Option<WindowKind>,
    /// Which names the quotas have in a 429.
    pub tier: Option<Tier>,
}

impl Quota {
    /// Returns this quota with `default` where it says nothing.
    #[must_use]
    pub fn or(self, default: Self) -> Self {
        Self {
            rpm: self.rpm.or(default.rpm),
            rpd: self.rpd.or(default.rpd),
            tpm: self.tpm.or(default.tpm),
            window: self.window.or(default.window),
            tier: self.tier.or(default.tier),
        }
    }
}

/// How the minute of a quota is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WindowKind {
    /// The last sixty seconds, at any time.
    #[default]
    Rolling,
    /// From full minute to full minute.
    Fixed,
}

/// The tier of a project.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Without billing.
    #[default]
    Free,
    /// With billing.
    Paid,
}

/// How much a 429 tells about the quota.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuotaDetail {
    /// The message and all details.
    #[default]
    Full,
    /// The message with its "Please retry in", and no details.
    MessageOnly,
    /// Only that something is exhausted.
    None,
}

/// What becomes of uploaded files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FilesConfig {
    /// How long a file is `PROCESSING` after its upload; 0 makes it `ACTIVE` at once.
    pub processing_ms: u64,
    /// The beginnings of the types that are processed; none means all.
    pub processing_types: Vec<String>,
    /// How long a file exists.
    pub lifetime_ms: u64,
    /// Whether processed files are `FAILED` afterwards.
    pub fails: bool,
    /// Whether the answer to the upload lacks the file's state.
    pub without_state: bool,
}

impl Default for FilesConfig {
    fn default() -> Self {
        Self {
            processing_ms: 0,
            processing_types: Vec::new(),
            lifetime_ms: 48 * 60 * 60 * 1000,
            fails: false,
            without_state: false,
        }
    }
}

/// How streamed answers are sent.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamConfig {
    /// How many letters of the text are in a chunk.
    pub chunk_chars: NonZeroUsize,
    /// How long each chunk takes.
    pub chunk_delay_ms: Latency,
    /// What ends a line.
    pub line_end: LineEnd,
    /// The network gets so many bytes at a time, wherever that cuts; left out, whole events.
    pub split_bytes: Option<NonZeroUsize>,
    /// The network gets so many events at a time.
    pub events_per_write: NonZeroUsize,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            chunk_chars: NonZeroUsize::MIN.saturating_add(19),
            chunk_delay_ms: Latency::default(),
            line_end: LineEnd::default(),
            split_bytes: None,
            events_per_write: NonZeroUsize::MIN,
        }
    }
}

/// What ends a line of a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineEnd {
    /// As the real one does.
    #[default]
    Crlf,
    /// A line feed.
    Lf,
    /// A carriage return.
    Cr,
}

impl LineEnd {
    /// Returns its bytes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Crlf => "\r\n",
            Self::Lf => "\n",
            Self::Cr => "\r",
        }
    }
}

/// One key.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeyConfig {
    /// Limits of its own.
    pub quota: Quota,
    /// Whether it works.
    pub status: KeyStatus,
    /// Models for which its project has no quota at all.
    pub no_quota_models: Vec<String>,
    /// Its project; keys of one project share their counters. Left out, it has one for itself.
    pub project: Option<String>,
}

/// Whether a key works, and if not, why.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyStatus {
    /// It works.
    #[default]
    Ok,
    /// No such key: 400 `API_KEY_INVALID`.
    Invalid,
    /// Expired: 400 `API_KEY_INVALID`.
    Expired,
    /// Suspended: 403, with the key in the message.
    Suspended,
    /// Reported as leaked: 403.
    Leaked,
    /// The API is off in its project: 403 `SERVICE_DISABLED`.
    ServiceDisabled,
    /// A credential of the wrong kind: 401.
    Unauthorized,
    /// Its project is denied access: 403.
    Denied,
    /// Used from a country that is not served: 400 `FAILED_PRECONDITION`.
    Location,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_object_is_the_default() {
        let config = Config::from_json("{}").unwrap();
        assert!(config.record);
        assert!(config.models.iter().any(|name| name == "gemini-flash-latest"));
        assert_eq!(config.minute_ms, 60_000);
    }

    #[test]
    fn latency_is_a_number_or_a_range() {
        let read = |text: &str| Config::from_json(text).map(|config| config.latency_ms);
        assert_eq!(read(r#"{"latency_ms": 5}"#).unwrap(), Latency { min: 5, max: 5 });
        let range = read(r#"{"latency_ms": {"min": 5, "max": 9}}"#).unwrap();
        assert_eq!((range.pick(0), range.pick(4), range.pick(5)), (5, 9, 5));
        assert!(read(r#"{"latency_ms": {"min": 9, "max": 5}}"#).is_err());
        assert!(read(r#"{"latency_ms": "slow"}"#).is_err());
    }

    #[test]
    fn an_unknown_name_is_refused() {
        assert!(Config::from_json(r#"{"latencyms": 5}"#).is_err());
        assert!(Config::from_json(r#"{"quota": {"rpmm": 5}}"#).is_err());
        assert!(Config::from_json(r#"{"files": {"processing": 5}}"#).is_err());
        assert!(Config::from_json(r#"{"stream": {"chunk": 5}}"#).is_err());
        assert!(Config::from_json(r#"{"stream": {"chunk_chars": 0}}"#).is_err());
        assert!(Config::from_json(r#"{"keys": {"a": {"status": "lost"}}}"#).is_err());
    }

    #[test]
    fn a_key_overrides_only_what_it_names() {
        let default = Quota { rpm: Some(5), rpd: Some(20), ..Quota::default() };
        let own = Quota { rpm: Some(9), ..Quota::default() };
        assert_eq!(own.or(default), Quota { rpm: Some(9), rpd: Some(20), ..Quota::default() });
    }
}
