//! Compares what was accepted, what the stand-in's journal says, and what the database holds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use super::support::{MISCOUNTED, STRAYS};

/// A call as the journal has it.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) at_ms: i64,
    pub(crate) key: String,
    pub(crate) prompt: String,
    /// When its answer was ready, if there was one.
    pub(crate) answered_ms: Option<i64>,
    /// Whether a whole usable answer went out.
    pub(crate) is_answered: bool,
    /// The status that went out, if any did.
    pub(crate) status: Option<u16>,
}

/// Reads a stand-in's journal.
pub(crate) fn calls(journal: &Path) -> Vec<Call> {
    let mut calls: BTreeMap<u64, Call> = BTreeMap::new();
    for line in std::fs::read_to_string(journal).unwrap_or_default().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let number = line["n"].as_u64().unwrap();
        let text = |name: &str| line[name].as_str().unwrap().to_owned();
        if line["event"] == "request" {
            let at_ms = line["at_ms"].as_i64().unwrap();
            let (key, prompt, answered_ms) = (text("key"), text("prompt"), None);
            let call = Call { at_ms, key, prompt, answered_ms, is_answered: false, status: None };
            calls.insert(number, call);
        } else {
            let call = calls.get_mut(&number).unwrap();
            call.answered_ms = line["at_ms"].as_i64();
            call.is_answered = line["usable"] == true;
            call.status = line["status"].as_u64().and_then(|status| u16::try_from(status).ok());
        }
    }
    calls.into_values().collect()
}

/// A process that was killed, or stood still beyond its lease: when, and which by its key.
#[derive(Debug)]
pub(crate) struct Upset {
    pub(crate) key: String,
    pub(crate) at_ms: i64,
}

/// A call may reach the stand-in after the process that sent it is dead.
const ON_THE_WAY_MS: i64 = 500;

/// An answer that went out so long before a death may not be recorded yet: the disk is slow, or one that
/// stands still (twice a lease, 4 s) holds the lock.
const UNRECORDED_MS: i64 = 5_000;

impl Upset {
    /// Returns whether it may have had the call in flight.
    fn cut(&self, call: &Call) -> bool {
        self.key == call.key
            && call.at_ms <= self.at_ms + ON_THE_WAY_MS
            && call.answered_ms.is_none_or(|answered| answered >= self.at_ms - UNRECORDED_MS)
    }
}

/// A job as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) state: String,
    pub(crate) finished_at: Option<i64>,
    pub(crate) raw: Option<String>,
}

/// Opens a database to look at it only.
pub(crate) fn open(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.busy_timeout(std::time::Duration::from_secs(30))?;
    Ok(connection)
}

/// Returns all jobs by batch and task id.
pub(crate) fn jobs(connection: &Connection) -> HashMap<(String, String), Held> {
    let mut query = connection
        .prepare(
            "SELECT b.name, j.task_id, j.state, j.finished_at, a.raw FROM jobs AS j
               JOIN batches AS b ON b.id = j.batch_id LEFT JOIN answers AS a ON a.job_id = j.id",
        )
        .unwrap();
    let rows = query.query_map([], |row| {
        let held = Held { state: row.get(2)?, finished_at: row.get(3)?, raw: row.get(4)? };
        Ok(((row.get(0)?, row.get(1)?), held))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

/// What must hold in every database, with the words for where it does not.
const RULES: [(&str, &str); 7] = [
    ("rows that refer to none", "SELECT count(*) FROM pragma_foreign_key_check"),
    ("batches that count wrongly", MISCOUNTED),
    (
        "succeeded jobs without an answer",
        "SELECT count(*) FROM jobs WHERE state = 'succeeded' AND id NOT IN
            (SELECT job_id FROM answers)",
    ),
    (
        "jobs without a request",
        "SELECT count(*) FROM jobs WHERE id NOT IN (SELECT job_id FROM inputs)",
    ),
    ("jobs of no batch", STRAYS),
    (
        "jobs with two recorded successes",
        "SELECT count(*) FROM (SELECT 1 FROM attempts WHERE outcome = 'succeeded'
                                GROUP BY job_id HAVING count(*) > 1)",
    ),
    (
        "jobs whose worker is not registered",
        "SELECT count(*) FROM jobs WHERE state = 'running' AND worker_id NOT IN
            (SELECT id FROM workers)",
    ),
];

/// Returns what is wrong with a database, whatever was done to it.
pub(crate) fn unsound(connection: &Connection) -> Vec<String> {
    let mut faults = Vec::new();
    let check =
        connection.query_row("PRAGMA integrity_check(3)", [], |row| row.get::<_, String>(0));
    match check {
        Ok(said) if said == "ok" => {}
        Ok(said) => return vec![format!("integrity: {said}")],
        Err(error) => return vec![format!("integrity: {error}")],
    }
    // A first start may have been broken off before there was any.
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name = 'attempts'";
    if connection.query_row(tables, [], |row| row.get::<_, i64>(0)) == Ok(0) {
        return faults;
    }
    for (rule, count) in RULES {
        match connection.query_row(count, [], |row| row.get::<_, i64>(0)) {
            Ok(0) => {}
            Ok(number) => faults.push(format!("{rule}: {number}")),
            Err(error) => faults.push(format!("{rule}: {error}")),
        }
    }
    faults
}

/// What a run came to.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) accepted: usize,
    pub(crate) recorded: usize,
    pub(crate) lost: Vec<String>,
    pub(crate) unexpected: Vec<String>,
    pub(crate) twice: Vec<String>,
    /// Calls made again; and those of them that no death explains.
    pub(crate) repeated: usize,
    pub(crate) unexplained: Vec<String>,
}

impl Account {
    /// Compares. The prompt of a job is in `accepted` under its batch and task id, and stands in its
    /// answer; `seen` are results as they were read on the way; each of `upsets` excuses at most
    /// `at_once` calls that were in flight then.
    pub(crate) fn of(
        accepted: &HashMap<(String, String), String>,
        held: &HashMap<(String, String), Held>,
        seen: &HashMap<(String, String), Held>,
        calls: &[Call],
        upsets: &[Upset],
        at_once: usize,
    ) -> Self {
        let mut account = Self { accepted: accepted.len(), ..Self::default() };
        for (task, prompt) in accepted {
            let answered = held.get(task).is_some_and(|job| {
                job.state == "succeeded"
                    && job.raw.as_ref().is_some_and(|raw| raw.contains(prompt.as_str()))
            });
            if answered {
                account.recorded += 1;
            } else {
                account.lost.push(format!("{task:?}: {:?}", held.get(task).map(|job| &job.state)));
            }
        }
        let strange = held.keys().filter(|task| !accepted.contains_key(*task));
        account.unexpected.extend(strange.map(|task| format!("{task:?}")));
        let changed = seen.iter().filter(|(task, before)| held.get(*task) != Some(before));
        account.twice.extend(changed.map(|(task, _)| format!("{task:?}")));
        account.explain(calls, upsets, at_once);
        account
    }

    fn explain(&mut self, calls: &[Call], upsets: &[Upset], at_once: usize) {
        let mut by_prompt: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
        for call in calls {
            by_prompt.entry(call.prompt.as_str()).or_default().push(call);
        }
        let mut left = vec![at_once; upsets.len()];
        for (prompt, calls) in by_prompt {
            for pair in calls.windows(2) {
                let (first, second) = (pair[0], pair[1]);
                // One that the server refused is made again by right.
                if first.status.is_some_and(|status| status >= 400) {
                    continue;
                }
                self.repeated += 1;
                let mut excuses = upsets.iter().zip(&mut left);
                match excuses.find(|(upset, left)| **left > 0 && upset.cut(first)) {
                    Some((_, left)) => *left -= 1,
                    None => self.unexplained.push(format!("{prompt}: {first:?}, then {second:?}")),
                }
            }
        }
    }

    /// Returns what broke a promise.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (what, tasks) in [
            ("lost", &self.lost),
            ("unexpected", &self.unexpected),
            ("recorded twice, or changed", &self.twice),
            ("called again for no reason", &self.unexplained),
        ] {
            if let Some(first) = tasks.first() {
                faults.push(format!("{what}: {}, such as {first}", tasks.len()));
            }
        }
        faults
    }

    /// Returns how many prompts got more than one whole answer.
    pub(crate) fn answered_again(calls: &[Call]) -> usize {
        let mut seen = BTreeSet::new();
        let again = calls.iter().filter(|call| call.is_answered && !seen.insert(&call.prompt));
        again.map(|call| &call.prompt).collect::<BTreeSet<_>>().len()
    }
}

/// Shows the account what it has to notice, and returns what it does not.
pub(crate) fn unnoticed() -> Vec<String> {
    let task = |name: &str| ("batch".to_owned(), name.to_owned());
    let job = |state: &str, raw: &str| Held {
        state: state.to_owned(),
        finished_at: Some(1),
        raw: Some(raw.to_owned()),
    };
    let call = |key: &str, prompt: &str, at_ms| Call {
        at_ms,
        key: key.to_owned(),
        prompt: prompt.to_owned(),
        answered_ms: Some(at_ms + 5),
        is_answered: true,
        status: Some(200),
    };
    let prompts = ["fine", "wrong answer", "failed", "gone", "changed"];
    let accepted = prompts.map(|prompt| (task(prompt), prompt.to_owned())).into();
    let held = [
        (task("fine"), job("succeeded", "to: fine")),
        (task("wrong answer"), job("succeeded", "to: another")),
        (task("failed"), job("failed", "to: failed")),
        (task("changed"), job("succeeded", "to: changed once more")),
        (task("strange"), job("pending", "")),
    ];
    let seen = [(task("changed"), job("succeeded", "to: changed"))].into();
    let calls = [
        ("killed", "excused", 100_000),
        ("killed", "excused", 100_100),
        ("killed", "too early", 50_000),
        ("killed", "too early", 100_200),
        ("alive", "for no reason", 100_000),
        ("alive", "for no reason", 100_300),
    ];
    let calls = calls.map(|(key, prompt, at_ms)| call(key, prompt, at_ms));
    let upsets = [Upset { key: "killed".to_owned(), at_ms: 100_010 }];
    let account = Account::of(&accepted, &held.into(), &seen, &calls, &upsets, 4);
    let found = [
        account.recorded,
        account.lost.len(),
        account.unexpected.len(),
        account.twice.len(),
        account.repeated,
        account.unexplained.len(),
    ];
    let wanted = [2, 3, 1, 1, 3, 2];
    (found != wanted)
        .then(|| format!("the account comes to {found:?}, not {wanted:?}: {account:?}"))
        .into_iter()
        .collect()
}
