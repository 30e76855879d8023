//! One call to the API: from a claimed job to what it came to.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Deserialize;

use crate::clock;
use crate::domain::outcome::{ErrorKind, Outcome, Paid, Usage};
use crate::domain::output::{Compiled, OutputSchema};
use crate::domain::price::Prices;
use crate::domain::time::Timestamp;
use crate::domain::tokens;
use crate::gemini::client::{ApiKey, Client};
use crate::gemini::error::Call;
use crate::gemini::wire;
use crate::store::{AtClaim, Claimed, ClaimedMedia, Ended, Store};
use crate::worker::media::{self, in_thread};
use crate::worker::transcripts::Scribe;

/// A key that a worker may use.
#[derive(Debug, Clone)]
pub struct WorkerKey {
    /// Its row.
    pub id: i64,
    /// The variable's name.
    pub name: String,
    /// The secret.
    pub secret: ApiKey,
    /// Whether its calls cost nothing.
    pub is_free: bool,
}

/// What an attempt's end is told about besides the answer.
#[derive(Debug, Clone)]
pub(super) struct Started {
    pub(super) job: i64,
    pub(super) claim: i64,
    pub(super) key: i64,
    pub(super) model: i64,
    pub(super) model_name: String,
    pub(super) task_id: String,
    pub(super) priority: i64,
    at_claim: AtClaim,
    pub(super) started_at: Timestamp,
    claimed_at: Timestamp,
    reserved: i64,
}

impl Started {
    pub(super) fn new(claimed: &Claimed) -> Self {
        Self {
            job: claimed.job,
            claim: claimed.claim,
            key: claimed.key,
            model: claimed.model,
            model_name: claimed.model_name.clone(),
            task_id: claimed.task_id.clone(),
            priority: claimed.priority,
            at_claim: claimed.at_claim,
            started_at: clock::now(),
            claimed_at: claimed.claimed_at,
            reserved: claimed.reserved,
        }
    }

    /// Returns the end of an attempt that brought no answer.
    pub(super) fn ended(&self, outcome: Outcome, message: Option<String>) -> Ended {
        Ended {
            job: self.job,
            claim: self.claim,
            key: self.key,
            model: self.model,
            at_claim: self.at_claim,
            started_at: self.started_at,
            ended_at: clock::now(),
            outcome,
            http_status: None,
            message,
            paid: Paid::Maybe,
            usage: None,
            cost: 0,
            raw: None,
            lost_uploads: Vec::new(),
            claimed_at: self.claimed_at,
            reserved: self.reserved,
            plain_tokens: 0,
            quotas: Vec::new(),
            consumer: None,
            jitter: rand::random(),
        }
    }
}

/// What calls are made with.
#[derive(Clone)]
pub(super) struct Tools {
    pub(super) client: Client,
    pub(super) store: Store,
    pub(super) prices: Arc<Prices>,
    pub(super) reject_truncated: bool,
}

/// Makes the call.
pub(super) async fn run(
    started: Started,
    claimed: Claimed,
    key: WorkerKey,
    tools: Tools,
    scribe: Option<Scribe>,
) -> Ended {
    let Tools { client, store, prices, reject_truncated } = tools;
    let Claimed { request, media, has_schema, uploads, fault, .. } = claimed;
    let not_called = |kind, reason| {
        let ended = started.ended(Outcome::Failed(kind), Some(reason));
        Ended { paid: Paid::No, ..ended }
    };
    if let Some((kind, reason)) = fault {
        return not_called(kind, reason);
    }
    let is_flex = is_flex(&request);
    let plain_tokens = plain_tokens(&request, &media);
    let (request, schema) =
        if has_schema { in_thread(move || find_schema(request)).await } else { (request, None) };
    let request = match media::fill(&store, request, media).await {
        Ok(request) => request,
        Err(reason) => return not_called(ErrorKind::Media, reason),
    };
    let model = started.model_name.as_str();
    let mut call = match scribe {
        Some(scribe) => {
            client.generate_stream(&key.secret, model, request, |piece| scribe.write(piece)).await
        }
        None => client.generate(&key.secret, model, request).await,
    };
    let mut lost_uploads = Vec::new();
    if call.outcome == Outcome::FileRefused && !uploads.is_empty() {
        lost_uploads = uploads;
        call.outcome = Outcome::FileExpired;
    }
    if call.outcome == Outcome::Answered
        && let Some((kind, message)) = unfit(&mut call, schema, reject_truncated).await
    {
        call.outcome = Outcome::Failed(kind);
        call.message = Some(message);
    }
    let model = call.model_version.as_deref().unwrap_or(&started.model_name);
    let priced = |usage: Usage| prices.cost(model, &usage, is_flex, clock::now());
    let cost = |usage: Usage| if key.is_free { 0 } else { priced(usage) };
    Ended {
        http_status: call.http_status,
        paid: call.paid,
        usage: call.usage,
        cost: call.usage.map_or(0, cost),
        raw: call.raw.map(Into::into),
        lost_uploads,
        plain_tokens,
        quotas: call.quotas,
        consumer: call.consumer,
        ..started.ended(call.outcome, call.message)
    }
}

/// Returns why an answer is not what was asked for, if so.
async fn unfit(
    call: &mut Call,
    schema: Option<Arc<Compiled>>,
    reject_truncated: bool,
) -> Option<(ErrorKind, String)> {
    let cut = call.finish_reason.as_deref() == Some("MAX_TOKENS");
    if reject_truncated && cut {
        return Some(truncated("the output limit cut the text"));
    }
    let schema = schema?;
    let raw = call.raw.take().unwrap_or_default();
    let check = move || {
        let fault = misfit(&schema, &raw, cut);
        (raw, fault)
    };
    let (raw, fault) = in_thread(check).await;
    call.raw = Some(raw);
    fault
}

/// Returns the tokens of input that sizes let expect.
fn plain_tokens(request: &str, media: &[ClaimedMedia]) -> i64 {
    let size = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let media: Vec<(String, i64)> =
        media.iter().map(|it| (it.mime_type.clone(), size(it.size))).collect();
    tokens::expected(size(request.len() as u64), &media, tokens::ONE)
}

/// Returns whether a request asks for the tier that costs less.
fn is_flex(request: &str) -> bool {
    #[derive(Deserialize)]
    struct Request<'a> {
        #[serde(alias = "service_tier", borrow)]
        #[serde(rename = "serviceTier")]
        tier: Option<Cow<'a, str>>,
    }
    // Few do, and long requests are not read for it.
    let may = memchr::memmem::find(request.as_bytes(), b"flex").is_some();
    let tier = || serde_json::from_str::<Request<'_>>(request).ok()?.tier;
    may && tier().is_some_and(|tier| tier == "flex")
}

/// Returns the request's schema made ready. One that is not valid, which an older version took,
/// checks nothing.
fn find_schema(request: String) -> (String, Option<Arc<Compiled>>) {
    let schema = OutputSchema::of_request(&request).ok().flatten();
    let compiled = schema.and_then(|schema| schema.compile().ok());
    (request, compiled)
}

/// Returns what is wrong with an answer that does not fit `schema`. An answer without text, such
/// as a function call, has nothing to fit.
fn misfit(schema: &Compiled, raw: &str, cut: bool) -> Option<(ErrorKind, String)> {
    let text = wire::answer_text(raw).filter(|text| !text.is_empty())?;
    let reason = schema.check(&text, cut).err()?;
    Some(if cut {
        truncated("the output limit cut the text before it fit the response schema")
    } else {
        (ErrorKind::InvalidOutput, reason)
    })
}

fn truncated(message: &str) -> (ErrorKind, String) {
    (ErrorKind::Truncated, message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cheaper_tier_is_told_from_words() {
        assert!(is_flex(r#"{"contents": [], "serviceTier": "flex"}"#));
        assert!(is_flex(r#"{"service_tier": "flex"}"#));
        assert!(!is_flex(r#"{"contents": [{"parts": [{"text": "flex"}]}]}"#));
        assert!(!is_flex(r#"{"serviceTier": "standard", "labels": {"a": "flex"}}"#));
    }
}
