//! `gq keys`, `gq retry`, `gq cancel`, `gq prune`, `gq mock`.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;

use gq::config::NamedKey;
use gq::domain::time::{Timestamp, file_time};
use gq::domain::view::KeyView;
use gq::gemini::client::KeyCheck;
use gq::mock::MockServer;
use gq::mock::config::Config;
use gq::store::{Access, FileStamp, ResultFilter, Selection, Store, Switch};
use tokio::net::TcpListener;

use super::args::{
    self, KeysAction, KeysArgs, MockArgs, PacingArgs, PruneArgs, Report, SelectArgs,
};
use super::context::{Context, found, now, register};
use super::exit::ExitStatus;
use super::failure::{Failure, Result};
use super::output::keys;
use super::settings;
use super::signals::Stop;

pub(crate) async fn keys(context: &mut Context, args: &KeysArgs) -> Result<ExitStatus> {
    match args.action {
        KeysAction::List => {
            let store = context.store(Access::Read).await?;
            let shown = shown(&store, &context.keys()?, &args.names).await?;
            return print_keys(context, args, &shown);
        }
        KeysAction::Check => return check(context, args).await,
        KeysAction::Reset | KeysAction::Disable | KeysAction::Enable | KeysAction::Set => {}
    }
    let store = context.store(Access::Write).await?;
    // A key can be switched before a worker has seen it.
    let set = context.keys()?;
    register(&store, &set).await?;
    let names = named(&store, &args.names).await?;
    match args.action {
        KeysAction::Reset => store.reset_keys(names, now()).await?,
        KeysAction::Disable => store.set_keys_disabled(names, Switch::Off, now()).await?,
        KeysAction::Set => store.set_keys(names, args.settings.change(), now).await?,
        KeysAction::Enable | KeysAction::List | KeysAction::Check => {
            store.set_keys_disabled(names, Switch::On, now()).await?;
        }
    }
    let shown = shown(&store, &set, &args.names).await?;
    store.close().await?;
    print_keys(context, args, &shown)
}

/// Returns the names that are meant: those given, all where there are none.
async fn named(store: &Store, names: &[String]) -> Result<Vec<String>> {
    let known: Vec<String> =
        store.keys(&[], now()).await?.into_iter().map(|key| key.name).collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
        return Err(Failure::new(ExitStatus::NotFound, format!("there is no key `{unknown}`")));
    }
    Ok(if names.is_empty() { known } else { names.to_vec() })
}

/// Returns the keys that are set, and others of the database.
async fn shown(store: &Store, set: &[NamedKey], names: &[String]) -> Result<Vec<KeyView>> {
    let mut views = store.keys(&found(set), now()).await?;
    if let Some(unknown) = names.iter().find(|name| !views.iter().any(|view| view.name == **name)) {
        return Err(Failure::new(ExitStatus::NotFound, format!("there is no key `{unknown}`")));
    }
    views.retain(|view| names.is_empty() || names.contains(&view.name));
    Ok(views)
}

fn print_keys(context: &mut Context, args: &KeysArgs, views: &[KeyView]) -> Result<ExitStatus> {
    let text = match args.format {
        Report::Json => keys::json_list(views)?,
        Report::Text => keys::table(views, &chrono::Local),
    };
    context.out.data(&text)?;
    let twins = views.iter().filter_map(|key| Some((&key.name, key.same_project_as.as_ref()?)));
    let pairs: BTreeSet<_> = twins.map(|(one, other)| (one.max(other), one.min(other))).collect();
    for (name, other) in pairs {
        context.out.hint(format!(
            "`{name}` and `{other}` seem to be keys of one project: `gq keys set {name} {other} \
             --project NAME` lets them share its limits"
        ));
    }
    Ok(ExitStatus::Done)
}

/// Asks the API about each key; one that it refuses is recorded as such, one that is good again
/// becomes available.
async fn check(context: &mut Context, args: &KeysArgs) -> Result<ExitStatus> {
    let pacing = settings::pacing(&PacingArgs::default(), &context.environment)?;
    let store = context.store(Access::Write).await?;
    let set = context.keys()?;
    let client = context.client(&set, &pacing)?;
    let known = register(&store, &set).await?;
    if known.is_empty() {
        return Err(Failure::new(ExitStatus::NoUsableKey, "no API key is set")
            .hint("set GEMINI_API_KEY in the environment or in `.env`"));
    }
    let names = named(&store, &args.names).await?;
    let (mut usable, mut unasked) = (0, Vec::new());
    for key in known.into_iter().filter(|key| names.contains(&key.name)) {
        match client.check_key(&key.secret).await {
            KeyCheck::Good | KeyCheck::Exhausted => {
                usable += 1;
                store.accept_key(key.id, now()).await?;
            }
            KeyCheck::Bad { reason } => store.fail_key(key.id, reason, now()).await?,
            KeyCheck::Unreachable { message } => {
                context.out.warning(format!("`{}`: {message}", key.name));
                unasked.push(key.name);
            }
        }
    }
    let shown = shown(&store, &set, &args.names).await?;
    store.close().await?;
    print_keys(context, args, &shown)?;
    if !unasked.is_empty() {
        let message = format!("cannot ask the API about `{}`", unasked.join("`, `"));
        return Err(Failure::new(ExitStatus::Failure, message));
    }
    Ok(if usable == 0 { ExitStatus::NoUsableKey } else { ExitStatus::Done })
}

/// What `gq retry` and `gq cancel` do.
#[derive(Clone, Copy)]
pub(crate) enum Change {
    Retry,
    Cancel,
}

pub(crate) async fn change(
    context: &mut Context,
    args: &SelectArgs,
    change: Change,
) -> Result<ExitStatus> {
    let args::Selection { task_ids, batch, errors, all_failed } = &args.selection;
    let store = context.existing().await?;
    let filter =
        ResultFilter { task_ids: task_ids.clone(), batch: batch.clone(), states: Vec::new() };
    super::results::known(&store, &filter).await?;
    let selection = Selection {
        task_ids: task_ids.clone(),
        batch: batch.clone(),
        errors: errors.clone(),
        only_failed: *all_failed,
    };
    let changed = match change {
        Change::Retry => {
            let changed = changed(store.retried_files(&selection).await?);
            store.retry(selection, changed, now()).await?
        }
        Change::Cancel => store.cancel(selection, now()).await?,
    };
    store.close().await?;
    context.out.data(&format!("{changed}\n"))?;
    Ok(ExitStatus::Done)
}

/// Returns those of `files` that are other than they were, with what they are now: who retries a
/// job means the file that is there.
fn changed(files: Vec<FileStamp>) -> Vec<(FileStamp, FileStamp)> {
    let now = |old: &FileStamp| {
        let data = std::fs::metadata(&old.path).ok().filter(std::fs::Metadata::is_file)?;
        let modified = file_time(data.mtime(), data.mtime_nsec());
        Some(FileStamp { path: old.path.clone(), size: data.len(), modified })
    };
    let pair = |old: FileStamp| now(&old).filter(|new| *new != old).map(|new| (old, new));
    files.into_iter().filter_map(pair).collect()
}

pub(crate) async fn prune(context: &mut Context, args: &PruneArgs) -> Result<ExitStatus> {
    let store = context.existing().await?;
    let filter = ResultFilter { batch: args.batch.clone(), ..ResultFilter::default() };
    super::results::known(&store, &filter).await?;
    let age = i64::try_from(args.older_than.as_millis()).unwrap_or(i64::MAX);
    let before = Timestamp(now().0.saturating_sub(age));
    let removed = store.prune(before, args.batch.clone()).await?;
    if args.vacuum {
        store.vacuum().await?;
    }
    store.close().await?;
    context.out.data(&format!("{removed}\n"))?;
    Ok(ExitStatus::Done)
}

pub(crate) async fn mock(context: &mut Context, args: &MockArgs) -> Result<ExitStatus> {
    let config = match &args.config {
        None => Config::default(),
        Some(path) => {
            let bad = |why: String| {
                Failure::new(ExitStatus::Usage, format!("cannot use `{}`: {why}", path.display()))
            };
            let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
            Config::from_json(&text).map_err(|error| bad(error.to_string()))?
        }
    };
    let stop = Stop::listen()?;
    let port = args.port.unwrap_or(0);
    let listener = TcpListener::bind(("127.0.0.1", port)).await.map_err(|error| {
        Failure::new(ExitStatus::Failure, format!("cannot listen on port {port}: {error}"))
    })?;
    let mock = MockServer::start(listener, config)?;
    context.out.data(&format!("{}\n", mock.url()))?;
    context.out.hint(format!("use it with `--base-url {}`; Ctrl-C stops it", mock.url()));
    stop.requested().await;
    mock.stop().await;
    Ok(ExitStatus::Done)
}
