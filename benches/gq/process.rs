//! Processes that are measured, and the stand-in that they call.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// What a process came to.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    pub(crate) took: Duration,
    /// Seconds of the processor, of all its threads.
    pub(crate) processor: f64,
    /// The most memory that it held at once, in megabytes.
    pub(crate) memory: f64,
}

/// How a worker exits that made all the calls that it may.
const BUDGET_USED_UP: i32 = 7;

pub(crate) fn gq(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gq"));
    command.current_dir(folder).env_clear().env("GEMINI_API_KEY", "benchmark-key-0123456789");
    command
}

/// Runs a command to its end, which has to be a good one.
pub(crate) fn measured(command: &mut Command) -> Run {
    let started = Instant::now();
    let mut child =
        command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().expect("the process starts");
    let ended = AtomicBool::new(false);
    let id = child.id();
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peak = 0.0_f64;
            while !ended.load(Ordering::Relaxed) {
                peak = peak.max(peak_memory(id));
                std::thread::sleep(Duration::from_millis(10));
            }
            peak
        });
        // One that ended and is not waited for still tells what it computed.
        let pid = Pid::from_child(&child);
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
            .expect("the process can be waited for");
        let took = started.elapsed();
        let processor = processor_time(id);
        ended.store(true, Ordering::Relaxed);
        let status = child.wait().expect("the process can be waited for");
        assert!(matches!(status.code(), Some(0 | BUDGET_USED_UP)), "{command:?}: {status}");
        Run { took, processor, memory: watch.join().expect("memory can be watched") }
    })
}

pub(crate) fn fastest(runs: usize, run: impl Fn() -> Run) -> Run {
    (0..runs).map(|_| run()).min_by_key(|run| run.took).expect("one run at least")
}

/// Returns the seconds that a process has computed; Linux counts them in hundredths.
pub(crate) fn processor_time(process: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|it| it.parse::<f64>().ok());
    (ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)) / 100.0
}

fn peak_memory(process: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("");
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1024.0
}

/// A process that ends with the benchmark.
pub(crate) struct Killed(pub(crate) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `gq mock` in a process of its own.
pub(crate) struct StandIn {
    pub(crate) url: String,
    _process: Killed,
}

impl StandIn {
    pub(crate) fn start(folder: &Path, args: &[&str]) -> Self {
        let mut process = gq(folder)
            .args(["mock", "--port", "0"])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the stand-in starts");
        let mut url = String::new();
        let output = process.stdout.as_mut().expect("its output is piped");
        BufReader::new(output).read_line(&mut url).expect("it prints its address");
        Self { url: url.trim().to_owned(), _process: Killed(process) }
    }
}

pub(crate) fn remove_database(folder: &Path) {
    for part in ["", "-wal", "-shm"] {
        // The parts that a clean end removed are not there.
        let _ = std::fs::remove_file(folder.join(format!("gq.db{part}")));
    }
}

pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
