//! The log, and all else that goes to stderr: written by a thread of its own, so that nobody has to
//! wait for one who does not read it, and a terminal that is gone ends nothing.

use std::io::{self, Write as _};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use super::args::{GlobalArgs, LogFormat};

/// Lines that may wait to be written; more are dropped, and counted.
const WAITING: usize = 10_000;

/// How long the end of the process waits for its last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// What the thread is to do.
enum Order {
    Write(Vec<u8>),
    /// Say when all before it is written.
    Tell(SyncSender<()>),
}

static QUEUE: OnceLock<SyncSender<Order>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Starts the log; a library's own lines are shown from the third `-v` on.
pub(crate) fn start(args: &GlobalArgs, color: bool) {
    let filter = match (args.quiet, args.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "warn,gq=info",
        (false, 2) => "info,gq=debug",
        (false, _) => "debug,gq=trace",
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_writer(|| Lines)
        .with_target(false)
        .with_ansi(color);
    // Only the first subscriber of a process is taken, and this is it.
    let _ = match args.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

/// Writes a line when its turn comes.
pub(crate) fn write(line: &[u8]) {
    if queue().try_send(Order::Write(line.to_vec())).is_err() {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits until all lines are written, but not for ever.
pub(crate) fn flush() {
    let (tell, told) = sync_channel(1);
    if queue().try_send(Order::Tell(tell)).is_ok() {
        // Who does not read in time does not get to know.
        let _ = told.recv_timeout(LAST_LINES);
    }
}

fn queue() -> &'static SyncSender<Order> {
    QUEUE.get_or_init(|| {
        let (send, orders) = sync_channel(WAITING);
        std::thread::spawn(move || carry_out(&orders));
        send
    })
}

/// A line that cannot be written has no one to tell.
fn carry_out(orders: &Receiver<Order>) {
    while let Ok(order) = orders.recv() {
        match order {
            Order::Write(line) => {
                let _ = io::stderr().write_all(&line);
            }
            Order::Tell(tell) => {
                let _ = tell.send(());
            }
        }
        let dropped = DROPPED.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let _ = writeln!(io::stderr(), "({dropped} lines were left out: nobody read in time)");
        }
    }
}

/// Where log lines are written, each as a whole.
struct Lines;

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        write(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
