//! Settings from the environment and the `.env` file: keys, the endpoint, and values with units.
//!
//! The only reader of the process environment. Knows nothing of flags beyond their values.

mod endpoint;
mod environment;
mod keys;
mod values;

use std::path::PathBuf;

pub use endpoint::{DEFAULT_BASE_URL, Endpoint, Proxy, endpoint};
pub use environment::{Environment, Origin};
pub use keys::{NamedKey, Secret, keys};
pub use values::{duration, money, size};

/// Why the settings cannot be used. No message shows a value that may be a secret.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file that `--env-file` names is not there.
    #[error("the file `{}` that `--env-file` names does not exist", path.display())]
    MissingEnvFile {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("cannot read `{}`", path.display())]
    UnreadableEnvFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line of the file is no `NAME=value`.
    #[error("line {line} of `{}` is not `NAME=value`", path.display())]
    BrokenEnvFile {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// `--keys` names a key that has no value.
    #[error("`--keys` names `{name}`, which is not set")]
    KeyNotSet {
        /// The variable.
        name: String,
    },
    /// `--keys` holds something that is neither a name nor a range.
    #[error("`--keys` takes names and ranges such as `1-4`, not `{text}`")]
    BadSelection {
        /// The part that does not fit.
        text: String,
    },
    /// The file would send keys from elsewhere to a place of its choice.
    #[error("`{setting}` in `{}` is refused: not every key comes from that file", file.display())]
    ForeignEndpoint {
        /// The variable.
        setting: String,
        /// The file that sets it.
        file: PathBuf,
    },
    /// A flag or variable has a value that does not fit.
    #[error("`{setting}`: {reason}")]
    BadValue {
        /// The flag or variable.
        setting: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl ConfigError {
    /// Returns what to do about it, where there is something to say.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::ForeignEndpoint { setting, .. } => {
                Some(format!("set `{setting}` in the environment, or all keys in that file"))
            }
            Self::KeyNotSet { name } => {
                Some(format!("set `{name}` in the environment or in `.env`"))
            }
            Self::BrokenEnvFile { .. } => Some("quote values that hold spaces or a `#`".to_owned()),
            Self::MissingEnvFile { .. }
            | Self::UnreadableEnvFile { .. }
            | Self::BadSelection { .. }
            | Self::BadValue { .. } => None,
        }
    }

    fn bad(setting: &str, reason: impl Into<String>) -> Self {
        Self::BadValue { setting: setting.to_owned(), reason: reason.into() }
    }
}
