//! Why a command failed, for people and for scripts.

use std::io;

use gq::config::ConfigError;
use gq::intake::IntakeError;
use gq::queue::QueueError;
use gq::store::StoreError;
use tokio::task::JoinError;

use super::exit::ExitStatus;
use super::output::is_closed_pipe;

/// A failure with its exit code and what to do next.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: ExitStatus,
    /// Absent where there is nothing to say: the reader of our output has gone.
    pub(crate) message: Option<String>,
    pub(crate) hint: Option<String>,
}

/// What a command comes to.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn new(status: ExitStatus, message: impl Into<String>) -> Self {
        Self { status, message: Some(message.into()), hint: None }
    }

    /// Says that a thread of ours panicked while it did `what`.
    pub(crate) fn crashed(what: &str, error: &JoinError) -> Self {
        Self::new(ExitStatus::Failure, format!("{what} crashed; a bug in gq: {error}"))
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let hint = error.hint();
        Self { hint, ..Self::new(ExitStatus::Usage, with_causes(&error)) }
    }
}

impl From<&StoreError> for Failure {
    fn from(error: &StoreError) -> Self {
        let status = match error {
            StoreError::Conflict { .. } => ExitStatus::Usage,
            _ => ExitStatus::Failure,
        };
        Self { hint: hint(error).map(str::to_owned), ..Self::new(status, with_causes(error)) }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::from(&error)
    }
}

impl From<QueueError> for Failure {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Refused(reason) => Self::new(ExitStatus::Usage, reason),
            QueueError::NoSuchTask(_) => Self::new(ExitStatus::NotFound, error.to_string()),
            QueueError::Store(error) => Self::from(&*error),
            other => Self::new(ExitStatus::Failure, with_causes(&other)),
        }
    }
}

impl From<IntakeError> for Failure {
    fn from(error: IntakeError) -> Self {
        let status = match &error {
            IntakeError::Io { source, .. } if is_wrong_path(source) => ExitStatus::Usage,
            IntakeError::NotAFile { .. }
            | IntakeError::Gzip { .. }
            | IntakeError::Utf16 { .. }
            | IntakeError::Refused { .. } => ExitStatus::Usage,
            IntakeError::Io { .. }
            | IntakeError::Changed { .. }
            | IntakeError::Unchecked { .. }
            | IntakeError::Temporary(_)
            | IntakeError::Rejects(_) => ExitStatus::Failure,
        };
        Self::new(status, with_causes(&error))
    }
}

/// Returns whether the path is at fault, not the disk.
fn is_wrong_path(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | PermissionDenied | NotADirectory | InvalidInput)
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if is_closed_pipe(&error) {
            return Self { status: ExitStatus::Done, message: None, hint: None };
        }
        Self::new(ExitStatus::Failure, format!("cannot write the output: {error}"))
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::new(ExitStatus::Failure, format!("cannot write JSON: {error}"))
    }
}

fn hint(error: &StoreError) -> Option<&'static str> {
    Some(match error {
        StoreError::Missing(_) | StoreError::Empty(_) => {
            "`gq enqueue` makes one; `--db` or `GQ_DB` names another"
        }
        StoreError::Folder(_) => "`--db` and `GQ_DB` take the path of a file",
        StoreError::Newer(_) => "it was left as it is; use a newer gq",
        StoreError::HalfWritten(_) => "a command that writes, such as `gq work`, puts that right",
        StoreError::Older(_) => "a command that writes, such as `gq work`, brings it up to date",
        StoreError::ReadOnly { .. } => {
            "make it writable, or name a database elsewhere with `--db` or `GQ_DB`"
        }
        StoreError::LogNeedsWriting(_) => {
            "copy it together with its `-wal` file to a folder that you can write"
        }
        StoreError::Full => "make room, then make the same call again: what is stored stays",
        StoreError::Locked { .. } => "nothing of this was stored; try again",
        StoreError::Conflict { .. } => {
            "nothing of this was stored; `--on-conflict skip` keeps the old job, `replace` starts \
             it anew"
        }
        error if error.is_miscount() => "`gq doctor` says what is wrong, and counts anew",
        error if error.is_damage() => {
            "stop the workers, keep a copy of the files, and go back to a `gq backup`"
        }
        _ => return None,
    })
}

/// Returns an error with its causes.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
