//! An answer in chunks, as `streamGenerateContent` sends it.
//!
//! Pure: splits and encodes. Waiting and sending are `delivery`'s.

use axum::body::Bytes;
use serde_json::{Map, Value, json};

use super::config::{Latency, StreamConfig};
use super::reply::{JSON, Reply};
use super::script::{Fault, Rule};

/// The content type of a stream of events.
const EVENTS: &str = "text/event-stream";

/// The form of chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `alt=sse`: one event each.
    Events,
    /// One JSON list of all.
    List,
}

/// What comes after the first chunks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Twist {
    /// After how many; a fault that names none comes after half of them.
    after: Option<usize>,
    hold: bool,
    hold_chunks: bool,
    /// The body of an error, which ends the stream.
    error: Option<Bytes>,
    bare: bool,
    fault: Option<Fault>,
}

impl Twist {
    /// Returns what a rule does to the chunks of an answer that it leaves whole.
    pub(super) fn of_chunks(rule: &Rule) -> Self {
        Self { hold_chunks: rule.hold_chunks, ..Self::default() }
    }

    /// Returns what a rule does after some chunks, and the body of its own reply.
    pub(super) fn later(rule: &Rule, error: Option<Bytes>) -> Self {
        Self {
            after: rule.after_chunks,
            hold: rule.hold,
            hold_chunks: rule.hold_chunks,
            error,
            bare: rule.bare,
            fault: rule.fault,
        }
    }
}

/// One piece that goes to the network by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) bytes: Bytes,
    /// How many chunks are sent with its end.
    pub(super) chunks: u64,
    /// Whether it waits for a release.
    pub(super) hold: bool,
    /// Whether it takes the time of a chunk.
    pub(super) begins_chunk: bool,
}

/// How a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// In order.
    Whole,
    /// Closed without an end.
    Cut,
    /// A TCP reset.
    Reset,
    /// Not at all.
    Stall,
}

/// A streamed body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) delay: Latency,
    /// Whether the end waits for a release.
    pub(super) holds_end: bool,
    pub(super) ending: Ending,
}

/// Returns a reply as a stream's: chunks of an answer, or an error in the form asked for.
pub(super) fn streamed(reply: Reply, twist: Twist, form: Form, config: &StreamConfig) -> Reply {
    let kept = matches!(
        reply.fault,
        None | Some(Fault::CutBody | Fault::ResetAfterHeaders | Fault::Stall | Fault::EndEarly)
    );
    let answer = serde_json::from_slice::<Value>(&reply.body).ok();
    let answer = answer.filter(|_| reply.status == 200 && kept);
    let Some(answer) = answer.filter(|answer| answer.get("error").is_none()) else {
        return refused(reply, form);
    };
    let twist = Twist { fault: twist.fault.or(reply.fault), ..twist };
    let chunks = chunks(&answer, config.chunk_chars.get());
    let (events, ending) = events(&chunks, &twist, form, config);
    let whole = ending == Ending::Whole && events.len() == chunks.len() && twist.error.is_none();
    Reply {
        content_type: if form == Form::Events { EVENTS } else { JSON },
        usable: reply.usable && whole && twist.fault.is_none(),
        fault: None,
        stream: Some(Box::new(plan(&events, ending, &twist, config))),
        ..reply
    }
}

/// Returns what is no answer: where a list is asked for, an error is one in a list.
fn refused(reply: Reply, form: Form) -> Reply {
    let is_json = reply.content_type == JSON && reply.body.starts_with(b"{");
    if form == Form::Events || !is_json {
        return reply;
    }
    let body = [b"[", reply.body.trim_ascii_end(), b"]\n"].concat();
    Reply { body: body.into(), ..reply }
}

/// Splits an answer: each chunk has only new text, the last one says how it ended and what it cost.
fn chunks(answer: &Value, letters: usize) -> Vec<Value> {
    let mut chunks = Vec::new();
    for candidate in answer["candidates"].as_array().into_iter().flatten() {
        let parts = candidate["content"]["parts"].as_array();
        let pieces: Vec<Value> =
            parts.into_iter().flatten().flat_map(|part| pieces(part, letters)).collect();
        let last = pieces.len().saturating_sub(1);
        for (place, piece) in pieces.into_iter().enumerate() {
            let content = json!({"parts": [piece], "role": "model"});
            let mut chunk = Map::new();
            chunk.insert("content".to_owned(), content);
            for (name, value) in candidate.as_object().into_iter().flatten() {
                if name == "index" || (place == last && name != "content") {
                    chunk.insert(name.clone(), value.clone());
                }
            }
            chunks.push(json!({"candidates": [chunk]}));
        }
        if parts.is_none_or(Vec::is_empty) {
            chunks.push(json!({"candidates": [candidate]}));
        }
    }
    if chunks.is_empty() {
        return vec![answer.clone()];
    }
    let last = chunks.len() - 1;
    for (place, chunk) in chunks.iter_mut().enumerate() {
        for (name, value) in answer.as_object().into_iter().flatten() {
            let value = match name.as_str() {
                "candidates" => continue,
                "usageMetadata" if place < last => json!({
                    "promptTokenCount": value["promptTokenCount"],
                    "totalTokenCount": value["promptTokenCount"],
                }),
                _ => value.clone(),
            };
            chunk[name] = value;
        }
    }
    chunks
}

/// Splits a part that is text.
fn pieces(part: &Value, letters: usize) -> Vec<Value> {
    let Some(text) = part["text"].as_str().filter(|text| !text.is_empty()) else {
        return vec![part.clone()];
    };
    let all: Vec<char> = text.chars().collect();
    all.chunks(letters)
        .map(|letters| {
            let mut piece = part.clone();
            piece["text"] = letters.iter().collect::<String>().into();
            piece
        })
        .collect()
}

/// Returns the chunks that are sent, encoded, and how the stream ends.
fn events(
    chunks: &[Value],
    twist: &Twist,
    form: Form,
    config: &StreamConfig,
) -> (Vec<Vec<u8>>, Ending) {
    let ends_early = twist.fault.is_some() || twist.error.is_some();
    let sent = match twist.after {
        Some(after) => after.min(chunks.len()),
        None => chunks.len() / 2,
    };
    let sent = if ends_early { sent } else { chunks.len() };
    let end = config.line_end.as_str();
    let encode = |place: usize, json: String| match form {
        Form::Events => format!("data: {json}{end}{end}").into_bytes(),
        Form::List if place == 0 => format!("[{json}").into_bytes(),
        Form::List => format!("{end},{end}{json}").into_bytes(),
    };
    let mut events: Vec<Vec<u8>> = chunks[..sent]
        .iter()
        .enumerate()
        .map(|(place, chunk)| encode(place, chunk.to_string()))
        .collect();
    if let Some(error) = &twist.error {
        let json = serde_json::from_slice::<Value>(error).map(|error| error.to_string());
        let json = json.unwrap_or_else(|_| String::from_utf8_lossy(error).into_owned());
        let bare = twist.bare && form == Form::Events;
        events.push(if bare { json.into_bytes() } else { encode(sent, json) });
    }
    let ending = match twist.fault {
        Some(Fault::CutBody) => {
            // In the middle of the next one.
            let next = chunks.get(sent).map(|chunk| encode(sent, chunk.to_string()));
            events.extend(next.map(|next| next[..next.len() / 2].to_vec()));
            Ending::Cut
        }
        Some(Fault::ResetAfterHeaders) => Ending::Reset,
        Some(Fault::Stall) => Ending::Stall,
        _ => Ending::Whole,
    };
    if form == Form::List && ending == Ending::Whole {
        match events.last_mut() {
            Some(last) => last.extend_from_slice(format!("]{end}").as_bytes()),
            None => events.push(format!("[]{end}").into_bytes()),
        }
    }
    (events, ending)
}

/// Returns what goes to the network at a time.
fn plan(events: &[Vec<u8>], ending: Ending, twist: &Twist, config: &StreamConfig) -> Plan {
    let mut steps = Vec::new();
    let mut sent = 0;
    // What waits is the first piece that comes after enough chunks, or else the end.
    let mut hold_after = twist.after.filter(|_| twist.hold);
    let together = if twist.hold_chunks { 1 } else { config.events_per_write.get() };
    for group in events.chunks(together) {
        let holds = hold_after.take_if(|after| sent >= *after).is_some();
        let hold = twist.hold_chunks || holds;
        sent += group.len();
        let bytes = Bytes::from(group.concat());
        let size = config.split_bytes.map_or(bytes.len(), std::num::NonZeroUsize::get).max(1);
        let starts: Vec<usize> = (0..bytes.len()).step_by(size).collect();
        for &start in &starts {
            let end = (start + size).min(bytes.len());
            let is_last = end == bytes.len();
            steps.push(Step {
                bytes: bytes.slice(start..end),
                chunks: if is_last { group.len() as u64 } else { 0 },
                hold: hold && start == 0,
                begins_chunk: start == 0,
            });
        }
    }
    Plan { steps, delay: config.chunk_delay_ms, holds_end: hold_after.is_some(), ending }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::super::config::LineEnd;
    use super::*;

    fn answer(text: &str) -> Value {
        json!({
            "candidates": [{"content": {"parts": [
                {"text": "plan", "thought": true}, {"text": text}], "role": "model"},
                "finishReason": "STOP", "index": 0}],
            "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2,
                "totalTokenCount": 5},
            "modelVersion": "m",
        })
    }

    fn reply(answer: &Value) -> Reply {
        Reply { usable: true, ..Reply::new(200, JSON, answer.to_string()) }
    }

    fn sent(reply: &Reply) -> String {
        let steps = &reply.stream.as_ref().unwrap().steps;
        let bytes: Vec<u8> = steps.iter().flat_map(|step| step.bytes.to_vec()).collect();
        String::from_utf8(bytes).unwrap()
    }

    fn config(letters: usize) -> StreamConfig {
        let chunk_chars = NonZeroUsize::new(letters).unwrap();
        StreamConfig { chunk_chars, ..StreamConfig::default() }
    }

    fn events(text: &str) -> Vec<Value> {
        let lines = text.split("\r\n\r\n").filter(|event| !event.is_empty());
        lines
            .map(|line| serde_json::from_str(line.strip_prefix("data: ").unwrap()).unwrap())
            .collect()
    }

    #[test]
    fn each_chunk_has_new_text_and_the_last_one_the_end() {
        let reply = streamed(reply(&answer("aäb")), Twist::default(), Form::Events, &config(2));
        assert_eq!((reply.content_type, reply.usable), ("text/event-stream", true));
        let events = events(&sent(&reply));
        let text = |event: &Value| event["candidates"][0]["content"]["parts"][0]["text"].clone();
        assert_eq!(events.iter().map(text).collect::<Vec<_>>(), ["pl", "an", "aä", "b"]);
        assert_eq!(events[0]["candidates"][0]["content"]["parts"][0]["thought"], true);
        let first = json!({"promptTokenCount": 3, "totalTokenCount": 3});
        assert_eq!(events[0]["usageMetadata"], first);
        assert_eq!(events[0]["candidates"][0].get("finishReason"), None);
        assert_eq!(events[3]["usageMetadata"]["totalTokenCount"], 5);
        assert_eq!(events[3]["candidates"][0]["finishReason"], "STOP");
        assert!(events.iter().all(|event| event["modelVersion"] == "m"));
    }

    #[test]
    fn an_answer_without_text_is_one_chunk() {
        let blocked = json!({"promptFeedback": {"blockReason": "OTHER"}, "modelVersion": "m"});
        let empty = json!({"candidates": [{"finishReason": "SAFETY", "index": 0}]});
        for answer in [blocked, empty] {
            let reply = streamed(reply(&answer), Twist::default(), Form::Events, &config(2));
            assert_eq!(events(&sent(&reply)), [answer]);
        }
    }

    #[test]
    fn without_sse_chunks_and_errors_are_lists() {
        let whole = streamed(reply(&answer("ab")), Twist::default(), Form::List, &config(2));
        let list: Value = serde_json::from_str(&sent(&whole)).unwrap();
        assert_eq!((list.as_array().unwrap().len(), whole.content_type), (3, JSON));
        let error = Reply::new(503, JSON, r#"{"error": {}}"#);
        let error = |form| streamed(error.clone(), Twist::default(), form, &config(2));
        assert_eq!(&error(Form::List).body[..], b"[{\"error\": {}}]\n");
        assert_eq!(&error(Form::Events).body[..], b"{\"error\": {}}");
    }

    #[test]
    fn an_error_or_a_cut_comes_after_some_chunks() {
        let twist = |bare| Twist {
            after: Some(1),
            error: Some(Bytes::from_static(b"{\"error\": 1}")),
            bare,
            ..Twist::default()
        };
        let after = |twist| streamed(reply(&answer("ab")), twist, Form::Events, &config(2));
        let marked = after(twist(false));
        assert!(sent(&marked).ends_with("}\r\n\r\ndata: {\"error\":1}\r\n\r\n"));
        assert!(!marked.usable);
        assert!(sent(&after(twist(true))).ends_with("}\r\n\r\n{\"error\":1}"));
        let fault = |fault| Twist { fault: Some(fault), ..Twist::default() };
        let early = after(fault(Fault::EndEarly));
        assert_eq!(events(&sent(&early)).len(), 1);
        assert_eq!((early.usable, early.stream.unwrap().ending), (false, Ending::Whole));
        let cut = after(fault(Fault::CutBody));
        assert!(!sent(&cut).ends_with('\n'));
        assert_eq!(cut.stream.unwrap().ending, Ending::Cut);
    }

    #[test]
    fn the_network_gets_it_in_pieces_of_any_size() {
        let split =
            StreamConfig { split_bytes: NonZeroUsize::new(7), line_end: LineEnd::Cr, ..config(1) };
        let cut = streamed(reply(&answer("ä")), Twist::default(), Form::Events, &split);
        let steps = &cut.stream.as_ref().unwrap().steps;
        assert!(steps.iter().all(|step| step.bytes.len() <= 7));
        assert_eq!(steps.iter().map(|step| step.chunks).sum::<u64>(), 5);
        assert_eq!(steps.iter().filter(|step| step.begins_chunk).count(), 5);
        assert_eq!(sent(&cut).matches("\r\r").count(), 5);
        let joined = StreamConfig { events_per_write: NonZeroUsize::new(3).unwrap(), ..config(1) };
        let joined = streamed(reply(&answer("ä")), Twist::default(), Form::Events, &joined);
        assert_eq!(joined.stream.unwrap().steps.len(), 2);
    }

    #[test]
    fn chunks_wait_for_a_release_each_or_one_of_them_does() {
        let holds = |twist| {
            let reply = streamed(reply(&answer("ab")), twist, Form::Events, &config(2));
            let steps = reply.stream.unwrap().steps;
            steps.iter().map(|step| step.hold).collect::<Vec<_>>()
        };
        let each = Twist { hold_chunks: true, ..Twist::default() };
        assert_eq!(holds(each), [true; 3]);
        let one = Twist { hold: true, after: Some(1), ..Twist::default() };
        assert_eq!(holds(one.clone()), [false, true, false]);
        let early = Twist { fault: Some(Fault::EndEarly), ..one };
        let reply = streamed(reply(&answer("ab")), early, Form::List, &config(2));
        assert!(serde_json::from_str::<Value>(&sent(&reply)).is_ok());
        assert!(reply.stream.unwrap().holds_end);
    }
}
