//! gq: a persistent job queue for the Gemini API.
<<<<<<< HEAD
pub mod clock;
=======
pub mod config;
>>>>>>> cli
pub mod domain;
pub mod intake;
pub mod mock;
pub mod store;
