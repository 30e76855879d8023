//! A disk that is slower, is counted, fails or is recorded, and a wrong clock: see `disk.c`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds it in `folder`, by the C compiler that also builds SQLite; `LD_PRELOAD` takes it.
pub(crate) fn build(folder: &Path) -> PathBuf {
    let library = folder.join("disk.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/disk/disk.c");
    let mut compiler = Command::new("cc");
    let built = compiler.args(["-shared", "-fPIC", "-O2", "-o"]).arg(&library).arg(source).status();
    assert!(built.is_ok_and(|status| status.success()), "a C compiler builds {source}");
    library
}
