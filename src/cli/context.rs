//! What every command starts from: settings, the database, keys, the client.

use std::path::PathBuf;

use gq::clock;
use gq::config::{self, Environment, NamedKey};
use gq::domain::input::model_name;
use gq::domain::key::Tier;
use gq::domain::pacing::Pacing;
use gq::gemini::client::{ApiKey, Client, ClientOptions, ProxySettings};
use gq::store::{Access, FoundKey, Store};
use gq::worker::WorkerKey;

use super::args::GlobalArgs;
use super::exit::ExitStatus;
use super::failure::{Failure, Result};
use super::output::Output;
use super::settings;

/// The key of the stand-in inside the process.
pub(crate) const MOCK_KEY: &str = "MOCK_KEY";

/// Settings and output of one command.
pub(crate) struct Context {
    pub(crate) args: GlobalArgs,
    pub(crate) environment: Environment,
    pub(crate) database: PathBuf,
    pub(crate) out: Output,
}

/// Where calls go and with which keys.
pub(crate) struct Api {
    pub(crate) client: Client,
    pub(crate) keys: Vec<WorkerKey>,
}

impl Context {
    pub(crate) async fn store(&self, access: Access) -> Result<Store> {
        Ok(Store::open(&self.database, access).await?)
    }

    /// Opens a database that has to be there already, to write.
    pub(crate) async fn existing(&self) -> Result<Store> {
        self.store(Access::Read).await?.close().await?;
        self.store(Access::Write).await
    }

    /// Returns the checked name of the model of jobs that name none.
    pub(crate) fn model(&self) -> Result<String> {
        let model = settings::model(&self.args, &self.environment);
        model_name(&model)
            .map_err(|reason| Failure::new(ExitStatus::Usage, format!("`--model`: {reason}")))
    }

    pub(crate) fn keys(&self) -> Result<Vec<NamedKey>> {
        Ok(config::keys(&self.environment, self.args.keys.as_deref())?)
    }

    /// Finds the keys, records them, and sets up the client.
    pub(crate) async fn api(&self, store: &Store, pacing: &Pacing) -> Result<Api> {
        let keys = self.keys()?;
        if keys.is_empty() {
            return Err(no_key());
        }
        let client = self.client(&keys, pacing)?;
        let keys = register(store, &keys).await?;
        Ok(Api { client, keys })
    }

    pub(crate) fn client(&self, keys: &[NamedKey], pacing: &Pacing) -> Result<Client> {
        build_client(&self.client_options(keys, pacing)?)
    }

    pub(crate) fn client_options(
        &self,
        keys: &[NamedKey],
        pacing: &Pacing,
    ) -> Result<ClientOptions> {
        let endpoint = config::endpoint(&self.environment, self.args.base_url.as_deref(), keys)?;
        let exposed = |secret: Option<config::Secret>| secret.map(|it| it.expose().to_owned());
        let proxy = endpoint.proxy.map(|proxy| ProxySettings {
            http: exposed(proxy.http),
            https: exposed(proxy.https),
            all: exposed(proxy.all),
            no_proxy: proxy.no_proxy,
        });
        Ok(ClientOptions {
            base_url: endpoint.base_url,
            request_timeout: pacing.request_timeout,
            proxy,
            plain: endpoint.is_plain,
            direct: false,
        })
    }
}

impl Api {
    /// Sets up calls to a stand-in at `url`, with a key that only it takes.
    pub(crate) async fn mock(store: &Store, url: String, pacing: &Pacing) -> Result<Self> {
        let client = build_client(&ClientOptions {
            base_url: url,
            request_timeout: pacing.request_timeout,
            proxy: None,
            plain: true,
            direct: true,
        })?;
        let key = FoundKey { name: MOCK_KEY, secret: MOCK_KEY, is_sendable: true, settings: None };
        let rows = store.register_keys(&[key], now).await?;
        let keys = rows.into_iter().map(|row| WorkerKey {
            id: row.id,
            name: row.name,
            secret: ApiKey::new(MOCK_KEY),
            is_free: true,
        });
        Ok(Self { client, keys: keys.collect() })
    }
}

/// Returns the failure of a command that calls the API while no key is set.
pub(crate) fn no_key() -> Failure {
    Failure::new(ExitStatus::NoUsableKey, "no API key is set")
        .hint("set GEMINI_API_KEY in the environment or in `.env`; `gq run FILE --mock` needs none")
}

/// Returns the keys that are set as the database takes them.
pub(crate) fn found(keys: &[NamedKey]) -> Vec<FoundKey<'_>> {
    keys.iter()
        .map(|key| FoundKey {
            name: &key.name,
            secret: key.secret.expose(),
            is_sendable: ApiKey::new(key.secret.expose()).header().is_some(),
            settings: Some(&key.settings),
        })
        .collect()
}

/// Records the keys that are set, and returns them with their rows.
pub(crate) async fn register(store: &Store, keys: &[NamedKey]) -> Result<Vec<WorkerKey>> {
    let rows = store.register_keys(&found(keys), now).await?;
    let with_row = keys.iter().zip(rows).map(|(key, row)| WorkerKey {
        id: row.id,
        name: row.name,
        secret: ApiKey::new(key.secret.expose()),
        is_free: row.settings.tier == Some(Tier::Free),
    });
    Ok(with_row.collect())
}

pub(crate) fn build_client(options: &ClientOptions) -> Result<Client> {
    Client::new(options).map_err(|error| Failure::new(ExitStatus::Failure, error.to_string()))
}

/// Returns the time that a command's writes carry.
pub(crate) fn now() -> gq::domain::time::Timestamp {
    clock::now()
}
