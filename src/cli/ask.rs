//! `gq ask`: one question, answered by a worker that runs or by itself.

mod prompt;

use std::io::{IsTerminal as _, Read as _};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::FusedFuture;
use gq::config::NamedKey;
use gq::domain::input::Defaults;
use gq::domain::pacing::Pacing;
use gq::domain::parts::Kind;
use gq::domain::view::{Counts, JobState};
use gq::gemini::client::Client;
use gq::queue::{Answer, Queue, Task};
use gq::store::{Access, Scope};
use gq::worker::{Event, Events, Finish, Phase, WorkerOptions};
use tokio::sync::watch;
use tokio::time::Instant;

use super::args::{AskArgs, Report, ResultFormat};
use super::context::{Context, build_client, no_key, register};
use super::exit::ExitStatus;
use super::failure::{Failure, Result};
use super::output::Output;
use super::signals::Stop;
use super::{enqueue, results, settings, speak, work};
use prompt::Question;

/// The batch of all questions.
const BATCH: &str = "ask";

/// Before all that is waited for less.
const PRIORITY: i64 = 1000;

/// So long a worker of another process may take to begin, before this one does it.
const MOMENT: Duration = Duration::from_millis(100);

/// The question may take so long to be stored, also where its time is shorter.
const STORING: Duration = Duration::from_secs(1);

/// Why it may take longer.
const LOCKED: &str = "another process holds the database";

/// After so long without a word from standard input somebody may wonder.
const WONDER: Duration = Duration::from_secs(2);

pub(crate) async fn run(context: &mut Context, args: &AskArgs) -> Result<ExitStatus> {
    let stop = Stop::listen()?;
    let deadline = Instant::now() + args.timeout;
    let pacing = settings::pacing(&args.pacing, &context.environment)?;
    let piped = in_time(deadline, "standard input goes on", piped(context, args));
    let Some(piped) = stop.unless_requested(piped).await else {
        return Ok(stop.exit_status());
    };
    let line = question(args, piped?)?;
    let defaults = Defaults {
        model: context.model()?,
        priority: PRIORITY,
        schema: args.schema.as_deref().map(enqueue::read_schema).transpose()?,
        stream: args.format == Report::Text,
        ..Defaults::default()
    };
    let keys = context.keys()?;
    if keys.is_empty() && !others_work(context).await {
        return Err(no_key());
    }
    // In a thread of its own: the system's certificates are read meanwhile.
    let building = if keys.is_empty() {
        None
    } else {
        let options = context.client_options(&keys, &pacing)?;
        Some(tokio::task::spawn_blocking(move || build_client(&options)))
    };
    let storing = deadline.max(Instant::now() + STORING);
    let opened = in_time(storing, LOCKED, context.store(Access::Write));
    let Some(store) = stop.unless_requested(opened).await else { return Ok(stop.exit_status()) };
    let store = store?;
    let means = match building {
        Some(building) => {
            let client = building.await.map_err(|error| Failure::crashed("a thread", &error))??;
            Some(Means { client, keys, pacing })
        }
        None => None,
    };
    let is_worked = store.is_worked().await?;
    let queue = if is_worked { Queue::over(store) } else { Queue::alone(store) };
    let asked = async { Ok(queue.enqueue_with(BATCH, &line, defaults).await?) };
    let Some(task) = stop.unless_requested(in_time(storing, LOCKED, asked)).await else {
        return Ok(stop.exit_status());
    };
    let task = task?;
    let asking = Asking { queue: &queue, task, stop: &stop, args, means, is_worked, deadline };
    let status = asking.answered(context).await;
    work::within_time(queue.close()).await?;
    status
}

/// Returns what `work` comes to by then.
async fn in_time<T>(
    deadline: Instant,
    meanwhile: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let late = || {
        let message = format!("the time is up and {meanwhile}; nothing was asked");
        Err(Failure::new(ExitStatus::TimedOut, message))
    };
    tokio::time::timeout_at(deadline, work).await.unwrap_or_else(|_| late())
}

/// Reads standard input where it is the prompt or belongs to it.
async fn piped(context: &Context, args: &AskArgs) -> Result<Option<Vec<u8>>> {
    let is_prompt = args.prompt.as_deref() == Some("-");
    if std::io::stdin().is_terminal() && !is_prompt {
        return Ok(None);
    }
    let read = || {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
    };
    let mut reading = pin!(tokio::task::spawn_blocking(read));
    let read = if let Ok(read) = tokio::time::timeout(WONDER, &mut reading).await {
        read
    } else {
        context.out.hint("waiting for the end of standard input");
        reading.await
    };
    let bytes = read.map_err(|error| Failure::crashed("a thread", &error))?;
    let bytes = bytes.map_err(|error| {
        Failure::new(ExitStatus::Failure, format!("cannot read standard input: {error}"))
    })?;
    Ok(Some(bytes).filter(|bytes| !bytes.is_empty()))
}

fn question(args: &AskArgs, piped: Option<Vec<u8>>) -> Result<serde_json::Value> {
    let kinds = [
        (Kind::Audio, &args.audio),
        (Kind::Image, &args.image),
        (Kind::Video, &args.video),
        (Kind::File, &args.file),
    ];
    let files = kinds
        .into_iter()
        .flat_map(|(kind, paths)| paths.iter().map(move |path| (kind, path.as_path())));
    let question = Question {
        typed: args.prompt.as_deref().filter(|prompt| *prompt != "-"),
        piped,
        files: files.collect(),
        system: args.system.as_deref(),
    };
    question.line().map_err(|reason| Failure::new(ExitStatus::Usage, reason))
}

/// Returns whether a worker runs that could do it.
async fn others_work(context: &Context) -> bool {
    match context.store(Access::Read).await {
        Ok(store) => store.is_worked().await.unwrap_or(false),
        Err(_) => false,
    }
}

/// What this process needs to answer by itself.
struct Means {
    client: Client,
    keys: Vec<NamedKey>,
    pacing: Pacing,
}

/// A question that is in the queue.
struct Asking<'a> {
    queue: &'a Queue,
    task: Task,
    stop: &'a Stop,
    args: &'a AskArgs,
    /// Absent where others have to answer.
    means: Option<Means>,
    /// Whether a worker ran when it was asked.
    is_worked: bool,
    deadline: Instant,
}

/// What ends the wait for an answer.
enum End {
    /// With an error where nobody reads any more.
    Answered(Result<Box<Answer>>),
    /// The worker of this process cannot go on, and there is no other.
    Left(Finish),
    TimeUp,
    Stopped,
}

impl Asking<'_> {
    async fn answered(&self, context: &mut Context) -> Result<ExitStatus> {
        let (tell, phase) = watch::channel(Phase::Running);
        let mut working = pin!(self.work(phase).fuse());
        let end = self.wait(&context.out, working.as_mut()).await?;
        // A call of ours that is under way after all is paid for, and still recorded.
        let (phase, status) = match end {
            End::Answered(answer) => {
                self.stop.exit_when_requested();
                (Phase::Draining, answer.and_then(|answer| self.print(context, *answer)))
            }
            End::Left(finish) => (Phase::Draining, self.left(context, finish)),
            End::TimeUp => {
                context.out.error("the time is up; the job stays in the queue");
                self.tell_where_it_is(context);
                (Phase::Aborting, Ok(ExitStatus::TimedOut))
            }
            End::Stopped => {
                self.stop.exit_when_requested();
                let cancelled = self.queue.cancel(&self.task).await;
                let status = cancelled.map(|()| self.stop.exit_status());
                (Phase::Aborting, status.map_err(Failure::from))
            }
        };
        tell.send_replace(phase);
        if !working.is_terminated() {
            working.await?;
        }
        status
    }

    /// Waits for the answer and prints its text as it comes.
    async fn wait(
        &self,
        out: &Output,
        mut working: Pin<&mut (impl FusedFuture<Output = Result<Option<Finish>>> + Send)>,
    ) -> Result<End> {
        let mut talking = pin!(self.talk(out));
        let mut time_up = pin!(tokio::time::sleep_until(self.deadline));
        loop {
            tokio::select! {
                answer = &mut talking => return Ok(End::Answered(answer.map(Box::new))),
                finish = &mut working, if !working.is_terminated() => match finish? {
                    None | Some(Finish::Drained | Finish::Stopped) => {}
                    // Another one may have other keys.
                    Some(Finish::NoUsableKey) if self.queue.store().is_worked().await? => {}
                    Some(finish) => return Ok(End::Left(finish)),
                },
                () = &mut time_up => return Ok(End::TimeUp),
                () = self.stop.requested() => return Ok(End::Stopped),
            }
        }
    }

    async fn talk(&self, out: &Output) -> Result<Answer> {
        match self.args.format {
            Report::Text => speak::speak(out, self.queue.text_stream(&self.task)).await,
            Report::Json => Ok(self.queue.wait(&self.task).await?),
        }
    }

    /// Works the one job, unless another worker has done it within a moment; none without keys.
    async fn work(&self, mut phase: watch::Receiver<Phase>) -> Result<Option<Finish>> {
        let Some(Means { client, keys, pacing }) = &self.means else { return Ok(None) };
        let store = self.queue.store();
        if self.is_worked {
            tokio::select! {
                () = tokio::time::sleep(MOMENT) => {}
                _ = phase.changed() => return Ok(None),
            }
        }
        let Some(job) = store.job_id(&self.task.batch, &self.task.task_id).await? else {
            return Ok(None);
        };
        let keys = register(store, keys).await?;
        let options = WorkerOptions {
            workers: 1,
            drain: true,
            grace: self.args.timeout,
            reject_truncated: self.args.reject_truncated,
            ..WorkerOptions::new(Scope::Job(job), pacing, client, keys)
        };
        let told = AtomicBool::new(false);
        let events = Events::to(move |event| tell(event, &told));
        Ok(Some(gq::worker::run(store, client, options, phase, events).await?))
    }

    fn print(&self, context: &mut Context, answer: Answer) -> Result<ExitStatus> {
        let state = answer.job.state;
        let status =
            if state == JobState::Succeeded { ExitStatus::Done } else { ExitStatus::SomeFailed };
        match self.args.format {
            Report::Json => results::print_one(context, answer, ResultFormat::Jsonl)?,
            Report::Text if status == ExitStatus::Done && answer.response.is_none() => {
                results::print_one(context, answer, ResultFormat::Text)?;
            }
            Report::Text => speak::end(&context.out, &answer),
        }
        Ok(status)
    }

    /// Says why the job is left to others.
    fn left(&self, context: &Context, finish: Finish) -> Result<ExitStatus> {
        let status = work::ending(&context.out, finish, &Counts::default(), self.stop);
        self.tell_where_it_is(context);
        status
    }

    fn tell_where_it_is(&self, context: &Context) {
        let task = &self.task.task_id;
        context.out.hint(format!(
            "`gq work` goes on with it, and `gq results --batch {BATCH} --task-id {task}` has its \
             answer then"
        ));
    }
}

/// Says once what the answer waits for.
fn tell(event: &Event, told: &AtomicBool) {
    let Event::Turn { waiting, held_until, .. } = event else { return };
    let held = || Some(("the limits of the minute are reached", Some((*held_until)?)));
    let rests = waiting.as_ref().map(|waiting| (waiting.reason.as_str(), waiting.until));
    if let Some((reason, until)) = rests.or_else(held)
        && !told.swap(true, Ordering::Relaxed)
    {
        let until = until.map(|until| until.to_string()).unwrap_or_default();
        tracing::warn!(reason, until, "the answer has to wait");
    }
}
