//! A web backend over the queue: `cargo run --example web`, then
//!
//!     curl --json '{"prompt": "What is the capital of France?"}' http://127.0.0.1:3000/chat
//!     curl -N --json '{"prompt": "What is the capital of France?"}' http://127.0.0.1:3000/stream
//!     curl http://127.0.0.1:3000/status
//!
//! The keys are those of the environment; without one a stand-in answers. Every question is a job
//! in `web.db`: one whose client gave up, or that was under way when the server was stopped, is
//! answered all the same, and `GET /chat/TASK` has its answer.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, Sse};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::{Stream, StreamExt};
use gq::config::{self, Environment};
use gq::mock::MockServer;
use gq::mock::config::Config;
use gq::queue::{Answer, Queue, QueueError, Said, Task, Worker};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

const BATCH: &str = "web";

#[derive(Deserialize)]
struct Question {
    prompt: String,
    /// How long the client waits, in seconds.
    #[serde(default = "half_a_minute")]
    timeout: f64,
}

fn half_a_minute() -> f64 {
    30.0
}

/// What goes wrong is told to the client as JSON.
struct Failure(StatusCode, String);

impl From<QueueError> for Failure {
    fn from(error: QueueError) -> Self {
        let status = match error {
            QueueError::Refused(_) => StatusCode::BAD_REQUEST,
            QueueError::NoSuchTask(_) => StatusCode::NOT_FOUND,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, error.to_string())
    }
}

impl axum::response::IntoResponse for Failure {
    fn into_response(self) -> axum::response::Response {
        (self.0, Json(json!({"error": self.1}))).into_response()
    }
}

fn app(queue: Queue) -> Router {
    Router::new()
        .route("/chat", post(chat))
        .route("/chat/{task}", get(answer))
        .route("/stream", post(stream))
        .route("/status", get(status))
        .with_state(queue)
}

/// Waits for the answer as long as the client does. After that the job goes on, and the client may
/// ask for it later.
async fn chat(
    State(queue): State<Queue>,
    Json(question): Json<Question>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    let job = json!({"prompt": question.prompt, "priority": 10});
    let task = queue.enqueue(BATCH, &job).await?;
    let limit = Duration::try_from_secs_f64(question.timeout).unwrap_or(Duration::MAX);
    let Ok(answer) = tokio::time::timeout(limit, queue.wait(&task)).await else {
        let later = json!({"task_id": task.task_id, "state": "pending"});
        return Ok((StatusCode::GATEWAY_TIMEOUT, Json(later)));
    };
    Ok((StatusCode::OK, Json(told(&answer?))))
}

/// Returns the answer of a question that was asked before, as far as it is there.
async fn answer(
    State(queue): State<Queue>,
    Path(task_id): Path<String>,
) -> Result<Json<Value>, Failure> {
    let task = Task { batch: BATCH.to_owned(), task_id };
    Ok(Json(told(&queue.answer(&task).await?)))
}

/// Sends the text as it comes, as server-sent events.
async fn stream(
    State(queue): State<Queue>,
    Json(question): Json<Question>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Failure> {
    let job = json!({"prompt": question.prompt, "priority": 10, "stream": true});
    let task = queue.enqueue(BATCH, &job).await?;
    let events = queue.text_stream(&task).map(|said| {
        Ok(match said {
            Ok(Said::Text(text)) => Event::default().event("text").data(json!(text).to_string()),
            Ok(Said::Restarted) => Event::default().event("restart"),
            Ok(Said::Finished(answer)) => {
                Event::default().event("end").data(told(&answer).to_string())
            }
            Err(error) => Event::default().event("error").data(error.to_string()),
        })
    });
    Ok(Sse::new(events))
}

async fn status(State(queue): State<Queue>) -> Result<Json<Value>, Failure> {
    let status = queue.status().await?;
    let keys = status.keys.iter().map(|key| (&key.name, key.overall.status.as_str()));
    Ok(Json(json!({
        "workers_running": !status.workers.is_empty(),
        "queue_size": status.counts.pending,
        "active_workers": status.workers.iter().map(|worker| worker.busy).sum::<i64>(),
        "throughput_per_minute": status.throughput_per_minute,
        "key_status": keys.collect::<std::collections::BTreeMap<_, _>>(),
    })))
}

fn told(answer: &Answer) -> Value {
    json!({
        "task_id": answer.job.task_id,
        "state": answer.job.state.as_str(),
        "response": answer.response,
        "error": answer.job.error.as_ref().map(|error| &error.message),
    })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let queue = Queue::open("web.db").await?;
    let keys = config::keys(&Environment::load(None)?, None)?;
    let named = keys.iter().map(|key| (key.name.clone(), key.secret.expose().to_owned()));
    let mut worker = Worker::new(named).workers(8);
    let stand_in = if keys.is_empty() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let stand_in = MockServer::start(listener, Config::default())?;
        worker = Worker::new([("MOCK_KEY", "MOCK_KEY")]).workers(8).base_url(stand_in.url());
        Some(stand_in)
    } else {
        None
    };

    let listener = TcpListener::bind(("127.0.0.1", 3000)).await?;
    let (stop, _) = tokio::sync::watch::channel(());
    let stopped = || {
        let mut stopped = stop.subscribe();
        async move { drop(stopped.changed().await) }
    };
    let serving = axum::serve(listener, app(queue.clone())).with_graceful_shutdown(stopped());
    let stopping = async {
        let heard = tokio::signal::ctrl_c().await;
        stop.send_replace(());
        heard
    };
    let ends = tokio::join!(serving.into_future(), worker.run(&queue, stopped()), stopping);
    ends.0?;
    ends.1?;
    ends.2?;
    if let Some(stand_in) = stand_in {
        stand_in.stop().await;
    }
    Ok(queue.close().await?)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    async fn told_by(request: reqwest::RequestBuilder) -> (u16, String) {
        let response = request.send().await.expect("the server answers");
        (response.status().as_u16(), response.text().await.expect("the answer is whole"))
    }

    #[tokio::test]
    async fn questions_are_answered_at_once_later_and_as_they_come() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let queue = Queue::open(folder.path().join("web.db")).await.expect("a database");
        let bind = || TcpListener::bind(("127.0.0.1", 0));
        let config =
            Config::from_json(r#"{"script": [{"prompt_contains": "slow", "hold": true}]}"#);
        let api = MockServer::start(bind().await.expect("a port"), config.expect("it is valid"));
        let api = api.expect("the stand-in starts");
        let worker = Worker::new([("K", "secret")]).base_url(api.url());
        let listener = bind().await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let serving = axum::serve(listener, app(queue.clone())).into_future();
        // Another test may have done so.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let ask = |path: &str, question: Value| {
            let request = client.post(format!("{url}{path}"));
            request.header("content-type", "application/json").body(question.to_string())
        };
        let asking = async {
            let france = json!({"prompt": "What is the capital of France?"});
            let (status, body) = told_by(ask("/chat", france.clone())).await;
            assert_eq!(status, 200);
            assert!(body.contains("The capital of France is Paris."), "{body}");
            let (_, body) = told_by(ask("/stream", france)).await;
            let pieces = body.split("event: text\ndata: ").skip(1);
            let pieces = pieces.map(|rest| rest.lines().next().unwrap_or_default());
            let pieces =
                pieces.map(|piece| serde_json::from_str::<String>(piece).expect("it is JSON"));
            assert_eq!(pieces.collect::<String>(), "The capital of France is Paris.");
            assert!(body.contains("event: end\n"), "{body}");
            let slow = json!({"prompt": "slow", "timeout": 0.1});
            let (status, body) = told_by(ask("/chat", slow)).await;
            assert_eq!(status, 504);
            api.release(None);
            let task = serde_json::from_str::<Value>(&body).expect("it is JSON")["task_id"].clone();
            let task_id = task.as_str().expect("it is named").to_owned();
            let task = Task { batch: BATCH.to_owned(), task_id };
            queue.wait(&task).await.expect("it is answered");
            let path = format!("{url}/chat/{}", task.task_id);
            assert!(told_by(client.get(path)).await.1.contains("\"succeeded\""));
            let (_, body) = told_by(client.get(format!("{url}/status"))).await;
            assert!(body.contains(r#""key_status":{"K":"available"}"#), "{body}");
            let (status, _) = told_by(client.get(format!("{url}/chat/none"))).await;
            assert_eq!(status, 404);
        };
        tokio::select! {
            () = asking => {}
            end = worker.run(&queue, pending()) => panic!("the worker ended: {end:?}"),
            end = serving => panic!("the server ended: {end:?}"),
        }
    }
}
