//! Results as text to read.

use super::results::{MediaItem, ResultRow};

/// Returns the answer by itself, or why there is none; what does not fit follows the reason.
pub(super) fn alone(row: &ResultRow) -> String {
    let only_media = row.answer.response.is_none() && !row.media.is_empty();
    let text = if only_media { None } else { Some(spoken(row)) };
    text.into_iter().chain(row.media.iter().map(media_line)).collect()
}

fn spoken(row: &ResultRow) -> String {
    let mut text = match (&row.answer.job.error, &row.answer.response) {
        (None, Some(answer)) => answer.clone(),
        (Some(_), Some(misfit)) => format!("{}\n{misfit}", without_answer(row)),
        (_, None) => without_answer(row),
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn media_line(media: &MediaItem) -> String {
    let MediaItem { mime_type, path, bytes } = media;
    match (bytes, path) {
        (Some(bytes), Some(path)) => format!("[{mime_type}, {bytes} bytes: {path}]\n"),
        (Some(bytes), None) => format!("[{mime_type}, {bytes} bytes]\n"),
        (None, _) => format!("[{mime_type}, cannot be decoded]\n"),
    }
}

/// Returns the answer under a line that names its job.
pub(super) fn block(row: &ResultRow) -> String {
    let job = &row.answer.job;
    format!("── {} / {} ({}) ──\n{}", job.batch, job.task_id, job.state.as_str(), alone(row))
}

fn without_answer(row: &ResultRow) -> String {
    match &row.answer.job.error {
        Some(error) => {
            format!("{}: {}: {}", row.answer.job.state.as_str(), error.kind, error.message)
        }
        None => row.answer.job.state.as_str().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::{answered, failed, written};
    use crate::cli::args::ResultFormat::Text;

    #[test]
    fn one_answer_stands_alone_and_many_are_named() {
        assert_eq!(written(Text, &[answered()]), "Paris,\n\"FR\".\n");
        assert_eq!(
            written(Text, &[answered(), failed()]),
            "── prompts / task_1 (succeeded) ──\nParis,\n\"FR\".\n\n\
             ── prompts / =2 (failed) ──\nfailed: blocked: SAFETY\n"
        );
    }
}
