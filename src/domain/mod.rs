//! What jobs, keys, slots and input lines mean.
pub mod schema;
