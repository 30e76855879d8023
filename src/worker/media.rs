//! Puts media into the request of a job just before it is sent.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::domain::time::file_time;
use crate::store::{ClaimedMedia, ClaimedSource, Store};

/// Returns the whole request of a job.
///
/// # Errors
/// What is wrong with the media, for people: a file that is gone or was changed since its job was
/// added, or a request that becomes larger than `limit` bytes.
pub(super) async fn fill(
    store: &Store,
    request: String,
    media: Vec<ClaimedMedia>,
    limit: u64,
) -> Result<String, String> {
    if media.is_empty() {
        return Ok(request);
    }
    let encoded = |media: &ClaimedMedia| media.size.div_ceil(3).saturating_mul(4);
    let size = media.iter().map(encoded).fold(request.len() as u64, u64::saturating_add);
    if size > limit {
        return Err(format!(
            "the request would have {size} bytes, and `--inline-limit` is {limit}; uploads of \
             larger media are not supported by this version yet"
        ));
    }
    let mut whole = String::with_capacity(usize::try_from(size).unwrap_or(0) + 100 * media.len());
    let mut copied = 0;
    for item in media {
        let place = item.place;
        let (before, after) = request
            .get(copied..place)
            .zip(request.get(place..))
            .ok_or_else(|| format!("media belong at {place}, where the request has no place"))?;
        whole.push_str(before);
        copied = place;
        let mime_type = Value::from(item.mime_type.as_str());
        let _ = write!(whole, r#""inlineData":{{"mimeType":{mime_type},"data":""#);
        STANDARD.encode_string(bytes(store, item).await?, &mut whole);
        whole.push_str(if after.starts_with('}') { "\"}" } else { "\"}," });
    }
    whole.push_str(request.get(copied..).unwrap_or_default());
    Ok(whole)
}

async fn bytes(store: &Store, media: ClaimedMedia) -> Result<Vec<u8>, String> {
    match media.source {
        ClaimedSource::Blob(id) => store.blob(id).await.map_err(|error| error.to_string()),
        ClaimedSource::File { path, modified } => {
            let read = move || read_unchanged(&path, media.size, modified);
            let crashed = |error: tokio::task::JoinError| format!("reading crashed: {error}");
            tokio::task::spawn_blocking(read).await.map_err(crashed)?
        }
    }
}

/// Reads a file that has to be as it was when its job was added.
fn read_unchanged(path: &str, size: u64, modified: i64) -> Result<Vec<u8>, String> {
    let told = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => format!("the file `{path}` is gone"),
        _ => format!("the file `{path}` cannot be read: {error}"),
    };
    // Opening what is no file might wait for ever.
    if !std::fs::metadata(path).map_err(told)?.is_file() {
        return Err(format!("`{path}` is not a file any more"));
    }
    let mut file = File::open(path).map_err(told)?;
    let changed = || format!("the file `{path}` was changed after its job was added");
    let check = |file: &File| {
        let data = file.metadata().map_err(told)?;
        let time = file_time(data.mtime(), data.mtime_nsec());
        if data.len() == size && time == modified { Ok(()) } else { Err(changed()) }
    };
    check(&file)?;
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    (&mut file).take(size.saturating_add(1)).read_to_end(&mut bytes).map_err(told)?;
    check(&file)?;
    if bytes.len() as u64 == size { Ok(bytes) } else { Err(changed()) }
}
