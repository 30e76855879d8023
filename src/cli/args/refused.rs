//! What parses and yet cannot be done, said by name instead of being ignored.

use super::{Cli, Command, PacingArgs, WorkOptions};

/// Why a command line is refused, in words; the exit code is that of wrong usage.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// A later version brings it.
    #[error("`{0}` is not supported by this version yet")]
    NotYet(&'static str),
    /// No worker would be left for most jobs.
    #[error("`--reserve` must be less than `--workers`")]
    AllReserved,
    /// A flag without the one that gives it a meaning.
    #[error("`{flag}` needs `{needed}`")]
    Needs {
        /// The flag.
        flag: &'static str,
        /// What goes with it.
        needed: &'static str,
    },
}

/// Returns why the command line cannot be carried out, if so.
pub(crate) fn refused(cli: &Cli) -> Option<Refusal> {
    let not_yet = match &cli.command {
        Command::Ask(args) => pacing(&args.pacing),
        Command::Work(args) => pacing(&args.options.pacing),
        Command::Run(args) => pacing(&args.work.pacing),
        Command::Enqueue(_)
        | Command::Results(_)
        | Command::Show(_)
        | Command::Status(_)
        | Command::Keys(_)
        | Command::Media(_)
        | Command::Retry(_)
        | Command::Cancel(_)
        | Command::Prune(_)
        | Command::Mock(_)
        | Command::Completions(_) => None,
    };
    not_yet.map(Refusal::NotYet).or_else(|| match &cli.command {
        Command::Results(args)
            if args.options.timeout.is_some() && !args.options.wait && !args.options.follow =>
        {
            Some(Refusal::Needs { flag: "--timeout", needed: "--wait" })
        }
        Command::Work(args) => all_reserved(&args.options),
        Command::Run(args) => all_reserved(&args.work),
        _ => None,
    })
}

fn all_reserved(options: &WorkOptions) -> Option<Refusal> {
    (options.reserve >= options.workers).then_some(Refusal::AllReserved)
}

fn pacing(args: &PacingArgs) -> Option<&'static str> {
    [(&args.rpm, "--rpm"), (&args.tpm, "--tpm"), (&args.rpd, "--rpd")]
        .into_iter()
        .find_map(|(value, name)| value.is_some().then_some(name))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn message(line: &str) -> Option<String> {
        refused(&Cli::parse_from(line.split_whitespace())).map(|refusal| refusal.to_string())
    }

    #[test]
    fn what_comes_later_is_refused_by_name() {
        for (line, name) in [
            ("gq ask hello --rpm 5", "--rpm"),
            ("gq work --rpm 5", "--rpm"),
            ("gq work --tpm m=5", "--tpm"),
            ("gq run a.jsonl --rpd 5", "--rpd"),
        ] {
            let wanted = format!("`{name}` is not supported by this version yet");
            assert_eq!(message(line), Some(wanted), "{line}");
        }
        assert_eq!(message("gq work"), None);
    }

    #[test]
    fn not_all_workers_can_be_kept() {
        let wanted = "`--reserve` must be less than `--workers`";
        assert_eq!(message("gq work --workers 2 --reserve 2").unwrap(), wanted);
        assert_eq!(message("gq run a.jsonl --reserve 4").unwrap(), wanted);
        assert_eq!(message("gq work --workers 2 --reserve 1"), None);
    }

    #[test]
    fn a_time_limit_needs_something_to_wait_for() {
        assert_eq!(message("gq results --timeout 5s").unwrap(), "`--timeout` needs `--wait`");
        assert_eq!(message("gq results --timeout 5s --wait"), None);
        assert_eq!(message("gq run a.jsonl --timeout 5s"), None);
    }
}
