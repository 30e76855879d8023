//! What any store has to do for workers that die, hang or come late: each step with two jobs and two
//! connections.

use crate::domain::outcome::{ErrorKind, Outcome};
use crate::domain::time::Moment;
use crate::domain::view::{Counts, JobState};
use crate::store::contract::{Bench, NOW, ended, overdue_before, policy};
use crate::store::{ResultFilter, TurnRequest, WorkerId};

#[tokio::test]
async fn a_late_success_is_kept_and_a_late_failure_is_not() {
    let bench = Bench::with_jobs(2).await;
    let late = bench.claim(&bench.first, 1, 2).await;
    // Worker 2 finds that worker 1's leases have run out.
    let moment = || Moment { now: NOW, boot: 100_000 };
    let overdue = overdue_before(1, 100_000);
    let request = TurnRequest { moment, audit: true, overdue, ..bench.request(2, 2) };
    let report = bench.second.turn(request, policy()).await.unwrap();
    assert_eq!((report.taken_back, report.claimed.len()), (2, 2));
    let ends = vec![
        ended(&late[0], Outcome::Answered),
        ended(&late[1], Outcome::Failed(ErrorKind::Blocked)),
    ];
    bench.settle(&bench.first, 1, ends).await;
    assert_eq!(bench.states().await, [JobState::Succeeded, JobState::Running]);
}

#[tokio::test]
async fn a_worker_that_could_not_write_keeps_its_jobs() {
    let bench = Bench::with_jobs(2).await;
    let held = bench.claim(&bench.first, 1, 2).await;
    // Nobody could write until long after the lease; worker 2 comes first then.
    let moment = || Moment { now: NOW, boot: 100_000 };
    let mut looks = TurnRequest { moment, audit: true, ..bench.request(2, 0) };
    let seen = bench.second.turn(looks.clone(), policy()).await.unwrap();
    assert_eq!(seen.taken_back, 0);
    let in_flight = held.iter().map(|it| (it.job, it.claim)).collect();
    let request = TurnRequest { moment, audit: true, in_flight, ..bench.request(1, 0) };
    assert_eq!(bench.first.turn(request, policy()).await.unwrap().lost, [0; 0]);
    looks.overdue = seen.overdue;
    for moment in [
        || Moment { now: NOW, boot: 100_700 },
        || Moment { now: NOW, boot: 101_400 },
        || Moment { now: NOW, boot: 102_100 },
    ] {
        looks.moment = moment;
        let report = bench.second.turn(looks.clone(), policy()).await.unwrap();
        assert_eq!(report.taken_back, 0);
        looks.overdue = report.overdue;
    }
    assert_eq!(bench.states().await, [JobState::Running; 2]);
}

#[tokio::test]
async fn two_attempts_at_one_job_are_settled_together_and_the_answer_is_kept() {
    for late_first in [true, false] {
        let bench = Bench::with_jobs(2).await;
        let late = bench.claim(&bench.first, 1, 2).await;
        let moment = || Moment { now: NOW, boot: 100_000 };
        let overdue = overdue_before(1, 100_000);
        let request = TurnRequest { moment, audit: true, overdue, ..bench.request(2, 0) };
        assert_eq!(bench.second.turn(request, policy()).await.unwrap().taken_back, 2);
        // The one that was thought to hang goes on, and gets its jobs again.
        let again = bench.claim(&bench.first, 1, 2).await;
        let failed = ended(&again[0], Outcome::Failed(ErrorKind::ServerError));
        let mut ends = vec![ended(&late[0], Outcome::Answered), failed];
        if !late_first {
            ends.reverse();
        }
        bench.settle(&bench.first, 1, ends).await;
        assert_eq!(bench.states().await, [JobState::Succeeded, JobState::Running]);
        let counts = Counts { succeeded: 1, running: 1, ..Counts::default() };
        assert_eq!(bench.counts().await, counts);
        let records = bench.records().await;
        assert_eq!(records.0, ["succeeded", "server_error", "lease_lost"]);
        assert_eq!(records.1.calls, 2);
    }
}

#[tokio::test]
async fn the_dead_give_their_jobs_back_until_the_third_death() {
    let bench = Bench::with_jobs(2).await;
    for death in 1..=3 {
        let worker = death * 10;
        assert_eq!(bench.claim(&bench.first, worker, 2).await.len(), 2);
        let request = TurnRequest { dead: vec![WorkerId(worker)], ..bench.request(1, 0) };
        assert_eq!(bench.second.turn(request, policy()).await.unwrap().taken_back, 2);
    }
    let page = bench.first.results(&ResultFilter::default(), 0).await.unwrap();
    for job in page.jobs {
        assert_eq!(job.error.unwrap().kind, ErrorKind::UnknownOutcome);
        assert_eq!(job.attempts, 0);
    }
    assert_eq!(bench.counts().await, Counts { failed: 2, ..Counts::default() });
}

#[tokio::test]
async fn what_was_claimed_unknown_to_the_worker_goes_back() {
    let bench = Bench::with_jobs(2).await;
    let claimed = bench.claim(&bench.first, 1, 2).await;
    let in_flight = vec![(claimed[0].job, claimed[0].claim)];
    let request = TurnRequest { audit: true, in_flight, ..bench.request(1, 0) };
    bench.first.turn(request, policy()).await.unwrap();
    assert_eq!(bench.states().await, [JobState::Running, JobState::Pending]);
}
