//! Structured output: answers checked against the request's schema, and shown as values.

use serde_json::{Value, json};

use crate::support::{TestEnv, column};

const SCHEMA: &str = r#"{"type": "OBJECT", "properties": {"capital": {"type": "STRING"}},
    "required": ["capital"]}"#;

/// A line whose request has the schema, under a field of either name.
fn line(task: &str, field: &str, schema: &Value) -> String {
    let config = json!({"response_mime_type": "application/json", field: schema});
    json!({"prompt": format!("prompt of {task}."), "task_id": task, "generation_config": config})
        .to_string()
        + "\n"
}

/// An environment whose stand-in answers the prompts that hold a name with a text.
fn answering(texts: &[(&str, &str)]) -> TestEnv {
    let rules = texts.iter().map(|(name, text)| json!({"prompt_contains": name, "text": text}));
    TestEnv::with_stand_in(&json!({"script": rules.collect::<Value>()}))
}

#[test]
fn an_answer_that_fits_is_shown_as_a_value() {
    let env = answering(&[("of big.", "{\"n\": 123456789012345678901234567890.10}\n")]);
    let object = json!({"type": "OBJECT", "properties": {"capital": {"type": "STRING"}}});
    let number = json!({"type": "object", "properties": {"n": {"type": "number"}}});
    env.write(
        "in.jsonl",
        line("api", "response_schema", &object)
            + &line("big", "responseJsonSchema", &number)
            + &line("other", "_responseJsonSchema", &number)
            + "{\"prompt\": \"plain\", \"task_id\": \"none\"}\n",
    );
    let ran = env.gq(&["run", "in.jsonl"]).exits(0);
    let results = ran.lines();
    assert!(results[0]["parsed"]["capital"].is_string(), "{}", results[0]);
    let text = results[0]["response"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(text).unwrap(), results[0]["parsed"]);
    assert!(ran.stdout.contains(r#""parsed":{"n": 123456789012345678901234567890.10}"#));
    assert_eq!(results[2]["parsed"]["n"], 1.5);
    assert_eq!(results[3].get("parsed"), None);
    assert_eq!(env.show("api")["parsed"], results[0]["parsed"]);
    assert_eq!(env.show("none").get("parsed"), None);
    assert_eq!(column(&results, "attempts"), ["1", "1", "1", "1"]);
}

#[test]
fn an_answer_that_does_not_fit_is_tried_again_a_little_and_kept() {
    let fenced = "```json\n{\"capital\": \"Rome\"}\n```";
    let mut env = answering(&[("of fenced.", fenced), ("of wrong.", r#"{"capital": 5}"#)]);
    let object: Value = serde_json::from_str(SCHEMA).unwrap();
    let lines =
        line("fenced", "response_schema", &object) + &line("wrong", "responseSchema", &object);
    env.write("in.jsonl", &lines);
    env.gq(&["run", "in.jsonl"]).exits(3);
    let results = env.results();
    assert_eq!(column(&results, "attempts"), ["3", "3"]);
    for result in &results {
        assert_eq!(result["state"], "failed");
        assert_eq!(result["error"]["kind"], "invalid_output");
        assert_eq!(result["error"]["http_status"], 200);
        assert_eq!(result["parsed"], Value::Null);
        assert!(result["usage"]["total_tokens"].as_i64().unwrap() > 0);
    }
    assert_eq!(results[0]["response"], fenced);
    let message = |index: usize| results[index]["error"]["message"].as_str().unwrap();
    assert!(message(0).starts_with("the answer is no JSON"), "{}", message(0));
    assert_eq!(
        message(1),
        r#"the answer does not fit the response schema at `/capital`: value is not of type "string""#
    );
    let full = env.gq(&["results", "--full"]).exits(0).lines();
    assert_eq!(full[1]["raw"]["candidates"][0]["content"]["parts"][0]["text"], r#"{"capital": 5}"#);
    let text = env.gq(&["results", "--task-id", "wrong", "--format", "text"]).exits(0).stdout;
    assert_eq!(text, format!("failed: invalid_output: {}\n{{\"capital\": 5}}\n", message(1)));
    let shown = env.count(
        r#"SELECT count(*) FROM job_results WHERE response = '{"capital": 5}' AND error_kind = 'invalid_output'"#,
    );
    assert_eq!(shown, 1);

    env.stand_in(&json!({}));
    env.gq(&["retry", "--error", "invalid_output"]).exits(0);
    env.gq(&["run", "in.jsonl"]).exits(0);
    assert_eq!(column(&env.results(), "error"), ["null", "null"]);
    env.counts_are_true();
}

#[test]
fn other_failures_use_up_nothing_of_the_budget_for_unfit_answers() {
    let env = TestEnv::with_stand_in(&json!({"script": [
        {"first": 2, "reply": "overloaded"}, {"nth": 3, "text": "no"},
    ]}));
    env.write("in.jsonl", line("t", "responseJsonSchema", &json!({"type": "object"})));
    env.gq(&["run", "in.jsonl", "--max-attempts", "9"]).exits(0);
    let log = env.show("t")["attempt_log"].as_array().unwrap().clone();
    let misfit = "invalid_output";
    assert_eq!(column(&log, "outcome"), ["overloaded", "overloaded", misfit, "succeeded"]);
}

#[test]
fn a_budget_of_unfit_answers_begins_anew_with_a_retry() {
    let env = TestEnv::with_stand_in(&json!({"script": [{"first": 5, "text": "no"}]}));
    env.write("in.jsonl", line("t", "responseJsonSchema", &json!({"type": "object"})));
    env.gq(&["run", "in.jsonl"]).exits(3);
    env.gq(&["retry", "--all-failed"]).exits(0);
    env.gq(&["run", "in.jsonl"]).exits(0);
    assert_eq!(env.calls(), 6);
    assert_eq!(env.results()[0]["attempts"], 3);
}

#[test]
fn text_that_the_output_limit_cut_is_truncated() {
    let env = TestEnv::with_stand_in(&json!({}));
    let config = json!({"response_mime_type": "application/json", "max_output_tokens": 2,
        "response_schema": {"type": "OBJECT", "properties": {"capital": {"type": "STRING"}}}});
    let line = json!({"prompt": "x", "task_id": "t", "generation_config": config});
    env.write("in.jsonl", line.to_string());
    env.gq(&["run", "in.jsonl"]).exits(3);
    let result = &env.results()[0];
    assert_eq!(result["error"]["kind"], "truncated");
    assert_eq!((&result["attempts"], &result["parsed"]), (&json!(1), &Value::Null));
    assert_eq!(result["finish_reason"], "MAX_TOKENS");
}

#[test]
fn the_text_is_the_value_where_an_enum_is_asked_for() {
    let env = answering(&[("of no.", "\"green\"")]);
    let config = json!({"response_mime_type": "text/x.enum",
        "response_schema": {"type": "STRING", "format": "enum", "enum": ["red", "green"]}});
    let line = |task: &str| {
        json!({"key": task, "request": {"contents": [{"parts": [{"text": format!("of {task}.")}]}],
            "generation_config": config}})
        .to_string()
            + "\n"
    };
    env.write("in.jsonl", line("yes") + &line("no"));
    env.gq(&["run", "in.jsonl"]).exits(3);
    let results = env.results();
    assert_eq!((&results[0]["response"], &results[0]["parsed"]), (&json!("red"), &json!("red")));
    assert_eq!(results[1]["error"]["kind"], "invalid_output");
}

#[test]
fn one_schema_serves_all_lines_that_have_none() {
    for (schema, field) in [
        (SCHEMA.to_owned(), "responseSchema"),
        (SCHEMA.replace("OBJECT", "object").replace("STRING", "string"), "responseJsonSchema"),
    ] {
        let env = TestEnv::with_stand_in(&json!({"record_bodies": true}));
        env.write("schema.json", &schema);
        let own =
            line("own", "response_schema", &json!({"type": "ARRAY", "items": {"type": "NUMBER"}}));
        env.write("in.jsonl", own + "{\"prompt\": \"What is the capital of Peru?\"}\n");
        env.gq(&["run", "in.jsonl", "--schema", "schema.json"]).exits(0);
        let results = env.results();
        assert_eq!(results[0]["parsed"], json!([1.5]));
        assert_eq!(results[1]["parsed"], json!({"capital": "Lima"}));
        let sent = env.mock().requests().into_iter().find(|call| call.prompt.contains("Peru"));
        let body: Value = serde_json::from_slice(&sent.unwrap().body.unwrap()).unwrap();
        let config = &body["generationConfig"];
        assert_eq!(config["responseMimeType"], "application/json");
        assert_eq!(config[field], serde_json::from_str::<Value>(&schema).unwrap());

        env.gq(&["run", "in.jsonl", "--schema", "schema.json"]).exits(0);
        assert_eq!(env.calls(), 2, "the same call again adds nothing");
        let again = env.gq(&["enqueue", "in.jsonl"]).exits(2);
        assert!(again.stderr.contains("other content"), "{}", again.stderr);
    }
}

#[test]
fn a_schema_file_that_is_none_is_refused_by_name() {
    let env = TestEnv::with_stand_in(&json!({}));
    env.prompts("in.jsonl", &["x"]);
    env.write("cut.json", "{");
    env.write("wrong.json", r#"{"type": "OBJECT", "propertys": {}}"#);
    env.write("far.json", r#"{"$ref": "http://127.0.0.1:9/schema.json"}"#);
    env.write("bytes.json", b"\xff");
    for file in ["cut.json", "wrong.json", "far.json", "bytes.json", "missing.json"] {
        for command in ["enqueue", "run"] {
            let ran = env.gq(&[command, "in.jsonl", "--schema", file]).exits(2);
            assert!(ran.stderr.contains(file), "{}", ran.stderr);
        }
    }
    assert!(!env.path("gq.db").exists());
}

#[test]
fn a_line_whose_schema_is_none_is_refused_with_its_number() {
    let env = TestEnv::with_stand_in(&json!({}));
    let good = line("a", "response_schema", &json!({"type": "STRING"}));
    env.write("in.jsonl", good + &line("b", "responseJsonSchema", &json!({"type": "STRING"})));
    let ran = env.gq(&["run", "in.jsonl"]).exits(2);
    let wanted =
        "in.jsonl: line 2: `generation_config.response_json_schema`: not a valid schema at";
    assert!(ran.stderr.contains(wanted), "{}", ran.stderr);
}

#[test]
fn a_table_has_a_column_for_the_value_in_any_case() {
    let env = TestEnv::with_stand_in(&json!({}));
    env.write("in.jsonl", line("a", "response_schema", &json!({"type": "INTEGER"})));
    env.prompts("plain.jsonl", &["x"]);
    env.gq(&["run", "in.jsonl"]).exits(0);
    env.gq(&["run", "plain.jsonl"]).exits(0);
    let table = env.gq(&["results", "--format", "csv"]).exits(0).stdout;
    let rows: Vec<&str> = table.split("\r\n").collect();
    assert!(rows[0].ends_with(",finished_at,parsed,media"), "{table}");
    assert!(rows[1].ends_with("Z,1,") && rows[2].ends_with("Z,,"), "{table}");
}

#[test]
fn jobs_of_an_older_database_are_checked_too() {
    let env = answering(&[("of bad.", "no")]);
    let object = json!({"type": "OBJECT"});
    let config = json!({"generation_config": {"_response_json_schema": {"type": "object"}}});
    let mut request = json!({"contents": [{"parts": [{"text": "of good."}]}]});
    request["generation_config"] = config["generation_config"].clone();
    request["generation_config"]["response_mime_type"] = json!("application/json");
    let batch = json!({"key": "batch", "request": request}).to_string() + "\n";
    let plain = "{\"prompt\": \"a schema in words\", \"task_id\": \"plain\"}\n";
    env.write("in.jsonl", line("bad", "response_schema", &object) + &batch + plain);
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    for statement in [
        "DROP VIEW key_slots",
        "CREATE VIEW key_slots AS SELECT 1",
        "ALTER TABLE slots DROP COLUMN learned",
        "ALTER TABLE slots DROP COLUMN recent",
        "ALTER TABLE slots DROP COLUMN next_at",
        "ALTER TABLE slots DROP COLUMN day",
        "ALTER TABLE slots DROP COLUMN day_calls",
        "ALTER TABLE models DROP COLUMN allowed",
        "ALTER TABLE models DROP COLUMN lowered_at",
        "ALTER TABLE models DROP COLUMN overloads",
        "ALTER TABLE models DROP COLUMN rest_until",
        "ALTER TABLE models DROP COLUMN token_rate",
        "ALTER TABLE keys DROP COLUMN consumer",
        "ALTER TABLE keys DROP COLUMN twin_id",
        "ALTER TABLE workers DROP COLUMN rpm",
        "ALTER TABLE workers DROP COLUMN tpm",
        "ALTER TABLE workers DROP COLUMN rpd",
        "DROP TABLE key_settings",
        "DROP VIEW job_results",
        "CREATE VIEW job_results AS SELECT 1",
        "DROP INDEX jobs_finished",
        "DROP TABLE pieces",
        "ALTER TABLE jobs DROP COLUMN stream",
        "ALTER TABLE jobs DROP COLUMN output",
        "DROP TABLE waits",
        "DROP TABLE uploads",
        "DROP TABLE contents",
        "DROP TABLE media",
        "DROP TABLE blobs",
        "PRAGMA user_version = 1",
        "DELETE FROM _sqlx_migrations WHERE version > 20261124090000",
    ] {
        env.execute(statement);
    }
    env.gq(&["work", "--drain"]).exits(3);
    let results = env.results();
    assert_eq!(results[0]["error"]["kind"], "invalid_output");
    assert_eq!(results[1]["parsed"], json!({}));
    assert_eq!(results[2].get("parsed"), None);
}
