//! The keys: whose they are, whether they work, what their projects have used.
//!
//! Owns the counters' locks. What counts how is in `quota`.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::canned::Canned;
use super::config::{Config, KeyConfig, KeyStatus, Tier};
use super::quota::{Counters, Excess, Limits};
use super::refusal;

/// One key.
#[derive(Debug)]
pub(super) struct Key {
    /// What its calls get instead of an answer, if it does not work.
    pub(super) fault: Option<Canned>,
    limits: Limits,
    no_quota_models: Vec<String>,
    project: Arc<Project>,
}

/// One project.
#[derive(Debug)]
struct Project {
    number: u64,
    counters: Mutex<HashMap<String, Counters>>,
}

impl Key {
    /// Returns the number of its project, as errors name it.
    pub(super) fn project_number(&self) -> u64 {
        self.project.number
    }

    /// Returns the tier of its project.
    pub(super) fn tier(&self) -> Tier {
        self.limits.tier()
    }

    /// Counts a call, or returns the limits it would pass.
    pub(super) fn take(&self, model: &str, tokens: u64, now: i64) -> Vec<Excess> {
        if self.no_quota_models.iter().any(|name| name == model) {
            return refusal::no_quota(60_000 - now.rem_euclid(60_000)).to_vec();
        }
        if self.limits.unlimited() {
            return Vec::new();
        }
        let mut all = self.project.counters.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get_mut(model) {
            Some(counters) => counters.take(&self.limits, tokens, now),
            None => all.entry(model.to_owned()).or_default().take(&self.limits, tokens, now),
        }
    }
}

/// All keys that are listed or have been seen.
#[derive(Debug)]
pub(super) struct KeyRing {
    keys: RwLock<HashMap<String, Arc<Key>>>,
    unlisted: KeyConfig,
    config: Config,
}

impl KeyRing {
    pub(super) fn new(config: &Config) -> Self {
        let mut projects: HashMap<String, Arc<Project>> = HashMap::new();
        let mut keys = HashMap::new();
        for (secret, key) in &config.keys {
            let name = key.project.clone().unwrap_or_else(|| own_project(secret));
            let project = projects.entry(name).or_insert_with_key(|name| project(name)).clone();
            keys.insert(secret.clone(), Arc::new(key_of(key, config, project)));
        }
        let status = if config.strict_keys { KeyStatus::Invalid } else { KeyStatus::Ok };
        let unlisted = KeyConfig { status, ..KeyConfig::default() };
        Self { keys: RwLock::new(keys), unlisted, config: config.clone() }
    }

    /// Returns the key of a secret, which need not be listed.
    pub(super) fn key(&self, secret: &str) -> Arc<Key> {
        let known = self.keys.read().unwrap_or_else(PoisonError::into_inner).get(secret).cloned();
        known.unwrap_or_else(|| {
            let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
            let new = || {
                let project = project(&own_project(secret));
                Arc::new(key_of(&self.unlisted, &self.config, project))
            };
            keys.entry(secret.to_owned()).or_insert_with(new).clone()
        })
    }

    /// Sets all counters back.
    pub(super) fn reset(&self) {
        for key in self.keys.read().unwrap_or_else(PoisonError::into_inner).values() {
            key.project.counters.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }
}

fn key_of(key: &KeyConfig, config: &Config, project: Arc<Project>) -> Key {
    Key {
        fault: fault(key.status),
        limits: Limits::new(key.quota, config),
        no_quota_models: key.no_quota_models.clone(),
        project,
    }
}

/// Returns the name of a project that no key can share by accident.
fn own_project(secret: &str) -> String {
    format!("\0{secret}")
}

fn project(name: &str) -> Arc<Project> {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    let number = 100_000_000_000 + hasher.finish() % 900_000_000_000;
    Arc::new(Project { number, counters: Mutex::default() })
}

fn fault(status: KeyStatus) -> Option<Canned> {
    match status {
        KeyStatus::Ok => None,
        KeyStatus::Invalid => Some(Canned::InvalidKey),
        KeyStatus::Expired => Some(Canned::ExpiredKey),
        KeyStatus::Suspended => Some(Canned::SuspendedKey),
        KeyStatus::Leaked => Some(Canned::LeakedKey),
        KeyStatus::ServiceDisabled => Some(Canned::ServiceDisabled),
        KeyStatus::Unauthorized => Some(Canned::Unauthorized),
        KeyStatus::Denied => Some(Canned::Denied),
        KeyStatus::Location => Some(Canned::Location),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_one_project_share_its_quota() {
        let config = Config::from_json(
            r#"{"quota": {"rpm": 2}, "keys": {"a": {"project": "p"}, "b": {"project": "p"}, "c": {}}}"#,
        );
        let ring = KeyRing::new(&config.unwrap());
        assert_eq!(ring.key("a").take("m", 1, 0), []);
        assert_eq!(ring.key("b").take("m", 1, 0), []);
        assert_eq!(ring.key("a").take("m", 1, 0).len(), 1);
        assert_eq!(ring.key("a").take("other", 1, 0), []);
        assert_eq!(ring.key("c").take("m", 1, 0), []);
        assert_eq!(ring.key("unlisted").take("m", 1, 0), []);
        ring.reset();
        assert_eq!(ring.key("a").take("m", 1, 0), []);
    }

    #[test]
    fn a_model_without_quota_is_refused_for_good() {
        let config = Config::from_json(r#"{"keys": {"a": {"no_quota_models": ["pro"]}}}"#);
        let ring = KeyRing::new(&config.unwrap());
        assert!(ring.key("a").take("pro", 1, 0).iter().all(|excess| excess.limit == 0));
        assert_eq!(ring.key("a").take("flash", 1, 0), []);
    }

    #[test]
    fn strict_keys_refuse_what_is_not_listed() {
        let config = Config::from_json(r#"{"strict_keys": true, "keys": {"a": {}}}"#);
        let ring = KeyRing::new(&config.unwrap());
        assert_eq!(ring.key("a").fault, None);
        assert_eq!(ring.key("b").fault, Some(Canned::InvalidKey));
    }
}
