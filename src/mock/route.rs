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
    /// A page of the stand-in itself.
    Own(OwnPage),
    /// Nothing known.
    Unknown,
}

/// What a model is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ModelMethod {
    GenerateContent,
    CountTokens,
}

impl ModelMethod {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::GenerateContent => "generateContent",
            Self::CountTokens => "countTokens",
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
}

impl<'a> Route<'a> {
    pub(super) fn of(method: &Method, path: &'a str) -> Self {
        if let Some(page) = path.strip_prefix("/__") {
            return own_page(method, page).map_or(Self::Unknown, Self::Own);
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
        let Some(name) = rest.strip_prefix("models/").filter(|name| !name.contains('/')) else {
            return Self::Unknown;
        };
        match name.split_once(':') {
            None if method == Method::GET => Self::ModelInfo { version, model: name },
            Some((model, "generateContent")) if method == Method::POST => {
                Self::Call { version, model, method: ModelMethod::GenerateContent }
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
            Self::ModelList | Self::Own(_) | Self::Unknown => "",
        }
    }
}

fn own_page(method: &Method, page: &str) -> Option<OwnPage> {
    match (page, method == Method::POST) {
        ("stats", false) => Some(OwnPage::Stats),
        ("wait", false) => Some(OwnPage::Wait),
        ("release", true) => Some(OwnPage::Release),
        ("reset", true) => Some(OwnPage::Reset),
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
    fn a_query_is_decoded() {
        let uri: Uri = "/p?a=1&key=x%2By+z%4&b=".parse().unwrap();
        assert_eq!(query(&uri, "key").as_deref(), Some("x+y z%4"));
        assert_eq!(query(&uri, "b").as_deref(), Some(""));
        assert_eq!(query(&uri, "c"), None);
    }
}
