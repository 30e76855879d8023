//! gq: a persistent job queue for the Gemini API.
pub mod config;
pub mod domain;
pub mod mock;
