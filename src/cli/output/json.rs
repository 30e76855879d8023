//! One JSON value as a whole, indented to be read.

use serde::Serialize;

/// Returns `value` as indented JSON with a line break at its end.
pub(super) fn pretty(value: &impl Serialize) -> serde_json::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}
