//! A server that counts calls as the API does, keys that call it as planned, and a clock that runs
//! as fast as the plans are made.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use gq::domain::limits::{Limits, Quota};
use gq::domain::outcome::Exhaustion;
use gq::domain::plan::{self, Bounds, Candidate, Open, OpenKey, OpenModel, OpenSlot, Place};
use gq::domain::slot::{Rests, Slot};
use gq::domain::time::Timestamp;
use gq::domain::today::Today;
use gq::domain::traffic::{Busy, REFUSAL};

const MINUTE: i64 = 60_000;

const RESTS: Rests = Rests {
    exhausted_wait: Duration::from_mins(2),
    fully_exhausted_wait: Duration::from_hours(12),
    max_exhausted_retries: 3,
};

/// What a simulation is about.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// Keys, each of a project of its own.
    pub(crate) keys: i64,
    /// Models; each key has a quota for each.
    pub(crate) models: i64,
    /// What the server allows each key for each model.
    pub(crate) quota: Limits,
    /// Whether the server's minutes roll, or are those of the clock.
    pub(crate) rolling: bool,
    /// What people said.
    pub(crate) given: Limits,
    /// Calls in flight at once.
    pub(crate) workers: usize,
    /// How long an answer takes, in milliseconds.
    pub(crate) latency: i64,
    /// Jobs of each model.
    pub(crate) jobs: u64,
    /// When it begins.
    pub(crate) start: Timestamp,
    /// The time from one plan to the next at least, in milliseconds.
    pub(crate) tick: i64,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    /// Answers by the minute since the start.
    pub(crate) answered: Vec<u32>,
    /// 429s by key and model.
    pub(crate) refused: HashMap<Place, u32>,
    /// When calls were made with key and model, where that was asked for.
    pub(crate) calls: Vec<(Timestamp, Place)>,
    /// Plans made.
    pub(crate) turns: u32,
    /// The time that all plans took.
    pub(crate) planning: Duration,
    /// The time that the longest plan took.
    pub(crate) longest: Duration,
}

impl Report {
    /// Returns the number of answers.
    pub(crate) fn total(&self) -> u64 {
        self.answered.iter().map(|count| u64::from(*count)).sum()
    }

    /// Returns the number of 429s.
    pub(crate) fn refusals(&self) -> u32 {
        self.refused.values().sum()
    }
}

/// What the server counts for one key and model.
#[derive(Default)]
struct Counter {
    recent: VecDeque<i64>,
    day: i64,
    today: i64,
}

/// Why the server refuses a call.
enum Refusal {
    Minute { delay: i64 },
    Day,
}

impl Counter {
    fn take(&mut self, quota: &Limits, rolling: bool, today: &Today) -> Option<Refusal> {
        let now = today.now.0;
        let start = if rolling { now - MINUTE + 1 } else { now - now.rem_euclid(MINUTE) };
        while self.recent.front().is_some_and(|at| *at < start) {
            self.recent.pop_front();
        }
        if self.day != today.day {
            (self.day, self.today) = (today.day, 0);
        }
        if quota.of(Quota::Rpd).is_some_and(|most| self.today >= most) {
            return Some(Refusal::Day);
        }
        let used = i64::try_from(self.recent.len()).unwrap();
        if quota.of(Quota::Rpm).is_some_and(|most| used >= most) {
            let first = self.recent.front().copied().unwrap_or(now);
            let end = if rolling { first + MINUTE } else { start + MINUTE };
            return Some(Refusal::Minute { delay: end - now });
        }
        self.recent.push_back(now);
        self.today += 1;
        None
    }
}

/// A call on its way: when it began, by the clock and by ours, its slot, and why it is refused.
struct Call {
    began: i64,
    started: i64,
    place: Place,
    refusal: Option<Refusal>,
}

/// The keys, the server and the clock.
pub(crate) struct World {
    rules: Rules,
    slots: HashMap<Place, Slot>,
    open: Open,
    server: HashMap<Place, Counter>,
    /// Ends of calls with their numbers.
    ends: BinaryHeap<Reverse<(i64, u64)>>,
    calls: HashMap<u64, Call>,
    fresh: HashMap<Place, VecDeque<i64>>,
    next_call: u64,
    left: HashMap<i64, u64>,
    today: Today,
    /// What the clock of our machine is wrong by, in milliseconds.
    pub(crate) error: i64,
    /// Whether each call is noted.
    pub(crate) notes_calls: bool,
    report: Report,
}

impl World {
    pub(crate) fn new(rules: Rules) -> Self {
        let mut open = Open::default();
        let mut slots = HashMap::new();
        for (key, model) in
            (1..=rules.keys).flat_map(|key| (1..=rules.models).map(move |it| (key, it)))
        {
            let slot = (key, model);
            slots.insert(slot, Slot::default());
            open.slots.insert(slot, OpenSlot { limits: rules.given, ..OpenSlot::default() });
        }
        Self {
            slots,
            open,
            server: HashMap::new(),
            ends: BinaryHeap::new(),
            calls: HashMap::new(),
            fresh: HashMap::new(),
            next_call: 0,
            left: (1..=rules.models).map(|model| (model, rules.jobs)).collect(),
            today: Today::at(rules.start),
            error: 0,
            notes_calls: false,
            report: Report::default(),
            rules,
        }
    }

    /// Runs until nothing is left, or until `end`.
    pub(crate) fn run(&mut self, end: Timestamp) -> Report {
        let mut now = self.today.now.0;
        while now < end.0 && (self.left.values().any(|left| *left > 0) || !self.ends.is_empty()) {
            self.today = self.today.when(Timestamp(now));
            self.settle(now);
            let next = self.turn(now);
            let first_end = self.ends.peek().map(|Reverse((at, _))| *at);
            let wake = [first_end, next].into_iter().flatten().min().unwrap_or(now + MINUTE);
            now = wake.max(now + self.rules.tick.max(1));
        }
        self.today = self.today.when(Timestamp(now));
        self.report.clone()
    }

    /// Returns the time that our machine takes it to be.
    fn ours(&self) -> Today {
        if self.error == 0 {
            self.today
        } else {
            Today::at(Timestamp(self.today.now.0 + self.error))
        }
    }

    fn settle(&mut self, now: i64) {
        let ours = self.ours();
        while let Some(Reverse((at, number))) =
            self.ends.peek().copied().filter(|end| end.0.0 <= now)
        {
            self.ends.pop();
            let call = self.calls.remove(&number).unwrap();
            let open = self.open.slots.get_mut(&call.place).unwrap();
            open.busy.calls -= 1;
            self.fresh.get_mut(&call.place).unwrap().retain(|began| *began != call.began);
            let mut slot = self.slots.remove(&call.place).unwrap();
            let started = Timestamp(call.started);
            match call.refusal {
                None => {
                    let minute = usize::try_from((at - self.rules.start.0) / MINUTE).unwrap();
                    let minutes = &mut self.report.answered;
                    minutes.resize(minutes.len().max(minute + 1), 0);
                    minutes[minute] += 1;
                    slot = slot.after_success(started);
                }
                Some(refusal) => {
                    *self.report.refused.entry(call.place).or_default() += 1;
                    *self.left.get_mut(&call.place.1).unwrap() += 1;
                    std::mem::swap(&mut slot.traffic, &mut open.traffic);
                    slot.traffic.advance(&ours);
                    let (exhaustion, quota) = match refusal {
                        Refusal::Day => (Exhaustion::Day, Quota::Rpd),
                        Refusal::Minute { delay } => {
                            let delay = Duration::from_millis(u64::try_from(delay).unwrap());
                            (Exhaustion::Short { delay: Some(delay) }, Quota::Rpm)
                        }
                    };
                    let limit = self.rules.quota.of(quota).unwrap();
                    slot.learn(&exhaustion, &[(quota, limit)], (started, 0), ours.now);
                    slot = slot.after_exhaustion(&exhaustion, started, &RESTS, ours.now, 0.5);
                    std::mem::swap(&mut slot.traffic, &mut open.traffic);
                    open.limits = self.rules.given.and(&slot.learned.limits(ours.now));
                }
            }
            open.probing = slot.streak > 0;
            self.slots.insert(call.place, slot);
        }
    }

    /// Makes one plan and starts its calls; returns when there may be more, by the clock.
    fn turn(&mut self, now: i64) -> Option<i64> {
        let ours = self.ours();
        let mut next = self.look(&ours);
        let free = self.rules.workers - self.calls.len();
        let candidates = self.candidates(free);
        let bounds = Bounds { calls: free, bulk: free, one_call_a_key: false };
        let begun = Instant::now();
        let plan = plan::plan(candidates, &mut self.open, bounds, ours);
        let took = begun.elapsed();
        self.report.turns += 1;
        self.report.planning += took;
        self.report.longest = self.report.longest.max(took);
        for grant in &plan.calls {
            self.call((grant.key, grant.job), now, &ours);
        }
        if let Some(at) = plan.next_at {
            next = Some(next.map_or(at.0, |before: i64| before.min(at.0)));
        }
        next.map(|at| (at - self.error).max(now + 1))
    }

    /// Finds the keys that may be used; returns when the first of the others wakes.
    fn look(&mut self, ours: &Today) -> Option<i64> {
        let mut next: Option<i64> = None;
        let mut wake = |at: Timestamp| next = Some(next.map_or(at.0, |before| before.min(at.0)));
        self.open.keys.clear();
        let fresh_from = self.today.now.0 - i64::try_from(REFUSAL.as_millis()).unwrap();
        let mut rooms: HashMap<i64, i64> = HashMap::new();
        for (place, open) in &mut self.open.slots {
            let slot = &self.slots[place];
            if let Some(end) = slot.rest_end(&RESTS, ours.now) {
                wake(end);
                continue;
            }
            open.traffic.advance(ours);
            if let Some(fresh) = self.fresh.get_mut(place) {
                fresh.retain(|started| *started > fresh_from);
                let first_fresh = fresh.front().map(|at| Timestamp(*at + self.error));
                let fresh = i64::try_from(fresh.len()).unwrap();
                open.busy = Busy { fresh, first_fresh, ..open.busy };
            }
            let room = rooms.entry(place.1).or_default();
            *room = room.saturating_add(open.traffic.room(&open.limits));
            let key = OpenKey { key: place.0, slot: *place, rank: 0, in_flight: 0, free: true };
            self.open.keys.push(key);
        }
        // The order in which a table gives them is not that of a database.
        self.open.keys.sort_unstable_by_key(|key| key.slot);
        for (model, left) in &self.left {
            let room = rooms.get(model).copied().unwrap_or(0);
            let paced = i64::try_from(*left).unwrap() > room;
            self.open.models.insert(*model, OpenModel { room: i64::MAX, paced });
        }
        next
    }

    /// Returns as many jobs of each model as could start; a job's number is that of its model.
    fn candidates(&self, most: usize) -> Vec<Candidate> {
        let of_model = |(model, left): (&i64, &u64)| {
            let number = most.min(usize::try_from(*left).unwrap());
            let job = Candidate {
                job: *model,
                model: *model,
                priority: 0,
                due_at: Timestamp(0),
                avoid: None,
                tokens: 1,
                uploads: None,
            };
            std::iter::repeat_n(job, number)
        };
        self.left.iter().flat_map(of_model).collect()
    }

    fn call(&mut self, place: Place, now: i64, ours: &Today) {
        let counter = self.server.entry(place).or_default();
        let refusal = counter.take(&self.rules.quota, self.rules.rolling, &self.today);
        if self.notes_calls {
            self.report.calls.push((ours.now, place));
        }
        let took = if refusal.is_some() { self.rules.latency / 10 } else { self.rules.latency };
        *self.left.get_mut(&place.1).unwrap() -= 1;
        self.fresh.entry(place).or_default().push_back(now);
        self.ends.push(Reverse((now + took, self.next_call)));
        let call = Call { began: now, started: ours.now.0, place, refusal };
        self.calls.insert(self.next_call, call);
        self.next_call += 1;
    }
}
