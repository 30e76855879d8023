//! gq: a persistent job queue for the Gemini API.
pub mod clock;
pub mod domain;
pub mod intake;
pub mod mock;
pub mod store;
