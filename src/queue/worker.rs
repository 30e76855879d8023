//! A worker inside a program.

use tokio::sync::watch;

use crate::clock;
use crate::domain::key::Tier;
use crate::domain::pacing::{Pace, Pacing};
use crate::gemini::client::{ApiKey, Client, ClientOptions};
use crate::queue::{Queue, QueueError};
use crate::store::{FoundKey, Scope};
use crate::worker::{self, Events, Finish, Phase, WorkerKey, WorkerOptions};

/// Where the API is.
const API: &str = "https://generativelanguage.googleapis.com";

/// A worker that a program runs inside itself; others may work the same database.
#[derive(Debug, Clone)]
pub struct Worker {
    keys: Vec<(String, ApiKey)>,
    base_url: String,
    pacing: Pacing,
    workers: usize,
    events: Events,
}

impl Worker {
    /// Returns a worker with these keys, each given as its name and its secret. The database holds
    /// the name and a fingerprint.
    pub fn new<N, S>(keys: impl IntoIterator<Item = (N, S)>) -> Self
    where
        N: Into<String>,
        S: Into<std::sync::Arc<str>>,
    {
        let named = |(name, secret): (N, S)| (name.into(), ApiKey::new(secret));
        Self {
            keys: keys.into_iter().map(named).collect(),
            base_url: API.to_owned(),
            pacing: Pacing::of(Pace::Full),
            workers: 4,
            events: Events::to(|_| {}),
        }
    }

    /// Sets how many calls are in flight at once; 4 unless it is set.
    #[must_use]
    pub fn workers(self, workers: usize) -> Self {
        Self { workers, ..self }
    }

    /// Sets where the API is, such as a stand-in.
    #[must_use]
    pub fn base_url(self, base_url: impl Into<String>) -> Self {
        Self { base_url: base_url.into(), ..self }
    }

    /// Sets how fast it calls, how it rests, and what it may spend.
    #[must_use]
    pub fn pacing(self, pacing: Pacing) -> Self {
        Self { pacing, ..self }
    }

    /// Tells `listener` of everything that happens; it must not block.
    #[must_use]
    pub fn events(self, listener: impl Fn(&worker::Event) + Send + Sync + 'static) -> Self {
        Self { events: Events::to(listener), ..self }
    }

    /// Works the queue until `shutdown` completes; calls in flight then have 30 s to end. Returns
    /// earlier only where it cannot go on, which [`Finish`] tells.
    ///
    /// # Errors
    /// [`QueueError::NoKey`], and what the store says when it cannot go on.
    pub async fn run(
        self,
        queue: &Queue,
        shutdown: impl Future<Output = ()>,
    ) -> Result<Finish, QueueError> {
        if self.keys.is_empty() {
            return Err(QueueError::NoKey);
        }
        let client = Client::new(&ClientOptions {
            base_url: self.base_url,
            request_timeout: self.pacing.request_timeout,
            proxy: None,
            plain: false,
            direct: false,
        })?;
        let found = self.keys.iter().map(|(name, secret)| FoundKey {
            name,
            secret: secret.expose(),
            is_sendable: secret.header().is_some(),
            settings: None,
        });
        let rows = queue.store().register_keys(&found.collect::<Vec<_>>(), clock::now).await?;
        let keys = rows.into_iter().zip(&self.keys).map(|(row, (_, secret))| WorkerKey {
            is_free: row.settings.tier == Some(Tier::Free),
            id: row.id,
            name: row.name,
            secret: secret.clone(),
        });
        let options = WorkerOptions {
            workers: self.workers,
            ..WorkerOptions::new(Scope::All, &self.pacing, &client, keys.collect())
        };
        let (stop, phase) = watch::channel(Phase::Running);
        let work = worker::run(queue.store(), &client, options, phase, self.events);
        let stopping = async {
            shutdown.await;
            // A worker that has ended by itself no longer listens.
            stop.send_replace(Phase::Draining);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            finish = work => Ok(finish?),
            () = stopping => Ok(Finish::Stopped),
        }
    }
}
