//! Which due jobs start now, and with which key.

use std::collections::{HashMap, HashSet};

use crate::domain::time::Timestamp;
use crate::domain::upload::Progress;

/// A job that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its row.
    pub job: i64,
    /// The model it goes to.
    pub model: i64,
    /// Higher goes first.
    pub priority: i64,
    /// Earlier goes first, at one priority.
    pub due_at: Timestamp,
    /// The key whose last attempt at it failed; another is tried first.
    pub avoid: Option<i64>,
    /// How far each key is with media that have to be uploaded; absent where there are none.
    pub uploads: Option<HashMap<i64, Progress>>,
}

/// A key that may be used now for one model, or soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenSlot {
    /// The key's row.
    pub key: i64,
    /// The model's row.
    pub model: i64,
    /// Calls it may take on, beside those in flight.
    pub room: usize,
    /// Calls in flight, by whichever process.
    pub in_flight: usize,
}

/// What bounds a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Calls that may start in this turn at most.
    pub calls: usize,
    /// Those of them that jobs with a priority of 0 or less may take: the rest is kept for jobs
    /// that somebody waits for.
    pub bulk: usize,
    /// Whether a key takes one call at a time, because it rests after each.
    pub one_call_a_key: bool,
}

/// One job with the key it goes out with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// The job's row.
    pub job: i64,
    /// The key's row.
    pub key: i64,
}

/// What happens in a turn.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Jobs that start.
    pub calls: Vec<Grant>,
    /// Jobs that wait until the key has their media.
    pub uploads: Vec<Grant>,
}

/// Gives each candidate, best first, the least busy slot of its model that has room.
///
/// A model without room stands in nobody's way. A job with uploads goes to a key that has them, and
/// waits for one that has them and no room at the moment; only where none of them may be used are
/// they uploaded for another.
pub fn plan(mut candidates: Vec<Candidate>, slots: &[OpenSlot], bounds: Bounds) -> Plan {
    candidates.sort_by_key(|job| (std::cmp::Reverse(job.priority), job.due_at, job.job));
    let mut slots = Slots::new(slots, bounds);
    let mut plan = Plan::default();
    for job in &candidates {
        let (key, to) = match slots.place(job) {
            Some(Place::Call(key)) => (key, &mut plan.calls),
            Some(Place::Upload(key)) => (key, &mut plan.uploads),
            None => continue,
        };
        to.push(Grant { job: job.job, key });
    }
    plan
}

/// Where a job goes.
enum Place {
    Call(i64),
    Upload(i64),
}

/// The slots as the plan fills them.
struct Slots {
    by_model: HashMap<i64, Vec<OpenSlot>>,
    bounds: Bounds,
    /// Keys with a call in this plan.
    used: HashSet<i64>,
}

impl Slots {
    fn new(slots: &[OpenSlot], bounds: Bounds) -> Self {
        let mut by_model: HashMap<i64, Vec<OpenSlot>> = HashMap::new();
        for slot in slots {
            by_model.entry(slot.model).or_default().push(*slot);
        }
        Self { by_model, bounds, used: HashSet::new() }
    }

    fn place(&mut self, job: &Candidate) -> Option<Place> {
        let slots = self.by_model.get_mut(&job.model)?;
        let progress = |slot: &OpenSlot| Some(job.uploads.as_ref()?.get(&slot.key)?.clone());
        let has_all = |slot: &OpenSlot| {
            job.uploads.is_none() || progress(slot).is_some_and(|it| it.is_settled())
        };
        let burden = |slot: &OpenSlot| (job.avoid == Some(slot.key), slot.in_flight);
        if !slots.iter().any(has_all) {
            let started = |slot: &OpenSlot| progress(slot) == Some(Progress::UnderWay);
            let slot = slots.iter_mut().min_by_key(|slot| (!started(slot), burden(slot)))?;
            slot.in_flight += 1;
            return Some(Place::Upload(slot.key));
        }
        let one_call_a_key = self.bounds.one_call_a_key;
        let is_free =
            |slot: &OpenSlot| slot.room > 0 && !(one_call_a_key && self.used.contains(&slot.key));
        let open = slots.iter_mut().filter(|slot| has_all(slot) && is_free(slot));
        let is_bulk = job.priority <= 0;
        let may_start = self.bounds.calls > 0 && (self.bounds.bulk > 0 || !is_bulk);
        let slot = open.min_by_key(|slot| burden(slot)).filter(|_| may_start)?;
        slot.room -= 1;
        slot.in_flight += 1;
        self.bounds.calls -= 1;
        self.bounds.bulk -= usize::from(is_bulk);
        self.used.insert(slot.key);
        Some(Place::Call(slot.key))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn job(job: i64, model: i64, priority: i64) -> Candidate {
        Candidate { job, model, priority, due_at: Timestamp(0), avoid: None, uploads: None }
    }

    fn slot(key: i64, model: i64, room: usize) -> OpenSlot {
        OpenSlot { key, model, room, in_flight: 0 }
    }

    fn bounds(calls: usize) -> Bounds {
        Bounds { calls, bulk: calls, one_call_a_key: false }
    }

    #[test]
    fn higher_priority_first_then_the_earlier() {
        let jobs = vec![job(1, 1, 0), job(2, 1, 5), job(3, 1, 0)];
        let grants = plan(jobs, &[slot(7, 1, 10)], bounds(2)).calls;
        assert_eq!(grants.iter().map(|grant| grant.job).collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn places_are_kept_for_jobs_that_somebody_waits_for() {
        let jobs = || vec![job(1, 1, 0), job(2, 1, -1), job(3, 1, 1), job(4, 1, 0)];
        let kept = |bulk| {
            let bounds = Bounds { bulk, ..bounds(3) };
            let calls = plan(jobs(), &[slot(7, 1, 9)], bounds).calls;
            calls.iter().map(|grant| grant.job).collect::<Vec<_>>()
        };
        assert_eq!(kept(2), [3, 1, 4]);
        assert_eq!(kept(1), [3, 1]);
        assert_eq!(kept(0), [3]);
    }

    #[test]
    fn a_model_without_a_slot_delays_no_other() {
        let grants = plan(vec![job(1, 1, 9), job(2, 2, 0)], &[slot(7, 2, 1)], bounds(9)).calls;
        assert_eq!(grants, [Grant { job: 2, key: 7 }]);
    }

    #[test]
    fn work_is_spread_over_the_keys() {
        let jobs = (0..6).map(|id| job(id, 1, 0)).collect();
        let grants = plan(jobs, &[slot(7, 1, 9), slot(8, 1, 9)], bounds(6)).calls;
        assert_eq!(grants.iter().filter(|grant| grant.key == 7).count(), 3);
    }

    fn with_uploads(number: i64, progress: &[(i64, Progress)]) -> Candidate {
        Candidate { uploads: Some(progress.iter().cloned().collect()), ..job(number, 1, 0) }
    }

    fn granted(grants: &[Grant]) -> Vec<(i64, i64)> {
        grants.iter().map(|grant| (grant.job, grant.key)).collect()
    }

    #[test]
    fn a_job_that_failed_goes_to_another_key_if_there_is_one() {
        let failed = || Candidate { avoid: Some(7), ..job(1, 1, 0) };
        let busy = OpenSlot { in_flight: 5, ..slot(8, 1, 9) };
        let both = plan(vec![failed()], &[slot(7, 1, 9), busy], bounds(1));
        assert_eq!(granted(&both.calls), [(1, 8)]);
        assert_eq!(granted(&plan(vec![failed()], &[slot(7, 1, 9)], bounds(1)).calls), [(1, 7)]);
    }

    #[test]
    fn uploads_that_nobody_has_are_spread_over_the_keys() {
        let jobs = (1..=4).map(|number| with_uploads(number, &[])).collect();
        let plan = plan(jobs, &[slot(7, 1, 9), slot(8, 1, 9)], bounds(4));
        assert_eq!(plan.calls, []);
        assert_eq!(granted(&plan.uploads), [(1, 7), (2, 8), (3, 7), (4, 8)]);
    }

    #[test]
    fn a_job_goes_to_a_key_that_has_its_uploads_or_waits_for_it() {
        let job = |number| with_uploads(number, &[(8, Progress::Ready), (7, Progress::UnderWay)]);
        let slots = [slot(7, 1, 9), slot(8, 1, 1)];
        let plan = plan(vec![job(1), job(2)], &slots, bounds(4));
        assert_eq!((granted(&plan.calls), plan.uploads), (vec![(1, 8)], vec![]));
    }

    #[test]
    fn uploads_go_to_another_key_where_the_one_that_has_them_rests() {
        let jobs = vec![with_uploads(1, &[(9, Progress::Ready), (8, Progress::UnderWay)])];
        let plan = plan(jobs, &[slot(7, 1, 9), slot(8, 1, 9)], bounds(4));
        assert_eq!((plan.calls, granted(&plan.uploads)), (vec![], vec![(1, 8)]));
    }

    #[test]
    fn a_failed_upload_is_told_by_a_call_that_ends_at_once() {
        let failed = Progress::Failed(crate::domain::outcome::ErrorKind::Media, "x".into());
        let plan = plan(vec![with_uploads(1, &[(7, failed)])], &[slot(7, 1, 1)], bounds(1));
        assert_eq!(granted(&plan.calls), [(1, 7)]);
    }

    #[test]
    fn jobs_with_uploads_to_wait_for_take_no_place_from_others() {
        let jobs = vec![with_uploads(1, &[]), with_uploads(2, &[]), job(3, 1, 0)];
        let plan = plan(jobs, &[slot(7, 1, 9)], bounds(1));
        assert_eq!((granted(&plan.calls), plan.uploads.len()), (vec![(3, 7)], 2));
    }

    proptest! {
        #[test]
        fn no_plan_breaks_a_bound(
            jobs in proptest::collection::vec((1_i64..4, -2_i64..3), 0..40),
            slots in proptest::collection::vec((1_i64..5, 1_i64..4, 0_usize..4), 0..12),
            calls in 0_usize..20, bulk in 0_usize..20, one_call_a_key: bool,
        ) {
            let jobs: Vec<_> = (0_i64..).zip(jobs).map(|(id, (model, priority))| job(id, model, priority)).collect();
            let mut seen = std::collections::HashSet::new();
            let slots: Vec<_> = slots.into_iter().map(|(key, model, room)| slot(key, model, room))
                .filter(|slot| seen.insert((slot.key, slot.model))).collect();
            let grants = plan(jobs.clone(), &slots, Bounds { calls, bulk, one_call_a_key }).calls;
            prop_assert!(grants.len() <= calls);
            let is_bulk = |job: i64| jobs[usize::try_from(job).unwrap()].priority <= 0;
            prop_assert!(grants.iter().filter(|grant| is_bulk(grant.job)).count() <= bulk);
            let mut started = std::collections::HashSet::new();
            let mut left: std::collections::HashMap<_, _> =
                slots.iter().map(|slot| ((slot.key, slot.model), slot.room)).collect();
            let mut keys = std::collections::HashSet::new();
            for grant in &grants {
                prop_assert!(started.insert(grant.job), "a job started twice");
                let model = jobs[usize::try_from(grant.job).unwrap()].model;
                let room = left.get_mut(&(grant.key, model)).unwrap();
                prop_assert!(*room > 0);
                *room -= 1;
                prop_assert!(keys.insert(grant.key) || !one_call_a_key);
            }
            if grants.len() < calls && !one_call_a_key {
                let left_out = |job: &&Candidate| job.priority > 0 && !started.contains(&job.job);
                for job in jobs.iter().filter(left_out) {
                    prop_assert!(left.iter().all(|((_, model), room)| *model != job.model || *room == 0));
                }
            }
        }
    }
}
