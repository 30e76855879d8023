//! Groups of flags that several commands share.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use gq::config;
use gq::domain::outcome::ErrorKind;
use gq::domain::view::JobState;

use super::PacingArgs;

/// How jobs are added.
#[derive(Debug, Clone, Args)]
pub(crate) struct EnqueueOptions {
    /// Priority of jobs that name none; higher goes first [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) priority: Option<i64>,
    /// Attempts of jobs that name no number [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_attempts: Option<u32>,
    /// What to do with a job that is there with other content [default: refuse the call]
    #[arg(long, value_name = "HOW")]
    pub(crate) on_conflict: Option<OnConflict>,
    /// Store the good lines of an input that has bad ones
    #[arg(long)]
    pub(crate) skip_invalid: bool,
    /// Write the bad lines with their reasons to this file
    #[arg(long, value_name = "FILE", requires = "skip_invalid")]
    pub(crate) rejects: Option<PathBuf>,
    /// Response schema of jobs that have none: a JSON Schema, or the API's own form with types in
    /// upper case
    #[arg(long, value_name = "FILE")]
    pub(crate) schema: Option<PathBuf>,
    /// Store the text of answers as it comes, for `gq results --follow` and others to read
    #[arg(long)]
    pub(crate) stream: bool,
}

/// What to do with a job that is there with other content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnConflict {
    /// Leave it as it is
    Skip,
    /// Drop its result and start it anew
    Replace,
}

/// How the queue is worked.
#[derive(Debug, Clone, Args)]
pub(crate) struct WorkOptions {
    /// Calls in flight at once, 1 to 10000
    #[arg(long, value_name = "N", default_value_t = 4)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) workers: u16,
    /// How many of the workers are kept for jobs with a priority above 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) reserve: u16,
    /// Stop when no job is pending or running (`run` always does)
    #[arg(long)]
    pub(crate) drain: bool,
    /// How long a stopped or hung process keeps its jobs
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = config::duration)]
    pub(crate) lease: Duration,
    /// How often to look for new jobs where the file system tells of none
    #[arg(long, value_name = "DURATION", default_value = "200ms", value_parser = config::duration)]
    pub(crate) poll_interval: Duration,
    /// How long calls in flight may go on after the first signal
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = config::duration)]
    pub(crate) grace: Duration,
    /// Fail jobs whose text was cut by the output limit
    #[arg(long)]
    pub(crate) reject_truncated: bool,
    #[command(flatten)]
    pub(crate) pacing: PacingArgs,
}

/// Which results are printed, and how.
#[derive(Debug, Args)]
pub(crate) struct ResultsOptions {
    /// Jobs with these task ids only, whatever their state
    #[arg(long = "task-id", value_name = "ID", num_args = 1..)]
    pub(crate) task_ids: Vec<String>,
    /// Jobs in these states only [default: the finished ones]
    #[arg(long = "state", value_name = "STATE", num_args = 1..)]
    pub(crate) states: Vec<JobState>,
    /// Form of the output [default: jsonl; text for one task on a terminal]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<ResultFormat>,
    /// File to write, whole or not at all; `-` means stdout [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Write the images and clips of the answers to files in this folder
    ///
    /// It is made where it is missing. A file is named by batch, task id and place in the answer,
    /// such as `prompts+task_1-0.png`; a result lists its files under `media`.
    #[arg(long, value_name = "DIR")]
    pub(crate) media_dir: Option<PathBuf>,
    /// Add the API's whole answer as `raw`
    #[arg(long)]
    pub(crate) full: bool,
    /// Wait until the jobs are finished (`run` always does)
    ///
    /// All jobs of the batch or with the task ids are waited for. `--state` chooses which of them
    /// are printed then, and only failed or cancelled ones among these make `results` exit with 3.
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait, or to `run`, at most, such as `30s` or `5m` [default: no limit]
    #[arg(long, value_name = "DURATION", value_parser = config::duration)]
    pub(crate) timeout: Option<Duration>,
    /// Print each result as it finishes, until all jobs are; of one streaming job named by
    /// `--task-id` the text as it comes
    #[arg(long)]
    pub(crate) follow: bool,
}

/// The form of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ResultFormat {
    /// One JSON object a line
    Jsonl,
    /// One JSON list
    Json,
    /// A table for spreadsheets
    Csv,
    /// Text to read
    Text,
}

/// The form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Report {
    /// Text to read
    Text,
    /// One JSON value
    Json,
}

/// Which jobs a command changes; something must be named.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct Selection {
    /// Jobs with these task ids
    #[arg(long = "task-id", value_name = "ID", num_args = 1..)]
    pub(crate) task_ids: Vec<String>,
    /// Jobs of this batch
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) batch: Option<String>,
    /// Jobs whose last error is of these kinds, such as `blocked`
    #[arg(long = "error", value_name = "KIND", num_args = 1..)]
    pub(crate) errors: Vec<ErrorKind>,
    /// All jobs that failed
    #[arg(long)]
    pub(crate) all_failed: bool,
}
