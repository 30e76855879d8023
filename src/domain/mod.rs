//! What jobs, keys, slots and input lines mean. Pure: no I/O, no clock, no randomness.

pub mod outcome;
pub mod pacing;
pub mod schema;
pub mod time;
pub mod view;
