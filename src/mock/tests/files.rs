//! Uploaded files over real HTTP: whose they are, how long, and their use in prompts.

use super::uploads::upload;
use super::*;

fn about(uri: &str) -> String {
    let file = json!({"fileData": {"mimeType": "video/mp4", "fileUri": uri}});
    json!({"contents": [{"parts": [{"text": "What is it?"}, file]}]}).to_string()
}

/// Asks `method` of the API with a key and returns the status and the error's message.
async fn call(server: &MockServer, key: &str, method: &str, path: &str) -> (u16, String) {
    let method = method.parse().unwrap();
    let request = client().request(method, server.url() + path).header("x-goog-api-key", key);
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    (status, message(&body).to_owned())
}

async fn ask_about(server: &MockServer, key: &str, path: &str, uri: &str) -> (u16, String) {
    let response = post(server, key, path, about(uri)).await.unwrap();
    let status = response.status().as_u16();
    let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    (status, message(&body).to_owned())
}

fn path_of(file: &Value) -> String {
    format!("/v1beta/{}", file["name"].as_str().unwrap())
}

fn denied(file: &Value) -> (u16, String) {
    let id = &file["name"].as_str().unwrap()["files/".len()..];
    let why = format!("You do not have permission to access the File {id} or it may not exist.");
    (403, why)
}

fn not_active(file: &Value) -> (u16, String) {
    let id = &file["name"].as_str().unwrap()["files/".len()..];
    (400, format!("The File {id} is not in an ACTIVE state and usage is not allowed."))
}

/// Asks for a file until `done`, at most ten seconds.
async fn wait_for(server: &MockServer, file: &Value, done: impl Fn(u16, &Value) -> bool) {
    let asking = async {
        loop {
            let (status, body) = get(server, &path_of(file)).await;
            if done(status, &body) {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), asking).await.unwrap();
}

#[tokio::test]
async fn a_file_belongs_to_the_project_of_its_key() {
    let keys = json!({"k1": {"project": "p"}, "k2": {"project": "p"}, "k3": {}});
    let server = start(&json!({"keys": keys})).await;
    let file = upload(&server, "k1", b"abc").await;
    let (path, uri) = (path_of(&file), file["uri"].as_str().unwrap());
    let tokens = PATH.replace("generateContent", "countTokens");
    for key in ["k1", "k2"] {
        assert_eq!(call(&server, key, "GET", &path).await.0, 200);
        assert_eq!(ask_about(&server, key, PATH, uri).await.0, 200);
        assert_eq!(ask_about(&server, key, &tokens, uri).await.0, 200);
    }
    for key in ["k3", "unlisted"] {
        assert_eq!(call(&server, key, "GET", &path).await, denied(&file));
        assert_eq!(call(&server, key, "DELETE", &path).await, denied(&file));
        assert_eq!(ask_about(&server, key, PATH, uri).await, denied(&file));
        assert_eq!(ask_about(&server, key, &tokens, uri).await, denied(&file));
    }
    let real = uri.replace(&server.url(), "https://generativelanguage.googleapis.com");
    assert_eq!(ask_about(&server, "k2", PATH, &real).await.0, 200);
    assert_eq!(ask_about(&server, "k2", PATH, "https://example.org/a.mp4").await.0, 200);
    assert_eq!(call(&server, "k2", "DELETE", &path).await.0, 200);
    for key in ["k1", "k2"] {
        assert_eq!(call(&server, key, "GET", &path).await, denied(&file));
        assert_eq!(call(&server, key, "DELETE", &path).await, denied(&file));
        assert_eq!(ask_about(&server, key, PATH, uri).await, denied(&file));
    }
}

#[tokio::test]
async fn a_file_is_of_no_use_before_it_is_active() {
    let files = json!({"processing_ms": 3_600_000, "processing_types": ["video/"]});
    let server = start(&json!({"files": files})).await;
    let file = upload(&server, "k1", b"abc").await;
    assert_eq!(file["state"], "PROCESSING");
    assert_eq!(get(&server, &path_of(&file)).await.1["state"], "PROCESSING");
    let uri = file["uri"].as_str().unwrap();
    assert_eq!(ask_about(&server, "k1", PATH, uri).await, not_active(&file));
}

#[tokio::test]
async fn a_file_becomes_active_after_its_time() {
    let server = start(&json!({"files": {"processing_ms": 20}})).await;
    let file = upload(&server, "k1", b"abc").await;
    wait_for(&server, &file, |_, body| body["state"] == "ACTIVE").await;
    assert_eq!(ask_about(&server, "k1", PATH, file["uri"].as_str().unwrap()).await.0, 200);
}

#[tokio::test]
async fn a_file_can_fail() {
    let server = start(&json!({"files": {"fails": true, "without_state": true}})).await;
    let file = upload(&server, "k1", b"abc").await;
    assert_eq!(file.get("state"), None);
    let (_, shown) = get(&server, &path_of(&file)).await;
    assert_eq!((&shown["state"], &shown["error"]["code"]), (&"FAILED".into(), &13.into()));
    let uri = file["uri"].as_str().unwrap();
    assert_eq!(ask_about(&server, "k1", PATH, uri).await, not_active(&file));
}

#[tokio::test]
async fn a_file_expires() {
    let server = start(&json!({"files": {"lifetime_ms": 20}})).await;
    let file = upload(&server, "k1", b"abc").await;
    wait_for(&server, &file, |status, _| status == 403).await;
    let uri = file["uri"].as_str().unwrap();
    assert_eq!(ask_about(&server, "k1", PATH, uri).await, denied(&file));
    assert_eq!(get(&server, "/v1beta/files").await, (200, json!({})));
    assert_eq!((server.stats().uploads, server.stats().files), (1, 0));
}

#[tokio::test]
async fn files_are_listed_page_by_page() {
    let server = start(&json!({})).await;
    let mut names = Vec::new();
    for content in [b"a", b"b", b"c"] {
        names.push(upload(&server, "k1", content).await["name"].clone());
    }
    upload(&server, "k2", b"d").await;
    let names_in = |page: &Value| -> Vec<Value> {
        page["files"].as_array().unwrap().iter().map(|file| file["name"].clone()).collect()
    };
    let (_, first) = get(&server, "/v1beta/files?pageSize=2").await;
    assert_eq!(names_in(&first), [names[2].clone(), names[1].clone()]);
    let token = first["nextPageToken"].as_str().unwrap();
    let (_, second) = get(&server, &format!("/v1beta/files?pageToken={token}")).await;
    assert_eq!(names_in(&second), [names[0].clone()]);
    assert_eq!(second.get("nextPageToken"), None);
    assert_eq!(get(&server, "/v1beta/files?pageToken=x").await.0, 400);
}

#[tokio::test]
async fn the_parts_of_a_request_tell_the_content_of_its_files() {
    let server = start(&json!({})).await;
    let file = upload(&server, "k1", b"abc").await;
    let uri = file["uri"].as_str().unwrap();
    let other = "https://example.org/a.mp4";
    let part = |uri: &str| json!({"fileData": {"mimeType": "video/mp4", "fileUri": uri}});
    let request = json!({"contents": [{"parts": [part(other), part(uri)]}]}).to_string();
    let answer = post(&server, "k1", PATH, request).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    let details = &answer["usageMetadata"]["promptTokensDetails"];
    assert_eq!(details[1], json!({"modality": "VIDEO", "tokenCount": 516}));
    let seen = server.requests();
    let parts = &seen[0].parts;
    assert_eq!((parts[0].bytes, parts[0].sha256.as_deref()), (None, None));
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!((parts[1].bytes, parts[1].sha256.as_deref()), (Some(3), Some(abc)));
    assert_eq!(parts[1].file_uri.as_deref(), Some(uri));
}

#[tokio::test]
async fn the_script_reaches_calls_for_files() {
    let server = start(&json!({"script": [
        {"method": "files", "nth": 1, "status": 503},
        {"method": "files", "nth": 2, "reply": "file_permission"},
        {"method": "files", "nth": 3, "fault": "reset_before"},
        {"method": "files", "nth": 4, "status": 404},
    ]}))
    .await;
    let file = upload(&server, "k1", b"abc").await;
    assert_eq!(call(&server, "k1", "DELETE", &path_of(&file)).await.0, 503);
    assert_eq!(call(&server, "k1", "GET", &path_of(&file)).await, denied(&file));
    let deleting = client().delete(server.url() + &path_of(&file)).header("x-goog-api-key", "k1");
    assert!(is_reset(&deleting.send().await.unwrap_err()));
    let missing = (404, "Requested entity was not found.".to_owned());
    assert_eq!(call(&server, "k1", "GET", "/v1beta/files/a").await, missing);
    assert_eq!(call(&server, "k1", "GET", &path_of(&file)).await, denied(&file));
    assert_eq!(call(&server, "", "GET", &path_of(&file)).await.0, 403);
}

#[tokio::test]
async fn calls_for_files_have_counts_of_their_own() {
    let server = start(&json!({})).await;
    let file = upload(&server, "k1", b"abc").await;
    get(&server, &path_of(&file)).await;
    let waiting = "/__wait?uploads=1&file_requests=3&upload_bytes=3";
    let (status, page) = get(&server, waiting).await;
    assert_eq!((status, &page["upload_chunks"], &page["files"]), (200, &1.into(), &1.into()));
    let counts = Stats {
        file_requests: 3,
        uploads_started: 1,
        uploads: 1,
        upload_bytes: 3,
        upload_chunks: 1,
        files: 1,
        ..Stats::default()
    };
    assert_eq!(server.stats(), counts);
    assert_eq!(get(&server, "/__wait?uploads=2&timeout_ms=1").await.0, 408);

    client().post(server.url() + "/__forget_files").send().await.unwrap();
    assert_eq!(server.stats(), Stats { files: 0, ..counts });
    assert_eq!(call(&server, "k1", "GET", &path_of(&file)).await, denied(&file));
    upload(&server, "k1", b"abc").await;
    server.forget_files();
    assert_eq!((server.stats().files, server.stats().uploads), (0, 2));

    upload(&server, "k1", b"abc").await;
    server.reset();
    assert_eq!(server.stats(), Stats::default());
    assert_eq!(server.file_requests_log(), []);
    assert_eq!(get(&server, "/v1beta/files").await, (200, json!({})));
}
