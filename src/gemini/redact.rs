//! Keeps secrets out of what a server says: applied before anything else looks at it.

use std::mem;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

/// What stands where a secret stood.
pub const MASK: &str = "[redacted]";

/// A secret of fewer bytes can be a common word.
const LONG: usize = 16;

/// Characters of Google's keys after their first four.
const KEY_LENGTH: usize = 20;

/// Returns an error text without `secret` in any usual spelling, and without anything that looks
/// like a key.
pub fn error_text(text: &str, secret: &str) -> String {
    let mut clean = text.to_owned();
    for spelling in spellings(secret) {
        if clean.contains(&spelling) {
            clean = without(&clean, &spelling);
        }
    }
    without_parameters(&without_key_shapes(&clean))
}

/// Returns an answer's text without `secret`; one short enough to be a common word stays.
pub fn answer_text(text: String, secret: &str) -> String {
    if secret.len() >= LONG && text.contains(secret) { text.replace(secret, MASK) } else { text }
}

/// Masks `secret` in texts that belong together, also where it runs from one into the next: the
/// mask then stands where it began.
pub fn answer_texts<'a>(texts: impl IntoIterator<Item = &'a mut String>, secret: &str) {
    if secret.len() < LONG {
        return;
    }
    let texts: Vec<_> = texts.into_iter().collect();
    let whole: String = texts.iter().map(|text| text.as_str()).collect();
    if !whole.contains(secret) {
        return;
    }
    let mut starts = whole.match_indices(secret).map(|(start, _)| start).peekable();
    let (mut at, mut clean_to) = (0, 0);
    for text in texts {
        let end = at + text.len();
        clean_to = clean_to.max(at);
        text.clear();
        while let Some(start) = starts.next_if(|start| *start < end) {
            text.extend([&whole[clean_to..start], MASK]);
            clean_to = start + secret.len();
        }
        text.push_str(&whole[clean_to.min(end)..end]);
        at = end;
    }
}

/// Masks a secret in an answer that comes in pieces, as [`answer_text`] does in a whole one.
pub struct Pieces<'a> {
    secret: &'a str,
    /// The end of what came, while it may be the beginning of the secret.
    held: String,
}

impl<'a> Pieces<'a> {
    /// Begins an answer.
    pub fn new(secret: &'a str) -> Self {
        Self { secret, held: String::new() }
    }

    /// Takes the next piece; returns what is free of the secret whatever comes.
    pub fn push(&mut self, piece: &str) -> String {
        if self.secret.len() < LONG {
            return piece.to_owned();
        }
        self.held.push_str(piece);
        let mut clean = String::with_capacity(self.held.len());
        let mut rest = self.held.as_str();
        while let Some((before, after)) = rest.split_once(self.secret) {
            clean.extend([before, MASK]);
            rest = after;
        }
        let begins = |length: &usize| rest.as_bytes().ends_with(&self.secret.as_bytes()[..*length]);
        let longest = (1..self.secret.len()).rev().find(begins).unwrap_or(0);
        let (free, held) = rest.split_at(rest.len() - longest);
        clean.push_str(free);
        self.held = held.to_owned();
        clean
    }

    /// Returns what was held back, now that nothing more comes.
    pub fn finish(&mut self) -> String {
        mem::take(&mut self.held)
    }
}

/// Returns a secret as it stands, in a URL, and in base64.
fn spellings(secret: &str) -> Vec<String> {
    let escaped = percent_encoded(secret);
    let mut all = vec![
        secret.to_owned(),
        lower_escapes(&escaped),
        escaped,
        STANDARD.encode(secret),
        URL_SAFE.encode(secret),
    ];
    all.retain(|spelling| !spelling.is_empty());
    all.dedup();
    all
}

fn without(text: &str, secret: &str) -> String {
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

fn lower_escapes(escaped: &str) -> String {
    let mut pieces = escaped.split('%');
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (digits, rest) = piece.split_at(2);
        text = text + "%" + &digits.to_lowercase() + rest;
    }
    text
}

/// Masks whatever begins like one of Google's keys and is long enough, whoever's it is.
pub fn without_key_shapes(text: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    masked(text, "AIza", is_part, |length| (length >= KEY_LENGTH).then_some(""))
}

/// Masks the value of `key=…`, escapes included.
fn without_parameters(text: &str) -> String {
    let is_part = |c: char| !c.is_whitespace() && !"&#\"'<>()[]{},;\\".contains(c);
    masked(text, "key=", is_part, |length| (length > 0).then_some("key="))
}

/// Masks what follows `marker`, as far as `is_part` goes; `kept` tells by its length whether it is
/// a secret, and if so what stays before the mask.
fn masked(
    text: &str,
    marker: &str,
    is_part: impl Fn(char) -> bool,
    kept: impl Fn(usize) -> Option<&'static str>,
) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, tail)) = rest.split_once(marker) {
        let length = tail.find(|c| !is_part(c)).unwrap_or(tail.len());
        clean.push_str(before);
        match kept(length) {
            Some(kept) => clean.extend([kept, MASK]),
            None => clean.extend([marker, &tail[..length]]),
        }
        rest = &tail[length..];
    }
    clean + rest
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_secret_is_masked_however_it_is_spelled() {
        let secret = "canary+secret/0123456789";
        for spelling in spellings(secret) {
            let text = error_text(&format!("consumer 'api_key:{spelling}' is bad"), secret);
            assert_eq!(text, "consumer 'api_key:[redacted]' is bad");
        }
    }

    #[test]
    fn a_short_secret_is_masked_where_it_stands_alone() {
        assert_eq!(error_text("bad key k1, not k12", "k1"), "bad key [redacted], not k12");
    }

    #[test]
    fn an_answer_loses_a_secret_that_is_no_common_word() {
        for (secret, told) in [
            ("k1", "It is k1."),
            ("fifteen-letters", "It is fifteen-letters."),
            ("sixteen-letters!", "It is [redacted]."),
            ("AIzaSyCanary0123456789abcdefghijklmnopq", "It is [redacted]."),
        ] {
            assert_eq!(answer_text(format!("It is {secret}."), secret), told);
        }
    }

    fn pieces(texts: &[String], secret: &str) -> String {
        let mut pieces = Pieces::new(secret);
        let mut heard: String = texts.iter().map(|text| pieces.push(text)).collect();
        heard.push_str(&pieces.finish());
        heard
    }

    fn texts(mut texts: Vec<String>, secret: &str) -> Vec<String> {
        answer_texts(&mut texts, secret);
        texts
    }

    #[test]
    fn a_piece_is_held_back_only_while_it_may_begin_the_secret() {
        let mut pieces = Pieces::new("sixteen-letters!");
        for (piece, told) in [
            ("ab", "ab"),
            ("c six", "c "),
            ("teen", ""),
            ("sixteen", "sixteen"),
            ("-letters!six", MASK),
            ("ty", "sixty"),
            ("sixteen-letters", ""),
        ] {
            assert_eq!(pieces.push(piece), told, "{piece}");
        }
        assert_eq!(pieces.finish(), "sixteen-letters");
    }

    #[test]
    fn a_mask_stands_in_the_text_in_which_the_secret_begins() {
        let secret = "sixteen-letters!";
        for (given, told) in [
            (vec!["a ", " b"], vec!["a ", " b"]),
            (vec!["a six", "teen-letters! b"], vec!["a [redacted]", " b"]),
            (vec!["six", "", "teen-", "letters!"], vec![MASK, "", "", ""]),
            (vec!["sixteen-letters!six", "teen-letters!."], vec!["[redacted][redacted]", "."]),
            (vec!["sixteen", "sixteen-letters!"], vec!["sixteen", MASK]),
        ] {
            let given = given.into_iter().map(str::to_owned).collect();
            assert_eq!(texts(given, secret), told);
        }
    }

    proptest! {
        #[test]
        fn a_secret_is_masked_alike_however_the_answer_is_cut(
            pieces in vec("[ab]{0,9}|(ab){6,9}|aé", 0..9),
            secret in "(ab){8}|a{15}b|(aab){6}|(éab){8}|ab",
        ) {
            let whole = answer_text(pieces.concat(), &secret);
            prop_assert_eq!(self::pieces(&pieces, &secret), whole.as_str());
            prop_assert_eq!(texts(pieces, &secret).concat(), whole);
        }
    }

    #[test]
    fn whatever_looks_like_a_key_is_masked() {
        let other = format!("AIza{}", "x".repeat(35));
        let text = error_text(&format!("see https://x/?key=abc&y and {other}."), "unrelated");
        assert_eq!(text, "see https://x/?key=[redacted]&y and [redacted].");
        assert_eq!(error_text("?key=a%2Fb+c&x=1", "unrelated"), "?key=[redacted]&x=1");
        assert_eq!(error_text("AIza is how keys begin", "unrelated"), "AIza is how keys begin");
    }
}
