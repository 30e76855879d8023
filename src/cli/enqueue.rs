//! `gq enqueue`: checks all lines of all files, then stores them.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gq::domain::input::{DefaultSchema, Defaults, NewJob, next_chunk};
use gq::intake::{Checked, Intake, IntakeError, Jobs, Rejects, Source};
use gq::store::{Access, Added, EnqueueOptions, OnConflict, Store, StoreError};

use super::args::{self, EnqueueArgs};
use super::context::{Context, now};
use super::exit::ExitStatus;
use super::failure::{Failure, Result};
use super::file::{self, WholeFile};
use super::output::enqueued::{self, Enqueued};
use super::signals::Stop;

/// A call whose input is smaller is one transaction.
const ONE_TRANSACTION: u64 = 64_000_000;

/// Jobs and bytes of one transaction of a larger input: others can write between them.
const PORTION_JOBS: usize = 1 << 15;
const PORTION_BYTES: usize = 16 << 20;

/// Jobs and bytes that are looked up together.
const CHUNK_JOBS: usize = 8192;
const CHUNK_BYTES: usize = 8 << 20;

/// What one source brings.
struct Part {
    batch: String,
    intake: Intake,
    checked: Checked,
}

/// What became of one source.
pub(crate) struct Stored {
    pub(crate) batch: String,
    pub(crate) added: Added,
    pub(crate) rejected: u64,
}

/// What stops an enqueue between its two halves.
enum Trouble {
    Store(StoreError),
    Intake(IntakeError),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Store(error) => error.into(),
            Trouble::Intake(error) => error.into(),
        }
    }
}

pub(crate) async fn run(context: &mut Context, args: &EnqueueArgs) -> Result<ExitStatus> {
    let stored = enqueue(context, &args.files, args.batch.as_deref(), &args.options).await?;
    for stored in &stored {
        context.out.data(&enqueued::json_line(&Enqueued {
            batch: &stored.batch,
            enqueued: stored.added.enqueued,
            skipped: stored.added.skipped,
            replaced: stored.added.replaced,
            rejected: stored.rejected,
        })?)?;
    }
    Ok(ExitStatus::Done)
}

/// Checks and stores `files`; nothing is stored unless all of them are good.
pub(crate) async fn enqueue(
    context: &Context,
    files: &[PathBuf],
    batch: Option<&str>,
    options: &args::EnqueueOptions,
) -> Result<Vec<Stored>> {
    let defaults = Defaults {
        model: context.model()?,
        priority: options.priority.unwrap_or(0),
        max_attempts: options.max_attempts.unwrap_or(5),
        schema: options.schema.as_deref().map(read_schema).transpose()?,
        stream: options.stream,
        ..Defaults::default()
    };
    if let Some(path) = &options.rejects {
        let read = files.iter().map(PathBuf::as_path);
        file::check("--rejects", path, &context.database, read)?;
    }
    let (files, batch) = (files.to_vec(), batch.map(str::to_owned));
    let (checking, given) = (options.clone(), defaults.clone());
    // In a thread of its own, so that a signal can end the wait for it.
    let check = move || check(&files, batch.as_deref(), &checking, &given);
    let parts = tokio::task::spawn_blocking(check)
        .await
        .map_err(|error| Failure::crashed("reading the input", &error))??;
    let store = context.store(Access::Write).await?;
    let on_conflict = match options.on_conflict {
        None => OnConflict::Refuse,
        Some(args::OnConflict::Skip) => OnConflict::Skip,
        Some(args::OnConflict::Replace) => OnConflict::Replace,
    };
    let stored = store_parts(&store, parts, &defaults, on_conflict, options.skip_invalid).await;
    store.close().await?;
    let stored = stored?;
    for task in stored.iter().flat_map(|stored| &stored.added.running) {
        context.out.warning(format!("task `{task}` runs and was left as it is"));
    }
    Ok(stored)
}

pub(crate) fn read_schema(path: &Path) -> Result<DefaultSchema> {
    let bad = |reason: &dyn Display| {
        let message = format!("cannot use `{}` as a response schema: {reason}", path.display());
        Failure::new(ExitStatus::Usage, message).hint("nothing was stored")
    };
    let bytes = std::fs::read(path).map_err(|error| bad(&error))?;
    let text = String::from_utf8(bytes).map_err(|_| bad(&"it is not UTF-8"))?;
    DefaultSchema::parse(&text).map_err(|reason| bad(&reason))
}

/// Checks all lines of all files, those of one batch together.
fn check(
    files: &[PathBuf],
    batch: Option<&str>,
    options: &args::EnqueueOptions,
    defaults: &Defaults,
) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    for file in files {
        let source = Source::named(file);
        let batch = batch.map_or_else(|| source.batch_name(), str::to_owned);
        parts.push(Part { batch, intake: Intake::open(&source)?, checked: Checked::default() });
    }
    let kept = options.rejects.as_deref().map(WholeFile::begin).transpose()?;
    let mut rejects = match &kept {
        Some(kept) => Rejects::to_writer(Box::new(BufWriter::new(kept.file().try_clone()?))),
        None => Rejects::default(),
    };
    let batches: BTreeSet<String> = parts.iter().map(|part| part.batch.clone()).collect();
    for batch in batches {
        let own = || parts.iter().enumerate().filter(|(_, part)| part.batch == batch);
        let intakes: Vec<&Intake> = own().map(|(_, part)| &part.intake).collect();
        let places: Vec<usize> = own().map(|(place, _)| place).collect();
        let checked = Intake::check_together(&intakes, defaults, &mut rejects)?;
        for (place, checked) in places.into_iter().zip(checked) {
            parts[place].checked = checked;
        }
    }
    rejects.flush()?;
    if let Some(kept) = kept {
        kept.finish()?;
    }
    if rejects.count() > 0 && !options.skip_invalid {
        return Err(refusal(&rejects));
    }
    Ok(parts)
}

fn refusal(rejects: &Rejects) -> Failure {
    use std::fmt::Write;
    let count = rejects.count();
    let noun = if count == 1 { "line is" } else { "lines are" };
    let mut message = format!("{count} {noun} not valid");
    for bad in rejects.kept() {
        let _ = write!(message, "\n  {}: line {}: {}", bad.source, bad.line, bad.reason);
    }
    let shown = u64::try_from(rejects.kept().len()).unwrap_or(count);
    if count > shown {
        let _ = write!(message, "\n  … and {} more", count - shown);
    }
    Failure::new(ExitStatus::Usage, message).hint(
        "nothing was stored; fix the lines, or store the good ones with `--skip-invalid --rejects FILE`",
    )
}

async fn store_parts(
    store: &Store,
    parts: Vec<Part>,
    defaults: &Defaults,
    on_conflict: OnConflict,
    skip_invalid: bool,
) -> Result<Vec<Stored>> {
    let total: u64 = parts.iter().map(|part| part.checked.bytes).sum();
    let options =
        |part: &Part| EnqueueOptions { batch: part.batch.clone(), on_conflict, now: now() };
    if total < ONE_TRANSACTION {
        let mut sources = Vec::new();
        for part in &parts {
            let jobs = part.intake.jobs(defaults, skip_invalid)?;
            sources.push((options(part), jobs.map(|job| job.map_err(Trouble::Intake))));
        }
        let added = store.enqueue(sources).await?;
        let stored = parts.into_iter().zip(added).map(|(part, added)| Stored {
            batch: part.batch,
            added,
            rejected: part.checked.bad,
        });
        return Ok(stored.collect());
    }
    if on_conflict == OnConflict::Refuse {
        check_conflicts(store, &parts, defaults, skip_invalid).await?;
    }
    // From here on a signal ends it between two steps, with a word of how far it came.
    let stop = Stop::listen()?;
    let mut stored = Vec::new();
    let mut rows = 0;
    for part in parts {
        let jobs = part.intake.jobs(defaults, skip_invalid)?;
        let jobs = Arc::new(Mutex::new(Some(jobs)));
        let mut sum = Added::default();
        while lock(&jobs).is_some() {
            if stop.is_requested() {
                return Err(Failure::new(stop.exit_status(), "cut short by a signal")
                    .hint(format!("{rows} jobs are stored; the same call again adds the rest")));
            }
            let portion =
                Portion { jobs: Arc::clone(&jobs), rows: PORTION_JOBS, bytes: PORTION_BYTES };
            let added = store.enqueue(vec![(options(&part), portion)]).await;
            for added in added.map_err(|error| partly(error, rows))? {
                rows += added.enqueued + added.replaced;
                sum.merge(added);
            }
        }
        stored.push(Stored { batch: part.batch, added: sum, rejected: part.checked.bad });
    }
    Ok(stored)
}

/// The jobs of one transaction; the rest stays for the next.
struct Portion {
    /// Those that are left; none once the input has ended.
    jobs: Arc<Mutex<Option<Jobs>>>,
    rows: usize,
    bytes: usize,
}

impl Iterator for Portion {
    type Item = std::result::Result<NewJob, Trouble>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rows == 0 || self.bytes == 0 {
            return None;
        }
        let mut jobs = lock(&self.jobs);
        let next = jobs.as_mut()?.next();
        match &next {
            Some(Ok(job)) => {
                self.rows -= 1;
                self.bytes = self.bytes.saturating_sub(job.size());
            }
            Some(Err(_)) => {}
            None => *jobs = None,
        }
        next.map(|job| job.map_err(Trouble::Intake))
    }
}

/// What a panic elsewhere left is good: each job is taken out whole.
fn lock(jobs: &Mutex<Option<Jobs>>) -> MutexGuard<'_, Option<Jobs>> {
    jobs.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Refuses the call before any of it is stored where a job exists with other content.
async fn check_conflicts(
    store: &Store,
    parts: &[Part],
    defaults: &Defaults,
    skip_invalid: bool,
) -> Result<()> {
    for part in parts {
        let Some(batch) = store.batch_id(&part.batch).await? else { continue };
        let mut jobs = part.intake.jobs(defaults, skip_invalid)?;
        loop {
            let chunk = next_chunk(&mut jobs, CHUNK_JOBS, CHUNK_BYTES)?;
            if chunk.is_empty() {
                break;
            }
            store.check_conflicts(batch, &part.batch, &chunk).await?;
        }
    }
    Ok(())
}

/// A large input is stored in steps; what is in is in, and the call is not refused as a whole.
fn partly(trouble: Trouble, rows: u64) -> Failure {
    let rest = match trouble {
        Trouble::Store(StoreError::Conflict { .. }) => {
            "with `--on-conflict skip` the same call keeps the old job and adds the rest, with \
             `replace` it starts it anew"
        }
        _ => "the same call again adds the rest",
    };
    let mut failure = Failure::from(trouble);
    if rows > 0 {
        failure.status = ExitStatus::Failure;
    }
    failure.hint(format!("{rows} jobs are stored; {rest}"))
}
