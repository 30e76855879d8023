//! Which jobs start now: reads what is due and what may be used, lets the plan decide, writes it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use sqlx::sqlite::SqliteConnection;

use crate::domain::plan::{self, Bounds, Candidate, Grant};
use crate::domain::time::{Moment, Timestamp};
use crate::domain::today::Today;
use crate::domain::view::UsedUp;
use crate::store::due::{self, Scope, State};
use crate::store::estimate;
use crate::store::keys::{self, KeyRow};
use crate::store::needs::{Needs, Room};
use crate::store::opening::{self, Opened, Wake, Work};
use crate::store::settle::Moved;
use crate::store::standing::Standing;
use crate::store::turn::{CallStart, Claimed, Policy, TurnReport, TurnRequest, WorkerId};
use crate::store::{StoreError, bulk, settle};

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
    let State { counts, used, next_call_at, has_media, models, .. } =
        due::state(connection, policy.scope).await?;
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
    let work = Work { own: &own, counts, models };
    let mut opened = opening::open(connection, standing, work, policy, today, &mut wake).await?;
    let ahead = if calls > 0 && has_media { AHEAD } else { 0 };
    let look = Look { scope: policy.scope, now, calls, ahead, pending: counts.pending };
    let mut candidates = candidates(connection, look, &opened, &mut wake).await?;
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
    report.claimed = write(connection, claimant, &plan.calls).await?;
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
) -> Result<Vec<Candidate>, StoreError> {
    let mut candidates = Vec::new();
    let mut short = Vec::new();
    for model in opened.models.iter().map(|(model, _)| *model) {
        let is_open = opened.open.keys.iter().any(|key| key.slot.1 == model);
        let wanted = if is_open { calls + ahead } else { 0 };
        if wanted == 0 {
            continue;
        }
        let mut found = due::due(connection, scope, model, now, wanted).await?;
        if found.len() < wanted {
            short.push(model);
        }
        candidates.append(&mut found);
    }
    // Mostly all that there is is due.
    if i64::try_from(candidates.len()).is_ok_and(|found| found < pending) {
        for model in short {
            if let Some(next) = due::next_due(connection, scope, model, now).await? {
                wake.at(next);
            }
        }
    }
    Ok(candidates)
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

async fn write(
    connection: &mut SqliteConnection,
    claimant: Claimant,
    grants: &[Grant],
) -> Result<Vec<Claimed>, StoreError> {
    if grants.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<(i64, i64)> = grants.iter().map(|grant| (grant.job, grant.key)).collect();
    let claimed: Vec<ClaimedRow> = sqlx::query_as(
        "UPDATE jobs
            SET state = 'running', claim = claim + 1, worker_id = ?2, lease_until = ?3,
                started_at = ?4, key_id = e.value ->> 1
           FROM json_each(?1) AS e
          WHERE jobs.id = e.value ->> 0
         RETURNING id, claim, key_id, model_id, batch_id, priority, stream, task_id,
                (SELECT name FROM models AS m WHERE m.id = jobs.model_id) AS model_name,
                (SELECT request FROM inputs AS i WHERE i.job_id = jobs.id) AS request,
                output IS NOT NULL AS has_schema",
    )
    .bind(bulk::json(&rows)?)
    .bind(claimant.worker.0)
    .bind(claimant.lease_until())
    .bind(claimant.moment.now.0)
    .fetch_all(&mut *connection)
    .await?;
    let mut moved: BTreeMap<i64, Moved> = BTreeMap::new();
    for row in &claimed {
        let counts = &mut moved.entry(row.batch_id).or_default().counts;
        counts.pending -= 1;
        counts.running += 1;
    }
    settle::count(connection, &moved).await?;
    let mut claimed: HashMap<i64, ClaimedRow> =
        claimed.into_iter().map(|row| (row.id, row)).collect();
    let of_grant =
        |grant: &Grant| Some(claimed.remove(&grant.job)?.claimed(grant, claimant.moment.now));
    Ok(grants.iter().filter_map(of_grant).collect())
}

#[derive(sqlx::FromRow)]
struct ClaimedRow {
    id: i64,
    claim: i64,
    key_id: i64,
    model_id: i64,
    batch_id: i64,
    priority: i64,
    stream: bool,
    model_name: String,
    task_id: String,
    request: String,
    has_schema: bool,
}

impl ClaimedRow {
    fn claimed(self, grant: &Grant, claimed_at: Timestamp) -> Claimed {
        Claimed {
            job: self.id,
            claim: self.claim,
            key: self.key_id,
            model: self.model_id,
            model_name: self.model_name,
            task_id: self.task_id,
            priority: self.priority,
            reserved: grant.tokens,
            claimed_at,
            stream: self.stream,
            request: self.request,
            media: Vec::new(),
            has_schema: self.has_schema,
            uploads: Vec::new(),
            fault: None,
        }
    }
}
