//! Data on stdout that comes bit by bit, while other things go on.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;

use tokio::io::AsyncWriteExt as _;

use super::terminal::neutral;

/// Writes data as it comes.
///
/// It does not go through the lock of the standard output: a write that waits for its reader is on
/// a thread of its own, so that calls in flight are settled, leases renewed and signals heard.
pub(crate) struct Flow {
    out: tokio::fs::File,
    is_terminal: bool,
}

impl Flow {
    pub(super) fn begin(is_terminal: bool) -> io::Result<Self> {
        let out = tokio::fs::File::from_std(File::from(io::stdout().as_fd().try_clone_to_owned()?));
        Ok(Self { out, is_terminal })
    }

    /// Writes `text` and waits until it is taken.
    pub(crate) async fn write(&mut self, text: &str) -> io::Result<()> {
        if self.is_terminal {
            self.out.write_all(neutral(text).as_bytes()).await?;
        } else {
            self.out.write_all(text.as_bytes()).await?;
        }
        self.out.flush().await
    }
}
