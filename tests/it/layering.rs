//! Which part of the library may know which.

use std::fs;
use std::path::{Path, PathBuf};

/// What each part may use; everything else of the crate is closed to it.
const ALLOWED: [(&str, &[&str]); 8] = [
    ("domain", &["domain"]),
    ("gemini", &["gemini", "domain::limits", "domain::outcome"]),
    ("store", &["store", "domain"]),
    ("worker", &["worker", "store", "gemini", "domain", "clock"]),
    ("queue", &["queue", "worker", "store", "intake", "gemini", "domain", "clock"]),
    ("mock", &["mock", "domain"]),
    ("intake", &["intake", "domain"]),
    ("config", &["config", "domain"]),
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Returns the paths below `crate::` that a file's code names.
fn named(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let code = text.lines().map(str::trim_start).filter(|line| !line.starts_with("//"));
    code.flat_map(|line| line.split("crate::").skip(1))
        .map(|rest| {
            let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
            rest[..end.unwrap_or(rest.len())].trim_end_matches(':').to_owned()
        })
        .collect()
}

#[test]
fn each_part_uses_only_what_it_may() {
    let mut seen = 0;
    for (part, allowed) in ALLOWED {
        let within = |file: &&PathBuf| {
            let below = file.strip_prefix(src()).unwrap();
            below.starts_with(part) || below == Path::new(&format!("{part}.rs"))
        };
        for file in sources(&src()).iter().filter(within) {
            for path in named(file) {
                let fits = allowed
                    .iter()
                    .any(|open| path == *open || path.starts_with(&format!("{open}::")));
                assert!(fits, "{} uses crate::{path}", file.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 50, "only {seen} uses were found");
}

#[test]
fn no_file_has_more_than_500_lines() {
    let files = sources(&src());
    assert!(files.len() > 50, "only {} files were found", files.len());
    for file in files {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        assert!(lines <= 500, "{} has {lines} lines", file.display());
    }
}
