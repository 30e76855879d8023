//! A view on stdout that goes on: redrawn in place on a terminal, appended elsewhere.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::tcgetwinsize;
use tokio::io::AsyncWriteExt as _;

use super::terminal::neutral;

/// Where a live view is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// A terminal, redrawn in place.
    Screen,
    /// A terminal, line after line.
    Terminal,
    /// Anything else: as it stands.
    Pipe,
}

/// The size of a terminal that does not tell its own.
const USUAL_SIZE: (u16, u16) = (80, 24);

/// The other screen, which scrolls nothing away, without cursor and without going on to the next
/// line by itself: letters may be wider than they are taken for.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// Writes a live view.
///
/// It does not go through the lock of the standard output: a write that waits for its reader is
/// on a thread of its own, so that a signal still ends the command.
pub(crate) struct Live {
    out: tokio::fs::File,
    place: Place,
    pub(crate) color: bool,
    /// Takes the terminal back to what it was.
    terminal: File,
    last_frame: String,
}

impl Live {
    pub(super) fn begin(place: Place, color: bool) -> io::Result<Self> {
        let stdout = || io::stdout().as_fd().try_clone_to_owned().map(File::from);
        let mut terminal = stdout()?;
        let out = tokio::fs::File::from_std(stdout()?);
        if place == Place::Screen {
            terminal.write_all(ENTER.as_bytes())?;
        }
        Ok(Self { out, place, color, terminal, last_frame: String::new() })
    }

    /// Returns whether what was shown is replaced by what is shown next.
    pub(crate) fn is_in_place(&self) -> bool {
        self.place == Place::Screen
    }

    /// Returns the columns and lines that can be drawn on.
    pub(crate) fn size(&self) -> (usize, usize) {
        let told = tcgetwinsize(&self.terminal).ok().map(|size| (size.ws_col, size.ws_row));
        let (columns, rows) =
            told.filter(|(columns, rows)| *columns > 0 && *rows > 0).unwrap_or(USUAL_SIZE);
        // In the last column the cursor stays on its letter, which clearing the rest would take.
        (usize::from(columns - 1), usize::from(rows))
    }

    /// Shows `text` in place of what was there, or after it.
    pub(crate) async fn show(&mut self, text: &str) -> io::Result<()> {
        match self.place {
            Place::Screen => {
                text.clone_into(&mut self.last_frame);
                self.out.write_all(in_place(text).as_bytes()).await?;
            }
            Place::Terminal => self.out.write_all(neutral(text).as_bytes()).await?,
            Place::Pipe => self.out.write_all(text.as_bytes()).await?,
        }
        self.out.flush().await
    }

    /// Waits until what was begun is written.
    pub(crate) async fn settle(&mut self) -> io::Result<()> {
        self.out.flush().await
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if self.place == Place::Screen {
            // The last view stays to be read. A terminal that is gone needs nothing.
            let _ = self.terminal.write_all(format!("{LEAVE}{}", self.last_frame).as_bytes());
        }
    }
}

/// Returns the frame so that it overwrites the one before without clearing the screen first,
/// which would flicker.
fn in_place(frame: &str) -> String {
    let lines: Vec<&str> = frame.lines().collect();
    format!("\x1b[H{}\x1b[K\x1b[J", lines.join("\x1b[K\r\n"))
}

/// Waits until nobody reads stdout any more; what a file gets may always be read.
pub(crate) async fn reader_gone() {
    let gone = tokio::task::spawn_blocking(|| {
        let stdout = io::stdout();
        // Asked for nothing, the system tells of a closed pipe or a lost terminal all the same.
        while poll(&mut [PollFd::new(&stdout, PollFlags::empty())], None) == Err(Errno::INTR) {}
    });
    // The runtime may shut down in between; then nobody waits for it.
    let _ = gone.await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_clears_what_it_does_not_cover() {
        assert_eq!(in_place("a\n\nb\n"), "\x1b[Ha\x1b[K\r\n\x1b[K\r\nb\x1b[K\x1b[J");
    }
}
