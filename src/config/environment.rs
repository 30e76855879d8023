//! One snapshot of the process environment and the `.env` file.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::ConfigError;

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The process environment.
    Environment,
    /// The `.env` file.
    EnvFile,
}

/// The variables of the process and of the `.env` file.
///
/// Holds secrets, hence no `Debug`.
#[derive(Clone, Default)]
pub struct Environment {
    process: BTreeMap<String, String>,
    file: Option<EnvFile>,
}

#[derive(Clone)]
struct EnvFile {
    path: PathBuf,
    variables: BTreeMap<String, String>,
    /// Whether a value of the file may hold a variable of the process (`$NAME`).
    borrows: bool,
}

impl Environment {
    /// Reads the process environment and `env_file`, or `.env` in the current folder if it is there.
    pub fn load(env_file: Option<&Path>) -> Result<Self, ConfigError> {
        // A value that is no UTF-8 stays visibly broken instead of seeming unset.
        let process: BTreeMap<String, String> = std::env::vars_os()
            .map(|(name, value)| {
                (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
            })
            .collect();
        let file = match env_file {
            Some(path) => Some(read(path, &process)?),
            // Python projects keep a folder called `.env`; a pipe or a device would hold up each
            // command in that folder.
            None if std::fs::metadata(".env").is_ok_and(|data| !data.is_file()) => None,
            None => match read(Path::new(".env"), &process) {
                Ok(file) => Some(file),
                Err(ConfigError::MissingEnvFile { .. }) => None,
                Err(error) => return Err(error),
            },
        };
        Ok(Self { process, file })
    }

    /// Makes a snapshot of given variables and of a given file's variables.
    pub fn from_parts(
        process: BTreeMap<String, String>,
        file: Option<(PathBuf, BTreeMap<String, String>)>,
    ) -> Self {
        let file = file.map(|(path, variables)| EnvFile { path, variables, borrows: false });
        Self { process, file }
    }

    /// Returns the value of `name` and its origin. The process wins; an empty value is none.
    pub fn get(&self, name: &str) -> Option<(&str, Origin)> {
        self.process_value(name)
            .map(|value| (value, Origin::Environment))
            .or_else(|| self.file_value(name).map(|value| (value, Origin::EnvFile)))
    }

    /// Returns the path of the `.env` file that was read.
    pub fn file_path(&self) -> Option<&Path> {
        self.file.as_ref().map(|file| file.path.as_path())
    }

    pub(super) fn process_value(&self, name: &str) -> Option<&str> {
        filled(&self.process, name)
    }

    pub(super) fn file_value(&self, name: &str) -> Option<&str> {
        self.file.as_ref().and_then(|file| filled(&file.variables, name))
    }

    /// Returns whether the file's values are its own, none taken over from the process.
    pub(super) fn file_stands_alone(&self) -> bool {
        self.file.as_ref().is_none_or(|file| !file.borrows)
    }

    /// Returns every name that has a value, each once.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let file = self.file.iter().flat_map(|file| file.variables.keys());
        let file = file.filter(|name| !self.process.contains_key(*name));
        self.process.keys().chain(file).map(String::as_str).filter(|name| self.get(name).is_some())
    }
}

fn filled<'a>(variables: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    variables.get(name).map(String::as_str).filter(|value| !value.trim().is_empty())
}

fn read(path: &Path, process: &BTreeMap<String, String>) -> Result<EnvFile, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| match source.kind() {
        ErrorKind::NotFound => ConfigError::MissingEnvFile { path: path.to_owned() },
        _ => ConfigError::UnreadableEnvFile { path: path.to_owned(), source },
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let variables =
        parse(text).map_err(|line| ConfigError::BrokenEnvFile { path: path.to_owned(), line })?;
    Ok(EnvFile { path: path.to_owned(), variables, borrows: borrows(text, process) })
}

/// Reads the lines; the error is the number of the one that is broken, never its content.
fn parse(text: &str) -> Result<BTreeMap<String, String>, usize> {
    let mut variables = BTreeMap::new();
    for item in dotenvy::from_read_iter(text.as_bytes()) {
        match item {
            Ok((name, value)) => variables.insert(name, value),
            Err(dotenvy::Error::LineParse(content, _)) => {
                let broken = content.lines().next().unwrap_or_default().trim();
                let index = text.lines().position(|line| line.trim() == broken);
                return Err(index.unwrap_or_default() + 1);
            }
            Err(_) => return Err(1),
        };
    }
    Ok(variables)
}

/// Returns whether the file mentions a variable of the process.
///
/// Such a value would pass a foreign secret off as the file's own, and the file could then name
/// the host that receives it.
fn borrows(text: &str, process: &BTreeMap<String, String>) -> bool {
    text.split('$').skip(1).any(|rest| {
        let rest = rest.strip_prefix('{').unwrap_or(rest);
        let end = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
        let word = &rest[..end.unwrap_or(rest.len())];
        // An unbraced name may end anywhere within the word.
        process.keys().any(|name| !name.is_empty() && word.starts_with(name.as_str()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_process_wins_and_an_empty_value_is_none() {
        let file = (PathBuf::from(".env"), map(&[("A", "file"), ("B", "file"), ("C", " ")]));
        let environment = Environment::from_parts(map(&[("A", "process"), ("B", "")]), Some(file));
        assert_eq!(environment.get("A"), Some(("process", Origin::Environment)));
        assert_eq!(environment.get("B"), Some(("file", Origin::EnvFile)));
        assert_eq!(environment.get("C"), None);
        assert_eq!(environment.get("D"), None);
        assert_eq!(environment.names().collect::<Vec<_>>(), ["A", "B"]);
    }

    #[test]
    fn a_broken_line_is_named_and_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("my.env");
        std::fs::write(&path, "# keys\nGEMINI_API_KEY=good\n\nthis is my secret\n").unwrap();
        let error = Environment::load(Some(&path)).err().unwrap();
        assert_eq!(
            error.to_string(),
            format!("line 4 of `{}` is not `NAME=value`", path.display())
        );
        assert!(!format!("{error:?}").contains("secret"));
    }

    #[test]
    fn a_named_file_must_exist() {
        let error = Environment::load(Some(Path::new("/nonexistent/x.env"))).err().unwrap();
        assert!(error.to_string().contains("`/nonexistent/x.env` that `--env-file` names"));
    }

    #[test]
    fn usual_spellings_are_read() {
        let text = "export A=1\r\nB='two words' # comment\nC=\"x#y\"\n# D=4\nE=\n";
        let wanted = map(&[("A", "1"), ("B", "two words"), ("C", "x#y"), ("E", "")]);
        assert_eq!(parse(text), Ok(wanted));
    }

    #[test]
    fn a_file_that_takes_over_a_variable_is_noticed() {
        let process = map(&[("AWS_SECRET", "s")]);
        for (text, wanted) in [
            ("A=$AWS_SECRET", true),
            ("A=\"${AWS_SECRET}\"", true),
            ("A=$OTHER", false),
            ("A=5$", false),
        ] {
            assert_eq!(borrows(text, &process), wanted, "{text}");
        }
    }
}
