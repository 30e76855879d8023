//! How well a worker's plans use quotas, and how long they take to make: `cargo bench --bench
//! simulate`. Days of calls by thousands of keys, against a server that counts as the API does.
//!
//! `used` is the part of the quota that had an answer while there was work; `baseline` is the time
//! that a plan may take.

#![expect(clippy::print_stdout, reason = "the table is what this is for")]
#![expect(clippy::unwrap_used, reason = "a simulation that cannot go on ends")]

#[path = "../tests/it/simulation/world.rs"]
mod world;

use std::time::Instant;

use gq::domain::limits::Limits;
use gq::domain::time::Timestamp;
use world::{Rules, World};

/// What a plan may take, in milliseconds.
const PLAN_MS: f64 = 1.0;

fn main() {
    println!(
        "{:<44} {:>10} {:>8} {:>6} {:>8} {:>11} {:>11} {:>8}",
        "simulated", "answers", "429s", "used", "turns", "plan mean", "plan max", "took"
    );
    let start = Timestamp::parse("2026-11-24T20:00:17Z").unwrap();
    let four = Rules {
        keys: 4,
        models: 1,
        quota: Limits([Some(20), None, None]),
        rolling: true,
        given: Limits::default(),
        workers: 16,
        latency: 500,
        jobs: 4_800,
        start,
        tick: 1,
    };
    simulate("4 keys of 20 a minute, learned, an hour", &four, 60);
    let given = Rules { given: four.quota, ..four.clone() };
    simulate("4 keys of 20 a minute, given, an hour", &given, 60);
    let days = Rules {
        keys: 2_000,
        quota: Limits([Some(10), None, Some(250)]),
        workers: 2_000,
        latency: 2_000,
        jobs: 2_000_000,
        tick: 250,
        ..four.clone()
    };
    simulate("2,000 keys of 250 a day, 2 million jobs", &days, 4 * 24 * 60);
    let many = Rules {
        keys: 1_000,
        models: 3,
        quota: Limits([Some(10), None, None]),
        given: Limits([Some(10), None, None]),
        workers: 2_000,
        latency: 2_000,
        jobs: 10_000_000 / 3,
        tick: 20,
        ..four
    };
    simulate("1,000 keys, 3 models, 10 million jobs", &many, 5);
}

/// Runs for so many minutes and prints a line.
fn simulate(what: &str, rules: &Rules, minutes: i64) {
    let begun = Instant::now();
    let report = World::new(rules.clone()).run(Timestamp(rules.start.0 + minutes * 60_000));
    let millis = |time: std::time::Duration| time.as_secs_f64() * 1_000.0;
    let mean = millis(report.planning) / f64::from(report.turns.max(1));
    let slots = rules.keys * rules.models;
    let possible = match rules.quota.0 {
        [_, _, Some(day)] => slots * day * (minutes / 1_440),
        [Some(minute), _, None] => slots * minute * minutes,
        [None, _, None] => 0,
    };
    let possible = possible.min(i64::try_from(rules.jobs).unwrap() * rules.models);
    println!(
        "{what:<44} {:>10} {:>8} {:>5.1}% {:>8} {:>8.3} ms {:>8.3} ms {:>6.1} s",
        report.total(),
        report.refusals(),
        percent(report.total(), possible),
        report.turns,
        mean,
        millis(report.longest),
        begun.elapsed().as_secs_f64()
    );
    if mean > PLAN_MS {
        println!("  a plan takes more than {PLAN_MS} ms");
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below what a float holds")]
fn percent(part: u64, whole: i64) -> f64 {
    part as f64 / whole.max(1) as f64 * 100.0
}
