//! Flags, environment and `.env` file brought together: the first that says something counts.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use gq::config::{self, ConfigError, Environment};
use gq::domain::input::DEFAULT_MODEL;
use gq::domain::limits::{Given, GivenLimits};
use gq::domain::pacing::{Pace, Pacing};
use gq::domain::price::Prices;

use super::args::{GlobalArgs, PacingArgs};

const DEFAULT_DB: &str = "gq.db";

/// Returns the path of the database.
pub(crate) fn database(args: &GlobalArgs, environment: &Environment) -> PathBuf {
    let variable = || environment.get("GQ_DB").map(|(path, _)| PathBuf::from(path));
    args.db.clone().or_else(variable).unwrap_or_else(|| PathBuf::from(DEFAULT_DB))
}

/// Returns the model of jobs that name none.
pub(crate) fn model(args: &GlobalArgs, environment: &Environment) -> String {
    let variable = || environment.get("GQ_MODEL").map(|(model, _)| model.trim().to_owned());
    args.model.clone().or_else(variable).unwrap_or_else(|| DEFAULT_MODEL.to_owned())
}

/// Returns the pacing settings.
pub(crate) fn pacing(args: &PacingArgs, environment: &Environment) -> Result<Pacing, ConfigError> {
    let from = Source { environment };
    let defaults = Pacing::of(from.pick(args.pace, "GQ_PACE", Pace::from_str)?.unwrap_or_default());
    let duration = |flag, name, default| {
        from.pick(flag, name, config::duration).map(|found| found.unwrap_or(default))
    };
    Ok(Pacing {
        api_call_interval: duration(
            args.api_call_interval,
            "GQ_API_CALL_INTERVAL",
            defaults.api_call_interval,
        )?,
        key_cooldown: duration(args.key_cooldown, "GQ_KEY_COOLDOWN", defaults.key_cooldown)?,
        worker_cooldown: duration(
            args.worker_cooldown,
            "GQ_WORKER_COOLDOWN",
            defaults.worker_cooldown,
        )?,
        exhausted_wait: duration(
            args.exhausted_wait,
            "GQ_EXHAUSTED_WAIT",
            defaults.exhausted_wait,
        )?,
        fully_exhausted_wait: duration(
            args.fully_exhausted_wait,
            "GQ_FULLY_EXHAUSTED_WAIT",
            defaults.fully_exhausted_wait,
        )?,
        max_exhausted_retries: from
            .pick(args.max_exhausted_retries, "GQ_MAX_EXHAUSTED_RETRIES", number)?
            .unwrap_or(defaults.max_exhausted_retries),
        limits: GivenLimits([
            from.limit(&args.rpm, "GQ_RPM")?,
            from.limit(&args.tpm, "GQ_TPM")?,
            from.limit(&args.rpd, "GQ_RPD")?,
        ]),
        on_exhausted: from
            .pick(args.on_exhausted, "GQ_ON_EXHAUSTED", FromStr::from_str)?
            .unwrap_or(defaults.on_exhausted),
        request_timeout: duration(
            args.request_timeout,
            "GQ_REQUEST_TIMEOUT",
            defaults.request_timeout,
        )?,
        inline_limit: from
            .pick(args.inline_limit, "GQ_INLINE_LIMIT", config::size)?
            .unwrap_or(defaults.inline_limit),
        max_requests: from.pick(args.max_requests, "GQ_MAX_REQUESTS", number)?,
        max_tokens: from.pick(args.max_tokens, "GQ_MAX_TOKENS", number)?,
        max_cost: from.pick(args.max_cost, "GQ_MAX_COST", config::money)?,
        prices: Arc::new(prices(args, environment)?),
        on_unknown: from
            .pick(args.on_unknown, "GQ_ON_UNKNOWN", FromStr::from_str)?
            .unwrap_or(defaults.on_unknown),
    })
}

/// Reads the prices that calls are counted by.
fn prices(args: &PacingArgs, environment: &Environment) -> Result<Prices, ConfigError> {
    let variable = || environment.get("GQ_PRICES").map(|(path, _)| PathBuf::from(path));
    let Some(path) = args.prices.clone().or_else(variable) else { return Ok(Prices::default()) };
    let read = std::fs::read_to_string(&path).map_err(|error| error.to_string());
    let prices = read.and_then(|text| Prices::from_toml(&text));
    prices.map_err(|reason| bad("--prices", format!("`{}`: {reason}", path.display())))
}

#[derive(Clone, Copy)]
struct Source<'a> {
    environment: &'a Environment,
}

impl Source<'_> {
    /// Returns what all flags of one name say together, or what the variable says.
    fn limit(self, flags: &[Given], name: &str) -> Result<Given, ConfigError> {
        let flag = flags.iter().cloned().reduce(Given::with);
        Ok(self.pick(flag, name, FromStr::from_str)?.unwrap_or_default())
    }

    /// Returns the flag, or what the variable says.
    fn pick<T>(
        self,
        flag: Option<T>,
        name: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        match (flag, self.environment.get(name)) {
            (Some(value), _) => Ok(Some(value)),
            (None, Some((text, _))) => {
                parse(text.trim()).map(Some).map_err(|reason| bad(name, reason))
            }
            (None, None) => Ok(None),
        }
    }
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("`{text}` is no number that fits"))
}

fn bad(name: &str, reason: String) -> ConfigError {
    ConfigError::BadValue { setting: name.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn environment(process: &[(&str, &str)], file: &[(&str, &str)]) -> Environment {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
        };
        Environment::from_parts(map(process), Some((PathBuf::from(".env"), map(file))))
    }

    fn seconds(flag: Option<u64>, process: &[(&str, &str)], file: &[(&str, &str)]) -> u64 {
        let key_cooldown = flag.map(Duration::from_secs);
        let args = PacingArgs { key_cooldown, ..PacingArgs::default() };
        pacing(&args, &environment(process, file)).unwrap().key_cooldown.as_secs()
    }

    #[test]
    fn flag_then_environment_then_file_then_pace_then_default() {
        let process = [("GQ_KEY_COOLDOWN", "2s")];
        let file = [("GQ_KEY_COOLDOWN", "3s"), ("GQ_PACE", "gentle")];
        assert_eq!(seconds(Some(1), &process, &file), 1);
        assert_eq!(seconds(None, &process, &file), 2);
        assert_eq!(seconds(None, &[], &file), 3);
        assert_eq!(seconds(None, &[], &file[1..]), 30);
        assert_eq!(seconds(None, &[], &[]), 0);
    }

    #[test]
    fn a_bad_variable_is_named() {
        for (name, value) in [
            ("GQ_API_CALL_INTERVAL", "fast"),
            ("GQ_MAX_EXHAUSTED_RETRIES", "-1"),
            ("GQ_ON_EXHAUSTED", "stop"),
            ("GQ_MAX_COST", "cheap"),
            ("GQ_PACE", "slow"),
            ("GQ_RPM", "none"),
        ] {
            let environment = environment(&[(name, value)], &[]);
            let error = pacing(&PacingArgs::default(), &environment).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{name}`: ")), "{error}");
        }
    }
}
