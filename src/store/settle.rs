//! What ended attempts do to jobs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::domain::job::{self, Job, Transition};
use crate::domain::outcome::{ErrorKind, Outcome, Paid};
use crate::domain::time::Timestamp;
use crate::domain::view::{Counts, JobState, UsedUp};
use crate::store::counters::{Moved, count_rows, move_counts};
use crate::store::turn::{AtClaim, Ended, Settled};
use crate::store::{StoreError, bulk, pieces, uploads};

/// A job as the database holds it.
struct Facts {
    batch: i64,
    claim: i64,
    job: Job,
    /// Whether its text is stored as it comes.
    stream: bool,
}

/// What is on record of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Record {
    /// Nothing: it runs, or was at other content of its job.
    #[default]
    None,
    /// That it was given up, its call's end unknown.
    GivenUp,
    /// How it ended.
    Ended,
}

impl Record {
    fn of(outcome: Option<&str>) -> Self {
        match outcome {
            None => Self::None,
            Some("lease_lost" | "unknown_outcome") => Self::GivenUp,
            Some(_) => Self::Ended,
        }
    }
}

/// What attempts before it say of an attempt that ended.
#[derive(Clone, Copy, Default)]
struct Past {
    record: Record,
    /// As in [`Job`].
    alike: i64,
    mended: i64,
    refused: i64,
}

/// What is known of ended attempts and their jobs.
struct Known {
    /// By job; none of one that is no longer there.
    jobs: HashMap<i64, Option<Facts>>,
    /// By job and claim: one turn may settle several attempts at one job.
    attempts: HashMap<(i64, i64), Past>,
}

impl Facts {
    /// Returns what is known of a job that runs as it was claimed for an attempt that was answered.
    fn at_claim(ended: &Ended) -> Self {
        let AtClaim { batch, attempts, max_attempts, deaths, .. } = ended.at_claim;
        let job = job_of(JobState::Running, attempts, max_attempts, deaths);
        Self { batch, claim: ended.claim, job, stream: ended.at_claim.is_stream() }
    }
}

/// Returns a job without what depends on the attempt.
fn job_of(state: JobState, attempts: i64, max_attempts: i64, deaths: i64) -> Job {
    let (owned, alike, mended, refused) = (false, 0, 0, 0);
    Job { state, owned, attempts, max_attempts, alike, deaths, mended, refused }
}

/// New values of a job row; `None` leaves a column as it is.
pub(super) type JobRow =
    (i64, &'static str, Option<i64>, i64, i64, Option<i64>, Option<i64>, Option<i64>);

/// What ended attempts change, before it is written.
#[derive(Default)]
struct Changes {
    attempts: Vec<AttemptRow>,
    answers: Vec<(i64, Arc<str>)>,
    /// By job: a row that is changed twice ends as the last one.
    jobs: BTreeMap<i64, JobRow>,
    moved: BTreeMap<i64, Moved>,
    /// Jobs whose pieces of text are no longer needed.
    told: Vec<i64>,
    /// Uploads that the API knows no more.
    lost: Vec<i64>,
    bytes: usize,
}

/// Settles attempts that ended; what they come to is decided by [`job::after_attempt`].
pub(super) async fn ended(
    connection: &mut SqliteConnection,
    ended: Vec<Ended>,
    facts: &[SqliteRow],
    now: Timestamp,
) -> Result<Vec<Settled>, StoreError> {
    let mut known = known_of(facts)?;
    let mut changes = Changes::default();
    let mut settled = Vec::with_capacity(ended.len());
    for ended in ended {
        changes.lost.extend(&ended.lost_uploads);
        let facts = known.jobs.entry(ended.job).or_insert_with(|| Some(Facts::at_claim(&ended)));
        let past = known.attempts.entry((ended.job, ended.claim)).or_default();
        let transition = match facts {
            Some(facts) => changes.add(&ended, facts, past, now),
            None => Transition::Ignore,
        };
        settled.push(Settled { ended, transition });
        if changes.bytes > bulk::CHUNK_BYTES {
            std::mem::take(&mut changes).write(connection, now).await?;
        }
    }
    changes.write(connection, now).await?;
    Ok(settled)
}

impl Changes {
    /// Notes what an attempt does to its job; nothing where that is done already, as after a COMMIT
    /// that failed and took.
    fn add(
        &mut self,
        ended: &Ended,
        facts: &mut Facts,
        past: &mut Past,
        now: Timestamp,
    ) -> Transition {
        let current = facts.claim == ended.claim;
        facts.job.owned = current && facts.job.state == JobState::Running;
        if past.record == Record::Ended || (!current && past.record == Record::None) {
            return Transition::Ignore;
        }
        let Past { alike, mended, refused, .. } = *past;
        facts.job = Job { alike, mended, refused, ..facts.job };
        past.record = Record::Ended;
        let transition = job::after_attempt(&facts.job, &ended.outcome, ended.jitter);
        self.attempts.push(attempt_row(ended, transition));
        let batch = self.moved.entry(facts.batch).or_default();
        account(&mut batch.used, ended);
        if let Some(row) = apply(facts, ended, transition, now, &mut batch.counts) {
            self.jobs.insert(ended.job, row);
            if facts.stream && facts.job.state.is_finished() {
                self.told.push(ended.job);
            }
        }
        // The whole answer of each attempt that tells its job's end is kept, also of one that is no
        // usable answer: it was paid for.
        if let Some(raw) = ended.raw.as_ref().filter(|_| transition != Transition::Ignore) {
            self.answers.push((ended.job, Arc::clone(raw)));
            self.bytes += raw.len();
        }
        self.bytes += ended.message.as_ref().map_or(0, String::len) + ROW_BYTES;
        transition
    }

    async fn write(
        self,
        connection: &mut SqliteConnection,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        const WRITE: &str = concat!(
            write_attempts!("$1"),
            "; ",
            "INSERT OR REPLACE INTO answers (job_id, raw)
             SELECT value ->> 0, coalesce(CAST(substr($3, value ->> 1, value ->> 2) AS TEXT), '')
               FROM jsonb_each($2); ",
            write_jobs!("$4"),
            "; ",
            move_counts!("$5"),
            "; ",
            "INSERT INTO throughput (bucket, finished) SELECT $6, $7 WHERE $7 > 0
             ON CONFLICT (bucket) DO UPDATE SET finished = finished + excluded.finished",
        );
        if !self.lost.is_empty() {
            uploads::remove(connection, &self.lost).await?;
        }
        if self.attempts.is_empty() {
            return Ok(());
        }
        let finished = self.jobs.values().filter(|row| row.6.is_some()).count();
        let (answers, texts) = strung(&self.answers);
        sqlx::query(WRITE)
            .bind(bulk::json(&self.attempts)?)
            .bind(bulk::json(&answers)?)
            .bind(texts)
            .bind(bulk::json(&self.jobs.into_values().collect::<Vec<_>>())?)
            .bind(count_rows(&self.moved)?)
            .bind(now.0 / 10_000)
            .bind(i64::try_from(finished).unwrap_or(i64::MAX))
            .execute(&mut *connection)
            .await?;
        pieces::forget(connection, &self.told).await
    }
}

/// Returns answers as one text that needs no escapes, and for each its job, where in the text it
/// begins, and its bytes; SQLite counts from one.
fn strung(answers: &[(i64, Arc<str>)]) -> (Vec<(i64, usize, usize)>, Vec<u8>) {
    let mut texts = Vec::with_capacity(answers.iter().map(|(_, raw)| raw.len()).sum());
    let mut place = |(job, raw): &(i64, Arc<str>)| {
        let start = texts.len() + 1;
        texts.extend_from_slice(raw.as_bytes());
        (*job, start, raw.len())
    };
    (answers.iter().map(&mut place).collect(), texts)
}

/// The columns of an attempt and of its job, as text.
const ROW_BYTES: usize = 300;

/// Applies `transition` to the facts and returns the row's new values, if it changes.
fn apply(
    facts: &mut Facts,
    ended: &Ended,
    transition: Transition,
    now: Timestamp,
    counts: &mut Counts,
) -> Option<JobRow> {
    let (state, due, used, told) = match transition {
        Transition::Ignore => return None,
        Transition::Succeed => (JobState::Succeeded, None, 1, Some(ended.claim)),
        Transition::RetryAfter(delay) => {
            (JobState::Pending, Some(now.after(delay).0), 1, Some(ended.claim))
        }
        Transition::Fail(_) => (JobState::Failed, None, 1, Some(ended.claim)),
        Transition::Release => (JobState::Pending, None, 0, None),
        Transition::StandBack(delay) => (JobState::Pending, Some(now.after(delay).0), 0, None),
    };
    counts.add(facts.job.state, -1);
    counts.add(state, 1);
    facts.job.state = state;
    facts.job.attempts += used;
    let finished = state.is_finished().then_some(now.0);
    let key = told.map(|_| ended.key);
    Some((
        ended.job,
        state.as_str(),
        due,
        facts.job.attempts,
        facts.job.deaths,
        told,
        finished,
        key,
    ))
}

fn account(used: &mut UsedUp, ended: &Ended) {
    let sent = ended.http_status.is_some() || ended.paid != Paid::No;
    used.calls += i64::from(sent);
    used.tokens += ended.usage.map_or(0, |usage| usage.total_tokens);
    used.cost += ended.cost;
}

/// Returns the parameter of the statement that reads what is known of the attempts' jobs.
pub(super) fn asked(ended: &[Ended]) -> Result<String, StoreError> {
    let asked =
        ended.iter().map(|ended| (ended.job, ended.claim, outcome_name(&ended.outcome), ended.key));
    bulk::json(&asked.collect::<Vec<(i64, i64, &str, i64)>>())
}

/// Reads what is known of jobs, except of those that run as they were claimed for an attempt that was
/// answered: nothing is to be found out about them, and they are nearly all. Only their last attempts
/// count, as many as are used up: `gq retry` begins anew.
macro_rules! facts {
    () => {
        "SELECT e.value ->> 0, coalesce(j.batch_id, 0), coalesce(j.claim, 0), j.state,
                coalesce(j.attempts, 0), coalesce(j.max_attempts, 0), coalesce(j.deaths, 0),
                (SELECT t.outcome FROM attempts AS t
                  WHERE t.job_id = j.id AND t.attempt = e.value ->> 1),
                CASE j.attempts WHEN 0 THEN 0 ELSE
                    (SELECT count(*)
                       FROM (SELECT t.outcome, row_number() OVER (ORDER BY t.attempt DESC) AS place
                               FROM attempts AS t
                              WHERE t.job_id = j.id AND t.outcome NOT IN
                                    ('rate_limited', 'bad_key', 'location_refused', 'released',
                                     'lease_lost', 'unknown_outcome', 'file_expired'))
                      WHERE place <= j.attempts AND outcome = e.value ->> 2)
                END,
                CASE WHEN e.value ->> 2 = 'file_expired' THEN
                    (SELECT count(*) FROM attempts AS t
                      WHERE t.job_id = j.id AND t.outcome = 'file_expired') ELSE 0 END,
                CASE WHEN e.value ->> 2 = 'rate_limited' THEN
                    (SELECT count(*) FROM attempts AS t
                      WHERE t.job_id = j.id AND t.outcome = 'rate_limited'
                        AND t.key_id = e.value ->> 3) ELSE 0 END,
                coalesce(j.stream, 0), e.value ->> 1
           FROM jsonb_each(?1) AS e
           LEFT JOIN jobs AS j ON j.id = e.value ->> 0
          WHERE (e.value ->> 2 = 'succeeded' AND j.state = 'running' AND j.claim = e.value ->> 1)
                IS NOT TRUE"
    };
}
pub(super) use facts;

type FactsRow =
    (i64, i64, i64, Option<String>, i64, i64, i64, Option<String>, i64, i64, i64, bool, i64);

fn known_of(rows: &[SqliteRow]) -> Result<Known, StoreError> {
    let mut known = Known { jobs: HashMap::new(), attempts: HashMap::new() };
    for row in bulk::read::<FactsRow>(rows)? {
        let (id, batch, claim, state, attempts, max_attempts, deaths, ..) = row;
        let (.., outcome, alike, mended, refused, stream, attempt) = row;
        let record = Record::of(outcome.as_deref());
        known.attempts.insert((id, attempt), Past { record, alike, mended, refused });
        let facts = state.map(|state| {
            let job = job_of(state.parse()?, attempts, max_attempts, deaths);
            Ok(Facts { batch, claim, job, stream })
        });
        known.jobs.insert(id, facts.transpose().map_err(StoreError::Value)?);
    }
    Ok(known)
}

/// The columns of an attempt's record, in the order of the statement below.
pub(super) type AttemptRow = (
    (i64, i64, Option<i64>, i64, i64, Option<u16>),
    (&'static str, Option<String>, &'static str),
    Option<[i64; 5]>,
);

fn attempt_row(ended: &Ended, transition: Transition) -> AttemptRow {
    let usage = ended.usage.map(|usage| {
        [
            usage.prompt_tokens,
            usage.cached_tokens,
            usage.output_tokens,
            usage.thought_tokens,
            usage.total_tokens,
        ]
    });
    (
        (
            ended.job,
            ended.claim,
            Some(ended.key),
            ended.started_at.0,
            ended.ended_at.0,
            ended.http_status,
        ),
        (recorded_outcome(&ended.outcome, transition), ended.message.clone(), ended.paid.as_str()),
        usage,
    )
}

/// Returns the word for an attempt's end in the attempt's record.
fn recorded_outcome(outcome: &Outcome, transition: Transition) -> &'static str {
    match outcome {
        Outcome::Answered if transition == Transition::Ignore => "superseded",
        Outcome::FileExpired if transition != Transition::Release => ErrorKind::Media.as_str(),
        outcome => outcome_name(outcome),
    }
}

fn outcome_name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Answered => "succeeded",
        Outcome::Failed(kind) => kind.as_str(),
        Outcome::Exhausted(_) => "rate_limited",
        Outcome::BadKey => "bad_key",
        Outcome::LocationRefused => "location_refused",
        Outcome::FileRefused => ErrorKind::Media.as_str(),
        Outcome::FileExpired => "file_expired",
        Outcome::Cut => "released",
    }
}

macro_rules! write_attempts {
    ($attempts:literal) => {
        concat!(
            "INSERT OR REPLACE INTO attempts
                    (job_id, attempt, key_id, started_at, ended_at, http_status, outcome, message,
                     paid, prompt_tokens, cached_tokens, output_tokens, thought_tokens,
                     total_tokens)
             SELECT value ->> '$[0][0]', value ->> '$[0][1]', value ->> '$[0][2]',
                    value ->> '$[0][3]', value ->> '$[0][4]', value ->> '$[0][5]',
                    value ->> '$[1][0]', value ->> '$[1][1]', value ->> '$[1][2]',
                    value ->> '$[2][0]', value ->> '$[2][1]', value ->> '$[2][2]',
                    value ->> '$[2][3]', value ->> '$[2][4]'
               FROM jsonb_each(",
            $attempts,
            ")"
        )
    };
}
use write_attempts;

macro_rules! write_jobs {
    ($jobs:literal) => {
        concat!(
            "UPDATE jobs
                SET state = e.state, due_at = coalesce(e.due_at, jobs.due_at),
                    attempts = e.attempts, deaths = e.deaths,
                    told_by = coalesce(e.told_by, jobs.told_by), finished_at = e.finished_at,
                    key_id = coalesce(e.key_id, jobs.key_id), worker_id = NULL, lease_until = NULL
               FROM (SELECT value ->> 0 AS id, value ->> 1 AS state, value ->> 2 AS due_at,
                            value ->> 3 AS attempts, value ->> 4 AS deaths, value ->> 5 AS told_by,
                            value ->> 6 AS finished_at, value ->> 7 AS key_id
                       FROM jsonb_each(",
            $jobs,
            ")) AS e
              WHERE jobs.id = e.id"
        )
    };
}
use write_jobs;

/// Records attempts, and gives jobs new values.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    attempts: &[AttemptRow],
    jobs: &[JobRow],
) -> Result<(), StoreError> {
    if attempts.is_empty() && jobs.is_empty() {
        return Ok(());
    }
    sqlx::query(concat!(write_attempts!("$1"), "; ", write_jobs!("$2")))
        .bind(bulk::json(attempts)?)
        .bind(bulk::json(jobs)?)
        .execute(connection)
        .await?;
    Ok(())
}
