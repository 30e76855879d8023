//! Turns of a store as a worker asks for them, for what counts and what measures their cost.

use std::time::Duration;

use gq::domain::limits::GivenLimits;
use gq::domain::outcome::{Outcome, Paid, Usage};
use gq::domain::overdue::Overdue;
use gq::domain::pacing::OnUnknown;
use gq::domain::slot::Rests;
use gq::store::{Budget, Claimed, Ended, Policy, Scope, TurnRequest, WorkerId};

/// Jobs that a turn claims or settles.
pub(crate) const TOGETHER: usize = 64;

/// An answer as the stand-in gives it.
const ANSWER: &str = r#"{"candidates":[{"content":{"parts":[{"text":"The capital."}],"role":"model"},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":60,"candidatesTokenCount":3,"totalTokenCount":63},"modelVersion":"gemini-2.5-flash","responseId":"0123456789abcdef"}"#;

/// A turn that settles `ended` and claims up to `capacity` jobs.
pub(crate) fn request(
    worker: WorkerId,
    keys: &[i64],
    capacity: usize,
    ended: Vec<Ended>,
) -> TurnRequest {
    TurnRequest {
        worker,
        moment: gq::clock::moment,
        ended,
        last_call: None,
        prepared: Vec::new(),
        capacity,
        bulk: capacity,
        pieces: Vec::new(),
        room: 8,
        uploading: Vec::new(),
        hashing: Vec::new(),
        keys: keys.to_vec(),
        in_flight: Vec::new(),
        audit: false,
        overdue: Overdue::default(),
        rebase: false,
        dead: Vec::new(),
    }
}

pub(crate) fn policy() -> Policy {
    Policy {
        scope: Scope::All,
        lease: Duration::from_mins(10),
        rests: Rests {
            exhausted_wait: Duration::from_mins(2),
            fully_exhausted_wait: Duration::from_hours(12),
            max_exhausted_retries: 3,
        },
        limits: GivenLimits::default(),
        key_cooldown: Duration::ZERO,
        api_call_interval: Duration::ZERO,
        on_unknown: OnUnknown::Retry,
        budget: Budget::default(),
        inline_limit: 20_000_000,
        api: "http://api".into(),
    }
}

/// The end of a call that was answered.
pub(crate) fn answered(claimed: &Claimed) -> Ended {
    Ended {
        job: claimed.job,
        claim: claimed.claim,
        key: claimed.key,
        model: claimed.model,
        at_claim: claimed.at_claim,
        started_at: claimed.claimed_at,
        ended_at: gq::clock::now(),
        outcome: Outcome::Answered,
        http_status: Some(200),
        message: None,
        paid: Paid::Yes,
        usage: Some(Usage { total_tokens: 63, prompt_tokens: 60, ..Usage::default() }),
        cost: 0,
        lost_uploads: Vec::new(),
        claimed_at: claimed.claimed_at,
        reserved: claimed.reserved,
        plain_tokens: 60,
        quotas: Vec::new(),
        consumer: None,
        raw: Some(ANSWER.into()),
        jitter: 0.0,
    }
}
