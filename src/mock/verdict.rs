//! What a call gets: the checks in the API's order, then the quota, the script, the answer.
//!
//! Synchronous; only counters change. Waiting and sending are `service`'s.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use axum::body::Bytes;
use serde::Serialize;
use serde_json::Value;

use super::answer::{Question, TokenDetail, details};
use super::canned::{Canned, Context};
use super::config::{Config, StreamConfig};
use super::desk::Desk;
use super::error::{self, Finding};
use super::keys::{Key, KeyRing};
use super::models::Models;
use super::parts::{self, RecordedPart};
use super::refusal::Refusal;
use super::reply::{JSON, Reply};
use super::route::{ModelMethod, Route, query};
use super::ruling;
use super::script::{MethodFilter, Script, Seen};
use super::sense::{self, Facts, member};
use super::stream::{self, Form, Twist};
use super::strict;

/// The file that a ready-made error names if the call names none.
pub(super) const SOME_FILE: &str = "abc123";

/// A call with what is known of it before anything is decided.
pub(super) struct Call<'a> {
    pub(super) route: Route<'a>,
    pub(super) uri: &'a axum::http::Uri,
    pub(super) key: Option<Cow<'a, str>>,
    pub(super) at_ms: i64,
    /// The body, or that it was larger than the limit.
    pub(super) body: Result<&'a Bytes, TooLarge>,
}

/// The body was larger than the limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct TooLarge;

/// A body that was read: its request, or what is wrong with it.
pub(super) struct Reading {
    document: Result<Value, Vec<Finding>>,
    pub(super) facts: Facts,
    pub(super) prompt_number: u64,
}

impl Reading {
    /// Returns the parts of the request as the log keeps them.
    pub(super) fn parts(&self, desk: &Desk, now: i64) -> Vec<RecordedPart> {
        let stored = |id: &str| desk.files(|shelf| shelf.any(id, now));
        self.document.as_ref().map(|it| parts::recorded(request_in(it), stored)).unwrap_or_default()
    }
}

/// What to do with a call.
pub(super) struct Verdict {
    pub(super) hold: bool,
    pub(super) delay_ms: u64,
    pub(super) reply: Reply,
    /// What comes after the first chunks of a streamed answer.
    pub(super) twist: Twist,
}

impl From<Reply> for Verdict {
    fn from(reply: Reply) -> Self {
        Self { hold: false, delay_ms: 0, reply, twist: Twist::default() }
    }
}

impl Verdict {
    /// Returns the verdict with its answer in chunks.
    fn streamed(mut self, form: Form, config: &StreamConfig) -> Self {
        self.reply = stream::streamed(self.reply, self.twist.clone(), form, config);
        self
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TokenTotal {
    total_tokens: u64,
    prompt_tokens_details: Vec<TokenDetail>,
}

impl Call<'_> {
    /// Reads the body.
    pub(super) fn read(&self) -> Reading {
        let message = match self.route {
            Route::Call { method: ModelMethod::CountTokens, .. } => "CountTokensRequest",
            Route::Call { .. } => "GenerateContentRequest",
            _ => "",
        };
        let document = match self.body {
            Ok(body) if !message.is_empty() => strict::read(message, body),
            _ => Ok(Value::Null),
        };
        let facts = document.as_ref().map(|value| Facts::of(request_in(value))).unwrap_or_default();
        let body: &[u8] = self.body.map_or(b"", |body| body);
        let prompt_number = super::book::prompt_number(&facts.prompt, body);
        Reading { document, facts, prompt_number }
    }

    fn pretty(&self) -> bool {
        let off = |value: String| matches!(value.as_str(), "false" | "0");
        !query(self.uri, "prettyPrint").is_some_and(off)
    }

    fn is_streamed(&self) -> bool {
        let method = ModelMethod::StreamGenerateContent;
        matches!(self.route, Route::Call { method: asked, .. } if asked == method)
    }

    /// Returns the form in which chunks are asked for.
    fn form(&self) -> Form {
        if query(self.uri, "alt").as_deref() == Some("sse") { Form::Events } else { Form::List }
    }

    fn method_filter(&self) -> MethodFilter {
        match self.route {
            Route::Call { method: ModelMethod::GenerateContent, .. } => {
                MethodFilter::GenerateContent
            }
            Route::Call { method: ModelMethod::StreamGenerateContent, .. } => {
                MethodFilter::StreamGenerateContent
            }
            Route::Call { method: ModelMethod::CountTokens, .. } => MethodFilter::CountTokens,
            Route::ModelList | Route::ModelInfo { .. } => MethodFilter::Models,
            Route::Files(_) | Route::Own(_) | Route::Unknown => MethodFilter::Any,
        }
    }
}

/// Returns the request that is meant: a `countTokens` may wrap it.
fn request_in(document: &Value) -> &Value {
    member(document, "generateContentRequest").unwrap_or(document)
}

/// Everything that decides.
pub(super) struct Judge {
    config: Config,
    pub(super) keys: KeyRing,
    models: Models,
    pub(super) script: Script,
    pub(super) desk: Desk,
    serial: AtomicU64,
}

impl Judge {
    pub(super) fn new(config: Config) -> Self {
        Self {
            keys: KeyRing::new(&config),
            models: Models::new(config.models.clone()),
            script: Script::new(config.script.clone()),
            desk: Desk::new(&config),
            serial: AtomicU64::new(0),
            config,
        }
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Sets all counters back.
    pub(super) fn reset(&self) {
        self.keys.reset();
        self.script.reset();
        self.desk.reset();
    }

    /// Decides what a call gets.
    pub(super) fn decide(&self, call: &Call<'_>, reading: &Reading) -> Verdict {
        let verdict = self.decide_plain(call, reading);
        if call.is_streamed() {
            verdict.streamed(call.form(), &self.config.stream)
        } else {
            verdict
        }
    }

    /// Decides what a call gets, without its form.
    fn decide_plain(&self, call: &Call<'_>, reading: &Reading) -> Verdict {
        let pretty = call.pretty();
        if call.route == Route::Unknown {
            return Reply::no_such_page(call.uri.path()).into();
        }
        let Ok(_) = call.body else {
            let error = error::payload_too_large(self.config.max_body_bytes);
            return Reply::error(&error, pretty).into();
        };
        let document = match &reading.document {
            Ok(document) => document,
            Err(found) => return Reply::error(&error::bad_request(found), pretty).into(),
        };
        let Some(secret) = call.key.as_deref().filter(|secret| !secret.is_empty()) else {
            return Reply::error(&error::unregistered(), pretty).into();
        };
        let key = self.keys.key(secret);
        let serial = self.serial.fetch_add(1, Relaxed);
        let context = self.context(call, reading, request_in(document), (secret, &key), serial);
        if let Some(fault) = key.fault {
            return fault.reply(&context).into();
        }
        if let Some(reply) = self.refused(call, reading, &context, &key) {
            return reply.into();
        }
        self.scripted(call, reading, &context)
    }

    fn context<'a>(
        &self,
        call: &Call<'a>,
        reading: &'a Reading,
        request: &'a Value,
        (secret, key): (&'a str, &Key),
        serial: u64,
    ) -> Context<'a> {
        let (version, method) = match call.route {
            Route::Call { version, method, .. } => (version, method.as_str()),
            Route::ModelInfo { version, .. } => (version, "getModel"),
            Route::ModelList | Route::Files(_) | Route::Own(_) | Route::Unknown => {
                ("v1beta", "listModels")
            }
        };
        let (facts, model) = (&reading.facts, call.route.model());
        Context {
            question: Question { request, facts, model, text: None, serial },
            key: secret,
            project: key.project_number(),
            tier: key.tier(),
            version,
            method,
            file: sense::first_file(request).unwrap_or(SOME_FILE),
            retry_delay: None,
            max_body_bytes: self.config.max_body_bytes,
            pretty: call.pretty(),
        }
    }

    /// Returns what the model or the quota says against a call.
    fn refused(
        &self,
        call: &Call<'_>,
        reading: &Reading,
        context: &Context<'_>,
        key: &Arc<Key>,
    ) -> Option<Reply> {
        let model = call.route.model();
        if !model.is_empty() && !self.models.has(model, context.version) {
            return Some(Canned::NoSuchModel.reply(context));
        }
        let Route::Call { method, .. } = call.route else {
            return None;
        };
        let check_file =
            |id: &str| self.desk.files(|shelf| shelf.check_use(id, context.project, call.at_ms));
        if let Some(error) = sense::refused(context.question.request, &reading.facts, check_file) {
            return Some(Reply::error(&error, context.pretty));
        }
        if method == ModelMethod::CountTokens {
            return None;
        }
        let excess = key.take(model, reading.facts.total(), call.at_ms);
        if excess.is_empty() {
            return None;
        }
        let (tier, detail) = (context.tier, self.config.quota_detail);
        let refusal = Refusal { excess: &excess, tier, model, detail, retry_delay: None };
        Some(Reply::error(&refusal.error(), context.pretty))
    }

    fn scripted(&self, call: &Call<'_>, reading: &Reading, context: &Context<'_>) -> Verdict {
        let latency = super::script::scramble(context.question.serial);
        let delay_ms = match call.route {
            Route::Call { method: ModelMethod::CountTokens, .. } => 0,
            Route::Call { .. } => self.config.latency_ms.pick(latency),
            _ => 0,
        };
        let seen = Seen {
            method: call.method_filter(),
            key: context.key,
            model: call.route.model(),
            prompt: &reading.facts.prompt,
            prompt_number: reading.prompt_number,
        };
        let Some(rule) = self.script.fires(&seen) else {
            return Verdict { delay_ms, ..self.usual(call, context).into() };
        };
        let question = Question { text: rule.text.as_deref(), ..context.question };
        let context = &Context { question, retry_delay: rule.retry_delay.as_deref(), ..*context };
        let delay_ms = delay_ms + rule.delay_ms;
        let own = ruling::own_reply(rule, context);
        if call.is_streamed() && rule.after_chunks.is_some() {
            let reply = Reply {
                headers: rule.headers.clone().into_iter().collect(),
                ..self.usual(call, context)
            };
            let twist = Twist::later(rule, own.map(|reply| reply.body));
            return Verdict { delay_ms, twist, ..reply.into() };
        }
        let reply = ruling::dressed(rule, own.unwrap_or_else(|| self.usual(call, context)));
        let twist = Twist::of_chunks(rule);
        Verdict { hold: rule.hold, delay_ms, reply, twist }
    }

    /// Returns the answer of a call that nothing is wrong with.
    fn usual(&self, call: &Call<'_>, context: &Context<'_>) -> Reply {
        let json = |body| Reply::new(200, JSON, body);
        match call.route {
            Route::Call { method: ModelMethod::CountTokens, .. } => {
                let facts = context.question.facts;
                let (total_tokens, prompt_tokens_details) = (facts.total(), details(facts));
                let total = TokenTotal { total_tokens, prompt_tokens_details };
                json(error::to_json(&total, context.pretty))
            }
            Route::Call { .. } => Reply::answer(&context.question.answer(), context.pretty),
            Route::ModelList => {
                let size = query(call.uri, "pageSize");
                let token = query(call.uri, "pageToken");
                match self.models.page(size.as_deref(), token.as_deref()) {
                    Ok(page) => json(error::to_json(&page, context.pretty)),
                    Err(error) => Reply::error(&error, context.pretty),
                }
            }
            Route::ModelInfo { model, .. } => {
                json(error::to_json(&Models::info(model), context.pretty))
            }
            Route::Files(_) | Route::Own(_) | Route::Unknown => {
                Reply::no_such_page(call.uri.path())
            }
        }
    }
}
