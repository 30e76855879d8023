//! The queue inside a program.

use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use gq::domain::view::JobState;
use gq::mock::MockServer;
use gq::mock::config::Config;
use gq::queue::{Queue, QueueError, Said, Task, Worker};
use gq::worker::Finish;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// A queue with a worker that runs until it is stopped.
struct Program {
    folder: TempDir,
    queue: Queue,
    api: MockServer,
    stop: oneshot::Sender<()>,
    work: tokio::task::JoinHandle<Result<Finish, QueueError>>,
}

impl Program {
    async fn start(config: &Value) -> Self {
        let folder = TempDir::new().unwrap();
        let queue = Queue::open(folder.path().join("gq.db")).await.unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let config = Config::from_json(&config.to_string()).unwrap();
        let api = MockServer::start(listener, config).unwrap();
        let worker = Worker::new([("K", "secret")]).workers(16).base_url(api.url());
        let (stop, stopped) = oneshot::channel::<()>();
        let own = queue.clone();
        let work =
            tokio::spawn(async move { worker.run(&own, async { drop(stopped.await) }).await });
        Self { folder, queue, api, stop, work }
    }

    async fn end(self) {
        drop(self.stop);
        assert_eq!(self.work.await.unwrap().unwrap(), Finish::Stopped);
        self.queue.close().await.unwrap();
        // The log is back in the database.
        assert!(!self.folder.path().join("gq.db-wal").exists());
        self.api.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_who_wait_each_get_their_own_answer() {
    let program = Program::start(&json!({"script": [{"first": 1000, "hold": true}]})).await;
    let queue = &program.queue;
    let ask = |number: usize| async move {
        let prompt = format!("question {number}");
        let job = json!({"prompt": prompt, "task_id": number, "stream": number.is_multiple_of(2)});
        let task = queue.enqueue("b", &job).await.unwrap();
        let answer = queue.wait(&task).await.unwrap();
        assert_eq!(answer.job.task_id, number.to_string());
        assert!(answer.response.unwrap().ends_with(&format!(": {prompt}")));
    };
    let release = async {
        // All wait by then.
        while queue.status().await.unwrap().counts.total() < 1000 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        program.api.release(None);
    };
    tokio::join!(join_all((0..1000).map(ask)), release);
    assert_eq!(program.api.stats().answered, 1000);
    program.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn text_is_told_piece_by_piece_and_anew_after_a_break() {
    let program = Program::start(&json!({
        "script": [{"first": 1, "after_chunks": 1, "fault": "end_early"}, {"hold_chunks": true}]
    }))
    .await;
    let job = json!({"prompt": "What is the capital of France?", "stream": true});
    let task = program.queue.enqueue("b", &job).await.unwrap();
    let mut said = pin!(program.queue.text_stream(&task));
    let text = |text: &str| Said::Text(text.to_owned());
    assert_eq!(said.next().await.unwrap().unwrap(), text("The capital of Franc"));
    program.api.release(Some(1));
    assert_eq!(said.next().await.unwrap().unwrap(), Said::Restarted);
    assert_eq!(said.next().await.unwrap().unwrap(), text("The capital of Franc"));
    program.api.release(None);
    assert_eq!(said.next().await.unwrap().unwrap(), text("e is Paris."));
    let Said::Finished(answer) = said.next().await.unwrap().unwrap() else { panic!("not the end") };
    assert_eq!(answer.response.as_deref(), Some("The capital of France is Paris."));
    assert_eq!(answer.job.attempts, 2);
    assert!(said.next().await.is_none());
    program.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_no_stream_is_told_at_the_end() {
    let program = Program::start(&json!({"script": [{"text": "all"}]})).await;
    let task = program.queue.enqueue("b", &json!({"prompt": "x"})).await.unwrap();
    let said: Vec<Said> =
        program.queue.text_stream(&task).map(|said| said.unwrap()).collect().await;
    assert_eq!(said[0], Said::Text("all".to_owned()));
    assert!(matches!(said[1], Said::Finished(_)) && said.len() == 2);
    program.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_refused_cancelled_and_missed() {
    let program = Program::start(&json!({"script": [{"hold": true}]})).await;
    let queue = &program.queue;
    let refused = queue.enqueue("b", &json!({"promt": "x"})).await.unwrap_err();
    assert!(refused.to_string().contains("did you mean `prompt`"), "{refused}");
    let none = Task { batch: "b".into(), task_id: "none".into() };
    assert!(matches!(queue.wait(&none).await, Err(QueueError::NoSuchTask(task)) if task == none));
    let job = json!({"prompt": "x", "task_id": "t"});
    let task = queue.enqueue("b", &job).await.unwrap();
    assert_eq!(queue.enqueue("b", &job).await.unwrap(), task, "equal content is the same job");
    assert!(queue.enqueue("b", &json!({"prompt": "y", "task_id": "t"})).await.is_err());
    let early = tokio::time::timeout(Duration::from_millis(50), queue.wait(&task)).await;
    assert!(early.is_err());
    assert!(!queue.answer(&task).await.unwrap().job.state.is_finished());
    queue.cancel(&task).await.unwrap();
    assert_eq!(queue.wait(&task).await.unwrap().job.state, JobState::Cancelled);
    program.api.release(None);
    program.end().await;
}

#[tokio::test]
async fn a_worker_without_keys_does_not_run() {
    let folder = TempDir::new().unwrap();
    let queue = Queue::open(folder.path().join("gq.db")).await.unwrap();
    let none: [(&str, &str); 0] = [];
    let ended = Worker::new(none).run(&queue, std::future::pending()).await;
    assert!(matches!(ended, Err(QueueError::NoKey)));
    queue.close().await.unwrap();
    let late = queue.wait(&Task { batch: "b".into(), task_id: "t".into() }).await;
    assert!(late.is_err());
}
