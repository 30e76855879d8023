//! One watch on the database for all who wait in this process.
//!
//! However many wait, a commit is looked at once, with one statement for all of them.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::store::{Changes, Interest, News, Store, StoreError};

/// Those who wait that are taken in at once.
const QUEUE: usize = 256;

/// Somebody who waits.
struct Waiter {
    interest: Interest,
    reply: oneshot::Sender<Result<News, Arc<StoreError>>>,
}

/// What the watch is told.
enum Word {
    Wait(Waiter),
    Close(oneshot::Sender<Result<(), StoreError>>),
}

/// A handle to the watch, which ends with the last one.
#[derive(Debug, Clone)]
pub(super) struct Hub {
    words: mpsc::Sender<Word>,
}

impl Hub {
    pub(super) fn start(store: Store, changes: Changes) -> Self {
        let (words, queue) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            Watch { store, changes, waiting: Vec::new() }.run(queue).await;
        });
        Self { words }
    }

    /// Waits until there is something new.
    pub(super) async fn news(&self, interest: Interest) -> Result<News, Arc<StoreError>> {
        let (reply, news) = oneshot::channel();
        let waiter = Word::Wait(Waiter { interest, reply });
        self.words.send(waiter).await.map_err(|_| Arc::new(StoreError::Closed))?;
        news.await.map_err(|_| Arc::new(StoreError::Closed))?
    }

    /// Ends the watch; who waits is told so. Once is enough.
    pub(super) async fn close(&self) -> Result<(), StoreError> {
        let (reply, closed) = oneshot::channel();
        if self.words.send(Word::Close(reply)).await.is_err() {
            return Ok(());
        }
        closed.await.unwrap_or(Ok(()))
    }
}

struct Watch {
    store: Store,
    changes: Changes,
    waiting: Vec<Waiter>,
}

impl Watch {
    async fn run(mut self, mut queue: mpsc::Receiver<Word>) {
        let mut words = Vec::new();
        let mut closed = None;
        while closed.is_none() {
            tokio::select! {
                count = queue.recv_many(&mut words, QUEUE) => {
                    if count == 0 {
                        break;
                    }
                    let mut arrived = Vec::new();
                    for word in words.drain(..) {
                        match word {
                            Word::Wait(waiter) => arrived.push(waiter),
                            Word::Close(reply) => closed = Some(reply),
                        }
                    }
                    // What they wait for may have happened already.
                    let rest = self.tell(arrived).await;
                    self.waiting.extend(rest);
                }
                () = self.changes.next(), if !self.waiting.is_empty() => {
                    let waiting = std::mem::take(&mut self.waiting);
                    self.waiting = self.tell(waiting).await;
                }
            }
        }
        let ended = self.changes.close().await;
        if let Some(reply) = closed {
            // Who went away no longer wants to know.
            drop(reply.send(ended));
        } else if let Err(error) = ended {
            tracing::warn!(%error, "the database did not close cleanly");
        }
    }

    /// Tells those for whom there is news; returns the others, without those who went away.
    async fn tell(&self, mut waiters: Vec<Waiter>) -> Vec<Waiter> {
        waiters.retain(|waiter| !waiter.reply.is_closed());
        let interests: Vec<Interest> = waiters.iter().map(|waiter| waiter.interest).collect();
        let news = match self.store.news(&interests).await {
            Ok(news) => news,
            // A reader that could not look this time looks again after the next commit or poll.
            Err(error) if error.is_transient() => return waiters,
            Err(error) => {
                let error = Arc::new(error);
                for waiter in waiters {
                    // Who went away no longer wants to know.
                    drop(waiter.reply.send(Err(error.clone())));
                }
                return Vec::new();
            }
        };
        let mut waiters: Vec<Option<Waiter>> = waiters.into_iter().map(Some).collect();
        for (place, news) in news {
            if let Some(waiter) = waiters.get_mut(place).and_then(Option::take) {
                drop(waiter.reply.send(Ok(news)));
            }
        }
        waiters.into_iter().flatten().collect()
    }
}
