//! How far a worker is told to stop, and since when.

use std::time::Duration;

use tokio::time::Instant;

use crate::worker::Phase;

/// How long a worker that was told to stop still tries to write to a database that takes nothing.
pub(super) const LAST_TRY: Duration = Duration::from_secs(5);

/// The stop of a worker.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stopping {
    phase: Phase,
    /// When it was told to stop.
    stopped_at: Option<Instant>,
    /// When it was told so again.
    insisted_at: Option<Instant>,
    /// When calls in flight are cut.
    cut_at: Option<Instant>,
}

impl Stopping {
    pub(super) fn new() -> Self {
        Self { phase: Phase::Running, stopped_at: None, insisted_at: None, cut_at: None }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    pub(super) fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// Returns whether more may be told: a second word says all.
    pub(super) fn may_be_told(&self) -> bool {
        self.insisted_at.is_none()
    }

    /// Takes what a signal says.
    pub(super) fn told(&mut self, phase: Phase, now: Instant) {
        if phase > Phase::Running {
            self.stopped_at.get_or_insert(now);
        }
        if phase == Phase::Aborting {
            self.insisted_at.get_or_insert(now);
        }
    }

    /// Goes on to `phase`; returns whether that is news. Calls have until `cut_at` where they may
    /// end by themselves.
    pub(super) fn enter(&mut self, phase: Phase, cut_at: Instant) -> bool {
        if phase <= self.phase {
            return false;
        }
        self.phase = phase;
        self.cut_at = (phase == Phase::Draining).then_some(cut_at);
        true
    }

    /// Returns whether it is time to cut what is in flight.
    pub(super) fn cuts(&self, now: Instant) -> bool {
        self.cut_at.is_some_and(|at| at <= now)
    }

    /// Returns until when a worker that has to stop tries to write what is left: as long as there
    /// are answers that nobody else has, until it is told a second time.
    pub(super) fn give_up_at(&self, has_work: bool) -> Option<Instant> {
        let from = self.insisted_at.or(self.stopped_at.filter(|_| !has_work));
        from.map(|from| from + LAST_TRY)
    }

    /// Returns when something has to be done for the stop, if nothing else happens before.
    pub(super) fn next_at(&self, has_work: bool) -> Option<Instant> {
        [self.cut_at, self.give_up_at(has_work)].into_iter().flatten().min()
    }
}
