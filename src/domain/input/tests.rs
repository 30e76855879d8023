use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::domain::media_type;
use crate::domain::parts::Kind;

fn defaults() -> Defaults {
    Defaults { model: "m".to_owned(), ..Defaults::default() }
}

/// Finds every file but `none`, with a type that its name tells.
fn look(kind: Kind, path: &str) -> Result<FoundFile, String> {
    if path == "none" {
        return Err("there is no file `none`".to_owned());
    }
    let mime_type = media_type::of_name(kind, path);
    Ok(FoundFile { path: format!("/media/{path}"), size: 3, modified: 5, mime_type })
}

fn job(text: &str) -> NewJob {
    parse_line(text, 7, &defaults(), &look, Pass::Whole).unwrap().unwrap()
}

fn refusal(text: &str) -> String {
    parse_line(text, 7, &defaults(), &look, Pass::Whole).unwrap_err()
}

fn assert_refusals(cases: &[(&str, &str)]) {
    for (line, reason) in cases {
        assert_eq!(refusal(line), *reason, "{line}");
    }
}

#[test]
fn a_prompt_line_becomes_a_request() {
    let job = job(r#"{"prompt": "Hi \"you\"", "metadata": {"task_id": "t1", "n": 1.50}}"#);
    assert_eq!(job.request, r#"{"contents":[{"role":"user","parts":[{"text":"Hi \"you\""}]}]}"#);
    assert_eq!(job.metadata.as_deref(), Some(r#"{"task_id": "t1", "n": 1.50}"#));
    assert_eq!((job.task_id.as_str(), job.line, job.model.as_str()), ("t1", 7, "m"));
    assert_eq!((job.priority, job.max_attempts, job.not_before), (0, 5, None));
}

#[test]
fn request_fields_go_out_with_the_apis_names_in_the_users_order() {
    let job = job(r#"{"prompt": "x", "system_instruction": "Be brief", "generationConfig":
        {"max_output_tokens": 5, "response_schema": {"type": "OBJECT", "properties":
        {"z_last": {"type": "STRING", "min_length": "1"}, "a_first": {"type": "NUMBER"}}}},
        "tools": [{"google_search": {}}], "service_tier": "flex", "labels": {"my_label": "v"}}"#);
    assert_eq!(
        job.request,
        r#"{"contents":[{"role":"user","parts":[{"text":"x"}]}],"#.to_owned()
            + r#""systemInstruction":{"parts":[{"text":"Be brief"}]},"#
            + r#""generationConfig":{"maxOutputTokens":5,"responseSchema":{"type":"OBJECT","#
            + r#""properties":{"z_last":{"type":"STRING","minLength":"1"},"#
            + r#""a_first":{"type":"NUMBER"}}}},"#
            + r#""tools":[{"googleSearch":{}}],"serviceTier":"flex","labels":{"my_label":"v"}}"#
    );
    let content =
        super::tests::job(r#"{"prompt": "x", "systemInstruction": {"parts": [{"text": "a"}]}}"#);
    assert!(content.request.contains(r#""systemInstruction":{"parts":[{"text":"a"}]}"#));
}

#[test]
fn a_batch_line_goes_out_byte_for_byte() {
    let request = r#"{"model": "models/g-1",  "contents": [{"parts":[{"text":"a"}]}],
        "generation_config": {"temperature": 1.000000000000000000001}}"#;
    let job = job(&format!(r#"{{"key": "k1", "request": {request}, "priority": 3}}"#));
    assert_eq!(job.request, request);
    assert_eq!((job.task_id.as_str(), job.model.as_str(), job.priority), ("k1", "g-1", 3));
}

#[test]
fn task_ids_come_from_the_line_or_from_its_number() {
    let cases = [
        (r#"{"prompt": "x"}"#, "7"),
        (r#"{"prompt": "x", "task_id": 1.0}"#, "1.0"),
        (r#"{"prompt": "x", "task_id": "a", "metadata": {"task_id": "a"}}"#, "a"),
        (r#"{"prompt": "x", "task_id": null, "metadata": {"task_id": 12}}"#, "12"),
        (r#"{"prompt": "x", "metadata": {"task_id": null}}"#, "7"),
        (r#"{"prompt": "x", "task_id": "\u00e9"}"#, "é"),
    ];
    for (line, id) in cases {
        assert_eq!(job(line).task_id, id, "{line}");
    }
}

#[test]
fn settings_are_the_lines_own_or_the_defaults() {
    let job = job(r#"{"prompt": "x", "model": "models/g", "priority": -2, "max_attempts": 9,
        "not_before": "2026-11-24T08:00:00Z", "stream": true, "audio_path": null}"#);
    assert_eq!((job.model.as_str(), job.priority, job.max_attempts), ("g", -2, 9));
    assert!(job.stream);
    assert_eq!(job.not_before, Timestamp::parse("2026-11-24T08:00:00Z"));
}

#[test]
fn blank_lines_are_no_jobs() {
    for text in ["", "  \t\r"] {
        assert_eq!(parse_line(text, 1, &defaults(), &look, Pass::Whole), Ok(None));
    }
}

#[test]
fn an_escaped_token_is_literal_text() {
    let cases = [
        (r#"{"prompt": "a \\<audio> b"}"#, r#""text":"a <audio> b""#),
        (r#"{"prompt": "\\<file>\\<image>"}"#, r#""text":"<file><image>""#),
        (r#"{"prompt": "1 < 2 <b> <audio "}"#, r#""text":"1 < 2 <b> <audio ""#),
    ];
    for (line, part) in cases {
        let request = job(line).request;
        assert!(request.contains(part), "{request}");
    }
}

#[test]
fn what_is_wrong_with_a_line_is_told() {
    let cases = [
        (r#"{"prmpt": "x"}"#, "unknown field `prmpt`; did you mean `prompt`?"),
        (r#"{"prompt": "x", "qqqqqqq": 1}"#, "unknown field `qqqqqqq`"),
        (r#"{"prompt": "x", "prompt": "y"}"#, "`prompt` is given twice"),
        (r#"{"prompt": "x", "toolConfig": {}, "tool_config": {}}"#, "`tool_config` is given twice"),
        (r#"{"prompt": ""}"#, "nothing to send: `prompt` is empty"),
        (r#"{"prompt": " \n"}"#, "nothing to send: `prompt` is empty"),
        ("{}", "nothing to send: `prompt` is empty"),
        (r#"{"prompt": 5}"#, "`prompt` must be text"),
        ("[1]", "the line is not a JSON object"),
        (r#"{"prompt": "x"} {}"#, "not valid JSON: trailing characters at column 17"),
        (r#"{"prompt": "x" "y"}"#, "not valid JSON: expected `,` or `}` at column 16"),
        (r#"{"prompt": "<audio>"}"#, "the prompt has an `<audio>` token but there is no audio"),
        (r#"{"prompt": "\u003cfile>"}"#, "the prompt has a `<file>` token but there is no file"),
        (r#"{"audio_path": "none"}"#, "`audio_path`: there is no file `none`"),
        (r#"{"audio_path": ["a.mp3", 5]}"#, "`audio_path` must be text or a list of texts"),
        (r#"{"audio_paths": "a.mp3"}"#, "unknown field `audio_paths`; did you mean `audio_path`?"),
        (
            r#"{"image_bytes": "a=b"}"#,
            "`image_bytes`: item 1: not valid base64: Invalid symbol 61, offset 1.",
        ),
        (r#"{"image_bytes": [""]}"#, "`image_bytes`: item 1: there is nothing in it"),
        (
            r#"{"file_path": "x.bin"}"#,
            "the type of file 1 cannot be told; say it in `file_mime_type`",
        ),
        (
            r#"{"audio_path": "a.mp3", "audio_mime_type": "mp3"}"#,
            "`audio_mime_type`: `mp3` is no type such as `audio/mp3`",
        ),
        (
            r#"{"audio_path": "a.mp3", "audio_mime_type": ["audio/mp3", "audio/mp3"]}"#,
            "`audio_mime_type` has 2 entries but audio items: 1",
        ),
        (
            r#"{"video_url": "http://x.org/a.mp4"}"#,
            "`video_url`: `http://x.org/a.mp4` is no https address",
        ),
        (
            r#"{"video_path": "a.mp4", "video_metadata": {"fps": 1}}"#,
            "`video_metadata` must be a list of objects",
        ),
        (
            r#"{"video_path": "a.mp4", "video_metadata": [{"fpz": 1}]}"#,
            "unknown field `video_metadata[0].fpz`; did you mean `fps`?",
        ),
        (
            r#"{"video_path": "a.mp4", "video_metadata": [{"start_offset": 5}]}"#,
            "`video_metadata[0].start_offset` must be a duration such as \"1.5s\", not `5`",
        ),
        (
            r#"{"prompt": "<audio> <audio>", "audio_path": "a.mp3"}"#,
            "the prompt has 2 `<audio>` tokens but audio items: 1",
        ),
        (r#"{"prompt": "x", "stream": 1}"#, "`stream` must be true or false"),
        (r#"{"prompt": "x", "metadata": []}"#, "`metadata` must be an object"),
        (r#"{"prompt": "x", "task_id": ""}"#, "`task_id` is empty"),
        (r#"{"prompt": "x", "task_id": "a\u0000"}"#, "`task_id` holds a NUL character"),
        (r#"{"prompt": "x", "task_id": true}"#, "`task_id` must be text or a number"),
        (
            r#"{"prompt": "x", "task_id": "a", "metadata": {"task_id": "b"}}"#,
            "`task_id` is `a`, but `metadata.task_id` is `b`",
        ),
        (r#"{"prompt": "x", "model": "a b"}"#, "`model`: `a b` is no name of a model"),
        (r#"{"prompt": "x", "model": "models/"}"#, "`model`: `models/` is no name of a model"),
        (r#"{"prompt": "x", "model": "../x"}"#, "`model`: `../x` is no name of a model"),
        (
            r#"{"prompt": "x", "priority": 1.5}"#,
            "`priority` must be an integer from -1000000000 to 1000000000",
        ),
        (
            r#"{"prompt": "x", "max_attempts": 0}"#,
            "`max_attempts` must be an integer from 1 to 1000",
        ),
        (
            r#"{"prompt": "x", "not_before": "soon"}"#,
            "`not_before` must be an RFC 3339 time, such as `2026-11-24T08:00:00Z`",
        ),
    ];
    assert_refusals(&cases);
}

#[test]
fn what_is_wrong_with_a_request_is_told() {
    let cases = [
        (
            r#"{"prompt": "x", "generation_config": {"temprature": 1}}"#,
            "unknown field `generation_config.temprature`; did you mean `temperature`?",
        ),
        (
            r#"{"prompt": "x", "generation_config": {"top_k": 1, "topK": 2}}"#,
            "`generationConfig.topK` is given twice",
        ),
        (
            r#"{"prompt": "x", "generation_config": {"top_k": "x"}}"#,
            "`generation_config.top_k` must be a 32-bit integer, not `\"x\"`",
        ),
        (r#"{"prompt": "x", "tools": {}}"#, "`tools` must be a list of objects, not an object"),
        (r#"{"key": "a"}"#, "`key` belongs to a line with a `request`; use `task_id`"),
        (r#"{"request": {"contents": []}}"#, "nothing to send: `request.contents` is empty"),
        (r#"{"request": []}"#, "`request` must be an object"),
        (
            r#"{"request": {"content": [{}]}}"#,
            "unknown field `request.content`; did you mean `contents`?",
        ),
        (r#"{"request": {}, "prompt": "x"}"#, "`prompt` cannot stand beside `request`"),
        (
            r#"{"request": {"contents": [{}], "model": "a"}, "model": "b"}"#,
            "`model` is `b`, but `request.model` is `a`",
        ),
    ];
    assert_refusals(&cases);
}

#[test]
fn halves_of_surrogate_pairs_are_refused_wherever_they_stand() {
    for line in [
        r#"{"prompt": "\ud800"}"#,
        r#"{"prompt": "x", "metadata": {"a": "\ud800"}}"#,
        r#"{"request": {"contents": [{"parts": [{"text": "\ud800"}]}]}}"#,
    ] {
        let reason = refusal(line);
        assert!(reason.contains("hex escape"), "{reason}");
    }
}

#[test]
fn nesting_has_a_limit() {
    let deep = "[".repeat(500) + &"]".repeat(500);
    let reason = refusal(&format!(r#"{{"prompt": "x", "metadata": {{"a": {deep}}}}}"#));
    assert_eq!(reason, "`metadata`: nested deeper than 128 levels");
    let reason = refusal(&format!(r#"{{"request": {{"contents": {deep}}}}}"#));
    assert_eq!(reason, "`request`: recursion limit exceeded");
}

#[test]
fn the_digest_covers_content_and_settings_but_not_the_place() {
    let base = job(r#"{"prompt": "x", "metadata": {"a": 1, "b": [2]}}"#);
    let same = [
        r#"{"metadata":{"b":[2.0],"a":1e0},"prompt":"\u0078","priority":0}"#,
        r#"{"metadata":{"b":[2],"a":1},"request":{"contents":[{"parts":[{"text":"x"}],"role":"user"}]}}"#,
        r#"{"task_id": "other", "metadata":{"b":[2],"a":1},"prompt":"x","model":"models/m"}"#,
    ];
    for line in same {
        assert_eq!(job(line).digest, base.digest, "{line}");
    }
    let other = [
        r#"{"prompt": "y", "metadata": {"a": 1, "b": [2]}}"#,
        r#"{"prompt": "x", "metadata": {"a": "1", "b": [2]}}"#,
        r#"{"prompt": "x"}"#,
        r#"{"prompt": "x", "metadata": {"a": 1, "b": [2]}, "model": "n"}"#,
        r#"{"prompt": "x", "metadata": {"a": 1, "b": [2]}, "priority": 1}"#,
        r#"{"prompt": "x", "metadata": {"a": 1, "b": [2]}, "max_attempts": 6}"#,
        r#"{"prompt": "x", "metadata": {"a": 1, "b": [2]}, "not_before": "2026-11-24T08:00:00Z"}"#,
    ];
    for line in other {
        assert_ne!(job(line).digest, base.digest, "{line}");
    }
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-c\"\\\\\u{e9}]{0,3}", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Writes a value with spaces, and with the members of its objects the other way round.
fn respelled(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let members: Vec<String> = members
                .iter()
                .rev()
                .map(|(name, value)| format!("{} :\t{}", json!(name), respelled(value)))
                .collect();
            format!("{{ {} }}", members.join(" , "))
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(respelled).collect();
            format!("[ {} ]", items.join(" ,"))
        }
        Value::Number(number) => format!("{number}.00e0"),
        Value::Null | Value::Bool(_) | Value::String(_) => value.to_string(),
    }
}

fn digest_of(metadata: &str) -> [u8; 16] {
    job(&format!(r#"{{"prompt": "x", "metadata": {{"value": {metadata}}}}}"#)).digest
}

proptest! {
    #[test]
    fn spelling_does_not_change_the_digest(value in values()) {
        prop_assert_eq!(digest_of(&value.to_string()), digest_of(&respelled(&value)));
    }

    #[test]
    fn another_value_changes_the_digest(one in values(), other in values()) {
        let digests = (digest_of(&one.to_string()), digest_of(&other.to_string()));
        prop_assert_eq!(one == other, digests.0 == digests.1);
    }

    #[test]
    fn any_text_is_a_job_or_a_reason(text in "\\PC{0,40}|[{}\\[\\]\",:a-e0-9\\\\ ]{0,40}") {
        let _ = parse_line(&text, 1, &defaults(), &look, Pass::Whole);
    }
}

/// Returns the request of a line with each place of media filled by its number.
fn filled(job: &NewJob) -> Value {
    let mut text = job.request.clone();
    for (index, media) in job.media.iter().enumerate().rev() {
        let comma = if text[media.at..].starts_with('}') { "" } else { "," };
        text.insert_str(media.at, &format!("\"media\":{index}{comma}"));
    }
    let request: Value = serde_json::from_str(&text).unwrap();
    request["contents"][0]["parts"].clone()
}

#[test]
fn media_stand_where_their_tokens_stood() {
    let job = job(r#"{"prompt": "One <video> two <audio>", "audio_path": "a.mp3",
        "audio_url": "https://x.org/b.wav?c", "video_bytes": "AAAA", "video_mime_type": "video/mp4",
        "video_metadata": [{"start_offset": "1s", "endOffset": "2s", "fps": 0.5}],
        "image_path": ["c.png"]}"#);
    assert_eq!(
        filled(&job),
        json!([
            {"text": "One "},
            {"media": 0,
             "videoMetadata": {"startOffset": "1s", "endOffset": "2s", "fps": 0.5}},
            {"text": " two "},
            {"media": 1},
            {"media": 2},
            {"fileData": {"mimeType": "audio/wav", "fileUri": "https://x.org/b.wav?c"}},
        ])
    );
    let sources: Vec<(&str, &MediaSource)> =
        job.media.iter().map(|media| (media.mime_type.as_str(), &media.source)).collect();
    let file = |path: &str| MediaSource::File { path: path.to_owned(), size: 3, modified: 5 };
    assert_eq!(
        sources,
        [
            ("video/mp4", &MediaSource::Bytes(vec![0; 3])),
            ("audio/mp3", &file("/media/a.mp3")),
            ("image/png", &file("/media/c.png")),
        ]
    );
}

#[test]
fn media_alone_are_something_to_send() {
    for line in [r#"{"file_path": "a.pdf"}"#, r#"{"prompt": " ", "file_path": "a.pdf"}"#] {
        assert_eq!(filled(&job(line)), json!([{"media": 0}]), "{line}");
    }
    let address = r#"{"video_url": "https://www.youtube.com/watch?v=x"}"#;
    let wanted = json!([{"fileData": {"fileUri": "https://www.youtube.com/watch?v=x"}}]);
    assert_eq!(filled(&job(address)), wanted);
}

#[test]
fn base64_is_read_with_and_without_padding_in_either_alphabet() {
    for text in ["-_8=", "-_8", "+/8=", "+/8"] {
        let line = json!({"file_bytes": text, "file_mime_type": "a/b"}).to_string();
        assert_eq!(job(&line).media[0].source, MediaSource::Bytes(vec![0xfb, 0xff]), "{text}");
    }
}

#[test]
fn other_media_are_other_content() {
    let lines = [
        r#"{"prompt": "x", "task_id": 1}"#,
        r#"{"prompt": "x", "task_id": 1, "audio_path": "a.mp3"}"#,
        r#"{"prompt": "x", "task_id": 1, "audio_path": "b.mp3"}"#,
        r#"{"prompt": "x", "task_id": 1, "audio_path": "a.mp3", "audio_mime_type": "audio/wav"}"#,
        r#"{"prompt": "x", "task_id": 1, "audio_path": "a.mp3", "audio_metadata": [{"fps": 1}]}"#,
        r#"{"prompt": "x", "task_id": 1, "file_path": "a.mp3"}"#,
        r#"{"prompt": "x", "task_id": 1, "audio_bytes": "AAAA", "audio_mime_type": "audio/mp3"}"#,
        r#"{"prompt": "x", "task_id": 1, "audio_bytes": "AAAB", "audio_mime_type": "audio/mp3"}"#,
    ];
    let digests: std::collections::HashSet<_> = lines.iter().map(|line| job(line).digest).collect();
    assert_eq!(digests.len(), lines.len());
}

fn with_schema(schema: &str, line: &str) -> Result<NewJob, String> {
    let schema = Some(DefaultSchema::parse(schema)?);
    Ok(parse_line(line, 7, &Defaults { schema, ..defaults() }, &look, Pass::Whole)?.unwrap())
}

#[test]
fn a_request_with_a_schema_says_in_which_form_the_answer_comes() {
    let output = |config: &str| {
        let prompt = format!(r#"{{"prompt": "x", "generation_config": {config}}}"#);
        let batch = format!(
            r#"{{"key": "k", "request": {{"contents": [{{"parts": [{{"text": "a"}}]}}],
                "generation_config": {config}}}}}"#
        );
        assert_eq!(job(&prompt).output, job(&batch).output, "{config}");
        job(&prompt).output
    };
    let json =
        r#"{"response_schema": {"type": "OBJECT"}, "response_mime_type":"application/json"}"#;
    assert_eq!(output(json), Some(OutputForm::Json));
    let word = r#"{"responseMimeType": "text/x.enum", "responseJsonSchema": {"enum": ["a"]}}"#;
    assert_eq!(output(word), Some(OutputForm::Enum));
    assert_eq!(output(r#"{"responseMimeType": "application/json"}"#), None);
    assert_eq!(output(r#"{"response_schema": null}"#), None);
}

#[test]
fn a_schema_that_is_none_is_refused() {
    for (config, part) in [
        (r#"{"response_schema": {"type": "TEXT"}}"#, "`generation_config.response_schema`: `type`"),
        (r#"{"response_json_schema": {"type": 5}}"#, "`generation_config.response_json_schema`:"),
        (r#"{"responseSchema": {}, "responseJsonSchema": {}}"#, "cannot stand together"),
        (r#"{"responseJsonSchema": {"$ref": "http://x.example/s"}}"#, "outside of the schema"),
    ] {
        let reason = refusal(&format!(r#"{{"prompt": "x", "generation_config": {config}}}"#));
        assert!(reason.contains(part), "{reason}");
        let line = format!(
            r#"{{"request": {{"contents": [{{"parts": []}}], "generationConfig": {config}}}}}"#
        );
        assert!(refusal(&line).contains(part), "{line}");
    }
}

#[test]
fn a_default_schema_goes_into_lines_that_have_none() {
    let start = r#"{"contents":[{"role":"user","parts":[{"text":"x"}]}],"generationConfig":{"#;
    let openapi = "{\"type\": \"OBJECT\", \"properties\": {\"my_b\": {\"type\": \"STRING\"},\n\
                   \"a\": {\"type\": \"STRING\", \"min_length\": 1}}}";
    let job = with_schema(openapi, r#"{"prompt": "x"}"#).unwrap();
    let named = r#"{"type":"OBJECT","properties":{"my_b":{"type":"STRING"},"a":{"type":"STRING","minLength":1}}}"#;
    let wanted =
        format!(r#"{start}"responseMimeType":"application/json","responseSchema":{named}}}}}"#);
    assert_eq!((job.request, job.output), (wanted, Some(OutputForm::Json)));

    let schema = r#"{"enum": ["b", "a"]}"#;
    let line = r#"{"prompt": "x", "generation_config": {"response_mime_type": "text/x.enum", "seed": 1, "response_schema": null}}"#;
    let job = with_schema(schema, line).unwrap();
    let wanted = format!(
        r#"{start}"responseMimeType":"text/x.enum","seed":1,"responseJsonSchema":{schema}}}}}"#
    );
    assert_eq!((job.request, job.output), (wanted, Some(OutputForm::Enum)));

    let line =
        r#"{"key": "k", "request": {"contents": [{"parts": [ ]}], "generation_config": null}}"#;
    let wanted = format!(
        r#"{{"contents":[{{"parts": [ ]}}],"generationConfig":{{"responseMimeType":"application/json","responseJsonSchema":{schema}}}}}"#
    );
    assert_eq!(with_schema(schema, line).unwrap().request, wanted);

    let own = r#"{"prompt": "x", "generation_config": {"response_schema": {"type": "STRING"}}}"#;
    assert_eq!(with_schema(schema, own).unwrap(), super::tests::job(own));
}

#[test]
fn a_default_schema_must_be_one() {
    for (schema, part) in [
        ("{", "not valid JSON: EOF"),
        ("[]", "a schema is a JSON object"),
        (r#"{"type": "OBJECT", "propertys": {}}"#, "unknown field `propertys`"),
        (r#"{"type": "text"}"#, "not a valid schema at `/type`"),
    ] {
        let reason = DefaultSchema::parse(schema).unwrap_err();
        assert!(reason.contains(part), "{reason}");
    }
    assert!(DefaultSchema::parse("\u{feff} {\"type\": \"object\"}\n").is_ok());
}
