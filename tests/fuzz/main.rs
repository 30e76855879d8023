//! The targets of `fuzz/` over its corpus and changes of it, by chance and without a special toolchain.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails right there")]

#[path = "../../fuzz/targets.rs"]
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

/// Changed inputs of a target, unless `FUZZ_INPUTS` says how many.
const CHANGED: usize = 1_500;

/// What is put in the middle of others.
const WORDS: [&[u8]; 24] = [
    b"\n",
    b"\r\n",
    b"\r",
    b"\0",
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"1e999",
    b"-0",
    b"\\ud800",
    b"\\u0000",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xf0\x9f\x98\x80",
    b"data: ",
    b"\"error\":{\"code\":429}",
    b"\"finishReason\":\"STOP\"",
    b"<audio>",
];

/// Runs a target over all that its corpus holds, and over what comes of it by a few changes.
fn bounded(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let corpus: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(corpus.len() >= 3, "{name} has a corpus");
    let seed = rand::random();
    let mut random = StdRng::seed_from_u64(seed);
    let asked = std::env::var("FUZZ_INPUTS").ok().and_then(|number| number.parse().ok());
    let changed = (0..asked.unwrap_or(CHANGED)).map(|_| change(&corpus, &mut random));
    for input in corpus.iter().cloned().chain(changed) {
        let passed = catch_unwind(AssertUnwindSafe(|| target(&input)));
        assert!(passed.is_ok(), "{name}, seed {seed}: \"{}\"", input.escape_ascii());
    }
}

fn change(corpus: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    let mut input = corpus.choose(random).unwrap().clone();
    for _ in 0..random.random_range(1..=6) {
        let at = random.random_range(0..=input.len());
        match random.random_range(0..6) {
            0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
            1 => input.truncate(at),
            2 => drop(input.drain(at..(at + random.random_range(0..20)).min(input.len()))),
            3 => {
                let other = corpus.choose(random).unwrap();
                let from = random.random_range(0..=other.len());
                input.splice(at.., other[from..].iter().copied());
            }
            _ => drop(input.splice(at..at, WORDS.choose(random).unwrap().iter().copied())),
        }
    }
    input
}

#[test]
fn any_lines_are_jobs_or_refused() {
    bounded("lines", targets::lines);
}

#[test]
fn any_body_is_an_answer_or_an_error() {
    bounded("answer", targets::answer);
}

#[test]
fn any_stream_comes_to_the_same_however_it_is_cut() {
    bounded("stream", targets::stream);
}

#[test]
fn no_settings_file_is_shown() {
    bounded("env", targets::env);
}
