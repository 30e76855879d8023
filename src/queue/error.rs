//! What can go wrong for a program that embeds the queue.

use std::sync::Arc;

use crate::gemini::client::BuildError;
use crate::queue::Task;
use crate::store::StoreError;

/// A failure of the queue.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The job is not valid; the reason is for people.
    #[error("the job is not valid: {0}")]
    Refused(String),
    /// Nothing has that name.
    #[error("there is no task `{}` in batch `{}`", .0.task_id, .0.batch)]
    NoSuchTask(Task),
    /// No key was given.
    #[error("no API key is set")]
    NoKey,
    /// The HTTP client cannot be built.
    #[error(transparent)]
    Client(#[from] BuildError),
    /// The database failed.
    #[error(transparent)]
    Store(Arc<StoreError>),
    /// The runtime shuts down.
    #[error("the program is ending")]
    Closed,
}

impl From<StoreError> for QueueError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

impl From<Arc<StoreError>> for QueueError {
    fn from(error: Arc<StoreError>) -> Self {
        Self::Store(error)
    }
}
