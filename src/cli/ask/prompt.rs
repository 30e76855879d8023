//! From what was typed, piped and named to the object of an input line.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gq::domain::parts::{Counts, Kind};
use serde_json::{Map, Value, json};

/// The order of media that no token has placed.
const BEFORE_TEXT: [Kind; 4] = [Kind::Video, Kind::Image, Kind::Audio, Kind::File];

/// What is asked.
#[derive(Debug, Default)]
pub(super) struct Question<'a> {
    /// What was typed.
    pub(super) typed: Option<&'a str>,
    /// What came by standard input.
    pub(super) piped: Option<Vec<u8>>,
    /// Files with their kinds.
    pub(super) files: Vec<(Kind, &'a Path)>,
    pub(super) system: Option<&'a str>,
}

impl Question<'_> {
    /// Returns the question as an input line's object.
    ///
    /// # Errors
    /// Says what is wrong, for people.
    pub(super) fn line(&self) -> Result<Value, String> {
        let mut line = Map::new();
        let mut given = Counts::default();
        for kind in Kind::ALL {
            let of_kind = self.files.iter().filter(|(own, _)| *own == kind);
            let paths: Vec<&str> = of_kind
                .map(|(_, path)| {
                    given.add(kind);
                    path.to_str().ok_or_else(|| format!("`{}` is not UTF-8", path.display()))
                })
                .collect::<Result<_, _>>()?;
            if !paths.is_empty() {
                line.insert(format!("{}_path", kind.name()), json!(paths));
            }
        }
        let prompt = match (self.typed, &self.piped) {
            (Some(typed), Some(piped)) => {
                line.insert("file_bytes".to_owned(), STANDARD.encode(piped).into());
                followed_by_a_file(&literal(typed, &with_one_file(given)), given)
            }
            (Some(typed), None) => literal(typed, &given),
            (None, Some(piped)) => {
                let text = std::str::from_utf8(piped);
                literal(text.map_err(|_| "the prompt on standard input is not UTF-8")?, &given)
            }
            (None, None) => String::new(),
        };
        line.insert("prompt".to_owned(), prompt.into());
        if let Some(system) = self.system {
            line.insert("system_instruction".to_owned(), system.into());
        }
        Ok(Value::Object(line))
    }
}

fn with_one_file(mut given: Counts) -> Counts {
    given.add(Kind::File);
    given
}

/// Returns the text with tokens of kinds of which there is nothing as what they say: a question may
/// be about HTML.
fn literal(text: &str, given: &Counts) -> String {
    let absent = Kind::ALL.into_iter().filter(|kind| given.of(*kind) == 0);
    absent.fold(text.to_owned(), |text, kind| {
        let token = token(kind);
        let escaped = format!("\\{token}");
        text.replace(&escaped, &token).replace(&token, &escaped)
    })
}

/// Places a file more than are given, the last one, behind the prompt. Media that would stand
/// before the text by themselves still do.
fn followed_by_a_file(prompt: &str, given: Counts) -> String {
    let placed = |kind| {
        let token = token(kind);
        prompt.matches(&token).count() - prompt.matches(&format!("\\{token}")).count()
    };
    if Kind::ALL.into_iter().all(|kind| placed(kind) == 0) {
        let before: String =
            BEFORE_TEXT.into_iter().map(|kind| token(kind).repeat(given.of(kind))).collect();
        return format!("{before}{prompt}{}", token(Kind::File));
    }
    let left = (given.file + 1).saturating_sub(placed(Kind::File));
    format!("{prompt}{}", token(Kind::File).repeat(left))
}

fn token(kind: Kind) -> String {
    format!("<{}>", kind.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(typed: Option<&str>, piped: Option<&str>, files: &[(Kind, &str)]) -> String {
        let question = Question {
            typed,
            piped: piped.map(Into::into),
            files: files.iter().map(|(kind, path)| (*kind, Path::new(*path))).collect(),
            system: None,
        };
        question.line().unwrap()["prompt"].as_str().unwrap().to_owned()
    }

    #[test]
    fn what_is_piped_is_the_prompt_or_a_file_behind_it() {
        assert_eq!(prompt(Some("a"), None, &[]), "a");
        assert_eq!(prompt(None, Some("b\n"), &[]), "b\n");
        assert_eq!(prompt(Some("a"), Some("b"), &[]), "a<file>");
        let files = [(Kind::File, "x.pdf"), (Kind::Image, "x.png"), (Kind::Image, "y.png")];
        assert_eq!(prompt(Some("a"), Some("b"), &files), "<image><image><file>a<file>");
        assert_eq!(prompt(Some("a <image>"), Some("b"), &files), "a <image><file><file>");
        assert_eq!(prompt(Some("in <file>: a"), Some("b"), &[]), "in <file>: a");
    }

    #[test]
    fn words_in_brackets_are_words_where_there_is_nothing_of_the_kind() {
        assert_eq!(prompt(Some("what is <video>?"), None, &[]), "what is \\<video>?");
        assert_eq!(prompt(Some("what is \\<video>?"), None, &[]), "what is \\<video>?");
        let files = [(Kind::Image, "x.png")];
        assert_eq!(prompt(Some("<image> <audio>"), None, &files), "<image> \\<audio>");
    }

    #[test]
    fn a_line_has_files_by_kind_bytes_and_instructions() {
        let question = Question {
            typed: Some("a"),
            piped: Some(b"hi".to_vec()),
            files: vec![(Kind::Audio, Path::new("a.mp3")), (Kind::Audio, Path::new("b.mp3"))],
            system: Some("be brief"),
        };
        let wanted = json!({"audio_path": ["a.mp3", "b.mp3"], "file_bytes": "aGk=",
            "prompt": "<audio><audio>a<file>", "system_instruction": "be brief"});
        assert_eq!(question.line().unwrap(), wanted);
        let bad = Question { piped: Some(vec![0xff]), ..Question::default() };
        assert!(bad.line().unwrap_err().contains("not UTF-8"));
    }
}
