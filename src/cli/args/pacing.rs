//! The pacing flags. Each has a variable of the same name that starts with `GQ_`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use gq::config;
use gq::domain::limits::Given;
use gq::domain::pacing::{OnExhausted, OnUnknown, Pace};

/// How fast to call, how to rest, and what to spend.
#[derive(Debug, Clone, Args, Default)]
#[command(
    next_help_heading = "Pacing (each also as a variable: GQ_KEY_COOLDOWN for --key-cooldown)"
)]
pub(crate) struct PacingArgs {
    /// Set of defaults: `full` speed or `gentle` to free keys [default: full]
    #[arg(long, value_name = "PACE")]
    pub(crate) pace: Option<Pace>,
    /// Shortest time between any two calls of all processes on this database [default: 0s; gentle: 2s]
    #[arg(long, value_name = "DURATION", value_parser = config::duration)]
    pub(crate) api_call_interval: Option<Duration>,
    /// Rest of a key after each use [default: 0s; gentle: 30s]
    #[arg(long, value_name = "DURATION", value_parser = config::duration)]
    pub(crate) key_cooldown: Option<Duration>,
    /// Rest of one worker after each call [default: 0s; gentle: 5s]
    #[arg(long, value_name = "DURATION", value_parser = config::duration)]
    pub(crate) worker_cooldown: Option<Duration>,
    /// Shortest rest of a key and model after a 429 that names no time; doubles with each further
    /// one in a row, to 1h at most [default: 120s]
    #[arg(long, value_name = "DURATION", value_parser = config::duration)]
    pub(crate) exhausted_wait: Option<Duration>,
    /// Rest of a key and model that is counted out, when no reset time is known [default: 12h]
    #[arg(long, value_name = "DURATION", value_parser = config::duration)]
    pub(crate) fully_exhausted_wait: Option<Duration>,
    /// 429s in a row before a key and model is counted out [default: 3]
    #[arg(long, value_name = "N")]
    pub(crate) max_exhausted_retries: Option<u32>,
    /// When all keys rest: `wait`, or `exit` with code 75 [default: wait]
    #[arg(long, value_name = "HOW")]
    pub(crate) on_exhausted: Option<OnExhausted>,
    /// Longest time for one call [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = config::duration)]
    pub(crate) request_timeout: Option<Duration>,
    /// Calls that may ever be made for the jobs in scope; then exit with code 7 [default: no limit]
    #[arg(long, value_name = "N")]
    pub(crate) max_requests: Option<u64>,
    /// Tokens that the jobs in scope may ever use; then exit with code 7 [default: no limit]
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<u64>,
    /// USD that the jobs in scope may ever cost; then exit with code 7 [default: no limit]
    #[arg(long, value_name = "USD", value_parser = config::money)]
    pub(crate) max_cost: Option<i64>,
    /// TOML file with prices of models, in the form of the one that gq comes with [default: that]
    #[arg(long, value_name = "FILE")]
    pub(crate) prices: Option<PathBuf>,
    /// Largest request with its media in it [default: 20MB]
    #[arg(long, value_name = "SIZE", value_parser = config::size)]
    pub(crate) inline_limit: Option<u64>,
    /// A job whose process died in its call: `retry` it, or `fail` it [default: retry]
    #[arg(long, value_name = "HOW")]
    pub(crate) on_unknown: Option<OnUnknown>,
    /// Requests a minute of each key and model: `10`, or `MODEL=10` for one model; may be given
    /// several times [default: what 429s teach]
    #[arg(long, value_name = "LIMIT")]
    pub(crate) rpm: Vec<Given>,
    /// Input tokens a minute of each key and model, in the same forms [default: what 429s teach]
    #[arg(long, value_name = "LIMIT")]
    pub(crate) tpm: Vec<Given>,
    /// Requests a day (Pacific time) of each key and model, in the same forms [default: what 429s
    /// teach]
    #[arg(long, value_name = "LIMIT")]
    pub(crate) rpd: Vec<Given>,
}
