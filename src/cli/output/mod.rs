//! Everything that is printed. Only [`Output`] writes; the rest turns values into text.

pub(crate) mod columns;
mod csv;
pub(crate) mod doctor;
pub(crate) mod enqueued;
mod flow;
pub(crate) mod forecast;
mod json;
pub(crate) mod keys;
mod line;
pub(crate) mod live;
mod record;
pub(crate) mod results;
pub(crate) mod show;
pub(crate) mod status;
mod terminal;
mod text;
pub(crate) mod uploads;
pub(crate) mod watch;

use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal as _, Write};

use gq::gemini::redact::{MASK, without_key_shapes};

use super::args::{ColorMode, Report};
use super::log;
pub(crate) use flow::Flow;
use live::{Live, Place};
use terminal::Neutralising;

/// The only printer: data goes to stdout, the rest to stderr.
pub(crate) struct Output {
    data: Box<dyn Write>,
    pub(crate) stdout_is_terminal: bool,
    pub(crate) stderr_is_terminal: bool,
    color: ColorMode,
    /// Those of the environment: no message repeats them.
    secrets: Vec<String>,
}

impl Output {
    /// Takes stdout and stderr; `no_color` says whether `NO_COLOR` is set.
    pub(crate) fn new(color: ColorMode, no_color: bool) -> Self {
        let stdout_is_terminal = io::stdout().is_terminal();
        let stderr_is_terminal = io::stderr().is_terminal();
        let buffered = BufWriter::new(io::stdout().lock());
        let data: Box<dyn Write> = if stdout_is_terminal {
            Box::new(Neutralising::new(buffered))
        } else {
            Box::new(buffered)
        };
        let color = if no_color && color == ColorMode::Auto { ColorMode::Never } else { color };
        Self { data, stdout_is_terminal, stderr_is_terminal, color, secrets: Vec::new() }
    }

    /// Masks these in all messages from now on.
    pub(crate) fn keep_secret(&mut self, secrets: impl IntoIterator<Item = String>) {
        // A shorter one may be a part of any word.
        self.secrets = secrets.into_iter().filter(|secret| secret.len() >= 8).collect();
    }

    /// Prints text as data.
    pub(crate) fn data(&mut self, text: &str) -> io::Result<()> {
        self.data.write_all(text.as_bytes())?;
        self.data.flush()
    }

    /// Returns where rows of data are written one by one; [`Output::flush`] ends them.
    pub(crate) fn rows(&mut self) -> &mut dyn Write {
        &mut self.data
    }

    /// Begins a live view on stdout; from then on nothing else is printed there.
    pub(crate) fn live(&self, format: Report) -> io::Result<Live> {
        let place = match (self.stdout_is_terminal, format) {
            (true, Report::Text) => Place::Screen,
            (true, Report::Json) => Place::Terminal,
            (false, _) => Place::Pipe,
        };
        Live::begin(place, self.colors(self.stdout_is_terminal))
    }

    /// Hands on what is buffered.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.data.flush()
    }

    /// Begins data that comes bit by bit; until its end nothing else is printed there.
    pub(crate) fn flow(&self) -> io::Result<Flow> {
        Flow::begin(self.stdout_is_terminal)
    }

    /// Says that something failed.
    pub(crate) fn error(&self, message: impl Display) {
        self.note("error", "31", &message.to_string());
    }

    /// Says what to do next.
    pub(crate) fn hint(&self, message: impl Display) {
        self.note("hint", "36", &message.to_string());
    }

    /// Says that something is odd and goes on all the same.
    pub(crate) fn warning(&self, message: impl Display) {
        self.note("warning", "33", &message.to_string());
    }

    fn colors(&self, is_terminal: bool) -> bool {
        match self.color {
            ColorMode::Auto => is_terminal,
            ColorMode::Always => true,
            ColorMode::Never => false,
        }
    }

    fn note(&self, label: &str, color: &str, message: &str) {
        // People paste keys where names belong.
        let mut message = without_key_shapes(message);
        for secret in &self.secrets {
            message = message.replace(secret, MASK);
        }
        let message =
            if self.stderr_is_terminal { terminal::neutral(&message) } else { (&message).into() };
        let line = if self.colors(self.stderr_is_terminal) {
            format!("\x1b[1;{color}m{label}:\x1b[0m {message}\n")
        } else {
            format!("{label}: {message}\n")
        };
        log::write(line.as_bytes());
    }
}

/// Returns text as a terminal may show it, without keys.
pub(crate) fn harmless(text: &str) -> String {
    terminal::neutral(&without_key_shapes(text)).into_owned()
}

/// Returns whether the reader of our data has gone, which is no failure.
pub(crate) fn is_closed_pipe(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}
