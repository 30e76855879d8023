//! Terminals: narrow ones, one that closes, none; and what may not be obeyed on any.

use std::fs::File;
use std::io::Read as _;
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::thread;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::json;

use crate::support::{LIMIT, TestEnv, wait_until};

/// A command on a terminal of its own.
struct OnTerminal {
    child: Child,
    /// What it shows, as it comes.
    shown: mpsc::Receiver<Vec<u8>>,
    text: String,
    /// Closes the terminal when it goes away.
    close: Option<mpsc::Sender<()>>,
}

impl OnTerminal {
    fn start(env: &TestEnv, args: &[&str], (columns, rows): (u16, u16)) -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&terminal, size).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
        let stdio = || Stdio::from(File::options().read(true).write(true).open(&name).unwrap());
        let mut command = env.command(args);
        command.env("TERM", "xterm");
        let child = command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
        drop(command);
        let (send, shown) = mpsc::channel();
        let (close, closed) = mpsc::channel::<()>();
        let mut terminal = File::from(terminal);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Its other side is closed at the end of the command.
            while let Ok(length @ 1..) = terminal.read(&mut bytes) {
                let gone = send.send(bytes[..length].to_vec()).is_err();
                if gone || closed.try_recv() == Err(mpsc::TryRecvError::Disconnected) {
                    return;
                }
            }
        });
        Self { child, shown, text: String::new(), close: Some(close) }
    }

    fn sees(&mut self, text: &str) -> bool {
        while let Ok(bytes) = self.shown.try_recv() {
            self.text.push_str(&String::from_utf8_lossy(&bytes));
        }
        self.text.contains(text)
    }

    #[track_caller]
    fn wait_for(&mut self, text: &str) {
        wait_until(text, LIMIT, || self.sees(text));
    }

    /// Closes the terminal when the command next shows something.
    fn close(&mut self) {
        self.close = None;
    }

    /// Waits for its end; returns its exit code and all that it showed.
    fn wait(mut self) -> (Option<i32>, String) {
        wait_until("the end of a process", LIMIT, || self.child.try_wait().unwrap().is_some());
        let code = self.child.wait().unwrap().code();
        while let Ok(bytes) = self.shown.recv() {
            self.text.push_str(&String::from_utf8_lossy(&bytes));
        }
        (code, self.text)
    }
}

#[test]
fn a_terminal_of_any_size_is_written_to() {
    for size in [(1, 1), (7, 3), (20, 2), (80, 24), (0, 0), (u16::MAX, u16::MAX)] {
        let env = TestEnv::with_stand_in(&json!({"latency_ms": 30}));
        env.prompts("in.jsonl", &["one", "two", "three"]);
        let args = ["run", "in.jsonl", "-o", "out.jsonl", "--progress"];
        let (code, text) = OnTerminal::start(&env, &args, size).wait();
        assert_eq!(code, Some(0), "{size:?}: {text}");
        assert!(!text.contains("panicked"), "{size:?}: {text}");
        for args in [&["status"][..], &["keys"], &["results"], &["show", "t1"], &["doctor"]] {
            let (code, text) = OnTerminal::start(&env, args, size).wait();
            assert_eq!(code, Some(0), "{size:?} {args:?}: {text}");
            assert!(!text.is_empty() && !text.contains("panicked"), "{size:?} {args:?}: {text}");
        }
        assert_eq!(env.results().len(), 3);
    }
}

#[test]
fn what_a_model_says_is_shown_and_not_obeyed() {
    let harm = "\u{1b}]0;title\u{7}\u{1b}[2J\u{202e}end";
    let env = TestEnv::with_stand_in(&json!({"script": [{"text": harm}]}));
    let line = json!({"prompt": "x", "task_id": format!("id{harm}"), "metadata": {"m": harm}});
    env.write("in.jsonl", format!("{line}\n{}\n", json!({"prompt": "y", "task_id": "t2"})));
    env.gq(&["run", "in.jsonl", "--batch", harm, "-o", "out.jsonl"]).exits(0);
    let id = format!("id{harm}");
    for args in [
        &["results", "--format", "text"][..],
        &["results", "--task-id", "t2"],
        &["results", "--format", "csv"],
        &["results", "--task-id", &id],
        &["show", &id],
        &["status"],
        &["ask", "x"],
        &["show", "no\u{1b}[2Jsuch"],
    ] {
        let (_, text) = OnTerminal::start(&env, args, (80, 24)).wait();
        assert!(!text.contains("\u{1b}]0;") && !text.contains("\u{1b}[2J"), "{args:?}: {text:?}");
        assert!(!text.contains('\u{7}') && !text.contains('\u{202e}'), "{args:?}: {text:?}");
    }
    // A pipe gets what was said.
    let plain = env.gq(&["results", "--task-id", "t2", "--format", "text"]).exits(0).stdout;
    assert!(plain.contains(harm), "{plain:?}");
}

#[test]
fn a_terminal_that_closes_ends_a_view_and_no_work() {
    let env = TestEnv::with_stand_in(&json!({"latency_ms": 20}));
    let prompts: Vec<String> = (0..40).map(|number| format!("number {number}")).collect();
    env.prompts("in.jsonl", &prompts);
    let mut run = OnTerminal::start(
        &env,
        &["run", "in.jsonl", "-o", "out.jsonl", "--workers", "2"],
        (80, 24),
    );
    let mut view = OnTerminal::start(&env, &["status", "--watch"], (80, 24));
    run.wait_for("/40");
    view.wait_for("in");
    run.close();
    view.close();
    let (code, _) = run.wait();
    assert_eq!(code, Some(0));
    let (code, text) = view.wait();
    assert!(code.is_some_and(|code| code < 100), "{code:?}: {text}");
    assert_eq!(env.status()["jobs"]["succeeded"], 40);
    assert_eq!(env.calls(), 40);
}
