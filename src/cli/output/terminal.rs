//! Text that a terminal shows and does not obey.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

/// Returns `text` with each control character and bidi override as a visible `\u` escape.
///
/// Inside JSON the escape stands for the same character.
pub(super) fn neutral(text: &str) -> Cow<'_, str> {
    if !text.contains(is_harmful) {
        return text.into();
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        if is_harmful(letter) {
            // Writing to a string cannot fail.
            let _ = write!(safe, "\\u{:04x}", u32::from(letter));
        } else {
            safe.push(letter);
        }
    }
    safe.into()
}

fn is_harmful(letter: char) -> bool {
    (letter.is_control() && letter != '\n' && letter != '\t')
        || matches!(letter, '\u{061c}' | '\u{200e}' | '\u{200f}')
        || matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Passes lines on to a terminal, each neutralised as a whole.
pub(super) struct Neutralising<W> {
    inner: W,
    pending: Vec<u8>,
}

impl<W: Write> Neutralising<W> {
    /// Wraps the writer of a terminal.
    pub(super) fn new(inner: W) -> Self {
        Self { inner, pending: Vec::new() }
    }
}

impl<W: Write> Write for Neutralising<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pending.extend_from_slice(bytes);
        if let Some(end) = self.pending.iter().rposition(|byte| *byte == b'\n') {
            let rest = self.pending.split_off(end + 1);
            let lines = std::mem::replace(&mut self.pending, rest);
            self.inner.write_all(neutral(&String::from_utf8_lossy(&lines)).as_bytes())?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let rest = std::mem::take(&mut self.pending);
        self.inner.write_all(neutral(&String::from_utf8_lossy(&rest)).as_bytes())?;
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_become_visible() {
        for (text, wanted) in [
            ("plain ü\n\tline", "plain ü\n\tline"),
            ("\x1b[31mred\x07\r\n", "\\u001b[31mred\\u0007\\u000d\n"),
            ("\x7f\u{9b}2J", "\\u007f\\u009b2J"),
            ("a\u{202e}b\u{2066}c", "a\\u202eb\\u2066c"),
        ] {
            assert_eq!(neutral(text), wanted);
        }
    }

    #[test]
    fn letters_cut_between_two_writes_stay_whole() {
        let mut shown = Vec::new();
        let mut writer = Neutralising::new(&mut shown);
        writer.write_all(&[b'a', 0xc3]).unwrap();
        writer.write_all(&[0xbc, b'\n', 0x1b]).unwrap();
        writer.flush().unwrap();
        assert_eq!(String::from_utf8(shown).unwrap(), "aü\n\\u001b");
    }
}
