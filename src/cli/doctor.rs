//! `gq doctor`: is everything well, and if not, what is to be done?

use std::iter;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use gq::config::NamedKey;
use gq::domain::health::{self, Finding, Verdict};
use gq::domain::view::KeyStatus;
use gq::gemini::client::{ApiKey, Client, Greeting, KeyCheck};
use gq::gemini::redact::without_key_shapes;
use gq::store::{Access, Store, StoreError};

use super::args::{DoctorArgs, PacingArgs, Report};
use super::context::{Context, build_client, found, no_key, now};
use super::exit::ExitStatus;
use super::failure::{Failure, Result};
use super::file::folder_of;
use super::output::doctor;
use super::settings;
use super::signals::Stop;

/// How long one call may take: nobody waits longer for a diagnosis.
const PATIENCE: Duration = Duration::from_secs(15);

pub(crate) async fn run(context: &mut Context, args: &DoctorArgs) -> Result<ExitStatus> {
    let stop = Stop::listen()?;
    let looked = stop.unless_requested(examine(context, args.repair_counters)).await;
    let Some(findings) = looked else { return Ok(stop.exit_status()) };
    let text = match args.format {
        Report::Json => doctor::json_list(&findings)?,
        Report::Text => doctor::text(&findings),
    };
    // What settings hold may be a key in the wrong place.
    context.out.data(&without_key_shapes(&text))?;
    let wrong = findings.iter().any(|finding| finding.verdict == Verdict::Problem);
    Ok(if wrong { ExitStatus::Failure } else { ExitStatus::Done })
}

async fn examine(context: &Context, repair: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let store = context.store(Access::Read).await;
    match &store {
        Ok(store) => findings.extend(of_database(context, store, repair).await),
        Err(failure) => findings.push(problem("database", failure)),
    }
    findings.extend(of_place(&context.database));
    findings.extend(of_api(context, store.as_ref().ok()).await);
    if let Ok(store) = store
        && let Err(error) = store.close().await
    {
        findings.push(problem("database", &error.into()));
    }
    findings
}

/// Returns what a failure says as a finding.
fn problem(check: &str, failure: &Failure) -> Finding {
    let message = failure.message.clone().unwrap_or_default();
    Finding { hint: failure.hint.clone(), ..Finding::new(check, Verdict::Problem, message) }
}

/// Counts anew.
async fn repaired(context: &Context) -> Result<Finding> {
    let store = context.store(Access::Write).await?;
    let changed = store.recount().await?;
    store.close().await?;
    let message = format!("counted anew; batches that were wrong: {changed}");
    Ok(Finding::new("repair", Verdict::Fine, message))
}

async fn of_database(context: &Context, store: &Store, repair: bool) -> Vec<Finding> {
    let failed = |check, error: StoreError| problem(check, &error.into());
    let integrity = match store.faults().await {
        Ok(faults) => health::integrity(&faults),
        Err(error) if error.is_damage() => {
            health::integrity(&[Failure::from(error).message.unwrap_or_default()])
        }
        Err(error) => failed("integrity", error),
    };
    // Nothing is written to a file that is spoiled.
    let repair = (repair && integrity.verdict == Verdict::Fine).then(|| repaired(context));
    let repair = match repair {
        Some(repair) => Some(repair.await.unwrap_or_else(|failure| problem("repair", &failure))),
        None => None,
    };
    // After a repair it tells of what is true now.
    let database = match store.batches().await {
        Ok(batches) => {
            let jobs: i64 = batches.iter().map(|batch| batch.counts.total()).sum();
            let path = store.path().display();
            let message = format!("`{path}`, jobs: {jobs}, batches: {}", batches.len());
            Finding::new("database", Verdict::Fine, message)
        }
        Err(error) => failed("database", error),
    };
    let mut findings = vec![database, integrity];
    findings.extend(repair);
    findings.push(match store.miscounts().await {
        Ok(miscounts) => health::counters(&miscounts),
        Err(error) => failed("counters", error),
    });
    findings
}

/// Looks at the file, and at what it lies on.
fn of_place(database: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let parts = ["", "-wal", "-shm"].map(|end| {
        let mut name = database.as_os_str().to_owned();
        name.push(end);
        std::fs::metadata(name).ok().filter(std::fs::Metadata::is_file).map(|data| data.mode())
    });
    // The log holds prompts and answers as well.
    if let Some(mode) = parts.into_iter().flatten().reduce(|one, other| one | other) {
        findings.push(health::file_mode(mode));
    }
    // A link leads to where the file and its log are.
    let real = database.canonicalize();
    let folder = folder_of(real.as_deref().unwrap_or(database));
    #[cfg(target_os = "linux")]
    if let Ok(system) = rustix::fs::statfs(folder) {
        findings.push(health::file_system(u64::try_from(system.f_type).unwrap_or_default()));
    }
    match rustix::fs::statvfs(folder) {
        Ok(system) => findings.push(health::room(system.f_bavail.saturating_mul(system.f_frsize))),
        Err(error) => {
            let message = format!("cannot look at `{}`: {error}", folder.display());
            findings.push(Finding::new("disk space", Verdict::Problem, message));
        }
    }
    findings
}

async fn of_api(context: &Context, store: Option<&Store>) -> Vec<Finding> {
    let keys = match context.keys() {
        Ok(keys) => keys,
        Err(failure) => return vec![problem("keys", &failure)],
    };
    let client = match client(context, &keys) {
        Ok(client) => client,
        Err(failure) => return vec![problem("endpoint", &failure)],
    };
    let (mut findings, answers) = of_endpoint(&client).await;
    if keys.is_empty() {
        findings.push(problem("keys", &no_key()));
    }
    let known = match store {
        Some(store) => store.keys(&found(&keys), now()).await.unwrap_or_else(|error| {
            findings.push(problem("keys", &error.into()));
            Vec::new()
        }),
        None => Vec::new(),
    };
    if answers {
        let status = |key: &NamedKey| {
            known.iter().find(|view| view.name == key.name).map(|view| view.overall.status)
        };
        let asked = join_all(keys.iter().map(|key| of_key(&client, key, status(key)))).await;
        let usable = |key: &NamedKey| {
            !matches!(status(key), Some(KeyStatus::Disabled | KeyStatus::FailedInit))
        };
        if !keys.is_empty() && !keys.iter().any(usable) {
            let message = "all are refused or switched off: no worker can use one";
            let hint =
                "`gq keys check` takes back those that are good, `gq keys enable` the others";
            findings.push(Finding::new("keys", Verdict::Problem, message).hint(hint));
        }
        findings.extend(asked);
    }
    findings
}

fn client(context: &Context, keys: &[NamedKey]) -> Result<Client> {
    let pacing = settings::pacing(&PacingArgs::default(), &context.environment)?;
    let mut options = context.client_options(keys, &pacing)?;
    options.request_timeout = options.request_timeout.min(PATIENCE);
    build_client(&options)
}

/// Asks who is there; returns also whether it is the API.
async fn of_endpoint(client: &Client) -> (Vec<Finding>, bool) {
    let url = client.base_url();
    match client.greet().await {
        Ok(Greeting { status, time }) => {
            let endpoint = health::endpoint(url, status);
            let answers = endpoint.verdict == Verdict::Fine;
            let clock = time.map(|time| health::clock(now().0.saturating_sub(time)));
            (iter::once(endpoint).chain(clock).collect(), answers)
        }
        Err(why) => {
            let finding = Finding::new("endpoint", Verdict::Problem, format!("`{url}`: {why}"))
                .hint("look at the network, at a proxy, and at `--base-url` and GEMINI_BASE_URL");
            (vec![finding], false)
        }
    }
}

/// Asks about a key, unless it is switched off; `known` is its state in the database.
async fn of_key(client: &Client, key: &NamedKey, known: Option<KeyStatus>) -> Finding {
    let name = &key.name;
    let check = format!("key {name}");
    if known == Some(KeyStatus::Disabled) {
        return Finding::new(check, Verdict::Warning, "it is switched off")
            .hint(format!("`gq keys enable {name}` switches it on"));
    }
    match client.check_key(&ApiKey::new(key.secret.expose())).await {
        KeyCheck::Good if known == Some(KeyStatus::FailedInit) => {
            let message = "the API takes it, and no worker uses it: it was refused before";
            Finding::new(check, Verdict::Warning, message)
                .hint(format!("`gq keys check {name}` takes it back"))
        }
        KeyCheck::Good => Finding::new(check, Verdict::Fine, "the API takes it"),
        KeyCheck::Exhausted => {
            Finding::new(check, Verdict::Warning, "the API takes it, and its quota is used up")
                .hint("wait, or add keys of other projects")
        }
        KeyCheck::Bad { reason } => Finding::new(check, Verdict::Problem, reason)
            .hint("put a good key in its place; `gq work` goes on without it"),
        KeyCheck::Unreachable { message } => Finding::new(check, Verdict::Problem, message)
            .hint("the API said nothing of the key itself; try again later"),
    }
}
