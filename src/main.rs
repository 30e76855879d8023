//! gq: a persistent job queue for the Gemini API.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    cli::main(cli::args::Cli::parse()).into()
}
