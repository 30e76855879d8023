//! What jobs, keys, slots and input lines mean. Pure: no I/O, no clock, no randomness.

mod canonical;
pub mod input;
pub mod outcome;
pub mod schema;
pub mod time;
