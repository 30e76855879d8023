//! What type media has: by its content first, then by its name, in the API's spelling.

use super::parts::Kind;

/// How many bytes from the beginning are enough to tell.
pub const HEAD: usize = 8192;

/// Types by the ending of a name. The spellings are those of the API's list of supported types.
const BY_NAME: [(&str, &str); 46] = [
    ("aac", "audio/aac"),
    ("aif", "audio/aiff"),
    ("aiff", "audio/aiff"),
    ("avi", "video/avi"),
    ("bmp", "image/bmp"),
    ("c", "text/plain"),
    ("css", "text/css"),
    ("csv", "text/csv"),
    ("flac", "audio/flac"),
    ("flv", "video/x-flv"),
    ("gif", "image/gif"),
    ("heic", "image/heic"),
    ("heif", "image/heif"),
    ("htm", "text/html"),
    ("html", "text/html"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript"),
    ("json", "application/json"),
    ("log", "text/plain"),
    ("m4a", "audio/m4a"),
    ("m4v", "video/mp4"),
    ("md", "text/markdown"),
    ("mkv", "video/x-matroska"),
    ("mov", "video/mov"),
    ("mp3", "audio/mp3"),
    ("mp4", "video/mp4"),
    ("mpeg", "video/mpeg"),
    ("mpg", "video/mpg"),
    ("oga", "audio/ogg"),
    ("ogg", "audio/ogg"),
    ("opus", "audio/ogg"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("py", "text/x-python"),
    ("rs", "text/plain"),
    ("rtf", "text/rtf"),
    ("tif", "image/tiff"),
    ("tiff", "image/tiff"),
    ("txt", "text/plain"),
    ("wav", "audio/wav"),
    ("webm", "video/webm"),
    ("webp", "image/webp"),
    ("wmv", "video/wmv"),
    ("xml", "text/xml"),
    ("3gp", "video/3gpp"),
];

/// Returns the type of media of `kind` that begins with `head` and is called `name`.
pub fn of_content(kind: Kind, head: &[u8], name: &str) -> Option<&'static str> {
    // What text is about is told by its name alone.
    if is_text(head) {
        return Some(of_name(kind, name).filter(|found| is_textual(found)).unwrap_or("text/plain"));
    }
    let found = infer::get(head).map(|found| api_spelling(found.mime_type()));
    found.map(|found| of_kind(kind, found)).or_else(|| of_name(kind, name))
}

/// Returns the type that the ending of `name` tells.
pub fn of_name(kind: Kind, name: &str) -> Option<&'static str> {
    let (_, ending) = name.rsplit_once('.')?;
    let ending = ending.to_ascii_lowercase();
    let found = BY_NAME.iter().find(|(known, _)| *known == ending).map(|(_, found)| *found)?;
    Some(of_kind(kind, found))
}

/// Returns whether `text` has the form of a type: two tokens of RFC 9110 with a slash between.
pub fn is_valid(text: &str) -> bool {
    let is_token = |part: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'+-.^_`|~".contains(&byte);
        !part.is_empty() && part.bytes().all(fits)
    };
    text.split_once('/').is_some_and(|(kind, name)| is_token(kind) && is_token(name))
}

fn is_text(head: &[u8]) -> bool {
    let head = &head[..head.len().min(HEAD)];
    let text = match std::str::from_utf8(head) {
        Ok(_) => head,
        // The end may have cut a character.
        Err(error) if error.error_len().is_none() => &head[..error.valid_up_to()],
        Err(_) => return false,
    };
    let odd = |byte: &u8| byte.is_ascii_control() && !b"\t\n\r\x0c\x1b".contains(byte);
    // A PDF may begin with nothing but text.
    !text.is_empty() && !text.iter().any(odd) && !text.starts_with(b"%PDF-")
}

fn is_textual(found: &str) -> bool {
    found.starts_with("text/") || found == "application/json"
}

fn api_spelling(found: &'static str) -> &'static str {
    match found {
        "audio/mpeg" => "audio/mp3",
        "audio/x-wav" => "audio/wav",
        "audio/x-flac" => "audio/flac",
        "audio/x-aiff" => "audio/aiff",
        "audio/opus" => "audio/ogg",
        "video/quicktime" => "video/mov",
        "video/x-msvideo" => "video/avi",
        "video/x-ms-wmv" => "video/wmv",
        "video/x-m4v" => "video/mp4",
        other => other,
    }
}

/// A container may hold sound alone; its content does not say so, the field does.
fn of_kind(kind: Kind, found: &'static str) -> &'static str {
    match (kind, found) {
        (Kind::Audio, "video/mp4") => "audio/mp4",
        (Kind::Audio, "video/webm") => "audio/webm",
        _ => found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_tells_more_than_a_name() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
        let wav = b"RIFF\x24\0\0\0WAVEfmt ";
        let mp4 = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom";
        let quicktime = b"\0\0\0\x14ftypqt  \0\0\0\0qt  ";
        let cases: [(Kind, &[u8], &str, Option<&str>); 14] = [
            (Kind::Image, png, "photo.jpg", Some("image/png")),
            (Kind::Audio, wav, "sound", Some("audio/wav")),
            (Kind::Audio, b"ID3\x03\0\0", "sound.wav", Some("audio/mp3")),
            (Kind::Audio, b"fLaC\0\0\0\x22", "", Some("audio/flac")),
            (Kind::Video, mp4, "clip.avi", Some("video/mp4")),
            (Kind::Audio, mp4, "talk.mp4", Some("audio/mp4")),
            (Kind::Video, quicktime, "clip", Some("video/mov")),
            (Kind::File, b"%PDF-1.7\n", "paper.txt", Some("application/pdf")),
            (Kind::File, b"a,b\n1,2\n", "table.csv", Some("text/csv")),
            (Kind::File, b"# Title\n", "README", Some("text/plain")),
            (Kind::File, "é".as_bytes(), "note.png", Some("text/plain")),
            (Kind::File, b"{}", "data.JSON", Some("application/json")),
            (Kind::Video, b"\0\0\0\0", "old.3gp", Some("video/3gpp")),
            (Kind::File, b"\0\x01\x02", "blob.bin", None),
        ];
        for (kind, head, name, wanted) in cases {
            assert_eq!(of_content(kind, head, name), wanted, "{name} {head:?}");
        }
    }

    #[test]
    fn text_that_the_head_cuts_in_a_character_is_text() {
        let mut text = vec![b'a'; HEAD - 1];
        text.extend("é".as_bytes());
        assert_eq!(of_content(Kind::File, &text[..HEAD], "long.txt"), Some("text/plain"));
    }

    #[test]
    fn a_type_is_two_tokens() {
        for good in ["audio/mp3", "application/vnd.ms-excel", "image/svg+xml"] {
            assert!(is_valid(good), "{good}");
        }
        for bad in
            ["*/*", "image/*", "", "mp3", "audio/", "/mp3", "audio/mp3; q=1", "audio /mp3", "a/b/c"]
        {
            assert!(!is_valid(bad), "{bad}");
        }
    }
}
