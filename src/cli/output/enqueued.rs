//! What `gq enqueue` says of each file.

use serde::Serialize;

/// How the jobs of one file fared.
#[derive(Debug, Serialize)]
pub(crate) struct Enqueued<'a> {
    /// The batch.
    pub(crate) batch: &'a str,
    /// Jobs added.
    pub(crate) enqueued: u64,
    /// Jobs that were there already.
    pub(crate) skipped: u64,
    /// Jobs that start anew with other content.
    pub(crate) replaced: u64,
    /// Lines left out.
    pub(crate) rejected: u64,
}

/// Returns the summary as one line of JSON.
pub(crate) fn json_line(summary: &Enqueued<'_>) -> serde_json::Result<String> {
    Ok(serde_json::to_string(summary)? + "\n")
}
