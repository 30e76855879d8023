use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Mutex;

use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;

use super::*;

fn defaults() -> Defaults {
    Defaults { model: "m".to_owned(), ..Defaults::default() }
}

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn file(&self, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join("in.jsonl");
        fs::write(&path, bytes).unwrap();
        path
    }

    fn open(&self, bytes: &[u8]) -> Intake {
        Intake::open(&Source::Path(self.file(bytes))).unwrap()
    }
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn check(intake: &Intake) -> (Checked, Vec<(u64, String)>) {
    let mut rejects = Rejects::default();
    let checked = intake.check(&defaults(), &mut rejects).unwrap();
    assert_eq!(rejects.count(), checked.bad);
    (checked, rejects.kept().map(|it| (it.line, it.reason.clone())).collect())
}

fn good_lines(intake: &Intake) -> Vec<u64> {
    intake.jobs(&defaults(), true).unwrap().map(|job| job.unwrap().line).collect()
}

#[test]
fn marks_line_ends_and_blank_lines_are_taken_as_they_come() {
    let folder = Folder::new();
    let text = "\u{feff}{\"prompt\":\"a\"}\r\n\r\n{\"prompt\":\"b\"}\n\n{\"prompt\":\"c\"}";
    for bytes in [text.as_bytes().to_vec(), gzip(text.as_bytes())] {
        let intake = folder.open(&bytes);
        let (checked, reasons) = check(&intake);
        assert_eq!((checked.lines, checked.good, checked.bad), (5, 3, 0));
        assert_eq!(reasons, []);
        assert_eq!(good_lines(&intake), [1, 3, 5]);
    }
    let (checked, _) = check(&folder.open(b""));
    assert_eq!(checked, Checked::default());
}

#[test]
fn many_lines_come_in_order_through_all_chunks() {
    let folder = Folder::new();
    let lines: Vec<String> = (0..30_000)
        .map(|line| format!("{{\"prompt\":\"number {line}\",\"task_id\":\"t{line}\"}}"))
        .collect();
    let text = lines.join("\n");
    let intake = folder.open(text.as_bytes());
    let (checked, _) = check(&intake);
    assert_eq!((checked.good, checked.bytes), (30_000, text.len() as u64));
    assert_eq!(good_lines(&intake), (1..=30_000).collect::<Vec<u64>>());
}

#[test]
fn refused_lines_are_told_and_left_out() {
    let folder = Folder::new();
    let intake = folder.open(
        b"{\"prompt\":\"a\",\"task_id\":1}\nnonsense\n{\"prompt\":\"b\",\"task_id\":\"1\"}\n\
          {\"prompt\":\"a\",\"task_id\":1}\n\xff\n",
    );
    let written = Shared::default();
    let mut rejects = Rejects::to_writer(Box::new(written.clone()));
    let checked = intake.check(&defaults(), &mut rejects).unwrap();
    assert_eq!((checked.lines, checked.good, checked.bad), (5, 2, 3));
    let lines: Vec<u64> = rejects.kept().map(|it| it.line).collect();
    assert_eq!(lines, [2, 3, 5]);
    assert_eq!(
        String::from_utf8(written.0.lock().unwrap().clone()).unwrap(),
        "{\"line\":2,\"error\":\"the line is not a JSON object\",\"text\":\"nonsense\"}\n\
         {\"line\":5,\"error\":\"the line is not UTF-8: bad byte at column 1\",\"text\":\"\u{fffd}\"}\n\
         {\"line\":3,\"error\":\"line 1 has the same task id with other content\",\
         \"text\":\"{\\\"prompt\\\":\\\"b\\\",\\\"task_id\\\":\\\"1\\\"}\"}\n"
    );
    assert_eq!(good_lines(&intake), [1, 4]);
    let error = intake.jobs(&defaults(), false).unwrap().find_map(Result::err).unwrap();
    assert!(matches!(error, IntakeError::Refused { line: 2, .. }), "{error}");
}

#[test]
fn lines_that_only_the_first_pass_refuses_are_left_out_by_the_second() {
    let folder = Folder::new();
    let deep = "[".repeat(150) + &"]".repeat(150);
    let text = format!(
        "{{\"prompt\":\"a\"}}\n{{\"prompt\":\"b\",\"metadata\":{{\"c\":\"\\ud800\"}}}}\n\
         {{\"prompt\":\"d\",\"metadata\":{{\"e\":{deep}}}}}\n{{\"prompt\":\"f\"}}\n"
    );
    let intake = folder.open(text.as_bytes());
    let (checked, reasons) = check(&intake);
    assert_eq!((checked.good, checked.bad), (2, 2));
    assert_eq!(reasons.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(good_lines(&intake), [1, 4]);
    let error = intake.jobs(&defaults(), false).unwrap().find_map(Result::err).unwrap();
    assert!(matches!(error, IntakeError::Refused { line: 2, .. }), "{error}");
}

#[test]
fn both_passes_give_a_job_the_same_digest() {
    let folder = Folder::new();
    let line =
        |number| format!("{{\"prompt\":\"number {number}\",\"metadata\":{{\"n\":{number}}}}}");
    let text = (0..2_000).map(line).collect::<Vec<String>>().join("\n");
    let intake = folder.open(text.as_bytes());
    check(&intake);
    let jobs = intake.jobs(&defaults(), false).unwrap();
    for (job, line) in jobs.zip(text.lines()) {
        let job = job.unwrap();
        let alone = read_job(line, job.line, &defaults(), Path::new("")).unwrap();
        assert_eq!(Some(job), alone);
    }
}

#[test]
fn at_most_twenty_refusals_are_kept() {
    let (checked, reasons) = check(&Folder::new().open("x\n".repeat(50).as_bytes()));
    assert_eq!((checked.bad, reasons.len()), (50, 20));
    assert_eq!(reasons[19].0, 20);
}

#[test]
fn a_line_too_long_is_refused_and_the_next_is_read() {
    let folder = Folder::new();
    for length in [(1 << 20) + 1, 3 << 20] {
        let long = "x".repeat(length);
        let text = format!("{{\"prompt\":\"a\"}}\n{long}\n{{\"prompt\":\"b\"}}\n{long}");
        let intake = folder.open(text.as_bytes());
        let (checked, reasons) = check(&intake);
        assert_eq!((checked.lines, checked.bytes), (4, text.len() as u64));
        let reason = "the line is longer than 1 MB".to_owned();
        assert_eq!(reasons, [(2, reason.clone()), (4, reason)]);
        assert_eq!(good_lines(&intake), [1, 3]);
    }
}

#[test]
fn a_file_that_changes_between_the_passes_is_an_error() {
    let folder = Folder::new();
    for changed in ["{\"prompt\":\"b\"}\n", "", "{\"prompt\":\"a\"}"] {
        let intake = folder.open(b"{\"prompt\":\"a\"}\n");
        check(&intake);
        folder.file(changed.as_bytes());
        let error = intake.jobs(&defaults(), false).unwrap().next().unwrap().unwrap_err();
        assert!(matches!(error, IntakeError::Changed { .. }), "{error}");
        assert!(error.to_string().contains("in.jsonl"));
    }
}

#[test]
fn what_is_appended_after_opening_is_not_read() {
    let folder = Folder::new();
    let intake = folder.open(b"{\"prompt\":\"a\"}\n");
    check(&intake);
    folder.file(b"{\"prompt\":\"a\"}\n{\"prompt\":\"b\"}\n");
    assert_eq!(good_lines(&intake), [1]);
}

#[test]
fn sources_that_cannot_be_read_are_named() {
    let folder = Folder::new();
    let open = |path: &str| Intake::open(&Source::Path(path.into())).unwrap_err();
    let path = folder.0.path().to_str().unwrap();
    assert_eq!(open(path).to_string(), format!("`{path}` is not a file"));
    assert_eq!(open("/dev/null").to_string(), "`/dev/null` is not a file");
    assert_eq!(open("/none").to_string(), "cannot read `/none`");
    let mut cut = gzip("{\"prompt\":\"a\"}\n".repeat(100).as_bytes());
    cut.truncate(cut.len() - 4);
    let utf16 = "{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (bytes, wanted) in [(cut, "gzip"), (utf16, "UTF-16"), (vec![0xff, 0xfe], "UTF-16")] {
        let intake = folder.open(&bytes);
        let error = intake.check(&defaults(), &mut Rejects::default()).unwrap_err().to_string();
        assert!(error.contains(wanted) && error.contains("in.jsonl"), "{error}");
    }
}

#[test]
fn jobs_come_only_after_a_check() {
    let intake = Folder::new().open(b"");
    assert!(matches!(intake.jobs(&defaults(), true), Err(IntakeError::Unchecked { .. })));
}
