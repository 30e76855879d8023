//! A local stand-in for the Gemini API.
//!
//! It answers `generateContent`, `countTokens`, the Files API and the list of models as the real
//! API does: with its checks, its errors, its quotas, and with scripted faults. It owns a server on a socket that
//! the caller brings, and what that server has seen. It knows nothing of queues.
//!
//! | part | owns |
//! | --- | --- |
//! | `service`, `wire`, `reply` | receiving, waiting, sending, breaking connections |
//! | `route`, `strict`, `sense` | what a request means, and what is wrong with it |
//! | `verdict` | the order of the checks |
//! | `keys`, `quota`, `refusal` | who may still ask, and how a refusal reads |
//! | `script`, `ruling`, `canned`, `error` | faults on demand and the bodies of errors |
//! | `answer`, `capitals`, `fit`, `media`, `models` | the answers |
//! | `book`, `parts` | counters and the log of requests |
//! | `transfer`, `filing` | calls of the Files API: reading them, and what they get |
//! | `order`, `upload`, `files`, `desk` | uploads and the files that come of them |
//! | `journal` | requests and answers on disk |
//! | `ledger` | counters and the log of the Files API |

mod answer;
mod book;
mod canned;
mod capitals;
pub mod config;
mod delivery;
mod desk;
mod error;
mod files;
mod filing;
mod fit;
mod journal;
mod keys;
mod ledger;
mod media;
mod models;
mod order;
mod parts;
mod quota;
mod refusal;
mod reply;
mod route;
mod ruling;
mod script;
mod sense;
mod service;
mod stream;
mod strict;
mod transfer;
mod upload;
mod verdict;
mod wire;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::handler::Handler;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use book::{KeyStats, Recorded, Stats, fingerprint};
pub use canned::Canned;
pub use config::Config;
pub use ledger::FileRequest;
pub use parts::RecordedPart;
pub use script::{Fault, MethodFilter, Rule};

use service::Shared;
use wire::{Door, Wire};

/// How long open connections may take to end when the stand-in stops.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// A running stand-in. Dropping it stops it.
pub struct MockServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    task: Option<JoinHandle<()>>,
}

impl MockServer {
    /// Starts a stand-in on `listener`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Of the socket, and of the journal where one is to be kept.
    pub fn start(listener: TcpListener, config: Config) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::new(config)?);
        let service = service::serve.with_state(shared.clone());
        let stopping = shared.stopping.subscribe();
        let server =
            axum::serve(Door(listener), service.into_make_service_with_connect_info::<Wire>())
                .with_graceful_shutdown(reply::stopped(stopping));
        let task = tokio::spawn(async {
            // It ends without an error: accepting goes on after one.
            let _ = server.await;
        });
        Ok(Self { shared, address, task: Some(task) })
    }

    /// Returns the base URL, such as `http://127.0.0.1:8080`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the counts up to now, the same as `GET /__stats`.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Returns the exact counts of each key by its secret.
    pub fn key_stats(&self) -> HashMap<Arc<str>, KeyStats> {
        self.shared.book.keys()
    }

    /// Returns the requests that came, in order; the first million of them.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.book.requests()
    }

    /// Returns the requests to the Files API that came, in order; the first hundred thousand.
    pub fn file_requests_log(&self) -> Vec<FileRequest> {
        self.shared.judge.desk.ledger.requests()
    }

    /// Makes all files vanish, as if they had expired or been deleted elsewhere.
    pub fn forget_files(&self) {
        self.shared.forget_files();
    }

    /// Lets `count` held requests pass, whether they wait already or not; `None` opens the gate
    /// for good.
    pub fn release(&self, count: Option<usize>) {
        self.shared.gate.release(count);
    }

    /// Forgets all that was counted, quotas and script too, and closes the gate.
    pub fn reset(&self) {
        self.shared.reset();
    }

    /// Waits until the counts fulfil `condition`.
    pub async fn wait_until(&self, condition: impl Fn(&Stats) -> bool) {
        self.shared.wait_until(condition).await;
    }

    /// Stops: requests that wait are reset, the others end, all connections close.
    pub async fn stop(mut self) {
        self.shared.stopping.send_replace(true);
        if let Some(mut task) = self.task.take()
            && tokio::time::timeout(STOP_LIMIT, &mut task).await.is_err()
        {
            task.abort();
        }
    }
}

impl Drop for MockServer {
    fn drop(&mut self) {
        self.shared.stopping.send_replace(true);
    }
}
