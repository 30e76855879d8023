//! An answer before it is sent, and the ways of sending it.
//!
//! Owns headers and broken deliveries. Decides nothing.

use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{
    CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, SERVER, VARY,
};
use axum::http::{Response, StatusCode};
use futures_util::stream::{self, Stream, StreamExt};
use tokio::sync::watch;

use super::answer::Answer;
use super::error::{self, ApiError};
use super::script::Fault;
use super::stream::Plan;
use super::wire::Wire;

/// The content type of JSON.
pub(super) const JSON: &str = "application/json; charset=UTF-8";
/// The content type of answers without a body.
const TEXT: &str = "text/plain; charset=utf-8";
/// The content type of the front end's pages.
pub(super) const HTML: &str = "text/html; charset=UTF-8";

/// The size of an answer that is to be too large, if none is given.
const HUGE: u64 = 300 * 1024 * 1024;
const CHUNK: usize = 64 * 1024;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) body: Bytes,
    pub(super) headers: Vec<(String, String)>,
    /// Whether a caller can use it: a candidate with content.
    pub(super) usable: bool,
    /// How it is broken on its way.
    pub(super) fault: Option<Fault>,
    /// The size of a huge body.
    pub(super) bytes: Option<u64>,
    /// The body in pieces that are sent one by one, where it is streamed.
    pub(super) stream: Option<Box<Plan>>,
}

impl Reply {
    pub(super) fn new(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let (headers, body) = (Vec::new(), body.into());
        Self {
            status,
            content_type,
            body,
            headers,
            usable: false,
            fault: None,
            bytes: None,
            stream: None,
        }
    }

    /// Returns an answer without a body.
    pub(super) fn empty(status: u16) -> Self {
        Self::new(status, TEXT, Bytes::new())
    }

    pub(super) fn error(error: &ApiError, pretty: bool) -> Self {
        Self::new(error.code, JSON, error.to_json(pretty))
    }

    pub(super) fn answer(answer: &Answer, pretty: bool) -> Self {
        let usable = answer.candidates.iter().any(|candidate| {
            candidate.content.as_ref().is_some_and(|content| !content.parts.is_empty())
        });
        Self { usable, ..Self::new(200, JSON, error::to_json(answer, pretty)) }
    }

    /// Returns the answer to a path that does not exist.
    pub(super) fn no_such_page(path: &str) -> Self {
        let path = path.replace('&', "&amp;").replace('<', "&lt;");
        let what = format!("The requested URL <code>{path}</code> was not found on this server.");
        Self::new(404, HTML, error::html_page(404, &what))
    }

    /// Returns whether the caller gets all of it.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.fault, None | Some(Fault::Redirect | Fault::EchoKey | Fault::NoUploadStatus))
    }

    /// Returns whether the caller gets at least its status.
    pub(super) fn has_status(&self) -> bool {
        !matches!(self.fault, Some(Fault::ResetBefore | Fault::StallBefore | Fault::CutUpload))
    }

    /// Returns the response; `stopping` ends what would otherwise never end.
    pub(super) fn into_response(
        self,
        wire: &Wire,
        stopping: &watch::Receiver<bool>,
    ) -> Response<Body> {
        let body = self.body.clone();
        let half = body.slice(..body.len() / 2);
        let (length, body) = match self.fault {
            None | Some(Fault::Redirect | Fault::EchoKey | Fault::NoUploadStatus) => {
                (None, Body::from(body))
            }
            Some(Fault::ResetBefore | Fault::CutUpload) => {
                wire.reset();
                (None, Body::empty())
            }
            Some(Fault::StallBefore) => (None, Body::empty()),
            Some(Fault::ResetAfterHeaders) => {
                (Some(body.len() as u64), Body::from_stream(reset_later(wire.clone())))
            }
            Some(Fault::CutBody | Fault::EndEarly) => {
                (Some(body.len() as u64), Body::from_stream(then_fail(half)))
            }
            Some(Fault::Stall) => {
                let stalled = stalling(half, stopping.clone());
                (Some(body.len() as u64), Body::from_stream(stalled))
            }
            Some(Fault::HugeBody) => (None, Body::from_stream(huge(self.bytes.unwrap_or(HUGE)))),
        };
        let mut response = Response::new(body);
        self.write_head(length, &mut response);
        response
    }

    /// Returns the response with a body that is sent piece by piece.
    pub(super) fn into_streamed(self, body: Body) -> Response<Body> {
        let mut response = Response::new(body);
        self.write_head(None, &mut response);
        response
    }

    fn write_head(&self, length: Option<u64>, response: &mut Response<Body>) {
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(VARY, HeaderValue::from_static("Origin, X-Origin, Referer"));
        headers.insert(SERVER, HeaderValue::from_static("scaffolding on HTTPServer2"));
        if let Some(length) = length {
            headers.insert(CONTENT_LENGTH, length.into());
        }
        if self.fault == Some(Fault::Redirect) {
            headers.insert(LOCATION, HeaderValue::from_static("/__elsewhere"));
        }
        for (name, value) in &self.headers {
            // A header that HTTP can't carry is left out.
            if let (Ok(name), Ok(value)) =
                (HeaderName::try_from(name.as_str()), HeaderValue::try_from(value.as_str()))
            {
                headers.insert(name, value);
            }
        }
    }
}

/// Waits until the stand-in stops.
pub(super) async fn stopped(mut stopping: watch::Receiver<bool>) {
    // An error means that the stand-in is gone, which is a stop as well.
    let _ = stopping.wait_for(|stop| *stop).await;
}

pub(super) fn cut() -> std::io::Error {
    std::io::ErrorKind::ConnectionAborted.into()
}

/// Gives the head time to be written, then resets the connection.
fn reset_later(wire: Wire) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
    stream::once(async move {
        tokio::task::yield_now().await;
        wire.reset();
        Err(cut())
    })
}

/// Gives `part` time to be written, then fails, which closes the connection.
fn then_fail(part: Bytes) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
    stream::once(async { Ok(part) }).chain(stream::once(async {
        tokio::task::yield_now().await;
        Err(cut())
    }))
}

fn stalling(
    part: Bytes,
    stopping: watch::Receiver<bool>,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
    stream::once(async { Ok(part) }).chain(stream::once(async {
        stopped(stopping).await;
        Err(cut())
    }))
}

/// An answer whose text goes on for `size` bytes.
fn huge(size: u64) -> impl Stream<Item = Result<Bytes, Infallible>> {
    const HEAD: &[u8] = b"{\"candidates\": [{\"content\": {\"parts\": [{\"text\": \"";
    const TAIL: &[u8] = b"\"}], \"role\": \"model\"}, \"finishReason\": \"STOP\", \"index\": 0}]}";
    let chunk = Bytes::from(vec![b'a'; CHUNK]);
    let middle = stream::unfold(size, move |left| {
        let take = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let part = chunk.slice(..take);
        std::future::ready((take > 0).then(|| (Ok(part), left - take as u64)))
    });
    let fixed = |bytes| stream::once(std::future::ready(Ok(Bytes::from_static(bytes))));
    fixed(HEAD).chain(middle).chain(fixed(TAIL))
}

/// Waits for `delay`, or until the stand-in stops; returns whether the time passed.
pub(super) async fn waited(delay: Duration, stopping: watch::Receiver<bool>) -> bool {
    if delay.is_zero() {
        return true;
    }
    let stop = pin!(stopped(stopping));
    tokio::time::timeout(delay, stop).await.is_err()
}
