//! The meaning of an input line: one JSON object becomes one checked job.
//!
//! Owns the names of the fields, their checks and the reasons told to people. Reads no file.

use sha2::{Digest, Sha256};

use super::canonical;
use super::output::{OutputForm, OutputSchema};
use super::time::Timestamp;
use fields::{Field, Fields};
use request::Built;

mod default_schema;
mod fields;
mod media;
mod request;
mod settings;

pub use default_schema::DefaultSchema;
pub use media::{FoundFile, Look, MediaSource, NewMedia};
pub use settings::model_name;

/// The model of lines and callers that name none.
pub const DEFAULT_MODEL: &str = "gemini-flash-latest";

/// What a line gets that does not say otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// The model, without `models/`.
    pub model: String,
    /// The priority; higher goes first.
    pub priority: i64,
    /// How often a job is tried.
    pub max_attempts: u32,
    /// The time before which no job starts.
    pub not_before: Option<Timestamp>,
    /// The response schema.
    pub schema: Option<DefaultSchema>,
    /// Whether text is stored as it comes.
    pub stream: bool,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            model: DEFAULT_MODEL.to_owned(),
            priority: 0,
            max_attempts: 5,
            not_before: None,
            schema: None,
            stream: false,
        }
    }
}

/// A job as its line describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewJob {
    /// The caller's own name for the job.
    pub task_id: String,
    /// The line's number, from 1.
    pub line: u64,
    /// The model, without `models/`.
    pub model: String,
    /// The priority; higher goes first.
    pub priority: i64,
    /// How often the job is tried.
    pub max_attempts: u32,
    /// The time before which the job must not start.
    pub not_before: Option<Timestamp>,
    /// Whether its text is stored as it comes.
    pub stream: bool,
    /// The `GenerateContentRequest` as JSON text exactly as it will be sent.
    pub request: String,
    /// Media that go into the request when it is sent, in the order of their places.
    pub media: Vec<NewMedia>,
    /// The metadata as JSON text exactly as it was given.
    pub metadata: Option<String>,
    /// In which form the answer holds a value, where the request has a schema.
    pub output: Option<OutputForm>,
    /// A hash of request, metadata and settings as JSON values: equal content has an equal digest.
    pub digest: [u8; 16],
}

impl NewJob {
    /// Returns about how many bytes it holds.
    pub fn size(&self) -> usize {
        let media = self.media.iter().map(|media| match &media.source {
            MediaSource::File { path, .. } => path.len(),
            MediaSource::Bytes(bytes) => bytes.len(),
        });
        self.request.len() + self.metadata.as_ref().map_or(0, String::len) + media.sum::<usize>()
    }
}

/// Takes the next of `jobs`: up to `rows`, and until they have `bytes` together. An empty chunk says
/// that there are no more.
pub fn next_chunk<E>(
    jobs: &mut impl Iterator<Item = Result<NewJob, E>>,
    rows: usize,
    bytes: usize,
) -> Result<Vec<NewJob>, E> {
    let mut chunk = Vec::with_capacity(rows);
    let mut size = 0;
    while chunk.len() < rows && size < bytes {
        let Some(job) = jobs.next() else { break };
        let job = job?;
        size += job.size();
        chunk.push(job);
    }
    Ok(chunk)
}

/// The fields that may stand beside `request`.
const BESIDE_REQUEST: [Field; 9] = [
    Field::Key,
    Field::Request,
    Field::Metadata,
    Field::TaskId,
    Field::Model,
    Field::Priority,
    Field::MaxAttempts,
    Field::NotBefore,
    Field::Stream,
];

/// What is wanted of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// Everything.
    Whole,
    /// The line was read before and its digest is known: it is left out, unless there are media in
    /// it, which may have changed.
    Again,
}

/// Reads one line; `None` where it is blank.
///
/// An error is the reason for people, without the line's number.
pub fn parse_line(
    text: &str,
    line: u64,
    defaults: &Defaults,
    look: Look<'_>,
    pass: Pass,
) -> Result<Option<NewJob>, String> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let fields = Fields::parse(text)?;
    let metadata = fields.get(Field::Metadata);
    if metadata.is_some_and(|metadata| !metadata.starts_with('{')) {
        return Err("`metadata` must be an object".to_owned());
    }
    let (mut request, requested_model) = request_of(&fields, look)?;
    let (text, output) = with_schema(&fields, request.text, defaults)?;
    request.text = text;
    let mut job = NewJob {
        task_id: settings::task_id(&fields, metadata, line)?,
        line,
        model: settings::model(&fields, requested_model.as_deref(), defaults)?,
        priority: settings::priority(&fields, defaults)?,
        max_attempts: settings::max_attempts(&fields, defaults)?,
        not_before: settings::not_before(&fields, defaults)?,
        stream: settings::stream(&fields, defaults)?,
        request: request.text,
        media: request.media,
        metadata: metadata.map(str::to_owned),
        output,
        digest: [0; 16],
    };
    if pass == Pass::Whole || !request.identity.is_empty() {
        job.digest = digest(&job, &request.identity)?;
    }
    Ok(Some(job))
}

/// Returns the request to send, and the model that it names.
fn request_of(fields: &Fields<'_>, look: Look<'_>) -> Result<(Built, Option<String>), String> {
    let Some(text) = fields.get(Field::Request) else {
        if fields.get(Field::Key).is_some() {
            return Err("`key` belongs to a line with a `request`; use `task_id`".to_owned());
        }
        return Ok((request::from_prompt(fields, look)?, None));
    };
    let mut beside = fields.given().filter(|field| !BESIDE_REQUEST.contains(field));
    let beside = beside.next().map(|field| field.name().to_owned()).or_else(|| fields.any_media());
    if let Some(name) = beside {
        return Err(format!("`{name}` cannot stand beside `request`"));
    }
    let model = request::check_batch(text)?;
    let built = Built { text: text.to_owned(), media: Vec::new(), identity: String::new() };
    Ok((built, model))
}

/// Checks the request's schema, or gives it the default one where it has none. What stands before
/// `generationConfig`, the media's places among it, stays where it is.
fn with_schema(
    fields: &Fields<'_>,
    request: String,
    defaults: &Defaults,
) -> Result<(String, Option<OutputForm>), String> {
    let may_have = [Field::GenerationConfig, Field::Request];
    let own = if may_have.iter().any(|field| fields.get(*field).is_some()) {
        OutputSchema::of_request(&request)?
    } else {
        None
    };
    if let Some(own) = own {
        own.validate()?;
        return Ok((request, Some(own.form())));
    }
    let Some(default) = &defaults.schema else { return Ok((request, None)) };
    let request = default.put_into(&request)?;
    let form = OutputSchema::of_request(&request)?.map(|schema| schema.form());
    Ok((request, form))
}

fn digest(job: &NewJob, media: &str) -> Result<[u8; 16], String> {
    let metadata = job.metadata.as_deref();
    let capacity = job.request.len() + metadata.map_or(0, str::len) + 80;
    let mut content = String::with_capacity(capacity);
    canonical::write_canonical(&job.request, &mut content)?;
    // No canonical text holds a NUL, so the parts cannot run into each other.
    content.push('\0');
    if let Some(metadata) = metadata {
        canonical::write_canonical(metadata, &mut content)
            .map_err(|reason| format!("`metadata`: {reason}"))?;
    }
    let not_before = job.not_before.map(|time| time.0.to_string()).unwrap_or_default();
    for setting in
        [&job.model, &job.priority.to_string(), &job.max_attempts.to_string(), &not_before]
    {
        content.push('\0');
        content.push_str(setting);
    }
    if job.stream {
        content.push_str("\0stream");
    }
    content.push_str(media);
    let hash = Sha256::digest(content.as_bytes());
    let mut digest = [0; 16];
    digest.copy_from_slice(&hash[..16]);
    Ok(digest)
}

#[cfg(test)]
mod tests;
