//! Looks at the files that lines name.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::domain::input::FoundFile;
use crate::domain::media_type;
use crate::domain::parts::Kind;
use crate::domain::time::file_time;

/// The most bytes that the API takes in one file (its documentation: 2 GB).
const LARGEST: u64 = 2 << 30;

/// Looks at the file that `path` names, seen from `folder`.
pub(super) fn look(folder: &Path, kind: Kind, path: &str) -> Result<FoundFile, String> {
    if path.is_empty() {
        return Err("the path is empty".to_owned());
    }
    let whole = std::path::absolute(folder.join(path)).map_err(|error| told(path, &error))?;
    let data = std::fs::metadata(&whole).map_err(|error| told(path, &error))?;
    if !data.is_file() {
        return Err(format!("`{path}` is not a file"));
    }
    if data.len() == 0 {
        return Err(format!("`{path}` is empty"));
    }
    if data.len() > LARGEST {
        return Err(format!("`{path}` is larger than 2 GB, the most that the API takes"));
    }
    let head = head(&whole).map_err(|error| told(path, &error))?;
    let whole = whole.into_os_string().into_string();
    Ok(FoundFile {
        mime_type: media_type::of_content(kind, &head, path),
        path: whole.map_err(|_| format!("`{path}` is in a folder whose name is not UTF-8"))?,
        size: data.len(),
        modified: file_time(data.mtime(), data.mtime_nsec()),
    })
}

fn head(path: &Path) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(media_type::HEAD);
    File::open(path)?.take(media_type::HEAD as u64).read_to_end(&mut head)?;
    Ok(head)
}

fn told(path: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => format!("there is no file `{path}`"),
        io::ErrorKind::PermissionDenied => format!("`{path}` may not be read"),
        _ => format!("`{path}`: {error}"),
    }
}
