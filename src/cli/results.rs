//! `gq results` and `gq show`.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::OptionFuture;
use gq::domain::output;
use gq::domain::view::JobState;
use gq::queue::Answer;
use gq::store::{Access, ResultFilter, Store};

use super::args::{Report, ResultFormat, ResultsArgs, ResultsOptions, ShowArgs};
use super::context::Context;
use super::exit::ExitStatus;
use super::failure::{Failure, Result};
use super::file::{self, WholeFile};
use super::follow;
use super::media::MediaFolder;
use super::output::results::{Layout, ResultRow, ResultsWriter};
use super::output::show;
use super::signals::Stop;

/// How often `--wait` looks where nothing tells of commits.
const POLL: Duration = Duration::from_millis(200);

pub(crate) async fn run(context: &mut Context, args: &ResultsArgs) -> Result<ExitStatus> {
    let options = &args.options;
    check_output(context, options, None)?;
    let store = context.store(Access::Read).await?;
    let filter = ResultFilter {
        task_ids: options.task_ids.clone(),
        batch: args.batch.clone(),
        states: options.states.clone(),
    };
    known(&store, &filter).await?;
    if options.follow {
        let status = follow::run(context, &store, &filter, options).await?;
        if status != ExitStatus::Done {
            return Ok(status);
        }
    } else if options.wait {
        let stop = Stop::listen()?;
        // A state says what to print in the end; until then any of the jobs may get into it.
        let jobs = ResultFilter { states: Vec::new(), ..filter.clone() };
        if let Some(status) = wait(&store, &jobs, options.timeout, &stop).await? {
            if status == ExitStatus::TimedOut {
                context.out.error("the time is up; the jobs stay in the queue");
            }
            return Ok(status);
        }
        stop.exit_when_requested();
    }
    if !options.follow {
        print(context, &store, filter.clone(), options).await?;
    }
    let counts = store.count(&filter).await?;
    let some_failed = options.wait && counts.failed + counts.cancelled > 0;
    Ok(if some_failed { ExitStatus::SomeFailed } else { ExitStatus::Done })
}

/// Refuses names that nothing has.
pub(crate) async fn known(store: &Store, filter: &ResultFilter) -> Result<()> {
    if let Some(name) = &filter.batch
        && store.batch_id(name).await?.is_none()
    {
        return Err(Failure::new(ExitStatus::NotFound, format!("there is no batch `{name}`")));
    }
    match store.unknown_tasks(filter).await?.first() {
        Some(task) => Err(no_task(task)),
        None => Ok(()),
    }
}

fn no_task(task: &str) -> Failure {
    Failure::new(ExitStatus::NotFound, format!("there is no task `{task}`"))
}

async fn wait(
    store: &Store,
    filter: &ResultFilter,
    timeout: Option<Duration>,
    stop: &Stop,
) -> Result<Option<ExitStatus>> {
    let mut changes = store.changes(POLL);
    let mut time_up = pin!(OptionFuture::from(timeout.map(tokio::time::sleep)));
    let status = loop {
        if store.count(filter).await?.unfinished() == 0 {
            break None;
        }
        tokio::select! {
            () = changes.next() => {}
            Some(()) = &mut time_up => break Some(ExitStatus::TimedOut),
            () = stop.requested() => break Some(stop.exit_status()),
        }
    };
    changes.close().await?;
    Ok(status)
}

/// Prints the results that fit `filter`, finished ones where it names neither task nor state.
pub(crate) async fn print(
    context: &mut Context,
    store: &Store,
    mut filter: ResultFilter,
    options: &ResultsOptions,
) -> Result<()> {
    if filter.states.is_empty() && filter.task_ids.is_empty() {
        filter.states = JobState::ALL.into_iter().filter(|state| state.is_finished()).collect();
    }
    let path = options.output.as_deref().filter(|path| *path != Path::new("-"));
    let layout = layout(context, options);
    let mut media = MediaFolder::open(options.media_dir.as_deref())?;
    if let Some(path) = path {
        write_file(store, &filter, layout, &mut media, path).await?;
    } else {
        write(store, &filter, layout, &mut media, context.out.rows()).await?;
        context.out.flush()?;
    }
    if let Some(warning) = media.warning() {
        context.out.warning(warning);
    }
    Ok(())
}

/// Returns the form of the results asked for.
pub(crate) fn layout(context: &Context, options: &ResultsOptions) -> Layout {
    let single = options.task_ids.len() == 1;
    let to_file = options.output.as_deref().is_some_and(|path| path != Path::new("-"));
    let on_terminal = context.out.stdout_is_terminal && !to_file;
    let default = if single && on_terminal { ResultFormat::Text } else { ResultFormat::Jsonl };
    Layout { format: options.format.unwrap_or(default), single, full: options.full }
}

async fn write_file(
    store: &Store,
    filter: &ResultFilter,
    layout: Layout,
    media: &mut MediaFolder<'_>,
    path: &Path,
) -> Result<()> {
    let file = WholeFile::begin(path)?;
    write(store, filter, layout, media, BufWriter::new(file.file())).await.map_err(|failure| {
        match failure.message {
            Some(message) => {
                Failure::new(failure.status, format!("`{}`: {message}", file.path().display()))
            }
            None => failure,
        }
    })?;
    file.finish()
}

/// Refuses an output file that would overwrite the database or one of `others`.
pub(crate) fn check_output<'a>(
    context: &'a Context,
    options: &ResultsOptions,
    others: impl IntoIterator<Item = &'a Path>,
) -> Result<()> {
    match options.output.as_deref().filter(|path| *path != Path::new("-")) {
        Some(path) => file::check("-o", path, &context.database, others),
        None => Ok(()),
    }
}

async fn write(
    store: &Store,
    filter: &ResultFilter,
    layout: Layout,
    media: &mut MediaFolder<'_>,
    writer: impl Write,
) -> Result<()> {
    let full = layout.full;
    let mut rows = ResultsWriter::new(layout, writer)?;
    let read = |from| {
        let (store, filter) = (store.clone(), filter.clone());
        tokio::spawn(async move { store.results(&filter, from).await })
    };
    let mut next = Some(read(0));
    while let Some(page) = next {
        let page = page.await.map_err(|error| Failure::crashed("reading results", &error))??;
        // The next page is read while this one is written.
        next = page.next.map(read);
        for job in page.jobs {
            rows.row(&row(Answer::of(job), full, media)?)?;
        }
    }
    Ok(rows.finish()?)
}

/// Prints one result by itself.
pub(crate) fn print_one(context: &mut Context, answer: Answer, format: ResultFormat) -> Result<()> {
    let layout = Layout { format, single: true, full: false };
    let mut rows = ResultsWriter::new(layout, context.out.rows())?;
    rows.row(&row(answer, false, &mut MediaFolder::default())?)?;
    Ok(rows.finish()?)
}

/// Returns the row of a job, with its media written where that is asked for.
pub(crate) fn row(
    mut answer: Answer,
    full: bool,
    media: &mut MediaFolder<'_>,
) -> Result<ResultRow> {
    let media = media.take(&answer.job, std::mem::take(&mut answer.media))?;
    let succeeded = answer.job.state == JobState::Succeeded;
    let value = answer.response.as_deref().filter(|_| succeeded);
    let form = answer.job.output;
    let parsed = form.map(|form| value.and_then(|text| output::parsed(form, text)));
    Ok(ResultRow { answer, media, parsed, full })
}

/// `gq show`: one job with its attempts.
pub(crate) async fn show(context: &mut Context, args: &ShowArgs) -> Result<ExitStatus> {
    let store = context.store(Access::Read).await?;
    let filter = ResultFilter {
        task_ids: vec![args.task_id.clone()],
        batch: args.batch.clone(),
        states: Vec::new(),
    };
    known(&store, &filter).await?;
    let mut page = store.results(&filter, 0).await?;
    // A page can end early only before a further job.
    if page.jobs.len() > 1 || page.next.is_some() {
        let batches: Vec<&str> = page.jobs.iter().map(|job| job.batch.as_str()).collect();
        let message = format!("several batches have a task `{}`", args.task_id);
        return Err(Failure::new(ExitStatus::Usage, message)
            .hint(format!("name one with `--batch`: {}", batches.join(", "))));
    }
    // Nothing holds a job in place between two looks.
    let Some(job) = page.jobs.pop() else { return Err(no_task(&args.task_id)) };
    let attempts = store.attempts(&job.task_id, &job.batch).await?;
    let row = row(Answer::of(job), false, &mut MediaFolder::default())?;
    let text = match args.format {
        Report::Json => show::json_value(&row, &attempts)?,
        Report::Text => show::text(&row, &attempts, &chrono::Local),
    };
    context.out.data(&text)?;
    Ok(ExitStatus::Done)
}
