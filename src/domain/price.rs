//! What calls cost, for `--max-cost`.
//!
//! Prices are those of the paid tier in US dollars for a million tokens, read 2026-10-07 from
//! <https://ai.google.dev/gemini-api/docs/pricing>; they change, and a bill is Google's.

use crate::domain::outcome::Usage;

/// A model's name begins so; dollars a million tokens of input and of output.
const PRICES: [(&str, f64, f64); 13] = [
    ("gemini-flash-lite-latest", 0.30, 2.50),
    ("gemini-flash-latest", 1.50, 7.50),
    ("gemini-pro-latest", 4.00, 18.00),
    ("gemini-3.8-flash", 1.50, 7.50),
    ("gemini-3.5-flash-lite", 0.30, 2.50),
    ("gemini-3.5-flash", 1.50, 9.00),
    ("gemini-3.1-pro-preview", 4.00, 18.00),
    ("gemini-3.1-flash-lite", 0.25, 1.50),
    ("gemini-3-flash-preview", 0.50, 3.00),
    ("gemini-2.5-pro", 2.50, 15.00),
    ("gemini-2.5-flash-lite", 0.30, 0.40),
    ("gemini-2.5-flash", 1.00, 2.50),
    // An unknown model counts as the dearest, so that a budget stops early rather than late.
    ("", 4.00, 18.00),
];

/// Returns what a call cost at most, in billionths of a dollar: the higher price where a model has
/// two, thinking as output, nothing off for cached input.
pub fn cost(model: &str, usage: &Usage) -> i64 {
    let known = PRICES.iter().find(|(name, ..)| model.starts_with(name));
    let (input, output) = known.map_or((4.00, 18.00), |&(_, input, output)| (input, output));
    let written = usage.output_tokens + usage.thought_tokens;
    nanos(usage.prompt_tokens, input) + nanos(written, output)
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

    #[test]
    fn thinking_is_paid_as_output_and_an_unknown_model_as_the_dearest() {
        let usage = Usage {
            prompt_tokens: 1000,
            output_tokens: 10,
            thought_tokens: 90,
            ..Usage::default()
        };
        assert_eq!(cost("gemini-2.5-flash", &usage), 1_000_000 + 250_000);
        assert_eq!(cost("gemini-2.5-flash-lite", &usage), 300_000 + 40_000);
        assert_eq!(cost("gemini-9", &usage), 4_000_000 + 1_800_000);
    }
}
