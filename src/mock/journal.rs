//! What came and what was answered, on disk: a line for each request before it is looked at, and one
//! for each answer before its first byte goes out.
//!
//! Who compares it with what a client recorded needs nothing of this process to be alive.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, Write as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use super::book::fingerprint;

/// The file of a stand-in that keeps one.
#[derive(Debug)]
pub(super) struct Journal(Mutex<Pen>);

#[derive(Debug)]
struct Pen {
    file: File,
    requests: u64,
}

/// The number of a request in its journal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Number(u64);

impl Journal {
    /// Opens the file at `path` to add to it; numbers go on after those in it.
    ///
    /// # Errors
    /// Of the file, also of one that is no journal.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        let requests = io::BufReader::new(&file).lines().try_fold(0, |requests, line| {
            let line: Value = serde_json::from_str(&line?)?;
            Ok::<_, io::Error>(requests.max(line["n"].as_u64().unwrap_or(0)))
        })?;
        Ok(Self(Mutex::new(Pen { file, requests })))
    }

    /// Notes a request that came at `at_ms` to `target`, the path with its query.
    pub(super) fn request(
        &self,
        at_ms: i64,
        key: &str,
        target: &str,
        prompt: &str,
    ) -> io::Result<Number> {
        self.write(|pen| {
            pen.requests += 1;
            let line = json!({
                "event": "request", "n": pen.requests, "at_ms": at_ms, "key": fingerprint(key),
                "target": target, "prompt": prompt,
            });
            (line, Number(pen.requests))
        })
    }

    /// Notes an answer that is about to be sent: its status, or 0 where the connection is broken
    /// before, and whether it is a whole usable one.
    pub(super) fn answer(
        &self,
        Number(number): Number,
        at_ms: i64,
        status: u16,
        is_usable: bool,
    ) -> io::Result<()> {
        self.write(|_| {
            let line = json!({
                "event": "answer", "n": number, "at_ms": at_ms, "status": status,
                "usable": is_usable,
            });
            (line, ())
        })
    }

    fn write<T>(&self, line: impl FnOnce(&mut Pen) -> (Value, T)) -> io::Result<T> {
        let mut pen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (line, result) = line(&mut pen);
        pen.file.write_all(format!("{line}\n").as_bytes())?;
        pen.file.sync_data()?;
        Ok(result)
    }
}
