//! The order of a prompt's parts: tokens in its text and lists of media become one list.

use std::ops::Range;

/// A kind of media that a line can bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `<audio>`
    Audio,
    /// `<video>`
    Video,
    /// `<image>`
    Image,
    /// `<file>`
    File,
}

/// One part of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text, never blank.
    Text(String),
    /// The item of that kind with that index, from 0.
    Media(Kind, usize),
}

/// How many items there are of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Audio.
    pub audio: usize,
    /// Video.
    pub video: usize,
    /// Images.
    pub image: usize,
    /// Other files.
    pub file: usize,
}

/// The order of all media where the text has no token.
const BEFORE_TEXT: [Kind; 4] = [Kind::Video, Kind::Image, Kind::Audio, Kind::File];
/// The order of media that no token has placed.
const AFTER_TEXT: [Kind; 4] = [Kind::Image, Kind::Video, Kind::Audio, Kind::File];

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Audio, Self::Video, Self::Image, Self::File];

    /// Returns the name in tokens and fields.
    pub fn name(self) -> &'static str {
        match self {
            Self::Audio => "audio",
            Self::Video => "video",
            Self::Image => "image",
            Self::File => "file",
        }
    }

    fn with_article(self) -> &'static str {
        match self {
            Self::Audio => "an `<audio>`",
            Self::Video => "a `<video>`",
            Self::Image => "an `<image>`",
            Self::File => "a `<file>`",
        }
    }
}

impl Counts {
    /// Returns how many there are of `kind`.
    pub fn of(&self, kind: Kind) -> usize {
        match kind {
            Kind::Audio => self.audio,
            Kind::Video => self.video,
            Kind::Image => self.image,
            Kind::File => self.file,
        }
    }

    /// Counts one more of `kind`; returns its index.
    pub fn add(&mut self, kind: Kind) -> usize {
        let count = match kind {
            Kind::Audio => &mut self.audio,
            Kind::Video => &mut self.video,
            Kind::Image => &mut self.image,
            Kind::File => &mut self.file,
        };
        *count += 1;
        *count - 1
    }
}

/// Returns the parts of `prompt` with the media that `given` counts.
///
/// The n-th token of a kind stands for its n-th item. Items without a token follow the text; where
/// there is no token at all, they precede it. `\<audio>` is that text itself.
///
/// # Errors
/// More tokens than items, as a reason for people.
pub fn arrange(prompt: &str, given: &Counts) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut used = Counts::default();
    let mut text = String::new();
    let mut copied = 0;
    for (place, kind) in tokens(prompt) {
        if prompt[copied..place.start].ends_with('\\') {
            text.push_str(&prompt[copied..place.start - 1]);
            copied = place.start;
            continue;
        }
        text.push_str(&prompt[copied..place.start]);
        copied = place.end;
        push_text(&mut parts, std::mem::take(&mut text));
        let index = used.add(kind);
        parts.push(Part::Media(kind, index));
    }
    text.push_str(&prompt[copied..]);
    for kind in Kind::ALL {
        too_many(kind, used.of(kind), given.of(kind))?;
    }
    let unplaced = |order: [Kind; 4]| {
        order.into_iter().flat_map(|kind| {
            (used.of(kind)..given.of(kind)).map(move |index| Part::Media(kind, index))
        })
    };
    if used == Counts::default() {
        parts.extend(unplaced(BEFORE_TEXT));
        push_text(&mut parts, text);
    } else {
        push_text(&mut parts, text);
        parts.extend(unplaced(AFTER_TEXT));
    }
    Ok(parts)
}

/// Returns the tokens in `prompt`, those after a backslash too.
fn tokens(prompt: &str) -> impl Iterator<Item = (Range<usize>, Kind)> {
    prompt.match_indices('<').filter_map(|(start, _)| {
        let rest = &prompt[start + 1..];
        Kind::ALL.into_iter().find_map(|kind| {
            rest.strip_prefix(kind.name())?.strip_prefix('>')?;
            Some((start..start + kind.name().len() + 2, kind))
        })
    })
}

fn push_text(parts: &mut Vec<Part>, text: String) {
    if !text.trim().is_empty() {
        parts.push(Part::Text(text));
    }
}

fn too_many(kind: Kind, tokens: usize, items: usize) -> Result<(), String> {
    match (tokens <= items, items) {
        (true, _) => Ok(()),
        (false, 0) => Err(format!(
            "the prompt has {} token but there is no {}",
            kind.with_article(),
            kind.name()
        )),
        (false, _) => Err(format!(
            "the prompt has {tokens} `<{name}>` tokens but {name} items: {items}",
            name = kind.name()
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn given(audio: usize, video: usize, image: usize, file: usize) -> Counts {
        Counts { audio, video, image, file }
    }

    /// Writes parts in short: texts as they are, media as `audio0`.
    fn short(parts: &[Part]) -> Vec<String> {
        let word = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Media(kind, index) => format!("{}{index}", kind.name()),
        };
        parts.iter().map(word).collect()
    }

    #[test]
    fn tokens_place_media_and_the_rest_follows_or_precedes() {
        let cases: [(&str, Counts, &[&str]); 9] = [
            ("Hi", given(0, 0, 0, 0), &["Hi"]),
            ("Hi", given(1, 1, 1, 1), &["video0", "image0", "audio0", "file0", "Hi"]),
            ("", given(2, 0, 0, 0), &["audio0", "audio1"]),
            ("A <audio> B", given(1, 0, 0, 0), &["A ", "audio0", " B"]),
            ("<audio><audio>", given(2, 0, 0, 0), &["audio0", "audio1"]),
            ("<audio> \n <video>", given(1, 1, 0, 0), &["audio0", "video0"]),
            (
                "A <file>",
                given(1, 1, 1, 2),
                &["A ", "file0", "image0", "video0", "audio0", "file1"],
            ),
            (r"\<audio> is <audio>", given(1, 0, 0, 0), &["<audio> is ", "audio0"]),
            (r"\<audio>", given(1, 0, 0, 0), &["audio0", "<audio>"]),
        ];
        for (prompt, counts, wanted) in cases {
            assert_eq!(short(&arrange(prompt, &counts).unwrap()), wanted, "{prompt}");
        }
    }

    #[test]
    fn more_tokens_than_items_are_refused() {
        let cases = [
            (
                "<audio>",
                given(0, 1, 0, 0),
                "the prompt has an `<audio>` token but there is no audio",
            ),
            (
                "<image> or <image>",
                given(0, 0, 1, 0),
                "the prompt has 2 `<image>` tokens but image items: 1",
            ),
        ];
        for (prompt, counts, wanted) in cases {
            assert_eq!(arrange(prompt, &counts), Err(wanted.to_owned()));
        }
    }

    #[derive(Debug, Clone)]
    enum Piece {
        Text(String),
        Token(Kind),
        Escaped(Kind),
    }

    fn kind() -> impl Strategy<Value = Kind> {
        prop::sample::select(Kind::ALL.to_vec())
    }

    fn piece() -> impl Strategy<Value = Piece> {
        prop_oneof![
            // Neither a backslash before a token nor half a token.
            "[a-z \n<>]{0,3}[a-z ]".prop_map(Piece::Text),
            kind().prop_map(Piece::Token),
            kind().prop_map(Piece::Escaped),
        ]
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nothing_comes_twice(
            pieces in prop::collection::vec(piece(), 0..8),
            extra in (0..3_usize, 0..3_usize, 0..3_usize, 0..3_usize),
        ) {
            let mut counts = given(extra.0, extra.1, extra.2, extra.3);
            let (mut prompt, mut plain) = (String::new(), String::new());
            for piece in &pieces {
                match piece {
                    Piece::Text(text) => {
                        prompt.push_str(text);
                        plain.push_str(text);
                    }
                    Piece::Token(kind) => {
                        counts.add(*kind);
                        prompt.extend(["<", kind.name(), ">"]);
                    }
                    Piece::Escaped(kind) => {
                        prompt.extend(["\\<", kind.name(), ">"]);
                        plain.extend(["<", kind.name(), ">"]);
                    }
                }
            }
            let parts = arrange(&prompt, &counts).unwrap();
            let blank = |text: &str| text.split_whitespace().collect::<String>();
            let texts: String = parts.iter().map(|part| match part {
                Part::Text(text) => text.as_str(),
                Part::Media(..) => "",
            }).collect();
            prop_assert_eq!(blank(&texts), blank(&plain));
            for kind in Kind::ALL {
                let found: Vec<usize> = parts.iter().filter_map(|part| match part {
                    Part::Media(of, index) if *of == kind => Some(*index),
                    _ => None,
                }).collect();
                prop_assert_eq!(found, (0..counts.of(kind)).collect::<Vec<_>>());
            }
        }
    }
}
