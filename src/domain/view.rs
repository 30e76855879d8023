//! What the queue shows of itself: plain values that the store reads and commands render.

use crate::domain::forecast::Forecast;
use crate::domain::key::KeySettings;
use crate::domain::limits::Quota;
use crate::domain::outcome::{ErrorKind, Usage};
use crate::domain::output::OutputForm;
use crate::domain::time::Timestamp;

/// The state of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JobState {
    /// Waits for its turn, or for its next attempt.
    Pending,
    /// A worker holds it under a lease.
    Running,
    /// Its answer is recorded.
    Succeeded,
    /// It ended without an answer.
    Failed,
    /// A person cancelled it.
    Cancelled,
}

impl JobState {
    /// All states, in the order of a job's life.
    pub const ALL: [Self; 5] =
        [Self::Pending, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled];

    /// Returns the name that users and the database see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Returns whether nothing more happens to the job by itself.
    pub fn is_finished(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

impl std::str::FromStr for JobState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::as_str).join(", ");
            format!("`{text}` is no state; there are {names}")
        })
    }
}

/// Why a job has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobError {
    /// What kind of failure it was.
    pub kind: ErrorKind,
    /// What the API or the network said.
    pub message: String,
    /// The status of the answer, if one came.
    pub http_status: Option<u16>,
}

/// One job as `gq results` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobView {
    /// Its row.
    pub id: i64,
    /// The caller's name for the job.
    pub task_id: String,
    /// The name it was enqueued under.
    pub batch: String,
    /// Its state.
    pub state: JobState,
    /// The metadata, as JSON text.
    pub metadata: Option<String>,
    /// The API's whole answer as JSON text, where one came.
    pub raw: Option<String>,
    /// The last failure, while there is no answer.
    pub error: Option<JobError>,
    /// The model it goes to.
    pub model: String,
    /// Tokens of the attempt that counts.
    pub usage: Option<Usage>,
    /// Attempts used up, the successful one included.
    pub attempts: i64,
    /// The variable name of the key that the last attempt used.
    pub key: Option<String>,
    /// The line of the input file.
    pub line: i64,
    /// When it was enqueued.
    pub created_at: Timestamp,
    /// When its last attempt began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// When a pending job is due.
    pub due_at: Timestamp,
    /// Whether its text is stored as it comes.
    pub stream: bool,
    /// The text so far of a streaming job that is not finished.
    pub text: Option<String>,
    /// In which form the answer holds a value, where the request has a schema.
    pub output: Option<OutputForm>,
}

/// One attempt as `gq show` lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptView {
    /// The number of the call, counted over the job's life.
    pub attempt: i64,
    /// The variable name of the key.
    pub key: Option<String>,
    /// When the job was claimed.
    pub started_at: Timestamp,
    /// When the attempt ended; absent while it runs.
    pub ended_at: Option<Timestamp>,
    /// The status of the answer, if one came.
    pub http_status: Option<u16>,
    /// `succeeded`, a kind of error, `rate_limited`, `bad_key`, `released`, `running`, ….
    pub outcome: String,
    /// What the API or the network said.
    pub message: Option<String>,
    /// `no`, `maybe` or `yes`.
    pub paid: String,
    /// Tokens, where the answer told.
    pub usage: Option<Usage>,
}

/// How many jobs are in each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Jobs that wait.
    pub pending: i64,
    /// Jobs under a lease.
    pub running: i64,
    /// Jobs with an answer.
    pub succeeded: i64,
    /// Jobs that ended without one.
    pub failed: i64,
    /// Jobs that a person cancelled.
    pub cancelled: i64,
}

impl Counts {
    /// Returns the number of all jobs.
    pub fn total(&self) -> i64 {
        self.pending + self.running + self.succeeded + self.failed + self.cancelled
    }

    /// Returns the number of jobs that are not finished.
    pub fn unfinished(&self) -> i64 {
        self.pending + self.running
    }

    /// Returns the count of `state`.
    pub fn of(&self, state: JobState) -> i64 {
        match state {
            JobState::Pending => self.pending,
            JobState::Running => self.running,
            JobState::Succeeded => self.succeeded,
            JobState::Failed => self.failed,
            JobState::Cancelled => self.cancelled,
        }
    }

    /// Adds `number` (which may be negative) to the count of `state`.
    pub fn add(&mut self, state: JobState, number: i64) {
        *match state {
            JobState::Pending => &mut self.pending,
            JobState::Running => &mut self.running,
            JobState::Succeeded => &mut self.succeeded,
            JobState::Failed => &mut self.failed,
            JobState::Cancelled => &mut self.cancelled,
        } += number;
    }
}

/// The condition of a key, or of a key for one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyStatus {
    /// May be used now.
    Available,
    /// Rests after a use.
    Cooldown,
    /// Rests after a 429.
    TemporarilyExhausted,
    /// Rests after a daily quota or too many 429s in a row.
    FullyExhausted,
    /// Was refused by the API, or cannot be sent.
    FailedInit,
    /// A person switched it off.
    Disabled,
}

impl KeyStatus {
    /// All conditions, from best to worst.
    pub const ALL: [Self; 6] = [
        Self::Available,
        Self::Cooldown,
        Self::TemporarilyExhausted,
        Self::FullyExhausted,
        Self::FailedInit,
        Self::Disabled,
    ];

    /// Returns the name that users and the database see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Cooldown => "cooldown",
            Self::TemporarilyExhausted => "temporarily_exhausted",
            Self::FullyExhausted => "fully_exhausted",
            Self::FailedInit => "failed_init",
            Self::Disabled => "disabled",
        }
    }
}

impl std::str::FromStr for KeyStatus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|status| status.as_str() == text);
        known.ok_or_else(|| format!("`{text}` is no key status"))
    }
}

/// The condition of one slot, or what a key's own columns say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusView {
    /// The condition now.
    pub status: KeyStatus,
    /// 429s in a row.
    pub exhausted_count: i64,
    /// 429s ever.
    pub total_exhausted_count: i64,
    /// When it may be used again; absent where that is now, or never by itself.
    pub available_at: Option<Timestamp>,
    /// Why, in words.
    pub reason: Option<String>,
}

/// Where a limit comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitOrigin {
    /// A variable beside the key's own.
    Environment,
    /// `gq keys set`.
    Set,
    /// A worker that runs was told so.
    Worker,
    /// A 429 named it, then.
    Learned(Timestamp),
}

/// A limit of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitView {
    /// What is counted.
    pub quota: Quota,
    /// How many there may be.
    pub limit: i64,
    /// How many there were in the last minute, or today.
    pub used: i64,
    /// Who says so.
    pub origin: LimitOrigin,
}

/// One key for one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelView {
    /// The model's name.
    pub name: String,
    /// Its condition.
    pub status: StatusView,
    /// The limits that are known.
    pub limits: Vec<LimitView>,
}

/// One key with its models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyView {
    /// The variable name.
    pub name: String,
    /// The key as a whole: the worst that holds for all models in use.
    pub overall: StatusView,
    /// What people say of it.
    pub settings: KeySettings,
    /// Each model that was called with it, by name.
    pub models: Vec<ModelView>,
    /// Another key that seems to be of the same project, though nobody told us so.
    pub same_project_as: Option<String>,
}

/// A batch and its counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchView {
    /// The name.
    pub name: String,
    /// Jobs by state.
    pub counts: Counts,
}

/// A worker process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerView {
    /// Its id.
    pub id: String,
    /// Its process id.
    pub pid: i64,
    /// Calls it may have in flight.
    pub workers: i64,
    /// Calls it has in flight.
    pub busy: i64,
    /// When it last wrote.
    pub heartbeat_at: Timestamp,
}

/// What calls came to so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UsedUp {
    /// Calls that ended.
    pub calls: i64,
    /// Tokens.
    pub tokens: i64,
    /// Billionths of a US dollar.
    pub cost: i64,
}

/// What the queue waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// In words.
    pub reason: String,
    /// Until when, if that is known.
    pub until: Option<Timestamp>,
}

/// The queue at a glance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueStatus {
    /// All jobs by state.
    pub counts: Counts,
    /// Batches with jobs, in the order of their making.
    pub batches: Vec<BatchView>,
    /// Worker processes that live.
    pub workers: Vec<WorkerView>,
    /// Keys that the database knows.
    pub keys: Vec<KeyView>,
    /// Jobs finished within the last minute.
    pub throughput_per_minute: i64,
    /// What unfinished jobs wait for, if they wait.
    pub waiting_for: Option<Waiting>,
    /// When it will be done, where that can be told.
    pub forecast: Option<Forecast>,
    /// What all calls ever made came to.
    pub used: UsedUp,
}

/// A job that failed, as a live view lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureView {
    /// The caller's name for the job.
    pub task_id: String,
    /// The name it was enqueued under.
    pub batch: String,
    /// Why it failed.
    pub error: JobError,
    /// When it ended.
    pub finished_at: Timestamp,
}

/// A file at the API that gq uploaded, or is about to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadView {
    /// The row.
    pub id: i64,
    /// The row of the key that owns the file.
    pub key_id: i64,
    /// The variable of that key.
    pub key: String,
    /// The address of the API.
    pub api: String,
    /// The type.
    pub mime_type: String,
    /// The size.
    pub bytes: u64,
    /// `uploading`, `processing`, `ready`, `failed` or `expired`.
    pub state: String,
    /// The API's name, once it has one.
    pub name: Option<String>,
    /// Until when jobs use it, if it may be used at all.
    pub usable_until: Option<Timestamp>,
    /// Why it failed.
    pub message: Option<String>,
    /// A file with this content, where it is not bytes of a line.
    pub path: Option<String>,
}
