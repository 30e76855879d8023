//! The parts, in turn.

mod calls;
mod checker;
mod clocks;
mod controls;
#[path = "../../disk/mod.rs"]
mod disk;
mod fence;
mod files;
mod kills;
mod power;
mod rig;
mod servers;
#[expect(dead_code, reason = "the tests of the program use more of it")]
#[path = "../../it/support/mod.rs"]
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rig::Rig;

/// A part of the suite: its name, and what goes wrong in one round of it.
type Part = (&'static str, fn(&Rig) -> Vec<String>);

const PARTS: [Part; 8] = [
    ("controls", controls::round),
    ("calls", calls::round),
    ("power", power::round),
    ("kills", kills::round),
    ("fence", fence::round),
    ("clocks", clocks::round),
    ("servers", servers::round),
    ("files", files::round),
];

/// Flags of other tests that cargo hands to all, and those of them with a value.
const OTHERS: [&str; 10] = [
    "--nocapture",
    "--no-capture",
    "--exact",
    "--quiet",
    "-q",
    "--list",
    "--ignored",
    "--include-ignored",
    "--show-output",
    "--test",
];
const OTHERS_WITH_VALUE: [&str; 5] =
    ["--test-threads", "--format", "--skip", "--color", "--logfile"];

/// What the command line asks for.
struct Options {
    minutes: Option<u64>,
    seed: u64,
    parts: Vec<String>,
}

impl Options {
    fn read() -> Option<Self> {
        let mut options = Self { minutes: None, seed: rand::random::<u32>().into(), parts: vec![] };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--minutes" => options.minutes = Some(words.next()?.parse().ok()?),
                "--seed" => options.seed = words.next()?.parse().ok()?,
                flag if OTHERS.contains(&flag) => {}
                flag if OTHERS_WITH_VALUE.contains(&flag) => drop(words.next()),
                flag if flag.starts_with('-') => return None,
                part => options.parts.push(part.to_owned()),
            }
        }
        Some(options)
    }
}

pub(crate) fn main() -> ExitCode {
    let Some(options) = Options::read() else {
        println!("usage: [--minutes N] [--seed N] [PART…]");
        return ExitCode::from(2);
    };
    let asked = |name: &str| {
        options.parts.is_empty() || options.parts.iter().any(|part| name.contains(part.as_str()))
    };
    let parts: Vec<Part> = PARTS.into_iter().filter(|(name, _)| asked(name)).collect();
    if parts.is_empty() {
        println!("torture: no part is called {:?}", options.parts);
        return ExitCode::from(if options.minutes.is_some() { 2 } else { 0 });
    }
    let start = Instant::now();
    let mut seed = options.seed;
    println!("torture: seed {seed}");
    loop {
        let rig = Rig::new(seed);
        for (name, round) in &parts {
            let begun = Instant::now();
            rig.begin(name);
            let outcome = catch_unwind(AssertUnwindSafe(|| round(&rig)));
            let faults = outcome.unwrap_or_else(|_| vec!["it could not go on".to_owned()]);
            let took = begun.elapsed().as_secs_f64();
            println!("torture: {name}: {took:.1} s, faults: {}", faults.len());
            if !faults.is_empty() {
                for fault in &faults {
                    println!("  {fault}");
                }
                println!("again by: cargo test --test torture -- --seed {seed} {name}");
                return ExitCode::FAILURE;
            }
        }
        let leaks = rig.leaks();
        if !leaks.is_empty() {
            println!("torture: a key is in {leaks:?}; again by --seed {seed}");
            return ExitCode::FAILURE;
        }
        println!("torture: keys leaked: 0, files searched: {}", rig.files());
        let limit = options.minutes.map(|minutes| Duration::from_secs(minutes * 60));
        if limit.is_none_or(|limit| start.elapsed() >= limit) {
            return ExitCode::SUCCESS;
        }
        seed += 1;
    }
}
