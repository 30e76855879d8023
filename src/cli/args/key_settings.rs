//! What `gq keys set` sets. `none` takes a setting away.

use std::str::FromStr;

use clap::Args;
use gq::domain::key::Tier;
use gq::domain::limits::Given;
use gq::store::SettingsChange;

/// A new value, or none.
type Change<T> = Option<T>;

/// Settings of keys; variables such as `GEMINI_API_KEY_1_RPM` come before them.
#[derive(Debug, Clone, Args, Default)]
#[command(next_help_heading = "Settings for `set` (`none` takes one away)")]
pub(crate) struct KeySettingsArgs {
    /// Requests a minute: `10`, or `MODEL=10` for one model
    #[arg(long, value_name = "LIMIT", value_parser = or_none::<Given>)]
    rpm: Vec<Change<Given>>,
    /// Input tokens a minute, in the same forms
    #[arg(long, value_name = "LIMIT", value_parser = or_none::<Given>)]
    tpm: Vec<Change<Given>>,
    /// Requests a day (Pacific time), in the same forms
    #[arg(long, value_name = "LIMIT", value_parser = or_none::<Given>)]
    rpd: Vec<Change<Given>>,
    /// Project: keys of one project share limits and rests
    #[arg(long, value_name = "NAME", value_parser = or_none::<String>)]
    project: Option<Change<String>>,
    /// `free`, or `paid`: free keys are used first and cost nothing
    #[arg(long, value_name = "TIER", value_parser = or_none::<Tier>)]
    tier: Option<Change<Tier>>,
}

impl KeySettingsArgs {
    /// Returns the first flag that is given.
    pub(crate) fn first(&self) -> Option<&'static str> {
        let given = [
            (!self.rpm.is_empty(), "--rpm"),
            (!self.tpm.is_empty(), "--tpm"),
            (!self.rpd.is_empty(), "--rpd"),
            (self.project.is_some(), "--project"),
            (self.tier.is_some(), "--tier"),
        ];
        given.into_iter().find(|(is_given, _)| *is_given).map(|(_, name)| name)
    }

    /// Returns what is to change.
    pub(crate) fn change(&self) -> SettingsChange {
        SettingsChange {
            limits: [together(&self.rpm), together(&self.tpm), together(&self.rpd)],
            project: self.project.clone(),
            tier: self.tier,
        }
    }
}

/// Returns what all flags of one name say together; `none` takes away what came before.
fn together(changes: &[Change<Given>]) -> Option<Change<Given>> {
    changes.iter().cloned().reduce(|before, more| Some(before.unwrap_or_default().with(more?)))
}

fn or_none<T: FromStr>(text: &str) -> Result<Change<T>, String>
where
    T::Err: std::fmt::Display,
{
    match text.trim() {
        "none" => Ok(None),
        "" => Err("is empty; `none` takes the setting away".to_owned()),
        text => text.parse().map(Some).map_err(|reason| format!("{reason}")),
    }
}
