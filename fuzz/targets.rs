//! What must hold for any bytes: whoever wrote the input file, the `.env`, or the server's answer.

use std::io::Write as _;

use gq::config::{self, Environment};
use gq::domain::input::Defaults;
use gq::domain::outcome::Outcome;
use gq::gemini::error::{Call, classify};
use gq::gemini::stream::Stream;
use gq::gemini::wire;
use gq::intake::{Intake, Rejects, Source};
use serde_json::value::RawValue;
use tempfile::NamedTempFile;

/// A secret that the server may know and people must not see.
const SECRET: &str = "AIzaFuzz0123456789abcdefghijklmnopqrstuv";

fn file(data: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(data).unwrap();
    file
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok()
}

/// Lines of input: each is a job that can be sent, or refused with a reason; both passes agree.
pub(crate) fn lines(data: &[u8]) {
    let file = file(data);
    let defaults = Defaults::default();
    let Ok(intake) = Intake::open(&Source::Path(file.path().to_owned())) else { return };
    let mut rejects = Rejects::default();
    let Ok(checked) = intake.check(&defaults, &mut rejects) else { return };
    assert_eq!(rejects.count(), checked.bad);
    assert!(rejects.kept().all(|bad| !bad.reason.is_empty() && bad.line >= 1));
    let jobs: Result<Vec<_>, _> = intake.jobs(&defaults, true).unwrap().collect();
    let jobs = jobs.unwrap();
    assert_eq!(jobs.len() as u64, checked.good);
    for job in jobs {
        assert!(!job.task_id.is_empty() && job.line <= checked.lines);
        assert!(is_json(&job.request), "{}", job.request);
        assert!(job.metadata.as_deref().is_none_or(is_json));
    }
}

/// What holds for whatever a call came to.
fn is_sound(call: &Call) {
    assert!(call.raw.as_deref().is_none_or(is_json), "{:?}", call.raw);
    assert!(call.message.as_deref().is_none_or(|message| !message.contains('\n')));
    if call.outcome == Outcome::Answered {
        let raw = call.raw.as_deref().unwrap();
        assert!(wire::summarize(raw).is_some(), "{raw}");
    }
}

/// The body of an answer of any status.
pub(crate) fn answer(data: &[u8]) {
    let body = String::from_utf8_lossy(data);
    for status in [200, 400, 403, 429, 500, 503] {
        let call = classify(status, None, &body);
        is_sound(&call);
        assert!(status == 200 || call.outcome != Outcome::Answered, "{status}");
    }
}

/// The bytes of a streamed answer, in pieces: how they are cut changes nothing.
pub(crate) fn stream(data: &[u8]) {
    let [first, data @ ..] = data else { return };
    let hear = |size: usize| {
        let mut heard = String::new();
        let mut stream = Stream::new(SECRET, |piece: &str| heard.push_str(piece));
        // Nothing after the break counts.
        let _ = data.chunks(size).try_for_each(|piece| match stream.push(piece) {
            std::ops::ControlFlow::Continue(()) => Ok(()),
            std::ops::ControlFlow::Break(()) => Err(()),
        });
        let call = stream.finish(None);
        (call, heard)
    };
    let (whole, heard) = hear(data.len().max(1));
    let (cut, heard_cut) = hear(usize::from(*first).max(1));
    is_sound(&whole);
    assert_eq!((&whole, &heard), (&cut, &heard_cut));
    assert!(!heard.contains(SECRET) && !format!("{whole:?}").contains(SECRET));
    if whole.outcome == Outcome::Answered {
        let text = whole.raw.as_deref().and_then(wire::answer_text).unwrap_or_default();
        assert_eq!(text, heard);
    }
}

/// A `.env` file: read, or refused without a word of what is in it.
pub(crate) fn env(data: &[u8]) {
    let file = file(data);
    let text = String::from_utf8_lossy(data);
    let shows = |said: &str| {
        let lines = text.lines().map(str::trim).filter(|line| line.len() >= 12);
        lines.into_iter().any(|line| said.contains(line))
    };
    match Environment::load(Some(file.path())) {
        Err(error) => assert!(!shows(&format!("{error} {error:?}")), "{error}"),
        Ok(environment) => {
            if let Ok(keys) = config::keys(&environment, None) {
                let said = format!("{keys:?}");
                let secrets = keys.iter().map(|key| key.secret.expose());
                let hidden = secrets.filter(|secret| secret.len() >= 12);
                assert!(hidden.into_iter().all(|secret| !said.contains(secret)));
            }
        }
    }
}
