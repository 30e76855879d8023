use serde_json::json;

use super::*;

fn compiled(dialect: Dialect, schema: &Value) -> Result<Arc<Compiled>, String> {
    OutputSchema::new(dialect, &schema.to_string()).compile()
}

fn openapi(schema: &Value) -> Arc<Compiled> {
    compiled(Dialect::OpenApi, schema).unwrap()
}

fn json_schema(schema: &Value) -> Arc<Compiled> {
    compiled(Dialect::JsonSchema, schema).unwrap()
}

fn of_config(config: &str) -> Option<OutputSchema> {
    let request = format!(r#"{{"contents": [], "generationConfig": {config}}}"#);
    OutputSchema::of_request(&request).unwrap()
}

#[test]
fn each_field_with_a_schema_counts_in_both_spellings() {
    for (name, dialect) in FIELDS {
        let schema = of_config(&format!(r#"{{"{name}": {{"type": "STRING"}}}}"#)).unwrap();
        assert_eq!(schema, OutputSchema::new(dialect, r#"{"type": "STRING"}"#), "{name}");
    }
    let snake = r#"{"generation_config": {"response_schema": {}, "response_mime_type":
        "text/x.enum"}}"#;
    let schema = OutputSchema::of_request(snake).unwrap().unwrap();
    assert_eq!(schema.form(), OutputForm::Enum);
    for without in ["{}", "null", r#"{"responseSchema": null, "responseMimeType": "x"}"#] {
        assert_eq!(of_config(without), None, "{without}");
    }
    assert_eq!(OutputSchema::of_request(r#"{"contents": []}"#), Ok(None));
    let two = r#"{"generationConfig": {"responseSchema": {}, "_responseJsonSchema": {}}}"#;
    assert_eq!(
        OutputSchema::of_request(two).unwrap_err(),
        "`responseSchema` and `_responseJsonSchema` cannot stand together"
    );
}

#[test]
fn the_openapi_subset_says_the_same_as_json_schema() {
    let schema = openapi(&json!({"type": "OBJECT", "required": ["name", "tags"],
        "property_ordering": ["name"], "title": "t", "example": 5,
        "properties": {
            "name": {"type": "STRING", "minLength": "2", "nullable": true, "format": "x"},
            "size": {"type": "INTEGER", "format": "int32", "minimum": 0, "maximum": "10"},
            "tags": {"type": "ARRAY", "maxItems": 2, "items": {"type": "STRING",
                "format": "enum", "enum": ["a", "b"]}},
            "type": {"anyOf": [{"type": "NUMBER"}, {"type": "BOOLEAN"}], "nullable": true},
            "level": {"type": "INTEGER", "format": "enum", "enum": ["1", "2"]},
            "shade": {"type": "string", "nullable": true, "enum": ["dark"]},
            "any": {"type": "TYPE_UNSPECIFIED", "enum": []}, "six": {"type": 6}}}));
    for fits in [
        r#"{"name": "Bo", "tags": []}"#,
        r#"{"name": null, "tags": ["a", "b"], "size": 10.0, "type": 1.5, "level": 2}"#,
        r#"{"name": "Bo", "tags": [], "type": null, "shade": null, "any": [1], "six": {}}"#,
        " \n{\"name\": \"Bo\", \"tags\": [], \"more\": 1}\n",
    ] {
        assert_eq!(schema.check(fits, false), Ok(()), "{fits}");
    }
    for fails in [
        r#"{"name": "B", "tags": []}"#,
        r#"{"name": "Bo"}"#,
        r#"{"name": "Bo", "tags": ["c"]}"#,
        r#"{"name": "Bo", "tags": ["a", "a", "a"]}"#,
        r#"{"name": "Bo", "tags": null}"#,
        r#"{"name": "Bo", "tags": [], "size": 11}"#,
        r#"{"name": "Bo", "tags": [], "size": 1.5}"#,
        r#"{"name": "Bo", "tags": [], "type": "x"}"#,
        r#"{"name": "Bo", "tags": [], "level": 3}"#,
        r#"{"name": "Bo", "tags": [], "six": 6}"#,
    ] {
        assert!(schema.check(fails, false).is_err(), "{fails}");
    }
}

#[test]
fn only_json_that_fits_passes() {
    let schema = json_schema(&json!({"$defs": {"node": {"type": "object", "properties":
        {"next": {"$ref": "#/$defs/node"}, "n": {"type": "integer"}}, "additionalProperties":
        false}}, "$ref": "#/$defs/node"}));
    assert_eq!(schema.check(r#"{"next": {"next": {"n": 1}}}"#, false), Ok(()));
    assert_eq!(schema.check(r#"{"n": 123456789012345678901234567890}"#, false), Ok(()));
    assert_eq!(
        schema.check(r#"{"next": {"n": "secret"}}"#, false).unwrap_err(),
        r#"the answer does not fit the response schema at `/next/n`: value is not of type "integer""#
    );
    for no_json in ["```json\n{}\n```", "", "{} {}", r#"{"n": 1"#, "{n: 1}", r#"["\ud800"]"#] {
        let reason = schema.check(no_json, false).unwrap_err();
        assert!(reason.starts_with("the answer is no JSON: "), "{no_json}: {reason}");
    }
}

#[test]
fn numbers_of_any_size_are_compared_exactly() {
    let schema = json_schema(&json!({"const": 9_007_199_254_740_993_u64}));
    assert_eq!(schema.check("9007199254740993", false), Ok(()));
    assert!(schema.check("9007199254740992", false).is_err());
    assert!(schema.check("1e400", false).is_err());
    let limited = OutputSchema::new(Dialect::JsonSchema, r#"{"maximum": 1e308}"#);
    assert!(limited.compile().unwrap().check("1e400", false).is_err());
}

#[test]
fn the_text_itself_is_the_value_of_an_enum() {
    let config = r#"{"responseMimeType": "text/x.enum",
        "responseSchema": {"type": "STRING", "enum": ["red", "reddish"]}}"#;
    let schema = of_config(config).unwrap().compile().unwrap();
    assert_eq!(schema.check("red\n", false), Ok(()));
    assert!(schema.check("\"red\"", false).is_err());
    assert!(schema.check("blue", false).is_err());
    assert!(schema.check("red", true).is_err(), "it may be the beginning of `reddish`");
    assert_eq!(parsed(OutputForm::Enum, "red\n").as_deref(), Some("\"red\""));
}

#[test]
fn a_cut_text_fits_only_where_it_says_where_it_ends() {
    let schema = json_schema(&json!(true));
    for (text, fits) in [("{}", true), ("[1]", true), ("\"a\"", true), ("12", false), ("[1", false)]
    {
        assert_eq!(schema.check(text, true).is_ok(), fits, "{text}");
    }
}

#[test]
fn formats_are_not_checked() {
    for draft in
        ["https://json-schema.org/draft/2020-12/schema", "http://json-schema.org/draft-07/schema#"]
    {
        let schema = json_schema(&json!({"$schema": draft, "format": "date", "type": "string"}));
        assert_eq!(schema.check("\"soon\"", false), Ok(()), "{draft}");
    }
}

#[test]
fn what_is_no_schema_is_refused_with_its_place() {
    use Dialect::{JsonSchema, OpenApi};
    for (dialect, schema, part) in [
        (JsonSchema, json!("x"), "a schema is an object"),
        (JsonSchema, json!({"type": "STRING"}), "not a valid schema at `/type`"),
        (JsonSchema, json!({"properties": {"a": {"minLength": -1}}}), "`/properties/a/minLength`"),
        (JsonSchema, json!({"pattern": "("}), "not a valid schema"),
        (JsonSchema, json!({"$ref": "#/$defs/none"}), "not a valid schema"),
        (OpenApi, json!({"properties": {"a": {"type": "TEXT"}}}), "`a`: `type` must be one of"),
        (OpenApi, json!({"type": "STRING", "pattern": "("}), "not a valid schema"),
        (OpenApi, json!({"type": 8}), "`type` must be one of"),
    ] {
        let reason = compiled(dialect, &schema).unwrap_err();
        assert!(reason.contains(part), "{schema}: {reason}");
    }
}

#[test]
fn nothing_outside_of_a_schema_is_fetched_or_opened() {
    for reference in [
        "http://127.0.0.1:9/a.json",
        "https://example.com/x#/a",
        "file:///etc/passwd",
        "other.json",
        "urn:x:y",
    ] {
        for schema in [
            json!({"$ref": reference}),
            json!({"$schema": reference}),
            json!({"properties": {"a": {"items": {"$dynamicRef": reference}}}}),
        ] {
            let reason = compiled(Dialect::JsonSchema, &schema).unwrap_err();
            let refused =
                ["outside of the schema", "Unknown meta-schema", "not present in a registry"];
            assert!(refused.iter().any(|part| reason.contains(part)), "{schema}: {reason}");
        }
    }
}

#[test]
fn a_schema_that_goes_round_in_circles_harms_nothing() {
    for schema in [
        json!({"$ref": "#"}),
        json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"},
            "b": {"$ref": "#/$defs/a"}}}),
        json!({"allOf": [{"$ref": "#"}]}),
    ] {
        if let Ok(compiled) = compiled(Dialect::JsonSchema, &schema) {
            let _ = compiled.check("{}", false);
        }
    }
}

#[test]
fn the_same_schema_is_compiled_once() {
    let schema = json!({"type": "STRING", "minLength": 4321});
    assert!(Arc::ptr_eq(&openapi(&schema), &openapi(&schema)));
}

#[test]
fn the_parsed_value_is_the_text_of_the_answer() {
    let json = |text| parsed(OutputForm::Json, text);
    assert_eq!(
        json(" {\"b\": 1.50, \"a\": 1e400}\n").as_deref(),
        Some(r#"{"b": 1.50, "a": 1e400}"#)
    );
    assert_eq!(json("null").as_deref(), Some("null"));
    assert_eq!(json("no"), None);
}

#[test]
fn upper_case_types_tell_the_subset() {
    for (schema, wanted) in [
        (json!({"type": "OBJECT"}), true),
        (json!({"properties": {"type": {"items": {"type": "STRING"}}}}), true),
        (json!({"type": "object", "properties": {"type": {"enum": ["STRING"]}}}), false),
        (json!({"anyOf": [{"type": "NULL"}]}), true),
        (json!(true), false),
    ] {
        assert_eq!(is_openapi(&schema), wanted, "{schema}");
    }
}
