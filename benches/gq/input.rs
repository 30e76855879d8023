//! What is enqueued: lines of about 300 bytes.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

const FILLER: &str = "x xxxx xxxxxxx xxx xx xxxxxx xxxxx xxxxxxxx xxxx xx xxxxx xxxxxxx xxx xxxx xx \
    xxxxxxx xxxxx xxx xxxxxxxxx xx xxxx xxxxxx xxx xxxxxxx xx xxxxx xxxx xxxxxxxx xxx xxxxxx xx";

pub(crate) fn task_id(number: u32) -> String {
    format!("task_{number}")
}

fn prompt(number: u32) -> String {
    format!("What is item {number}? {FILLER}")
}

pub(crate) fn metadata(number: u32) -> String {
    format!(r#"{{"task_id": "task_{number}", "category": "benchmark"}}"#)
}

/// The request that a line becomes.
pub(crate) fn request(number: u32) -> String {
    format!(r#"{{"contents":[{{"parts":[{{"text":"{}"}}],"role":"user"}}]}}"#, prompt(number))
}

pub(crate) fn write_lines(path: &Path, lines: u32) {
    let mut file = BufWriter::new(File::create(path).expect("the input can be made"));
    for number in 0..lines {
        let (prompt, metadata) = (prompt(number), metadata(number));
        writeln!(file, r#"{{"prompt": "{prompt}", "metadata": {metadata}}}"#)
            .expect("there is room");
    }
    let file = file.into_inner().expect("there is room");
    file.sync_all().expect("there is room");
}
