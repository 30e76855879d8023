//! The command line: flags, commands, what they print and how they exit.

pub(crate) mod args;
mod ask;
mod backup;
mod context;
mod doctor;
mod enqueue;
pub(crate) mod exit;
mod failure;
mod file;
mod follow;
mod log;
mod manage;
mod media;
pub(crate) mod output;
mod progress;
mod results;
pub(crate) mod settings;
mod signals;
mod speak;
mod status;
mod uploads;
mod work;

use std::io::Write as _;

use clap::CommandFactory as _;
use gq::config::Environment;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::SignalKind;

use args::{Cli, Command};
use context::Context;
use exit::ExitStatus;
use failure::Result;
use output::Output;

/// Carries out the command line.
pub(crate) fn main(cli: Cli) -> ExitStatus {
    let status = carry_out(cli);
    log::flush();
    status
}

/// Prints the help that was asked for, or what is wrong with the command line.
pub(crate) fn usage(error: &clap::Error) -> ExitStatus {
    let said = error.render().to_string();
    // It repeats words of the command line, whatever is in them.
    let safe = output::harmless(&said);
    if safe == said {
        error.exit()
    }
    // Whether anybody hears it or not, the exit code is the same.
    let _ = std::io::stderr().write_all(safe.as_bytes());
    ExitStatus::Usage
}

fn carry_out(cli: Cli) -> ExitStatus {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let mut out = Output::new(cli.global.color, no_color);
    log::start(&cli.global, out.stderr_is_terminal && !no_color);
    if let Some(refusal) = args::refused(&cli) {
        out.error(refusal);
        return ExitStatus::Usage;
    }
    allow_many_files();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            out.error(format!("cannot start: {error}"));
            return ExitStatus::Failure;
        }
    };
    let environment = match Environment::load(cli.global.env_file.as_deref()) {
        Ok(environment) => environment,
        Err(error) => return report(&out, error.into()),
    };
    // Keys that cannot be read are told of by the command that needs them.
    let keys = gq::config::keys(&environment, None).unwrap_or_default();
    out.keep_secret(keys.iter().map(|key| key.secret.expose().to_owned()));
    let database = settings::database(&cli.global, &environment);
    let mut context = Context { args: cli.global, environment, database, out };
    let status = match runtime.block_on(run(&mut context, &cli.command)) {
        Ok(status) => status,
        Err(failure) => report(&context.out, failure),
    };
    // What is still under way is what the command gave up: a file being read, a lock waited for.
    runtime.shutdown_background();
    status
}

/// Lets the process have as many files and connections open as the system allows it at most: each call
/// in flight is one, and the usual limit is 1,024.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// `SIGXFSZ` on Linux and macOS: a file grew past the process's limit.
const FILE_SIZE_SIGNAL: i32 = 25;

async fn run(context: &mut Context, command: &Command) -> Result<ExitStatus> {
    // Caught, the write that is too long fails like one on a full disk, and is told of.
    let _caught = tokio::signal::unix::signal(SignalKind::from_raw(FILE_SIZE_SIGNAL))?;
    match command {
        Command::Enqueue(args) => enqueue::run(context, args).await,
        Command::Work(args) => work::run(context, args).await,
        Command::Run(args) => work::run_file(context, args).await,
        Command::Ask(args) => ask::run(context, args).await,
        Command::Results(args) => results::run(context, args).await,
        Command::Show(args) => results::show(context, args).await,
        Command::Status(args) => status::run(context, args).await,
        Command::Keys(args) => manage::keys(context, args).await,
        Command::Media(args) => uploads::run(context, args).await,
        Command::Retry(args) => manage::change(context, args, manage::Change::Retry).await,
        Command::Cancel(args) => manage::change(context, args, manage::Change::Cancel).await,
        Command::Prune(args) => manage::prune(context, args).await,
        Command::Backup(args) => backup::run(context, args).await,
        Command::Doctor(args) => doctor::run(context, args).await,
        Command::Mock(args) => manage::mock(context, args).await,
        Command::Completions(args) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut Cli::command(), "gq", &mut script);
            context.out.data(&String::from_utf8_lossy(&script))?;
            Ok(ExitStatus::Done)
        }
    }
}

fn report(out: &Output, failure: failure::Failure) -> ExitStatus {
    if let Some(message) = failure.message {
        out.error(message);
    }
    if let Some(hint) = failure.hint {
        out.hint(hint);
    }
    failure.status
}
