//! What has to be done before jobs can be called: orders under way, and what came of them until a
//! turn has stored it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};

use crate::domain::outcome::ErrorKind;
use crate::gemini::client::{ApiKey, Client};
use crate::store::{ClaimedSource, FileStamp, Order, Prepared, Store, UploadEnd};
use crate::worker::attempt::WorkerKey;
use crate::worker::event::{Event, Events};
use crate::worker::upload::{self, Content, Upload};

/// Orders that are taken on at once, beside those that only wait for the API.
const ORDERS: usize = 32;

/// Of those, uploads and hashes that run at once: each upload holds a chunk in memory.
const AT_ONCE: usize = 2;

/// What an order needs to be carried out.
#[derive(Debug, Clone)]
pub(super) struct Means {
    pub(super) client: Client,
    pub(super) store: Store,
    /// How long the API may be at work on a file.
    pub(super) processing_limit: Duration,
}

/// Orders under way.
pub(super) struct Preparations {
    means: Means,
    keys: HashMap<i64, WorkerKey>,
    events: Events,
    refused_location: bool,
    /// Whether nothing more is begun.
    closing: bool,
    places: Arc<Semaphore>,
    tasks: JoinSet<Prepared>,
    under_way: HashMap<Id, (Order, AbortHandle)>,
    ended: Vec<Prepared>,
    /// What a turn under way is storing; kept until that is known to be on disk.
    settling: Vec<Prepared>,
}

impl Preparations {
    pub(super) fn new(means: Means, keys: &[WorkerKey], events: Events) -> Self {
        Self {
            means,
            keys: keys.iter().map(|key| (key.id, key.clone())).collect(),
            events,
            refused_location: false,
            closing: false,
            places: Arc::new(Semaphore::new(AT_ONCE)),
            tasks: JoinSet::new(),
            under_way: HashMap::new(),
            ended: Vec::new(),
            settling: Vec::new(),
        }
    }

    /// Returns how many more orders are taken on.
    pub(super) fn room(&self) -> usize {
        let is_work = |order: &Order| !matches!(order, Order::Poll { .. });
        let working = self.under_way.values().filter(|(order, _)| is_work(order)).count();
        ORDERS.saturating_sub(working)
    }

    /// Returns whether nothing is under way and all that ended is stored.
    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty() && self.ended.is_empty()
    }

    /// Returns whether something ended that no turn has taken.
    pub(super) fn has_ended(&self) -> bool {
        !self.ended.is_empty()
    }

    /// Returns how many uploads are under way, those that the API is at work on included.
    pub(super) fn uploads(&self) -> usize {
        let is_upload = |order: &Order| !matches!(order, Order::Hash(_));
        self.under_way.values().filter(|(order, _)| is_upload(order)).count()
    }

    /// Returns the rows of uploads that are this worker's as far as it knows.
    pub(super) fn known_uploads(&self) -> Vec<i64> {
        let row = |order: &Order| match order {
            Order::Hash(_) => None,
            Order::Upload { upload, .. } | Order::Poll { upload, .. } => Some(*upload),
        };
        let ended = self.ended.iter().chain(&self.settling).filter_map(|prepared| match prepared {
            Prepared::Hashed { .. } | Prepared::NotHashed => None,
            Prepared::Upload { upload, .. } => Some(*upload),
        });
        self.under_way.values().filter_map(|(order, _)| row(order)).chain(ended).collect()
    }

    /// Returns the files whose content is being found out.
    pub(super) fn hashing(&self) -> Vec<FileStamp> {
        let file = |order: &Order| match order {
            Order::Hash(file) => Some(file.clone()),
            Order::Upload { .. } | Order::Poll { .. } => None,
        };
        self.under_way.values().filter_map(|(order, _)| file(order)).collect()
    }

    /// Returns whether the API said that it serves nobody from this address.
    pub(super) fn refused_location(&self) -> bool {
        self.refused_location
    }

    /// Begins to carry out an order; at a stop it is given back.
    pub(super) fn start(&mut self, order: Order) {
        if self.closing {
            return self.decline(&order);
        }
        let key = match &order {
            Order::Hash(_) => None,
            Order::Upload { key, .. } | Order::Poll { key, .. } => match self.keys.get(key) {
                Some(key) => Some(key),
                None => return self.decline(&order),
            },
        };
        if let (Order::Upload { size, source, .. }, Some(key)) = (&order, key) {
            let path = match source {
                ClaimedSource::File(file) => Some(file.path.clone()),
                ClaimedSource::Blob { .. } => None,
            };
            self.events.send(&Event::Uploading { key: key.name.clone(), path, bytes: *size });
        }
        let secret = key.map_or_else(|| ApiKey::new(""), |key| key.secret.clone());
        let task = carry_out(order.clone(), secret, self.means.clone(), self.places.clone());
        let abort = self.tasks.spawn(task);
        self.under_way.insert(abort.id(), (order, abort));
    }

    fn decline(&mut self, order: &Order) {
        self.ended.push(cut(order));
    }

    /// Waits for the end of an order; returns nothing where none is under way.
    pub(super) async fn next(&mut self) -> Option<Result<(Id, Prepared), JoinError>> {
        self.tasks.join_next_with_id().await
    }

    /// Takes an order that ended, was cut, or panicked. A file that the API is still at work on is
    /// waited for.
    pub(super) fn collect(&mut self, joined: Result<(Id, Prepared), JoinError>) {
        let id = match &joined {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let Some((order, _)) = self.under_way.remove(&id) else { return };
        let prepared = match joined {
            Ok((_, prepared)) => prepared,
            Err(error) if error.is_panic() => {
                tracing::error!("an upload panicked; this is a bug in gq");
                broken(order)
            }
            Err(_) => cut(&order),
        };
        self.ended.push(prepared.clone());
        let Prepared::Upload { upload, key, end } = prepared else { return };
        let name = |key| self.keys.get(&key).map_or_else(String::new, |key| key.name.clone());
        match end {
            UploadEnd::Processing(file) => {
                let name = file.name;
                self.start(Order::Poll { upload, key, name, taken_over: false });
            }
            UploadEnd::Failed { kind, message } => {
                self.events.send(&Event::UploadFailed { kind, message });
            }
            UploadEnd::BadKey(message) => {
                self.events.send(&Event::KeyRefused { key: name(key), message });
            }
            UploadEnd::LocationRefused => self.refused_location = true,
            UploadEnd::RateLimited { .. } => {
                self.events.send(&Event::UploadLimited { key: name(key) });
            }
            UploadEnd::Ready(_) | UploadEnd::Lost | UploadEnd::Cut => {}
        }
    }

    /// Returns what a turn has to store.
    pub(super) fn take_ended(&mut self) -> Vec<Prepared> {
        self.settling.append(&mut self.ended);
        self.settling.clone()
    }

    /// Notes that a turn has stored it.
    pub(super) fn settled(&mut self) {
        self.settling.clear();
    }

    /// Begins nothing more, and cuts all but uploads: nothing is lost by it.
    pub(super) fn close(&mut self) {
        self.closing = true;
        for (order, abort) in self.under_way.values() {
            if !matches!(order, Order::Upload { .. }) {
                abort.abort();
            }
        }
    }

    /// Cuts everything.
    pub(super) fn cut_all(&mut self) {
        self.tasks.abort_all();
    }
}

fn cut(order: &Order) -> Prepared {
    match *order {
        Order::Hash(_) => Prepared::NotHashed,
        Order::Upload { upload, key, .. } | Order::Poll { upload, key, .. } => {
            Prepared::Upload { upload, key, end: UploadEnd::Cut }
        }
    }
}

fn broken(order: Order) -> Prepared {
    let message = "an internal fault ended it".to_owned();
    match order {
        Order::Hash(file) => Prepared::Hashed { file, result: Err(message) },
        Order::Upload { upload, key, .. } | Order::Poll { upload, key, .. } => {
            let kind = ErrorKind::Internal;
            Prepared::Upload { upload, key, end: UploadEnd::Failed { kind, message } }
        }
    }
}

async fn carry_out(order: Order, key: ApiKey, means: Means, places: Arc<Semaphore>) -> Prepared {
    let Means { client, store, processing_limit } = means;
    let place = match &order {
        // It only asks now and then.
        Order::Poll { .. } => None,
        // Never closed.
        Order::Hash(_) | Order::Upload { .. } => places.acquire().await.ok(),
    };
    let prepared = match order {
        Order::Hash(file) => Prepared::Hashed { result: upload::hash(file.clone()).await, file },
        Order::Upload { upload, key: owner, mime_type, size, source } => {
            let end = match Content::open(source, &store).await {
                Ok(content) => {
                    let mime_type = mime_type.as_str();
                    Upload { client: &client, key: &key, mime_type, size, content }.run().await
                }
                Err(message) => UploadEnd::Failed { kind: ErrorKind::Media, message },
            };
            Prepared::Upload { upload, key: owner, end }
        }
        Order::Poll { upload, key: owner, name, taken_over } => {
            let end = upload::poll(&client, &key, &name, processing_limit, taken_over).await;
            Prepared::Upload { upload, key: owner, end }
        }
    };
    drop(place);
    prepared
}
