//! `gq results --follow`: each result as it finishes, and the text of one job as it comes.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use gq::domain::time::Timestamp;
use gq::queue::{Answer, Queue, Task};
use gq::store::{Changes, Finish, ResultFilter, Store};

use super::args::{ResultFormat, ResultsOptions};
use super::context::Context;
use super::exit::ExitStatus;
use super::failure::Result;
use super::file::WholeFile;
use super::media::MediaFolder;
use super::output::Flow;
use super::output::results::{Layout, ResultsWriter};
use super::signals::Stop;
use super::{results, speak};

/// How often it looks where nothing tells of commits.
const POLL: Duration = Duration::from_millis(200);

/// Results that are read together.
const TOGETHER: usize = 100;

/// Prints until all jobs that fit `filter` are finished, the time is up, or a signal comes.
pub(crate) async fn run(
    context: &mut Context,
    store: &Store,
    filter: &ResultFilter,
    options: &ResultsOptions,
) -> Result<ExitStatus> {
    let stop = Stop::listen()?;
    let limit = options.timeout.unwrap_or(Duration::from_hours(24 * 365 * 30));
    let following = async {
        let Some(task) = spoken(store, filter, options).await? else {
            return print_all(context, store, filter, options).await;
        };
        speak(context, store, &task).await
    };
    tokio::select! {
        followed = following => followed?,
        () = tokio::time::sleep(limit) => {
            context.out.error("the time is up; the jobs stay in the queue");
            return Ok(ExitStatus::TimedOut);
        }
        () = stop.requested() => return Ok(stop.exit_status()),
    }
    Ok(ExitStatus::Done)
}

async fn print_all(
    context: &mut Context,
    store: &Store,
    filter: &ResultFilter,
    options: &ResultsOptions,
) -> Result<()> {
    let layout = results::layout(context, options);
    let flow = context.out.flow()?;
    let warning = print(flow, store, filter, options, layout, std::future::pending()).await?;
    if let Some(warning) = warning {
        context.out.warning(warning);
    }
    Ok(())
}

/// Returns the task whose text is printed as it comes: one that streams, asked for by itself and in
/// no other form.
async fn spoken(
    store: &Store,
    filter: &ResultFilter,
    options: &ResultsOptions,
) -> Result<Option<Task>> {
    let as_text = matches!(options.format, None | Some(ResultFormat::Text));
    if filter.task_ids.len() != 1 || !as_text || options.output.is_some() {
        return Ok(None);
    }
    let page = store.results(filter, 0).await?;
    Ok(match page.jobs.as_slice() {
        [job] if job.stream => {
            Some(Task { batch: job.batch.clone(), task_id: job.task_id.clone() })
        }
        _ => None,
    })
}

async fn speak(context: &mut Context, store: &Store, task: &Task) -> Result<()> {
    let queue = Queue::over(store.clone());
    let answer = speak::speak(&context.out, queue.text_stream(task)).await?;
    speak::end(&context.out, &answer);
    Ok(())
}

/// Prints each result as it finishes, until all jobs that fit `filter` are, or `done` says that no
/// more will be; returns what there is to warn of.
pub(crate) async fn print(
    flow: Flow,
    store: &Store,
    filter: &ResultFilter,
    options: &ResultsOptions,
    layout: Layout,
    done: impl Future<Output = ()>,
) -> Result<Option<String>> {
    let mut media = MediaFolder::open(options.media_dir.as_deref())?;
    let follower = Follower::new(store, filter, layout.full);
    match options.output.as_deref().filter(|path| *path != Path::new("-")) {
        Some(path) => {
            let file = WholeFile::begin(path)?;
            follower.run(Rows::begin(layout, Target::File(file.file()))?, &mut media, done).await?;
            file.finish()?;
        }
        None => follower.run(Rows::begin(layout, Target::Flow(flow))?, &mut media, done).await?,
    }
    Ok(media.warning())
}

/// Where rows go in the end.
enum Target<'a> {
    Flow(Flow),
    File(&'a File),
}

/// Rows that are collected before they go on.
struct Rows<'a> {
    writer: ResultsWriter<Collected>,
    collected: Collected,
    target: Target<'a>,
}

/// Text that two hold on to: one who adds to it, one who takes it.
#[derive(Clone, Default)]
struct Collected(Rc<RefCell<Vec<u8>>>);

impl Write for Collected {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> Rows<'a> {
    fn begin(layout: Layout, target: Target<'a>) -> Result<Self> {
        let collected = Collected::default();
        Ok(Self { writer: ResultsWriter::new(layout, collected.clone())?, collected, target })
    }

    /// Hands on what is collected.
    async fn flush(&mut self) -> Result<()> {
        self.writer.flush()?;
        hand_on(&self.collected, &mut self.target).await
    }

    async fn finish(mut self) -> Result<()> {
        self.writer.finish()?;
        hand_on(&self.collected, &mut self.target).await
    }
}

async fn hand_on(collected: &Collected, target: &mut Target<'_>) -> Result<()> {
    let bytes = std::mem::take(&mut *collected.0.borrow_mut());
    match target {
        Target::Flow(flow) => flow.write(&String::from_utf8_lossy(&bytes)).await?,
        Target::File(file) => file.write_all(&bytes)?,
    }
    Ok(())
}

/// Jobs by their rows, a bit for each.
#[derive(Default)]
struct Marks {
    bits: Vec<u64>,
    count: i64,
}

impl Marks {
    /// Marks a job; returns whether it was not.
    fn mark(&mut self, job: i64) -> bool {
        let job = usize::try_from(job).unwrap_or(0);
        let (word, bit) = (job / 64, 1 << (job % 64));
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        let is_new = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        self.count += i64::from(is_new);
        is_new
    }
}

/// One who prints results as they come.
struct Follower<'a> {
    store: &'a Store,
    filter: &'a ResultFilter,
    full: bool,
    changes: Changes,
    printed: Marks,
    /// The latest time of those printed.
    latest: Timestamp,
}

/// Before every time.
const BEGINNING: Timestamp = Timestamp(i64::MIN);

impl<'a> Follower<'a> {
    fn new(store: &'a Store, filter: &'a ResultFilter, full: bool) -> Self {
        Self {
            store,
            filter,
            full,
            changes: store.changes(POLL),
            printed: Marks::default(),
            latest: BEGINNING,
        }
    }

    async fn run(
        mut self,
        mut rows: Rows<'_>,
        media: &mut MediaFolder<'_>,
        done: impl Future<Output = ()>,
    ) -> Result<()> {
        let mut done = pin!(done);
        let mut is_done = false;
        loop {
            let any_left = self.store.count(&self.unfinished()).await?.unfinished() > 0;
            self.print_new(&mut rows, media).await?;
            rows.flush().await?;
            if is_done || !any_left {
                break;
            }
            tokio::select! {
                () = self.changes.next() => {}
                () = &mut done => is_done = true,
            }
        }
        self.print_missed(&mut rows, media).await?;
        rows.finish().await?;
        Ok(self.changes.close().await?)
    }

    /// A state says what to print; until then any of the jobs may get into it.
    fn unfinished(&self) -> ResultFilter {
        ResultFilter { states: Vec::new(), ..self.filter.clone() }
    }

    /// Prints what finished since the last time. Others may have finished within the same
    /// millisecond as the last one printed.
    async fn print_new(&mut self, rows: &mut Rows<'_>, media: &mut MediaFolder<'_>) -> Result<()> {
        let latest = self.latest;
        self.print_from(Finish { at: latest, job: 0 }, latest, rows, media).await
    }

    /// Prints those that finished under a clock that was set back meanwhile.
    async fn print_missed(
        &mut self,
        rows: &mut Rows<'_>,
        media: &mut MediaFolder<'_>,
    ) -> Result<()> {
        let counts = self.store.count(self.filter).await?;
        if self.printed.count >= counts.total() - counts.unfinished() {
            return Ok(());
        }
        let all = Finish { at: BEGINNING, job: 0 };
        self.print_from(all, Timestamp(i64::MAX), rows, media).await
    }

    /// Prints what finished after `from`: what finished after `known` in any case, such as a job
    /// that was tried again, and the rest unless it was printed.
    async fn print_from(
        &mut self,
        mut from: Finish,
        known: Timestamp,
        rows: &mut Rows<'_>,
        media: &mut MediaFolder<'_>,
    ) -> Result<()> {
        loop {
            let finishes = self.store.finished(self.filter, from).await?;
            let Some(last) = finishes.last() else { return Ok(()) };
            from = *last;
            self.latest = self.latest.max(last.at);
            let new: Vec<i64> = finishes
                .iter()
                .filter(|finish| self.printed.mark(finish.job) || finish.at > known)
                .map(|finish| finish.job)
                .collect();
            for ids in new.chunks(TOGETHER) {
                self.print_jobs(ids, rows, media).await?;
            }
        }
    }

    async fn print_jobs(
        &self,
        ids: &[i64],
        rows: &mut Rows<'_>,
        media: &mut MediaFolder<'_>,
    ) -> Result<()> {
        let mut after = Some(0);
        while let Some(from) = after {
            let page = self.store.results_of(ids, from).await?;
            for job in page.jobs {
                rows.writer.row(&results::row(Answer::of(job), self.full, media)?)?;
            }
            after = page.next;
            rows.flush().await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_job_is_marked_once() {
        let mut marks = Marks::default();
        let new: Vec<bool> = [3, 64, 3, 0, 1_000_000, 64].map(|job| marks.mark(job)).to_vec();
        assert_eq!(new, [true, true, false, true, true, false]);
        assert_eq!(marks.count, 4);
    }
}
