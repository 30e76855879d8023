//! Folders, a seed, keys that must never be seen, and the program under torture.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use tempfile::TempDir;

use crate::disk;
use crate::support::TestEnv;

/// The beginning of each key; its other characters look different in an address.
const CANARY: &str = "AIza+Canary/Of=Torture+Number/";

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
    let escaped = CANARY.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    let mut forms = vec![CANARY.to_owned(), escaped];
    for shift in 0..3 {
        let encoded = STANDARD.encode(format!("{}{CANARY}", &"xxx"[..shift]));
        // The letters at both ends depend on what stands beside the key.
        forms.push(encoded[4..encoded.len() - 4].to_owned());
    }
    forms.iter().any(|form| memchr::memmem::find(content, form.as_bytes()).is_some())
}

/// The search would be worth nothing if it overlooked a form.
fn check_the_search() {
    let found = |text: String| holds_key(text.as_bytes());
    assert!(found(format!("a{}b", key(1))));
    assert!(found("x?key=AIza%2BCanary%2FOf%3DTorture%2BNumber%2F1".to_owned()));
    assert!((0..3).all(|shift| found(STANDARD.encode(format!("{}{}", &"abc"[..shift], key(2))))));
    assert!(!found("AIza+Canary".to_owned()));
}
