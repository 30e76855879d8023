//! Which jobs start now: reads what is due and what may be used, lets the plan decide, writes it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use sqlx::sqlite::SqliteConnection;

use crate::domain::plan::{self, Bounds, Candidate, Grant};
use crate::domain::time::{Moment, Timestamp};
use crate::domain::today::Today;
use crate::domain::view::UsedUp;
use crate::store::counters::{self, Moved, move_counts};
use crate::store::due::{self, DueJob, Scope, State};
use crate::store::estimate;
use crate::store::keys::{self, KeyRow};
use crate::store::needs::{Needs, Room};
use crate::store::opening::{self, Opened, Wake, Work};
use crate::store::standing::{Standing, write_slots};
use crate::store::turn::{CallStart, Claimed, Policy, TurnReport, TurnRequest, WorkerId};
use crate::store::{StoreError, bulk};

/// How many due jobs are looked at beyond those that may start, where some may have to wait for
/// uploads.
const AHEAD: usize = 256;

/// Claims what may start, orders what has to be done before more can, and tells in `report` what it
/// saw.
pub(super) async fn claim(
    connection: &mut SqliteConnection,
    request: &TurnRequest,
    (moment, today): (Moment, Today),
    policy: &Policy,
    standing: &mut Standing,
    report: &mut TurnReport,
) -> Result<(), StoreError> {
    let now = moment.now;
    let (state, busy) = due::state(connection, policy.scope, now).await?;
    let State { counts, used, next_call_at, has_media, models } = state;
    report.counts = counts;
    let own: HashSet<i64> = request.keys.iter().copied().collect();
    let is_usable = |key: &&KeyRow| own.contains(&key.id) && key.is_alive();
    report.keys_alive = standing.keys.iter().filter(is_usable).count();
    let left = budget_left(policy, &used, counts.running);
    report.budget_reached = left == 0;
    if counts.pending == 0 || request.capacity == 0 {
        return Ok(());
    }
    let mut calls = request.capacity.min(left);
    let mut wake = Wake::default();
    if !policy.api_call_interval.is_zero() && calls > 0 {
        let due = keys::rest_end(next_call_at, policy.api_call_interval + STARTING, now);
        calls = usize::from(due.is_none());
        if let Some(due) = due {
            wake.at(due);
        }
    }
    let work = Work { own: &own, pending: counts.pending, models, busy };
    let mut opened = opening::open(standing, work, policy, today, &mut wake);
    let ahead = if calls > 0 && has_media { AHEAD } else { 0 };
    let look = Look { scope: policy.scope, now, calls, ahead, pending: counts.pending };
    let (mut candidates, due) = candidates(connection, look, &opened, &mut wake).await?;
    estimate::tokens(connection, &mut candidates, &opened, &standing.models).await?;
    report.waiting = opened.waiting(&wake);
    let mut needs = Needs::default();
    if ahead > 0 {
        needs = Needs::read(connection, &mut candidates, policy, now).await?;
    }
    let one_call_a_key = !policy.key_cooldown.is_zero();
    let bounds = Bounds { calls, bulk: request.bulk, one_call_a_key };
    let plan = plan::plan(candidates, &mut opened.open, bounds, today);
    if let Some(next) = plan.next_at {
        wake.at(next);
        report.held_until = Some(next).filter(|_| plan.calls.is_empty());
    }
    report.wake_at = wake.earliest;
    standing.take_back(opened.open.slots, &plan.used);
    if request.audit {
        let given = std::slice::from_ref(&policy.limits);
        report.capacity = Some(standing.capacity(&opened.models, given, &today));
    }
    let claimant = Claimant {
        worker: request.worker,
        moment,
        lease: i64::try_from(policy.lease.as_millis()).unwrap_or(i64::MAX),
    };
    let jobs = (due, opened.models.as_slice());
    report.claimed = write(connection, claimant, &plan.calls, jobs, standing).await?;
    needs.equip(connection, &mut report.claimed).await?;
    let room = Room { orders: request.room, hashing: &request.hashing, api: &policy.api };
    report.orders = needs.prepare(connection, &plan.uploads, claimant, room).await?;
    if !policy.api_call_interval.is_zero() && !report.claimed.is_empty() {
        report.reserved = Some(reserve_interval(connection, now, policy.api_call_interval).await?);
    }
    if !report.claimed.is_empty() {
        let started = i64::try_from(report.claimed.len()).unwrap_or(i64::MAX);
        report.counts.pending -= started;
        report.counts.running += started;
    }
    Ok(())
}

/// Who claims, and for how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claimant {
    pub(super) worker: WorkerId,
    pub(super) moment: Moment,
    /// In milliseconds.
    lease: i64,
}

impl Claimant {
    /// Returns the end of the lease on the boot-time clock.
    pub(super) fn lease_until(&self) -> i64 {
        self.moment.boot.saturating_add(self.lease)
    }
}

/// Which due jobs are looked for.
#[derive(Debug, Clone, Copy)]
struct Look {
    scope: Scope,
    now: Timestamp,
    /// Calls that may start.
    calls: usize,
    /// Jobs to look at beyond those.
    ahead: usize,
    /// All that are pending in scope.
    pending: i64,
}

/// Returns how many calls the budget still allows; calls in flight count as made.
fn budget_left(policy: &Policy, used: &UsedUp, running: i64) -> usize {
    let budget = &policy.budget;
    let spent = budget.tokens.is_some_and(|limit| used.tokens >= limit)
        || budget.cost.is_some_and(|limit| used.cost >= limit);
    if spent {
        return 0;
    }
    let Some(limit) = budget.calls else {
        return usize::MAX;
    };
    usize::try_from((limit - used.calls - running).max(0)).unwrap_or(usize::MAX)
}

/// Reads due jobs of models with an open slot, best first, and notes when the next come due where
/// more could start than are due.
async fn candidates(
    connection: &mut SqliteConnection,
    Look { scope, now, calls, ahead, pending }: Look,
    opened: &Opened,
    wake: &mut Wake,
) -> Result<(Vec<Candidate>, HashMap<i64, DueJob>), StoreError> {
    let mut candidates = Vec::new();
    let mut jobs = HashMap::new();
    let mut short = Vec::new();
    for model in opened.models.iter().map(|(model, _)| *model) {
        let is_open = opened.open.keys.iter().any(|key| key.slot.1 == model);
        let wanted = if is_open { calls + ahead } else { 0 };
        if wanted == 0 {
            continue;
        }
        let found = due::due(connection, scope, model, now, wanted).await?;
        if found.len() < wanted {
            short.push(model);
        }
        candidates.extend(found.iter().map(DueJob::candidate));
        jobs.extend(found.into_iter().map(|job| (job.id, job)));
    }
    // Mostly all that there is is due.
    if i64::try_from(candidates.len()).is_ok_and(|found| found < pending) {
        for model in short {
            if let Some(next) = due::next_due(connection, scope, model, now).await? {
                wake.at(next);
            }
        }
    }
    Ok((candidates, jobs))
}

/// A claimed call starts within this time of its claim, or later than the interval asks for.
const STARTING: Duration = Duration::from_secs(1);

/// Keeps other calls back until the one claimed now has started; returns until when, which is
/// what [`keep_interval`] knows the claim by.
async fn reserve_interval(
    connection: &mut SqliteConnection,
    now: Timestamp,
    interval: Duration,
) -> Result<Timestamp, StoreError> {
    let reserved = now.after(interval).after(STARTING);
    sqlx::query("UPDATE meta SET next_call_at = ?1").bind(reserved.0).execute(connection).await?;
    Ok(reserved)
}

/// Lets the next call of any process start `interval` after the call that started, unless another
/// one was claimed since.
pub(super) async fn keep_interval(
    connection: &mut SqliteConnection,
    call: CallStart,
    interval: Duration,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE meta SET next_call_at = ?1 WHERE next_call_at = ?2")
        .bind(call.at.after(interval).0)
        .bind(call.reserved.0)
        .execute(connection)
        .await?;
    Ok(())
}

/// Claims jobs: moves them and their batches' counters, writes the slots that were used, and reads
/// the requests.
async fn write(
    connection: &mut SqliteConnection,
    claimant: Claimant,
    grants: &[Grant],
    (mut due, models): (HashMap<i64, DueJob>, &[(i64, String)]),
    standing: &mut Standing,
) -> Result<Vec<Claimed>, StoreError> {
    const CLAIM: &str = concat!(
        "UPDATE jobs
            SET state = 'running', claim = claim + 1, worker_id = $2, lease_until = $3,
                started_at = $4, key_id = e.value ->> 1
           FROM jsonb_each($1) AS e
          WHERE jobs.id = e.value ->> 0; ",
        move_counts!("$5"),
        "; ",
        write_slots!("$6"),
        // Small ones come as one value: each row wakes the thread that reads it. What parts them is
        // in no JSON text.
        "; SELECT group_concat(i.job_id || ' ' || i.request, char(30)) FROM jsonb_each($1) AS e
            CROSS JOIN inputs AS i ON i.job_id = e.value ->> 0
            WHERE octet_length(i.request) <= 4096
           UNION ALL SELECT i.job_id || ' ' || i.request FROM jsonb_each($1) AS e
            CROSS JOIN inputs AS i ON i.job_id = e.value ->> 0
            WHERE octet_length(i.request) > 4096"
    );
    if grants.is_empty() {
        return Ok(Vec::new());
    }
    let mut moved: BTreeMap<i64, Moved> = BTreeMap::new();
    for job in grants.iter().filter_map(|grant| due.get(&grant.job)) {
        let counts = &mut moved.entry(job.at_claim.batch).or_default().counts;
        counts.pending -= 1;
        counts.running += 1;
    }
    let rows = grants.iter().map(|grant| (grant.job, grant.key));
    let query = sqlx::query(CLAIM)
        .bind(bulk::json(&rows.collect::<Vec<(i64, i64)>>())?)
        .bind(claimant.worker.0)
        .bind(claimant.lease_until())
        .bind(claimant.moment.now.0)
        .bind(counters::count_rows(&moved)?)
        .bind(standing.take_changes()?);
    let [.., texts] = bulk::together::<4>(connection, query).await?;
    let mut requests: HashMap<i64, String> = HashMap::with_capacity(grants.len());
    for (text,) in bulk::read::<(Option<String>,)>(&texts)? {
        let each = text.iter().flat_map(|text| text.split('\u{1e}'));
        let each = each.filter_map(|each| each.split_once(' '));
        requests
            .extend(each.filter_map(|(job, request)| Some((job.parse().ok()?, request.into()))));
    }
    let of_grant = |grant: &Grant| {
        let (job, request) = (due.remove(&grant.job)?, requests.remove(&grant.job)?);
        let (_, model) = models.iter().find(|(model, _)| *model == job.model_id)?;
        Some(claimed(job, model.clone(), request, grant, claimant.moment.now))
    };
    Ok(grants.iter().filter_map(of_grant).collect())
}

fn claimed(
    job: DueJob,
    model_name: String,
    request: String,
    grant: &Grant,
    claimed_at: Timestamp,
) -> Claimed {
    Claimed {
        job: job.id,
        claim: job.claim + 1,
        key: grant.key,
        model: job.model_id,
        model_name,
        task_id: job.task_id,
        priority: job.priority,
        reserved: grant.tokens,
        claimed_at,
        at_claim: job.at_claim,
        request,
        media: Vec::new(),
        has_schema: job.has_schema != 0,
        uploads: Vec::new(),
        fault: None,
    }
}
