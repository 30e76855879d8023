//! The command line: flags, commands, what they print and how they exit.

pub(crate) mod args;
pub(crate) mod exit;
pub(crate) mod output;
pub(crate) mod settings;
