//! What parses and yet cannot be done, said by name instead of being ignored.

use super::{Cli, Command, KeysAction, KeysArgs, WorkOptions};

/// Why a command line is refused, in words; the exit code is that of wrong usage.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// No worker would be left for most jobs.
    #[error("`--reserve` must be less than `--workers`")]
    AllReserved,
    /// `gq keys set` without anything to set.
    #[error("say what to set: `--rpm`, `--tpm`, `--rpd`, `--project`, `--tier`")]
    NothingSet,
    /// `gq keys set` for no key.
    #[error("name the keys to set this for")]
    NoKeyNamed,
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
    match &cli.command {
        Command::Results(args)
            if args.options.timeout.is_some() && !args.options.wait && !args.options.follow =>
        {
            Some(Refusal::Needs { flag: "--timeout", needed: "--wait" })
        }
        Command::Work(args) => all_reserved(&args.options),
        Command::Run(args) => all_reserved(&args.work),
        Command::Keys(args) => settings_without_set(args),
        _ => None,
    }
}

fn settings_without_set(args: &KeysArgs) -> Option<Refusal> {
    let sets = args.action == KeysAction::Set;
    match (sets, args.settings.first()) {
        (false, Some(flag)) => Some(Refusal::Needs { flag, needed: "gq keys set" }),
        (true, None) => Some(Refusal::NothingSet),
        (true, Some(_)) if args.names.is_empty() => Some(Refusal::NoKeyNamed),
        _ => None,
    }
}

fn all_reserved(options: &WorkOptions) -> Option<Refusal> {
    (options.reserve >= options.workers).then_some(Refusal::AllReserved)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn message(line: &str) -> Option<String> {
        refused(&Cli::parse_from(line.split_whitespace())).map(|refusal| refusal.to_string())
    }

    #[test]
    fn settings_of_keys_are_set_with_set_and_for_keys_that_are_named() {
        let wanted = "`--rpm` needs `gq keys set`";
        assert_eq!(message("gq keys --rpm 5").unwrap(), wanted);
        assert!(message("gq keys set A").unwrap().contains("--project"));
        assert!(message("gq keys set --rpm 5").unwrap().contains("name the keys"));
        assert_eq!(message("gq keys set A --rpm 5 --tier none"), None);
        assert_eq!(message("gq work --rpm 5 --rpm m=2"), None);
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
