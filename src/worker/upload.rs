//! Brings media to the API: finds out what is in a file, uploads it in chunks, waits until the API
//! is done with it. Memory holds one chunk of an upload, however large the file.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::clock;
use crate::domain::hex::hex;
use crate::domain::outcome::{ErrorKind, Outcome};
use crate::domain::retry;
use crate::domain::time::Timestamp;
use crate::domain::upload::usable_until;
use crate::gemini::client::{ApiKey, Client};
use crate::gemini::files::{self, FileError, FileState, Received, Session};
use crate::store::{ApiFile, ClaimedSource, FileStamp, Store, UploadEnd};
use crate::worker::media::{check_unchanged, in_thread, open_unchanged, told_of};

/// How often in a row an upload may fail without a byte more at the API.
const TRIES: i64 = 5;

/// The first pause before the API is asked about a file, and the longest: the official clients ask
/// every few seconds.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Returns the SHA-256 of a file as hexadecimal digits.
///
/// # Errors
/// Why it cannot be read, or that it was changed since its job was added.
pub(super) async fn hash(file: FileStamp) -> Result<String, String> {
    in_thread(move || {
        let mut open = open_unchanged(&file)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            match open.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => hasher.update(&buffer[..count]),
                Err(error) => return Err(told_of(&file, &error)),
            }
        }
        check_unchanged(&open, &file)?;
        Ok(hex(&hasher.finalize()))
    })
    .await
}

/// What is uploaded, ready to be read at any place.
pub(super) enum Content {
    File(Arc<File>, FileStamp),
    Bytes(Vec<u8>),
}

impl Content {
    /// Opens it.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(super) async fn open(source: ClaimedSource, store: &Store) -> Result<Self, String> {
        match source {
            ClaimedSource::Blob { id, .. } => {
                store.blob(id).await.map(Self::Bytes).map_err(|error| error.to_string())
            }
            ClaimedSource::File(stamp) => {
                in_thread(move || Ok(Self::File(Arc::new(open_unchanged(&stamp)?), stamp))).await
            }
        }
    }

    async fn read(&self, offset: u64, length: u64) -> Result<Vec<u8>, String> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        match self {
            Self::Bytes(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let piece = bytes.get(start..).unwrap_or_default();
                Ok(piece[..length.min(piece.len())].to_vec())
            }
            Self::File(file, stamp) => {
                let (file, stamp) = (file.clone(), stamp.clone());
                in_thread(move || {
                    let mut bytes = vec![0; length];
                    let read = file.read_exact_at(&mut bytes, offset);
                    // What was read is what was promised only if nobody wrote meanwhile; a file
                    // that became shorter is changed before it is unreadable.
                    check_unchanged(&file, &stamp)?;
                    read.map_err(|error| told_of(&stamp, &error))?;
                    Ok(bytes)
                })
                .await
            }
        }
    }
}

/// An upload on its way.
pub(super) struct Upload<'a> {
    pub(super) client: &'a Client,
    pub(super) key: &'a ApiKey,
    pub(super) mime_type: &'a str,
    pub(super) size: u64,
    pub(super) content: Content,
}

/// What comes next in an upload.
enum Step {
    /// The bytes from this place on.
    From(u64),
    /// All of it, at another place.
    Anew,
    End(UploadEnd),
}

impl Upload<'_> {
    /// Uploads all of it; what breaks off goes on from where it was.
    pub(super) async fn run(self) -> UploadEnd {
        let mut tries = Tries::default();
        loop {
            let session = self.client.start_upload(self.key, self.mime_type, self.size).await;
            let session = match session {
                Ok(session) => session,
                Err(error) if error.outcome == Outcome::Failed(ErrorKind::InvalidRequest) => {
                    return refused(&error);
                }
                Err(error) => match tries.after(error).await {
                    Some(end) => return end,
                    None => continue,
                },
            };
            let mut next = Step::From(0);
            while let Step::From(offset) = next {
                next = self.chunk(&session, offset, &mut tries).await;
            }
            if let Step::End(end) = next {
                return end;
            }
        }
    }

    async fn chunk(&self, session: &Session, offset: u64, tries: &mut Tries) -> Step {
        let length = session.chunk().min(self.size - offset);
        let bytes = match self.content.read(offset, length).await {
            Ok(bytes) => bytes,
            Err(message) => return Step::End(failed(ErrorKind::Media, message)),
        };
        let is_last = offset + length == self.size;
        let error = match self.client.send_chunk(session, offset, bytes, is_last).await {
            Ok(Received::Part(there)) if there > offset && there <= self.size => {
                tries.failures = 0;
                return Step::From(there);
            }
            Ok(Received::Whole(file)) => return Step::End(arrived(file)),
            Ok(Received::Gone) => return tries.anew().await,
            Ok(Received::Part(_) | Received::Unclear) => unclear(),
            Err(error) => error,
        };
        match tries.after(error).await {
            Some(end) => Step::End(end),
            None => self.resume(session, offset, tries).await,
        }
    }

    /// Finds out how much has arrived.
    async fn resume(&self, session: &Session, offset: u64, tries: &mut Tries) -> Step {
        match self.client.query_upload(session).await {
            Ok(Received::Part(there)) if there <= self.size => {
                if there > offset {
                    tries.failures = 0;
                }
                Step::From(there)
            }
            Ok(Received::Whole(file)) => Step::End(arrived(file)),
            Ok(Received::Gone) => tries.anew().await,
            Ok(Received::Part(_) | Received::Unclear) => Step::From(offset),
            Err(error) => tries.after(error).await.map_or(Step::From(offset), Step::End),
        }
    }
}

/// Waits until the API is done with a file, at most for `limit`.
///
/// A file that was `seen` there and is refused has been removed; one that was not may never come.
pub(super) async fn poll(
    client: &Client,
    key: &ApiKey,
    name: &str,
    limit: Duration,
    mut seen: bool,
) -> UploadEnd {
    let started = Instant::now();
    let mut tries = Tries::default();
    let mut pause = FIRST_PAUSE;
    loop {
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
        let end = match client.file(key, name).await {
            Ok(file) => match arrived(file) {
                UploadEnd::Processing(_) if started.elapsed() > limit => Some(failed(
                    ErrorKind::Media,
                    format!("the API was not done with the file after {} s", limit.as_secs()),
                )),
                UploadEnd::Processing(_) => {
                    tries.failures = 0;
                    seen = true;
                    None
                }
                end => Some(end),
            },
            Err(error) if seen && error.outcome == Outcome::FileRefused => Some(UploadEnd::Lost),
            Err(error) => tries.after(error).await,
        };
        if let Some(end) = end {
            return end;
        }
    }
}

/// Returns how the upload of a file stands that the API has whole.
fn arrived(file: files::File) -> UploadEnd {
    let time = |text: Option<&str>| text.and_then(Timestamp::parse);
    let (created, expires) =
        (time(file.create_time.as_deref()), time(file.expiration_time.as_deref()));
    let state = file.state();
    let until = usable_until(created, expires, clock::now());
    let file = ApiFile { name: file.name, uri: file.uri, until };
    match state {
        FileState::Active => UploadEnd::Ready(file),
        FileState::Processing => UploadEnd::Processing(file),
        FileState::Failed(why) => {
            failed(ErrorKind::Media, format!("the API could not process the file: {why}"))
        }
    }
}

/// Failures in a row.
struct Tries {
    failures: i64,
    started_at: Timestamp,
}

impl Default for Tries {
    fn default() -> Self {
        Self { failures: 0, started_at: clock::now() }
    }
}

impl Tries {
    /// Waits before the next try; returns the end of the upload if there is to be none.
    async fn after(&mut self, error: FileError) -> Option<UploadEnd> {
        let kind = match error.outcome {
            Outcome::BadKey => return Some(UploadEnd::BadKey(error.message)),
            Outcome::LocationRefused => return Some(UploadEnd::LocationRefused),
            Outcome::Exhausted(exhaustion) => {
                let (started_at, jitter) = (self.started_at, rand::random());
                return Some(UploadEnd::RateLimited { exhaustion, started_at, jitter });
            }
            Outcome::FileRefused => return Some(refused(&error)),
            Outcome::Failed(kind) => kind,
            Outcome::Answered | Outcome::FileExpired | Outcome::Cut => ErrorKind::Internal,
        };
        self.failures += 1;
        if self.failures < TRIES {
            tokio::time::sleep(retry::delay(self.failures, rand::random())).await;
            return None;
        }
        let lasting = kind == ErrorKind::InvalidRequest || kind == ErrorKind::ModelNotFound;
        Some(if lasting { refused(&error) } else { failed(kind, told(&error)) })
    }

    /// Waits before an upload begins anew, if it may.
    async fn anew(&mut self) -> Step {
        let message = "the API lost the upload".to_owned();
        let error = FileError { outcome: Outcome::Failed(ErrorKind::ServerError), message };
        self.after(error).await.map_or(Step::Anew, Step::End)
    }
}

fn unclear() -> FileError {
    FileError {
        outcome: Outcome::Failed(ErrorKind::ServerError),
        message: "the API did not say whether it took the bytes".to_owned(),
    }
}

fn failed(kind: ErrorKind, message: String) -> UploadEnd {
    UploadEnd::Failed { kind, message }
}

fn refused(error: &FileError) -> UploadEnd {
    failed(ErrorKind::Media, format!("the API refused the upload: {}", error.message))
}

fn told(error: &FileError) -> String {
    format!("the upload failed: {}", error.message)
}
