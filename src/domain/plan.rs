//! Which due jobs start now, and with which key.

use std::collections::HashMap;

use crate::domain::time::Timestamp;

/// A job that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its row.
    pub job: i64,
    /// The model it goes to.
    pub model: i64,
    /// Higher goes first.
    pub priority: i64,
    /// Earlier goes first, at one priority.
    pub due_at: Timestamp,
}

/// A key that may be used now for one model.
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

/// Gives each candidate, best first, the least busy slot of its model that has room.
///
/// A model without room stands in nobody's way.
pub fn plan(mut candidates: Vec<Candidate>, slots: &[OpenSlot], bounds: Bounds) -> Vec<Grant> {
    candidates.sort_by_key(|job| (std::cmp::Reverse(job.priority), job.due_at, job.job));
    let mut by_model: HashMap<i64, Vec<OpenSlot>> = HashMap::new();
    for slot in slots.iter().filter(|slot| slot.room > 0) {
        by_model.entry(slot.model).or_default().push(*slot);
    }
    let mut grants = Vec::new();
    let mut used = std::collections::HashSet::new();
    for job in candidates {
        if grants.len() == bounds.calls {
            break;
        }
        let Some(slots) = by_model.get_mut(&job.model) else {
            continue;
        };
        let open = slots
            .iter_mut()
            .filter(|slot| slot.room > 0 && !(bounds.one_call_a_key && used.contains(&slot.key)));
        let Some(slot) = open.min_by_key(|slot| slot.in_flight) else {
            continue;
        };
        slot.room -= 1;
        slot.in_flight += 1;
        used.insert(slot.key);
        grants.push(Grant { job: job.job, key: slot.key });
    }
    grants
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn job(job: i64, model: i64, priority: i64) -> Candidate {
        Candidate { job, model, priority, due_at: Timestamp(0) }
    }

    fn slot(key: i64, model: i64, room: usize) -> OpenSlot {
        OpenSlot { key, model, room, in_flight: 0 }
    }

    fn bounds(calls: usize) -> Bounds {
        Bounds { calls, one_call_a_key: false }
    }

    #[test]
    fn higher_priority_first_then_the_earlier() {
        let grants =
            plan(vec![job(1, 1, 0), job(2, 1, 5), job(3, 1, 0)], &[slot(7, 1, 10)], bounds(2));
        assert_eq!(grants.iter().map(|grant| grant.job).collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn a_model_without_a_slot_delays_no_other() {
        let grants = plan(vec![job(1, 1, 9), job(2, 2, 0)], &[slot(7, 2, 1)], bounds(9));
        assert_eq!(grants, [Grant { job: 2, key: 7 }]);
    }

    #[test]
    fn work_is_spread_over_the_keys() {
        let jobs = (0..6).map(|id| job(id, 1, 0)).collect();
        let grants = plan(jobs, &[slot(7, 1, 9), slot(8, 1, 9)], bounds(6));
        assert_eq!(grants.iter().filter(|grant| grant.key == 7).count(), 3);
    }

    proptest! {
        #[test]
        fn no_plan_breaks_a_bound(
            jobs in proptest::collection::vec((1_i64..4, -2_i64..3), 0..40),
            slots in proptest::collection::vec((1_i64..5, 1_i64..4, 0_usize..4), 0..12),
            calls in 0_usize..20, one_call_a_key: bool,
        ) {
            let jobs: Vec<_> = (0_i64..).zip(jobs).map(|(id, (model, priority))| job(id, model, priority)).collect();
            let mut seen = std::collections::HashSet::new();
            let slots: Vec<_> = slots.into_iter().map(|(key, model, room)| slot(key, model, room))
                .filter(|slot| seen.insert((slot.key, slot.model))).collect();
            let grants = plan(jobs.clone(), &slots, Bounds { calls, one_call_a_key });
            prop_assert!(grants.len() <= calls);
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
                for job in jobs.iter().filter(|job| !started.contains(&job.job)) {
                    prop_assert!(left.iter().all(|((_, model), room)| *model != job.model || *room == 0));
                }
            }
        }
    }
}
