//! A folder, a clean environment and a stand-in for one test.

pub(crate) mod snapshot;

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gq::domain::hex::hex;
use gq::mock::MockServer;
use gq::mock::config::Config;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// No command of a test takes so long; one that does hangs.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Counts the batches whose counts differ from a recount.
pub(crate) const MISCOUNTED: &str = "SELECT count(*) FROM batches AS b
      WHERE (pending, running, succeeded, failed, cancelled) IS NOT
            (SELECT count(*) FILTER (WHERE state = 'pending'),
                    count(*) FILTER (WHERE state = 'running'),
                    count(*) FILTER (WHERE state = 'succeeded'),
                    count(*) FILTER (WHERE state = 'failed'),
                    count(*) FILTER (WHERE state = 'cancelled')
               FROM jobs WHERE batch_id = b.id)";

/// Counts the jobs of no batch.
pub(crate) const STRAYS: &str =
    "SELECT count(*) FROM jobs WHERE batch_id NOT IN (SELECT id FROM batches)";

/// Who owns nothing.
const NOBODY: u32 = 65_534;

const POLL: Duration = Duration::from_millis(10);

/// Waits until `condition` holds; `what` names it when the time is up.
pub(crate) fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "waited in vain for: {what}");
        thread::sleep(POLL);
    }
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Its exit code; none if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Checks the exit code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Returns stdout as one JSON value.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// Returns the JSON values of stdout, one a line.
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// A `gq` that runs beside the test; it is killed when the test is over.
pub(crate) struct Running {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Running {
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Kills it as a power cut would; it must not have ended by itself.
    pub(crate) fn kill(mut self) {
        assert_eq!(self.child.try_wait().unwrap(), None, "{}", self.stderr());
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Lets its files grow without limit.
    #[cfg(target_os = "linux")]
    pub(crate) fn lift_file_limit(&self) {
        use rustix::process::{Resource, Rlimit, prlimit};
        let unlimited = Rlimit { current: None, maximum: None };
        prlimit(Some(Pid::from_child(&self.child)), Resource::Fsize, unlimited).unwrap();
    }

    /// Returns whether it handles `signal` itself.
    #[cfg(target_os = "linux")]
    pub(crate) fn catches(&self, signal: Signal) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        let mask = u64::from_str_radix(mask.trim(), 16).unwrap();
        mask & (1 << (signal.as_raw() - 1)) != 0
    }

    /// Returns the most memory it ever had in use, in bytes.
    #[cfg(target_os = "linux")]
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Returns what it has written to stdout so far.
    pub(crate) fn stdout(&self) -> String {
        std::fs::read_to_string(&self.stdout).unwrap()
    }

    /// Returns what it has written to stderr so far.
    pub(crate) fn stderr(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap()
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Ran {
        wait_until("the end of a process", LIMIT, || self.child.try_wait().unwrap().is_some());
        Ran {
            code: self.child.wait().unwrap().code(),
            stdout: self.stdout(),
            stderr: self.stderr(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder of its own, an environment without anything of the outside, and a stand-in.
pub(crate) struct TestEnv {
    folder: TempDir,
    /// The `gq` that is run.
    pub(crate) program: PathBuf,
    variables: Vec<(String, String)>,
    /// Who runs commands, where it is not whoever runs the test.
    user: Option<u32>,
    stand_in: Option<MockServer>,
    runtime: Runtime,
    processes: AtomicUsize,
}

impl TestEnv {
    pub(crate) fn new() -> Self {
        Self {
            folder: TempDir::new().unwrap(),
            program: PathBuf::from(env!("CARGO_BIN_EXE_gq")),
            variables: Vec::new(),
            user: None,
            stand_in: None,
            runtime: Runtime::new().unwrap(),
            processes: AtomicUsize::new(0),
        }
    }

    /// Starts a stand-in and one key for it.
    pub(crate) fn with_stand_in(config: &Value) -> Self {
        let mut env = Self::new();
        env.stand_in(config);
        env.set("GEMINI_API_KEY", "secret-one");
        env
    }

    /// Starts a stand-in that all commands from now on talk to; returns its address.
    pub(crate) fn stand_in(&mut self, config: &Value) -> String {
        let config = Config::from_json(&config.to_string()).unwrap();
        let server = self.runtime.block_on(async {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            MockServer::start(listener, config).unwrap()
        });
        let url = server.url();
        self.set("GEMINI_BASE_URL", &url);
        self.stand_in = Some(server);
        url
    }

    pub(crate) fn mock(&self) -> &MockServer {
        self.stand_in.as_ref().unwrap()
    }

    /// Returns how many calls came in all.
    pub(crate) fn calls(&self) -> u64 {
        self.mock().stats().requests
    }

    /// Returns how many calls came with `secret`.
    pub(crate) fn calls_with(&self, secret: &str) -> u64 {
        self.mock().key_stats().get(secret).map_or(0, |key| key.requests)
    }

    /// Returns how many calls came whose prompt holds `text`.
    pub(crate) fn calls_about(&self, text: &str) -> usize {
        self.mock().requests().iter().filter(|call| call.prompt.contains(text)).count()
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// Lets commands be run by somebody who has no rights: no file is read-only to a superuser.
    /// False where nobody else may run the program, or come to the folder.
    pub(crate) fn without_rights(&mut self) -> bool {
        if !rustix::process::geteuid().is_root() {
            return true;
        }
        self.user = Some(NOBODY);
        let runs = self.command(&["--version"]).output().is_ok_and(|ran| ran.status.success());
        self.user = self.user.filter(|_| runs);
        runs
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap();
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes an input file with a line for each prompt; the task ids are `t1`, `t2`, ….
    pub(crate) fn prompts<P: AsRef<str>>(&self, name: &str, prompts: &[P]) {
        let line = |(index, prompt): (usize, &P)| {
            let task = format!("t{}", index + 1);
            serde_json::json!({"prompt": prompt.as_ref(), "task_id": task}).to_string() + "\n"
        };
        self.write(name, prompts.iter().enumerate().map(line).collect::<String>());
    }

    /// Runs `gq` to its end.
    pub(crate) fn gq(&self, args: &[&str]) -> Ran {
        self.gq_reading(args, Vec::new())
    }

    /// Runs `gq` to its end with `input` as stdin.
    pub(crate) fn gq_reading(&self, args: &[&str], input: impl Into<Vec<u8>>) -> Ran {
        let output = assert_cmd::Command::from_std(self.command(args))
            .write_stdin(input)
            .timeout(LIMIT)
            .output()
            .unwrap();
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs `gq` to its end where no file may grow beyond so many bytes.
    pub(crate) fn gq_within(&self, bytes: u64, args: &[&str]) -> Ran {
        self.start(self.command_within(bytes, args)).wait()
    }

    /// Starts `gq` beside the test.
    pub(crate) fn spawn(&self, args: &[&str]) -> Running {
        self.start(self.command(args))
    }

    /// Starts `gq` beside the test where no file may grow beyond so many bytes.
    pub(crate) fn spawn_within(&self, bytes: u64, args: &[&str]) -> Running {
        self.start(self.command_within(bytes, args))
    }

    /// Starts a command beside the test.
    pub(crate) fn start(&self, mut command: Command) -> Running {
        let number = self.processes.fetch_add(1, Ordering::Relaxed);
        let stdout = self.path(&format!("process-{number}.out"));
        let stderr = self.path(&format!("process-{number}.err"));
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap())
            .spawn()
            .unwrap();
        Running { child, stdout, stderr }
    }

    /// Returns the command that runs `gq`.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args);
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        self.isolate(command)
    }

    /// The limit is a soft one: it can be lifted again while the process runs.
    fn command_within(&self, bytes: u64, args: &[&str]) -> Command {
        // The shell counts in blocks of 512 bytes.
        let script = format!("ulimit -S -f {} && exec \"$0\" \"$@\"", bytes / 512);
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).arg(&self.program).args(args);
        self.isolate(command)
    }

    /// Gives a command the folder and the clean environment.
    pub(crate) fn isolate(&self, mut command: Command) -> Command {
        command
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.folder.path())
            .env("TMPDIR", self.folder.path())
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    pub(crate) fn status(&self) -> Value {
        self.gq(&["status", "--format", "json"]).exits(0).json()
    }

    /// Returns the results of all finished jobs.
    pub(crate) fn results(&self) -> Vec<Value> {
        self.gq(&["results"]).exits(0).lines()
    }

    /// Returns one job, whatever its state, with its attempts.
    pub(crate) fn show(&self, task: &str) -> Value {
        self.gq(&["show", task, "--format", "json"]).exits(0).json()
    }

    /// Returns the number that a query of the database comes to.
    pub(crate) fn count(&self, query: &'static str) -> i64 {
        self.runtime.block_on(async {
            let mut connection = self.connect().await;
            let count = sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap();
            connection.close().await.unwrap();
            count
        })
    }

    /// Checks that what the batches count is what a recount of their jobs comes to.
    #[track_caller]
    pub(crate) fn counts_are_true(&self) {
        let miscounted = self.count(MISCOUNTED);
        assert_eq!(miscounted, 0, "batches whose counts differ from a recount");
        let strays = self.count(STRAYS);
        assert_eq!(strays, 0, "jobs of no batch");
    }

    /// Changes the database behind the back of `gq`.
    pub(crate) fn execute(&self, statement: &'static str) {
        self.runtime.block_on(async {
            let mut connection = self.connect().await;
            sqlx::query(statement).execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        });
    }

    async fn connect(&self) -> SqliteConnection {
        let options =
            SqliteConnectOptions::new().filename(self.path("gq.db")).create_if_missing(true);
        SqliteConnection::connect_with(&options).await.unwrap()
    }
}

/// Returns the field `name` of each value, as text.
pub(crate) fn column(values: &[Value], name: &str) -> Vec<String> {
    let text = |value: &Value| match &value[name] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    values.iter().map(text).collect()
}

/// Returns the SHA-256 of `content` as hexadecimal digits.
pub(crate) fn hash(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}
