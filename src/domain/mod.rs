//! What jobs, keys, slots and input lines mean. Pure: no I/O, no clock, no randomness.

pub mod canonical;
pub mod forecast;
pub mod health;
pub mod hex;
pub mod input;
pub mod job;
pub mod key;
pub mod limits;
pub mod media_type;
pub mod outcome;
pub mod output;
pub mod overload;
pub mod pacing;
pub mod parts;
pub mod plan;
pub mod price;
pub mod retry;
pub mod schema;
pub mod slot;
pub mod time;
pub mod today;
pub mod tokens;
pub mod traffic;
pub mod upload;
pub mod view;
pub mod window;
