//! The exit codes that scripts may rely on.

use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ExitStatus {
    /// Done as asked.
    Done = 0,
    /// An unexpected failure: I/O, database, a fault of gq.
    Failure = 1,
    /// Wrong usage, or input refused; nothing of that call was stored.
    Usage = 2,
    /// Finished, and some of the jobs asked about ended failed or cancelled.
    SomeFailed = 3,
    /// No such task, batch or key.
    NotFound = 4,
    /// `--timeout` passed first; the job stays in the queue.
    TimedOut = 5,
    /// None of the keys can be used, or there is none.
    NoUsableKey = 6,
    /// A budget is used up with work left.
    BudgetUsedUp = 7,
    /// Work is left and every key that could do it rests (`--on-exhausted exit`).
    TryAgainLater = 75,
    /// Cut short by SIGINT with asked-for work undone.
    Interrupted = 130,
    /// Cut short by SIGTERM with asked-for work undone.
    Terminated = 143,
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_the_documented_ones() {
        for (status, number) in [
            (ExitStatus::Done, 0),
            (ExitStatus::Failure, 1),
            (ExitStatus::Usage, 2),
            (ExitStatus::SomeFailed, 3),
            (ExitStatus::NotFound, 4),
            (ExitStatus::TimedOut, 5),
            (ExitStatus::NoUsableKey, 6),
            (ExitStatus::BudgetUsedUp, 7),
            (ExitStatus::TryAgainLater, 75),
            (ExitStatus::Interrupted, 130),
            (ExitStatus::Terminated, 143),
        ] {
            assert_eq!(status as u8, number, "{status:?}");
        }
    }
}
