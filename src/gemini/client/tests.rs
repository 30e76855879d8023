//! The client over real sockets.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::domain::outcome::Exhaustion;

#[test]
fn a_key_is_never_shown() {
    assert_eq!(format!("{:?}", ApiKey::new("secret")), "ApiKey(…)");
    assert!(ApiKey::new("line\nbreak").header().is_none());
    assert!(ApiKey::new("secret").header().unwrap().is_sensitive());
}

#[test]
fn models_have_one_place_however_they_are_written() {
    for (model, path) in [
        ("gemini-2.5-flash", "models/gemini-2.5-flash"),
        ("models/gemini-2.5-flash", "models/gemini-2.5-flash"),
        ("tunedModels/mine", "tunedModels/mine"),
        ("odd?name", "models/odd%3Fname"),
        ("../files/x", "models/..%2Ffiles%2Fx"),
    ] {
        assert_eq!(model_path(model), path);
    }
}

const KEY: &str = "canary-secret-0123456789";
const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";

/// What the server does once it has read a request.
enum Then {
    Close,
    Reset,
    Stall,
}

fn options(base_url: String) -> ClientOptions {
    let request_timeout = Duration::from_secs(20);
    ClientOptions { base_url, request_timeout, proxy: None, plain: true, direct: true }
}

/// Serves one connection: reads a whole request, writes `answer`, and returns the request.
async fn serve(listener: TcpListener, answer: String, then: Then) -> String {
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    let request = loop {
        let count = socket.read(&mut buffer).await.unwrap();
        seen.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&seen).into_owned();
        if count == 0 || text.ends_with("{}") || text.starts_with("GET") {
            break text;
        }
    };
    socket.write_all(answer.as_bytes()).await.unwrap();
    match then {
        Then::Close => {}
        Then::Reset => socket.set_zero_linger().unwrap(),
        // Ends when the client gives up and hangs up.
        Then::Stall => drop(socket.read(&mut buffer).await),
    }
    request
}

async fn call_with(answer: &str, then: Then, timeout: Duration) -> (Call, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/prefix/", listener.local_addr().unwrap());
    let options = ClientOptions { request_timeout: timeout, ..options(base_url) };
    let client = Client::new(&options).unwrap();
    let key = ApiKey::new(KEY);
    let server = tokio::spawn(serve(listener, answer.to_owned(), then));
    let call = client.generate(&key, "models/gemini-x", "{}".to_owned()).await;
    (call, server.await.unwrap())
}

async fn call(answer: &str, then: Then) -> Call {
    call_with(answer, then, Duration::from_secs(20)).await.0
}

fn with_body(head: &str, body: &str) -> String {
    format!("{head}content-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn an_answer_is_read_whole_and_the_key_goes_in_a_header_only() {
    let body = r#"{ "candidates": [{"content": {"parts": [{"text": "a b"}]}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 3}, "modelVersion": "gemini-x-1" }"#;
    let limit = Duration::from_secs(20);
    let (call, request) = call_with(&with_body(HEAD, body), Then::Close, limit).await;
    assert_eq!(call.outcome, Outcome::Answered);
    assert_eq!((call.http_status, call.paid), (Some(200), Paid::Yes));
    assert_eq!(call.usage.unwrap().prompt_tokens, 3);
    assert!(call.raw.unwrap().starts_with(r#"{"candidates":[{"content""#));
    let line = "POST /prefix/v1beta/models/gemini-x:generateContent HTTP/1.1\r\n";
    assert!(request.starts_with(line), "{request}");
    assert!(request.contains(&format!("x-goog-api-key: {KEY}\r\n")), "{request}");
    assert!(request.contains("content-type: application/json\r\n"), "{request}");
    assert!(request.contains("user-agent: gq/"), "{request}");
}

#[tokio::test]
async fn a_broken_connection_may_have_been_paid() {
    let network = Outcome::Failed(ErrorKind::Network);
    let cut = format!("{HEAD}content-length: 900\r\n\r\n{{\"candidates\": [");
    for (answer, then) in [("", Then::Reset), ("", Then::Close), (&cut, Then::Close)] {
        let call = call(answer, then).await;
        assert_eq!((call.outcome, call.paid), (network.clone(), Paid::Maybe), "{answer}");
    }
}

#[tokio::test]
async fn a_refused_connection_costs_nothing_and_says_why() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = Client::new(&options(base_url)).unwrap();
    let call = client.generate(&ApiKey::new(KEY), "gemini-x", "{}".to_owned()).await;
    assert_eq!(call.outcome, Outcome::Failed(ErrorKind::Network));
    assert_eq!((call.http_status, call.paid), (None, Paid::No));
    let message = call.message.unwrap().to_lowercase();
    assert!(message.starts_with("could not connect: "), "{message}");
    assert!(message.contains("connection refused"), "{message}");
}

#[tokio::test]
async fn a_stalled_answer_ends_at_the_time_limit() {
    let half = format!("{HEAD}content-length: 900\r\n\r\n{{");
    for answer in ["", half.as_str()] {
        let (call, _) = call_with(answer, Then::Stall, Duration::from_millis(200)).await;
        assert_eq!(call.outcome, Outcome::Failed(ErrorKind::Timeout), "{answer}");
        assert_eq!(call.paid, Paid::Maybe);
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let answer = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:9/\r\ncontent-length: 0\r\n\r\n";
    let call = call(answer, Then::Close).await;
    assert_eq!(call.outcome, Outcome::Failed(ErrorKind::ServerError));
    assert!(call.message.unwrap().contains("redirect"));
}

#[tokio::test]
async fn a_refusal_counts_although_its_page_was_cut_and_hides_the_key() {
    let head = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\n";
    let cut = call(&format!("{head}content-length: 900\r\n\r\n{{\"err"), Then::Close).await;
    let delay = Some(Duration::from_secs(7));
    assert_eq!(cut.outcome, Outcome::Exhausted(Exhaustion::Short { delay }));
    assert_eq!(cut.paid, Paid::No);
    let body = format!(r#"{{"error": {{"code": 403, "message": "Consumer 'api_key:{KEY}'"}}}}"#);
    let bad = call(&with_body("HTTP/1.1 403 Forbidden\r\n", &body), Then::Close).await;
    assert_eq!(bad.outcome, Outcome::BadKey);
    assert_eq!(bad.message.as_deref(), Some("Consumer 'api_key:[redacted]'"));
}

#[tokio::test]
async fn a_key_is_good_if_it_may_list_models() {
    let bad = r#"{"error": {"code": 403, "message": "suspended"}}"#;
    let table = [
        (with_body(HEAD, r#"{"models": []}"#), "Good"),
        (with_body("HTTP/1.1 403 Forbidden\r\n", bad), "Bad { reason: \"suspended\" }"),
        (with_body("HTTP/1.1 429 Too Many\r\n", ""), "Exhausted"),
        (with_body(HEAD, "<html>"), "Unreachable"),
    ];
    for (answer, wanted) in table {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::new(&options(format!("http://{}", listener.local_addr().unwrap())));
        let server = tokio::spawn(serve(listener, answer, Then::Close));
        let check = format!("{:?}", client.unwrap().check_key(&ApiKey::new(KEY)).await);
        assert!(check.starts_with(wanted), "{check}");
        assert!(server.await.unwrap().starts_with("GET /v1beta/models?pageSize=1 "));
    }
}
