//! The uploads that go on and the files that came of them.
//!
//! Owns their locks. What an upload takes is in `upload`, what a file is in `files`.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::config::{Config, FilesConfig};
use super::error::{self, ApiError};
use super::files::{Shelf, StoredFile};
use super::ledger::Ledger;
use super::order::Order;
use super::upload::Upload;

const ID_LENGTH: usize = 12;

#[derive(Debug, Default)]
struct State {
    shelf: Shelf,
    uploads: HashMap<String, Arc<Mutex<Upload>>>,
}

/// Where files are brought.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) config: FilesConfig,
    pub(super) ledger: Ledger,
    state: Mutex<State>,
    serial: AtomicU64,
    /// Makes ids that no other stand-in makes, as those of the API are never the same again.
    random: RandomState,
}

impl Desk {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            config: config.files.clone(),
            ledger: Ledger::new(config.record),
            state: Mutex::default(),
            serial: AtomicU64::new(0),
            random: RandomState::new(),
        }
    }

    /// Returns a number that no upload had before.
    pub(super) fn next(&self) -> u64 {
        self.serial.fetch_add(1, Relaxed)
    }

    /// Returns the id of a file that brings none.
    pub(super) fn fresh_id(&self, serial: u64) -> String {
        const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let mut bits = self.random.hash_one((serial, "file"));
        let letter = |_| {
            let letter = LETTERS[usize::try_from(bits % 36).unwrap_or(0)];
            bits /= 36;
            char::from(letter)
        };
        (0..ID_LENGTH).map(letter).collect()
    }

    /// Starts an upload and returns its secret id.
    pub(super) fn open(
        &self,
        order: Order,
        key: &str,
        project: u64,
        (serial, now): (u64, i64),
    ) -> Result<String, ApiError> {
        let mut state = self.state();
        if state.shelf.has(&order.id, now) {
            return Err(error::already_exists());
        }
        let upload_id = format!("AAwn{:016x}", self.random.hash_one((serial, "upload")));
        let upload = Arc::new(Mutex::new(Upload::new(order, key, project, serial)));
        state.uploads.insert(upload_id.clone(), upload);
        Ok(upload_id)
    }

    /// Returns an upload by its secret id.
    pub(super) fn upload(&self, upload_id: &str) -> Option<Arc<Mutex<Upload>>> {
        self.state().uploads.get(upload_id).cloned()
    }

    /// Makes the file of an upload that has all its bytes.
    pub(super) fn finish(
        &self,
        upload_id: &str,
        upload: &mut Upload,
        now: i64,
    ) -> Result<Arc<StoredFile>, ApiError> {
        let mut state = self.state();
        if !state.uploads.contains_key(upload_id) {
            return Err(error::not_found());
        }
        let file = StoredFile::new(upload.content(), upload.project, &self.config, now);
        let file = state.shelf.add(file, now)?;
        upload.finish(file.clone());
        Ok(file)
    }

    /// Looks at the files, or changes them.
    pub(super) fn files<T>(&self, work: impl FnOnce(&mut Shelf) -> T) -> T {
        work(&mut self.state().shelf)
    }

    /// Forgets all files, uploads and counts.
    pub(super) fn reset(&self) {
        *self.state() = State::default();
        self.ledger.reset();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_from_file_to_file_and_from_desk_to_desk() {
        let [one, two] = [0, 1].map(|_| Desk::new(&Config::default()));
        assert_eq!(one.fresh_id(0), one.fresh_id(0));
        assert_ne!(one.fresh_id(0), one.fresh_id(1));
        assert_ne!(one.fresh_id(0), two.fresh_id(0));
        assert_eq!(one.fresh_id(0).len(), ID_LENGTH);
    }

    #[test]
    fn an_upload_from_before_a_reset_makes_no_file() {
        let desk = Desk::new(&Config::default());
        let upload_id = desk.open(Order::default(), "k1", 1, (0, 0)).unwrap();
        let upload = desk.upload(&upload_id).unwrap();
        desk.reset();
        let finished = desk.finish(&upload_id, &mut upload.lock().unwrap(), 0);
        assert_eq!(finished.unwrap_err().code, 404);
        assert_eq!(desk.files(|shelf| shelf.count(0)), 0);
    }
}
