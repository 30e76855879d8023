//! gq: a persistent job queue for the Gemini API.
pub mod domain;
pub mod intake;
pub mod mock;
