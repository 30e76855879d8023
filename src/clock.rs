//! The only reader of the time.

use rustix::time::{ClockId, clock_gettime};

use crate::domain::time::{Moment, Timestamp};

/// Reads both clocks.
pub fn moment() -> Moment {
    #[cfg(target_os = "linux")]
    let clock = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = ClockId::Monotonic;
    let boot = clock_gettime(clock);
    Moment { now: now(), boot: boot.tv_sec * 1000 + boot.tv_nsec / 1_000_000 }
}

/// Reads the wall clock.
pub fn now() -> Timestamp {
    Timestamp(chrono::Utc::now().timestamp_millis())
}
