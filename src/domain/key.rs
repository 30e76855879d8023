//! What people say of a key: what its project pays for, which project that is, what it may take.

use std::str::FromStr;

use crate::domain::limits::GivenLimits;

/// What the key's project pays for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// Calls cost nothing.
    Free,
    /// Calls are billed.
    Paid,
}

impl Tier {
    /// Returns the name that users and the database see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Paid => "paid",
        }
    }

    /// Returns the place of a key among others, the lowest first: what costs nothing before what
    /// may cost something before what does.
    pub fn rank(tier: Option<Self>) -> u8 {
        match tier {
            Some(Self::Free) => 0,
            None => 1,
            Some(Self::Paid) => 2,
        }
    }
}

impl FromStr for Tier {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "free" => Ok(Self::Free),
            "paid" => Ok(Self::Paid),
            _ => Err("must be `free` or `paid`".to_owned()),
        }
    }
}

/// The settings of one key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeySettings {
    /// Limits of its own.
    pub limits: GivenLimits,
    /// The project that it belongs to: keys of one project share limits and rests.
    pub project: Option<String>,
    /// What the project pays for.
    pub tier: Option<Tier>,
}

impl KeySettings {
    /// Returns these settings, and those of `other` where these say nothing.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        let mut limits = other.limits;
        for (limit, own) in limits.0.iter_mut().zip(self.limits.0) {
            *limit = std::mem::take(limit).with(own);
        }
        Self { limits, project: self.project.or(other.project), tier: self.tier.or(other.tier) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::limits::Limits;

    #[test]
    fn what_one_place_does_not_say_another_does() {
        let limits = |rpm: &str, rpd: &str| {
            GivenLimits([rpm, "", rpd].map(|text| text.parse().unwrap_or_default()))
        };
        let one = KeySettings { limits: limits("5", ""), tier: Some(Tier::Paid), project: None };
        let other = KeySettings {
            limits: limits("7,m=2", "9"),
            tier: Some(Tier::Free),
            project: Some("p".to_owned()),
        };
        let both = one.or(other);
        assert_eq!(both.limits.of("x"), Limits([Some(5), None, Some(9)]));
        assert_eq!(both.limits.of("m"), Limits([Some(2), None, Some(9)]));
        assert_eq!((both.tier, both.project.as_deref()), (Some(Tier::Paid), Some("p")));
    }

    #[test]
    fn what_costs_nothing_comes_first() {
        let ranks = [Some(Tier::Free), None, Some(Tier::Paid)].map(Tier::rank);
        assert_eq!(ranks, [0, 1, 2]);
        assert_eq!("free".parse(), Ok(Tier::Free));
        assert!("gold".parse::<Tier>().is_err());
    }
}
