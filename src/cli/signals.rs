//! From signals, and a time that is up, to phases of stopping.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use gq::worker::Phase;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::exit::ExitStatus;
use super::failure::Result;

/// What the signals said so far.
#[derive(Clone)]
pub(crate) struct Stop {
    pub(crate) phase: watch::Receiver<Phase>,
    send: Arc<watch::Sender<Phase>>,
    first: Arc<AtomicU8>,
    /// Whether the next signal ends the process where it stands.
    exits: Arc<AtomicBool>,
}

const NONE: u8 = 0;
const INTERRUPT: u8 = 1;
const TERMINATE: u8 = 2;
const TIME_UP: u8 = 3;

impl Stop {
    /// Starts listening: the first signal drains, the second aborts.
    ///
    /// One that was ignored when the process started, as `nohup` does, stays ignored.
    pub(crate) fn listen() -> Result<Self> {
        let mut interrupt = heard(SignalKind::interrupt())?;
        let mut terminate = heard(SignalKind::terminate())?;
        let mut hangup = heard(SignalKind::hangup())?;
        let (send, phase) = watch::channel(Phase::Running);
        let send = Arc::new(send);
        let first = Arc::new(AtomicU8::new(NONE));
        let exits = Arc::new(AtomicBool::new(false));
        let stop = Self { phase, send, first, exits };
        let own = stop.clone();
        tokio::spawn(async move {
            loop {
                let which = tokio::select! {
                    () = received(&mut interrupt) => INTERRUPT,
                    () = received(&mut terminate) => TERMINATE,
                    () = received(&mut hangup) => TERMINATE,
                };
                // Only the first one tells how the process ends.
                let _ = own.first.compare_exchange(NONE, which, Ordering::SeqCst, Ordering::SeqCst);
                if own.exits.load(Ordering::SeqCst) {
                    std::process::exit(own.exit_status() as i32);
                }
                own.send.send_modify(|phase| {
                    *phase = match *phase {
                        Phase::Running => Phase::Draining,
                        Phase::Draining | Phase::Aborting => Phase::Aborting,
                    };
                });
            }
        });
        Ok(stop)
    }

    /// Stops as the first signal does once `limit` is over, unless one came before.
    pub(crate) fn after(&self, limit: Duration) {
        let own = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(limit).await;
            let ordering = Ordering::SeqCst;
            if own.first.compare_exchange(NONE, TIME_UP, ordering, ordering).is_ok() {
                own.send.send_if_modified(|phase| {
                    let runs = *phase == Phase::Running;
                    *phase = (*phase).max(Phase::Draining);
                    runs
                });
            }
        });
    }

    /// Lets the next signal end the process at once. For printing, which waits for its reader:
    /// nothing but that is under way.
    pub(crate) fn exit_when_requested(&self) {
        self.exits.store(true, Ordering::SeqCst);
    }

    /// Returns the exit code of a command that was cut short.
    pub(crate) fn exit_status(&self) -> ExitStatus {
        match self.first.load(Ordering::SeqCst) {
            INTERRUPT => ExitStatus::Interrupted,
            TIME_UP => ExitStatus::TimedOut,
            _ => ExitStatus::Terminated,
        }
    }

    /// Returns what `work` comes to, unless the first signal comes before.
    pub(crate) async fn unless_requested<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.requested() => None,
        }
    }

    /// Returns whether a signal came.
    pub(crate) fn is_requested(&self) -> bool {
        *self.phase.borrow() > Phase::Running
    }

    /// Waits for the first signal.
    pub(crate) async fn requested(&self) {
        let mut phase = self.phase.clone();
        if phase.wait_for(|phase| *phase > Phase::Running).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Returns the signal's stream, or none where it is ignored.
fn heard(kind: SignalKind) -> Result<Option<Signal>> {
    let number = kind.as_raw_value();
    Ok(if is_ignored(number) { None } else { Some(signal(kind)?) })
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// Returns whether the process was started with the signal ignored, as far as the system tells.
fn is_ignored(number: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (number - 1) & 1 == 1
}
