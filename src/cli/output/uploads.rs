//! What was uploaded to the API.

use chrono::TimeZone;
use gq::domain::view::UploadView;
use serde::Serialize;

use super::columns::{aligned, clock_time};
use super::json::pretty;
use super::record::text_of;

/// Returns the uploads as a JSON list.
pub(crate) fn json_list(uploads: &[UploadView]) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Row<'a> {
        name: Option<&'a str>,
        key: &'a str,
        mime_type: &'a str,
        bytes: u64,
        state: &'a str,
        usable_until: Option<String>,
        path: Option<&'a str>,
        message: Option<&'a str>,
    }
    let row = |upload| {
        let upload: &UploadView = upload;
        Row {
            name: upload.name.as_deref(),
            key: &upload.key,
            mime_type: &upload.mime_type,
            bytes: upload.bytes,
            state: &upload.state,
            usable_until: text_of(upload.usable_until),
            path: upload.path.as_deref(),
            message: upload.message.as_deref(),
        }
    };
    pretty(&uploads.iter().map(row).collect::<Vec<_>>())
}

/// Returns the uploads as a table.
pub(crate) fn table<Z: TimeZone>(uploads: &[UploadView], zone: &Z) -> String
where
    Z::Offset: std::fmt::Display,
{
    let head = ["NAME", "KEY", "TYPE", "BYTES", "STATE", "USABLE UNTIL", "FILE"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let dash = || "-".to_owned();
    rows.extend(uploads.iter().map(|upload| {
        vec![
            upload.name.clone().unwrap_or_else(dash),
            upload.key.clone(),
            upload.mime_type.clone(),
            upload.bytes.to_string(),
            upload.state.clone(),
            upload.usable_until.map_or_else(dash, |time| clock_time(time, zone)),
            upload.path.clone().or_else(|| upload.message.clone()).unwrap_or_else(dash),
        ]
    }));
    aligned(&rows)
}
