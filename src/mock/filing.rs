//! What a call of the Files API gets: the key, the script, then the files.
//!
//! Synchronous. Reading chunks, waiting and sending are `transfer`'s.

use std::borrow::Cow;
use std::sync::Arc;

use axum::http::header::HOST;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri};
use chrono::Utc;
use serde::Serialize;
use serde_json::{Value, json};

use super::answer::Question;
use super::canned::Context;
use super::error::{self, ApiError, to_json};
use super::files::{Page, StoredFile, View};
use super::keys::Key;
use super::order::{Order, check_names, header};
use super::reply::{JSON, Reply};
use super::route::query;
use super::ruling;
use super::script::{Fault, MethodFilter, Rule, Seen};
use super::sense::Facts;
use super::service::sent_key;
use super::strict;
use super::upload::{GRANULARITY, Upload};
use super::verdict::{Judge, SOME_FILE, TooLarge, Verdict};

const STATUS: &str = "X-Goog-Upload-Status";

/// Who calls, and how.
pub(super) struct Caller<'a> {
    pub(super) secret: Cow<'a, str>,
    host: &'a str,
    uri: &'a Uri,
    headers: &'a HeaderMap,
    pretty: bool,
}

/// What a call is about, for the script.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) method: MethodFilter,
    /// The id of the file; may be empty.
    pub(super) file: &'a str,
    pub(super) display_name: &'a str,
    /// Tells one upload or file from another.
    pub(super) number: u64,
}

/// What the script says of a call.
pub(super) struct Ruling<'r> {
    rule: Option<&'r Rule>,
    /// What the rule answers by itself.
    pub(super) own: Option<Reply>,
}

impl Ruling<'_> {
    /// Returns whether a chunk is to be cut in its middle.
    pub(super) fn cuts(&self) -> bool {
        self.rule.is_some_and(|rule| rule.fault == Some(Fault::CutUpload))
    }

    /// Returns what to do with a call that gets `reply`.
    pub(super) fn verdict(&self, reply: Reply) -> Verdict {
        match self.rule {
            None => reply.into(),
            Some(rule) => Verdict {
                hold: rule.hold,
                delay_ms: rule.delay_ms,
                ..ruling::dressed(rule, reply).into()
            },
        }
    }
}

impl<'a> Caller<'a> {
    pub(super) fn of(parts: &'a Parts) -> Self {
        let off = |value: String| matches!(value.as_str(), "false" | "0");
        Self {
            secret: sent_key(parts).unwrap_or_default(),
            host: parts.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
            uri: &parts.uri,
            headers: &parts.headers,
            pretty: !query(&parts.uri, "prettyPrint").is_some_and(off),
        }
    }

    /// Returns the caller of a request to an upload, who is whoever started it.
    pub(super) fn on_behalf_of_starter(self, upload: &Upload) -> Self {
        Self { secret: Cow::Owned(upload.key.to_string()), ..self }
    }

    /// Returns the caller's key, or what a call without one that works gets.
    fn admitted(&self, judge: &Judge, file: &str) -> Result<Arc<Key>, Reply> {
        if self.secret.is_empty() {
            return Err(self.refusal(&error::unregistered()));
        }
        let key = judge.keys.key(&self.secret);
        match key.fault {
            None => Ok(key),
            Some(fault) => {
                let facts = Facts::default();
                Err(fault.reply(&self.context(judge, &key, &facts, file)))
            }
        }
    }

    /// Asks the script.
    pub(super) fn ruling<'r>(&self, judge: &'r Judge, subject: &Subject<'_>) -> Ruling<'r> {
        let Subject { method, file, display_name, number } = *subject;
        let (key, prompt, prompt_number) = (&*self.secret, display_name, number);
        let seen = Seen { method, key, model: "", prompt, prompt_number };
        let rule = judge.script.fires(&seen);
        let uploads = |rule: &Rule| {
            let command = header(self.headers, "x-goog-upload-command").is_some();
            command && rule.fault == Some(Fault::NoUploadStatus)
        };
        let own = rule.and_then(|rule| {
            if uploads(rule) {
                return Some(Reply::empty(200));
            }
            let (key, facts) = (judge.keys.key(&self.secret), Facts::default());
            let retry_delay = rule.retry_delay.as_deref();
            let context = Context { retry_delay, ..self.context(judge, &key, &facts, file) };
            ruling::own_reply(rule, &context)
        });
        Ruling { rule, own }
    }

    fn context<'c>(
        &'c self,
        judge: &Judge,
        key: &Key,
        facts: &'c Facts,
        file: &'c str,
    ) -> Context<'c> {
        let (request, model) = (&Value::Null, "");
        Context {
            question: Question { request, facts, model, text: None, serial: 0 },
            key: &self.secret,
            project: key.project_number(),
            tier: key.tier(),
            version: "v1beta",
            method: "files",
            file: if file.is_empty() { SOME_FILE } else { file },
            retry_delay: None,
            max_body_bytes: judge.config().max_body_bytes,
            pretty: self.pretty,
        }
    }

    /// Decides what a call gets that is no upload.
    pub(super) fn looked_up(
        &self,
        judge: &Judge,
        subject: &Subject<'_>,
        work: impl FnOnce(&Self, u64, i64) -> Result<Reply, ApiError>,
    ) -> Verdict {
        let key = match self.admitted(judge, subject.file) {
            Ok(key) => key,
            Err(reply) => return reply.into(),
        };
        let mut ruling = self.ruling(judge, subject);
        let usual = || {
            let done = work(self, key.project_number(), Utc::now().timestamp_millis());
            done.unwrap_or_else(|error| self.refusal(&error))
        };
        let reply = ruling.own.take().unwrap_or_else(usual);
        ruling.verdict(reply)
    }

    /// Returns a page of the project's files.
    pub(super) fn list(&self, judge: &Judge, project: u64, now: i64) -> Result<Reply, ApiError> {
        let [size, token] = ["pageSize", "pageToken"].map(|name| query(self.uri, name));
        let list =
            judge.desk.files(|shelf| shelf.list(project, size.as_deref(), token.as_deref(), now));
        let (files, next) = list?;
        Ok(self.json(&Page::of(&files, next, self.host, now)))
    }

    pub(super) fn file(&self, file: &StoredFile, now: i64) -> Reply {
        self.json(&file.view(self.host, now))
    }

    pub(super) fn nothing(&self) -> Reply {
        self.json(&json!({}))
    }

    /// Reads the start of an upload; what is wrong with its JSON is told before anything else.
    pub(super) fn ordered(
        &self,
        judge: &Judge,
        body: Result<&[u8], TooLarge>,
        fresh: String,
    ) -> Result<Result<Order, ApiError>, ApiError> {
        let limit = judge.config().max_body_bytes;
        let body = body.map_err(|TooLarge| error::payload_too_large(limit))?;
        let document = strict::document(body).map_err(|found| error::bad_request(&found))?;
        check_names(&document)?;
        Ok(Order::of(self.headers, &document, fresh))
    }

    /// Returns the answer to a start.
    pub(super) fn opened(&self, upload_id: &str) -> Reply {
        let path = self.uri.path();
        let url =
            format!("http://{}{path}?upload_id={upload_id}&upload_protocol=resumable", self.host);
        let mut reply = Reply::empty(200);
        reply.headers = vec![
            (STATUS.to_owned(), "active".to_owned()),
            ("X-Goog-Upload-URL".to_owned(), url.clone()),
            ("X-Goog-Upload-Control-URL".to_owned(), url),
            ("X-Goog-Upload-Chunk-Granularity".to_owned(), GRANULARITY.to_string()),
        ];
        reply
    }

    /// Returns the answer to the end of an upload.
    pub(super) fn finished(&self, judge: &Judge, file: &StoredFile) -> Reply {
        #[derive(Serialize)]
        struct Finished<'a> {
            file: View<'a>,
        }
        let view = file.view(self.host, Utc::now().timestamp_millis());
        let hidden = judge.desk.config.without_state;
        let mut reply =
            self.json(&Finished { file: if hidden { view.without_state() } else { view } });
        reply.headers = vec![(STATUS.to_owned(), "final".to_owned())];
        reply
    }

    /// Returns the answer to a chunk that is not the last.
    pub(super) fn taken(upload: &Upload) -> Reply {
        let mut reply = Reply::empty(200);
        reply.headers = vec![(STATUS.to_owned(), upload.status().to_owned())];
        reply
    }

    /// Returns the answer that says how far an upload is.
    pub(super) fn progress(upload: &Upload) -> Reply {
        let mut reply = Reply::empty(200);
        reply.headers = progress(upload);
        reply
    }

    /// Returns an error of a request to an upload that goes on as it was.
    pub(super) fn upload_refusal(&self, upload: &Upload, error: &ApiError) -> Reply {
        Reply { headers: progress(upload), ..self.refusal(error) }
    }

    pub(super) fn refusal(&self, error: &ApiError) -> Reply {
        Reply::error(error, self.pretty)
    }

    fn json(&self, value: &impl Serialize) -> Reply {
        Reply::new(200, JSON, to_json(value, self.pretty))
    }
}

fn progress(upload: &Upload) -> Vec<(String, String)> {
    let received = ("X-Goog-Upload-Size-Received".to_owned(), upload.received().to_string());
    vec![(STATUS.to_owned(), upload.status().to_owned()), received]
}
