//! Puts media into the request of a job just before it is sent.

use std::fmt::Write as _;
use std::fs::File;
use std::future::pending;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::panic::resume_unwind;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::domain::time::file_time;
use crate::domain::upload::inline_size;
use crate::store::{ClaimedMedia, ClaimedSource, FileStamp, Store};

/// Returns the whole request of a job.
///
/// # Errors
/// What is wrong with the media, for people: a file that is gone or was changed since its job was
/// added.
pub(super) async fn fill(
    store: &Store,
    request: String,
    media: Vec<ClaimedMedia>,
) -> Result<String, String> {
    if media.is_empty() {
        return Ok(request);
    }
    let inline = media.iter().filter(|media| media.uri.is_none());
    let size =
        inline_size(request.len() as u64, inline.map(|media| (media.mime_type.len(), media.size)));
    let mut whole = String::with_capacity(usize::try_from(size).unwrap_or(0) + 200 * media.len());
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
        if let Some(uri) = item.uri {
            let uri = Value::from(uri);
            let _ = write!(whole, r#""fileData":{{"mimeType":{mime_type},"fileUri":{uri}}}"#);
        } else {
            let _ = write!(whole, r#""inlineData":{{"mimeType":{mime_type},"data":""#);
            STANDARD.encode_string(bytes(store, item.source).await?, &mut whole);
            whole.push_str("\"}");
        }
        if !after.starts_with('}') {
            whole.push(',');
        }
    }
    whole.push_str(request.get(copied..).unwrap_or_default());
    Ok(whole)
}

async fn bytes(store: &Store, source: ClaimedSource) -> Result<Vec<u8>, String> {
    match source {
        ClaimedSource::Blob { id, .. } => store.blob(id).await.map_err(|error| error.to_string()),
        ClaimedSource::File(file) => in_thread(move || read_unchanged(&file)).await,
    }
}

/// Reads a file that has to be as it was when its job was added.
fn read_unchanged(stamp: &FileStamp) -> Result<Vec<u8>, String> {
    let mut file = open_unchanged(stamp)?;
    let mut bytes = Vec::with_capacity(usize::try_from(stamp.size).unwrap_or(0));
    (&mut file)
        .take(stamp.size.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| told_of(stamp, &error))?;
    check_unchanged(&file, stamp)?;
    if bytes.len() as u64 == stamp.size { Ok(bytes) } else { Err(changed(stamp)) }
}

/// Opens a file that has to be as it was when its job was added.
///
/// # Errors
/// What is wrong with it, for people.
pub(super) fn open_unchanged(stamp: &FileStamp) -> Result<File, String> {
    let path = &stamp.path;
    // Opening what is no file might wait for ever.
    if !std::fs::metadata(path).map_err(|error| told_of(stamp, &error))?.is_file() {
        return Err(format!("`{path}` is not a file any more"));
    }
    let file = File::open(path).map_err(|error| told_of(stamp, &error))?;
    check_unchanged(&file, stamp)?;
    Ok(file)
}

/// Checks that an open file is as it was when its job was added.
///
/// # Errors
/// That it was changed, for people.
pub(super) fn check_unchanged(file: &File, stamp: &FileStamp) -> Result<(), String> {
    let data = file.metadata().map_err(|error| told_of(stamp, &error))?;
    let time = file_time(data.mtime(), data.mtime_nsec());
    let same = data.len() == stamp.size && time == stamp.modified;
    if same { Ok(()) } else { Err(changed(stamp)) }
}

fn changed(stamp: &FileStamp) -> String {
    let path = &stamp.path;
    format!("the file `{path}` was changed after its job was added; a retry takes it as it is then")
}

/// Returns why a file cannot be read, for people.
pub(super) fn told_of(stamp: &FileStamp, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => format!("the file `{}` is gone", stamp.path),
        _ => format!("the file `{}` cannot be read: {error}", stamp.path),
    }
}

/// Runs what may take long where nothing else waits for it.
pub(super) async fn in_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime shuts down, and what runs here with it.
            Err(_) => pending().await,
        },
    }
}
