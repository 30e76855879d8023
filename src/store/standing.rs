//! How keys, slots and models stand: read once in a turn, changed by what ended and by what starts,
//! and written back at its end.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::domain::forecast::Capacity;
use crate::domain::limits::{GivenLimits, Learned, LearnedLimit, Limits};
use crate::domain::outcome::{Exhaustion, Outcome, Paid};
use crate::domain::plan::{OpenSlot, Place};
use crate::domain::slot::{Rests, Slot};
use crate::domain::time::Timestamp;
use crate::domain::today::Today;
use crate::domain::tokens;
use crate::domain::traffic::Traffic;
use crate::domain::window::Window;
use crate::store::keys::{self, KeyRow};
use crate::store::models::{self, Model};
use crate::store::turn::{Ended, Policy};
use crate::store::{StoreError, bulk};

/// Reads all slots, with their models.
macro_rules! all_slots {
    () => {
        "SELECT s.key_id, s.model_id, s.streak, s.total, s.rest_until, s.is_full, s.is_never,
                s.exhausted_at, s.reason, s.learned, s.recent, s.next_at, s.day, s.day_calls,
                m.token_rate, m.allowed, m.lowered_at, m.overloads,
                m.rest_until AS model_rest_until
           FROM slots AS s CROSS JOIN models AS m ON m.id = s.model_id"
    };
}

/// Reads keys, and slots.
macro_rules! all_standing {
    () => {
        concat!($crate::store::keys::all_keys!(), "; ", $crate::store::standing::all_slots!())
    };
}
pub(super) use {all_slots, all_standing};

/// Writes the slots in the parameter.
macro_rules! write_slots {
    ($slots:literal) => {
        concat!(
            "INSERT OR REPLACE INTO slots
                    (key_id, model_id, streak, total, rest_until, is_full, is_never, exhausted_at,
                     reason, learned, recent, next_at, day, day_calls)
             SELECT value ->> '$[0][0]', value ->> '$[0][1]', value ->> '$[1][0]',
                    value ->> '$[1][1]', value ->> '$[1][2]', value ->> '$[1][3]',
                    value ->> '$[1][4]', value ->> '$[1][5]', value ->> '$[2]', value -> '$[3]',
                    value ->> '$[4]', value ->> '$[5][0]', value ->> '$[5][1]', value ->> '$[5][2]'
               FROM jsonb_each(",
            $slots,
            ")"
        )
    };
}
pub(super) use write_slots;

/// Keys of one project run out within so long.
const SAME_MOMENT: Duration = Duration::from_secs(2);

/// Slots by the row of the key that stands for the project, and of the model.
pub(super) type Slots = HashMap<Place, Slot>;

/// Keys and slots as a turn sees them.
pub(super) struct Standing {
    pub(super) keys: Vec<KeyRow>,
    pub(super) slots: Slots,
    /// Models that have slots.
    pub(super) models: HashMap<i64, Model>,
    /// Where the keys of each project stand, by the row of the first.
    projects: HashMap<i64, Vec<usize>>,
    /// Where each key stands, by its row.
    places: HashMap<i64, usize>,
    changed: HashSet<Place>,
}

impl Standing {
    /// Reads them as they stand at `today`.
    pub(super) async fn read(
        connection: &mut SqliteConnection,
        today: &Today,
    ) -> Result<Self, StoreError> {
        let query = sqlx::query(all_standing!());
        let [keys, slots] = bulk::together(connection, query).await?;
        Self::of_rows(&keys, &slots, today)
    }

    /// Returns them as they stand at `today`, from rows of the two statements.
    pub(super) fn of_rows(
        keys: &[SqliteRow],
        slots: &[SqliteRow],
        today: &Today,
    ) -> Result<Self, StoreError> {
        let keys = keys::of_rows(keys)?;
        let mut projects: HashMap<i64, Vec<usize>> = HashMap::new();
        for (index, key) in keys.iter().enumerate() {
            projects.entry(key.owner).or_default().push(index);
        }
        let ReadSlots { slots, models, ahead } = slots_of_rows(slots, today)?;
        Ok(Self {
            slots,
            models,
            projects,
            places: keys.iter().enumerate().map(|(index, key)| (key.id, index)).collect(),
            keys,
            changed: ahead,
        })
    }

    /// Returns the row of the key that stands for the project of `key`.
    fn owner(&self, key: i64) -> i64 {
        self.places.get(&key).map_or(key, |index| self.keys[*index].owner)
    }

    fn key_mut(&mut self, key: i64) -> Option<&mut KeyRow> {
        self.places.get(&key).map(|index| &mut self.keys[*index])
    }

    /// Returns the keys of the project that the key `owner` stands for.
    pub(super) fn project(&self, owner: i64) -> impl Iterator<Item = &KeyRow> {
        self.projects.get(&owner).into_iter().flatten().map(|index| &self.keys[*index])
    }

    fn slot(&self, place: Place) -> Slot {
        self.slots.get(&place).cloned().unwrap_or_default()
    }

    /// Puts a slot in its place, to be written if it is other than before.
    fn put(&mut self, place: Place, slot: Slot) {
        if self.slots.get(&place) != Some(&slot) {
            self.slots.insert(place, slot);
            self.changed.insert(place);
        }
    }

    /// Takes what a plan has noted in slots; calls were taken from `used`.
    pub(super) fn take_back(&mut self, open: HashMap<Place, OpenSlot>, used: &HashSet<Place>) {
        for (place, open) in open {
            if used.contains(&place) {
                self.changed.insert(place);
                self.slots.entry(place).or_default().traffic = open.traffic;
            } else if let Some(slot) = self.slots.get_mut(&place) {
                slot.traffic = open.traffic;
            }
        }
    }

    /// Applies what attempts tell of their keys, slots and models.
    pub(super) async fn after_attempts(
        &mut self,
        connection: &mut SqliteConnection,
        ended: &[Ended],
        policy: &Policy,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        for ended in ended {
            let place = (self.owner(ended.key), ended.model);
            let mut slot = self.slots.remove(&place).unwrap_or_default();
            if ended.http_status.is_none() && ended.paid == Paid::No {
                slot.traffic.give_back(ended.reserved, ended.claimed_at);
            }
            if let Some(usage) = ended.usage {
                let difference = usage.prompt_tokens - ended.reserved;
                slot.traffic.window.correct(difference, ended.claimed_at);
            }
            if let Some(consumer) = &ended.consumer {
                self.note_project(connection, ended.key, consumer).await?;
            }
            match &ended.outcome {
                Outcome::Answered => slot = slot.after_success(ended.started_at),
                Outcome::Exhausted(exhaustion) => {
                    self.note_twin(connection, ended, &slot, now).await?;
                    let (began, rests) = (ended.started_at, &policy.rests);
                    let rate =
                        self.models.get(&ended.model).map_or(tokens::ONE, |it| it.token_rate);
                    let tokens = if ended.reserved == 0 {
                        ended.plain_tokens * rate / tokens::ONE
                    } else {
                        0
                    };
                    slot.learn(exhaustion, &ended.quotas, (began, tokens), now);
                    slot.traffic.forgo(ended.reserved, ended.claimed_at, now);
                    slot = slot.after_exhaustion(exhaustion, began, rests, now, ended.jitter);
                }
                Outcome::BadKey => {
                    let reason = ended.message.as_deref().unwrap_or("the API refused the key");
                    self.fail_key(connection, ended.key, reason).await?;
                }
                Outcome::Failed(_)
                | Outcome::LocationRefused
                | Outcome::FileRefused
                | Outcome::FileExpired
                | Outcome::Cut => {}
            }
            self.slots.insert(place, slot);
            self.changed.insert(place);
        }
        models::ease(connection, &mut self.models, ended, now).await?;
        keys::rest_after_use(connection, &mut self.keys, ended, policy.key_cooldown).await
    }

    /// Records that the API refused a key.
    pub(super) async fn fail_key(
        &mut self,
        connection: &mut SqliteConnection,
        key: i64,
        reason: &str,
    ) -> Result<(), StoreError> {
        keys::fail(connection, key, reason).await?;
        if let Some(key) = self.key_mut(key) {
            key.failed = Some(reason.to_owned());
        }
        Ok(())
    }

    /// Records the project that the API counted a call of the key for.
    async fn note_project(
        &mut self,
        connection: &mut SqliteConnection,
        key: i64,
        consumer: &str,
    ) -> Result<(), StoreError> {
        let row = self.key_mut(key);
        let Some(row) = row.filter(|row| row.consumer.as_deref() != Some(consumer)) else {
            return Ok(());
        };
        sqlx::query("UPDATE keys SET consumer = ?2 WHERE id = ?1")
            .bind(key)
            .bind(consumer)
            .execute(connection)
            .await?;
        row.consumer = Some(consumer.to_owned());
        Ok(())
    }

    /// Records another key that ran out in the same moment, if what was used of one of them does not
    /// explain its 429: the two may be of one project.
    async fn note_twin(
        &self,
        connection: &mut SqliteConnection,
        ended: &Ended,
        slot: &Slot,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut quotas = ended.quotas.iter();
        let unexplained = quotas.any(|(quota, limit)| slot.traffic.used(*quota) < *limit);
        let is_now = |at: Timestamp| now.since(at) <= SAME_MOMENT;
        let owner = self.owner(ended.key);
        let ran_out = |(place, other): &(&Place, &Slot)| {
            let mut learned = other.learned.0.iter().flatten();
            place.1 == ended.model
                && place.0 != owner
                && other.exhausted_at.is_some_and(is_now)
                && (unexplained || learned.any(|limit| !limit.met && is_now(limit.at)))
        };
        if let Some((twin, _)) = self.slots.iter().find(ran_out) {
            sqlx::query("UPDATE keys SET twin_id = ?2 WHERE id = ?1 AND twin_id IS NOT ?2")
                .bind(ended.key)
                .bind(twin.0)
                .execute(connection)
                .await?;
        }
        Ok(())
    }

    /// Applies a 429 of an upload that jobs of `models` wait for: the quota, when the upload began,
    /// and a number in `0.0..1.0` that spreads delays.
    pub(super) fn exhaust(
        &mut self,
        (key, models): (i64, &[i64]),
        (exhaustion, started_at, jitter): (&Exhaustion, Timestamp, f64),
        rests: &Rests,
        now: Timestamp,
    ) {
        for model in models {
            let place = (self.owner(key), *model);
            let slot = self.slot(place);
            self.put(place, slot.after_exhaustion(exhaustion, started_at, rests, now, jitter));
        }
    }

    /// Lets what keys have used go with them to the projects that they stand in after a change of
    /// labels.
    pub(super) async fn move_slots(
        mut self,
        connection: &mut SqliteConnection,
    ) -> Result<(), StoreError> {
        for key in keys::all(&mut *connection).await? {
            let before = self.owner(key.id);
            if before == key.owner || !self.places.contains_key(&key.id) {
                continue;
            }
            let models: Vec<i64> =
                self.slots.keys().filter(|place| place.0 == before).map(|place| place.1).collect();
            for model in models {
                let joined = self.slot((key.owner, model)).joined_by(self.slot((before, model)));
                self.put((key.owner, model), joined);
            }
        }
        self.write(connection).await
    }

    /// Returns the limits that hold for a slot: those that people give and those that 429s named.
    pub(super) fn limits(
        &self,
        place: Place,
        model: &str,
        given: &[GivenLimits],
        now: Timestamp,
    ) -> Limits {
        let learned = self.slots.get(&place).map(|slot| slot.learned.limits(now));
        let own = self.project(place.0).map(|key| key.settings.limits.of(model));
        let all = own.chain(learned).chain(given.iter().map(|limits| limits.of(model)));
        all.fold(Limits::default(), |one, other| one.and(&other))
    }

    /// Returns what all keys that are good may take together of `models`.
    pub(super) fn capacity(
        &self,
        models: &[(i64, String)],
        given: &[GivenLimits],
        today: &Today,
    ) -> Capacity {
        let mut owners: Vec<i64> =
            self.keys.iter().filter(|key| key.is_alive()).map(|key| key.owner).collect();
        owners.sort_unstable();
        owners.dedup();
        let mut capacity = Capacity::default();
        for (model, name) in models {
            let mut first_wakes = None;
            for owner in &owners {
                let place = (*owner, *model);
                let fresh = Slot::default();
                let slot = self.slots.get(&place).unwrap_or(&fresh);
                let limits = self.limits(place, name, given, today.now);
                if slot.never {
                    continue;
                }
                capacity = capacity.and_slot(&limits, slot.traffic.day_calls);
                let wakes = slot.rest_until.unwrap_or_default().max(today.now);
                let is_over = slot.traffic.has_had_its_day(&limits);
                let wakes = if is_over { wakes.max(today.ends) } else { wakes };
                first_wakes = Some(first_wakes.map_or(wakes, |first: Timestamp| first.min(wakes)));
            }
            if let Some(wakes) = first_wakes.filter(|wakes| *wakes > today.now) {
                capacity = capacity.and_rest(wakes);
            }
        }
        capacity
    }

    /// Returns what changed since this was last asked, for the statement that writes it.
    pub(super) fn take_changes(&mut self) -> Result<String, StoreError> {
        let places = std::mem::take(&mut self.changed);
        let row = |place: &Place| Some(slot_row(*place, self.slots.get(place)?));
        bulk::json(&places.iter().filter_map(row).collect::<Vec<SlotRow>>())
    }

    /// Writes what changed.
    pub(super) async fn write(
        mut self,
        connection: &mut SqliteConnection,
    ) -> Result<(), StoreError> {
        if self.changed.is_empty() {
            return Ok(());
        }
        sqlx::query(write_slots!("$1")).bind(self.take_changes()?).execute(connection).await?;
        Ok(())
    }
}

/// The columns of a slot, in the order of the statement that writes them.
type SlotRow = (
    Place,
    (i64, i64, Option<i64>, i64, i64, Option<i64>),
    Option<String>,
    LearnedRow,
    String,
    (i64, i64, i64),
);

/// Limits, when they were named, and whether they were met.
type LearnedRow = [Option<(i64, i64, bool)>; 3];

fn slot_row(place: Place, slot: &Slot) -> SlotRow {
    let time = |time: Option<Timestamp>| time.map(|time| time.0);
    let Traffic { window, next_at, day, day_calls } = &slot.traffic;
    (
        place,
        (
            slot.streak,
            slot.total,
            time(slot.rest_until),
            i64::from(slot.full),
            i64::from(slot.never),
            time(slot.exhausted_at),
        ),
        slot.reason.clone(),
        slot.learned.0.map(|learned| learned.map(|it| (it.limit, it.at.0, it.met))),
        window.to_text(),
        (next_at.0, *day, *day_calls),
    )
}

/// Slots as they were read.
pub(super) struct ReadSlots {
    pub(super) slots: Slots,
    models: HashMap<i64, Model>,
    /// Those that were put right because something was noted under a clock that was ahead.
    ahead: HashSet<Place>,
}

#[derive(sqlx::FromRow)]
struct ReadSlot {
    key_id: i64,
    model_id: i64,
    streak: i64,
    total: i64,
    rest_until: Option<i64>,
    is_full: bool,
    is_never: bool,
    exhausted_at: Option<i64>,
    reason: Option<String>,
    learned: String,
    recent: String,
    next_at: i64,
    day: i64,
    day_calls: i64,
    #[sqlx(flatten)]
    model: Model,
}

/// Reads all slots, with their models, as they stand at `today`.
pub(super) async fn read_slots(
    connection: &mut SqliteConnection,
    today: &Today,
) -> Result<ReadSlots, StoreError> {
    slots_of_rows(&sqlx::query(all_slots!()).fetch_all(connection).await?, today)
}

fn slots_of_rows(rows: &[SqliteRow], today: &Today) -> Result<ReadSlots, StoreError> {
    let (mut slots, mut models, mut ahead) = (Slots::new(), HashMap::new(), HashSet::new());
    for row in bulk::read::<ReadSlot>(rows)? {
        let (place, model, mut slot) = row.into_slot();
        if slot.is_ahead(today) {
            ahead.insert(place);
        }
        slot.advance(today);
        slots.insert(place, slot);
        models.insert(place.1, model);
    }
    Ok(ReadSlots { slots, models, ahead })
}

impl ReadSlot {
    fn into_slot(self) -> (Place, Model, Slot) {
        let slot = Slot {
            streak: self.streak,
            total: self.total,
            rest_until: self.rest_until.map(Timestamp),
            full: self.is_full,
            never: self.is_never,
            exhausted_at: self.exhausted_at.map(Timestamp),
            reason: self.reason,
            learned: read_learned(&self.learned),
            traffic: Traffic {
                window: Window::from_text(&self.recent),
                next_at: Timestamp(self.next_at),
                day: self.day,
                day_calls: self.day_calls,
            },
        };
        ((self.key_id, self.model_id), self.model, slot)
    }
}

/// Reads limits; text of another form tells of none.
fn read_learned(text: &str) -> Learned {
    let row: LearnedRow = serde_json::from_str(text).unwrap_or_default();
    let limit = |(limit, at, met)| LearnedLimit { limit, at: Timestamp(at), met };
    Learned(row.map(|learned| learned.map(limit)))
}
