//! The API: its JSON exactly as sent, one HTTP call, its errors by type. Knows nothing of queues.

pub mod client;
pub mod error;
pub mod files;
mod quota;
pub mod redact;
pub mod stream;
pub mod wire;
