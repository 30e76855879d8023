//! The program as a user meets it: run as a process against the stand-in.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails right there")]

mod answer_media;
mod ask;
mod backup;
mod budget;
mod counters;
mod database;
mod disk;
mod doctor;
mod embedded;
mod enqueue;
mod examples;
mod follow;
mod help;
mod input;
mod large;
mod layering;
mod locked;
mod media;
mod pacing;
mod quotas;
mod recovery;
mod results;
mod schema;
mod secrets;
mod signals;
mod simulation;
mod streaming;
mod support;
mod terminal;
mod unread;
mod uploads;
mod watch;
mod work;
