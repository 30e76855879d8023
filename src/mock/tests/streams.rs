//! Streamed answers over real HTTP.

use super::*;

const STREAM: &str = "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse";
const FRANCE: &str = "What is the capital of France?";

async fn whole(server: &MockServer, path: &str, text: &str) -> (u16, String, String) {
    let response = post(server, "k1", path, prompt(text)).await.unwrap();
    let status = response.status().as_u16();
    let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
    (status, kind, String::from_utf8(response.bytes().await.unwrap().to_vec()).unwrap())
}

/// Returns the text of the events of a body.
fn text_of(body: &str) -> String {
    let events = body.split("\r\n\r\n").filter_map(|event| event.strip_prefix("data: "));
    let events = events.map(|event| serde_json::from_str::<Value>(event).unwrap());
    events
        .filter_map(|event| {
            let text = &event["candidates"][0]["content"]["parts"][0]["text"];
            text.as_str().map(str::to_owned)
        })
        .collect()
}

#[tokio::test]
async fn a_stream_says_the_same_as_a_plain_answer() {
    let server = start(&json!({})).await;
    let (status, kind, body) = whole(&server, STREAM, FRANCE).await;
    assert_eq!((status, kind.as_str()), (200, "text/event-stream"));
    assert_eq!(text_of(&body), "The capital of France is Paris.");
    let list = STREAM.trim_end_matches("?alt=sse");
    let (_, kind, body) = whole(&server, list, FRANCE).await;
    assert_eq!(kind, "application/json; charset=UTF-8");
    assert_eq!(serde_json::from_str::<Vec<Value>>(&body).unwrap().len(), 2);
    let counts = server.stats();
    assert_eq!((counts.requests, counts.answered, counts.chunks), (2, 2, 4));
    server.stop().await;
}

#[tokio::test]
async fn what_refuses_a_plain_call_refuses_a_stream() {
    let server = start(&json!({
        "quota": {"rpm": 1},
        "script": [{"prompt_contains": "busy", "reply": "overloaded"}]
    }))
    .await;
    let (status, _, body) = whole(&server, STREAM, "busy").await;
    assert!(status == 503 && body.starts_with('{'), "{body}");
    let list = STREAM.trim_end_matches("?alt=sse");
    let (status, _, body) = whole(&server, list, "more").await;
    assert!(status == 429 && body.starts_with("[{"), "{body}");
    let unknown = STREAM.replace("2.5-flash", "0");
    assert_eq!(whole(&server, &unknown, "x").await.0, 404);
    assert_eq!(server.stats().answered, 0);
    server.stop().await;
}

#[tokio::test]
async fn chunks_go_out_one_by_one_as_they_are_released() {
    let server = start(&json!({"script": [{"hold_chunks": true}]})).await;
    let mut response = post(&server, "k1", STREAM, prompt(FRANCE)).await.unwrap();
    let mut texts = Vec::new();
    for number in 1..=2 {
        server.wait_until(|stats| stats.held == 1).await;
        assert_eq!(server.stats().answered, 0);
        server.release(Some(1));
        server.wait_until(|stats| stats.chunks == number).await;
        let chunk = response.chunk().await.unwrap().unwrap();
        texts.push(text_of(std::str::from_utf8(&chunk).unwrap()));
    }
    assert_eq!(texts, ["The capital of Franc", "e is Paris."]);
    assert_eq!(response.chunk().await.unwrap(), None);
    server.wait_until(|stats| stats.answered == 1).await;
    server.stop().await;
}

#[tokio::test]
async fn a_stream_breaks_in_every_way() {
    let rule = |fault: &str| json!({"prompt_contains": fault, "after_chunks": 1, "fault": fault});
    let server = start(&json!({"script": [
        {"prompt_contains": "error", "after_chunks": 1, "reply": "high_demand"},
        rule("cut_body"), rule("reset_after_headers"), rule("end_early")
    ]}))
    .await;
    let (_, _, body) = whole(&server, STREAM, "error in the middle").await;
    assert!(body.contains("}\r\n\r\ndata: {\"error\":{\"code\":503"), "{body}");
    let (_, _, body) = whole(&server, STREAM, "end_early it is").await;
    assert!(!body.contains("finishReason"), "{body}");
    for text in ["cut_body it is", "reset_after_headers it is"] {
        let response = post(&server, "k1", STREAM, prompt(text)).await.unwrap();
        let error = response.bytes().await.unwrap_err();
        assert_eq!(is_reset(&error), text.starts_with("reset"), "{error:?}");
    }
    assert_eq!(server.stats().answered, 0);
    assert_eq!(server.stats().by_status[&200], 4);
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_away_is_noticed() {
    let server = start(&json!({"script": [{"after_chunks": 1, "hold": true}]})).await;
    let mut response = post(&server, "k1", STREAM, prompt(FRANCE)).await.unwrap();
    assert!(response.chunk().await.unwrap().is_some());
    server.wait_until(|stats| stats.held == 1).await;
    drop(response);
    server.wait_until(|stats| stats.unanswered == 1 && stats.in_flight == 0).await;
    server.stop().await;
}

#[tokio::test]
async fn letters_are_cut_where_the_network_likes() {
    let server = start(&json!({
        "stream": {"split_bytes": 1, "line_end": "lf", "chunk_chars": 3},
        "script": [{"text": "äöü ß"}]
    }))
    .await;
    let (_, _, body) = whole(&server, STREAM, "x").await;
    assert!(body.contains("äöü") && body.contains("}\n\n") && !body.contains('\r'), "{body}");
    assert_eq!(server.stats().chunks, 2);
    server.stop().await;
}
