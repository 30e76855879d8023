//! Where calls go: the API's address and a proxy on the way.

use reqwest::Url;

use super::{ConfigError, Environment, NamedKey, Origin, Secret};

/// The API's own address.
pub const DEFAULT_BASE_URL: &str = "https://generativelanguage.googleapis.com";

const BASE_URLS: [&str; 2] = ["GEMINI_BASE_URL", "GOOGLE_GEMINI_BASE_URL"];

/// Where calls go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The address without a slash at its end.
    pub base_url: String,
    /// The proxies, where the `.env` file sets one; else the HTTP library reads the environment.
    pub proxy: Option<Proxy>,
    /// Whether calls go by plain HTTP and no proxy is set on their way: they need no certificates.
    pub is_plain: bool,
}

/// Proxies as set in the environment and the `.env` file together. Their addresses may hold
/// passwords.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Proxy {
    /// For `http` addresses.
    pub http: Option<Secret>,
    /// For `https` addresses.
    pub https: Option<Secret>,
    /// For whatever has no proxy of its own.
    pub all: Option<Secret>,
    /// Hosts that are reached without a proxy.
    pub no_proxy: Option<String>,
}

/// Returns where calls with `keys` go; `flag` is the value of `--base-url`.
///
/// A file in the current folder is not always the user's own. It may name the place that the keys
/// are sent to only if it brings all of them.
pub fn endpoint(
    environment: &Environment,
    flag: Option<&str>,
    keys: &[NamedKey],
) -> Result<Endpoint, ConfigError> {
    let trusted =
        environment.file_stands_alone() && keys.iter().all(|key| key.origin == Origin::EnvFile);
    let base_url = base_url(environment, flag, trusted)?;
    let proxied = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]
        .iter()
        .any(|name| environment.get(name).is_some());
    Ok(Endpoint {
        is_plain: base_url.starts_with("http://") && !proxied,
        base_url,
        proxy: proxy(environment, trusted)?,
    })
}

fn base_url(
    environment: &Environment,
    flag: Option<&str>,
    trusted: bool,
) -> Result<String, ConfigError> {
    if let Some(text) = flag {
        return checked("--base-url", text);
    }
    for name in BASE_URLS {
        if let Some(text) = environment.process_value(name) {
            return checked(name, text);
        }
    }
    for name in BASE_URLS {
        if let Some(text) = environment.file_value(name) {
            allow(environment, name, trusted)?;
            return checked(name, text);
        }
    }
    Ok(DEFAULT_BASE_URL.to_owned())
}

fn checked(setting: &str, text: &str) -> Result<String, ConfigError> {
    let bad = |reason: &str| ConfigError::bad(setting, reason);
    let text = text.trim();
    let url = Url::parse(text).map_err(|_| bad("must be an http:// or https:// address"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(bad("must be an http:// or https:// address"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("must not hold a user name or a password"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(bad("must end with its path, without `?` or `#`"));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn proxy(environment: &Environment, trusted: bool) -> Result<Option<Proxy>, ConfigError> {
    let mut from_file = false;
    let mut find = |upper: &str| -> Result<Option<String>, ConfigError> {
        let lower = upper.to_ascii_lowercase();
        let names = [lower.as_str(), upper];
        if let Some(value) = names.iter().find_map(|name| environment.process_value(name)) {
            return Ok(Some(value.to_owned()));
        }
        for name in names {
            if let Some(value) = environment.file_value(name) {
                allow(environment, name, trusted)?;
                from_file = true;
                return Ok(Some(value.to_owned()));
            }
        }
        Ok(None)
    };
    let proxy = Proxy {
        http: find("HTTP_PROXY")?.as_deref().map(Secret::new),
        https: find("HTTPS_PROXY")?.as_deref().map(Secret::new),
        all: find("ALL_PROXY")?.as_deref().map(Secret::new),
        no_proxy: find("NO_PROXY")?,
    };
    Ok(from_file.then_some(proxy))
}

fn allow(environment: &Environment, setting: &str, trusted: bool) -> Result<(), ConfigError> {
    if trusted {
        return Ok(());
    }
    let file = environment.file_path().unwrap_or(std::path::Path::new(".env")).to_owned();
    Err(ConfigError::ForeignEndpoint { setting: setting.to_owned(), file })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use super::*;
    use crate::config::keys;

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn resolve(process: Pairs, file: Pairs, flag: Option<&str>) -> Result<Endpoint, String> {
        let map = |pairs: Pairs| -> BTreeMap<String, String> {
            pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
        };
        let file = (PathBuf::from("folder/.env"), map(file));
        let environment = Environment::from_parts(map(process), Some(file));
        let keys = keys(&environment, None).unwrap();
        endpoint(&environment, flag, &keys).map_err(|error| error.to_string())
    }

    fn base(process: Pairs, file: Pairs, flag: Option<&str>) -> Result<String, String> {
        resolve(process, file, flag).map(|endpoint| endpoint.base_url)
    }

    const KEY: (&str, &str) = ("GEMINI_API_KEY", "k");
    const OTHER_KEY: (&str, &str) = ("GEMINI_API_KEY_2", "k2");
    const URL: (&str, &str) = ("GEMINI_BASE_URL", "http://one/");
    const GOOGLE_URL: (&str, &str) = ("GOOGLE_GEMINI_BASE_URL", "http://two/v/");

    #[test]
    fn the_flag_comes_first_then_the_environment_then_the_file() {
        assert_eq!(base(&[KEY], &[], None).unwrap(), DEFAULT_BASE_URL);
        assert_eq!(base(&[KEY, GOOGLE_URL], &[], None).unwrap(), "http://two/v");
        assert_eq!(base(&[KEY, GOOGLE_URL, URL], &[], None).unwrap(), "http://one");
        assert_eq!(base(&[KEY, GOOGLE_URL], &[URL], None).unwrap(), "http://two/v");
        assert_eq!(base(&[KEY, URL], &[], Some("https://x:8/")).unwrap(), "https://x:8");
        assert_eq!(base(&[KEY], &[URL], Some("https://x")).unwrap(), "https://x");
    }

    #[test]
    fn a_file_names_the_endpoint_only_for_its_own_keys() {
        assert_eq!(base(&[], &[KEY, URL], None).unwrap(), "http://one");
        let refused = "`GEMINI_BASE_URL` in `folder/.env` is refused: \
                       not every key comes from that file";
        assert_eq!(base(&[KEY], &[URL], None).unwrap_err(), refused);
        assert_eq!(base(&[KEY], &[OTHER_KEY, URL], None).unwrap_err(), refused);
        assert_eq!(base(&[KEY], &[KEY, URL], None).unwrap_err(), refused);
    }

    #[test]
    fn a_file_that_takes_over_variables_names_no_endpoint() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".env");
        std::fs::write(&path, "GEMINI_API_KEY=k$PATH\nGEMINI_BASE_URL=http://one").unwrap();
        let environment = Environment::load(Some(&path)).unwrap();
        assert!(matches!(
            endpoint(&environment, None, &[]),
            Err(ConfigError::ForeignEndpoint { .. })
        ));
    }

    #[test]
    fn a_proxy_follows_the_same_rule() {
        let proxy = ("https_proxy", "http://user:pass@proxy:1");
        let refused = resolve(&[KEY], &[proxy], None).unwrap_err();
        assert!(refused.starts_with("`https_proxy` in `folder/.env` is refused"), "{refused}");
        let taken = resolve(&[("NO_PROXY", "localhost")], &[KEY, proxy], None).unwrap();
        assert!(!format!("{taken:?}").contains("pass"));
        let taken = taken.proxy.unwrap();
        assert_eq!(taken.https.unwrap().expose(), "http://user:pass@proxy:1");
        assert_eq!(taken.no_proxy.as_deref(), Some("localhost"));
        assert_eq!(resolve(&[KEY, proxy], &[], None).unwrap().proxy, None);
    }

    #[test]
    fn an_address_is_checked_and_not_repeated() {
        for text in
            ["ftp://x", "localhost:80", "x", "http://", "http://u:hush@x", "http://x?key=hush"]
        {
            let error = base(&[KEY], &[], Some(text)).unwrap_err();
            assert!(error.starts_with("`--base-url`: must "), "{text}: {error}");
            assert!(!error.contains("hush"));
        }
    }
}
