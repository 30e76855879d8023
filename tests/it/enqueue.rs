//! `gq enqueue`: what is taken, what is refused, and what the same call again does.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::support::{TestEnv, column};

/// A bad second line, and what is said of it.
const BAD: [(&str, &str); 17] = [
    (r#"{"prmpt": "x"}"#, "did you mean `prompt`"),
    (r#"{"prompt": "x", "max_atempts": 2}"#, "did you mean `max_attempts`"),
    (r#"{"prompt": "x", "generation_config": {"temprature": 1}}"#, "did you mean `temperature`"),
    (r#"{"prompt": 5}"#, "`prompt`"),
    (r#"{"prompt": "x", "priority": 1.5}"#, "`priority`"),
    (r#"{"prompt": "x", "metadata": ["a"]}"#, "`metadata`"),
    (r#"{"prompt": "x", "not_before": "soon"}"#, "`not_before`"),
    (r#"{"prompt": "x""#, "JSON"),
    (r#"{"prompt": "x"} {"prompt": "y"}"#, "JSON"),
    (r#"["x"]"#, "object"),
    (r#"{"prompt": "x", "prompt": "y"}"#, "`prompt`"),
    (r#"{"prompt": "x", "task_id": "1"}"#, "task id"),
    (r#"{"prompt": "x", "task_id": "a", "metadata": {"task_id": "b"}}"#, "metadata.task_id"),
    (r#"{"prompt": "x", "image_path": "a.png"}"#, "`image_path`"),
    (r#"{"prompt": "x", "stream": "yes"}"#, "`stream`"),
    (r#"{"prompt": ""}"#, "empty"),
    (r#"{"task_id": "x"}"#, "nothing to send"),
];

fn counts(line: &Value) -> [i64; 4] {
    ["enqueued", "skipped", "replaced", "rejected"].map(|name| line[name].as_i64().unwrap())
}

#[test]
fn a_bad_line_refuses_the_call_and_is_named() {
    for (bad, reason) in BAD {
        let env = TestEnv::new();
        env.write("in.jsonl", format!("{{\"prompt\": \"first\"}}\n{bad}\n{{\"prompt\": \"z\"}}\n"));
        let ran = env.gq(&["enqueue", "in.jsonl"]).exits(2);
        assert!(ran.stderr.contains("line 2"), "{bad}: {}", ran.stderr);
        assert!(ran.stderr.contains(reason), "{bad}: {}", ran.stderr);
        assert_eq!(ran.stdout, "");
        assert!(!env.path("gq.db").exists(), "{bad}");
    }
}

#[test]
fn a_bad_line_of_the_second_file_stores_nothing_of_the_first() {
    let env = TestEnv::new();
    env.prompts("old.jsonl", &["one", "two"]);
    env.gq(&["enqueue", "old.jsonl"]).exits(0);
    env.prompts("good.jsonl", &["three", "four"]);
    env.write("bad.jsonl", "{\"prompt\": \"five\"}\n{\"prompt\": 6}\n");
    let ran = env.gq(&["enqueue", "good.jsonl", "bad.jsonl"]).exits(2);
    assert!(ran.stderr.contains("bad.jsonl"), "{}", ran.stderr);
    assert_eq!(env.status()["jobs"]["total"], json!(2));
    env.gq(&["results", "--batch", "good"]).exits(4);
}

#[test]
fn twenty_bad_lines_are_shown_and_the_rest_counted() {
    let env = TestEnv::new();
    env.write("in.jsonl", "{\"prompt\": 1}\n".repeat(25));
    let ran = env.gq(&["enqueue", "in.jsonl"]).exits(2);
    assert!(ran.stderr.contains("line 20:") && !ran.stderr.contains("line 21:"), "{}", ran.stderr);
    assert!(ran.stderr.contains("25") && ran.stderr.contains("5 more"), "{}", ran.stderr);
}

#[test]
fn the_same_call_again_adds_what_is_missing() {
    let env = TestEnv::new();
    env.prompts("in.jsonl", &["one", "two"]);
    let ran = env.gq(&["enqueue", "in.jsonl"]).exits(0);
    assert_eq!(
        ran.json(),
        json!({"batch": "in", "enqueued": 2, "skipped": 0, "replaced": 0, "rejected": 0})
    );
    let ran = env.gq(&["enqueue", "in.jsonl"]).exits(0);
    assert_eq!(counts(&ran.json()), [0, 2, 0, 0]);
    env.prompts("in.jsonl", &["one", "two", "three"]);
    let ran = env.gq(&["enqueue", "in.jsonl"]).exits(0);
    assert_eq!(counts(&ran.json()), [1, 2, 0, 0]);
    assert_eq!(env.status()["queue_size"], json!(3));
}

#[test]
fn spacing_and_the_order_of_keys_make_no_other_content() {
    let env = TestEnv::new();
    env.write(
        "in.jsonl",
        "{\"prompt\":\"a\",\"task_id\":\"t1\",\"generation_config\":{\"topK\":3,\"seed\":1}}\n\
         {\"prompt\":\"b\",\"task_id\":\"t2\"}\n",
    );
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    env.write(
        "in.jsonl",
        "{ \"generation_config\": {\"seed\": 1, \"top_k\": 3}, \"task_id\": \"t1\", \
         \"prompt\": \"\\u0061\" }\n{\"task_id\": \"t2\", \"prompt\": \"b\"}\n",
    );
    assert_eq!(counts(&env.gq(&["enqueue", "in.jsonl"]).exits(0).json()), [0, 2, 0, 0]);
}

#[test]
fn other_content_is_refused_skipped_or_replaced() {
    let env = TestEnv::with_stand_in(&json!({}));
    env.prompts("in.jsonl", &["one", "two"]);
    env.gq(&["run", "in.jsonl"]).exits(0);
    env.prompts("in.jsonl", &["one", "another", "three"]);
    let ran = env.gq(&["enqueue", "in.jsonl"]).exits(2);
    assert!(ran.stderr.contains("t2") && ran.stderr.contains("line 2"), "{}", ran.stderr);
    assert_eq!(env.status()["jobs"]["total"], json!(2));
    let ran = env.gq(&["enqueue", "in.jsonl", "--on-conflict", "skip"]).exits(0);
    assert_eq!(counts(&ran.json()), [1, 2, 0, 0]);
    assert_eq!(env.show("t2")["response"], "This is a stand-in's answer to: two");
    let ran = env.gq(&["enqueue", "in.jsonl", "--on-conflict", "replace"]).exits(0);
    assert_eq!(counts(&ran.json()), [0, 2, 1, 0]);
    assert_eq!(env.show("t2")["state"], "pending");
    assert_eq!(env.show("t2")["response"], Value::Null);
    let results = env.gq(&["run", "in.jsonl"]).exits(0).lines();
    assert_eq!(results[1]["response"], "This is a stand-in's answer to: another");
    assert_eq!(env.calls(), 4);
}

#[test]
fn good_lines_are_stored_and_bad_ones_written_where_asked() {
    let env = TestEnv::new();
    let bad = "{\"prmpt\": \"x\"}";
    env.write(
        "in.jsonl",
        format!("{{\"prompt\": \"a\"}}\n{bad}\n{{\"prompt\": \"b\"}}\nnonsense\n"),
    );
    let args = ["enqueue", "in.jsonl", "--skip-invalid", "--rejects", "bad.jsonl"];
    let ran = env.gq(&args).exits(0);
    assert_eq!(counts(&ran.json()), [2, 0, 0, 2]);
    let text = fs::read_to_string(env.path("bad.jsonl")).unwrap();
    let rejects: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(column(&rejects, "line"), ["2", "4"]);
    assert_eq!(column(&rejects, "text"), [bad, "nonsense"]);
    assert!(column(&rejects, "error")[0].contains("did you mean `prompt`"));
    assert_eq!(env.show("1")["state"], "pending");
    assert_eq!(env.show("3")["state"], "pending");
}

#[test]
fn input_comes_from_stdin_too() {
    let env = TestEnv::new();
    let input = "{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}";
    let ran = env.gq_reading(&["enqueue", "-"], input).exits(0);
    assert_eq!(ran.json()["batch"], "stdin");
    assert_eq!(counts(&ran.json()), [2, 0, 0, 0]);
    let ran = env.gq_reading(&["enqueue", "-", "--batch", "mine"], input).exits(0);
    assert_eq!(ran.json()["batch"], "mine");
    assert_eq!(counts(&ran.json()), [2, 0, 0, 0]);
}

#[test]
fn compressed_input_is_read_as_it_is() {
    let env = TestEnv::new();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(b"{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n").unwrap();
    let packed = encoder.finish().unwrap();
    env.write("a.b.jsonl.gz", &packed);
    let ran = env.gq(&["enqueue", "a.b.jsonl.gz"]).exits(0);
    assert_eq!(ran.json()["batch"], "a.b");
    assert_eq!(counts(&ran.json()), [2, 0, 0, 0]);
    env.write("cut.jsonl.gz", &packed[..packed.len() - 9]);
    let ran = env.gq(&["enqueue", "cut.jsonl.gz"]).exits(2);
    assert!(ran.stderr.contains("cut.jsonl.gz"), "{}", ran.stderr);
    assert_eq!(env.status()["jobs"]["total"], json!(2));
}

#[test]
fn a_byte_order_mark_line_ends_and_blank_lines_are_no_content() {
    let env = TestEnv::new();
    env.write(
        "in.jsonl",
        "\u{feff}{\"prompt\": \"a\"}\r\n\r\n  \r\n{\"prompt\": \"b\", \"task_id\": \"x\"}\r\n",
    );
    assert_eq!(counts(&env.gq(&["enqueue", "in.jsonl"]).exits(0).json()), [2, 0, 0, 0]);
    assert_eq!(env.show("1")["line"], json!(1));
    assert_eq!(env.show("x")["line"], json!(4));
    env.write("in.jsonl", "{\"prompt\": \"a\"}\n\n\n{\"prompt\": \"b\", \"task_id\": \"x\"}");
    assert_eq!(counts(&env.gq(&["enqueue", "in.jsonl"]).exits(0).json()), [0, 2, 0, 0]);
}

#[test]
fn lines_of_the_batch_service_are_taken_as_they_stand() {
    let mut env = TestEnv::new();
    env.stand_in(&json!({}));
    env.set("GEMINI_API_KEY", "secret-one");
    let line = |key: &str, country: &str| {
        let text = format!("What is the capital of {country}?");
        json!({"key": key, "request": {"contents": [{"parts": [{"text": text}]}]}}).to_string()
    };
    env.write("in.jsonl", format!("{}\n{}\n", line("p", "Peru"), line("n", "Nepal")));
    let results = env.gq(&["run", "in.jsonl"]).exits(0).lines();
    assert_eq!(column(&results, "task_id"), ["p", "n"]);
    assert_eq!(
        column(&results, "response"),
        ["The capital of Peru is Lima.", "The capital of Nepal is Kathmandu."]
    );
}

#[test]
fn only_its_owner_may_read_the_database() {
    let env = TestEnv::new();
    env.prompts("in.jsonl", &["one", "two"]);
    env.gq(&["enqueue", "in.jsonl", "--db", "mine.db"]).exits(0);
    let mode = fs::metadata(env.path("mine.db")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!env.path("gq.db").exists());
}

#[test]
fn higher_priority_goes_first() {
    let env = TestEnv::with_stand_in(&json!({}));
    env.write(
        "in.jsonl",
        "{\"prompt\": \"low\", \"priority\": -1}\n{\"prompt\": \"usual\"}\n\
         {\"prompt\": \"high\", \"priority\": 7}\n",
    );
    env.gq(&["run", "in.jsonl", "--workers", "1"]).exits(0);
    let asked: Vec<String> =
        env.mock().requests().iter().map(|call| call.prompt.to_string()).collect();
    assert_eq!(asked, ["high", "usual", "low"]);
}

#[test]
fn ten_processes_at_once_share_a_database_that_none_has_made() {
    let env = TestEnv::new();
    env.prompts("shared.jsonl", &["one", "two"]);
    let processes: Vec<_> = (0..10)
        .map(|number| {
            let own = format!("own{number}.jsonl");
            env.prompts(&own, &["three", "four"]);
            env.spawn(&["enqueue", &own, "shared.jsonl"])
        })
        .collect();
    let mut shared = [0; 4];
    for process in processes {
        let lines = process.wait().exits(0).lines();
        assert_eq!(counts(&lines[0]), [2, 0, 0, 0]);
        for (sum, count) in shared.iter_mut().zip(counts(&lines[1])) {
            *sum += count;
        }
    }
    assert_eq!(shared, [2, 18, 0, 0]);
    assert_eq!(env.status()["queue_size"], json!(22));
}

#[test]
fn a_first_start_that_died_is_finished_by_the_next() {
    let env = TestEnv::new();
    // What a process leaves that dies between the table of migrations and the first migration.
    env.execute(
        "CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL,
             installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL,
             checksum BLOB NOT NULL, execution_time BIGINT NOT NULL)",
    );
    env.prompts("in.jsonl", &["one", "two"]);
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    assert_eq!(env.status()["queue_size"], json!(2));
}

#[test]
fn files_of_one_batch_must_not_give_one_name_to_two_jobs() {
    let env = TestEnv::new();
    let line = |task: &str, prompt: &str| json!({"prompt": prompt, "task_id": task}).to_string();
    env.write("a.jsonl", format!("{}\n{}\n", line("x", "one"), line("y", "two")));
    env.write(
        "b.jsonl",
        format!("{}\n{}\n{}\n", line("x", "one"), line("z", "three"), line("y", "other")),
    );
    let refused = env.gq(&["enqueue", "a.jsonl", "b.jsonl", "--batch", "all"]).exits(2);
    let told = "b.jsonl: line 3: line 2 of `a.jsonl` has the same task id with other content";
    assert!(refused.stderr.contains(told), "{}", refused.stderr);
    assert!(!env.path("gq.db").exists());
    let args = ["enqueue", "a.jsonl", "b.jsonl", "--batch", "all", "--skip-invalid"];
    let stored: Vec<[i64; 4]> = env.gq(&args).exits(0).lines().iter().map(counts).collect();
    assert_eq!(stored, [[2, 0, 0, 0], [1, 1, 0, 1]]);
    assert_eq!(env.status()["queue_size"], json!(3));
    // Of batches of their own, both are fine.
    let stored = env.gq(&["enqueue", "a.jsonl", "b.jsonl"]).exits(0).lines();
    assert_eq!(stored.iter().map(counts).collect::<Vec<_>>(), [[2, 0, 0, 0], [3, 0, 0, 0]]);
}

#[test]
fn a_large_call_is_refused_before_its_first_job_is_stored() {
    let env = TestEnv::new();
    let filler = "x".repeat(1 << 20);
    let large = |last: &str| {
        let line = |task: usize, text: &str| {
            json!({"prompt": format!("{text}{filler}"), "task_id": task}).to_string() + "\n"
        };
        (0..63).map(|task| line(task, "")).collect::<String>() + &line(63, last)
    };
    env.write("old.jsonl", large("old").lines().last().unwrap());
    env.gq(&["enqueue", "old.jsonl", "--batch", "b"]).exits(0);
    env.write("new.jsonl", large("new"));
    let refused = env.gq(&["enqueue", "new.jsonl", "--batch", "b"]).exits(2);
    assert!(
        refused.stderr.contains("task `63` (line 64) exists in batch `b`"),
        "{}",
        refused.stderr
    );
    assert_eq!(env.status()["queue_size"], json!(1));
    env.write("new.jsonl", large("old"));
    let stored = env.gq(&["enqueue", "new.jsonl", "--batch", "b"]).exits(0);
    assert_eq!(counts(&stored.json()), [63, 1, 0, 0]);
}

#[test]
fn a_job_replaced_twice_in_one_call_is_replaced_once() {
    let env = TestEnv::new();
    env.prompts("old.jsonl", &["one", "two"]);
    env.gq(&["enqueue", "old.jsonl", "--batch", "b"]).exits(0);
    let line = json!({"prompt": "new", "task_id": "t1"}).to_string() + "\n";
    env.write("new.jsonl", line.repeat(2));
    let args = ["enqueue", "new.jsonl", "--batch", "b", "--on-conflict", "replace"];
    assert_eq!(counts(&env.gq(&args).exits(0).json()), [0, 1, 1, 0]);
    assert_eq!(env.status()["jobs"]["pending"], json!(2));
}

#[test]
fn what_is_read_is_never_written_over() {
    let env = TestEnv::with_stand_in(&json!({}));
    let lines = "{\"prompt\": \"one\"}\nbad\n";
    env.write("in.jsonl", lines);
    env.gq(&["enqueue", "in.jsonl", "--skip-invalid"]).exits(0);
    let refused: [&[&str]; 5] = [
        &["run", "in.jsonl", "--skip-invalid", "--rejects", "new", "-o", "./new"],
        &["enqueue", "in.jsonl", "--skip-invalid", "--rejects", "./in.jsonl"],
        &["enqueue", "in.jsonl", "--skip-invalid", "--rejects", "gq.db"],
        &["run", "in.jsonl", "--skip-invalid", "-o", "in.jsonl"],
        &["results", "-o", "gq.db"],
    ];
    for args in refused {
        let ran = env.gq(args).exits(2);
        assert!(ran.stderr.contains("would overwrite "), "{args:?} {}", ran.stderr);
    }
    assert_eq!(fs::read_to_string(env.path("in.jsonl")).unwrap(), lines);
    assert_eq!(env.status()["queue_size"], json!(1));
    // What a call that could not begin would have written leaves the old file.
    env.write("bad.jsonl", "old");
    env.gq(&["enqueue", "none.jsonl", "--rejects", "bad.jsonl"]).exits(2);
    assert_eq!(fs::read_to_string(env.path("bad.jsonl")).unwrap(), "old");
    let ran = env.gq(&["run", "in.jsonl", "--skip-invalid", "-o", "none/out.jsonl"]).exits(1);
    assert!(ran.stderr.contains("its folder is not there"), "{}", ran.stderr);
    assert_eq!(env.calls(), 0);
}
