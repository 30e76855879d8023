//! Streams as bytes and over real sockets.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;
use crate::domain::outcome::{ErrorKind, Exhaustion, Outcome, Paid};
use crate::gemini::client::ClientOptions;

const KEY: &str = "canary-secret-0123456789";
const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n";
const BUSY: &str = r#"{"error": {"code": 503, "message": "canary-secret-0123456789 is busy"}}"#;
const END: &str =
    r#"{"candidates": [{"finishReason": "STOP"}], "usageMetadata": {"totalTokenCount": 5}}"#;

fn said(text: &str) -> String {
    format!(
        r#"{{"candidates": [{{"content": {{"parts": [{{"text": "{text}"}}]}}}}],
            "usageMetadata": {{"totalTokenCount": 3}}, "modelVersion": "m"}}"#
    )
    .replace("\n            ", " ")
}

fn framed<T: AsRef<str>>(events: &[T], end: &str) -> String {
    events.iter().flat_map(|event| ["data: ", event.as_ref(), end, end]).collect()
}

fn data(events: &[&str]) -> String {
    framed(events, "\r\n")
}

/// Reads a body in these chunks; returns also what was heard.
fn read_chunks<'a>(
    secret: &str,
    chunks: impl IntoIterator<Item = &'a [u8]>,
    fault: Option<Call>,
) -> (Call, Vec<String>) {
    let mut heard = Vec::new();
    let mut stream = Stream::new(secret, |piece: &str| heard.push(piece.to_owned()));
    for chunk in chunks {
        if stream.push(chunk).is_break() {
            break;
        }
    }
    let call = stream.finish(fault);
    (call, heard)
}

fn read_whole(body: &str) -> (Call, Vec<String>) {
    read_chunks(KEY, [body.as_bytes()], None)
}

#[test]
fn a_stream_is_judged_as_its_merged_answer_is() {
    let text = said("once");
    let finished = |reason: &str| END.replace("STOP", reason);
    let blocked = r#"{"promptFeedback": {"blockReason": "OTHER"}}"#;
    let failed = Outcome::Failed;
    let table = [
        (data(&[&text, END]), Outcome::Answered, true),
        (data(&[&text, &finished("MAX_TOKENS"), "[DONE]"]), Outcome::Answered, true),
        (data(&[&text, &finished("SAFETY")]), failed(ErrorKind::Blocked), true),
        (data(&[&text, &finished("RECITATION")]), failed(ErrorKind::Recitation), true),
        (data(&[END]), failed(ErrorKind::Empty), true),
        (data(&[&finished("MAX_TOKENS")]), failed(ErrorKind::Truncated), true),
        (data(&[blocked]), failed(ErrorKind::Blocked), true),
        (data(&[&text]), failed(ErrorKind::Network), true),
        (data(&["{}"]), failed(ErrorKind::Network), true),
        (data(&[&text, END]) + "data: {\"cand", Outcome::Answered, true),
        (data(&[&text]) + "data: {\"cand", failed(ErrorKind::Network), true),
        (data(&[&text, END, "<html>"]), Outcome::Answered, true),
        (data(&[&text, END]) + "\r\n: bye", Outcome::Answered, true),
        (data(&[&text]) + "data: " + END, Outcome::Answered, true),
        (data(&[&text, "<html>", END]), failed(ErrorKind::MalformedResponse), true),
        (data(&["<html>", &text]), failed(ErrorKind::MalformedResponse), false),
        (
            data(&[&text, "{\"a\": \"\\ud800\", \"candidates\": 5}"]),
            failed(ErrorKind::MalformedResponse),
            true,
        ),
        ("data: {\"cand".to_owned(), failed(ErrorKind::MalformedResponse), false),
        (String::new(), failed(ErrorKind::MalformedResponse), false),
        ("<html>{}</html>".to_owned(), failed(ErrorKind::MalformedResponse), false),
        (format!("[{text}\n,\r\n{END}\n]"), Outcome::Answered, true),
        (format!("{text}\n{END}"), Outcome::Answered, true),
        (data(&[&format!("[{text}, {END}]")]), Outcome::Answered, true),
    ];
    for (body, wanted, has_raw) in table {
        let (call, _) = read_whole(&body);
        assert_eq!((&call.outcome, call.raw.is_some()), (&wanted, has_raw), "{body}");
        assert_eq!(call.http_status, Some(200));
        let kept = matches!(&wanted, Outcome::Failed(kind) if kind.is_retryable());
        let paid = if kept && wanted != failed(ErrorKind::Empty) { Paid::Maybe } else { Paid::Yes };
        assert_eq!(call.paid, paid, "{body}");
    }
}

#[test]
fn an_error_counts_wherever_it_stands() {
    let text = said("once");
    let many = BUSY.replace("503", "429");
    let bad = BUSY.replace("503", "401");
    let busy = Outcome::Failed(ErrorKind::Overloaded);
    let rest = Outcome::Exhausted(Exhaustion::Short { delay: None });
    let table = [
        (data(&[&text, BUSY]), &busy),
        (data(&[&text, BUSY, END]), &busy),
        (data(&[&text, &format!("[{BUSY}]")]), &busy),
        (data(&[&text]) + BUSY, &busy),
        (data(&[&text]) + "\n[" + BUSY + "]\n", &busy),
        (data(&[&text]) + "data: " + BUSY, &busy),
        (data(&[&text, &many]), &rest),
        (data(&[&text, &bad]), &Outcome::BadKey),
        (format!("[{text}, {BUSY}]"), &busy),
    ];
    for (body, wanted) in table {
        let (call, heard) = read_whole(&body);
        assert_eq!((&call.outcome, call.paid), (wanted, Paid::Maybe), "{body}");
        assert_eq!(call.message.as_deref(), Some("[redacted] is busy"));
        assert_eq!((call.http_status, heard.concat().as_str()), (Some(200), "once"));
        assert_eq!(call.usage.unwrap().total_tokens, 3);
        let raw = call.raw.unwrap();
        assert!(raw.contains(r#"{"text":"once"}"#) && raw.contains(r#""error":{"#), "{raw}");
        assert!(!raw.contains(KEY), "{raw}");
    }
    let (alone, _) = read_whole(BUSY);
    let plain = classify(200, None, &BUSY.replace(KEY, "[redacted]"));
    assert_eq!(alone, plain);
}

#[test]
fn what_broke_a_stream_is_told_with_what_came_of_the_answer() {
    let body = data(&[&said("once")]) + "data: {\"can";
    let late = Call::without_answer(ErrorKind::Timeout, "late".to_owned(), Paid::Maybe);
    let read = |body: &str| read_chunks(KEY, [body.as_bytes()], Some(late.clone())).0;
    let call = read(&body);
    assert_eq!(call.outcome, Outcome::Failed(ErrorKind::Timeout));
    assert_eq!((call.message.as_deref(), call.http_status), (Some("late"), Some(200)));
    assert_eq!(call.model_version.as_deref(), Some("m"));
    assert!(call.raw.unwrap().contains(r#"[{"text":"once"}]"#));
    assert_eq!(read("").raw, None);
    assert_eq!(read(&format!("data: {BUSY}")).outcome, Outcome::Failed(ErrorKind::Overloaded));
}

#[test]
fn only_the_answer_is_heard_and_never_an_empty_piece() {
    let thought = said("plan").replace("\"plan\"", "\"plan\", \"thought\": true");
    let (call, heard) = read_whole(&data(&[&thought, &said(""), &said("a\\n"), &said("b"), END]));
    assert_eq!(heard, ["a\n", "b"]);
    assert_eq!(answer_text(&call.raw.unwrap()).as_deref(), Some("a\nb"));
    let second = |text: &str| said(text).replace("}]}}]", "}]}, \"index\": 1}]");
    let end = END.replace("\"finish", "\"index\": 1, \"finish");
    let (call, heard) = read_whole(&data(&[&second("a"), &second("b"), &end]));
    assert_eq!((call.outcome, heard), (Outcome::Answered, vec!["ab".to_owned()]));
}

/// Cuts `whole` at these places, as far as they are places in it.
fn cut<'a>(whole: &'a [u8], places: &[usize]) -> Vec<&'a [u8]> {
    let mut places: Vec<_> = places.iter().map(|place| place % (whole.len() + 1)).collect();
    places.extend([0, whole.len()]);
    places.sort_unstable();
    places.windows(2).map(|place| &whole[place[0]..place[1]]).collect()
}

proptest! {
    #[test]
    fn an_answer_is_the_same_however_it_is_cut(
        text in "([ab]|ab|é|😀|canary-|secret-0123456789|canary-secret-0123456789){0,20}",
        in_texts in vec(0..200_usize, 0..9),
        in_bytes in vec(0..4000_usize, 0..20),
        end in "\n|\r|\r\n",
        as_list: bool,
    ) {
        let whole = read_whole(&data(&[&said(&text), END]));
        let chars: Vec<_> = text.char_indices().map(|(at, _)| at).collect();
        let places: Vec<_> = in_texts.iter().filter_map(|at| chars.get(*at).copied()).collect();
        let pieces = cut(text.as_bytes(), &places).into_iter().map(|piece| {
            said(std::str::from_utf8(piece).unwrap())
        });
        let events: Vec<_> = pieces.chain([END.to_owned()]).collect();
        let body = if as_list {
            format!("[{}]", events.join(&format!(",{end}")))
        } else {
            framed(&events, &end)
        };
        let (call, heard) = read_chunks(KEY, cut(body.as_bytes(), &in_bytes), None);
        prop_assert_eq!(&call, &whole.0);
        prop_assert_eq!(heard.concat(), text.replace(KEY, "[redacted]"));
        prop_assert_eq!(answer_text(&call.raw.unwrap()).unwrap(), heard.concat());
        prop_assert!(heard.iter().all(|piece| !piece.is_empty()));
    }
}

/// What the server does once it has written everything.
#[derive(Clone, Copy)]
enum Then {
    Close,
    Reset,
    Stall,
}

/// Serves one connection: writes the first of `writes`, each further one once something was heard.
async fn serve(
    listener: TcpListener,
    writes: Vec<String>,
    mut heard: mpsc::UnboundedReceiver<String>,
    then: Then,
) -> (String, Vec<String>) {
    let (mut socket, _) = listener.accept().await.unwrap();
    let (mut request, mut pieces) = (Vec::new(), Vec::new());
    while !request.ends_with(b"{}") {
        assert!(socket.read_buf(&mut request).await.unwrap() > 0);
    }
    for (count, write) in writes.iter().enumerate() {
        if count > 0 {
            pieces.extend(heard.recv().await);
        }
        socket.write_all(write.as_bytes()).await.unwrap();
    }
    match then {
        Then::Close => drop(socket),
        Then::Reset => {
            pieces.extend(heard.recv().await);
            socket.set_zero_linger().unwrap();
            drop(socket);
        }
        // Ends when the client hangs up.
        Then::Stall => drop(socket.read(&mut [0]).await),
    }
    while let Some(piece) = heard.recv().await {
        pieces.push(piece);
    }
    (String::from_utf8(request).unwrap(), pieces)
}

async fn call(writes: &[&str], then: Then, timeout: Duration) -> (Call, String, Vec<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap());
    let options = ClientOptions {
        base_url,
        request_timeout: timeout,
        proxy: None,
        plain: true,
        direct: true,
    };
    let client = Client::new(&options).unwrap();
    let (tell, heard) = mpsc::unbounded_channel();
    let writes = writes.iter().map(|&write| write.to_owned()).collect();
    let server = tokio::spawn(serve(listener, writes, heard, then));
    let hear = move |piece: &str| drop(tell.send(piece.to_owned()));
    let call = client.generate_stream(&ApiKey::new(KEY), "m", "{}".to_owned(), hear).await;
    let (request, heard) = server.await.unwrap();
    (call, request, heard)
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn text_is_heard_before_the_next_event_is_sent() {
    let first = format!("{HEAD}\r\ndata: {}\r\n\r", said("on"));
    let second = format!("\ndata: {}\n\ndata: {}\n\n", said("ce"), said(" upon"));
    let last = format!("data: {END}\r\r");
    let (call, request, heard) = call(&[&first, &second, &last], Then::Close, LONG).await;
    assert_eq!((call.outcome, call.paid), (Outcome::Answered, Paid::Yes));
    assert_eq!(heard, ["on", "ce", " upon"]);
    assert_eq!(call.usage.unwrap().total_tokens, 5);
    assert!(
        call.raw
            .unwrap()
            .starts_with(r#"{"candidates":[{"content":{"parts":[{"text":"once upon"}]}"#)
    );
    let line = "POST /v1beta/models/m:streamGenerateContent?alt=sse HTTP/1.1\r\n";
    assert!(request.starts_with(line), "{request}");
    assert!(request.contains(&format!("x-goog-api-key: {KEY}\r\n")), "{request}");
    assert!(request.contains("content-type: application/json\r\n"), "{request}");
}

#[tokio::test]
async fn a_connection_that_breaks_in_the_midst_leaves_what_came() {
    let event = data(&[&said("once")]);
    let network = Outcome::Failed(ErrorKind::Network);
    let timeout = Outcome::Failed(ErrorKind::Timeout);
    let open = format!("{HEAD}\r\n{event}");
    let sized = format!("{HEAD}content-length: 9000\r\n\r\n{event}");
    let chunked =
        format!("{HEAD}transfer-encoding: chunked\r\n\r\n{:x}\r\n{event}\r\n", event.len());
    for (answer, then, wanted, message) in [
        (&open, Then::Close, &network, "the stream ended before the answer did"),
        (&open, Then::Reset, &network, "the answer was cut: "),
        (&sized, Then::Close, &network, "the answer was cut: "),
        (&chunked, Then::Close, &network, "the answer was cut: "),
        (&chunked, Then::Stall, &timeout, "no whole answer within the time limit"),
    ] {
        let limit = if matches!(then, Then::Stall) { Duration::from_secs(2) } else { LONG };
        let (call, _, heard) = call(&[answer], then, limit).await;
        assert_eq!((&call.outcome, call.paid, call.http_status), (wanted, Paid::Maybe, Some(200)));
        assert!(call.message.as_deref().unwrap().starts_with(message), "{call:?}");
        assert_eq!(heard, ["once"]);
        assert!(call.raw.unwrap().contains("once"));
    }
}

#[tokio::test]
async fn an_error_in_the_midst_ends_the_call_at_once() {
    let first = format!("{HEAD}\r\n{}", data(&[&said("once")]));
    let (call, _, heard) = call(&[&first, &data(&[BUSY])], Then::Stall, LONG).await;
    assert_eq!(call.outcome, Outcome::Failed(ErrorKind::Overloaded));
    assert_eq!((call.http_status, call.paid), (Some(200), Paid::Maybe));
    assert_eq!(heard, ["once"]);
}

#[tokio::test]
async fn a_refusal_is_read_as_that_of_a_plain_call() {
    let body = format!("[{}]", BUSY.replace("503", "429"));
    let length = body.len();
    let start = format!("HTTP/1.1 429 Too Many\r\nretry-after: 7\r\ncontent-length: {length}");
    let (call, _, heard) = call(&[&format!("{start}\r\n\r\n{body}")], Then::Close, LONG).await;
    let delay = Some(Duration::from_secs(7));
    assert_eq!(call.outcome, Outcome::Exhausted(Exhaustion::Short { delay }));
    assert_eq!((call.paid, heard.len()), (Paid::No, 0));
    assert_eq!(call.message.as_deref(), Some("[redacted] is busy"));
}
