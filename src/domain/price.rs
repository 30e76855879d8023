//! What calls cost, for `--max-cost`.

use chrono::NaiveDate;
use serde::Deserialize;

use crate::domain::outcome::Usage;
use crate::domain::time::Timestamp;

/// The prices that come with gq, with their date and source.
const SHIPPED: &str = include_str!("prices.toml");

/// Prices of models.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// The part that calls of the flex tier cost.
    flex: f64,
    /// Prompts of more tokens are long.
    long: i64,
    #[serde(rename = "model")]
    models: Vec<Price>,
}

/// Dollars for a million tokens.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Price {
    /// What the model's name begins with.
    name: String,
    /// The last day, in UTC.
    until: Option<NaiveDate>,
    input: f64,
    output: f64,
    long_input: Option<f64>,
    long_output: Option<f64>,
}

impl Prices {
    /// Reads prices from TOML text.
    ///
    /// # Errors
    /// Says what is wrong, for people.
    pub fn from_toml(text: &str) -> Result<Self, String> {
        let prices: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        let sound = |price: f64| price.is_finite() && price >= 0.0;
        let all = prices.models.iter().flat_map(|price| {
            let long = [price.long_input, price.long_output].into_iter().flatten();
            [price.input, price.output].into_iter().chain(long)
        });
        let all_sound = all.chain([prices.flex]).all(sound);
        if all_sound { Ok(prices) } else { Err("a price is a number of 0 or more".to_owned()) }
    }

    /// Returns what a call of `model` cost at `now`, in billionths of a dollar: thinking as output,
    /// nothing off for cached input. A model without a price costs nothing.
    pub fn cost(&self, model: &str, usage: &Usage, is_flex: bool, now: Timestamp) -> i64 {
        let today = now.to_utc().date_naive();
        let holds = |price: &&Price| {
            model.starts_with(&price.name) && price.until.is_none_or(|until| today <= until)
        };
        let Some(price) = self.models.iter().find(holds) else { return 0 };
        let is_long = usage.prompt_tokens > self.long;
        let input = price.long_input.filter(|_| is_long).unwrap_or(price.input);
        let output = price.long_output.filter(|_| is_long).unwrap_or(price.output);
        let part = if is_flex { self.flex } else { 1.0 };
        let written = usage.output_tokens + usage.thought_tokens;
        nanos(usage.prompt_tokens, input * part) + nanos(written, output * part)
    }
}

/// The prices that come with gq.
impl Default for Prices {
    fn default() -> Self {
        let none = Self { flex: 1.0, long: i64::MAX, models: Vec::new() };
        Self::from_toml(SHIPPED).unwrap_or(none)
    }
}

/// A dollar for a million tokens is a thousand billionths for one.
fn nanos(tokens: i64, dollars: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "prices are small whole numbers of cents")]
    let each = (dollars * 1000.0).round() as i64;
    tokens.saturating_mul(each)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(prompt_tokens: i64) -> Usage {
        Usage { prompt_tokens, output_tokens: 10, thought_tokens: 90, ..Usage::default() }
    }

    fn cost(model: &str, prompt_tokens: i64, is_flex: bool, day: &str) -> i64 {
        let now = Timestamp::parse(&format!("{day}T12:00:00Z")).unwrap();
        Prices::from_toml(SHIPPED).unwrap().cost(model, &usage(prompt_tokens), is_flex, now)
    }

    #[test]
    fn thinking_is_paid_as_output_and_an_unknown_model_as_the_dearest() {
        let day = "2026-11-28";
        assert_eq!(cost("gemini-2.5-flash", 1_000, false, day), 1_000_000 + 250_000);
        assert_eq!(cost("gemini-2.5-flash-lite", 1_000, false, day), 300_000 + 40_000);
        assert_eq!(cost("gemini-9", 1_000, false, day), 4_000_000 + 1_800_000);
    }

    #[test]
    fn long_prompts_cost_more_flex_half_and_some_prices_end() {
        let day = "2026-12-31";
        assert_eq!(cost("gemini-2.5-pro", 200_000, false, day), 250_000_000 + 1_000_000);
        assert_eq!(cost("gemini-2.5-pro", 200_001, false, day), 500_002_500 + 1_500_000);
        assert_eq!(cost("gemini-2.5-pro", 1_000, true, day), 625_000 + 500_000);
        assert_eq!(cost("gemini-3.8-flash-001", 1_000, false, day), 750_000 + 375_000);
        assert_eq!(cost("gemini-3.8-flash-001", 1_000, false, "2027-01-01"), 1_500_000 + 750_000);
    }

    #[test]
    fn prices_of_ones_own_are_checked() {
        let own = |model: &str| {
            Prices::from_toml(&format!("flex = 1.0\nlong = 9\n[[model]]\nname = \"m\"\n{model}"))
        };
        let prices = own("input = 1\noutput = 2.5").unwrap();
        assert_eq!(prices.cost("m-1", &usage(8), false, Timestamp(0)), 8_000 + 250_000);
        assert_eq!(prices.cost("other", &usage(8), false, Timestamp(0)), 0);
        for bad in ["input = -1\noutput = 1", "input = 1", "input = 1\noutput = 1\nprice = 2"] {
            assert!(own(bad).is_err(), "{bad}");
        }
    }
}
