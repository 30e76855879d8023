//! Results, written row by row so that memory stays flat.

use std::io::{self, Write};

use gq::queue::Answer;
use serde::Serialize;

use super::super::args::ResultFormat;
use super::csv::CsvRows;
use super::record::Record;
use super::text;

/// A job with what its answer says.
#[derive(Debug)]
pub(crate) struct ResultRow {
    /// The job and its answer, without the bytes of its media.
    pub(crate) answer: Answer,
    /// The images and clips of the answer.
    pub(crate) media: Vec<MediaItem>,
    /// The value that the text holds, as JSON text, where the job has a response schema.
    #[expect(clippy::option_option, reason = "absent without a schema; null without an answer")]
    pub(crate) parsed: Option<Option<String>>,
    /// Whether the API's whole answer is shown.
    pub(crate) full: bool,
}

/// An image or a clip of an answer.
#[derive(Debug, Serialize)]
pub(crate) struct MediaItem {
    /// Its type.
    pub(crate) mime_type: String,
    /// The file it was written to, where one was asked for.
    pub(crate) path: Option<String>,
    /// Its size; absent where it cannot be decoded.
    pub(crate) bytes: Option<u64>,
}

/// What the rows of one output have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    /// The form.
    pub(crate) format: ResultFormat,
    /// Whether one task alone was asked for: its text then stands by itself.
    pub(crate) single: bool,
    /// Whether there is a column for the API's whole answer.
    pub(crate) full: bool,
}

/// Writes rows in one form; [`ResultsWriter::finish`] ends them.
pub(crate) struct ResultsWriter<W: Write> {
    rows: Rows<W>,
    written: u64,
}

enum Rows<W: Write> {
    Jsonl(W),
    Json(W),
    Csv(Box<CsvRows<W>>),
    Text { writer: W, single: bool },
}

impl<W: Write> ResultsWriter<W> {
    /// Starts an output.
    pub(crate) fn new(layout: Layout, mut writer: W) -> io::Result<Self> {
        let rows = match layout.format {
            ResultFormat::Jsonl => Rows::Jsonl(writer),
            ResultFormat::Json => {
                writer.write_all(b"[")?;
                Rows::Json(writer)
            }
            ResultFormat::Csv => Rows::Csv(Box::new(CsvRows::new(writer, layout.full)?)),
            ResultFormat::Text => Rows::Text { writer, single: layout.single },
        };
        Ok(Self { rows, written: 0 })
    }

    /// Writes one row.
    pub(crate) fn row(&mut self, row: &ResultRow) -> io::Result<()> {
        let first = self.written == 0;
        match &mut self.rows {
            Rows::Jsonl(writer) => {
                serde_json::to_writer(&mut *writer, &Record::new(row)?)?;
                writer.write_all(b"\n")?;
            }
            Rows::Json(writer) => {
                writer.write_all(if first { b"\n" } else { b",\n" })?;
                serde_json::to_writer(writer, &Record::new(row)?)?;
            }
            Rows::Csv(rows) => rows.row(row)?,
            Rows::Text { writer, single: true } => writer.write_all(text::alone(row).as_bytes())?,
            Rows::Text { writer, single: false } => {
                if !first {
                    writer.write_all(b"\n")?;
                }
                writer.write_all(text::block(row).as_bytes())?;
            }
        }
        self.written += 1;
        Ok(())
    }

    /// Hands on what is buffered.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        match &mut self.rows {
            Rows::Jsonl(writer) | Rows::Json(writer) | Rows::Text { writer, .. } => writer.flush(),
            Rows::Csv(rows) => rows.flush(),
        }
    }

    /// Ends the output and hands on what is buffered.
    pub(crate) fn finish(self) -> io::Result<()> {
        match self.rows {
            Rows::Jsonl(mut writer) | Rows::Text { mut writer, .. } => writer.flush(),
            Rows::Json(mut writer) => {
                writer.write_all(if self.written == 0 { b"]\n" } else { b"\n]\n" })?;
                writer.flush()
            }
            Rows::Csv(mut rows) => rows.flush(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use gq::domain::outcome::{ErrorKind, Usage};
    use gq::domain::output::OutputForm;
    use gq::domain::time::Timestamp;
    use gq::domain::view::{JobError, JobState, JobView};

    use super::*;

    pub(in crate::cli::output) fn answered() -> JobView {
        JobView {
            id: 1,
            task_id: "task_1".into(),
            batch: "prompts".into(),
            state: JobState::Succeeded,
            metadata: Some(r#"{"task_id": "task_1", "n": 1.0}"#.into()),
            raw: Some("{\n  \"candidates\": []\n}".into()),
            error: None,
            model: "gemini-flash-latest".into(),
            usage: Some(Usage { prompt_tokens: 8, total_tokens: 8, ..Usage::default() }),
            attempts: 1,
            key: Some("GEMINI_API_KEY_1".into()),
            line: 1,
            created_at: Timestamp(0),
            started_at: Some(Timestamp(1000)),
            finished_at: Some(Timestamp(2500)),
            due_at: Timestamp(0),
            stream: false,
            text: None,
            output: None,
        }
    }

    pub(in crate::cli::output) fn failed() -> JobView {
        JobView {
            task_id: "=2".into(),
            state: JobState::Failed,
            metadata: None,
            error: Some(JobError {
                kind: ErrorKind::Blocked,
                message: "SAFETY".into(),
                http_status: None,
            }),
            usage: None,
            raw: None,
            ..answered()
        }
    }

    pub(in crate::cli::output) fn row(job: &JobView) -> ResultRow {
        let text = (job.state == JobState::Succeeded).then(|| "Paris,\n\"FR\".".to_owned());
        let finish_reason = text.as_ref().map(|_| "STOP".to_owned());
        let parsed = job.output.map(|_| text.as_ref().map(|_| r#"{"a": 1.0}"#.to_owned()));
        let answer = Answer {
            job: job.clone(),
            response: text,
            media: Vec::new(),
            finish_reason,
            model_version: None,
        };
        ResultRow { answer, media: Vec::new(), parsed, full: false }
    }

    pub(in crate::cli::output) fn written(format: ResultFormat, jobs: &[JobView]) -> String {
        let layout = Layout { format, single: jobs.len() == 1, full: false };
        let mut bytes = Vec::new();
        let mut writer = ResultsWriter::new(layout, &mut bytes).unwrap();
        for job in jobs {
            writer.row(&row(job)).unwrap();
        }
        writer.finish().unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_line_has_the_documented_fields_in_order() {
        assert_eq!(
            written(ResultFormat::Jsonl, &[answered()]),
            concat!(
                r#"{"task_id":"task_1","batch":"prompts","state":"succeeded","#,
                r#""metadata":{"task_id": "task_1", "n": 1.0},"response":"Paris,\n\"FR\".","#,
                r#""error":null,"finish_reason":"STOP","model":"gemini-flash-latest","#,
                r#""model_version":null,"usage":{"prompt_tokens":8,"cached_tokens":0,"#,
                r#""output_tokens":0,"thought_tokens":0,"total_tokens":8},"attempts":1,"#,
                r#""key":"GEMINI_API_KEY_1","line":1,"created_at":"1970-01-01T00:00:00.000Z","#,
                r#""started_at":"1970-01-01T00:00:01.000Z","#,
                r#""finished_at":"1970-01-01T00:00:02.500Z"}"#,
                "\n"
            )
        );
    }

    #[test]
    fn a_failure_tells_its_kind() {
        let line = written(ResultFormat::Jsonl, &[failed()]);
        let error = r#""error":{"kind":"blocked","message":"SAFETY","http_status":null}"#;
        assert!(line.contains(error), "{line}");
    }

    #[test]
    fn only_a_job_with_a_schema_has_a_parsed_value() {
        let output = Some(OutputForm::Json);
        let line = written(ResultFormat::Jsonl, &[JobView { output, ..answered() }]);
        assert!(line.ends_with(",\"parsed\":{\"a\": 1.0}}\n"), "{line}");
        let line = written(ResultFormat::Jsonl, &[JobView { output, ..failed() }]);
        assert!(line.ends_with(",\"parsed\":null}\n"), "{line}");
    }

    #[test]
    fn the_whole_answer_fits_on_the_line() {
        let job = answered();
        let mut bytes = Vec::new();
        let layout = Layout { format: ResultFormat::Jsonl, single: false, full: true };
        let mut writer = ResultsWriter::new(layout, &mut bytes).unwrap();
        writer.row(&ResultRow { full: true, ..row(&job) }).unwrap();
        writer.finish().unwrap();
        assert!(String::from_utf8(bytes).unwrap().ends_with("\"raw\":{   \"candidates\": [] }}\n"));
    }

    #[test]
    fn media_is_listed_where_there_is_some() {
        let job = answered();
        let image = |path: Option<&str>, bytes| MediaItem {
            mime_type: "image/png".into(),
            path: path.map(Into::into),
            bytes,
        };
        let mut row = ResultRow {
            media: vec![image(Some("out/a.png"), Some(7)), image(None, None)],
            ..row(&job)
        };
        row.answer.response = None;
        let shown = |format| {
            let mut bytes = Vec::new();
            let layout = Layout { format, single: true, full: false };
            let mut writer = ResultsWriter::new(layout, &mut bytes).unwrap();
            writer.row(&row).unwrap();
            writer.finish().unwrap();
            String::from_utf8(bytes).unwrap()
        };
        let line = shown(ResultFormat::Jsonl);
        assert!(line.contains(r#""response":null,"#), "{line}");
        let media = r#""media":[{"mime_type":"image/png","path":"out/a.png","bytes":7},{"mime_type":"image/png","path":null,"bytes":null}]}"#;
        assert!(line.ends_with(&format!("{media}\n")), "{line}");
        assert_eq!(
            shown(ResultFormat::Text),
            "[image/png, 7 bytes: out/a.png]\n[image/png, cannot be decoded]\n"
        );
        assert!(!written(ResultFormat::Jsonl, &[answered()]).contains("media"));
    }

    #[test]
    fn a_list_is_valid_json_at_any_length() {
        for jobs in [vec![], vec![answered()], vec![answered(), failed()]] {
            let text = written(ResultFormat::Json, &jobs);
            let list: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
            assert_eq!(list.len(), jobs.len());
        }
    }
}
