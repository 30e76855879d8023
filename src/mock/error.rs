//! The API's errors as they stand on the wire.
//!
//! Owns the envelope and the errors of single requests; what quotas refuse is in `refusal`.

use serde::Serialize;
use serde_json::{Value, json};

const SERVICE: &str = "generativelanguage.googleapis.com";
const KEY_INVALID: &str = "API key not valid. Please pass a valid API key.";
const ACTIVATION: &str =
    "https://console.developers.google.com/apis/api/generativelanguage.googleapis.com/overview";

/// One error; its fields stand in the order in which the API writes them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct ApiError {
    pub(super) code: u16,
    pub(super) message: String,
    pub(super) status: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) details: Vec<Value>,
}

impl ApiError {
    pub(super) fn new(code: u16, status: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), status, details: Vec::new() }
    }

    /// Adds one detail.
    pub(super) fn with(mut self, detail: Value) -> Self {
        self.details.push(detail);
        self
    }

    /// Returns the body.
    pub(super) fn to_json(&self, pretty: bool) -> Vec<u8> {
        #[derive(Serialize)]
        struct Envelope<'a> {
            error: &'a ApiError,
        }
        to_json(&Envelope { error: self }, pretty)
    }
}

/// Returns `value` as the API writes JSON.
pub(super) fn to_json(value: &impl Serialize, pretty: bool) -> Vec<u8> {
    let written = if pretty {
        serde_json::to_vec_pretty(value).map(|mut text| {
            text.push(b'\n');
            text
        })
    } else {
        serde_json::to_vec(value)
    };
    // Nothing written here has a map key that is no text, the one thing that could fail.
    written.unwrap_or_default()
}

/// The request is refused, without a detail.
pub(super) fn invalid_argument(message: impl Into<String>) -> ApiError {
    ApiError::new(400, "INVALID_ARGUMENT", message)
}

/// The request is refused for its state.
pub(super) fn failed_precondition(message: impl Into<String>) -> ApiError {
    ApiError::new(400, "FAILED_PRECONDITION", message)
}

/// The caller is refused, without a detail.
pub(super) fn permission_denied(message: impl Into<String>) -> ApiError {
    ApiError::new(403, "PERMISSION_DENIED", message)
}

/// One place of a request that is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    /// Where; empty at the top.
    pub(super) field: String,
    /// What the API says of it.
    pub(super) description: String,
}

/// The request's form is refused.
pub(super) fn bad_request(findings: &[Finding]) -> ApiError {
    let violation = |finding: &Finding| {
        if finding.field.is_empty() {
            json!({"description": finding.description})
        } else {
            json!({"field": finding.field, "description": finding.description})
        }
    };
    let lines: Vec<&str> = findings.iter().map(|finding| finding.description.as_str()).collect();
    let violations: Vec<Value> = findings.iter().map(violation).collect();
    invalid_argument(lines.join("\n")).with(json!({
        "@type": "type.googleapis.com/google.rpc.BadRequest",
        "fieldViolations": violations,
    }))
}

/// The key is no key, or no longer one.
pub(super) fn key_invalid(message: &str) -> ApiError {
    invalid_argument(message)
        .with(error_info("API_KEY_INVALID", &json!({"service": SERVICE})))
        .with(localized(message))
}

/// The key is unknown.
pub(super) fn unknown_key() -> ApiError {
    key_invalid(KEY_INVALID)
}

/// No key was sent.
pub(super) fn unregistered() -> ApiError {
    permission_denied(
        "Method doesn't allow unregistered callers (callers without established identity). \
         Please use API Key or other form of API consumer identity to call this API.",
    )
}

/// The credential is of the wrong kind.
pub(super) fn unauthenticated() -> ApiError {
    let message = "Request had invalid authentication credentials. Expected OAuth 2 access token, \
                   login cookie or other valid authentication credential. See \
                   https://developers.google.com/identity/sign-in/web/devconsole-project.";
    let metadata = json!({
        "service": SERVICE,
        "method": "google.ai.generativelanguage.v1beta.GenerativeService.GenerateContent",
    });
    ApiError::new(401, "UNAUTHENTICATED", message)
        .with(error_info("ACCESS_TOKEN_TYPE_UNSUPPORTED", &metadata))
}

/// The key is suspended; the message holds the whole key, as the real one does.
pub(super) fn suspended(key: &str, project: u64) -> ApiError {
    let metadata = json!({"service": SERVICE, "consumer": format!("projects/{project}")});
    permission_denied(format!("Permission denied: Consumer 'api_key:{key}' has been suspended."))
        .with(error_info("CONSUMER_SUSPENDED", &metadata))
}

/// The key stood in public.
pub(super) fn leaked() -> ApiError {
    permission_denied("Your API key was reported as leaked. Please use another API key.")
}

/// The project is denied access.
pub(super) fn denied() -> ApiError {
    permission_denied("Your project has been denied access. Please contact support.")
}

/// The API is switched off in the project.
pub(super) fn service_disabled(project: u64) -> ApiError {
    let url = format!("{ACTIVATION}?project={project}");
    let message = format!(
        "Generative Language API has not been used in project {project} before or it is disabled. \
         Enable it by visiting {url} then retry. If you enabled this API recently, wait a few \
         minutes for the action to propagate to our systems and retry."
    );
    let metadata = json!({
        "service": SERVICE,
        "consumer": format!("projects/{project}"),
        "containerInfo": project.to_string(),
        "serviceTitle": "Generative Language API",
        "activationUrl": url,
    });
    permission_denied(message.clone())
        .with(error_info("SERVICE_DISABLED", &metadata))
        .with(localized(&message))
        .with(json!({
            "@type": "type.googleapis.com/google.rpc.Help",
            "links": [{"description": "Google developers console API activation", "url": url}],
        }))
}

/// The caller's country is not served.
pub(super) fn location() -> ApiError {
    failed_precondition("User location is not supported for the API use.")
}

/// The file belongs to another project, is gone, or never was.
pub(super) fn file_permission(file: &str) -> ApiError {
    permission_denied(format!(
        "You do not have permission to access the File {file} or it may not exist."
    ))
}

/// The file is not ready yet.
pub(super) fn file_not_active(file: &str) -> ApiError {
    failed_precondition(format!(
        "The File {file} is not in an ACTIVE state and usage is not allowed."
    ))
}

/// There is nothing of that name.
pub(super) fn not_found() -> ApiError {
    ApiError::new(404, "NOT_FOUND", "Requested entity was not found.")
}

/// The name is taken.
pub(super) fn already_exists() -> ApiError {
    ApiError::new(409, "ALREADY_EXISTS", "Requested entity already exists")
}

/// The model does not exist, or not for this call.
pub(super) fn no_such_model(model: &str, version: &str, method: &str) -> ApiError {
    let message = format!(
        "models/{model} is not found for API version {version}, or is not supported for {method}. \
         Call ListModels to see the list of available models and their supported methods."
    );
    ApiError::new(404, "NOT_FOUND", message)
}

/// The request is larger than the server takes: a 400. A 413 comes from the front end, as a page.
pub(super) fn payload_too_large(limit: u64) -> ApiError {
    invalid_argument(format!("Request payload size exceeds the limit: {limit} bytes."))
}

/// Returns the page that Google's front end answers with instead of JSON.
pub(super) fn html_page(status: u16, what: &str) -> String {
    let title = if status >= 500 {
        "Server Error"
    } else if status == 404 {
        "Not Found"
    } else {
        "Client Error"
    };
    format!(
        "<!DOCTYPE html>\n<html lang=en>\n  <meta charset=utf-8>\n  \
         <meta name=viewport content=\"initial-scale=1, minimum-scale=1, width=device-width\">\n  \
         <title>Error {status} ({title})!!1</title>\n  \
         <p><b>{status}.</b> <ins>That’s an error.</ins>\n  \
         <p>{what}  <ins>That’s all we know.</ins>\n"
    )
}

fn error_info(reason: &str, metadata: &Value) -> Value {
    json!({
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": "googleapis.com",
        "metadata": metadata,
    })
}

fn localized(message: &str) -> Value {
    json!({
        "@type": "type.googleapis.com/google.rpc.LocalizedMessage",
        "locale": "en-US",
        "message": message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_written_as_the_api_writes_it() {
        let text = String::from_utf8(leaked().to_json(true)).unwrap();
        let wanted = "{\n  \"error\": {\n    \"code\": 403,\n    \"message\": \"Your API key was \
                      reported as leaked. Please use another API key.\",\n    \"status\": \
                      \"PERMISSION_DENIED\"\n  }\n}\n";
        assert_eq!(text, wanted);
        assert!(!String::from_utf8(leaked().to_json(false)).unwrap().contains('\n'));
    }

    #[test]
    fn an_invalid_key_is_told_by_its_reason() {
        let body: Value = serde_json::from_slice(&unknown_key().to_json(true)).unwrap();
        assert_eq!(body["error"]["code"], 400);
        assert_eq!(body["error"]["details"][0]["reason"], "API_KEY_INVALID");
        assert_eq!(body["error"]["details"][1]["message"], KEY_INVALID);
    }
}
