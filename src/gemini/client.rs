//! One HTTP call.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use reqwest::header::{CONTENT_TYPE, DATE, HeaderValue, RETRY_AFTER};
use reqwest::{ClientBuilder, NoProxy, Proxy, RequestBuilder, Response, Url};

use crate::domain::outcome::{ErrorKind, Outcome, Paid};
use crate::gemini::error::{classify, one_line};
use crate::gemini::quota::retry_after;
use crate::gemini::redact;

pub use crate::gemini::error::Call;

/// No answer is longer: the longest that the queue takes.
const LONGEST_ANSWER: usize = 256 << 20;

/// Room made at once for an answer that names its length; a longer one may not be true.
const LARGEST_GUESS: usize = 1 << 20;

/// How long a connection may take to stand.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Characters of a path segment that need no escape.
const PLAIN: &[u8] = b"-._~";

/// The secret of an API key; never shown.
#[derive(Clone)]
pub struct ApiKey(Arc<str>);

impl ApiKey {
    /// Takes the secret.
    pub fn new(secret: impl Into<Arc<str>>) -> Self {
        Self(secret.into())
    }

    /// Returns the secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns the secret as a header, if it can be one.
    pub fn header(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_str(&self.0).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

/// Proxies that a settings file names; the process environment's are found without them.
#[derive(Clone, Default)]
pub struct ProxySettings {
    /// For `http` addresses.
    pub http: Option<String>,
    /// For `https` addresses.
    pub https: Option<String>,
    /// For both.
    pub all: Option<String>,
    /// Hosts that are called directly, separated by commas.
    pub no_proxy: Option<String>,
}

/// How the API is called.
#[derive(Clone)]
pub struct ClientOptions {
    /// Where it is, with or without a path.
    pub base_url: String,
    /// How long one call may take.
    pub request_timeout: Duration,
    /// Proxies besides those of the process environment.
    pub proxy: Option<ProxySettings>,
    /// Whether no call needs a certificate: reading those of the system takes longer than a whole
    /// call to this machine.
    pub plain: bool,
    /// Whether no proxy at all is used, as for a stand-in on this machine.
    pub direct: bool,
}

/// The client cannot be built.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the HTTP client: {0}")]
pub struct BuildError(String);

/// A client of the API; clones share connections.
#[derive(Debug, Clone)]
pub struct Client {
    pub(super) http: reqwest::Client,
    pub(super) base_url: Arc<str>,
    /// The same, read once for all calls.
    base: Url,
}

/// What the API says of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyCheck {
    /// It works.
    Good,
    /// It was refused.
    Bad {
        /// What the API said.
        reason: String,
    },
    /// It works and has no quota left now.
    Exhausted,
    /// It could not be asked.
    Unreachable {
        /// What went wrong.
        message: String,
    },
}

/// What a server says to somebody without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting {
    /// The status of its answer.
    pub status: u16,
    /// Its clock in Unix milliseconds, by whole seconds, where it tells.
    pub time: Option<i64>,
}

impl Client {
    /// Builds a client.
    pub fn new(options: &ClientOptions) -> Result<Self, BuildError> {
        // Fails only where a provider is installed already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let base_url = options.base_url.trim_end_matches('/');
        let without_certificates =
            || builder(options).map(|it| it.tls_certs_only(std::iter::empty()).build());
        let http = if options.plain {
            without_certificates()?
        } else {
            match builder(options)?.build() {
                // Plain HTTP needs no certificates, and a small container may have none.
                Err(_) if base_url.starts_with("http://") => without_certificates()?,
                built => built,
            }
        };
        let http = http.map_err(|error| BuildError(chain(&error.without_url())))?;
        let base = Url::parse(base_url)
            // The address is not repeated: it may hold a password.
            .map_err(|error| BuildError(format!("the API's address is not valid: {error}")))?;
        Ok(Self { http, base_url: base_url.into(), base })
    }

    /// Returns the address that it calls.
    pub fn base_url(&self) -> &Arc<str> {
        &self.base_url
    }

    /// Sends one generateContent request; `body` goes out as it is.
    pub async fn generate(&self, key: &ApiKey, model: &str, body: String) -> Call {
        let Some(request) = self.post(key, model, ("generateContent", None), body) else {
            return unsendable();
        };
        match request.send().await {
            Ok(response) => read(response, key).await,
            Err(error) => not_sent(error),
        }
    }

    /// Returns the request that asks a model for something, unless the key can be no header.
    pub(super) fn post(
        &self,
        key: &ApiKey,
        model: &str,
        (method, query): (&str, Option<&str>),
        body: String,
    ) -> Option<RequestBuilder> {
        let mut url = self.base.clone();
        let folder = self.base.path().trim_end_matches('/');
        url.set_path(&format!("{folder}/v1beta/{}:{method}", model_path(model)));
        url.set_query(query);
        let request = self.http.post(url).header("x-goog-api-key", key.header()?);
        let json = HeaderValue::from_static("application/json");
        Some(request.header(CONTENT_TYPE, json).body(body))
    }

    /// Asks for the list of models without a key: who answers, and what time is it there?
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn greet(&self) -> Result<Greeting, String> {
        let url = format!("{}/v1beta/models?pageSize=1", self.base_url);
        let response = match self.http.get(url).send().await {
            Ok(response) => response,
            Err(error) => return Err(not_sent(error).message.unwrap_or_default()),
        };
        let date = response.headers().get(DATE).and_then(|value| value.to_str().ok());
        let date = date.and_then(|date| DateTime::parse_from_rfc2822(date.trim()).ok());
        let status = response.status().as_u16();
        Ok(Greeting { status, time: date.map(|date| date.timestamp_millis()) })
    }

    /// Asks the API whether the key is good, by the cheapest call there is.
    pub async fn check_key(&self, key: &ApiKey) -> KeyCheck {
        let Some(header) = key.header() else {
            return KeyCheck::Bad { reason: "it holds characters that cannot be sent".to_owned() };
        };
        let url = format!("{}/v1beta/models?pageSize=1", self.base_url);
        let call = match self.http.get(url).header("x-goog-api-key", header).send().await {
            Ok(response) => read(response, key).await,
            Err(error) => not_sent(error),
        };
        let message = call.message.unwrap_or_default();
        match call.outcome {
            // A list of models is JSON without candidates.
            Outcome::Failed(ErrorKind::Empty) => KeyCheck::Good,
            Outcome::BadKey => KeyCheck::Bad { reason: message },
            Outcome::Exhausted(_) => KeyCheck::Exhausted,
            _ => KeyCheck::Unreachable { message },
        }
    }
}

/// Returns what comes of a key that can be no header.
pub(super) fn unsendable() -> Call {
    let message = "the key holds characters that cannot be sent".to_owned();
    let call = Call::without_answer(ErrorKind::Internal, message, Paid::No);
    Call { outcome: Outcome::BadKey, ..call }
}

fn builder(options: &ClientOptions) -> Result<ClientBuilder, BuildError> {
    let mut builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(options.request_timeout)
        .pool_max_idle_per_host(usize::MAX)
        .user_agent(concat!("gq/", env!("CARGO_PKG_VERSION")));
    if options.direct {
        return Ok(builder.no_proxy());
    }
    for proxy in options.proxy.as_ref().map(proxies).transpose()?.unwrap_or_default() {
        builder = builder.proxy(proxy);
    }
    Ok(builder)
}

/// Returns the path of a model: `gemini-x`, `models/gemini-x` or `tunedModels/x`.
fn model_path(model: &str) -> String {
    match model.strip_prefix("tunedModels/") {
        Some(name) => format!("tunedModels/{}", escaped(name)),
        None => format!("models/{}", escaped(model.strip_prefix("models/").unwrap_or(model))),
    }
}

fn escaped(segment: &str) -> String {
    use std::fmt::Write;
    segment.bytes().fold(String::with_capacity(segment.len()), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || PLAIN.contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

pub(super) async fn read(mut response: Response, key: &ApiKey) -> Call {
    let status = response.status().as_u16();
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let retry_after = header(RETRY_AFTER).and_then(|value| retry_after(value, header(DATE)));
    let (body, fault) = read_body(&mut response).await;
    // What a status says holds without the rest of the page; a 200 says nothing without its body.
    if let Some(call) = fault.filter(|_| status == 200) {
        return Call { http_status: Some(status), ..call };
    }
    let text = match String::from_utf8(body) {
        Ok(text) => text,
        // JSON is UTF-8: what is not is no answer, and must not be stored as one that lost letters.
        Err(_) if status == 200 => char::REPLACEMENT_CHARACTER.to_string(),
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    };
    if status == 200 {
        classify(status, retry_after, &redact::answer_text(text, &key.0))
            .map_message(|message| redact::error_text(&message, &key.0))
    } else {
        classify(status, retry_after, &redact::error_text(&text, &key.0))
    }
}

/// Returns what came of a body, and what went wrong if that is not all of it.
pub(super) async fn read_body(response: &mut Response) -> (Vec<u8>, Option<Call>) {
    let expected = response.content_length().and_then(|length| usize::try_from(length).ok());
    let mut body = Vec::with_capacity(expected.unwrap_or(0).min(LARGEST_GUESS));
    let fault = each_chunk(response, |chunk| {
        body.extend_from_slice(chunk);
        ControlFlow::Continue(())
    });
    let fault = fault.await;
    (body, fault)
}

/// Hands a body over as it comes, until `take` has enough; returns what went wrong on the way.
pub(super) async fn each_chunk(
    response: &mut Response,
    mut take: impl FnMut(&[u8]) -> ControlFlow<()>,
) -> Option<Call> {
    let mut length = 0;
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                length += chunk.len();
                if length > LONGEST_ANSWER {
                    let message = "the answer is longer than 256 MB".to_owned();
                    let kind = ErrorKind::MalformedResponse;
                    return Some(Call::without_answer(kind, message, Paid::Maybe));
                }
                if take(&chunk).is_break() {
                    return None;
                }
            }
            Ok(None) => return None,
            Err(error) => return Some(broken(error, "the answer was cut", Paid::Maybe)),
        }
    }
}

impl Call {
    pub(super) fn map_message(mut self, change: impl FnOnce(String) -> String) -> Self {
        self.message = self.message.map(change);
        self
    }
}

/// A connection that never stood costs nothing; after that, whatever went wrong may have been paid.
pub(super) fn not_sent(error: reqwest::Error) -> Call {
    if error.is_connect() {
        broken(error, "could not connect", Paid::No)
    } else {
        broken(error, "the connection broke before an answer came", Paid::Maybe)
    }
}

fn broken(error: reqwest::Error, what: &str, paid: Paid) -> Call {
    if error.is_timeout() {
        let late = if error.is_connect() { "no connection" } else { "no whole answer" };
        let message = format!("{late} within the time limit");
        return Call::without_answer(ErrorKind::Timeout, message, paid);
    }
    let causes = chain(&error.without_url());
    // The outer layers only repeat that a request failed.
    let cause = ["client error (Connect): ", "client error (SendRequest): "]
        .iter()
        .find_map(|layer| Some(causes.split_once(layer)?.1))
        .unwrap_or(&causes);
    Call::without_answer(ErrorKind::Network, one_line(&format!("{what}: {cause}")), paid)
}

fn proxies(settings: &ProxySettings) -> Result<Vec<Proxy>, BuildError> {
    // The message could hold the proxy's password.
    let broken = |_| BuildError("a proxy's address is not valid".to_owned());
    let mut proxies = Vec::new();
    if let Some(address) = &settings.http {
        proxies.push(Proxy::http(address).map_err(broken)?);
    }
    if let Some(address) = &settings.https {
        proxies.push(Proxy::https(address).map_err(broken)?);
    }
    if let Some(address) = &settings.all {
        proxies.push(Proxy::all(address).map_err(broken)?);
    }
    let direct = settings.no_proxy.as_deref().and_then(NoProxy::from_string);
    Ok(proxies.into_iter().map(|proxy| proxy.no_proxy(direct.clone())).collect())
}

/// Returns an error with its causes, the last of which tells most.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
