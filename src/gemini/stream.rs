//! One streamed call: its answer is told piece by piece, and comes to the same as that of a plain
//! call. Only the shell here waits; what the bytes mean is decided without it.

mod events;
mod merge;

use std::ops::ControlFlow;

use reqwest::Response;

use crate::gemini::client::{ApiKey, Client, each_chunk, not_sent, read, unsendable};
use crate::gemini::error::{Call, classify, classify_stream};
use crate::gemini::redact::{self, Pieces};
use crate::gemini::stream::events::Events;
use crate::gemini::stream::merge::Merged;
use crate::gemini::wire::answer_text;

impl Client {
    /// Sends one streamGenerateContent request and tells `hear` each new piece of the first
    /// candidate's text (without thoughts), as it comes.
    pub async fn generate_stream(
        &self,
        key: &ApiKey,
        model: &str,
        body: String,
        hear: impl FnMut(&str) + Send,
    ) -> Call {
        let method = ("streamGenerateContent", Some("alt=sse"));
        let Some(request) = self.post(key, model, method, body) else {
            return unsendable();
        };
        match request.send().await {
            Ok(response) if response.status() == 200 => listen(response, key, hear).await,
            Ok(response) => read(response, key).await,
            Err(error) => not_sent(error),
        }
    }
}

async fn listen(mut response: Response, key: &ApiKey, hear: impl FnMut(&str) + Send) -> Call {
    let mut stream = Stream::new(key.expose(), hear);
    let fault = each_chunk(&mut response, |chunk| stream.push(chunk)).await;
    stream.finish(fault)
}

/// An answer of which some may still come: takes its bytes as events are sent, in pieces of any size.
pub struct Stream<'a, H> {
    secret: &'a str,
    events: Events,
    /// The bytes have ended, so what is no JSON may have been cut.
    is_over: bool,
    merged: Merged<'a>,
    pieces: Pieces<'a>,
    hear: H,
    /// What an event that is no JSON comes to; nothing after it counts.
    garbled: Option<Call>,
}

impl<'a, H: FnMut(&str)> Stream<'a, H> {
    /// Begins one; `hear` is told the text, in which `secret` is masked.
    pub fn new(secret: &'a str, hear: H) -> Self {
        Self {
            secret,
            events: Events::default(),
            is_over: false,
            merged: Merged::new(secret),
            pieces: Pieces::new(secret),
            hear,
            garbled: None,
        }
    }

    /// Takes the next bytes; breaks when nothing more can count.
    pub fn push(&mut self, bytes: &[u8]) -> ControlFlow<()> {
        for event in self.events.push(bytes) {
            self.take(&event);
        }
        if self.is_decided() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn is_decided(&self) -> bool {
        self.garbled.is_some() || self.merged.error().is_some()
    }

    fn take(&mut self, event: &[u8]) {
        // Other APIs end a stream so, and a proxy may.
        if self.is_decided() || matches!(event.trim_ascii(), b"" | b"[DONE]") {
            return;
        }
        match self.merged.add(event) {
            Ok(text) => {
                let piece = self.pieces.push(&text);
                self.tell(&piece);
            }
            Err(_) if self.is_over => self.garbled = Some(Call::stopped_short()),
            Err(_) => self.garbled = Some(Call::malformed("holds an event that is no response")),
        }
    }

    fn tell(&mut self, piece: &str) {
        if !piece.is_empty() {
            (self.hear)(piece);
        }
    }

    /// Returns what the call came to; `fault` is what ended it before its time.
    pub fn finish(mut self, fault: Option<Call>) -> Call {
        self.is_over = true;
        // An error counts although the connection broke before its event had ended.
        for event in self.events.finish() {
            self.take(&event);
        }
        let held = self.pieces.finish();
        self.tell(&held);
        let raw = self.merged.masked_json();
        if !self.merged.has_first()
            && let Some(text) = raw.as_deref().and_then(answer_text)
        {
            self.tell(&text);
        }
        self.judged(fault, raw.as_deref())
            .map_message(|message| redact::error_text(&message, self.secret))
    }

    fn judged(&mut self, fault: Option<Call>, raw: Option<&str>) -> Call {
        let fault = fault.map(|call| Call { http_status: Some(200), ..call });
        let Some(raw) = raw else {
            let blank = self.events.is_blank();
            let what = if blank { "is empty" } else { "is no JSON, or was cut" };
            return fault.unwrap_or_else(|| Call::malformed(what));
        };
        if let Some(error) = self.merged.error() {
            // Alone, it is read whatever came before it.
            return classify(200, None, &format!("{{\"error\":{error}}}")).keeping(raw);
        }
        classify_stream(raw, fault.or(self.garbled.take()))
    }
}

#[cfg(test)]
mod tests;
