//! gq: a persistent job queue for the Gemini API.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match cli::args::Cli::try_parse() {
        Ok(cli) => cli::main(cli).into(),
        Err(error) => cli::usage(&error).into(),
    }
}
