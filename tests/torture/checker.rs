//! Compares what was accepted, what the stand-in's journal says, and what the database holds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

/// A call as the journal has it.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) key: String,
    pub(crate) prompt: String,
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
            let (key, prompt) = (text("key"), text("prompt"));
            let call = Call { key, prompt, is_answered: false, status: None };
            calls.insert(number, call);
        } else {
            let call = calls.get_mut(&number).unwrap();
            call.is_answered = line["usable"] == true;
            call.status = line["status"].as_u64().and_then(|status| u16::try_from(status).ok());
        }
    }
    calls.into_values().collect()
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
const RULES: [(&str, &str); 6] = [
    (
        "batches that count wrongly",
        "SELECT count(*) FROM batches AS b
          WHERE (pending, running, succeeded, failed, cancelled) IS NOT
                (SELECT count(*) FILTER (WHERE state = 'pending'),
                        count(*) FILTER (WHERE state = 'running'),
                        count(*) FILTER (WHERE state = 'succeeded'),
                        count(*) FILTER (WHERE state = 'failed'),
                        count(*) FILTER (WHERE state = 'cancelled')
                   FROM jobs WHERE batch_id = b.id)",
    ),
    (
        "succeeded jobs without an answer",
        "SELECT count(*) FROM jobs WHERE state = 'succeeded' AND id NOT IN
            (SELECT job_id FROM answers)",
    ),
    (
        "jobs without a request",
        "SELECT count(*) FROM jobs WHERE id NOT IN (SELECT job_id FROM inputs)",
    ),
    (
        "jobs of no batch",
        "SELECT count(*) FROM jobs WHERE batch_id NOT IN (SELECT id FROM batches)",
    ),
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
    /// answer; `seen` are results as they were read on the way; `upsets` name the key of a process for
    /// each time that it was killed or stood still beyond its lease, with at most `at_once` calls in
    /// flight.
    pub(crate) fn of(
        accepted: &HashMap<(String, String), String>,
        held: &HashMap<(String, String), Held>,
        seen: &HashMap<(String, String), Held>,
        calls: &[Call],
        upsets: &[String],
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

    fn explain(&mut self, calls: &[Call], upsets: &[String], at_once: usize) {
        let mut by_prompt: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
        for call in calls {
            by_prompt.entry(call.prompt.as_str()).or_default().push(call);
        }
        // How many calls of a process may be made again.
        let mut excused: HashMap<&str, usize> = HashMap::new();
        for key in upsets {
            *excused.entry(key).or_default() += at_once;
        }
        for (prompt, calls) in by_prompt {
            for pair in calls.windows(2) {
                let (first, second) = (pair[0], pair[1]);
                // One that the server refused is made again by right.
                if first.status.is_some_and(|status| status >= 400) {
                    continue;
                }
                self.repeated += 1;
                match excused.get_mut(first.key.as_str()) {
                    Some(left) if *left > 0 => *left -= 1,
                    _ => self.unexplained.push(format!("{prompt}: {first:?}, then {second:?}")),
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
