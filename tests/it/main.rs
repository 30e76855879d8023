//! The program as a user meets it: run as a process against the stand-in.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails right there")]

mod database;
mod enqueue;
mod layering;
mod recovery;
mod results;
mod secrets;
mod support;
mod work;
