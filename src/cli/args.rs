//! The commands and their flags. What a value means is decided elsewhere.

mod key_settings;
mod options;
mod pacing;
mod refused;

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use gq::config;

pub(crate) use key_settings::KeySettingsArgs;
pub(crate) use options::{
    EnqueueOptions, OnConflict, Report, ResultFormat, ResultsOptions, Selection, WorkOptions,
};
pub(crate) use pacing::PacingArgs;
pub(crate) use refused::refused;

/// A persistent job queue for the Gemini API: one binary, one SQLite file, nothing lost.
#[derive(Debug, Parser)]
#[command(name = "gq", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Settings of every command, taken before or after its name.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// Database file [env: `GQ_DB`] [default: gq.db]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) db: Option<PathBuf>,
    /// File with keys and settings [default: .env in the current folder, if there]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) env_file: Option<PathBuf>,
    /// Model of jobs that name none [env: `GQ_MODEL`] [default: gemini-flash-latest]
    #[arg(long, global = true, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// Use these keys only: names and ranges, such as `1-4,GOOGLE_API_KEY` [default: all]
    #[arg(long, global = true, value_name = "NAMES")]
    pub(crate) keys: Option<String>,
    /// Address of the API [env: `GEMINI_BASE_URL`, `GOOGLE_GEMINI_BASE_URL`] [default: the API's own]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) base_url: Option<String>,
    /// Log more; again for still more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Log errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Form of the log on stderr
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// When to colour
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: ColorMode,
    /// Show progress also where stderr is no terminal
    #[arg(long, global = true)]
    pub(crate) progress: bool,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines to read.
    Text,
    /// One JSON object a line.
    Json,
}

/// When output is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorMode {
    /// On a terminal, unless `NO_COLOR` is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Add jobs from files with one JSON object a line
    ///
    /// All lines are checked before the first is stored. A job that is already in the batch with
    /// equal content is skipped, so the same call again adds just what is missing.
    Enqueue(EnqueueArgs),
    /// Work the queue until stopped
    ///
    /// The first SIGINT or SIGTERM lets the calls in flight end, the second cuts them. Several
    /// `gq work` on one database share jobs, keys and limits.
    Work(Box<WorkArgs>),
    /// Enqueue a file, work it off and give its results in one go
    ///
    /// Run again after an interruption, it goes on where it was.
    Run(Box<RunArgs>),
    /// Ask one question and print the answer as it comes
    ///
    /// It goes before everything else in the queue. A worker that runs answers it; where none does,
    /// or all are busy, this process does so itself, under the same keys and limits.
    Ask(Box<AskArgs>),
    /// Print finished jobs in input order
    Results(ResultsArgs),
    /// Show one job with its attempts
    Show(ShowArgs),
    /// Show counts, batches, workers and keys, and what the queue waits for
    Status(StatusArgs),
    /// List, check or switch the keys
    Keys(KeysArgs),
    /// List the media that were uploaded to the API, or remove them there
    Media(MediaArgs),
    /// Put failed or cancelled jobs back, with fresh attempts
    Retry(SelectArgs),
    /// Cancel pending jobs, and cut off running ones
    Cancel(SelectArgs),
    /// Remove finished jobs with all that belongs to them
    Prune(PruneArgs),
    /// Copy the database as it stands, also while workers run
    ///
    /// The copy holds jobs, answers and the states of keys, and no secret. A job that was running is
    /// one whose worker died, to whoever works on the copy.
    Backup(BackupArgs),
    /// Check the database, the clock, the disk, the address of the API and the keys
    ///
    /// Says what to do about what it finds. Changes nothing unless told to, and asks the API about
    /// each key by a call that costs nothing. Exits with 1 if something is wrong.
    Doctor(DoctorArgs),
    /// Run a local stand-in for the API, for rehearsals and tests
    Mock(MockArgs),
    /// Print a completion script
    Completions(CompletionsArgs),
}

/// Flags of `gq enqueue`.
#[derive(Debug, Args)]
pub(crate) struct EnqueueArgs {
    /// Files to read, plain or `.gz`; `-` means stdin
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Batch of the jobs [default: the file's name without endings; `stdin` for `-`]
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) batch: Option<String>,
    #[command(flatten)]
    pub(crate) options: EnqueueOptions,
}

/// Flags of `gq work`.
#[derive(Debug, Args)]
pub(crate) struct WorkArgs {
    /// Work jobs of this batch only
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) batch: Option<String>,
    #[command(flatten)]
    pub(crate) options: WorkOptions,
}

/// Flags of `gq run`: those of `enqueue`, `work` and `results` together.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// File to read, plain or `.gz`; `-` means stdin
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Batch of the jobs [default: the file's name without endings; `stdin` for `-`]
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) batch: Option<String>,
    /// Use a stand-in for the API inside this process; needs no key
    #[arg(long, conflicts_with = "base_url")]
    pub(crate) mock: bool,
    #[command(flatten)]
    pub(crate) enqueue: EnqueueOptions,
    #[command(flatten)]
    pub(crate) work: WorkOptions,
    #[command(flatten)]
    pub(crate) results: ResultsOptions,
}

/// Flags of `gq results`.
#[derive(Debug, Args)]
pub(crate) struct ResultsArgs {
    /// Jobs of this batch only
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) batch: Option<String>,
    #[command(flatten)]
    pub(crate) options: ResultsOptions,
}

/// Flags of `gq show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Task id of the job
    pub(crate) task_id: String,
    /// Batch of the job, where several have that task id
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) batch: Option<String>,
    /// Form of the output
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) format: Report,
}

/// Flags of `gq status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Form of the output
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) format: Report,
    /// Go on showing it, with the latest failures, until Ctrl-C
    ///
    /// A terminal is redrawn in place. Elsewhere the text, or with `--format json` one object a
    /// line, is printed at the start and at each change, at most once a second.
    #[arg(long)]
    pub(crate) watch: bool,
}

/// Flags of `gq keys`.
#[derive(Debug, Args)]
pub(crate) struct KeysArgs {
    /// What to do with them
    #[arg(default_value = "list")]
    pub(crate) action: KeysAction,
    /// Variable names of the keys [default: all]
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    pub(crate) settings: KeySettingsArgs,
    /// Form of the output
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) format: Report,
}

/// What `gq keys` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeysAction {
    /// Show the keys and their states
    List,
    /// Ask the API whether they are good
    Check,
    /// Make them available and clear their counters
    Reset,
    /// Switch them off
    Disable,
    /// Switch them on again
    Enable,
    /// Say what they may take, what pays for them and which project they are of
    Set,
}

/// Flags of `gq media`.
#[derive(Debug, Args)]
pub(crate) struct MediaArgs {
    /// Remove them at the API; a job that needs one uploads it again
    #[arg(long)]
    pub(crate) delete: bool,
    /// Form of the list
    #[arg(long, value_name = "FORMAT", default_value = "text", conflicts_with = "delete")]
    pub(crate) format: Report,
}

/// Flags of `gq retry` and `gq cancel`.
#[derive(Debug, Args)]
pub(crate) struct SelectArgs {
    #[command(flatten)]
    pub(crate) selection: Selection,
}

/// Flags of `gq prune`.
#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Remove jobs that finished longer ago than this, such as `12h` or `30d`
    #[arg(long, value_name = "DURATION", value_parser = config::duration)]
    pub(crate) older_than: Duration,
    /// Jobs of this batch only
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) batch: Option<String>,
    /// Give the free space back to the file system
    #[arg(long)]
    pub(crate) vacuum: bool,
}

/// Flags of `gq backup`.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// File to make; it must not be there yet
    pub(crate) file: PathBuf,
}

/// Flags of `gq doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Count the jobs of each batch anew, and put right what its counts say
    #[arg(long)]
    pub(crate) repair_counters: bool,
    /// Form of the output
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) format: Report,
}

/// Flags of `gq mock`.
#[derive(Debug, Args)]
pub(crate) struct MockArgs {
    /// Port to listen on [default: a free one]
    #[arg(long, value_name = "N")]
    pub(crate) port: Option<u16>,
    /// File that says how to answer
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// Flags of `gq completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Shell to complete in
    pub(crate) shell: clap_complete::Shell,
}

/// Flags of `gq ask`.
#[derive(Debug, Args)]
pub(crate) struct AskArgs {
    /// Question; `-` means stdin, and what is piped beside a question follows it as a file
    pub(crate) prompt: Option<String>,
    /// Audio file to ask about; may be given several times, as the next three
    #[arg(long, value_name = "FILE")]
    pub(crate) audio: Vec<PathBuf>,
    /// Image file
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Vec<PathBuf>,
    /// Video file
    #[arg(long, value_name = "FILE")]
    pub(crate) video: Vec<PathBuf>,
    /// Other file, such as a PDF or text
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Vec<PathBuf>,
    /// System instruction
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Response schema: a JSON Schema, or the API's own form with types in upper case
    #[arg(long, value_name = "FILE")]
    pub(crate) schema: Option<PathBuf>,
    /// How long to wait for the answer at most
    #[arg(long, value_name = "DURATION", default_value = "300s", value_parser = config::duration)]
    pub(crate) timeout: Duration,
    /// Form of the output: the text as it comes, or the result as one JSON object
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) format: Report,
    /// Fail if the text is cut by the output limit
    #[arg(long)]
    pub(crate) reject_truncated: bool,
    #[command(flatten)]
    pub(crate) pacing: PacingArgs,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, String> {
        Cli::try_parse_from(line.split_whitespace()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_settings_go_before_or_after_the_command() {
        for line in ["gq --db x.db --keys 1-4 status", "gq status --db x.db --keys 1-4"] {
            let cli = parse(line).unwrap();
            assert_eq!(cli.global.db, Some(PathBuf::from("x.db")));
            assert_eq!(cli.global.keys.as_deref(), Some("1-4"));
        }
        assert!(parse("gq -v -q status").is_err());
    }

    #[test]
    fn run_takes_the_flags_of_all_three() {
        let line = "gq run in.jsonl -o out.jsonl --batch b --on-conflict replace --skip-invalid \
                    --rejects bad --priority -3 --max-attempts 2 --workers 9 --lease 2m --drain \
                    --key-cooldown 1s --max-cost 2.5 --format csv --full --state failed --wait \
                    --timeout 5m --task-id a --mock --grace 5s --reject-truncated";
        let Command::Run(run) = parse(line).unwrap().command else { panic!("not run") };
        assert_eq!(run.enqueue.priority, Some(-3));
        assert_eq!(run.work.lease, Duration::from_mins(2));
        assert_eq!(run.work.pacing.max_cost, Some(2_500_000_000));
        assert_eq!(run.results.timeout, Some(Duration::from_mins(5)));
        assert_eq!(run.results.format, Some(ResultFormat::Csv));
    }

    #[test]
    fn values_that_do_not_fit_are_refused_by_the_name_of_their_flag() {
        for (line, flag) in [
            ("gq work --workers 0", "--workers"),
            ("gq work --workers 10001", "--workers"),
            ("gq work --lease soon", "--lease"),
            ("gq work --on-exhausted sleep", "--on-exhausted"),
            ("gq results --state done", "--state"),
            ("gq retry --error nonsense", "--error"),
            ("gq enqueue x --max-attempts 0", "--max-attempts"),
            ("gq prune", "--older-than"),
            ("gq enqueue x --batch=", "--batch"),
            ("gq work --batch=", "--batch"),
            ("gq run x --batch=", "--batch"),
            ("gq results --batch=", "--batch"),
            ("gq show x --batch=", "--batch"),
            ("gq retry --batch=", "--batch"),
            ("gq cancel --batch=", "--batch"),
            ("gq prune --older-than 1h --batch=", "--batch"),
        ] {
            assert!(parse(line).unwrap_err().contains(flag), "{line}");
        }
    }

    #[test]
    fn keys_are_listed_by_default() {
        let Command::Keys(keys) = parse("gq keys").unwrap().command else { panic!("not keys") };
        assert_eq!(keys.action, KeysAction::List);
        let Command::Keys(keys) = parse("gq keys reset A B").unwrap().command else {
            panic!("not keys")
        };
        assert_eq!((keys.action, keys.names.len()), (KeysAction::Reset, 2));
    }

    #[test]
    fn something_must_be_selected_to_retry() {
        assert!(parse("gq retry").is_err());
        let Command::Retry(args) = parse("gq retry --task-id a b --error blocked").unwrap().command
        else {
            panic!("not retry")
        };
        assert_eq!(args.selection.task_ids, ["a", "b"]);
    }
}
