//! Tries to break the promises: kills, faults of disk and clock, power cuts, broken servers, spoiled
//! files; and breaks gq itself on purpose to see that it would be noticed.
//!
//! `cargo test --test torture -- --minutes 30 --seed 7 kills power` goes on for so long, with random
//! choices of that seed, through the named parts alone. Linux only: disk and clock are broken by a
//! library that is loaded before that of C.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails right there")]
#![expect(clippy::print_stdout, reason = "its report")]

#[cfg(target_os = "linux")]
mod suite;

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    suite::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    println!("torture: left out, as it needs Linux");
    ExitCode::SUCCESS
}
