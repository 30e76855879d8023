//! One call to the API: from a claimed job to what it came to.

use crate::clock;
use crate::domain::outcome::{ErrorKind, Outcome, Paid, Usage};
use crate::domain::price;
use crate::gemini::client::{ApiKey, Client};
use crate::store::{Claimed, Ended, Store};
use crate::worker::media;

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
    pub(super) started_at: crate::domain::time::Timestamp,
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
            started_at: clock::now(),
        }
    }

    /// Returns the end of an attempt that brought no answer.
    pub(super) fn ended(&self, outcome: Outcome, message: Option<String>) -> Ended {
        Ended {
            job: self.job,
            claim: self.claim,
            key: self.key,
            model: self.model,
            started_at: self.started_at,
            ended_at: clock::now(),
            outcome,
            http_status: None,
            message,
            paid: Paid::Maybe,
            usage: None,
            cost: 0,
            raw: None,
            jitter: rand::random(),
        }
    }
}

/// What a worker asks of each call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) reject_truncated: bool,
    pub(super) inline_limit: u64,
}

/// Makes the call.
pub(super) async fn run(
    started: Started,
    claimed: Claimed,
    key: WorkerKey,
    client: Client,
    store: Store,
    rules: Rules,
) -> Ended {
    let request = match media::request(&store, claimed, rules.inline_limit).await {
        Ok(request) => request,
        Err(reason) => {
            let ended = started.ended(Outcome::Failed(ErrorKind::Media), Some(reason));
            return Ended { paid: Paid::No, ..ended };
        }
    };
    let call = client.generate(&key.secret, &started.model_name, request).await;
    let truncated = call.finish_reason.as_deref() == Some("MAX_TOKENS");
    let (outcome, message) = match call.outcome {
        Outcome::Answered if rules.reject_truncated && truncated => (
            Outcome::Failed(ErrorKind::Truncated),
            Some("the output limit cut the text".to_owned()),
        ),
        outcome => (outcome, call.message),
    };
    let model = call.model_version.as_deref().unwrap_or(&started.model_name);
    let cost = |usage: Usage| if key.is_free { 0 } else { price::cost(model, &usage) };
    Ended {
        http_status: call.http_status,
        paid: call.paid,
        usage: call.usage,
        cost: call.usage.map_or(0, cost),
        raw: call.raw.map(Into::into),
        ..started.ended(outcome, message)
    }
}
