//! Files at the API: uploads in chunks, the state of a file, its removal.

use std::fmt;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{RequestBuilder, Response};
use serde::Deserialize;

use crate::domain::outcome::{ErrorKind, Outcome, Paid};
use crate::gemini::client::{ApiKey, Call, Client, not_sent, read, read_body, unsendable};
use crate::gemini::redact;

/// What a chunk has unless the API asks for other multiples: its documented granularity.
const CHUNK: u64 = 8 << 20;

/// A chunk is held in memory, so a server cannot ask for more.
const LARGEST_CHUNK: u64 = 64 << 20;

/// An upload that was begun. Its address works without a key, so it is a secret too.
#[derive(Clone)]
pub struct Session {
    url: String,
    chunk: u64,
}

impl Session {
    /// Returns how many bytes each chunk but the last has.
    pub fn chunk(&self) -> u64 {
        self.chunk
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session(…)")
    }
}

/// What the API says of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// So many bytes are there.
    Part(u64),
    /// All bytes are there.
    Whole(File),
    /// A chunk was answered without a word about it.
    Unclear,
    /// There is no such upload any more.
    Gone,
}

/// A file at the API.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct File {
    /// Its name, such as `files/abc`.
    pub name: String,
    /// Its address, as requests name it.
    #[serde(default)]
    pub uri: String,
    /// Whether it may be used; absent in some answers to an upload.
    #[serde(default)]
    pub state: Option<String>,
    /// When it was made, RFC 3339.
    #[serde(default)]
    pub create_time: Option<String>,
    /// When the API removes it, RFC 3339.
    #[serde(default)]
    pub expiration_time: Option<String>,
    /// Why it failed.
    #[serde(default)]
    error: Option<FileStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct FileStatus {
    #[serde(default)]
    message: String,
}

/// Whether a file may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileState {
    /// It may.
    Active,
    /// Not yet. States that are not known count as this.
    Processing,
    /// It never may, and why.
    Failed(String),
}

impl File {
    /// Returns whether it has a name that can be asked for and an address that can be used.
    fn is_whole(&self) -> bool {
        let plain = |id: &str| {
            !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        };
        self.name.strip_prefix("files/").is_some_and(plain) && !self.uri.is_empty()
    }

    /// Returns whether it may be used.
    pub fn state(&self) -> FileState {
        match self.state.as_deref() {
            Some("ACTIVE") => FileState::Active,
            Some("FAILED") => {
                let said = self.error.as_ref().map(|error| error.message.as_str());
                FileState::Failed(said.unwrap_or("without an explanation").to_owned())
            }
            _ => FileState::Processing,
        }
    }
}

/// A call of the Files API that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileError {
    /// In the queue's terms.
    pub outcome: Outcome,
    /// What the API or the network said; holds no secret.
    pub message: String,
}

impl From<Call> for FileError {
    fn from(call: Call) -> Self {
        Self { outcome: call.outcome, message: call.message.unwrap_or_default() }
    }
}

#[derive(Deserialize)]
struct Wrapped {
    file: File,
}

impl Client {
    /// Begins an upload of `size` bytes.
    ///
    /// # Errors
    /// What the API or the network says against it.
    pub async fn start_upload(
        &self,
        key: &ApiKey,
        mime_type: &str,
        size: u64,
    ) -> Result<Session, FileError> {
        let request = self
            .http
            .post(format!("{}/upload/v1beta/files", self.base_url))
            .header("x-goog-api-key", key_header(key)?)
            .header("x-goog-upload-protocol", "resumable")
            .header("x-goog-upload-command", "start")
            .header("x-goog-upload-header-content-length", size)
            .header("x-goog-upload-header-content-type", mime_type)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body("{}");
        let response = answered(request, key).await?;
        let header = |name| text_header(response.headers(), name);
        let url = header("x-goog-upload-url").filter(|url| url.starts_with("http"));
        let url = url.ok_or_else(|| malformed("the API named no place to upload to"))?.to_owned();
        let unit = header("x-goog-upload-chunk-granularity").and_then(|text| text.parse().ok());
        Ok(Session { url, chunk: chunk_size(unit) })
    }

    /// Sends bytes that begin at `offset`, the last of the file if `is_last`.
    ///
    /// # Errors
    /// What the API or the network says against it.
    pub async fn send_chunk(
        &self,
        session: &Session,
        offset: u64,
        bytes: Vec<u8>,
        is_last: bool,
    ) -> Result<Received, FileError> {
        let command = if is_last { "upload, finalize" } else { "upload" };
        let sent = offset + bytes.len() as u64;
        let request = self
            .http
            .post(&session.url)
            .header("x-goog-upload-command", command)
            .header("x-goog-upload-offset", offset)
            .body(bytes);
        received(request, session, Some(sent)).await
    }

    /// Asks how much of an upload is there.
    ///
    /// # Errors
    /// What the API or the network says against it.
    pub async fn query_upload(&self, session: &Session) -> Result<Received, FileError> {
        let request = self.http.post(&session.url).header("x-goog-upload-command", "query");
        received(request.body(""), session, None).await
    }

    /// Returns a file by its name, such as `files/abc`.
    ///
    /// # Errors
    /// What the API or the network says against it.
    pub async fn file(&self, key: &ApiKey, name: &str) -> Result<File, FileError> {
        let request = self.http.get(format!("{}/v1beta/{name}", self.base_url));
        let request = request.header("x-goog-api-key", key_header(key)?);
        let body = body(answered(request, key).await?, key).await?;
        let file = serde_json::from_str(&body).ok().filter(File::is_whole);
        file.ok_or_else(|| malformed("the API's answer is no file"))
    }

    /// Removes a file; one that is not there any more is no error.
    ///
    /// # Errors
    /// What the API or the network says against it.
    pub async fn delete_file(&self, key: &ApiKey, name: &str) -> Result<(), FileError> {
        let request = self.http.delete(format!("{}/v1beta/{name}", self.base_url));
        let request = request.header("x-goog-api-key", key_header(key)?);
        match answered(request, key).await {
            Ok(_) => Ok(()),
            Err(error) if error.outcome == Outcome::FileRefused => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Returns the size of chunks where they have to be multiples of `unit` bytes.
fn chunk_size(unit: Option<u64>) -> u64 {
    let unit = unit.filter(|unit| (1..=LARGEST_CHUNK).contains(unit)).unwrap_or(CHUNK);
    unit * (CHUNK / unit).max(1)
}

fn key_header(key: &ApiKey) -> Result<HeaderValue, FileError> {
    key.header().ok_or_else(|| unsendable().into())
}

/// Sends a request and returns its answer if that is a 200.
async fn answered(request: RequestBuilder, key: &ApiKey) -> Result<Response, FileError> {
    match request.send().await {
        Ok(response) if response.status() == 200 => Ok(response),
        Ok(response) => Err(read(response, key).await.into()),
        Err(error) => Err(not_sent(error).into()),
    }
}

async fn body(mut response: Response, key: &ApiKey) -> Result<String, FileError> {
    let (body, fault) = read_body(&mut response).await;
    if let Some(call) = fault {
        return Err(call.into());
    }
    let text = String::from_utf8(body).map_err(|_| malformed("the API's answer is no text"))?;
    Ok(redact::answer_text(text, key.expose()))
}

/// Sends a request to the place of an upload; `sent` is what is there if the API takes it.
async fn received(
    request: RequestBuilder,
    session: &Session,
    sent: Option<u64>,
) -> Result<Received, FileError> {
    // The place is the secret here.
    let secret = ApiKey::new(session.url.as_str());
    let response = match request.send().await {
        Ok(response) if response.status() == 404 || response.status() == 410 => {
            return Ok(Received::Gone);
        }
        Ok(response) if response.status() == 200 => response,
        Ok(response) => return Err(read(response, &secret).await.into()),
        Err(error) => return Err(not_sent(error).into()),
    };
    let header = |name| text_header(response.headers(), name);
    let there = header("x-goog-upload-size-received").and_then(|text| text.parse().ok());
    match header("x-goog-upload-status") {
        Some("active") => Ok(sent.or(there).map_or(Received::Unclear, Received::Part)),
        Some("final") => {
            let body = body(response, &secret).await?;
            match serde_json::from_str::<Wrapped>(&body) {
                Ok(Wrapped { file }) if file.is_whole() => Ok(Received::Whole(file)),
                _ if sent.is_none() => Ok(Received::Gone),
                _ => Err(malformed("the API's answer to the upload is no file")),
            }
        }
        Some(_) => Ok(Received::Gone),
        None => Ok(Received::Unclear),
    }
}

fn text_header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn malformed(message: &str) -> FileError {
    Call::without_answer(ErrorKind::MalformedResponse, message.to_owned(), Paid::No).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_whole_units_of_about_eight_megabytes() {
        for (unit, chunk) in [
            (None, CHUNK),
            (Some(CHUNK), CHUNK),
            (Some(256 << 10), CHUNK),
            (Some(3 << 20), 6 << 20),
            (Some(16 << 20), 16 << 20),
            (Some(0), CHUNK),
            (Some(1 << 40), CHUNK),
        ] {
            assert_eq!(chunk_size(unit), chunk, "{unit:?}");
        }
    }

    #[test]
    fn a_place_to_upload_to_is_never_shown() {
        let session = Session { url: "http://x/upload?upload_id=secret".into(), chunk: 1 };
        assert_eq!(format!("{session:?}"), "Session(…)");
    }

    #[test]
    fn a_file_has_a_plain_name_and_an_address() {
        let is_whole = |text: &str| serde_json::from_str::<File>(text).unwrap().is_whole();
        assert!(is_whole(r#"{"name": "files/a-1", "uri": "https://x/v1beta/files/a-1"}"#));
        assert!(!is_whole(r#"{"name": "files/a-1"}"#));
        assert!(!is_whole(r#"{"name": "files/../models", "uri": "https://x"}"#));
    }

    #[test]
    fn a_file_is_usable_only_once_it_is_active() {
        let file = |rest: &str| -> File {
            serde_json::from_str(&format!(r#"{{"name": "files/a"{rest}}}"#)).unwrap()
        };
        assert_eq!(file(r#", "state": "ACTIVE""#).state(), FileState::Active);
        for open in ["", r#", "state": "PROCESSING""#, r#", "state": "NEW_ONE""#] {
            assert_eq!(file(open).state(), FileState::Processing, "{open}");
        }
        let failed = file(r#", "state": "FAILED", "error": {"code": 3, "message": "bad frames"}"#);
        assert_eq!(failed.state(), FileState::Failed("bad frames".into()));
    }
}
