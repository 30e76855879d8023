//! Which call a method, path and query mean.
//!
//! Pure; answers nothing.

use axum::http::{Method, Uri};

/// A call of the API or of the stand-in's own pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route<'a> {
    /// A method of a model.
    Call { version: &'a str, model: &'a str, method: ModelMethod },
    /// The list of models.
    ModelList,
    /// One model.
    ModelInfo { version: &'a str, model: &'a str },
    /// A call of the Files API.
    Files(FileCall<'a>),
    /// A page of the stand-in itself.
    Own(OwnPage),
    /// Nothing known.
    Unknown,
}

/// What a model is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ModelMethod {
    GenerateContent,
    StreamGenerateContent,
    CountTokens,
}

impl ModelMethod {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::GenerateContent => "generateContent",
            Self::StreamGenerateContent => "streamGenerateContent",
            Self::CountTokens => "countTokens",
        }
    }
}

/// A call of the Files API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileCall<'a> {
    /// The start of an upload, or a request to one.
    Upload,
    List,
    Get(&'a str),
    Delete(&'a str),
}

impl<'a> FileCall<'a> {
    /// Returns the call of a path behind the version.
    fn of(method: &Method, path: &'a str) -> Option<Self> {
        if path == "files" && method == Method::GET {
            return Some(Self::List);
        }
        let id = path.strip_prefix("files/")?;
        if id.is_empty() || id.contains(['/', ':']) {
            return None;
        }
        match *method {
            Method::GET => Some(Self::Get(id)),
            Method::DELETE => Some(Self::Delete(id)),
            _ => None,
        }
    }
}

/// The stand-in's own pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OwnPage {
    Stats,
    Wait,
    Release,
    Reset,
    ForgetFiles,
}

impl<'a> Route<'a> {
    pub(super) fn of(method: &Method, path: &'a str) -> Self {
        if let Some(page) = path.strip_prefix("/__") {
            return own_page(method, page).map_or(Self::Unknown, Self::Own);
        }
        if matches!(path, "/upload/v1beta/files" | "/upload/v1/files") && method == Method::POST {
            return Self::Files(FileCall::Upload);
        }
        let Some((version, rest)) = path.strip_prefix('/').and_then(|rest| rest.split_once('/'))
        else {
            return Self::Unknown;
        };
        if !matches!(version, "v1" | "v1beta") {
            return Self::Unknown;
        }
        if rest == "models" && method == Method::GET {
            return Self::ModelList;
        }
        if let Some(call) = FileCall::of(method, rest) {
            return Self::Files(call);
        }
        let Some(name) = rest.strip_prefix("models/").filter(|name| !name.contains('/')) else {
            return Self::Unknown;
        };
        match name.split_once(':') {
            None if method == Method::GET => Self::ModelInfo { version, model: name },
            Some((model, "generateContent")) if method == Method::POST => {
                Self::Call { version, model, method: ModelMethod::GenerateContent }
            }
            Some((model, "streamGenerateContent")) if method == Method::POST => {
                Self::Call { version, model, method: ModelMethod::StreamGenerateContent }
            }
            Some((model, "countTokens")) if method == Method::POST => {
                Self::Call { version, model, method: ModelMethod::CountTokens }
            }
            _ => Self::Unknown,
        }
    }

    /// Returns the model that the path names, or nothing.
    pub(super) fn model(&self) -> &'a str {
        match *self {
            Self::Call { model, .. } | Self::ModelInfo { model, .. } => model,
            Self::ModelList | Self::Files(_) | Self::Own(_) | Self::Unknown => "",
        }
    }
}

fn own_page(method: &Method, page: &str) -> Option<OwnPage> {
    match (page, method == Method::POST) {
        ("stats", false) => Some(OwnPage::Stats),
        ("wait", false) => Some(OwnPage::Wait),
        ("release", true) => Some(OwnPage::Release),
        ("reset", true) => Some(OwnPage::Reset),
        ("forget_files", true) => Some(OwnPage::ForgetFiles),
        _ => None,
    }
}

/// Returns the value of `name` in the query, decoded.
pub(super) fn query(uri: &Uri, name: &str) -> Option<String> {
    let pairs = uri.query()?.split('&');
    let (_, value) = pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?;
    Some(percent_decoded(value))
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let code = (bytes[index] == b'%')
            .then(|| text.get(index + 1..index + 3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        out.push(code.unwrap_or(if bytes[index] == b'+' { b' ' } else { bytes[index] }));
        index += if code.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_mean_calls() {
        let call = |path| Route::of(&Method::POST, path);
        let (version, model) = ("v1beta", "gemini-2.5-flash");
        let method = ModelMethod::GenerateContent;
        assert_eq!(
            call("/v1beta/models/gemini-2.5-flash:generateContent"),
            Route::Call { version, model, method }
        );
        assert_eq!(call("/v1beta/models/models/x:generateContent"), Route::Unknown);
        assert_eq!(call("/v2/models/x:generateContent"), Route::Unknown);
        assert_eq!(call("/v1beta/models/x:fly"), Route::Unknown);
        assert_eq!(call("/__reset"), Route::Own(OwnPage::Reset));
        let get = |path| Route::of(&Method::GET, path);
        assert_eq!(get("/v1/models"), Route::ModelList);
        assert_eq!(get("/v1beta/models/gemini-2.5-flash"), Route::ModelInfo { version, model });
        assert_eq!(get("/v1beta/models/x:generateContent"), Route::Unknown);
    }

    #[test]
    fn paths_mean_calls_of_the_files_api() {
        let files = |method, path| match Route::of(&method, path) {
            Route::Files(call) => Some(call),
            _ => None,
        };
        assert_eq!(files(Method::POST, "/upload/v1beta/files"), Some(FileCall::Upload));
        assert_eq!(files(Method::POST, "/upload/v1/files"), Some(FileCall::Upload));
        assert_eq!(files(Method::GET, "/upload/v1/files"), None);
        assert_eq!(files(Method::GET, "/v1beta/files"), Some(FileCall::List));
        assert_eq!(files(Method::GET, "/v1/files/a-1"), Some(FileCall::Get("a-1")));
        assert_eq!(files(Method::DELETE, "/v1beta/files/a-1"), Some(FileCall::Delete("a-1")));
        assert_eq!(files(Method::POST, "/v1beta/files/a-1"), None);
        assert_eq!(files(Method::GET, "/v1beta/files/a-1:download"), None);
        assert_eq!(files(Method::POST, "/v1beta/files:register"), None);
        assert_eq!(files(Method::GET, "/v1beta/files/"), None);
    }

    #[test]
    fn a_query_is_decoded() {
        let uri: Uri = "/p?a=1&key=x%2By+z%4&b=".parse().unwrap();
        assert_eq!(query(&uri, "key").as_deref(), Some("x+y z%4"));
        assert_eq!(query(&uri, "b").as_deref(), Some(""));
        assert_eq!(query(&uri, "c"), None);
    }
}
