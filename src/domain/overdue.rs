//! Which workers lose their leases: those that could have renewed them and did not.

use std::collections::HashMap;
use std::time::Duration;

/// How often a living worker renews leases and looks for those of others that ran out.
pub const AUDIT_EVERY: Duration = Duration::from_millis(700);

/// How long a worker is seen overdue before it loses its leases.
const GRACE: Duration = AUDIT_EVERY.saturating_mul(2);

/// Workers with leases that ran out, as one that looks again and again sees them.
///
/// A lease that ran out says little by itself: where another process held the write lock for as long,
/// a living worker could not renew it, and its calls would be paid twice. The look itself needs that
/// lock, so the lock is free between two looks, and from one to the next no more than [`AUDIT_EVERY`]
/// counts, however long the second had to wait.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Overdue {
    /// For how long each was seen so, by its number.
    seen: HashMap<i64, Duration>,
    looked_at: i64,
}

impl Overdue {
    /// Takes what a look at `boot`, in milliseconds of the boot clock, sees: the workers with leases
    /// that ran out. Returns those of them that lose these.
    pub fn look(&mut self, workers: &[i64], boot: i64) -> Vec<i64> {
        let passed = u64::try_from(boot.saturating_sub(self.looked_at)).unwrap_or(0);
        let passed = Duration::from_millis(passed).min(AUDIT_EVERY);
        self.looked_at = boot;
        let seen = |worker: &i64| self.seen.get(worker).map_or(Duration::ZERO, |it| *it + passed);
        self.seen = workers.iter().map(|worker| (*worker, seen(worker))).collect();
        workers.iter().copied().filter(|worker| self.seen[worker] >= GRACE).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: Vec<i64> = Vec::new();

    #[test]
    fn a_hung_worker_loses_its_leases_once_it_has_been_overdue_for_the_grace() {
        let mut overdue = Overdue::default();
        assert_eq!(overdue.look(&[1, 2], 50_000), NOBODY);
        assert_eq!(overdue.look(&[1, 2], 50_700), NOBODY);
        assert_eq!(overdue.look(&[1], 51_399), NOBODY);
        assert_eq!(overdue.look(&[1, 2], 51_400), [1]);
        // The second was in time once, and starts anew.
        assert_eq!(overdue.look(&[2], 52_100), NOBODY);
        assert_eq!(overdue.look(&[2], 52_800), [2]);
    }

    #[test]
    fn a_long_wait_for_the_lock_counts_as_one_audit() {
        let mut overdue = Overdue::default();
        assert_eq!(overdue.look(&[1], 50_000), NOBODY);
        assert_eq!(overdue.look(&[1], 90_000), NOBODY);
        // However slow the looks are, they come to an end.
        assert_eq!(overdue.look(&[1], 130_000), [1]);
    }
}
