//! Results as a table for spreadsheets (RFC 4180).

use std::borrow::Cow;
use std::io::{self, Write};

use serde::Serialize;

use super::record::Record;
use super::results::ResultRow;

const COLUMNS: [&str; 19] = [
    "task_id",
    "batch",
    "state",
    "metadata",
    "response",
    "error",
    "finish_reason",
    "model",
    "model_version",
    "usage",
    "attempts",
    "key",
    "line",
    "created_at",
    "started_at",
    "finished_at",
    "parsed",
    "media",
    "raw",
];

/// Returns the I/O error inside, whose kind tells a closed pipe from others.
fn io_error(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}

/// Writes rows of a table; the first line names the columns.
pub(super) struct CsvRows<W: Write> {
    writer: csv::Writer<W>,
    columns: usize,
}

impl<W: Write> CsvRows<W> {
    /// Writes the header.
    pub(super) fn new(writer: W, full: bool) -> io::Result<Self> {
        let mut writer =
            csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(writer);
        let columns = COLUMNS.len() - usize::from(!full);
        writer.write_record(&COLUMNS[..columns]).map_err(io_error)?;
        Ok(Self { writer, columns })
    }

    /// Writes one row.
    pub(super) fn row(&mut self, row: &ResultRow) -> io::Result<()> {
        let record = Record::new(row)?;
        let parsed = record.parsed.as_ref().and_then(Option::as_ref);
        let raw = record.raw.as_ref().and_then(Option::as_ref);
        let media = Some(record.media).filter(|media| !media.is_empty());
        let cells: [Cow<'_, str>; 19] = [
            harmless(record.task_id),
            harmless(record.batch),
            record.state.into(),
            json(record.metadata.as_ref())?,
            harmless(record.response.unwrap_or_default()),
            json(record.error.as_ref())?,
            harmless(record.finish_reason.unwrap_or_default()),
            harmless(record.model),
            harmless(record.model_version.unwrap_or_default()),
            json(record.usage.as_ref())?,
            record.attempts.to_string().into(),
            record.key.unwrap_or_default().into(),
            record.line.to_string().into(),
            record.created_at.as_str().into(),
            record.started_at.as_deref().unwrap_or_default().into(),
            record.finished_at.as_deref().unwrap_or_default().into(),
            json(parsed)?,
            json(media)?,
            json(raw)?,
        ];
        let cells = cells.iter().take(self.columns).map(|cell| cell.as_bytes());
        self.writer.write_record(cells).map_err(io_error)
    }

    /// Hands on what is buffered.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Returns text that no spreadsheet runs as a formula.
fn harmless(text: &str) -> Cow<'_, str> {
    // Some trim what stands before.
    let first = text.trim_start_matches(['\n', ' ']);
    if first.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        format!("'{text}").into()
    } else {
        text.into()
    }
}

fn json<T: Serialize + ?Sized>(value: Option<&T>) -> io::Result<Cow<'static, str>> {
    Ok(value.map(serde_json::to_string).transpose()?.unwrap_or_default().into())
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::{answered, failed, written};
    use crate::cli::args::ResultFormat;

    #[test]
    fn objects_are_json_text_and_formulas_are_defused() {
        let table = written(ResultFormat::Csv, &[answered(), failed()]);
        let header = "task_id,batch,state,metadata,response,error,finish_reason,model,\
                      model_version,usage,attempts,key,line,created_at,started_at,finished_at,parsed,\
                      media\r\n";
        assert!(table.starts_with(header), "{table}");
        assert!(table.contains(r#","{""task_id"": ""task_1"", ""n"": 1.0}","Paris,"#));
        assert!(table.contains("\r\n'=2,prompts,failed,,,"));
    }
}
