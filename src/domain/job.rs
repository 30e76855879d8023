//! The state machine of a job: what an attempt's end, a death or a lost lease does to it.

use std::time::Duration;

use crate::domain::outcome::{ErrorKind, Exhaustion, Outcome};
use crate::domain::pacing::OnUnknown;
use crate::domain::retry;
use crate::domain::view::JobState;

/// A job in flight at this many deaths of its process ends as `unknown_outcome`: it may be what
/// kills them.
pub const MAX_DEATHS: i64 = 3;

/// So often a job costs nothing whose uploaded file the API has lost; more often, and something else
/// is wrong.
const MENDS: i64 = 3;

/// What a decision about a job rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job {
    /// The state that the database holds.
    pub state: JobState,
    /// Whether the attempt in question still owns the job: it runs, under this attempt's number.
    pub owned: bool,
    /// Attempts used up so far.
    pub attempts: i64,
    /// Attempts it may use.
    pub max_attempts: i64,
    /// Of the attempts used up, those that failed in the way of the attempt in question.
    pub alike: i64,
    /// Deaths of a process that had it in flight.
    pub deaths: i64,
    /// Calls whose uploaded files the API no longer had.
    pub mended: i64,
    /// Calls with the key of the attempt in question that met a rate limit before.
    pub refused: i64,
}

/// What an attempt's end does to its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// The answer is recorded; an attempt is used up.
    Succeed,
    /// An attempt is used up, the next one is due after the delay.
    RetryAfter(Duration),
    /// An attempt is used up and was the last one.
    Fail(ErrorKind),
    /// Back in its place of the queue; no attempt is used up.
    Release,
    /// Behind the others in the queue, and due after the delay; no attempt is used up.
    StandBack(Duration),
    /// The job is another's by now, or finished: nothing changes.
    Ignore,
}

/// Decides what the end of an attempt does to its job; `jitter` is in `0.0..1.0`.
///
/// A paid answer is taken from any attempt while the job has none, however late. Everything else
/// counts only while the attempt owns the job.
pub fn after_attempt(job: &Job, outcome: &Outcome, jitter: f64) -> Transition {
    if matches!(outcome, Outcome::Answered) {
        return if job.state == JobState::Succeeded {
            Transition::Ignore
        } else {
            Transition::Succeed
        };
    }
    if !job.owned {
        return Transition::Ignore;
    }
    let (kind, allowed) = match outcome {
        Outcome::Failed(kind) => (*kind, retry::allowed(*kind)),
        Outcome::FileRefused => (ErrorKind::Media, None),
        Outcome::FileExpired if job.mended >= MENDS => (ErrorKind::Media, None),
        // It may be the job: a prompt of more tokens than a minute may have meets the limit each time,
        // and each time the key rests, for all others too.
        Outcome::Exhausted(Exhaustion::Short { .. }) if job.refused > 0 => {
            return Transition::StandBack(retry::stand_back(job.refused));
        }
        Outcome::Answered
        | Outcome::Exhausted(_)
        | Outcome::BadKey
        | Outcome::LocationRefused
        | Outcome::FileExpired
        | Outcome::Cut => return Transition::Release,
    };
    let used = job.attempts + 1;
    let spent = allowed.is_some_and(|allowed| job.alike + 1 >= allowed);
    if spent || used >= job.max_attempts {
        Transition::Fail(kind)
    } else {
        Transition::RetryAfter(retry::delay(used, jitter))
    }
}

/// Decides what the death of a process does to a job that it had in flight.
pub fn after_death(job: &Job, on_unknown: OnUnknown) -> Transition {
    if on_unknown == OnUnknown::Fail || job.deaths + 1 >= MAX_DEATHS {
        Transition::Fail(ErrorKind::UnknownOutcome)
    } else {
        Transition::Release
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn running(attempts: i64) -> Job {
        Job {
            state: JobState::Running,
            owned: true,
            attempts,
            max_attempts: 5,
            alike: 0,
            deaths: 0,
            mended: 0,
            refused: 0,
        }
    }

    #[test]
    fn an_attempt_that_owns_its_job_decides_it() {
        let after = |attempts, outcome: &Outcome| after_attempt(&running(attempts), outcome, 1.0);
        assert_eq!(after(0, &Outcome::Answered), Transition::Succeed);
        let network = Outcome::Failed(ErrorKind::Network);
        assert_eq!(after(0, &network), Transition::RetryAfter(Duration::from_secs(1)));
        assert_eq!(after(3, &network), Transition::RetryAfter(Duration::from_secs(8)));
        assert_eq!(after(4, &network), Transition::Fail(ErrorKind::Network));
        let blocked = Outcome::Failed(ErrorKind::Blocked);
        assert_eq!(after(0, &blocked), Transition::Fail(ErrorKind::Blocked));
    }

    #[test]
    fn an_answer_that_does_not_fit_has_a_budget_of_its_own() {
        let misfit = Outcome::Failed(ErrorKind::InvalidOutput);
        let after =
            |attempts, alike| after_attempt(&Job { alike, ..running(attempts) }, &misfit, 0.0);
        let again = Transition::RetryAfter(Duration::ZERO);
        assert_eq!(after(3, 0), again, "other failures do not count");
        assert_eq!(after(1, 1), again);
        assert_eq!(after(2, 2), Transition::Fail(ErrorKind::InvalidOutput));
        assert_eq!(after(4, 0), Transition::Fail(ErrorKind::InvalidOutput));
    }

    #[test]
    fn what_is_not_the_jobs_fault_costs_it_nothing() {
        for outcome in [
            Outcome::Exhausted(Exhaustion::Day),
            Outcome::BadKey,
            Outcome::LocationRefused,
            Outcome::Cut,
        ] {
            assert_eq!(after_attempt(&running(4), &outcome, 1.0), Transition::Release);
        }
    }

    #[test]
    fn a_job_that_meets_a_rate_limit_again_and_again_stands_back() {
        let short = Outcome::Exhausted(Exhaustion::Short { delay: None });
        let after = |refused, outcome: &Outcome| {
            after_attempt(&Job { refused, ..running(0) }, outcome, 0.5)
        };
        assert_eq!(after(0, &short), Transition::Release);
        let seconds = |refused| match after(refused, &short) {
            Transition::StandBack(delay) => delay.as_secs(),
            other => panic!("{other:?}"),
        };
        assert_eq!([1, 2, 3, 4, 8, 99].map(seconds), [0, 0, 15, 30, 300, 300]);
        assert_eq!(after(9, &Outcome::Exhausted(Exhaustion::Day)), Transition::Release);
    }

    #[test]
    fn a_file_that_the_api_lost_costs_nothing_a_few_times() {
        let lost =
            |mended| after_attempt(&Job { mended, ..running(4) }, &Outcome::FileExpired, 0.0);
        assert_eq!([lost(0), lost(2)], [Transition::Release; 2]);
        assert_eq!(lost(3), Transition::Fail(ErrorKind::Media));
        let refused = |attempts| after_attempt(&running(attempts), &Outcome::FileRefused, 0.0);
        assert_eq!(refused(0), Transition::RetryAfter(Duration::ZERO));
        assert_eq!(refused(4), Transition::Fail(ErrorKind::Media));
    }

    #[test]
    fn a_late_success_is_kept_and_a_late_failure_changes_nothing() {
        for state in JobState::ALL {
            let late = Job { state, owned: false, ..running(0) };
            let expected = match state {
                JobState::Succeeded => Transition::Ignore,
                _ => Transition::Succeed,
            };
            assert_eq!(after_attempt(&late, &Outcome::Answered, 0.5), expected);
            let failure = Outcome::Failed(ErrorKind::Blocked);
            assert_eq!(after_attempt(&late, &failure, 0.5), Transition::Ignore);
        }
    }

    #[test]
    fn a_job_is_called_again_after_two_deaths_and_not_after_three() {
        let died = |deaths| Job { deaths, ..running(0) };
        assert_eq!(after_death(&died(0), OnUnknown::Retry), Transition::Release);
        assert_eq!(after_death(&died(1), OnUnknown::Retry), Transition::Release);
        let unknown = Transition::Fail(ErrorKind::UnknownOutcome);
        assert_eq!(after_death(&died(2), OnUnknown::Retry), unknown);
        assert_eq!(after_death(&died(0), OnUnknown::Fail), unknown);
    }

    proptest! {
        #[test]
        fn no_run_of_failures_uses_more_attempts_than_allowed(
            max_attempts in 1_i64..20,
            outcomes in proptest::collection::vec(0_usize..6, 1..200),
        ) {
            let menu = [
                Outcome::Failed(ErrorKind::Network), Outcome::Failed(ErrorKind::Empty),
                Outcome::Exhausted(Exhaustion::NoQuota), Outcome::BadKey, Outcome::Cut,
                Outcome::Failed(ErrorKind::Overloaded),
            ];
            let mut job = Job { max_attempts, ..running(0) };
            for index in outcomes {
                match after_attempt(&job, &menu[index], 0.3) {
                    Transition::RetryAfter(_) => job.attempts += 1,
                    Transition::Fail(_) => { job.attempts += 1; break }
                    Transition::Release | Transition::StandBack(_) => {}
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            prop_assert!(job.attempts <= max_attempts);
        }
    }
}
