//! Days of calls in seconds: the plans of a worker against a server that counts as the API does.

pub(crate) mod world;

use gq::domain::limits::Limits;
use gq::domain::time::Timestamp;
use gq::domain::today::Today;
use world::{Report, Rules, World};

const HOUR: i64 = 3_600_000;

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

/// Four keys of 20 calls a minute each.
fn minutes(rolling: bool, latency: i64, given: Limits) -> Rules {
    Rules {
        keys: 4,
        models: 1,
        quota: Limits([Some(20), None, None]),
        rolling,
        given,
        workers: 16,
        latency,
        jobs: 900,
        start: at("2026-11-24T20:00:17.300Z"),
        tick: 1,
    }
}

/// Returns the answers of each whole minute after the first.
fn whole_minutes(report: &Report) -> &[u32] {
    &report.answered[1..report.answered.len() - 1]
}

#[test]
fn limits_that_nobody_said_are_learned_at_the_price_of_few_refusals() {
    for (rolling, latency) in [(true, 1), (true, 400), (true, 3_000), (false, 1), (false, 400)] {
        let rules = minutes(rolling, latency, Limits::default());
        let report = World::new(rules).run(at("2026-11-25T00:00:00Z"));
        let what = format!("rolling: {rolling}, latency: {latency}, {:?}", report.answered);
        assert_eq!(report.total(), 900, "{what}");
        assert!(report.refusals() <= 8, "{}, {what}", report.refusals());
        // What goes out at once in the first minute does so in each: where minutes are counted from
        // may cut that in two.
        let minutes = whole_minutes(&report);
        assert!(minutes[0] >= 78, "{what}");
        let all: u32 = minutes.iter().sum();
        let possible = 80 * u32::try_from(minutes.len()).unwrap();
        assert!(all * 100 >= possible * 97, "{what}");
    }
}

#[test]
fn limits_that_are_known_are_used_up_and_never_passed() {
    for (rolling, latency) in [(true, 1), (true, 3_000), (false, 1), (false, 3_000)] {
        let rules = minutes(rolling, latency, Limits([Some(20), None, None]));
        let report = World::new(rules).run(at("2026-11-25T00:00:00Z"));
        let what = format!("rolling: {rolling}, latency: {latency}, {:?}", report.answered);
        assert_eq!((report.total(), report.refusals()), (900, 0), "{what}");
        assert!(whole_minutes(&report).iter().all(|answers| *answers >= 78), "{what}");
    }
}

/// Five keys of 40 calls a day each, and work for four days.
fn days(start: &str, given: Limits) -> Rules {
    Rules {
        keys: 5,
        models: 1,
        quota: Limits([Some(10), None, Some(40)]),
        rolling: true,
        given,
        workers: 8,
        latency: 1_000,
        jobs: 800,
        start: at(start),
        tick: 1,
    }
}

/// Runs to the end, and returns the answers of each day in Los Angeles.
fn by_day(world: &mut World) -> (Vec<usize>, Report) {
    world.notes_calls = true;
    let report = world.run(at("2030-01-01T00:00:00Z"));
    let mut days: Vec<(i64, usize)> = Vec::new();
    for (time, _) in &report.calls {
        let day = Today::at(*time).day;
        match days.last_mut().filter(|(last, _)| *last == day) {
            Some((_, calls)) => *calls += 1,
            None => days.push((day, 1)),
        }
    }
    (days.into_iter().map(|(_, calls)| calls).collect(), report)
}

#[test]
fn each_day_of_los_angeles_is_used_and_none_begins_early() {
    for start in [
        "2026-11-24T20:00:00Z",
        // The days on which the clocks change, a leap day, the turn of a year.
        "2026-03-07T20:00:00Z",
        "2026-10-31T20:00:00Z",
        "2028-02-28T20:00:00Z",
        "2026-12-30T20:00:00Z",
    ] {
        let given = Limits([Some(10), None, Some(40)]);
        let (days, report) = by_day(&mut World::new(days(start, given)));
        assert_eq!((days, report.refusals()), (vec![200; 4], 0), "{start}");
    }
}

#[test]
fn a_day_that_is_over_is_found_out_once_for_each_key() {
    let rules = days("2026-11-24T20:00:00Z", Limits([Some(10), None, None]));
    let report = World::new(rules).run(at("2030-01-01T00:00:00Z"));
    assert_eq!(report.total(), 800);
    assert!(report.refused.values().all(|refused| *refused <= 4), "{:?}", report.refused);
    let learned = report.refusals();
    assert!(learned <= 15, "{learned} refusals of 5 keys in 4 days");
}

#[test]
fn a_clock_that_is_set_back_makes_no_call_early_and_loses_no_day() {
    let given = Limits([Some(10), None, Some(40)]);
    let start = at("2026-11-24T20:00:00Z");
    for set_back in [start.0 + 4 * 60_000, start.0 + 11 * HOUR, start.0 + 12 * HOUR + 90_000] {
        let mut world = World::new(days("2026-11-24T20:00:00Z", given));
        world.run(Timestamp(set_back));
        world.error = -HOUR;
        let report = world.run(at("2026-11-28T10:00:00Z"));
        assert_eq!((report.total(), report.refusals()), (800, 0), "set back at {set_back}");
    }
}
