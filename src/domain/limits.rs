//! How many calls and tokens a slot may take: what people say and what 429s have taught.

use std::str::FromStr;
use std::time::Duration;

use crate::domain::time::Timestamp;

/// What the API counts for each project and model
/// (<https://ai.google.dev/gemini-api/docs/rate-limits>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quota {
    /// Requests a minute.
    Rpm,
    /// Input tokens a minute.
    Tpm,
    /// Requests a day of `America/Los_Angeles`.
    Rpd,
}

impl Quota {
    /// All of them, in the order in which [`Limits`] holds them.
    pub const ALL: [Self; 3] = [Self::Rpm, Self::Tpm, Self::Rpd];

    /// Returns the name that users see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rpm => "rpm",
            Self::Tpm => "tpm",
            Self::Rpd => "rpd",
        }
    }
}

/// The limits of one slot; absent where none is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits(pub [Option<i64>; 3]);

impl Limits {
    /// Returns the limit of `quota`.
    pub fn of(&self, quota: Quota) -> Option<i64> {
        self.0[quota as usize]
    }

    /// Returns the lower one of each: several limits of one thing hold all together.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self(Quota::ALL.map(|quota| match (self.of(quota), other.of(quota)) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }))
    }
}

/// A limit as people give it: `10`, `gemini-2.5-pro=5`, or several with commas between.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Given {
    all: Option<i64>,
    models: Vec<(String, i64)>,
}

impl Given {
    /// Returns the limit for `model`: its own, or else the general one.
    pub fn of(&self, model: &str) -> Option<i64> {
        let own = self.models.iter().rev().find(|(name, _)| name == model);
        own.map(|(_, limit)| *limit).or(self.all)
    }

    /// Adds what `other` says; where both say something, `other` counts.
    #[must_use]
    pub fn with(mut self, other: Self) -> Self {
        self.models.extend(other.models);
        Self { all: other.all.or(self.all), ..self }
    }
}

impl FromStr for Given {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut given = Self::default();
        for part in text.split(',').map(str::trim) {
            let (model, number) = match part.rsplit_once('=') {
                Some((model, number)) => (Some(model.trim()), number.trim()),
                None => (None, part),
            };
            let limit = number.parse().ok().filter(|limit| *limit > 0);
            let limit = limit.ok_or_else(|| format!("`{number}` is no number of 1 or more"))?;
            match model.map(|model| model.strip_prefix("models/").unwrap_or(model)) {
                None => given.all = Some(limit),
                Some("") => return Err(format!("`{part}` names no model before the `=`")),
                Some(model) => given.models.push((model.to_owned(), limit)),
            }
        }
        Ok(given)
    }
}

impl std::fmt::Display for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let models = self.models.iter().map(|(model, limit)| format!("{model}={limit}"));
        let parts: Vec<String> =
            self.all.map(|all| all.to_string()).into_iter().chain(models).collect();
        f.write_str(&parts.join(","))
    }
}

/// The limits that people give, by what is counted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GivenLimits(pub [Given; 3]);

impl GivenLimits {
    /// Returns the limits for `model`.
    pub fn of(&self, model: &str) -> Limits {
        Limits(Quota::ALL.map(|quota| self.0[quota as usize].of(model)))
    }
}

/// A limit that a 429 has named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LearnedLimit {
    /// How many there may be.
    pub limit: i64,
    /// When it was named last.
    pub at: Timestamp,
    /// Whether what we had used of it by then explains the 429. If not, others use it too, or what
    /// the 429 says is not what it counts: then the rest that it asks for has to do.
    pub met: bool,
}

/// Limits that 429s have named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Learned(pub [Option<LearnedLimit>; 3]);

/// So long a learned limit holds as it is.
const FRESH: Duration = Duration::from_hours(24);

/// After so long it is forgotten. A project's tier, and with it its limits, rise within days of a
/// payment (<https://ai.google.dev/gemini-api/docs/rate-limits#usage-tiers>).
const FORGOTTEN: Duration = Duration::from_hours(168);

const HOUR_MS: i64 = 3_600_000;

impl Learned {
    /// Notes that a 429 has named `limit`, of which we had used so much.
    pub fn learn(&mut self, quota: Quota, limit: i64, used: i64, now: Timestamp) {
        let learned = &mut self.0[quota as usize];
        let known = learned.is_some_and(|before| before.met && before.limit == limit);
        *learned = Some(LearnedLimit { limit, at: now, met: known || used >= limit });
    }

    /// Returns the limits that hold at `now`.
    pub fn limits(&self, now: Timestamp) -> Limits {
        Limits(self.0.map(|learned| learned.filter(|it| it.met)?.raised(now)))
    }
}

impl LearnedLimit {
    /// Returns the limit at `now`: as it was named for a day, then a tenth more for each hour, to
    /// find out whether there is more by now, and in the end none.
    pub fn raised(&self, now: Timestamp) -> Option<i64> {
        // A clock that was set back makes no limit older.
        let age = now.since(self.at);
        if age >= FORGOTTEN {
            return None;
        }
        let hours = i64::try_from(age.saturating_sub(FRESH).as_millis()).ok()? / HOUR_MS;
        Some(self.limit.saturating_add((self.limit.saturating_mul(hours) / 10).max(hours)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(text: &str) -> Given {
        text.parse().unwrap()
    }

    #[test]
    fn a_model_has_its_own_limit_or_the_general_one() {
        let limit = given("10, gemini-2.5-pro=5,models/gemini-3-pro = 2");
        assert_eq!(limit.of("gemini-2.5-pro"), Some(5));
        assert_eq!(limit.of("gemini-3-pro"), Some(2));
        assert_eq!(limit.of("gemini-2.5-flash"), Some(10));
        assert_eq!(given("gemini-2.5-pro=5").of("gemini-2.5-flash"), None);
        assert_eq!(limit.to_string(), "10,gemini-2.5-pro=5,gemini-3-pro=2");
        let more = limit.with(given("7,gemini-2.5-pro=6"));
        assert_eq!([more.of("x"), more.of("gemini-2.5-pro")], [Some(7), Some(6)]);
    }

    #[test]
    fn what_is_no_limit_is_refused() {
        for text in ["", "0", "-3", "ten", "1.5", "=5", "m=", "m=0", "5,,6"] {
            assert!(text.parse::<Given>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_lowest_of_several_limits_holds() {
        let one = Limits([Some(10), None, Some(3)]);
        let other = Limits([Some(5), Some(1000), None]);
        assert_eq!(one.and(&other), Limits([Some(5), Some(1000), Some(3)]));
    }

    #[test]
    fn a_learned_limit_is_kept_a_day_then_raised_with_care_and_forgotten() {
        let mut learned = Learned::default();
        learned.learn(Quota::Rpm, 20, 21, Timestamp(1_000));
        let after = |hours: i64| learned.limits(Timestamp(1_000 + hours * HOUR_MS)).of(Quota::Rpm);
        assert_eq!([after(-5), after(0), after(24)], [Some(20); 3]);
        assert_eq!([after(25), after(34), after(167)], [Some(22), Some(40), Some(306)]);
        assert_eq!(after(168), None);
        learned.learn(Quota::Rpm, 3, 3, Timestamp(2_000));
        let hours = |hours| learned.limits(Timestamp(2_000 + hours * HOUR_MS)).of(Quota::Rpm);
        assert_eq!(hours(26), Some(5), "a small limit grows too");
    }

    #[test]
    fn a_limit_that_we_have_not_met_does_not_hold_us() {
        let mut learned = Learned::default();
        let holds = |learned: &Learned| learned.limits(Timestamp(9)).of(Quota::Rpm);
        learned.learn(Quota::Rpm, 20, 19, Timestamp(1));
        assert_eq!((holds(&learned), learned.0[0].unwrap().limit), (None, 20));
        learned.learn(Quota::Rpm, 20, 20, Timestamp(2));
        learned.learn(Quota::Rpm, 20, 1, Timestamp(3));
        assert_eq!(holds(&learned), Some(20), "once met, it is known");
        learned.learn(Quota::Rpm, 30, 21, Timestamp(4));
        assert_eq!(holds(&learned), None, "another one");
    }
}
