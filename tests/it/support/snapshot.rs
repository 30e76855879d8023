//! Text that is kept in files and compared.

use std::path::PathBuf;

/// Compares `actual` with the kept text; `UPDATE_SNAPSHOTS=1` keeps it instead.
#[track_caller]
pub(crate) fn matches(name: &str, actual: &str) {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/snapshots"));
    let path = folder.join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some_and(|value| value == "1") {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(&path, actual).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == actual,
        "`{name}.txt` differs; look at it, and if it is meant so, \
         run the tests with UPDATE_SNAPSHOTS=1\n--- kept\n{expected}\n--- now\n{actual}"
    );
}

/// Replaces each time of the form `2026-11-24 09:30:00`, whatever it is.
pub(crate) fn without_times(text: &str) -> String {
    const SHAPE: &str = "YYYY-MM-DD hh:mm:ss";
    let fits = |window: &str| {
        window.chars().zip(SHAPE.chars()).all(|(found, wanted)| {
            if wanted.is_alphabetic() { found.is_ascii_digit() } else { found == wanted }
        })
    };
    let mut filtered = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if rest.get(..SHAPE.len()).is_some_and(fits) {
            filtered.push_str(SHAPE);
            rest = &rest[SHAPE.len()..];
        } else {
            filtered.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    filtered
}
