//! What may be used in this turn: keys and slots that neither rest nor have had their day.

use std::collections::{HashMap, HashSet};

use crate::domain::key::Tier;
use crate::domain::limits::Quota;
use crate::domain::plan::{Open, OpenKey, OpenModel, OpenSlot, Place};
use crate::domain::slot::Slot;
use crate::domain::time::Timestamp;
use crate::domain::today::Today;
use crate::domain::traffic::Busy;
use crate::domain::view::Waiting;
use crate::store::models::InFlight;
use crate::store::standing::Standing;
use crate::store::turn::Policy;

/// The earliest time at which more can start, and why it is not now.
#[derive(Default)]
pub(super) struct Wake {
    pub(super) earliest: Option<Timestamp>,
    /// The end of the first rest of a slot or key.
    rest: Option<Timestamp>,
}

impl Wake {
    pub(super) fn at(&mut self, time: Timestamp) {
        self.earliest = Some(self.earliest.map_or(time, |earliest| earliest.min(time)));
    }

    fn rest(&mut self, time: Timestamp) {
        self.rest = Some(self.rest.map_or(time, |earliest| earliest.min(time)));
        self.at(time);
    }
}

/// What may be used.
pub(super) struct Opened {
    pub(super) open: Open,
    /// Those with pending jobs.
    pub(super) models: Vec<(i64, String)>,
    /// Keys that are alive and have no open slot.
    resting: usize,
    /// Keys that rest after a use.
    cooling: usize,
}

impl Opened {
    /// Says what is waited for where it is the keys.
    pub(super) fn waiting(&self, wake: &Wake) -> Option<Waiting> {
        let starved = self.open.keys.is_empty() && self.cooling == 0;
        (starved && self.resting > 0).then(|| Waiting {
            reason: match self.resting {
                1 => "the key rests".to_owned(),
                number => format!("all {number} keys rest"),
            },
            until: wake.rest,
        })
    }
}

/// What there is to do, and with which keys.
pub(super) struct Work<'a> {
    /// Keys that this process holds.
    pub(super) own: &'a HashSet<i64>,
    /// Pending jobs in scope.
    pub(super) pending: i64,
    /// Models that have pending ones.
    pub(super) models: Vec<(i64, String)>,
    pub(super) busy: InFlight,
}

/// Finds out what may be used for the jobs in scope.
pub(super) fn open(
    standing: &mut Standing,
    Work { own, pending, models, busy }: Work<'_>,
    policy: &Policy,
    today: Today,
    wake: &mut Wake,
) -> Opened {
    let mut opening = Opening {
        standing,
        policy,
        today,
        busy,
        rests: HashMap::new(),
        wake,
        opened: Opened { open: Open::default(), models, resting: 0, cooling: 0 },
    };
    for index in 0..opening.standing.keys.len() {
        let key = &opening.standing.keys[index];
        if key.is_alive() && own.contains(&key.id) {
            let cooling = key.cooldown_end(policy.key_cooldown, today.now);
            let rank = Tier::rank(key.settings.tier);
            opening.key((key.id, key.owner), rank, cooling);
        }
    }
    opening.count_models(pending);
    opening.opened
}

struct Opening<'a> {
    standing: &'a mut Standing,
    policy: &'a Policy,
    today: Today,
    busy: InFlight,
    /// Whether the slots that were looked at rest.
    rests: HashMap<Place, bool>,
    wake: &'a mut Wake,
    opened: Opened,
}

impl Opening<'_> {
    /// Looks at a key, which rests until `cooling` after its last use.
    fn key(&mut self, (key, owner): (i64, i64), rank: u8, cooling: Option<Timestamp>) {
        let one_at_a_time = !self.policy.key_cooldown.is_zero();
        let is_busy = one_at_a_time && self.busy.keys().any(|(id, _)| *id == key);
        // A key that rests after a use may be used soon: jobs whose media it has wait for it.
        if let Some(end) = cooling {
            self.wake.at(end);
            self.opened.cooling += 1;
        }
        let mut usable = cooling.is_some();
        for index in 0..self.opened.models.len() {
            let model = self.opened.models[index].0;
            let slot = (owner, model);
            if cooling.is_none() && self.rests(slot, index) {
                continue;
            }
            usable = true;
            self.opened.open.keys.push(OpenKey {
                key,
                slot,
                rank,
                in_flight: self.busy.get(&(key, model)).map_or(0, |(busy, _)| busy.calls),
                free: cooling.is_none() && !is_busy,
            });
        }
        self.opened.resting += usize::from(!usable);
    }

    /// Returns whether a slot rests, or else opens it.
    fn rests(&mut self, place: Place, model: usize) -> bool {
        if let Some(rests) = self.rests.get(&place) {
            return *rests;
        }
        let (rests, now) = (&self.policy.rests, self.today.now);
        let name = &self.opened.models[model].1;
        let limits =
            self.standing.limits(place, name, std::slice::from_ref(&self.policy.limits), now);
        let fresh = Slot::default();
        let slot = self.standing.slots.get(&place).unwrap_or(&fresh);
        let rest = match slot.rest_end(rests, now) {
            None if slot.traffic.has_had_its_day(&limits) => Some(self.today.tomorrow(place.0)),
            // Everybody's day begins in the same second.
            None if limits.of(Quota::Rpd).is_some() && slot.traffic.day_calls == 0 => {
                self.today.first_call(place.0)
            }
            rest => rest,
        };
        if let Some(end) = rest {
            self.wake.rest(end);
        }
        let probing = slot.streak > 0;
        let rests = slot.never || rest.is_some();
        if !rests {
            let (busy, paid) = (self.busy_of(place), self.is_paid(place.0));
            let slot = self.standing.slots.get_mut(&place);
            let traffic = slot.map(|slot| std::mem::take(&mut slot.traffic)).unwrap_or_default();
            let open = OpenSlot { limits, traffic, busy, probing, paid };
            self.opened.open.slots.insert(place, open);
        }
        self.rests.insert(place, rests);
        rests
    }

    /// Returns the calls in flight of all keys of a project.
    fn busy_of(&self, (owner, model): Place) -> Busy {
        let keys = self.standing.project(owner);
        let all = keys.filter_map(|key| self.busy.get(&(key.id, model)));
        all.fold(Busy::default(), |sum, (busy, _)| Busy {
            calls: sum.calls + busy.calls,
            fresh: sum.fresh + busy.fresh,
            first_fresh: [sum.first_fresh, busy.first_fresh].into_iter().flatten().min(),
        })
    }

    fn is_paid(&self, owner: i64) -> bool {
        let mut keys = self.standing.project(owner);
        keys.any(|key| key.settings.tier == Some(Tier::Paid))
    }

    fn count_models(&mut self, pending: i64) {
        for (model, _) in &self.opened.models {
            // Slots without a limit by the minute have no turns to take.
            let limited =
                self.opened.open.slots.iter().filter(|(place, slot)| {
                    place.1 == *model && slot.limits.of(Quota::Rpm).is_some()
                });
            let rooms = limited.map(|(_, slot)| slot.traffic.room(&slot.limits));
            let room = rooms.fold(0_i64, i64::saturating_add);
            let of_model = self.busy.iter().filter(|((_, id), _)| *id == *model);
            let in_flight: i64 = of_model.map(|(_, (_, recent))| recent).sum();
            let now = self.today.now;
            let known = self.standing.models.get(model);
            let overload = known.map(|it| it.overload(now)).unwrap_or_default();
            let rest = overload.rest_end(now);
            if let Some(end) = rest {
                self.wake.at(end);
            }
            let most = if rest.is_some() { 0 } else { overload.most() };
            let open = OpenModel { room: most.saturating_sub(in_flight), paced: pending > room };
            self.opened.open.models.insert(*model, open);
        }
    }
}
