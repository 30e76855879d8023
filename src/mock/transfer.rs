//! The Files API over HTTP: reads calls and streams the chunks of uploads.
//!
//! Owns how far a body is read, and the lines of the log. Decides nothing.

use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::header::CONTENT_LENGTH;
use axum::http::request::Parts;
use chrono::Utc;
use futures_util::StreamExt;

use super::book::prompt_number;
use super::error::{self, invalid_argument};
use super::filing::{Caller, Ruling, Subject};
use super::ledger::{FileCounts, FileRequest, Line};
use super::order::{Command, header};
use super::reply::Reply;
use super::route::{FileCall, query};
use super::script::MethodFilter;
use super::service::{Shared, carry_out, receive};
use super::upload::{Begun, Chunk, Turn, Upload};
use super::verdict::Verdict;

/// Answers one call.
pub(super) async fn serve(shared: &Shared, call: FileCall<'_>, parts: &Parts, body: Body) -> Reply {
    let upload_id = query(&parts.uri, "upload_id");
    let reply = match (call, upload_id) {
        (FileCall::Upload, Some(id)) => to_upload(shared, &id, parts, body).await,
        (FileCall::Upload, None) => start(shared, parts, body).await,
        _ => look_up(shared, call, parts, body).await,
    };
    // Nobody reads the answer to a call that broke off.
    reply.unwrap_or_else(|Broken| Reply::empty(400))
}

/// The client broke off.
struct Broken;

/// The log's line of a call; it is written when the call ends, however that happens.
struct Ticket<'a> {
    shared: &'a Shared,
    line: Line,
    bytes: u64,
    status: u16,
}

impl<'a> Ticket<'a> {
    fn new(shared: &'a Shared, command: &str, key: &str, file: &str, offset: Option<u64>) -> Self {
        let (command, key, file) = (command.to_owned(), key.into(), file.to_owned());
        let request = FileRequest { command, key, file, offset, bytes: 0, status: 0 };
        let line = shared.judge.desk.ledger.arrived(request);
        shared.book.notify();
        Self { shared, line, bytes: 0, status: 0 }
    }

    fn count(&self, change: impl FnOnce(&mut FileCounts)) {
        self.shared.judge.desk.ledger.count(self.line, change);
        self.shared.book.notify();
    }

    /// Waits as the verdict says, and notes the status.
    async fn answer(mut self, verdict: Verdict) -> Reply {
        let reply = carry_out(self.shared, verdict).await;
        if reply.has_status() {
            self.status = reply.status;
        }
        reply
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.shared.judge.desk.ledger.ended(self.line, self.bytes, self.status);
        self.shared.book.notify();
    }
}

/// Answers a question for files, or removes one.
async fn look_up(
    shared: &Shared,
    call: FileCall<'_>,
    parts: &Parts,
    body: Body,
) -> Result<Reply, Broken> {
    let judge = &shared.judge;
    receive(body, judge.config().max_body_bytes).await.ok_or(Broken)?.ok();
    let (command, file) = match call {
        FileCall::Get(file) => ("get", file),
        FileCall::Delete(file) => ("delete", file),
        FileCall::List | FileCall::Upload => ("list", ""),
    };
    let caller = Caller::of(parts);
    let ticket = Ticket::new(shared, command, &caller.secret, file, None);
    let stored = judge.desk.files(|shelf| shelf.any(file, Utc::now().timestamp_millis()));
    let display_name = stored.as_ref().map_or("", |file| &*file.content.display_name);
    let number = prompt_number(file, b"");
    let subject = Subject { method: MethodFilter::Files, file, display_name, number };
    let verdict = caller.looked_up(judge, &subject, |caller, project, now| match call {
        FileCall::Get(id) => {
            let found = judge.desk.files(|shelf| shelf.get(id, project, now));
            found.map(|file| caller.file(&file, now))
        }
        FileCall::Delete(id) => {
            judge.desk.files(|shelf| shelf.delete(id, project, now)).map(|()| caller.nothing())
        }
        FileCall::List | FileCall::Upload => caller.list(judge, project, now),
    });
    Ok(ticket.answer(verdict).await)
}

/// Starts an upload.
async fn start(shared: &Shared, parts: &Parts, body: Body) -> Result<Reply, Broken> {
    let judge = &shared.judge;
    let received = receive(body, judge.config().max_body_bytes).await.ok_or(Broken)?;
    let caller = Caller::of(parts);
    let serial = judge.desk.next();
    let body = received.as_deref().map_err(|&large| large);
    let ordered = caller.ordered(judge, body, judge.desk.fresh_id(serial));
    let order = ordered.as_ref().ok().and_then(|order| order.as_ref().ok());
    let file = order.map_or("", |order| &order.id).to_owned();
    let display_name = order.map_or("", |order| &order.display_name).to_owned();
    let command = header(&parts.headers, "x-goog-upload-command").unwrap_or_default();
    let ticket = Ticket::new(shared, command, &caller.secret, &file, None);
    let verdict = match ordered {
        Err(error) => caller.refusal(&error).into(),
        Ok(order) => {
            let method = MethodFilter::Upload;
            let subject =
                Subject { method, file: &file, display_name: &display_name, number: serial };
            caller.looked_up(judge, &subject, |caller, project, now| {
                let id = judge.desk.open(order?, &caller.secret, project, (serial, now))?;
                ticket.count(|counts| counts.started += 1);
                Ok(caller.opened(&id))
            })
        }
    };
    Ok(ticket.answer(verdict).await)
}

/// Answers a request to an upload that was started.
async fn to_upload(
    shared: &Shared,
    upload_id: &str,
    parts: &Parts,
    body: Body,
) -> Result<Reply, Broken> {
    let judge = &shared.judge;
    let text = header(&parts.headers, "x-goog-upload-command").unwrap_or_default();
    let number = |name| header(&parts.headers, name).and_then(|text| text.parse().ok());
    let offset = number("x-goog-upload-offset");
    let caller = Caller::of(parts);
    let Some(upload) = judge.desk.upload(upload_id) else {
        let ticket = Ticket::new(shared, text, &caller.secret, "", offset);
        let mut incoming = Incoming::new(ticket, body);
        incoming.drain().await?;
        return Ok(incoming.ticket.answer(caller.refusal(&error::not_found()).into()).await);
    };
    let (caller, order, serial) = {
        let upload = locked(&upload);
        (caller.on_behalf_of_starter(&upload), upload.order.clone(), upload.serial)
    };
    let ticket = Ticket::new(shared, text, &caller.secret, &order.id, offset);
    let mut incoming = Incoming::new(ticket, body);
    let command = Command::of(text);
    let method = match command {
        Some(Command::Upload | Command::Finalize) => MethodFilter::Upload,
        Some(Command::Start | Command::Query | Command::Cancel) | None => MethodFilter::Files,
    };
    let (file, display_name) = (&*order.id, &*order.display_name);
    let mut ruling = caller.ruling(judge, &Subject { method, file, display_name, number: serial });
    let visit = Visit { shared, caller, upload_id, upload: &upload };
    let reply = if let Some(own) = ruling.own.take() {
        incoming.drain().await?;
        own
    } else if method == MethodFilter::Upload {
        let length = number(CONTENT_LENGTH.as_str());
        let chunk = Chunk { offset, length, last: command == Some(Command::Finalize) };
        visit.chunk(chunk, &ruling, &mut incoming).await?
    } else {
        incoming.drain().await?;
        visit.control(command)
    };
    Ok(incoming.ticket.answer(ruling.verdict(reply)).await)
}

/// A request to an upload.
struct Visit<'a> {
    shared: &'a Shared,
    caller: Caller<'a>,
    upload_id: &'a str,
    upload: &'a Mutex<Upload>,
}

impl Visit<'_> {
    /// Takes a chunk, or half of it.
    async fn chunk(
        &self,
        chunk: Chunk,
        ruling: &Ruling<'_>,
        incoming: &mut Incoming<'_>,
    ) -> Result<Reply, Broken> {
        let begun = locked(self.upload).begin(chunk);
        let turn = match begun {
            Ok(Begun::Turn(turn)) => turn,
            Ok(Begun::Done(file)) => {
                incoming.drain().await?;
                return Ok(self.caller.finished(&self.shared.judge, &file));
            }
            Err(error) => {
                incoming.drain().await?;
                return Ok(self.caller.upload_refusal(&locked(self.upload), &error));
            }
        };
        let limit = ruling.cuts().then(|| chunk.length.unwrap_or_default() / 2);
        incoming.take(self.upload, turn, limit).await?;
        if limit.is_some() {
            // Never sent: the connection is reset in its place.
            return Ok(Reply::empty(200));
        }
        Ok(self.end(turn, chunk, &incoming.ticket))
    }

    fn end(&self, turn: Turn, chunk: Chunk, ticket: &Ticket<'_>) -> Reply {
        let mut upload = locked(self.upload);
        if let Err(error) = upload.end(turn, chunk.last) {
            return self.caller.upload_refusal(&upload, &error);
        }
        ticket.count(|counts| counts.chunks += u64::from(ticket.bytes > 0));
        if !chunk.last {
            return Caller::taken(&upload);
        }
        let now = Utc::now().timestamp_millis();
        match self.shared.judge.desk.finish(self.upload_id, &mut upload, now) {
            Ok(file) => {
                ticket.count(|counts| counts.finished += 1);
                self.caller.finished(&self.shared.judge, &file)
            }
            Err(error) => self.caller.upload_refusal(&upload, &error),
        }
    }

    /// Answers what brings no bytes.
    fn control(&self, command: Option<Command>) -> Reply {
        let mut upload = locked(self.upload);
        let done = match command {
            Some(Command::Query) => {
                upload.query();
                Ok(())
            }
            Some(Command::Cancel) => upload.cancel(),
            _ => Err(invalid_argument("Invalid upload command.")),
        };
        match done {
            Ok(()) => Caller::progress(&upload),
            Err(error) => self.caller.upload_refusal(&upload, &error),
        }
    }
}

/// The body of a request to an upload, of which nothing is kept.
struct Incoming<'a> {
    ticket: Ticket<'a>,
    stream: BodyDataStream,
}

impl<'a> Incoming<'a> {
    fn new(ticket: Ticket<'a>, body: Body) -> Self {
        Self { ticket, stream: body.into_data_stream() }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        let Some(bytes) = self.stream.next().await.transpose().map_err(|_| Broken)? else {
            return Ok(None);
        };
        self.ticket.bytes += bytes.len() as u64;
        Ok(Some(bytes))
    }

    /// Reads to the end.
    async fn drain(&mut self) -> Result<(), Broken> {
        while self.next().await?.is_some() {}
        Ok(())
    }

    /// Gives bytes to the upload as they come, so that those before a break count; up to `limit`
    /// bytes or the end. Once the upload takes no more, the rest is dropped.
    async fn take(
        &mut self,
        upload: &Mutex<Upload>,
        turn: Turn,
        limit: Option<u64>,
    ) -> Result<(), Broken> {
        let mut left = limit.unwrap_or(u64::MAX);
        while left > 0 {
            let Some(mut bytes) = self.next().await? else {
                break;
            };
            bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            left -= bytes.len() as u64;
            if locked(upload).take(turn, &bytes).is_ok() {
                self.ticket.count(|counts| counts.bytes += bytes.len() as u64);
            }
        }
        Ok(())
    }
}

fn locked(upload: &Mutex<Upload>) -> MutexGuard<'_, Upload> {
    upload.lock().unwrap_or_else(PoisonError::into_inner)
}
