use proptest::prelude::*;

use super::*;
use crate::domain::outcome::ErrorKind;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

/// Calls that each slot has had: nobody need be careful with it any more.
const SEEN: i64 = 100;

fn job(job: i64, model: i64, priority: i64) -> Candidate {
    let due_at = Timestamp(0);
    Candidate { job, model, priority, due_at, avoid: None, tokens: 1, uploads: None }
}

/// Keys by (key, model, calls that it has room for), each of a project of its own.
fn open(keys: &[(i64, i64, i64)]) -> Open {
    let mut open = Open::default();
    for &(key, model, room) in keys {
        let limits = Limits([Some(SEEN + room), None, None]);
        let mut slot = OpenSlot { limits, ..OpenSlot::default() };
        for _ in 0..SEEN {
            slot.traffic.window.take(1, Timestamp(NOW.0 - 30_000));
        }
        open.slots.insert((key, model), slot);
        open.keys.push(OpenKey { key, slot: (key, model), rank: 0, in_flight: 0, free: true });
        open.models.insert(model, OpenModel { room: i64::MAX, paced: false });
    }
    open
}

fn bounds(calls: usize) -> Bounds {
    Bounds { calls, bulk: calls, one_call_a_key: false }
}

fn planned(jobs: Vec<Candidate>, mut open: Open, calls: usize) -> Plan {
    plan(jobs, &mut open, bounds(calls), Today::at(NOW))
}

fn granted(grants: &[Grant]) -> Vec<(i64, i64)> {
    grants.iter().map(|grant| (grant.job, grant.key)).collect()
}

#[test]
fn higher_priority_first_then_the_earlier() {
    let jobs = vec![job(1, 1, 0), job(2, 1, 5), job(3, 1, 0)];
    assert_eq!(granted(&planned(jobs, open(&[(7, 1, 10)]), 2).calls), [(2, 7), (1, 7)]);
}

#[test]
fn places_are_kept_for_jobs_that_somebody_waits_for() {
    let jobs = || vec![job(1, 1, 0), job(2, 1, -1), job(3, 1, 1), job(4, 1, 0)];
    let kept = |bulk| {
        let bounds = Bounds { bulk, ..bounds(3) };
        let calls = plan(jobs(), &mut open(&[(7, 1, 9)]), bounds, Today::at(NOW)).calls;
        calls.iter().map(|grant| grant.job).collect::<Vec<_>>()
    };
    assert_eq!(kept(2), [3, 1, 4]);
    assert_eq!(kept(1), [3, 1]);
    assert_eq!(kept(0), [3]);
}

#[test]
fn a_model_without_a_slot_delays_no_other() {
    let plan = planned(vec![job(1, 1, 9), job(2, 2, 0)], open(&[(7, 2, 1)]), 9);
    assert_eq!(granted(&plan.calls), [(2, 7)]);
}

#[test]
fn work_is_spread_over_the_keys() {
    let jobs = (0..6).map(|id| job(id, 1, 0)).collect();
    let grants = planned(jobs, open(&[(7, 1, 9), (8, 1, 9)]), 6).calls;
    assert_eq!(grants.iter().filter(|grant| grant.key == 7).count(), 3);
}

#[test]
fn what_costs_nothing_goes_before_what_is_paid_and_the_rested_before_the_used() {
    let mut open = open(&[(7, 1, 9), (8, 1, 1), (9, 1, 1)]);
    open.keys[0].rank = 2;
    open.slots.get_mut(&(8, 1)).unwrap().traffic.window.take(1, Timestamp(NOW.0 - 20_000));
    open.slots.get_mut(&(8, 1)).unwrap().limits = Limits([Some(SEEN + 2), None, None]);
    let jobs = (1..=3).map(|id| job(id, 1, 0)).collect();
    assert_eq!(granted(&planned(jobs, open, 9).calls), [(1, 9), (2, 8), (3, 7)]);
}

#[test]
fn keys_of_one_project_share_what_it_may_use() {
    let mut open = open(&[(7, 1, 2)]);
    open.keys.push(OpenKey { key: 8, ..open.keys[0] });
    let jobs = (1..=5).map(|id| job(id, 1, 0)).collect();
    let plan = plan(jobs, &mut open, bounds(5), Today::at(NOW));
    assert_eq!(granted(&plan.calls), [(1, 7), (2, 8)]);
    assert_eq!((plan.used.len(), open.slots[&(7, 1)].traffic.window.calls()), (1, SEEN + 2));
    assert_eq!(plan.next_at, Some(Timestamp(NOW.0 + 30_500)), "when the first ones count no more");
}

#[test]
fn a_model_that_is_overloaded_takes_no_more_than_it_may() {
    let mut open = open(&[(7, 1, 9), (8, 1, 9), (7, 2, 9)]);
    open.models.insert(1, OpenModel { room: 1, paced: false });
    let jobs = vec![job(1, 1, 0), job(2, 1, 0), job(3, 2, 0)];
    assert_eq!(granted(&planned(jobs, open, 9).calls), [(1, 7), (3, 7)]);
}

#[test]
fn one_call_tries_a_slot_after_a_refusal() {
    let mut open = open(&[(7, 1, 9)]);
    open.slots.get_mut(&(7, 1)).unwrap().probing = true;
    let jobs = vec![job(1, 1, 0), job(2, 1, 0)];
    assert_eq!(granted(&planned(jobs, open, 9).calls), [(1, 7)]);
}

#[test]
fn a_long_queue_takes_turns_and_a_question_does_not_wait_for_them() {
    let mut open = open(&[(7, 1, 9)]);
    open.models.insert(1, OpenModel { room: i64::MAX, paced: true });
    let turn = Timestamp(NOW.0 + 500);
    open.slots.get_mut(&(7, 1)).unwrap().traffic.next_at = turn;
    let plan = planned(vec![job(1, 1, 0), job(2, 1, 1), job(3, 1, 0)], open, 9);
    assert_eq!(granted(&plan.calls), [(2, 7)]);
    assert!(plan.next_at >= Some(turn));
}

#[test]
fn a_job_that_is_too_large_for_what_is_left_keeps_no_smaller_one_back() {
    let mut open = open(&[(7, 1, 9)]);
    open.slots.get_mut(&(7, 1)).unwrap().limits = Limits([None, Some(SEEN + 50), None]);
    let jobs = |due_at| {
        let large = Candidate { tokens: 60, due_at, ..job(1, 1, 0) };
        vec![large, Candidate { due_at, ..job(2, 1, 0) }]
    };
    let plan = planned(jobs(NOW), open.clone(), 9);
    assert_eq!(granted(&plan.calls), [(2, 7)]);
    assert_eq!(plan.next_at, Some(Timestamp(NOW.0 + 30_500)));
    let plan = planned(jobs(Timestamp(NOW.0 - 121_000)), open, 9);
    assert_eq!(granted(&plan.calls), [], "but not for ever");
}

#[test]
fn a_slot_that_has_had_its_day_says_when_the_next_begins() {
    let mut open = open(&[(7, 1, 9)]);
    let today = Today::at(NOW);
    let slot = open.slots.get_mut(&(7, 1)).unwrap();
    slot.limits = Limits([None, None, Some(3)]);
    (slot.traffic.day, slot.traffic.day_calls) = (today.day, 3);
    let plan = planned(vec![job(1, 1, 0)], open, 9);
    assert_eq!((plan.calls, plan.next_at), (vec![], Some(today.tomorrow(7))));
}

fn with_uploads(number: i64, progress: &[(i64, Progress)]) -> Candidate {
    Candidate { uploads: Some(progress.iter().cloned().collect()), ..job(number, 1, 0) }
}

#[test]
fn a_job_that_failed_goes_to_another_key_if_there_is_one() {
    let failed = || Candidate { avoid: Some(7), ..job(1, 1, 0) };
    let mut both = open(&[(7, 1, 9), (8, 1, 9)]);
    both.slots.get_mut(&(8, 1)).unwrap().busy.calls = 5;
    assert_eq!(granted(&planned(vec![failed()], both, 1).calls), [(1, 8)]);
    assert_eq!(granted(&planned(vec![failed()], open(&[(7, 1, 9)]), 1).calls), [(1, 7)]);
}

#[test]
fn uploads_that_nobody_has_are_spread_over_the_keys() {
    let jobs = (1..=4).map(|number| with_uploads(number, &[])).collect();
    let plan = planned(jobs, open(&[(7, 1, 9), (8, 1, 9)]), 4);
    assert_eq!(plan.calls, []);
    assert_eq!(granted(&plan.uploads), [(1, 7), (2, 8), (3, 7), (4, 8)]);
}

#[test]
fn a_job_goes_to_a_key_that_has_its_uploads_or_waits_for_it() {
    let job = |number| with_uploads(number, &[(8, Progress::Ready), (7, Progress::UnderWay)]);
    let plan = planned(vec![job(1), job(2)], open(&[(7, 1, 9), (8, 1, 1)]), 4);
    assert_eq!((granted(&plan.calls), plan.uploads), (vec![(1, 8)], vec![]));
}

#[test]
fn uploads_go_to_another_key_where_the_one_that_has_them_rests() {
    let jobs = vec![with_uploads(1, &[(9, Progress::Ready), (8, Progress::UnderWay)])];
    let plan = planned(jobs, open(&[(7, 1, 9), (8, 1, 9)]), 4);
    assert_eq!((plan.calls, granted(&plan.uploads)), (vec![], vec![(1, 8)]));
}

#[test]
fn a_failed_upload_is_told_by_a_call_that_ends_at_once() {
    let failed = Progress::Failed(ErrorKind::Media, "x".into());
    let plan = planned(vec![with_uploads(1, &[(7, failed)])], open(&[(7, 1, 1)]), 1);
    assert_eq!(granted(&plan.calls), [(1, 7)]);
}

#[test]
fn jobs_with_uploads_to_wait_for_take_no_place_from_others() {
    let jobs = vec![with_uploads(1, &[]), with_uploads(2, &[]), job(3, 1, 0)];
    let plan = planned(jobs, open(&[(7, 1, 9)]), 1);
    assert_eq!((granted(&plan.calls), plan.uploads.len()), (vec![(3, 7)], 2));
}

proptest! {
    #[test]
    fn no_plan_breaks_a_bound(
        jobs in proptest::collection::vec((1_i64..4, -2_i64..3), 0..40),
        keys in proptest::collection::vec((1_i64..5, 1_i64..4, 0_i64..4), 0..12),
        calls in 0_usize..20, bulk in 0_usize..20, one_call_a_key: bool,
    ) {
        let jobs: Vec<_> = (0_i64..).zip(jobs)
            .map(|(id, (model, priority))| job(id, model, priority)).collect();
        let mut seen = HashSet::new();
        let keys: Vec<_> = keys.into_iter().filter(|key| seen.insert((key.0, key.1))).collect();
        let bounds = Bounds { calls, bulk, one_call_a_key };
        let grants = plan(jobs.clone(), &mut open(&keys), bounds, Today::at(NOW)).calls;
        prop_assert!(grants.len() <= calls);
        let of = |number: i64| &jobs[usize::try_from(number).unwrap()];
        prop_assert!(grants.iter().filter(|grant| of(grant.job).priority <= 0).count() <= bulk);
        let mut started = HashSet::new();
        let mut left: HashMap<_, _> =
            keys.iter().map(|&(key, model, room)| ((key, model), room)).collect();
        let mut called = HashSet::new();
        for grant in &grants {
            prop_assert!(started.insert(grant.job), "a job started twice");
            let room = left.get_mut(&(grant.key, of(grant.job).model)).unwrap();
            prop_assert!(*room > 0);
            *room -= 1;
            prop_assert!(called.insert(grant.key) || !one_call_a_key);
        }
        if grants.len() < calls && !one_call_a_key {
            let is_left = |job: &&Candidate| job.priority > 0 && !started.contains(&job.job);
            for job in jobs.iter().filter(is_left) {
                prop_assert!(left.iter().all(|((_, model), room)| *model != job.model || *room == 0));
            }
        }
    }
}
