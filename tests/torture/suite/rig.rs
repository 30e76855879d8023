//! Folders, a seed, keys that must never be seen, and the program under torture.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use tempfile::TempDir;

use super::disk;
use super::support::{Ran, TestEnv};

/// The beginning of each key; its other characters look different in an address.
const CANARY: &str = "AIza+Canary/Of=Torture+Number/";

/// The part of it that is looked for.
const CORE: &str = "Canary/Of=Torture+Num";

/// What all parts of a round share.
pub(crate) struct Rig {
    pub(crate) seed: u64,
    program: Option<(PathBuf, &'static str)>,
    /// Where the library is that breaks disk and clock.
    folder: Arc<TempDir>,
    found: Arc<Found>,
    random: Mutex<StdRng>,
}

/// What the search for keys found so far.
#[derive(Default)]
struct Found {
    files: AtomicUsize,
    leaks: Mutex<Vec<String>>,
}

impl Rig {
    pub(crate) fn new(seed: u64) -> Self {
        check_the_search();
        let folder = TempDir::new().unwrap();
        disk::build(folder.path());
        Self {
            seed,
            program: None,
            found: Arc::default(),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            folder: Arc::new(folder),
        }
    }

    /// The same for another program, which is told by `GQ_BROKEN` what of it is broken.
    pub(crate) fn with(&self, program: &Path, broken: &'static str) -> Self {
        Self {
            seed: self.seed,
            program: Some((program.to_owned(), broken)),
            found: Arc::clone(&self.found),
            random: Mutex::new(StdRng::seed_from_u64(self.seed)),
            folder: Arc::clone(&self.folder),
        }
    }

    /// An environment with keys and, as `config` says, a stand-in that keeps a journal.
    pub(crate) fn env(&self, config: Value) -> TestEnv {
        let mut env = TestEnv::new();
        let mut config = config;
        config["journal"] = env.path("journal").to_str().unwrap().into();
        env.stand_in(&config);
        for number in 1..=3 {
            env.set(&format!("GEMINI_API_KEY_{number}"), &key(number));
        }
        if let Some((program, broken)) = &self.program {
            env.program.clone_from(program);
            env.set("GQ_BROKEN", broken);
        }
        env
    }

    /// Begins a part: its choices depend on nothing but the seed and its name.
    pub(crate) fn begin(&self, part: &str) {
        let name = part.bytes().fold(0, |sum: u64, byte| sum.wrapping_mul(31) + u64::from(byte));
        *self.random() = StdRng::seed_from_u64(self.seed ^ name);
    }

    /// Runs `gq` to its end, and looks for the keys in what it prints.
    pub(crate) fn run(&self, env: &TestEnv, args: &[&str]) -> Ran {
        let ran = env.gq(args);
        self.heard(&ran);
        ran
    }

    /// Looks for the keys in what a command printed.
    pub(crate) fn heard(&self, ran: &Ran) {
        if holds_key(ran.stdout.as_bytes()) || holds_key(ran.stderr.as_bytes()) {
            self.found.leaks.lock().unwrap().push("what a command printed".to_owned());
        }
    }

    /// A command that runs on the broken disk of `disk.c`.
    pub(crate) fn command(
        &self,
        env: &TestEnv,
        args: &[&str],
        settings: &[(&str, &str)],
    ) -> Command {
        let mut command = env.command(args);
        command
            .env("LD_PRELOAD", self.folder.path().join("disk.so"))
            .envs(settings.iter().copied());
        command
    }

    pub(crate) fn between(&self, least: usize, most: usize) -> usize {
        self.random().random_range(least..=most)
    }

    /// Lets so much time pass, by chance.
    pub(crate) fn pause(&self, least: Duration, most: Duration) {
        let time = self.random().random_range(least..=most);
        thread::sleep(time);
    }

    pub(crate) fn chance(&self, of: f64) -> bool {
        self.random().random_bool(of)
    }

    fn random(&self) -> MutexGuard<'_, StdRng> {
        self.random.lock().unwrap()
    }

    /// Looks for the keys in all files of a folder.
    pub(crate) fn search(&self, folder: &Path) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                self.search(&path);
                continue;
            }
            // What is no file, or was taken away, holds nothing.
            let Ok(true) = fs::metadata(&path).map(|data| data.is_file()) else { continue };
            let Ok(content) = fs::read(&path) else { continue };
            self.found.files.fetch_add(1, Ordering::Relaxed);
            if holds_key(&content) {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                self.found.leaks.lock().unwrap().push(name);
            }
        }
    }

    pub(crate) fn leaks(&self) -> Vec<String> {
        self.found.leaks.lock().unwrap().clone()
    }

    pub(crate) fn files(&self) -> usize {
        self.found.files.load(Ordering::Relaxed)
    }
}

/// The key with that number.
pub(crate) fn key(number: usize) -> String {
    format!("{CANARY}{number}")
}

/// Returns whether bytes hold a key: as it is, in an address, or in base64 wherever it begins.
fn holds_key(content: &[u8]) -> bool {
    let mut forms = vec![CORE.to_owned()];
    for shift in 0..3 {
        let text = format!("{}{CORE}", &"xxx"[..shift]);
        for encoded in [STANDARD.encode(&text), URL_SAFE.encode(&text)] {
            // The letters at both ends depend on what stands beside it.
            forms.push(encoded[4..encoded.len() - 4].to_owned());
        }
    }
    let plain = decoded(content);
    [content, &plain].iter().any(|content| {
        forms.iter().any(|form| memchr::memmem::find(content, form.as_bytes()).is_some())
    })
}

/// Returns the bytes of an address, `%2F` read as `/`.
fn decoded(content: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut rest = content;
    while let Some(at) = memchr::memchr(b'%', rest) {
        let digits = rest.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        plain.extend(&rest[..at]);
        plain.push(byte.unwrap_or(b'%'));
        rest = &rest[at + if byte.is_some() { 3 } else { 1 }..];
    }
    // Most hold no such sign.
    if !plain.is_empty() {
        plain.extend(rest);
    }
    plain
}

/// The search would be worth nothing if it overlooked a form.
fn check_the_search() {
    let found = |text: String| holds_key(text.as_bytes());
    assert!(found(format!("a{}b", key(1))));
    assert!(found("x?key=AIza%2bCanary%2FOf%3DTorture%2BNumber%2F1".to_owned()));
    assert!(found("x?key=AIza%2BCanary/Of=Torture%2BNumber/1".to_owned()));
    for shift in 0..3 {
        let text = format!("{}{}", &"abc"[..shift], key(2));
        assert!(found(STANDARD.encode(&text)) && found(URL_SAFE.encode(&text)));
    }
    assert!(!found("AIza+Canary, and 100% of nothing".to_owned()));
}
