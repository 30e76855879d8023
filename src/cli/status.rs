//! `gq status`, once or as a live view.

use std::time::Duration;

use gq::domain::time::Timestamp;
use gq::store::{Access, FoundKey, Store, StoreError};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until, timeout};

use super::args::{Report, StatusArgs};
use super::context::{Context, found, now};
use super::exit::ExitStatus;
use super::failure::Result;
use super::output::live::{Live, reader_gone};
use super::output::status;
use super::output::watch::{self, Look, View};
use super::signals::Stop;

/// How often a view is looked at though nothing tells of a change: rests end, workers die.
const TICK: Duration = Duration::from_secs(1);

/// The shortest time from one look to the next.
const SHORTEST: Duration = Duration::from_millis(100);

/// How long a reader has for what is under way when a signal comes.
const LAST_WRITE: Duration = Duration::from_millis(500);

/// Recent failures of a view.
const FAILURES: u32 = 5;

pub(crate) async fn run(context: &mut Context, args: &StatusArgs) -> Result<ExitStatus> {
    let store = context.store(Access::Read).await?;
    let keys = context.keys()?;
    let keys = found(&keys);
    if args.watch {
        return watch(context, &store, &keys, args.format).await;
    }
    let status = store.status(&keys, now()).await?;
    let text = match args.format {
        Report::Json => status::json_value(&status)?,
        Report::Text => status::text(&status, &chrono::Local, now()),
    };
    context.out.data(&text)?;
    Ok(ExitStatus::Done)
}

/// Shows the queue until a signal comes or nobody reads.
async fn watch(
    context: &Context,
    store: &Store,
    keys: &[FoundKey<'_>],
    format: Report,
) -> Result<ExitStatus> {
    let stop = Stop::listen()?;
    // What fails from the start fails before the screen is taken.
    let status = store.status(keys, now()).await?;
    let view = View { status, failures: Vec::new(), trouble: None };
    let mut live = context.out.live(format)?;
    let mut show = Show { store, keys, format, view, live: &mut live, shown: None };
    let ended = tokio::select! {
        failure = show.go_on() => failure,
        () = stop.requested() => Ok(()),
        () = reader_gone() => Ok(()),
    };
    stop.exit_when_requested();
    if ended.is_ok() {
        // Whoever does not read now has been told enough.
        let _ = timeout(LAST_WRITE, live.settle()).await;
    }
    ended.map(|()| ExitStatus::Done)
}

/// A view that follows the queue.
struct Show<'a> {
    store: &'a Store,
    keys: &'a [FoundKey<'a>],
    format: Report,
    view: View,
    live: &'a mut Live,
    /// What was printed last, and the time in it.
    shown: Option<(String, Timestamp)>,
}

impl Show<'_> {
    /// Shows the queue at each change, until that fails.
    async fn go_on(&mut self) -> Result<()> {
        // Between two prints; a terminal is redrawn at each look.
        let pause = if self.live.is_in_place() { SHORTEST } else { TICK };
        let mut changes = self.store.changes(TICK);
        let mut resized = signal(SignalKind::window_change())?;
        let mut printed = Instant::now();
        loop {
            let looked = Instant::now();
            self.look().await?;
            if self.print().await? {
                printed = looked;
            }
            sleep_until((looked + SHORTEST).max(printed + pause)).await;
            tokio::select! {
                () = changes.next() => {}
                _ = resized.recv() => {}
                () = sleep_until(looked + TICK) => {}
            }
        }
    }

    /// Reads the queue. What may pass, such as a lock, is shown beside what was read before.
    async fn look(&mut self) -> Result<()> {
        match self.read().await {
            Ok(view) => self.view = view,
            Err(error) if error.is_transient() => self.view.trouble = Some(error.to_string()),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    async fn read(&self) -> std::result::Result<View, StoreError> {
        let status = self.store.status(self.keys, now()).await?;
        let failures = match self.format {
            Report::Text => self.store.recent_failures(FAILURES).await?,
            Report::Json => Vec::new(),
        };
        Ok(View { status, failures, trouble: None })
    }

    /// Prints the view if it differs from what was printed by more than the time in it, and
    /// returns whether it did.
    async fn print(&mut self) -> Result<bool> {
        let now = now();
        if self.live.is_in_place() {
            let (width, height) = self.live.size();
            let look = Look { width, height, color: self.live.color };
            self.live.show(&watch::frame(&self.view, &look, &chrono::Local, now)).await?;
            return Ok(true);
        }
        if let Some((shown, then)) = &self.shown
            && self.text(*then) == *shown
        {
            return Ok(false);
        }
        let text = self.text(now);
        if self.format == Report::Text && self.shown.is_some() {
            self.live.show(&format!("\n{text}")).await?;
        } else {
            self.live.show(&text).await?;
        }
        self.shown = Some((text, now));
        Ok(true)
    }

    /// Returns the view at `now` as something that is no terminal gets it.
    fn text(&self, now: Timestamp) -> String {
        match self.format {
            Report::Json => status::json_line(&self.view.status),
            Report::Text => {
                let look = Look::unbounded(self.live.color);
                watch::paragraph(&watch::frame(&self.view, &look, &chrono::Local, now))
            }
        }
    }
}
