//! `gq backup`: a copy of the database as it stands, while others work on it.

use std::fs::File;
use std::path::Path;

use gq::store::Access;
use serde_json::json;

use super::args::BackupArgs;
use super::context::Context;
use super::exit::ExitStatus;
use super::failure::{Failure, Result};
use super::file::{self, folder_of};
use super::signals::Stop;

pub(crate) async fn run(context: &mut Context, args: &BackupArgs) -> Result<ExitStatus> {
    let path = args.file.as_path();
    file::check("FILE", path, &context.database, [])?;
    if path.symlink_metadata().is_ok() {
        return Err(there_already(path));
    }
    let stop = Stop::listen()?;
    let store = context.store(Access::Read).await?;
    let failed = |error| file::failed(path, &error);
    let folder = folder_of(path).canonicalize().map_err(failed)?;
    // One that is not finished goes away, with what SQLite keeps beside it.
    let beside =
        tempfile::Builder::new().prefix(".gq-backup-").tempdir_in(&folder).map_err(failed)?;
    // Only its owner may read it, as the database itself.
    let copy = tempfile::Builder::new().tempfile_in(&beside).map_err(failed)?;
    let copying = stop.unless_requested(store.copy_to(copy.path())).await;
    let Some(copied) = copying else { return Ok(stop.exit_status()) };
    if let Some(fault) = copied.map_err(|error| not_copied(path, error.into()))? {
        let why = format!("it is damaged: {}", fault.replace('\n', " "));
        return Err(not_copied(path, Failure::new(ExitStatus::Failure, why))
            .hint("no backup was made; `gq doctor` says more"));
    }
    copy.as_file().sync_all().map_err(failed)?;
    let bytes = copy.as_file().metadata().map_err(failed)?.len();
    copy.persist_noclobber(path).map_err(|error| match error.error.kind() {
        std::io::ErrorKind::AlreadyExists => there_already(path),
        _ => file::failed(path, &error.error),
    })?;
    File::open(&folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
    store.close().await?;
    let told = json!({ "file": path.display().to_string(), "bytes": bytes });
    context.out.data(&format!("{told}\n"))?;
    Ok(ExitStatus::Done)
}

/// Says that it is the copy that failed, which has a disk of its own to fill.
fn not_copied(path: &Path, failure: Failure) -> Failure {
    let why = failure.message.unwrap_or_default();
    let message = format!("cannot copy the database to `{}`: {why}", path.display());
    Failure::new(failure.status, message).hint("no backup was made")
}

fn there_already(path: &Path) -> Failure {
    let message = format!("`{}` is there already", path.display());
    Failure::new(ExitStatus::Usage, message).hint("name a new file: no backup replaces another")
}
