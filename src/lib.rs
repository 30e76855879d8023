//! gq: a persistent job queue for the Gemini API.
pub mod clock;
pub mod config;
pub mod domain;
pub mod gemini;
pub mod intake;
pub mod mock;
pub mod store;
pub mod worker;
