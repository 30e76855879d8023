//! Uploads over real HTTP: starting, chunks, breaks and the script.

use reqwest::header::HeaderMap;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::*;

const MIB: usize = 1024 * 1024;
const START: &str = "/upload/v1beta/files";

/// Starts an upload of `size` bytes.
async fn start_upload(server: &MockServer, key: &str, size: usize, body: &Value) -> Response {
    let request = client().post(server.url() + START).header("x-goog-api-key", key);
    request
        .header("x-goog-upload-protocol", "resumable")
        .header("x-goog-upload-command", "start")
        .header("x-goog-upload-header-content-length", size)
        .header("x-goog-upload-header-content-type", "video/mp4")
        .body(body.to_string())
        .send()
        .await
        .unwrap()
}

/// Starts an upload of `size` bytes and returns its address.
async fn open(server: &MockServer, key: &str, size: usize) -> String {
    let started = start_upload(server, key, size, &json!({})).await;
    assert_eq!(started.status(), 200);
    head(started.headers(), "x-goog-upload-url").unwrap()
}

fn head(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| value.to_str().unwrap().to_owned())
}

/// What an upload answers: status, its state, bytes received, body.
type Told = (u16, Option<String>, Option<String>, Value);

async fn send(url: &str, command: &str, offset: usize, bytes: &[u8]) -> reqwest::Result<Told> {
    let request = client().post(url).header("x-goog-upload-command", command);
    let request = request.header("x-goog-upload-offset", offset).body(bytes.to_vec());
    let response = request.send().await?;
    let told = |name| head(response.headers(), name);
    let (state, received) = (told("x-goog-upload-status"), told("x-goog-upload-size-received"));
    let status = response.status().as_u16();
    let body = serde_json::from_slice(&response.bytes().await?).unwrap_or_default();
    Ok((status, state, received, body))
}

fn told(status: u16, state: &str, received: Option<&str>) -> Told {
    (status, Some(state.to_owned()), received.map(str::to_owned), Value::Null)
}

async fn query(url: &str) -> Told {
    send(url, "query", 0, b"").await.unwrap()
}

/// Uploads `content` in one chunk and returns the file.
pub(super) async fn upload(server: &MockServer, key: &str, content: &[u8]) -> Value {
    let url = open(server, key, content.len()).await;
    let (status, _, _, body) = send(&url, "upload, finalize", 0, content).await.unwrap();
    assert_eq!(status, 200, "{body}");
    body["file"].clone()
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|index| u8::try_from(index * 7 % 251).unwrap()).collect()
}

fn hash_of(content: &[u8]) -> String {
    use base64::Engine as _;
    use sha2::Digest as _;
    let digits = crate::domain::hex::hex(&sha2::Sha256::digest(content));
    base64::engine::general_purpose::STANDARD.encode(digits)
}

#[tokio::test]
async fn a_file_is_uploaded_in_chunks() {
    let server = start(&json!({})).await;
    let content = content(8 * MIB + 5);
    let body = json!({"file": {"displayName": "clip one", "name": "files/my-id"}});
    let started = start_upload(&server, "k1", content.len(), &body).await;
    let said = |name| head(started.headers(), name).unwrap();
    assert_eq!((started.status().as_u16(), said("x-goog-upload-status")), (200, "active".into()));
    assert_eq!(said("x-goog-upload-chunk-granularity"), "8388608");
    let url = said("x-goog-upload-url");
    assert!(url.starts_with(&format!("{}{START}?upload_id=", server.url())), "{url}");
    assert!(url.ends_with("&upload_protocol=resumable"), "{url}");
    assert_eq!(started.bytes().await.unwrap().len(), 0);

    let first = send(&url, "upload", 0, &content[..8 * MIB]).await.unwrap();
    assert_eq!(first, told(200, "active", None));
    assert_eq!(query(&url).await, told(200, "active", Some("8388608")));
    let last = send(&url, "upload, finalize", 8 * MIB, &content[8 * MIB..]).await.unwrap();
    assert_eq!((last.0, last.1.as_deref()), (200, Some("final")));
    let file = &last.3["file"];
    assert_eq!((&file["name"], &file["displayName"]), (&"files/my-id".into(), &"clip one".into()));
    assert_eq!((&file["mimeType"], &file["sizeBytes"]), (&"video/mp4".into(), &"8388613".into()));
    assert_eq!((&file["state"], &file["source"]), (&"ACTIVE".into(), &"UPLOADED".into()));
    assert_eq!(file["sha256Hash"], hash_of(&content));
    assert_eq!(file["uri"], format!("{}/v1beta/files/my-id", server.url()));
    assert_eq!(get(&server, "/v1beta/files/my-id").await, (200, file.clone()));

    assert_eq!(query(&url).await, told(200, "final", Some("8388613")));
    assert_eq!(send(&url, "finalize", 0, b"").await.unwrap(), last);
    assert_eq!(send(&url, "upload, finalize", 8 * MIB, b"again").await.unwrap(), last);
    let stats = server.stats();
    assert_eq!((stats.uploads_started, stats.uploads, stats.files), (1, 1, 1));
    assert_eq!((stats.upload_chunks, stats.upload_bytes), (2, 8_388_613));
}

#[tokio::test]
async fn a_start_that_cannot_be_is_refused() {
    let keys = json!({"k1": {}, "leaked": {"status": "leaked"}});
    let server = start(&json!({"strict_keys": true, "keys": keys})).await;
    let at = async |key: &str, size: usize, body: Value| {
        let response = start_upload(&server, key, size, &body).await;
        let status = response.status().as_u16();
        let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        (status, body["error"]["status"].as_str().unwrap().to_owned())
    };
    let invalid = (400, "INVALID_ARGUMENT".to_owned());
    let denied = (403, "PERMISSION_DENIED".to_owned());
    assert_eq!(at("", 1, json!({})).await, denied);
    assert_eq!(at("leaked", 1, json!({})).await, denied);
    assert_eq!(at("bad", 1, json!({})).await, invalid);
    assert_eq!(at("bad", 1, json!({"foo": 1})).await, invalid);
    assert_eq!(at("k1", 2_147_483_649, json!({})).await, invalid);
    assert_eq!(at("k1", 1, json!({"file": {"name": "files/Not_Good"}})).await, invalid);
    let named = json!({"file": {"name": "files/mine"}});
    let url = head(start_upload(&server, "k1", 0, &named).await.headers(), "x-goog-upload-url");
    assert_eq!(send(&url.unwrap(), "finalize", 0, b"").await.unwrap().0, 200);
    assert_eq!(at("k1", 1, named).await, (409, "ALREADY_EXISTS".to_owned()));
    for protocol in ["raw", "multipart"] {
        let request = client().post(server.url() + START).header("x-goog-api-key", "k1");
        let request = request.header("x-goog-upload-protocol", protocol).body("abc");
        assert_eq!(request.send().await.unwrap().status(), 400);
    }
    assert_eq!(server.stats().uploads_started, 1);
}

#[tokio::test]
async fn a_chunk_that_does_not_fit_changes_nothing() {
    let server = start(&json!({})).await;
    let url = open(&server, "k1", 8 * MIB + 5).await;
    let refused = |received| told(400, "active", Some(received));
    let at = async |command: &str, offset: usize, length: usize| {
        let (status, state, received, body) =
            send(&url, command, offset, &content(length)).await.unwrap();
        assert_eq!(body["error"]["status"], "INVALID_ARGUMENT", "{body}");
        (status, state, received, Value::Null)
    };
    assert_eq!(at("upload", 0, 5).await, refused("0"));
    assert_eq!(at("upload", 3, 8 * MIB).await, refused("0"));
    assert_eq!(at("upload, finalize", 0, 5).await, refused("0"));
    assert_eq!(at("upload, finalize", 0, 8 * MIB + 6).await, refused("0"));
    assert_eq!(at("fly", 0, 5).await, refused("0"));
    assert_eq!(server.stats().upload_bytes, 0);
    send(&url, "upload", 0, &content(8 * MIB)).await.unwrap();
    assert_eq!(at("upload", 0, 8 * MIB).await, refused("8388608"));
    assert_eq!(at("finalize", 8 * MIB, 0).await, refused("8388608"));

    assert_eq!(send(&url, "cancel", 0, b"").await.unwrap().1.as_deref(), Some("cancelled"));
    assert_eq!(query(&url).await, told(200, "cancelled", Some("8388608")));
    assert_eq!(at("upload, finalize", 8 * MIB, 5).await.1.as_deref(), Some("cancelled"));
    let unknown = send(&format!("{}{START}?upload_id=x", server.url()), "query", 0, b"").await;
    let (status, state, _, body) = unknown.unwrap();
    assert_eq!((status, state, &body["error"]["status"]), (404, None, &"NOT_FOUND".into()));
}

#[tokio::test]
async fn an_upload_goes_on_where_it_was_cut() {
    let cut = json!({"method": "upload", "nth": 2, "fault": "cut_upload"});
    let server = start(&json!({"script": [cut]})).await;
    let content = content(10 * MIB);
    let url = open(&server, "k1", content.len()).await;
    let error = send(&url, "upload", 0, &content[..8 * MIB]).await;
    assert!(error.is_err());
    assert_eq!(query(&url).await, told(200, "active", Some("4194304")));
    let rest = send(&url, "upload, finalize", 4 * MIB, &content[4 * MIB..]).await.unwrap();
    assert_eq!(rest.3["file"]["sha256Hash"], hash_of(&content));
    let stats = server.stats();
    assert_eq!((stats.upload_bytes, stats.upload_chunks, stats.uploads), (10 << 20, 1, 1));
    let seen = server.file_requests_log();
    let told: Vec<_> = seen.iter().map(|it| (&*it.command, it.offset, it.status)).collect();
    assert_eq!(
        told,
        [
            ("start", None, 200),
            ("upload", Some(0), 0),
            ("query", Some(0), 200),
            ("upload, finalize", Some(4 << 20), 200),
        ]
    );
    assert_eq!((&*seen[1].key, seen[3].bytes), ("k1", 6 << 20));
    assert_eq!(seen[0].file, rest.3["file"]["name"].as_str().unwrap()["files/".len()..]);
}

#[tokio::test]
async fn what_came_before_a_client_broke_off_counts() {
    let server = start(&json!({})).await;
    let content = content(MIB);
    let url = open(&server, "k1", MIB).await;
    let address = server.url().strip_prefix("http://").unwrap().to_owned();
    let mut line = TcpStream::connect(&address).await.unwrap();
    let path = url.strip_prefix(&server.url()).unwrap();
    let text = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {MIB}\r\n\
         x-goog-upload-command: upload, finalize\r\nx-goog-upload-offset: 0\r\n\r\n"
    );
    line.write_all(text.as_bytes()).await.unwrap();
    line.write_all(&content[..1000]).await.unwrap();
    server.wait_until(|stats| stats.upload_bytes == 1000).await;
    drop(line);
    assert_eq!(query(&url).await, told(200, "active", Some("1000")));
    let rest = send(&url, "upload, finalize", 1000, &content[1000..]).await.unwrap();
    assert_eq!(rest.3["file"]["sha256Hash"], hash_of(&content));
    assert_eq!(server.file_requests_log()[1].status, 0);
}

#[tokio::test]
async fn a_chunk_answered_without_a_status_is_not_taken() {
    let server = start(&json!({"script": [
        {"method": "upload", "nth": 2, "fault": "no_upload_status"}]}))
    .await;
    let url = open(&server, "k1", 3).await;
    let first = send(&url, "upload, finalize", 0, b"abc").await.unwrap();
    assert_eq!(first, (200, None, None, Value::Null));
    assert_eq!(query(&url).await, told(200, "active", Some("0")));
    let again = send(&url, "upload, finalize", 0, b"abc").await.unwrap();
    assert_eq!(again.3["file"]["sizeBytes"], "3");
    let seen = server.file_requests_log();
    assert_eq!((seen[1].bytes, seen[1].status), (3, 200));
    assert_eq!((server.stats().upload_bytes, server.stats().upload_chunks), (3, 1));
}

#[tokio::test]
async fn a_refused_chunk_is_not_taken_and_one_with_a_lost_answer_is() {
    let server = start(&json!({"script": [
        {"method": "upload", "nth": 1, "status": 503},
        {"method": "upload", "key": "k1", "nth": 3, "reply": "internal"},
        {"method": "upload", "nth": 4, "fault": "reset_before"},
    ]}))
    .await;
    assert_eq!(start_upload(&server, "k1", 3, &json!({})).await.status(), 503);
    let url = open(&server, "k1", 3).await;
    assert_eq!(send(&url, "upload, finalize", 0, b"abc").await.unwrap().0, 500);
    assert_eq!(query(&url).await, told(200, "active", Some("0")));
    assert!(is_reset(&send(&url, "upload, finalize", 0, b"abc").await.unwrap_err()));
    assert_eq!(query(&url).await, told(200, "final", Some("3")));
    assert_eq!((server.stats().uploads_started, server.stats().uploads), (1, 1));
}

#[tokio::test]
async fn a_held_chunk_waits_for_its_release() {
    let server = start(&json!({"script": [{"method": "upload", "nth": 2, "hold": true}]})).await;
    let url = open(&server, "k1", 3).await;
    let sending = tokio::spawn(async move { send(&url, "upload, finalize", 0, b"abc").await });
    assert_eq!(get(&server, "/__wait?held=1").await.1["held"], 1);
    server.release(Some(1));
    assert_eq!(sending.await.unwrap().unwrap().0, 200);
    assert_eq!(server.stats().requests, 0);
}

#[tokio::test]
async fn a_rule_can_look_at_each_upload_alone() {
    let server = start(&json!({"script": [
        {"method": "upload", "per_prompt": true, "nth": 2, "status": 503},
        {"method": "upload", "prompt_contains": "odd", "status": 500}]}))
    .await;
    let [one, two] = [open(&server, "k1", 1).await, open(&server, "k1", 1).await];
    for url in [one, two] {
        assert_eq!(send(&url, "upload, finalize", 0, b"a").await.unwrap().0, 503);
        assert_eq!(send(&url, "upload, finalize", 0, b"a").await.unwrap().0, 200);
    }
    let odd = json!({"file": {"displayName": "an odd one"}});
    assert_eq!(start_upload(&server, "k1", 1, &odd).await.status(), 500);
}
