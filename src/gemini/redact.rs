//! Keeps secrets out of what a server says: applied before anything else looks at it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What stands where a secret stood.
pub const MASK: &str = "[redacted]";

/// A secret of fewer characters can be a common word.
const LONG: usize = 16;

/// Characters of Google's keys after their first four.
const KEY_LENGTH: usize = 20;

/// Returns an error text without `secret` in any usual spelling, and without anything that looks
/// like a key.
pub fn error_text(text: &str, secret: &str) -> String {
    let mut clean = text.to_owned();
    for spelling in [secret.to_owned(), percent_encoded(secret), STANDARD.encode(secret)] {
        clean = without(&clean, &spelling);
    }
    without_key_shapes(&clean)
}

/// Returns an answer's text without `secret`; one short enough to be a common word stays.
pub fn answer_text(text: String, secret: &str) -> String {
    if secret.len() >= LONG && text.contains(secret) { text.replace(secret, MASK) } else { text }
}

fn without(text: &str, secret: &str) -> String {
    if secret.is_empty() || !text.contains(secret) {
        return text.to_owned();
    }
    if secret.len() >= LONG {
        return text.replace(secret, MASK);
    }
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(secret) {
        let (before, after) = (&rest[..at], &rest[at + secret.len()..]);
        clean.push_str(before);
        let joined = clean.ends_with(|c: char| c.is_alphanumeric())
            || after.starts_with(|c: char| c.is_alphanumeric());
        clean.push_str(if joined { secret } else { MASK });
        rest = after;
    }
    clean + rest
}

fn percent_encoded(secret: &str) -> String {
    use std::fmt::Write;
    secret.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

/// Masks `AIza…` and `key=…`, whoever's they are.
fn without_key_shapes(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((at, marker)) = ["AIza", "key="]
        .into_iter()
        .filter_map(|marker| rest.find(marker).map(|at| (at, marker)))
        .min()
    {
        let (before, from) = rest.split_at(at);
        clean.push_str(before);
        let tail = &from[marker.len()..];
        let length = tail
            .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'))
            .unwrap_or(tail.len());
        if length >= KEY_LENGTH || (marker == "key=" && length > 0) {
            clean.push_str(if marker == "key=" { marker } else { "" });
            clean.push_str(MASK);
        } else {
            clean.push_str(&from[..marker.len() + length]);
        }
        rest = &tail[length..];
    }
    clean + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_masked_however_it_is_spelled() {
        let secret = "canary+secret/0123456789";
        for spelling in [secret.to_owned(), percent_encoded(secret), STANDARD.encode(secret)] {
            let text = error_text(&format!("consumer 'api_key:{spelling}' is bad"), secret);
            assert_eq!(text, "consumer 'api_key:[redacted]' is bad");
        }
    }

    #[test]
    fn a_short_secret_is_masked_where_it_stands_alone() {
        assert_eq!(error_text("bad key k1, not k12", "k1"), "bad key [redacted], not k12");
        assert_eq!(answer_text("the k1 summit".to_owned(), "k1"), "the k1 summit");
    }

    #[test]
    fn whatever_looks_like_a_key_is_masked() {
        let other = format!("AIza{}", "x".repeat(35));
        let text = error_text(&format!("see https://x/?key=abc&y and {other}."), "unrelated");
        assert_eq!(text, "see https://x/?key=[redacted]&y and [redacted].");
        assert_eq!(error_text("AIza is how keys begin", "unrelated"), "AIza is how keys begin");
    }
}
