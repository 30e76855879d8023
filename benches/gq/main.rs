//! How fast the queue is: `cargo bench --bench gq`. Runs the real binary on generated input, prints a
//! table and writes it as JSON.
//!
//! | variable | | |
//! | --- | --- | --- |
//! | `GQ_BENCH` | all | measures to take, such as `enqueue,drain` |
//! | `GQ_BENCH_LINES` | 1000000 | lines of the large input, and results that are printed |
//! | `GQ_BENCH_ROWS` | 1000000 | jobs of the longest queue |
//! | `GQ_BENCH_LOGGED` | 200000 | jobs that are worked off while others look on |
//! | `GQ_BENCH_JSON` | `target/bench.json` | where the figures go |
//!
//! A ratio is to a baseline of the same run: SQLite alone, an HTTP client alone, the time of an
//! empty `gq --version`, or the queue itself under other circumstances. Of several runs of one
//! measure the fastest counts.

#![expect(clippy::print_stdout, reason = "the table is what this is for")]
#![expect(clippy::expect_used, reason = "a benchmark that cannot go on ends")]

mod baseline;
#[path = "../../tests/disk/mod.rs"]
mod disk;
mod export;
mod input;
mod latency;
mod process;
mod report;
mod scale;
mod stages;
mod throughput;
#[path = "../../tests/cost/turns.rs"]
mod turns;

use std::path::PathBuf;

use report::Report;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|first| first == baseline::CLIENT) {
        return baseline::be_client(&args[1..]);
    }
    let chosen = std::env::var("GQ_BENCH").unwrap_or_default();
    let wants = |measure: &str| chosen.is_empty() || chosen.split(',').any(|it| it == measure);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path();
    let mut report = Report::begin();
    if wants("enqueue") {
        throughput::enqueue(folder, number("GQ_BENCH_LINES", 1_000_000), &mut report);
    }
    if wants("drain") {
        throughput::drain(folder, &mut report);
    }
    if wants("delayed") {
        throughput::delayed(folder, &mut report);
    }
    if wants("stages") {
        stages::cost_by_stage(folder, &mut report);
    }
    if wants("latency") {
        latency::wake_ups(folder, &mut report);
        latency::pieces(folder, &mut report);
        latency::questions(folder, &mut report);
    }
    if wants("export") {
        export::export(folder, number("GQ_BENCH_LINES", 1_000_000), &mut report);
    }
    if wants("log") {
        throughput::log(folder, number("GQ_BENCH_LOGGED", 200_000), &mut report);
    }
    if wants("scale") {
        let rows = number("GQ_BENCH_ROWS", 1_000_000);
        let mut sizes = vec![1_000, 1_000_000, rows];
        sizes.retain(|size| *size <= rows);
        sizes.dedup();
        scale::scale(folder, &sizes, &mut report);
    }
    let json = std::env::var_os("GQ_BENCH_JSON").map(PathBuf::from);
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bench.json");
    report.write(&json.unwrap_or_else(beside));
}

fn number(variable: &str, otherwise: u32) -> u32 {
    std::env::var(variable).ok().and_then(|it| it.parse().ok()).unwrap_or(otherwise)
}
