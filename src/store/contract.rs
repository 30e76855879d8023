//! What any store has to do: each method with several jobs and two connections.

use std::time::Duration;

use crate::domain::input::NewJob;
use crate::domain::job::Transition;
use crate::domain::limits::GivenLimits;
use crate::domain::outcome::{ErrorKind, Exhaustion, Outcome, Paid, Usage};
use crate::domain::overdue::Overdue;
use crate::domain::pacing::OnUnknown;
use crate::domain::slot::Rests;
use crate::domain::time::{Moment, Timestamp};
use crate::domain::view::{Counts, JobState, KeyStatus, UsedUp};
use crate::store::{
    Access, Budget, Claimed, Ended, EnqueueOptions, FoundKey, OnConflict, Policy, ResultFilter,
    Scope, Selection, Store, StoreError, Switch, TurnReport, TurnRequest, WorkerId,
};

pub(super) const NOW: Timestamp = Timestamp(1_795_500_000_000);

pub(super) struct Bench {
    _folder: tempfile::TempDir,
    pub(super) first: Store,
    pub(super) second: Store,
    pub(super) keys: Vec<i64>,
}

impl Bench {
    pub(super) async fn with_jobs(jobs: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("q.db");
        let first = Store::open(&path, Access::Write).await.unwrap();
        let second = Store::open(&path, Access::Write).await.unwrap();
        let found = ["A", "B"].map(|name| FoundKey {
            name,
            secret: name,
            is_sendable: true,
            settings: None,
        });
        let keys =
            first.register_keys(&found, || NOW).await.unwrap().iter().map(|key| key.id).collect();
        let bench = Self { _folder: folder, first, second, keys };
        bench.enqueue((0..jobs).map(|number| job(number, "x")), OnConflict::Refuse).await.unwrap();
        bench
    }

    /// Lets the slots look back on so many calls that nobody need be careful with them.
    async fn in_full_swing(&self) {
        let written = self.first.writer.write(|connection| {
            Box::pin(async move {
                sqlx::query(
                    "INSERT OR IGNORE INTO slots (key_id, model_id, recent)
                     SELECT k.id, m.id, ?1 FROM keys AS k, models AS m",
                )
                .bind(format!("60000 {} 0 100000 0", NOW.0))
                .execute(connection)
                .await?;
                Ok(())
            })
        });
        written.await.unwrap();
    }

    pub(super) async fn enqueue(
        &self,
        jobs: impl Iterator<Item = NewJob> + Send + 'static,
        on_conflict: OnConflict,
    ) -> Result<crate::store::Added, StoreError> {
        let options = EnqueueOptions { batch: "b".into(), on_conflict, now: NOW };
        let added = self.first.enqueue(vec![(options, jobs.map(Ok::<_, StoreError>))]).await?;
        self.in_full_swing().await;
        Ok(added[0].clone())
    }

    pub(super) async fn claim(&self, store: &Store, worker: i64, capacity: usize) -> Vec<Claimed> {
        let request = self.request(worker, capacity);
        store.turn(request, policy()).await.unwrap().claimed
    }

    pub(super) async fn settle(&self, store: &Store, worker: i64, ended: Vec<Ended>) -> TurnReport {
        let request = TurnRequest { ended, ..self.request(worker, 0) };
        store.turn(request, policy()).await.unwrap()
    }

    pub(super) fn request(&self, worker: i64, capacity: usize) -> TurnRequest {
        TurnRequest {
            worker: WorkerId(worker),
            moment: || Moment { now: NOW, boot: 1_000 },
            ended: Vec::new(),
            last_call: None,
            prepared: Vec::new(),
            capacity,
            bulk: capacity,
            pieces: Vec::new(),
            room: 8,
            uploading: Vec::new(),
            hashing: Vec::new(),
            keys: self.keys.clone(),
            in_flight: Vec::new(),
            audit: false,
            overdue: Overdue::default(),
            rebase: false,
            dead: Vec::new(),
        }
    }

    /// Returns how attempts ended, by job and attempt, and what they used.
    pub(super) async fn records(&self) -> (Vec<String>, UsedUp) {
        let outcomes = "SELECT outcome FROM attempts ORDER BY job_id, attempt";
        let outcomes = sqlx::query_scalar(outcomes).fetch_all(&self.second.readers).await.unwrap();
        (outcomes, self.second.status(&[], NOW).await.unwrap().used)
    }

    pub(super) async fn counts(&self) -> Counts {
        self.second.count(&ResultFilter::default()).await.unwrap()
    }

    pub(super) async fn states(&self) -> Vec<JobState> {
        let page = self.second.results(&ResultFilter::default(), 0).await.unwrap();
        page.jobs.iter().map(|job| job.state).collect()
    }
}

pub(super) fn job(number: u64, text: &str) -> NewJob {
    NewJob {
        task_id: format!("t{number}"),
        line: number + 1,
        model: "m".into(),
        priority: 0,
        max_attempts: 2,
        not_before: None,
        stream: false,
        request: format!("{{\"contents\":[\"{text}\"]}}"),
        media: Vec::new(),
        metadata: None,
        output: None,
        digest: [text.as_bytes()[0]; 16],
    }
}

/// What a worker knows that saw this one overdue for as long as it takes, until the look at `boot`.
pub(super) fn overdue_before(worker: i64, boot: i64) -> Overdue {
    let mut overdue = Overdue::default();
    for before in [1400, 700] {
        assert_eq!(overdue.look(&[worker], boot - before), [0; 0]);
    }
    overdue
}

pub(super) fn policy() -> Policy {
    Policy {
        scope: Scope::All,
        lease: Duration::from_mins(1),
        rests: Rests {
            exhausted_wait: Duration::from_mins(2),
            fully_exhausted_wait: Duration::from_hours(12),
            max_exhausted_retries: 3,
        },
        limits: GivenLimits::default(),
        key_cooldown: Duration::ZERO,
        api_call_interval: Duration::ZERO,
        on_unknown: OnUnknown::Retry,
        budget: Budget::default(),
        inline_limit: 1_000,
        api: "http://api".into(),
    }
}

pub(super) fn ended(claimed: &Claimed, outcome: Outcome) -> Ended {
    let answered = outcome == Outcome::Answered;
    Ended {
        job: claimed.job,
        claim: claimed.claim,
        key: claimed.key,
        model: claimed.model,
        at_claim: claimed.at_claim,
        started_at: NOW,
        ended_at: NOW,
        outcome,
        http_status: Some(200),
        message: None,
        paid: Paid::Yes,
        usage: Some(Usage { total_tokens: 7, prompt_tokens: 7, ..Usage::default() }),
        cost: 0,
        lost_uploads: Vec::new(),
        claimed_at: claimed.claimed_at,
        reserved: claimed.reserved,
        plain_tokens: 0,
        quotas: Vec::new(),
        consumer: None,
        raw: answered.then(|| "{\"candidates\":[]}".into()),
        jitter: 0.0,
    }
}

#[tokio::test]
async fn two_workers_never_claim_the_same_job() {
    let bench = Bench::with_jobs(10).await;
    let mut claimed = bench.claim(&bench.first, 1, 4).await;
    claimed.extend(bench.claim(&bench.second, 2, 100).await);
    let mut jobs: Vec<i64> = claimed.iter().map(|claimed| claimed.job).collect();
    jobs.sort_unstable();
    assert_eq!(jobs, (1..=10).collect::<Vec<_>>());
    assert_eq!(bench.counts().await, Counts { running: 10, ..Counts::default() });
    let keys: Vec<i64> = claimed.iter().map(|claimed| claimed.key).collect();
    assert!(bench.keys.iter().all(|key| keys.contains(key)), "work is spread over the keys");
}

#[tokio::test]
async fn an_end_moves_its_own_job_and_no_other() {
    let bench = Bench::with_jobs(3).await;
    let claimed = bench.claim(&bench.first, 1, 3).await;
    let blocked = ended(&claimed[1], Outcome::Failed(ErrorKind::Blocked));
    bench.settle(&bench.first, 1, vec![ended(&claimed[0], Outcome::Answered), blocked]).await;
    assert_eq!(bench.states().await, [JobState::Succeeded, JobState::Failed, JobState::Running]);
    let counts = Counts { running: 1, succeeded: 1, failed: 1, ..Counts::default() };
    assert_eq!(bench.counts().await, counts);
}

#[tokio::test]
async fn settling_the_same_ends_again_changes_nothing() {
    let bench = Bench::with_jobs(2).await;
    let claimed = bench.claim(&bench.first, 1, 2).await;
    let ends = || claimed.iter().map(|it| ended(it, Outcome::Answered)).collect::<Vec<_>>();
    bench.settle(&bench.first, 1, ends()).await;
    let before = bench.records().await;
    let again = bench.settle(&bench.second, 1, ends()).await;
    assert!(again.settled.iter().all(|it| it.transition == Transition::Ignore));
    assert_eq!(bench.counts().await, Counts { succeeded: 2, ..Counts::default() });
    assert_eq!(bench.records().await, before);
    assert_eq!(before.1, UsedUp { calls: 2, tokens: 14, cost: 0 });
    assert_eq!(before.0, ["succeeded", "succeeded"]);
}

#[tokio::test]
async fn a_429_rests_its_slot_and_costs_no_attempt() {
    let bench = Bench::with_jobs(2).await;
    let claimed = bench.claim(&bench.first, 1, 1).await;
    let day = ended(&claimed[0], Outcome::Exhausted(Exhaustion::Day));
    bench.settle(&bench.first, 1, vec![day]).await;
    let again = bench.claim(&bench.second, 2, 2).await;
    assert!(again.iter().all(|next| next.key != claimed[0].key), "the other key does both");
    assert_eq!(again.len(), 2);
    let keys = bench.second.keys(&[], NOW).await.unwrap();
    let mut states: Vec<KeyStatus> = keys.iter().map(|key| key.overall.status).collect();
    states.sort_unstable();
    assert_eq!(states, [KeyStatus::Available, KeyStatus::FullyExhausted]);
}

#[tokio::test]
async fn keys_are_shown_as_recording_them_would_leave_them() {
    let key = |name, secret| FoundKey { name, secret, is_sendable: true, settings: None };
    let unsendable = FoundKey { is_sendable: false, ..key("C", "c") };
    for found in [
        vec![key("A", "A"), key("B", "B")],
        vec![key("A", "new")],
        vec![key("B", "new"), unsendable],
        vec![key("B", "A")],
        vec![key("A", "new"), key("B", "A")],
        vec![key("A", "B"), key("B", "A")],
        vec![key("D", "A"), key("A", "B")],
        vec![key("A", "B"), key("B", "new")],
    ] {
        let bench = Bench::with_jobs(2).await;
        let claimed = bench.claim(&bench.first, 1, 2).await;
        let spent = claimed.iter().map(|job| ended(job, Outcome::Exhausted(Exhaustion::Day)));
        bench.settle(&bench.first, 1, spent.collect()).await;
        bench.first.set_keys_disabled(vec!["B".into()], Switch::Off, NOW).await.unwrap();
        let seen = bench.second.keys(&found, NOW).await.unwrap();
        bench.first.register_keys(&found, || NOW).await.unwrap();
        let mut recorded = bench.second.keys(&[], NOW).await.unwrap();
        // Those found come first, in their order.
        let place = |name: &str| found.iter().position(|key| key.name == name);
        recorded.sort_by_key(|view| place(&view.name).unwrap_or(usize::MAX));
        assert_eq!(seen, recorded);
    }
}

#[tokio::test]
async fn the_same_again_is_skipped_and_a_conflict_stores_nothing() {
    let bench = Bench::with_jobs(2).await;
    let same = bench.enqueue((0..3).map(|it| job(it, "x")), OnConflict::Refuse).await.unwrap();
    assert_eq!((same.enqueued, same.skipped), (1, 2));
    let other = (2..5).rev().map(|it| job(it, "y"));
    let refused = bench.enqueue(other.clone(), OnConflict::Refuse).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { task_id, line: 3, .. } if task_id == "t2"));
    assert_eq!(bench.counts().await, Counts { pending: 3, ..Counts::default() });
    let replaced = bench.enqueue(other, OnConflict::Replace).await.unwrap();
    assert_eq!((replaced.enqueued, replaced.replaced), (2, 1));
    assert_eq!(bench.counts().await, Counts { pending: 5, ..Counts::default() });
}

#[tokio::test]
async fn an_attempt_at_replaced_content_does_not_count() {
    let bench = Bench::with_jobs(2).await;
    let late = bench.claim(&bench.first, 1, 1).await;
    let request = TurnRequest { dead: vec![WorkerId(1)], ..bench.request(2, 0) };
    bench.second.turn(request, policy()).await.unwrap();
    bench.enqueue(std::iter::once(job(0, "y")), OnConflict::Replace).await.unwrap();
    bench.settle(&bench.first, 1, vec![ended(&late[0], Outcome::Answered)]).await;
    assert_eq!(bench.states().await, [JobState::Pending, JobState::Pending]);
}

#[tokio::test]
async fn people_change_just_the_jobs_they_name() {
    let bench = Bench::with_jobs(3).await;
    let one = Selection { task_ids: vec!["t1".into()], ..Selection::default() };
    assert_eq!(bench.first.cancel(one.clone(), NOW).await.unwrap(), 1);
    let counts = Counts { pending: 2, cancelled: 1, ..Counts::default() };
    assert_eq!(bench.counts().await, counts);
    assert_eq!(bench.second.prune(NOW, None).await.unwrap(), 1);
    assert_eq!(bench.second.retry(one, Vec::new(), NOW).await.unwrap(), 0);
    assert_eq!(bench.states().await, [JobState::Pending, JobState::Pending]);
}

#[tokio::test]
async fn times_that_a_wrong_clock_set_are_put_right_and_the_users_stay() {
    let bench = Bench::with_jobs(0).await;
    let tomorrow = NOW.after(Duration::from_hours(24));
    let waiting = NewJob { not_before: Some(tomorrow), ..job(0, "x") };
    bench.enqueue(vec![waiting, job(1, "x")].into_iter(), OnConflict::Refuse).await.unwrap();
    // The clock turns out to have been a year ahead.
    let moment = || Moment { now: Timestamp(NOW.0 - 31_536_000_000), boot: 1_000 };
    let request = TurnRequest { moment, rebase: true, ..bench.request(1, 9) };
    let claimed = bench.first.turn(request, policy()).await.unwrap().claimed;
    assert_eq!(claimed.iter().map(|it| it.task_id.as_str()).collect::<Vec<_>>(), ["t1"]);
}

#[tokio::test]
async fn claims_use_their_index_on_a_database_that_was_never_analysed() {
    let bench = Bench::with_jobs(2).await;
    for (query, index) in [(
        "UPDATE jobs SET attempts = e.attempts
               FROM (SELECT value ->> 0 AS id, value ->> 1 AS attempts FROM json_each(?1)) AS e
              WHERE jobs.id = e.id",
        "SEARCH jobs USING INTEGER PRIMARY KEY (rowid=?)",
    )] {
        let rows: Vec<(i64, i64, i64, String)> =
            sqlx::query_as(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {query}")))
                .fetch_all(&bench.first.readers)
                .await
                .unwrap();
        let plan: Vec<&str> = rows.iter().map(|row| row.3.as_str()).collect();
        assert!(plan.contains(&index), "{plan:?}");
        assert!(!plan.iter().any(|step| step.contains("TEMP B-TREE")), "{plan:?}");
    }
}

#[tokio::test]
async fn large_answers_make_short_pages() {
    let bench = Bench::with_jobs(4).await;
    let claimed = bench.claim(&bench.first, 1, 4).await;
    let raw: std::sync::Arc<str> = format!("\"{}\"", "x".repeat(10 << 20)).into();
    let large = |job| Ended { raw: Some(raw.clone()), ..ended(job, Outcome::Answered) };
    bench.settle(&bench.first, 1, claimed[..3].iter().map(large).collect()).await;
    let mut pages = Vec::new();
    let mut after = Some(0);
    while let Some(from) = after {
        let page = bench.second.results(&ResultFilter::default(), from).await.unwrap();
        pages.push(page.jobs.iter().map(|job| job.task_id.clone()).collect::<Vec<_>>());
        after = page.next;
    }
    assert_eq!(pages, [vec!["t0"], vec!["t1"], vec!["t2", "t3"]]);
}

#[tokio::test]
async fn a_reader_sees_what_there_is_to_do() {
    let bench = Bench::with_jobs(3).await;
    bench.claim(&bench.first, 1, 1).await;
    let batch = bench.second.batch_id("b").await.unwrap();
    let mut changes = bench.second.own_changes(Duration::from_mins(1));
    changes.next().await;
    for scope in [None, batch] {
        let scope = scope.map_or(Scope::All, Scope::Batch);
        let demand = changes.demand(scope).await.unwrap();
        assert_eq!((demand.pending, demand.running, demand.last_job), (2, 1, 3));
    }
    let elsewhere = changes.demand(Scope::Batch(99)).await.unwrap();
    assert_eq!((elsewhere.pending, elsewhere.running, elsewhere.last_job), (0, 0, 3));
}

#[tokio::test]
async fn recent_failures_are_the_failed_of_the_last_thousand_ends_latest_first() {
    let bench = Bench::with_jobs(1_010).await;
    let mut claimed = bench.claim(&bench.first, 1, 1_010).await;
    claimed.sort_by_key(|claimed| claimed.job);
    // The first half ends a moment after the second one; every third job fails.
    let end = |claimed: &Claimed| {
        let fails = claimed.job % 3 == 0;
        let outcome = if fails { Outcome::Failed(ErrorKind::Blocked) } else { Outcome::Answered };
        Ended { message: Some(format!("{}", claimed.job)), ..ended(claimed, outcome) }
    };
    let (later, sooner) = claimed.split_at(505);
    bench.settle(&bench.first, 1, sooner.iter().map(end).collect()).await;
    let moment = || Moment { now: Timestamp(NOW.0 + 1), boot: 1_000 };
    let ended = later.iter().map(end).collect();
    let request = TurnRequest { moment, ended, ..bench.request(1, 0) };
    bench.first.turn(request, policy()).await.unwrap();
    let failures = bench.second.recent_failures(2_000).await.unwrap();
    let jobs: Vec<i64> = failures.iter().map(|it| it.error.message.parse().unwrap()).collect();
    let latest = (1..=505).rev().chain((516..=1_010).rev());
    assert_eq!(jobs, latest.filter(|job| job % 3 == 0).collect::<Vec<_>>());
    assert_eq!(bench.second.recent_failures(2).await.unwrap(), failures[..2]);
    let first = &failures[0];
    assert_eq!((first.task_id.as_str(), first.batch.as_str()), ("t503", "b"));
    assert_eq!((first.error.kind, first.error.http_status), (ErrorKind::Blocked, Some(200)));
    assert_eq!(first.finished_at, Timestamp(NOW.0 + 1));
}

#[tokio::test]
async fn keys_whose_days_are_counted_begin_a_day_one_after_another() {
    let bench = Bench::with_jobs(9).await;
    let limits = GivenLimits(["", "", "5"].map(|limit| limit.parse().unwrap_or_default()));
    let policy = || Policy { limits: limits.clone(), ..policy() };
    let midnight = Timestamp::parse("2026-11-24T08:00:00Z").unwrap();
    let claimed = async |moment: fn() -> Moment| {
        let request = TurnRequest { moment, ..bench.request(1, 9) };
        let report = bench.first.turn(request, policy()).await.unwrap();
        (report.claimed.len(), report.wake_at.map(|at| at.0 - midnight.0))
    };
    let early = || Moment { now: Timestamp::parse("2026-11-24T08:00:01Z").unwrap(), boot: 1_000 };
    assert_eq!(claimed(early).await, (0, Some(14_164)));
    let later = || Moment { now: Timestamp::parse("2026-11-24T08:00:15Z").unwrap(), boot: 1_000 };
    assert_eq!(claimed(later).await.0, 1, "the second key begins");
}
