//! The uploaded files: whose they are, how long they live, what state they are in.
//!
//! Pure; the time is an argument. Of a file's content only size and hash are kept. How a file
//! comes here is in `upload`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::{Value, json};

use super::config::FilesConfig;
use super::error::{self, ApiError, invalid_argument};
use super::models::page_size;

/// One file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StoredFile {
    pub(super) content: Content,
    /// The number of the project it belongs to.
    project: u64,
    created_ms: i64,
    ready_ms: i64,
    expires_ms: i64,
    fails: bool,
}

/// What an upload brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Content {
    /// The name without `files/`.
    pub(super) id: String,
    pub(super) display_name: String,
    pub(super) mime_type: String,
    pub(super) bytes: u64,
    /// The SHA-256 as hexadecimal digits.
    pub(super) sha256: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum State {
    Processing,
    Active,
    Failed,
}

/// A file as the API shows it; what has its default value is left out.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct View<'a> {
    name: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    display_name: &'a str,
    mime_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_bytes: Option<String>,
    create_time: String,
    update_time: String,
    expiration_time: String,
    sha256_hash: String,
    uri: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<State>,
    source: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Value>,
}

impl StoredFile {
    pub(super) fn new(content: Content, project: u64, config: &FilesConfig, now: i64) -> Self {
        let types = &config.processing_types;
        let processed = types.is_empty()
            || types.iter().any(|prefix| content.mime_type.starts_with(prefix.as_str()));
        Self {
            ready_ms: if processed { later(now, config.processing_ms) } else { now },
            expires_ms: later(now, config.lifetime_ms),
            fails: processed && config.fails,
            created_ms: now,
            content,
            project,
        }
    }

    /// Returns the file as the API shows it to a caller of `host`.
    pub(super) fn view(&self, host: &str, now: i64) -> View<'_> {
        let Content { id, display_name, mime_type, bytes, sha256 } = &self.content;
        let state = self.state(now);
        let updated_ms = if state == State::Processing { self.created_ms } else { self.ready_ms };
        let failed = || json!({"code": 13, "message": "The file could not be processed."});
        View {
            name: format!("files/{id}"),
            display_name,
            mime_type,
            size_bytes: Some(bytes).filter(|&&bytes| bytes > 0).map(u64::to_string),
            create_time: timestamp(self.created_ms),
            update_time: timestamp(updated_ms),
            expiration_time: timestamp(self.expires_ms),
            // As the real one: the digits of the hash, not its bytes.
            sha256_hash: STANDARD.encode(sha256),
            uri: format!("http://{host}/v1beta/files/{id}"),
            state: Some(state),
            source: "UPLOADED",
            error: (state == State::Failed).then(failed),
        }
    }

    fn state(&self, now: i64) -> State {
        match (now < self.ready_ms, self.fails) {
            (true, _) => State::Processing,
            (false, true) => State::Failed,
            (false, false) => State::Active,
        }
    }
}

impl View<'_> {
    /// Leaves the state out, as the answer to an upload sometimes does.
    pub(super) fn without_state(self) -> Self {
        Self { state: None, ..self }
    }
}

/// One page of files.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Page<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    files: Vec<View<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<String>,
}

/// All files that exist.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    /// In the order they came, which is that in which they expire.
    files: BTreeMap<u64, Arc<StoredFile>>,
    numbers: HashMap<String, u64>,
    next: u64,
}

impl Shelf {
    /// Adds a file; its name must be free.
    pub(super) fn add(&mut self, file: StoredFile, now: i64) -> Result<Arc<StoredFile>, ApiError> {
        if self.has(&file.content.id, now) {
            return Err(error::already_exists());
        }
        let file = Arc::new(file);
        self.numbers.insert(file.content.id.clone(), self.next);
        self.files.insert(self.next, file.clone());
        self.next += 1;
        Ok(file)
    }

    /// Returns whether a file has this name, whosever it is.
    pub(super) fn has(&mut self, id: &str, now: i64) -> bool {
        self.any(id, now).is_some()
    }

    /// Returns a file, whosever it is.
    pub(super) fn any(&mut self, id: &str, now: i64) -> Option<Arc<StoredFile>> {
        self.expire(now);
        self.files.get(self.numbers.get(id)?).cloned()
    }

    /// Returns a file of a project. That of another one answers as one that does not exist.
    pub(super) fn get(
        &mut self,
        id: &str,
        project: u64,
        now: i64,
    ) -> Result<Arc<StoredFile>, ApiError> {
        let file = self.any(id, now).filter(|file| file.project == project);
        file.ok_or_else(|| error::file_permission(id))
    }

    /// Returns whether a request of a project may use a file.
    pub(super) fn check_use(&mut self, id: &str, project: u64, now: i64) -> Result<(), ApiError> {
        match self.get(id, project, now)?.state(now) {
            State::Active => Ok(()),
            State::Processing | State::Failed => Err(error::file_not_active(id)),
        }
    }

    /// Removes a file of a project.
    pub(super) fn delete(&mut self, id: &str, project: u64, now: i64) -> Result<(), ApiError> {
        self.get(id, project, now)?;
        if let Some(number) = self.numbers.remove(id) {
            self.files.remove(&number);
        }
        Ok(())
    }

    /// Removes all files.
    pub(super) fn clear(&mut self) {
        self.files.clear();
        self.numbers.clear();
    }

    /// Returns how many files exist.
    pub(super) fn count(&mut self, now: i64) -> u64 {
        self.expire(now);
        self.files.len() as u64
    }

    /// Returns the files of a project from `token` on, the latest first.
    pub(super) fn list(
        &mut self,
        project: u64,
        size: Option<&str>,
        token: Option<&str>,
        now: i64,
    ) -> Result<(Vec<Arc<StoredFile>>, Option<String>), ApiError> {
        self.expire(now);
        let size = page_size(size, 10, 100)?;
        let Some(end) = read_token(token.unwrap_or_default()) else {
            return Err(invalid_argument("Request contains an invalid argument."));
        };
        let own = self.files.range(..end).rev().filter(|(_, file)| file.project == project);
        let mut page: Vec<_> = own.take(size + 1).collect();
        let more = page.len() > size;
        page.truncate(size);
        let next = page.last().filter(|_| more).map(|(number, _)| format!("before-{number}"));
        Ok((page.into_iter().map(|(_, file)| file.clone()).collect(), next))
    }

    /// Forgets the files whose time is over; all live equally long, so the oldest go first.
    fn expire(&mut self, now: i64) {
        while let Some(oldest) = self.files.first_entry()
            && oldest.get().expires_ms <= now
        {
            self.numbers.remove(&oldest.remove().content.id);
        }
    }
}

impl<'a> Page<'a> {
    pub(super) fn of(
        files: &'a [Arc<StoredFile>],
        next_page_token: Option<String>,
        host: &str,
        now: i64,
    ) -> Self {
        Self { files: files.iter().map(|file| file.view(host, now)).collect(), next_page_token }
    }
}

/// Returns the id of the file that an address means, if it means one of this API.
pub(super) fn id_in(uri: &str) -> Option<&str> {
    let path = uri.split(['?', '#']).next().unwrap_or_default();
    let (before, id) = path.rsplit_once("files/")?;
    let ours = before.is_empty() || before.ends_with("/v1beta/") || before.ends_with("/v1/");
    (ours && !id.is_empty() && !id.contains('/')).then_some(id)
}

fn read_token(token: &str) -> Option<u64> {
    if token.is_empty() {
        return Some(u64::MAX);
    }
    token.strip_prefix("before-")?.parse().ok()
}

fn later(now: i64, ms: u64) -> i64 {
    now.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX))
}

fn timestamp(ms: i64) -> String {
    let time = DateTime::from_timestamp_millis(ms).unwrap_or(DateTime::<Utc>::MAX_UTC);
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(id: &str, project: u64, config: &FilesConfig, now: i64) -> StoredFile {
        let (id, mime_type) = (id.to_owned(), "video/mp4".to_owned());
        let content = Content { id, mime_type, bytes: 3, ..Content::default() };
        StoredFile::new(content, project, config, now)
    }

    fn shelf(files: &[(&str, u64)], config: &FilesConfig) -> Shelf {
        let mut shelf = Shelf::default();
        for (index, (id, project)) in (0..).zip(files) {
            shelf.add(file(id, *project, config, index), index).unwrap();
        }
        shelf
    }

    fn shown(file: &StoredFile, now: i64) -> Value {
        serde_json::to_value(file.view("localhost:1", now)).unwrap()
    }

    #[test]
    fn a_file_shows_as_the_api_shows_it() {
        let content = Content {
            id: "a-1".to_owned(),
            display_name: "clip one".to_owned(),
            mime_type: "video/mp4".to_owned(),
            bytes: 20_000_000,
            sha256: "f36b".to_owned(),
        };
        let file = StoredFile::new(content, 1, &FilesConfig::default(), 1_785_564_863_628);
        let text = serde_json::to_string(&file.view("h:1", 1_785_564_863_628)).unwrap();
        assert_eq!(
            text,
            "{\"name\":\"files/a-1\",\"displayName\":\"clip one\",\"mimeType\":\"video/mp4\",\
             \"sizeBytes\":\"20000000\",\"createTime\":\"2026-08-01T06:14:23.628Z\",\
             \"updateTime\":\"2026-08-01T06:14:23.628Z\",\
             \"expirationTime\":\"2026-08-03T06:14:23.628Z\",\"sha256Hash\":\"ZjM2Yg==\",\
             \"uri\":\"http://h:1/v1beta/files/a-1\",\"state\":\"ACTIVE\",\"source\":\"UPLOADED\"}"
        );
        let empty = StoredFile::new(Content::default(), 1, &FilesConfig::default(), 0);
        assert_eq!(shown(&empty, 0).get("sizeBytes"), None);
        assert_eq!(shown(&empty, 0).get("displayName"), None);
    }

    #[test]
    fn a_file_is_processed_for_its_time_and_then_active_or_failed() {
        let config = FilesConfig { processing_ms: 10, ..FilesConfig::default() };
        let slow = file("a", 1, &config, 100);
        assert_eq!(shown(&slow, 109)["state"], "PROCESSING");
        assert_eq!(shown(&slow, 110)["state"], "ACTIVE");
        assert_ne!(shown(&slow, 110)["updateTime"], shown(&slow, 109)["updateTime"]);
        let failing = file("a", 1, &FilesConfig { fails: true, ..config.clone() }, 100);
        assert_eq!(shown(&failing, 109).get("error"), None);
        assert_eq!(shown(&failing, 110)["state"], "FAILED");
        assert!(shown(&failing, 110)["error"]["message"].is_string());
        let types = vec!["audio/".to_owned()];
        let config = FilesConfig { processing_types: types, fails: true, ..config };
        assert_eq!(shown(&file("a", 1, &config, 100), 100)["state"], "ACTIVE");
    }

    #[test]
    fn only_an_active_file_of_ones_own_project_may_be_used() {
        let config = FilesConfig { processing_ms: 10, ..FilesConfig::default() };
        let mut shelf = shelf(&[("a", 1)], &config);
        let refused = |error: ApiError| (error.code, error.message);
        let gone = |id: &str| {
            let message =
                format!("You do not have permission to access the File {id} or it may not exist.");
            Err((403, message))
        };
        let message = "The File a is not in an ACTIVE state and usage is not allowed.".to_owned();
        assert_eq!(shelf.check_use("a", 1, 9).map_err(refused), Err((400, message)));
        assert_eq!(shelf.check_use("a", 1, 10).map_err(refused), Ok(()));
        assert_eq!(shelf.check_use("a", 2, 10).map_err(refused), gone("a"));
        assert_eq!(shelf.check_use("b", 1, 10).map_err(refused), gone("b"));
        assert_eq!(shelf.delete("a", 2, 10).map_err(refused), gone("a"));
        assert_eq!(shelf.delete("a", 1, 10).map_err(refused), Ok(()));
        assert_eq!(shelf.get("a", 1, 10).map(drop).map_err(refused), gone("a"));
    }

    #[test]
    fn a_file_expires_and_its_name_is_free_again() {
        let config = FilesConfig { lifetime_ms: 10, ..FilesConfig::default() };
        let mut shelf = shelf(&[("a", 1), ("b", 1)], &config);
        let again = |now| file("a", 2, &config, now);
        assert_eq!(shelf.add(again(9), 9).unwrap_err().status, "ALREADY_EXISTS");
        assert_eq!((shelf.count(9), shelf.count(10)), (2, 1));
        assert!(shelf.get("a", 1, 10).is_err());
        shelf.add(again(10), 10).unwrap();
        assert_eq!(shelf.get("a", 2, 11).unwrap().project, 2);
        assert_eq!(shelf.count(11), 1);
    }

    #[test]
    fn a_list_has_only_the_files_of_the_project_the_latest_first() {
        let mut shelf = shelf(&[("a", 1), ("b", 2), ("c", 1), ("d", 1)], &FilesConfig::default());
        let mut page = |size: Option<&str>, token: Option<&str>| {
            let (files, next) = shelf.list(1, size, token, 5)?;
            let ids: Vec<String> = files.iter().map(|file| file.content.id.clone()).collect();
            Ok::<_, ApiError>((ids.concat(), next))
        };
        let (ids, next) = page(Some("2"), None).unwrap();
        assert_eq!(ids, "dc");
        assert_eq!(page(Some("2"), next.as_deref()).unwrap(), ("a".to_owned(), None));
        assert_eq!(page(None, Some("")).unwrap(), ("dca".to_owned(), None));
        assert!(page(None, Some("page-1")).is_err());
        assert!(page(Some("x"), None).is_err());
        let empty = Page::of(&[], None, "h", 0);
        assert_eq!(serde_json::to_string(&empty).unwrap(), "{}");
    }

    #[test]
    fn an_address_of_this_api_names_a_file_whatever_the_host() {
        assert_eq!(
            id_in("https://generativelanguage.googleapis.com/v1beta/files/a-1"),
            Some("a-1")
        );
        assert_eq!(id_in("http://127.0.0.1:8080/v1/files/a?x=1"), Some("a"));
        assert_eq!(id_in("files/a"), Some("a"));
        assert_eq!(id_in("https://example.org/files/a.mp4"), None);
        assert_eq!(id_in("https://example.org/v1beta/files/a/b"), None);
        assert_eq!(id_in("https://example.org/v1beta/files/"), None);
    }
}
