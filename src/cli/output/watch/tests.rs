use chrono::FixedOffset;
use gq::domain::key::KeySettings;
use gq::domain::limits::Quota;
use gq::domain::outcome::ErrorKind;
use gq::domain::view::{JobError, LimitOrigin, LimitView, ModelView, UsedUp, Waiting, WorkerView};

use super::*;

/// 2026-11-24 14:03:27 in the zone of these tests.
const NOW: Timestamp = Timestamp(1_795_525_407_000);

fn counts(pending: i64, running: i64, succeeded: i64, failed: i64) -> Counts {
    Counts { pending, running, succeeded, failed, cancelled: 0 }
}

fn state(status: KeyStatus, seconds: Option<u64>, reason: Option<&str>) -> StatusView {
    StatusView {
        status,
        exhausted_count: 0,
        total_exhausted_count: 0,
        available_at: seconds.map(|seconds| NOW.after(Duration::from_secs(seconds))),
        reason: reason.map(str::to_owned),
    }
}

fn failure(task_id: &str, kind: ErrorKind, message: &str, seconds: i64) -> FailureView {
    FailureView {
        task_id: task_id.into(),
        batch: "prompts".into(),
        error: JobError { kind, message: message.into(), http_status: None },
        finished_at: Timestamp(NOW.0 - seconds * 1000),
    }
}

fn view() -> View {
    let batches = [
        ("old", counts(0, 0, 1, 1)),
        ("later", counts(100, 0, 0, 0)),
        ("prompts", counts(584, 4, 409, 3)),
    ];
    let mut all = Counts::default();
    for (_, counts) in &batches {
        for state in gq::domain::view::JobState::ALL {
            all.add(state, counts.of(state));
        }
    }
    let exhausted = state(KeyStatus::TemporarilyExhausted, Some(92), Some("429 by the minute"));
    let full = state(KeyStatus::FullyExhausted, Some(68_400), None);
    let key = |name: &str, overall, models| KeyView {
        name: name.into(),
        overall,
        settings: KeySettings::default(),
        models,
        same_project_as: None,
    };
    let limit =
        LimitView { quota: Quota::Rpd, limit: 250, used: 250, origin: LimitOrigin::Learned(NOW) };
    View {
        status: QueueStatus {
            counts: all,
            batches: batches.map(|(name, counts)| BatchView { name: name.into(), counts }).to_vec(),
            workers: vec![WorkerView {
                id: "1".into(),
                pid: 7,
                workers: 8,
                busy: 4,
                heartbeat_at: NOW,
            }],
            keys: vec![
                key(
                    "GEMINI_API_KEY_1",
                    state(KeyStatus::Available, None, None),
                    vec![ModelView {
                        name: "gemini-pro-latest".into(),
                        status: full,
                        limits: vec![limit],
                    }],
                ),
                key("GEMINI_API_KEY_2", exhausted, vec![]),
            ],
            throughput_per_minute: 84,
            waiting_for: None,
            forecast: None,
            used: UsedUp::default(),
        },
        failures: vec![
            failure("t411", ErrorKind::Blocked, "the prompt was blocked: SAFETY", 12),
            failure(
                "t17",
                ErrorKind::ServerError,
                "An internal error has occurred. Please retry",
                3_700,
            ),
        ],
        trouble: None,
    }
}

fn shown(view: &View, width: usize, height: usize) -> String {
    let zone = FixedOffset::east_opt(3600).unwrap();
    frame(view, &Look { width, height, color: false }, &zone, NOW)
}

#[test]
fn a_frame_tells_all_of_the_queue() {
    let wanted = "\
gq status  2026-11-24 14:03:27 +01:00
rate      84 in the last minute, 688 left: about 8m 11s at this rate
workers   1 process, 4 of 8 calls in flight
keys      1 of 2 available

BATCH                              DONE
all      ███████░░░░░░░░░░░░░  414/1102   37%  4 running  4 failed
prompts  ████████░░░░░░░░░░░░  412/1000   41%  4 running  3 failed
later    ░░░░░░░░░░░░░░░░░░░░     0/100    0%
old      ████████████████████       2/2  100%             1 failed

KEY                  STATUS                 BACK AT                           R…
GEMINI_API_KEY_1     available
  gemini-pro-latest  fully_exhausted        2026-11-25 09:03:27 (in 19h 00m)
GEMINI_API_KEY_2     temporarily_exhausted  14:04:59 (in 1m 32s)              4…

FAILED      TASK  BATCH    KIND          MESSAGE
12s ago     t411  prompts  blocked       the prompt was blocked: SAFETY
1h 01m ago  t17   prompts  server_error  An internal error has occurred. Please…
";
    let frame = shown(&view(), 80, 30);
    assert!(frame == wanted, "{frame}");
    assert!(!paragraph(&frame).contains("\n\n"));
}

#[test]
fn a_frame_fits_where_it_is_shown() {
    let mut view = view();
    view.status.batches.extend((0..300).map(|number| BatchView {
        name: format!("日本語のとても長い名前のバッチ {number}"),
        counts: counts(0, 0, 5, 0),
    }));
    for height in 0..60 {
        for width in [0, 1, 2, 7, 20, 39, 79, 200] {
            let frame = shown(&view, width, height);
            assert!(frame.lines().count() <= height, "{frame}");
            let widest = frame.lines().map(unicode_width::UnicodeWidthStr::width).max();
            assert!(widest.unwrap_or(0) <= width, "{frame}");
        }
    }
    let lines = |height| shown(&view, 79, height).lines().map(str::to_owned).collect::<Vec<_>>();
    let short = lines(17);
    assert!(short[7].starts_with("prompts "), "{short:#?}");
    assert_eq!(short[8], "… and 302 more");
    assert!(short.contains(&"… and 2 more".to_owned()), "{short:#?}");
    assert!(lines(24).iter().any(|line| line.contains("t17")), "{:#?}", lines(24));
}

#[test]
fn batches_at_work_come_first_and_then_the_latest() {
    let mut view = view();
    let done = |name: &str| BatchView { name: name.into(), counts: counts(0, 0, 1, 0) };
    view.status.batches.push(done("newer"));
    let frame = shown(&view, 80, 40);
    let names: Vec<&str> = frame
        .lines()
        .skip_while(|line| !line.starts_with("BATCH"))
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(names, ["all", "prompts", "later", "newer", "old"]);
}

#[test]
fn the_rest_is_estimated_only_while_jobs_finish() {
    let line = |rate, pending| {
        let mut view = view();
        view.status.throughput_per_minute = rate;
        view.status.counts = counts(pending, 0, 9, 0);
        rate_of(&shown(&view, 100, 40))
    };
    assert_eq!(line(0, 5), "0 in the last minute, 5 left");
    assert_eq!(line(7, 0), "7 in the last minute, none left");
    assert_eq!(line(60, 7_200), "60 in the last minute, 7200 left: about 2h 00m at this rate");
    assert!(line(1, i64::MAX / 2).contains("left: about"));
}

fn rate_of(frame: &str) -> String {
    let line = frame.lines().find_map(|line| line.strip_prefix("rate "));
    line.unwrap().trim_start().to_owned()
}

#[test]
fn what_is_waited_for_counts_down() {
    let mut view = view();
    view.status.waiting_for =
        Some(Waiting { reason: "all 2 keys rest".into(), until: Some(Timestamp(NOW.0 + 61_001)) });
    let frame = shown(&view, 100, 40);
    assert!(frame.contains("waiting   all 2 keys rest until 14:04:28 (in 1m 02s)\n"), "{frame}");
    view.status.waiting_for = Some(Waiting { reason: "no key is usable".into(), until: None });
    assert!(shown(&view, 100, 40).contains("waiting   no key is usable\n"));
}

#[test]
fn texts_from_outside_stay_on_their_line_and_do_nothing() {
    let mut view = view();
    view.failures = vec![failure("a\x1b[2Jb", ErrorKind::Internal, "one\ntwo\x07\u{202e}", 1)];
    view.status.batches[0].name = "x\ry".into();
    view.trouble = Some("the database is locked".into());
    let frame = shown(&view, 200, 40);
    assert!(frame.contains("one two\\u0007\\u202e\n"), "{frame}");
    assert!(frame.contains("a\\u001b[2Jb"), "{frame}");
    assert!(frame.contains("\nx y "), "{frame}");
    assert!(frame.contains("\ntrouble   the database is locked\n"), "{frame}");
    assert!(!frame.contains(|letter: char| letter.is_control() && letter != '\n'));
}

#[test]
fn colour_changes_nothing_but_the_colour() {
    let zone = FixedOffset::east_opt(3600).unwrap();
    let colored = frame(&view(), &Look { width: 80, height: 30, color: true }, &zone, NOW);
    assert!(colored.contains("\x1b[31m3 failed"), "{colored}");
    let mut plain = String::new();
    for part in colored.split("\x1b[") {
        let code = part.find('m').filter(|end| part[..*end].parse::<u8>().is_ok());
        plain.push_str(&part[code.map_or(0, |end| end + 1)..]);
    }
    let trimmed =
        |text: &str| text.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
    assert_eq!(trimmed(&plain), trimmed(&shown(&view(), 80, 30)));
}

#[test]
fn an_empty_queue_has_no_lists() {
    let status = QueueStatus {
        counts: Counts::default(),
        batches: vec![],
        workers: vec![],
        keys: vec![],
        throughput_per_minute: 0,
        waiting_for: None,
        forecast: None,
        used: UsedUp::default(),
    };
    let frame = shown(&View { status, failures: vec![], trouble: None }, 80, 24);
    let wanted = "\
gq status  2026-11-24 14:03:27 +01:00
rate      0 in the last minute, none left
workers   no worker runs
";
    assert_eq!(frame, wanted);
}
