//! API keys by the names of their variables.

use std::fmt;

use super::{ConfigError, Environment, Origin};
use crate::domain::key::KeySettings;
use crate::domain::limits::{Given, GivenLimits, Quota};

const GEMINI: &str = "GEMINI_API_KEY";
const GOOGLE: &str = "GOOGLE_API_KEY";
const PROJECT: &str = "_PROJECT";
const TIER: &str = "_TIER";
/// Endings that make a name a setting of a key; the limits stand in the order of [`Quota::ALL`].
const SETTINGS: [&str; 5] = ["_RPM", "_TPM", "_RPD", PROJECT, TIER];

/// Text that must not be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`, without white space around it.
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// Returns the text, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// One key with the name of its variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedKey {
    /// The variable; the first one where several hold the same secret.
    pub name: String,
    /// The key itself.
    pub secret: Secret,
    /// What `<name>_RPM` and the like say.
    pub settings: KeySettings,
    /// Where it was set.
    pub origin: Origin,
    /// Further variables that hold the same secret.
    aliases: Vec<String>,
}

impl NamedKey {
    /// Returns whether `name` is the key's variable or a further one with the same secret.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.aliases.iter().any(|alias| alias == name)
    }

    /// Returns the further variables that hold the same secret.
    pub fn aliases(&self) -> &[String] {
        &self.aliases
    }
}

/// Returns the keys in natural order: all of them, or those that `select` (`--keys`) names.
pub fn keys(environment: &Environment, select: Option<&str>) -> Result<Vec<NamedKey>, ConfigError> {
    let mut names: Vec<&str> = environment.names().filter(|name| is_key(name)).collect();
    names.sort_by_key(|name| order(name));
    let mut keys: Vec<NamedKey> = Vec::new();
    for name in names {
        let Some((value, origin)) = environment.get(name) else { continue };
        let secret = Secret::new(value);
        let settings = settings(environment, name)?;
        match keys.iter_mut().find(|key| key.secret == secret) {
            Some(key) => {
                key.settings = std::mem::take(&mut key.settings).or(settings);
                key.aliases.push(name.to_owned());
            }
            None => keys.push(NamedKey {
                name: name.to_owned(),
                secret,
                settings,
                origin,
                aliases: Vec::new(),
            }),
        }
    }
    match select {
        Some(selection) => narrow(keys, selection),
        None => Ok(keys),
    }
}

fn is_key(name: &str) -> bool {
    let suffixed = name
        .strip_prefix(GEMINI)
        .and_then(|rest| rest.strip_prefix('_'))
        .is_some_and(|suffix| !suffix.is_empty());
    (name == GEMINI || name == GOOGLE || suffixed) && setting_of(name).is_none()
}

/// Returns the key that `name` is a setting of.
fn setting_of(name: &str) -> Option<&str> {
    let key = SETTINGS.iter().find_map(|ending| name.strip_suffix(ending))?;
    let suffixed = key.strip_prefix(GEMINI).is_some_and(|rest| rest.starts_with('_'));
    (key == GEMINI || key == GOOGLE || suffixed).then_some(key)
}

/// Sorts the bare name first, then numbers by value, then words, and Google's own name last.
fn order(name: &str) -> (u8, u128, &str) {
    let suffix = name.strip_prefix(GEMINI).map(|rest| rest.trim_start_matches('_'));
    match suffix {
        Some("") => (0, 0, name),
        Some(suffix) => match suffix.parse() {
            Ok(number) => (1, number, name),
            Err(_) => (2, 0, name),
        },
        None => (3, 0, name),
    }
}

fn settings(environment: &Environment, key: &str) -> Result<KeySettings, ConfigError> {
    let value = |ending: &str| {
        let name = format!("{key}{ending}");
        let text = environment.get(&name).map(|(value, _)| value.trim().to_owned());
        text.filter(|text| !text.is_empty()).map(|text| (name, text))
    };
    let mut limits = GivenLimits::default();
    for quota in Quota::ALL {
        if let Some((name, text)) = value(SETTINGS[quota as usize]) {
            let limit: Given =
                text.parse().map_err(|reason: String| ConfigError::bad(&name, &reason))?;
            limits.0[quota as usize] = limit;
        }
    }
    let tier = value(TIER).map(|(name, text)| {
        text.parse().map_err(|reason: String| ConfigError::bad(&name, &reason))
    });
    let project = value(PROJECT).map(|(_, text)| text);
    Ok(KeySettings { limits, project, tier: tier.transpose()? })
}

fn narrow(keys: Vec<NamedKey>, selection: &str) -> Result<Vec<NamedKey>, ConfigError> {
    let mut chosen = vec![false; keys.len()];
    let mut choose = |name: &str| match keys.iter().position(|key| key.is_called(name)) {
        Some(index) => {
            chosen[index] = true;
            Ok(())
        }
        None => Err(ConfigError::KeyNotSet { name: name.to_owned() }),
    };
    for part in selection.split(',').map(str::trim) {
        match range(part) {
            // The first number that has no key ends a range, however long it is.
            Some((first, last)) => {
                (first..=last).try_for_each(|number| choose(&format!("{GEMINI}_{number}")))?;
            }
            None if is_key(part) => choose(part)?,
            None => return Err(ConfigError::BadSelection { text: shown(part) }),
        }
    }
    Ok(keys.into_iter().zip(chosen).filter_map(|(key, chosen)| chosen.then_some(key)).collect())
}

fn range(part: &str) -> Option<(u32, u32)> {
    let (first, last) = part.split_once('-').unwrap_or((part, part));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

/// Returns a part of a selection as messages may show it: someone may have put a secret there.
fn shown(part: &str) -> String {
    if part.chars().count() <= 16 { part.to_owned() } else { "…".to_owned() }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::domain::key::Tier;
    use crate::domain::limits::Limits;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Environment::from_parts(pairs.iter().map(owned).collect(), None)
    }

    fn names(keys: &[NamedKey]) -> Vec<&str> {
        keys.iter().map(|key| key.name.as_str()).collect()
    }

    #[test]
    fn keys_come_in_natural_order_without_their_settings() {
        let environment = environment(&[
            ("GOOGLE_API_KEY", "g"),
            ("GEMINI_API_KEY_10", "ten"),
            ("GEMINI_API_KEY_2", "two"),
            ("GEMINI_API_KEY_2_TIER", "paid"),
            ("GEMINI_API_KEY_WORK", "w"),
            ("GEMINI_API_KEY_WORK_PROJECT", "p"),
            ("GEMINI_API_KEY_1", " one\n"),
            ("GEMINI_API_KEY", "bare"),
            ("GEMINI_API_KEY_RPM", "5"),
            ("GEMINI_API_KEY_", "no suffix"),
            ("GEMINI_API_KEYS", "no key"),
            ("GOOGLE_API_KEY_1", "no key"),
            ("gemini_api_key", "other case"),
            ("GEMINI_API_KEY_3", ""),
        ]);
        let keys = keys(&environment, None).unwrap();
        assert_eq!(
            names(&keys),
            [
                "GEMINI_API_KEY",
                "GEMINI_API_KEY_1",
                "GEMINI_API_KEY_2",
                "GEMINI_API_KEY_10",
                "GEMINI_API_KEY_WORK",
                "GOOGLE_API_KEY"
            ]
        );
        assert_eq!(keys[1].secret.expose(), "one");
        assert_eq!(keys[0].settings.limits.of("m"), Limits([Some(5), None, None]));
        assert_eq!(keys[2].settings.tier, Some(Tier::Paid));
        assert_eq!(keys[4].settings.project.as_deref(), Some("p"));
    }

    #[test]
    fn one_secret_under_two_names_is_one_key() {
        let environment = environment(&[
            ("GEMINI_API_KEY_1", "same"),
            ("GEMINI_API_KEY_1_RPD", "m=9"),
            ("GOOGLE_API_KEY", "same "),
            ("GOOGLE_API_KEY_TPM", "1000"),
        ]);
        let all = keys(&environment, None).unwrap();
        assert_eq!(names(&all), ["GEMINI_API_KEY_1"]);
        assert_eq!(all[0].aliases(), ["GOOGLE_API_KEY"]);
        let limits = &all[0].settings.limits;
        assert_eq!(limits.of("m"), Limits([None, Some(1_000), Some(9)]));
        assert_eq!(keys(&environment, Some("GOOGLE_API_KEY")).unwrap(), all);
    }

    #[test]
    fn a_selection_takes_names_and_ranges() {
        let pairs: Vec<(String, String)> =
            (1..=5).map(|n| (format!("GEMINI_API_KEY_{n}"), format!("k{n}"))).collect();
        let environment = Environment::from_parts(pairs.into_iter().collect(), None);
        let selected = |text: &str| {
            keys(&environment, Some(text))
                .map(|keys| keys.iter().map(|key| key.name[15..].to_owned()).collect::<String>())
        };
        assert_eq!(selected("2-4").unwrap(), "234");
        assert_eq!(selected("GEMINI_API_KEY_5, 1-2,2").unwrap(), "125");
        let problem = |text: &str| selected(text).unwrap_err().to_string();
        assert_eq!(problem("4-4000000000"), "`--keys` names `GEMINI_API_KEY_6`, which is not set");
        assert_eq!(
            problem("gemini"),
            "`--keys` takes names and ranges such as `1-4`, not `gemini`"
        );
        assert!(problem("4-1").contains("not `4-1`"));
        assert!(problem("").contains("not ``"));
        assert!(!problem("AIzaSyNotToBeShownAnywhere").contains("AIza"));
    }

    #[test]
    fn no_secret_shows_in_debug_output() {
        let file = (PathBuf::from(".env"), [(GOOGLE.to_owned(), "hush".to_owned())].into());
        let keys = keys(&Environment::from_parts([].into(), Some(file)), None).unwrap();
        assert_eq!(keys[0].origin, Origin::EnvFile);
        assert!(!format!("{keys:?}").contains("hush"));
    }

    #[test]
    fn a_setting_that_is_none_is_named() {
        for (name, value, reason) in [
            ("GEMINI_API_KEY_TIER", "gold", "must be `free` or `paid`"),
            ("GEMINI_API_KEY_RPM", "many", "`many` is no number of 1 or more"),
        ] {
            let environment = environment(&[(GEMINI, "k"), (name, value)]);
            let error = keys(&environment, None).unwrap_err().to_string();
            assert_eq!(error, format!("`{name}`: {reason}"));
        }
    }
}
