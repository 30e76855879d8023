//! The queue for programs that embed it: add a job, wait for its answer, read its text as it comes.
//!
//! Owns nothing that is stored; it brings [`store`](crate::store), [`intake`] and
//! [`worker`](crate::worker) together. `examples/web.rs` shows a whole backend.

mod answer;
mod error;
mod hub;
mod worker;

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream;
use serde_json::Value;

pub use answer::Answer;
pub use error::QueueError;
pub use worker::Worker;

use crate::clock;
use crate::domain::hex::hex;
use crate::domain::input::Defaults;
use crate::domain::view::{JobState, QueueStatus};
use crate::intake;
use crate::store::{
    Access, Changes, EnqueueOptions, Heard, Interest, News, OnConflict, ResultFilter, Selection,
    Store,
};
use hub::Hub;

/// How often it looks where nothing tells of commits.
const POLL: Duration = Duration::from_millis(200);

/// A queue; clones share it.
///
/// ```
/// use gq::mock::{MockServer, config::Config};
/// use gq::queue::{Queue, Worker};
/// use serde_json::json;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let database = folder.path().join("gq.db");
/// # let api = MockServer::start(tokio::net::TcpListener::bind("127.0.0.1:0").await?, Config::default())?;
/// # let base_url = api.url();
/// let queue = Queue::open(&database).await?;
/// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
/// let worker = Worker::new([("GEMINI_API_KEY", "secret")]).workers(8).base_url(&base_url);
/// let working = worker.run(&queue, async { stopped.await.unwrap_or(()) });
///
/// let asking = async {
///     let prompt = json!({"prompt": "What is the capital of France?", "priority": 10});
///     let task = queue.enqueue("chat", &prompt).await?;
///     let answer = queue.wait(&task).await?;
///     drop(stop);
///     Ok::<_, gq::queue::QueueError>(answer)
/// };
/// let (finish, answer) = tokio::join!(working, asking);
/// assert_eq!(answer?.response.as_deref(), Some("The capital of France is Paris."));
/// assert_eq!(finish?, gq::worker::Finish::Stopped);
/// queue.close().await?;
/// # Ok(())
/// # }
/// # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct Queue {
    store: Store,
    hub: Hub,
}

/// A job by the names that its caller knows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Task {
    /// The batch it was added to.
    pub batch: String,
    /// Its task id.
    pub task_id: String,
}

/// What a reader of a job's text gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// The next piece of the text; never empty.
    Text(String),
    /// What came so far is void: the job was tried again, and its text begins anew.
    Restarted,
    /// The job is finished, with an answer or without; nothing follows.
    Finished(Box<Answer>),
}

impl Queue {
    /// Opens the database at `path`, and makes it where it is missing. Must be called within a
    /// tokio runtime.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, QueueError> {
        Ok(Self::over(Store::open(path.as_ref(), Access::Write).await?))
    }

    /// Returns a queue over a database that is open.
    pub fn over(store: Store) -> Self {
        let changes = store.changes(POLL);
        Self::with(store, changes)
    }

    /// Returns a queue over a database that this process works itself: what others do to it is seen
    /// after up to 200 ms.
    pub fn alone(store: Store) -> Self {
        let changes = store.own_changes(POLL);
        Self::with(store, changes)
    }

    fn with(store: Store, changes: Changes) -> Self {
        let hub = Hub::start(store.clone(), changes);
        Self { store, hub }
    }

    /// Returns the database, for all that is not here.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Adds one job, given as the object of an input line: `{"prompt": …, "stream": true}`. Once
    /// this returns it is on disk. One that names no `task_id` gets one of its own; one that is
    /// in `batch` already with equal content is not added again. Paths of media files start from
    /// the current folder.
    ///
    /// # Errors
    /// [`QueueError::Refused`] for a job that is not valid, [`StoreError::Conflict`] for one whose
    /// task id is taken by another content.
    ///
    /// [`StoreError::Conflict`]: crate::store::StoreError::Conflict
    pub async fn enqueue(&self, batch: &str, job: &Value) -> Result<Task, QueueError> {
        self.enqueue_with(batch, job, Defaults::default()).await
    }

    /// Adds one job as [`enqueue`](Self::enqueue) does, with these defaults for what it does not
    /// say.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue).
    pub async fn enqueue_with(
        &self,
        batch: &str,
        job: &Value,
        defaults: Defaults,
    ) -> Result<Task, QueueError> {
        let mut job = job.clone();
        let is_named = [&job["task_id"], &job["key"], &job["metadata"]["task_id"]]
            .iter()
            .any(|id| !id.is_null());
        if let (false, Some(fields)) = (is_named, job.as_object_mut()) {
            fields.insert("task_id".to_owned(), new_task_id().into());
        }
        let read = move || intake::read_job(&job.to_string(), 1, &defaults, &PathBuf::new());
        // Media files are looked at.
        let job = tokio::task::spawn_blocking(read).await.map_err(|_| QueueError::Closed)?;
        let job = job.map_err(QueueError::Refused)?;
        let job = job.ok_or_else(|| QueueError::Refused("there is nothing to send".to_owned()))?;
        let task = Task { batch: batch.to_owned(), task_id: job.task_id.clone() };
        let options = EnqueueOptions {
            batch: batch.to_owned(),
            on_conflict: OnConflict::Refuse,
            now: clock::now(),
        };
        let jobs = std::iter::once(Ok::<_, crate::store::StoreError>(job));
        self.store.enqueue(vec![(options, jobs)]).await?;
        Ok(task)
    }

    /// Waits until the job is finished, with an answer or without. Give it a time-out by
    /// `tokio::time::timeout`: the job stays in the queue.
    ///
    /// However many wait, a commit is looked at once for all of them.
    ///
    /// # Errors
    /// [`QueueError::NoSuchTask`], also for one that is removed meanwhile.
    pub async fn wait(&self, task: &Task) -> Result<Answer, QueueError> {
        let job = self.row(task).await?;
        loop {
            match self.hub.news(Interest { job, heard: None }).await? {
                News::Gone => return Err(QueueError::NoSuchTask(task.clone())),
                News::Finished => return self.answer(task).await,
                News::Text { .. } => {}
            }
        }
    }

    /// Returns the job as it stands, finished or not.
    ///
    /// # Errors
    /// [`QueueError::NoSuchTask`].
    pub async fn answer(&self, task: &Task) -> Result<Answer, QueueError> {
        let filter = ResultFilter {
            task_ids: vec![task.task_id.clone()],
            batch: Some(task.batch.clone()),
            states: Vec::new(),
        };
        let job = self.store.results(&filter, 0).await?.jobs.pop();
        job.map(Answer::of).ok_or_else(|| QueueError::NoSuchTask(task.clone()))
    }

    /// Returns the job's text as it comes, and at last its answer. Only a job with `"stream": true`
    /// has text before it is finished; of others all comes at the end.
    pub fn text_stream(&self, task: &Task) -> impl Stream<Item = Result<Said, QueueError>> + use<> {
        let reader = Reader {
            queue: self.clone(),
            task: task.clone(),
            job: None,
            claim: 0,
            text: String::new(),
            ready: Vec::new(),
            is_over: false,
        };
        stream::unfold(reader, Reader::next)
    }

    /// Cancels the job unless it is finished; a call under way is cut off.
    ///
    /// # Errors
    /// What the store says.
    pub async fn cancel(&self, task: &Task) -> Result<(), QueueError> {
        let selection = Selection {
            task_ids: vec![task.task_id.clone()],
            batch: Some(task.batch.clone()),
            ..Selection::default()
        };
        self.store.cancel(selection, clock::now()).await?;
        Ok(())
    }

    /// Returns the queue at a glance: counts, batches, workers, keys.
    ///
    /// # Errors
    /// What the store says.
    pub async fn status(&self) -> Result<QueueStatus, QueueError> {
        Ok(self.store.status(&[], clock::now()).await?)
    }

    /// Closes the database; what was asked for before is done first. Who waits is told
    /// [`StoreError::Closed`](crate::store::StoreError::Closed).
    ///
    /// # Errors
    /// What SQLite says when it closes the file.
    pub async fn close(&self) -> Result<(), QueueError> {
        self.hub.close().await?;
        Ok(self.store.close().await?)
    }

    async fn row(&self, task: &Task) -> Result<i64, QueueError> {
        let row = self.store.job_id(&task.batch, &task.task_id).await?;
        row.ok_or_else(|| QueueError::NoSuchTask(task.clone()))
    }
}

/// Returns a task id that nothing else has.
pub fn new_task_id() -> String {
    hex(&rand::random::<[u8; 8]>())
}

/// One who reads a job's text.
struct Reader {
    queue: Queue,
    task: Task,
    job: Option<i64>,
    /// The attempt whose text it is.
    claim: i64,
    /// The text so far.
    text: String,
    /// What is to be told next, the last first.
    ready: Vec<Said>,
    is_over: bool,
}

impl Reader {
    async fn next(mut self) -> Option<(Result<Said, QueueError>, Self)> {
        loop {
            if let Some(said) = self.ready.pop() {
                return Some((Ok(said), self));
            }
            if self.is_over {
                return None;
            }
            if let Err(error) = self.listen().await {
                self.is_over = true;
                return Some((Err(error), self));
            }
        }
    }

    /// Waits for news and makes ready what they say.
    async fn listen(&mut self) -> Result<(), QueueError> {
        let job = match self.job {
            Some(job) => job,
            None => *self.job.insert(self.queue.row(&self.task).await?),
        };
        let heard = Some(Heard { claim: self.claim, bytes: self.text.len() });
        match self.queue.hub.news(Interest { job, heard }).await? {
            News::Gone => Err(QueueError::NoSuchTask(self.task.clone())),
            News::Finished => {
                let answer = self.queue.answer(&self.task).await?;
                // Something may have put it back since.
                if answer.job.state.is_finished() {
                    self.finish(answer);
                }
                Ok(())
            }
            News::Text { claim, text } => {
                let is_new = claim != self.claim;
                self.claim = claim;
                self.hear(is_new, text);
                Ok(())
            }
        }
    }

    fn hear(&mut self, is_new: bool, piece: String) {
        let is_void = is_new && !self.text.is_empty();
        if is_new {
            self.text.clear();
        }
        self.text.push_str(&piece);
        if !piece.is_empty() {
            self.ready.push(Said::Text(piece));
        }
        if is_void {
            self.ready.push(Said::Restarted);
        }
    }

    /// Ends with what of the answer's text was not told yet. It may be that of an attempt that the
    /// reader has heard nothing of.
    fn finish(&mut self, answer: Answer) {
        self.is_over = true;
        let succeeded = answer.job.state == JobState::Succeeded;
        let whole = answer.response.clone().filter(|_| succeeded);
        self.ready.push(Said::Finished(Box::new(answer)));
        let Some(whole) = whole else { return };
        match whole.strip_prefix(&self.text) {
            Some(rest) => self.hear(false, rest.to_owned()),
            None => self.hear(true, whole),
        }
    }
}
