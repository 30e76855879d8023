//! Images and clips of answers: listed in results, and written to files where asked.
//!
//! Owns how a file is called. The database stays as it is, so files can be written again.

use std::borrow::Cow;
use std::fs::{self, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use gq::domain::view::JobView;
use gq::gemini::wire::Media;
use sha2::{Digest, Sha256};

use super::exit::ExitStatus;
use super::failure::{Failure, Result};
use super::output::results::MediaItem;

/// The longest part of a name that is taken as it stands; two of them with their hashes fit into
/// the 255 bytes that file systems allow.
const LONGEST: usize = 80;

/// Where images and clips go.
#[derive(Debug, Default)]
pub(crate) struct MediaFolder<'a> {
    folder: Option<&'a Path>,
    undecodable: u64,
}

impl<'a> MediaFolder<'a> {
    /// Makes the folder; without one, media is listed only.
    pub(crate) fn open(folder: Option<&'a Path>) -> Result<Self> {
        if let Some(folder) = folder {
            fs::create_dir_all(folder).map_err(|error| failed(folder, &error))?;
        }
        Ok(Self { folder, undecodable: 0 })
    }

    /// Lists the media of one answer, after writing it where a folder was named.
    pub(crate) fn take(&mut self, job: &JobView, media: Vec<Media>) -> Result<Vec<MediaItem>> {
        media.into_iter().enumerate().map(|(index, media)| self.item(job, index, media)).collect()
    }

    fn item(&mut self, job: &JobView, index: usize, media: Media) -> Result<MediaItem> {
        let Media { mime_type, data } = media;
        let mut path = None;
        match (&data, self.folder) {
            (Some(data), Some(folder)) => {
                let file = folder.join(file_name(&job.batch, &job.task_id, index, &mime_type));
                write(folder, &file, data).map_err(|error| failed(&file, &error))?;
                path = Some(file.to_string_lossy().into_owned());
            }
            (Some(_), None) => {}
            (None, _) => self.undecodable += 1,
        }
        Ok(MediaItem { mime_type, path, bytes: data.map(|data| data.len() as u64) })
    }

    /// Returns what to warn of in the end.
    pub(crate) fn warning(&self) -> Option<String> {
        let what = match self.undecodable {
            0 => return None,
            1 => "1 image or clip".to_owned(),
            number => format!("{number} images or clips"),
        };
        Some(format!("{what} could not be decoded; `--full` shows what the API sent"))
    }
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    let message = format!("cannot write `{}`: {error}", path.display());
    Failure::new(ExitStatus::Failure, message).hint("the answers stay in the database")
}

/// Writes a file whole or not at all. A link in its place is replaced, not followed.
fn write(folder: &Path, file: &Path, data: &[u8]) -> io::Result<()> {
    let mut unfinished =
        tempfile::Builder::new().permissions(Permissions::from_mode(0o666)).tempfile_in(folder)?;
    unfinished.write_all(data)?;
    unfinished.as_file().sync_all()?;
    unfinished.persist(file).map_err(|error| error.error)?;
    Ok(())
}

/// Returns the name of a file. No other batch, task and index has it, also where letters that
/// differ only in case are the same: neither part holds a `+` or, unless hashed, a `~`.
fn file_name(batch: &str, task_id: &str, index: usize, mime_type: &str) -> PathBuf {
    let ending = ending(mime_type);
    format!("{}+{}-{index}.{ending}", harmless(batch), harmless(task_id)).into()
}

/// Returns text that can be part of a name anywhere. What is not so by itself is made so and gets
/// a hash of the whole, which keeps different texts apart.
fn harmless(text: &str) -> Cow<'_, str> {
    let plain = |letter: char| {
        letter.is_ascii_lowercase() || letter.is_ascii_digit() || "-_.".contains(letter)
    };
    if text.len() <= LONGEST && !text.starts_with(['.', '-']) && text.chars().all(plain) {
        return text.into();
    }
    let kept = |letter: char| plain(letter) || letter.is_ascii_uppercase();
    let shown = text.chars().map(|letter| if kept(letter) { letter } else { '_' }).take(LONGEST);
    let mut name: String = shown.collect();
    if name.starts_with(['.', '-']) {
        name.replace_range(..1, "_");
    }
    let hash =
        Sha256::digest(text).iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte));
    format!("{name}~{hash:016x}").into()
}

/// Returns the ending of files of a type.
fn ending(mime_type: &str) -> &'static str {
    let essence = mime_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "image/png" => "png",
        "image/jpeg" => "jpg",
        "image/webp" => "webp",
        "image/gif" => "gif",
        "image/bmp" => "bmp",
        "image/heic" => "heic",
        "image/heif" => "heif",
        "image/avif" => "avif",
        "image/svg+xml" => "svg",
        "audio/wav" | "audio/x-wav" | "audio/wave" | "audio/vnd.wave" => "wav",
        // Bare samples, which the API sends for speech.
        "audio/l16" | "audio/pcm" => "pcm",
        "audio/mpeg" | "audio/mp3" => "mp3",
        "audio/ogg" | "audio/opus" => "ogg",
        "audio/flac" => "flac",
        "audio/aac" => "aac",
        "audio/mp4" => "m4a",
        "audio/aiff" => "aiff",
        "video/mp4" => "mp4",
        "video/webm" => "webm",
        "application/pdf" => "pdf",
        "application/json" => "json",
        "text/plain" => "txt",
        "text/csv" => "csv",
        _ => "bin",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn name(batch: &str, task_id: &str) -> String {
        let name = file_name(batch, task_id, 0, "image/png");
        name.into_os_string().into_string().unwrap()
    }

    #[test]
    fn a_usual_name_reads_as_it_is() {
        assert_eq!(name("prompts.v2", "task_1"), "prompts.v2+task_1-0.png");
        assert_eq!(file_name("b", "7", 12, "audio/L16;codec=pcm"), Path::new("b+7-12.pcm"));
        assert_eq!(file_name("b", "7", 0, "x/../y"), Path::new("b+7-0.bin"));
        assert!(name("b", "Task 1").starts_with("b+Task_1~"), "{}", name("b", "Task 1"));
    }

    #[test]
    fn no_name_leaves_the_folder_or_is_another_ones() {
        let long = "x".repeat(300);
        let odd = [
            "",
            "..",
            ".",
            "../../etc/passwd",
            "/etc/passwd",
            "a/b",
            "a_b",
            "a b",
            "a\u{1}b",
            "a\nb",
            "A",
            "a",
            "ä",
            "Ä",
            "a\u{308}",
            "日本",
            "-rf",
            ".hidden",
            "a+b",
            "a~b",
            "con",
            "a-0",
            "a-1",
            &long,
            &long[1..],
            "%2f",
            "\\",
            "C:",
            "*",
            "a\u{202e}b",
            "__rf",
        ];
        let mut names = HashSet::new();
        for batch in odd {
            for task_id in odd {
                let name = name(batch, task_id);
                assert!(name.len() <= 230, "{name}");
                assert!(!name.starts_with('.') && !name.starts_with('-'), "{name}");
                let fits =
                    |letter: char| letter.is_ascii_alphanumeric() || "-_.+~".contains(letter);
                assert!(name.chars().all(fits), "{name}");
                assert!(names.insert(name.to_lowercase()), "{batch:?} {task_id:?}: {name}");
            }
        }
    }

    #[test]
    fn a_link_in_the_place_of_a_file_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let outside = folder.path().join("outside");
        fs::write(&outside, "mine").unwrap();
        let inside = folder.path().join("media");
        fs::create_dir(&inside).unwrap();
        let file = inside.join("b+1-0.png");
        std::os::unix::fs::symlink(&outside, &file).unwrap();
        write(&inside, &file, b"new").unwrap();
        assert_eq!(fs::read(&outside).unwrap(), b"mine");
        assert_eq!(fs::read(&file).unwrap(), b"new");
    }
}
