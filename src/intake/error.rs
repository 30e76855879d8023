//! What can go wrong with a source as a whole.

use std::io;

/// Why a source cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// The operating system refused to open or read it.
    #[error("cannot read `{name}`")]
    Io {
        /// The source's name.
        name: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The path leads to a folder or a device.
    #[error("`{name}` is not a file")]
    NotAFile {
        /// The source's name.
        name: String,
    },
    /// The compressed data is cut off or damaged.
    #[error("`{name}` is damaged or cut off gzip data")]
    Gzip {
        /// The source's name.
        name: String,
        /// What the decoder said.
        #[source]
        source: io::Error,
    },
    /// The text is UTF-16.
    #[error("`{name}` is UTF-16 text; only UTF-8 is read")]
    Utf16 {
        /// The source's name.
        name: String,
    },
    /// The second pass found other bytes than the first.
    #[error("`{name}` changed while it was read")]
    Changed {
        /// The source's name.
        name: String,
    },
    /// Jobs were asked for before the check.
    #[error("`{name}` has not been checked")]
    Unchecked {
        /// The source's name.
        name: String,
    },
    /// A line is refused, and no line may be left out.
    #[error("line {line} of `{name}`: {reason}")]
    Refused {
        /// The source's name.
        name: String,
        /// The line's number, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A temporary file cannot be made, written or read.
    #[error("cannot use a temporary file in `{}`", std::env::temp_dir().display())]
    Temporary(#[source] io::Error),
    /// The refused lines cannot be written.
    #[error("cannot write the rejected lines")]
    Rejects(#[source] io::Error),
}
