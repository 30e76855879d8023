//! From signals to phases of stopping.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use gq::worker::Phase;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::exit::ExitStatus;
use super::failure::Result;

/// What the signals said so far.
#[derive(Clone)]
pub(crate) struct Stop {
    pub(crate) phase: watch::Receiver<Phase>,
    first: Arc<AtomicU8>,
}

const NONE: u8 = 0;
const INTERRUPT: u8 = 1;
const TERMINATE: u8 = 2;

impl Stop {
    /// Starts listening: the first signal drains, the second aborts.
    pub(crate) fn listen() -> Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let (send, phase) = watch::channel(Phase::Running);
        let first = Arc::new(AtomicU8::new(NONE));
        let seen = Arc::clone(&first);
        tokio::spawn(async move {
            for phase in [Phase::Draining, Phase::Aborting] {
                let which = next(&mut interrupt, &mut terminate, &mut hangup).await;
                // Only the first one tells how the process ends.
                let _ = seen.compare_exchange(NONE, which, Ordering::SeqCst, Ordering::SeqCst);
                if send.send(phase).is_err() {
                    return;
                }
            }
            std::future::pending::<()>().await;
        });
        Ok(Self { phase, first })
    }

    /// Returns the exit code of a command that a signal cut short.
    pub(crate) fn exit_status(&self) -> ExitStatus {
        if self.first.load(Ordering::SeqCst) == INTERRUPT {
            ExitStatus::Interrupted
        } else {
            ExitStatus::Terminated
        }
    }

    /// Returns what `work` comes to, unless the first signal comes before.
    pub(crate) async fn unless_requested<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.requested() => None,
        }
    }

    /// Waits for the first signal.
    pub(crate) async fn requested(&self) {
        let mut phase = self.phase.clone();
        if phase.wait_for(|phase| *phase > Phase::Running).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn next(interrupt: &mut Signal, terminate: &mut Signal, hangup: &mut Signal) -> u8 {
    tokio::select! {
        _ = interrupt.recv() => INTERRUPT,
        _ = terminate.recv() => TERMINATE,
        _ = hangup.recv() => TERMINATE,
    }
}
