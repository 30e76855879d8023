//! `gq media`: what was uploaded to the API.

use gq::domain::view::UploadView;
use gq::gemini::client::Client;
use gq::store::{Access, Store};
use gq::worker::WorkerKey;

use super::args::{MediaArgs, PacingArgs, Report};
use super::context::{Context, no_key, now, register};
use super::exit::ExitStatus;
use super::failure::{Failure, Result};
use super::output::uploads;
use super::settings;

pub(crate) async fn run(context: &mut Context, args: &MediaArgs) -> Result<ExitStatus> {
    if args.delete {
        return delete(context).await;
    }
    let known = context.store(Access::Read).await?.uploads(now()).await?;
    let text = match args.format {
        Report::Json => uploads::json_list(&known)?,
        Report::Text => uploads::table(&known, &chrono::Local),
    };
    context.out.data(&text)?;
    Ok(ExitStatus::Done)
}

/// Removes what was uploaded with the keys that are set; prints how many files.
async fn delete(context: &mut Context) -> Result<ExitStatus> {
    let store = context.existing().await?;
    let set = context.keys()?;
    // A key with a new secret has no claim to what its name stood for before.
    let keys = register(&store, &set).await?;
    let known = store.uploads(now()).await?;
    let failed = known.iter().filter(|upload| upload.state == "failed");
    store.forget_uploads(failed.map(|upload| upload.id).collect()).await?;
    let mut removed = 0;
    if known.iter().any(|upload| upload.name.is_some()) {
        if set.is_empty() {
            return Err(no_key());
        }
        let pacing = settings::pacing(&PacingArgs::default(), &context.environment)?;
        let client = context.client(&set, &pacing)?;
        let (ours, others): (Vec<_>, Vec<_>) =
            known.into_iter().filter(|upload| upload.name.is_some()).partition(|upload| {
                *upload.api == **client.base_url() && key_of(upload, &keys).is_some()
            });
        if !others.is_empty() {
            context.out.warning(format!(
                "left at the API: {}; their keys are not set, or they are at another address",
                others.len()
            ));
        }
        for upload in ours {
            remove(&store, &client, &keys, &upload).await?;
            removed += 1;
        }
    }
    store.close().await?;
    context.out.data(&format!("{removed}\n"))?;
    Ok(ExitStatus::Done)
}

fn key_of<'a>(upload: &UploadView, keys: &'a [WorkerKey]) -> Option<&'a WorkerKey> {
    keys.iter().find(|key| key.id == upload.key_id)
}

async fn remove(
    store: &Store,
    client: &Client,
    keys: &[WorkerKey],
    upload: &UploadView,
) -> Result<()> {
    if let (Some(name), Some(key)) = (&upload.name, key_of(upload, keys)) {
        client.delete_file(&key.secret, name).await.map_err(|error| {
            let message = format!("cannot remove `{name}` of `{}`: {}", key.name, error.message);
            Failure::new(ExitStatus::Failure, message)
                .hint("those before it are removed; the same command removes the rest")
        })?;
    }
    Ok(store.forget_uploads(vec![upload.id]).await?)
}
