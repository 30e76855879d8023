//! The stand-in over real HTTP.

mod files;
mod streams;
mod uploads;

use std::time::Duration;

use reqwest::{Client, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;

const PATH: &str = "/v1beta/models/gemini-2.5-flash:generateContent";

async fn start(config: &Value) -> MockServer {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    MockServer::start(listener, Config::from_json(&config.to_string()).unwrap()).unwrap()
}

fn client() -> Client {
    rustls::crypto::ring::default_provider().install_default().ok();
    let redirects = reqwest::redirect::Policy::none();
    Client::builder().no_proxy().redirect(redirects).build().unwrap()
}

fn prompt(text: &str) -> String {
    json!({"contents": [{"role": "user", "parts": [{"text": text}]}]}).to_string()
}

async fn post(
    server: &MockServer,
    key: &str,
    path: &str,
    body: String,
) -> reqwest::Result<Response> {
    let request = client().post(server.url() + path).header("x-goog-api-key", key);
    request.header("content-type", "application/json").body(body).send().await
}

async fn ask(server: &MockServer, key: &str, text: &str) -> (u16, Value) {
    let response = post(server, key, PATH, prompt(text)).await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default())
}

async fn get(server: &MockServer, path: &str) -> (u16, Value) {
    let request = client().get(server.url() + path).header("x-goog-api-key", "k1");
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default())
}

/// Returns whether an error comes from a TCP reset.
fn is_reset(error: &reqwest::Error) -> bool {
    let first = std::error::Error::source(error);
    std::iter::successors(first, |error| error.source())
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::ConnectionReset)
}

fn message(body: &Value) -> &str {
    body["error"]["message"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_prompt_is_answered_as_by_the_real_one() {
    let server = start(&json!({})).await;
    let response =
        post(&server, "k1", PATH, prompt("What is the capital of Italy?")).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/json; charset=UTF-8");
    let text = String::from_utf8(response.bytes().await.unwrap().to_vec()).unwrap();
    assert!(text.starts_with("{\n  \"candidates\": [\n    {\n      \"content\": {"), "{text}");
    assert!(text.contains("The capital of Italy is Rome."), "{text}");
    let seen = server.requests();
    assert_eq!(&*seen[0].prompt, "What is the capital of Italy?");
    assert_eq!((&*seen[0].key, &*seen[0].model, seen[0].status), ("k1", "gemini-2.5-flash", 200));
    assert_eq!(server.key_stats()["k1"].answered, 1);
    server.stop().await;
}

#[tokio::test]
async fn the_parts_of_a_request_are_kept_in_order() {
    let server = start(&json!({})).await;
    let request = json!({"contents": [{"parts": [
        {"inlineData": {"mimeType": "image/png", "data": "aGk="}}, {"text": "What is it?"}]}]});
    post(&server, "k1", PATH, request.to_string()).await.unwrap();
    let wrapped = json!({"generateContentRequest": request});
    let path = PATH.replace("generateContent", "countTokens");
    post(&server, "k1", &path, wrapped.to_string()).await.unwrap();
    post(&server, "k1", PATH, "{".to_owned()).await.unwrap();
    let seen = server.requests();
    let parts = &seen[0].parts;
    assert_eq!(parts.iter().map(|part| part.kind).collect::<Vec<_>>(), ["inlineData", "text"]);
    assert_eq!((parts[0].mime_type.as_deref(), parts[0].bytes), (Some("image/png"), Some(2)));
    assert_eq!(parts[1].text.as_deref(), Some("What is it?"));
    assert_eq!(seen[1].parts, seen[0].parts);
    assert_eq!(seen[2].parts.len(), 0);
}

#[tokio::test]
async fn the_checks_come_in_the_real_order() {
    let server = start(&json!({"strict_keys": true, "keys": {"k1": {}}})).await;
    let at = async |key: &str, path: &str, body: &str| {
        let response = post(&server, key, path, body.to_owned()).await.unwrap();
        let status = response.status().as_u16();
        let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        (status, message(&body).to_owned())
    };
    let gone = "/v1beta/models/gemini-1.0-pro:generateContent";
    assert_eq!(at("bad", gone, r#"{"foo": 1}"#).await.0, 400);
    assert!(at("bad", gone, r#"{"foo": 1}"#).await.1.contains("Unknown name \"foo\""));
    assert!(at("bad", gone, "{}").await.1.starts_with("API key not valid"));
    assert_eq!(at("", gone, "{}").await.0, 403);
    assert_eq!(at("k1", gone, "{}").await.0, 404);
    assert!(at("k1", PATH, "{}").await.1.contains("contents is not specified"));
    assert_eq!(at("k1", PATH, &prompt("hi")).await.0, 200);
}

#[tokio::test]
async fn a_quota_is_kept_for_each_key_and_model() {
    let server = start(&json!({"quota": {"rpm": 1}})).await;
    assert_eq!(ask(&server, "k1", "a").await.0, 200);
    let (status, body) = ask(&server, "k1", "b").await;
    assert_eq!(status, 429);
    let details = &body["error"]["details"];
    assert_eq!(
        details[1]["violations"][0]["quotaId"],
        "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
    );
    assert!(details[2]["retryDelay"].as_str().unwrap().ends_with('s'));
    assert_eq!(ask(&server, "k2", "b").await.0, 200);
    let other = "/v1beta/models/gemini-2.5-pro:generateContent";
    assert_eq!(post(&server, "k1", other, prompt("b")).await.unwrap().status(), 200);
    let counts = server.stats();
    assert_eq!(counts.by_status[&429], 1);
    assert_eq!(counts.by_key[&fingerprint("k1")].rate_limited, 1);
}

#[tokio::test]
async fn a_connection_breaks_where_the_script_says() {
    let faults = ["reset_before", "reset_after_headers", "cut_body"];
    let rules: Vec<Value> =
        faults.iter().map(|fault| json!({"prompt_contains": fault, "fault": fault})).collect();
    let server = start(&json!({"script": rules})).await;
    let error = post(&server, "k1", PATH, prompt("reset_before")).await;
    assert!(is_reset(&error.unwrap_err()));
    for (fault, reset) in [("reset_after_headers", true), ("cut_body", false)] {
        let response = post(&server, "k1", PATH, prompt(fault)).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(is_reset(&response.bytes().await.unwrap_err()), reset, "{fault}");
    }
    assert_eq!(ask(&server, "k1", "fine").await.0, 200);
    let stats = server.stats();
    assert_eq!((stats.requests, stats.answered, stats.unanswered), (4, 1, 1));
}

#[tokio::test]
async fn a_stalled_answer_ends_when_the_server_stops() {
    let server = start(&json!({"script": [
        {"prompt_contains": "half", "fault": "stall"}, {"fault": "stall_before"}]}))
    .await;
    let half = post(&server, "k1", PATH, prompt("half")).await.unwrap();
    assert_eq!(half.status(), 200);
    let nothing = tokio::spawn(async move { server_and_answer(server).await });
    assert!(half.bytes().await.is_err());
    nothing.await.unwrap();
}

async fn server_and_answer(server: MockServer) {
    let sending = tokio::spawn({
        let request = client().post(server.url() + PATH).header("x-goog-api-key", "k1");
        request.body(prompt("none")).send()
    });
    server.wait_until(|stats| stats.requests == 2).await;
    server.stop().await;
    assert!(sending.await.unwrap().is_err());
}

#[tokio::test]
async fn held_calls_pass_when_they_are_released() {
    let server = start(&json!({"script": [{"hold": true}]})).await;
    let sending: Vec<_> = ["a", "b", "c"]
        .map(|text| {
            let request = client().post(server.url() + PATH).header("x-goog-api-key", "k1");
            tokio::spawn(request.body(prompt(text)).send())
        })
        .into();
    assert_eq!(get(&server, "/__wait?held=3").await.1["held"], 3);
    let release = client().post(server.url() + "/__release?n=2").send().await.unwrap();
    assert_eq!(release.status(), 200);
    server.wait_until(|stats| stats.answered == 2 && stats.held == 1).await;
    assert_eq!(server.stats().peak_in_flight, 3);
    server.release(None);
    for sent in sending {
        assert_eq!(sent.await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(ask(&server, "k1", "d").await.0, 200);
}

#[tokio::test]
async fn a_client_that_gives_up_is_counted() {
    let server = start(&json!({"script": [{"hold": true}]})).await;
    let request = client().post(server.url() + PATH).header("x-goog-api-key", "k1");
    let sending = tokio::spawn(request.body(prompt("a")).send());
    server.wait_until(|stats| stats.held == 1).await;
    sending.abort();
    server.wait_until(|stats| stats.unanswered == 1 && stats.in_flight == 0).await;
}

#[tokio::test]
async fn rules_set_status_text_body_and_headers() {
    let server = start(&json!({"script": [
        {"prompt_contains": "status", "status": 503, "headers": {"retry-after": "7"}},
        {"prompt_contains": "text", "text": "Forty-two."},
        {"prompt_contains": "body", "status": 418, "body": {"tea": true}},
        {"prompt_contains": "echo", "fault": "echo_key"},
        {"prompt_contains": "away", "fault": "redirect"},
        {"prompt_contains": "huge", "fault": "huge_body", "bytes": 200_000},
    ]}))
    .await;
    let response = post(&server, "k1", PATH, prompt("status")).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["retry-after"]),
        (503, &"7".parse().unwrap())
    );
    let (_, body) = ask(&server, "k1", "text").await;
    assert_eq!(body["candidates"][0]["content"]["parts"][0]["text"], "Forty-two.");
    assert_eq!(ask(&server, "k1", "body").await, (418, json!({"tea": true})));
    assert!(message(&ask(&server, "secret-key", "echo").await.1).contains("secret-key"));
    assert_eq!(ask(&server, "k1", "away").await.0, 302);
    let (_, body) = ask(&server, "k1", "huge").await;
    let text = body["candidates"][0]["content"]["parts"][0]["text"].as_str().unwrap();
    assert_eq!(text.len(), 200_000);
}

#[tokio::test]
async fn statuses_of_the_front_end_are_pages_without_an_error_name() {
    for status in [408, 413] {
        let server = start(&json!({"script": [{"status": status}]})).await;
        let response = post(&server, "k1", PATH, prompt("x")).await.unwrap();
        assert_eq!(response.status().as_u16(), status);
        let page = response.text().await.unwrap();
        assert!(page.contains(&format!("<title>Error {status} (Client Error)!!1</title>")));
    }
}

#[tokio::test]
async fn models_and_tokens_are_told() {
    let server = start(&json!({"models": ["a", "b", "c"]})).await;
    let (_, page) = get(&server, "/v1beta/models?pageSize=2").await;
    assert_eq!(page["models"][1]["name"], "models/b");
    let token = page["nextPageToken"].as_str().unwrap();
    let (_, page) = get(&server, &format!("/v1beta/models?pageToken={token}")).await;
    assert_eq!(page["models"][0]["name"], "models/c");
    assert_eq!(get(&server, "/v1beta/models/b").await.1["name"], "models/b");
    assert_eq!(get(&server, "/v1beta/models/d").await.0, 404);
    assert_eq!(get(&server, "/v1beta/nothing").await, (404, Value::Null));
    let body = json!({"generateContentRequest": {"contents": [{"parts": [{"text": "12345678"}]}]}});
    let path = "/v1beta/models/a:countTokens";
    let counted = post(&server, "k1", path, body.to_string()).await.unwrap();
    let counted: Value = serde_json::from_slice(&counted.bytes().await.unwrap()).unwrap();
    assert_eq!(counted["totalTokens"], 2);
}

#[tokio::test]
async fn a_delayed_call_takes_its_time() {
    let server = start(&json!({"latency_ms": 20})).await;
    let started = std::time::Instant::now();
    assert_eq!(ask(&server, "k1", "a").await.0, 200);
    assert!(started.elapsed() >= Duration::from_millis(20));
}

#[tokio::test]
async fn a_request_over_the_limit_is_refused_whole() {
    let server = start(&json!({"max_body_bytes": 1000})).await;
    let (status, body) = ask(&server, "k1", &"x".repeat(500_000)).await;
    assert_eq!(status, 400);
    assert_eq!(message(&body), "Request payload size exceeds the limit: 1000 bytes.");
}

#[tokio::test]
async fn the_key_may_stand_in_the_query() {
    let server = start(&json!({})).await;
    let url = format!("{}{PATH}?key=k%2D9&prettyPrint=false", server.url());
    let response = client().post(url).body(prompt("a")).send().await.unwrap();
    let body = response.bytes().await.unwrap();
    assert!(!body.contains(&b'\n'));
    assert_eq!(server.key_stats()["k-9"].requests, 1);
}

#[tokio::test]
async fn a_reset_forgets_everything() {
    let server = start(&json!({"quota": {"rpm": 1}, "script": [{"nth": 1, "status": 503}]})).await;
    assert_eq!(ask(&server, "k1", "a").await.0, 503);
    assert_eq!(ask(&server, "k1", "a").await.0, 429);
    client().post(server.url() + "/__reset").send().await.unwrap();
    assert_eq!(server.stats(), Stats::default());
    assert_eq!(ask(&server, "k1", "a").await.0, 503);
}

#[test]
fn the_examples_of_the_manual_are_valid() {
    let manual = include_str!("../../docs/MOCK.md");
    let examples: Vec<&str> =
        manual.split("```json\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(examples.len(), 3);
    for example in examples {
        Config::from_json(example).unwrap();
    }
}
