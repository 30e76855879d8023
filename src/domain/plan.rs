//! Which due jobs start now, and with which key.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::time::Duration;

use crate::domain::limits::{Limits, Quota};
use crate::domain::time::Timestamp;
use crate::domain::today::Today;
use crate::domain::traffic::{Busy, Ready, Traffic, cautious};
use crate::domain::upload::Progress;

/// A job that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its row.
    pub job: i64,
    /// The model it goes to.
    pub model: i64,
    /// Higher goes first.
    pub priority: i64,
    /// Earlier goes first, at one priority.
    pub due_at: Timestamp,
    /// The key whose last attempt at it failed; another is tried first.
    pub avoid: Option<i64>,
    /// The tokens of input that it is expected to have.
    pub tokens: i64,
    /// How far each key is with media that have to be uploaded; absent where there are none.
    pub uploads: Option<HashMap<i64, Progress>>,
}

impl Candidate {
    /// Returns whether a call with `key` needs no upload before.
    fn has_media(&self, key: i64) -> bool {
        let settled =
            |uploads: &HashMap<i64, Progress>| uploads.get(&key).is_some_and(Progress::is_settled);
        self.uploads.as_ref().is_none_or(settled)
    }

    fn is_under_way(&self, key: i64) -> bool {
        self.uploads.as_ref().is_some_and(|it| it.get(&key) == Some(&Progress::UnderWay))
    }
}

/// Which slot: the key's row (the first one of a project's keys) and the model's row.
pub type Place = (i64, i64);

/// A slot that does not rest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OpenSlot {
    /// What may be used of it.
    pub limits: Limits,
    /// What was used of it.
    pub traffic: Traffic,
    /// Its calls in flight.
    pub busy: Busy,
    /// Whether a 429 was its last word: one call tries it before more follow.
    pub probing: bool,
    /// Whether it is known to be paid for: nobody need be careful with it.
    pub paid: bool,
}

/// A key that may be used now for one model, or soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenKey {
    /// The key's row.
    pub key: i64,
    /// Its slot.
    pub slot: Place,
    /// Lower goes first: what costs nothing before what is paid.
    pub rank: u8,
    /// Its own calls in flight.
    pub in_flight: i64,
    /// Whether it may take on a call now; if not it may soon.
    pub free: bool,
}

/// A model with jobs that are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenModel {
    /// Calls that may start beside those in flight.
    pub room: i64,
    /// Whether more jobs wait than the minute has room for: they are then spread over it.
    pub paced: bool,
}

/// What may be used now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Open {
    /// Slots that do not rest.
    pub slots: HashMap<Place, OpenSlot>,
    /// The keys that lead to them.
    pub keys: Vec<OpenKey>,
    /// Models, by their rows.
    pub models: HashMap<i64, OpenModel>,
}

/// What bounds a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Calls that may start in this turn at most.
    pub calls: usize,
    /// Those of them that jobs with a priority of 0 or less may take: the rest is kept for jobs
    /// that somebody waits for.
    pub bulk: usize,
    /// Whether a key takes one call at a time, because it rests after each.
    pub one_call_a_key: bool,
}

/// One job with the key it goes out with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// The job's row.
    pub job: i64,
    /// The key's row.
    pub key: i64,
    /// The tokens of input that were reserved.
    pub tokens: i64,
}

/// What happens in a turn.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Jobs that start.
    pub calls: Vec<Grant>,
    /// Jobs that wait until the key has their media.
    pub uploads: Vec<Grant>,
    /// The slots that calls were taken from.
    pub used: HashSet<Place>,
    /// When the first job that was left behind may start, by its slots.
    pub next_at: Option<Timestamp>,
}

/// Gives each candidate, best first, a key whose limits allow the call now: one that costs nothing
/// before one that does, then the least busy, then the most rested.
///
/// A model without room stands in nobody's way. A job with uploads goes to a key that has them, and
/// waits for one that has them and no room at the moment; only where none of them may be used are
/// they uploaded for another. What calls take is noted in the slots.
pub fn plan(mut candidates: Vec<Candidate>, open: &mut Open, bounds: Bounds, today: Today) -> Plan {
    candidates.sort_by_key(|job| (Reverse(job.priority), job.due_at, job.job));
    let mut planner = Planner::new(open, bounds, today);
    let mut plan = Plan::default();
    for job in &candidates {
        let (key, to) = match planner.put(job) {
            Some(Put::Call(key)) => (key, &mut plan.calls),
            Some(Put::Upload(key)) => (key, &mut plan.uploads),
            None => continue,
        };
        to.push(Grant { job: job.job, key, tokens: job.tokens });
    }
    plan.used = planner.used;
    plan.next_at = planner.next_at;
    plan
}

/// Where a job goes.
enum Put {
    Call(i64),
    Upload(i64),
}

/// Why a key cannot take on a job now.
struct Blocked {
    /// When its slot is ready, where that is known.
    until: Option<Timestamp>,
    /// Whether jobs that follow find it so too: this one is not too large for what is left.
    lasting: bool,
}

/// A job that is too large for what is left of a minute lets smaller ones go first for so long.
const LONG: Duration = Duration::from_mins(2);

/// How gladly a key is used, the least first: what it costs, calls of its slot in flight, when that
/// was used last, its own calls in flight, its number.
type Burden = (u8, i64, i64, i64, usize);

/// The slots as the plan fills them.
struct Planner<'a> {
    open: &'a mut Open,
    bounds: Bounds,
    today: Today,
    /// Keys by model, best first; what has no room any more is taken out.
    keys: HashMap<i64, BinaryHeap<Reverse<Burden>>>,
    /// Keys with a call in this plan.
    called: HashSet<i64>,
    used: HashSet<Place>,
    next_at: Option<Timestamp>,
}

impl<'a> Planner<'a> {
    fn new(open: &'a mut Open, bounds: Bounds, today: Today) -> Self {
        let mut planner = Self {
            open,
            bounds,
            today,
            keys: HashMap::new(),
            called: HashSet::new(),
            used: HashSet::new(),
            next_at: None,
        };
        let mut keys: HashMap<i64, Vec<Reverse<Burden>>> = HashMap::new();
        for (number, key) in planner.open.keys.iter().enumerate() {
            keys.entry(key.slot.1).or_default().push(Reverse(planner.burden(number)));
        }
        planner.keys = keys.into_iter().map(|(model, keys)| (model, keys.into())).collect();
        planner
    }

    fn burden(&self, number: usize) -> Burden {
        let key = &self.open.keys[number];
        let slot = self.open.slots.get(&key.slot);
        let (busy, last) = slot.map_or((0, 0), |it| (it.busy.calls, it.traffic.window.last_at()));
        (key.rank, busy, last, key.in_flight, number)
    }

    fn put(&mut self, job: &Candidate) -> Option<Put> {
        if job.uploads.is_none() && job.avoid.is_none() {
            return self.best(job).map(|number| self.call(job, number));
        }
        let keys = self.open.keys.iter().enumerate();
        let mut keys: Vec<(usize, i64)> = keys
            .filter(|(_, key)| key.slot.1 == job.model)
            .map(|(number, key)| (number, key.key))
            .collect();
        keys.sort_by_key(|&(number, key)| (job.avoid == Some(key), self.burden(number)));
        if !keys.iter().any(|(_, key)| job.has_media(*key)) {
            let (number, _) = keys.iter().min_by_key(|(_, key)| !job.is_under_way(*key))?;
            return Some(self.upload(*number));
        }
        if !self.may_start(job) {
            return None;
        }
        let able = keys.into_iter().filter(|(_, key)| job.has_media(*key));
        let ready =
            able.map(|(number, _)| number).find(|number| self.try_key(*number, job).is_ok());
        ready.map(|number| self.call(job, number))
    }

    /// Returns the best key that has room for the job.
    fn best(&mut self, job: &Candidate) -> Option<usize> {
        if !self.may_start(job) {
            return None;
        }
        let mut keys = self.keys.remove(&job.model)?;
        let mut passed_over = Vec::new();
        let mut found = None;
        let mut held: Option<(Timestamp, Reverse<Burden>)> = None;
        while found.is_none() {
            let Some(Reverse(burden)) = keys.pop() else { break };
            let number = burden.4;
            match self.try_key(number, job) {
                // Another key of its project was used in this plan.
                Ok(()) if self.burden(number) != burden => keys.push(Reverse(self.burden(number))),
                Ok(()) => found = Some(number),
                Err(Blocked { lasting: true, .. }) => {}
                Err(Blocked { lasting: false, until }) => {
                    let until = until.unwrap_or(self.today.now);
                    if held.is_none_or(|(first, _)| until < first) {
                        passed_over.extend(held.replace((until, Reverse(burden))).map(|it| it.1));
                    } else {
                        passed_over.push(Reverse(burden));
                    }
                }
            }
        }
        // What has room first for a job that has waited long takes no smaller ones before it.
        let waits_long = self.today.now.since(job.due_at) > LONG;
        passed_over.extend(held.filter(|_| found.is_some() || !waits_long).map(|it| it.1));
        keys.extend(passed_over);
        self.keys.insert(job.model, keys);
        found
    }

    fn may_start(&self, job: &Candidate) -> bool {
        self.bounds.calls > 0 && (self.bounds.bulk > 0 || job.priority > 0)
    }

    /// Checks whether a key may take on the job, and notes when, if not now.
    fn try_key(&mut self, number: usize, job: &Candidate) -> Result<(), Blocked> {
        let checked = self.check(number, job);
        if let Err(Blocked { until: Some(until), .. }) = &checked {
            self.next_at = Some(self.next_at.map_or(*until, |before| before.min(*until)));
        }
        checked
    }

    fn check(&self, number: usize, job: &Candidate) -> Result<(), Blocked> {
        let full = |until| Err(Blocked { until, lasting: true });
        let key = &self.open.keys[number];
        let model = self.open.models.get(&job.model).copied().unwrap_or_default();
        let Some(slot) = self.open.slots.get(&key.slot).filter(|_| key.free) else {
            return full(None);
        };
        let called = self.bounds.one_call_a_key && self.called.contains(&key.key);
        if called || model.room <= 0 || (slot.probing && slot.busy.calls > 0) {
            return full(None);
        }
        let knows_limit = slot.paid || slot.limits.of(Quota::Rpm).is_some();
        let is_bulk = job.priority <= 0;
        let care = cautious(slot.traffic.window.calls(), &slot.busy, knows_limit);
        if let Some(until) = care.filter(|_| is_bulk) {
            return full(Some(until));
        }
        let paced = model.paced && is_bulk;
        let (owner, limits) = (key.slot.0, &slot.limits);
        match slot.traffic.ready(limits, job.tokens, paced, &self.today) {
            Ready::Now => Ok(()),
            Ready::Tomorrow => full(Some(self.today.tomorrow(owner))),
            Ready::At(until) => {
                let lasting = slot.traffic.ready(limits, 0, paced, &self.today) != Ready::Now;
                Err(Blocked { until: Some(until), lasting })
            }
        }
    }

    fn call(&mut self, job: &Candidate, number: usize) -> Put {
        let OpenKey { key, slot: place, .. } = self.open.keys[number];
        self.open.keys[number].in_flight += 1;
        if let Some(slot) = self.open.slots.get_mut(&place) {
            let which = (place.0, slot.probing);
            slot.traffic.take(&slot.limits, job.tokens, which, &self.today);
            slot.busy.start(self.today.now);
        }
        if let Some(model) = self.open.models.get_mut(&job.model) {
            model.room -= 1;
        }
        self.bounds.calls -= 1;
        self.bounds.bulk -= usize::from(job.priority <= 0);
        self.called.insert(key);
        self.used.insert(place);
        let burden = self.burden(number);
        self.keys.entry(job.model).or_default().push(Reverse(burden));
        Put::Call(key)
    }

    fn upload(&mut self, number: usize) -> Put {
        let OpenKey { key, slot, .. } = self.open.keys[number];
        if let Some(slot) = self.open.slots.get_mut(&slot) {
            slot.busy.calls += 1;
        }
        Put::Upload(key)
    }
}

#[cfg(test)]
mod tests;
