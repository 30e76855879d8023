//! Power cuts: what the processes wrote is recorded call by call; then, for a moment of that record,
//! the files are made as a disk may hold them that lost its power then. What was synced is there; of
//! the rest each write is there, or not, or in part.

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::checker;
use super::rig::Rig;
use super::support::{LIMIT, TestEnv, wait_until};

/// Power cuts of one round.
const IMAGES: usize = 300;

/// Of how many cuts one is followed by work until all is done.
const RESUMED: usize = 25;

/// Jobs of a batch.
const JOBS: usize = 25;

/// A disk writes a sector whole or not at all.
const SECTOR: usize = 512;

/// Where the database is: what is done to the folder is recorded too.
const FOLDER: &str = "gq.db.folder";

/// One call of a process, in the order of the record.
#[derive(Debug)]
struct Entry {
    kind: u8,
    path: String,
    place: u64,
    data: Vec<u8>,
}

pub(crate) fn round(rig: &Rig) -> Vec<String> {
    let env = rig.env(json!({"latency_ms": {"min": 0, "max": 5}}));
    let record = recorded(rig, &env);
    let mut faults = Vec::new();
    let mut reported = 0;
    for image in 0..IMAGES {
        let at = rig.between(1, record.len());
        let folder = TempDir::new().unwrap();
        let promised = cut(rig, &record[..at], folder.path());
        reported += promised.len();
        let found = missing(folder.path(), &promised);
        faults.extend(found.into_iter().map(|fault| format!("power cut at {at}: {fault}")));
        if image.is_multiple_of(RESUMED) && faults.is_empty() {
            faults.extend(resumed(&env, folder.path(), &promised));
        }
        if !faults.is_empty() {
            break;
        }
    }
    println!("  {IMAGES} power cuts in {} calls, {reported} promises checked", record.len());
    rig.search(env.folder());
    faults
}

/// Runs commands on a recorded disk: one after the other, and several at once.
fn recorded(rig: &Rig, env: &TestEnv) -> Vec<Entry> {
    std::fs::create_dir(env.path(FOLDER)).unwrap();
    let record = env.path("record");
    let settings = [("FAULT_FILES", "gq.db"), ("RECORD", record.to_str().unwrap())];
    let command = |args: &[&str]| {
        rig.command(env, &[&["--db", &format!("{FOLDER}/gq.db")], args].concat(), &settings)
    };
    let run = |args: &[&str]| env.start(command(args)).wait().exits(0);
    for batch in ["a", "b", "c", "d"] {
        let prompts: Vec<String> =
            (1..=JOBS).map(|number| format!("{batch} number {number} end")).collect();
        env.prompts(&format!("{batch}.jsonl"), &prompts);
    }
    run(&["enqueue", "a.jsonl"]);
    run(&["work", "--drain"]);
    run(&["enqueue", "b.jsonl"]);
    let follow = env.start(command(&["results", "--follow"]));
    let worker = env.start(command(&["work", "--workers", "3"]));
    run(&["enqueue", "c.jsonl"]);
    run(&["enqueue", "d.jsonl"]);
    follow.wait().exits(0);
    worker.signal(Signal::TERM);
    worker.wait().exits(0);
    parsed(&std::fs::read(&record).unwrap())
}

/// Reads the record that `disk.c` wrote.
fn parsed(mut bytes: &[u8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    while let [kind, rest @ ..] = bytes {
        let number = |from: usize| u64::from_le_bytes(rest[from..from + 8].try_into().unwrap());
        let path = usize::try_from(u32::from_le_bytes(rest[..4].try_into().unwrap())).unwrap();
        let (place, size) = (number(4), usize::try_from(number(12)).unwrap());
        let (path, rest) = rest[20..].split_at(path);
        let (data, rest) = rest.split_at(size);
        let path = String::from_utf8(path.to_vec()).unwrap();
        entries.push(Entry { kind: *kind, path, place, data: data.to_vec() });
        bytes = rest;
    }
    entries
}

/// A file, whatever its name is by now.
#[derive(Debug, Default, Clone)]
struct Node {
    /// What is on the disk for sure.
    synced: Vec<u8>,
    /// What may be there too.
    pending: Vec<Change>,
    /// How many of these each sync under way will make sure of, by thread.
    syncing: HashMap<u64, usize>,
}

#[derive(Debug, Clone)]
enum Change {
    Write { place: usize, data: Vec<u8> },
    Truncate { size: usize },
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { place, data } => {
                let end = place + data.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*place..end].copy_from_slice(data);
            }
            Self::Truncate { size } => content.resize(*size, 0),
        }
    }

    /// The first sectors of it.
    fn torn(&self, sectors: usize) -> Self {
        match self {
            Self::Write { place, data } => {
                let data = data[..data.len().min(sectors * SECTOR)].to_vec();
                Self::Write { place: *place, data }
            }
            Self::Truncate { .. } => self.clone(),
        }
    }
}

/// A disk with the one folder that matters.
#[derive(Default)]
struct Disk {
    nodes: Vec<Node>,
    /// The names that are seen now, and those that are on the disk for sure.
    names: HashMap<String, usize>,
    synced_names: HashMap<String, usize>,
    /// Changes of names since, in their order.
    renamed: Vec<(String, Option<usize>)>,
    /// How many of these each sync of the folder that is under way will make sure of, by thread.
    syncing: HashMap<u64, usize>,
}

impl Disk {
    fn play(&mut self, entry: &Entry) {
        let place = usize::try_from(entry.place).unwrap_or(usize::MAX);
        let path = &entry.path;
        match entry.kind {
            // Two processes may both find it missing; one of them makes it.
            b'c' => self.make(path),
            b'u' => self.name(path, None),
            b'w' => self.change(path, Change::Write { place, data: entry.data.clone() }),
            b't' => self.change(path, Change::Truncate { size: place }),
            b's' => {
                if path.ends_with(FOLDER) {
                    self.syncing.insert(entry.place, self.renamed.len());
                }
                if let Some(node) = self.node(path) {
                    let sure = node.pending.len();
                    node.syncing.insert(entry.place, sure);
                }
            }
            b'S' => self.synced(path, entry.place),
            _ => {}
        }
    }

    fn name(&mut self, path: &str, node: Option<usize>) {
        match node {
            Some(node) => self.names.insert(path.to_owned(), node),
            None => self.names.remove(path),
        };
        self.renamed.push((path.to_owned(), node));
    }

    fn node(&mut self, path: &str) -> Option<&mut Node> {
        self.names.get(path).map(|node| &mut self.nodes[*node])
    }

    fn make(&mut self, path: &str) {
        if !self.names.contains_key(path) {
            self.nodes.push(Node::default());
            self.name(path, Some(self.nodes.len() - 1));
        }
    }

    fn change(&mut self, path: &str, change: Change) {
        // One that has no name any more is lost in any case.
        if path.ends_with(" (deleted)") {
            return;
        }
        self.make(path);
        if let Some(node) = self.node(path) {
            node.pending.push(change);
        }
    }

    fn synced(&mut self, path: &str, thread: u64) {
        if path.ends_with(FOLDER) {
            let sure = self.syncing.remove(&thread).unwrap_or(0).min(self.renamed.len());
            for other in self.syncing.values_mut() {
                *other = other.saturating_sub(sure);
            }
            for (path, node) in self.renamed.drain(..sure) {
                match node {
                    Some(node) => self.synced_names.insert(path, node),
                    None => self.synced_names.remove(&path),
                };
            }
        }
        let Some(node) = self.node(path) else { return };
        let Some(sure) = node.syncing.remove(&thread) else { return };
        for change in node.pending.drain(..sure) {
            change.apply(&mut node.synced);
        }
        for other in node.syncing.values_mut() {
            *other = other.saturating_sub(sure);
        }
    }

    /// Writes the files as they may be after a power cut now.
    fn lose_power(mut self, rig: &Rig, folder: &Path) {
        let kept = rig.between(0, self.renamed.len());
        for (path, node) in self.renamed.drain(..).take(kept) {
            match node {
                Some(node) => self.synced_names.insert(path, node),
                None => self.synced_names.remove(&path),
            };
        }
        for (path, node) in &self.synced_names {
            let name = Path::new(path).file_name().unwrap().to_str().unwrap();
            // The index of the log and the locks are made anew by whoever comes first.
            if !matches!(name, "gq.db" | "gq.db-wal" | "gq.db-journal") {
                continue;
            }
            let node = &self.nodes[*node];
            let mut content = node.synced.clone();
            for change in &node.pending {
                match rig.between(0, 5) {
                    0..=2 => change.apply(&mut content),
                    3 => change.torn(rig.between(0, 16)).apply(&mut content),
                    _ => {}
                }
            }
            std::fs::write(folder.join(name), content).unwrap();
        }
    }
}

/// Cuts the power after these calls, and returns what was printed before: each line a promise.
fn cut(rig: &Rig, record: &[Entry], folder: &Path) -> Vec<Value> {
    let mut disk = Disk::default();
    for entry in record {
        disk.play(entry);
    }
    disk.lose_power(rig, folder);
    let printed = record.iter().filter(|entry| entry.kind == b'p');
    let text: Vec<u8> = printed.flat_map(|entry| entry.data.clone()).collect();
    let text = String::from_utf8(text).unwrap();
    // A last line without its end is none yet.
    let (whole, _) = text.rsplit_once('\n').unwrap_or_default();
    whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Returns what of the promises a disk does not hold.
fn missing(folder: &Path, promised: &[Value]) -> Vec<String> {
    let path = folder.join("gq.db");
    if !path.exists() {
        let lost = !promised.is_empty();
        return lost.then(|| "there is no database".to_owned()).into_iter().collect();
    }
    let connection = match checker::open(&path) {
        Ok(connection) => connection,
        Err(error) => return vec![error.to_string()],
    };
    let mut faults = checker::unsound(&connection);
    if promised.is_empty() || !faults.is_empty() {
        return faults;
    }
    let held = checker::jobs(&connection);
    for promise in promised {
        let batch = promise["batch"].as_str().unwrap();
        if promise["enqueued"].is_number() {
            let jobs = held.keys().filter(|task| task.0 == batch).count();
            if jobs != JOBS {
                faults.push(format!("{jobs} of {JOBS} jobs of {batch} are there"));
            }
            continue;
        }
        let task = promise["task_id"].as_str().unwrap();
        let response = promise["response"].as_str().unwrap();
        let job = held.get(&(batch.to_owned(), task.to_owned()));
        let fits = job.is_some_and(|job| {
            job.state == "succeeded" && job.raw.as_ref().is_some_and(|raw| raw.contains(response))
        });
        if !fits {
            faults.push(format!("the answer to {task} of {batch} is gone: {job:?}"));
        }
    }
    faults
}

/// Works on after a power cut, until all is done that was promised.
fn resumed(env: &TestEnv, folder: &Path, promised: &[Value]) -> Vec<String> {
    let database = folder.join("gq.db");
    let database = database.to_str().unwrap();
    let mut command = env.command(&["--db", database, "work", "--drain"]);
    if promised.is_empty() {
        command = env.command(&["--db", database, "enqueue", "a.jsonl"]);
    }
    let ran = command.stdin(Stdio::null()).output().unwrap();
    if !ran.status.success() {
        return vec![format!("nothing goes on: {}", String::from_utf8_lossy(&ran.stderr))];
    }
    let connection = checker::open(&folder.join("gq.db")).unwrap();
    let state = if promised.is_empty() { "pending" } else { "succeeded" };
    let others = checker::jobs(&connection).into_values().filter(|job| job.state != state).count();
    wait_until("the end of all calls", LIMIT, || env.mock().stats().in_flight == 0);
    let mut faults = checker::unsound(&connection);
    faults.extend((others > 0).then(|| format!("{others} jobs are not {state}")));
    faults
}
