//! `gq work` and `gq run`.

use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{self, Either};
use gq::domain::pacing::Pacing;
use gq::domain::view::Counts;
use gq::mock::MockServer;
use gq::mock::config::Config;
use gq::store::{ResultFilter, Scope, Store};
use gq::worker::{Finish, Phase, WorkerOptions};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::args::{RunArgs, WorkArgs, WorkOptions};
use super::context::{Api, Context, no_key};
use super::exit::ExitStatus;
use super::failure::{Failure, Result};
use super::output::Output;
use super::progress::Progress;
use super::signals::Stop;
use super::{enqueue, follow, results, settings};

/// How long a command that ends waits for the database to close; a writer that waits for another
/// process's lock would not let it.
const CLOSING: Duration = Duration::from_secs(2);

pub(crate) async fn run(context: &mut Context, args: &WorkArgs) -> Result<ExitStatus> {
    let stop = Stop::listen()?;
    let pacing = settings::pacing(&args.options.pacing, &context.environment)?;
    let store = Store::open_for_work(&context.database);
    let Some(store) = stop.unless_requested(store).await else { return Ok(ended(args, &stop)) };
    let store = store?;
    let worked = async {
        let api = stop.unless_requested(context.api(&store, &pacing)).await;
        let Some(api) = api else { return Ok(stop.exit_status()) };
        let batch = args.batch.as_deref();
        work(context, &store, api?, &args.options, &pacing, batch, &stop).await
    }
    .await;
    close(&store).await?;
    let status = worked?;
    let stopped = matches!(status, ExitStatus::Interrupted | ExitStatus::Terminated);
    Ok(if stopped { ended(args, &stop) } else { status })
}

/// Returns how a `gq work` that a signal stopped ends: nothing asked for is undone without `--drain`.
fn ended(args: &WorkArgs, stop: &Stop) -> ExitStatus {
    if args.options.drain { stop.exit_status() } else { ExitStatus::Done }
}

async fn close(store: &Store) -> Result<()> {
    within_time(store.close()).await
}

/// Waits for a database to close, but not for ever.
pub(crate) async fn within_time<E>(
    closing: impl Future<Output = std::result::Result<(), E>>,
) -> Result<()>
where
    Failure: From<E>,
{
    match tokio::time::timeout(CLOSING, closing).await {
        Ok(closed) => Ok(closed?),
        // All that was to be stored is; the log is read in again at the next start.
        Err(_) => Ok(()),
    }
}

/// Stores the input of a run; none where a signal comes while it is being read.
async fn enqueued(
    context: &Context,
    args: &RunArgs,
    stop: &Stop,
) -> Result<Option<Vec<enqueue::Stored>>> {
    let files = std::slice::from_ref(&args.file);
    let storing = enqueue::enqueue(context, files, args.batch.as_deref(), &args.enqueue);
    let mut storing = std::pin::pin!(storing);
    if let Some(stored) = stop.unless_requested(&mut storing).await {
        return Ok(Some(stored?));
    }
    // A large input is stored in steps; the one under way may end, and says how far it came.
    tokio::time::timeout(CLOSING, storing).await.ok().transpose()
}

/// `gq run`: enqueues, works that batch alone, prints its results.
pub(crate) async fn run_file(context: &mut Context, args: &RunArgs) -> Result<ExitStatus> {
    let stop = Stop::listen()?;
    let pacing = settings::pacing(&args.work.pacing, &context.environment)?;
    if !args.mock && context.keys()?.is_empty() {
        return Err(no_key());
    }
    let others = [Some(args.file.as_path()), args.enqueue.rejects.as_deref()];
    results::check_output(context, &args.results, others.into_iter().flatten())?;
    let Some(stored) = enqueued(context, args, &stop).await? else { return Ok(stop.exit_status()) };
    let Some(stored) = stored.first() else { return Ok(ExitStatus::Done) };
    let store = Store::open_for_work(&context.database);
    let Some(store) = stop.unless_requested(store).await else { return Ok(stop.exit_status()) };
    let store = store?;
    if let Some(limit) = args.results.timeout {
        stop.after(limit);
    }
    let filter = ResultFilter {
        task_ids: args.results.task_ids.clone(),
        batch: Some(stored.batch.clone()),
        states: args.results.states.clone(),
    };
    let worked = async {
        if args.results.follow {
            return run_and_follow(context, &store, args, &pacing, &filter, &stop).await;
        }
        let status = run_batch(context, &store, args, &pacing, &stored.batch, &stop).await?;
        stop.exit_when_requested();
        results::print(context, &store, filter, &args.results).await?;
        Ok(status)
    }
    .await;
    close(&store).await?;
    worked
}

/// Works a batch and prints each result as it finishes.
async fn run_and_follow(
    context: &Context,
    store: &Store,
    args: &RunArgs,
    pacing: &Pacing,
    filter: &ResultFilter,
    stop: &Stop,
) -> Result<ExitStatus> {
    let layout = results::layout(context, &args.results);
    let flow = context.out.flow()?;
    let (end, ended) = oneshot::channel::<()>();
    let working = async {
        let batch = filter.batch.as_deref().unwrap_or_default();
        let status = run_batch(context, store, args, pacing, batch, stop).await;
        drop(end);
        status
    };
    // The other side is dropped, which says all.
    let done = ended.map(|_| ());
    let printing = pin!(follow::print(flow, store, filter, &args.results, layout, done));
    let (status, printed) = match future::select(pin!(working), printing).await {
        Either::Left((status, printing)) if *stop.phase.borrow() > Phase::Running => {
            match tokio::time::timeout(CLOSING, printing).await {
                Ok(printed) => (status, printed),
                // Who does not read now gets what is left by the next call. The last job may have
                // ended just before the signal came.
                Err(_) => (status.map(|_| stop.exit_status()), Ok(None)),
            }
        }
        Either::Left((status, printing)) => {
            stop.exit_when_requested();
            (status, printing.await)
        }
        Either::Right((printed, working)) => (working.await, printed),
    };
    if let Some(warning) = printed? {
        context.out.warning(warning);
    }
    status
}

async fn run_batch(
    context: &Context,
    store: &Store,
    args: &RunArgs,
    pacing: &Pacing,
    batch: &str,
    stop: &Stop,
) -> Result<ExitStatus> {
    let options = WorkOptions { drain: true, ..args.work.clone() };
    if !args.mock {
        let api = stop.unless_requested(context.api(store, pacing)).await;
        let Some(api) = api else { return Ok(stop.exit_status()) };
        return work(context, store, api?, &options, pacing, Some(batch), stop).await;
    }
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let mock = MockServer::start(listener, Config::default())?;
    let api = stop.unless_requested(Api::mock(store, mock.url(), pacing)).await;
    let Some(api) = api else { return Ok(stop.exit_status()) };
    let status = work(context, store, api?, &options, pacing, Some(batch), stop).await;
    mock.stop().await;
    status
}

async fn work(
    context: &Context,
    store: &Store,
    api: Api,
    options: &WorkOptions,
    pacing: &Pacing,
    batch: Option<&str>,
    stop: &Stop,
) -> Result<ExitStatus> {
    let scope = match batch {
        Some(name) => Scope::Batch(store.batch_id(name).await?.ok_or_else(|| {
            Failure::new(ExitStatus::NotFound, format!("there is no batch `{name}`"))
        })?),
        None => Scope::All,
    };
    let visible = context.args.progress || (context.out.stderr_is_terminal && !context.args.quiet);
    let progress = Progress::start(visible, context.out.stderr_is_terminal);
    let options = worker_options(options, pacing, scope, &api);
    let finish =
        gq::worker::run(store, &api.client, options, stop.phase.clone(), progress.events());
    let finish = finish.await;
    progress.end();
    let filter = ResultFilter { batch: batch.map(str::to_owned), ..ResultFilter::default() };
    let counts = store.count(&filter).await?;
    ending(&context.out, finish?, &counts, stop)
}

/// Returns how a command ends whose worker ended like this, with these jobs in scope.
pub(crate) fn ending(
    out: &Output,
    finish: Finish,
    counts: &Counts,
    stop: &Stop,
) -> Result<ExitStatus> {
    Ok(match finish {
        Finish::Drained if counts.failed + counts.cancelled > 0 => ExitStatus::SomeFailed,
        Finish::Drained => ExitStatus::Done,
        Finish::Stopped => stop.exit_status(),
        Finish::Exhausted => {
            out.warning("every key that could go on rests; the rest is left for later");
            ExitStatus::TryAgainLater
        }
        Finish::NoUsableKey => {
            return Err(Failure::new(
                ExitStatus::NoUsableKey,
                "no key is usable: every one was refused by the API or is disabled",
            )
            .hint("`gq keys` tells why; `gq keys reset` makes them available again"));
        }
        Finish::BudgetReached => {
            out.warning("the budget is used up; the rest is left");
            ExitStatus::BudgetUsedUp
        }
        Finish::LocationRefused => {
            return Err(Failure::new(
                ExitStatus::Failure,
                "the API serves nobody from this address (user location is not supported)",
            )
            .hint("no job was failed; go on from another network"));
        }
    })
}

fn worker_options(
    options: &WorkOptions,
    pacing: &Pacing,
    scope: Scope,
    api: &Api,
) -> WorkerOptions {
    let mut worker = WorkerOptions::new(scope, pacing, &api.client, api.keys.clone());
    worker.workers = usize::from(options.workers);
    worker.reserve = usize::from(options.reserve);
    worker.drain = options.drain;
    worker.policy.lease = options.lease.max(Duration::from_secs(1));
    worker.grace = options.grace;
    worker.reject_truncated = options.reject_truncated;
    worker.poll_interval = options.poll_interval.max(Duration::from_millis(1));
    worker
}
