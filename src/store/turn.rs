//! One turn of a worker: settle, renew, take back, claim; one transaction.

use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::domain::forecast::Capacity;
use crate::domain::job::Transition;
use crate::domain::limits::{GivenLimits, Quota};
use crate::domain::outcome::{ErrorKind, Outcome, Paid, Usage};
use crate::domain::overdue::Overdue;
use crate::domain::pacing::OnUnknown;
use crate::domain::slot::Rests;
use crate::domain::time::{Moment, Timestamp};
use crate::domain::today::Today;
use crate::domain::view::{Counts, Waiting};
use crate::store::due::Scope;
use crate::store::media::{ClaimedMedia, FileStamp};
use crate::store::pieces::{self, Piece};
use crate::store::standing::{Standing, all_standing};
use crate::store::uploads::{Order, Prepared};
use crate::store::writer::Begin;
use crate::store::{
    Store, StoreError, claim, counters, due, key_view, lease, settle, uploads, waits,
};

/// A registered worker process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WorkerId(pub i64);

/// Limits over all calls ever made for the jobs in scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Budget {
    /// Calls.
    pub calls: Option<i64>,
    /// Tokens, by the API's totals.
    pub tokens: Option<i64>,
    /// Billionths of a US dollar.
    pub cost: Option<i64>,
}

/// The rules of a worker's turns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Which jobs are worked.
    pub scope: Scope,
    /// How long a claim holds without renewal.
    pub lease: Duration,
    /// How 429s make a slot rest.
    pub rests: Rests,
    /// Limits of each slot.
    pub limits: GivenLimits,
    /// The rest of a key after each use.
    pub key_cooldown: Duration,
    /// The shortest time between two calls.
    pub api_call_interval: Duration,
    /// What becomes of calls in flight at a death.
    pub on_unknown: OnUnknown,
    /// Limits over all calls.
    pub budget: Budget,
    /// How many bytes a request with its media may have; beyond it they are uploaded.
    pub inline_limit: u64,
    /// The address of the API that this worker calls; uploads to another are none.
    pub api: Arc<str>,
}

/// What a claim sees of its job; it stays so for as long as the job runs under this claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
pub struct AtClaim {
    /// The batch's row.
    pub batch: i64,
    /// Attempts used up.
    pub attempts: i64,
    /// Attempts that it may use.
    pub max_attempts: i64,
    /// Deaths of a process that had it in flight.
    pub deaths: i64,
    /// Whether its text is stored as it comes: 0 or 1.
    stream: u8,
}

impl AtClaim {
    /// Returns whether the job's text is stored as it comes.
    pub fn is_stream(&self) -> bool {
        self.stream != 0
    }
}

/// An attempt that ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// The job's row.
    pub job: i64,
    /// The number of the claim.
    pub claim: i64,
    /// The key's row.
    pub key: i64,
    /// The model's row.
    pub model: i64,
    /// What its claim saw of the job.
    pub at_claim: AtClaim,
    /// When its call began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// What it came to.
    pub outcome: Outcome,
    /// The status of the answer, if one came.
    pub http_status: Option<u16>,
    /// What the API or the network said; holds no secret.
    pub message: Option<String>,
    /// Whether it may have been billed.
    pub paid: Paid,
    /// Tokens, where the answer told.
    pub usage: Option<Usage>,
    /// Billionths of a US dollar.
    pub cost: i64,
    /// The whole answer as JSON text.
    pub raw: Option<Arc<str>>,
    /// Uploads that the API knows no more.
    pub lost_uploads: Vec<i64>,
    /// When it was claimed, by the clock of the turn that did.
    pub claimed_at: Timestamp,
    /// The tokens of input that were reserved for it.
    pub reserved: i64,
    /// The tokens of input that its size alone lets expect.
    pub plain_tokens: i64,
    /// Limits that a 429 named.
    pub quotas: Vec<(Quota, i64)>,
    /// The project that a refusal named.
    pub consumer: Option<String>,
    /// A number in `0.0..1.0` that spreads delays.
    pub jitter: f64,
}

/// The start of a call, from which the interval to the next one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallStart {
    /// What the turn that claimed it reserved.
    pub reserved: Timestamp,
    /// When it started.
    pub at: Timestamp,
}

/// What a turn has to do.
#[derive(Debug, Clone)]
pub struct TurnRequest {
    /// Who asks.
    pub worker: WorkerId,
    /// Tells when: read once the write lock is held, so that turns of all processes see times in
    /// the order in which they run.
    pub moment: fn() -> Moment,
    /// Attempts that ended since the last turn.
    pub ended: Vec<Ended>,
    /// The start of the call that the last turn claimed, where calls keep an interval.
    pub last_call: Option<CallStart>,
    /// What came of orders since the last turn.
    pub prepared: Vec<Prepared>,
    /// Calls that may start.
    pub capacity: usize,
    /// Those of them that jobs with a priority of 0 or less may take.
    pub bulk: usize,
    /// Text that streaming calls brought since the last turn.
    pub pieces: Vec<Piece>,
    /// Orders that may be given.
    pub room: usize,
    /// Uploads that go on, by their rows.
    pub uploading: Vec<i64>,
    /// Files whose content is being found out.
    pub hashing: Vec<FileStamp>,
    /// Rows of the keys that this process holds.
    pub keys: Vec<i64>,
    /// Attempts that go on, as (job, claim).
    pub in_flight: Vec<(i64, i64)>,
    /// Whether to compare the database's view of what runs here with `in_flight`, to renew leases
    /// and to look for those that ran out.
    pub audit: bool,
    /// What earlier audits saw of workers whose leases ran out.
    pub overdue: Overdue,
    /// Whether the wall clock was set back, or may have been: times that were set under a wrong
    /// one are then put right.
    pub rebase: bool,
    /// Workers whose process is dead.
    pub dead: Vec<WorkerId>,
}

/// What became of an attempt.
#[derive(Debug, Clone)]
pub struct Settled {
    /// The attempt.
    pub ended: Ended,
    /// What it did to its job.
    pub transition: Transition,
}

/// A job to call the API for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The job's row.
    pub job: i64,
    /// The number of the claim.
    pub claim: i64,
    /// The key's row.
    pub key: i64,
    /// The model's row.
    pub model: i64,
    /// The model's name.
    pub model_name: String,
    /// The caller's name for the job.
    pub task_id: String,
    /// Its priority.
    pub priority: i64,
    /// The tokens of input that were reserved for it.
    pub reserved: i64,
    /// When it was claimed.
    pub claimed_at: Timestamp,
    /// What else was seen of it.
    pub at_claim: AtClaim,
    /// The body of the call.
    pub request: String,
    /// What goes into the body before it is sent, in the order of its places.
    pub media: Vec<ClaimedMedia>,
    /// Whether the answer must fit a schema that the request holds.
    pub has_schema: bool,
    /// The rows of the uploads that it uses.
    pub uploads: Vec<i64>,
    /// Why it cannot be called: its media could not be read or uploaded.
    pub fault: Option<(ErrorKind, String)>,
}

/// What a turn did and saw.
#[derive(Debug, Clone, Default)]
pub struct TurnReport {
    /// Attempts that were settled.
    pub settled: Vec<Settled>,
    /// Jobs to start.
    pub claimed: Vec<Claimed>,
    /// What has to be done before others can start.
    pub orders: Vec<Order>,
    /// Until when other calls are kept back for the one claimed, where calls keep an interval.
    pub reserved: Option<Timestamp>,
    /// Jobs in flight here that a person cancelled or removed.
    pub lost: Vec<i64>,
    /// Jobs that were taken back from dead or hung workers.
    pub taken_back: u64,
    /// What the next audit has to know of workers whose leases ran out.
    pub overdue: Overdue,
    /// Jobs in scope by state.
    pub counts: Counts,
    /// Keys of this process that are neither refused nor switched off.
    pub keys_alive: usize,
    /// The earliest time at which more can start, apart from new jobs.
    pub wake_at: Option<Timestamp>,
    /// What due jobs wait for, where it is the keys.
    pub waiting: Option<Waiting>,
    /// Until when limits hold back all that is due, apart from keys that rest.
    pub held_until: Option<Timestamp>,
    /// What the slots may take together, at an audit of a queue that goes on.
    pub capacity: Option<Capacity>,
    /// Whether a limit of the budget is reached.
    pub budget_reached: bool,
}

impl Store {
    /// Runs one turn in one transaction.
    ///
    /// After an error nothing of it may have happened, or all: the same ended attempts given again
    /// settle once, and an audit gives back what was claimed unknown to the caller.
    pub async fn turn(
        &self,
        request: TurnRequest,
        policy: Policy,
    ) -> Result<TurnReport, StoreError> {
        let asked = settle::asked(&request.ended)?;
        let begin = Begin { sql: BEGIN, parameter: Some(asked) };
        self.writer
            .write_after(begin, move |connection, rows| {
                Box::pin(run(connection, rows, request, policy))
            })
            .await
    }
}

/// The beginning of a turn, with what it has to know first: how keys and slots stand, and the jobs of
/// ended attempts.
const BEGIN: &str = concat!("BEGIN IMMEDIATE; ", all_standing!(), "; ", settle::facts!());

async fn run(
    connection: &mut SqliteConnection,
    [_, keys, slots, facts]: [Vec<SqliteRow>; 4],
    mut request: TurnRequest,
    policy: Policy,
) -> Result<TurnReport, StoreError> {
    let (worker, audit) = (request.worker, request.audit);
    let moment = (request.moment)();
    let today = Today::at(moment.now);
    let mut report = TurnReport::default();
    let ended = std::mem::take(&mut request.ended);
    let mut standing = Standing::of_rows(&keys, &slots, &today)?;
    pieces::append(connection, &std::mem::take(&mut request.pieces)).await?;
    if !ended.is_empty() {
        standing.after_attempts(connection, &ended, &policy, moment.now).await?;
        report.settled = settle::ended(connection, ended, &facts, moment.now).await?;
    }
    let prepared = std::mem::take(&mut request.prepared);
    let limited = prepared.iter().any(uploads::concerns_keys);
    let (rests, now) = (&policy.rests, moment.now);
    uploads::settle(connection, worker, prepared, &mut standing, rests, now).await?;
    if audit {
        report.lost = lease::audit(connection, worker, &request.in_flight).await?;
        lease::renew(connection, worker, moment, policy.lease).await?;
        counters::forget_throughput(connection, moment.now).await?;
    }
    report.overdue = std::mem::take(&mut request.overdue);
    let hung = if audit {
        report.overdue.look(&lease::overdue(connection, worker, moment).await?, moment.boot)
    } else {
        Vec::new()
    };
    report.taken_back =
        lease::take_back(connection, &request.dead, &hung, moment, policy.on_unknown).await?;
    let audited = audit.then_some((worker, request.uploading.as_slice()));
    uploads::take_back(connection, &request.dead, &hung, audited, moment).await?;
    if request.rebase {
        due::rebase(connection, moment.now).await?;
        waits::wake_all(connection).await?;
    }
    if let Some(last_call) = request.last_call {
        claim::keep_interval(connection, last_call, policy.api_call_interval).await?;
    }
    let times = (moment, today);
    claim::claim(connection, &request, times, &policy, &mut standing, &mut report).await?;
    standing.write(connection).await?;
    if audit
        || limited
        || report.settled.iter().any(|settled| concerns_keys(&settled.ended.outcome))
    {
        key_view::refresh(connection, &policy.rests, moment.now).await?;
    }
    Ok(report)
}

fn concerns_keys(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Exhausted(_) | Outcome::BadKey)
}
