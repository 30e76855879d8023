//! Rows of words in aligned columns, and times to read.

use chrono::TimeZone;
use gq::domain::time::Timestamp;

/// Returns the rows with each column as wide as its widest cell.
pub(crate) fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Returns `time` as a clock in `zone` shows it.
pub(crate) fn clock_time<Z: TimeZone>(time: Timestamp, zone: &Z) -> String
where
    Z::Offset: std::fmt::Display,
{
    time.to_utc().with_timezone(zone).format("%Y-%m-%d %H:%M:%S %:z").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let row = |words: &str| words.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(aligned(&[row("a bb c"), row("aaä b")]), "a    bb  c\naaä  b\n");
    }
}
