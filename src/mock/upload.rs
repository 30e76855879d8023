//! One upload: which bytes it takes.
//!
//! Pure. Bytes are hashed and dropped, so that an upload of any size needs no memory. What its
//! start asks for is in `order`; reading bytes from a connection is `transfer`'s.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::domain::hex::hex;

use super::error::{ApiError, invalid_argument};
use super::files::{Content, StoredFile};
use super::order::{LARGEST, Order};

/// What every chunk but the last must be a multiple of.
pub(super) const GRANULARITY: u64 = 8 * 1024 * 1024;

/// A chunk before its bytes are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunk {
    pub(super) offset: Option<u64>,
    /// Its size, if it was announced.
    pub(super) length: Option<u64>,
    /// Whether the upload ends with it.
    pub(super) last: bool,
}

/// The right to add bytes to an upload, until another request takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    number: u64,
    from: u64,
}

/// What a chunk may do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Begun {
    /// Add its bytes.
    Turn(Turn),
    /// Nothing more: the file is whole.
    Done(Arc<StoredFile>),
}

#[derive(Debug)]
enum State {
    Active,
    Cancelled,
    Final(Arc<StoredFile>),
}

/// An upload that was started.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) order: Order,
    /// The key that started it.
    pub(super) key: Arc<str>,
    pub(super) project: u64,
    /// Tells it from all others.
    pub(super) serial: u64,
    received: u64,
    hasher: Sha256,
    turn: u64,
    state: State,
}

impl Upload {
    pub(super) fn new(order: Order, key: &str, project: u64, serial: u64) -> Self {
        let (received, turn, state, hasher) = (0, 0, State::Active, Sha256::new());
        Self { order, key: key.into(), project, serial, received, hasher, turn, state }
    }

    /// Checks a chunk by what it says of itself, and gives it the turn. An older chunk that is
    /// still being read adds nothing from here on, so that what a client was told stays true.
    pub(super) fn begin(&mut self, chunk: Chunk) -> Result<Begun, ApiError> {
        match &self.state {
            State::Final(file) if chunk.last => return Ok(Begun::Done(file.clone())),
            State::Final(_) | State::Cancelled => return Err(ended()),
            State::Active => {}
        }
        // An end that brings no bytes need not say where they belong.
        let implied = (chunk.last && chunk.length == Some(0)).then_some(self.received);
        let Some(offset) = chunk.offset.or(implied) else {
            return Err(invalid_argument("X-Goog-Upload-Offset is missing or no number."));
        };
        let from = self.received;
        if offset != from {
            return Err(invalid_argument(format!(
                "Upload offset {offset} does not match the {from} bytes received."
            )));
        }
        if let Some(length) = chunk.length {
            self.check(from, from.saturating_add(length), chunk.last)?;
        }
        self.turn += 1;
        Ok(Begun::Turn(Turn { number: self.turn, from }))
    }

    /// Adds bytes of a chunk.
    pub(super) fn take(&mut self, turn: Turn, bytes: &[u8]) -> Result<(), ApiError> {
        self.check_turn(turn)?;
        let received = self.received + bytes.len() as u64;
        if received > self.limit() {
            return Err(self.too_many());
        }
        self.received = received;
        self.hasher.update(bytes);
        Ok(())
    }

    /// Ends a chunk of which all bytes came.
    pub(super) fn end(&mut self, turn: Turn, last: bool) -> Result<(), ApiError> {
        self.check_turn(turn)?;
        self.check(turn.from, self.received, last)
    }

    /// Returns what came.
    pub(super) fn content(&self) -> Content {
        let Order { id, display_name, mime_type, .. } = self.order.clone();
        let sha256 = hex(&self.hasher.clone().finalize());
        Content { id, display_name, mime_type, bytes: self.received, sha256 }
    }

    /// Notes that the file is whole.
    pub(super) fn finish(&mut self, file: Arc<StoredFile>) {
        self.state = State::Final(file);
    }

    /// Ends what older requests still send, before the answer says how much came.
    pub(super) fn query(&mut self) {
        self.turn += 1;
    }

    /// Gives the upload up.
    pub(super) fn cancel(&mut self) -> Result<(), ApiError> {
        if matches!(self.state, State::Final(_)) {
            return Err(ended());
        }
        self.state = State::Cancelled;
        Ok(())
    }

    /// Returns the state as the API's header calls it.
    pub(super) fn status(&self) -> &'static str {
        match self.state {
            State::Active => "active",
            State::Cancelled => "cancelled",
            State::Final(_) => "final",
        }
    }

    /// Returns how many bytes came.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    fn limit(&self) -> u64 {
        self.order.size.unwrap_or(LARGEST)
    }

    fn check_turn(&self, turn: Turn) -> Result<(), ApiError> {
        let holds = self.turn == turn.number && matches!(self.state, State::Active);
        holds.then_some(()).ok_or_else(|| invalid_argument("Another request took the upload over."))
    }

    fn check(&self, from: u64, to: u64, last: bool) -> Result<(), ApiError> {
        if to > self.limit() {
            return Err(self.too_many());
        }
        if last && self.order.size.is_some_and(|size| to < size) {
            let size = self.limit();
            return Err(invalid_argument(format!("Upload ends at {to} of {size} bytes.")));
        }
        if !last && !(to - from).is_multiple_of(GRANULARITY) {
            return Err(invalid_argument(format!(
                "Chunk of {} bytes is not a multiple of {GRANULARITY}.",
                to - from
            )));
        }
        Ok(())
    }

    fn too_many(&self) -> ApiError {
        invalid_argument(format!("Upload has more than {} bytes.", self.limit()))
    }
}

fn ended() -> ApiError {
    invalid_argument("Upload has already been terminated.")
}

#[cfg(test)]
mod tests {
    use super::super::config::FilesConfig;
    use super::*;

    fn upload(size: Option<u64>) -> Upload {
        Upload::new(Order { size, ..Order::default() }, "k1", 1, 1)
    }

    fn chunk(offset: u64, length: u64, last: bool) -> Chunk {
        Chunk { offset: Some(offset), length: Some(length), last }
    }

    fn turn(upload: &mut Upload, chunk: Chunk) -> Result<Turn, String> {
        match upload.begin(chunk) {
            Ok(Begun::Turn(turn)) => Ok(turn),
            Ok(Begun::Done(file)) => Err(format!("{file:?}")),
            Err(error) => Err(error.message),
        }
    }

    #[test]
    fn chunks_follow_each_other_in_full_granules() {
        let mut upload = upload(Some(GRANULARITY + 3));
        assert!(turn(&mut upload, chunk(1, GRANULARITY, false)).unwrap_err().contains("offset 1"));
        assert!(turn(&mut upload, chunk(0, 5, false)).unwrap_err().contains("not a multiple"));
        assert!(turn(&mut upload, chunk(0, 5, true)).unwrap_err().contains("ends at 5"));
        let many = chunk(0, GRANULARITY + 4, true);
        assert!(turn(&mut upload, many).unwrap_err().contains("more than"));
        let missing = Chunk { offset: None, length: Some(3), last: true };
        assert!(turn(&mut upload, missing).unwrap_err().contains("missing"));
        assert!(turn(&mut upload, chunk(0, GRANULARITY, false)).is_ok());
        assert!(turn(&mut upload, chunk(0, GRANULARITY + 3, true)).is_ok());
    }

    #[test]
    fn a_chunk_of_unknown_length_is_checked_as_it_comes() {
        let mut upload = upload(Some(5));
        let unknown = Chunk { offset: Some(0), length: None, last: false };
        let open = turn(&mut upload, unknown).unwrap();
        assert!(upload.take(open, b"abc").is_ok());
        assert!(upload.take(open, b"def").unwrap_err().message.contains("more than 5"));
        assert!(upload.end(open, false).is_err());
        assert!(upload.end(open, true).is_err());
        upload.take(open, b"de").unwrap();
        assert_eq!((upload.end(open, true), upload.received()), (Ok(()), 5));
    }

    #[test]
    fn a_query_ends_what_an_older_request_still_sends() {
        let mut upload = upload(None);
        let old = turn(&mut upload, chunk(0, 6, true)).unwrap();
        upload.take(old, b"abc").unwrap();
        upload.query();
        assert!(upload.take(old, b"def").is_err());
        assert!(upload.end(old, true).is_err());
        assert_eq!((upload.status(), upload.received()), ("active", 3));
    }

    #[test]
    fn an_upload_that_ended_takes_no_more() {
        let mut cancelled = upload(None);
        let open = turn(&mut cancelled, chunk(0, 3, true)).unwrap();
        cancelled.cancel().unwrap();
        assert!(cancelled.take(open, b"abc").is_err());
        assert_eq!(cancelled.status(), "cancelled");
        assert!(turn(&mut cancelled, chunk(0, 3, true)).is_err());
        let mut whole = upload(None);
        let open = turn(&mut whole, chunk(0, 3, true)).unwrap();
        whole.take(open, b"abc").unwrap();
        let content = whole.content();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((content.bytes, &*content.sha256), (3, abc));
        let file = Arc::new(StoredFile::new(content, 1, &FilesConfig::default(), 0));
        whole.finish(file.clone());
        assert_eq!(whole.begin(chunk(0, 3, true)), Ok(Begun::Done(file)));
        assert!(whole.begin(chunk(3, 0, false)).is_err());
        assert!(whole.cancel().is_err());
        assert_eq!(whole.status(), "final");
    }
}
