//! What a worker tells of itself, for progress, logs and whoever embeds it.

use std::fmt;
use std::sync::Arc;

use crate::domain::forecast::Capacity;
use crate::domain::job::Transition;
use crate::domain::outcome::{ErrorKind, Outcome};
use crate::domain::time::Timestamp;
use crate::domain::view::{Counts, Waiting};
use crate::store::Settled;

/// Something that happened in a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Jobs were claimed and their calls start.
    Started {
        /// How many.
        jobs: usize,
    },
    /// A job ended with an answer.
    Succeeded {
        /// The caller's name for it.
        task_id: String,
    },
    /// A job ended without an answer.
    Failed {
        /// The caller's name for it.
        task_id: String,
        /// Why.
        kind: ErrorKind,
        /// What the API or the network said.
        message: String,
    },
    /// An attempt failed and the job will be tried again.
    Retrying {
        /// The caller's name for it.
        task_id: String,
        /// Why.
        kind: ErrorKind,
        /// What the API or the network said.
        message: String,
    },
    /// An upload begins.
    Uploading {
        /// The variable of the key that is to own it.
        key: String,
        /// The file; none where it is bytes of a line.
        path: Option<String>,
        /// The size.
        bytes: u64,
    },
    /// An upload failed; jobs are told so.
    UploadFailed {
        /// Why.
        kind: ErrorKind,
        /// What the API or the network said.
        message: String,
    },
    /// A key reached a rate limit with an upload.
    UploadLimited {
        /// The variable's name.
        key: String,
    },
    /// The API refused a key.
    KeyRefused {
        /// The variable's name.
        key: String,
        /// What the API said.
        message: String,
    },
    /// A key reached a rate limit for one model.
    RateLimited {
        /// The variable's name.
        key: String,
        /// The model.
        model: String,
    },
    /// Jobs of dead or hung workers are pending again.
    TakenBack {
        /// How many.
        jobs: u64,
    },
    /// A turn is done.
    Turn {
        /// Jobs in scope by state.
        counts: Counts,
        /// Calls in flight here.
        in_flight: usize,
        /// Uploads under way here.
        uploads: usize,
        /// What the queue waits for.
        waiting: Option<Waiting>,
        /// Until when limits hold back all that is due.
        held_until: Option<Timestamp>,
        /// What the slots may take together, now and then.
        capacity: Option<Capacity>,
    },
    /// The database could not be written; it is tried again.
    StoreTrouble {
        /// What went wrong.
        message: String,
    },
    /// No more is claimed; calls in flight may end.
    Draining,
}

impl Event {
    /// Returns what there is to tell of an attempt that was settled, if anything.
    pub(super) fn of(settled: &Settled, task_id: String, model: String, key: &str) -> Option<Self> {
        let message = settled.ended.message.clone().unwrap_or_default();
        match (&settled.ended.outcome, settled.transition) {
            (Outcome::BadKey, _) => Some(Self::KeyRefused { key: key.to_owned(), message }),
            (Outcome::Exhausted(_), _) => Some(Self::RateLimited { key: key.to_owned(), model }),
            (_, Transition::Succeed) => Some(Self::Succeeded { task_id }),
            (_, Transition::Fail(kind)) => Some(Self::Failed { task_id, kind, message }),
            (Outcome::Failed(kind), Transition::RetryAfter(_)) => {
                Some(Self::Retrying { task_id, kind: *kind, message })
            }
            _ => None,
        }
    }
}

/// Where events go.
#[derive(Clone)]
pub struct Events(Arc<dyn Fn(&Event) + Send + Sync>);

impl Events {
    /// Calls `listener` with each event; it must not block.
    pub fn to(listener: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listener))
    }

    pub(crate) fn send(&self, event: &Event) {
        (self.0)(event);
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}
