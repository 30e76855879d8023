//! Lines of coloured words that take up so many columns of a terminal and no more.

use unicode_width::UnicodeWidthChar as _;

use super::terminal::neutral;

/// How words stand out, where colour is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tint {
    Plain,
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
}

impl Tint {
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Bold => Some("1"),
            Self::Dim => Some("2"),
            Self::Red => Some("31"),
            Self::Green => Some("32"),
            Self::Yellow => Some("33"),
        }
    }
}

/// Words of one or more tints on one line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Line(Vec<(Tint, String)>);

impl Line {
    /// Returns a line of `text` alone.
    pub(super) fn of(tint: Tint, text: impl AsRef<str>) -> Self {
        Self::default().and(tint, text)
    }

    /// Adds `text`; what a terminal would obey, or go on to another line for, is neutralised.
    pub(super) fn and(mut self, tint: Tint, text: impl AsRef<str>) -> Self {
        let text = text.as_ref().replace(['\n', '\r', '\t'], " ");
        if !text.is_empty() {
            self.0.push((tint, neutral(&text).into_owned()));
        }
        self
    }

    /// Returns the line without what goes beyond `width` columns; an ellipsis stands for that.
    pub(super) fn cut(self, width: usize) -> Self {
        if self.width() <= width {
            return self;
        }
        let Some(mut room) = width.checked_sub(1) else {
            return Self::default();
        };
        let mut kept = Vec::new();
        for (tint, text) in self.0 {
            let end = fitting(&text, room);
            room -= columns(&text[..end]);
            let is_whole = end == text.len();
            kept.push((tint, if is_whole { text } else { format!("{}…", &text[..end]) }));
            if !is_whole {
                break;
            }
        }
        Self(kept)
    }

    /// Adds the line to `out`, without blanks and line break at its end.
    pub(super) fn write(&self, color: bool, out: &mut String) {
        let last = self.0.iter().rposition(|(_, text)| !text.trim_end().is_empty());
        for (index, (tint, text)) in self.0.iter().enumerate().take(last.map_or(0, |at| at + 1)) {
            let text = if Some(index) == last { text.trim_end() } else { text };
            match tint.code().filter(|_| color) {
                Some(code) => out.extend(["\x1b[", code, "m", text, "\x1b[0m"]),
                None => out.push_str(text),
            }
        }
    }

    fn width(&self) -> usize {
        self.0.iter().map(|(_, text)| columns(text)).sum()
    }

    /// Returns the line made up to `width` columns, with its words at the left or the right.
    fn padded(mut self, width: usize, side: Side) -> Self {
        let blanks = " ".repeat(width.saturating_sub(self.width()));
        match side {
            Side::Left => self.0.push((Tint::Plain, blanks)),
            Side::Right => self.0.insert(0, (Tint::Plain, blanks)),
        }
        self
    }
}

/// On which side of its column a cell stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// Returns the rows as lines with aligned columns; a column with nothing in it is left out.
pub(super) fn table<const N: usize>(sides: [Side; N], rows: Vec<[Line; N]>) -> Vec<Line> {
    let width = |column: usize| rows.iter().map(|row| row[column].width()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let last = widths.iter().rposition(|width| *width > 0);
    let line = |row: [Line; N]| {
        let mut line = Line::default();
        for (column, cell) in row.into_iter().enumerate().filter(|(at, _)| widths[*at] > 0) {
            if Some(column) == last && sides[column] == Side::Left {
                line.0.extend(cell.0);
            } else {
                line.0.extend(cell.padded(widths[column], sides[column]).0);
                line.0.push((Tint::Plain, "  ".to_owned()));
            }
        }
        line
    };
    rows.into_iter().map(line).collect()
}

fn columns(text: &str) -> usize {
    text.chars().map(|letter| letter.width().unwrap_or(0)).sum()
}

/// Returns where the part of `text` that takes no more than `room` columns ends.
fn fitting(text: &str, room: usize) -> usize {
    let mut taken = 0;
    for (at, letter) in text.char_indices() {
        taken += letter.width().unwrap_or(0);
        if taken > room {
            return at;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(line: &Line) -> String {
        let mut text = String::new();
        line.write(false, &mut text);
        text
    }

    #[test]
    fn a_line_is_cut_by_columns_not_by_letters() {
        let line = Line::of(Tint::Red, "ab").and(Tint::Plain, "日本語x");
        for (width, wanted) in [
            (9, "ab日本語x"),
            (8, "ab日本…"),
            (7, "ab日本…"),
            (6, "ab日…"),
            (3, "ab…"),
            (2, "a…"),
            (1, "…"),
            (0, ""),
        ] {
            let cut = line.clone().cut(width);
            assert_eq!(plain(&cut), wanted, "{width}");
            assert!(cut.width() <= width);
        }
        assert_eq!(plain(&Line::of(Tint::Plain, "e\u{301}e\u{301}x").cut(2)), "e\u{301}…");
    }

    #[test]
    fn words_cannot_leave_their_line_or_steer_the_terminal() {
        let line = Line::of(Tint::Plain, "a\nb\tc\x1b[2J\u{202e}");
        assert_eq!(plain(&line), "a b c\\u001b[2J\\u202e");
    }

    #[test]
    fn columns_line_up_and_empty_ones_go() {
        let row = |name, number: &str, more| {
            [("", name), ("", ""), ("", number), ("", more)]
                .map(|(_, text)| Line::of(Tint::Plain, text))
        };
        let sides = [Side::Left, Side::Left, Side::Right, Side::Left];
        let lines = table(sides, vec![row("日本", "7", "x"), row("b", "12", "")]);
        assert_eq!(lines.iter().map(plain).collect::<Vec<_>>(), ["日本   7  x", "b     12"]);
    }

    #[test]
    fn tints_are_there_only_with_colour() {
        let mut text = String::new();
        Line::of(Tint::Green, "ok").and(Tint::Plain, " then").write(true, &mut text);
        assert_eq!(text, "\x1b[32mok\x1b[0m then");
    }
}
