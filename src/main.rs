//! gq: a persistent job queue for the Gemini API.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let _arguments = cli::args::Cli::parse();
    cli::exit::ExitStatus::Done.into()
}
