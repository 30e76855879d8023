//! How a rule of the script changes an answer.
//!
//! Pure. Which rule fires is `script`'s; waiting and breaking connections are `service`'s.

use serde_json::Value;

use super::canned::{Canned, Context, echoing};
use super::error;
use super::reply::{HTML, JSON, Reply};
use super::script::{Fault, Rule};

/// Returns what a rule answers by itself; nothing if the call gets its usual answer.
pub(super) fn own_reply(rule: &Rule, context: &Context<'_>) -> Option<Reply> {
    let own_body = rule.body.is_some() || rule.text.is_some();
    let canned =
        rule.reply.or_else(|| rule.status.filter(|_| !own_body).and_then(Canned::of_status));
    match (rule.fault, canned, &rule.body) {
        (Some(Fault::EchoKey), ..) => Some(Reply::error(&echoing(context.key), context.pretty)),
        (_, Some(canned), _) => Some(canned.reply(context)),
        (_, None, Some(body)) => Some(with_body(body)),
        (_, None, None) => {
            let status = rule.status.filter(|&status| status >= 300 && !own_body)?;
            let page = error::html_page(status, "The request could not be served.");
            Some(Reply::new(status, HTML, page))
        }
    }
}

/// Returns `reply` with what a rule changes in any answer.
pub(super) fn dressed(rule: &Rule, mut reply: Reply) -> Reply {
    let redirect = (rule.fault == Some(Fault::Redirect)).then_some(302);
    if let Some(status) = rule.status.or(redirect) {
        reply.status = status;
        reply.usable &= status == 200;
    }
    reply.headers.extend(rule.headers.clone());
    (reply.fault, reply.bytes) = (rule.fault, rule.bytes);
    reply
}

fn with_body(body: &Value) -> Reply {
    let text = match body {
        Value::String(text) => text.clone().into_bytes(),
        other => error::to_json(other, true),
    };
    let usable = body.get("candidates").is_some();
    Reply { usable, ..Reply::new(200, JSON, text) }
}
